"""Claims: processes that fill one folder share out its units. No clock is trusted.

Every coordinator keeps a file of its own and counts in it. Who sees the count stand still for the length of a
lease, by the time that passed on its own machine, takes that coordinator for dead, and its units over; on the
same machine it looks whether the process is there. Where that is wrong a unit is simulated twice, with the same
result, and its part is written once.
"""

import json
import os
import re
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any
from uuid import uuid4

from sbi_circuits.campaign.code import host_name
from sbi_circuits.table import replace_file

LEASE = 60.0  # seconds
_CLAIM = re.compile(r"(\d{10})-(\d{10})\.claim")
BEATS_PER_LEASE = 8


@dataclass(frozen=True)
class Claim:
    """A range of simulations and who runs it."""

    start: int
    stop: int
    owner: str


class Claims:
    """What this process claims, and what the others do.

    Args:
        folder: of the claims; made if it is not there.
        lease: seconds without a sign of life after which the others may take this process for dead.
        on_takeover: called with each claim that was a dead coordinator's.
    """

    def __init__(self, folder: Path, lease: float = LEASE, on_takeover: Callable[[Claim], None] = lambda claim: None):
        self.folder, self.lease, self.on_takeover = folder, lease, on_takeover
        self.owner = f"{host_name()}-{os.getpid()}-{uuid4().hex[:8]}"
        self.held: set[tuple[int, int]] = set()
        self._seen: dict[str, tuple[Any, float]] = {}
        self._counting: set[str] = set()
        self._beat, self._ended = 0, threading.Event()
        folder.mkdir(exist_ok=True)

    def __enter__(self) -> "Claims":
        self._write_beat()
        threading.Thread(target=self._keep_beating, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for start, stop in list(self.held):
            self.release(start, stop)
        for name in (f"{self.owner}.beat", f".{self.owner}.beat.{os.getpid()}.tmp"):
            (self.folder / name).unlink(missing_ok=True)

    def take(self, start: int, stop: int) -> bool:
        """Claim a range; False where another living coordinator has a part of it. Raises `OSError`."""
        for claim in self.claims(start, stop):
            if claim.owner != self.owner:
                if self.alive(claim.owner):
                    return False
                self._file(claim.start, claim.stop).unlink(missing_ok=True)
                self.on_takeover(claim)
        try:
            descriptor = os.open(self._file(start, stop), os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            return False
        with os.fdopen(descriptor, "w") as file:
            file.write(self.owner)
        self.held.add((start, stop))
        return True

    def release(self, start: int, stop: int) -> None:
        """Give a range back; where another has taken it over meanwhile, it stays theirs."""
        self.held.discard((start, stop))
        file = self._file(start, stop)
        with suppress(OSError):
            if file.read_text() == self.owner:
                file.unlink()

    def claims(self, start: int = 0, stop: int = 10**10) -> list[Claim]:
        """Claims on any of the simulations start..stop, this process's own among them."""
        found = []
        for entry in os.scandir(self.folder):
            match = _CLAIM.fullmatch(entry.name)
            if match and int(match[1]) < stop and start < int(match[2]):
                with suppress(OSError):
                    found.append(Claim(int(match[1]), int(match[2]), Path(entry.path).read_text()))
        return found

    def owners(self) -> list[str]:
        """Coordinators that have left a count, the dead among them."""
        return sorted(path.name.removesuffix(".beat") for path in self.folder.glob("*.beat"))

    def alive(self, owner: str) -> bool:
        """Whether a coordinator is there: its process, where it is on this machine; else until it is silent."""
        if owner == self.owner:
            return True
        state = _read(self.folder / f"{owner}.beat")
        if state is not None and state["machine"] == _machine() and not _running(state):
            return False
        beat = None if state is None else state["beat"]
        before, since = self._seen.setdefault(owner, (beat, monotonic()))
        if beat != before:
            self._seen[owner] = (beat, monotonic())
            self._counting.add(owner)
            return True
        return monotonic() - since < (self.lease if state is None else state["lease"])

    def certain(self, owner: str) -> bool:
        """Whether a coordinator was seen to be there, not just not yet found dead."""
        if owner == self.owner:
            return True
        state = _read(self.folder / f"{owner}.beat")
        here = state is not None and state["machine"] == _machine() and _running(state)
        return self.alive(owner) and (here or owner in self._counting)

    def bury(self) -> None:
        """Remove the counts of coordinators that are dead and hold no claim."""
        holders = {claim.owner for claim in self.claims()}
        for owner in self.owners():
            if owner not in holders and not self.alive(owner):
                (self.folder / f"{owner}.beat").unlink(missing_ok=True)

    def _file(self, start: int, stop: int) -> Path:
        return self.folder / f"{start:010d}-{stop:010d}.claim"

    def _write_beat(self) -> None:
        self._beat += 1
        state = {"beat": self._beat, "lease": self.lease, "machine": _machine(), "pid": os.getpid(),
                 "started": _started(os.getpid())}  # fmt: skip
        replace_file(self.folder / f"{self.owner}.beat", json.dumps(state).encode())

    def _keep_beating(self) -> None:
        while not self._ended.wait(self.lease / BEATS_PER_LEASE):
            with suppress(OSError):  # a full disk: the others will take over, and do some work twice
                self._write_beat()


def _read(path: Path) -> Any:
    try:
        state = json.loads(path.read_bytes())
        return state if {"beat", "lease", "machine", "pid", "started"} <= set(state) else None
    except (OSError, ValueError):
        return None


def _machine() -> list[str]:
    """This machine since it was started, and this container: where process ids mean the same."""
    found = [host_name()]
    with suppress(OSError):
        found += [Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/pid")]
    return found


def _running(state: Any) -> bool:
    if len(state["machine"]) == 1:  # no way to tell one process from another of the same number
        return True
    return state["started"] is not None and _started(state["pid"]) == state["started"]


def _started(pid: int) -> str | None:
    """When a process started, in ticks since the machine did: with its number, who it is; None for a dead one."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]
