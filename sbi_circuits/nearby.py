"""The simulations nearest to an observation once more, and configurations around those of them that agree.

A flow smooths: trained on some thousand simulations of 28 parameters it gives most of its mass to circuits that do
not reproduce one recording, although simulations in its own table do. Here the simulations of a table that lie nearest
to the observation are simulated again, the next ones are drawn around them, by how many agreed, and so on: population
Monte Carlo for approximate Bayesian computation (Beaumont et al. 2009, Biometrika 96:983), with the kernel of Beaumont,
Zhang, Balding 2002, Genetics 162:2025, over distances, in families that none of crowds out the others
(`nearby_families`). Of many candidates those are simulated that are likely to agree (`nearby_choice`). Where few agree,
single simulations close in on the observation between two batches (`nearby_aimed`).

What comes out is an ensemble of verified configurations, and no sample of the posterior: it stays near simulations
that there were, and how much of the posterior that covers is for `subspace.coverage` to say.
"""

import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree

from sbi_circuits.campaign import run_campaign
from sbi_circuits.circuit import Circuit
from sbi_circuits.ensemble import Ensemble, campaign_of, circuit_of, observe, rule_for, stack
from sbi_circuits.errors import InferenceError
from sbi_circuits.features import WindowedFeatures
from sbi_circuits.inference import Posterior
from sbi_circuits.nearby_aimed import MOST, ROUND, aimed, enough
from sbi_circuits.nearby_choice import CANDIDATES, Expectation, likely
from sbi_circuits.nearby_families import Families
from sbi_circuits.nearby_kernels import WIDEST, Nearby
from sbi_circuits.nearby_known import LEAST_WINDOWS, OUT_OF_REACH, Batch, Known, distances, reach
from sbi_circuits.prior import Prior
from sbi_circuits.recording import Recording
from sbi_circuits.seeds import generator, stream_key
from sbi_circuits.table import BaseTable
from sbi_circuits.verification import Criterion, Judgement, judge

