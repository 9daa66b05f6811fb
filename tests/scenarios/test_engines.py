"""Every engine on deterministic micro-circuits: the spikes of Brian2, step by step, and the same contract."""

import dataclasses
from functools import cache

import numpy as np
import pytest

from sbi_circuits.circuit import Circuit, Record
from sbi_circuits.engines import ENGINES, Engine, Protocol, get_engine
from sbi_circuits.engines.brian2_engine import Brian2Engine
from sbi_circuits.engines.kernel_numba import NumbaEngine
from sbi_circuits.errors import UnknownNameError
from sbi_circuits.recording import Recording
from tests.scenarios import circuits
from tests.scenarios.circuits import MICRO_CIRCUITS
from tests.scenarios.constructs import CONSTRUCTS
from tests.scenarios.engines import COMPILED, EXACT, REFERENCE

EVERYTHING = Record(spikes=-1, counts=True, moments=True)
each_engine = pytest.mark.parametrize("name", sorted(EXACT))


def record(
    engine: Engine, circuit: Circuit, duration: float = 0.8, theta: np.ndarray | None = None, index: int = 0,
    **protocol: object,
) -> Recording:  # fmt: skip
    """The recording of one run that must be ok."""
    settings = Protocol(duration, **{"record": EVERYTHING, **protocol})  # type: ignore[arg-type]
    theta = circuit.default_theta() if theta is None else theta
    simulation = engine.run(circuit, theta, settings, seed=7, index=index)
    assert simulation.outcome.ok, simulation.outcome
    assert simulation.recording is not None and simulation.index == index
    return simulation.recording


def raster(recording: Recording, dt: float) -> list[list[int]]:
    """Spikes of each unit as whole time steps."""
    steps = recording.times / dt
    assert np.allclose(steps, np.rint(steps), atol=1e-3)
    return [np.rint(recording.unit(u) / dt).astype(int).tolist() for u in range(recording.n_units)]


@cache
def reference(name: str) -> list[list[int]]:
    circuit = MICRO_CIRCUITS[name]
    return raster(record(EXACT["brian2"](), circuit), circuit.dt)


def assert_equal(a: Recording, b: Recording) -> None:
    """Equal in every array."""
    assert (a.t0, a.t1, a.groups) == (b.t0, b.t1, b.groups)
    assert np.array_equal(a.times, b.times) and np.array_equal(a.offsets, b.offsets)
    assert a.counts.keys() == b.counts.keys() and a.moments.keys() == b.moments.keys()
    for name in a.counts:
        assert np.array_equal(a.counts[name].values, b.counts[name].values)
    for name in a.moments:
        assert np.array_equal(a.moments[name].total, b.moments[name].total)


def test_no_engine_is_left_out() -> None:
    # The stand-ins of other tests; the device, for which tests/cuda_checks.py has a process of its own; and torch,
    # which runs rate circuits: test_rates.py.
    known = set(ENGINES) - {"fake", "tiny", "kernel[cuda]", "torch"}
    assert set(EXACT) == known
    assert {get_engine(name).name for name in known} == known


@pytest.mark.parametrize("circuit", MICRO_CIRCUITS)
@pytest.mark.parametrize("name", COMPILED)
def test_spikes_are_those_of_brian2(name: str, circuit: str) -> None:
    found = raster(record(EXACT[name](), MICRO_CIRCUITS[circuit]), MICRO_CIRCUITS[circuit].dt)
    assert found == reference(circuit)
    assert sum(map(len, found)) > 10


@pytest.mark.parametrize("construct", CONSTRUCTS)
@pytest.mark.parametrize("name", COMPILED)
def test_every_construct_gives_the_spikes_of_brian2(name: str, construct: str) -> None:
    """In double precision step by step; and a constant of the construct, changed a little, must show."""
    case, dt = CONSTRUCTS[construct], CONSTRUCTS[construct].circuit.dt
    expected = raster(record(EXACT[REFERENCE](), case.circuit, 0.4), dt)
    engine = EXACT[name]()
    assert raster(record(engine, case.circuit, 0.4), dt) == expected
    assert sum(map(len, expected)) > 10
    assert raster(record(engine, case.wrong(), 0.4), dt) != expected


