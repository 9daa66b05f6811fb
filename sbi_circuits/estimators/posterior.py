"""Posteriors from a likelihood or a ratio, behind the same `posterior(x)`; and many recordings of one preparation."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from sbi_circuits.comparison.network import ClassifierConfig, Members, fit_members
from sbi_circuits.errors import InferenceError, UnknownNameError
from sbi_circuits.estimators.evidence import log_evidence
from sbi_circuits.estimators.likelihood import LikelihoodConfig, fit_likelihood
from sbi_circuits.estimators.ratio import RatioConfig, fit_ratio
from sbi_circuits.estimators.sampler import Particles, sample_posterior
from sbi_circuits.inference import Posterior, TrainingData
from sbi_circuits.inference.encode import EncodedFeatures, FeatureEncoder
from sbi_circuits.inference.observe import Observation, observation
from sbi_circuits.inference.support import ObservationCheck, Support
from sbi_circuits.prior import Prior
from sbi_circuits.seeds import generator, stream_key

KINDS = ("likelihood", "ratio")
PARTICLES = 2000
_EVIDENCE_SEED = 7
_ASIDE = 0.1

LogDensity = Callable[[np.ndarray, EncodedFeatures], np.ndarray]


@dataclass(frozen=True, eq=False)
class SampledDistribution:
    """A distribution over theta known by its likelihood; drawn from by sequential Monte Carlo when asked.

    Args:
        prior: of theta.
        log_likelihood: z (n, P), the prior's unbounded coordinates, to log likelihoods (n,) up to a constant.
        particles: that a sample is drawn from; more where more are asked for.
    """

    prior: Prior
    log_likelihood: Callable[[np.ndarray], np.ndarray]
    particles: int = PARTICLES

    def sample(self, n: int, seed: int) -> np.ndarray:
        """n configurations (n, P), declared units, never outside the prior; equal seeds give equal draws."""
        return self.prior.constrain(self.sample_z(n, seed))

    def sample_z(self, n: int, seed: int) -> np.ndarray:
        """n draws (n, P) in the prior's unbounded coordinates."""
        if n < 0:
            raise InferenceError(f"cannot draw {n} configurations")
        found = self.run(max(n, self.particles), seed).z
        return found[generator(seed, "chosen").permutation(len(found))[:n]]

    def run(self, particles: int, seed: int) -> Particles:
        """The particles themselves, with the evidence."""
        return sample_posterior(self.log_likelihood, len(self.prior), particles, seed)

    @cached_property
    def log_evidence(self) -> float:
        """Log of the integral of the likelihood over the prior, estimated once."""
        found = self.run(2 * self.particles, _EVIDENCE_SEED)
        return log_evidence(self.log_likelihood, found, _EVIDENCE_SEED)

    def log_prob(self, theta: np.ndarray) -> np.ndarray:
        """Log density of theta (n, P) or (P,), 1/declared units; -inf outside the prior."""
        theta = np.asarray(theta, dtype=float)
        if theta.shape[-1] != len(self.prior):
            raise InferenceError(f"theta has shape {theta.shape}, expected (*, {len(self.prior)})")
        rows = theta.reshape(-1, len(self.prior))
        inside = self.prior.contains(rows)
        safe = np.where(inside[:, None], rows, self.prior.constrain(np.zeros(len(self.prior))))
        density = self.log_likelihood(self.prior.unconstrain(safe)) + self.prior.log_prob(safe) - self.log_evidence
        return np.where(inside, density, -np.inf).reshape(theta.shape[:-1])

    def mean(self, n: int = 2000, seed: int = 0) -> np.ndarray:
        """Posterior mean (P,), declared units, over n draws."""
        return self.sample(n, seed).mean(0)

    def quantiles(self, q: Any, n: int = 2000, seed: int = 0) -> np.ndarray:
        """Quantiles of each parameter over n draws, declared units: (P,), or (len(q), P)."""
        return np.quantile(self.sample(n, seed), q, axis=0)

    def interval(self, level: float = 0.9, n: int = 2000, seed: int = 0) -> np.ndarray:
        """Central interval of each parameter: (2, P)."""
        if not 0.0 < level < 1.0:
            raise InferenceError(f"level {level:g} must lie between 0 and 1")
        return self.quantiles([0.5 - level / 2, 0.5 + level / 2], n, seed)