__all__ = [
    "DRAWN", "OUT_OF_REACH", "Known", "Nearby", "alike", "distances", "mismatches", "nearby_ensemble", "reach",
]  # fmt: skip
DRAWN = "the simulations nearest to the observation and draws around them, not from the posterior"
_WIDER = 1.5  # factor from batch to batch
_YIELD = (0.4, 0.6)  # of a batch, below which kernels become narrower, and above which wider
_FEW = 0.5  # of a batch verified, below which single simulations are aimed before the next one
_AIMING = 1 / 3  # of the time, after which nothing is aimed: what it finds pays in the batches that follow
_BATCH = (8, 64)  # draws of the first batch, and of the largest: each is as large as all before it


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

    @property
    def repeats(self) -> int:
        return self.rule.repeats or 2

    def chosen(
        self, known: Known, n: int, families: Families, widest: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """n configurations (n, P) near what is known, their families (n,), and whether they were moved (n,).

        Of new families the simulation that there is as it is, the nearest first.
        """
        distance = distances(known, self.seen, self.posterior.encoder)
        rows = families.new(known, distance, families.n_new(n))
        again = self.posterior.prior.constrain(known.z[rows])
        moved, family = self._moved(known, distance, n - len(rows), families, widest)
        return (np.concatenate([again, moved]), np.concatenate([known.family[rows], family]),
                np.arange(n) >= len(rows))  # fmt: skip

    def _moved(
        self, known: Known, distance: np.ndarray, n: int, families: Families, widest: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """n configurations (n, P) around families, which (n,) too; the likeliest of many of each kernel.

        Its centre and its width are drawn before, so that choosing does not make the draws alike.
        """
        prior, encoder = self.posterior.prior, self.posterior.encoder
        key = stream_key(self.seed, "nearby", len(families.family))
        proposal = Nearby.fit(prior, known, distance, families=families)  # says if there is too little to draw around
        if not n:
            return np.zeros((0, len(prior))), np.zeros(0, dtype=int)
        expected = Expectation.fit(known, self.seen, encoder, proposal.centres, proposal.factor, self.repeats)
        if expected is None:
            theta, chosen = proposal.sample(n, key % 2**62, widest)
            return theta, proposal.family[chosen]
        theta, chosen = proposal.sample(n, key % 2**62, widest, CANDIDATES)
        chance = expected.log_chance(prior.unconstrain(theta)).reshape(n, CANDIDATES)
        best = likely(chance, generator(key % 2**62, "likely"))
        return theta.reshape(n, CANDIDATES, -1)[np.arange(n), best], proposal.family[chosen]

    def simulated(self, theta: np.ndarray, repeats: int, key: int, path: Path) -> Batch:
        """A batch of configurations (n, P), each with several seeds, that follow from `key`."""
        campaign = campaign_of(self.posterior, self.circuit, theta, repeats, self.seed, self.engine)
        campaign = replace(campaign, seed=key % 2**62)
        rows = run_campaign(campaign, path / campaign.digest[:12], workers=self.workers, progress=self.progress).read()
        return Batch(theta, *stack(rows, len(theta), repeats))

    def with_aimed(self, known: Known, until: float, path: Path) -> Known:
        """With single simulations that close in on the observation, round by round until enough of them agree.

        Args:
            until: `time.monotonic()` after which no round begins.
        """
        prior, encoder = self.posterior.prior, self.posterior.encoder
        for _ in range(MOST // ROUND):
            if enough(known, self.seen, encoder) or time.monotonic() >= until:
                break
            key = stream_key(self.seed, "aimed", len(known.roots))
            theta, around = aimed(prior, known, self.seen, encoder, self.repeats, ROUND, key % 2**62)
            if not len(theta):
                break
            known = known.aimed(self.simulated(theta, 1, key, path), around, prior, encoder)
        return known

    def judged(self, done: Batch) -> Judgement:
        return judge(self.seen, done.values, done.states, done.outcomes == "ok", self.posterior.encoder, self.rule)


def _until_enough(
    plan: _Plan, known: Known, n: int, limit: int, seconds: float, path: Path
) -> tuple[Batch, Judgement, Families, np.ndarray]:
    """Batches until n are verified, or the draws or the time are used up; each learns from those before it.

    Last in what is returned: the simulation of the table that each family descends from, see `Known.roots`.
    """
    began, widest, families, of_table = time.monotonic(), WIDEST[1], Families.none(), len(known.roots)
    done: Batch | None = None
    while True:
        drawn = len(families.family)
        size = _size(drawn, limit, seconds, time.monotonic() - began)
        theta, family, moved = plan.chosen(known, size, families, widest)
        batch = plan.simulated(theta, plan.repeats, stream_key(plan.seed, "nearby", drawn), path)
        done = batch if done is None else done.followed_by(batch)
        found = plan.judged(done)
        families = families.followed_by(family, moved, found.verified)
        if found.verified.sum() >= n or len(done.theta) >= limit or time.monotonic() - began >= seconds:
            return done, found, families, known.roots
        known = known.without(family[~moved]).joined(batch, family, plan.posterior.prior, plan.posterior.encoder)
        if moved.any():
            widest = _next_widest(widest, float(found.verified[drawn:][moved].mean()))
        if found.verified[drawn:].mean() < _FEW and len(known.roots) - of_table <= len(done.theta) * plan.repeats:
            before, known = known, plan.with_aimed(known, began + _AIMING * seconds, path)
            families = families if known is before else families.nearer()


def _next_widest(widest: float, found: float) -> float:
    """Wider kernels after a batch of which many were verified, narrower ones after one of which few were.

    How far from a simulation its neighbours still do the same differs between recordings by much.
    """
    few, many = _YIELD
    factor = _WIDER if found > many else 1.0 / _WIDER if found < few else 1.0
    return min(max(widest * factor, WIDEST[0]), WIDEST[2])


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
        An ensemble whose `provenance["drawn"]` says that it is not a sample of the posterior. Where fewer than half of
        a batch are verified, up to 96 simulations, one seed each, are aimed before the next, but not after a third of
        `seconds`. They do not count as draws; `provenance["aimed_simulations"]` is their number, at most that of the
        draws' simulations and 96.

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
    if seen.n_windows < LEAST_WINDOWS:
        known = known.with_noise_near(seen, posterior.encoder)
    plan = _Plan(posterior, circuit, seen, rule, seed, engine, workers, progress)
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary if folder is None else folder)
        done, found, families, roots = _until_enough(plan, known, n, limit, seconds, path)
    n_aimed = len(roots) - len(known.roots)
    told = [posterior.check(seen).summary(),
            reach(known, seen, posterior.encoder, posterior.feature_names, found.bound),
            alike(posterior.prior, done.theta[found.verified]), families.told(roots),
            f"{n_aimed} single simulations were aimed at it" if n_aimed else ""]  # fmt: skip
    return Ensemble(
        prior=posterior.prior, feature_set=table.feature_set, observation=seen, **vars(done),
        log_prob=posterior(seen).log_prob(done.theta), judgement=found, criterion=rule, encoder=posterior.encoder,
        seed=seed, trust="; ".join(filter(None, told)),
        provenance={**posterior.provenance, "engine": engine, "posterior_parameters": posterior.prior.digest,
                    "drawn": DRAWN, "drawn_around": table.digest, "aimed_simulations": n_aimed},
    )  # fmt: skip


def alike(prior: Prior, members: np.ndarray) -> str:
    """One line: how near members (n, P), drawn in families, lie to one another; empty for fewer than two."""
    if len(members) < 2:
        return ""
    u = prior.to_unit(members)
    gap = np.median(cKDTree(u).query(u, k=2)[0][:, 1]) / np.sqrt(u.shape[1])
    return (f"parameters of a verified configuration differ from those of the nearest other by {gap:.1%} of the "
            "prior's range (two draws of the prior: 41%)")  # fmt: skip


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
