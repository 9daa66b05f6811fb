"""Checks of the engine kernel[cuda], run by test_cuda.py: in numba's simulator (a process of its own), or on a device.

Where results are compared with kernel[numba] in double precision they are equal in every array: both draw the same
random words at the same addresses and add in the same order. On a device, fused multiply-adds and another exp may
change last bits; there the raster may differ from the first step on at which a rounding matters, so that the circuits
compared are short.
"""

import dataclasses

import numpy as np
import pytest
from numba import cuda as numba_cuda

from sbi_circuits.circuit import (
    Circuit,
    EarlyStop,
    Explicit,
    PoissonInput,
    Population,
    Projection,
    Readout,
    Record,
    get_circuit,
    list_circuits,
)
from sbi_circuits.engines import Protocol, Simulation, cuda_batch, cuda_prepare, kernel_cuda
from sbi_circuits.engines.base import Engine
from sbi_circuits.engines.cuda_device import SIMULATED, exp_single, exprel_single, sign_single, trunc_single
from sbi_circuits.engines.cuda_parts import fill
from sbi_circuits.engines.cuda_poisson import word_ahead
from sbi_circuits.engines.cuda_synapses import normals_double, normals_single
from sbi_circuits.engines.cuda_wiring import draw_indegree, draw_independent, draw_total
from sbi_circuits.engines.kernel_cuda import CudaEngine
from sbi_circuits.engines.kernel_numba import NumbaEngine
from sbi_circuits.engines.noise import normals_double as host_normals
from sbi_circuits.engines.noise import row_length
from sbi_circuits.engines.philox import new_stream, next_word
from sbi_circuits.engines.rate_numba import CompiledEngine
from sbi_circuits.engines.wiring import Rows, draw_rows
from sbi_circuits.engines.wiring_total import number_to_draw, sharing_pairs
from sbi_circuits.errors import TranslationError, UnknownNameError
from sbi_circuits.prior import Parameter, Prior
from sbi_circuits.recording import Recording
from sbi_circuits.wiring_rules import PAIR_CLASSES, FixedIndegree, FixedTotal, Independent, Wiring
from tests.cuda_simulator import PATCHED
from tests.scenarios.circuits import MICRO_CIRCUITS, early_stopping, exploding, noisy
from tests.scenarios.constructs import CONSTRUCTS
from tests.scenarios.lfp import LFP_CIRCUITS, largest_difference, recorded
from tests.scenarios.rates import small_rate
from tests.test_circuit import projection

# On a device, the small kernels of these checks are given host arrays.
pytestmark = pytest.mark.filterwarnings("ignore:.*Host array used in CUDA kernel", "ignore:.*Grid size")
assert PATCHED or not SIMULATED
EVERYTHING = Record(spikes=-1, counts=True, moments=True)
CIRCUITS = {**MICRO_CIRCUITS, "noisy": noisy(), **{name: c.circuit for name, c in CONSTRUCTS.items()}}
DURATION = 0.04


def run(engine: Engine, circuit: Circuit, duration: float = DURATION, index: int = 0, **settings: object) -> Simulation:
    protocol = Protocol(duration, **{"record": EVERYTHING, **settings})  # type: ignore[arg-type]
    return engine.run(circuit, circuit.default_theta(), protocol, seed=7, index=index)


def equal(a: Recording | None, b: Recording | None) -> bool:
    """Whether two recordings are equal in every array."""
    assert a is not None and b is not None
    assert (a.t0, a.t1, a.groups) == (b.t0, b.t1, b.groups)
    pairs = [(a.times, b.times), (a.offsets, b.offsets)]
    pairs += [(a.counts[n].values, b.counts[n].values) for n in a.counts]
    for n in a.moments:
        pairs += [(getattr(a.moments[n], f), getattr(b.moments[n], f)) for f in ("spikes", "total", "total_squared")]
    return a.counts.keys() == b.counts.keys() and all(np.array_equal(x, y) for x, y in pairs)


@pytest.mark.parametrize("name", CIRCUITS)
def test_double_precision_equals_the_cpu_kernel(name: str) -> None:
    circuit = CIRCUITS[name]
    expected = run(NumbaEngine("double"), circuit).recording
    found = run(CudaEngine("double"), circuit).recording
    assert found is not None and found.meta["engine"] == "kernel[cuda]"
    assert equal(found, expected)


