"""Tabulated binomial numbers of Poisson events in a time step, for kernels that draw them by one random word."""

import numpy as np
from numba import njit
from scipy.special import bdtr, bdtrc, bdtrik

from sbi_circuits.engines.setup import Poisson
from sbi_circuits.errors import CircuitError

# Above this many events per neuron and step, a count per neuron is cheaper than single events.
_DENSE_EVENTS = 0.7
# Above this probability of an event per source and step, spreading a sum evenly over neurons would show: it makes
# the variance of one neuron's count larger by 1/(1 - p) than Brian2's binomial.
_RARE = 0.01
# How events are drawn: not at all, one by one, a count per neuron, or one by one with two targets from a word.
NONE, EVENTS, COUNTS, PAIRS = range(4)
# Two targets from a word: the population up to which no two of them come together more often than others by more than
# n^2 / 2^32, and the bound of what n and the power of two in it do to how often a second target comes, times 2^32.
_FEW, _EVEN = 2**11, 2**17


def poisson_table(
    entry: Poisson, dt: float, guide_bits: int = 8
) -> tuple[np.ndarray, np.ndarray, tuple[int, int, int]]:
    """Tabulated binomial number of events a step: thresholds, guide, (first count, driven neurons, mode).

    Brian2's PoissonInput draws Binomial(sources, rate dt) per neuron; their sum over neurons is binomial too.
    The mode says how they are drawn: `NONE`, `EVENTS` or `PAIRS` (single events over the population), or `COUNTS`
    (a count per neuron).

    Args:
        entry: the input.
        dt: time step, seconds.
        guide_bits: the guide has 2**guide_bits entries: how many thresholds lie at or below each of as many words.

    Raises:
        CircuitError: a rate above one event a step.
    """
    p = entry.rate * dt
    if p > 1:
        raise CircuitError(f"input to {entry.target}: rate {entry.rate:g} Hz is above 1/dt")
    dense = entry.sources * p > _DENSE_EVENTS or p > _RARE
    n = entry.sources * (1 if dense else entry.driven)
    if n == 0 or p == 0.0 or entry.driven == 0:
        return np.zeros(1, dtype=np.uint32), np.zeros(2**guide_bits, dtype=np.int32), (0, max(entry.driven, 1), NONE)
    # Words below 2**-32 of either tail do not exist; the table ends there.
    first = max(int(bdtrik(1e-11, n, p)) - 1, 0) if p < 1 else n
    last = min(int(n * p + 7.0 * np.sqrt(n * p * (1 - p)) + 20.0), n)
    below = float(bdtr(first - 1, n, p)) if first > 0 else 0.0
    above = float(bdtrc(last, n, p)) if last < n else 0.0
    thresholds = _thresholds(first, last, n, p, below, above)
    mode = COUNTS if dense else PAIRS if takes_pairs(entry.driven) else EVENTS
    return thresholds, _guide(thresholds, guide_bits), (first, entry.driven, mode)


def takes_pairs(driven: int) -> bool:
    """Whether one random word is enough for two targets out of `driven` neurons.

    The first target is the upper half of word * n, the second that of what is left * n. What is left are multiples of
    the power of two in n, so that targets may differ by one of them in how many words lead there: a share of at most
    n * (power of two) / 2^32 of the mean, bounded here by 2^-15.
    """
    return driven <= _FEW and driven * (driven & -driven) <= _EVEN


@njit(cache=True)
def _thresholds(first, last, n, p, below, above):  # type: ignore[no-untyped-def]
    """Probabilities of at most `first`, ... of n events, in units of 2**-32, rounded up, while they are below 1.

    The probability of each count follows from that of the one before; their sum is known from the two tails. One
    threshold is kept where none is below 1.
    """
    relative, share = np.ones(last - first + 1), 1.0
    for k in range(1, len(relative)):
        share *= (n - (first + k - 1)) / (first + k) * (p / (1.0 - p))
        relative[k] = share
    scale, reached = (1.0 - below - above) / relative.sum(), below
    thresholds = np.empty(len(relative), dtype=np.uint32)
    number = 0
    for k in range(len(relative)):
        reached += relative[k] * scale
        threshold = min(np.ceil(reached * 2.0**32), 2.0**32 - 1)
        thresholds[k] = np.uint32(threshold)
        if threshold == 2.0**32 - 1:
            break
        number += 1
    return thresholds[: max(number, 1)].copy()


@njit(cache=True)
def _guide(thresholds, bits):  # type: ignore[no-untyped-def]
    guide, k = np.empty(1 << bits, dtype=np.int32), 0
    for start in range(len(guide)):
        while k < len(thresholds) and np.int64(thresholds[k]) <= np.int64(start) << (32 - bits):
            k += 1
        guide[start] = k
    return guide
