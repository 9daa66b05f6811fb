"""The parts of a CUDA kernel that take Poisson inputs from the buffer of random words.

Where the next word stands is kept as three 32-bit numbers, as every thread of a block computes with them in every step:
`offset`, its place in the buffer; `ready`, how many words from there on are in the buffer (below 0 where some were
passed over before they were there); `runs`, how many runs of words there have been. The buffer holds the last two.
"""

import numpy as np

from sbi_circuits.engines.cuda_device import cuda, device
from sbi_circuits.engines.cuda_parts import COUNTERS, WORDS, fill, philox, scaled
from sbi_circuits.engines.poisson_table import PAIRS

RING = 2 * WORDS - 1
_RUN_BITS, _COUNTER_BITS = 10, 8  # of WORDS and COUNTERS


@device
def word_ahead(ahead, offset, ready, runs, words, k0, k1, stream):
    """The word `ahead` places after the next: from the buffer, or computed where it is not there yet."""
    if ahead < ready:
        return words[np.uint32(np.int32(offset + ahead) & np.int32(RING))]
    beyond = np.int32(ahead - ready)
    within = np.int32(beyond & np.int32(WORDS - 1))
    counter = np.uint64(np.int64(runs + (beyond >> _RUN_BITS)) * COUNTERS + (within & (COUNTERS - 1)))
    low, high = np.uint32(counter & np.uint64(0xFFFFFFFF)), np.uint32(counter >> np.uint64(32))
    a, b, c, d = philox(low, high, np.uint32(stream), k0, k1)
    which = within >> _COUNTER_BITS
    return a if which == 0 else (b if which == 1 else (c if which == 2 else d))


@device
def draw_count(word, first, thresholds, table, length, guide):
    """A count from its tabulated distribution: the number of thresholds at or below a random word."""
    k = np.int32(guide[np.uint32(word >> np.uint32(24))])
    last = np.int32(length - 1)
    passed = np.int32(4)
    while passed == 4 and k <= last:  # four are read before the first is compared
        k1, k2, k3 = min(np.int32(k + 1), last), min(np.int32(k + 2), last), min(np.int32(k + 3), last)
        a, b = thresholds[np.uint32(table + k)], thresholds[np.uint32(table + k1)]
        c, d = thresholds[np.uint32(table + k2)], thresholds[np.uint32(table + k3)]
        passed = np.int32(0)
        if a <= word:
            passed = np.int32(1)
            if b <= word and k1 > k:
                passed = np.int32(2)
                if c <= word and k2 > k1:
                    passed = np.int32(3)
                    if d <= word and k3 > k2:
                        passed = np.int32(4)
        k = np.int32(k + passed)
    return np.int32(first + k)


@device
def next_run(tid, T, ready, runs, words, k0, k1, stream):
    """The next run of words, where all before have been taken; `ready` and `runs` afterwards."""
    cuda.syncthreads()
    fill(tid, T, words, np.int64(runs) * WORDS, k0, k1, stream)
    cuda.syncthreads()
    return np.int32(ready + WORDS), np.int32(runs + 1)


@device
def takes_pairs(mode):
    """1 where a word gives two targets (`poisson_table.takes_pairs`), 0 elsewhere."""
    return np.int32(mode == PAIRS)


@device
def words_of(events, mode):
    """Random words that the targets of so many events are taken from."""
    pairs = takes_pairs(mode)
    return np.int32((events + pairs) >> pairs)


@device
def left_of(word, driven):
    """What is left of a word after its first target, for the second."""
    return np.uint32((np.uint64(word) * np.uint64(driven)) & np.uint64(0xFFFFFFFF))


@device
def add_event(j, weight, variable, rest, masked):
    if not masked or rest[j] == 0:
        cuda.atomic.add(variable, j, weight)


@device
def poisson_events(tid, T, offset, ready, runs, events, mode, driven, weight, variable, rest, masked, words, k0, k1,
                   stream):  # fmt: skip
    """The events of one step on a whole population, a uniform target each; `offset`, `ready` and `runs` afterwards."""
    pairs, done = takes_pairs(mode), np.int32(0)
    while done < events:
        if ready <= 0:
            ready, runs = next_run(tid, T, ready, runs, words, k0, k1, stream)
        part = min(words_of(np.int32(events - done), mode), ready)
        e = np.int32(tid)
        while e < part:
            word = words[np.uint32(np.int32(offset + e) & np.int32(RING))]
            add_event(scaled(word, np.uint32(driven)), weight, variable, rest, masked)
            if pairs == 1 and np.int32(done + 2 * e + 1) < events:
                add_event(scaled(left_of(word, driven), np.uint32(driven)), weight, variable, rest, masked)
            e = np.int32(e + T)
        done, ready = np.int32(done + (part << pairs)), np.int32(ready - part)
        offset = np.int32(np.int32(offset + part) & np.int32(RING))
    return offset, ready, runs


@device
def poisson_counts(tid, T, offset, ready, runs, first, thresholds, table, length, guide, driven, weight, variable, rest,
                   masked, words, k0, k1, stream):  # fmt: skip
    """A count per driven neuron; `offset`, `ready` and `runs` afterwards."""
    done = np.int32(0)
    while done < driven:
        if ready <= 0:
            ready, runs = next_run(tid, T, ready, runs, words, k0, k1, stream)
        part = min(np.int32(driven - done), ready)
        e = np.int32(tid)
        while e < part:
            word, j = words[np.uint32(np.int32(offset + e) & np.int32(RING))], np.uint32(np.int32(done + e))
            events = draw_count(word, first, thresholds, table, length, guide)
            if not masked or rest[j] == 0:
                variable[j] += weight * events
            e = np.int32(e + T)
        done, ready = np.int32(done + part), np.int32(ready - part)
        offset = np.int32(np.int32(offset + part) & np.int32(RING))
    return offset, ready, runs
