"""A fast stand-in for an engine, and a small circuit; importable by the workers and subprocesses of tests."""

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from sbi_circuits.campaign import Campaign, run_campaign
from sbi_circuits.circuit import Circuit, Population, Record
from sbi_circuits.engines import ENGINES, Engine, Protocol, Simulation
from sbi_circuits.errors import CircuitError
from sbi_circuits.features import FeatureSet
from sbi_circuits.prior import Parameter, Prior
from sbi_circuits.recording import Outcome, Recording
from sbi_circuits.seeds import generator

PRIOR = Prior((Parameter("g", "1", 0.1, 8, scale="log"), Parameter("rate", "Hz", 1, 20)))
EQUATIONS = "dv/dt = (g*rate*mV*20 - v*rate) : volt"
PAUSE_S = 0.002


class FakeEngine(Engine):
    """Poisson trains; silent below 3 Hz, and a simulation that raises for every thirteenth index."""

    name = "fake"
    pause_s = 0.0

    def run(self, circuit: Circuit, theta: np.ndarray, protocol: Protocol, seed: int, index: int) -> Simulation:
        time.sleep(self.pause_s)
        if index % 13 == 5:
            raise CircuitError(f"no such network\nat simulation {index}")
        if theta[1] < 3:
            return Simulation(index, Outcome("silent", "too slow"), None, 0.0)
        draw = generator(seed, index, "fake")
        t1 = protocol.duration
        trains = [np.sort(draw.random(draw.poisson(theta[1] * t1))) * t1 for _ in range(3)]
        return Simulation(index, Outcome("ok"), Recording.from_units(trains, 0.0, t1), 0.0)


class SlowEngine(FakeEngine):
    """The same results, slowly enough to be interrupted."""

    name = "slow"
    pause_s = PAUSE_S


ENGINES["fake"] = ("fakes", "FakeEngine")


def circuit(prior: Prior = PRIOR, name: str = "fake", equations: str = EQUATIONS) -> Circuit:
    return Circuit(name, prior, (Population("exc", "10", equations, "v > 1*mV", "v = 0*mV"),))


def campaign(n: int = 40, **changes: Any) -> Campaign:
    settings: dict[str, Any] = {
        "circuit": circuit(),
        "n": n,
        "feature_set": FeatureSet.of("isi"),
        "protocol": Protocol(duration=2.0, record=Record(spikes=3)),
        "seed": 3,
        "engine": "fake",
        "unit": 7,
    }
    return Campaign(**(settings | changes))


def main(path: str, n: str, unit: str, workers: str) -> None:
    """Run a campaign slowly in a subprocess, announcing when simulations begin."""
    ENGINES["fake"] = ("fakes", "SlowEngine")
    announced = False

    def announce(rows: object) -> None:
        nonlocal announced
        if not announced:
            announced = True
            print("running", flush=True)

    plan = campaign(int(n), unit=int(unit))
    run_campaign(plan, Path(path), workers=int(workers), on_unit=announce)


if __name__ == "__main__":
    main(*sys.argv[1:])
