"""NEST in a process of its own: a task as JSON on standard input, the result as one JSON line on standard output.

NEST is a program beside this project, licensed otherwise, and keeps one global kernel per process; so it is called,
never imported, and this file imports nothing of the project. Any Python with NEST 3.10 and numpy runs it.
Units are NEST's: mV, ms, pF, nS, pA.
"""

import json
import os
import resource
import sys
import time
from typing import Any

import numpy as np

# NEST's kernel prints a banner and progress from C++: keep standard output for the answer alone.
_ANSWER = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)

import nest  # noqa: E402


def brunel(task: dict[str, Any]) -> dict[str, Any]:
    """Model A of Brunel 2000: fixed in-degrees without multapses and autapses, one Poisson train per neuron.

    The task gives N_E, N_I, C_E, C_I, tau, V_th, V_reset, t_ref, J, g, delay, rate (events per second and neuron),
    synapse (a NEST synapse model), warmup and duration (s).
    """
    cell = _delta_cell(task)
    cells = nest.Create("iaf_psc_delta", task["N_E"] + task["N_I"], params=cell)
    spikes = nest.Create("spike_recorder")
    noise = nest.Create("poisson_generator", params={"rate": task["rate"]})
    began = time.perf_counter()
    for first, last, degree, weight in (
        (0, task["N_E"], task["C_E"], task["J"]),
        (task["N_E"], len(cells), task["C_I"], -task["g"] * task["J"]),
    ):
        rule = {"rule": "fixed_indegree", "indegree": degree, "allow_autapses": False, "allow_multapses": False}
        synapse = _synapse(task["synapse"], weight, task["delay"])
        nest.Connect(cells[first:last], cells, rule, synapse)
    nest.Connect(noise, cells, syn_spec={"weight": task["J"], "delay": task["delay"]})
    nest.Connect(cells, spikes)
    return {"build_s": time.perf_counter() - began, **_simulate(task, cells, spikes)}


def explicit(task: dict[str, Any]) -> dict[str, Any]:
    """Neurons with delta synapses and given pairs: V_m, pairs, weights (mV), delays (ms), E_L; returns the spikes."""
    cells = nest.Create("iaf_psc_delta", len(task["V_m"]), params={**_delta_cell(task), "E_L": task["E_L"]})
    cells.V_m = task["V_m"]
    spikes = nest.Create("spike_recorder")
    sources, targets = np.array(task["pairs"]).T
    _connect(cells, sources, targets, np.array(task["weights"]), np.array(task["delays"]))
    nest.Connect(cells, spikes)
    found = _simulate(task, cells, spikes)
    events = spikes.get("events")
    return {**found, "times": events["times"].tolist(), "cells": (events["senders"] - 1).tolist()}


def adex(task: dict[str, Any]) -> dict[str, Any]:
    """Conductance-based adaptive exponential neurons (aeif_cond_exp) with given pairs and initial voltages.

    The task names an npz file with, per population p: `cells_p` as a list of parameter values in the order of
    `names`, `V_m_p`; and `sources`, `targets`, `weights` (nS, negative for inhibition); `rates` (events/s) and
    `driven` (how many of the first cells) of the Poisson input to each population, `weight` (nS) of its events.
    """
    with np.load(task["file"], allow_pickle=False) as data:
        groups = []
        for k in range(task["populations"]):
            values = dict(zip(task["names"], data[f"cells_{k}"].tolist(), strict=True))
            groups.append(nest.Create("aeif_cond_exp", len(data[f"V_m_{k}"]), params=values))
            groups[-1].V_m = data[f"V_m_{k}"]
        cells = sum(groups[1:], groups[0])
        began = time.perf_counter()
        delays = np.full(len(data["sources"]), task["dt"])
        _connect(cells, data["sources"], data["targets"], data["weights"], delays)
        for group, rate, driven in zip(groups, data["rates"], data["driven"], strict=True):
            if rate > 0 and driven > 0:
                noise = nest.Create("poisson_generator", params={"rate": float(rate)})
                syn = {"weight": task["weight"], "delay": task["dt"]}
                nest.Connect(noise, group[: int(driven)], syn_spec=syn)
    spikes = nest.Create("spike_recorder")
    nest.Connect(cells, spikes)
    return {"build_s": time.perf_counter() - began, **_simulate(task, groups[0], spikes)}


