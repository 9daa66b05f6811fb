"""The rounds: choose configurations to draw around, simulate, measure, and go on from all there is."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.aimed.judge import kinds
from benchmarks.aimed.kernels import Kernels, around
from benchmarks.aimed.settings import HELD_OUT_WELLS, Settings, cells, channels
from benchmarks.aimed.targets import Targets
from sbi_circuits.campaign import Campaign, TableProposal, remeasure, run_campaign
from sbi_circuits.campaign.plan import PROPOSAL_FILE
from sbi_circuits.circuit import get_circuit
from sbi_circuits.cultures import PlateRow
from sbi_circuits.seeds import generator
from sbi_circuits.table import BaseTable, Rows, Table


@dataclass(frozen=True, eq=False)
class Candidates:
    """Simulations to draw around: configurations (n, P), unbounded, distances (n, T), and what they do (n,)."""

    z: np.ndarray
    distances: np.ndarray
    kinds: np.ndarray

    @classmethod
    def of(cls, table: BaseTable, targets: Targets) -> "Candidates":
        """Those of a table that ran to their end."""
        rows: Rows = table.read()
        ok = rows.take(rows.outcome == "ok")
        found = kinds(ok.values, ok.states, table.feature_set.names)
        return cls(table.prior.unconstrain(ok.theta), targets.distances(ok.values, ok.states), found)


def targets_of(plate: Sequence[PlateRow], names: Sequence[str]) -> Targets:
    """The wells that may be aimed at, on every day."""
    aimed = [row.features for row in plate if row.well not in HELD_OUT_WELLS]
    windows = [np.concatenate([getattr(f, name) for f in aimed]) for name in ("window_values", "window_states")]
    return Targets.of(names, np.array([f.values for f in aimed]), np.array([f.states for f in aimed]), *windows)


def choose(candidates: Sequence[Candidates], settings: Settings, seed: int) -> Kernels:
    """Kernels around the nearest simulations of every target, and around some of every kind of dynamics."""
    z, distances, found = (
        np.concatenate([getattr(c, name) for c in candidates]) for name in ("z", "distances", "kinds")
    )
    nearest = np.argsort(distances, axis=0)[: settings.nearest].T.ravel()
    random = generator(seed, "others")
    others = [random.permutation(np.flatnonzero(found == kind))[: settings.others] for kind in np.unique(found)]
    centres = z[np.concatenate([nearest, *others])]
    return around(centres, z[np.unique(nearest)], settings.widths, settings.prior_share)


def run_round(folder: Path, number: int, kernels: Kernels, settings: Settings, workers: int) -> Table:
    """Simulate one round, in the view of cells and again in that of channels; the latter's table."""
    circuit, seed, path = get_circuit(settings.circuit), settings.seed + number, folder / f"round-{number:03d}"
    if (path / PROPOSAL_FILE).exists():  # begun, perhaps under other settings
        proposal = TableProposal.load(path / PROPOSAL_FILE)
    else:
        proposal = TableProposal(kernels.sample(circuit.prior, settings.per_round, seed), f"aimed round {number}")
    campaign = Campaign(
        circuit, len(proposal.theta), cells(), settings.protocol, seed=seed, engine=settings.engine, unit=8,
        proposal=proposal, keep_recordings=settings.keep,
    )  # fmt: skip
    run_campaign(campaign, path, workers=workers, accept_code=settings.accept_code)
    return remeasure(path, channels(), folder / f"round-{number:03d}-channels", workers=workers)


def run(folder: Path, start: BaseTable, plates: tuple[Sequence[PlateRow], Sequence[PlateRow]], settings: Settings,
        workers: int) -> None:  # fmt: skip
    """All rounds; what is there is kept, so that an interrupted run goes on.

    Args:
        folder: of the rounds.
        start: simulations to aim with in the first round.
        plates: cultures measured as `start` was, and as the rounds are.
        settings: of everything.
        workers: processes to simulate in.
    """
    folder.mkdir(parents=True, exist_ok=True)
    old, new = (targets_of(plate, names) for plate, names in
                zip(plates, (start.feature_set.names, channels().names), strict=True))  # fmt: skip
    candidates = [Candidates.of(start, old)]
    for number in range(settings.rounds):
        file = folder / f"kernels-{number:03d}.safetensors"
        if not file.exists():
            choose(candidates, settings, settings.seed + number).save(file)
        table = run_round(folder, number, Kernels.load(file), settings, workers)
        candidates.append(Candidates.of(table, new))
        print(_said(number, table, candidates), flush=True)


def _said(number: int, table: Table, candidates: Sequence[Candidates]) -> str:
    best = [np.median(np.concatenate([c.distances for c in part]).min(0)) for part in (candidates[:-1], candidates)]
    within = [f"{(candidates[-1].distances.min(1) < d).mean():.0%} within {d:g}" for d in (1.0, 0.75)]
    return (f"round {number}: {table.counts()}; median distance of the nearest to a target {best[0]:.2f} -> "
            f"{best[1]:.2f}; {', '.join(within)}")  # fmt: skip
