"""The aimed campaign on a device: nothing simulated is lost, weights are those of the draws, files are small."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.aimed import device
from benchmarks.aimed.aiming import FILE, load_candidates, shorter_targets, targets_of_rounds
from benchmarks.aimed.device import Plan, make_engine, run, shortened
from benchmarks.aimed.measuring import Workers
from benchmarks.aimed.packed import PackedRound, own_weights, packed_rounds, packed_table
from benchmarks.aimed.posterior import thinned
from benchmarks.aimed.settings import TABLES, channels, kept
from benchmarks.aimed.shipping import chosen
from benchmarks.aimed.shipping import main as ship
from benchmarks.aimed.tables import table_of
from sbi_circuits.circuit import Circuit
from sbi_circuits.demo import demo_table
from sbi_circuits.engines import Engine, Protocol, Simulation
from sbi_circuits.errors import TableError
from sbi_circuits.recording import Outcome, PopulationCounts, Recording
from sbi_circuits.seeds import generator, measuring_seed
from sbi_circuits.table import MemoryTable, Table

ROUNDS = Path(__file__).resolve().parents[1] / "benchmarks" / "aimed" / "kept" / "rounds"
VIEW = "adex_clustered_channels"


def recording(theta: np.ndarray, protocol: Protocol, seed: int, index: int) -> Recording:
    """Poisson trains that burst together every 0.9 s, at a rate that follows the first parameter."""
    random = generator(seed, index)
    bursts = np.arange(protocol.warmup + 0.5, protocol.warmup + protocol.duration - 0.2, 0.9 + random.random())
    spikes = [[b + random.normal(0, 0.02, random.poisson(4)) for b in bursts] for _ in range(200)]
    trains = [np.sort(np.concatenate(train)) for train in spikes]
    t1 = protocol.warmup + protocol.duration
    made = Recording.from_units(trains, protocol.warmup, t1)
    return replace(made, counts={"exc": PopulationCounts(made.population_counts(), 200)})


class Toy(Engine):
    """Half of the draws burst, the others are silent; `after` is called before every simulation."""

    name = "toy"

    def __init__(self, after: object = None) -> None:
        self.after, self.ran = after, 0

    def run(self, circuit: Circuit, theta: np.ndarray, protocol: Protocol, seed: int, index: int) -> Simulation:
        self.ran += 1
        if callable(self.after):
            self.after(self.ran)
        if circuit.prior.unconstrain(theta)[0] < 0:
            return Simulation(index, Outcome("silent", "no spikes"), None, 0.1)
        return Simulation(index, Outcome("ok"), recording(theta, protocol, seed, index), 0.1)


def plan(**changes: object) -> Plan:
    found = shortened(Plan(workers=1, minutes=5.0, rounds=2), 6.0)
    first, later = (replace(s, per_round=40) for s in (found.first, found.later))
    return replace(found, first=first, later=later, **changes)  # type: ignore[arg-type]


def go(folder: Path, engine: Toy, monkeypatch: pytest.MonkeyPatch, start: Path | None = None, **changes: object
       ) -> None:  # fmt: skip
    monkeypatch.setattr(device, "make_engine", lambda *rest: engine)
    run(folder, plan(**changes), start)


def test_rounds_are_written_whole_and_measured_as_they_would_be_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go(tmp_path / "out", Toy(), monkeypatch)
    first, second = packed_rounds(tmp_path / "out")
    assert len(first) == len(second) == 40 and first.seed != second.seed
    assert not np.isin(first.z, second.z).any()
    wanted, ok = plan().wanted[VIEW], int(np.flatnonzero(first.outcome == "ok")[0])
    theta = first.manifests[VIEW].prior.constrain(first.z[ok])
    seen = wanted.features.measure_windows(
        recording(theta, plan().first.protocol, first.seed, ok), wanted.window_s, measuring_seed(first.seed, ok)
    )
    np.testing.assert_array_equal(first.values[VIEW][ok], seen.window_values.astype(np.float32))
    np.testing.assert_array_equal(first.states[VIEW][ok], seen.window_states)
    assert (first.values[VIEW][first.outcome != "ok"] == 0).all() and first.outcome.tolist().count("silent") > 3
    _tables(tmp_path / "out", first, second)
    _goes_on(tmp_path, monkeypatch)


def _tables(folder: Path, first: PackedRound, second: PackedRound) -> None:
    """Tables of all views: a row per window, configurations that agree, weights bounded by the prior's share."""
    made = {name: packed_table([first, second], name) for name in TABLES}
    whole, halves = made[VIEW], made["adex_clustered"]
    ok = int((whole.rows.outcome == "ok").sum())
    assert len(whole) == 80 and len(halves) == 80 + ok
    assert halves.manifest.protocol["duration"] == 3.0 and whole.manifest.protocol["duration"] == 6.0
    assert whole.feature_set == channels() and made["adex_clustered_cells"].rows.values.any()
    weight = own_weights([first, second])
    assert np.isfinite(weight).all() and (weight > 0).all() and weight.max() <= 2 / (0.5 + 0.35) + 1e-9
    path = whole.export_file(folder / "whole.parquet")
    assert path.stat().st_size > 0
    with pytest.raises(TableError, match="protocol duration"):  # what is kept is of 120 s
        table_of(folder, TABLES[VIEW])
    (folder / "device-009.parquet").write_bytes(b"PAR1")
    with pytest.raises(TableError, match="device-009.parquet is not a round of a device"):
        packed_rounds(folder)
    (folder / "device-009.parquet").unlink()


