"""Truncated proposals: the prior cut to where a posterior for one observation has its mass (TSNPE).

Deistler, Goncalves, Macke 2022, NeurIPS, "Truncated proposals for scalable and hassle-free simulation-based
inference": rows drawn from the prior within the highest-density region need no weights in training.
"""

from typing import Any

import numpy as np

from sbi_circuits.errors import InferenceError
from sbi_circuits.inference.posterior import Posterior
from sbi_circuits.seeds import generator

_LEVEL_DRAWS = 4_000


def truncated_prior(
    posterior: Posterior, x: Any, n: int, seed: int, mass: float = 0.999, candidates: int = 64
) -> np.ndarray:
    """Draws of the prior within the posterior's highest-density region for x.

    The region is where the posterior density exceeds the level that `mass` of its own draws exceed. Sampling is by
    importance resampling from the posterior, one of `candidates` draws for each that is returned.

    Args:
        posterior, x: the posterior and an observation it accepts.
        n: number of configurations.
        seed: of the draws.
        mass: posterior mass of the region.
        candidates: posterior draws per returned draw; more of them approach the prior's shape more closely.

    Returns:
        (n, P) theta, declared units.

    Raises:
        InferenceError: mass outside (0, 1), or numbers below 1.
    """
    if not 0.0 < mass < 1.0 or n < 1 or candidates < 1:
        raise InferenceError(f"a truncated prior needs 0 < mass < 1, n >= 1, candidates >= 1, got {mass}, {n}, "
                             f"{candidates}")  # fmt: skip
    distribution, prior = posterior(x), posterior.prior
    level = np.quantile(distribution.log_prob(distribution.sample(_LEVEL_DRAWS, seed)), 1.0 - mass)
    theta = distribution.sample(n * candidates, seed + 1)
    log_q = distribution.log_prob(theta)
    log_weight = np.where(log_q >= level, prior.log_prob(theta) - log_q, -np.inf).reshape(n, candidates)
    # Gumbel noise turns the largest perturbed log weight into a draw in proportion to the weights.
    noise = generator(seed, "resampling").gumbel(size=log_weight.shape)
    chosen = np.argmax(log_weight + noise, axis=1)
    return theta.reshape(n, candidates, -1)[np.arange(n), chosen]
