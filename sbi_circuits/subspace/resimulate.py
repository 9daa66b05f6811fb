"""Simulate configurations again, several seeds each, and say how far their features moved.

The unit of every change is the seed-to-seed standard deviation of one simulation of an unchanged configuration.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

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
    theta = np.atleast_2d(np.asarray(theta, dtype=float))
    if not len(theta):
        empty = (0, runner.repeats, feature_set.width)
        return Resimulated(theta, np.zeros(empty), np.zeros(empty, np.uint8), np.zeros(empty[:2], dtype="<U8"))
    campaign = Campaign(
        circuit=circuit, n=runner.repeats * len(theta), feature_set=feature_set, protocol=protocol_of(protocol),
        seed=stream_key(runner.seed, "subspace") % 2**62, engine=runner.engine, unit=2 * runner.repeats,
        proposal=TableProposal(np.repeat(theta, runner.repeats, axis=0), "subspace"),
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        table = run_campaign(campaign, Path(folder) / "table", workers=runner.workers, progress=runner.progress)
        rows = table.read()
    shape = (len(theta), runner.repeats)
    return Resimulated(theta, rows.values.reshape(*shape, -1), rows.states.reshape(*shape, -1),
                       rows.outcome.astype(str).reshape(shape))  # fmt: skip


def resimulate_like(ensemble: Ensemble, theta: np.ndarray, runner: Runner) -> Resimulated:
    """`resimulate` with the circuit, the features and the protocol of an ensemble."""
    circuit = circuit_of(ensemble.provenance, ensemble.prior, runner.circuit)
    return resimulate(circuit, theta, ensemble.feature_set, ensemble.provenance["protocol"], runner)


def judged(ensemble: Ensemble, runs: Resimulated) -> Judgement:
    """Which of the simulated configurations agree with the ensemble's observation, by the ensemble's rule."""
    return judge(ensemble.observation, runs.values, runs.states, runs.ok, ensemble.encoder, ensemble.criterion)


@dataclass(frozen=True, eq=False)
class FeatureChange:
    """How far n changed configurations are from their references, in units of seed-to-seed variability.

    Args:
        names: (F,) features.
        change: (n, F) signed difference of the mean scaled features; NaN where it cannot be taken.
        size: (n,) root mean square over the compared features; infinite where no simulation ran to the end or a
            feature that the reference has is gone.
        noise: (n,) the size that seeds alone would give.
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

    def within(self, limit: float = 2.0) -> float:
        """Share whose size, the noise of the seeds included, stays within `limit`; failures do not."""
        return float((self.size <= limit).mean()) if len(self.size) else 0.0

    def __getitem__(self, rows: Any) -> "FeatureChange":
        return FeatureChange(self.names, self.change[rows], self.size[rows], self.noise[rows])


def variability(runs: Resimulated, observed: np.ndarray, encoder: FeatureEncoder) -> np.ndarray:
    """Seed-to-seed standard deviation (F,) of one simulation, scaled features; see `verification.seed_to_seed`."""
    return seed_to_seed(encoder.scaled(runs.values, runs.states), runs.defined(), observed)


def feature_change(
    reference: Resimulated, changed: Resimulated, unit: np.ndarray, encoder: FeatureEncoder, names: tuple[str, ...],
    observed: np.ndarray,
) -> FeatureChange:
    """Compare n changed configurations with n references, or with one for all.

    Args:
        reference, changed: their simulations.
        unit: (F,) from `variability`.
        encoder: scales of the features.
        names: (F,) features.
        observed: (F,) states of the observation; only features that it has DEFINED are compared.

    Raises:
        InferenceError: as many references as neither one nor the changed ones.
    """
    if len(reference) not in (1, len(changed)):
        raise InferenceError(f"{len(changed)} changed configurations and {len(reference)} references do not pair up")
    a, n_a = _means(reference, encoder)
    b, n_b = _means(changed, encoder)
    wanted = observed == DEFINED
    compared = wanted & (n_a > 0) & (n_b > 0)
    difference = np.where(compared, (b - a) / unit, np.nan)
    spread = np.where(compared, 1.0 / np.maximum(n_a, 1) + 1.0 / np.maximum(n_b, 1), np.nan)
    usual = np.broadcast_to(wanted & (2 * n_a > reference.values.shape[1]), compared.shape)
    broken = (usual & (n_b == 0)).any(1) | ~compared.any(1)
    count = np.maximum(compared.sum(1), 1)
    size = np.sqrt(np.nansum(difference**2, axis=1) / count)
    noise = np.sqrt(np.nansum(spread, axis=1) / count)
    return FeatureChange(names, difference, np.where(broken, np.inf, size), noise)


def _means(runs: Resimulated, encoder: FeatureEncoder) -> tuple[np.ndarray, np.ndarray]:
    """Mean scaled features (n, F) over the seeds that define them, and how many do."""
    x, defined = encoder.scaled(runs.values, runs.states), runs.defined()
    count = defined.sum(1)
    return np.where(defined, x, 0.0).sum(1) / np.maximum(count, 1), count
