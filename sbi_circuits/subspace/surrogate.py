"""A local surrogate of the circuit: features as functions of the configuration, learned near a set.

Every configuration that was simulated teaches, the rejected ones included, and what it teaches is local, where the
posterior had to learn all dynamics at once. It proposes configurations, finds paths and measures directions; what it
says of agreement is never taken for a verification.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from sbi_circuits.ensemble import Ensemble
from sbi_circuits.errors import InferenceError
from sbi_circuits.features import DEFINED
from sbi_circuits.inference import TrainingData
from sbi_circuits.prior import Prior
from sbi_circuits.regression import Regression, log_chance
from sbi_circuits.subspace.density import Density, unbounded
from sbi_circuits.subspace.resimulate import SCREENED, feature_unit

_ROWS = 800  # nearest the members, that are learned from
_LEAST = 10
_MARGIN = 0.75  # of the bound: its units shift as an ensemble grows, and members on the edge would fall out again
_SURE = 0.05  # least probability to show all features that is believed


@dataclass(frozen=True, eq=False)
class Surrogate:
    """What simulations near a set say of configurations that were not simulated.

    Args:
        features: the F' features that the observation defines, scaled; whole: whether all of them are defined, over
            the share of the recording's windows where they are.
        target, unit, spread: (F',) of the observation, from seed to seed, and of the difference that the rule judges.
        bound: of the rule, in spreads; repeats: its seeds.
    """

    features: Regression
    whole: Regression
    target: np.ndarray
    unit: np.ndarray
    spread: np.ndarray
    bound: float
    repeats: int

    def probability(self, z: np.ndarray) -> np.ndarray:
        """(m,) how likely configurations z (m, P) are to be verified with some room; features count as independent."""
        points = torch.as_tensor(np.asarray(z, dtype=float))
        off, known = self.features.mean(points).numpy() - self.target, self.features.variance(points).numpy()
        sd = np.sqrt(known + self.features.one_seed().numpy() / self.repeats)
        return np.exp(log_chance(self.whole, z, off, sd, _MARGIN * self.bound * self.spread))

    def away(self, z: np.ndarray) -> np.ndarray:
        """(m,) expected mean square difference of the features from the observation, squared seed-to-seed units."""
        points = torch.as_tensor(np.asarray(z, dtype=float))
        mean, known = self.features.mean(points).numpy() - self.target, self.features.variance(points).numpy()
        return np.asarray(((mean**2 + known) / self.unit**2).mean(1))

    def log_likelihood(self, z: Tensor) -> Tensor:
        """(m,) expected of one simulation of z (m, P) at the observation, up to a constant; differentiable.

        What is not known counts against z, and so does the probability to lack a feature: a path keeps to where
        something was simulated and had them all.
        """
        unit, target = torch.as_tensor(self.unit), torch.as_tensor(self.target)
        off = ((self.features.mean(z) - target).square() + self.features.variance(z)) / unit**2
        return -0.5 * off.sum(1) + self.whole.mean(z)[:, 0].clamp(_SURE, 1.0).log()

    def towards(self, z: np.ndarray) -> "Surrogate":
        """The same, with what it expects of configurations z (m, P) on average in place of the observation."""
        return replace(self, target=self.features.mean(torch.as_tensor(np.asarray(z, dtype=float))).numpy().mean(0))

    def information(self, z: np.ndarray) -> np.ndarray:
        """(m, P, P) that one simulation holds about z (m, P), in units of the prior's information."""
        points = torch.as_tensor(np.asarray(z, dtype=float))
        return np.asarray(self.features.squared_slopes(points, torch.as_tensor(self.unit)).numpy())


@dataclass(frozen=True, eq=False)
class Refined:
    """A posterior times the surrogate's likelihood of the observation: a `Density` that knows the set's surroundings.

    It is sharper than the posterior, as both have seen the observation; it finds paths and directions, and is no
    posterior to draw from: `sample` are the posterior's draws.
    """

    density: Density
    surrogate: Surrogate

    @property
    def prior(self) -> Prior:
        return self.density.prior

    def sample(self, n: int, seed: int) -> np.ndarray:
        """(n, P) draws of the posterior alone, declared units."""
        return self.density.sample(n, seed)

    def log_prob_z(self, z: Tensor) -> Tensor:
        """(n,) of z (n, P), up to a constant."""
        return self.density.log_prob_z(z) + self.surrogate.log_likelihood(z)


def learn(
    ensemble: Ensemble, known: TrainingData | None = None, before: Surrogate | None = None
) -> Surrogate | None:
    """The surrogate near an ensemble's members; None where fewer than ten configurations ran with all features.

    Args:
        ensemble: every configuration of it teaches, verified or not.
        known: simulations made already, of the same circuit and features, such as those of the posterior's table.
        before: of an earlier state of the ensemble, whose lengths are a good start.

    Raises:
        InferenceError: simulations of other features or parameters.
    """
    seen, unit = ensemble.observation.states == DEFINED, ensemble.judgement.unit
    rows = _rows(ensemble, seen)
    if known is not None:
        rows = tuple(np.concatenate(both) for both in zip(rows, _known(ensemble, known, seen), strict=True))
    z, x, share, seeds = rows
    near = np.argsort(_from_members(ensemble, z), kind="stable")
    full = near[share[near] > 0][:_ROWS]
    if len(full) < _LEAST:
        return None
    any_, common = near[:_ROWS], (ensemble.observation.window_states == DEFINED)[:, seen].all(1).mean()
    target = ensemble.encoder.scaled(ensemble.observation.values, ensemble.observation.states)[seen]
    repeats = ensemble.values.shape[1]
    old = (None, None) if before is None else (before.features, before.whole)
    return Surrogate(
        features=Regression.fit(z[full], x[full], seeds[full] * share[full], old[0]),
        whole=Regression.fit(z[any_], share[any_, None] / max(common, 0.1), seeds[any_], old[1]),
        target=target, unit=feature_unit(ensemble)[seen], bound=ensemble.judgement.bound, repeats=repeats,
        spread=np.sqrt(unit**2 / repeats + ensemble.judgement.error**2)[seen],
    )  # fmt: skip


def _rows(ensemble: Ensemble, seen: np.ndarray) -> tuple[np.ndarray, ...]:
    """z (M, P), mean scaled features (M, F'), share of the seeds that define all, seeds (M,) that were simulated."""
    ok = ensemble.outcomes == "ok"
    whole = ok & (ensemble.states == DEFINED)[:, :, seen].all(2)
    x = ensemble.encoder.scaled(ensemble.values, ensemble.states)[:, :, seen]
    count = whole.sum(1)
    mean = np.where(whole[:, :, None], x, 0.0).sum(1) / np.maximum(count, 1)[:, None]
    made = np.maximum((ensemble.outcomes != SCREENED).sum(1), 1)
    return unbounded(ensemble.prior, ensemble.theta), mean, count / made, made.astype(float)


def _known(ensemble: Ensemble, known: TrainingData, seen: np.ndarray) -> tuple[np.ndarray, ...]:
    if known.feature_names != ensemble.feature_set.names or known.prior.names != ensemble.prior.names:
        raise InferenceError("simulations to learn from have other features or parameters than the ensemble")
    low, high = np.array([(p.low, p.high) for p in ensemble.prior.parameters]).T
    inside = ((known.theta >= low) & (known.theta <= high)).all(1)
    states = np.asarray(known.states[np.flatnonzero(inside)])
    x = ensemble.encoder.scaled(known.values[inside], states)[:, seen]
    whole = (states[:, seen] == DEFINED).all(1).astype(float)
    return unbounded(ensemble.prior, known.theta[inside]), x, whole, np.ones(len(x))


def _from_members(ensemble: Ensemble, z: np.ndarray) -> np.ndarray:
    """Distance (n,) of z (n, P) from the nearest member; from the nearest configuration where none is verified."""
    some = ensemble.members if ensemble.verified.any() else ensemble.theta
    return np.asarray(cKDTree(unbounded(ensemble.prior, some)).query(z)[0])
