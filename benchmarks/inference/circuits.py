"""Calibration of posteriors of circuits, on simulations that they have not seen.

    python -m benchmarks.inference.circuits                  both tables
    python -m benchmarks.inference.circuits --only brunel    one of them
    python -m benchmarks.inference.circuits --write          also into benchmarks/RESULTS.md

brunel: prior draws with 100 neurons (in-degrees in proportion), 1 s each; 10,000 that ended ok are trained on and 1,200
judge. adex_clustered: the shipped table, of which as many are kept apart; its rows come from proposals, which are taken
for the prior.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.inference.__main__ import CACHE
from benchmarks.inference.files import read_json, write_json
from benchmarks.inference.report import context, write_results
from sbi_circuits import Campaign, FeatureSet, Protocol, Record, get_circuit, run_campaign
from sbi_circuits.calibration import Calibration, HeldOut, calibrate
from sbi_circuits.calibration.uniform import ecdf_band
from sbi_circuits.demo import demo_table
from sbi_circuits.inference import Posterior, TrainingConfig, train
from sbi_circuits.table import BaseTable, MemoryTable

CIRCUITS = ("brunel", "adex_clustered")
HEADING = "### Calibration on tables of circuits"
TRAINED, JUDGED = 10_000, 1_200
_OK = 0.9  # of the prior draws of brunel; others are silent
_COLUMNS = (
    "table, rows", "observed", "judged", "SBC: lowest p", "TARP: p", "tests", "90 % interval holds", "worst parameter",
)  # fmt: skip


def brunel_table(folder: Path, n: int, workers: int) -> BaseTable:
    """Prior draws of the small network, n or more; a run that was interrupted goes on."""
    circuit = get_circuit("brunel")
    small = replace(circuit, constants=dict(circuit.constants) | {"N_E": "80"})
    features = FeatureSet.of("isi", "bursts", spectrum={"low": 10.0, "high": 300.0, "step": 10.0})
    protocol = Protocol(duration=1.0, warmup=0.2, record=Record(spikes=100, moments=True))
    return run_campaign(Campaign(small, n, features, protocol, unit=50), folder / "brunel", workers=workers)


def divided(table: BaseTable, trained: int, judged: int, drawn_from: str) -> tuple[MemoryTable, HeldOut]:
    """A table to train on, and the rows to judge by."""
    rows = table.read()
    usable = np.random.default_rng(0).permutation(np.flatnonzero(rows.outcome == "ok"))
    apart, rest = usable[:judged], usable[judged : judged + trained]
    held = HeldOut.from_table(MemoryTable(table.manifest, rows.take(np.sort(apart))), drawn_from=drawn_from)
    return MemoryTable(table.manifest, rows.take(np.sort(rest))), held


def judged(name: str, trained: int, apart: int, folder: Path, workers: int) -> dict[str, Any]:
    """Figures of one circuit's posterior, trained with the defaults on `trained` rows; kept in the folder."""
    path = folder / f"calibration-{name}-{trained}.json"
    known = read_json(path)
    if known:
        return known
    own = name == "brunel"
    table = brunel_table(folder, round((trained + apart) / _OK), workers) if own else demo_table()
    part, held = divided(table, trained, apart, "prior" if own else "all")
    started = time.process_time()
    posterior = train(part, TrainingConfig(importance="truncated" if own else "none"), progress=False, seed=0)
    seconds = time.process_time() - started
    print(f"{name}: {len(part)} rows, {seconds:.0f} s; {posterior.log[-1]}", flush=True)
    found = calibrate(posterior, held, local=False, subsets=subsets(posterior), seed=0)
    print(found.summary(), flush=True)
    figures = {"rows": len(part), "train_s": seconds, "gain": posterior.log[-1], "calibration": found.to_dict()}
    figures["ecdf"] = {title: _largest(c) for title, c in {"all": found, **found.subsets}.items()}
    write_json(path, figures)
    return figures


def subsets(posterior: Posterior) -> dict[str, list[str]]:
    """Each family of features alone, and all but it; kinds of features where only one family varies."""
    names = np.array(posterior.feature_names)[~posterior.encoder.ignored].tolist()
    families = sorted({name.split(".")[0] for name in names})
    if len(families) == 1:
        families = sorted({name.rsplit("_", 1)[0] for name in names})
    of = {f: [name for name in names if name.startswith((f"{f}.", f"{f}_"))] for f in families}
    return of | {f"all but {f}": [n for g in families if g != f for n in of[g]] for f in families}


def _largest(found: Calibration) -> list[float]:
    """Largest distance of the ranks of a parameter from uniform ones, and the band that 95 % of exact ones keep to."""
    u = np.sort((found.ranks + 0.5) / (found.draws + 1), axis=0)
    steps = (np.arange(len(u)) + 0.5) / len(u)
    return [float(np.abs(u - steps[:, None]).max()), float(ecdf_band(len(u)))]


def rows(name: str, figures: dict[str, Any]) -> list[list[str]]:
    """One row for all features, one for each pattern of undefined ones, one for each subset."""
    found = figures["calibration"]
    lines = [_row(name, "all", found)]
    for text, part in found["coverage_by_pattern"].items():
        lines.append([name, text, str(part["rows"]), "", "", "", f"{100 * part['coverage'][1]:.1f} %", ""])
    return lines + [_row(name, title, part) for title, part in found["subsets"].items()]


def _row(name: str, observed: str, found: dict[str, Any]) -> list[str]:
    tests = found["tests"]
    ranks = min(p for title, p in tests.items() if title.startswith("ranks"))
    worst = max(found["coverage_by_parameter"].values(), key=lambda c: abs(c[1] - 0.9))
    verdict = "pass" if found["passes"] else "fail"
    coverage = f"{100 * found['coverage']['0.9']:.1f} %"
    p_values = [f"{ranks:.2g}", f"{tests['TARP']:.2g}"]
    return [name, observed, str(found["rows"]), *p_values, verdict, coverage, f"{100 * worst[1]:.1f} %"]


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.inference.circuits", description="Calibration on circuits.")
    parser.add_argument("--only", choices=CIRCUITS, nargs="+", default=list(CIRCUITS))
    parser.add_argument("--trained", type=int, default=TRAINED, help="rows to train on")
    parser.add_argument("--judged", type=int, default=JUDGED, help="rows to judge by")
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--write", action="store_true", help="write the table into RESULTS.md")
    options = parser.parse_args(given)
    lines = []
    for name in options.only:
        found = judged(name, options.trained, options.judged, options.cache, options.workers)
        lines += rows(f"{name}, {found['rows']}", found)
    what = "Defaults; judged by rows that were not trained on; p-values adjusted over the parameters and TARP (Holm)."
    text = context("python -m benchmarks.inference.circuits", what, _COLUMNS, lines)
    print(f"\n{text}")
    if options.write:
        write_results(text, HEADING)


if __name__ == "__main__":
    main()
