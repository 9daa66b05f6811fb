"""The parts of a CUDA kernel that do not depend on the circuit. One block of threads runs one simulation.

Every function is called by all threads of a block, which agree on the arguments except their own number `tid` of
`T`. Indices are made unsigned 32-bit before use: numba then emits no test for negative ones, and a shared-memory
access is one address and one load.

Additions to one variable between two barriers all add the same weight, so that their order does not matter.
"""

import math

import numpy as np

from sbi_circuits.engines.cuda_device import LANE_BITS, LANES, cuda, device

# As in philox.py: words come in runs of WORDS, LANES_WORDS counters each; the buffer holds two runs.
WORDS, COUNTERS = 1024, 256
_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
_MASK, _SHIFT = np.uint64(0xFFFFFFFF), np.uint64(32)
# Entries of `control`: current simulation, spikes kept, pairs accepted; then two per Poisson input, as the events of a
# step are looked up while those of the step before are still read.
CURRENT, KEPT, ACCEPTED, EVENTS = 0, 1, 2, 3


@device
def philox(c0, c1, c2, k0, k1):
    """Four 32-bit words at counter (c0, c1, c2, 0) under the key (k0, k1); all uint32."""
    c3 = np.uint32(0)
    for _ in range(10):
        p0 = np.uint64(c0) * _M0
        p1 = np.uint64(c2) * _M1
        high0, low0 = np.uint32(p0 >> _SHIFT), np.uint32(p0 & _MASK)
        high1, low1 = np.uint32(p1 >> _SHIFT), np.uint32(p1 & _MASK)
        c0, c1, c2, c3 = np.uint32(high1 ^ c1 ^ k0), low1, np.uint32(high0 ^ c3 ^ k1), low0
        k0 = np.uint32((np.uint64(k0) + _W0) & _MASK)
        k1 = np.uint32((np.uint64(k1) + _W1) & _MASK)
    return c0, c1, c2, c3


@device
def fill(tid, T, words, position, k0, k1, stream):
    """Put the run of words from `position` (a multiple of WORDS) on into its half of the buffer."""
    half = np.int32(position & WORDS)
    first = position // 4
    lane = np.int32(tid)
    while lane < COUNTERS:
        counter = np.uint64(first + lane)
        low, high = np.uint32(counter & _MASK), np.uint32(counter >> _SHIFT)
        a, b, c, d = philox(low, high, np.uint32(stream), k0, k1)
        words[np.uint32(half + lane)] = a
        words[np.uint32(half + lane + COUNTERS)] = b
        words[np.uint32(half + lane + 2 * COUNTERS)] = c
        words[np.uint32(half + lane + 3 * COUNTERS)] = d
        lane = np.int32(lane + T)


@device
def scaled(word, n):
    """A uniform integer in [0, n) from a word, as uint32."""
    return np.uint32((np.uint64(word) * np.uint64(n)) >> _SHIFT)


@device
def prefix(tid, T, scan, value):
    """Inclusive sum of int64 values over the threads, and their total; `scan` holds 2 T values."""
    scan[np.uint32(tid)] = value
    cuda.syncthreads()
    source = np.int32(0)
    offset = np.int32(1)
    while offset < T:
        summed = scan[np.uint32(source + tid)]
        if tid >= offset:
            summed += scan[np.uint32(source + tid - offset)]
        source = np.int32(T - source)
        scan[np.uint32(source + tid)] = summed
        offset = np.int32(2 * offset)
        cuda.syncthreads()
    inclusive, total = scan[np.uint32(source + tid)], scan[np.uint32(source + T - 1)]
    cuda.syncthreads()
    return inclusive, total


@device
def zero(tid, T, n, values):
    """Set the first n values to 0."""
    i = np.int64(tid)
    while i < n:
        values[np.uint64(i)] = 0
        i += T


@device
def lanes_per_spike(count, T):
    """How many warps (a power of two, as its exponent) share the row of one of `count` > 0 spikes."""
    warps, spikes = 31 - cuda.clz(np.uint32(T >> LANE_BITS)), 32 - cuda.clz(np.uint32(count - 1))
    return np.int32(max(0, warps - spikes))


