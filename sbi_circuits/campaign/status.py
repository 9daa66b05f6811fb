"""How a campaign stands, whether its parts are what they should be, and a new chance for what was given up."""

import hashlib
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import sleep
from typing import Any

import numpy as np

from sbi_circuits.campaign.claims import BEATS_PER_LEASE, LEASE, Claims
from sbi_circuits.campaign.coordinator import look
from sbi_circuits.campaign.folder import CLAIMS, JOURNAL, Terms, read_plan
from sbi_circuits.campaign.journal import History, Journal
from sbi_circuits.campaign.plan import Campaign, units
from sbi_circuits.campaign.progress import duration, tally
from sbi_circuits.table import Part, Table

_SHOWN = 5


@dataclass(frozen=True)
class Status:
    """How a campaign stands.

    Args:
        path, circuit, engine, seed, digest: what it is.
        total, done, parts: simulations of the plan, those in place, and the files they are in.
        outcomes: of those in place.
        running: simulations claimed by coordinators that live; coordinators: their names.
        failing: simulations that failed and will be tried again, by reason.
        given_up: simulations that failed too often, by reason.
        faults: everything that went wrong so far, by kind; double: units that two processes simulated.
        codes: identity of the code -> simulations it made ("unknown": no journal says).
        rate: simulations per second of the coordinators that live; left_s: seconds to go at that rate, or None.
    """

    path: str
    circuit: str
    engine: str
    seed: int
    digest: str
    total: int
    done: int
    parts: int
    outcomes: dict[str, int]
    running: int
    coordinators: tuple[str, ...]
    failing: dict[str, int]
    given_up: dict[str, int]
    faults: dict[str, int]
    double: int
    codes: dict[str, int]
    rate: float
    left_s: float | None

    @property
    def missing(self) -> int:
        """Simulations that are neither in place nor given up."""
        return self.total - self.done - sum(self.given_up.values())

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self) | {"missing": self.missing}

    def lines(self) -> list[str]:
        """For people."""
        who = f" by {len(self.coordinators)} processes: {', '.join(self.coordinators[:_SHOWN])}"
        left = "?" if self.left_s is None else duration(self.left_s)
        found = [
            f"campaign {self.digest[:8]}: {self.circuit}, engine {self.engine}, seed {self.seed}",
            f"done      {self.done}/{self.total} simulations in {self.parts} parts ({tally(self.outcomes)})",
            f"running   {self.running} simulations{who if self.coordinators else ''}",
            f"missing   {self.missing} simulations",
        ]
        found += [f"failing   {n} simulations, to be tried again: {why}" for why, n in _most(self.failing)]
        found += [f"given up  {n} simulations: {why}" for why, n in _most(self.given_up)]
        found += [f"faults    {tally(self.faults)}"] if self.faults else []
        found += [f"double    {self.double} units were simulated twice, and written once"] if self.double else []
        found += [f"code      {', '.join(f'{code} ({n} simulations)' for code, n in self.codes.items())}"]
        return found + ([f"rate      {self.rate:.3g} simulations/s, {left} left"] if self.rate else [])


def _most(found: dict[str, int]) -> list[tuple[str, int]]:
    return Counter(found).most_common(_SHOWN)


def campaign_status(path: str | Path) -> Status:
    """How the campaign in a folder stands; raises `TableError` where there is none.

    Where processes on other machines hold units it watches them for some seconds, to see whether they live.
    """
    campaign, terms = read_plan(path)
    table = Table.open(path)
    state = look(table, campaign.n)
    claims = Claims(table.path / CLAIMS)
    living = _living(claims)
    held = [claim for claim in claims.claims() if claim.owner in living]
    failing, given_up = _failures(state.have, state.history, campaign.n, terms)
    paces = [state.history.pace[name] for name in living if name in state.history.pace]
    rate = sum(simulations / seconds for simulations, seconds in paces if seconds > 0)
    done = int(state.have.sum())
    left = (campaign.n - done - sum(given_up.values())) / rate if rate else None
    return Status(
        str(table.path), campaign.circuit.name, campaign.engine, campaign.seed, campaign.digest, campaign.n, done,
        len(table.parts()), dict(state.outcomes), sum(c.stop - c.start for c in held), tuple(sorted(living)),
        failing, given_up, dict(Counter(f["kind"] for f in state.history.faults)), state.history.double,
        _codes(state.have, state.history), rate, left,
    )  # fmt: skip


def _living(claims: Claims) -> set[str]:
    """Coordinators that are there. Only those of other machines have to be watched."""
    found = {owner for owner in claims.owners() if claims.alive(owner)}
    if not all(map(claims.certain, found)):
        sleep(1.5 * LEASE / BEATS_PER_LEASE)
    return {owner for owner in found if claims.certain(owner)}


