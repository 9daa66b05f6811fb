"""Campaigns whose workers and coordinators are killed at any moment."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import fakes
import numpy as np
import pytest

from sbi_circuits.campaign import campaign_status, plan_campaign, run_campaign
from sbi_circuits.campaign.journal import History

# A coordinator whose workers may be killed any number of times.
COORDINATOR = """
import sys
sys.path[:0] = [{tests!r}]
import fakes
from sbi_circuits.campaign import run_campaign
from sbi_circuits.engines import ENGINES
ENGINES["fake"] = ("fakes", "SlowEngine")
fakes.SlowEngine.pause_s = {pause}
run_campaign(fakes.campaign({n}, unit={unit}), {path!r}, workers=2, executor={executor!r}, attempts=10**6,
             progress=False, lease={lease})
"""


def processes(tmp_path: Path, count: int, **settings: Any) -> list["subprocess.Popen[bytes]"]:
    tests = str(Path(fakes.__file__).parent)
    code = COORDINATOR.format(tests=tests, path=str(tmp_path / "t"), **settings)
    return [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE) for _ in range(count)]


def wait_until(true: Callable[[], object], otherwise: str) -> None:
    end = time.monotonic() + 240
    while not true():
        assert time.monotonic() < end, otherwise
        time.sleep(0.01)


def wait_for_parts(path: Path, number: int) -> None:
    wait_until(lambda: number_of_parts(path) >= number, "the coordinators do not get on")


def test_two_coordinators_share_a_campaign_and_one_is_killed(tmp_path: Path) -> None:
    """What the dead one held is taken over at once, since it was on this machine; nothing is there twice."""
    n = 300
    whole = run_campaign(fakes.campaign(n), tmp_path / "whole", progress=False).read()
    plan_campaign(fakes.campaign(n, unit=5), tmp_path / "t")
    both = processes(tmp_path, 2, n=n, unit=5, pause=0.03, executor="inprocess", lease=60.0)
    journals: set[str] = set()
    while len(journals) < 2:  # both are at work
        assert all(p.poll() is None for p in both), "one has ended before the other began"
        journals = {record["journal"] for record in History.read(tmp_path / "t" / "journal").done.values()}
        time.sleep(0.05)
    both[0].kill()
    for process in both:
        process.communicate(timeout=120)
    assert [process.returncode for process in both] == [-signal.SIGKILL, 0]
    fakes.nothing_lost_or_twice(tmp_path / "t", n, whole)
    status = campaign_status(tmp_path / "t")
    assert (status.running, status.coordinators, status.double) == (0, (), 0)
    assert status.faults == {"coordinator": 1}


def kill_at_random(tmp_path: Path, kills: int, n: int, pause: float, coordinators: int) -> Counter[str]:
    """Kill workers at random moments, and so many times the coordinator, each once the campaign has got on.

    A killed worker must be written down before the next kill. Only every second coordinator dies with a worker,
    "at once", which it may or may not have had the time to write down. The coordinator is what is killed last; after
    that there are no more pauses. The end must not come earlier: nobody misses a worker that has no more to do.
    """
    draw, killed = np.random.default_rng(11), Counter[str]()
    settings = {"n": n, "unit": 4, "pause": pause, "executor": "loky", "lease": 60.0}
    every = kills // coordinators
    (process,) = processes(tmp_path, 1, **settings)
    for k in range(kills):
        wait_for_parts(tmp_path, number_of_parts(tmp_path) + 1)
        time.sleep(draw.uniform(0.0, 6 * pause))
        last = k % every == every - 1
        if not last or killed["coordinator"] % 2:
            known = killed_by_journals(tmp_path)
            os.kill(a_worker(process, draw), signal.SIGKILL)
            killed["at once" if last else "worker"] += 1
        if last:
            process.kill()
            process.communicate()
            settings["pause"] = 0.0 if k == kills - 1 else pause
            (process,) = processes(tmp_path, 1, **settings)
            killed["coordinator"] += 1
        else:
            wait_until(partial(written_down, tmp_path, known + 1), "a kill is not written down")
            assert process.poll() is None, "it ended before the last kill"
    _, said = process.communicate(timeout=1200)
    assert process.returncode == 0, said.decode()
    return killed


def a_worker(process: "subprocess.Popen[bytes]", draw: np.random.Generator) -> int:
    wait_until(lambda: children(process.pid) or process.poll() is not None, "the coordinator has no workers")
    assert process.poll() is None, "it ended before the last kill"
    return int(draw.choice(children(process.pid)))


def killed_by_journals(tmp_path: Path) -> int:
    return sum(fault["kind"] == "killed" for fault in History.read(tmp_path / "t" / "journal").faults)


def written_down(tmp_path: Path, kills: int) -> bool:
    return killed_by_journals(tmp_path) == kills


def number_of_parts(path: Path) -> int:
    return len(list((path / "t" / "parts").glob("part-*")))


def children(parent: int) -> list[int]:
    """Worker processes of a coordinator, but not what loky counts its resources with."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state = (folder / "stat").read_text().rpartition(")")[2].split()
            own = state[0] != "Z" and int(state[1]) == parent
            if own and b"resource_tracker" not in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except (OSError, ValueError):
            continue
    return sorted(found)


def survives(tmp_path: Path, kills: int, n: int, pause: float, coordinators: int) -> None:
    whole = run_campaign(fakes.campaign(n), tmp_path / "whole", progress=False).read()
    plan_campaign(fakes.campaign(n, unit=4), tmp_path / "t", attempts=10**6)
    killed = kill_at_random(tmp_path, kills, n, pause, coordinators)
    fakes.nothing_lost_or_twice(tmp_path / "t", n, whole)
    status = campaign_status(tmp_path / "t")
    print(f"killed {dict(killed)}: {status.faults}")
    assert killed["coordinator"] == coordinators and killed["coordinator"] + killed["worker"] == kills
    assert status.missing == 0 and status.faults["coordinator"] >= coordinators
    assert 0 <= status.faults["killed"] - killed["worker"] <= killed["at once"]


def test_random_kills_change_nothing(tmp_path: Path) -> None:
    survives(tmp_path, kills=4, n=600, pause=0.05, coordinators=1)


@pytest.mark.slow
def test_a_hundred_random_kills_change_nothing(tmp_path: Path) -> None:
    """SIGKILL of workers, and of the coordinator every tenth time, at random moments over one campaign."""
    survives(tmp_path, kills=100, n=20000, pause=0.1, coordinators=10)
