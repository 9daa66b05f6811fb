"""Aimed rounds: simulations where a posterior for one observation has its mass, and a posterior trained on them.

Truncated sequential neural posterior estimation (Deistler, Goncalves, Macke 2022, NeurIPS): configurations are drawn
from the prior within the region of highest posterior density. There they are distributed as the prior is, up to a
constant, so that what is trained on them is the posterior at this observation without any correction; rows of an
earlier table keep their own weights beside them. At other observations the result is not the posterior. Of several
rounds each is aimed by the posterior of the one before, and they end where another is not expected to pay.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sbi_circuits.campaign import Campaign, TableProposal, run_campaign
from sbi_circuits.campaign.plan import PROPOSAL_FILE
from sbi_circuits.circuit import Circuit, get_circuit
from sbi_circuits.digests import digest
from sbi_circuits.ensemble import observe, protocol_of
from sbi_circuits.errors import InferenceError
from sbi_circuits.features import FeatureSet, WindowedFeatures
from sbi_circuits.inference import Posterior, TrainingConfig, load_posterior, train
from sbi_circuits.inference.rounds import Gain, expected_gain, gain_of_round
from sbi_circuits.inference.save import FORMAT
from sbi_circuits.inference.truncated import truncated_prior
from sbi_circuits.prior import Prior
from sbi_circuits.recording import Recording
from sbi_circuits.seeds import stream_key, uniform_rows
from sbi_circuits.table import BaseTable, concat

_MASS, _LEVEL_DRAWS = 0.999, 4000  # of the region; draws that find the density at its edge
_CHUNK, _MOST = 20_000, 2_000_000  # draws of the prior looked at together, and in all
_FEW = 500  # rows on which the members of an ensemble agree too early
_SMALLEST = 1e-4  # share of the prior below which regions are drawn from by resampling


@dataclass(frozen=True, eq=False)
class Round:
    """An aimed round.

    Args:
        posterior: trained on it; believe it at this observation alone.
        share: of the prior that the region holds; 0 where it was too small to tell.
        counts: simulations by outcome.
        rows: all that the posterior was trained on.
    """

    posterior: Posterior
    share: float
    counts: Mapping[str, int]
    rows: BaseTable

    def summary(self) -> str:
        """One line."""
        region = f"{self.share:.1%} of the prior" if self.share else f"less than {_SMALLEST:.2%} of the prior"
        told = ", ".join(f"{n} {outcome}" for outcome, n in sorted(self.counts.items(), key=lambda item: -item[1]))
        return f"aimed round: {sum(self.counts.values())} simulations ({told}) within {region}"


def aimed_round(
    posterior: Posterior,
    observation: Recording | WindowedFeatures,
    n: int = 1000,
    *,
    table: BaseTable | None = None,
    config: TrainingConfig | None = None,
    circuit: Circuit | None = None,
    seed: int = 0,
    workers: int = 1,
    engine: str = "auto",
    folder: str | Path = "aimed_round",
    progress: bool = True,
) -> Round:
    """Simulate n configurations the posterior thinks possible, and train again for this observation.

    Args:
        posterior: the one to improve.
        observation: a recording, or its features from `observe`.
        n: simulations of the round.
        table: that the posterior was trained on, to be trained on as well; without it the round alone counts.
        config: of the training; the family of the posterior and derived settings where None.
        circuit: looked up by the name the posterior carries where None.
        seed, workers, engine, progress: as for `build_ensemble`.
        folder: of the simulations and the posterior; called again with the same arguments it goes on there.

    Raises:
        InferenceError: fewer than 50 simulations that ran to their end, or a circuit other than the posterior's.
    """
    seen = observe(posterior, observation) if isinstance(observation, Recording) else observation
    circuit = get_circuit(posterior.provenance["circuit"]) if circuit is None else circuit
    if circuit.digest != posterior.provenance["circuit_digest"]:
        raise InferenceError(f"circuit {circuit.name} is not the one the posterior was trained on")
    own = Path(folder) / _key(posterior, seen, n, table, config, seed)
    proposal, share = _proposal(posterior, seen, n, seed, own)
    campaign = Campaign(
        circuit=circuit.with_prior(posterior.prior), n=n, proposal=proposal, engine=engine, unit=8,
        feature_set=FeatureSet.from_dict(posterior.provenance["feature_set"]),
        protocol=protocol_of(posterior.provenance["protocol"]), seed=stream_key(seed, "aimed round") % 2**62,
    )  # fmt: skip
    rows = run_campaign(campaign, own / "table", workers=workers, progress=progress)
    both: BaseTable = rows if table is None else concat([table, rows])
    trained = _trained(posterior, both, config, seed, own / "posterior", progress)
    return Round(trained, share, rows.counts(), both)


@dataclass(frozen=True, eq=False)
class Rounds:
    """Several aimed rounds.

    Args:
        done: each of them, in order.
        taught: what each taught about the observation, see `gain_of_round`.
        expected: what another would have taught after each, see `expected_gain`; None for a posterior of one member.
        most: how many there might have been.
    """

    done: tuple[Round, ...]
    taught: tuple[Gain, ...]
    expected: tuple[Gain | None, ...]
    most: int

    @property
    def posterior(self) -> Posterior:
        """The posterior of the last round."""
        return self.done[-1].posterior

    def summary(self) -> str:
        """A line for each round, and one on why there was no other."""
        lines = [
            f"{found.summary()}; it taught {taught}" for found, taught in zip(self.done, self.taught, strict=True)
        ]
        return "\n".join([*lines, self._reason()])

    def _reason(self) -> str:
        gain, told = _deciding(self.done[-1], self.taught[-1], self.expected[-1])
        if not gain.worth():
            return f"stopped after {len(self.done)} of {self.most} rounds: {told}, which is not worth its simulations"
        return f"stopped after {self.most} rounds, as many as were wanted, though {told}"


def _deciding(found: Round, taught: Gain, expected: Gain | None) -> tuple[Gain, str]:
    """What another round is worth: by how far the members differ; of one member, and of a few rows, on which members
    agree whatever there is to learn, by what the last round taught."""
    if expected is None or (len(found.rows) < _FEW and taught.nats > expected.nats):
        return taught, f"the last one taught {taught}"
    return expected, f"another is expected to teach {expected}"


def aimed_rounds(
    posterior: Posterior, observation: Recording | WindowedFeatures, n: int = 1000, rounds: int = 1, *,
    table: BaseTable | None = None, seed: int = 0, folder: str | Path = "aimed_round", **options: Any,
) -> Rounds:  # fmt: skip
    """Aimed rounds of n simulations, each aimed by the posterior of the one before and trained on all.

    They end after `rounds`, or after the first that leaves so little to learn about this observation (less than .02
    nats a parameter, beyond chance) that another is not expected to be worth its simulations. Below 500 rows, where
    members agree although there is much to learn (see `inference.rounds`), what the last round taught counts as well.

    Args:
        posterior, observation, n, table, seed, folder: as for `aimed_round`; round k has seed + k, and called again
            with the same arguments everything goes on where it stopped.
        rounds: most of them.
        options: of `aimed_round`.

    Raises:
        InferenceError: fewer than one round, and what `aimed_round` raises.
    """
    if rounds < 1:
        raise InferenceError(f"there must be at least one aimed round, got {rounds}")
    seen = observe(posterior, observation) if isinstance(observation, Recording) else observation
    done, taught, expected = list[Round](), list[Gain](), list[Gain | None]()
    while not done or (len(done) < rounds and _deciding(done[-1], taught[-1], expected[-1])[0].worth()):
        before, rows = (done[-1].posterior, done[-1].rows) if done else (posterior, table)
        done.append(aimed_round(before, seen, n, table=rows, seed=seed + len(done), folder=folder, **options))
        after = done[-1].posterior
        taught.append(gain_of_round(before, after, seen, seed=seed))
        expected.append(expected_gain(after, seen, seed=seed) if len(after.weights) > 1 else None)
    return Rounds(tuple(done), tuple(taught), tuple(expected), rounds)


def _key(
    posterior: Posterior, seen: WindowedFeatures, n: int, table: BaseTable | None, config: TrainingConfig | None,
    seed: int,
) -> str:  # fmt: skip
    known = [dict(posterior.provenance), list(posterior.log), "" if table is None else table.digest]
    settings = None if config is None else vars(config)
    values = [seen.window_values.tolist(), seen.window_states.tolist()]
    return digest([known, settings, values, n, seed])[:12]


def _proposal(
    posterior: Posterior, seen: WindowedFeatures, n: int, seed: int, own: Path
) -> tuple[TableProposal, float]:
    """The configurations, those of an interrupted round where there are any, and the region's share of the prior."""
    kept, about = own / "table" / PROPOSAL_FILE, own / "region.json"
    if kept.exists() and about.exists():
        return TableProposal.load(kept), float(json.loads(about.read_text(encoding="utf-8"))["share"])
    theta, share = region_draws(posterior, seen, n, seed)
    own.mkdir(parents=True, exist_ok=True)
    temporary = about.with_suffix(".tmp")
    temporary.write_text(json.dumps({"share": share, "mass": _MASS}), encoding="utf-8")
    temporary.replace(about)
    return TableProposal(theta, "prior within the posterior's region"), share


