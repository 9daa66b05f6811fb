"""Simulations that there are, and how far each lies from an observation."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import digamma

from sbi_circuits.features import DEFINED, UNDEFINED, WindowedFeatures
from sbi_circuits.inference.encode import FeatureEncoder
from sbi_circuits.prior import Prior
from sbi_circuits.regression import Regression
from sbi_circuits.table import BaseTable
from sbi_circuits.verification_spread import deviations

OUT_OF_REACH = "out of reach of the circuit"
LEAST_WINDOWS = 3  # that tell how much a feature varies
LEAST_ROWS = 20  # that a regression is fitted to
_NOISE_ROWS = 400
_FAR = 30.0
_TOO_MANY = 3.0  # distance of a simulation that defines all that the observation lacks
_ENOUGH, _MOST = 8, 30  # degrees of freedom: least, and most that other configurations lend
SMALLEST = 0.05  # unit of a feature that hardly varies, in scales of the table
SMALLEST_OF_SEEDS = 0.01  # and where several seeds of configurations near it show that it does


@dataclass(frozen=True, eq=False)
class Batch:
    """Draws (M, P), and features, states (M, R, F) and outcomes (M, R) of their simulations."""

    theta: np.ndarray
    values: np.ndarray
    states: np.ndarray
    outcomes: np.ndarray

    def followed_by(self, other: "Batch") -> "Batch":
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return Batch(*(np.concatenate(pair) for pair in pairs))


@dataclass(frozen=True, eq=False)
class Known:
    """Configurations that were simulated, unbounded z.

    Args:
        z, x, defined: (n, P), (n, F) scaled features, and whether they are defined, of those that ran to their end.
        family: (n,) the number of the simulation, of the table or aimed later, that each descends from.
        seeds: (n,) simulations behind each.
        squares, freedom: (n, F) sums of squared deviations between them, and degrees of freedom.
        failed: (k, P) those that did not.
        noise: (F,) variance of a single simulation, to go by as long as no configuration near has several seeds.
        roots: simulation of the table that each family descends from: itself, but for one that was aimed.
    """

    z: np.ndarray
    x: np.ndarray
    defined: np.ndarray
    family: np.ndarray
    seeds: np.ndarray
    squares: np.ndarray
    freedom: np.ndarray
    failed: np.ndarray
    noise: np.ndarray
    roots: np.ndarray

    @classmethod
    def of_table(cls, table: BaseTable, encoder: FeatureEncoder) -> "Known":
        """The simulations of a table."""
        rows = table.read()
        ok, z = rows.outcome == "ok", table.prior.unconstrain(rows.theta)
        x, defined = encoder.scaled(rows.values[ok], rows.states[ok]), rows.states[ok] == DEFINED
        nothing = np.zeros(x.shape)
        # Windows of one simulation are one family.
        _, first, same = np.unique(z[ok], axis=0, return_index=True, return_inverse=True)
        family, noise = first[same.ravel()], np.ones(x.shape[1])
        return cls(z[ok], x, defined, family, np.ones(len(x)), nothing, nothing, z[~ok], noise, np.arange(len(x)))

    def joined(self, batch: Batch, family: np.ndarray, prior: Prior, encoder: FeatureEncoder) -> "Known":
        """With the configurations of a batch, their features averaged over the seeds; they descend from `family`."""
        ran, z = (batch.outcomes == "ok").all(1), prior.unconstrain(batch.theta)
        x, defined = encoder.scaled(batch.values[ran], batch.states[ran]), batch.states[ran] == DEFINED
        n = defined.sum(1)
        mean = np.where(defined, x, 0.0).sum(1) / np.maximum(n, 1)
        seeds = np.full(int(ran.sum()), float(defined.shape[1]))
        new = z[ran], mean, 2 * n > defined.shape[1], family[ran], seeds, *deviations(x, defined), z[~ran]
        more = {name: np.concatenate([getattr(self, name), part]) for name, part in zip(vars(self), new, strict=False)}
        return replace(self, **more)

    def aimed(self, batch: Batch, around: np.ndarray, prior: Prior, encoder: FeatureEncoder) -> "Known":
        """With single simulations, each a family of its own, that were drawn around families `around` (n,)."""
        own = np.arange(len(around)) + len(self.roots)
        roots = np.concatenate([self.roots, self.roots[around]])
        return replace(self.joined(batch, own, prior, encoder), roots=roots)

    def without(self, families: np.ndarray) -> "Known":
        """Less these simulations of the table: each was looked at for being near, and its new seeds tell more.

        None of them where fewer than three families would be left to draw around.
        """
        kept = ~(np.isin(self.family, families) & (self.seeds == 1))
        if len(np.unique(self.family[kept])) < LEAST_WINDOWS:
            return self
        of_all = ("failed", "noise", "roots")
        return replace(self, **{name: part[kept] for name, part in vars(self).items() if name not in of_all})

    def with_noise_near(self, seen: WindowedFeatures, encoder: FeatureEncoder) -> "Known":
        """With the noise of the simulations nearest to an observation, as far as they show what it shows.

        That is what a regression on their configurations leaves over, roughness of the circuit included.
        """
        compared: np.ndarray = np.asarray(seen.states) == DEFINED
        rows = np.flatnonzero(self.defined[:, compared].all(1))
        rows = rows[np.argsort(distances(self, seen, encoder)[rows], kind="stable")[:_NOISE_ROWS]]
        if len(rows) < LEAST_ROWS or not compared.any():
            return self
        noise, x = self.noise.copy(), self.x[rows][:, compared]
        noise[compared] = Regression.fit(self.z[rows], x, np.ones(len(rows))).one_seed().numpy()
        return replace(self, noise=noise)

    def nearest_of_each(self, distance: np.ndarray) -> np.ndarray:
        """One row of each family, that of the smallest distance (n,), the nearest first."""
        order = np.argsort(distance, kind="stable")
        return np.asarray(order[np.sort(np.unique(self.family[order], return_index=True)[1])])

    def variance(self) -> tuple[np.ndarray, np.ndarray]:
        """(F,) from seed to seed, of a typical configuration, and degrees of freedom: too few are none.

        The mean is of logarithms, less what these are expected to be too small by: some configurations vary ten times
        as much as most others do.
        """
        freedom = self.freedom.sum(0)
        counted = np.where(freedom >= _ENOUGH, np.minimum(freedom, _MOST), 0.0)
        several = np.maximum(self.freedom, 1)
        least = SMALLEST_OF_SEEDS**2
        log = np.log(np.maximum(self.squares / several, least)) - digamma(several / 2) + np.log(several / 2)
        mean = (self.freedom * log).sum(0) / np.maximum(freedom, 1)
        return np.where(freedom > 0, np.exp(mean), 0.0), counted


def unit_of_a_difference(
    known: Known, seen: WindowedFeatures, encoder: FeatureEncoder
) -> tuple[np.ndarray, np.ndarray]:
    """(F,) what an observation shows, scaled, and the unit in which single simulations differ from it.

    The standard deviation of a single window about the mean of all: what one simulation of the circuit behind the
    recording would show. A recording of fewer than three windows does not tell how features vary: there the unit is
    that of configurations with several seeds, and where there are none `Known.noise`.
    """
    windows, there = encoder.scaled(seen.window_values, seen.window_states), seen.window_states == DEFINED
    squares, freedom = deviations(windows, there)
    m, (lent, lends) = np.maximum(there.sum(0), 1), known.variance()
    target = np.where(there, windows, 0.0).sum(0) / m
    short, unknown = freedom + 1 < LEAST_WINDOWS, lends == 0
    variance = np.where(short, lent, squares / np.maximum(freedom, 1))
    unit = np.sqrt(np.where(short & unknown, known.noise, variance) * (1.0 + 1.0 / m))
    return target, np.maximum(unit, np.where(short & ~unknown, SMALLEST_OF_SEEDS, SMALLEST))


def differences_in_sd(known: Known, seen: WindowedFeatures, encoder: FeatureEncoder) -> np.ndarray:
    """Differences of simulations from an observation: (n, f) over the f features that the observation defines.

    In the unit of `unit_of_a_difference`. At most 30, which is also what counts where a simulation does not define a
    feature.
    """
    target, unit = unit_of_a_difference(known, seen, encoder)
    away = np.minimum(np.abs(known.x - target) / unit, _FAR)
    return np.asarray(np.where(known.defined, away, _FAR)[:, seen.states == DEFINED])


def lacking(seen: WindowedFeatures) -> np.ndarray:
    """(F,) bool: features that no window of the observation has, though they were looked for."""
    return np.asarray((seen.window_states == UNDEFINED).all(0))


def distances(known: Known, seen: WindowedFeatures, encoder: FeatureEncoder) -> np.ndarray:
    """How far simulations lie from an observation: (n,).

    The root mean square of `differences_in_sd`, and half of the largest: a configuration is verified or not by the
    feature that differs most. And three times the share that a simulation defines of what the observation lacks.
    """
    away, without = differences_in_sd(known, seen, encoder), known.defined[:, lacking(seen)]
    found = _TOO_MANY * without.mean(1) if without.shape[1] else np.zeros(len(known.z))
    return np.asarray(found + np.sqrt((away**2).mean(1)) + 0.5 * away.max(1) if away.shape[1] else found)


def reach(known: Known, seen: WindowedFeatures, encoder: FeatureEncoder, names: Sequence[str], bound: float) -> str:
    """One line: how many simulations agree with a recording in every feature it defines, or what keeps the nearest out.

    Empty for a recording of fewer than three windows, which does not tell how features vary.
    """
    away = differences_in_sd(known, seen, encoder)
    if seen.n_windows < LEAST_WINDOWS or not away.size:
        return ""
    worst = away.max(1)
    agree, nearest = int((worst <= bound).sum()), int(worst.argmin())
    if agree:
        return f"{agree} of {len(worst)} simulations of the table lie within {bound:.1f} sd of it in every feature"
    name = np.array(names)[seen.states == DEFINED][away[nearest].argmax()]
    return (f"no simulation of the table lies within {bound:.1f} sd of it in every feature, the nearest is "
            f"{worst[nearest]:.1f} away in {name}: it may be {OUT_OF_REACH}")  # fmt: skip
