"""The rounds: choose configurations to draw around, simulate, measure, and go on from all there is."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.aimed.choosing import Candidates, choose, targets_of
from benchmarks.aimed.kernels import Kernels
from benchmarks.aimed.settings import Settings, cells, channels
from sbi_circuits.campaign import Campaign, TableProposal, remeasure, run_campaign
from sbi_circuits.campaign.plan import PROPOSAL_FILE
from sbi_circuits.circuit import get_circuit
from sbi_circuits.cultures import PlateRow
from sbi_circuits.table import BaseTable, Table


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
