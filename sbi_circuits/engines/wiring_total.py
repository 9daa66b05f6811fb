"""An exact number of synapses among the pairs of a class, drawn by rejection on a bitmap of the matrix.

The draws, and so the synapses, are those of the plain loop "draw a pair; keep it if it is of the class and
new"; labels are held as bit masks, so that a pair's class is one operation.
"""

import numpy as np
from numba import njit

from sbi_circuits.engines.intrinsics import trailing_zeros
from sbi_circuits.engines.philox import WORDS, refill

_SHIFT, _ONE, _LOW = np.uint64(32), np.uint64(1), np.uint64(63)
_FEW = 4  # bits of a word that are looked for without a branch
_MOST_SETS, _MOST_GROUPS = 3, 2**16  # draws of labels taken together; groups counted without sorting


def fixed_total(
    p: float, sources: int, targets: int, same: bool, labels: np.ndarray, which: int, words: np.ndarray,
    header: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Exactly ceil(p * pairs) synapses among the pairs of a class.

    Args:
        p: the fraction of pairs.
        sources, targets: sizes of the populations.
        same: whether they are one population; a neuron then makes no synapse onto itself.
        labels: (draws, N) of that population; unused for all pairs.
        which: class, a position in `PAIR_CLASSES`.
        words, header: a fresh Philox stream.

    Returns:
        indptr (sources + 1,) and targets (S,) of the rows, ascending.
    """
    masks = _masks(labels) if which else np.zeros((1, 1), dtype=np.uint64)
    wanted, pairs = _wanted(p, sources, targets, same, sharing_pairs(labels) if which else 0, which)
    inverted = 2 * wanted > pairs
    bitmap = _draw(pairs - wanted if inverted else wanted, sources, targets, same, masks, which, words, header)
    if inverted:
        _invert(bitmap, targets, same, masks, which)
    return _rows(bitmap, wanted)


def number_to_draw(p: float, sources: int, targets: int, same: bool, sharing: int, which: int) -> tuple[int, int]:
    """Synapses of `fixed_total`, and how many pairs are drawn for them: n, or -1 - n where n pairs are left out.

    Above one half it is cheaper to draw the pairs that are left out. Arguments as for `fixed_total`; `sharing` pairs
    share a label, unused for all pairs.
    """
    wanted, pairs = _wanted(p, sources, targets, same, sharing, which)
    return wanted, wanted - pairs - 1 if 2 * wanted > pairs else wanted


def _wanted(p: float, sources: int, targets: int, same: bool, sharing: int, which: int) -> tuple[int, int]:
    """Synapses wanted, and pairs of the class; `sharing` pairs share a label."""
    everything = sources * targets - (sources if same else 0)
    pairs = (everything, sharing, everything - sharing)[which]
    return min(int(np.ceil(p * pairs)), pairs), pairs


def _masks(labels: np.ndarray) -> np.ndarray:
    """The labels of each neuron as bits, one for each label of each draw: (words of 64 bits, N) uint64.

    Two neurons share a label where they agree in the same draw, so each draw has bits of its own.
    """
    return _mark(labels, int(labels.max()) + 1)


@njit(cache=True)
def _mark(labels, count):  # type: ignore[no-untyped-def]
    masks = np.zeros(((count * labels.shape[0] - 1) // 64 + 1, labels.shape[1]), dtype=np.uint64)
    for d in range(labels.shape[0]):
        for i in range(labels.shape[1]):
            bit = np.uint64(labels[d, i] + d * count)
            masks[bit >> np.uint64(6), i] |= _ONE << (bit & _LOW)
    return masks


def sharing_pairs(labels: np.ndarray) -> int:
    """Ordered pairs of different neurons that share a label in some draw; labels (draws, N).

    By inclusion and exclusion: the pairs that agree in every draw of a set are counted from the groups that form
    when those draws are seen as one.
    """
    draws, neurons = labels.shape
    if draws > _MOST_SETS:
        return _sharing(_masks(labels))
    count, pairs = int(labels.max()) + 1, 0
    for chosen in range(1, 2**draws):
        group, which = np.zeros(neurons, dtype=np.int64), [d for d in range(draws) if chosen >> d & 1]
        for d in which:
            group = group * count + labels[d]
            if group.max() >= _MOST_GROUPS:
                group = np.unique(group, return_inverse=True)[1]
        members = np.bincount(group)
        pairs += (-1) ** (len(which) + 1) * int(members @ members)
    return pairs - neurons


def _sharing(masks: np.ndarray) -> int:
    """The same, counted over the distinct masks."""
    # One word is the common case, and sorting numbers is ten times faster than sorting columns.
    sets, counts = np.unique(masks[0] if len(masks) == 1 else masks, axis=-1, return_counts=True)
    share = np.zeros((len(counts), len(counts)), dtype=bool)
    for row in np.atleast_2d(sets):
        share |= (row[:, None] & row) != 0
    return int(counts @ share @ counts) - masks.shape[1]


@njit(cache=True)
def _candidates(words, sources, targets, same, masks, which, width, place):  # type: ignore[no-untyped-def]
    """Pairs of the class among the pairs that a buffer of words names; returns how many.

    `place` takes the position of each pair in the bitmap, in bits. Without branches: whether a pair is of the class
    cannot be foreseen.
    """
    n, row = 0, masks[0]
    for k in range(np.uint64(0), np.uint64(WORDS), np.uint64(2)):
        i = (np.uint64(words[k]) * np.uint64(sources)) >> _SHIFT
        j = (np.uint64(words[k + _ONE]) * np.uint64(targets)) >> _SHIFT
        place[n] = i * width + j
        if which == 0:
            n += np.int64((not same) | (i != j))
        elif masks.shape[0] == 1:
            n += np.int64((((row[i] & row[j]) != 0) == (which == 1)) & ((not same) | (i != j)))
        else:
            n += np.int64(_is_in(masks, which, same, i, j))
    return n


@njit(cache=True, inline="always")
def _is_in(masks, which, same, i, j):  # type: ignore[no-untyped-def]
    share = False
    if which != 0:
        for w in range(masks.shape[0]):
            share |= (masks[w, i] & masks[w, j]) != 0
    return ((which == 0) | (share == (which == 1))) & ((not same) | (i != j))


@njit(cache=True)
def _draw(draws, sources, targets, same, masks, which, words, header):  # type: ignore[no-untyped-def]
    """Bitmap (sources, words of 64 targets) with `draws` bits of the class set."""
    bitmap = np.zeros((sources, (targets + 63) // 64), dtype=np.uint64)
    flat, place = bitmap.reshape(-1), np.empty(WORDS // 2, dtype=np.uint64)
    width = np.uint64(64 * bitmap.shape[1])
    while draws > 0:
        refill(words, header)
        for c in range(_candidates(words, sources, targets, same, masks, which, width, place)):
            word, bit = place[c] >> np.uint64(6), place[c] & _LOW
            new = ~(flat[word] >> bit) & _ONE
            flat[word] |= new << bit
            draws -= np.int64(new)
            if draws == 0:
                break
    return bitmap


@njit(cache=True)
def _invert(bitmap, targets, same, masks, which):  # type: ignore[no-untyped-def]
    """Set instead the bits of the class that are not set."""
    for i in range(bitmap.shape[0]):
        for j in range(targets):
            bit = np.uint64(_is_in(masks, which, same, i, j)) << np.uint64(j & 63)
            bitmap[i, j >> 6] ^= bit


@njit(cache=True)
def _rows(bitmap, total):  # type: ignore[no-untyped-def]
    """Row pointers and targets of a bitmap with `total` bits."""
    found = np.empty(total + _FEW, dtype=np.int32)
    indptr = np.zeros(bitmap.shape[0] + 1, dtype=np.int64)
    n = 0
    for i in range(bitmap.shape[0]):
        for k in range(bitmap.shape[1]):
            word, start = bitmap[i, k], n
            # How many bits a word has cannot be foreseen: what is written for those that it has not is overwritten.
            for q in range(_FEW):
                found[start + q] = 64 * k + trailing_zeros(word)
                n += np.int64(word != 0)
                word &= word - _ONE
            while word != 0:
                found[n] = 64 * k + trailing_zeros(word)
                n += 1
                word &= word - _ONE
        indptr[i + 1] = n
    return indptr, found[:total]
