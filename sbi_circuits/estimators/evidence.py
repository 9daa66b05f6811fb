"""The evidence, with draws around the particles: in few dimensions far more exact than what the sampler passes on.

Importance sampling (Robert & Casella 2004, "Monte Carlo statistical methods", chapter 3) from normals about some of the
particles, and the prior for a tenth of the draws, which bounds the weights by what the likelihood exceeds its mean by.
"""

import math

import numpy as np
from scipy.special import logsumexp

from sbi_circuits.estimators.sampler import LogLikelihood, Particles
from sbi_circuits.seeds import generator

_PRIOR_SHARE = 0.1
_CENTRES, _DRAWS = 400, 40_000
_LEAST_EFFECTIVE = 0.1  # share of the draws; with fewer the sampler's own estimate is the better one
_MOST_PARAMETERS = 8  # beyond, normals about particles no longer fill the posterior


def log_evidence(log_likelihood: LogLikelihood, particles: Particles, seed: int, draws: int = _DRAWS) -> float:
    """Log of the integral of the likelihood over the standard normal prior.

    Args:
        log_likelihood: z (n, P) to log likelihoods (n,), nats.
        particles: of the posterior; what they say themselves is returned where the draws tell less.
        seed: of the draws.
        draws: how many; the relative error is about 1 / sqrt(draws).

    Examples:
        >>> from sbi_circuits.estimators.sampler import sample_posterior
        >>> likelihood = lambda z: -0.5 * ((z[:, 0] - 1.0) / 0.5) ** 2
        >>> found = log_evidence(likelihood, sample_posterior(likelihood, parameters=1, seed=0), seed=0)
        >>> bool(abs(found - (np.log(0.5 / np.sqrt(1.25)) - 0.5 / 1.25)) < 0.01)
        True
    """
    n, p = particles.z.shape
    if p > _MOST_PARAMETERS:
        return particles.log_evidence
    random = generator(seed, "evidence")
    centres = particles.z[random.permutation(n)[:_CENTRES]]
    factor = _kernel(particles.z, len(centres))
    noise = random.standard_normal((draws, p))
    near = centres[random.integers(len(centres), size=draws)] + noise @ factor.T
    z = np.where(random.random(draws)[:, None] < _PRIOR_SHARE, noise, near)
    log_weight = log_likelihood(z) + _log_normal(z) - _log_proposal(z, centres, factor)
    log_weight = np.where(np.isfinite(log_weight), log_weight, -np.inf)
    total = float(logsumexp(log_weight))
    effective = math.exp(2 * total - float(logsumexp(2 * log_weight)))
    return total - math.log(draws) if effective > _LEAST_EFFECTIVE * draws else particles.log_evidence


def _kernel(z: np.ndarray, centres: int) -> np.ndarray:
    """(P, P) factor of the kernels' covariance, by Silverman's rule."""
    p = z.shape[1]
    covariance = np.atleast_2d(np.cov(z.T)) + 1e-12 * np.eye(p)
    return (4.0 / ((p + 2.0) * centres)) ** (1.0 / (p + 4.0)) * np.linalg.cholesky(covariance)


def _log_normal(z: np.ndarray) -> np.ndarray:
    return np.asarray(-0.5 * (z**2).sum(-1) - 0.5 * z.shape[-1] * math.log(2 * math.pi))


def _log_proposal(z: np.ndarray, centres: np.ndarray, factor: np.ndarray) -> np.ndarray:
    inverse = np.linalg.inv(factor)
    white, known = z @ inverse.T, centres @ inverse.T
    # |a - b|^2 by parts, so that no (draws, centres, P) array is needed.
    log_each = white @ known.T - 0.5 * (known**2).sum(1)
    about = logsumexp(log_each, axis=1) - 0.5 * (white**2).sum(1) - math.log(len(centres))
    about = about - 0.5 * z.shape[1] * math.log(2 * math.pi) - np.log(np.diag(factor)).sum()
    return np.logaddexp(math.log(1 - _PRIOR_SHARE) + about, math.log(_PRIOR_SHARE) + _log_normal(z))
