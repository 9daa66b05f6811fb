"""A bursting toy circuit behind a fast stand-in engine, and a small posterior of it, made once a process."""

import json
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np

from sbi_circuits.campaign import Campaign, run_campaign
from sbi_circuits.circuit import Circuit, Population, Record, register
from sbi_circuits.engines import ENGINES, Engine, Protocol, Simulation
from sbi_circuits.ensemble import Ensemble, build_ensemble
from sbi_circuits.features import FeatureSet, WindowedFeatures
from sbi_circuits.inference import Posterior, TrainingConfig, train
from sbi_circuits.observation_file import ObservedFeatures, write_observation
from sbi_circuits.prior import Parameter, Prior
from sbi_circuits.recording import Outcome, Recording
from sbi_circuits.seeds import generator
from sbi_circuits.table import Table

PRIOR = Prior(
    (
        Parameter("tonic", "Hz", 0.2, 5, scale="log", label=r"$\nu_0$"),
        Parameter("bursting", "Hz", 0.3, 2),
        Parameter("idle", "mV", -70, -50, label="$v_{idle}$"),
    )
)
THETA = np.array([1.0, 1.0, -60.0])
CELLS, DURATION = 15, 20.0
FEATURES = FeatureSet.of("isi", "bursts")
PROTOCOL = Protocol(duration=DURATION, record=Record(spikes=CELLS))


class TinyEngine(Engine):
    """Cells fire at `tonic`, and together in bursts at `bursting`; below 0.25 Hz the circuit is silent."""

    name = "tiny"

    def run(
        self, circuit: Circuit, theta: np.ndarray, protocol: Protocol, seed: int, index: int
    ) -> Simulation:
        if theta[0] < 0.25:
            return Simulation(index, Outcome("silent", "too slow"), None, 0.0)
        recording = tiny_recording(theta, protocol.duration, seed, index)
        return Simulation(index, Outcome("ok"), recording, 0.0)


def tiny_recording(theta: np.ndarray, duration: float, seed: int, index: int = 0) -> Recording:
    """What the engine records, over any duration (s)."""
    random = generator(seed, index, "tiny")
    bursts = np.cumsum(random.gamma(9.0, 1 / (9.0 * theta[1]), int(4 * duration * theta[1]) + 20))
    trains = []
    for _ in range(CELLS):
        tonic = random.random(random.poisson(theta[0] * duration)) * duration
        together = (bursts[:, None] + 0.03 * random.standard_normal((len(bursts), 4))).ravel()
        both = np.concatenate([tonic, together])
        trains.append(np.sort(both[(both >= 0) & (both < duration)]))
    return Recording.from_units(trains, 0.0, duration, groups=("exc",) * CELLS)


def tiny_circuit(
    name: str = "tiny", equations: str = "dv/dt = (idle*tonic + bursting*mV - v*tonic) : volt"
) -> Circuit:
    defaults = dict(zip(PRIOR.names, THETA.tolist(), strict=True))
    cells = Population("exc", str(CELLS), equations, "v > 1*mV", "v = 0*mV")
    return Circuit(
        name, PRIOR, (cells,), defaults=tuple(defaults.items()), title="Bursts on demand", source="tests"
    )


ENGINES["tiny"] = ("tiny", "TinyEngine")
CIRCUIT = register(tiny_circuit())


@cache
def tiny_table() -> Table:
    plan = Campaign(CIRCUIT, 300, FEATURES, PROTOCOL, seed=1, engine="tiny", unit=150)
    return run_campaign(plan, Path(mkdtemp(prefix="tiny-")) / "table", progress=False)


@cache
def tiny_posterior() -> Posterior:
    return train(
        tiny_table(),
        TrainingConfig(members=1, epochs=12, hidden=24, layers=1, transform="coupling"),
        progress=False,
        seed=0,
    )


def tiny_observation(theta: np.ndarray = THETA, windows: int = 6, seed: int = 99) -> WindowedFeatures:
    return FEATURES.measure_windows(tiny_recording(theta, windows * DURATION, seed), DURATION)


def written_observation(path: Path) -> Path:
    """An observation file of the circuit's bursts."""
    observed = ObservedFeatures(FEATURES, tiny_observation(), DURATION, "tests", "tiny.npz", "A1")
    return write_observation(path, observed)


def changed(path: Path, **changes: Any) -> Path:
    """A JSON file with other entries; None takes one out."""
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))
    return path


@cache
def tiny_ensemble() -> Ensemble:
    """Twelve verified members or more, some draws rejected."""
    return build_ensemble(tiny_posterior(), tiny_observation(), 12, seed=3, engine="tiny", progress=False)
