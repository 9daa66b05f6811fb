"""Proposals that aim: normal kernels around chosen configurations, mixed with the prior, of known density.

Population Monte Carlo: Cappe et al. 2004, J Comput Graph Stat 13:907; for inference by simulation, Beaumont et al.
2009, Biometrika 96:983. Kernels live in the prior's unbounded coordinates, in which the prior is a standard normal, so
that no draw leaves its bounds.
"""

import os
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from safetensors.numpy import load, save
from scipy.linalg import solve_triangular

from sbi_circuits.prior import Prior
from sbi_circuits.seeds import generator

_CHUNK = 512
_SHRINK = 0.3


@dataclass(frozen=True, eq=False)
class Kernels:
    """prior_share * prior + (1 - prior_share) * mean over centres and widths of N(centre, width^2 covariance).

    Args:
        centres: (K, P) unbounded coordinates.
        factor: (P, P) lower triangular, factor @ factor.T is the covariance.
        widths: (W,) of the kernels.
        prior_share: () of the draws that are the prior's.
    """

    centres: np.ndarray
    factor: np.ndarray
    widths: np.ndarray
    prior_share: np.ndarray

    def sample_z(self, n: int, seed: int) -> np.ndarray:
        """n draws (n, P), unbounded coordinates."""
        random = generator(seed, "kernels")
        noise = random.standard_normal((n, self.centres.shape[1]))
        centre = self.centres[random.integers(len(self.centres), size=n)]
        width = self.widths[random.integers(len(self.widths), size=n)][:, None]
        aimed = centre + width * noise @ self.factor.T
        from_prior = random.random(n) < self.prior_share
        return np.where(from_prior[:, None], noise, aimed)

    def sample(self, prior: Prior, n: int, seed: int) -> np.ndarray:
        """n draws (n, P), declared units."""
        return prior.constrain(self.sample_z(n, seed))

    def log_prob_z(self, z: np.ndarray) -> np.ndarray:
        """Log density (n,) at z (n, P), unbounded coordinates."""
        prior = np.log(self.prior_share) + standard_normal(z)
        return np.logaddexp(prior, np.log1p(-self.prior_share) + self._log_kernels(z))

    def _log_kernels(self, z: np.ndarray) -> np.ndarray:
        p, points = z.shape[1], solve_triangular(self.factor, z.T, lower=True).T
        centres = solve_triangular(self.factor, self.centres.T, lower=True).T
        constant = -0.5 * p * np.log(2 * np.pi) - np.log(np.diag(self.factor)).sum() - np.log(len(centres))
        found = np.full(len(z), -np.inf)
        own = (centres**2).sum(1)
        for part in (slice(k, k + _CHUNK) for k in range(0, len(z), _CHUNK)):
            at = points[part]
            squared = np.maximum((at**2).sum(1)[:, None] + own - 2 * at @ centres.T, 0.0)
            least = squared.min(1, keepdims=True)  # taken out: no sum is zero, however far the centres are
            each = [np.log(np.exp(-0.5 * (squared - least) / w**2).sum(1)) - 0.5 * least[:, 0] / w**2 - p * np.log(w)
                    for w in self.widths]  # fmt: skip
            found[part] = constant + np.logaddexp.reduce(each, axis=0) - np.log(len(self.widths))
        return found

    def to_bytes(self) -> bytes:
        """As safetensors."""
        return save({f.name: np.ascontiguousarray(getattr(self, f.name)) for f in fields(self)})

    @classmethod
    def from_bytes(cls, content: bytes) -> "Kernels":
        return cls(**load(content))

    def save(self, path: Path) -> None:
        """Write as safetensors, at once or not at all."""
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        temporary.write_bytes(self.to_bytes())
        os.replace(temporary, path)

    @classmethod
    def load(cls, path: Path) -> "Kernels":
        return cls.from_bytes(path.read_bytes())


def standard_normal(z: np.ndarray) -> np.ndarray:
    """Log density (n,) of the prior in unbounded coordinates."""
    return np.asarray(-0.5 * (z**2 + np.log(2 * np.pi)).sum(-1))


def around(centres: np.ndarray, shape: np.ndarray, widths: tuple[float, ...], prior_share: float) -> Kernels:
    """Kernels at `centres` (K, P) with the covariance of `shape` (n, P), shrunk towards its diagonal."""
    covariance = np.cov(shape.T)
    shrunk = (1 - _SHRINK) * covariance + _SHRINK * np.diag(np.diag(covariance))
    return Kernels(centres, np.linalg.cholesky(shrunk), np.array(widths), np.array(prior_share))
