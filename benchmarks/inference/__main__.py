"""Posteriors of this project and of sbi on the tasks of sbibm, side by side.

    python -m benchmarks.inference                              both estimators, 1,000 and 10,000 simulations
    python -m benchmarks.inference --budgets 1000 --tasks slcp  less of it
    python -m benchmarks.inference --write                      also into benchmarks/RESULTS.md

Every (task, budget, seed, estimator) is kept in output/inference, and a later run goes on from there.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.inference.estimators import ESTIMATORS, Answer
from benchmarks.inference.files import read_json, write_arrays, write_json
from benchmarks.inference.report import comparison, write_results
from benchmarks.inference.tasks import TASKS, Simulations, simulations

CACHE = Path(__file__).resolve().parents[2] / "output" / "inference"


@dataclass(frozen=True)
class Cell:
    """One estimator on one task; its files in the cache."""

    estimator: str
    task: str
    budget: int
    seed: int
    observations: int
    cache: Path

    @property
    def given(self) -> Simulations:
        return simulations(self.task, self.budget, self.seed, self.observations, self.cache)

    @property
    def path(self) -> Path:
        return self.cache / f"{self.estimator}-{self.task}-{self.budget}-{self.seed}.json"

    @property
    def draws(self) -> Path:
        return self.path.with_suffix(".npz")

    def trained(self) -> dict[str, Any]:
        """Figures without scores; from the cache where that has draws for as many observations."""
        known = read_json(self.path)
        if known and known["observations"] >= self.observations:
            return known
        answer = ESTIMATORS[self.estimator](self.task, self.given, self.seed)
        write_arrays(self.draws, draws=answer.draws)
        figures = _figures(answer) | {"observations": self.observations, "c2st": []}
        write_json(self.path, figures)
        return figures

    def scored(self, observations: int) -> dict[str, Any]:
        """Figures with the C2ST of the first observations, each kept as soon as it is known."""
        from sbibm.metrics.c2st import c2st

        figures, given = self.trained(), self.given
        with np.load(self.draws, allow_pickle=False) as stored:
            draws = stored["draws"]
        for i in range(len(figures["c2st"]), observations):
            pair = torch.as_tensor(given.references[i]), torch.as_tensor(draws[i]).float()
            figures["c2st"].append(c2st(*pair).item())
            write_json(self.path, figures)
        return figures


def _figures(answer: Answer) -> dict[str, Any]:
    return {
        "held_out": float(np.mean(answer.held_out)),
        "held_out_error": float(np.std(answer.held_out) / np.sqrt(len(answer.held_out))),
        "train_s": answer.train_s,
        "draw_s": answer.draw_s,
        "note": answer.note,
    }


def _scores(cells: list[Cell], observations: int) -> dict[tuple[str, str, int], list[dict[str, Any]]]:
    """Figures of every cell; one observation of all before the next, so that what an interruption leaves compares."""
    for count in range(1, observations + 1):
        for cell in cells:
            score = cell.scored(count)["c2st"][count - 1]
            print(f"{cell.path.stem}: C2ST {score:.3f}, observation {count}", flush=True)
    found: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
    for cell in cells:
        found.setdefault((cell.estimator, cell.task, cell.budget), []).append(cell.scored(observations))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.inference", description="C2ST on the tasks of sbibm.")
    add = parser.add_argument
    add("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    add("--budgets", nargs="+", type=int, default=[1000, 10_000], help="simulations; 100000 on request")
    add("--estimators", nargs="+", choices=list(ESTIMATORS), default=list(ESTIMATORS))
    add("--observations", type=int, default=3, help="of the ten of each task")
    add("--seeds", nargs="+", type=int, default=[0])
    add("--cache", type=Path, default=CACHE)
    add("--unscored", action="store_true", help="train and draw only, to be scored by a later run")
    add("--write", action="store_true", help="write the table into RESULTS.md")
    given = parser.parse_args()
    torch.set_num_threads(1)
    cells = [
        Cell(estimator, task, budget, seed, given.observations, given.cache)
        for budget in given.budgets
        for task in given.tasks
        for estimator in given.estimators
        for seed in given.seeds
    ]
    for cell in cells:
        figures = cell.trained()
        seconds = f"{figures['train_s']:.0f} s, 10,000 draws {figures['draw_s']:.2f} s"
        print(f"{cell.path.stem}: held out {figures['held_out']:.3f}, {seconds}, {figures['note']}", flush=True)
    if given.unscored:
        return
    found = _scores(cells, given.observations)
    text = comparison(found, given.observations)
    print(f"\n{text}")
    if given.write:
        write_results(text)


if __name__ == "__main__":
    main()
