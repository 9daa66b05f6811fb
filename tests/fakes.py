"""A fast stand-in for an engine, and a small circuit; importable by the workers and subprocesses of tests."""

import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from sbi_circuits.campaign import Campaign, run_campaign, verify_campaign
from sbi_circuits.circuit import Circuit, Population, Record
from sbi_circuits.engines import ENGINES, Engine, Protocol, Simulation
from sbi_circuits.errors import CircuitError
from sbi_circuits.features import FeatureSet
from sbi_circuits.prior import Parameter, Prior
from sbi_circuits.recording import Outcome, Recording
from sbi_circuits.seeds import generator
from sbi_circuits.table import Rows, Table, rows_equal

PRIOR = Prior((Parameter("g", "1", 0.1, 8, scale="log"), Parameter("rate", "Hz", 1, 20)))
EQUATIONS = "dv/dt = (g*rate*mV*20 - v*rate) : volt"
PAUSE_S = 0.004


class FakeEngine(Engine):
    """Poisson trains; silent below 3 Hz, and a simulation that raises for every thirteenth index."""

    name = "fake"
    pause_s = 0.0

    def run(
        self, circuit: Circuit, theta: np.ndarray, protocol: Protocol, seed: int, index: int
    ) -> Simulation:
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


def run(path: str, n: str, unit: str, workers: str) -> None:
    """Run a campaign slowly, saying "running" once the first unit is in place."""
    ENGINES["fake"] = ("fakes", "SlowEngine")
    said: list[str] = []

    def announce(rows: object) -> None:
        if not said:
            print("running", flush=True)
        said.append("running")

    run_campaign(campaign(int(n), unit=int(unit)), Path(path), workers=int(workers), on_unit=announce)


def serve() -> None:
    """For each line of arguments on stdin: fork a process that runs a campaign, print its id, await its end.

    Importing takes seconds; forking from a process that has imported lets a test kill twenty of them.
    """
    pa.array([0.0])  # the first array imports a lot
    print("ready", flush=True)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            plan = campaign(int(line.split()[1]), unit=int(line.split()[2]))
            ENGINES["fake"] = ("fakes", "SlowEngine")
            run_campaign(plan, Path(line.split()[0]), progress=False)
            os._exit(0)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    run(*sys.argv[1:]) if len(sys.argv) > 1 else serve()


def nothing_lost_or_twice(path: Path, n: int, expected: Rows) -> None:
    """Every simulation is in exactly one part, the rows are the expected ones, and every part is sound."""
    table = Table.open(path)
    indices = np.concatenate([np.arange(p.start, p.stop) for p in table.parts()])
    assert np.array_equal(np.sort(indices), np.arange(n))
    assert rows_equal(table.read(), expected)
    assert verify_campaign(path) == []
