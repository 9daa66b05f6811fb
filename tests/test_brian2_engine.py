"""The Brian2 engine: what it builds, what it leaves behind, and the published check configuration."""

import dataclasses
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from sbi_circuits.circuit import Circuit, PoissonInput, Population, Record, get_circuit
from sbi_circuits.engines import Protocol
from sbi_circuits.engines.brian2_engine import Brian2Engine, _isolated, build_model, reduce_spikes
from sbi_circuits.engines.brian2_standalone import run_standalone
from sbi_circuits.engines.setup import prepare
from sbi_circuits.errors import CircuitError, TranslationError
from sbi_circuits.prior import Parameter, Prior
from tests.scenarios import circuits

RATE = Prior((Parameter("rate", "Hz", 0, 1e5),))


def counter(**changes: object) -> Circuit:
    """Cells that spike at every step in which at least one Poisson event arrived in the step before."""
    settings: dict[str, object] = {
        "name": "counter",
        "prior": RATE,
        "populations": (
            Population("cell", "200", "dv/dt = 0*v/ms : 1", threshold="v > 0.5", reset="v = 0"),
        ),
        "inputs": (PoissonInput("cell", "v", "3", "rate", "1", fraction="0.5"),),
        "defaults": {"rate": 100.0},
    }
    return Circuit(**{**settings, **changes})  # type: ignore[arg-type]


def run(circuit: Circuit, duration: float = 0.5, **theta: float) -> np.ndarray:
    """Spikes of each cell."""
    values = np.array([*({**dict(circuit.defaults), **theta}).values()])
    protocol = Protocol(duration, record=Record(spikes=-1))
    simulation = Brian2Engine("numpy").run(circuit, values, protocol, 0, 0)
    assert simulation.recording is not None and simulation.wall_s > 0
    return np.diff(simulation.recording.offsets)


def test_poisson_events_reach_the_driven_cells_at_their_rate() -> None:
    spikes = run(counter())
    expected = 100 * 5000 * (1 - (1 - 100 * 1e-4) ** 3)
    assert (spikes[100:] == 0).all() and (spikes[:100] > 0).all()
    assert spikes.sum() == pytest.approx(expected, abs=5 * np.sqrt(expected))


def test_no_events_where_the_rate_is_zero() -> None:
    assert run(counter(), 0.05, rate=0.0).sum() == 0


def test_a_rate_above_one_event_per_step_cannot_be() -> None:
    with pytest.raises(CircuitError, match="^input to cell: rate 20000 Hz is above 1/dt$"):
        run(counter(), rate=20000.0)


def test_weights_keep_all_their_digits() -> None:
    """Brian2 would write a number into its code with eight digits."""
    weight = 1 / 3
    equations = f"dv/dt = 0*v/ms : 1\nexact = int(v == {weight!r}) : 1"
    cells = Population("cell", "200", equations, threshold="exact > 0.5", reset="v = 0")
    inputs = (PoissonInput("cell", "v", "1", "rate", repr(weight)),)
    assert run(counter(populations=(cells,), inputs=inputs), 0.05).sum() > 50


def test_what_brian2_cannot_run_is_a_translation_error() -> None:
    cells = Population("cell", "2", "dv/dt = -v**2/ms : 1", method="exact")
    circuit = counter(populations=(cells,), inputs=())
    with pytest.raises(TranslationError, match="^Brian2 cannot run this circuit: .*linear"):
        run(circuit)


def test_the_network_is_that_of_the_setup() -> None:
    circuit = circuits.noisy()
    setup = prepare(circuit, circuit.default_theta(), Protocol(0.1), 3, 4)
    with _isolated("numpy", key=0):
        model = build_model(circuit, setup)
    assert [len(g) for g in model.groups.values()] == [80, 20]
    assert np.array_equal(np.asarray(model.groups["exc"].v_[:]), setup.cells[0].initial["v"])
    for synapses in setup.synapses:
        built = model.network[f"projection_{synapses.number}"]
        assert np.array_equal(built.i[:], synapses.sources)
        assert np.array_equal(built.j[:], synapses.targets)
        assert np.asarray(built.delay[:]) == pytest.approx(1e-3) and synapses.delay_steps == 10


