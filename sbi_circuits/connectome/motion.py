"""Movies with known motion, made on the fly: textures with the statistics of natural images that move, turn and expand.

A texture is a sum of plane waves whose power falls with the square of spatial frequency, as that of natural images does
(Field 1987, J Opt Soc Am A 4:2379). The whole field moves with velocity v(z) = v0 + lambda z (z complex: place in the
field; Re lambda: expansion, Im lambda: rotation, 1/s), so that the flow of every column is known exactly. Step k of
seed s gives the same movies on every machine.
"""

from dataclasses import dataclass

import numpy as np

from sbi_circuits.connectome.lattice import DEGREES, Lattice
from sbi_circuits.connectome.stimuli import GREY, hexagon_points
from sbi_circuits.errors import CircuitError
from sbi_circuits.seeds import generator

_SMALLEST = 1e-6  # lambda below which the motion is a translation


@dataclass(frozen=True)
class MotionMovies:
    """What movies are drawn from.

    Args:
        frames: of each movie. dt: s.
        speed: columns/s; speeds are drawn up to it, evenly, directions all alike.
        turn: 1/s; expansion and rotation are drawn from normal distributions of this width.
        waves: plane waves of a texture. periods: shortest and longest, degrees.
        contrast: lowest and highest standard deviation of the intensities.
        still: frames at the start in which nothing moves and the texture fades in.

    Raises:
        CircuitError: for a value that is not positive.

    Examples:
        >>> lattice = Lattice(2)
        >>> movie, flow = MotionMovies(frames=5).draw(lattice, 3, 0, "training", 7)
        >>> movie.shape, flow.shape
        ((3, 5, 19), (3, 2, 19))
    """

    frames: int = 20
    dt: float = 0.02
    speed: float = 12.0
    turn: float = 0.5
    waves: int = 48
    periods: tuple[float, float] = (12.0, 120.0)
    contrast: tuple[float, float] = (0.1, 0.3)
    still: int = 3

    def __post_init__(self) -> None:
        for name in ("frames", "dt", "speed", "waves"):
            if not getattr(self, name) > 0:
                raise CircuitError(f"{name} of motion movies must be > 0, got {getattr(self, name)}")
        if not 0 <= self.still < self.frames or not 0 < self.periods[0] < self.periods[1] or self.turn < 0:
            raise CircuitError("motion movies need 0 <= still < frames, 0 < periods[0] < periods[1] and turn >= 0")

    def draw(self, lattice: Lattice, n: int, seed: int, *labels: object) -> tuple[np.ndarray, np.ndarray]:
        """n movies (n, frames, C) and their flow (n, 2, C): columns/s to the right and up, constant once they move."""
        random = generator(seed, "motion", *labels)
        made = [self._one(lattice, random) for _ in range(n)]
        return np.stack([movie for movie, _ in made]), np.stack([flow for _, flow in made])

    def _one(self, lattice: Lattice, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        low, high = np.log(2 * np.pi / np.array(self.periods[::-1]))
        # Equal power in every octave: what 1/f^2 in two dimensions means for wave numbers drawn evenly in log f.
        wave = np.exp(random.uniform(low, high, self.waves) + 1j * random.uniform(0, 2 * np.pi, self.waves))
        phase = random.uniform(0, 2 * np.pi, self.waves)
        contrast = random.uniform(*self.contrast) * np.sqrt(2 / self.waves)
        v0 = DEGREES * self.speed * random.uniform() * np.exp(2j * np.pi * random.uniform())
        turn = self.turn * complex(*random.normal(size=2))
        z = (lattice.positions * DEGREES) @ np.array([1, 1j])
        time = np.maximum(np.arange(self.frames) - self.still + 1, 0) * self.dt
        origin = _origin(z, time[:, None], v0, turn)  # (T, C)
        seen = _waves(origin, wave, phase) @ (contrast * blur(wave)).astype(np.float32)
        fade = np.clip(np.arange(self.frames) / max(self.still, 1), 0, 1)[:, None]
        movie = np.clip(GREY + fade * seen, 0.0, 1.0)
        flow = (v0 + turn * z) / DEGREES
        return movie.astype(np.float32), np.stack([flow.real, flow.imag]).astype(np.float32)


def _waves(z: np.ndarray, wave: np.ndarray, phase: np.ndarray) -> np.ndarray:
    """(*z, K) cosine of each plane wave at each place; single precision, whose cosine is four times as fast."""
    x, y = z.real[..., None].astype(np.float32), z.imag[..., None].astype(np.float32)
    return np.asarray(np.cos(x * np.float32(wave.real) + y * np.float32(wave.imag) + np.float32(phase)))


def blur(wave: np.ndarray) -> np.ndarray:
    """(K,) what a hexagon's average leaves of plane waves with wave numbers k (complex, 1/degree)."""
    x, y = hexagon_points()
    inner = (np.conj(wave)[:, None] * (x + 1j * y) * DEGREES).real
    return np.asarray(np.exp(1j * inner).mean(1).real)


def _origin(z: np.ndarray, time: np.ndarray, v0: complex, turn: complex) -> np.ndarray:
    """Where what is at z at some time was at time 0, under dz/dt = v0 + turn z."""
    if abs(turn) < _SMALLEST:
        return np.asarray(z - v0 * time)
    back = np.exp(-turn * time)
    return np.asarray(z * back - v0 * (1 - back) / turn)
