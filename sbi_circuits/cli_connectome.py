"""`connectome`: check a wiring, read out models of the fly's visual system, train some, silence a cell type."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sbi_circuits.connectome import (
    Agreement,
    Consensus,
    Models,
    RateNetwork,
    TaskConfig,
    agreement,
    edge_tuning,
    fit_task,
    flash_response_index,
    flash_responses,
    load_models,
    published_models,
    read_wiring,
    save_models,
    silence,
    visual_system,
)
from sbi_circuits.connectome.readouts import EdgeTuning
from sbi_circuits.connectome.tuning import MOTION_TYPES
from sbi_circuits.errors import CircuitError, UnknownNameError
from sbi_circuits.plots import save
from sbi_circuits.plots.connectome import prediction_plot, task_plot, tuning_plot
from sbi_circuits.table import replace_file


@dataclass(frozen=True)
class Wanted:
    """What the command was given."""

    edges: Path | None
    nodes: Path | None
    gaps: Path | None
    duplicates: str
    extent: int
    models: int
    fitted: Path | None
    speeds: tuple[float, ...]
    cell_type: str | None
    steps: int
    seed: int
    workers: int
    device: str
    out: Path


def connectome(what: str, wanted: Wanted) -> None:
    """Run one of `TASKS`; raises `UnknownNameError` for another."""
    if what not in TASKS:
        raise UnknownNameError("task of connectome", what, TASKS)
    TASKS[what](wanted)


def check(wanted: Wanted) -> None:
    """Read an edge table and say what is in it."""
    if wanted.edges is None:
        raise CircuitError("connectome check needs --edges: a CSV or Parquet file with source, target, count")
    wiring = read_wiring(wanted.edges, wanted.nodes, wanted.gaps, duplicates=wanted.duplicates)
    synapses = f"{wiring.n_edges} edges, {wiring.count.sum():g} synapses"
    print(f"{wiring.n_nodes} cells of {len(wiring.cell_types)} types, {synapses}")
    print(f"{(wiring.sign < 0).mean():.0%} of the edges inhibit; {len(wiring.gap)} pairs with gap junctions")
    print(f"{len(wiring.groups)} strengths where they are shared by pair of types; digest {wiring.digest[:12]}")


def tuning(wanted: Wanted) -> None:
    """Models of the fly's visual system against known tuning."""
    system, models = visual_system(wanted.extent), _models(wanted)
    network = RateNetwork.of(system)
    index = flash_response_index(flash_responses(network, models, system.lattice, workers=wanted.workers))
    edges = edge_tuning(network, models, system.lattice, wanted.speeds, workers=wanted.workers)
    found = agreement(system.wiring.cell_types, index, edges)
    _say(found)
    _write(wanted.out, system.wiring.cell_types, index, edges)


def fit(wanted: Wanted) -> None:
    """Train models on the motion of textures."""
    config = TaskConfig(models=wanted.models, steps=wanted.steps, seed=wanted.seed)
    found = fit_task(visual_system(wanted.extent), config, wanted.out, device=wanted.device)
    print(found.summary())
    print(f"wrote {save_models(found.models, wanted.out / 'models.safetensors')}")
    print(f"wrote {save(task_plot(found), wanted.out / 'training.png')}")


def silencing(wanted: Wanted) -> None:
    """What silencing a cell type changes in the flash response of all others."""
    if wanted.cell_type is None:
        raise CircuitError("connectome silence needs --type, such as --type L1")
    system, models = visual_system(wanted.extent), _models(wanted)
    network = RateNetwork.of(system)

    def measure(chosen: Models) -> np.ndarray:
        return flash_response_index(flash_responses(network, chosen, system.lattice, workers=wanted.workers))

    found = silence(models, wanted.cell_type, measure, system.wiring.cell_types)
    print(f"change of the flash response index without {wanted.cell_type}, the ten largest:")
    print(found.change.table(found.largest(10)))
    print(f"wrote {save(prediction_plot(found.change, 'change of index'), wanted.out / 'silencing.png')}")


TASKS: dict[str, Callable[[Wanted], None]] = {"check": check, "fit": fit, "silence": silencing, "tuning": tuning}


def _models(wanted: Wanted) -> Models:
    models = published_models() if wanted.fitted is None else load_models(wanted.fitted)
    return models.take(slice(wanted.models))


def _say(found: Agreement) -> None:
    print(f"{len(found.flash)} models, {int(found.diverged.sum())} diverged; medians:")
    print(f"flash response index against polarity of 32 types: correlation {np.median(found.flash):.2f}")
    print(f"direction selectivity of 18 types: correlation {np.median(found.selectivity):.2f}")
    for k, name in enumerate(MOTION_TYPES):
        curve, error, dsi = (np.median(a[:, k]) for a in (found.curves, found.direction_error, found.dsi))
        direction = f"preferred direction off by {error:.0f} degrees"
        print(f"{name}: tuning curve {curve:+.2f}, {direction}, selectivity {dsi:.2f}")


def _write(out: Path, cell_types: tuple[str, ...], index: np.ndarray, edges: EdgeTuning) -> None:
    out.mkdir(parents=True, exist_ok=True)
    selectivity, preferred = edges.selectivity(), edges.preferred()
    header = "model,type,flash_index,dsi_off,dsi_on,preferred_off_deg,preferred_on_deg"
    rows = [
        f"{m},{name},{index[m, k]:.4f},{selectivity[m, k, 0]:.4f},{selectivity[m, k, 1]:.4f},"
        f"{preferred[m, k, 0]:.1f},{preferred[m, k, 1]:.1f}"
        for m in range(len(index))
        for k, name in enumerate(cell_types)
    ]
    replace_file(out / "readouts.csv", ("\n".join([header, *rows]) + "\n").encode())
    print(f"wrote {out / 'readouts.csv'}")
    print(f"wrote {save(prediction_plot(Consensus(cell_types, index)), out / 'flash.png')}")
    print(f"wrote {save(tuning_plot(cell_types, edges), out / 'tuning.png')}")