@pytest.mark.parametrize("dt", [1e-4, 2e-4, 2.5e-5, 3e-4])
def test_spikes_on_bin_edges_are_counted_in_the_bin_they_open(dt: float) -> None:
    circuit = dataclasses.replace(circuits.MICRO_CIRCUITS["two_lif"], dt=dt)
    protocol = Protocol(0.3, warmup=0.1 if dt != 3e-4 else 0.09)
    setup = prepare(circuit, circuit.default_theta(), protocol, 0, 0)
    steps = np.arange(setup.steps)
    recording = reduce_spikes(steps, np.zeros_like(steps), setup, protocol)
    exact = (np.arange(setup.steps - setup.warmup_steps) * round(dt * 1e9)) // 10**6
    assert np.array_equal(recording.counts["first"].values, np.bincount(exact)[:300])
    assert recording.counts["second"].values.sum() == 0


ISOLATION = """
import glob, logging, os, sys, tempfile, warnings
hook, shown, target = sys.excepthook, warnings.showwarning, None
from sbi_circuits.engines.brian2_engine import Brian2Engine
import brian2
target = brian2.prefs.codegen.target
from sbi_circuits.engines import Protocol
from tests.scenarios import circuits
circuit = circuits.noisy()
Brian2Engine("numpy").run(circuit, circuit.default_theta(), Protocol(0.01), 0, 0)
assert brian2.prefs.codegen.target == target
assert sys.excepthook is hook and warnings.showwarning is shown
assert os.listdir(tempfile.gettempdir()) == [], os.listdir(tempfile.gettempdir())
raise RuntimeError("the only thing on the screen")
"""


def test_brian2_leaves_no_trace_in_the_process(tmp_path: Path) -> None:
    """No log files, no exception hook, no captured warnings, no words of its own when something fails."""
    environment = {"TMPDIR": str(tmp_path), "PATH": "/usr/bin:/bin", "HOME": tempfile.gettempdir()}
    found = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ISOLATION],
        cwd=Path(__file__).resolve().parents[1], env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert found.stderr.startswith("Traceback") and "Brian" not in found.stderr, found.stderr
    assert found.stderr.rstrip().endswith("RuntimeError: the only thing on the screen")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_rate_of_the_check_configuration() -> None:
    """The authors' model gives 23.9, 26.4, 23.6 and 26.0 Hz over 2 s; the means agree within their spread."""
    circuit = get_circuit("adex_clustered")
    rates = []
    for seed in range(4):
        simulation = Brian2Engine().run(circuit, circuit.default_theta(), Protocol(2.0), seed, 0)
        assert simulation.recording is not None
        rates.append(simulation.recording.counts["exc"].values.sum() / 1600 / 2)
    published = np.array([23.9, 26.4, 23.6, 26.0])
    print("rates (Hz):", np.round(rates, 1))
    spread = np.sqrt((np.var(rates, ddof=1) + published.var(ddof=1)) / 4)
    assert abs(np.mean(rates) - published.mean()) < 4 * spread
    assert published.min() - 4 < min(rates) and max(rates) < published.max() + 4


@pytest.mark.slow
def test_standalone_gives_the_spikes_of_the_runtime_mode(tmp_path: Path) -> None:
    circuit = circuits.MICRO_CIRCUITS["adex_quartet"]
    theta, protocol = circuit.default_theta(), Protocol(0.5, record=Record(spikes=-1))
    compiled, timings = run_standalone(circuit, theta, protocol, 0, 0, tmp_path, repeats=2)
    expected = Brian2Engine("numpy").run(circuit, theta, protocol, 0, 0)
    assert compiled.recording is not None and expected.recording is not None
    assert np.array_equal(compiled.recording.times, expected.recording.times)
    assert timings.compile_s > 0 and len(timings.simulation_s) == 2
