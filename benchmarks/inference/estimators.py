"""The estimators of the benchmark: each trains once and answers for every observation."""

import logging
import time
import warnings
from collections.abc import Callable
from contextlib import chdir
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from benchmarks.inference.tasks import Simulations, UnitPrior, sbibm_task
from sbi_circuits.inference import TrainingConfig, TrainingData, train
from sbi_circuits.prior import Parameter, Prior

DRAWS = 10_000


@dataclass(frozen=True, eq=False)
class Answer:
    """Draws (N, 10000, P) for N observations, log densities of held-out rows (n,), and seconds.

    Args:
        draws: in the task's coordinates.
        held_out: log q(theta | x) of held-out rows, 1/(the task's coordinates).
        train_s: seconds of training, processor time of one thread.
        draw_s: seconds to draw 10,000 for one observation, median over the observations.
        note: of what was trained.
    """

    draws: np.ndarray
    held_out: np.ndarray
    train_s: float
    draw_s: float
    note: str


def sbi_nsf(name: str, given: Simulations, seed: int) -> Answer:
    """The neural spline flow of sbi with its defaults, batches of 200."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        from sbi import __version__
        from sbi.inference import NPE

        torch.manual_seed(seed)
        started = time.process_time()
        with TemporaryDirectory() as folder, chdir(folder):  # sbi writes logs into the working directory
            inference = NPE(prior=sbibm_task(name).prior_dist, density_estimator="nsf", show_progress_bars=False)
            inference.append_simulations(torch.as_tensor(given.theta), torch.as_tensor(given.x))
            network = inference.train(training_batch_size=200)
        train_s = time.process_time() - started
        posterior = inference.build_posterior()

        def draw(x: np.ndarray, key: int) -> np.ndarray:
            torch.manual_seed(key)
            return posterior.sample((DRAWS,), x=torch.as_tensor(x), show_progress_bars=False).numpy()

        draws, draw_s = _timed(draw, given)
        with torch.no_grad():
            rows = torch.as_tensor(given.held_theta)[None], torch.as_tensor(given.held_x)
            held_out = network.log_prob(rows[0], condition=rows[1])[0].numpy()
        logging.disable(logging.NOTSET)
    epochs = inference.summary["epochs_trained"][-1]
    return Answer(draws, held_out, train_s, draw_s, f"sbi {__version__}, {epochs} epochs")


def toolkit(name: str, given: Simulations, seed: int, config: TrainingConfig | None = None) -> Answer:
    """This project with its defaults; every feature is observed, as for the others."""
    cube = UnitPrior(sbibm_task(name))
    unit = cube.to_unit(given.theta)
    prior = Prior(tuple(Parameter(f"theta_{i}", "1", 0.0, 1.0) for i in range(unit.shape[1])))
    names = tuple(f"x.{i}" for i in range(given.x.shape[1]))
    data = TrainingData(unit, given.x, np.zeros(given.x.shape, dtype=np.uint8), prior, names)
    started = time.process_time()
    posterior = train(data, config or TrainingConfig(drop=0.0), progress=False, seed=seed)
    train_s = time.process_time() - started
    draws, draw_s = _timed(lambda x, key: cube.from_unit(posterior(x[0]).sample(DRAWS, seed=key)), given)
    held = given.held_theta
    states = np.zeros(given.held_x.shape, dtype=np.uint8)
    held_out = posterior.log_prob_rows(cube.to_unit(held), given.held_x, states) + cube.log_abs_det(held)
    spec = posterior.flows.spec
    note = f"{spec.family} {spec.transform}, {spec.coordinates} coordinates, {spec.members} members"
    return Answer(draws, held_out, train_s, draw_s, f"{note}; {posterior.log[-2]}")


def _timed(draw: Callable[[np.ndarray, int], np.ndarray], given: Simulations) -> tuple[np.ndarray, float]:
    found, seconds = [], []
    for key, x in enumerate(given.observations):
        started = time.process_time()
        found.append(np.asarray(draw(x[None], key)))
        seconds.append(time.process_time() - started)
    return np.stack(found), float(np.median(seconds))


ESTIMATORS: dict[str, Callable[..., Any]] = {"sbi_nsf": sbi_nsf, "sbi_circuits": toolkit}
