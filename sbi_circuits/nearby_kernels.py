"""Normal kernels around simulations, that configurations are drawn from."""

from dataclasses import dataclass

import numpy as np

from sbi_circuits.errors import InferenceError
from sbi_circuits.nearby_families import Families
from sbi_circuits.nearby_known import LEAST_WINDOWS, Known
from sbi_circuits.prior import Prior
from sbi_circuits.seeds import generator

NEAREST = 30
WIDEST = (0.02, 0.1, 0.4)  # kernel, in standard deviations of the nearest simulations: least, at first, and most
_RANGE = 5.0  # the widest kernel over the narrowest
_SHRINK = 0.3
_LIMIT = 4.0  # prior standard deviations


@dataclass(frozen=True, eq=False)
class Nearby:
    """Normal kernels around weighted centres, in the prior's unbounded coordinates.

    Args:
        prior: of theta.
        centres: (K, P) unbounded; family: (K,) simulation of the table that each descends from; weights: (K,) of them,
            summing to one.
        factor: (P, P) lower triangular, of the covariance of the nearest simulations.
    """

    prior: Prior
    centres: np.ndarray
    family: np.ndarray
    weights: np.ndarray
    factor: np.ndarray

    @classmethod
    def fit(
        cls, prior: Prior, known: Known, distance: np.ndarray, k: int = NEAREST, families: Families | None = None
    ) -> "Nearby":
        """Around the nearest of each of k families, by the smallest distance (n,).

        Args:
            families: what was drawn of them so far; they count by their distance and by the share that is verified.

        Raises:
            InferenceError: fewer than three simulations.
        """
        if len(distance) < LEAST_WINDOWS:
            raise InferenceError(f"drawing around simulations needs 3 that ran to their end, there are {len(distance)}")
        families = families or Families.none()
        near, rows = known.nearest_of_each(distance)[:k], families.centres(known, distance, k)
        factor = _factor(_within(known.z[near]), _weights(distance[near]))
        weights = _weights(distance[rows]) * families.worth(known.family[rows])
        return cls(prior, _within(known.z[rows]), known.family[rows], weights / weights.sum(), factor)

    def sample(
        self, n: int, seed: int, widest: float = WIDEST[1], of_each: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
        """n configurations (n, P), declared units, never outside the prior, and the number of each centre (n,).

        Equal seeds give equal draws.

        Args:
            widest: standard deviation of the widest kernel, over that of the nearest simulations.
            of_each: so many in a row from one kernel, (n * of_each, P) in all.
        """
        random = generator(seed, "nearby")
        # Systematic: no centre more often than its weight asks for.
        edges, at = np.cumsum(self.weights), (np.arange(n) + random.random()) / max(n, 1)
        chosen = random.permutation(np.minimum(np.searchsorted(edges, at), len(edges) - 1))
        width = widest * np.exp(-random.uniform(0.0, np.log(_RANGE), size=(n, 1)))
        noise = random.standard_normal((n * of_each, len(self.prior))) @ self.factor.T
        centres, width = (np.repeat(part, of_each, axis=0) for part in (self.centres[chosen], width))
        return self.prior.constrain(centres + width * noise), chosen


def _within(z: np.ndarray) -> np.ndarray:
    return np.clip(z, -_LIMIT, _LIMIT)


def _weights(distance: np.ndarray) -> np.ndarray:
    """(k,) of distances in order: Epanechnikov's kernel, as wide as the farthest."""
    weights = 1.0 - (distance / max(distance[-1] * (1 + 1e-6), 1e-12)) ** 2 + 1e-3
    return np.asarray(weights / weights.sum())


def _factor(z: np.ndarray, weights: np.ndarray) -> np.ndarray:
    covariance = np.cov(z.T, aweights=weights).reshape(z.shape[1], -1)
    shrunk = (1 - _SHRINK) * covariance + (_SHRINK + 1e-9) * np.diag(np.diag(covariance) + 1e-6)
    return np.linalg.cholesky(shrunk)
