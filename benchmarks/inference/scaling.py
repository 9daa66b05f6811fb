"""Scales of features: by median and interquartile range, by ranks, or whichever the regression prefers.

    python -m benchmarks.inference.scaling                    two tasks of sbibm and the shipped table of adex_clustered
    python -m benchmarks.inference.scaling --write            also into benchmarks/RESULTS.md

The same rows, seed and defaults (`drop=0`) for each; judged by the log density of rows that were not trained on.
"""

import argparse
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from benchmarks.inference.__main__ import CACHE
from benchmarks.inference.circuits import divided
from benchmarks.inference.files import read_json, write_json
from benchmarks.inference.report import context, write_results
from benchmarks.inference.tasks import TASKS, UnitPrior, sbibm_task, simulations
from sbi_circuits.demo import demo_table
from sbi_circuits.inference import TrainingConfig, TrainingData, train
from sbi_circuits.prior import Parameter, Prior

HEADING = "### Scales of the features"
ADEX, _APART = "adex_clustered", 700
SCALINGS = ("robust", "rank", "auto")
_COLUMNS = ("table", "simulations", "scaling", "chosen", "held-out log density", "lead over robust", "training s")


def task_rows(name: str, n: int, seed: int, options: argparse.Namespace) -> tuple[TrainingData, tuple[Any, ...]]:
    """Rows to train on, and theta, values, states of the 2,000 that judge, in the unit cube."""
    given, cube = simulations(name, n, seed, 1, options.cache), UnitPrior(sbibm_task(name))
    theta, held = cube.to_unit(given.theta), cube.to_unit(given.held_theta)
    prior = Prior(tuple(Parameter(f"theta_{i}", "1", 0.0, 1.0) for i in range(theta.shape[1])))
    names = tuple(f"x.{i}" for i in range(given.x.shape[1]))
    data = TrainingData(theta, given.x, np.zeros(given.x.shape, dtype=np.uint8), prior, names)
    return data, (held, given.held_x, np.zeros(given.held_x.shape, dtype=np.uint8))


def adex_rows(n: int) -> tuple[TrainingData, tuple[Any, ...]]:
    """The same of the shipped table, whose proposals are taken for the prior."""
    table, held = divided(demo_table(), n, _APART, "all")
    return TrainingData.from_table(table), (held.theta, held.values, held.states)


def measured(name: str, n: int, scaling: str, options: argparse.Namespace) -> dict[str, Any]:
    """Log densities of held-out rows under one posterior; kept in the cache."""
    path = options.cache / f"scaling-{name}-{n}-{scaling}-{options.seed}.json"
    known = read_json(path)
    if known:
        return known
    data, held = adex_rows(n) if name == ADEX else task_rows(name, n, options.seed, options)
    importance = "none" if name == ADEX else "truncated"
    started = time.process_time()
    config = TrainingConfig(drop=0.0, scaling=scaling, importance=importance)
    posterior = train(data, config, progress=False, seed=options.seed)
    seconds = time.process_time() - started
    density = posterior.log_prob_rows(*held) - data.prior.log_prob(held[0])
    chosen = posterior.provenance["config"]["scaling"]
    figures = {"rows": data.rows, "chosen": chosen, "density": density.tolist(), "train_s": seconds}
    write_json(path, figures)
    return figures


def _row(name: str, scaling: str, found: dict[str, Any], robust: dict[str, Any]) -> list[str]:
    density, lead = np.array(found["density"]), np.array(found["density"]) - np.array(robust["density"])
    error = lead.std() / np.sqrt(len(lead))
    told = "" if scaling == "robust" else f"{lead.mean():+.3f} +- {error:.3f}"
    figures = [f"{density.mean():.3f}", told, f"{found['train_s']:.0f}"]
    return [name, str(found["rows"]), scaling, found["chosen"], *figures]


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.inference.scaling", description="Scales of features.")
    add = parser.add_argument
    add("--tables", nargs="+", choices=(*TASKS, ADEX), default=["slcp", "two_moons", ADEX])
    add("--budgets", nargs="+", type=int, default=[1000, 10_000], help="of the tasks; of the table, at most all rows")
    add("--scalings", nargs="+", choices=SCALINGS, default=list(SCALINGS))
    add("--seed", type=int, default=0)
    add("--cache", type=type(CACHE), default=CACHE)
    add("--write", action="store_true", help="write the table into RESULTS.md")
    options = parser.parse_args(given)
    torch.set_num_threads(1)
    rows = []
    for n in options.budgets:
        for name in options.tables:
            robust = measured(name, n, "robust", options)
            for scaling in options.scalings:
                rows.append(_row(name, scaling, measured(name, n, scaling, options), robust))
                print(" | ".join(rows[-1]), flush=True)
    what = ("Mean log density of held-out rows over the prior's, nats (2,000 rows of each task, 700 of the table); "
            "`drop=0`.")  # fmt: skip
    text = context("python -m benchmarks.inference.scaling", what, _COLUMNS, rows)
    print(f"\n{text}")
    if options.write:
        write_results(text, HEADING)


if __name__ == "__main__":
    main()
