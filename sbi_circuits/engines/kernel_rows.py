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
# Packed rows hold a multiple of this of every projection.
UNROLLED = 4
_BITS = 16
# Targets of a source in a projection, on average, above which leaving a loop takes little of the time (measured).
_LONG = 128
_1, _2, _3, _4 = (np.uint64(k + 1) for k in range(UNROLLED))


@njit(cache=True, forceinline=True)
def prefetch_row(starts, targets, first, lines):  # type: ignore[no-untyped-def]
    """Ask for the first `lines` cache lines of the targets from segment `first` on.

    Rows are asked for by their usual length, as to leave a loop that ends where the row does would take longer than to
    ask for a line in vain.
    """
    line = 64 // targets.itemsize
    start = np.int64(starts[first])
    for _ in range(lines):
        prefetch(targets, start)
        start += line


@njit(cache=True, forceinline=True)
def prefetch_arrivals(starts, targets, parts, lines, ring, past, count):  # type: ignore[no-untyped-def]
    """Ask for the rows of the first `AHEAD` spikes, so that their misses wait together.

    Args:
        starts, targets: from `join`, of `parts` projections.
        lines: from `usual_lines`.
        ring, past, count: the first `count` entries of `ring[past]` are the sources that spiked.
    """
    for s in range(min(count, AHEAD)):
        prefetch_row(starts, targets, np.int64(ring[past, s]) * parts, lines)


def usual_lines(sources: int, targets: np.ndarray) -> int:
    """Cache lines that a row of the mean length touches at most, wherever in a line it starts; no more than `LINES`."""
    mean = -(-targets.nbytes // max(sources, 1))
    return min(-(-(mean + 64 - targets.itemsize) // 64), LINES)


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
def deliver_packed(starts, entries, amounts, bits, lines, ring, past, count, heard):  # type: ignore[no-untyped-def]
    """Add what every spike adds.

    Args:
        starts, entries, amounts, bits: from `pack`.
        lines: from `usual_lines`.
        ring, past, count: the first `count` entries of `ring[past]` are the sources that spiked.
        heard: the state of all populations, from the place on that entries count from.
    """
    shift = np.uint64(bits)
    mask = (_1 << shift) - _1
    for s in range(count):
        i = np.int64(ring[past, s])
        if s + AHEAD < count:
            prefetch_row(starts, entries, np.int64(ring[past, s + AHEAD]), lines)
        k, end = np.uint64(starts[i]), np.uint64(starts[i + 1])
        while k < end:
            first = np.uint64(entries[k])
            amount = amounts[first >> shift]
            heard[first & mask] += amount
            heard[np.uint64(entries[k + _1])] += amount
            heard[np.uint64(entries[k + _2])] += amount
            heard[np.uint64(entries[k + _3])] += amount
            k += _4


def packed_bits(rows: Sequence[tuple[np.ndarray, np.ndarray]], places: Sequence[int], spare: int) -> int:
    """Bits of a place in packed rows; 0 where they do not pay, or 16 bits do not hold it beside a projection's number.

    Args:
        rows: indptr (N + 1,) and targets (S,) of each projection.
        places: where the variable of the targets of each projection starts, counted from the first of them.
        spare: the first of `UNROLLED` places that nobody reads.
    """
    present = [(place, targets) for place, (_, targets) in zip(places, rows, strict=True) if len(targets)]
    mean = sum(len(targets) for _, targets in present) / max((len(rows[0][0]) - 1) * len(present), 1)
    if len(present) < 2 or mean > _LONG:
        return 0
    highest = max(place + int(targets.max()) for place, targets in present)
    bits = max(highest, spare + UNROLLED - 1).bit_length()
    return bits if (len(rows) - 1).bit_length() <= _BITS - bits else 0


def pack(
    rows: Sequence[tuple[np.ndarray, np.ndarray]], places: Sequence[int], spare: int, bits: int
) -> tuple[np.ndarray, np.ndarray]:
    """Put the rows of projections from one population into one list of places, a few of one projection at a time.

    Args:
        rows, places, spare: as for `packed_bits`.
        bits: from `packed_bits`.

    Returns:
        starts (N + 1,); entries (E,) uint16: places, `UNROLLED` of one projection after another, whose number stands
        above `bits` bits of the first; spare places where a projection has no more targets.
    """
    lengths = np.sum([-(-np.diff(indptr) // UNROLLED) * UNROLLED for indptr, _ in rows], axis=0)
    starts = np.zeros(len(rows[0][0]), dtype=np.uint32)
    starts[1:] = np.cumsum(lengths)
    entries, at = np.empty(int(starts[-1]), dtype=np.uint16), starts[:-1].copy()
    for p, (indptr, targets) in enumerate(rows):
        _pack(at, indptr, targets, places[p], p << bits, spare, entries)
    return starts, entries


@njit(cache=True)
def _pack(at, indptr, targets, place, code, spare, entries):  # type: ignore[no-untyped-def]
    for i in range(len(at)):
        to = first = np.uint64(at[i])
        for k in range(np.uint64(indptr[i]), np.uint64(indptr[i + 1])):
            entries[to] = place + targets[k]
            to += _1
        while (to - first) % _4:
            entries[to] = spare + (to - first) % _4
            to += _1
        for k in range(first, to, _4):
            entries[k] += code
        at[i] = to