@each_engine
def test_negative_control_a_wrong_constant_changes_the_spikes(name: str) -> None:
    circuit = MICRO_CIRCUITS["adex_quartet"]
    constants = {**dict(circuit.constants), "tau_w": "120*ms"}
    wrong = dataclasses.replace(circuit, constants=constants)
    assert raster(record(EXACT[name](), wrong), circuit.dt) != reference(circuit.name)


@each_engine
def test_kicks_are_ignored_while_refractory(name: str) -> None:
    """Both cells fire together and kick each other; refractory for 10 ms, they notice late kicks only."""
    circuit, engine = MICRO_CIRCUITS["kicks_while_refractory"], EXACT[name]()
    thetas = [np.array([260.0, delay]) for delay in (0.0, 4.0, 9.9, 10.0)]
    *within, after = [raster(record(engine, circuit, theta=theta), circuit.dt) for theta in thetas]
    assert within[0] == within[1] == within[2] != after


@each_engine
def test_counts_and_moments_agree_with_the_spikes(name: str) -> None:
    circuit = circuits.noisy()
    recording = record(EXACT[name](), circuit, 0.35, warmup=0.05)
    groups = np.array(recording.groups)
    for population, counts in recording.counts.items():
        cells = np.flatnonzero(groups == population)
        chosen = recording.select(cells)
        assert counts.size == len(cells) and len(counts.values) == 350
        assert np.array_equal(counts.values, chosen.population_counts())
        intervals = [np.diff(recording.unit(int(c))) for c in cells]
        moments = recording.moments[population]
        assert np.array_equal(moments.spikes, [len(recording.unit(int(c))) for c in cells])
        assert np.allclose(moments.total, [i.sum() for i in intervals])
        assert np.allclose(moments.total_squared, [(i**2).sum() for i in intervals])


@each_engine
def test_a_result_depends_on_seed_and_index_only(name: str) -> None:
    circuit = circuits.noisy()
    first = record(EXACT[name](), circuit, 0.2, index=3)
    engine = EXACT[name]()
    other = record(engine, circuit, 0.2, index=4)
    record(engine, MICRO_CIRCUITS["two_lif"], 0.1)
    assert_equal(record(engine, circuit, 0.2, index=3), first)
    assert not np.array_equal(other.times, first.times)


@each_engine
def test_global_random_state_is_left_alone(name: str) -> None:
    np.random.seed(0)
    expected = np.random.random(3)
    np.random.seed(0)
    record(EXACT[name](), circuits.noisy(), 0.02)
    assert np.array_equal(np.random.random(3), expected)


@each_engine
def test_recorded_cells_are_a_part_of_all_cells(name: str) -> None:
    circuit = circuits.noisy()
    everything = record(EXACT[name](), circuit, 0.2)
    some = record(EXACT[name](), circuit, 0.2, record=Record(spikes=11, counts=True))
    assert some.n_units == 11 and some.moments == {}
    trains = [everything.unit(u).tolist() for u in range(everything.n_units)]
    assert all(some.unit(u).tolist() in trains for u in range(11))
    assert np.array_equal(some.counts["exc"].values, everything.counts["exc"].values)


@each_engine
def test_warmup_is_simulated_and_not_recorded(name: str) -> None:
    circuit = MICRO_CIRCUITS["adex_quartet"]
    recording = record(EXACT[name](), circuit, 0.5, warmup=0.3)
    whole = reference(circuit.name)
    assert (recording.t0, recording.t1) == pytest.approx((0.3, 0.8))
    assert raster(recording, circuit.dt) == [[s for s in train if 1500 <= s < 4000] for train in whole]


@each_engine
def test_the_time_step_of_the_protocol_is_used(name: str) -> None:
    circuit = MICRO_CIRCUITS["two_lif"]
    fine = record(EXACT[name](), circuit, 0.2, dt=2e-5)
    assert len(raster(fine, 2e-5)[0]) == len(raster(record(EXACT[name](), circuit, 0.2), 1e-4)[0])
    assert len(fine.counts["first"].values) == 200