def region_draws(posterior: Posterior, x: Any, n: int, seed: int) -> tuple[np.ndarray, float]:
    """n draws (n, P) of the prior, declared units, where the posterior for x has 99.9 % of its mass; its share.

    Exactly, by rejection; from the posterior by resampling (`truncated_prior`), which is near it only, with share 0,
    where less than 1e-4 of the prior is in the region.
    """
    distribution, prior = posterior(x), posterior.prior
    level = np.quantile(distribution.log_prob(distribution.sample(_LEVEL_DRAWS, seed)), 1.0 - _MASS)
    found, drawn = [np.zeros((0, len(prior)))], 0
    while sum(map(len, found)) < n and drawn < _MOST:
        theta = _prior_draws(prior, seed, drawn, drawn + _CHUNK)
        found.append(theta[distribution.log_prob(theta) >= level])
        drawn += _CHUNK
        if drawn >= 10 * _CHUNK and sum(map(len, found)) < _SMALLEST * drawn:
            break
    inside = np.concatenate(found)
    if len(inside) >= n:
        return inside[:n], len(inside) / drawn
    return truncated_prior(posterior, x, n, seed, mass=_MASS), 0.0


def _prior_draws(prior: Prior, seed: int, start: int, stop: int) -> np.ndarray:
    return prior.from_unit(uniform_rows(seed, start, stop, len(prior), "aimed round"))


def _trained(
    before: Posterior, rows: BaseTable, config: TrainingConfig | None, seed: int, folder: Path, progress: bool
) -> Posterior:
    if (folder / FORMAT.manifest).exists():
        return load_posterior(folder)
    settings = config or TrainingConfig(family=str(before.provenance["config"]["family"]))
    found = train(rows, settings, progress, seed)
    found.save(folder)
    return found
