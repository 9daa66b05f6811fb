"""Measures connectome-constrained circuits: `python -m benchmarks.connectome step figures task --write`.

step     one Euler step of the fly's visual system at extents 5, 10 and 15, batch 4, one thread, and its gradient.
figures  the 50 published models against known tuning (extent 15), beside the published figures and two shuffled
         wirings; half an hour on one core; read-outs are kept in --folder, so that it goes on where it stopped.
task     `fit_task` at extent 5 from random initial values, against zero flow; minutes.

--write replaces this benchmark's part of benchmarks/RESULTS.md.
"""

import argparse
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sbi_circuits.connectome.fly import published_models, visual_system
from sbi_circuits.connectome.network import RateNetwork, TrainableModels
from sbi_circuits.connectome.readouts import EdgeTuning, edge_tuning, flash_response_index, flash_responses
from sbi_circuits.connectome.sparse import Links, product
from sbi_circuits.connectome.stimuli import ANGLES, CONTRASTS, SPEEDS
from sbi_circuits.connectome.task import TaskConfig, fit_task
from sbi_circuits.connectome.tuning import MOTION_TYPES, Agreement, agreement

RESULTS = Path(__file__).with_name("RESULTS.md")
TITLE = "## Connectome-constrained circuits"
CONTROLS = ("published", "types", "columns")
PUBLISHED_CURVES = dict(zip(MOTION_TYPES, (0.94, 0.72, 0.54, 0.86, 0.84, 0.90, 0.95, 0.90), strict=True))
PUBLISHED_FLASH, PUBLISHED_SELECTIVITY, PUBLISHED_DSI = 0.8, 0.89, 0.63  # median; best model; T4c of the best model


def best(work: Callable[[], Any], repeats: int = 15) -> tuple[float, float]:
    """Shortest and median time, ms, after one run that compiles."""
    work()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        times.append(1e3 * (time.perf_counter() - began))
    return min(times), float(np.median(times))


def step(extent: int) -> dict[str, float]:
    """Times (ms, shortest and median) and bytes an edge of products and Euler steps, batch 4."""
    system, one = visual_system(extent), published_models().take([0])
    found: dict[str, float] = {"cells": system.wiring.n_nodes, "edges": system.wiring.n_edges}

    def timed(name: str, work: Callable[[], Any], share: int = 1, repeats: int = 15) -> None:
        shortest, median = best(work, repeats)
        found[name], found[f"{name} median"] = shortest / share, median / share

    for layout in ("runs", "csr"):
        links = Links(system.wiring, layout)
        weight = links.weights(torch.from_numpy(one.strength)).requires_grad_()
        rates = torch.rand(1, 1, links.n_nodes, 4).requires_grad_()
        made, grad = product(links, weight, rates), torch.rand(1, 1, links.n_nodes, 4)
        timed(layout, lambda links=links, weight=weight, rates=rates: product(links, weight, rates))
        timed(f"{layout} backward", lambda made=made, grad=grad: made.backward(grad, retain_graph=True))
        found["bytes" if layout == "runs" else "csr bytes"] = links.nbytes / links.n_edges
    network = RateNetwork.of(system)
    own = np.random.default_rng(0).random((4, 40, network.n_columns), dtype=np.float32)
    timed("fused", lambda: network.respond(one, own, 0.005, settle=0.0), 40, 5)
    models, movie = TrainableModels(network, one), torch.from_numpy(own[:, :1])
    state = models.settle(0.02, 0.02).expand(-1, 4, -1).contiguous()
    whole = models(movie, 0.02, state).square().mean()
    timed("training", lambda: models(movie, 0.02, state).square().mean())
    timed("training backward", lambda: whole.backward(retain_graph=True))
    return found


def read_outs(folder: Path, extent: int, models: list[int], control: str) -> Agreement:
    """Agreement of some models with known tuning; what is in the folder is not computed again."""
    folder.mkdir(parents=True, exist_ok=True)
    system = visual_system(extent)
    missing = [m for m in models if not (folder / f"{control}-{extent}-{m:02d}.npz").exists()]
    if missing:
        wiring = system.wiring if control == "published" else system.wiring.shuffled(0, control)
        network = RateNetwork.of(system, wiring)
        for m in missing:
            one = published_models().take([m])
            flash = flash_response_index(flash_responses(network, one, system.lattice))
            tuning = edge_tuning(network, one, system.lattice)
            temporary = folder / f".{control}-{m}.tmp.npz"
            np.savez(temporary, flash=flash, peaks=tuning.peaks)
            temporary.replace(folder / f"{control}-{extent}-{m:02d}.npz")
            print(f"{control} model {m}", flush=True)
    found = [np.load(folder / f"{control}-{extent}-{m:02d}.npz") for m in models]
    flash, peaks = (np.concatenate([f[name] for f in found]) for name in ("flash", "peaks"))
    return agreement(system.wiring.cell_types, flash, EdgeTuning(peaks, SPEEDS, CONTRASTS, ANGLES))


def table(header: list[str], rows: list[list[str]]) -> str:
    """Markdown."""
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *rows])


