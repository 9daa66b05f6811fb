"""Every engine on rate circuits: the signals of Brian2, and the same contract.

With ENGINE_OF_RATES="kernel[cuda]" (and NUMBA_ENABLE_CUDASIM=1 where there is no device) the list is run on that engine
instead, which needs a process of its own: tests/test_cuda.py.
"""

import os
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from sbi_circuits.circuit import Circuit, Record, list_circuits
from sbi_circuits.engines import Engine, Protocol
from sbi_circuits.engines.brian2_engine import Brian2Engine
from sbi_circuits.engines.rate_numba import CompiledEngine
from sbi_circuits.engines.torch_engine import TorchEngine
from sbi_circuits.recording import Recording
from tests.scenarios.rates import MICRO_RATES, RATE_CIRCUITS, changed, small_rate

EXACT: dict[str, Callable[[], Engine]] = {
    "kernel[numba]": lambda: CompiledEngine("double"),
    "torch": lambda: TorchEngine("double", "cpu"),
}
FAST: dict[str, Callable[[], Engine]] = {
    "kernel[numba]": CompiledEngine,
    "torch": lambda: TorchEngine("single", "cpu"),
}
if os.environ.get("ENGINE_OF_RATES") == "kernel[cuda]":
    from sbi_circuits.engines.kernel_cuda import CudaEngine
    from tests import cuda_simulator  # noqa: F401

    EXACT = {"kernel[cuda]": lambda: CudaEngine("double", batch=64)}
    FAST = {"kernel[cuda]": lambda: CudaEngine(batch=64)}
    SHORTER = 0.4 if cuda_simulator.SIMULATED else 1.0
else:
    SHORTER = 1.0  # durations; the simulator runs every thread of a device as one of Python's
BATCH_S = 0.005 if SHORTER == 1.0 else 0.003
ENGINES = sorted(EXACT)
each_engine = pytest.mark.parametrize("engine", ENGINES)
each_shipped = pytest.mark.parametrize("name", sorted(RATE_CIRCUITS))


def recorded(engine: Engine, circuit: Circuit, theta: np.ndarray, duration: float = 0.1, index: int = 0,
             **protocol: object) -> Recording:  # fmt: skip
    """The recording of one run that must be ok."""
    settings = Protocol(duration, **{"record": circuit.default_record(), **protocol})  # type: ignore[arg-type]
    simulation = engine.run(circuit, theta, settings, 7, index)
    assert simulation.outcome.ok and simulation.recording is not None, simulation.outcome
    return simulation.recording


def largest_difference(a: Recording, b: Recording) -> float:
    """Largest difference of any signal, relative to its largest value."""
    assert (a.t0, a.t1, a.signals.keys()) == (b.t0, b.t1, b.signals.keys())
    found = 0.0
    for name, signal in a.signals.items():
        other = b.signals[name]
        assert (signal.rate, signal.unit, signal.t0) == (other.rate, other.unit, other.t0)
        assert signal.values.shape == other.values.shape and signal.values.size > 0
        scale = np.abs(other.values).max() or 1.0
        found = max(found, float(np.abs(signal.values - other.values).max() / scale))
    return found


def test_no_rate_circuit_is_left_out() -> None:
    assert set(RATE_CIRCUITS) <= set(list_circuits())


def constructs() -> list[object]:
    """Every engine and construct; most take the kernel's compiler, or the simulator, a while."""
    slow = {("kernel[numba]", n) for n in set(MICRO_RATES) - {"dense", "low_rank", "formulas"}}
    quick = {"dense", "sparse", "low_rank", "nonlinear_pair", "delayed_by_a_parameter", "edge_list", "method_trapezoid"}
    slow |= {("kernel[cuda]", n) for n in set(MICRO_RATES) - quick}
    pairs = [(e, n) for e in ENGINES for n in MICRO_RATES]
    return [pytest.param(*p, marks=pytest.mark.slow) if p in slow else p for p in pairs]


@pytest.mark.parametrize(("engine", "name"), constructs())
def test_every_construct_gives_the_signals_of_brian2(engine: str, name: str) -> None:
    circuit = MICRO_RATES[name]
    theta = circuit.default_theta()
    expected = recorded(Brian2Engine("numpy"), circuit, theta, warmup=0.003)
    assert largest_difference(recorded(EXACT[engine](), circuit, theta, warmup=0.003), expected) < 1e-11
    wrong = recorded(EXACT[engine](), circuit, theta * [1.01, 1], warmup=0.003)
    assert largest_difference(wrong, expected) > 1e-4


@each_engine
@each_shipped
def test_without_noise_the_signals_are_those_of_brian2(engine: str, name: str) -> None:
    circuit, _ = small_rate(name)
    case = RATE_CIRCUITS[name]
    theta, duration = changed(circuit, case.still), SHORTER * case.duration
    expected = recorded(Brian2Engine("numpy"), circuit, theta, duration)
    assert largest_difference(recorded(EXACT[engine](), circuit, theta, duration), expected) < 1e-9
    assert largest_difference(recorded(FAST[engine](), circuit, theta, duration), expected) < 5e-3
    wrong = recorded(EXACT[engine](), circuit, changed(circuit, {**case.still, **case.wrong}), duration)
    assert largest_difference(wrong, expected) > 5e-3


