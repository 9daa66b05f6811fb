"""Laws of the wiring rules: exact counts, no self loops, no pair twice, the stated probabilities."""

import math

import numpy as np
import pytest
from scipy.stats import binom, chisquare

from sbi_circuits.circuit import get_circuit
from sbi_circuits.engines import Protocol
from sbi_circuits.engines.intrinsics import log_of_word
from sbi_circuits.engines.philox import new_stream, uniform
from sbi_circuits.engines.setup import Setup, prepare
from sbi_circuits.engines.wiring import Rows, draw_labels, draw_rows
from sbi_circuits.errors import CircuitError
from sbi_circuits.wiring_rules import (
    AllToAll,
    Explicit,
    FixedIndegree,
    FixedTotal,
    Independent,
    OneToOne,
    Wiring,
)
from tests.test_circuit import build, population, projection

SIZES = {"exc": 130, "inh": 70}
LABELS = np.random.default_rng(0).integers(0, 4, size=(2, 130)).astype(np.int32)
RULES: dict[str, Wiring] = {
    "independent": Independent("p"),
    "total": FixedTotal("p"),
    "indegree": FixedIndegree("13"),
    "all": AllToAll(),
}
each_rule = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
each_end = pytest.mark.parametrize("ends", [("exc", "exc"), ("exc", "inh")], ids=["recurrent", "between"])


def draw(
    rule: Wiring, source: str = "exc", target: str = "exc", p: float = 0.1, key: int = 1, number: int = 0
) -> Rows:
    """Synapses of a rule between populations of 130 and 70 neurons; four labels, two draws."""
    entry = projection(source=source, target=target, wiring=rule)
    return draw_rows(entry, number, {"p": p}, SIZES, {"exc": LABELS}, (key, 2))


def pairs(rows: Rows) -> set[tuple[int, int]]:
    """All pairs; none may occur twice."""
    found = list(zip(rows.sources.tolist(), rows.targets.tolist(), strict=True))
    assert len(set(found)) == len(found)
    return set(found)


@each_rule
@each_end
def test_pairs_are_within_bounds_and_never_loops(rule: Wiring, ends: tuple[str, str]) -> None:
    rows = draw(rule, *ends)
    assert len(rows.indptr) == SIZES[ends[0]] + 1 and (rows.targets < SIZES[ends[1]]).all()
    if ends[0] == ends[1]:
        assert all(i != j for i, j in pairs(rows))
    for i in range(SIZES[ends[0]]):
        assert (np.diff(rows.targets[rows.indptr[i] : rows.indptr[i + 1]].astype(int)) > 0).all()


@each_rule
def test_streams_are_addressed(rule: Wiring) -> None:
    same, again, other = draw(rule), draw(rule), draw(rule, key=2)
    assert np.array_equal(same.targets, again.targets) and np.array_equal(same.indptr, again.indptr)
    if rule != AllToAll():
        assert pairs(other) != pairs(same) != pairs(draw(rule, number=1))


@each_end
@pytest.mark.parametrize("p", [0.0, 1e-4, 0.013, 0.5, 0.77, 1.0])
def test_fixed_total_is_exact(p: float, ends: tuple[str, str]) -> None:
    possible = SIZES[ends[0]] * SIZES[ends[1]] - (SIZES[ends[0]] if ends[0] == ends[1] else 0)
    assert len(pairs(draw(FixedTotal("p"), *ends, p=p))) == np.ceil(p * possible)


@pytest.mark.parametrize("p", [0.04, 0.3, 0.9, 1.0])
def test_classes_of_labels_are_exact(p: float) -> None:
    """Two neurons share where their first labels agree or their second labels agree."""
    share = (LABELS[:, :, None] == LABELS[:, None, :]).any(0)
    np.fill_diagonal(share, False)
    apart = ~share
    np.fill_diagonal(apart, False)
    for name, matrix in (("same_label", share), ("other_label", apart)):
        found = pairs(draw(FixedTotal("p", name), p=p))
        assert len(found) == np.ceil(p * matrix.sum())
        assert all(matrix[i, j] for i, j in found)


@each_end
@pytest.mark.parametrize("p", [0.0, 0.05, 0.6, 1.0])
def test_independent_pairs_are_binomial(p: float, ends: tuple[str, str]) -> None:
    """The total over 20 networks lies within the central 1 - 1e-6 of its binomial distribution."""
    possible = SIZES[ends[0]] * SIZES[ends[1]] - (SIZES[ends[0]] if ends[0] == ends[1] else 0)
    total = sum(len(pairs(draw(Independent("p"), *ends, p=p, key=k))) for k in range(20))
    low, high = binom.interval(1 - 1e-6, 20 * possible, p) if 0 < p < 1 else (20 * possible * p,) * 2
    assert low <= total <= high


def _plain_independent(p: float, sources: int, targets: int, same: bool, key: int) -> set[tuple[int, int]]:
    """One logarithm and one division a synapse: what the fast loop stands for."""
    words, header = new_stream((key, 2), 16)
    width = targets - 1 if same else targets
    position, found = -1, set()
    while True:
        position += 1 + (int(math.log(uniform(words, header)) / math.log1p(-p)) if p < 1 else 0)
        if position >= sources * width:
            return found
        i, j = divmod(position, width)
        found.add((i, j + (same and j >= i)))


