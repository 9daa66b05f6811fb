"""Perturbations of a circuit, their predicted effect over an ensemble, and which one would tell its members apart.

An ensemble is a set of hypotheses that the recording could not tell apart. A perturbation, or a feature that was not
measured, is worth the information it is expected to give about which of them is right (Lindley 1956, Ann Math Stat
27:986), estimated by nested Monte Carlo (Rainforth et al. 2018, arXiv:1709.06181) over simulated outcomes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import logsumexp

from sbi_circuits.circuit import Circuit
from sbi_circuits.ensemble import Ensemble
from sbi_circuits.errors import InferenceError, UnknownNameError
from sbi_circuits.features import DEFINED, FeatureSet
from sbi_circuits.inference.encode import FeatureEncoder
from sbi_circuits.prior import Parameter, Prior
from sbi_circuits.subspace.resimulate import (
    FeatureChange,
    Resimulated,
    Runner,
    circuit_of,
    feature_change,
    feature_unit,
    members_of,
    resimulate,
)

KINDS = ("block", "scale", "set")
_TAILS = 4.0  # degrees of freedom: features have heavy tails, and one odd seed is no proof


@dataclass(frozen=True)
class Perturbation:
    """One change of a circuit.

    Args:
        kind: "block": synapses from a population keep `value` of their weight (0: none; on a population without
            them that silences its output); "scale": a parameter times `value`; "set": a parameter at `value`, declared
            units.
        target: name of a population, or of a parameter.
        value: see kind.

    Examples:
        >>> Perturbation.read("block:inh:0.5").text
        'block inh to 0.5'
    """

    kind: str
    target: str
    value: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UnknownNameError("perturbation", self.kind, KINDS)
        if not np.isfinite(self.value) or (self.kind == "block" and self.value < 0):
            raise InferenceError(f"perturbation {self.kind} of {self.target}: {self.value:g} is not a valid value")

    @classmethod
    def read(cls, text: str) -> "Perturbation":
        """A perturbation as `kind:target` or `kind:target:value`.

        Raises:
            InferenceError: text of another form.
        """
        kind, _, rest = text.partition(":")
        target, _, value = rest.partition(":")
        try:
            return cls(kind, target, float(value) if value else 0.0)
        except ValueError as error:
            raise InferenceError(f"cannot read the perturbation {text!r}; write kind:target:value, "
                                 f"such as block:inh:0.5") from error  # fmt: skip

    @property
    def text(self) -> str:
        """For people."""
        joins = {"block": "to", "scale": "by", "set": "to"}
        return f"{self.kind} {self.target} {joins[self.kind]} {self.value:g}"


def perturbed(circuit: Circuit, theta: np.ndarray, perturbation: Perturbation) -> tuple[Circuit, np.ndarray]:
    """The circuit and the configurations (n, P) after a perturbation; the prior widens where they leave it.

    Raises:
        UnknownNameError: a population or parameter that is not there.
        InferenceError: a population without outgoing synapses.
    """
    if perturbation.kind == "block":
        return _blocked(circuit, perturbation), theta
    prior, theta = circuit.prior, np.array(theta, dtype=float)
    at = prior.names.index(prior[perturbation.target].name)
    theta[:, at] = theta[:, at] * perturbation.value if perturbation.kind == "scale" else perturbation.value
    wider = [_widened(p, theta[:, k]) if k == at else p for k, p in enumerate(prior.parameters)]
    return circuit.with_prior(Prior(tuple(wider))), theta


def _blocked(circuit: Circuit, perturbation: Perturbation) -> Circuit:
    circuit.population(perturbation.target)
    if not any(p.source == perturbation.target for p in circuit.projections):
        raise InferenceError(f"population {perturbation.target} of {circuit.name} has no outgoing synapses to block")
    changed = [replace(p, weight=f"{perturbation.value!r}*({p.weight})") if p.source == perturbation.target else p
               for p in circuit.projections]  # fmt: skip
    return replace(circuit, projections=tuple(changed))


def _widened(parameter: Parameter, values: np.ndarray) -> Parameter:
    low, high = min(parameter.low, float(values.min())), max(parameter.high, float(values.max()))
    # A logarithmic scale ends above zero; a parameter set to zero has none.
    return replace(parameter, low=low, high=high, scale="linear" if low <= 0 else parameter.scale)


@dataclass(frozen=True, eq=False)
class Effect:
    """What a perturbation does to the members of an ensemble.

    Args:
        perturbation: which.
        change: (K members) against themselves unperturbed.
        information: nats about which member it is that one simulated outcome is expected to give.
        error: standard error of that.
    """

    perturbation: Perturbation
    change: FeatureChange
    information: float
    error: float

    def summary(self) -> str:
        """One line: the effect, how much members differ in it, and what it would tell."""
        ran = self.change[~self.change.failed]
        there = np.isfinite(ran.change)
        mean = np.where(there, ran.change, 0.0).sum(0) / np.maximum(there.sum(0), 1)
        order = [f for f in np.argsort(-np.abs(mean), kind="stable")[:2] if there[:, f].any()]
        shown = ", ".join(f"{self.change.names[f]} {mean[f]:+.1f} sd" for f in order)
        what = f"{shown or 'nothing left to compare'} ({self.change.failure_rate:.0%} failed)"
        return f"{self.perturbation.text}: {what}; expected information {self.information:.2f} +- {self.error:.2f} nats"


def predict(
    ensemble: Ensemble, perturbations: Sequence[Perturbation], runner: Runner, most: int = 50, seed: int = 0
) -> tuple[Effect, ...]:
    """Effect of perturbations on members of an ensemble, by simulation, the most informative first.

    Args:
        ensemble: whose members are perturbed.
        perturbations: to try.
        runner: how to simulate; the same seeds for every perturbation.
        most: members, drawn at random where there are more.
        seed: of that choice.
    """
    members = members_of(ensemble)
    chosen = np.sort(np.random.default_rng(seed).permutation(len(members))[:most])
    circuit = circuit_of(ensemble.provenance, ensemble.prior, runner.circuit)
    protocol, unit = ensemble.provenance["protocol"], feature_unit(ensemble)
    reference = resimulate(circuit, members.theta[chosen], ensemble.feature_set, protocol, runner)
    effects = []
    for perturbation in perturbations:
        changed, theta = perturbed(circuit, members.theta[chosen], perturbation)
        runs = resimulate(changed, theta, ensemble.feature_set, protocol, runner)
        observed = ensemble.observation.states
        change = feature_change(reference, runs, unit, ensemble.encoder, ensemble.feature_set.names, observed)
        nats, error = expected_information(runs, unit, ensemble.encoder, observed)
        effects.append(Effect(perturbation, change, nats, error))
    return tuple(sorted(effects, key=lambda e: -e.information))


def expected_information(
    runs: Resimulated, unit: np.ndarray, encoder: FeatureEncoder, observed: np.ndarray,
    features: np.ndarray | None = None,
) -> tuple[float, float]:  # fmt: skip
    """Nats about which of K configurations made an outcome, and the standard error; log K at most.

    Each outcome is held against what the other seeds of every configuration say: Student's t about their mean with the
    seed-to-seed standard deviation, widened for the uncertainty of that mean, where a feature is defined; and how
    often it is undefined, or the simulation fails. Features count as independent given the configuration, so that
    correlated ones are counted double: a number to rank experiments by.

    Args:
        runs: K configurations, R >= 2 seeds each.
        unit: (F,) seed-to-seed standard deviations; encoder: their scales.
        observed: (F,) states; what no experiment measures is left out.
        features: (F,) bool: only these; all where None.

    Raises:
        InferenceError: fewer than two configurations or seeds.
    """
    k, repeats = runs.outcomes.shape
    if k < 2 or repeats < 2:
        raise InferenceError(f"expected information needs two configurations and two seeds, got {k} and {repeats}")
    used = (observed == DEFINED) & (np.ones_like(observed, bool) if features is None else features)
    x, defined = encoder.scaled(runs.values, runs.states)[..., used] / unit[used], runs.defined()[..., used]
    gains = np.array([_gain(x, defined, r) for r in range(repeats)])
    per_member = gains.mean(0)
    return max(float(per_member.mean()), 0.0), float(per_member.std(ddof=1) / np.sqrt(k))


def _gain(x: np.ndarray, defined: np.ndarray, held: int) -> np.ndarray:
    """(K,) log p(outcome `held` of k | k) - log mean over all j of p(the same | j), the others as evidence."""
    others = np.delete(np.arange(x.shape[1]), held)
    count = defined[:, others].sum(1)
    mean = np.where(defined[:, others], x[:, others], 0.0).sum(1) / np.maximum(count, 1)
    share = (count + 0.5) / (len(others) + 1.0)
    variance = np.where(count > 0, 1.0 + 1.0 / np.maximum(count, 1), 100.0)
    there, value = defined[:, held][:, None], x[:, held][:, None]
    log_value = -0.5 * (_TAILS + 1) * np.log1p((value - mean) ** 2 / (_TAILS * variance)) - 0.5 * np.log(variance)
    log_p = np.where(there, np.log(share) + log_value, np.log1p(-share)).sum(-1)
    return np.asarray(np.diag(log_p) - logsumexp(log_p, axis=1) + np.log(len(x)))


@dataclass(frozen=True, eq=False)
class FeatureValue:
    """What measuring one more feature is expected to tell about which member is right, nats."""

    name: str
    information: float
    error: float


def rank_features(
    ensemble: Ensemble, feature_set: FeatureSet, runner: Runner, most: int = 50, seed: int = 0
) -> tuple[FeatureValue, ...]:
    """Features of any set by the information each alone is expected to give about the members, the most first.

    Args:
        ensemble: whose members are simulated and measured.
        feature_set: such as one with features that the recording did not have.
        runner: how to simulate.
        most: members at most; seed: of that choice.
    """
    members = members_of(ensemble)
    chosen = np.sort(np.random.default_rng(seed).permutation(len(members))[:most])
    circuit = circuit_of(ensemble.provenance, ensemble.prior, runner.circuit)
    runs = resimulate(circuit, members.theta[chosen], feature_set, ensemble.provenance["protocol"], runner)
    flat_values, flat_states = (a.reshape(-1, feature_set.width) for a in (runs.values, runs.states))
    encoder = FeatureEncoder.fit(flat_values, flat_states, dropping=False)
    observed = np.where((runs.states == DEFINED).any((0, 1)), DEFINED, 1).astype(np.uint8)
    unit = _units(runs, encoder)
    found = []
    for f in np.flatnonzero(observed == DEFINED):
        only = np.arange(feature_set.width) == f
        found.append(FeatureValue(feature_set.names[f], *expected_information(runs, unit, encoder, observed, only)))
    return tuple(sorted(found, key=lambda v: -v.information))


def _units(runs: Resimulated, encoder: FeatureEncoder) -> np.ndarray:
    """(F,) seed-to-seed standard deviation pooled over configurations; wide where no two seeds define a feature."""
    x, defined = encoder.scaled(runs.values, runs.states), runs.defined()
    count = defined.sum(1)
    mean = np.where(defined, x, 0.0).sum(1) / np.maximum(count, 1)
    squares = np.where(defined, (x - mean[:, None]) ** 2, 0.0).sum((0, 1))
    freedom = np.maximum(count - 1, 0).sum(0)
    return np.where(freedom > 0, np.sqrt(np.maximum(squares / np.maximum(freedom, 1), 1e-4)), 1.0)