@dataclass(frozen=True, eq=False)
class EstimatedPosterior:
    """A posterior by a neural likelihood or ratio; called with one observation, or with a list of independent ones.

    See also: `train_estimator`, `combine`.

    Args:
        prior: of theta.
        feature_names, feature_units: (F,) of the observation.
        encoder: features to network inputs.
        kind: "likelihood" or "ratio".
        density: z (n, P) and one row of features to log likelihoods (n,), up to a constant for each row.
        ok: probability that a simulation runs to its end, by z; None where all did.
        support: what `check` compares an observation with.
        provenance, log: as of `Posterior`.
        particles: behind a sample.
    """

    prior: Prior
    feature_names: tuple[str, ...]
    feature_units: tuple[str, ...]
    encoder: FeatureEncoder
    kind: str
    density: LogDensity
    ok: Members | None
    support: Support
    provenance: Mapping[str, Any]
    log: tuple[str, ...]
    particles: int = PARTICLES

    def __call__(self, x: Any) -> SampledDistribution:
        """The distribution over theta given one observation, or a list of independent ones of one preparation.

        Raises:
            UnknownNameError, InferenceError: an observation that does not fit; an empty list.
        """
        rows = [self._encoded(self.observe(one)) for one in several(x)]

        def log_likelihood(z: np.ndarray) -> np.ndarray:
            total = len(rows) * _log_ok(self.ok, z)
            for row in rows:
                total = total + self.density(z, row)
            return total

        return SampledDistribution(self.prior, log_likelihood, self.particles)

    def observe(self, x: Any) -> Observation:
        """x as one row of values and states."""
        return observation(x, self.feature_names, str(self.provenance.get("feature_set_digest", "")))

    def check(self, x: Any, level: float = 0.99) -> ObservationCheck:
        """Whether the simulations could have produced x."""
        seen = self.observe(x)
        return self.support.check(
            seen.values, seen.states, self.encoder, self.feature_names, self.feature_units, level
        )

    def _encoded(self, seen: Observation) -> EncodedFeatures:
        return self.encoder.tensors(seen.values[None], seen.states[None], torch.float32)


def several(x: Any) -> list[Any]:
    """Observations as a list: a list of them as it is, a single one in a list of its own.

    Raises:
        InferenceError: an empty list.
    """
    if not isinstance(x, list) or (x and np.isscalar(x[0])):
        return [x]
    if not x:
        raise InferenceError("give at least one observation")
    return x


def combine(posterior: Posterior, observations: list[Any], particles: int = PARTICLES) -> SampledDistribution:
    """One posterior for many independent recordings of one preparation, from a posterior trained on single ones.

    p(theta | x_1, ..., x_m) is proportional to p(theta) times the product of q(theta | x_i) / p(theta): errors of the
    single posteriors multiply, so for more than a few recordings a likelihood or a ratio (`train_estimator`) is better.

    Args:
        posterior: for single recordings.
        observations: of one preparation, independent given its configuration.
        particles: behind a sample.

    Raises:
        InferenceError: no observation.
    """
    singles = [posterior(x) for x in several(observations)]
    prior = posterior.prior

    def log_likelihood(z: np.ndarray) -> np.ndarray:
        theta = prior.constrain(z)
        return np.sum([one.log_prob(theta) for one in singles], axis=0) - len(singles) * prior.log_prob(theta)

    return SampledDistribution(prior, log_likelihood, particles)