def in_batches(engine: Engine, name: str, size: int, n: int = 64) -> list[Recording]:
    """Recordings of n configurations near the default, so many at a time."""
    circuit, theta = small_rate(name)
    protocol = Protocol(BATCH_S, record=circuit.default_record())
    thetas, found = np.linspace(0.98, 1.02, n)[:, None] * theta, []
    for first in range(0, n, size):
        chosen = slice(first, min(first + size, n))
        found += list(engine.run_batch(circuit, thetas[chosen], protocol, 3, range(n)[chosen]))
    assert [s.index for s in found] == list(range(n)) and all(s.outcome.ok for s in found)
    return [s.recording for s in found if s.recording is not None]


@each_engine
@each_shipped
def test_the_size_of_a_batch_changes_nothing(engine: str, name: str) -> None:
    circuit, theta = small_rate(name)
    duration = SHORTER * RATE_CIRCUITS[name].duration / 2
    made, protocol = FAST[engine](), Protocol(duration, record=circuit.default_record())
    thetas = np.linspace(0.98, 1.02, 9)[:, None] * theta
    together = list(made.run_batch(circuit, thetas, protocol, 3, range(9)))
    for k in (0, 4, 8):
        alone = made.run(circuit, thetas[k], protocol, 3, k)
        assert alone.recording is not None and together[k].recording is not None and together[k].index == k
        for signal, values in alone.recording.signals.items():
            assert np.allclose(values.values, together[k].recording.signals[signal].values, rtol=1e-4, atol=1e-5)
    pair = [together[k].recording for k in (0, 8)]
    assert pair[0] is not None and pair[1] is not None and largest_difference(pair[0], pair[1]) > 1e-3


@each_engine
@each_shipped
def test_batches_of_1_7_and_64_change_nothing(engine: str, name: str) -> None:
    """Every bit is the same on the kernels, in both precisions; sums of tensors differ in the last ones of double."""
    bound, makers = (1e-12, [EXACT[engine]]) if engine == "torch" else (0.0, [EXACT[engine], FAST[engine]])
    for made in (make() for make in makers):
        alone = in_batches(made, name, 1)
        for size in (7, 64):
            together = in_batches(made, name, size)
            assert max(map(largest_difference, together, alone)) <= bound
        assert min(map(largest_difference, alone[1:], alone[:-1])) > 1e-7  # the control: no two are alike


@each_engine
@each_shipped
def test_a_result_depends_on_seed_and_index_only(engine: str, name: str) -> None:
    circuit, theta = small_rate(name)
    duration = SHORTER * RATE_CIRCUITS[name].duration / 2
    first, other, again = (recorded(FAST[engine](), circuit, theta, duration, index=k) for k in (3, 4, 3))
    assert all(np.array_equal(s.values, again.signals[n].values) for n, s in first.signals.items())
    assert largest_difference(first, other) > 1e-6


@each_engine
def test_signals_are_sampled_in_the_valid_interval(engine: str) -> None:
    circuit = MICRO_RATES["dense"]
    theta = circuit.default_theta()
    whole = recorded(EXACT[engine](), circuit, theta).signals["x"].values
    late = recorded(EXACT[engine](), circuit, theta, 0.05, warmup=0.05).signals["x"]
    assert late.t0 == 0.05 and np.array_equal(late.values, whole[:, 50:])
    record = Record(counts=False, signals=("x",), signal_rate=250)
    slow = recorded(EXACT[engine](), circuit, theta, record=record).signals
    assert set(slow) == {"x"} and slow["x"].rate == 250 and np.array_equal(slow["x"].values, whole[:, ::4])
    finer = recorded(EXACT[engine](), circuit, theta, dt=1e-4).signals["x"].values
    assert finer.shape == whole.shape and 1e-3 < np.abs(finer - whole).max() < 0.3


@each_engine
def test_a_circuit_that_never_spikes_has_counts_of_zero(engine: str) -> None:
    circuit = MICRO_RATES["dense"]
    record = Record(spikes=4, moments=True, signals=("x",))
    found = [recorded(e, circuit, circuit.default_theta(), record=record)
             for e in (EXACT[engine](), Brian2Engine("numpy"))]  # fmt: skip
    assert found[0].n_units == found[1].n_units == 4
    assert [c.values.sum() for c in found[0].counts.values()] == [0]
    assert found[0].counts["units"].values.shape == found[1].counts["units"].values.shape
    assert found[0].moments["units"].spikes.shape == (10,)


@pytest.mark.filterwarnings("ignore:.*encountered in")  # of NumPy, in which the simulator computes
@each_engine
def test_an_unstable_simulation_has_diverged_and_disturbs_no_other(engine: str) -> None:
    circuit = MICRO_RATES["dense"]
    equations = circuit.populations[0].equations.replace("-x +", "(g - 2)*x**3 +")
    unstable = replace(circuit.populations[0], equations=equations)
    circuit = replace(circuit, populations=(unstable,))
    made = FAST[engine]().run_batch(circuit, np.array([[5.0, 1.0], [0.0, 50.0]]), Protocol(
        0.02, record=circuit.default_record()), 7, [0, 1])  # fmt: skip
    found = [(s.outcome.status, s.recording is None) for s in made]
    assert found[0] == ("diverged", True) and found[1] == ("ok", False)
