"""Single simulations that close in on an observation, where the nearest ones there are do not agree with it.

Bayesian optimisation of the probability to agree: out of wide kernels around the nearest simulations those candidates
are simulated, once each, that a regression on what was simulated expects to agree the most; it learns from them, and so
on (Gutmann, Corander 2016, J Mach Learn Res 17:125, with the probability of improvement in place of the expected one).
What was found counts as simulations of the table do: it is simulated again before it counts as verified.
"""

import numpy as np

from sbi_circuits.features import WindowedFeatures
from sbi_circuits.inference.encode import FeatureEncoder
from sbi_circuits.nearby_choice import Expectation
from sbi_circuits.nearby_kernels import Nearby
from sbi_circuits.nearby_known import Known, differences_in_sd, distances
from sbi_circuits.prior import Prior

ROUND = 24  # simulations, of which the next ones learn
MOST = 96  # simulations, between two batches of draws
ENOUGH = 8  # that agree
_KERNELS, _CANDIDATES = 240, 25  # kernels, and candidates out of each
_WIDEST = 0.5  # kernel, in standard deviations of the nearest simulations; the narrowest is a fifth of it
_OF_EACH = 3  # simulations around one and the same centre, at most
_AGREES = 3.0  # standard deviations, of the feature that differs most: with fifty of them what one circuit shows


def aimed(
    prior: Prior, known: Known, seen: WindowedFeatures, encoder: FeatureEncoder, repeats: int, n: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Configurations (n, P), or fewer, that are expected to agree the most, and the families of their centres (n,).

    None where nothing can be expected.

    Args:
        repeats: seeds of which the means have to agree in the end.
    """
    proposal = Nearby.fit(prior, known, distances(known, seen, encoder))
    expected = Expectation.fit(known, seen, encoder, proposal.centres, proposal.factor, repeats)
    if expected is None:
        return np.zeros((0, len(prior))), np.zeros(0, dtype=int)
    theta, kernel = proposal.sample(_KERNELS, seed, _WIDEST, _CANDIDATES)
    chance = expected.log_chance(prior.unconstrain(theta))
    centre = np.repeat(kernel, _CANDIDATES)
    chosen = _likeliest(chance, centre, n)
    return theta[chosen], proposal.family[centre[chosen]]


def _likeliest(chance: np.ndarray, centre: np.ndarray, n: int) -> np.ndarray:
    """Up to n rows of the largest chance (m,), a few of each centre (m,), so that they do not all try the same."""
    order = np.argsort(-chance, kind="stable")
    same = centre[order]
    turn = np.zeros(len(order), dtype=int)  # how many of the same centre come before
    for c in np.unique(same):
        turn[same == c] = np.arange((same == c).sum())
    return np.asarray(order[turn < _OF_EACH][:n])


def enough(known: Known, seen: WindowedFeatures, encoder: FeatureEncoder) -> bool:
    """Whether enough configurations that were simulated once agree in all features."""
    away = differences_in_sd(known, seen, encoder)
    return bool(((away <= _AGREES).all(1) & (known.seeds == 1)).sum() >= ENOUGH)
