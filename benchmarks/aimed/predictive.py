"""How near draws come to cultures nobody aimed at: `python -m benchmarks.aimed.predictive FOLDER RECORDINGS NAME...`.

Of held-out wells on every day, some draws of each posterior are simulated for 120 s and set beside the recording, in
the distance of `targets` (1: as far as single windows of cultures lie from their mean). Names are folders or shipped
posteriors; all answer the same observations, each in windows of its own length.
"""

import argparse
import re
from pathlib import Path

import numpy as np

from benchmarks.aimed.cultures import measured
from benchmarks.aimed.rounds import targets_of
from benchmarks.aimed.settings import HELD_OUT_WELLS, Settings, channels
from sbi_circuits.campaign import Campaign, TableProposal, run_campaign
from sbi_circuits.circuit import get_circuit
from sbi_circuits.cultures import DAYS
from sbi_circuits.ensemble import observe
from sbi_circuits.inference import Posterior, load_posterior
from sbi_circuits.readers import read_recording

WITHIN = (1.0, 0.8)


def main(folder: Path, recordings: Path, names: list[str], wells: int, draws: int) -> None:
    cases = [(day, well) for day in DAYS for well in HELD_OUT_WELLS[:wells]]
    targets = targets_of(measured(), channels().names)  # the scales; the wells themselves are not among them
    plate = {(row.day, row.well): row.features for row in measured()}
    own = [plate[case] for case in cases]
    wanted = type(targets)(np.array([f.values for f in own]), np.array([f.states for f in own]), targets.columns,
                           targets.logarithmic, targets.scale)  # fmt: skip
    for name in names:
        posterior = load_posterior(name)
        theta = np.concatenate([_drawn(posterior, recordings, *case, draws) for case in cases])
        settings = Settings()
        proposal = TableProposal(theta, f"posterior {posterior.provenance['table_digest'][:12]}")
        campaign = Campaign(get_circuit(settings.circuit), len(theta), channels(), settings.protocol, seed=77,
                            proposal=proposal)  # fmt: skip
        label = re.sub(r"\W+", "_", name).strip("_")
        rows = run_campaign(campaign, folder / f"predictive-{label}-{proposal.digest[:8]}").read()
        of = np.repeat(np.arange(len(cases)), draws)
        distance = wanted.distances(rows.values, rows.states)[np.arange(len(rows)), of]
        distance = np.where(rows.outcome == "ok", distance, np.inf)
        print(f"{name}: {_said(distance)}; by day: " + "; ".join(
            f"{day} {_said(distance[[cases[k][0] == day for k in of]])}" for day in DAYS), flush=True)  # fmt: skip


def _said(distance: np.ndarray) -> str:
    within = ", ".join(f"{(distance < d).mean():.0%} within {d:g}" for d in WITHIN)
    return f"median distance {np.median(distance):.2f}, {within} ({len(distance)} draws)"


def _drawn(posterior: Posterior, recordings: Path, day: int, well: str, n: int) -> np.ndarray:
    path = recordings / f"epa_20140507_MW1007-103_div{day:02d}.npz"
    x = observe(posterior, read_recording(path, group=well))
    return posterior(x).sample(n, seed=day)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("recordings", type=Path)
    parser.add_argument("names", nargs="+")
    parser.add_argument("--wells", type=int, default=5)
    parser.add_argument("--draws", type=int, default=3)
    given = parser.parse_args()
    main(given.folder, given.recordings, given.names, given.wells, given.draws)