# Constants that make the shipped circuits small, and how long they run.
SMALL = {
    "adex_clustered": ({"n_total": "40"}, 0.01),
    "brunel": ({"N_E": "60"}, 0.012),
    "hodgkin_huxley": ({"n_total": "6"}, 0.002),
    "izhikevich": ({"n_total": "40"}, 0.01),
    "lif_stp": ({"N_E": "40"}, 0.006),
}


@pytest.mark.parametrize("name", [name for name in list_circuits() if get_circuit(name).spikes])
def test_shipped_circuits_equal_the_cpu_kernel(name: str) -> None:
    constants, duration = SMALL[name]
    circuit = get_circuit(name)
    circuit = dataclasses.replace(circuit, constants={**dict(circuit.constants), **constants})  # type: ignore[arg-type]
    found, expected = (run(engine, circuit, duration) for engine in (CudaEngine("double"), NumbaEngine("double")))
    assert found.outcome == expected.outcome and equal(found.recording, expected.recording)


@pytest.mark.parametrize("name", LFP_CIRCUITS)
def test_signals_of_circuits_that_spike_are_those_of_the_cpu_kernel(name: str) -> None:
    """Voltages, sums over neurons and an LFP proxy, reduced over the threads of a block."""
    circuit = LFP_CIRCUITS[name]
    found, expected = (recorded(e("double"), circuit, duration=0.05) for e in (CudaEngine, CompiledEngine))
    assert equal(found, expected) and largest_difference(found, expected) < 1e-12
    assert largest_difference(found, recorded(CompiledEngine("double"), circuit, 0.97, duration=0.05)) > 1e-4


def test_signals_of_a_batch_are_those_of_each() -> None:
    """Simulations of different sizes, one of which stops early."""
    circuit = dataclasses.replace(
        dense(2500.0), populations=(dataclasses.replace(dense(1.0).populations[0], size="5 + 10*unused"),),
        readouts=(Readout("v", "cells", "v", "mV"), Readout("mean", "cells", "v", "mV", over="mean")),
    )  # fmt: skip
    thetas, protocol = np.array([[0.2], [0.9], [0.5]]), Protocol(0.005, record=Record(signals=("mean", "v")))
    together = list(CudaEngine("double").run_batch(circuit, thetas, protocol, 3, range(3)))
    for k, simulation in enumerate(together):
        alone = CompiledEngine("double").run(circuit, thetas[k], protocol, 3, k)
        assert simulation.recording is not None and alone.recording is not None
        assert largest_difference(simulation.recording, alone.recording) < 1e-12
        assert len(simulation.recording.signals["v"].values) == int(5 + 10 * thetas[k, 0])


@pytest.mark.parametrize("name", ["jansen_rit", "random_rate"])
def test_all_steps_of_all_simulations_of_a_rate_circuit_are_one_launch(name: str) -> None:
    circuit, engine = small_rate(name)[0], CudaEngine(batch=5)
    protocol = Protocol(0.003, record=circuit.default_record(), dt=1e-4)
    runs = list(engine.run_batch(circuit, np.tile(circuit.default_theta(), (5, 1)), protocol, 3, range(5)))
    assert all(s.outcome.ok for s in runs) and [launch.simulations for launch in engine.launches] == [5]


def test_negative_control_another_index_is_another_simulation() -> None:
    assert not equal(run(CudaEngine("double"), noisy(), index=1).recording, run(NumbaEngine(), noisy()).recording)


def test_single_precision_stays_within_two_steps() -> None:
    circuit = MICRO_CIRCUITS["adex_quartet"]
    exact, found = run(NumbaEngine("double"), circuit).recording, run(CudaEngine(), circuit).recording
    assert exact is not None and found is not None and len(exact.times) == len(found.times) > 3
    assert np.abs(exact.times - found.times).max() <= 2.1 * circuit.dt


def dense(rate: float, sources: int = 10) -> Circuit:
    """One population under many Poisson events, refractory ones unreached."""
    cells = Population("cells", "90", "dv/dt = -v/tau : volt (unless refractory)", "v > 20*mV", "v = 0*mV",
                       refractory="2*ms", method="exact")  # fmt: skip
    entry = PoissonInput("cells", "v", str(sources), f"{rate}*Hz", "0.5*mV", fraction="0.7")
    return Circuit("dense", Prior((Parameter("unused", "1", 0, 1),)), (cells,), inputs=(entry, entry),
                   constants={"tau": "20*ms"}, defaults={"unused": 0.5})  # type: ignore[arg-type]  # fmt: skip


