"""How far two looks at one circuit lie apart: from seed to seed, from block to block of a recording, and jointly."""

from dataclasses import dataclass

import numpy as np
from scipy.special import bdtr, betaln, comb, polygamma

from sbi_circuits.features import DEFINED, UNDEFINED, UNOBSERVED
from sbi_circuits.seeds import generator

# Configurations nearest the observation whose seeds tell the variability: it differs between regimes.
_NEAREST, _SHARE = 100, 0.25  # at least so many, and at least this share of all
# Fewer pairs of seeds say too little about correlations, which count as none then.
_MIN_PAIRS = 40
_FAR = 3.0  # scaled units; how far a feature counts at most in nearness, and what an undefined one counts
# In robust standard deviations of the whole table: below it a difference means nothing to anyone.
_FLOOR = 0.01
# Of the configurations in `_trimmed`; what is left of a normal distribution's standard deviation of one difference.
_TRIM, _TRIMMED_SD = 0.98, 0.9346
_REPLICATES = 1000
_DRAWS = 10_000
_SHRINK = 0.1  # of correlations, towards none
_LEAST, _MOST = 8, 30.0  # configurations to estimate from; degrees of freedom that others may lend
_MIN_BLOCKS = 5  # fewer blocks than this cannot be resampled to any purpose
_SEEN = 0.1  # share of the windows in which a state must occur to be one the recording has


