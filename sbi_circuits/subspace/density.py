"""Derivatives of a log density over configurations, in the prior's unbounded coordinates.

There the prior is a standard normal, so a length of one is one standard deviation of the prior, whatever the unit of
a parameter: the coordinates are prior-scaled, and an eigenvalue of one is as much information as the prior holds.
"""

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from sbi_circuits.errors import InferenceError
from sbi_circuits.prior import Prior

LIMIT = 4.0  # of a coordinate; configurations on a bound of the prior would lie at infinity
_CHUNK = 512
_COLUMNS = 8  # of a Hessian at once
_DTYPE = torch.float64


class Density(Protocol):
    """A distribution over configurations: `posterior(x)`, or one that is known exactly."""

    @property
    def prior(self) -> Prior: ...

    def sample(self, n: int, seed: int) -> np.ndarray:
        """(n, P), declared units."""
        ...

    def log_prob_z(self, z: Tensor) -> Tensor:
        """Log density (n,) of z (n, P), unbounded coordinates; twice differentiable."""
        ...


def unbounded(prior: Prior, theta: np.ndarray) -> np.ndarray:
    """theta (*, P), declared units, in unbounded coordinates within +-4 (all but 6e-5 of the prior's range).

    Raises:
        PriorError: a configuration outside the prior, or of another width.
    """
    return np.clip(prior.unconstrain(prior.validate(theta)), -LIMIT, LIMIT)


def log_density(density: Density, z: np.ndarray) -> np.ndarray:
    """Log density (n,) of z (n, P), in unbounded coordinates."""
    with torch.no_grad():
        return _in_chunks(density.log_prob_z, z)


def gradient(density: Density, z: np.ndarray) -> np.ndarray:
    """Gradient (n, P) of the log density at z (n, P).

    Examples:
        >>> from sbi_circuits.subspace.examples import sum_only
        >>> density = sum_only(3)
        >>> g = gradient(density, np.zeros((1, 3)))
        >>> bool(np.allclose(g, g[0, 0]))  # only the sum is constrained
        True
    """
    return _in_chunks(_gradient(density), z)


def score(density: Density, z: np.ndarray) -> np.ndarray:
    """Gradient (n, P) of the learned log likelihood: that of the log posterior less that of the log prior, -z."""
    return gradient(density, z) + np.asarray(z, dtype=float)


def hessian(density: Density, z: np.ndarray) -> np.ndarray:
    """Exact Hessian (n, P, P) of the log density at z (n, P): forward over reverse differentiation."""
    slope = _gradient(density)

    def columns(points: Tensor) -> Tensor:
        def along(unit: Tensor) -> Tensor:
            return torch.func.jvp(slope, (points,), (unit.expand_as(points),))[1]

        units = torch.eye(points.shape[1], dtype=_DTYPE)
        found = torch.func.vmap(along, out_dims=-1, chunk_size=_COLUMNS)(units)
        return 0.5 * (found + found.mT)

    return _in_chunks(columns, z)


def _gradient(density: Density) -> Callable[[Tensor], Tensor]:
    # Rows do not depend on one another, so the gradient of the sum holds that of each.
    slope: Callable[[Tensor], Tensor] = torch.func.grad(lambda z: density.log_prob_z(z).sum())
    return slope


def _in_chunks(function: Callable[[Tensor], Tensor], z: np.ndarray) -> np.ndarray:
    z = np.asarray(z, dtype=float)
    if z.ndim != 2 or not np.isfinite(z).all():
        raise InferenceError(f"coordinates have shape {z.shape}, expected finite (n, P)")
    points = torch.as_tensor(z, dtype=_DTYPE)
    parts = [function(points[k : k + _CHUNK]).detach() for k in range(0, len(points), _CHUNK)]
    return torch.cat(parts).cpu().numpy() if parts else function(points).detach().cpu().numpy()
