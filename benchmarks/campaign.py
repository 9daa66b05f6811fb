"""What a campaign costs beside its simulations, and how long it takes to resume one of 10^6 rows.

`python -m benchmarks.campaign [--write]`; `make bench-campaign`. Simulations are pauses of 0.1 s, which take no core:
all processor time is the campaign's own.
"""

import argparse
import os
import re
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from sbi_circuits.campaign import Campaign, plan_campaign, run_campaign
from sbi_circuits.campaign.folder import JOURNAL
from sbi_circuits.campaign.journal import Journal
from sbi_circuits.circuit import Circuit, Population, Record
from sbi_circuits.engines import ENGINES, Engine, Protocol, Simulation
from sbi_circuits.features import FeatureSet
from sbi_circuits.prior import Parameter, Prior
from sbi_circuits.recording import Outcome, Recording
from sbi_circuits.table import Rows, Table

PAUSE, WORKERS, UNIT = 0.1, 2, 16
RESULTS, TITLE = Path(__file__).with_name("RESULTS.md"), "## Campaigns"
PRIOR = Prior((Parameter("g", "1", 0.1, 8, scale="log"), Parameter("rate", "Hz", 1, 20)))
EQUATIONS = "dv/dt = (g*rate*mV*20 - v*rate) : volt"
TRAINS = [np.arange(0.05, 10.0, 0.11 + 0.01 * k) for k in range(20)]


class PausingEngine(Engine):
    """Takes 0.1 s and no processor; twenty regular trains."""

    name = "pausing"

    def run(self, circuit: Circuit, theta: np.ndarray, protocol: Protocol, seed: int, index: int) -> Simulation:
        time.sleep(PAUSE)
        return Simulation(index, Outcome("ok"), Recording.from_units(TRAINS, 0.0, 10.0), PAUSE)


ENGINES["pausing"] = ("benchmarks.campaign", "PausingEngine")


def campaign(n: int) -> Campaign:
    circuit = Circuit("pausing", PRIOR, (Population("exc", "20", EQUATIONS, "v > 1*mV", "v = 0*mV"),))
    return Campaign(circuit, n, FeatureSet.of("isi"), Protocol(10.0, record=Record(spikes=20)), engine="pausing")


def overhead(n: int) -> dict[str, float]:
    """Time of n pauses on two workers against the time of the pauses; the start of the workers stands apart."""
    (start, few), (_, many) = _timed_run(4 * WORKERS * UNIT), _timed_run(n)
    # From when all workers have ended a unit or two, the pace is the campaign's.
    begun = 2 * WORKERS
    units, pace = len(many.units) - begun, many.units[-1] - many.units[begun - 1]
    ideal = units * UNIT * PAUSE / WORKERS
    processor = (many.processor - few.processor) / ((n - 4 * WORKERS * UNIT) * PAUSE)
    return {"simulations": n, "workers": WORKERS, "first unit after s": start, "then, s": pace,
            "pauses alone, s": ideal, "overhead %": 100 * (pace / ideal - 1),
            "processor time, % of pauses": 100 * processor}  # fmt: skip


@dataclass
class Run:
    """When units were in place, seconds from the start, and processor time of all processes."""

    units: list[float]
    processor: float


def _timed_run(n: int) -> tuple[float, Run]:
    with TemporaryDirectory() as folder:
        used, began, units = _processor_seconds(), time.monotonic(), list[float]()
        run_campaign(campaign(n), folder, workers=WORKERS, progress=False,
                     on_unit=lambda rows: units.append(time.monotonic() - began))  # fmt: skip
    return units[0], Run(units, _processor_seconds() - used)


def _processor_seconds() -> float:
    """Of this process and of those of its children that have ended."""
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(used.ru_utime + used.ru_stime for used in both)


def fill(folder: Path, n: int) -> None:
    """A finished campaign of n rows, as running it leaves it, without simulating."""
    plan, unit = campaign(n), UNIT
    table = plan_campaign(plan, folder)
    random, width = np.random.default_rng(0), len(plan.feature_set.names)
    os.fsync = lambda descriptor: None  # type: ignore[assignment]  # of no matter here
    with Journal(folder / JOURNAL, "made") as journal:
        for start in range(0, n, unit):
            rows = Rows(
                index=np.arange(start, start + unit), seed=np.zeros(unit, dtype=np.int64),
                theta=random.uniform(1, 8, (unit, 2)), values=random.standard_normal((unit, width)),
                states=np.zeros((unit, width), dtype=np.uint8), outcome=np.full(unit, "ok"), reason=np.full(unit, ""),
                wall_s=np.full(unit, PAUSE), proposal=np.full(unit, "prior"), weight=np.ones(unit),
            )  # fmt: skip
            journal.done(table.append(start, start + unit, rows, table.manifest), rows, "here", 1.6)


def resume(folder: Path, n: int) -> dict[str, float]:
    """In a new process each: until a campaign that lacks three units is whole again; and `status`."""
    for part in Table.open(folder).parts()[100:400:100]:
        part.path.unlink()
    found: dict[str, float] = {"rows": n, "parts": len(Table.open(folder).parts()) + 3}
    code = "from benchmarks.campaign import *\nrun_campaign(campaign({n}), {folder!r}, progress=False)"
    found["resumed s, three units of pauses included"] = _timed(code.format(n=n, folder=str(folder)))
    both = "from benchmarks.campaign import *\nfrom sbi_circuits.campaign import campaign_status\n"
    code = both + "assert campaign_status({folder!r}).missing == 0"
    found["status s"] = _timed(code.format(folder=str(folder)))
    return found


def _timed(code: str) -> float:
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])
    return time.monotonic() - began


def write(found: list[dict[str, float]]) -> None:
    """Put the figures into RESULTS.md, in place of those that were there."""
    machine = f"{os.cpu_count()} logical processors, load {os.getloadavg()[1]:.1f} by other work"
    lines = [TITLE, f"`make bench-campaign`, {datetime.now(UTC):%Y-%m-%d}, {machine}.",
             f"Simulations are pauses of {PAUSE} s, units of {UNIT}.", ""]  # fmt: skip
    for figures in found:
        lines += [f"| {' | '.join(figures)} |", f"|{' --- |' * len(figures)}"]
        lines += [f"| {' | '.join(f'{value:.4g}' for value in figures.values())} |", ""]
    text = RESULTS.read_text(encoding="utf-8")
    own = re.compile(rf"{TITLE}\n.*?(?=\n## |\Z)", re.DOTALL)
    new = "\n".join(lines).rstrip() + "\n"
    whole = own.sub(lambda _: new, text) if own.search(text) else f"{text.rstrip()}\n\n{new}"
    RESULTS.write_text(whole, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--simulations", type=int, default=2000, help="of the measurement of overhead")
    parser.add_argument("--rows", type=int, default=10**6, help="of the campaign that is resumed; a multiple of 16")
    parser.add_argument("--write", action="store_true", help="put the figures into RESULTS.md")
    options: Any = parser.parse_args()
    found = [overhead(options.simulations)]
    print(found[0], flush=True)
    with TemporaryDirectory() as temporary:
        fill(Path(temporary) / "t", options.rows)
        found.append(resume(Path(temporary) / "t", options.rows))
    print(found[1])
    if options.write:
        write(found)


if __name__ == "__main__":
    main()
