"""Which candidates are worth a simulation: those that a regression on what was simulated expects to agree.

Most candidates around the nearest simulations fall silent or miss in one feature. Gaussian processes, fitted to what
was simulated near them, say how likely each is to agree in all features at once, and the likely ones are simulated. The
expectation chooses and nothing else: what counts as verified is simulated and judged as any other.
"""

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from sbi_circuits.features import DEFINED, WindowedFeatures
from sbi_circuits.inference.encode import FeatureEncoder
from sbi_circuits.nearby_known import LEAST_WINDOWS, SMALLEST, Known, lacking
from sbi_circuits.regression import Regression, log_chance
from sbi_circuits.verification_spread import deviations

CANDIDATES = 48  # for each that is simulated
_LIKELY = 3  # for each, those expected to agree the most: the simulated ones are drawn from them
_ROWS = 800  # nearest the centres of the kernels, that are learned from
_LEAST = 20
_BOUND = 2.5  # that of the rule is 3.2 to 4.5 with twenty features: with some room, as its units shift
_LENT = 2.0  # degrees of freedom that the regression's own scatter counts beside the recording's windows


@dataclass(frozen=True, eq=False)
class Expectation:
    """What simulations near some centres say of configurations that were not simulated.

    Args:
        features: the F' features that the observation defines, scaled; None where it defines none.
        whole: whether a simulation runs to its end and defines all of these, and none that no window has.
        target, spread: (F',) of the observation, and of the difference between it and the mean of the seeds.
        repeats: seeds of each configuration.
    """

    features: Regression | None
    whole: Regression
    target: np.ndarray
    spread: np.ndarray
    repeats: int

    @classmethod
    def fit(
        cls, known: Known, seen: WindowedFeatures, encoder: FeatureEncoder, centres: np.ndarray, repeats: int
    ) -> "Expectation | None":
        """From the simulations nearest to centres (K, P), unbounded; None where too few show what is observed."""
        compared: np.ndarray = np.asarray(seen.states) == DEFINED
        windows, there = encoder.scaled(seen.window_values, seen.window_states), seen.window_states == DEFINED
        shows = np.asarray(known.defined[:, compared].all(1))
        near = _nearest(known.z[shows], centres)
        if len(near) < _LEAST:
            return None
        whole = _whole(known, shows & ~known.defined[:, lacking(seen)].any(1), centres)
        if not compared.any():
            return cls(None, whole, np.zeros(0), np.ones(0), repeats)
        x, seeds = known.x[shows][near][:, compared], known.seeds[shows][near]
        features = Regression.fit(known.z[shows][near], x, seeds)
        m = np.maximum(there.sum(0), 1)[compared]
        squares, freedom = (part[compared] for part in deviations(windows, there))
        # A feature that stays the same in all windows varies all the same, and one window says nothing of it.
        own, (lent, lends) = features.one_seed().numpy(), (part[compared] for part in known.variance())
        squares, freedom = squares + lends * lent, freedom + lends
        pooled = (squares + _LENT * own) / (freedom + _LENT)
        variance = np.where(freedom + 1 >= LEAST_WINDOWS, pooled, own)
        target = np.where(there, windows, 0.0).sum(0)[compared] / m
        spread = np.sqrt(np.maximum(variance, SMALLEST**2) * (1.0 / repeats + 1.0 / m))
        return cls(features, whole, target, spread, repeats)

    def log_chance(self, z: np.ndarray) -> np.ndarray:
        """(m,) log probability that configurations z (m, P) agree; features count as independent."""
        return log_chance(self.features, self.whole, z, self.target, _BOUND * self.spread, self.repeats)


def likely(chance: np.ndarray, n: int, random: np.random.Generator) -> np.ndarray:
    """(n,) numbers of candidates, drawn from the three for each that are expected to agree the most."""
    best = np.argsort(-chance, kind="stable")[: _LIKELY * n]
    return np.sort(random.permutation(best)[:n])


def _whole(known: Known, shows: np.ndarray, centres: np.ndarray) -> Regression:
    z = np.concatenate([known.z, known.failed])
    y = np.concatenate([shows.astype(float), np.zeros(len(known.failed))])
    seeds = np.concatenate([known.seeds, np.ones(len(known.failed))])
    near = _nearest(z, centres)
    return Regression.fit(z[near], y[near, None], seeds[near])


def _nearest(z: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Numbers of the rows z (n, P) nearest to any centre: chosen by where they are, never by what they showed."""
    return np.argsort(cKDTree(centres).query(z)[0], kind="stable")[:_ROWS] if len(z) else np.zeros(0, dtype=int)
