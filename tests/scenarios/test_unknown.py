"""A circuit the project has never seen, in thirty lines, runs on every engine and gives the same spikes."""

from dataclasses import replace
from pathlib import Path

import pytest

from sbi_circuits.circuit import Circuit, Independent, PoissonInput, Population, Projection, Record
from sbi_circuits.engines import Protocol
from sbi_circuits.prior import Parameter, Prior
from tests.scenarios.engines import COMPILED, EXACT, FAST, REFERENCE
from tests.scenarios.test_engines import raster

# --- the circuit: from here ...
CELLS = """
dv/dt = (E_L + drive - v + I*R + rise - a)/tau_m + sigma*xi*tau_m**-0.5 : volt (unless refractory)
rise = slope*exp(clip((v - v_t)/slope, -20, 20)) : volt
da/dt = -a/(200*ms) : volt
dI/dt = -I/(4*ms) : amp
tau_m : second
"""
CIRCUIT = Circuit(
    name="never_seen",
    prior=Prior((Parameter("sigma", "mV", 0, 5), Parameter("w", "pA", 0, 900), Parameter("rate", "Hz", 0, 5000))),
    populations=(
        Population(
            "cells", "n", CELLS, threshold="v > v_t + 5*slope", reset="v = E_L; a += 2*mV", refractory="2*ms",
            initial={"tau_m": "20*ms*(0.8 + 0.4*rand())", "v": "E_L + 25*mV*rand()"},  # type: ignore[arg-type]
        ),
    ),
    projections=(
        Projection("net", "cells", "cells", Independent("0.2"), "w*rand()", "I_post += weight*x; x *= 0.7",
                   "0.5*ms + 2*ms*rand()", equations="dx/dt = (1 - x)/(150*ms) : 1 (event-driven)",
                   initial={"x": "1"}),  # type: ignore[arg-type]
    ),
    inputs=(PoissonInput("cells", "I", "10", "rate/10", "40*pA"),),
    constants={"n": "40", "E_L": "-70*mV", "drive": "0*mV", "v_t": "-50*mV", "slope": "2*mV", "R": "80*Mohm"},  # type: ignore[arg-type]
    defaults={"sigma": 2.0, "w": 400.0, "rate": 1500.0},  # type: ignore[arg-type]
)  # fmt: skip
# --- ... to here


def test_it_has_thirty_lines() -> None:
    lines = Path(__file__).read_text().split("# --- the circuit")[1].split("# --- ...")[0].splitlines()[1:]
    assert len(lines) <= 30


@pytest.mark.parametrize("name", sorted(FAST))
def test_it_runs(name: str) -> None:
    protocol = Protocol(0.3, record=Record(spikes=-1))
    simulation = FAST[name]().run(CIRCUIT, CIRCUIT.default_theta(), protocol, 1, 0)
    assert simulation.recording is not None and 40 < simulation.recording.times.size < 4000


@pytest.mark.parametrize("name", COMPILED)
def test_without_chance_it_spikes_as_in_brian2(name: str) -> None:
    """Noise and Poisson input off; weights, delays and time constants are drawn alike."""
    theta, protocol = CIRCUIT.default_theta() * [0, 1, 0], Protocol(0.3, record=Record(spikes=-1))
    driven = replace(CIRCUIT, constants={**dict(CIRCUIT.constants), "drive": "30*mV"})  # type: ignore[arg-type]
    found = []
    for engine in (REFERENCE, name):
        recording = EXACT[engine]().run(driven, theta, protocol, 1, 0).recording
        assert recording is not None
        found.append(raster(recording, CIRCUIT.dt))
    assert found[0] == found[1] and sum(map(len, found[0])) > 10
