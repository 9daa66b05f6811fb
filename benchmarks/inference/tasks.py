"""The tasks of sbibm: simulations of one seed, its observations and their reference posteriors.

Source: Lueckmann et al. 2021, "Benchmarking simulation-based inference", arXiv:2101.04653; version 1.1 of its package.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import ndtr, ndtri

from benchmarks.inference.files import write_arrays

TASKS = ("two_moons", "gaussian_mixture", "slcp", "gaussian_linear_uniform", "bernoulli_glm")
HELD_OUT, _HELD_OUT_SEED = 2000, 1_000_000


@dataclass(frozen=True, eq=False)
class Simulations:
    """What every estimator is given, in the task's own coordinates.

    Args:
        theta: (n, P) drawn from the prior.
        x: (n, F) their simulations.
        held_theta, held_x: (2000, P) and (2000, F), never trained on.
        observations: (N, F); references: (N, 10000, P) draws of the exact posteriors.
    """

    theta: np.ndarray
    x: np.ndarray
    held_theta: np.ndarray
    held_x: np.ndarray
    observations: np.ndarray
    references: np.ndarray


def sbibm_task(name: str) -> Any:
    """The task object of the package, which warns much while it is imported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import sbibm

        return sbibm.get_task(name)


def simulations(name: str, budget: int, seed: int, observations: int, cache: Path) -> Simulations:
    """Simulate, or read what was simulated before.

    Args:
        name: one of TASKS.
        budget: number of simulations.
        seed: of the simulations.
        observations: how many of the task's ten observations are wanted.
        cache: folder of files that a later run reads.
    """
    path = cache / f"{name}-{budget}-{seed}.npz"
    task = sbibm_task(name)
    if not path.exists():
        theta, x = _simulate(task, budget, seed)
        held_theta, held_x = _simulate(task, HELD_OUT, _HELD_OUT_SEED + seed)
        write_arrays(path, theta=theta, x=x, held_theta=held_theta, held_x=held_x)
    with np.load(path, allow_pickle=False) as stored:
        parts = {key: stored[key] for key in ("theta", "x", "held_theta", "held_x")}
    observed = np.concatenate([task.get_observation(i + 1).numpy() for i in range(observations)])
    references = np.stack([task.get_reference_posterior_samples(i + 1).numpy() for i in range(observations)])
    return Simulations(**parts, observations=observed, references=references)


def _simulate(task: Any, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        theta = task.get_prior()(num_samples=n)
        return theta.numpy(), task.get_simulator()(theta).numpy()


class UnitPrior:
    """The bijection from a task's prior to the unit cube, where it is uniform; the toolkit's priors are products.

    A uniform prior is scaled; a normal one is whitened and goes through its cumulative probability.
    """

    def __init__(self, task: Any):
        prior = task.prior_dist
        if hasattr(prior, "covariance_matrix"):
            self.normal = True
            self.centre = prior.loc.double().numpy()
            self.factor = np.linalg.cholesky(prior.covariance_matrix.double().numpy())
        else:
            low, high = prior.base_dist.low.double().numpy(), prior.base_dist.high.double().numpy()
            self.normal, self.centre, self.factor = False, low, np.diag(high - low)

    def to_unit(self, theta: np.ndarray) -> np.ndarray:
        """theta (*, P) in the unit cube."""
        white = np.linalg.solve(self.factor, (np.asarray(theta, dtype=float) - self.centre).T).T
        return np.clip(ndtr(white) if self.normal else white, 0.0, 1.0)

    def from_unit(self, u: np.ndarray) -> np.ndarray:
        """Inverse of `to_unit`."""
        white = ndtri(np.clip(u, 1e-12, 1 - 1e-12)) if self.normal else u
        return self.centre + white @ self.factor.T

    def log_abs_det(self, theta: np.ndarray) -> np.ndarray:
        """log |d u / d theta|, shape (*,)."""
        volume = -np.log(np.diag(self.factor)).sum()
        if not self.normal:
            return np.full(theta.shape[:-1], volume)
        white = np.linalg.solve(self.factor, (np.asarray(theta, dtype=float) - self.centre).T).T
        return volume - 0.5 * (white**2 + np.log(2 * np.pi)).sum(-1)
