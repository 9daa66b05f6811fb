"""The numba kernel's own parts: random numbers, the exponential, tabulated counts, the translated equations."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import stats

from sbi_circuits.circuit import Circuit, Independent, PoissonInput, Population, Projection, Record, get_circuit
from sbi_circuits.engines import Protocol
from sbi_circuits.engines.brian2_engine import Brian2Engine
from sbi_circuits.engines.intrinsics import HIGHEST, LOG2E, LOWEST, exp2_bounded, exp_single
from sbi_circuits.engines.kernel_numba import NumbaEngine
from sbi_circuits.engines.kernel_parts import FEW, poisson_counts, poisson_events, poisson_pairs
from sbi_circuits.engines.kernel_source import kernel_source
from sbi_circuits.engines.philox import new_stream, next_word, philox
from sbi_circuits.engines.poisson_table import COUNTS, EVENTS, PAIRS, poisson_table, takes_pairs
from sbi_circuits.engines.printer import show
from sbi_circuits.engines.setup import Poisson
from sbi_circuits.engines.translate import translate
from sbi_circuits.errors import TranslationError, UnknownNameError
from sbi_circuits.prior import Parameter, Prior

DT = 1e-4
PRIOR = Prior((Parameter("rate", "Hz", 0.0, 1000.0),))


def one_population(equations: str, method: str = "euler", **extra: object) -> Circuit:
    cells = {"threshold": "v > 20*mV", "reset": "v = 0*mV"} | extra
    population = Population("cells", "200", equations, method=method, **cells)  # type: ignore[arg-type]
    poisson = PoissonInput("cells", "v", "10", "rate", "0.5*mV")
    return Circuit("made_up", PRIOR, (population,), inputs=(poisson,), constants={"tau": "20*ms"}, dt=DT)


def test_philox_gives_the_published_words() -> None:
    """Known answers of Random123's kat_vectors for philox4x32-10 (counter and key all zero)."""
    zero = np.uint64(0)
    words = [int(w) for w in philox(zero, zero, zero, zero, zero)]
    assert words == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]


def test_streams_differ_by_key_and_number_and_repeat() -> None:
    def first(keys: tuple[int, int], stream: int) -> list[int]:
        words, header = new_stream(keys, stream)
        return [int(next_word(words, header)) for _ in range(2000)]

    assert first((1, 2), 3) == first((1, 2), 3)
    assert len({tuple(first(k, s)[:4]) for k in ((1, 2), (2, 1)) for s in (0, 1)}) == 4
    # 2000 words in 16 cells: chi-square with error probability 1e-6 at a fixed seed.
    counts = np.bincount(np.array(first((1, 2), 3)) >> 28, minlength=16)
    assert stats.chisquare(counts).pvalue > 1e-6


def test_single_precision_exponential_is_accurate() -> None:
    x = np.linspace(-86.0, 87.0, 20_001).astype(np.float32)
    found = np.array([exp_single(v) for v in x], dtype=np.float64)
    relative = np.abs(found / np.exp(x.astype(np.float64)) - 1.0)
    assert relative.max() < 3e-7


def test_single_precision_powers_of_two_are_accurate() -> None:
    x = np.linspace(LOG2E * LOWEST, LOG2E * HIGHEST, 20_001).astype(np.float32)
    relative = np.array([exp2_bounded(v) for v in x], dtype=np.float64) / np.exp2(x.astype(np.float64)) - 1.0
    assert np.abs(relative).max() < 3e-7


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("exp(1 + 2*log(x) + exp(x))", "exp_single(1 + 2 * np.log(x) + exp_single(x))"),
        ("exp(clip(2*log(x) + exp(x), K[0], K[1]))",
         "exp2_bounded(min(max(LOG2E * (2 * np.log(x) + exp_single(x)), LOG2E * k0), LOG2E * k1))"),
        ("exp(clip(x, K[0], K[2]))", "exp_single(min(max(x, k0), k2))"),
    ],
)  # fmt: skip
def test_exponentials_are_printed_with_what_is_in_them(expression: str, expected: str) -> None:
    assert show(expression, True, ("-20", "20", "1000")) == expected


