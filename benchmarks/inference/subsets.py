"""Any subset: a posterior trained with subsets against one trained on that subset alone, and the exact answer.

    python -m benchmarks.inference.subsets                   half of the features, and all; 1,000 and 10,000 simulations
    python -m benchmarks.inference.subsets --write           also into benchmarks/RESULTS.md

The tasks are those whose likelihood of a part of the features has a closed form. Draws of the exact posterior are made
by tempering from the prior (Del Moral et al. 2006, J R Stat Soc B 68:411) with moves by differential evolution (ter
Braak 2006, Stat Comput 16:239).
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.inference.__main__ import CACHE
from benchmarks.inference.files import read_json, write_json
from benchmarks.inference.report import context, write_results
from benchmarks.inference.tasks import Simulations, UnitPrior, sbibm_task, simulations
from sbi_circuits.inference import Posterior, TrainingConfig, TrainingData, train
from sbi_circuits.prior import Parameter, Prior

DRAWS = 10_000
HEADING = "### Any subset of the features"
LogLikelihood = Callable[[np.ndarray, np.ndarray], np.ndarray]  # theta (n, P), the features observed (k,) to (n,)
_MORE = 3  # times as many draws on the way
_MOVES, _LAST_MOVES = 40, 100
_COLUMNS = (
    "task", "simulations", "observed", "C2ST with subsets", "C2ST alone", "loss", "held out with subsets", "alone",
    "training s", "alone s",
)  # fmt: skip


def slcp(theta: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Points in the plane, two features each, from one normal."""
    s1, s2, rho = theta[:, 2] ** 2, theta[:, 3] ** 2, np.tanh(theta[:, 4])
    a, b, c = s1**2 + 1e-6, s2**2 + 1e-6, rho * s1 * s2
    det = np.maximum(a * b - c * c, 1e-30)
    away = x.reshape(-1, 1, 2) - theta[None, :, :2]
    square = (b * away[..., 0] ** 2 - 2 * c * away[..., 0] * away[..., 1] + a * away[..., 1] ** 2) / det
    return np.asarray(-0.5 * square.sum(0) - 0.5 * len(away) * np.log(det))


