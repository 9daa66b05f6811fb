"""Stimuli on the hexagonal lattice: flashes, moving edges and bars, dots, gratings.

A stimulus is intensity as a function of place and time; it is rendered by averaging over points within each
column's hexagon. Intensities lie between 0 (dark) and 1 (bright) on grey, 0.5. Directions are of motion, in degrees:
0 to the right, 90 up. Lengths are degrees of visual angle, 5.8 a column; speeds columns per second.
The protocols of the published read-outs (Lappalainen et al. 2024, Methods) are `flashes` and `moving_edges` by default.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from sbi_circuits.connectome.lattice import DEGREES, Lattice
from sbi_circuits.errors import CircuitError

GREY = 0.5
LED = 2.25  # degrees that an edge or bar moves at a time (the display of Gruntman et al. 2018)
ANGLES = tuple(range(0, 360, 30))
SPEEDS = (2.4, 4.8, 9.7, 13.0, 19.0, 25.0)
CONTRASTS = (0.0, 1.0)  # intensity of an OFF and an ON stimulus
_SAMPLES = 12  # rows of points in a hexagon


@dataclass(frozen=True, eq=False)
class Stimuli:
    """Movies of the same length, and what is seen in each.

    Args:
        movie: (S, T, C) intensities, one frame every `dt`.
        dt: s.
        labels: columns of S values by name: angle (degrees), speed (columns/s), intensity, ...
        onset, offset: frames [onset, offset) in which the stimulus is on.
    """

    movie: np.ndarray
    dt: float
    labels: dict[str, np.ndarray]
    onset: int
    offset: int

    @property
    def n(self) -> int:
        return len(self.movie)


def hexagon_points() -> tuple[np.ndarray, np.ndarray]:
    """x and y (K,), columns, of points that fill a hexagon one column high evenly; corners to the left and right."""
    side = (np.arange(_SAMPLES) + 0.5) / _SAMPLES - 0.5
    x, y = (grid.ravel() for grid in np.meshgrid(1.2 * side, side))
    inside = abs(x) * np.sqrt(3) / 2 + abs(y) / 2 <= 0.5
    return x[inside], y[inside]


@lru_cache(maxsize=8)
def _points(lattice: Lattice) -> tuple[np.ndarray, np.ndarray]:
    """x and y (C, K), degrees, of points that fill the hexagon of each column evenly."""
    x, y = (lattice.positions[:, k, None] + offset for k, offset in enumerate(hexagon_points()))
    return DEGREES * x, DEGREES * y


def _along(lattice: Lattice, angle: float) -> np.ndarray:
    """(C, K) degrees of each point along a direction."""
    x, y = _points(lattice)
    return x * np.cos(np.radians(angle)) + y * np.sin(np.radians(angle))


def flashes(
    lattice: Lattice,
    dt: float = 0.005,
    radius: int = 6,
    intensities: Sequence[float] = CONTRASTS,
    before: float = 0.0,
    duration: float = 1.0,
    after: float = 0.0,
) -> Stimuli:
    """Discs of `radius` columns that appear on grey for `duration` s; S = the intensities.

    Raises:
        CircuitError: a radius that is negative; durations or dt that are not positive.
    """
    if radius < 0:
        raise CircuitError(f"the radius of a flash must be >= 0 columns, got {radius}")
    frames = [_frames(t, dt) for t in (before, duration, after)]
    movie = np.full((len(intensities), sum(frames), lattice.n_columns), GREY, dtype=np.float32)
    on = slice(frames[0], frames[0] + frames[1])
    for k, intensity in enumerate(intensities):
        movie[k, on, lattice.distance <= radius] = intensity
    return Stimuli(movie, dt, {"intensity": np.array(intensities, dtype=float)}, on.start, on.stop)


def moving_edges(
    lattice: Lattice,
    speed: float,
    dt: float = 0.005,
    angles: Sequence[float] = ANGLES,
    intensities: Sequence[float] = CONTRASTS,
    reach: int = 10,
    before: float = 0.0,
    after: float = 0.0,
) -> Stimuli:
    """Edges that move across the centre, leaving `intensity` behind; S = angles x intensities, intensity fastest.

    Args:
        speed: columns/s. reach: steps of 2.25 degrees from where the edge appears to the centre, and beyond it.
        before: s of grey; after: s in which the last frame stays.
    """
    return _moving(lattice, speed, dt, angles, intensities, reach, before, after, np.inf)


def moving_bars(
    lattice: Lattice,
    speed: float,
    width: float = LED,
    dt: float = 0.005,
    angles: Sequence[float] = ANGLES,
    intensities: Sequence[float] = CONTRASTS,
    reach: int = 10,
    before: float = 0.0,
    after: float = 0.0,
) -> Stimuli:
    """Bars of `width` degrees, as long as the eye, that move across the centre; see `moving_edges`."""
    return _moving(lattice, speed, dt, angles, intensities, reach, before, after, width)


def _moving(
    lattice: Lattice, speed: float, dt: float, angles: Sequence[float], intensities: Sequence[float], reach: int,
    before: float, after: float, width: float,
) -> Stimuli:  # fmt: skip
    if not speed > 0 or not width > 0:
        raise CircuitError(f"speed and width must be > 0, got {speed} columns/s and {width} degrees")
    offsets = np.arange(-reach, reach + 1) * LED
    shown = _frames(len(offsets) * LED / (speed * DEGREES), dt)
    if shown < len(offsets):
        raise CircuitError(f"at {speed:g} columns/s a frame of {dt:g} s skips steps of the display; use a smaller dt")
    steps = np.linspace(0, len(offsets) - 1, shown).astype(int)
    index = np.concatenate([np.full(_frames(before, dt), -1), steps, np.full(_frames(after, dt), len(offsets) - 1)])
    covered = np.stack([_covered(lattice, angle, offsets, width) for angle in angles])  # (A, offsets, C)
    covered = np.concatenate([covered, np.zeros_like(covered[:, :1])], axis=1)[:, index]
    contrast = np.array(intensities, dtype=np.float32) - GREY
    movie = GREY + covered[:, None] * contrast[:, None, None]
    angle, intensity = (grid.ravel() for grid in np.meshgrid(angles, intensities, indexing="ij"))
    labels = {"angle": angle.astype(float), "intensity": intensity.astype(float), "speed": np.full(len(angle), speed)}
    start = _frames(before, dt)
    return Stimuli(movie.reshape(-1, *movie.shape[2:]), dt, labels, start, start + shown)


def _covered(lattice: Lattice, angle: float, offsets: np.ndarray, width: float) -> np.ndarray:
    """(offsets, C) share of each hexagon behind an edge at `offsets` degrees, or inside a bar centred there."""
    along = _along(lattice, angle)[None]
    place = offsets[:, None, None]
    inside = along <= place if np.isinf(width) else abs(along - place) <= width / 2
    return inside.mean(2).astype(np.float32)


def dots(
    lattice: Lattice,
    columns: Sequence[int] | np.ndarray,
    dt: float = 0.005,
    radius: int = 0,
    intensity: float = 1.0,
    before: float = 0.0,
    duration: float = 0.02,
    after: float = 0.5,
) -> Stimuli:
    """Single columns, or discs around them, that flash for `duration` s; S = the columns (indices in the lattice).

    Raises:
        CircuitError: a column that the lattice has not.
    """
    places = np.asarray(columns, dtype=np.int64)
    if ((places < 0) | (places >= lattice.n_columns)).any():
        raise CircuitError(f"dots: columns must lie in 0..{lattice.n_columns - 1}")
    frames = [_frames(t, dt) for t in (before, duration, after)]
    movie = np.full((len(places), sum(frames), lattice.n_columns), GREY, dtype=np.float32)
    on = slice(frames[0], frames[0] + frames[1])
    for k, place in enumerate(places):
        u, v = (lattice.columns - lattice.columns[place]).T
        movie[k, on, (abs(u) + abs(v) + abs(u + v)) // 2 <= radius] = intensity
    return Stimuli(movie, dt, {"column": places, "intensity": np.full(len(places), intensity)}, on.start, on.stop)


def gratings(
    lattice: Lattice,
    period: float = 30.0,
    frequency: float = 1.0,
    dt: float = 0.005,
    angles: Sequence[float] = ANGLES,
    contrast: float = 1.0,
    before: float = 0.0,
    duration: float = 2.0,
) -> Stimuli:
    """Sinusoidal gratings of `period` degrees that drift at `frequency` periods per second; S = the angles.

    Raises:
        CircuitError: a period that is not positive, a contrast outside (0, 1].
    """
    if not period > 0 or not 0 < contrast <= 1:
        raise CircuitError(f"period must be > 0 degrees and contrast in (0, 1], got {period} and {contrast}")
    still, shown = _frames(before, dt), _frames(duration, dt)
    time = np.arange(shown) * dt
    movie = np.full((len(angles), still + shown, lattice.n_columns), GREY, dtype=np.float32)
    for k, angle in enumerate(angles):
        phase = np.exp(2j * np.pi * _along(lattice, angle) / period).mean(1)  # of each hexagon: a sine stays one
        wave = phase[None] * np.exp(-2j * np.pi * frequency * time)[:, None]
        movie[k, still:] = GREY + GREY * contrast * wave.real
    labels = {"angle": np.array(angles, dtype=float), "period": np.full(len(angles), period)}
    return Stimuli(movie, dt, labels, still, still + shown)


def _frames(seconds: float, dt: float) -> int:
    if not dt > 0 or seconds < 0:
        raise CircuitError(f"durations must be >= 0 s and dt > 0 s, got {seconds:g} and {dt:g}")
    return int(seconds / dt + 1e-9)