def step_part(_: argparse.Namespace) -> str:
    torch.set_num_threads(1)
    rows = []
    for extent in (5, 10, 15):
        t = step(extent)
        times = [
            f"{t[name]:.2f} ({t[f'{name} median']:.2f})"
            for name in ("runs", "runs backward", "csr", "csr backward", "fused", "training", "training backward")
        ]
        sizes = [f"{t['cells']:,}", f"{t['edges']:,}", f"{t['bytes']:.1f}, {t['csr bytes']:.1f}"]
        rows.append([str(extent), *sizes, *times])
    header = ["extent", "cells", "edges", "bytes an edge: runs, CSR", "product", "its gradient", "CSR product",
              "its gradient", "compiled Euler step", "Euler step in torch", "its gradient"]  # fmt: skip
    what = "Milliseconds, shortest (median), batch 4, one thread, single precision."
    return f"### One step\n{what}\n\n{table(header, rows)}"


def figures_part(options: argparse.Namespace) -> str:
    rows = []
    sets = [("best (000)", "published", [0]), ("best ten", "published", list(range(10))),
            (f"all {options.models}", "published", list(range(options.models)))]  # fmt: skip
    few = list(range(options.controls))
    sets.append((f"first {len(few)}", "published", few))
    sets += [(f"first {len(few)}, wiring shuffled by {what}", what, few) for what in CONTROLS[1:]]
    for title, control, models in sets:
        found = read_outs(options.folder, options.extent, models, control)
        rows.append([title, *_medians(found)])
    header = ["models", "flash", "selectivity", *(f"{name}" for name in MOTION_TYPES), "direction error", "T4c DSI",
              "diverged"]  # fmt: skip
    published = [PUBLISHED_FLASH, PUBLISHED_SELECTIVITY, *(PUBLISHED_CURVES[name] for name in MOTION_TYPES)]
    rows.append(["published", *(f"{value:.2f}" for value in published), "", f"{PUBLISHED_DSI:.2f}", ""])
    what = (
        f"Extent {options.extent}, medians over models. Flash: correlation of the flash response index with the "
        "polarity of 32 types; selectivity: of direction selectivity with that of 18 types; T4, T5: correlation of the "
        "tuning curve, averaged over six speeds, with the measured one; direction error: degrees, median over T4, T5."
    )
    return f"### Published models against known tuning\n{what}\n\n{table(header, rows)}"


def _medians(found: Agreement) -> list[str]:
    curves = [f"{value:.2f}" for value in np.median(found.mean_curves, 0)]
    return [f"{np.median(found.flash):.2f}", f"{np.median(found.selectivity):.2f}", *curves,
            f"{np.median(found.direction_error):.0f}", f"{np.median(found.dsi[:, 2]):.2f}",
            str(int(found.diverged.sum()))]  # fmt: skip


def task_part(options: argparse.Namespace) -> str:
    torch.set_num_threads(1)
    config = TaskConfig(models=options.task_models, steps=options.steps, batch=options.batch)
    fit = fit_task(visual_system(5), config)
    start, error = (", ".join(f"{e:.2f}" for e in own) for own in (fit.start, fit.error))
    rows = [[str(config.models), str(fit.steps), f"{fit.zero:.2f}", start, error, f"{fit.seconds:.0f}"]]
    header = ["models at once", "steps", "zero flow", "error before", "error after", "seconds"]
    what = f"Extent 5, random initial values, batch {config.batch}, {config.validation} held-out movies, columns/s."
    return f"### Training on motion\n{what}\n\n{table(header, rows)}"


PARTS = {"step": step_part, "figures": figures_part, "task": task_part}
TITLES = {
    "step": "### One step", "figures": "### Published models against known tuning", "task": "### Training on motion",
}  # fmt: skip


def write(parts: dict[str, str]) -> None:
    """Replace the new parts of this benchmark's section of RESULTS.md; the others stay."""
    text = RESULTS.read_text(encoding="utf-8")
    before, found, rest = text.partition(f"{TITLE}\n")
    end = re.search(r"^## ", rest, flags=re.MULTILINE)
    section, after = (rest[: end.start()], rest[end.start() :]) if end else (rest, "")
    pieces = re.split(r"^(?=### )", section, flags=re.MULTILINE)
    old = {name: piece for name, title in TITLES.items() for piece in pieces if piece.startswith(title)}
    body = "\n\n".join((old | parts)[name].strip() for name in TITLES if name in old | parts)
    notes = "\n\n".join(p.strip() for p in pieces if p.strip() and not any(p.startswith(t) for t in TITLES.values()))
    content = "\n\n".join(filter(None, [before.rstrip(), TITLE, notes, body, after.strip()])) + "\n"
    temporary = RESULTS.with_suffix(".tmp")
    temporary.write_text(content, encoding="utf-8")
    temporary.replace(RESULTS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help="what to measure; all by default")
    parser.add_argument("--write", action="store_true", help="also into benchmarks/RESULTS.md")
    parser.add_argument("--folder", type=Path, default=Path("output/connectome"), help="of read-outs")
    parser.add_argument("--extent", type=int, default=15)
    parser.add_argument("--models", type=int, default=50)
    parser.add_argument("--controls", type=int, default=10, help="models run on each shuffled wiring")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--task-models", type=int, default=1)
    parser.add_argument("--batch", type=int, default=4)
    options = parser.parse_args()
    found = {}
    for name in options.parts or PARTS:
        found[name] = PARTS[name](options)
        print(found[name], flush=True)
    if options.write:
        write(found)


if __name__ == "__main__":
    main()
