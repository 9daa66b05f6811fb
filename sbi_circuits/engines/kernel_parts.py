"""The parts of a kernel that do not depend on the circuit: spikes, synapses, Poisson inputs, records (numba)."""

import numpy as np
from numba import njit

from sbi_circuits.engines.intrinsics import FLAGGED, add_counts, chosen, flagged, prefetch, trailing_zeros
from sbi_circuits.engines.philox import WORDS, refill

# Outcome codes a kernel returns.
OK, SILENT, SATURATED, DIVERGED = range(4)

_SHIFT, _LOW = np.uint64(32), np.uint64(0xFFFFFFFF)
_ZERO, _ONE, _WORDS = np.uint64(0), np.uint64(1), np.uint64(WORDS)
# What is noted of a neuron: step of its last spike (-1 before it), spikes, and of their intervals, in steps, the sum
# and that of the squares.
LAST, NUMBER, TOTAL, SQUARED, NOTED = range(5)
# Targets in a cache line.
LINE = 32
# Spikes of a population that are kept before their intervals are noted, beyond those of one step.
LOG = 4096
# Thresholds up to which a word is compared with all of them (measured).
FEW = 96


@njit(cache=True, forceinline=True)
def gather(fired, words, places, ring, now, until, release):  # type: ignore[no-untyped-def]
    """Numbers of the neurons whose entry of `fired` is negative, ascending; they are refractory from now on.

    Words of flags that are not empty are first set aside without a branch, as where they lie is not to be foreseen.

    Args:
        fired: a multiple of `FLAGGED` flags.
        words, places: room for as many words as there are, and where they were found.
        ring, now: the numbers go to `ring[now]`.
        until, release: they are refractory until time step `release`.

    Returns:
        How many they are.
    """
    found, n = 0, 0
    for k in range(0, len(fired), FLAGGED):
        word = flagged(fired, k)
        words[found], places[found] = word, k
        found += np.int64(word != 0)
    for m in range(found):
        word, k = words[m], places[m]
        while True:
            i = k + trailing_zeros(word)
            ring[now, n] = i
            until[i] = release
            n += 1
            word &= word - _ONE
            if word == 0:
                break
    return n


@njit(cache=True)
def prefetch_rows(indptr, targets, ring, past, count):  # type: ignore[no-untyped-def]
    """Ask for the first two cache lines of the rows of all spikes: their misses then wait together."""
    line = 64 // targets.itemsize
    for s in range(count):
        start = np.int64(indptr[ring[past, s]])
        prefetch(targets, start)
        prefetch(targets, start + line)


@njit(cache=True, fastmath={"contract"})
def deliver(indptr, targets, weight, ring, past, count, variable):  # type: ignore[no-untyped-def]
    """Add `weight` to the variable of every target of every spike."""
    for s in range(count):
        i = ring[past, s]
        # Unsigned positions need no test for negative ones.
        k, end = np.uint64(indptr[i]), np.uint64(indptr[i + 1])
        if end - k > np.uint64(2 * LINE):
            # Two lines of every row are on their way; more of the next spike's row is asked for while this is added.
            ahead = indptr[ring[past, s + 1]] if s + 1 < count else indptr[i]
            while end - k >= np.uint64(LINE):
                prefetch(targets, ahead)
                for _ in range(LINE):
                    variable[targets[k]] += weight
                    k += _ONE
                ahead += LINE
        for position in range(k, end):
            variable[targets[position]] += weight


@njit(cache=True)
def keep_held(variable, saved):  # type: ignore[no-untyped-def]
    """Remember a variable before spikes and events are added to all neurons, refractory or not."""
    for j in range(len(variable)):
        saved[j] = variable[j]


@njit(cache=True)
def restore_held(variable, saved, until, step):  # type: ignore[no-untyped-def]
    """Take back what was added to refractory neurons: cheaper than asking before every addition, and equal.

    `saved` is of no use afterwards. What it is given stands between reading and storing, without which the compiler
    makes a store under a mask of the selection (`chosen`).
    """
    for j in range(len(variable)):
        added, before = variable[j], saved[j]
        saved[j] = added
        variable[j] = chosen(until[j] <= step, added, before)


@njit(cache=True, inline="always")
def _draw_count(first, thresholds, guide, shift, word):  # type: ignore[no-untyped-def]
    """A count from its tabulated distribution: the number of thresholds at or below a random word."""
    k = guide[word >> shift]
    while k < len(thresholds) and thresholds[k] <= word:
        k += 1
    return first + k


@njit(cache=True, inline="always")
def _guide_shift(guide):  # type: ignore[no-untyped-def]
    """How far to shift a word for its place in a guide of 2**bits entries."""
    return np.uint64(32) - np.uint64(trailing_zeros(np.uint64(len(guide))))


@njit(cache=True, inline="always")
def _refilled(words, header, at):  # type: ignore[no-untyped-def]
    """The place of the next word: `at`, or the first of the words that follow where all in the buffer are taken."""
    at = np.uint64(at)
    if at == _WORDS:
        refill(words, header)
        at = _ZERO
    return at


@njit(cache=True, inline="always")
def _next_count(first, thresholds, guide, words, header, at):  # type: ignore[no-untyped-def]
    """A count from the word at `at`, and the place of the one after it."""
    at = _refilled(words, header, at)
    return _draw_count(first, thresholds, guide, _guide_shift(guide), np.uint64(words[at])), at + _ONE


