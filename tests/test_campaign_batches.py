"""Campaigns on an engine that runs many simulations at once: the same rows, whatever runs together."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sbi_circuits.campaign import run_campaign
from sbi_circuits.circuit import Circuit
from sbi_circuits.engines import ENGINES, Protocol, Simulation
from sbi_circuits.table import Table
from tests import fakes

N = 40


class BatchEngine(fakes.FakeEngine):
    """The results of the fake engine, eight at a time; notes how many were asked for together."""

    batch = 8
    asked: list[int] = []

    def run_batch(
        self, circuit: Circuit, thetas: np.ndarray, protocol: Protocol, seed: int, indices: Sequence[int]
    ) -> Iterator[Simulation]:
        self.asked.append(len(indices))
        return super().run_batch(circuit, thetas, protocol, seed, indices)


@pytest.fixture
def batched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    monkeypatch.setitem(ENGINES, "fake", (__name__, "BatchEngine"))
    BatchEngine.asked.clear()
    return BatchEngine.asked


def content(table: Table) -> tuple[Any, ...]:
    rows = table.read()
    return tuple(a.tolist() for a in (rows.index, rows.theta, rows.values, rows.states, rows.outcome, rows.reason))


def test_rows_are_those_of_single_simulations(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    expected = content(run_campaign(fakes.campaign(N), tmp_path / "single", progress=False))
    asked: list[int] = request.getfixturevalue("batched")
    together = run_campaign(fakes.campaign(N), tmp_path / "batched", progress=False)
    assert content(together) == expected and asked == [N]
    assert {"ok", "silent", "failed"} <= set(expected[4])


def test_workers_and_a_resume_change_nothing(tmp_path: Path, batched: list[int]) -> None:
    expected = content(run_campaign(fakes.campaign(N), tmp_path / "one", progress=False))
    run_campaign(fakes.campaign(11, unit=4), tmp_path / "two", progress=False)
    resumed = run_campaign(fakes.campaign(N, unit=5), tmp_path / "two", workers=2, progress=False)
    assert content(resumed) == expected
    assert batched == [N, 11, N - 11]


def test_many_simulations_are_run_in_several_streams(tmp_path: Path, batched: list[int]) -> None:
    """At most sixteen batches, and a unit, are asked for together, so that a campaign of any length can begin."""
    run_campaign(fakes.campaign(300), tmp_path / "long", progress=False)
    assert sum(batched) == 300 and max(batched) <= 16 * 8 + 7