def nearest(mean: np.ndarray, share: np.ndarray, ok: np.ndarray, target: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Which configurations (M,) tell how variable a circuit at the observation is.

    By their means over seeds, which say nothing of the differences between seeds: to choose seeds that are near
    would be to choose small differences, and to choose those defined alike would be to choose seeds that agree. So a
    feature is missing, or there too many, only where it is so for all seeds.

    Args:
        mean, share: (M, F) scaled features, and the share of the seeds that define them.
        ok: (M, R) outcome ok.
        target, seen: (F,) scaled observation, and where it is defined.
    """
    apart = np.where(share > 0, np.minimum(np.abs(mean - target), _FAR), _FAR)
    distance = np.where(ok.all(1), np.where(seen, apart, _FAR * (share == 1)).mean(1), np.inf)
    order = np.argsort(distance, kind="stable")[: max(_NEAREST, int(_SHARE * len(mean)))]
    chosen = np.zeros(len(mean), dtype=bool)
    chosen[order[np.isfinite(distance[order])]] = True
    return chosen


def seed_to_seed(x: np.ndarray, defined: np.ndarray) -> np.ndarray:
    """Seed-to-seed standard deviation (F,) of scaled features x (M, R, F), where they are `defined`.

    The root mean variance over configurations, the most variable ones left out, corrected for that; 1 from fewer than
    eight configurations. A median would take a feature that is mostly constant and sometimes not (sub-peaks, say) for
    one that never varies.
    """
    squares, freedom = deviations(x, defined)
    found = freedom > 0
    return np.array([_trimmed(squares[found[:, f], f], freedom[found[:, f], f]) for f in range(x.shape[2])])


def block_bootstrap(x: np.ndarray, defined: np.ndarray, block: int) -> np.ndarray:
    """Means over resampled recordings, less the recording's own: (B, F).

    Circular moving blocks of windows (Politis, Romano 1992, in Exploring the Limits of Bootstrap, Wiley), scaled
    by (1 - block/W)^-1/2, as resampled windows vary less about their own mean than about the truth.

    Args:
        x, defined: (W, F) scaled features of the windows, and where they are defined.
        block: windows in a block, below W.

    Examples:
        >>> x = generator(0, "windows").standard_normal((40, 1))
        >>> replicates = block_bootstrap(x, np.ones((40, 1), dtype=bool), 2)
        >>> replicates.shape, bool(abs(replicates.std() * 40**0.5 - 1.0) < 0.3)
        ((1000, 1), True)
    """
    n = len(x)
    starts = generator(0, "block bootstrap").integers(0, n, (_REPLICATES, -(-n // block)))
    rows = ((starts[..., None] + np.arange(block)) % n).reshape(_REPLICATES, -1)[:, :n]
    weight = np.stack([np.bincount(row, minlength=n) for row in rows]).astype(float)
    known = np.where(defined, x, 0.0)
    count, own = weight @ defined, known.sum(0) / np.maximum(defined.sum(0), 1)
    found = np.where(count > 0, weight @ known / np.maximum(count, 1.0), own) - own
    return np.asarray(found / np.sqrt(1.0 - block / n))


def default_block(windows: int) -> int:
    """Windows in a block: the rate-optimal cube root (Lahiri 2003, Resampling Methods for Dependent Data, 5.4)."""
    return max(1, round(windows ** (1 / 3)))


def blocks_of(windows: int, block: int) -> int:
    """The block that is used: at least five of them fit into the recording, or 0: too short to resample."""
    return min(max(block, 1), windows // _MIN_BLOCKS)


@dataclass(frozen=True, eq=False)
class Variance:
    """Seed-to-seed variance of scaled features: (..., F) `value`, estimated with so many degrees of `freedom`."""

    value: np.ndarray
    freedom: np.ndarray

    def pooled(self, squares: np.ndarray, freedom: np.ndarray) -> "Variance":
        """With sums of squared deviations that stem from as many degrees of freedom."""
        total = self.freedom + freedom
        return Variance(np.maximum((self.freedom * self.value + squares) / total, _FLOOR**2), total)


def prior_variance(x: np.ndarray, defined: np.ndarray, observed_states: np.ndarray) -> Variance:
    """What configurations near the observation tell about the variance of one of them.

    Variability differs from circuit to circuit, in some features by orders of magnitude. The spread of the logarithms
    of their variances says how far that of others may be relied on: as if it came from so many observations of the
    circuit itself (Smyth 2004, Stat Appl Genet Mol Biol 3:3, equations 1 to 4; the median over features is taken).

    Args:
        x, defined: (M, R, F) scaled features, and where they are defined.
        observed_states: (F,) of the recording.
    """
    squares, freedom = deviations(x, defined)
    unit = seed_to_seed(x, defined)
    own, found = np.maximum(squares / np.maximum(freedom, 1), (_FLOOR * unit) ** 2), freedom > 0
    extra = [
        float(np.var(np.log(own[found[:, f], f])) - polygamma(1, freedom[found[:, f], f] / 2.0).mean())
        for f in np.flatnonzero(observed_states == DEFINED) if found[:, f].sum() >= _LEAST
    ]  # fmt: skip
    relied = float(np.clip(2.0 * _inverse_trigamma(max(float(np.median(extra)), 1e-3)), 1.0, _MOST)) if extra else 1.0
    return Variance(unit**2, np.full(len(unit), relied))


def _trimmed(squares: np.ndarray, freedom: np.ndarray) -> float:
    """Standard deviation over configurations without the most variable ones; 1 from fewer than eight.

    Not the median's: the level has to hold for circuits more variable than most.
    """
    if len(squares) < _LEAST:
        return 1.0
    kept = np.argsort(squares / freedom, kind="stable")[: int(np.ceil(_TRIM * len(squares)))]
    return max(float(np.sqrt(squares[kept].sum() / freedom[kept].sum())) / _TRIMMED_SD, _FLOOR)


def deviations(x: np.ndarray, defined: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums (..., F) of squared deviations of x (..., R, F) from their means, and degrees of freedom."""
    n = defined.sum(-2)
    mean = np.where(defined, x, 0.0).sum(-2) / np.maximum(n, 1)
    return np.where(defined, (x - mean[..., None, :]) ** 2, 0.0).sum(-2), np.maximum(n - 1, 0)


def _inverse_trigamma(y: float) -> float:
    """Newton's method of Smyth 2004, appendix."""
    x = 0.5 + 1.0 / y
    for _ in range(20):
        x += polygamma(1, x) * (1.0 - polygamma(1, x) / y) / polygamma(2, x)
    return float(x)


def correlations(x: np.ndarray, defined: np.ndarray, variance: Variance) -> np.ndarray:
    """(F, F) correlation of the errors of features, from differences between seeds; the identity from few pairs."""
    width = x.shape[2]
    both = defined[:, 1:] & defined[:, :1]
    apart = np.where(both, (x[:, 1:] - x[:, :1]) / np.sqrt(2.0 * variance.value[:, None]), 0.0).reshape(-1, width)
    if len(apart) < _MIN_PAIRS:
        return np.eye(width)
    product = apart.T @ apart / len(apart)
    scale = np.sqrt(np.maximum(np.diag(product), 1e-12))
    return np.asarray((1.0 - _SHRINK) * product / np.outer(scale, scale) * (1.0 - np.eye(width)) + np.eye(width))


def joint_bound(correlation: np.ndarray, freedom: np.ndarray, level: float) -> float:
    """Bound on the largest |t| of F features which one and the same circuit exceeds with probability `level`.

    The distribution of the largest of correlated Student's t (Westfall, Young 1993, Resampling-Based Multiple Testing,
    2.3), by simulation: normal errors with these correlations (F, F), every variance estimated with `freedom` (F,).

    Examples:
        >>> alone, twelve = (joint_bound(np.eye(n), np.full(n, 1e6), 0.05) for n in (1, 12))
        >>> bool(abs(alone - 1.96) < 0.05), bool(abs(twelve - 2.86) < 0.05)  # exact: 1.960, 2.858
        (True, True)
        >>> round(joint_bound(np.ones((12, 12)), np.full(12, 1e6), 0.05), 1)
        2.0
    """
    if not len(freedom):
        return np.inf
    random, (value, vector) = generator(0, "null"), np.linalg.eigh(correlation)
    normal = random.standard_normal((_DRAWS, len(freedom))) @ (vector * np.sqrt(np.maximum(value, 0.0))).T
    estimated = np.sqrt(random.chisquare(freedom, normal.shape) / freedom)
    return float(np.quantile((np.abs(normal) / estimated).max(1), 1.0 - level))


def states_apart(
    states: np.ndarray, ok: np.ndarray, pool: np.ndarray, window_states: np.ndarray, level: float
) -> np.ndarray:
    """Where most seeds have a feature in a state that the recording has not, by more than chance: (M, F) bool.

    See also: `lost`, which needs no pool.

    The recording has a state that at least a tenth of its windows show. Chance is what circuits show whose seeds
    differ in the state: the probability that one circuit gives such seeds and such windows, over circuits whose
    probability of "undefined" is Beta distributed with the mean and the discordance between seeds of the pool. Where
    that exceeds `level`, the state is not held against a configuration.

    Args:
        states, ok: (M, R, F) of the seeds, and (M, R) whether they ran to the end.
        pool: (M,) configurations near the observation.
        window_states: (W, F) of the recording.
    """
    repeats, (windows, width) = states.shape[1], window_states.shape
    most = repeats // 2 + 1
    undefined = (states == UNDEFINED) & ok[:, :, None]
    seen = (window_states == UNDEFINED).sum(0)
    measured = ~((window_states == UNOBSERVED).any(0) | (states == UNOBSERVED).all(1))
    wrong = np.zeros((len(states), width), dtype=bool)
    count = undefined.sum(1)
    for f in range(width):
        u = undefined[pool, :, f]
        if seen[f] < max(_SEEN * windows, 1) and _by_chance(u, repeats, most, windows, int(seen[f])) <= level:
            wrong[:, f] |= count[:, f] >= most
        defined = windows - int(seen[f])
        if defined < max(_SEEN * windows, 1) and _by_chance(~u, repeats, most, windows, defined) <= level:
            wrong[:, f] |= repeats - count[:, f] >= most
    return np.asarray(wrong & measured)


def lost(states: np.ndarray, ok: np.ndarray, window_states: np.ndarray, level: float) -> np.ndarray:
    """Where no seed defines a feature that nearly all windows of the recording define: (M, F) bool.

    Whatever the probability q of "undefined" in a window of one circuit, all R seeds and k or fewer of W windows show
    it with a probability of at most the largest over q of q^R P(Binomial(W, q) <= k). Where that is no more than
    `level`, it is held against a configuration: this rests on no other configurations, unlike `states_apart`, whose
    pool is what was proposed. Features whose windows have equal states are one test: of nested ones (a burst, two
    bursts, an interval's spread) the most demanding is undefined whenever another is.

    Args:
        states, ok, window_states: as for `states_apart`.
        level: over all features together.

    Examples:
        >>> states, ok = np.full((1, 2, 1), UNDEFINED), np.ones((1, 2), dtype=bool)
        >>> [bool(lost(states, ok, np.full((w, 1), DEFINED), 0.005).all()) for w in (5, 15)]
        [False, True]
    """
    repeats, windows = states.shape[1], len(window_states)
    undefined = (window_states == UNDEFINED).sum(0)
    tests = max(len(np.unique(window_states[:, (window_states != UNOBSERVED).all(0)], axis=1).T), 1)
    q = np.linspace(0.0, 1.0, 501)[:, None]
    chance = (q**repeats * bdtr(np.arange(windows + 1.0), windows, q)).max(0)
    measured = (window_states != UNOBSERVED).all(0) & (undefined <= windows // 2)
    none = ((states == UNDEFINED) & ok[:, :, None]).all(1)
    return np.asarray(none & (measured & (chance[undefined] <= level / tests))[None])


def _by_chance(u: np.ndarray, repeats: int, most: int, windows: int, seen: int) -> float:
    """Probability that one circuit shows a state in `most` seeds or more and in `seen` windows or fewer.

    u: (N, R) bool, where seeds of N circuits show it.
    """
    discordance = float((u[:, 1:] != u[:, :1]).mean()) if len(u) else 0.0
    if discordance == 0.0:
        return 0.0
    mean = float(u.mean())
    alike = np.clip(1.0 - discordance / (2.0 * mean * (1.0 - mean)), 0.01, 0.99)
    a, b = mean * (1.0 / alike - 1.0), (1.0 - mean) * (1.0 / alike - 1.0)
    i, j = np.arange(most, repeats + 1)[:, None], np.arange(seen + 1)[None]
    log = betaln(a + i + j, b + repeats - i + windows - j) - betaln(a, b)
    return float((comb(repeats, i) * comb(windows, j) * np.exp(log)).sum())