DRAWS = {EVENTS: poisson_events, COUNTS: poisson_counts, PAIRS: poisson_pairs}


@pytest.mark.parametrize(
    ("driven", "rate", "mode"),
    [(50, 50.0, PAIRS), (50, 100.0, PAIRS), (1536, 50.0, EVENTS), (50, 400.0, COUNTS), (50, 2000.0, COUNTS)],
)
def test_poisson_inputs_have_the_binomial_distribution(driven: int, rate: float, mode: int) -> None:
    """Mean and variance of the events of one neuron over 4000 steps; bounds of 6 standard errors."""
    entry = Poisson("cells", "v", driven=driven, sources=10, rate=rate, weight=1.0)
    thresholds, guide, (first, _, found) = poisson_table(entry, DT)
    assert found == mode
    words, header = new_stream((7, 8), 1)
    counts, at = np.zeros((4000, driven)), header[0]
    for row in counts:
        at = DRAWS[mode](first, thresholds, guide, driven, 1.0, row, words, header, at)
    p, n = rate * DT, counts.size
    assert abs(counts.mean() - 10 * p) < 6 * np.sqrt(10 * p / n)
    assert abs(counts.var() / (10 * p * (1 - p)) - 1) < 6 * np.sqrt(3 / n) + 0.02
    assert abs(counts.mean(0) - 10 * p).max() < 6 * np.sqrt(10 * p / 4000)


@pytest.mark.parametrize("real", [np.float32, np.float64])
@pytest.mark.parametrize(("driven", "events"), [(5, 2.0), (64, 2.0), (1000, 0.8), (1000, 30.0), (1000, 300.0)])
def test_counts_are_the_thresholds_at_or_below_each_word(driven: int, events: float, real: Any) -> None:
    """Law: whether compared with all thresholds, many words at once, or looked up in the guide."""
    entry = Poisson("cells", "v", driven=driven, sources=10**6, rate=events / 10**6 / DT, weight=1.0)
    thresholds, guide, (first, _, mode) = poisson_table(entry, DT)
    assert mode == COUNTS and (len(thresholds) <= FEW) == (events < 100)
    assert (np.diff(thresholds.astype(np.int64)) >= 0).all() and thresholds[-1] < 2**32 - 1
    words, header = new_stream((9, 8), 1)
    variable = np.arange(driven).astype(real)
    at = poisson_counts(first, thresholds, guide, driven, real(0.25), variable, words, header, header[0])
    assert at == driven
    counts = first + np.searchsorted(thresholds, words[:driven], side="right")
    assert np.array_equal(variable, np.arange(driven) + 0.25 * counts)
    assert abs(counts.mean() - events) < 6 * np.sqrt(events / driven)


def _dependent(first, thresholds, guide, driven, weight, variable, words, header, at):  # type: ignore[no-untyped-def]
    """The control: every second target is as likely as another, but one of two for each first."""
    at = poisson_pairs(first - 1, thresholds, guide, driven, weight, variable, words, header, at)
    word = int(words[at - 1])
    variable[(5 * (word * driven >> 32) + word % 2) % driven] += weight
    return at


@pytest.mark.parametrize(("draw", "independent"), [(poisson_pairs, True), (poisson_events, True), (_dependent, False)])
def test_targets_of_one_step_are_independent(draw: Callable[..., Any], independent: bool) -> None:
    """Two events a step on 12 neurons: which pairs they hit; chi-square with error probability 1e-6 at a fixed seed."""
    driven, always_two = 12, (2, np.array([2**32 - 1], np.uint32), np.zeros(256, np.int32))
    words, header = new_stream((3, 4), 1)
    found, at = np.zeros((driven, driven)), header[0]
    for _ in range(40_000):
        hit = np.zeros(driven)
        at = draw(*always_two, driven, 1.0, hit, words, header, at)
        i, j = np.repeat(np.arange(driven), hit.astype(int))
        found[i, j] += 1
    pairs = np.triu_indices(driven)
    expected = np.where(pairs[0] == pairs[1], 1.0, 2.0) / driven**2 * found.sum()
    assert (stats.chisquare(found[pairs], expected).pvalue > 1e-6) == independent


