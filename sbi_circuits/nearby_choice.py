"""Which candidates are worth a simulation: those that a regression on what was simulated expects to agree.

Most candidates around the nearest simulations fall silent or miss in one feature. Gaussian processes, fitted to what
was simulated near them, say how likely each is to agree in all features at once, and the likely ones are simulated. The
expectation chooses and nothing else: what counts as verified is simulated and judged as any other.
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.linalg import solve_triangular
from scipy.spatial import cKDTree

from sbi_circuits.features import DEFINED, WindowedFeatures
from sbi_circuits.inference.encode import FeatureEncoder
from sbi_circuits.nearby_known import LEAST_ROWS, LEAST_WINDOWS, SMALLEST, Known, lacking, unit_of_a_difference
from sbi_circuits.regression import Regression, log_chance
from sbi_circuits.verification_spread import deviations

CANDIDATES = 48  # for each that is simulated
_LIKELY = 3  # of them, those expected to agree the most: the simulated one is drawn from them
_ROWS = 800  # nearest the centres of the kernels, that are learned from
_BOUND = 2.5  # that of the rule is 3.2 to 4.5 with twenty features: with some room, as its units shift
_NEAR = 2.0  # units up to which differences count in full
_LENT = 0.5  # degrees of freedom that the regression's own scatter counts beside the recording's windows
_OF_SEEDS = 0.5  # of that scatter, where nothing tells what varies from seed to seed
_ALIKE = 0.7  # distance over which configurations are alike, whitened as the kernels


@dataclass(frozen=True, eq=False)
class Local:
    """What a simulation shows beyond the smooth function, which its neighbourhood shares.

    The features of a network change with its parameters more roughly than a regression on some hundreds of simulations
    can learn, so that most of what it takes for noise is the configuration's own: a new seed shows it again, and so
    does a candidate nearby.

    Args:
        tree: of the rows, whitened; factor: (P, P) lower triangular, of the kernels, that whitens them.
        residual: (n, F') of the rows; share: (n, F') of it that is the configuration's own, not the seed's.
        variance: (F',) of the configurations' own.
    """

    tree: cKDTree
    factor: np.ndarray
    residual: np.ndarray
    share: np.ndarray
    variance: np.ndarray

    @classmethod
    def fit(
        cls, features: Regression, z: np.ndarray, y: np.ndarray, seeds: np.ndarray, seed_variance: np.ndarray,
        factor: np.ndarray,
    ) -> "Local":  # fmt: skip
        """Of rows y (n, F') at z (n, P), means over `seeds` (n,), whose variance from seed to seed is known (F',)."""
        own = np.maximum(features.one_seed().numpy() - seed_variance, 0.0)
        share = own / np.maximum(own + seed_variance / seeds[:, None], 1e-12)
        residual = y - features.mean(torch.as_tensor(z)).numpy()
        return cls(cKDTree(_whitened(z, factor)), factor, residual, share, own)

    def at(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(m, F') expected of candidates z (m, P) beyond the regression, and its variance."""
        distance, row = self.tree.query(_whitened(z, self.factor))
        alike = np.exp(-0.5 * (distance / _ALIKE) ** 2)[:, None]
        share = self.share[row]
        return alike * share * self.residual[row], self.variance * (1.0 - alike**2 * share)


def _whitened(z: np.ndarray, factor: np.ndarray) -> np.ndarray:
    return np.asarray(solve_triangular(factor, np.asarray(z, dtype=float).T, lower=True).T)


@dataclass(frozen=True, eq=False)
class Expectation:
    """What simulations near some centres say of configurations that were not simulated.

    Args:
        features: differences from the F' features that the observation defines, see `compressed`; None where it
            defines none. local: what it does not learn of them.
        whole: whether a simulation runs to its end and defines all of these, and none that no window has.
        unit: (F',) of the difference between the observation and one simulation; spread: and the mean of the seeds.
        noise: (F',) variance of a feature from seed to seed.
        repeats: seeds of each configuration.
    """

    features: Regression | None
    local: Local | None
    whole: Regression
    unit: np.ndarray
    spread: np.ndarray
    noise: np.ndarray
    repeats: int

    @classmethod
    def fit(
        cls, known: Known, seen: WindowedFeatures, encoder: FeatureEncoder, centres: np.ndarray, factor: np.ndarray,
        repeats: int,
    ) -> "Expectation | None":  # fmt: skip
        """From the simulations nearest to centres (K, P), unbounded; None where too few show what is observed.

        Args:
            factor: (P, P) of the kernels around the centres, see `Nearby`.
        """
        compared: np.ndarray = np.asarray(seen.states) == DEFINED
        shows = np.asarray(known.defined[:, compared].all(1))
        near = _nearest(known.z[shows], centres)
        if len(near) < LEAST_ROWS:
            return None
        whole = _whole(known, shows & ~known.defined[:, lacking(seen)].any(1), centres)
        if not compared.any():
            return cls(None, None, whole, np.ones(0), np.ones(0), np.ones(0), repeats)
        z, x, seeds = known.z[shows][near], known.x[shows][near][:, compared], known.seeds[shows][near]
        target, unit = (part[compared] for part in unit_of_a_difference(known, seen, encoder))
        y = compressed(x - target, unit)
        features = Regression.fit(z, y, seeds)
        variance, noise, m = _variances(known, seen, encoder, features.one_seed().numpy())
        spread = np.sqrt(np.maximum(variance, SMALLEST**2) * (1.0 / repeats + 1.0 / m))
        local = Local.fit(features, z, y, seeds, noise, factor)
        return cls(features, local, whole, unit, spread, noise, repeats)

    def log_chance(self, z: np.ndarray) -> np.ndarray:
        """(m,) log probability that configurations z (m, P) agree; features count as independent."""
        if self.features is None or self.local is None:
            none = np.zeros((len(z), 0))
            return log_chance(self.whole, z, none, none, np.zeros(0))
        points, (own, unknown) = torch.as_tensor(np.asarray(z, dtype=float)), self.local.at(z)
        sd = np.sqrt(self.features.variance(points).numpy() + unknown + self.noise / self.repeats)
        off = self.features.mean(points).numpy() + own
        return log_chance(self.whole, z, off, sd, compressed(_BOUND * self.spread, self.unit))


def _variances(
    known: Known, seen: WindowedFeatures, encoder: FeatureEncoder, unexplained: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(F',) variance from seed to seed that the rule may find, that is expected, and windows that define a feature.

    Args:
        unexplained: (F',) variance that the regression found, of configurations and of seeds.
    """
    compared: np.ndarray = np.asarray(seen.states) == DEFINED
    windows, there = encoder.scaled(seen.window_values, seen.window_states), seen.window_states == DEFINED
    squares, freedom = (part[compared] for part in deviations(windows, there))
    lent, lends = (part[compared] for part in known.variance())
    squares, freedom = squares + lends * lent, freedom + lends
    # A feature that stays the same in all windows varies all the same, and one window says nothing of it.
    pooled = (squares + _LENT * unexplained) / (freedom + _LENT)
    enough = freedom + 1 >= LEAST_WINDOWS
    variance = np.where(enough, pooled, unexplained)
    noise = np.where(enough, np.minimum(variance, unexplained), _OF_SEEDS * unexplained)
    return variance, noise, np.maximum(there.sum(0), 1)[compared]


def compressed(difference: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """Differences (..., F) from an observation: as they are within some units (F,), growing as a logarithm beyond.

    Around the nearest simulations lie others of quite different dynamics. Uncompressed, their distance is all that a
    regression learns, and what tells the near ones apart is taken for noise.
    """
    return np.asarray(_NEAR * unit * np.arcsinh(difference / (_NEAR * unit)))


def likely(chance: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """(n,) of candidates (n, k), for each row one drawn from the three that are expected to agree the most."""
    best = np.argsort(-chance, axis=1, kind="stable")[:, :_LIKELY]
    return best[np.arange(len(best)), random.integers(best.shape[1], size=len(best))]


def _whole(known: Known, shows: np.ndarray, centres: np.ndarray) -> Regression:
    z = np.concatenate([known.z, known.failed])
    y = np.concatenate([shows.astype(float), np.zeros(len(known.failed))])
    seeds = np.concatenate([known.seeds, np.ones(len(known.failed))])
    near = _nearest(z, centres)
    return Regression.fit(z[near], y[near, None], seeds[near])


def _nearest(z: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Numbers of the rows z (n, P) nearest to any centre: chosen by where they are, never by what they showed."""
    return np.argsort(cKDTree(centres).query(z)[0], kind="stable")[:_ROWS] if len(z) else np.zeros(0, dtype=int)