@device
def row_of(base, spikes, capacity, start, group):
    """Row of the synapses of one spike of a circular list."""
    place = np.int32(start + group)
    if place >= capacity:
        place = np.int32(place - capacity)
    return np.int32(base + spikes[np.uint32(place)])


@device
def deliver(tid, T, indptr, base, targets, weight, spikes, capacity, start, count, variable):
    """Add `weight` to the variable of every target of `count` > 0 spikes, which begin at `start` of a circular list.

    Rows lie in device memory, whose latency is what is waited for: two targets are read before the first is added to.
    """
    bits = lanes_per_spike(count, T)
    group = np.int32(tid >> np.int32(LANE_BITS + bits))
    groups = np.int32(T >> np.int32(LANE_BITS + bits))
    width = np.int32(LANES << bits)
    lane = np.int32(tid & np.int32(width - 1))
    while group < count:
        row = row_of(base, spikes, capacity, start, group)
        k, stop = np.int32(indptr[np.uint32(row)] + lane), indptr[np.uint32(row + 1)]
        while k < stop:
            k1 = np.int32(k + width)
            j0, j1 = np.uint32(targets[np.uint32(k)]), np.uint32(targets[np.uint32(min(k1, np.int32(stop - 1)))])
            cuda.atomic.add(variable, j0, weight)
            if k1 < stop:
                cuda.atomic.add(variable, j1, weight)
            k = np.int32(k1 + width)
        group = np.int32(group + groups)


@device
def deliver_masked(tid, T, indptr, base, targets, weight, spikes, capacity, start, count, variable, rest):
    """As `deliver`, to neurons that are not refractory."""
    bits = lanes_per_spike(count, T)
    group = np.int32(tid >> np.int32(LANE_BITS + bits))
    groups = np.int32(T >> np.int32(LANE_BITS + bits))
    width = np.int32(LANES << bits)
    lane = np.int32(tid & np.int32(width - 1))
    while group < count:
        row = row_of(base, spikes, capacity, start, group)
        k, stop = np.int32(indptr[np.uint32(row)] + lane), indptr[np.uint32(row + 1)]
        while k < stop:
            j = np.uint32(targets[np.uint32(k)])
            if rest[j] == 0:
                cuda.atomic.add(variable, j, weight)
            k = np.int32(k + width)
        group = np.int32(group + groups)


@device
def turned(tid, T, warps):
    """The number of a thread when the block is turned by so many warps: short jobs go to different ones."""
    return np.int32((tid - np.int32(LANES * warps)) & np.int32(T - 1))


@device
def note_intervals(tid, T, spikes, capacity, start, count, step, offset, last, number, total, squared):
    """Update interval moments (in steps; exact integers) of the neurons that spiked."""
    s = np.int32(tid)
    while s < count:
        place = np.int32(start + s)
        if place >= capacity:
            place = np.int32(place - capacity)
        i = np.uint32(offset + spikes[np.uint32(place)])
        # All are read before any is written: one wait for device memory, not four.
        before, spikes_so_far, so_far, squared_so_far = last[i], number[i], total[i], squared[i]
        last[i] = step
        number[i] = spikes_so_far + 1
        if before >= 0:
            interval = np.int32(step - before)
            total[i] = so_far + interval
            squared[i] = squared_so_far + np.int64(interval) * np.int64(interval)
        s = np.int32(s + T)


@device
def note_spikes(tid, T, spikes, capacity, start, count, step, offset, slots, kept, control):
    """Append the spikes of recorded cells as cell * 2**32 + step; those beyond the buffer are only counted."""
    s = np.int32(tid)
    while s < count:
        place = np.int32(start + s)
        if place >= capacity:
            place = np.int32(place - capacity)
        slot = slots[np.uint32(offset + spikes[np.uint32(place)])]
        if slot >= 0:
            entry = cuda.atomic.add(control, KEPT, 1)
            if entry < len(kept):
                kept[np.uint32(entry)] = (np.int64(slot) << 32) + np.int64(step)
        s = np.int32(s + T)


@device
def any_not_finite(tid, T, n, values):
    """Whether this thread sees a value that is not finite."""
    bad = np.int32(0)
    i = np.int32(tid)
    while i < n:
        if not math.isfinite(values[np.uint32(i)]):
            bad = np.int32(1)
        i = np.int32(i + T)
    return bad
