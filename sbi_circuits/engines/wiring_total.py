"""An exact number of synapses among the pairs of a class, drawn by rejection on a bitmap of the matrix.

The draws, and so the synapses, are those of the plain loop "draw a pair; keep it if it is of the class and
new"; labels are held as bit masks, so that a pair's class is one operation. A buffer of random words is passed
over once for each of these steps, as the loops then vectorise or have little to wait for.
"""

from typing import Any

import numpy as np
from numba import njit

from sbi_circuits.engines.intrinsics import count_ones, trailing_zeros
from sbi_circuits.engines.philox import WORDS, refill

_SHIFT, _HALF = np.uint64(32), np.uint64(0xFFFFFFFF)
_ONE, _LOW = np.uint64(1), np.uint64(63)
_FEW = 4  # bits of a word that are looked for without a branch
_MOST_SETS, _MOST_GROUPS = 3, 2**16  # draws of labels taken together; groups counted without sorting


def fixed_total(
    p: float, sources: int, targets: int, same: bool, labels: np.ndarray, which: int, words: np.ndarray,
    header: np.ndarray, dtype: Any,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Exactly ceil(p * pairs) synapses among the pairs of a class.

    Args:
        p: the fraction of pairs.
        sources, targets: sizes of the populations.
        same: whether they are one population; a neuron then makes no synapse onto itself.
        labels: (draws, N) of that population; unused for all pairs.
        which: class, a position in `PAIR_CLASSES`.
        words, header: a fresh Philox stream.
        dtype: of the targets.

    Returns:
        indptr (sources + 1,) and targets (S,) of the rows, ascending.
    """
    masks = _masks(labels) if which else np.zeros((1, 1), dtype=np.uint64)
    wanted, pairs = _wanted(p, sources, targets, same, sharing_pairs(labels) if which else 0, which)
    inverted = 2 * wanted > pairs
    bitmap = _draw(pairs - wanted if inverted else wanted, sources, targets, same, masks, which, words, header)
    if inverted:
        _invert(bitmap, targets, same, masks, which)
    found = np.empty(wanted + _FEW, dtype=dtype)
    return _rows(bitmap, found), found[:wanted]


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
def _pairs(words, sources, targets, pairs):  # type: ignore[no-untyped-def]
    """The pairs that a buffer of words names: source in the upper half, target in the lower; a loop that vectorises."""
    both = words.view(np.uint64)
    for k in range(len(both)):
        i = ((both[k] & _HALF) * np.uint64(sources)) >> _SHIFT
        j = ((both[k] >> _SHIFT) * np.uint64(targets)) >> _SHIFT
        pairs[k] = (i << _SHIFT) | j


@njit(cache=True)
def _candidates(pairs, masks, which, found):  # type: ignore[no-untyped-def]
    """Copy the pairs of the class to the front of `found`; returns how many they are.

    Without branches: whether a pair is of the class cannot be foreseen.
    """
    n, sharing, row = np.uint64(0), which == 1, masks[0]
    for pair in pairs:
        found[n] = pair
        share = (row[pair >> _SHIFT] & row[pair & _HALF]) != 0
        for w in range(1, masks.shape[0]):
            share |= (masks[w, pair >> _SHIFT] & masks[w, pair & _HALF]) != 0
        n += np.uint64(share == sharing)
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
    flat, width = bitmap.reshape(-1), np.uint64(64 * bitmap.shape[1])
    pairs, found = np.empty(WORDS // 2, dtype=np.uint64), np.empty(WORDS // 2, dtype=np.uint64)
    # A pair of a neuron and itself counts as drawn, so that it is not new.
    if same:
        _turn_diagonal(bitmap)
    while draws > 0:
        refill(words, header)
        _pairs(words, sources, targets, pairs)
        for pair in found[: _candidates(pairs, masks, which, found)] if which else pairs:
            place = (pair >> _SHIFT) * width + (pair & _HALF)
            word, bit = place >> np.uint64(6), place & _LOW
            new = ~(flat[word] >> bit) & _ONE
            flat[word] |= new << bit
            draws -= np.int64(new)
            if draws == 0:
                break
    if same:
        _turn_diagonal(bitmap)
    return bitmap


@njit(cache=True)
def _turn_diagonal(bitmap):  # type: ignore[no-untyped-def]
    """Turn the bits of pairs of a neuron and itself."""
    for i in range(bitmap.shape[0]):
        bitmap[i, i >> 6] ^= _ONE << np.uint64(i & 63)


@njit(cache=True)
def _invert(bitmap, targets, same, masks, which):  # type: ignore[no-untyped-def]
    """Set instead the bits of the class that are not set."""
    for i in range(bitmap.shape[0]):
        for j in range(targets):
            bit = np.uint64(_is_in(masks, which, same, i, j)) << np.uint64(j & 63)
            bitmap[i, j >> 6] ^= bit


@njit(cache=True)
def _rows(bitmap, found):  # type: ignore[no-untyped-def]
    """Row pointers of a bitmap; its targets go to `found`, which has room for `_FEW` more."""
    indptr = np.zeros(bitmap.shape[0] + 1, dtype=np.int64)
    n = np.uint64(0)
    for i in range(bitmap.shape[0]):
        for k in range(bitmap.shape[1]):
            word, start, place = bitmap[i, k], n, np.int64(64 * k)
            n += np.uint64(count_ones(word))
            # How many bits a word has cannot be foreseen: what is written for those that it has not is overwritten.
            for q in range(_FEW):
                found[start + np.uint64(q)] = place + trailing_zeros(word)
                word &= word - _ONE
            start += np.uint64(_FEW)
            while word != 0:
                found[start] = place + trailing_zeros(word)
                start += _ONE
                word &= word - _ONE
        indptr[i + 1] = n
    return indptr
