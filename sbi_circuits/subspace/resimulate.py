"""Simulate configurations again, several seeds each, and say how far their features moved.

The unit of every change is the seed-to-seed standard deviation of one simulation of an unchanged configuration.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import hypergeom

from sbi_circuits.campaign import Campaign, TableProposal, run_campaign
from sbi_circuits.circuit import Circuit, get_circuit
from sbi_circuits.ensemble import Ensemble, protocol_of
from sbi_circuits.errors import InferenceError
from sbi_circuits.features import DEFINED, UNOBSERVED, FeatureSet
from sbi_circuits.inference import Posterior
from sbi_circuits.inference.encode import FeatureEncoder
from sbi_circuits.prior import Prior
from sbi_circuits.seeds import stream_key
from sbi_circuits.verification import Judgement, judge, seed_to_seed
from sbi_circuits.verification_spread import deviations

SCREENED = "screened"  # in place of an outcome: a seed that was not simulated, as the first one had gone astray
_NEARLY_ALL = 0.9


@dataclass(frozen=True)
class Runner:
    """How simulations are run.

    Args:
        repeats: seeds per configuration, at least 2.
        seed: of all of them; workers: processes; engine: name.
        progress: whether to show progress on stderr.
        circuit: the circuit; looked up by the name that an ensemble carries where None.
    """

    repeats: int = 4
    seed: int = 1
    workers: int = 1
    engine: str = "auto"
    progress: bool = False
    circuit: Circuit | None = None

    def __post_init__(self) -> None:
        if self.repeats < 2:
            raise InferenceError(f"a change in units of the seeds' variability needs repeats >= 2, got {self.repeats}")


@dataclass(frozen=True, eq=False)
class Resimulated:
    """Features of n configurations, R seeds each.

    Args:
        theta: (n, P), declared units.
        values, states: (n, R, F); outcomes: (n, R) text.
    """

    theta: np.ndarray
    values: np.ndarray
    states: np.ndarray
    outcomes: np.ndarray

    def __len__(self) -> int:
        return len(self.theta)

    def __getitem__(self, rows: Any) -> "Resimulated":
        return Resimulated(self.theta[rows], self.values[rows], self.states[rows], self.outcomes[rows])

    def only(self, measured: np.ndarray) -> "Resimulated":
        """As an experiment sees them that measures some of the features (F,) only."""
        states = np.where(measured, self.states, UNOBSERVED).astype(np.uint8)
        return Resimulated(self.theta, np.where(measured, self.values, 0.0), states, self.outcomes)

    @property
    def ok(self) -> np.ndarray:
        """(n, R) bool: ran to the end."""
        return np.asarray(self.outcomes == "ok")

    @property
    def failure_rate(self) -> float:
        """Share of simulations that did not run to the end."""
        return float(1.0 - self.ok.mean()) if self.ok.size else 0.0

    def defined(self) -> np.ndarray:
        """(n, R, F) bool."""
        return (self.states == DEFINED) & self.ok[:, :, None]


def members_of(ensemble: Ensemble) -> Resimulated:
    """The verified members with the simulations that verified them.

    Raises:
        InferenceError: an ensemble without a verified member.
    """
    kept = ensemble.verified
    if not kept.any():
        raise InferenceError("the ensemble has no verified member; draw more, or train on more rows")
    return Resimulated(ensemble.theta[kept], ensemble.values[kept], ensemble.states[kept], ensemble.outcomes[kept])


def circuit_of(provenance: Mapping[str, Any], prior: Prior, circuit: Circuit | None = None) -> Circuit:
    """The circuit something was made of.

    Raises:
        InferenceError: another circuit than that.
    """
    found = get_circuit(provenance["circuit"]) if circuit is None else circuit
    if found.digest != provenance["circuit_digest"]:
        raise InferenceError(f"circuit {found.name} is not the one this was made of ({found.digest[:12]} here, "
                             f"{provenance['circuit_digest'][:12]} there)")  # fmt: skip
    return found.with_prior(prior)


def require_match(posterior: Posterior, ensemble: Ensemble) -> None:
    """Refuse an ensemble of another circuit, prior or feature set than the posterior's.

    Raises:
        InferenceError: naming what differs.
    """
    for name, text in (("circuit_digest", "circuit"), ("feature_set_digest", "feature set")):
        here, there = str(posterior.provenance.get(name, "")), str(ensemble.provenance.get(name, ""))
        if here != there:
            own = posterior.provenance.get("circuit", "?"), ensemble.provenance.get("circuit", "?")
            raise InferenceError(f"the ensemble is of another {text} than the posterior: "
                                 f"{own[1]} ({there[:12]}), not {own[0]} ({here[:12]})")  # fmt: skip
    if posterior.prior.digest != ensemble.prior.digest:
        raise InferenceError("the ensemble was drawn under another prior than the posterior's; build it again")


def resimulate(
    circuit: Circuit, theta: np.ndarray, feature_set: FeatureSet, protocol: Mapping[str, Any], runner: Runner
) -> Resimulated:
    """Simulate theta (n, P) `runner.repeats` times each and measure the features.

    Raises:
        PriorError: a configuration outside the circuit's prior.
    """
    return _simulated(circuit, theta, feature_set, protocol, runner, runner.repeats, "subspace")


def _simulated(
    circuit: Circuit, theta: np.ndarray, feature_set: FeatureSet, protocol: Mapping[str, Any], runner: Runner,
    repeats: int, key: str,
) -> Resimulated:  # fmt: skip
    """theta (n, P), `repeats` seeds each; the key tells the seeds of one call from those of another."""
    theta = np.atleast_2d(np.asarray(theta, dtype=float))
    if not theta.size or not repeats:
        empty = (len(theta) if theta.size else 0, repeats, feature_set.width)
        return Resimulated(theta, np.zeros(empty), np.zeros(empty, np.uint8), np.zeros(empty[:2], dtype="<U8"))
    campaign = Campaign(
        circuit=circuit, n=repeats * len(theta), feature_set=feature_set, protocol=protocol_of(protocol),
        seed=stream_key(runner.seed, key) % 2**62, engine=runner.engine, unit=2 * repeats,
        proposal=TableProposal(np.repeat(theta, repeats, axis=0), "subspace"),
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        table = run_campaign(campaign, Path(folder) / "table", workers=runner.workers, progress=runner.progress)
        rows = table.read()
    shape = (len(theta), repeats)
    return Resimulated(theta, rows.values.reshape(*shape, -1), rows.states.reshape(*shape, -1),
                       rows.outcome.astype(str).reshape(shape))  # fmt: skip


def resimulate_like(ensemble: Ensemble, theta: np.ndarray, runner: Runner) -> Resimulated:
    """`resimulate` with the circuit, the features and the protocol of an ensemble."""
    circuit = circuit_of(ensemble.provenance, ensemble.prior, runner.circuit)
    return resimulate(circuit, theta, ensemble.feature_set, ensemble.provenance["protocol"], runner)


def screened(ensemble: Ensemble, theta: np.ndarray, runner: Runner) -> Resimulated:
    """`resimulate_like` that spends one seed only on configurations which that seed shows to be far out.

    Such a configuration is not verified, and its other seeds are marked SCREENED. One that reaches the full number
    of seeds is judged as any other, so screening verifies nothing; see `in_reach` for what it may lose.
    """
    circuit = circuit_of(ensemble.provenance, ensemble.prior, runner.circuit)
    how = (ensemble.feature_set, ensemble.provenance["protocol"])
    first = _simulated(circuit, theta, *how, runner, 1, "first seed")
    kept = in_reach(ensemble, first)
    others = _simulated(circuit, first.theta[kept], *how, runner, runner.repeats - 1, "other seeds")
    shape = (len(first), runner.repeats - 1)
    values, states = np.zeros((*shape, first.values.shape[2])), np.full((*shape, first.values.shape[2]), UNOBSERVED)
    outcomes = np.full(shape, SCREENED, dtype="<U16")
    values[kept], states[kept], outcomes[kept] = others.values, others.states, others.outcomes
    together = [np.concatenate(both, axis=1) for both in (
        (first.values, values), (first.states, states.astype(np.uint8)), (first.outcomes, outcomes))]  # fmt: skip
    return Resimulated(first.theta, *together)


def in_reach(ensemble: Ensemble, first: Resimulated) -> np.ndarray:
    """(n,) bool: whether the first seed of configurations leaves it open that the rule will verify them.

    It ran to the end, defines at least half of the features that the observation defines, and in those stays within
    the rule's bound, in standard deviations of one simulation and the recording's error: the observed circuit itself
    goes astray here about as seldom as by the rule itself.
    """
    seen, found = ensemble.observation.states == DEFINED, ensemble.judgement
    target = ensemble.encoder.scaled(ensemble.observation.values, ensemble.observation.states)
    x, defined = ensemble.encoder.scaled(first.values, first.states)[:, 0], first.defined()[:, 0]
    away = np.abs(x - target) / np.sqrt(found.unit**2 + found.error**2)
    near = (np.where(defined & seen, away, 0.0) <= found.bound).all(1)
    return np.asarray(first.ok[:, 0] & near & (2 * (defined & seen).sum(1) >= seen.sum()))


def judged(ensemble: Ensemble, runs: Resimulated) -> Judgement:
    """Which of the simulated configurations agree with the ensemble's observation, by the ensemble's rule."""
    return judge(ensemble.observation, runs.values, runs.states, runs.ok, ensemble.encoder, ensemble.criterion)


@dataclass(frozen=True, eq=False)
class FeatureChange:
    """How far n changed configurations are from their references, in units of seed-to-seed variability.

    Args:
        names: (F,) features.
        change: (n, F) signed difference of the mean scaled features; NaN where it cannot be taken.
        size: (n,) root mean square over the compared features; infinite where no simulation ran to the end, or a
            feature is defined in so many more or fewer seeds than the reference's that it is gone, or new (`_apart`).
        noise: (n,) the size that seeds alone would give, from how the seeds of both configurations differ: size^2 -
            noise^2 is an unbiased estimate of the squared change.
        failed: (n,) bool: infinite size.
    """

    names: tuple[str, ...]
    change: np.ndarray
    size: np.ndarray
    noise: np.ndarray

    @property
    def failed(self) -> np.ndarray:
        """(n,) bool: the change cannot be measured; it counts as too large."""
        return ~np.isfinite(self.size)

    @property
    def failure_rate(self) -> float:
        return float(self.failed.mean()) if len(self.size) else 0.0

    @property
    def excess(self) -> np.ndarray:
        """(n,) size beyond what seeds alone give: sqrt(size^2 - noise^2), 0 at least."""
        return np.sqrt(np.maximum(self.size**2 - self.noise**2, 0.0))

    @property
    def typical(self) -> float:
        """Root of the median of size^2 - noise^2; unlike the median of `excess`, not pushed up by seeds."""
        return float(np.sqrt(max(float(np.median(self.size**2 - self.noise**2)), 0.0))) if len(self.size) else 0.0

    @property
    def measured(self) -> "FeatureChange":
        """Without those that failed."""
        return self[~self.failed]

    @property
    def mean_square(self) -> tuple[float, float]:
        """Mean of size^2 - noise^2 over those that did not fail, and its standard error; 0 and infinity of none."""
        square = self.measured.size**2 - self.measured.noise**2
        spread = float(square.std(ddof=1) / np.sqrt(len(square))) if len(square) > 1 else np.inf
        return (float(square.mean()) if len(square) else 0.0), spread

    def within(self, limit: float = 2.0) -> float:
        """Share whose size, the noise of the seeds included, stays within `limit`; failures do not."""
        return float((self.size <= limit).mean()) if len(self.size) else 0.0

    def __getitem__(self, rows: Any) -> "FeatureChange":
        return FeatureChange(self.names, self.change[rows], self.size[rows], self.noise[rows])


def feature_unit(ensemble: Ensemble) -> np.ndarray:
    """Seed-to-seed standard deviation (F,) of one simulation of a member, scaled: `verification.seed_to_seed`.

    Without members, the unit of the rule that judged the ensemble.
    """
    if not ensemble.verified.any():
        return ensemble.judgement.unit
    runs = members_of(ensemble)
    x = ensemble.encoder.scaled(runs.values, runs.states)
    return seed_to_seed(x, runs.defined())


def feature_change(
    reference: Resimulated, changed: Resimulated, unit: np.ndarray, encoder: FeatureEncoder, names: tuple[str, ...],
    observed: np.ndarray,
) -> FeatureChange:
    """Compare n changed configurations with n references, or with one for all.

    Args:
        reference, changed: their simulations.
        unit: (F,) from `feature_unit`.
        encoder: scales of the features.
        names: (F,) features.
        observed: (F,) states of the observation; only features that it has DEFINED are compared.

    Raises:
        InferenceError: as many references as neither one nor the changed ones.
    """
    if len(reference) not in (1, len(changed)):
        raise InferenceError(f"{len(changed)} changed configurations and {len(reference)} references do not pair up")
    a, n_a, error_a = _means(reference, encoder, unit)
    b, n_b, error_b = _means(changed, encoder, unit)
    wanted = observed == DEFINED
    compared = wanted & (n_a > 0) & (n_b > 0)
    difference = np.where(compared, (b - a) / unit, np.nan)
    spread = np.where(compared, (error_a + error_b) / unit**2, np.nan)
    seeds = reference.values.shape[1], changed.values.shape[1]
    broken = (wanted & _apart(n_a, n_b, *seeds, int(wanted.sum()))).any(1) | ~compared.any(1)
    count = np.maximum(compared.sum(1), 1)
    size = np.sqrt(np.nansum(difference**2, axis=1) / count)
    noise = np.sqrt(np.nansum(spread, axis=1) / count)
    return FeatureChange(names, difference, np.where(broken, np.inf, size), noise)


def _apart(n_a: np.ndarray, n_b: np.ndarray, seeds_a: int, seeds_b: int, features: int) -> np.ndarray:
    """Where a feature is defined in n_a of seeds_a and n_b of seeds_b simulations, and chance does not explain it.

    Fisher's exact test at .05 over all features and both sides. A few seeds can never tell by it: a feature that most
    of the reference's seeds have and none of the others is gone in any case, and new where all of the others have it
    and at most one in ten of the reference's.
    """
    total, drawn = n_a + n_b, (seeds_a + seeds_b, seeds_b)
    level = 0.025 / max(features, 1)
    fewer, more = hypergeom.cdf(n_b, drawn[0], total, drawn[1]), hypergeom.sf(n_b - 1, drawn[0], total, drawn[1])
    share = n_a / seeds_a
    certain = ((share > 0.5) & (n_b == 0)) | ((share <= 1 - _NEARLY_ALL) & (n_b == seeds_b))
    return np.asarray((fewer <= level) | (more <= level) | certain)


def _means(runs: Resimulated, encoder: FeatureEncoder, unit: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean scaled features (n, F) over the seeds that define them, how many do, and the variance of the mean.

    The variance is that of the configuration's own seeds, or the unit's where fewer than two define a feature.
    """
    x, defined = encoder.scaled(runs.values, runs.states), runs.defined()
    count, (squares, freedom) = defined.sum(1), deviations(x, defined)
    variance = np.where(freedom > 0, squares / np.maximum(freedom, 1), unit**2)
    mean = np.where(defined, x, 0.0).sum(1) / np.maximum(count, 1)
    return mean, count, variance / np.maximum(count, 1)
