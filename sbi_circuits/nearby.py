"""Configurations around the simulations nearest to an observation, and around what was verified of them.

A flow smooths: trained on some thousand simulations of 28 parameters it gives most of its mass to circuits that do
not reproduce one recording, although simulations in its own table do. Here candidates are drawn around the
simulations of a table that lie nearest to the observation, simulated again, and the next ones are drawn around the
nearest of all there are by then: population Monte Carlo for approximate Bayesian computation (Beaumont et al. 2009,
Biometrika 96:983), with the kernel of Beaumont, Zhang, Balding 2002, Genetics 162:2025, over distances.

What comes out is an ensemble of verified configurations, and no sample of the posterior: it stays near simulations
that there were, and how much of the posterior that covers is for `subspace.coverage` to say.
"""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sbi_circuits.campaign import run_campaign
from sbi_circuits.circuit import Circuit
from sbi_circuits.ensemble import Ensemble, campaign_of, circuit_of, observe, rule_for, stack
from sbi_circuits.errors import InferenceError
from sbi_circuits.features import DEFINED, WindowedFeatures
from sbi_circuits.inference import Posterior
from sbi_circuits.inference.encode import FeatureEncoder
from sbi_circuits.prior import Prior
from sbi_circuits.recording import Recording
from sbi_circuits.seeds import generator, stream_key
from sbi_circuits.table import BaseTable
from sbi_circuits.verification import Criterion, Judgement, judge
from sbi_circuits.verification_spread import deviations

DRAWN = "drawn around the simulations nearest to the observation, not from the posterior"
OUT_OF_REACH = "out of reach of the circuit"
NEAREST = 30
_WIDTHS = (0.05, 0.25)  # of the kernels, in standard deviations of the nearest simulations
_SHRINK = 0.3
_FAR = 30.0
_WINDOWS = 3  # that tell how much a feature varies
_BATCH = (16, 64)  # draws of the first batch, and of the largest: each is as large as all before it
_LIMIT = 4.0  # prior standard deviations


@dataclass(frozen=True, eq=False)
class Known:
    """Simulated configurations: (n, P) unbounded z, (n, F) scaled features, and whether they are defined."""

    z: np.ndarray
    x: np.ndarray
    defined: np.ndarray

    @classmethod
    def of_table(cls, table: BaseTable, encoder: FeatureEncoder) -> "Known":
        """The simulations of a table that ran to their end."""
        rows = table.read()
        ok = rows.outcome == "ok"
        values, states = rows.values[ok], rows.states[ok]
        return cls(table.prior.unconstrain(rows.theta[ok]), encoder.scaled(values, states), states == DEFINED)

    def joined(self, batch: "_Batch", prior: Prior, encoder: FeatureEncoder) -> "Known":
        """With the configurations of a batch that ran to their end, their features averaged over the seeds."""
        ran = (batch.outcomes == "ok").all(1)
        x, defined = encoder.scaled(batch.values[ran], batch.states[ran]), batch.states[ran] == DEFINED
        n = defined.sum(1)
        mean = np.where(defined, x, 0.0).sum(1) / np.maximum(n, 1)
        both = (self.z, prior.unconstrain(batch.theta[ran])), (self.x, mean), (self.defined, 2 * n > defined.shape[1])
        return Known(*(np.concatenate(pair) for pair in both))


def differences_in_sd(known: Known, seen: WindowedFeatures, encoder: FeatureEncoder) -> np.ndarray:
    """Differences of simulations from an observation: (n, f) over the f features that the observation defines.

    In the standard deviation of a single window about the mean of all: what one simulation of the circuit behind the
    recording would show. At most 30, which is also what counts where a simulation does not define a feature. A
    recording of fewer than three windows does not tell how features vary: there the unit is the scale of the table.
    """
    windows = encoder.scaled(seen.window_values, seen.window_states)
    there, compared = seen.window_states == DEFINED, seen.states == DEFINED
    squares, freedom = deviations(windows, there)
    m = np.maximum(there.sum(0), 1)
    target = np.where(there, windows, 0.0).sum(0) / m
    unit = np.sqrt(np.where(freedom + 1 >= _WINDOWS, squares / np.maximum(freedom, 1) * (1.0 + 1.0 / m), 1.0))
    away = np.minimum(np.abs(known.x - target) / np.maximum(unit, 0.05), _FAR)
    return np.asarray(np.where(known.defined, away, _FAR)[:, compared])


def distances(known: Known, seen: WindowedFeatures, encoder: FeatureEncoder) -> np.ndarray:
    """How far simulations lie from an observation: (n,).

    The root mean square of `differences_in_sd`, and half of the largest: a configuration is verified or not by the
    feature that differs most.
    """
    away = differences_in_sd(known, seen, encoder)
    if not away.shape[1]:
        return np.zeros(len(known.z))
    return np.asarray(np.sqrt((away**2).mean(1)) + 0.5 * away.max(1))


