"""Campaigns of every shipped rate circuit on every engine: one worker or two, at once or resumed, the same table.

Run on kernel[cuda] as `test_rates.py` is.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sbi_circuits.campaign import Campaign, run_campaign
from sbi_circuits.circuit import Record
from sbi_circuits.engines import Protocol
from sbi_circuits.features import FeatureSet
from sbi_circuits.table import Table
from sbi_circuits.table_rows import ROW_FIELDS
from tests.scenarios.rates import RATE_CIRCUITS, small_rate
from tests.scenarios.test_rates import ENGINES

# kernel[numba] gives the same bits whatever runs beside a simulation; sums of tensors may differ in the last ones.
TOLERANCE = {"torch": 1e-9}


def plan(name: str, engine: str, n: int = 6, seed: int = 2) -> Campaign:
    """Units of two simulations, near the default configuration; a window of the spectrum lasts 40 ms."""
    circuit, theta = small_rate(name)
    spread = np.array([p.high - p.low for p in circuit.prior.parameters])
    narrow = tuple(
        replace(p, low=max(p.low, t - 0.02 * s), high=min(p.high, t + 0.02 * s))
        for p, t, s in zip(circuit.prior.parameters, theta, spread, strict=True)
    )
    circuit = circuit.with_prior(replace(circuit.prior, parameters=narrow))
    signal = circuit.readouts[0].name
    features = FeatureSet.of(field={"signal": signal, "low": 25, "high": 200, "segment": 0.04})
    protocol = Protocol(0.08, record=Record(counts=False, signals=(signal,), signal_rate=500.0), dt=1e-3)
    return Campaign(circuit, n, features, protocol, seed=seed, engine=engine, unit=2)


def table(name: str, engine: str, folder: Path, n: int = 6, **settings: int) -> Table:
    return run_campaign(plan(name, engine, n), folder, progress=False, **settings)


def assert_same(found: Table, expected: Table, engine: str) -> None:
    a, b = found.read(), expected.read()
    assert len(b.index) == 6 and (b.outcome == "ok").all() and (b.states == 0).any()
    for field in set(ROW_FIELDS) - {"wall_s", "values"}:
        assert np.array_equal(getattr(a, field), getattr(b, field)), field
    assert np.allclose(a.values, b.values, rtol=TOLERANCE.get(engine, 0.0), atol=TOLERANCE.get(engine, 0.0))


def cases(*quick: str) -> list[object]:
    """Every engine and circuit; all but these engines, or pairs of engine and circuit, are slow."""
    engines = ENGINES if "kernel[cuda]" in ENGINES else [*ENGINES, "brian2"]
    pairs = [(e, n) for e in engines for n in sorted(RATE_CIRCUITS)]
    return [p if p[0] in quick or " ".join(p) in quick else pytest.param(*p, marks=pytest.mark.slow) for p in pairs]


# What is compiled is compiled for each.
SOON = ("torch", "kernel[cuda] jansen_rit", "kernel[cuda] random_rate", "kernel[numba] leg_rhythm",
        "kernel[numba] random_rate")  # fmt: skip


@pytest.mark.parametrize(("engine", "name"), cases(*SOON))
def test_a_resumed_campaign_is_the_campaign_at_once(engine: str, name: str, tmp_path: Path) -> None:
    whole = table(name, engine, tmp_path / "whole")
    table(name, engine, tmp_path / "parts", 3)
    assert_same(table(name, engine, tmp_path / "parts"), whole, engine)
    # The control: another seed is another table.
    other = run_campaign(plan(name, engine, seed=3), tmp_path / "other", progress=False)
    assert not np.allclose(other.read().values, whole.read().values, rtol=1e-6)


# Processes take a while to start.
QUICK = ("torch ssn", "kernel[numba] leg_rhythm", "kernel[cuda] jansen_rit")


@pytest.mark.parametrize(("engine", "name"), cases(*QUICK))
def test_the_number_of_workers_changes_nothing(engine: str, name: str, tmp_path: Path) -> None:
    one, two = (table(name, engine, tmp_path / str(w), workers=w) for w in (1, 2))
    assert_same(two, one, engine)