def _failures(have: np.ndarray, history: History, n: int, terms: Terms) -> tuple[dict[str, int], dict[str, int]]:
    attempts = history.attempts_by_simulation(n)
    found: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
    for index in np.flatnonzero(~have & (attempts > 0)):
        fault = history.last_fault(int(index)) or {"kind": "unknown", "reason": "no record"}
        found[int(attempts[index] >= terms.attempts)][f"{fault['kind']}: {fault['reason']}"] += 1
    return dict(found[0]), dict(found[1])


def _codes(have: np.ndarray, history: History) -> dict[str, int]:
    """Simulations by the code that made them, as the journals say, whatever parts they are in by now."""
    names = ["unknown", *sorted({str(begun.get("code")) for begun in history.begun.values()})]
    made = np.zeros(len(have), dtype=np.int64)
    for record in history.done.values():
        made[record["start"] : record["stop"]] = names.index(str(history.begun.get(record["journal"], {}).get("code")))
    found, counts = np.unique(made[have], return_counts=True)
    return {names[k]: int(count) for k, count in zip(found, counts, strict=True)}


def verify_campaign(path: str | Path, set_aside: bool = True) -> list[str]:
    """Check every part of a campaign's table: schema, digests, checksums, theta, repeated and missing simulations.

    Args:
        path: of its folder.
        set_aside: whether to move damaged parts away, so that running the campaign simulates them again.

    Returns:
        one line for each thing that is wrong.

    Raises:
        TableError: there is no campaign.
    """
    campaign, _ = read_plan(path)
    table, history = Table.open(path), History.read(Path(path) / JOURNAL)
    parts, problems = table.parts(), table.verify()
    damaged = {line.partition(": ")[0]: line.partition(": ")[2] for line in problems if "another table" not in line}
    damaged = {part.path.name: damaged[part.path.name] for part in parts if part.path.name in damaged}
    for part in (part for part in parts if part.path.name not in damaged):
        if wrong := _wrong(part, table, campaign, history):
            damaged[part.path.name] = wrong
            problems.append(f"{part.path.name}: {wrong}")
    kept = [part for part in parts if part.path.name not in damaged]
    if damaged and set_aside:
        _set_aside(table, [part for part in parts if part.path.name in damaged], damaged)
        problems.append(f"{len(damaged)} damaged parts were set aside; run the campaign to simulate them again")
    have = np.zeros(campaign.n, dtype=bool)
    for part in kept:
        have[part.start : part.stop] = True
    gaps = [f"{a} to {b - 1}" for a, b in units(np.flatnonzero(~have), campaign.n)]
    if gaps:
        more = f" and {len(gaps) - _SHOWN} ranges more" if len(gaps) > _SHOWN else ""
        problems.append(f"{(~have).sum()} simulations are missing: {', '.join(gaps[:_SHOWN])}{more}")
    return problems


def _wrong(part: Part, table: Table, campaign: Campaign, history: History) -> str:
    """What is wrong with a part that can be read: its checksum, or configurations that are not the plan's."""
    content = part.path.read_bytes()
    known = history.known.get(part.path.name)
    if known and hashlib.sha256(content).hexdigest() not in known.get(len(content), set()):
        return "its checksum is not that of the part that was written"
    rows = replace(table, listed=[part]).read(("theta",))
    some = np.array([part.start, part.stop - 1])
    some = some[some < campaign.n]
    if not np.array_equal(rows.theta[some - part.start], campaign.theta(some)):
        return "its theta is not what the plan draws"
    return ""


def _set_aside(table: Table, parts: list[Part], reasons: dict[str, str]) -> None:
    aside = table.path / "set_aside"
    aside.mkdir(exist_ok=True)
    with Claims(table.path / CLAIMS) as claims, Journal(table.path / JOURNAL, claims.owner) as journal:
        for part in parts:
            part.path.replace(aside / part.path.name)
            journal.write("fault", start=part.start, stop=part.stop, kind="damaged", place="",
                          reason=f"{part.path.name}: {reasons[part.path.name]}")  # fmt: skip


def forgive(path: str | Path) -> int:
    """Give every simulation that failed a new start; how many had been given up. Raises `TableError`."""
    campaign, terms = read_plan(path)
    table = Table.open(path)
    state = look(table, campaign.n, count=False)
    attempts = state.history.attempts_by_simulation(campaign.n)
    lost = int((~state.have & (attempts >= terms.attempts)).sum())
    with Claims(table.path / CLAIMS) as claims, Journal(table.path / JOURNAL, claims.owner) as journal:
        journal.write("retry", forgiven=[[a, b, count] for (a, b), count in state.history.attempts.items() if count])
    return lost
