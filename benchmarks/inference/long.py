"""Long inputs: families of hundreds of features read by the embedding, or each feature as an input of its own.

    python -m benchmarks.inference.long                          both toys, 1,000 and 10,000 simulations
    python -m benchmarks.inference.long --tables brunel_counts   a table of a circuit
    python -m benchmarks.inference.long --write                  also into benchmarks/RESULTS.md

The toys have likelihoods of closed form: a spectrum of 990 (or 100) values is a falling curve with a peak, each value
with the noise of nine averaged segments (gamma); counts are Poisson, 500 bins of 10 ms, their rate a sine of unknown
phase. The log density of their exact posterior comes from adaptive importance sampling.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import gammaln, logsumexp
from scipy.stats import multivariate_t

from benchmarks.inference.__main__ import CACHE
from benchmarks.inference.files import read_json, write_json
from benchmarks.inference.report import context, write_results
from sbi_circuits import Campaign, FeatureSet, Protocol, Record, get_circuit, run_campaign
from sbi_circuits.inference import Posterior, TrainingConfig, TrainingData, train
from sbi_circuits.prior import Parameter, Prior
from sbi_circuits.seeds import generator

HEADING = "### Long inputs"
HELD_OUT = 1000
_SEGMENTS, _BINS, _WIDTH = 9, 500, 0.01
_ADAPTATIONS, _INFLATED = 6, 1.2
_EXACT_DRAWS, _PHASES, _LEAST = 1000, 32, 50.0
_COLUMNS = ("table", "features", "simulations", "embedding", "gain over the prior", "training s")


@dataclass(frozen=True, eq=False)
class Toy:
    """A prior, a simulator of its parameters (n, P), the names of the features, and their log likelihood.

    Args:
        log_likelihood: theta (n, P) and one row of features (F,) to (n,), up to a constant.
        judged: held-out rows at which the exact posterior is evaluated.
    """

    prior: Prior
    names: tuple[str, ...]
    simulate: Callable[[np.ndarray, np.random.Generator], np.ndarray]
    log_likelihood: Callable[[np.ndarray, np.ndarray], np.ndarray]
    judged: int = 20


def spectra(values: int) -> Toy:
    """log10 power at 0.5 to 495 Hz: a Lorentzian-like fall and a peak of 4 Hz."""
    f = np.linspace(0.5, 495.0, values)
    prior = Prior((
        Parameter("offset", "1", -1, 1), Parameter("knee", "Hz", 5, 50, scale="log"), Parameter("exponent", "1", 1, 3),
        Parameter("peak", "Hz", 20, 120, scale="log"), Parameter("height", "1", 0, 1),
    ))  # fmt: skip

    def curve(theta: np.ndarray) -> np.ndarray:
        offset, knee, exponent, peak, height = (column[:, None] for column in theta.T)
        fall = np.log10(1.0 + (f / knee) ** exponent)
        return np.asarray(offset - fall + height * np.exp(-0.5 * ((f - peak) / 4.0) ** 2))

    def simulate(theta: np.ndarray, random: np.random.Generator) -> np.ndarray:
        return curve(theta) + np.log10(random.gamma(_SEGMENTS, 1.0 / _SEGMENTS, (len(theta), values)))

    def log_likelihood(theta: np.ndarray, x: np.ndarray) -> np.ndarray:
        away = np.log(10.0) * (x - curve(theta))
        return np.asarray(_SEGMENTS * (away - np.exp(away)).sum(1))

    return Toy(prior, tuple(f"spectrum.log_power_{v:g}" for v in f), simulate, log_likelihood)


def oscillation() -> Toy:
    """Counts of Poisson spikes whose rate is a sine of a phase that nobody knows."""
    t = np.arange(_BINS) * _WIDTH
    prior = Prior((
        Parameter("rate", "Hz", 20, 500, scale="log"), Parameter("depth", "1", 0, 1),
        Parameter("frequency", "Hz", 2, 20, scale="log"),
    ))  # fmt: skip

    def expected(theta: np.ndarray, phase: np.ndarray) -> np.ndarray:
        rate, depth, frequency = (column[:, None] for column in theta.T)
        return np.asarray(rate * _WIDTH * (1.0 + depth * np.sin(2 * np.pi * frequency * t + phase[:, None])) + 1e-9)

    def simulate(theta: np.ndarray, random: np.random.Generator) -> np.ndarray:
        phase = random.uniform(0, 2 * np.pi, len(theta))
        return random.poisson(expected(theta, phase)).astype(float)

    def log_likelihood(theta: np.ndarray, x: np.ndarray) -> np.ndarray:
        phases = np.linspace(0, 2 * np.pi, _PHASES, endpoint=False)
        means = (expected(theta, np.full(len(theta), p)) for p in phases)
        found = np.stack([(x * np.log(m) - m).sum(1) for m in means]) - gammaln(x + 1).sum()
        return np.asarray(logsumexp(found, axis=0) - np.log(_PHASES))

    return Toy(prior, tuple(f"counts.at_{v:g}" for v in t), simulate, log_likelihood, judged=10)


TOYS: dict[str, Callable[[], Toy]] = {
    "spectra_990": lambda: spectra(990), "spectra_100": lambda: spectra(100), "oscillation": oscillation,
}  # fmt: skip
CIRCUITS = ("brunel_counts", "brunel_spectrum")


def toy_rows(toy: Toy, n: int) -> tuple[np.ndarray, np.ndarray]:
    """theta (n, P) of the prior and features (n, F), single precision; more rows begin with the same ones."""
    parts = range(0, n, HELD_OUT)
    theta = np.concatenate([toy.prior.sample(HELD_OUT, seed=k) for k in parts])[:n]
    random = (generator(k, "long inputs") for k in parts)
    x = [toy.simulate(theta[k : k + HELD_OUT], r) for k, r in zip(parts, random, strict=True)]
    return theta, np.concatenate(x).astype(np.float32)


def brunel_rows(folder: Path, n: int, workers: int) -> TrainingData:
    """Prior draws of the network of 100 neurons, 2.5 s each, that ran to their end; a run goes on where it stopped."""
    circuit = get_circuit("brunel")
    small = replace(circuit, constants=dict(circuit.constants) | {"N_E": "80"})
    features = FeatureSet.of("isi", "spectrum", counts={"bin": 0.005, "window": 2.5})
    protocol = Protocol(duration=2.5, warmup=0.2, record=Record(spikes=100, moments=True))
    campaign = Campaign(small, round(n / 0.9), features, protocol, unit=50)
    return TrainingData.from_table(run_campaign(campaign, folder / "brunel_long", workers=workers))


def exact_gain(toy: Toy, posterior: Posterior, theta: np.ndarray, x: np.ndarray) -> dict[str, float]:
    """Mean log density of theta over the prior's, nats, under the exact and the trained posterior, over how many rows.

    Rows whose evidence rests on an effective sample size below 50 of 1,000 are left out.
    """
    gains = [(np.nan, np.nan)]
    for row, (own, seen) in enumerate(zip(theta, x, strict=True)):
        distribution = posterior(seen)
        evidence, effective = log_evidence(toy, seen, distribution.sample_z(_EXACT_DRAWS, seed=row), row)
        if effective >= _LEAST:
            trained = distribution.log_prob(own[None]) - toy.prior.log_prob(own[None])
            gains.append((float(toy.log_likelihood(own[None], seen)[0] - evidence), float(trained[0])))
    exact, own_gain = np.nanmean(gains, axis=0)
    return {"exact": float(exact), "exact_own": float(own_gain), "exact_rows": len(gains) - 1}


def log_evidence(toy: Toy, x: np.ndarray, z: np.ndarray, seed: int) -> tuple[float, float]:
    """Log evidence of one row, and the effective sample size it rests on.

    Adaptive importance sampling in the coordinates z where the prior is a standard normal, from draws (n, P) that are
    near: a multivariate t of 5 degrees of freedom with the moments of the draws before, weighted (Cappe et al. 2008,
    Stat Comput 18:447).
    """
    random, p = generator(seed, "evidence"), z.shape[1]
    weight, log_w = np.full(len(z), 1.0 / len(z)), np.zeros(len(z))
    for _ in range(_ADAPTATIONS):
        mean = weight @ z
        spread = (weight[:, None] * (z - mean)).T @ (z - mean) + 1e-8 * np.eye(p)
        proposal = multivariate_t(mean, _INFLATED * spread, df=5, seed=random)
        z = proposal.rvs(len(weight))
        log_prior = -0.5 * (z**2 + np.log(2 * np.pi)).sum(1)
        log_w = toy.log_likelihood(toy.prior.constrain(z), x) + log_prior - proposal.logpdf(z)
        # The first proposals may be far off: no draw counts for more than a twentieth of all.
        weight = np.minimum(np.exp(log_w - log_w.max()), np.quantile(np.exp(log_w - log_w.max()), 0.95))
        weight /= weight.sum()
    return float(logsumexp(log_w) - np.log(len(log_w))), float(np.exp(2 * logsumexp(log_w) - logsumexp(2 * log_w)))


def measured(name: str, n: int, embedding: str, options: argparse.Namespace) -> dict[str, Any]:
    """Figures of one posterior; kept in the cache."""
    path = options.cache / f"long-{name}-{n}-{embedding}-{options.drop:g}.json"
    known = read_json(path)
    if known:
        return known
    theta, values, states, prior, names = _rows(name, n, options)
    data = TrainingData(theta[:n], values[:n], states[:n], prior, names)
    started = time.process_time()
    posterior = train(data, TrainingConfig(embedding=embedding, drop=options.drop), progress=False, seed=0)
    seconds = time.process_time() - started
    held = slice(-HELD_OUT, None)
    gain = posterior.log_prob_rows(theta[held], values[held], states[held]) - prior.log_prob(theta[held])
    figures = {"gain": float(gain.mean()), "error": float(gain.std() / np.sqrt(len(gain))), "train_s": seconds,
               "rows": n, "features": len(names), "log": posterior.log[-1]}  # fmt: skip
    if name in TOYS and embedding == "long":
        toy = TOYS[name]()
        some = slice(len(theta) - toy.judged, None)
        figures |= exact_gain(toy, posterior, theta[some], values[some])
    write_json(path, figures)
    return figures


def _rows(name: str, n: int, options: argparse.Namespace) -> tuple[Any, ...]:
    """theta, values, states of n rows and 1,000 held-out ones after them, the prior, and the names."""
    if name in TOYS:
        toy = TOYS[name]()
        theta, x = toy_rows(toy, 10_000 + HELD_OUT)
        chosen = np.r_[:n, len(theta) - HELD_OUT : len(theta)]
        return theta[chosen], x[chosen], np.zeros((len(chosen), x.shape[1]), np.uint8), toy.prior, toy.names
    whole = brunel_rows(options.cache, max(options.budgets) + HELD_OUT, options.workers)
    family = name.removeprefix("brunel_")
    columns = [i for i, feature in enumerate(whole.feature_names) if feature.startswith(f"{family}.")]
    chosen = np.r_[:n, whole.rows - HELD_OUT : whole.rows]
    names = tuple(whole.feature_names[i] for i in columns)
    states = np.asarray(whole.states)[np.ix_(chosen, columns)]
    return whole.theta[chosen], whole.values[np.ix_(chosen, columns)], states, whole.prior, names


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.inference.long", description="Posteriors of long inputs.")
    add = parser.add_argument
    add("--tables", nargs="+", choices=(*TOYS, *CIRCUITS), default=list(TOYS))
    add("--budgets", nargs="+", type=int, default=[1000, 10_000])
    add("--embeddings", nargs="+", choices=("none", "long"), default=["none", "long"])
    add("--drop", type=float, default=0.0, help="of TrainingConfig")
    add("--workers", type=int, default=1)
    add("--cache", type=Path, default=CACHE)
    add("--write", action="store_true", help="write the table into RESULTS.md")
    options = parser.parse_args(given)
    torch.set_num_threads(1)
    rows = []
    for n in options.budgets:
        for name in options.tables:
            for embedding in options.embeddings:
                found = measured(name, n, embedding, options)
                rows.append(_row(name, embedding, found))
                print(" | ".join(rows[-1]), f"| {found}", flush=True)
    what = (f"Held-out log density over the prior's, nats, of {HELD_OUT} rows; `drop={options.drop:g}`; processor "
            "seconds of one thread.")  # fmt: skip
    text = context("python -m benchmarks.inference.long", what, _COLUMNS, rows)
    print(f"\n{text}")
    if options.write:
        write_results(text, HEADING)


def _row(name: str, embedding: str, found: dict[str, Any]) -> list[str]:
    gain = f"{found['gain']:.3f} +- {found['error']:.3f}"
    if "exact" in found:
        gain += f" (exact {found['exact']:.3f}, here {found['exact_own']:.3f}, {found['exact_rows']} rows)"
    return [name, str(found["features"]), str(found["rows"]), embedding, gain, f"{found['train_s']:.0f}"]


if __name__ == "__main__":
    main()