def gaussian_linear_uniform(theta: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Every feature is a parameter plus noise of variance 0.1."""
    return np.asarray(-5.0 * ((theta[:, : len(x)] - x) ** 2).sum(1))


def gaussian_mixture(theta: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Every feature is a parameter plus noise of sd 1 or 0.1, the same for all features."""
    square = ((theta[:, : len(x)] - x) ** 2).sum(1)
    return np.logaddexp(-0.5 * square, -50.0 * square + len(x) * np.log(10.0))


LIKELIHOODS: dict[str, LogLikelihood] = {
    "slcp": slcp, "gaussian_linear_uniform": gaussian_linear_uniform, "gaussian_mixture": gaussian_mixture,
}  # fmt: skip


def exact_draws(
    log_likelihood: LogLikelihood, x: np.ndarray, low: np.ndarray, high: np.ndarray, n: int = DRAWS, seed: int = 0
) -> np.ndarray:
    """n draws (n, P) of the posterior under a prior uniform in [low, high], (P,) each."""
    random = np.random.default_rng(seed)
    theta = low + (high - low) * random.random((_MORE * n, len(low)))
    log_l, power = log_likelihood(theta, x), 0.0
    while power < 1.0:
        rise = _rise(log_l, 1.0 - power)
        weight = np.exp(rise * (log_l - log_l.max()))
        edges = np.cumsum(weight) / weight.sum() * len(theta)
        chosen = np.minimum(np.searchsorted(edges, np.arange(len(theta)) + random.random()), len(theta) - 1)
        theta, log_l, power = theta[chosen], log_l[chosen], power + rise
        for _ in range(_MOVES if power < 1.0 else _LAST_MOVES):
            theta, log_l = _moved(theta, log_l, power, log_likelihood, x, low, high, random)
    return theta[random.permutation(len(theta))[:n]]


def _rise(log_l: np.ndarray, most: float) -> float:
    """By how much the power of the likelihood may rise until half of the draws are lost, `most` at most."""

    def enough(rise: float) -> bool:
        weight = np.exp(rise * (log_l - log_l.max()))
        return bool(weight.sum() ** 2 / (weight**2).sum() >= 0.5 * len(log_l))

    if enough(most):
        return most
    low, high = -60.0, float(np.log(most))
    for _ in range(40):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if enough(np.exp(middle)) else (low, middle)
    return float(np.exp(low))


def _moved(
    theta: np.ndarray, log_l: np.ndarray, power: float, log_likelihood: LogLikelihood, x: np.ndarray,
    low: np.ndarray, high: np.ndarray, random: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """One Metropolis step of the whole population, along differences of its members."""
    n, p = theta.shape
    # Full differences now and then carry draws from mode to mode.
    scale = random.choice([1.0, *(2.38 / np.sqrt(2 * p) * np.array([0.1, 0.3, 1.0]))])
    step = theta[random.permutation(n)] - theta[random.permutation(n)]
    proposed = theta + scale * step + 1e-4 * (high - low) * random.standard_normal(theta.shape)
    inside = ((proposed >= low) & (proposed <= high)).all(1)
    new = np.where(inside, log_likelihood(proposed, x), -np.inf)
    taken = np.log(random.random(n)) < power * (new - log_l)
    return np.where(taken[:, None], proposed, theta), np.where(taken, new, log_l)


@dataclass(frozen=True, eq=False)
class Trained:
    """A posterior and the features it is asked with; draws and densities in the task's own coordinates."""

    posterior: Posterior
    cube: UnitPrior
    train_s: float

    def states(self, x: np.ndarray, kept: int) -> np.ndarray:
        states = np.full((len(x), len(self.posterior.feature_names)), 2, dtype=np.uint8)
        states[:, :kept] = 0
        return states

    def _values(self, x: np.ndarray, kept: int) -> np.ndarray:
        values = np.zeros((len(x), len(self.posterior.feature_names)))
        values[:, :kept] = x[:, :kept]
        return values

    def draws(self, x: np.ndarray, kept: int, seed: int) -> np.ndarray:
        """(N, 10000, P) for observations (N, F) of which the first `kept` features count."""
        rows = self.posterior.sample_rows(self._values(x, kept), self.states(x, kept), DRAWS, seed)
        return self.cube.from_unit(rows)

    def held_out(self, given: Simulations, kept: int) -> float:
        """Mean log density of held-out rows, nats."""
        x, theta = given.held_x, given.held_theta
        density = self.posterior.log_prob_rows(self.cube.to_unit(theta), self._values(x, kept), self.states(x, kept))
        return float(np.mean(density + self.cube.log_abs_det(theta)))


def fitted(name: str, given: Simulations, features: int, config: TrainingConfig, seed: int) -> Trained:
    """A posterior given the first `features` features; the two halves of all are the families it may lack."""
    cube, half = UnitPrior(sbibm_task(name)), given.x.shape[1] // 2
    theta = cube.to_unit(given.theta)
    prior = Prior(tuple(Parameter(f"theta_{i}", "1", 0.0, 1.0) for i in range(theta.shape[1])))
    names = tuple(f"{'first' if i < half else 'second'}.{i}" for i in range(features))
    states = np.zeros((len(theta), features), dtype=np.uint8)
    data = TrainingData(theta, given.x[:, :features], states, prior, names)
    started = time.process_time()
    posterior = train(data, config, progress=False, seed=seed)
    return Trained(posterior, cube, time.process_time() - started)


def measured(name: str, budget: int, seed: int, observations: int, part: str, cache: Path) -> dict[str, Any]:
    """What training with subsets costs where "half" or "all" of the features are observed; kept in the cache."""
    path = cache / f"subsets-{name}-{budget}-{seed}-{part}-{observations}.json"
    known = read_json(path)
    if known:
        return known
    given = simulations(name, budget, seed, observations, cache)
    total = given.x.shape[1]
    kept = total // 2 if part == "half" else total
    figures: dict[str, Any] = {"task": name, "budget": budget, "observed": f"{kept} of {total}"}
    for title, features, config in (("subsets", total, TrainingConfig()), ("alone", kept, TrainingConfig(drop=0.0))):
        one = fitted(name, given, features, config, seed)
        figures |= {f"{title}_held_out": one.held_out(given, kept), f"{title}_s": one.train_s}
        figures[title] = _scores(name, given, one, kept, seed)
        print(f"{path.stem}, {title}: {figures[title]}, {figures[f'{title}_held_out']:.3f}", flush=True)
    write_json(path, figures)
    return figures


def _scores(name: str, given: Simulations, one: Trained, kept: int, seed: int) -> list[float]:
    """C2ST of every observation against the exact posterior."""
    from sbibm.metrics.c2st import c2st

    bounds = sbibm_task(name).prior_dist.base_dist
    low, high = bounds.low.double().numpy(), bounds.high.double().numpy()
    scores = []
    for x, drawn in zip(given.observations, one.draws(given.observations, kept, seed), strict=True):
        exact = exact_draws(LIKELIHOODS[name], x[:kept].astype(float), low, high)
        scores.append(c2st(torch.as_tensor(exact).float(), torch.as_tensor(drawn).float()).item())
    return scores


def _row(found: dict[str, Any]) -> list[str]:
    subsets, alone = np.mean(found["subsets"]), np.mean(found["alone"])
    scores = [f"{subsets:.3f}", f"{alone:.3f}", f"{subsets - alone:+.3f}"]
    held_out = [f"{found[f'{title}_held_out']:.3f}" for title in ("subsets", "alone")]
    seconds = [f"{found[f'{title}_s']:.0f}" for title in ("subsets", "alone")]
    return [found["task"], str(found["budget"]), found["observed"], *scores, *held_out, *seconds]


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.inference.subsets", description="Posteriors of some features.")
    add = parser.add_argument
    add("--tasks", nargs="+", choices=list(LIKELIHOODS), default=list(LIKELIHOODS))
    add("--budgets", nargs="+", type=int, default=[1000, 10_000])
    add("--parts", nargs="+", choices=("half", "all"), default=["half", "all"], help="of the features, observed")
    add("--observations", type=int, default=1, help="of the ten of each task")
    add("--seed", type=int, default=0)
    add("--cache", type=Path, default=CACHE)
    add("--write", action="store_true", help="write the table into RESULTS.md")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for budget in given.budgets:
        for name in given.tasks:
            for part in given.parts:
                rows.append(_row(measured(name, budget, given.seed, given.observations, part, given.cache)))
    what = (
        f"C2ST (sbibm's own) against the exact posterior given these features, mean of observations 1 to "
        f"{given.observations}; log density of 2,000 held-out rows. With subsets: the default; alone: `drop=0`."
    )
    text = context("python -m benchmarks.inference.subsets", what, _COLUMNS, rows)
    print(f"\n{text}")
    if given.write:
        write_results(text, HEADING)


if __name__ == "__main__":
    main()
