"""The coordinator of a campaign in one process: claims units, has them run, writes what comes back as parts."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import sleep

import numpy as np

from sbi_circuits.campaign.claims import Claim, Claims
from sbi_circuits.campaign.executors import Executor, WorkersLost
from sbi_circuits.campaign.folder import JOURNAL, Terms
from sbi_circuits.campaign.journal import COUNTED, History, Journal, Tail
from sbi_circuits.campaign.plan import Campaign, units
from sbi_circuits.campaign.progress import Progress
from sbi_circuits.campaign.unit import Fault, Job, Result, Task, simulate_unit, tasks_of
from sbi_circuits.errors import TableError
from sbi_circuits.table import Part, Rows, Table
from sbi_circuits.table_parts import sound_parts

_FRUITLESS = 3  # rounds that bring nothing but faults of the workers' places, until it stops
_POLL = 1.0  # seconds between looks at what others do


@dataclass
class State:
    """What there is of a campaign's n simulations, and what its journals say.

    Args:
        have: (n,) which simulations are in place.
        outcomes: of those.
        history: of the journals.
        damaged: names of parts that were set aside just now.
    """

    have: np.ndarray
    outcomes: Counter[str]
    history: History
    damaged: list[str] = field(default_factory=list)


def look(table: Table, n: int, count: bool = True) -> State:
    """What there is; damaged parts are set aside.

    Args:
        table: to look at.
        n: simulations of the campaign.
        count: whether to count the outcomes of parts that no journal knows, too.
    """
    history = History.read(table.path / JOURNAL)
    have, outcomes = np.zeros(n, dtype=bool), Counter[str]()
    before = _set_aside(table)
    sound = sound_parts(table.path, table.manifest)
    unknown: list[Part] = []
    for part in sound:
        have[part.start : part.stop] = True
        if record := history.done.get(part.path.name):
            outcomes.update(record["outcomes"])
        else:
            unknown.append(part)
    if count and unknown:
        outcomes.update(replace(table, listed=unknown).counts())
    return State(have, outcomes, history, sorted(_set_aside(table) - before))


def _set_aside(table: Table) -> set[str]:
    folder = table.path / "set_aside"
    return {path.name for path in folder.glob("part-*.parquet")} if folder.is_dir() else set()


class Coordinator:
    """Runs what a table lacks.

    Args:
        campaign, table, terms: what to fill, where, and on what terms.
        executor: where units run.
        job: what they share.
        claims, journal: of this process.
        state: what there is.
        progress: to tell.
        on_unit: called with the rows of each unit in place.
        share: (k, m): begin at the k-th of m shares of what is missing.
    """

    def __init__(
        self, campaign: Campaign, table: Table, terms: Terms, executor: Executor, job: Job, claims: Claims,
        journal: Journal, state: State, progress: Progress, on_unit: Callable[[Rows], None] | None,
        share: tuple[int, int],
    ):  # fmt: skip
        self.campaign, self.table, self.terms, self.executor, self.job = campaign, table, terms, executor, job
        self.claims, self.journal, self.progress, self.on_unit, self.share = claims, journal, progress, on_unit, share
        self.have, self.history = state.have, state.history
        self.attempts = state.history.attempts_by_simulation(campaign.n)
        self.reasons = {k: fault for k in np.flatnonzero(self.attempts) if (fault := state.history.last_fault(int(k)))}
        self.tail = Tail(table.path / JOURNAL, journal.path.stem)
        self.error: OSError | None = None

    def run(self, wait: bool) -> None:
        """Run rounds until all is in place, given up, or (unless `wait`) in the hands of others.

        Raises:
            TableError: the workers are lost again and again.
            OSError: the folder cannot be written.
        """
        fruitless = 0
        while todo := self.todo():
            placed, told = self._round(todo)
            if self.error is not None:
                raise self.error
            fruitless = fruitless + 1 if told and not placed else 0
            if fruitless == _FRUITLESS:
                raise TableError(f"no worker is of use: {told}; {self.progress.done}/{self.progress.total} simulations "
                                 f"are in {self.table.path}")  # fmt: skip
            if placed == 0 and not told:
                if not wait and self._others_live():
                    return
                sleep(min(_POLL, self.claims.lease / 10))

    def todo(self) -> list[tuple[int, int]]:
        """Ranges to run: units of what is missing; simulations that were in a failed unit each on their own."""
        self._listen()
        missing = ~self.have & (self.attempts < self.terms.attempts)
        whole = list(units(np.flatnonzero(missing & (self.attempts == 0)), self.campaign.unit))
        turn = len(whole) * self.share[0] // self.share[1]
        single = [(int(i), int(i) + 1) for i in np.flatnonzero(missing & (self.attempts > 0))]
        return [*whole[turn:], *whole[:turn], *single]

    def given_up(self) -> np.ndarray:
        """Simulations that failed as often as the terms allow."""
        return np.flatnonzero(~self.have & (self.attempts >= self.terms.attempts))

    def _round(self, todo: list[tuple[int, int]]) -> tuple[int, str]:
        """Run what can be claimed; how many units ended (in place or counted as failed), and what else was told."""
        ended, told = 0, ""
        try:
            for result in self.executor.run(simulate_unit, self._tasks(todo)):
                result.raise_error()
                counted = result.fault is None or result.fault.kind in COUNTED
                ended += counted
                told = told if counted or result.fault is None else result.fault.reason
                self._settle(result)
        except WorkersLost as error:
            told = str(error)
            self.journal.fault(None, None, Fault("lost", told))
        for start, stop in list(self.claims.held):
            self.claims.release(start, stop)
        return ended, told

    def _tasks(self, todo: list[tuple[int, int]]) -> Iterator[Task]:
        """Tasks that this process could claim. joblib asks for them in other threads, where errors would be lost."""
        try:
            yield from tasks_of(self.campaign, self.job, (r for r in todo if self._mine(*r)))
        except OSError as error:
            self.error = error

    def _mine(self, start: int, stop: int) -> bool:
        if self.have[start:stop].any() or not self.claims.take(start, stop):
            return False
        self._listen()  # who had it before may have finished it
        if self.have[start:stop].any() or self._file(start, stop).exists():
            self.claims.release(start, stop)
            return False
        return True

    def _file(self, start: int, stop: int) -> Path:
        return self.table.path / "parts" / f"part-{start:010d}-{stop:010d}.parquet"

    def _listen(self) -> None:
        """Take in what others have done."""
        for event in self.tail.news():
            if event.get("event") == "done":
                start, stop = event["start"], min(event["stop"], self.campaign.n)
                if not self.have[start:stop].all():
                    self.have[start:stop] = True
                    self.progress.add(event["outcomes"])
            elif event.get("event") == "fault" and event.get("kind") in COUNTED and event.get("start") is not None:
                self._blame(event["start"], event["stop"], event)

    def _settle(self, result: Result) -> None:
        start, stop, fault, rows = result.start, result.stop, result.fault, result.rows
        if fault is not None:
            self.journal.fault(start, stop, fault)
            self.executor.discard(fault)
            if fault.kind in COUNTED:
                self._blame(start, stop, {"kind": fault.kind, "reason": fault.reason})
        elif rows is not None and not self._file(start, stop).exists():
            part = self.table.append(start, stop, rows, self.table.manifest)
            self.journal.done(part, rows, result.place, result.seconds)
            self.progress.update(rows.outcome)
            self.have[start:stop] = True
            if self.on_unit is not None:
                self.on_unit(rows)
        else:
            self.journal.write("double", start=start, stop=stop)
            self.have[start:stop] = True
        self.claims.release(start, stop)

    def _blame(self, start: int, stop: int, fault: dict[str, object]) -> None:
        self.attempts[start:stop] += 1
        for index in range(start, min(stop, self.campaign.n)):
            self.reasons[index] = fault

    def _others_live(self) -> bool:
        """Whether every holder of a claim was seen to live, so that there is nothing to take over."""
        return all(map(self.claims.certain, {claim.owner for claim in self.claims.claims()}))


def takeover(journal: Journal) -> Callable[[Claim], None]:
    """What to do with a dead coordinator's claim: write it down."""

    def note(claim: Claim) -> None:
        fault = Fault("coordinator", f"{claim.owner} died, or was silent, with this unit")
        journal.fault(claim.start, claim.stop, fault)

    return note
