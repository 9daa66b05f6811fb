"""What calibration comes down to: are these numbers uniform? Tests with exact levels, and the band of an ECDF."""

from collections.abc import Sequence

import numpy as np
from scipy.stats import kstest, kstwo

from sbi_circuits.errors import InferenceError
from sbi_circuits.seeds import generator


def spread_ranks(ranks: np.ndarray, draws: int, seed: int = 0) -> np.ndarray:
    """Ranks (n, ...) among `draws` draws as numbers in (0, 1), exactly uniform where the ranks are.

    Args:
        ranks: integers 0..draws.
        draws: how many draws each was ranked among.
        seed: of the jitter that makes discrete ranks continuous.
    """
    return (ranks + generator(seed, "ranks").random(ranks.shape)) / (draws + 1)


def uniformity(u: np.ndarray) -> np.ndarray:
    """p-value (P,) of each column of u (n, P) being independent uniforms on (0, 1).

    Twice the smaller of two Kolmogorov-Smirnov p-values: of u, which a shift moves most, and of the distance from
    the middle |2 u - 1|, which is uniform too, and which a wrong width moves most.

    Examples:
        >>> u = generator(0, "u").random((200, 2))
        >>> bool(uniformity(u).min() > 0.01), bool(uniformity(0.5 + 0.6 * (u - 0.5)).max() < 1e-3)
        (True, True)
    """
    u = np.asarray(u, dtype=float)
    pairs = [min(kstest(c, "uniform").pvalue, kstest(np.abs(2 * c - 1), "uniform").pvalue) for c in u.T]
    return np.minimum(1.0, 2.0 * np.array(pairs))


def ecdf_band(n: int, level: float = 0.95) -> float:
    """Half-width of the band that holds the whole ECDF of n independent uniforms with probability `level`.

    Examples:
        >>> round(ecdf_band(100), 3)
        0.134
    """
    return float(kstwo.ppf(level, n))


def holm(p: Sequence[float] | np.ndarray) -> np.ndarray:
    """Adjusted p-values of several tests; the chance that any true one falls below alpha is at most alpha.

    Source: Holm 1979, Scand J Stat 6:65.

    Examples:
        >>> holm([0.01, 0.04, 0.5]).round(3).tolist()
        [0.03, 0.08, 0.5]
    """
    p = np.asarray(p, dtype=float)
    order = np.argsort(p)
    steps = p[order] * (len(p) - np.arange(len(p)))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(steps))
    return adjusted


def conformal_p(score: float, usual: np.ndarray) -> float:
    """p-value of a score among exchangeable ones: the share, itself included, that is at least as large.

    Examples:
        >>> conformal_p(3.0, np.array([1.0, 2.0, 4.0]))
        0.5
    """
    return float((1 + (np.asarray(usual) >= score).sum()) / (1 + len(usual)))


def require_levels(levels: Sequence[float]) -> np.ndarray:
    """Levels as an array (L,).

    Raises:
        InferenceError: a level that is not between 0 and 1.
    """
    nominal = np.asarray(levels, dtype=float)
    if not ((nominal > 0) & (nominal < 1)).all():
        raise InferenceError(f"levels must lie between 0 and 1, got {list(levels)}")
    return nominal
