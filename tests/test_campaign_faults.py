"""Faults: what a campaign goes through changes nothing in its table, and each fault can be seen in its status."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import fakes
import numpy as np
import pytest

from sbi_circuits.campaign import campaign_status, forgive, run_campaign, verify_campaign
from sbi_circuits.campaign import claims as claims_module
from sbi_circuits.campaign import run as run_module
from sbi_circuits.campaign.claims import Claim, Claims
from sbi_circuits.campaign.executors import InProcess
from sbi_circuits.campaign.guard import attempt
from sbi_circuits.campaign.journal import History, Journal, Tail
from sbi_circuits.campaign.unit import Fault, Job, Result, Task, simulate_unit
from sbi_circuits.engines import ENGINES
from sbi_circuits.errors import TableError
from sbi_circuits.table import Rows, Table, rows_equal

N = 40
LIMIT = 6.0  # seconds: far above what a unit takes, on a busy machine too
MARKS = "CAMPAIGN_TEST_MARKS"  # folder: a fault that left its mark does not happen again


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    """The table of the campaign, without any fault."""
    return run_campaign(fakes.campaign(N), tmp_path_factory.mktemp("whole"), progress=False).read()


@pytest.fixture
def marks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Use the faulty engine, which leaves its marks here; the campaign stays the same."""
    folder = tmp_path / "marks"
    folder.mkdir()
    monkeypatch.setenv(MARKS, str(folder))
    monkeypatch.setitem(ENGINES, "fake", (__name__, "FaultyEngine"))
    return folder


class FaultyEngine(fakes.FakeEngine):
    """The fake engine on a machine where things go wrong, each once unless a file says always."""

    def run(self, circuit: Any, theta: Any, protocol: Any, seed: int, index: int) -> Any:
        what = {2: "hang", 9: "kill", 16: "memory", 23: "exit", 37: "disk"}.get(index)
        mark = Path(os.environ[MARKS]) / f"{what}"
        if what and (mark.with_suffix(".on").exists() and not mark.exists()):
            if not mark.with_suffix(".always").exists():
                mark.touch()
            self.fail(what)
        return super().run(circuit, theta, protocol, seed, index)

    def fail(self, what: str) -> None:
        if what == "hang":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(3600)
        if what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise {"memory": MemoryError("Unable to allocate 1 TiB"), "exit": SystemExit(3), "disk": OSError("stale")}[what]


def turn_on(marks: Path, *faults: str, always: bool = False) -> None:
    for name in faults:
        (marks / f"{name}.on").touch()
        if always:
            (marks / f"{name}.always").touch()


def fill(path: Path, **options: Any) -> Rows:
    return run_campaign(fakes.campaign(N), path, progress=False, **options).read()


def test_killed_out_of_memory_and_broken_units_are_run_again(tmp_path: Path, marks: Path, expected: Rows) -> None:
    """A killed worker, a failed allocation, a stale file and a circuit that exits are faults of units, and no rows."""
    turn_on(marks, "kill", "memory", "exit", "disk")
    fill(tmp_path / "t", workers=2)
    fakes.nothing_lost_or_twice(tmp_path / "t", N, expected)
    status = campaign_status(tmp_path / "t")
    assert status.faults == {"killed": 1, "memory": 1, "error": 2}
    assert (status.failing, status.given_up, status.missing) == ({}, {}, 0)
    reasons = " ".join(f["reason"] for f in History.read(tmp_path / "t" / "journal").faults)
    assert "SIGKILL" in reasons and "Unable to allocate" in reasons and "SystemExit: 3" in reasons


def test_a_hung_simulation_is_given_up_and_retried(tmp_path: Path, marks: Path, expected: Rows) -> None:
    """It costs its unit one time limit, then itself; all others are there; `retry` brings it in."""
    turn_on(marks, "hang", always=True)
    with pytest.raises(TableError, match=r"1 simulations were given up after 2 attempts \(1 x time limit.*39/40"):
        fill(tmp_path / "t", time_limit=LIMIT, attempts=2)
    status = campaign_status(tmp_path / "t")
    assert status.given_up == {f"time limit: no result within {LIMIT:g} s": 1} and status.done == N - 1
    assert any("given up  1 simulations: time limit" in line for line in status.lines())
    with pytest.raises(TableError, match="given up"):  # and not tried again unasked
        fill(tmp_path / "t", time_limit=LIMIT, attempts=2)
    (marks / "hang.on").unlink()
    assert forgive(tmp_path / "t") == 1
    assert rows_equal(fill(tmp_path / "t"), expected)
    assert campaign_status(tmp_path / "t").faults == {"time limit": 2}


