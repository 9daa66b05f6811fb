"""Measures connectome-constrained circuits: `python -m benchmarks.connectome step figures task --write`.

step     one Euler step of the fly's visual system at extents 5, 10 and 15, batch 4, one thread, forwards and backwards.
figures  the 50 published models against known tuning (extent 15), beside the published figures and two shuffled wirings;
         an hour on one core; each model's read-outs are kept in --folder, so that it goes on where it stopped.
task     `fit_task` at extent 5 from random initial values, against zero flow.

--write replaces this benchmark's part of benchmarks/RESULTS.md.
"""

import argparse
import json
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
from sbi_circuits.connectome.sparse import product
from sbi_circuits.connectome.stimuli import ANGLES, CONTRASTS, SPEEDS
from sbi_circuits.connectome.tuning import MOTION_TYPES, Agreement, agreement

RESULTS = Path(__file__).with_name("RESULTS.md")
TITLE = "## Connectome-constrained circuits"
CONTROLS = ("published", "types", "columns")
PUBLISHED = {
    "curves": dict(zip(MOTION_TYPES, (0.94, 0.72, 0.54, 0.86, 0.84, 0.90, 0.95, 0.90), strict=True)),
    "flash": 0.8, "selectivity": 0.89,
}  # fmt: skip


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
    """Times (ms) and memory of the sparse product and of one Euler step, batch 4."""
    network = RateNetwork.of(visual_system(extent))
    models = TrainableModels(network, published_models().take([0]))
    links, weight = network.links, network.links.weights(models.strength).detach().requires_grad_()
    rates = torch.rand(1, 1, links.n_nodes, 4).requires_grad_()
    grad = torch.rand_like(rates)
    made = product(links, weight, rates)
    forward, forward_median = best(lambda: product(links, weight, rates))
    backward, backward_median = best(lambda: made.backward(grad, retain_graph=True))
    movie = torch.rand(4, 1, network.n_columns)
    state = models.settle(0.02, 0.02).expand(-1, 4, -1).contiguous()

    def euler() -> torch.Tensor:
        return models(movie, 0.02, state).square().mean()

    whole = euler()
    own = np.random.default_rng(0).random((4, 40, network.n_columns), dtype=np.float32)
    fused, fused_median = best(lambda: network.respond(published_models().take([0]), own, 0.005, settle=0.0), 5)
    euler_forward, euler_median = best(euler)
    euler_backward, euler_backward_median = best(lambda: whole.backward(retain_graph=True))
    return {
        "cells": links.n_nodes, "edges": links.n_edges, "bytes an edge": links.nbytes / links.n_edges,
        "product": forward, "product median": forward_median, "backward": backward, "backward median": backward_median,
        "fused step": fused / 40, "fused median": fused_median / 40, "training step": euler_forward,
        "training median": euler_median, "training backward": euler_backward,
        "training backward median": euler_backward_median,
    }  # fmt: skip


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