def train_estimator(
    table: Any, kind: str = "likelihood", config: LikelihoodConfig | RatioConfig | None = None, seed: int = 0
) -> EstimatedPosterior:
    """Train a neural likelihood or ratio on a table; rows of any proposal count alike, as neither needs the prior.

    Args:
        table: a table, or `TrainingData` (whose rows all ran to their end).
        kind: "likelihood", best for many recordings of one preparation, or "ratio".
        config: of the networks.
        seed: of everything random.

    Raises:
        UnknownNameError: another kind.
        InferenceError: too few usable rows, nothing that varies.

    Examples:
        >>> from sbi_circuits.prior import Parameter
        >>> prior = Prior((Parameter("g", "nS", 0, 1),))
        >>> theta = prior.sample(200, seed=0)
        >>> data = TrainingData(theta, theta + 1, np.zeros((200, 1), dtype=np.uint8), prior, ("rate",))
        >>> posterior = train_estimator(data, config=LikelihoodConfig(members=1, epochs=2), seed=0)
        >>> posterior([{"rate": 1.5}, {"rate": 1.4}]).sample(10, seed=0).shape
        (10, 1)
    """
    if kind not in KINDS:
        raise UnknownNameError("kind of estimator", kind, KINDS)
    given = isinstance(table, TrainingData)
    data = table if given else TrainingData.from_table(table)
    z = data.prior.unconstrain(data.theta)
    order = generator(seed, "aside").permutation(data.rows)
    cut = max(10, round(_ASIDE * data.rows))
    parts = np.sort(order[cut:]), np.sort(order[:cut])
    encoder = FeatureEncoder.fit(data.values, data.states, dropping=True, rows=parts[0])
    shared = (z, data.values, data.states[:], data.feature_names, encoder, parts)
    key = stream_key(seed, kind) % 2**63
    density: LogDensity
    if kind == "likelihood":
        density, loss = fit_likelihood(*shared, _config(config, LikelihoodConfig), key)
    else:
        density, loss = fit_ratio(*shared, _config(config, RatioConfig), key)
    ok = None if given else _fit_ok(table, seed)
    return EstimatedPosterior(
        data.prior, data.feature_names, data.feature_units, encoder, kind, density, ok,
        Support.fit(data.values, data.states, encoder, seed),
        dict(data.provenance) | {"estimator": kind, "seed": int(seed)},
        (f"{data.rows} simulations, neural {kind}", _left_out(encoder, data), f"validation loss {loss:.3f} nats a row"),
    )  # fmt: skip


def _left_out(encoder: FeatureEncoder, data: TrainingData) -> str:
    names = ", ".join(np.array(data.feature_names)[encoder.ignored])
    return f"features that never varied, left out: {names or 'none'}"


def _config(config: Any, kind: Any) -> Any:
    if config is None:
        return kind()
    if not isinstance(config, kind):
        raise InferenceError(f"this estimator takes a {kind.__name__}, got {type(config).__name__}")
    return config


def _fit_ok(table: Any, seed: int) -> Members | None:
    """Networks for the probability that a simulation runs to its end; None where too few did not to learn from."""
    rows = table.read(("theta", "outcome"))
    ok = torch.as_tensor(rows.outcome == "ok").long()
    if (ok == 0).sum() < 10:
        return None
    z = torch.as_tensor(table.prior.unconstrain(rows.theta)).float()
    config = replace(ClassifierConfig(), members=3, hidden=32)
    members = Members(z.shape[1], 2, config, stream_key(seed, "ok") % 2**63)
    order = torch.as_tensor(generator(seed, "ok rows").permutation(len(z)))
    cut = max(10, len(z) // 10)
    fit_members(members, lambda index, _: z[index], order[cut:], ok, torch.ones(2), order[:cut], config,
                lambda n, _: torch.zeros(n, 1), stream_key(seed, "ok order") % 2**63)  # fmt: skip
    return members.eval().requires_grad_(False)


@torch.no_grad()
def _log_ok(members: Members | None, z: np.ndarray) -> np.ndarray:
    if members is None:
        return np.zeros(len(z))
    logits = members(torch.as_tensor(z, dtype=torch.float32))
    return torch.log_softmax(logits, -1)[..., 1].exp().mean(0).clamp(min=1e-30).log().double().numpy()
