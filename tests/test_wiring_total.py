"""An exact number of synapses: the fast drawing equals the plain loop it stands for."""

import numpy as np
import pytest

from sbi_circuits.engines.philox import below, new_stream
from sbi_circuits.engines.wiring_total import _masks, _sharing, fixed_total, sharing_pairs
from sbi_circuits.wiring_rules import PAIR_CLASSES

KEYS, STREAM = (5, 6), 20


def plain(p: float, n: int, m: int, same: bool, labels: np.ndarray, which: str) -> set[tuple[int, int]]:
    """Draw a pair, keep it if it is of the class and new; above one half, draw what is left out."""

    def belongs(i: int, j: int) -> bool:
        if same and i == j:
            return False
        share = bool((labels[:, i] == labels[:, j]).any()) if which != "all" else False
        return {"all": True, "same_label": share, "other_label": not share}[which]

    everything = {(i, j) for i in range(n) for j in range(m) if belongs(i, j)}
    wanted = int(np.ceil(p * len(everything)))
    inverted = 2 * wanted > len(everything)
    draws = len(everything) - wanted if inverted else wanted
    words, header = new_stream(KEYS, STREAM)
    found: set[tuple[int, int]] = set()
    while len(found) < draws:
        i, j = int(below(words, header, n)), int(below(words, header, m))
        if belongs(i, j):
            found.add((i, j))
    return everything - found if inverted else found


@pytest.mark.parametrize("which", PAIR_CLASSES)
@pytest.mark.parametrize("p", [0.0, 0.1, 0.4, 0.8, 1.0])
@pytest.mark.parametrize("count", [2, 5, 90])
def test_the_synapses_are_those_of_the_plain_loop(which: str, p: float, count: int) -> None:
    """90 labels in two draws need more than one word of bits."""
    labels = np.random.default_rng(count).integers(0, count, (2, 70)).astype(np.int32)
    stream, chosen = new_stream(KEYS, STREAM), PAIR_CLASSES.index(which)
    indptr, targets = fixed_total(p, 70, 70, True, labels, chosen, *stream, np.uint16)
    pairs = set(zip(np.repeat(np.arange(70), np.diff(indptr)).tolist(), targets.tolist(), strict=True))
    assert pairs == plain(p, 70, 70, True, labels, which)
    assert all((np.diff(targets[a:b]) > 0).all() for a, b in zip(indptr, indptr[1:], strict=False))


@pytest.mark.parametrize("p", [0.2, 0.9])
def test_two_populations_have_a_diagonal(p: float) -> None:
    empty = np.zeros((0, 0), dtype=np.int32)
    indptr, targets = fixed_total(p, 30, 130, False, empty, 0, *new_stream(KEYS, STREAM), np.uint16)
    pairs = set(zip(np.repeat(np.arange(30), np.diff(indptr)).tolist(), targets.tolist(), strict=True))
    assert pairs == plain(p, 30, 130, False, empty, "all")
    assert any(i == j for i, j in pairs)


@pytest.mark.parametrize("draws", [1, 2, 3, 4])
@pytest.mark.parametrize("count", [1, 2, 7, 90, 5000])
def test_pairs_that_share_a_label_are_counted_as_over_all_pairs(draws: int, count: int) -> None:
    labels = np.random.default_rng(draws).integers(0, count, size=(draws, 300)).astype(np.int32)
    share = (labels[:, :, None] == labels[:, None, :]).any(axis=0)
    assert sharing_pairs(labels) == _sharing(_masks(labels)) == int(share.sum()) - 300
