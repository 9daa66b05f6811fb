"""Micro-circuits that spike, with readouts and an LFP proxy."""

from dataclasses import replace

import numpy as np

from sbi_circuits.circuit import Circuit, Readout, Record, get_circuit, with_lfp
from sbi_circuits.engines import Engine, Protocol
from sbi_circuits.recording import Recording
from tests.scenarios.circuits import MICRO_CIRCUITS, noisy
from tests.scenarios.constructs import CONSTRUCTS

PROTOCOL = Protocol(0.1, 0.01)


def _with_voltages(circuit: Circuit, expression: str = "v") -> Circuit:
    """Voltages of each cell, and a reduction of something that is not linear, with inputs and time."""
    population = circuit.populations[0].name
    readouts = (
        Readout("v", population, expression, "mV"),
        Readout("spread", population, f"({expression})**2*int(t > 20*ms) + i*mV**2", "mV**2", over="sum"),
        Readout("mean_v", population, expression, "mV", over="mean"),
    )
    return replace(circuit, readouts=(*circuit.readouts, *readouts))


def shipped(**constants: str) -> Circuit:
    """The clustered network with an LFP proxy."""
    circuit = get_circuit("adex_clustered")
    return with_lfp(replace(circuit, constants={**dict(circuit.constants), **constants}))  # type: ignore[arg-type]


LFP_CIRCUITS = {
    "adex_quartet": _with_voltages(with_lfp(MICRO_CIRCUITS["adex_quartet"])),
    "zero_delay_chain": _with_voltages(MICRO_CIRCUITS["zero_delay_chain"], "v + R*I_inj"),
    "gap_junctions": _with_voltages(CONSTRUCTS["gap_junctions"].circuit, "v + gap"),
}


def recorded(engine: Engine, circuit: Circuit, factor: float = 1.0, *, signals: tuple[str, ...] = (),
             warmup: float = PROTOCOL.warmup, duration: float = PROTOCOL.duration, rate: float = 1000.0) -> Recording:
    """All signals and spikes of one run that must be ok; the first parameter is multiplied by a factor."""
    theta = circuit.default_theta()
    theta[0] *= factor
    record = Record(spikes=-1, signals=signals or circuit.signal_names(), signal_rate=rate)
    simulation = engine.run(circuit, theta, Protocol(duration, warmup, record), 7, 0)
    assert simulation.outcome.ok and simulation.recording is not None, simulation.outcome
    return simulation.recording


def largest_difference(a: Recording, b: Recording) -> float:
    """Largest difference of any signal, relative to its largest value."""
    assert a.signals.keys() == b.signals.keys() and len(a.signals) > 0
    found = 0.0
    for name, signal in a.signals.items():
        assert (signal.t0, signal.rate, signal.unit) == (b.signals[name].t0, b.signals[name].rate, b.signals[name].unit)
        found = max(found, float(np.abs(signal.values - b.signals[name].values).max() / np.abs(signal.values).max()))
    return found


__all__ = ["LFP_CIRCUITS", "PROTOCOL", "largest_difference", "noisy", "recorded", "shipped"]
