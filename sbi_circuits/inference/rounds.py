"""When to stop simulating towards one observation: by what another round is expected to teach.

Members of a posterior are trained on the same simulations; where more of them would settle the answer, they differ.
Their mean divergence from the mixture is the information, in nats, that knowing the right one would give (Houlsby et
al. 2011, arXiv:1112.5745, equation 2, over members in place of weights). It vanishes as the simulations suffice. What
all members get wrong alike it does not see, as with so few rows (a hundred, say) that all stay near the Gaussian
regression they begin with: `gain_of_round` measures what a round did teach.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sbi_circuits.errors import InferenceError
from sbi_circuits.inference.posterior import Posterior, PosteriorDistribution

LEAST = 0.02  # nats a parameter
_ERRORS, _LARGEST = 3.0, 50.0


@dataclass(frozen=True)
class Gain:
    """Information about theta in nats, and the standard error of its estimate."""

    nats: float
    error: float
    parameters: int

    def worth(self, least: float = LEAST) -> bool:
        """Whether it is more than `least` nats a parameter, by more than chance."""
        return self.nats - 2.0 * self.error > least * self.parameters

    def __str__(self) -> str:
        return f"{self.nats:.3f} +- {self.error:.3f} nats ({self.nats / self.parameters:.3f} a parameter)"


def expected_gain(posterior: Posterior, x: Any, n: int = 1000, seed: int = 0) -> Gain:
    """What another round of simulations towards x is expected to teach: how far the members differ there.

    Args:
        posterior: of two members or more.
        x: an observation the posterior accepts.
        n: draws of every member.
        seed: of the draws.

    Raises:
        InferenceError: a posterior of one member, or fewer than two draws.
    """
    members = len(posterior.weights)
    if members < 2 or n < 2:
        raise InferenceError(f"the expected gain compares members: needs 2 or more and 2 draws, got {members} and {n}")
    terms = np.array([_divergence(_alone(posterior, m)(x), posterior(x), n, seed) for m in range(members)])
    weights = posterior.weights
    return Gain(float(weights @ terms[:, 0]), float(np.sqrt(weights**2 @ terms[:, 1] ** 2)), len(posterior.prior))


def _alone(posterior: Posterior, member: int) -> Posterior:
    return replace(posterior, weights=np.eye(len(posterior.weights))[member])


def _divergence(q: PosteriorDistribution, p: PosteriorDistribution, n: int, seed: int) -> tuple[float, float]:
    """Kullback-Leibler divergence of q from p, nats, and its standard error over n draws.

    Under q the mean of p / q is one, and where the two are close p / q - 1 is nearly minus the log ratio: as a control
    variate it takes away most of the noise. Where its own mean says that the draws of q miss a part of p it is left.
    """
    theta = q.sample(n, seed)
    difference = q.log_prob(theta) - p.log_prob(theta)
    excess = np.expm1(np.minimum(-difference, _LARGEST))
    if excess.std() > 0 and abs(excess.mean()) <= _ERRORS * excess.std() / np.sqrt(n):
        slope = -np.mean((difference - difference.mean()) * (excess - excess.mean())) / excess.var()
        difference = difference + np.clip(slope, 0.0, 1.0) * excess
    return float(difference.mean()), float(difference.std() / np.sqrt(n))


def gain_of_round(before: Posterior, after: Posterior, x: Any, n: int = 2000, seed: int = 0) -> Gain:
    """What the last round taught about x: the divergence of the posterior after it from the one before.

    Args:
        before, after: posteriors over the same parameters, trained without and with the round.
        x: an observation that both accept.
        n: draws of the posterior after it.
        seed: of the draws.

    Raises:
        InferenceError: other parameters, or fewer than two draws.
    """
    if before.prior.digest != after.prior.digest or n < 2:
        raise InferenceError("the gain of a round needs two posteriors under one prior, and 2 draws or more")
    return Gain(*_divergence(after(x), before(x), n, seed), len(after.prior))