def _goes_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the candidates alone: another folder, numbers and seeds that follow."""
    (folder / "start").mkdir()
    (folder / "out" / FILE).rename(folder / "start" / FILE)
    go(folder / "more", Toy(), monkeypatch, folder / "start", rounds=1)
    (third,) = packed_rounds(folder / "more")
    assert third.number == 2
    targets = targets_of_rounds(channels().names)
    again = load_candidates([folder / "out", folder / "more"], targets, VIEW)
    assert again is not None and again.number == 3
    from_rounds = load_candidates([folder / "out"], targets, VIEW)
    assert from_rounds is not None and from_rounds.number == 2


def test_weights_integrate_to_one_and_not_with_kernels_of_another_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = plan(rounds=1)
    monkeypatch.setattr(device, "make_engine", lambda *rest: Silent())
    big = replace(found, first=replace(found.first, per_round=4000))
    run(tmp_path, big)
    (made,) = packed_rounds(tmp_path)
    weight = own_weights([made])
    error = weight.std() / np.sqrt(len(weight))
    assert abs(weight.mean() - 1) < 4 * error and error < 0.03
    wrong = replace(made, kernels=replace(made.kernels, prior_share=np.array(0.7)))
    assert abs(own_weights([wrong]).mean() - 1) > 4 * error
    assert (tmp_path / "device-000.parquet").stat().st_size < 0.3e6 + 4000 * 150


def test_tables_join_the_rounds_of_a_device_with_those_that_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Plan(workers=1, minutes=5.0, rounds=1)
    monkeypatch.setattr(device, "make_engine", lambda *rest: Toy())
    run(tmp_path, replace(whole, first=replace(whole.first, per_round=8, seed=40270)))
    (made,) = packed_rounds(tmp_path)
    ok = int((made.outcome == "ok").sum())
    assert ok
    for name, more in ((VIEW, 8), ("adex_clustered", 8 + ok), ("adex_clustered_cells", 8)):
        before, joined = Table.load_file(kept(name)), table_of(tmp_path, TABLES[name])
        assert len(joined) == len(before) + more and (joined.rows.weight > 0).all()
        fresh = joined.rows.take(joined.rows.seed == made.seed)
        assert len(fresh) == more and np.isin(made.manifests[VIEW].prior.constrain(made.z), fresh.theta).all()


def test_rounds_that_a_kept_table_holds_are_not_joined_twice() -> None:
    whole = Table.load_file(kept("adex_clustered"))
    assert packed_rounds(ROUNDS)
    assert table_of(ROUNDS, TABLES["adex_clustered"]).digest == whole.digest


class Silent(Toy):
    """Nothing ever happens."""

    def run(self, circuit: Circuit, theta: np.ndarray, protocol: Protocol, seed: int, index: int) -> Simulation:
        return Simulation(index, Outcome("silent", "no spikes"), None, 0.1)


def test_what_was_simulated_before_an_interruption_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGINT)
    stopping = Toy(lambda n: os.kill(os.getpid(), signal.SIGINT) if n == 17 else None)
    go(tmp_path, stopping, monkeypatch)
    (made,) = packed_rounds(tmp_path)
    assert len(made) == 17 == stopping.ran and signal.getsignal(signal.SIGINT) is before


def test_an_error_of_the_engine_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(Toy):
        def run_batch(self, circuit, thetas, protocol, seed, indices):  # type: ignore[no-untyped-def]
            for n, simulation in enumerate(super().run_batch(circuit, thetas, protocol, seed, indices)):
                if n == 12:
                    raise RuntimeError("the device is gone")
                yield simulation

    with pytest.raises(RuntimeError, match="the device is gone"):
        go(tmp_path, Broken(), monkeypatch)
    (made,) = packed_rounds(tmp_path)
    assert len(made) == 12


def test_the_time_ends_a_round_and_no_other_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = iter([100.0] * 12 + [-1.0] * 1000)
    monkeypatch.setattr(device.Run, "left", lambda self: next(left))
    engine = Toy()
    go(tmp_path, engine, monkeypatch)
    (made,) = packed_rounds(tmp_path)
    assert 5 < len(made) == engine.ran < 40


def test_what_ships_is_near_the_targets_one_window_of_each_simulation(tmp_path: Path) -> None:
    table = demo_table()
    double = table.rows.take(np.repeat(np.arange(len(table)), 2))
    made = chosen(MemoryTable(table.manifest, double), 1000)
    assert len(made) == 1000 == len(np.unique(made.rows.theta, axis=0)) and made.counts() == {"ok": 1000}
    targets = shorter_targets()
    near, whole = (targets.distances(t.rows.values, t.rows.states).min(1) for t in (made, ok_only(table)))
    assert np.median(near) < np.median(whole) and near.min() == whole.min()
    at_random = chosen(ok_only(table), 100_000)  # fewer than may ship: all
    assert len(at_random) == table.counts()["ok"]
    table.export_file(tmp_path / "table.parquet")
    assert len(ship(tmp_path / "table.parquet", tmp_path / "shipped.parquet", 500)) == 500
    wrong = Table.load_file(kept(VIEW)).export_file(tmp_path / "wrong.parquet")
    with pytest.raises(TableError, match="another feature set and duration than the posterior that ships"):
        ship(wrong, tmp_path / "shipped.parquet", 500)


def ok_only(table: MemoryTable) -> MemoryTable:
    return MemoryTable(table.manifest, table.rows.take(table.rows.outcome == "ok"))


def test_thinned_tables_keep_all_windows_of_a_simulation() -> None:
    table = Table.load_file(kept("adex_clustered"))
    found = thinned(table, 500)
    _, windows = np.unique(found.rows.theta, axis=0, return_counts=True)
    of = {theta.tobytes(): 0 for theta in found.rows.theta}
    for theta in ok_only(table).rows.theta:
        if theta.tobytes() in of:
            of[theta.tobytes()] += 1
    assert len(windows) == 500 and sum(of.values()) == len(found) == windows.sum() and windows.max() == 2


def test_the_campaign_needs_little_of_the_machine_it_runs_on() -> None:
    """No package for training, results, plots or the command line is imported."""
    lacking = ("rich", "zuko", "nflows", "xarray", "arviz", "matplotlib", "typer", "joblib")
    block = "import sys; sys.modules.update(dict.fromkeys(LACKING)); import benchmarks.aimed.device as d; "
    block = block.replace("LACKING", repr(lacking))
    work = "from benchmarks.aimed.aiming import *; t = targets_of_rounds(d.TABLES[d.Plan().aim].features.names); "
    done = subprocess.run([sys.executable, "-c", block + work + "print(len(first_candidates(t).candidates.z))"],
                          cwd=ROUNDS.parents[3], capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 1000


def test_an_engine_without_a_device_prepares_nothing() -> None:
    with Workers(1) as workers:
        assert make_engine("kernel[numba]", workers, None).executor is None  # type: ignore[arg-type]
