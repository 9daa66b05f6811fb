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
from dataclasses import dataclass, field, replace
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
from sbi_circuits.verification import Criterion, judge
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

    def joined(self, z: np.ndarray, x: np.ndarray, defined: np.ndarray, ok: np.ndarray) -> "Known":
        """With configurations z (M, P), the means over their seeds of x, defined (M, R, F); `ok` (M, R) all seeds."""
        n, ran = defined.sum(1), ok.all(1)
        mean = np.where(defined, x, 0.0).sum(1) / np.maximum(n, 1)
        both = (self.z, z[ran]), (self.x, mean[ran]), (self.defined, 2 * n[ran] > defined.shape[1])
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


@dataclass
class _Batches:
    """What was drawn and simulated so far."""

    theta: list[np.ndarray] = field(default_factory=list)
    values: list[np.ndarray] = field(default_factory=list)
    states: list[np.ndarray] = field(default_factory=list)
    outcomes: list[np.ndarray] = field(default_factory=list)

    def add(self, *parts: np.ndarray) -> None:
        for kept, part in zip((self.theta, self.values, self.states, self.outcomes), parts, strict=True):
            kept.append(part)

    def all(self) -> Sequence[np.ndarray]:
        return [np.concatenate(kept) for kept in (self.theta, self.values, self.states, self.outcomes)]

    @property
    def n(self) -> int:
        return sum(map(len, self.theta))


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
    limit, began = 4 * n if max_draws is None else max_draws, time.monotonic()
    if n < 1 or limit < 1:
        raise InferenceError(f"an ensemble needs n >= 1 and max_draws >= 1, got {n} and {limit}")
    there = known = Known.of_table(table, posterior.encoder)
    done = _Batches()
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary if folder is None else folder)
        while True:
            proposal = Nearby.fit(posterior.prior, known, distances(known, seen, posterior.encoder))
            size = min(max(done.n, _BATCH[0]), _BATCH[1], limit - done.n)
            theta = proposal.sample(size, stream_key(seed, "nearby", done.n) % 2**62)
            values, states, outcomes = _simulated(posterior, circuit, theta, rule, (seed, done.n), engine, path,
                                                  workers, progress)  # fmt: skip
            done.add(theta, values, states, outcomes)
            ok = outcomes == "ok"
            x, defined = posterior.encoder.scaled(values, states), (states == DEFINED) & ok[:, :, None]
            known = known.joined(posterior.prior.unconstrain(theta), x, defined, ok)
            theta, values, states, outcomes = done.all()
            found = judge(seen, values, states, outcomes == "ok", posterior.encoder, rule)
            if found.verified.sum() >= n or done.n >= limit or time.monotonic() - began >= seconds:
                break
    told = reach(there, seen, posterior.encoder, posterior.feature_names, found.bound)
    trust = "; ".join(filter(None, [posterior.check(seen).summary(), told]))
    return Ensemble(
        prior=posterior.prior, feature_set=table.feature_set, observation=seen, theta=theta,
        log_prob=posterior(seen).log_prob(theta), values=values, states=states, outcomes=outcomes, judgement=found,
        criterion=rule, encoder=posterior.encoder, seed=seed, trust=trust,
        provenance={**posterior.provenance, "engine": engine, "posterior_parameters": posterior.prior.digest,
                    "drawn": DRAWN, "drawn_around": table.digest},
    )  # fmt: skip


def _simulated(
    posterior: Posterior, circuit: Circuit, theta: np.ndarray, rule: Criterion, stream: tuple[int, int], engine: str,
    path: Path, workers: int, progress: bool,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """Values, states (M, R, F) and outcomes (M, R) of a batch; every batch has seeds of its own."""
    repeats = rule.repeats or 2
    campaign = campaign_of(posterior, circuit, theta, repeats, stream[0], engine)
    campaign = replace(campaign, seed=stream_key(stream[0], "nearby", stream[1]) % 2**62)
    rows = run_campaign(campaign, path / campaign.digest[:12], workers=workers, progress=progress).read()
    return stack(rows, len(theta), repeats)


def differences(posterior: Posterior, table: BaseTable) -> list[str]:
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
    other = differences(posterior, table)
    if other:
        raise InferenceError(f"the table has another {' and '.join(other)} than the posterior was trained on")
