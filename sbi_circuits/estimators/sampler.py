"""Sequential Monte Carlo: all particles together from the prior to the posterior, in tempered steps.

Sources: Del Moral, Doucet, Jasra 2006, J R Stat Soc B 68:411; moves: differential evolution, ter Braak 2006, Stat
Comput 16:239, in two halves so that each half moves along differences of the other. No gradients, no tuning; many
modes are kept, and the evidence comes with the draws.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sbi_circuits.errors import InferenceError
from sbi_circuits.seeds import generator

LogLikelihood = Callable[[np.ndarray], np.ndarray]
_ESS = 0.6  # share of the particles that a step of the temperature leaves effective
_MOVED = 3.0  # accepted moves of each particle on average before the next step
_SWEEPS = (4, 40)
_MOST_STEPS = 200
_WORST = -1e30


@dataclass(frozen=True, eq=False)
class Particles:
    """Draws from a posterior.

    Args:
        z: (N, P) in the prior's unbounded coordinates.
        log_evidence: log of the integral of the likelihood over the prior.
        steps: temperatures that were passed.
        accepted: share of the last moves that were accepted.
    """

    z: np.ndarray
    log_evidence: float
    steps: int
    accepted: float


def sample_posterior(log_likelihood: LogLikelihood, parameters: int, particles: int = 2000, seed: int = 0) -> Particles:
    """Draw from the posterior under a standard normal prior.

    Args:
        log_likelihood: z (n, P) to log likelihoods (n,), nats, up to a constant; not finite counts as impossible.
        parameters: P.
        particles: N.
        seed: of everything random.

    Raises:
        InferenceError: if no draw of the prior has a finite likelihood, or the posterior is too far from the prior.

    Examples:
        >>> found = sample_posterior(lambda z: -0.5 * ((z[:, 0] - 1.0) / 0.5) ** 2, parameters=1, seed=0)
        >>> bool(abs(found.z.mean() - 0.8) < 0.05), bool(abs(found.z.std() - 0.447) < 0.05)
        (True, True)
    """
    random = generator(seed, "particles")
    z = random.standard_normal((max(2 * parameters + 4, particles), parameters))
    values = _finite(log_likelihood(z))
    if (values <= _WORST).all():
        raise InferenceError("no configuration of the prior has a finite likelihood for this observation")
    temperature, log_evidence, accepted = 0.0, 0.0, 1.0
    for step in range(1, _MOST_STEPS + 1):
        rise = _rise(values, 1.0 - temperature)
        weights = np.exp(rise * (values - values.max()))
        log_evidence += float(np.log(weights.mean()) + rise * values.max())
        temperature = min(1.0, temperature + rise)
        kept = _resample(weights, random)
        z, values = z[kept], values[kept]
        more = 2.0 if temperature == 1.0 else 1.0
        z, values, accepted = _move(z, values, temperature, log_likelihood, more * _MOVED, random)
        if temperature == 1.0:
            return Particles(z, log_evidence, step, accepted)
    raise InferenceError(f"the posterior is too narrow to be reached from the prior in {_MOST_STEPS} steps")


def _finite(values: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(values), values, _WORST)


def _rise(values: np.ndarray, most: float) -> float:
    """Step of the temperature that leaves a share _ESS of the particles effective, by bisection."""

    def effective(rise: float) -> float:
        w = np.exp(rise * (values - values.max()))
        return float(w.sum() ** 2 / (w**2).sum() / len(w))

    if effective(most) >= _ESS:
        return most
    low, high = 0.0, most
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if effective(middle) >= _ESS else (low, middle)
    return high if low == 0.0 else low


def _resample(weights: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Systematic resampling, in random order."""
    n = len(weights)
    edges = np.cumsum(weights / weights.sum())
    found = np.searchsorted(edges, (np.arange(n) + random.random()) / n)
    return random.permutation(np.minimum(found, n - 1))


def _move(
    z: np.ndarray, values: np.ndarray, temperature: float, log_likelihood: LogLikelihood, wanted: float,
    random: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, float]:  # fmt: skip
    """Metropolis moves until each particle has moved as often as wanted, on average."""
    z, values = z.copy(), values.copy()
    n, parameters = z.shape
    moved, share = 0.0, 0.0
    for sweep in range(_SWEEPS[1]):
        share = 0.0
        for half, other in ((slice(0, n // 2), slice(n // 2, n)), (slice(n // 2, n), slice(0, n // 2))):
            own = z[half]
            pool = z[other]
            a, b = random.integers(0, len(pool), (2, len(own)))
            b = np.where(a == b, (b + 1) % len(pool), b)
            # Mostly steps of the best size for a normal target, sometimes whole differences: from mode to mode.
            size = np.where(random.random(len(own)) < 0.1, 1.0, 2.38 / np.sqrt(2 * parameters))
            size = size * np.exp(0.3 * random.standard_normal(len(own)))
            proposed = own + size[:, None] * (pool[a] - pool[b]) + 1e-3 * random.standard_normal(own.shape)
            found = _finite(log_likelihood(proposed))
            change = temperature * (found - values[half]) - 0.5 * ((proposed**2).sum(1) - (own**2).sum(1))
            yes = np.log(random.random(len(own))) < change
            z[half] = np.where(yes[:, None], proposed, own)
            values[half] = np.where(yes, found, values[half])
            share += float(yes.mean()) / 2
        moved += share
        if moved >= wanted and sweep + 1 >= _SWEEPS[0]:
            break
    return z, values, share