def reach(known: Known, seen: WindowedFeatures, encoder: FeatureEncoder, names: Sequence[str], bound: float) -> str:
    """One line: how many simulations agree with a recording in every feature it defines, or what keeps the nearest out.

    Empty for a recording of fewer than three windows, which does not tell how features vary.
    """
    away = differences_in_sd(known, seen, encoder)
    if seen.n_windows < _WINDOWS or not away.size:
        return ""
    worst = away.max(1)
    agree, nearest = int((worst <= bound).sum()), int(worst.argmin())
    if agree:
        return f"{agree} of {len(worst)} simulations of the table lie within {bound:.1f} sd of it in every feature"
    name = np.array(names)[seen.states == DEFINED][away[nearest].argmax()]
    return (f"no simulation of the table lies within {bound:.1f} sd of it in every feature, the nearest is "
            f"{worst[nearest]:.1f} away in {name}: it may be {OUT_OF_REACH}")  # fmt: skip


@dataclass(frozen=True, eq=False)
class Nearby:
    """Normal kernels around weighted centres, in the prior's unbounded coordinates.

    Args:
        prior: of theta.
        centres: (K, P) unbounded; weights: (K,) of them, summing to one.
        factor: (P, P) lower triangular, of the covariance of the centres.
        nearest: distance of the nearest of them, see `distances`.
    """

    prior: Prior
    centres: np.ndarray
    weights: np.ndarray
    factor: np.ndarray
    nearest: float

    @classmethod
    def fit(cls, prior: Prior, known: Known, distance: np.ndarray, k: int = NEAREST) -> "Nearby":
        """Around the k simulations of the smallest distance (n,).

        Raises:
            InferenceError: fewer than three simulations.
        """
        if len(distance) < _WINDOWS:
            raise InferenceError(f"drawing around simulations needs 3 that ran to their end, there are {len(distance)}")
        order = np.argsort(distance, kind="stable")[:k]
        near, z = distance[order], np.clip(known.z[order], -_LIMIT, _LIMIT)
        weights = 1.0 - (near / max(near[-1] * (1 + 1e-6), 1e-12)) ** 2 + 1e-3
        weights = weights / weights.sum()
        covariance = np.cov(z.T, aweights=weights).reshape(z.shape[1], -1)
        shrunk = (1 - _SHRINK) * covariance + (_SHRINK + 1e-9) * np.diag(np.diag(covariance) + 1e-6)
        return cls(prior, z, weights, np.linalg.cholesky(shrunk), float(near[0]))

    def sample(self, n: int, seed: int) -> np.ndarray:
        """n configurations (n, P), declared units, never outside the prior; equal seeds give equal draws."""
        random = generator(seed, "nearby")
        # Systematic: no centre more often than its weight asks for.
        edges, at = np.cumsum(self.weights), (np.arange(n) + random.random()) / max(n, 1)
        chosen = random.permutation(np.minimum(np.searchsorted(edges, at), len(edges) - 1))
        low, high = np.log(_WIDTHS)
        width = np.exp(random.uniform(low, high, size=(n, 1)))
        noise = random.standard_normal((n, len(self.prior))) @ self.factor.T
        return self.prior.constrain(self.centres[chosen] + width * noise)


@dataclass(frozen=True, eq=False)
class _Plan:
    """What every batch needs: see `nearby_ensemble`."""

    posterior: Posterior
    circuit: Circuit
    seen: WindowedFeatures
    rule: Criterion
    seed: int
    engine: str
    workers: int
    progress: bool

    def simulated(self, theta: np.ndarray, first: int, path: Path) -> "_Batch":
        """A batch of draws, simulated with several seeds each; the first of them is draw number `first`."""
        repeats = self.rule.repeats or 2
        campaign = campaign_of(self.posterior, self.circuit, theta, repeats, self.seed, self.engine)
        campaign = replace(campaign, seed=stream_key(self.seed, "nearby", first) % 2**62)  # each batch has its own
        rows = run_campaign(campaign, path / campaign.digest[:12], workers=self.workers, progress=self.progress).read()
        return _Batch(theta, *stack(rows, len(theta), repeats))

    def judged(self, done: "_Batch") -> Judgement:
        return judge(self.seen, done.values, done.states, done.outcomes == "ok", self.posterior.encoder, self.rule)


@dataclass(frozen=True, eq=False)
class _Batch:
    """Draws (M, P), and features, states (M, R, F) and outcomes (M, R) of their simulations."""

    theta: np.ndarray
    values: np.ndarray
    states: np.ndarray
    outcomes: np.ndarray

    def followed_by(self, other: "_Batch") -> "_Batch":
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return _Batch(*(np.concatenate(pair) for pair in pairs))