def test_second_targets_are_drawn_where_they_are_even() -> None:
    """Words that lead to each second target, counted: an upper half of word * n, and what is left of it, times n."""

    def unevenness(n: int) -> float:
        """Largest deviation from the mean: words leave each multiple of the power of two in n that many times."""
        step = n & -n
        edges = -(-(np.arange(n + 1, dtype=object) << 32) // (n * step))
        words = np.diff(edges).astype(float) * step
        return float(np.abs(words / words.mean() - 1).max())

    numbers = [1, 2, 3, 50, 100, 400, 1440, 1600, 1999, 2000]
    assert all(takes_pairs(n) and unevenness(n) <= 2.0**-15 for n in numbers)
    assert unevenness(1536) > 2.0**-15 and not takes_pairs(1536) and not takes_pairs(2049)


@pytest.mark.parametrize(
    ("driven", "sources", "rate"),
    [(1440, 500, 2.0), (1, 1, 0.1), (100, 500, 0.1), (300, 50, 4000.0), (10, 3, 9999.9), (10, 3, 1e4), (9, 10**6, 3e3)],
)
def test_tabulated_counts_are_binomial_probabilities(driven: int, sources: int, rate: float) -> None:
    """In units of 2^-32, in which a table ends where the next threshold would be the last word."""
    thresholds, guide, (first, _, mode) = poisson_table(Poisson("cells", "v", driven, sources, rate, 1.0), DT, 10)
    n, p = sources * (1 if mode == COUNTS else driven), rate * DT
    exact = stats.binom.cdf(np.arange(first, first + len(thresholds)), n, p) * 2.0**32
    assert np.abs(thresholds - exact).max() < 20
    assert stats.binom.cdf(first + len(thresholds), n, p) * 2.0**32 > 2**32 - 2
    assert thresholds[-1] < 2**32 - 1 or len(thresholds) == 1, "a table that goes on is compared with in vain"
    assert first == 0 or stats.binom.cdf(first - 1, n, p) * 2.0**32 < 1
    starts = (np.arange(2**10) << 22).astype(np.uint32)
    assert np.array_equal(guide, np.searchsorted(thresholds, starts, side="right"))


def test_the_same_kernel_serves_every_configuration_and_size() -> None:
    """One translation and one source per circuit: sizes and parameters are arguments."""
    circuit = get_circuit("adex_clustered")
    parts = tuple(translate(circuit, p, reorder=True) for p in circuit.populations)
    source = kernel_source(circuit, parts, True, {})
    assert "2000" not in source and "K[" in source
    # What the circuit does not have costs nothing.
    extras = ("normals", "deliver_each", "hold_each", "emit_", "sum_0", "keys", "exprel")
    assert not any(word in source for word in extras)
    smaller = dataclasses.replace(circuit, constants={**dict(circuit.constants), "n_total": "500"})
    again = tuple(translate(smaller, p, reorder=True) for p in smaller.populations)
    assert kernel_source(smaller, again, True, {}) == source


DRIVEN = "dx/dt = (1 - x)/tau : 1 (event-driven)"
AT_SYNAPSES = {"equations": DRIVEN, "initial": {"x": "1"}, "on_spike": "v_post += weight*x; x *= 0.5"}
REFUSED: dict[str, tuple[dict[str, object], dict[str, object], str]] = {
    "random numbers": ({"equations": "dv/dt = -v/tau : volt", "reset": "v = rand()*mV"}, {}, "'rand()'"),
    "constant over dt": ({"equations": "dv/dt = (u - v)/tau : volt\nu = v*t/tau : volt (constant over dt)"}, {},
                         "u (constant over dt)"),
    "shared": ({"equations": "dv/dt = (u - v)/tau : volt\nu : volt (shared)", "initial": {"u": "rand()*mV"}}, {},
               "the shared variable u"),
    "boolean": ({"equations": "dv/dt = -v/tau : volt\nb : boolean"}, {}, "the boolean variable b"),
    "name": ({"equations": "dv/dt = -v/tau : volt\ncount : 1"}, {}, "a variable named 'count'"),
    "name of a synapse": ({}, {**AT_SYNAPSES, "equations": DRIVEN + "\nk7 : 1"}, "a variable named 'k7'"),
    "method": ({"equations": "dv/dt = -v**2/(tau*mV) : volt", "method": "exact"}, {}, "linear"),
    "plasticity": ({}, {**AT_SYNAPSES, "on_post": "x = 0"}, "on_post"),
    "clock-driven": ({}, {**AT_SYNAPSES, "equations": DRIVEN.replace("event", "clock")}, "x, which is not event"),
    "each synapse": ({}, {**AT_SYNAPSES, "initial": {"x": "rand()"}}, "'rand()' of x"),
    "time": ({}, {"on_spike": "v_post += weight*exp(-t/tau)"}, "'t'"),
    "target": ({}, {"on_spike": "v_post += weight*(20*mV - v_post)/mV"}, "'v_post'"),
    "source": ({}, {"on_spike": "v_post += weight*v_pre/mV"}, "'v_pre'"),
    "set": ({}, {"on_spike": "v_post = 0*mV"}, "v_post = 0*mV"),
    "failures": ({}, {"on_spike": "v_post += weight*int(rand() < 0.5)"}, "'rand()'"),
    "random weight": ({}, {**AT_SYNAPSES, "weight": "rand()*mV", "on_spike": "v_post += x*weight**2/mV"}, "weight"),
    "start": ({}, {**AT_SYNAPSES, "initial": {"x": "0.5"}, "delay": "1*ms + 1*ms*rand()"}, "its fixed point"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_translated_names_the_construct_and_the_engine_that_runs_it(case: str) -> None:
    population, projection, named = REFUSED[case]
    circuit = one_population(**{"equations": "dv/dt = -v/tau : volt", **population})  # type: ignore[arg-type]
    if projection:
        settings = {"weight": "1*mV", **projection}
        synapses = Projection("back", "cells", "cells", Independent("0.1"), **settings)  # type: ignore[arg-type]
        circuit = dataclasses.replace(circuit, projections=(synapses,))
    theta, protocol = np.array([400.0]), Protocol(0.002)
    with pytest.raises(TranslationError, match='engine="brian2" runs it|method exact') as caught:
        NumbaEngine().run(circuit, theta, protocol, 0, 0)
    assert named in str(caught.value) and "\n" not in str(caught.value)
    if case != "method":
        assert Brian2Engine("numpy").run(circuit, theta, protocol, 0, 0).outcome.ok


def test_results_do_not_depend_on_what_ran_before() -> None:
    circuit, engine = one_population("dv/dt = -v/tau : volt"), NumbaEngine()
    protocol = Protocol(0.5, record=Record(spikes=-1, counts=True, moments=True))
    theta = np.array([600.0])
    alone = engine.run(circuit, theta, protocol, 1, 5).recording
    for index in (3, 4):
        engine.run(circuit, theta, protocol, 1, index)
    again = engine.run(circuit, theta, protocol, 1, 5).recording
    other = engine.run(circuit, theta, protocol, 1, 6).recording
    assert alone is not None and again is not None and other is not None
    assert len(alone.times) > 100
    np.testing.assert_array_equal(alone.times, again.times)
    assert not np.array_equal(alone.times, other.times)


def test_precisions_agree_and_unknown_ones_are_refused() -> None:
    circuit = one_population("dv/dt = -v/tau : volt")
    protocol = Protocol(1.0, record=Record(counts=True))
    rates = []
    for precision in ("single", "double"):
        recording = NumbaEngine(precision).run(circuit, np.array([600.0]), protocol, 1, 5).recording
        assert recording is not None
        rates.append(recording.counts["cells"].values.sum())
    assert abs(rates[0] - rates[1]) <= 0.02 * rates[1]
    with pytest.raises(UnknownNameError, match="valid: double, single"):
        NumbaEngine("half")


def test_a_state_that_leaves_the_numbers_is_an_outcome() -> None:
    circuit = one_population("dv/dt = v**3/mV**2/tau : volt", threshold="v < -1*volt")
    simulation = NumbaEngine().run(circuit, np.array([900.0]), Protocol(1.0), 0, 0)
    assert simulation.outcome.status == "diverged" and simulation.recording is None
