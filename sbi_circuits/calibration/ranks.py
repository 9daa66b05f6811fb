"""Coverage of central intervals and simulation-based calibration, from the ranks of configurations among draws.

Source: Talts et al. 2018, "Validating Bayesian inference algorithms with simulation-based calibration",
arXiv:1804.06788.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import kstest

from sbi_circuits.calibration.uniform import require_levels, spread_ranks
from sbi_circuits.errors import InferenceError
from sbi_circuits.features import UNDEFINED
from sbi_circuits.seeds import stream_key

# An observation, as (values, states), to a distribution with `sample(n, seed)`.
PosteriorLike = Callable[[tuple[np.ndarray, np.ndarray]], Any]
_TOGETHER = 64  # rows drawn for in one call


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
    theta = np.asarray(theta, dtype=float)
    if len(theta) != len(values):
        _refuse(len(theta), len(values), len(states), draws)
    return ranks_among(posterior_draws(posterior, values, states, draws, seed), theta)


def posterior_draws(
    posterior: PosteriorLike, values: np.ndarray, states: np.ndarray, draws: int = 1000, seed: int = 0
) -> np.ndarray:
    """Draws (n, D, P) from the posterior of every row, declared units; arguments as in `rank_statistics`.

    A posterior with `sample_rows(values, states, n, seed)` draws for many rows at once; what row i gets depends on the
    seed and on i then too.
    """
    values, states = np.asarray(values), np.asarray(states)
    if not len(values) or values.shape != states.shape or draws < 1:
        _refuse(len(values), len(values), len(states), draws)
    many = getattr(posterior, "sample_rows", None)
    if many is not None:
        parts = range(0, len(values), _TOGETHER)
        return np.concatenate(
            [many(values[k : k + _TOGETHER], states[k : k + _TOGETHER], draws, _seed(seed, k)) for k in parts]
        )
    rows = enumerate(zip(values, states, strict=True))
    return np.stack([posterior((v, s)).sample(draws, _seed(seed, i)) for i, (v, s) in rows])


def ranks_among(draws: np.ndarray, theta: np.ndarray) -> np.ndarray:
    """Ranks (n, P) of theta (n, P) among draws (n, D, P): how many of them are smaller."""
    return np.asarray((draws < np.asarray(theta, dtype=float)[:, None]).sum(1))


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
        >>> from sbi_circuits.seeds import generator
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
    nominal = require_levels(levels)
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
    return np.array([kstest(column, "uniform").pvalue for column in spread_ranks(ranks, draws, seed).T])


@dataclass(frozen=True, eq=False)
class Pattern:
    """Coverage of the observations in which the same features are undefined.

    Args:
        undefined: names of those features; none: all observed ones are defined. None: patterns too rare to count.
        coverage: over these observations.
    """

    undefined: tuple[str, ...] | None
    coverage: Coverage

    @property
    def text(self) -> str:
        """What is undefined, in a few words."""
        if self.undefined is None:
            return "rarer patterns"
        names = ", ".join(self.undefined[:2])
        more = f" and {len(self.undefined) - 2} more" if len(self.undefined) > 2 else ""
        return f"{names}{more} undefined" if names else "all features defined"


def coverage_by_pattern(
    ranks: np.ndarray,
    states: np.ndarray,
    draws: int,
    names: Sequence[str],
    levels: Sequence[float] = (0.5, 0.9),
    least: int = 30,
) -> tuple[Pattern, ...]:
    """Coverage for each pattern of undefined features, the most frequent first.

    An interval that holds its level on average may do so by being too wide where there are bursts and too narrow
    where there are none.

    Args:
        ranks: (n, P) among `draws` draws, from `rank_statistics`.
        states: (n, F) of the observations.
        names: (F,) of the features.
        levels: of the intervals.
        least: patterns with fewer observations are counted together.

    Examples:
        >>> ranks, states = np.full((40, 1), 5), np.zeros((40, 1), dtype=np.uint8)
        >>> [pattern.text for pattern in coverage_by_pattern(ranks, states, 10, ("isi.cv",))]
        ['all features defined']
    """
    undefined = np.asarray(states) == UNDEFINED
    patterns, which, counts = np.unique(undefined, axis=0, return_inverse=True, return_counts=True)
    common = [k for k in np.argsort(-counts, kind="stable") if counts[k] >= least]
    which = which.ravel()
    found = [
        Pattern(tuple(np.array(names)[patterns[k]].tolist()), coverage_of_ranks(ranks[which == k], draws, levels))
        for k in common
    ]
    rest = ~np.isin(which, common)
    if rest.any():
        found.append(Pattern(None, coverage_of_ranks(ranks[rest], draws, levels)))
    return tuple(found)


def _refuse(theta: int, values: int, states: int, draws: int) -> None:
    what = f"{theta} theta, {values} values, {states} states and {draws} draws"
    raise InferenceError(f"calibration needs matching rows and draws, got {what}")


def _seed(seed: int, row: int) -> int:
    return stream_key(seed, "calibration", row) % 2**63