@each_end
@pytest.mark.parametrize("p", [1e-5, 0.003, 0.2, 0.97, 1.0])
def test_independent_pairs_are_those_of_the_plain_loop(p: float, ends: tuple[str, str]) -> None:
    for key in range(5):
        rows = draw(Independent("p"), *ends, p=p, key=key)
        assert pairs(rows) == _plain_independent(p, SIZES[ends[0]], SIZES[ends[1]], ends[0] == ends[1], key)
        assert len(rows.indptr) == SIZES[ends[0]] + 1 and rows.indptr[-1] == len(rows.targets)


def test_logarithm_of_a_random_word() -> None:
    ends, between = np.arange(2000), np.random.default_rng(0).integers(0, 2**32, 20_000)
    words = np.concatenate([ends, 2**32 - 1 - ends, between])
    exact = np.log((words.astype(np.longdouble) + 0.5) / np.longdouble(2) ** 32)
    found = np.array([log_of_word(np.uint32(word)) for word in words])
    assert np.abs(found / exact - 1).max() < 4e-16


@pytest.mark.parametrize("rule", [Independent("p"), FixedTotal("p"), FixedIndegree("20")], ids=str)
def test_every_pair_is_equally_likely(rule: Wiring) -> None:
    """Chi-square over blocks of 10 sources by 10 targets, 30 networks."""
    blocks = np.zeros((13, 7))
    for k in range(30):
        rows = draw(rule, "exc", "inh", p=0.15, key=k)
        np.add.at(blocks, (rows.sources // 10, rows.targets // 10), 1)
    assert chisquare(blocks.ravel()).pvalue > 1e-4


@each_end
def test_fixed_indegree_is_exact(ends: tuple[str, str]) -> None:
    found = pairs(draw(FixedIndegree("37"), *ends))
    degree = np.bincount([j for _, j in found], minlength=SIZES[ends[1]])
    assert (degree == 37).all()


def test_rules_that_draw_nothing() -> None:
    assert len(pairs(draw(AllToAll()))) == 130 * 129
    assert len(pairs(draw(AllToAll(), target="inh"))) == 130 * 70
    assert pairs(draw(OneToOne())) == {(i, i) for i in range(130)}
    listed = ((3, 3), (0, 7), (0, 2), (129, 69))
    assert pairs(draw(Explicit(listed), target="inh")) == set(listed)
    assert len(draw(Explicit(())).targets) == 0


@pytest.mark.parametrize(
    ("rule", "p", "text"),
    [
        (Independent("p"), 1.1, "projection recurrent: probability p = 1.1 is outside [0, 1]"),
        (FixedTotal("p"), -0.1, "projection recurrent: probability p = -0.1 is outside [0, 1]"),
        (FixedTotal("p"), float("nan"), "projection recurrent: probability p = nan is outside [0, 1]"),
        (FixedIndegree("131"), 0.1, "projection recurrent: in-degree 131 from 130 neurons cannot be"),
        (OneToOne(), 0.1, "projection recurrent: one-to-one between 130 and 70 neurons"),
        (Explicit(((0, 70),)), 0.1, "projection recurrent: a pair is outside 130 x 70 neurons"),
    ],
)
def test_bad_wiring(rule: Wiring, p: float, text: str) -> None:
    with pytest.raises(CircuitError) as error:
        draw(rule, target="inh", p=p)
    assert str(error.value) == text


def test_labels_are_drawn_with_replacement() -> None:
    circuit = build(populations=(population(labels="4", size="4000"),), projections=())
    labels = draw_labels(circuit, {}, {"cell": 4000}, 1, 2)["cell"]
    assert labels.shape == (2, 4000)
    assert chisquare(np.bincount(labels[0] * 4 + labels[1], minlength=16)).pvalue > 1e-4
    none = build(populations=(population(labels="0.9"),), projections=())
    assert draw_labels(none, {}, {"cell": 10}, 1, 2) == {}


def check_configuration(seed: int) -> Setup:
    circuit = get_circuit("adex_clustered")
    return prepare(circuit, circuit.default_theta(), Protocol(2.0), seed, 0)


@pytest.mark.parametrize("seed", range(4))
def test_the_check_configuration(seed: int) -> None:
    """E->E counts exactly ceil(p pairs) of each class; the total within the spread of the authors' model.

    Their four seeds give 253,003, 252,929, 253,176 and 252,497 synapses. E->I, I->E and I->I are binomial
    (standard deviation 320 together) and the labels move the E->E counts by about 70.
    """
    setup = check_configuration(seed)
    circuit = get_circuit("adex_clustered")
    counts = {circuit.projections[s.number].name: len(s.rows.targets) for s in setup.synapses}
    labels = draw_labels(circuit, setup.values, {"exc": 1600}, seed, 0)["exc"]
    share = int((labels[:, :, None] == labels[:, None, :]).any(0).sum()) - 1600
    assert counts["e2e_within"] == np.ceil(0.12 * share)
    assert counts["e2e_between"] == np.ceil(0.04 * (1600 * 1599 - share))
    for name, possible, p in (("e2i", 1600 * 400, 0.05), ("i2e", 400 * 1600, 0.1), ("i2i", 400 * 399, 0.1)):
        assert abs(counts[name] - p * possible) < 5 * np.sqrt(p * (1 - p) * possible)
    published = np.array([253003, 252929, 253176, 252497])
    assert abs(sum(counts.values()) - published.mean()) < 4 * 330