@pytest.mark.parametrize(("rate", "mode"), [(550.0, 1), (2500.0, 2)])
def test_poisson_inputs_take_the_words_of_the_cpu_kernel(rate: float, mode: int) -> None:
    """About 35 single events an input and step, and a count per neuron: several refills of the random words."""
    circuit = dense(rate)
    found, expected = run(CudaEngine("double"), circuit), run(NumbaEngine("double"), circuit)
    assert equal(found.recording, expected.recording)
    assert found.recording is not None and len(found.recording.times) > (50 if mode == 2 else 0)


def test_more_events_in_a_step_than_words_in_the_buffer() -> None:
    population = dataclasses.replace(dense(1.0).populations[0], size="9000")
    circuit = dataclasses.replace(dense(600.0), populations=(population,))
    protocol = {"duration": 4e-4, "record": EVERYTHING}
    engines: tuple[Engine, ...] = (CudaEngine("double"), NumbaEngine("double"))
    found, expected = (run(e, circuit, **protocol).recording for e in engines)  # type: ignore[arg-type]
    assert equal(found, expected)


def test_state_in_global_memory_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = run(CudaEngine("double"), CIRCUITS["plasticity_random"]).recording
    monkeypatch.setattr(kernel_cuda, "shared_memory_limit", lambda: 1000)
    assert equal(run(CudaEngine("double"), CIRCUITS["plasticity_random"]).recording, shared)


def test_the_number_of_threads_changes_nothing() -> None:
    few, many = (run(CudaEngine("double", threads=n), noisy(), 0.02) for n in ((2, 8) if SIMULATED else (32, 64)))
    assert equal(few.recording, many.recording)


def test_batches_order_and_company_change_nothing() -> None:
    """Batch 1, 7 and 64, another order, and neighbours that stop early or cannot be."""
    rule = EarlyStop("cell", "3*ms", start=0.003, stop=0.013, silent=1e-4, saturated=0.9)
    circuit = dataclasses.replace(early_stopping(), early_stop=rule)
    drives = np.array([[700.0], [0.0], [1e6], [710.0], [-5.0], [690.0], [720.0], [0.0], [705.0]])
    protocol = Protocol(0.014, record=EVERYTHING)
    indices = list(range(20, 29))
    found = {
        batch: list(CudaEngine("double", batch=batch).run_batch(circuit, drives, protocol, 3, indices))
        for batch in (1, 7, 64)
    }
    assert [s.outcome.status for s in found[64]] == [
        "ok", "silent", "saturated", "ok", "silent", "ok", "ok", "silent", "ok",
    ]  # fmt: skip
    expected = NumbaEngine("double").run(circuit, drives[3], protocol, 3, 23)
    turned = list(CudaEngine("double", batch=7).run_batch(circuit, drives[::-1], protocol, 3, indices[::-1]))[::-1]
    for simulations in (*found.values(), turned):
        assert [s.index for s in simulations] == indices
        assert [s.outcome for s in simulations] == [s.outcome for s in found[1]]
        assert equal(simulations[3].recording, expected.recording)


def test_a_simulation_that_cannot_be_is_an_outcome_of_its_row() -> None:
    circuit = noisy()
    thetas = np.tile(circuit.default_theta(), (3, 1))
    thetas[1, circuit.prior.names.index("p")] = 1.5
    protocol = Protocol(0.01, record=EVERYTHING)
    simulations = list(CudaEngine("double").run_batch(circuit, thetas, protocol, 7, range(3)))
    assert [s.outcome.status for s in simulations] == ["ok", "failed", "ok"]
    assert "outside [0, 1]" in simulations[1].outcome.reason and simulations[1].recording is None
    assert equal(simulations[2].recording, NumbaEngine("double").run(circuit, thetas[2], protocol, 7, 2).recording)


@pytest.mark.filterwarnings("ignore:overflow|invalid")  # of NumPy, in which the simulator computes
def test_a_state_that_is_not_finite_is_diverged() -> None:
    simulation = run(CudaEngine("double"), exploding())
    assert (simulation.outcome.status, simulation.recording) == ("diverged", None)