class InterruptedEngine(fakes.FakeEngine):
    """Ctrl-C comes in the middle of compiled code, which makes an error of its own of it."""

    def run(self, circuit: Any, theta: Any, protocol: Any, seed: int, index: int) -> Any:
        if index == 10:
            try:
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.01)
            except KeyboardInterrupt as error:
                raise SystemError("returned a result with an exception set") from error
        return super().run(circuit, theta, protocol, seed, index)


def test_an_interrupt_is_no_outcome(tmp_path: Path, expected: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setitem(ENGINES, "fake", (__name__, "InterruptedEngine"))
        fill(tmp_path)
    assert len(Table.open(tmp_path)) == 7
    assert signal.getsignal(signal.SIGINT) is before
    assert rows_equal(fill(tmp_path), expected)


def test_a_full_disk_loses_nothing(tmp_path: Path, expected: Rows) -> None:
    """On a file system of its own: one clear line, the fault in the status, and on it goes once there is room."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", str(disk)]
    mount = subprocess.run(command, capture_output=True, text=True)
    if mount.returncode != 0:
        pytest.skip(f"cannot mount a small file system: {mount.stderr.strip()}")
    try:
        with pytest.raises(TableError, match="cannot write into .*No space left on device.*make room") as told:
            run_campaign(fakes.campaign(N, unit=1), disk / "t", progress=False)
        assert "\n" not in str(told.value)
        there = len(Table.open(disk / "t"))
        assert 0 < there < N and list((disk / "t" / "parts").glob(".*")) == []
        assert campaign_status(disk / "t").faults == {"disk": 1}
        subprocess.run(["mount", "-o", "remount,size=16m", str(disk)], check=True)
        run_campaign(fakes.campaign(N, unit=1), disk / "t", progress=False)
        fakes.nothing_lost_or_twice(disk / "t", N, expected)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_damaged_parts_are_found_and_simulated_again(tmp_path: Path, expected: Rows) -> None:
    """One is cut short; in one a byte differs, with the same size and times; one is a part of other configurations."""
    fill(tmp_path)
    parts = Table.open(tmp_path).parts()
    parts[1].path.write_bytes(parts[1].path.read_bytes()[:-100])
    content, when = bytearray(parts[3].path.read_bytes()), parts[3].path.stat()
    content[len(content) // 2] ^= 1
    parts[3].path.write_bytes(bytes(content))
    os.utime(parts[3].path, ns=(when.st_atime_ns, when.st_mtime_ns))
    problems = verify_campaign(tmp_path)
    assert [line.partition(":")[0] for line in problems[:2]] == [parts[1].path.name, parts[3].path.name]
    assert "14 simulations are missing: 7 to 13, 21 to 27" in problems[-1]
    status = campaign_status(tmp_path)
    assert (status.faults, status.missing) == ({"damaged": 2}, 14)
    fill(tmp_path)
    fakes.nothing_lost_or_twice(tmp_path, N, expected)


def test_a_part_with_other_configurations_is_found(tmp_path: Path) -> None:
    """Whole, with the right name, schema and digests, but not what the plan draws: negative control of `verify`."""
    table = run_campaign(fakes.campaign(N), tmp_path, progress=False)
    rows = table.read().take(np.arange(7))
    table.append(0, 7, replace(rows, theta=rows.theta[::-1].copy()), table.manifest)
    for journal in (tmp_path / "journal").glob("*.jsonl"):
        journal.unlink()  # with it, the checksum alone would tell
    assert any("its theta is not what the plan draws" in line for line in verify_campaign(tmp_path, set_aside=False))


def test_the_clock_is_not_asked(tmp_path: Path, expected: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a wall clock that jumps by years nor file times from the future change anything."""
    jumps = np.random.default_rng(0)
    monkeypatch.setattr(time, "time", lambda: float(jumps.uniform(-1e9, 4e9)))
    stale = Claims(tmp_path / "claims", lease=60.0)
    (tmp_path / "claims").mkdir(exist_ok=True)

    def touch(rows: Rows) -> None:
        for file in (tmp_path / "claims").iterdir():
            os.utime(file, (1e9 * jumps.uniform(0, 4),) * 2)

    assert rows_equal(fill(tmp_path, on_unit=touch), expected)
    assert stale.owners() == []


def other_machine(folder: Path, beat: int, lease: float = 8.0) -> None:
    state = {"beat": beat, "lease": lease, "machine": ["elsewhere", "1", "2"], "pid": 1, "started": "1"}
    (folder / "elsewhere.beat").write_text(json.dumps(state))


def test_who_stops_counting_is_dead_after_its_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the time that passed here while its count stood still, whatever its clock and its files' times say."""
    now = [100.0]
    monkeypatch.setattr(claims_module, "monotonic", lambda: now[0])
    taken: list[Claim] = []
    mine = Claims(tmp_path / "claims", lease=3.0, on_takeover=taken.append)
    other_machine(mine.folder, beat=1)
    (mine.folder / "0000000000-0000000004.claim").write_text("elsewhere")
    assert not mine.take(0, 4) and not mine.take(2, 6) and mine.take(4, 8)
    assert not mine.certain("elsewhere")  # it may be dead
    now[0] += 7.9
    other_machine(mine.folder, beat=2)
    assert not mine.take(0, 4) and mine.certain("elsewhere")
    now[0] += 7.9
    assert not mine.take(0, 4)
    os.utime(mine.folder / "elsewhere.beat", (4e9, 4e9))  # from the future: no sign of life
    now[0] += 0.2
    assert mine.take(0, 4) and [claim.owner for claim in taken] == ["elsewhere"]
    mine.release(0, 4)
    assert {(c.start, c.stop) for c in mine.claims()} == {(4, 8)}


def test_a_claim_that_was_taken_over_is_not_released(tmp_path: Path) -> None:
    mine = Claims(tmp_path / "claims")
    assert mine.take(0, 4)
    (tmp_path / "claims" / "0000000000-0000000004.claim").write_text("another")
    mine.release(0, 4)
    assert [claim.owner for claim in mine.claims()] == ["another"]


class Elsewhere(InProcess):
    """A node with other code."""

    def run(self, function: Any, tasks: Iterable[Task]) -> Iterator[Result]:
        for task in tasks:
            job: Job = task.arguments[0]
            yield attempt(simulate_unit, replace(task, arguments=(replace(job, code="9.9+other"), *task.arguments[1:])))


def test_a_node_with_other_code_is_of_no_use(tmp_path: Path) -> None:
    """Its units are not in the table, do not count as failed simulations, and the campaign says why it stops."""
    with pytest.raises(TableError, match="no worker is of use: .* has code .*, the campaign 9.9.other; 0/40"):
        fill(tmp_path, executor=Elsewhere())
    status = campaign_status(tmp_path)
    assert set(status.faults) == {"code"} and status.given_up == {} and status.done == 0


def test_other_code_does_not_go_on_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_campaign(fakes.campaign(10), tmp_path, progress=False)
    monkeypatch.setattr(run_module, "code_identity", lambda: "9.9+other")
    with pytest.raises(TableError, match="was begun by code .*here is 9.9.other.*--accept-code"):
        fill(tmp_path)
    assert campaign_status(tmp_path).faults == {"code": 1} and len(Table.open(tmp_path)) == 10
    assert len(fill(tmp_path, accept_code=True)) == N
    assert "9.9+other" in (tmp_path / "campaign.json").read_text()


class OutOfMemory(InProcess):
    """Gives what it is told to, once."""

    def __init__(self, faults: Sequence[Fault]):
        self.faults = list(faults)

    def run(self, function: Any, tasks: Iterable[Task]) -> Iterator[Result]:
        for task in tasks:
            fault = self.faults.pop() if self.faults else None
            yield Result(task.start, task.stop, fault=fault) if fault else attempt(function, task)


def test_simulations_of_a_failed_unit_are_run_one_by_one(tmp_path: Path, expected: Rows) -> None:
    units: list[int] = []
    fill(tmp_path, executor=OutOfMemory([Fault("killed", "by chance")]), on_unit=lambda rows: units.append(len(rows)))
    assert sorted(units) == [1] * 7 + [5] + [7] * 4
    fakes.nothing_lost_or_twice(tmp_path, N, expected)


def test_journals_survive_what_happens_to_them(tmp_path: Path) -> None:
    """A line cut short, bytes that are no text, and lines of other programs are left out; others are read on."""
    with Journal(tmp_path, "one") as journal:
        journal.fault(0, 4, Fault("killed", "why"))
    with (tmp_path / "one.jsonl").open("ab") as file:
        file.write(b'\xff\xfe\n[1]\n{"event": "done"}\n{"event": "fault", "start": 0, "st')
    history = History.read(tmp_path)
    assert [f["kind"] for f in history.faults] == ["killed"] and history.attempts == {(0, 4): 1}
    assert history.begun["one"]["schema_version"] == 1 and "one" in history.ended
    assert not list(tmp_path.glob(".*.reserve"))


def test_a_tail_gives_whole_lines_once(tmp_path: Path) -> None:
    with Journal(tmp_path, "mine"), Journal(tmp_path, "other") as other:
        tail = Tail(tmp_path, "mine")
        other.fault(0, 1, Fault("killed", "a"))
        with other.path.open("ab") as file:
            file.write(b'{"event": "do')
            file.flush()
            assert [event["event"] for event in tail.news()] == ["fault"]
            file.write(b'ne"}\n')
        assert [event["event"] for event in tail.news()] == ["done"]
        assert list(tail.news()) == []
