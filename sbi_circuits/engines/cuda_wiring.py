"""Wiring drawn on the device: the same synapses, from the same random words, as `wiring.draw_rows` draws on the host.

One block of threads draws one projection into compressed rows in global memory: `indptr[base + i]` to
`indptr[base + i + 1]` of `targets`, whose first entry of this projection is `start`. Every function returns the
number of synapses, which is more than `room` where they do not fit; nothing is written beyond it.

Cost: at the check configuration of adex_clustered some 4e5 words for pairs, as many tests of pairs, and a bitmap of
320 KB, once per simulation; that is about 1 % of simulating one second.
"""

import math

import numpy as np

from sbi_circuits.engines.cuda_device import LANE_BITS, LANES, cuda, device
from sbi_circuits.engines.cuda_parts import ACCEPTED, WORDS, fill, philox, prefix, scaled

_ONE = np.uint32(1)


@device
def shares(labels, sim, row, draws, i, j):
    """Whether two neurons agree in a label, position by position."""
    share = False
    for d in range(draws):
        if labels[sim, row + d, i] == labels[sim, row + d, j]:
            share = True
    return share


@device
def in_class(i, j, same, labels, sim, row, draws, which):
    """Whether the pair belongs to the class: 0 all, 1 same label, 2 other label."""
    if same and i == j:
        return False
    if which == 0:
        return True
    return shares(labels, sim, row, draws, i, j) == (which == 1)


@device
def left_out(word, i, first, targets, same, labels, sim, row, draws, which):
    """Pairs of the class, of those from neuron i to the 32 from `first` on, that a word of the bitmap leaves out."""
    found = np.uint32(0)
    for bit in range(min(32, targets - first)):
        chosen = (word >> np.uint32(bit)) & _ONE
        if chosen == 0 and in_class(i, first + bit, same, labels, sim, row, draws, which):
            found = np.uint32(found | np.uint32(_ONE << np.uint32(bit)))
    return found


@device
def collect(tid, T, bitmap, sources, targets, same, labels, sim, row, draws, which, inverted, indptr, base, out, start,
            room, scan):  # fmt: skip
    """Rows from a bitmap of the matrix; where `inverted`, of the pairs of the class it leaves out."""
    row_words = (targets + 31) // 32
    chunk = (sources + T - 1) // T
    first, last = min(tid * chunk, sources), min((tid + 1) * chunk, sources)
    mine = np.int64(0)
    for i in range(first, last):
        for k in range(row_words):
            word = np.uint32(bitmap[i * row_words + k])
            if inverted:
                word = left_out(word, i, 32 * k, targets, same, labels, sim, row, draws, which)
            mine += cuda.popc(word)
    through, total = prefix(tid, T, scan, mine)
    n = through - mine
    for i in range(first, last):
        indptr[base + i] = start + n
        for k in range(row_words):
            word = np.uint32(bitmap[i * row_words + k])
            if inverted:
                word = left_out(word, i, 32 * k, targets, same, labels, sim, row, draws, which)
            while word != 0:  # one round for each pair, not for each bit
                if n < room:
                    out[start + n] = 32 * k + cuda.ffs(word) - 1
                n += 1
                word = np.uint32(word & np.uint32(word - _ONE))
    if tid == 0:
        indptr[base + sources] = start + total
    return total


