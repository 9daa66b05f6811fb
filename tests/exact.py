"""A toy whose posterior is known exactly, and ways of being wrong about it; shared by tests of calibration."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sbi_circuits.calibration import HeldOut
from sbi_circuits.prior import Parameter, Prior
from sbi_circuits.seeds import generator

PRIOR = Prior((Parameter("g", "nS", 0.0, 8.0), Parameter("tau", "ms", 1.0, 100.0, scale="log")))
NAMES = ("isi.mean", "bursts.rate")
NOISE = 0.5
SHRINK, SD = 1 / (1 + NOISE**2), float(np.sqrt(NOISE**2 / (1 + NOISE**2)))
EXACT = "exact"
FAULTS = {
    "too narrow": {"width": 0.7},
    "too wide": {"width": 1.4},
    "shifted": {"shift": 0.5},
}


def simulate(n: int, seed: int) -> HeldOut:
    """z ~ N(0, 1) in the prior's unbounded coordinates, x = z + N(0, NOISE^2), for each of two parameters."""
    theta = PRIOR.sample(n, seed)
    x = PRIOR.unconstrain(theta) + NOISE * generator(seed, "noise").standard_normal((n, 2))
    return HeldOut(theta, x, np.zeros((n, 2), dtype=np.uint8), PRIOR, NAMES)


@dataclass(frozen=True)
class Gaussian:
    """Independent normal distributions N(mean, sd^2), (2,) each, in unbounded coordinates."""

    location: np.ndarray
    sd: np.ndarray

    def sample(self, n: int, seed: int) -> np.ndarray:
        noise = generator(seed, "gaussian").standard_normal((n, 2))
        return PRIOR.constrain(self.location + self.sd * noise)

    def log_prob(self, theta: np.ndarray) -> np.ndarray:
        z = PRIOR.unconstrain(theta)
        log_z = -0.5 * (((z - self.location) / self.sd) ** 2).sum(-1) - np.log(self.sd * np.sqrt(2 * np.pi)).sum()
        return log_z - PRIOR.log_abs_det(z)


@dataclass(frozen=True)
class ToyPosterior:
    """The exact posterior, or one with a wrong width, a shift in sd, a width that depends on x, or that of no x.

    What is unobserved tells it nothing.
    """

    width: float = 1.0
    shift: float = 0.0
    local: float = 0.0
    blind: bool = False
    prior: Prior = PRIOR

    def __call__(self, x: tuple[np.ndarray, np.ndarray]) -> Gaussian:
        values, states = np.asarray(x[0], dtype=float), np.asarray(x[1])
        if self.blind:
            return Gaussian(np.zeros(2), np.ones(2))
        seen = states == 0
        location = np.where(seen, SHRINK * values, 0.0)
        sd = np.where(seen, SD, 1.0)
        # Too wide on one side, too narrow on the other, and right on average.
        width = self.width * np.exp(self.local * np.sign(values[0]))
        return Gaussian(location + self.shift * sd, width * sd)


Factory = Callable[..., ToyPosterior]