@njit(cache=True, forceinline=True)
def poisson_events(first, thresholds, guide, driven, weight, variable, words, header, at):  # type: ignore[no-untyped-def]
    """All events of one step on a whole population: their number, then a uniform target each.

    Args:
        first, thresholds, guide, driven: from `poisson_table`.
        weight, variable: what an event adds to which variable.
        words, header: buffer of random words.
        at: place of the next word in the buffer, uint64; in a variable, as a place in memory would be waited for.

    Returns:
        `at` afterwards.
    """
    events, at = _next_count(first, thresholds, guide, words, header, at)
    n = np.uint64(driven)
    while events > 0:
        at = _refilled(words, header, at)
        stop = min(at + np.uint64(events), _WORDS)
        for k in range(at, stop):
            variable[(np.uint64(words[k]) * n) >> _SHIFT] += weight
        events -= np.int64(stop - at)
        at = stop
    return at


@njit(cache=True, forceinline=True)
def poisson_pairs(first, thresholds, guide, driven, weight, variable, words, header, at):  # type: ignore[no-untyped-def]
    """As `poisson_events`, with two targets from each word.

    What multiply and shift leave of a word after the first target is as good as a uniform word for the second where
    the population is small (`poisson_table.takes_pairs`). Brackett-Rozinsky, Lemire 2024, Softw Pract Exper, "Batched
    ranged random integer generation".
    """
    events, at = _next_count(first, thresholds, guide, words, header, at)
    n = np.uint64(driven)
    while events > 0:
        at = _refilled(words, header, at)
        stop = min(at + (np.uint64(events) >> _ONE), _WORDS)
        for k in range(at, stop):
            product = np.uint64(words[k]) * n
            variable[product >> _SHIFT] += weight
            variable[((product & _LOW) * n) >> _SHIFT] += weight
        events -= 2 * np.int64(stop - at)
        at = stop
        if events == 1 and at < _WORDS:
            variable[(np.uint64(words[at]) * n) >> _SHIFT] += weight
            events, at = 0, at + _ONE
    return at


@njit(cache=True)
def poisson_counts(first, thresholds, guide, driven, weight, variable, words, header, at):  # type: ignore[no-untyped-def]
    """A count per neuron and step; cheaper than single events where a neuron gets several a step."""
    shift, j = _guide_shift(guide), 0
    while j < driven:
        start = np.int64(_refilled(words, header, at))
        n = min(driven - j, WORDS - start)
        vectors = n // FLAGGED * FLAGGED if len(thresholds) <= FEW else 0
        for k in range(0, vectors, FLAGGED):
            add_counts(words, start + k, first, thresholds, weight, variable, j + k)
        block = words[start : start + n]
        for k in range(vectors, n):
            events = _draw_count(first, thresholds, guide, shift, np.uint64(block[k]))
            variable[j + k] += weight * variable.dtype.type(events)
        j += n
        at = np.uint64(start + n)
    return at


@njit(cache=True, forceinline=True)
def log_spikes(ring, now, count, step, log, logged):  # type: ignore[no-untyped-def]
    """Append this step's spikes to the log (2, entries) of neurons and time steps; returns the entries in use."""
    for s in range(count):
        log[0, logged + s] = ring[now, s]
        log[1, logged + s] = step
    return logged + count


@njit(cache=True)
def note_intervals(log, logged, noted):  # type: ignore[no-untyped-def]
    """Update what is noted of the neurons in the log: (N, 4) columns `LAST`, `NUMBER`, `TOTAL`, `SQUARED`.

    In steps, so exact integers; side by side, as each neuron's next spike waits for the cache.
    """
    for s in range(logged):
        i, step = log[0, s], np.int64(log[1, s])
        if noted[i, LAST] >= 0:
            interval = step - noted[i, LAST]
            noted[i, TOTAL] += interval
            noted[i, SQUARED] += interval * interval
        noted[i, LAST] = step
        noted[i, NUMBER] += 1


@njit(cache=True)
def note_spikes(log, logged, slots, room, kept):  # type: ignore[no-untyped-def]
    """Append the logged spikes of recorded cells to those that are kept.

    Args:
        log, logged: neurons and time steps (2, entries), and how many entries are in use.
        slots: recorded number of each neuron, or -1.
        room: a list of one array (2, entries) of recorded numbers and time steps, which is replaced where it is full.
            In a list, so that a loop that calls this holds no array that is exchanged, whose owners it would count.
        kept: how many entries are in use.

    Returns:
        How many are in use afterwards.
    """
    spikes = room[0]
    if kept + logged > spikes.shape[1]:
        longer = np.empty((2, 2 * (kept + logged)), dtype=np.int32)
        longer[:, :kept] = spikes[:, :kept]
        room[0] = spikes = longer
    for s in range(logged):
        # Which cells are recorded cannot be foreseen: what is written for another is overwritten.
        slot = slots[log[0, s]]
        spikes[0, kept], spikes[1, kept] = slot, log[1, s]
        kept += slot >= 0
    return kept


@njit(cache=True)
def all_finite(state, size):  # type: ignore[no-untyped-def]
    """Whether every value of the first `size` neurons is finite: (variables, neurons and padding)."""
    for row in range(state.shape[0]):
        for i in range(size):
            if not np.isfinite(state[row, i]):
                return False
    return True
