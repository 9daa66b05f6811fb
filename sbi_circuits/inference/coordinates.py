"""Coordinates of theta in which flows work.

"uniform": the cumulative probability of each parameter, shifted and scaled to unit variance; bounded, so that the
posterior of a bounded parameter keeps its shape at the bounds. "normal": its probit, in all of R^P; the prior is a
standard normal there.
"""

import math

import numpy as np
import torch
from torch import Tensor

from sbi_circuits.prior import Prior

COORDINATES = ("uniform", "normal")
_SCALE = math.sqrt(12.0)
_FAR = 1e4  # stands for no bound
_MARGIN = 1e-12


def bound(coordinates: str) -> float:
    """z lies within [-bound, bound]."""
    return _SCALE / 2 if coordinates == "uniform" else _FAR


def to_z(prior: Prior, theta: np.ndarray, coordinates: str) -> np.ndarray:
    """theta (*, P), declared units, in the coordinates."""
    return _SCALE * (prior.to_unit(theta) - 0.5) if coordinates == "uniform" else prior.unconstrain(theta)


def from_z(prior: Prior, z: np.ndarray, coordinates: str) -> np.ndarray:
    """Inverse of `to_z`; never outside the prior."""
    if coordinates == "normal":
        return prior.constrain(z)
    return prior.from_unit(np.clip(z / _SCALE + 0.5, 0.0, 1.0))


def log_abs_det(prior: Prior, theta: np.ndarray, z: np.ndarray, coordinates: str) -> np.ndarray:
    """log |dz / d theta| at theta (n, P), which lies within the prior: (n,)."""
    if coordinates == "normal":
        return -prior.log_abs_det(z)
    # The density of the prior is that of the cumulative probability, as the latter is uniform.
    return prior.log_prob(theta) + len(prior) * math.log(_SCALE)


def prior_log_prob(z: np.ndarray, coordinates: str) -> np.ndarray:
    """Log density (n,) of the prior at z (n, P)."""
    if coordinates == "normal":
        return (-0.5 * z**2 - 0.5 * math.log(2 * math.pi)).sum(-1)
    return np.full(len(z), -z.shape[1] * math.log(_SCALE))


def from_unbounded(z: Tensor, coordinates: str) -> tuple[Tensor, Tensor]:
    """Points (n, P) of the flows for z (n, P), where the prior is a standard normal, and log |d point / dz| (n,)."""
    if coordinates == "normal":
        return z, z.new_zeros(len(z))
    log_normal = (-0.5 * z.square() - 0.5 * math.log(2 * math.pi)).sum(-1)
    return _SCALE * (torch.special.ndtr(z) - 0.5), log_normal + z.shape[1] * math.log(_SCALE)
