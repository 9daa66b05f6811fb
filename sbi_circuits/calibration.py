"""Is a posterior as sure as it should be? Coverage of central intervals and simulation-based calibration.

Source: Talts et al. 2018, "Validating Bayesian inference algorithms with simulation-based calibration",
arXiv:1804.06788.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import kstest

from sbi_circuits.errors import InferenceError
from sbi_circuits.seeds import generator, stream_key

# An observation, as (values, states), to a distribution with `sample(n, seed)`.
PosteriorLike = Callable[[tuple[np.ndarray, np.ndarray]], Any]


@dataclass(frozen=True, eq=False)
class Coverage:
    """How often central intervals held the configuration that made the observation.

    Args:
        levels: (L,) nominal levels.
        overall: (L,) share of (row, parameter) pairs within their interval.
        overall_error: (L,) its standard error; a row counts once, as its parameters are not independent.
        parameters: (L, P) share of rows within the interval, by parameter.
        parameters_error: (L, P) binomial standard error under the nominal level.
        rows: number of observations.
    """

    levels: np.ndarray
    overall: np.ndarray
    overall_error: np.ndarray
    parameters: np.ndarray
    parameters_error: np.ndarray
    rows: int

    def agrees(self, errors: float = 3.0) -> bool:
        """Whether every overall coverage is within so many standard errors of its level."""
        return bool((np.abs(self.overall - self.levels) <= errors * self.overall_error).all())

    def summary(self) -> str:
        """One line for people."""
        parts = [
            f"{100 * level:.3g} % intervals hold {100 * found:.1f} +- {100 * error:.1f} %"
            for level, found, error in zip(self.levels, self.overall, self.overall_error, strict=True)
        ]
        return f"{'; '.join(parts)} ({self.rows} observations)"


def rank_statistics(
    posterior: PosteriorLike,
    theta: np.ndarray,
    values: np.ndarray,
    states: np.ndarray,
    draws: int = 1000,
    seed: int = 0,
) -> np.ndarray:
    """Ranks (n, P) of each configuration among posterior draws: integers 0..draws, uniform if calibrated.

    Args:
        posterior: called with (values, states) of one row, gives a distribution with `sample(n, seed)`.
        theta: (n, P) configurations drawn from the prior, declared units.
        values, states: (n, F) features of their simulations; rows not used for training.
        draws: posterior draws an observation.
        seed: of the draws; row i depends on (seed, i) only.

    Raises:
        InferenceError: no rows, rows that do not match, or no draws.
    """
    theta, values, states = np.asarray(theta, dtype=float), np.asarray(values), np.asarray(states)
    if not len(theta) or len(theta) != len(values) or values.shape != states.shape or draws < 1:
        raise InferenceError(
            f"calibration needs matching rows and draws, got {len(theta)} theta, {len(values)} values, "
            f"{len(states)} states and {draws} draws"
        )
    rows = enumerate(zip(theta, values, states, strict=True))
    return np.stack([_ranks(posterior((v, s)), t, draws, _seed(seed, i)) for i, (t, v, s) in rows])


def coverage(
    posterior: PosteriorLike,
    theta: np.ndarray,
    values: np.ndarray,
    states: np.ndarray,
    levels: Sequence[float] = (0.5, 0.9),
    draws: int = 1000,
    seed: int = 0,
) -> Coverage:
    """Coverage of the central intervals of each parameter; arguments as in `rank_statistics`.

    Examples:
        >>> from types import SimpleNamespace
        >>> prior_only = lambda x: SimpleNamespace(sample=lambda n, seed: generator(seed, 1).random((n, 2)))
        >>> theta, nothing = generator(0, "theta").random((400, 2)), np.zeros((400, 1))
        >>> coverage(prior_only, theta, nothing, nothing, draws=200, seed=1).agrees()
        True
    """
    return coverage_of_ranks(rank_statistics(posterior, theta, values, states, draws, seed), draws, levels)


def coverage_of_ranks(ranks: np.ndarray, draws: int, levels: Sequence[float] = (0.5, 0.9)) -> Coverage:
    """Coverage from the ranks (n, P) among `draws` draws: a central interval is a range of ranks.

    Raises:
        InferenceError: a level that is not between 0 and 1.
    """
    nominal = np.asarray(levels, dtype=float)
    if not ((nominal > 0) & (nominal < 1)).all():
        raise InferenceError(f"levels must lie between 0 and 1, got {list(levels)}")
    n, width = ranks.shape
    from_middle = np.abs((ranks + 0.5) / (draws + 1) - 0.5)
    held = from_middle[None] <= nominal[:, None, None] / 2
    by_row = held.mean(2)
    binomial = np.sqrt(nominal * (1 - nominal) / n)
    # With few rows that all agree the spread is zero; a single pair's binomial error bounds it from below.
    spread = np.maximum(by_row.std(1) / np.sqrt(n), binomial / np.sqrt(width))
    errors = np.repeat(binomial[:, None], width, axis=1)
    return Coverage(nominal, by_row.mean(1), spread, held.mean(1), errors, n)


def sbc_uniformity(ranks: np.ndarray, draws: int, seed: int = 0) -> np.ndarray:
    """p-value (P,) of each parameter's ranks (n, P) being uniform on 0..draws (Kolmogorov-Smirnov).

    Args:
        seed: of the jitter that makes discrete ranks continuous, which keeps the test exact.
    """
    jitter = generator(seed, "ranks").random(ranks.shape)
    uniform = (ranks + jitter) / (draws + 1)
    return np.array([kstest(column, "uniform").pvalue for column in uniform.T])


def _ranks(distribution: Any, theta: np.ndarray, draws: int, seed: int) -> np.ndarray:
    return (distribution.sample(draws, seed) < theta).sum(0)


def _seed(seed: int, row: int) -> int:
    return stream_key(seed, "calibration", row) % 2**63
