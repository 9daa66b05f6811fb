"""Rows of several projections side by side (numba): all that a spike of a source adds to lies in one run of memory.

Where projections leave the same population with the same delay, a spike fetches one row pointer and neighbouring
lines of targets, in place of a pointer and a row in each of several arrays.
"""

from collections.abc import Sequence

import numpy as np
from numba import njit

from sbi_circuits.engines.intrinsics import prefetch
from sbi_circuits.engines.kernel_parts import LINE

# Rows that are on their way while another is added, and lines asked for of each: together they fit in the first cache.
AHEAD, LINES = 16, 8


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
