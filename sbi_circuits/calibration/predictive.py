"""Posterior predictive check: do configurations drawn from the posterior, simulated again, look like the observation?

The observation has been used twice, once for the posterior and once here, so these p-values are larger than uniform
ones under a right model (Meng 1994, Ann Stat 22:1142): a small one is evidence, a large one is none. They are ranks
among the simulations; beyond all of them, where a rank could say no more than 1 / (simulations + 1), the tail of
Student's t over the scaled features continues them.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import t as student

from sbi_circuits.calibration.uniform import conformal_p, holm
from sbi_circuits.ensemble import Ensemble
from sbi_circuits.errors import InferenceError
from sbi_circuits.features import DEFINED, UNDEFINED, UNOBSERVED
from sbi_circuits.inference.encode import FeatureEncoder

_APART = 2.0
_MIN_SIMULATIONS = 10
_CENTRAL = (0.05, 0.5, 0.95)


@dataclass(frozen=True, eq=False)
class PredictiveCheck:
    """The observation among re-simulated posterior draws, feature by feature and as a whole.

    Args:
        names, units: (f,) of the observed features.
        observed: (f,) values, NaN where undefined.
        quantiles: (3, f) 5 %, 50 % and 95 % of the defined values of the simulations; NaN where there are none.
        defined: (f,) share of the simulations in which the feature is defined.
        p_values: (f,) two-sided, or of the state where the feature is undefined.
        p_joint: of the distance of the observation from the cloud of simulations.
        simulations: how many ran to their end.
        ended: share of the draws that did not (silent, saturated, ...).
    """

    names: tuple[str, ...]
    units: tuple[str, ...]
    observed: np.ndarray
    quantiles: np.ndarray
    defined: np.ndarray
    p_values: np.ndarray
    p_joint: float
    simulations: int
    ended: float

    def failing(self, level: float = 0.05) -> tuple[str, ...]:
        """Features that disagree at that level over all features together (Holm), the worst first."""
        adjusted = holm(self.p_values)
        order = np.argsort(self.p_values, kind="stable")
        return tuple(self.names[k] for k in order if adjusted[k] <= level)

    def agrees(self, level: float = 0.05) -> bool:
        """Whether neither a feature nor the whole disagrees; each of the two questions gets half of the level."""
        return not self.failing(level / 2) and self.p_joint > level / 2

    def summary(self) -> str:
        """One line for people."""
        failing = ", ".join(self.failing()[:4]) or "no feature"
        ended = f", {self.ended:.0%} of the draws ended early" if self.ended else ""
        return (f"posterior predictive: {failing} out of range, all features together p {self.p_joint:.2g} "
                f"({self.simulations} simulations{ended})")  # fmt: skip


def predictive_check(
    x: Any, values: np.ndarray, states: np.ndarray, ok: np.ndarray, encoder: FeatureEncoder,
    names: tuple[str, ...], units: tuple[str, ...] = (),
) -> PredictiveCheck:  # fmt: skip
    """Compare an observation with simulations of posterior draws.

    Args:
        x: the observation, with `values` and `states` (F,), or a pair of them.
        values, states: (M, F) features of one simulation of each draw.
        ok: (M,) bool, which ran to their end.
        encoder: feature scales.
        names, units: (F,) of the features.

    Raises:
        InferenceError: fewer than 10 simulations that ran to their end, or nothing observed.
    """
    own, own_states = (np.asarray(a) for a in (x if isinstance(x, tuple) else (x.values, x.states)))
    measured = ~(states[ok] == UNOBSERVED).all(0) if ok.any() else np.zeros(len(names), dtype=bool)
    seen = np.flatnonzero((own_states != UNOBSERVED) & measured)
    if ok.sum() < _MIN_SIMULATIONS or not len(seen):
        raise InferenceError(f"a predictive check needs {_MIN_SIMULATIONS} simulations that ran to their end and an "
                             f"observed feature, got {int(ok.sum())} and {len(seen)}")  # fmt: skip
    values, states = values[ok][:, seen], states[ok][:, seen]
    every = [np.zeros(len(names)), np.full(len(names), UNOBSERVED)]
    full = [np.tile(e, (len(values) + 1, 1)) for e in every]
    full[0][:, seen] = np.vstack([own[seen], values])
    full[1][:, seen] = np.vstack([own_states[seen], states])
    scaled = encoder.scaled(*full)
    points = np.hstack([scaled, _APART * (full[1] == UNDEFINED)])
    quantiles, defined, p = zip(*(_feature(v, s, z) for v, s, z in zip(
        full[0][:, seen].T, full[1][:, seen].T, scaled[:, seen].T, strict=True)), strict=True)  # fmt: skip
    return PredictiveCheck(
        tuple(names[j] for j in seen), tuple(units[j] if units else "1" for j in seen),
        np.where(own_states[seen] == DEFINED, own[seen], np.nan), np.array(quantiles).T, np.array(defined),
        np.array(p), _joint(points), len(values), float(1 - ok.mean()),
    )  # fmt: skip


def predictive_of(ensemble: Ensemble) -> PredictiveCheck:
    """The check of an ensemble, which has simulated all its draws, verified or not: the first seed of each."""
    return predictive_check(
        ensemble.observation, ensemble.values[:, 0], ensemble.states[:, 0], ensemble.outcomes[:, 0] == "ok",
        ensemble.encoder, ensemble.feature_set.names, ensemble.feature_set.units,
    )  # fmt: skip


def _feature(values: np.ndarray, states: np.ndarray, scaled: np.ndarray) -> tuple[np.ndarray, float, float]:
    """(3,) quantiles, share defined, and p-value of one feature; the observation comes first."""
    held, total = states[1:] == DEFINED, len(states)
    found, defined = values[1:][held], float(held.mean())
    quantiles = np.quantile(found, _CENTRAL) if len(found) else np.full(3, np.nan)
    if states[0] != DEFINED:
        return quantiles, defined, (1 + int((states[1:] == states[0]).sum())) / total
    # Undefined values are beyond both ends: a feature that is rarely defined is odd by being defined at all.
    sides = [1 + int((found <= values[0]).sum()), 1 + int((found >= values[0]).sum())]
    p = 2 * min(sides) / total
    if min(sides) == 1:
        p = min(p, 2 * _beyond(abs(scaled[0] - scaled[1:][held].mean()), scaled[1:][held]) if held.sum() > 2 else p)
    return quantiles, defined, min(1.0, p)


def _beyond(away: float, usual: np.ndarray) -> float:
    """Tail of Student's t at a distance from the mean of `usual`, of which it is one more draw."""
    spread = max(float(usual.std(ddof=1)), 1e-9) * np.sqrt(1 + 1 / len(usual))
    return float(student.sf(away / spread, len(usual) - 1))


def _joint(points: np.ndarray) -> float:
    """p-value of the first of the rows (n, d) by its Mahalanobis distance from the others, each from the others."""
    n, d = points.shape
    centre = points.mean(0)
    centred = points - centre
    covariance = centred.T @ centred / n
    floor = max(0.01, d / (n + d)) * max(float(np.trace(covariance)) / d, 1e-12)
    distances = np.einsum("nd,de,ne->n", centred, np.linalg.inv(covariance + floor * np.eye(d)), centred)
    p = conformal_p(float(distances[0]), distances[1:])
    if distances[0] <= distances[1:].max():
        return p
    logs = np.log(np.maximum(distances, 1e-12))
    return min(p, _beyond(logs[0] - logs[1:].mean(), logs[1:]))
