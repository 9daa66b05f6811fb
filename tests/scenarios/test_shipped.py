"""Every shipped circuit, in a small variant, passes the shared list on every engine."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sbi_circuits.campaign import Campaign, run_campaign
from sbi_circuits.circuit import Record, list_circuits
from sbi_circuits.engines import Engine, Protocol, Simulation
from sbi_circuits.engines.brian2_engine import Brian2Engine
from sbi_circuits.features import FeatureSet
from sbi_circuits.recording import Recording
from sbi_circuits.table import rows_equal
from tests.scenarios.engines import COMPILED, EXACT, FAST, REFERENCE
from tests.scenarios.rates import RATE_CIRCUITS
from tests.scenarios.shipped import SHIPPED, configuration, deterministic, small
from tests.scenarios.test_distributions import ALPHA, mean_cv, swap_p_value
from tests.scenarios.test_engines import EVERYTHING, assert_equal, raster

ZOO = sorted(SHIPPED)
each_circuit = pytest.mark.parametrize("name", ZOO)
# Compiling the Runge-Kutta steps of eight variables takes a while, in Brian2 too.
each_circuit_slowly = pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n == "hodgkin_huxley" else n for n in ZOO]
)
each_compiled = pytest.mark.parametrize("engine", [n for n in COMPILED if n in FAST])


def test_no_circuit_is_left_out() -> None:
    installed = [n for n in list_circuits() if n not in ("fake", "tiny", "toy")]
    assert set(ZOO) <= set(installed)
    assert not set(ZOO) & set(RATE_CIRCUITS) and set(RATE_CIRCUITS) <= set(installed)


def recording(simulation: Simulation) -> Recording:
    assert simulation.recording is not None, simulation.outcome
    return simulation.recording


@each_circuit_slowly
@each_compiled
def test_without_chance_the_spikes_are_those_of_brian2(name: str, engine: str) -> None:
    """Wiring, weights, delays and initial values are drawn alike; everything else is deterministic."""
    circuit, theta = deterministic(name)
    protocol = Protocol(SHIPPED[name].steady, record=EVERYTHING, early_stop=False)

    def spikes(which: str, index: int) -> list[list[int]]:
        return raster(recording(EXACT[which]().run(circuit, theta, protocol, 7, index)), circuit.dt)

    expected = spikes(REFERENCE, 0)
    assert sum(map(len, expected)) > 30
    assert spikes(engine, 0) == expected
    assert spikes(engine, 1) != expected  # the control: another network


def statistics(engine: Engine, name: str, networks: int, wrong: bool = False) -> np.ndarray:
    """Log rate and mean CV of each population of each network: (1, networks, statistics)."""
    circuit, theta = small(name)
    if wrong:
        theta = configuration(circuit, **{**SHIPPED[name].theta, **SHIPPED[name].wrong})
    protocol = Protocol(SHIPPED[name].duration, record=Record(moments=True), early_stop=False)
    rows = []
    for index in range(networks):
        found = recording(engine.run(circuit, theta, protocol, 3, index))
        rates = [np.log(1 + c.values.sum()) for c in found.counts.values()]
        rows.append([*rates, *(mean_cv(m) for m in found.moments.values())])
    return np.array(rows)[None]


@pytest.mark.slow
@each_circuit
@each_compiled
def test_distributions_are_those_of_brian2(name: str, engine: str) -> None:
    """A permutation test on twelve networks; a parameter that is wrong must fail it."""
    expected = statistics(Brian2Engine(), name, 12)
    found, wrong = (statistics(FAST[engine](), name, 12, wrong) for wrong in (False, True))
    p_right, p_wrong = swap_p_value(found, expected), swap_p_value(wrong, expected)
    print(f"{name}: p = {p_right:.4f}, {p_wrong:.5f} with {SHIPPED[name].wrong}")
    assert p_right > ALPHA >= p_wrong


def in_batches(engine: Engine, name: str, size: int, n: int = 64) -> Iterator[Recording]:
    circuit, theta = small(name)
    protocol = Protocol(0.03, record=EVERYTHING, early_stop=False)
    for start in range(0, n, size):
        indices = range(start, min(start + size, n))
        for simulation in engine.run_batch(circuit, np.tile(theta, (len(indices), 1)), protocol, 5, indices):
            yield recording(simulation)


@each_circuit_slowly
@each_compiled
def test_the_size_of_a_batch_changes_nothing(name: str, engine: str) -> None:
    made = FAST[engine]()
    alone = list(in_batches(made, name, 1))
    assert len(alone) == 64 and sum(r.times.size for r in alone) > 64
    for size in (7, 64):
        for a, b in zip(in_batches(made, name, size), alone, strict=True):
            assert_equal(a, b)


def plan(name: str, n: int = 6) -> Campaign:
    circuit, theta = small(name)
    low = dict(zip(circuit.prior.names, theta, strict=True))
    narrow = [replace(p, low=0.99 * low[p.name], high=1.01 * low[p.name]) for p in circuit.prior.parameters
              if low[p.name] > 0]  # fmt: skip
    kept = {p.name: p for p in circuit.prior.parameters} | {p.name: p for p in narrow}
    circuit = circuit.with_prior(replace(circuit.prior, parameters=tuple(kept.values())))
    protocol = Protocol(0.2, record=Record(spikes=20), early_stop=False)
    return Campaign(circuit, n, FeatureSet.of("isi"), protocol, seed=2, engine="kernel[numba]", unit=2)


@each_circuit_slowly
def test_a_resumed_campaign_is_the_campaign_at_once(name: str, tmp_path: Path) -> None:
    whole = run_campaign(plan(name), tmp_path / "whole", progress=False).read()
    assert (whole.outcome == "ok").all()
    run_campaign(plan(name, 3), tmp_path / "parts", progress=False)
    assert rows_equal(run_campaign(plan(name), tmp_path / "parts", progress=False).read(), whole)


@pytest.mark.slow
@each_circuit
def test_the_number_of_workers_changes_nothing(name: str, tmp_path: Path) -> None:
    tables = [run_campaign(plan(name), tmp_path / str(w), workers=w, progress=False).read() for w in (1, 2)]
    assert rows_equal(*tables)
