"""Seconds of drawing from the default posterior, on one thread.

    python -m benchmarks.inference.drawing                      10,000 draws for one observation, 2 to 28 parameters
    python -m benchmarks.inference.drawing --batch              also 1,000 observations x 1,000 draws in one call
    python -m benchmarks.inference.drawing --against FOLDER     in turns with another checkout of this project

As many features as parameters, 10,000 rows, the defaults (4 members) trained for one epoch; `adex_clustered` ships.
With another checkout, each of the two processes waits while the other draws, so that what else runs meets both alike.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.inference.report import context
from sbi_circuits.inference import Posterior, TrainingConfig, TrainingData, load_posterior, train
from sbi_circuits.prior import Parameter, Prior

ROOT = Path(__file__).resolve().parents[2]
DRAWS, ROWS = 10_000, 10_000
POSTERIORS = ("2 uniform", "8 uniform", "28 uniform", "28 normal", "adex_clustered", "adex_clustered_channels")
_COLUMNS = ("posterior", "draws", "seconds: least", "median", "before: least", "median", "ratio of pairs: median")
# The package of one checkout, the benchmark of this one.
_WORKER = (
    "import sys; sys.path.insert(0, {folder!r}); import sbi_circuits; sys.path.pop(0); "
    "assert sbi_circuits.__file__.startswith({folder!r}), sbi_circuits.__file__; "
    "from benchmarks.inference.drawing import serve; serve({names!r}, {batch!r})"
)


def posterior(name: str) -> Posterior:
    """A shipped posterior, or a new one by the number of its parameters and its coordinates."""
    if " " not in name:
        return load_posterior(name)
    p, coordinates = int(name.split()[0]), name.split()[1]
    random = np.random.default_rng(0)
    theta = random.random((ROWS, p))
    x = theta @ random.normal(size=(p, p)) + 0.5 * random.normal(size=(ROWS, p))
    prior = Prior(tuple(Parameter(f"theta_{i}", "1", 0.0, 1.0) for i in range(p)))
    data = TrainingData(theta, x, np.zeros(x.shape, dtype=np.uint8), prior, tuple(f"x.{i}" for i in range(p)))
    return train(data, TrainingConfig(epochs=1, coordinates=coordinates, drop=0.0), progress=False, seed=0)


def jobs(name: str, batch: bool) -> dict[str, Callable[[int], Any]]:
    """What is timed, by what it is called; each takes a seed."""
    found = posterior(name)
    n = len(found.feature_names)
    middle = found.encoder.centre
    one = found((middle, np.zeros(n, dtype=np.uint8)))
    timed: dict[str, Callable[[int], Any]] = {f"{name} | 10,000": lambda seed: one.sample(DRAWS, seed=seed)}
    if batch:
        values = middle + 0.1 * np.random.default_rng(1).normal(size=(1000, n)) * found.encoder.scale
        states = np.zeros(values.shape, dtype=np.uint8)
        timed[f"{name} | 1,000 x 1,000"] = lambda seed: found.sample_rows(values, states, 1000, seed)
    return timed


def serve(names: Sequence[str], batch: bool) -> None:
    """Answer each line "job, seed" with the processor seconds it took."""
    torch.set_num_threads(1)
    known = {text: job for name in names for text, job in jobs(name, batch).items()}
    for text, job in known.items():
        if text.endswith("| 10,000"):
            job(0)
    print(json.dumps(list(known)), flush=True)
    for line in sys.stdin:
        text, seed = json.loads(line)
        started = time.process_time()
        known[text](seed)
        print(time.process_time() - started, flush=True)


class Worker:
    """A process with one checkout of the package."""

    def __init__(self, folder: Path, names: Sequence[str], batch: bool):
        code = _WORKER.format(folder=str(folder), names=list(names), batch=batch)
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
        self.process = subprocess.Popen([sys.executable, "-W", "ignore", "-c", code], **pipes)
        self.jobs: list[str] = json.loads(self._answer())

    def __call__(self, job: str, seed: int) -> float:
        assert self.process.stdin
        self.process.stdin.write(json.dumps([job, seed]) + "\n")
        self.process.stdin.flush()
        return float(self._answer())

    def _answer(self) -> str:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("the process that draws ended early; what it said stands above")
        return line

    def close(self) -> None:
        self.process.communicate()


def row(job: str, workers: list[Worker], repeats: int) -> list[str]:
    """One line of the table: of the first worker, the second, and the ratio of each pair."""
    seconds = np.array([[worker(job, seed) for worker in workers] for seed in range(repeats)])
    figures = [f"{f(column):.3f}" for column in seconds.T for f in (np.min, np.median)]
    ratio = f"{np.median(seconds[:, 1] / seconds[:, 0]):.2f}" if len(workers) > 1 else ""
    return [*job.split(" | "), *figures, *[""] * (4 - len(figures)), ratio]


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.inference.drawing", description="Seconds of drawing.")
    parser.add_argument("--posteriors", nargs="+", choices=POSTERIORS, default=list(POSTERIORS))
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--batch", action="store_true", help="also 1,000 observations x 1,000 draws, once")
    parser.add_argument("--against", type=Path, help="another checkout, drawn from in turns")
    options = parser.parse_args(given)
    folders = [ROOT] + ([options.against.resolve()] if options.against else [])
    workers = [Worker(folder, options.posteriors, options.batch) for folder in folders]
    lines = []
    for job in workers[0].jobs:
        lines.append(row(job, workers, options.repeats if job.endswith("| 10,000") else 1))
        print(" | ".join(lines[-1]), flush=True)
    for worker in workers:
        worker.close()
    print("\n" + context("python -m benchmarks.inference.drawing", "Processor seconds, one thread.", _COLUMNS, lines))


if __name__ == "__main__":
    main()
