"""Campaigns: the table depends on the plan alone, not on who ran it, in what order, or how often killed."""

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import fakes
import numpy as np
import pytest

from sbi_circuits.campaign import Campaign, TableProposal, remeasure, run_campaign
from sbi_circuits.campaign import coordinator as coordinator_module
from sbi_circuits.campaign import unit as unit_module
from sbi_circuits.campaign.plan import PROPOSAL_FILE, units
from sbi_circuits.campaign.progress import Progress
from sbi_circuits.circuit import Record
from sbi_circuits.engines import Protocol
from sbi_circuits.errors import PriorError, TableError, TranslationError, UnknownNameError
from sbi_circuits.features import DEFINED, UNDEFINED, FeatureSet
from sbi_circuits.prior import Parameter, Prior
from sbi_circuits.recording import Recording
from sbi_circuits.table import Rows, Table, rows_equal
from sbi_circuits.table_recordings import Recordings

N = 40
HELPER = [sys.executable, str(Path(fakes.__file__))]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    """The table of the campaign, run at once."""
    return run_campaign(fakes.campaign(N), tmp_path_factory.mktemp("whole"), progress=False).read()


def fill(path: Path, campaign: Campaign, **options: object) -> Rows:
    return run_campaign(campaign, path, progress=False, **options).read()  # type: ignore[arg-type]


@pytest.mark.parametrize("unit", [1, 7, 64])
def test_the_size_of_a_unit_changes_nothing(tmp_path: Path, expected: Rows, unit: int) -> None:
    assert rows_equal(fill(tmp_path, fakes.campaign(N, unit=unit)), expected)


def test_the_number_of_workers_changes_nothing(tmp_path: Path, expected: Rows) -> None:
    assert rows_equal(fill(tmp_path, fakes.campaign(N), workers=2), expected)


