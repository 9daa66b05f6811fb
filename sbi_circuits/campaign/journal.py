"""Journals: what every process that worked on a campaign did, one JSON object a line, one file a process.

They only ever grow, at their end, by their one writer; a line that a kill cut short is skipped. They are not needed
to read a table. They say where its parts come from, which units failed and how often, and how fast it goes.
"""

import errno
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np

from sbi_circuits.campaign.code import code_identity, host_name
from sbi_circuits.campaign.unit import Fault
from sbi_circuits.table import Part, Rows

SCHEMA_VERSION = 1
_RESERVE = 4096  # bytes set free on a full disk, for the line that says so
# Faults that count against a unit; the others say that its place, or its coordinator, was at fault.
COUNTED = ("killed", "time limit", "memory", "error")


class Journal:
    """The journal of this process.

    Args:
        folder: of the journals; made if it is not there.
        name: of this one.
        what: goes into its first line.
    """

    def __init__(self, folder: Path, name: str, **what: Any):
        folder.mkdir(exist_ok=True)
        self.path, self.began = folder / f"{name}.jsonl", monotonic()
        self._reserve = folder / f".{name}.reserve"
        self._reserve.write_bytes(b" " * _RESERVE)
        self._file = self.path.open("ab", buffering=0)
        own = {"schema_version": SCHEMA_VERSION, "code": code_identity(), "host": host_name(), "pid": os.getpid()}
        self.write("begin", **own, at=datetime.now(UTC).isoformat(timespec="seconds"), **what)

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: object) -> None:
        self.write("end", how="finished" if kind is None else kind.__name__)
        self._file.close()
        self._reserve.unlink(missing_ok=True)

    def write(self, event: str, **what: Any) -> None:
        """Append a line; `t` is seconds since the journal began. On a full disk the reserve makes room for it."""
        line = json.dumps({"event": event, "t": round(monotonic() - self.began, 3), **what}).encode() + b"\n"
        if not self._append(line):
            self._reserve.unlink(missing_ok=True)
            self._append(b"\n" + line)  # what was cut short becomes a line of its own

    def _append(self, line: bytes) -> bool:
        try:
            return self._file.write(line) == len(line)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            return False

    def done(self, part: Part, rows: Rows, place: str, seconds: float) -> None:
        """A part is in place."""
        content = part.path.read_bytes()
        outcomes = dict(Counter(rows.outcome.tolist()))
        self.write("done", start=part.start, stop=part.stop, part=part.path.name, size=len(content),
                   sha256=hashlib.sha256(content).hexdigest(), outcomes=outcomes, place=place,
                   seconds=round(seconds, 4))  # fmt: skip

    def fault(self, start: int | None, stop: int | None, fault: Fault) -> None:
        """A unit, or what is not known to be one, failed."""
        self.write("fault", start=start, stop=stop, kind=fault.kind, reason=fault.reason, place=fault.place)


@dataclass
class History:
    """What all journals of a campaign say, together; the order in which they are read does not matter.

    Args:
        begun: the first line of each, by name; ended: their last lines.
        done: a record of each part, by file name; known: size and checksum of all that was written under that name.
        faults: all of them, in the order of each journal.
        attempts: (start, stop) -> faults that count against the unit, less those forgiven.
        pace: of each journal, (simulations, seconds) so far.
        double: units that were simulated twice.
    """

    begun: dict[str, dict[str, Any]] = field(default_factory=dict)
    ended: dict[str, dict[str, Any]] = field(default_factory=dict)
    done: dict[str, dict[str, Any]] = field(default_factory=dict)
    known: dict[str, dict[int, set[str]]] = field(default_factory=dict)
    faults: list[dict[str, Any]] = field(default_factory=list)
    attempts: Counter[tuple[int, int]] = field(default_factory=Counter)
    pace: dict[str, tuple[int, float]] = field(default_factory=dict)
    double: int = 0

    @classmethod
    def read(cls, folder: Path) -> "History":
        """The history in a folder of journals; empty where there is none."""
        history = cls()
        for path in sorted(folder.glob("*.jsonl")):
            for event in _lines(path):
                with suppress(KeyError, TypeError):
                    history._add(path.stem, event)
        return history

    def _add(self, name: str, event: dict[str, Any]) -> None:
        kind = event["event"]
        if kind == "done":
            self.done[event["part"]] = event | {"journal": name}
            self.known.setdefault(event["part"], {}).setdefault(event["size"], set()).add(event["sha256"])
            simulations = event["stop"] - event["start"] + self.pace.get(name, (0, 0.0))[0]
            self.pace[name] = (simulations, event["t"])
        elif kind == "fault":
            self.faults.append(event | {"journal": name})
            if event["kind"] in COUNTED and event["start"] is not None:
                self.attempts[event["start"], event["stop"]] += 1
        elif kind == "double":
            self.double += 1
        elif kind == "retry":
            for start, stop, count in event["forgiven"]:
                self.attempts[start, stop] -= count
        elif kind in ("begin", "end"):
            (self.begun if kind == "begin" else self.ended)[name] = event

    def attempts_by_simulation(self, n: int) -> np.ndarray:
        """(n,) how often each simulation was in a unit that failed."""
        found = np.zeros(n, dtype=np.int64)
        for (start, stop), count in self.attempts.items():
            found[start:stop] += count
        return found

    def last_fault(self, index: int) -> dict[str, Any] | None:
        """The last fault that counts against a simulation."""
        return next((f for f in reversed(self.faults) if f["kind"] in COUNTED and f["start"] is not None
                     and f["start"] <= index < f["stop"]), None)  # fmt: skip


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        yield from _objects(file)


def _objects(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    for line in lines:
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict):
            yield found


class Tail:
    """What other processes add to their journals from now on.

    Args:
        folder: of the journals.
        own: name of this process's.
    """

    def __init__(self, folder: Path, own: str):
        self.folder, self.own = folder, own
        self._read = {path.name: path.stat().st_size for path in folder.glob("*.jsonl")}

    def news(self) -> Iterator[dict[str, Any]]:
        """Events since the last call."""
        for entry in os.scandir(self.folder):
            if not entry.name.endswith(".jsonl") or entry.name == f"{self.own}.jsonl":
                continue
            start, stop = self._read.get(entry.name, 0), os.stat(entry.path).st_size
            if stop <= start:
                continue
            with open(entry.path, "rb") as file:
                file.seek(start)
                # A line that is being written is left for the next time.
                whole = file.read(stop - start).rpartition(b"\n")[0]
            self._read[entry.name] = start + len(whole) + (1 if whole else 0)
            yield from _objects(whole.split(b"\n"))