@each_engine
@pytest.mark.parametrize(
    ("drive", "duration", "rule", "status"),
    [
        (0.0, 0.4, True, "silent"),
        (1e6, 0.4, True, "saturated"),
        (300.0, 0.4, True, "ok"),
        (0.0, 0.25, True, "silent"),
        (0.0, 0.2, True, "ok"),
        (0.0, 0.4, False, "ok"),
    ],
)
def test_early_stop(name: str, drive: float, duration: float, rule: bool, status: str) -> None:
    protocol = Protocol(duration, record=EVERYTHING, early_stop=rule)
    simulation = EXACT[name]().run(circuits.early_stopping(), np.array([drive]), protocol, seed=0, index=5)
    assert (simulation.outcome.status, simulation.index) == (status, 5)
    assert (simulation.recording is None) == (status != "ok")
    assert bool(simulation.outcome.reason) == (status != "ok")


@each_engine
def test_the_early_stop_does_not_disturb_a_simulation_that_goes_on(name: str) -> None:
    circuit, engine = circuits.early_stopping(), EXACT[name]()
    assert_equal(record(engine, circuit, 0.4), record(engine, circuit, 0.4, early_stop=False))


@each_engine
def test_a_state_that_is_not_finite_is_diverged(name: str) -> None:
    circuit = circuits.exploding()
    simulation = EXACT[name]().run(circuit, circuit.default_theta(), Protocol(0.1), seed=0, index=0)
    assert (simulation.outcome.status, simulation.recording) == ("diverged", None)


def critical_drive(engine: Engine, circuit: Circuit, dt: float) -> float:
    """The drive (pA) whose v just reaches the threshold after 20 ms, by zooming in."""
    low, width = 200.0, 600.0
    for _ in range(4):
        theta = np.array([low, width])
        spiking = record(engine, circuit, 0.02, theta, dt=dt).moments["cell"].spikes.sum()
        low, width = low + width * (999.5 - spiking) / 1000, width / 1000
    return low + width / 2


@each_engine
@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("exponential_euler", 1), ("rk4", 4)])
def test_measured_order_of_convergence(name: str, method: str, order: int) -> None:
    engine, circuit = EXACT[name](), circuits.smooth_rise(method)
    coarse, middle, fine = (critical_drive(engine, circuit, 0.02 / n) for n in (20, 40, 80))
    measured = np.log2((coarse - middle) / (middle - fine))
    assert measured == pytest.approx(order, abs=0.2)


@each_engine
def test_exact_integration_has_no_error(name: str) -> None:
    """v_th = R I (1 - exp(-T / tau)) at T = tau."""
    drive = critical_drive(EXACT[name](), circuits.smooth_rise("exact"), 0.005)
    assert drive == pytest.approx(200 / (1 - np.exp(-1)), rel=1e-9)


@pytest.mark.parametrize("construct", ["two_lif", *CONSTRUCTS])
def test_single_precision_stays_within_a_step(construct: str) -> None:
    circuit = MICRO_CIRCUITS[construct] if construct in MICRO_CIRCUITS else CONSTRUCTS[construct].circuit
    found = raster(record(NumbaEngine(precision="single"), circuit, 0.4), circuit.dt)
    expected = raster(record(NumbaEngine(precision="double"), circuit, 0.4), circuit.dt)
    for train, exact in zip(found, expected, strict=True):
        assert len(train) == len(exact)
        assert np.abs(np.subtract(train, exact)).max(initial=0) <= 2


def test_unknown_names_list_the_valid_ones() -> None:
    with pytest.raises(UnknownNameError, match=r"^unknown engine 'nest'; valid: auto, brian2, .*numba"):
        get_engine("nest")
    with pytest.raises(UnknownNameError, match="unknown Brian2 target 'rust'; valid: auto, cython, numpy"):
        Brian2Engine(target="rust")