def test_spikes_that_do_not_fit_are_simulated_again(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = run(NumbaEngine("double"), noisy(), 0.025).recording
    assert expected is not None and len(expected.times) > 20
    for room in (cuda_batch.Room(3, 6), cuda_batch.Room(1000, 4)):
        monkeypatch.setattr(kernel_cuda, "first_room", lambda *_, room=room: room)
        assert equal(run(CudaEngine("double"), noisy(), 0.025).recording, expected)


def test_synapses_that_do_not_fit_are_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    bound = cuda_prepare.synapse_bound
    monkeypatch.setattr(cuda_prepare, "synapse_bound", lambda *a: 0.2 * bound(*a))
    expected = run(NumbaEngine("double"), noisy(), 0.01).recording
    assert equal(run(CudaEngine("double"), noisy(), 0.01).recording, expected)


def test_records_are_kept_as_asked() -> None:
    whole = run(CudaEngine("double"), noisy(), 0.02).recording
    some = run(CudaEngine("double"), noisy(), 0.02, record=Record(spikes=7, counts=False), warmup=0.005).recording
    assert whole is not None and some is not None and some.n_units == 7
    assert (some.counts, some.moments, some.t0) == ({}, {}, pytest.approx(0.005))
    assert equal(some, run(NumbaEngine("double"), noisy(), 0.02, record=Record(spikes=7, counts=False),
                           warmup=0.005).recording)  # fmt: skip


def test_what_cannot_be_compiled_names_the_engine_that_runs_it() -> None:
    add = "v_post += weight"
    plastic = Projection("p", "cells", "cells", Explicit(((0, 1),)), "1*mV", add, on_post=add)
    circuit = dataclasses.replace(dense(10.0), projections=(plastic,))
    with pytest.raises(TranslationError, match="brian2"):
        list(CudaEngine().run_batch(circuit, circuit.default_theta()[None], Protocol(0.01), 0, [0]))
    with pytest.raises(UnknownNameError, match="valid: double, single"):
        CudaEngine("half")


# Parts on their own: small kernels around device functions.


@numba_cuda.jit
def _words(found, looked_up, position, k0, k1):  # type: ignore[no-untyped-def]
    tid, threads = np.int32(numba_cuda.threadIdx.x), np.int32(numba_cuda.blockDim.x)
    fill(tid, threads, found, np.int64(0), np.uint32(k0), np.uint32(k1), 5)
    fill(tid, threads, found, np.int64(1024), np.uint32(k0), np.uint32(k1), 5)
    numba_cuda.syncthreads()
    if tid == 0:
        for n in range(looked_up.shape[1]):
            there = word_ahead(np.int32(n), np.int32(position), np.int32(9), np.int32(2), found, np.uint32(k0),
                               np.uint32(k1), 5)  # fmt: skip
            later = word_ahead(np.int32(position - 1024 + n), np.int32(0), np.int32(0), np.int32(1), found,
                               np.uint32(k0), np.uint32(k1), 5)  # fmt: skip
            looked_up[0, n], looked_up[1, n] = there, later


def test_random_words_are_those_of_the_host() -> None:
    """A buffer of them, those looked up in it, and those computed before they are in it."""
    words, header = new_stream((12345, 2**32 - 3), 5)
    expected = np.array([next_word(words, header) for _ in range(2048)], dtype=np.uint32)
    found, looked_up = np.zeros(2048, dtype=np.uint32), np.zeros((2, 9), dtype=np.uint32)
    _words[1, 4](found, looked_up, 1200, 12345, 2**32 - 3)
    assert np.array_equal(found, expected) and np.array_equal(looked_up, np.tile(expected[1200:1209], (2, 1)))


@numba_cuda.jit
def _wire(rule, number, sources, targets, same, which, labels, bitmap, indptr, out, room, words, control, scan, total,
          k0, k1, stream):  # type: ignore[no-untyped-def]  # fmt: skip
    tid, threads = np.int32(numba_cuda.threadIdx.x), np.int32(numba_cuda.blockDim.x)
    key_0, key_1 = np.uint32(k0), np.uint32(k1)
    n = np.int64(0)
    if rule == 0:
        n = draw_independent(tid, threads, number, sources, targets, same, indptr, 0, out, 0, room, words, scan, key_0,
                             key_1, stream)  # fmt: skip
    elif rule == 1:
        n = draw_total(tid, threads, np.int64(number), sources, targets, same, labels, 0, 0, 2, which, bitmap, indptr,
                       0, out, 0, room, words, control, scan, key_0, key_1, stream)  # fmt: skip
    else:
        n = draw_indegree(tid, threads, np.int64(number), sources, targets, same, labels, bitmap, indptr, 0, out, 0,
                          room, scan, key_0, key_1, stream)  # fmt: skip
    if tid == 0:
        total[0] = n


SIZES = {"exc": 61, "inh": 37}
LABELS = np.random.default_rng(0).integers(0, 4, size=(1, 2, 61)).astype(np.int32)


def device_rows(rule: Wiring, number: float, source: str, target: str, threads: int) -> Rows:
    sources, targets = SIZES[source], SIZES[target]
    indptr, out = np.full(sources + 1, -1, dtype=np.int32), np.zeros(sources * targets, dtype=np.uint16)
    total = np.zeros(1, dtype=np.int64)
    which = PAIR_CLASSES.index(rule.pairs) if isinstance(rule, FixedTotal) else 0
    kind = 0 if isinstance(rule, Independent) else (1 if isinstance(rule, FixedTotal) else 2)
    if isinstance(rule, FixedTotal):
        _, number = number_to_draw(number, sources, targets, source == target, sharing_pairs(LABELS[0]), which)
    _wire[1, threads](
        kind, number, sources, targets, source == target, which, LABELS, np.full(sources * 2, 7, dtype=np.uint32),
        indptr, out, len(out), np.zeros(2048, dtype=np.uint32), np.zeros(3, dtype=np.int32),
        np.zeros(2 * threads, dtype=np.int64), total, 11, 22, 16 + 3,
    )  # fmt: skip
    assert total[0] == indptr[-1]
    return Rows(indptr, out[: total[0]])


@pytest.mark.parametrize("ends", [("exc", "exc"), ("exc", "inh")], ids=["recurrent", "between"])
@pytest.mark.parametrize(
    ("rule", "number"),
    [
        (Independent("p"), 0.13), (Independent("p"), 0.93), (Independent("p"), 0.0), (Independent("p"), 1.0),
        (FixedTotal("p"), 0.07), (FixedTotal("p"), 0.8), (FixedTotal("p"), 1.0), (FixedIndegree("p"), 23.0),
        (FixedTotal("p", "same_label"), 0.3), (FixedTotal("p", "same_label"), 0.7),
        (FixedTotal("p", "other_label"), 0.04), (FixedTotal("p", "other_label"), 0.9),
    ],
)  # fmt: skip
def test_wiring_is_that_of_the_host(rule: Wiring, number: float, ends: tuple[str, str]) -> None:
    if getattr(rule, "pairs", "all") != "all" and ends[0] != ends[1]:
        pytest.skip("labels are of one population")
    entry = projection(source=ends[0], target=ends[1], wiring=rule)
    expected = draw_rows(entry, 3, {"p": number}, SIZES, {"exc": LABELS[0]}, (11, 22))
    for threads in (4, 8) if SIMULATED else (64, 512):
        found = device_rows(rule, number, *ends, threads)
        assert np.array_equal(found.indptr, expected.indptr) and np.array_equal(found.targets, expected.targets)


@numba_cuda.jit
def _normals(single, double, step):  # type: ignore[no-untyped-def]
    tid, threads = np.int32(numba_cuda.threadIdx.x), np.int32(numba_cuda.blockDim.x)
    k0, k1 = np.uint32(11), np.uint32(22)
    normals_single(tid, threads, single, len(single) - 3, 2, step, k0, k1)
    normals_double(tid, threads, double, len(double) - 3, 2, step, k0, k1)


def test_normals_are_those_of_the_host() -> None:
    expected = np.zeros(row_length(150))
    host_normals(expected, 150, 2, 77, np.uint64(11), np.uint64(22))
    single, double = np.zeros(153, dtype=np.float32), np.zeros(153)
    _normals[1, 4](single, double, 77)
    assert np.allclose(double[:150], expected[:150], rtol=1e-14, atol=1e-15)
    assert np.abs(single[:150] - expected[:150]).max() < 3e-6
    assert expected[:150].std() > 0.8


@numba_cuda.jit
def _functions(x, out):  # type: ignore[no-untyped-def]
    for i in range(numba_cuda.threadIdx.x, len(x), numba_cuda.blockDim.x):
        out[0, i], out[1, i] = exp_single(x[i]), exprel_single(x[i])
        out[2, i], out[3, i] = sign_single(x[i]), trunc_single(x[i])


def test_functions_in_single_precision() -> None:
    x = np.concatenate([np.linspace(-86.0, 87.0, 401), [0.0, 1e-6, -1e-6, 0.3, -0.49, 0.51]]).astype(np.float32)
    out = np.zeros((4, len(x)), dtype=np.float32)
    _functions[1, 4](x, out)
    exact = x.astype(np.float64)
    assert np.abs(out[0] / np.exp(exact) - 1).max() < 3e-7
    exprel = np.where(exact == 0, 1.0, np.expm1(exact) / np.where(exact == 0, 1.0, exact))
    assert np.abs(out[1] / exprel - 1).max() < 6e-7
    assert np.array_equal(out[2], np.sign(x)) and np.array_equal(out[3], np.trunc(x))