@device
def clear_bitmap(tid, T, bitmap, sources, targets):
    """No pair chosen."""
    for k in range(tid, np.int64(sources) * ((targets + 31) // 32), T):
        bitmap[k] = np.uint32(0)


@device
def choose(bitmap, row_words, i, j):
    """Mark a pair; 1 where it was not marked before."""
    bit = np.uint32(_ONE << np.uint32(j & 31))
    old = cuda.atomic.or_(bitmap, i * row_words + (j >> 5), bit)
    return 1 if (old & bit) == 0 else 0


@device
def draw_total(tid, T, number, sources, targets, same, labels, sim, row, draws, which, bitmap, indptr, base, out, start,
               room, words, control, scan, k0, k1, stream):  # fmt: skip
    """An exact number of pairs of a class, by rejection on a bitmap; of -1 - n, all pairs but n.

    As many pairs are tried together as are still missing, or as there are words: never more than the sequential
    rule would try, so that the set is the same.
    """
    inverted = number < 0
    goal = np.int64(-1 - number if inverted else number)
    row_words = (targets + 31) // 32
    clear_bitmap(tid, T, bitmap, sources, targets)
    if tid == 0:
        control[ACCEPTED] = 0
    found = np.int64(0)
    position = np.int64(0)
    filled = np.int64(0)
    while found < goal:
        cuda.syncthreads()
        if position == filled:
            fill(tid, T, words, filled, k0, k1, stream)
            filled += WORDS
            cuda.syncthreads()
        tries = min(goal - found, (filled - position) // 2)
        mine = np.int32(0)
        for m in range(tid, tries, T):
            at = (position + 2 * m) & (2 * WORDS - 1)
            i = np.int64(scaled(words[np.uint32(at)], sources))
            j = np.int64(scaled(words[np.uint32(at + 1)], targets))
            if in_class(i, j, same, labels, sim, row, draws, which):
                mine += choose(bitmap, row_words, i, j)
        position += 2 * tries
        if mine > 0:
            cuda.atomic.add(control, ACCEPTED, mine)
        cuda.syncthreads()
        found = np.int64(control[ACCEPTED])
    cuda.syncthreads()
    return collect(tid, T, bitmap, sources, targets, same, labels, sim, row, draws, which, inverted, indptr, base, out,
                   start, room, scan)  # fmt: skip


@device
def draw_all(tid, T, sources, targets, same, indptr, base, out, start, room):
    """Every pair, the diagonal left out where both ends are one population."""
    width = targets - 1 if same else targets
    total = np.int64(sources) * np.int64(width)
    for i in range(tid, sources + 1, T):
        indptr[base + i] = start + i * width
    for k in range(tid, min(total, np.int64(room)), T):
        i = k // width
        j = k - i * width
        out[start + k] = j + 1 if same and j >= i else j
    return total


@device
def draw_independent(tid, T, p, sources, targets, same, indptr, base, out, start, room, words, scan, k0, k1, stream):
    """Bernoulli pairs by geometric jumps over the flattened matrix; T jumps at a time, summed by a scan."""
    width = targets - 1 if same else targets
    total = np.int64(sources) * np.int64(width)
    if p >= 1.0:
        return draw_all(tid, T, sources, targets, same, indptr, base, out, start, room)
    if p <= 0.0:
        for i in range(tid, sources + 1, T):
            indptr[base + i] = start
        return np.int64(0)
    scale = -1.0 / math.log1p(-p)
    reached = np.int64(-1)
    n = np.int64(0)
    position = np.int64(0)
    while reached < total:
        if position & (WORDS - 1) == 0:
            cuda.syncthreads()
            fill(tid, T, words, position, k0, k1, stream)
            cuda.syncthreads()
        word = words[np.uint32((position + tid) & (2 * WORDS - 1))]
        u = (np.float64(word) + 0.5) * (1.0 / 4294967296.0)
        jump = 1 + np.int64(min(-math.log(u) * scale, np.float64(total)))
        through, whole = prefix(tid, T, scan, jump)
        pair, before = reached + through, reached + through - jump
        if before < total:
            # The row of the pair before this one; the thread that leaves the matrix closes the last rows.
            i, above = np.int64(sources), np.int64(-1)
            if pair < total:
                i = pair // width
                j = pair - i * width
                if n + tid < room:
                    out[start + n + tid] = j + 1 if same and j >= i else j
            if before >= 0:
                above = before // width
            for r in range(above + 1, i + 1):
                indptr[base + r] = start + n + tid
        n += cuda.syncthreads_count(1 if pair < total else 0)
        reached += whole
        position += T
    return n


@device
def draw_indegree(tid, T, degree, sources, targets, same, labels, bitmap, indptr, base, out, start, room, scan, k0, k1,
                  stream):  # fmt: skip
    """Distinct sources of each target, each target from random words of its own; then rows by source."""
    row_words = (targets + 31) // 32
    clear_bitmap(tid, T, bitmap, sources, targets)
    cuda.syncthreads()
    for j in range(tid, targets, T):
        n = 0
        block = np.uint32(0)
        while n < degree:
            a, b, c, d = philox(block, np.uint32(j + 1), np.uint32(stream), k0, k1)
            block = np.uint32(block + np.uint32(1))
            for lane in range(4):
                word = a if lane == 0 else (b if lane == 1 else (c if lane == 2 else d))
                i = np.int64(scaled(word, sources))
                if n < degree and not (same and i == j):
                    n += choose(bitmap, row_words, i, j)
    cuda.syncthreads()
    return collect(tid, T, bitmap, sources, targets, False, labels, 0, 0, 0, 0, False, indptr, base, out, start, room,
                   scan)  # fmt: skip


@device
def copy_given(tid, T, given_indptr, given_base, given_targets, sources, indptr, base, out, start, room):
    """Rows that the host drew."""
    first = given_indptr[given_base]
    total = given_indptr[given_base + sources] - first
    for i in range(tid, sources + 1, T):
        indptr[base + i] = start + given_indptr[given_base + i] - first
    for k in range(tid, min(np.int64(total), np.int64(room)), T):
        out[start + k] = given_targets[first + k]
    return np.int64(total)


@device
def draw_one_to_one(tid, T, sources, indptr, base, out, start, room):
    """Neuron i to neuron i."""
    for i in range(tid, sources + 1, T):
        indptr[base + i] = start + i
        if i < min(sources, room):
            out[start + i] = i
    return np.int64(sources)


@device
def note_lengths(tid, T, sources, indptr, base, rows, parts, part):
    """The lengths of a projection's rows as those of one of the `parts` of each row of a group."""
    for i in range(tid, sources, T):
        indptr[rows + parts * i + part + 1] = indptr[base + i + 1] - indptr[base + i]


@device
def lengths_to_rows(tid, T, entries, indptr, rows, start, scan):
    """Where each of some entries begins among the synapses, from the lengths, each of which stands one further."""
    chunk = (entries + T - 1) // T
    first, last = min(tid * chunk, entries), min((tid + 1) * chunk, entries)
    mine = np.int64(0)
    for e in range(first, last):
        mine += indptr[rows + e + 1]
    through, _ = prefix(tid, T, scan, mine)
    at = start + through - mine
    for e in range(first, last):
        at += indptr[rows + e + 1]
        indptr[rows + e + 1] = at
    if tid == 0:
        indptr[rows] = start
    cuda.syncthreads()


@device
def join_rows(tid, T, sources, indptr, base, rows, parts, part, targets, shift):
    """Copy a projection's rows into one of the `parts` of each row of a group, `shift` added to every target."""
    lane, warps = tid & (LANES - 1), T >> LANE_BITS
    for i in range(tid >> LANE_BITS, sources, warps):
        begin, to = indptr[base + i], indptr[rows + parts * i + part]
        for k in range(lane, indptr[base + i + 1] - begin, LANES):
            targets[to + k] = np.uint16(targets[begin + k] + shift)
