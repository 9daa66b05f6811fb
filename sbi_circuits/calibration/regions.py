"""TARP: coverage of the whole configuration at once, with regions around random reference points.

Source: Lemos, Coogan, Hezaveh, Perreault-Levasseur 2023, "Sampling-based accuracy testing of posterior estimators",
arXiv:2302.03026. The regions are balls around a reference point. Reference points that know nothing of x cannot tell a
posterior from the prior; those of `nearby_references` can (their theorem 3 asks for points that may depend on x).
"""

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from sbi_circuits.calibration.uniform import ecdf_band, uniformity
from sbi_circuits.errors import InferenceError
from sbi_circuits.seeds import generator


@dataclass(frozen=True, eq=False)
class Tarp:
    """Expected coverage of balls around reference points.

    Args:
        fractions: (n,) credibility at which the ball of each row reaches its configuration; uniform if calibrated.
        p_value: of their being uniform, see `uniformity`.
    """

    fractions: np.ndarray
    p_value: float

    @property
    def rows(self) -> int:
        return len(self.fractions)

    def coverage(self, levels: np.ndarray) -> np.ndarray:
        """Expected coverage (L,) at credibility levels (L,)."""
        return np.searchsorted(np.sort(self.fractions), levels, side="right") / self.rows

    def within_band(self, level: float = 0.95) -> bool:
        """Whether expected coverage stays within the simultaneous band of that level, at every credibility."""
        ordered = np.sort(self.fractions)
        steps = np.arange(self.rows + 1) / self.rows
        away = max((steps[1:] - ordered).max(), (ordered - steps[:-1]).max())
        return bool(away <= ecdf_band(self.rows, level))

    def summary(self) -> str:
        """One line for people."""
        at = self.coverage(np.array([0.5, 0.9]))
        inside = "within" if self.within_band() else "outside"
        figures = f"50 % regions hold {at[0]:.1%}, 90 % regions {at[1]:.1%}"
        return f"{figures}, {inside} the 95 % band (p {self.p_value:.2g}, {self.rows} observations)"


def tarp(draws: np.ndarray, theta: np.ndarray, references: np.ndarray, seed: int = 0) -> Tarp:
    """TARP of posterior draws.

    Args:
        draws: (n, D, P) of each row's posterior; coordinates of comparable size, such as the prior's unit cube.
        theta: (n, P) configurations that made the observations, same coordinates.
        references: (n, P) points that do not depend on theta given the observations.
        seed: of the jitter of ties.

    Raises:
        InferenceError: shapes that do not fit.

    Examples:
        >>> random = generator(0, "tarp")
        >>> draws, theta, references = (random.random(shape) for shape in ((300, 99, 2), (300, 2), (300, 2)))
        >>> tarp(draws, theta, references).p_value > 0.01
        True
    """
    if draws.ndim != 3 or theta.shape != (len(draws), draws.shape[2]) or references.shape != theta.shape:
        shapes = f"draws {draws.shape}, theta {theta.shape} and references {references.shape}"
        raise InferenceError(f"TARP needs draws (n, D, P), theta (n, P) and references (n, P), got {shapes}")
    away = ((theta - references) ** 2).sum(1)
    closer = (((draws - references[:, None]) ** 2).sum(2) < away[:, None]).sum(1)
    fractions = (closer + generator(seed, "tarp").random(len(closer))) / (draws.shape[1] + 1)
    return Tarp(fractions, float(uniformity(fractions[:, None])[0]))


def nearby_references(
    points: np.ndarray, pool_points: np.ndarray, pool_theta: np.ndarray, seed: int = 0, neighbours: int = 10
) -> np.ndarray:
    """Reference points (n, P): for each observation the configuration of a simulation with alike features.

    Args:
        points: (n, K) scaled features of the observations.
        pool_points: (m, K) scaled features of other simulations; pool_theta: (m, P) their configurations.
        seed: of the choice among the nearest.
        neighbours: how many nearest simulations there are to choose from.

    Raises:
        InferenceError: an empty pool.
    """
    if not len(pool_points):
        raise InferenceError("reference points need simulations to choose from")
    k = min(neighbours, len(pool_points))
    near = cKDTree(pool_points).query(points, k=k)[1].reshape(len(points), k)
    chosen = generator(seed, "references").integers(0, k, len(points))
    return np.asarray(pool_theta[near[np.arange(len(points)), chosen]])
