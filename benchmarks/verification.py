"""Does verification keep its level, and what does it reject? `python -m benchmarks.verification FOLDER`.

Bursting configurations of the shipped table of `adex_clustered` are simulated ten times each, 60 s. Some seeds make the
recording, others are judged against it: the same configuration (at the stated level of 0.05 at least 95 % must pass),
all other ones, and, with two seeds, the same with one parameter, whichever, moved by 0.4 of the prior's range. All of
them are judged together, as draws of a posterior are. Interrupted, it resumes.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sbi_circuits.campaign import Campaign, TableProposal, run_campaign
from sbi_circuits.circuit import get_circuit
from sbi_circuits.demo import demo_table
from sbi_circuits.ensemble import protocol_of
from sbi_circuits.features.states import FeatureValues, summarise
from sbi_circuits.inference.encode import FeatureEncoder
from sbi_circuits.prior import Prior
from sbi_circuits.table import MemoryTable, Rows
from sbi_circuits.verification import Criterion, judge, seeds_for

SEEDS, OFF, MOVED, LEAST_BURSTS, SEED = 10, 2, 0.4, 3.0, 8


@dataclass(frozen=True, eq=False)
class Simulated:
    """Features of N configurations: (N, 10, F) of them as they are, (N, 2, 2, F) of two changed ones each."""

    values: np.ndarray
    states: np.ndarray
    ok: np.ndarray
    changed: tuple[np.ndarray, np.ndarray, np.ndarray]

    @classmethod
    def of(cls, rows: Rows, n: int) -> "Simulated":
        """From the rows of the campaign, in order."""
        parts = (rows.values, rows.states, np.asarray(rows.outcome == "ok"))
        values, states, ok = (part[: n * SEEDS].reshape(n, SEEDS, *part.shape[1:]) for part in parts)
        changed = [part[n * SEEDS :].reshape(n, OFF, 2, *part.shape[1:]) for part in parts]
        return cls(values, states, ok, (changed[0], changed[1], changed[2]))


def simulate(folder: Path, n: int, workers: int) -> tuple[Simulated, FeatureEncoder]:
    """All simulations, and the scales of the features over the whole table."""
    table = demo_table()
    rows, ok = table.rows, table.rows.outcome == "ok"
    rate = rows.values[:, table.feature_set.names.index("bursts.rate_per_minute")]
    random = np.random.default_rng(SEED)
    theta = rows.theta[random.permutation(np.flatnonzero(ok & (rate >= LEAST_BURSTS)))[:n]]
    every = np.concatenate([np.repeat(theta, SEEDS, axis=0), np.repeat(_moved(table.prior, theta, random), 2, axis=0)])
    found = run_campaign(_campaign(table, every), folder, workers=workers).read()
    return Simulated.of(found, n), FeatureEncoder.fit(rows.values[ok], rows.states[ok], False)


def _moved(prior: Prior, theta: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Each configuration twice, with one parameter moved."""
    unit = np.repeat(prior.to_unit(theta), OFF, axis=0)
    which = random.integers(0, len(prior), len(unit))
    chosen = unit[np.arange(len(unit)), which]
    unit[np.arange(len(unit)), which] = chosen + np.where(chosen < 0.5, MOVED, -MOVED)
    return prior.from_unit(unit)


def _campaign(table: MemoryTable, theta: np.ndarray) -> Campaign:
    circuit = get_circuit("adex_clustered").with_prior(table.prior)
    return Campaign(circuit, len(theta), table.feature_set, protocol_of(table.manifest.protocol), seed=880001, unit=8,
                    proposal=TableProposal(theta, "level"))  # fmt: skip


def passes(found: Simulated, encoder: FeatureEncoder, windows: int, repeats: int, splits: int) -> tuple[float, ...]:
    """Shares verified of the configuration itself, of all others, of the changed ones; mean bound."""
    own, others, changed, bounds = [], [], [], []
    for i in np.flatnonzero(found.ok.all(1)):
        for split in range(splits):
            order = np.random.default_rng(100 * i + split).permutation(SEEDS)
            tested, recorded = order[:repeats], order[repeats : repeats + windows]
            parts = [part[:, :repeats].copy() for part in (found.values, found.states, found.ok)]
            for part, source in zip(parts, (found.values, found.states, found.ok), strict=True):
                part[i] = source[i, tested]
            if repeats == 2:
                parts = [np.concatenate([part, off[i]]) for part, off in zip(parts, found.changed, strict=True)]
            x = summarise([FeatureValues(found.values[i, k], found.states[i, k]) for k in recorded])
            values, states, ok = parts
            judged = judge(x, values, states, ok, encoder, Criterion(repeats=repeats))
            n = len(found.values)
            own.append(judged.verified[i])
            others.append(np.delete(judged.verified[:n], i).mean())
            changed.append(judged.verified[n:].mean() if repeats == 2 else np.nan)
            bounds.append(judged.bound)
    return float(np.mean(own)), float(np.mean(others)), float(np.mean(changed)), float(np.mean(bounds)), len(own)


def main(folder: Path, n: int, workers: int, splits: int) -> None:
    found, encoder = simulate(folder, n, workers)
    print("| windows | seeds | itself verified | others | one parameter moved | bound | trials |")
    print("|---|---|---|---|---|---|---|")
    for windows in (1, 4, 8):
        for repeats in sorted({2, min(seeds_for(windows), SEEDS - windows)}):
            own, others, changed, bound, trials = passes(found, encoder, windows, repeats, splits)
            off = "" if np.isnan(changed) else f"{changed:.1%}"
            print(f"| {windows} | {repeats} | {own:.1%} | {others:.1%} | {off} | {bound:.1f} | {trials} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--configurations", type=int, default=48)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--splits", type=int, default=4, help="ways to split the seeds of each configuration")
    given = parser.parse_args()
    main(given.folder, given.configurations, given.workers, given.splits)