def _until_enough(
    plan: _Plan, known: Known, n: int, limit: int, seconds: float, path: Path
) -> tuple[_Batch, Judgement]:
    """Batches until n are verified, or the draws or the time are used up; each learns from those before it."""
    prior, encoder, began = plan.posterior.prior, plan.posterior.encoder, time.monotonic()
    done: _Batch | None = None
    while True:
        drawn = 0 if done is None else len(done.theta)
        proposal = Nearby.fit(prior, known, distances(known, plan.seen, encoder))
        size = _size(drawn, limit, seconds, time.monotonic() - began)
        batch = plan.simulated(proposal.sample(size, stream_key(plan.seed, "nearby", drawn) % 2**62), drawn, path)
        done = batch if done is None else done.followed_by(batch)
        found = plan.judged(done)
        if found.verified.sum() >= n or len(done.theta) >= limit or time.monotonic() - began >= seconds:
            return done, found
        known = known.joined(batch, prior, encoder)


def _size(drawn: int, limit: int, seconds: float, spent: float) -> int:
    """Draws of the next batch: as many as all before it, within bounds, and no more than there is time for."""
    size = min(max(drawn, _BATCH[0]), _BATCH[1], limit - drawn)
    return size if not drawn or seconds == np.inf else max(1, min(size, int((seconds - spent) * drawn / spent)))


def nearby_ensemble(
    posterior: Posterior,
    observation: Recording | WindowedFeatures,
    table: BaseTable,
    n: int = 100,
    *,
    max_draws: int | None = None,
    seconds: float = float("inf"),
    criterion: Criterion | None = None,
    circuit: Circuit | None = None,
    seed: int = 0,
    workers: int = 1,
    engine: str = "auto",
    folder: str | Path | None = None,
    progress: bool = True,
) -> Ensemble:
    """Draw around the nearest simulations batch by batch, simulate each draw again, keep what agrees.

    Args:
        posterior: gives features, scales and protocol, and the density that is noted for each configuration.
        observation: a recording, or its features from `observe`.
        table: of the same circuit, features and duration as the posterior's.
        n, max_draws, seconds, criterion, circuit, seed, workers, engine, folder, progress: as for `build_ensemble`.

    Returns:
        An ensemble whose `provenance["drawn"]` says that it is not a sample of the posterior.

    Raises:
        InferenceError: a table or circuit other than the posterior's, or numbers that cannot be.
    """
    circuit = circuit_of(posterior, circuit)
    _require_same(posterior, table)
    seen = observe(posterior, observation) if isinstance(observation, Recording) else observation
    rule = rule_for(criterion or Criterion(), seen, posterior.provenance)
    limit = 4 * n if max_draws is None else max_draws
    if n < 1 or limit < 1:
        raise InferenceError(f"an ensemble needs n >= 1 and max_draws >= 1, got {n} and {limit}")
    known = Known.of_table(table, posterior.encoder)
    plan = _Plan(posterior, circuit, seen, rule, seed, engine, workers, progress)
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary if folder is None else folder)
        done, found = _until_enough(plan, known, n, limit, seconds, path)
    told = reach(known, seen, posterior.encoder, posterior.feature_names, found.bound)
    return Ensemble(
        prior=posterior.prior, feature_set=table.feature_set, observation=seen, **vars(done),
        log_prob=posterior(seen).log_prob(done.theta), judgement=found, criterion=rule, encoder=posterior.encoder,
        seed=seed, trust="; ".join(filter(None, [posterior.check(seen).summary(), told])),
        provenance={**posterior.provenance, "engine": engine, "posterior_parameters": posterior.prior.digest,
                    "drawn": DRAWN, "drawn_around": table.digest},
    )  # fmt: skip


def mismatches(posterior: Posterior, table: BaseTable) -> list[str]:
    """In what the simulations of a table differ from those a posterior was trained on, if in anything."""
    known, manifest = posterior.provenance, table.manifest
    pairs = {
        "circuit": (known["circuit_digest"], table.circuit_digest),
        "feature set": (known["feature_set_digest"], table.feature_set.digest),
        "duration": (float(known["protocol"]["duration"]), float(manifest.protocol["duration"])),
        "prior": (posterior.prior.digest, table.prior.digest),
    }
    return [name for name, (a, b) in pairs.items() if a != b]


def _require_same(posterior: Posterior, table: BaseTable) -> None:
    other = mismatches(posterior, table)
    if other:
        raise InferenceError(f"the table has another {' and '.join(other)} than the posterior was trained on")
