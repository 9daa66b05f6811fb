"""Ensembles: configurations drawn from the posterior and confirmed by simulating them again."""

import json
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from sbi_circuits.campaign import Campaign, TableProposal, run_campaign
from sbi_circuits.circuit import Circuit, Record, get_circuit
from sbi_circuits.engines import Protocol
from sbi_circuits.errors import InferenceError
from sbi_circuits.features import DEFINED, FeatureSet, WindowedFeatures
from sbi_circuits.inference import Posterior
from sbi_circuits.inference.encode import FeatureEncoder
from sbi_circuits.prior import Prior
from sbi_circuits.recording import Recording
from sbi_circuits.seeds import stream_key
from sbi_circuits.table import Rows, Table
from sbi_circuits.verification import Criterion, Judgement, judge, seeds_for
from sbi_circuits.verification_spread import default_block

_INTERVAL, _INTERVALS = "bursts.interval_mean", 5
_LEAST = 4
_BATCH = 16  # configurations looked at together before deciding whether enough are verified


@dataclass(frozen=True, eq=False)
class Ensemble:
    """Configurations drawn from a posterior, their re-simulations, and which of them reproduce the observation.

    Args:
        prior: of theta; feature_set: of the observation and the simulations.
        observation: the measured features, and their windows.
        theta: (M, P) all configurations drawn, declared units; log_prob: (M,) their posterior log density.
        values, states: (M, R, F) features of R seeds each; outcomes: (M, R) text.
        judgement: which configurations are verified, and why the others are not.
        criterion: the rule.
        encoder: the feature scales of the posterior.
        seed: of the draws and of the re-simulations.
        trust: one line on whether the observation lies within what the posterior was trained on.
        provenance: digests and settings of everything this came from.
    """

    prior: Prior
    feature_set: FeatureSet
    observation: WindowedFeatures
    theta: np.ndarray
    log_prob: np.ndarray
    values: np.ndarray
    states: np.ndarray
    outcomes: np.ndarray
    judgement: Judgement
    criterion: Criterion
    encoder: FeatureEncoder
    seed: int
    trust: str
    provenance: Mapping[str, Any]

    @property
    def verified(self) -> np.ndarray:
        """(M,) bool."""
        return self.judgement.verified

    @property
    def members(self) -> np.ndarray:
        """(K, P) the verified configurations, declared units."""
        return self.theta[self.verified]

    @property
    def yield_(self) -> float:
        """Share of the drawn configurations that were verified."""
        return float(self.verified.mean()) if len(self.theta) else 0.0

    def rejections(self) -> dict[str, float]:
        """Share of all draws that disagree in each observed feature or end early, most frequent first."""
        shares = {name: float(1.0 - self.judgement.agrees[self._ran, f].mean()) * float(self._ran.mean())
                  for f, name in enumerate(self.feature_set.names)} if self._ran.any() else {}  # fmt: skip
        ended = {f"outcome {name}": float((self.outcomes == name).any(1).mean())
                 for name in np.unique(self.outcomes) if name != "ok"}  # fmt: skip
        found = {**shares, **ended}
        return {k: v for k, v in sorted(found.items(), key=lambda item: -item[1]) if v > 0}

    @property
    def _ran(self) -> np.ndarray:
        return (self.outcomes == "ok").all(1)

    def summary(self) -> str:
        """A few lines: the yield, the rule, why configurations failed, and how far to trust it."""
        n, m = int(self.verified.sum()), len(self.theta)
        compared = int((self.observation.states == DEFINED).sum())
        reasons = [f"{name} {share:.0%}" for name, share in list(self.rejections().items())[:5]]
        return "\n".join([
            f"{n} of {m} configurations verified (yield {self.yield_:.0%})",
            f"rule: {self.values.shape[1]} seeds each, {compared} observed features within "
            f"{self.judgement.bound:.1f} standard deviations of the recording's {self.criterion.against} "
            f"(level {self.criterion.level:g} over all features)",
            f"rejected most by: {', '.join(reasons) or 'nothing'}",
            *([f"draws: {self.provenance['drawn']}"] if "drawn" in self.provenance else []),
            f"trust: {self.trust}",
        ])  # fmt: skip


def observe(posterior: Posterior, recording: Recording) -> WindowedFeatures:
    """The posterior's features of a recording, in windows as long as the simulations it was trained on."""
    features = FeatureSet.from_dict(posterior.provenance["feature_set"])
    return features.measure_windows(recording, float(posterior.provenance["protocol"]["duration"]))


