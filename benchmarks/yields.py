"""Verified yield of recordings: `python -m benchmarks.yields FOLDER [--posterior NAME] [--draws 32] [--write]`.

Twenty wells of the plate, five on each of four days, and the network of human iPSC-derived neurons. Ten of the wells
were aimed at by no round of any shipped table; all others but `demo_table`'s six targets follow. Needs the recordings
beside the repository. Interrupted, it resumes: each recording leaves a JSON file with its result, and its simulations.

Candidates are drawn around the nearest simulations of the shipped table, as `infer` does, or with `--draw posterior`
from the posterior. With `--simulated N`, N simulations that the shipped posterior was not trained on in place of the
recordings, as many of every kind, each an observation of one window; what is drawn around does not hold them. With
`--windows W` their configurations are simulated again with W seeds, for observations of W windows, which tell more.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.aimed.judge import held_out
from benchmarks.aimed.posterior import PER_KIND, PER_KIND_OF
from benchmarks.aimed.posterior import SEED as SPLIT_SEED
from benchmarks.aimed.settings import kept
from sbi_circuits.campaign import run_campaign
from sbi_circuits.cultures import DAYS
from sbi_circuits.demo import demo_table
from sbi_circuits.digests import digest
from sbi_circuits.ensemble import Ensemble, build_ensemble, campaign_of, circuit_of, observe
from sbi_circuits.errors import InferenceError
from sbi_circuits.features import WindowedFeatures
from sbi_circuits.features.states import FeatureValues, summarise
from sbi_circuits.inference import Posterior, load_posterior
from sbi_circuits.inference.shipped import load_card
from sbi_circuits.nearby import nearby_ensemble
from sbi_circuits.readers import read_recording
from sbi_circuits.table import BaseTable, MemoryTable, Table, replace_file
from sbi_circuits.verification import AGAINST, judge

RECORDINGS = Path(__file__).resolve().parents[2] / "shared" / "data" / "cultures"
UNSEEN = ("A2", "A6", "B1", "B6", "C4", "C8", "D5", "E4", "F1", "F6")
OTHERS = ("A1", "A4", "A8", "B2", "B3", "B5", "B7", "B8", "C1", "C3")
HEADING = "## Verified yield of recordings"
Given = Iterator[tuple[str, WindowedFeatures]]


def recordings() -> list[tuple[str, Path, str | None]]:
    """(name, file, well) of each; the human network among the first, so that a short run has it."""
    wells = [(DAYS[k % len(DAYS)], well) for k, well in enumerate((*UNSEEN, *OTHERS))]
    files = {day: RECORDINGS / f"epa_20140507_MW1007-103_div{day:02d}.npz" for day in DAYS}
    plate = [(f"day {day}, {well}", files[day], well) for day, well in wells]
    return [*plate[:8], ("human iPSC network", RECORDINGS / "hipsc_tc75_d41.npz", None), *plate[8:]]


def simulated(n: int, posterior: Posterior, name: str, windows: int) -> tuple[Given, MemoryTable]:
    """Held-out simulations of a shipped posterior, split off as its card's were, of every kind; and the others.

    With several windows, of new simulations of their configurations; of those only that ran to their end.

    Raises:
        InferenceError: a posterior of another table.
    """
    table = Table.load_file(kept(name))
    if load_card(name).training["table_digest"] != table.digest:
        raise InferenceError(f"posterior {name} was trained on another table than the one that is kept")
    rest, held, kinds = held_out(table, PER_KIND_OF.get(name, PER_KIND), SPLIT_SEED)
    names = np.unique(kinds)
    # In turns, so that a run that is cut short has every kind; of a kind with few simulations all of them.
    turns = zip_longest(*(np.flatnonzero(kinds == kind) for kind in names))
    rows = [int(k) for turn in turns for k in turn if k is not None][:n]
    names_of = [f"{kinds[k]}, held out {k}" for k in rows]
    if windows == 1:
        seen = [[FeatureValues(held.values[k], held.states[k])] for k in rows]
    else:
        seen = _windows(posterior, held.theta[rows], windows)
    return ((name, summarise(x)) for name, x in zip(names_of, seen, strict=True) if 2 * len(x) > windows), rest


def _windows(posterior: Posterior, theta: np.ndarray, windows: int) -> Iterator[list[FeatureValues]]:
    circuit = circuit_of(posterior, None)
    for k, one in enumerate(theta):
        campaign = campaign_of(posterior, circuit, one[None], windows, SPLIT_SEED + k, "auto")
        with tempfile.TemporaryDirectory() as path:
            rows = run_campaign(campaign, Path(path) / "windows", workers=2, progress=False).read()
        ran = np.flatnonzero(rows.outcome == "ok")
        yield [FeatureValues(rows.values[i], rows.states[i]) for i in ran]


def observations(posterior: Posterior, most: int) -> Given:
    """(name, features) of the recordings."""
    for name, path, well in recordings()[:most]:
        yield name, observe(posterior, read_recording(path, group=well))


def measure(posterior: Posterior, name: str, seen: WindowedFeatures, draws: int, folder: Path, workers: int,
            near: BaseTable | None) -> dict[str, Any]:  # fmt: skip
    """Draw, simulate again, judge; read where it was done already."""
    key = digest([name, seen.n_windows, list(posterior.log), draws, *([near.digest] if near is not None else [])])[:12]
    file = folder / f"{key}.json"
    if not file.exists():
        options: dict[str, Any] = {"max_draws": draws, "seed": 8, "workers": workers, "progress": False,
                                   "folder": folder / "simulations"}  # fmt: skip
        if near is None:
            ensemble = build_ensemble(posterior, seen, draws, **options)
        else:
            ensemble = nearby_ensemble(posterior, seen, near, draws, **options)
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(file, json.dumps({"name": name, **_found(ensemble)}).encode())
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def _found(ensemble: Ensemble) -> dict[str, Any]:
    ok = ensemble.outcomes == "ok"
    by_rule = {
        against: float(judge(ensemble.observation, ensemble.values, ensemble.states, ok, ensemble.encoder,
                             replace(ensemble.criterion, against=against)).verified.mean())
        for against in AGAINST
    }  # fmt: skip
    return {
        "draws": len(ensemble.theta), "seeds": ensemble.values.shape[1], "windows": ensemble.observation.n_windows,
        "yield": by_rule, "bound": ensemble.judgement.bound, "rejections": ensemble.rejections(),
        "reach": ensemble.trust,
    }  # fmt: skip


def report(found: list[dict[str, Any]], posterior: str, draw: str) -> str:
    """Markdown."""
    rows = [
        f"| {f['name']} | {f['windows']} | {f['draws']} x {f['seeds']} | {f['yield']['mean']:.0%} | "
        f"{f['yield']['windows']:.0%} | {'yes' if ' is inside ' in f['reach'] else 'no'} | "
        f"{', '.join(f'{k} {v:.0%}' for k, v in list(f['rejections'].items())[:3])} |"
        for f in found
    ]
    medians = {against: float(np.median([f["yield"][against] for f in found])) for against in AGAINST}
    inside = sum(" is inside " in f["reach"] for f in found)
    means = {against: float(np.mean([f["yield"][against] for f in found])) for against in AGAINST}
    return "\n".join([
        HEADING, "",
        f"Posterior `{posterior}`; `python -m benchmarks.yields FOLDER --draws {found[0]['draws']} --draw {draw}`. "
        "Level 0.05 over all features. The first ten wells were aimed at by no round of any table.", "",
        f"Median yield of {len(found)} recordings {medians['mean']:.0%} (mean {means['mean']:.0%}); by the looser rule "
        f'`against="windows"` {medians["windows"]:.0%} (mean {means["windows"]:.0%}). {inside} are inside the '
        "simulations.", "", "| recording | windows | draws x seeds | yield | looser rule | inside | rejected most by |",
        "|---|---|---|---|---|---|---|", *rows,
    ])  # fmt: skip


def main(folder: Path, posterior: str, draws: int, draw: str, workers: int, most: int, n_simulated: int, windows: int,
         write_it: bool) -> None:  # fmt: skip
    trained, found = load_posterior(posterior), []
    if n_simulated:
        given, table = simulated(n_simulated, trained, posterior, windows)
    else:
        given, table = observations(trained, most), demo_table()
    for name, seen in given:
        found.append(measure(trained, name, seen, draws, folder, workers, table if draw == "nearby" else None))
        print(f"{name}: {found[-1]['yield']}, {found[-1]['reach'][:60]}", flush=True)
    text = report(found, posterior, draw)
    print(text)
    if write_it and not n_simulated:
        results = Path(__file__).with_name("RESULTS.md")
        kept = results.read_text(encoding="utf-8").split("\n## ")
        own = [part for part in kept if not part.startswith(HEADING[3:] + "\n")]
        replace_file(results, "\n## ".join([*own, text[3:] + "\n"]).encode())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--posterior", default="adex_clustered", help="name of a shipped one, or a folder")
    parser.add_argument("--draws", type=int, default=32)
    parser.add_argument("--draw", choices=("nearby", "posterior"), default="nearby")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--most", type=int, default=21, help="recordings to look at, to try the command")
    parser.add_argument("--simulated", type=int, default=0, help="so many held-out simulations in place of recordings")
    parser.add_argument("--windows", type=int, default=1, help="of each of these")
    parser.add_argument("--write", action="store_true", help="into benchmarks/RESULTS.md")
    g = parser.parse_args()
    main(g.folder, g.posterior, g.draws, g.draw, g.workers, g.most, g.simulated, g.windows, g.write)