def _delta_cell(task: dict[str, Any]) -> dict[str, float]:
    rest = {"E_L": 0.0, "I_e": 0.0, "V_m": 0.0, "C_m": 1.0}
    keys = {"tau_m": "tau", "V_th": "V_th", "V_reset": "V_reset", "t_ref": "t_ref"}
    return {**rest, **{name: task[key] for name, key in keys.items()}}


def _synapse(model: str, weight: float, delay: float) -> dict[str, Any]:
    if not model.startswith("static_synapse_hom_w"):
        return {"synapse_model": model, "weight": weight, "delay": delay}
    # One weight for all synapses of a model: NEST's leanest synapse, and its fastest.
    name = f"{model}_{'excitatory' if weight > 0 else 'inhibitory'}"
    nest.CopyModel(model, name, {"weight": weight})
    return {"synapse_model": name, "delay": delay}


def _connect(cells: Any, sources: np.ndarray, targets: np.ndarray, weights: np.ndarray, delays: np.ndarray) -> None:
    first = cells[0].global_id
    synapse = {"weight": weights.astype(float), "delay": delays.astype(float)}
    nest.Connect(sources.astype(int) + first, targets.astype(int) + first, "one_to_one", synapse)


def _simulate(task: dict[str, Any], counted: Any, spikes: Any) -> dict[str, Any]:
    """Run warm-up and valid interval; rate and irregularity of the `counted` neurons over the valid interval."""
    nest.Prepare()
    nest.Run(task["dt"])  # allocates the buffers
    clock, began = time.process_time(), time.perf_counter()
    steps = round((task["warmup"] + task["duration"]) * 1000 / task["dt"])
    nest.Run((steps - 1) * task["dt"])
    wall, cpu = time.perf_counter() - began, time.process_time() - clock
    nest.Cleanup()
    events = spikes.get("events")
    steps_of = np.rint(np.asarray(events["times"]) / task["dt"]).astype(np.int64)
    cell = np.asarray(events["senders"], dtype=np.int64) - counted[0].global_id
    valid = (steps_of >= round(task["warmup"] * 1000 / task["dt"])) & (steps_of < steps) & (cell < len(counted))
    rate, cv, cells_with = _statistics(steps_of[valid], cell[valid], len(counted), task)
    return {
        "rate": rate, "cv": cv, "cells_with_cv": cells_with, "wall_s": wall, "cpu_s": cpu,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, "version": nest.__version__,
    }  # fmt: skip


def _statistics(steps: np.ndarray, cell: np.ndarray, size: int, task: dict[str, Any]) -> tuple[float, float, int]:
    """Mean rate (Hz), and mean CV of the interspike intervals of the cells with at least `min_spikes` spikes."""
    order = np.lexsort((steps, cell))
    steps, cell = steps[order], cell[order]
    same = cell[1:] == cell[:-1]
    owner, interval = cell[1:][same], np.diff(steps)[same].astype(float)
    spikes = np.bincount(cell, minlength=size)
    enough = spikes >= task.get("min_spikes", 3)
    n = spikes[enough] - 1
    mean = np.bincount(owner, interval, size)[enough] / n
    variance = np.maximum(np.bincount(owner, interval**2, size)[enough] / n - mean**2, 0.0)
    cv = float(np.mean(np.sqrt(variance) / mean)) if enough.any() else 0.0
    return float(len(steps) / size / task["duration"]), cv, int(enough.sum())


def main() -> None:
    task = json.load(sys.stdin)
    nest.ResetKernel()
    nest.verbosity = nest.VerbosityLevel.ERROR
    nest.set(resolution=task["dt"], local_num_threads=task.get("threads", 1), rng_seed=task["seed"])
    networks = {"brunel": brunel, "explicit": explicit, "adex": adex}
    json.dump(networks[task["network"]](task), _ANSWER)
    _ANSWER.flush()


if __name__ == "__main__":
    main()