def build_ensemble(
    posterior: Posterior,
    observation: Recording | WindowedFeatures,
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
    """Draw configurations, simulate each again with several seeds, and keep what agrees with the observation.

    Args:
        posterior: trained on a table of the circuit.
        observation: a recording, or its features from `observe`.
        n: how many verified configurations are wanted.
        max_draws: draws after which to stop short of n; 4 n where None.
        seconds: of simulating, after which to stop short of n too; how many draws that are depends on the machine.
        criterion: when a configuration agrees; level 0.05, and seeds and blocks by the observation, where None.
        circuit: the circuit; looked up by the name the posterior carries where None.
        seed: of draws and simulations.
        workers: processes to simulate in.
        engine: name of the engine.
        folder: where the re-simulations are kept, so that an interrupted verification resumes; nowhere if None.
        progress: whether to show progress on stderr.

    Raises:
        InferenceError: a circuit other than the posterior's, or numbers that cannot be.
    """
    circuit = circuit_of(posterior, circuit)
    seen = observe(posterior, observation) if isinstance(observation, Recording) else observation
    rule = rule_for(criterion or Criterion(), seen, posterior.provenance)
    repeats = rule.repeats or seeds_for(seen.n_windows)
    limit = 4 * n if max_draws is None else max_draws
    if n < 1 or limit < 1:
        raise InferenceError(f"an ensemble needs n >= 1 and max_draws >= 1, got {n} and {limit}")
    distribution = posterior(seen)
    theta = distribution.sample(limit, seed)
    campaign = campaign_of(posterior, circuit, theta, repeats, seed, engine)
    with tempfile.TemporaryDirectory() as temporary:
        # Named by what is simulated: other draws in the same folder do not get in the way.
        path = (Path(folder) if folder is not None else Path(temporary)) / campaign.digest[:12]
        table, drawn, found = _until_enough(campaign, path, n, seen, posterior.encoder, rule, workers, progress,
                                             seconds)  # fmt: skip
        values, states, outcomes = stack(table.read(), drawn, repeats)
    theta = theta[:drawn]
    return Ensemble(
        prior=posterior.prior,
        feature_set=campaign.feature_set,
        observation=seen,
        theta=theta,
        log_prob=distribution.log_prob(theta),
        values=values,
        states=states,
        outcomes=outcomes,
        judgement=found,
        criterion=rule,
        encoder=posterior.encoder,
        seed=seed,
        trust=posterior.check(seen).summary(),
        provenance={**posterior.provenance, "engine": campaign.engine, "posterior_parameters": posterior.prior.digest},
    )


def rule_for(rule: Criterion, seen: WindowedFeatures, provenance: Mapping[str, Any]) -> Criterion:
    """The rule with its seeds, and where bursts were measured with blocks of at least five intervals between them."""
    if rule.repeats is None:
        rule = replace(rule, repeats=seeds_for(seen.n_windows))
    names = FeatureSet.from_dict(provenance["feature_set"]).names
    if rule.block is not None or _INTERVAL not in names or seen.states[names.index(_INTERVAL)] != DEFINED:
        return rule
    length = _INTERVALS * float(seen.values[names.index(_INTERVAL)]) / float(provenance["protocol"]["duration"])
    return replace(rule, block=max(default_block(seen.n_windows), int(np.ceil(length))))


def verify(
    ensemble: Ensemble,
    *,
    members_only: bool = True,
    circuit: Circuit | None = None,
    seed: int = 1,
    workers: int = 1,
    engine: str = "auto",
    progress: bool = True,
) -> Ensemble:
    """Simulate an ensemble's configurations once more with new seeds; the result says which agree again.

    Args:
        ensemble: whose members (or all draws, unless `members_only`) are simulated.
        circuit, workers, engine, progress: as for `build_ensemble`.
        seed: of the new simulations; must differ from the ensemble's own.

    Raises:
        InferenceError: no members, or the seed the ensemble was made with.
    """
    chosen = ensemble.verified if members_only else np.ones(len(ensemble.theta), dtype=bool)
    if not chosen.any():
        raise InferenceError("the ensemble has no verified member to simulate again; draw more, or train on more rows")
    if seed == ensemble.seed:
        raise InferenceError(f"seed {seed} made this ensemble; verify with another one")
    circuit = circuit_of(ensemble, circuit)
    theta = ensemble.theta[chosen]
    repeats = ensemble.values.shape[1]
    campaign = campaign_of(ensemble, circuit, theta, repeats, seed, engine)
    with tempfile.TemporaryDirectory() as temporary:
        rows = run_campaign(campaign, Path(temporary), workers=workers, progress=progress).read()
    values, states, outcomes = stack(rows, len(theta), repeats)
    found = judge(ensemble.observation, values, states, outcomes == "ok", ensemble.encoder, ensemble.criterion)
    return replace(ensemble, theta=theta, log_prob=ensemble.log_prob[chosen], values=values, states=states,
                   outcomes=outcomes, judgement=found, seed=seed)  # fmt: skip


def circuit_of(source: Posterior | Ensemble, circuit: Circuit | None) -> Circuit:
    """The circuit behind a posterior or ensemble, under its prior; looked up by its name where None.

    Raises:
        InferenceError: another circuit than the source's.
    """
    name, digest = source.provenance["circuit"], source.provenance["circuit_digest"]
    found = get_circuit(name) if circuit is None else circuit
    if found.digest != digest:
        raise InferenceError(
            f"circuit {found.name} is not the one the posterior was trained on ({found.digest[:12]} here, "
            f"{digest[:12]} there); train again on simulations of this circuit"
        )
    return found.with_prior(source.prior)


def protocol_of(content: Mapping[str, Any]) -> Protocol:
    """The protocol a table's manifest describes."""
    signals = {name: content[name] for name in ("signals", "signal_rate") if name in content}
    record = Record(content["spikes"], content["counts"], content["moments"], **signals)
    return Protocol(content["duration"], content["warmup"], record, content["early_stop"], content["dt"])


def campaign_of(
    source: Posterior | Ensemble, circuit: Circuit, theta: np.ndarray, repeats: int, seed: int, engine: str
) -> Campaign:
    """Every configuration `repeats` times in a row; each simulation has a seed of its own by its index."""
    proposal = TableProposal(np.repeat(theta, repeats, axis=0), "posterior")
    features = FeatureSet.from_dict(source.provenance["feature_set"])
    return Campaign(
        circuit=circuit,
        n=len(proposal.theta),
        feature_set=features,
        protocol=protocol_of(source.provenance["protocol"]),
        # The training campaign may have used the same plain seed.
        seed=stream_key(seed, "verification") % 2**62,
        engine=engine,
        unit=2 * repeats,
        proposal=proposal,
    )


def _until_enough(
    campaign: Campaign, path: Path, n: int, seen: WindowedFeatures, encoder: FeatureEncoder, rule: Criterion,
    workers: int, progress: bool, seconds: float,
) -> tuple[Table, int, Judgement]:  # fmt: skip
    """Re-simulate draws batch by batch until n are verified, or the draws or the time are used up."""
    repeats = rule.repeats or seeds_for(seen.n_windows)
    limit, began = campaign.n // repeats, time.monotonic()
    drawn = min(max(n, _BATCH) if seconds == np.inf else _BATCH, limit)
    while True:
        table = run_campaign(replace(campaign, n=drawn * repeats), path, workers=workers, progress=progress)
        values, states, outcomes = stack(table.read(), drawn, repeats)
        found = judge(seen, values, states, outcomes == "ok", encoder, rule)
        lacking, spent = n - int(found.verified.sum()), time.monotonic() - began
        if lacking <= 0 or drawn == limit or spent >= seconds:
            return table, drawn, found
        share = max(float(found.verified.mean()), 0.05)
        more = max(_BATCH, int(np.ceil(lacking / share)))
        if seconds < np.inf:  # no more than there is time for, and than doubles what the estimate rests on
            more = min(more, drawn, max(int((seconds - spent) * drawn / spent), _LEAST))
        drawn = min(limit, drawn + more)


def stack(rows: Rows, configurations: int, repeats: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values and states (M, R, F), and outcomes (M, R), of the first rows of such a campaign."""
    n = configurations * repeats
    shape = (configurations, repeats)
    return (
        rows.values[:n].reshape(*shape, -1),
        rows.states[:n].reshape(*shape, -1),
        rows.outcome[:n].reshape(shape),
    )


def describe_provenance(provenance: Mapping[str, Any]) -> dict[str, str]:
    """Provenance as flat text, for attributes of files."""
    return {k: v if isinstance(v, str) else json.dumps(v) for k, v in provenance.items()}