def test_a_killed_worker_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What kills every worker (memory running out) ends in a clear line, and loses nothing."""

    def killed(*arguments: object) -> Rows:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    monkeypatch.setattr(coordinator_module, "simulate_unit", killed)
    with pytest.raises(TableError, match="5 simulations were given up after 1 attempts .*SIGKILL.*0/5 simulations are"):
        fill(tmp_path, fakes.campaign(5), executor="loky", workers=2, attempts=1)


def test_the_order_of_units_changes_nothing(
    tmp_path: Path, expected: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shuffled(indices: np.ndarray, size: int) -> list[tuple[int, int]]:
        ordered = list(units(indices, size))
        return [ordered[k] for k in np.random.default_rng(0).permutation(len(ordered))]

    monkeypatch.setattr(coordinator_module, "units", shuffled)
    assert rows_equal(fill(tmp_path, fakes.campaign(N, unit=3)), expected)


def test_growing_keeps_what_is_there(tmp_path: Path, expected: Rows) -> None:
    """A campaign grown in steps, each of another unit size, is the campaign run at once; parts stay."""
    fill(tmp_path, fakes.campaign(5))
    written = {p.path: p.path.stat().st_mtime_ns for p in Table.open(tmp_path).parts()}
    fill(tmp_path, fakes.campaign(23, unit=4))
    assert rows_equal(fill(tmp_path, fakes.campaign(5).grow(N)), expected)
    assert all(path.stat().st_mtime_ns == when for path, when in written.items())


def test_a_finished_campaign_does_nothing(tmp_path: Path) -> None:
    fill(tmp_path, fakes.campaign(9))
    called: list[Rows] = []
    fill(tmp_path, fakes.campaign(9), on_unit=called.append)
    fill(tmp_path, fakes.campaign(4), on_unit=called.append)
    assert called == []


def test_every_outcome_is_a_row(expected: Rows) -> None:
    """A failing simulation has its reason in one line; what is not ok has no defined feature."""
    failed = expected.outcome == "failed"
    assert np.flatnonzero(failed).tolist() == [5, 18, 31]
    assert expected.reason[5] == "CircuitError: no such network at simulation 5"
    ok = expected.outcome == "ok"
    assert (expected.outcome == "silent").any() and ok.any()
    assert (expected.states[~ok] == UNDEFINED).all() and (expected.values[~ok] == 0).all()
    assert (expected.states[ok] == DEFINED).any(axis=1).all()


def test_theta_of_the_prior_is_its_sample(expected: Rows) -> None:
    assert np.array_equal(expected.theta, fakes.PRIOR.sample(N, seed=3))
    assert set(expected.proposal) == {"prior"}


def test_a_truncated_part_is_simulated_again(tmp_path: Path, expected: Rows) -> None:
    fill(tmp_path, fakes.campaign(N))
    part = Table.open(tmp_path).parts()[2].path
    part.write_bytes(part.read_bytes()[:-100])
    assert rows_equal(fill(tmp_path, fakes.campaign(N)), expected)
    assert (tmp_path / "set_aside" / part.name).exists()


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"seed": 4}, "another seed"),
        ({"protocol": Protocol(duration=3.0, record=Record(spikes=3))}, "another protocol duration"),
        ({"protocol": Protocol(duration=2.0, record=Record(spikes=4))}, "another protocol spikes"),
        ({"feature_set": FeatureSet.of("bursts")}, "another feature set"),
        ({"circuit": fakes.circuit(equations=fakes.EQUATIONS.replace("20", "30"))}, "another circuit"),
        ({"prior": Prior((Parameter("g", "1", 1, 2), Parameter("rate", "Hz", 1, 20)))}, "another prior"),
        ({"engine": "brian2"}, "another engine"),
        ({"proposal": TableProposal(fakes.PRIOR.sample(9, seed=9), "mine")}, "another proposal .*mine@"),
    ],
)
def test_another_campaign_is_refused(tmp_path: Path, changes: dict[str, object], what: str) -> None:
    fill(tmp_path, fakes.campaign(5))
    with pytest.raises(TableError, match=what):
        fill(tmp_path, fakes.campaign(5, **changes))
    assert fakes.campaign(5, **changes).digest != fakes.campaign(5).digest


def test_the_digest_leaves_out_how_it_is_run() -> None:
    written_out = Protocol(duration=2.0, record=Record(spikes=3), dt=1e-4)
    for same in (fakes.campaign(9), fakes.campaign(5, unit=1), fakes.campaign(5, protocol=written_out)):
        assert same.digest == fakes.campaign(5).digest


def test_a_proposal_is_kept_with_the_table(tmp_path: Path) -> None:
    """Its configurations are simulated, and resuming needs nothing but the folder."""
    proposal = TableProposal(fakes.PRIOR.sample(12, seed=8), "second round")
    rows = fill(tmp_path, fakes.campaign(5, proposal=proposal))
    assert np.array_equal(rows.theta, proposal.theta[:5])
    assert set(rows.proposal) == {proposal.label}
    kept = TableProposal.load(tmp_path / PROPOSAL_FILE)
    assert kept.digest == proposal.digest
    assert len(fill(tmp_path, fakes.campaign(12, proposal=kept))) == 12


def test_bad_plans_are_refused() -> None:
    few = TableProposal(fakes.PRIOR.sample(3, seed=0), "few")
    with pytest.raises(TableError, match="'few' has 3 configurations, 5 are needed"):
        fakes.campaign(5, proposal=few)
    with pytest.raises(PriorError, match="outside its prior"):
        fakes.campaign(1, proposal=TableProposal(np.array([[100.0, 2.0]]), "far"))
    with pytest.raises(TableError, match="is not a finite matrix"):
        TableProposal(np.array([[np.nan, 2.0]]), "nan")
    with pytest.raises(UnknownNameError, match="unknown engine 'gpu'; valid: auto, brian2"):
        fakes.campaign(5, engine="gpu")
    with pytest.raises(TableError, match="need the spikes of 80 cells"):
        fakes.campaign(5, feature_set=FeatureSet.of("bursts", view="channels"))
    for wrong in ({"n": 0}, {"unit": 0}, {"seed": -1}):
        with pytest.raises(TableError, match=f"{next(iter(wrong))} of a campaign must be"):
            fakes.campaign(**wrong)  # type: ignore[arg-type]


def test_bad_ways_to_run_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="unknown executor 'slurm'; valid: auto, dask, inprocess, loky"):
        fill(tmp_path, fakes.campaign(5), executor="slurm")
    with pytest.raises(TableError, match="workers must be"):
        fill(tmp_path, fakes.campaign(5), workers=0)
    assert not (tmp_path / "manifest.json").exists()


def test_an_engine_that_cannot_run_the_circuit_stops_the_campaign(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cannot(*arguments: object) -> None:
        raise TranslationError("no such function")

    monkeypatch.setattr(fakes.FakeEngine, "run", cannot)
    with pytest.raises(TranslationError):
        fill(tmp_path, fakes.campaign(5))
    assert Table.open(tmp_path).parts() == []


def test_units_cover_indices_once() -> None:
    """Whatever is missing, units are contiguous, no larger than asked for, and cover it exactly."""
    draw = np.random.default_rng(0)
    for size in (1, 3, 16):
        missing = np.flatnonzero(draw.random(200) < 0.8)
        ranges = list(units(missing, size))
        assert np.array_equal(np.concatenate([np.arange(*r) for r in ranges]), missing)
        assert all(0 < b - a <= size for a, b in ranges)
    assert list(units(np.zeros(0, dtype=int), 4)) == []


def test_kept_recordings_can_be_measured_again(tmp_path: Path, expected: Rows) -> None:
    """New features of the same simulations, equal to those of a campaign that measured them at once."""
    both = FeatureSet.of("isi", "bursts")
    kept = fill(tmp_path / "kept", fakes.campaign(N, keep_recordings=True))
    assert rows_equal(kept, expected)
    again = remeasure(tmp_path / "kept", both, tmp_path / "again", progress=False)
    at_once = fill(tmp_path / "once", fakes.campaign(N, feature_set=both))
    assert rows_equal(again.read(), at_once)
    assert again.manifest.identity() == fakes.campaign(N, feature_set=both).manifest.identity()
    assert len(list((tmp_path / "kept" / "recordings").iterdir())) == (kept.outcome == "ok").sum()


def test_recordings_of_chosen_simulations_are_kept(tmp_path: Path, expected: Rows) -> None:
    """Every fifth that ended ok, as it was measured; the table does not change."""
    rows = fill(tmp_path, fakes.campaign(N, keep_recordings=5))
    kept = Recordings(tmp_path / "recordings")
    assert rows_equal(rows, expected)
    assert list(kept) == [i for i in range(0, N, 5) if rows.outcome[i] == "ok"] and len(kept) > 3
    features = FeatureSet.of("isi")
    for index, recording in kept.items():
        measured = features.measure(recording, seed=unit_module.measuring_seed(fakes.campaign(N).seed, index))
        assert np.array_equal(measured.values.astype(np.float32), rows.values[index].astype(np.float32))
    with pytest.raises(TableError, match="recordings are not in .*the first of simulation 1;"):
        remeasure(tmp_path, features, tmp_path / "again", progress=False)
    with pytest.raises(TableError, match="keep_recordings of a campaign must be 0 or above, got -1"):
        fakes.campaign(N, keep_recordings=-1)


def test_measuring_again_names_lost_recordings(tmp_path: Path) -> None:
    fill(tmp_path / "kept", fakes.campaign(5, keep_recordings=True))
    next((tmp_path / "kept" / "recordings").iterdir()).unlink()
    with pytest.raises(TableError, match="1 recordings are not in .*the first of simulation [0-4];"):
        remeasure(tmp_path / "kept", FeatureSet.of("isi"), tmp_path / "again", progress=False)


def test_a_failing_measurement_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object, **options: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(FeatureSet, "measure", broken)
    rows = fill(tmp_path, fakes.campaign(5))
    assert "ZeroDivisionError: no message" in rows.reason.tolist() and "ok" not in rows.outcome.tolist()


def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(folder: Path, recordings: dict[int, Recording]) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(unit_module, "write_recordings", full)
    with pytest.raises(TableError, match="cannot write into .*: No space left on device"):
        fill(tmp_path, fakes.campaign(5, keep_recordings=True))


def test_progress_without_a_terminal_is_plain_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sbi_circuits.campaign.progress.LINE_EVERY", 0.0)
    run_campaign(fakes.campaign(N), tmp_path)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("7/40 simulations, ") and "/s, " in lines[0] and "ok" in lines[0]
    assert lines[-1] == f"wrote 40 simulations to {tmp_path} (40 in all: 36 ok, 3 failed, 1 silent)"
    run_campaign(fakes.campaign(N), tmp_path, progress=False)
    assert capsys.readouterr().err == ""


def test_progress_on_a_terminal_is_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", terminal)
    with Progress(10, 2, {"ok": 2}) as progress:
        progress.update(np.array(["ok", "silent"]))
    assert "4/10" in terminal.getvalue() and "3 ok, 1 silent" in terminal.getvalue()


def test_killed_at_twenty_random_moments_a_campaign_resumes_to_the_same_table(tmp_path: Path) -> None:
    """SIGKILL loses at most the unit in hand: resumed, the table equals an uninterrupted one, row for row."""
    n, moments = 900, np.random.default_rng(7).uniform(size=20)
    server = subprocess.Popen(HELPER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert server.stdin is not None and server.stdout is not None
    assert server.stdout.readline() == "ready\n"

    def parts(name: str) -> int:
        return len(list((tmp_path / name / "parts").glob("part-*")))

    def started(name: str) -> int:
        print(tmp_path / name, n, 3, file=server.stdin, flush=True)
        return int(server.stdout.readline())

    def kill(child: int) -> None:
        os.kill(child, signal.SIGKILL)
        assert int(server.stdout.readline()) == -signal.SIGKILL

    # How long the first unit takes here and now: the moments are to lie about it on every machine, however busy.
    child, began = started("first"), time.monotonic()
    while not parts("first") and time.monotonic() < began + 60:
        time.sleep(0.005)
    latest = max(0.3, 1.5 * (time.monotonic() - began))
    kill(child)
    progress = []
    for moment in moments:
        child = started("killed")
        time.sleep(latest * moment)
        kill(child)
        progress.append(parts("killed"))
    server.communicate()
    assert 0 < progress[5] < progress[-1] < n / 3, "the kills did not fall within the campaign"
    whole = fill(tmp_path / "whole", fakes.campaign(n))
    resumed = run_campaign(fakes.campaign(n, unit=3), tmp_path / "killed", progress=False)
    assert rows_equal(resumed.read(), whole)
    assert resumed.verify() == []


@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c_leaves_a_table_to_go_on_with(tmp_path: Path, expected: Rows, workers: int) -> None:
    """An interrupt, as a terminal sends it to every process, ends with one line that says how to resume."""
    process = subprocess.Popen([*HELPER, str(tmp_path), "4000", "7", str(workers)], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True, start_new_session=True)  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "running\n"
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode != 0
    # On a busy machine a line of progress may come first.
    (line,) = [line for line in said.splitlines() if line.startswith("interrupted: ")]
    assert "run the same campaign again to go on" in line
    table = Table.open(tmp_path)
    assert 0 < len(table) < 4000 and table.verify() == []
    rows = fill(tmp_path, fakes.campaign(max(N, len(table))))
    assert rows_equal(rows.take(np.arange(N)), expected)
