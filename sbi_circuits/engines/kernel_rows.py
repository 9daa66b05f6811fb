"""Rows of several projections side by side (numba): all that a spike of a source adds to lies in one run of memory.

Where projections leave the same population with the same delay, a spike fetches one row pointer and neighbouring
lines of targets, in place of a pointer and a row in each of several arrays. Where 16 bits hold both a place in the
state of all populations and the number of a projection, rows are packed: one loop serves a spike, whatever it adds to,
and so ends once. Short loops of unforeseen length, one for each projection, take as long to leave as to run.
"""

from collections.abc import Sequence

import numpy as np
from numba import njit

from sbi_circuits.engines.intrinsics import prefetch
from sbi_circuits.engines.kernel_parts import LINE

# Rows that are on their way while another is added, and lines asked for of each: together they fit in the first cache.
AHEAD, LINES = 16, 8
# Packed rows are filled up to a multiple of this with entries that add nothing.
UNROLLED = 4
_BITS = 16
# Targets of a source in a projection, on average, above which leaving a loop takes little of the time (measured).
_LONG = 128
_1, _2, _3, _4 = (np.uint64(k + 1) for k in range(UNROLLED))


@njit(cache=True)
def prefetch_row(starts, targets, first, last):  # type: ignore[no-untyped-def]
    """Ask for the first `LINES` cache lines of the targets from segment `first` to before segment `last`."""
    line = 64 // targets.itemsize
    start, stop = np.int64(starts[first]), np.int64(starts[last])
    for _ in range(LINES):
        if start >= stop:
            break
        prefetch(targets, start)
        start += line
    if start < stop + line:
        prefetch(targets, stop - 1)


@njit(cache=True)
def prefetch_arrivals(starts, targets, parts, ring, past, count):  # type: ignore[no-untyped-def]
    """Ask for the rows of the first `AHEAD` spikes, so that their misses wait together.

    Args:
        starts, targets: from `join`, of `parts` projections.
        ring, past, count: the first `count` entries of `ring[past]` are the sources that spiked.
    """
    for s in range(min(count, AHEAD)):
        first = np.int64(ring[past, s]) * parts
        prefetch_row(starts, targets, first, first + parts)


@njit(cache=True, fastmath={"contract"})
def add_row(targets, k, end, weight, variable, ahead):  # type: ignore[no-untyped-def]
    """Add `weight` to the variable of targets `k` to before `end`; more is asked for from `ahead` on meanwhile.

    Returns:
        `ahead` afterwards.
    """
    if end - k > np.uint64(2 * LINE):
        while end - k >= np.uint64(LINE):
            prefetch(targets, ahead)
            for _ in range(LINE):
                variable[targets[k]] += weight
                k += np.uint64(1)
            ahead += LINE
    for position in range(k, end):
        variable[targets[position]] += weight
    return ahead


def join(rows: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Put the rows of projections from one population side by side.

    Args:
        rows: indptr (N + 1,) and targets (S,) of each of P projections.

    Returns:
        starts (N * P + 1,): the targets of source i in projection p are at `starts[i * P + p]` to before the next
        entry; targets: (sum of S,).
    """
    lengths = np.stack([np.diff(indptr) for indptr, _ in rows], axis=1).ravel()
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    starts = np.zeros(len(lengths) + 1, dtype=np.uint32 if total < 2**32 else np.int64)
    starts[1:] = ends
    if len(rows) == 1:
        return starts, rows[0][1]
    joined = np.empty(total, dtype=np.result_type(*(targets.dtype for _, targets in rows)))
    for p, (indptr, targets) in enumerate(rows):
        _place(starts, len(rows), p, indptr, targets, joined)
    return starts, joined


@njit(cache=True)
def _place(starts, parts, part, indptr, targets, joined):  # type: ignore[no-untyped-def]
    for i in range(len(indptr) - 1):
        at = np.uint64(starts[i * parts + part])
        for k in range(np.uint64(indptr[i]), np.uint64(indptr[i + 1])):
            joined[at] = targets[k]
            at += np.uint64(1)


@njit(cache=True, fastmath={"contract"})
def deliver_packed(starts, entries, amounts, bits, ring, past, count, heard):  # type: ignore[no-untyped-def]
    """Add what every spike adds.

    Args:
        starts, entries, amounts, bits: from `pack`.
        ring, past, count: the first `count` entries of `ring[past]` are the sources that spiked.
        heard: the state of all populations, from the place on that entries count from.
    """
    shift = np.uint64(bits)
    mask = (_1 << shift) - _1
    for s in range(count):
        i = np.int64(ring[past, s])
        if s + AHEAD < count:
            later = np.int64(ring[past, s + AHEAD])
            prefetch_row(starts, entries, later, later + 1)
        # Of a long row the rest is fetched in the order it is read in.
        k, end = np.uint64(starts[i]), np.uint64(starts[i + 1])
        while k < end:
            a, b = np.uint64(entries[k]), np.uint64(entries[k + _1])
            c, d = np.uint64(entries[k + _2]), np.uint64(entries[k + _3])
            heard[a & mask] += amounts[a >> shift]
            heard[b & mask] += amounts[b >> shift]
            heard[c & mask] += amounts[c >> shift]
            heard[d & mask] += amounts[d >> shift]
            k += _4


def packed_bits(rows: Sequence[tuple[np.ndarray, np.ndarray]], places: Sequence[int]) -> int:
    """Bits of a place in packed rows; 0 where they do not pay, or 16 bits do not hold it beside a projection's number.

    Args:
        rows: indptr (N + 1,) and targets (S,) of each projection.
        places: where the variable of the targets of each projection starts, counted from the first of them.
    """
    present = [(place, targets) for place, (_, targets) in zip(places, rows, strict=True) if len(targets)]
    mean = sum(len(targets) for _, targets in present) / max((len(rows[0][0]) - 1) * len(present), 1)
    if len(present) < 2 or mean > _LONG:
        return 0
    bits = max(place + int(targets.max()) for place, targets in present).bit_length()
    return bits if len(rows).bit_length() <= _BITS - bits else 0


def pack(
    rows: Sequence[tuple[np.ndarray, np.ndarray]], places: Sequence[int], weights: np.ndarray, bits: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Put the rows of projections from one population into one list of places and numbers of projections.

    Args:
        rows, places: as for `packed_bits`.
        weights: what a spike adds.
        bits: from `packed_bits`.

    Returns:
        starts (N + 1,); entries (E,) uint16: the number of the projection, from 1, above `bits` bits of the place;
        amounts (P + 1,): what is added, by number; nothing for 0.
    """
    lengths = np.sum([np.diff(indptr) for indptr, _ in rows], axis=0)
    starts = np.zeros(len(rows[0][0]), dtype=np.uint32)
    starts[1:] = np.cumsum(-(-lengths // UNROLLED) * UNROLLED)
    entries, at = np.zeros(int(starts[-1]), dtype=np.uint16), starts[:-1].copy()
    for p, (indptr, targets) in enumerate(rows):
        _pack(at, indptr, targets, (p + 1 << bits) + places[p], entries)
    return starts, entries, np.concatenate([np.zeros(1, dtype=weights.dtype), weights])


@njit(cache=True)
def _pack(at, indptr, targets, code, entries):  # type: ignore[no-untyped-def]
    for i in range(len(at)):
        place = np.uint64(at[i])
        for k in range(np.uint64(indptr[i]), np.uint64(indptr[i + 1])):
            entries[place] = code + targets[k]
            place += _1
        at[i] = place
