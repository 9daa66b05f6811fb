"""Subspaces of different recordings: how far apart, at what angle, and what repeated recordings of one circuit give.

Without the null no distance means anything: two recordings of one circuit differ too, and so do their posteriors.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import cdist

from sbi_circuits.errors import InferenceError
from sbi_circuits.features import DEFINED, WindowedFeatures
from sbi_circuits.features.states import FeatureValues, summarise
from sbi_circuits.inference import Posterior
from sbi_circuits.seeds import stream_key
from sbi_circuits.subspace.density import LIMIT
from sbi_circuits.subspace.local import LocalGeometry, local_geometry, pooled, principal_angles, ridge
from sbi_circuits.subspace.resimulate import Resimulated

_ON_RIDGE = 16  # draws at which the tangent spaces of an observation are measured


@dataclass(frozen=True, eq=False)
class Portrait:
    """The subspace of one observation, as far as it is compared.

    Args:
        z: (n, P) posterior draws, unbounded coordinates.
        geometry: average information over some of them.
    """

    z: np.ndarray
    geometry: LocalGeometry


@dataclass(frozen=True, eq=False)
class Comparison:
    """Distances and angles between the subspaces of N observations.

    Args:
        names: (N,) of the observations.
        distance: (N, N) energy distance between posterior draws, prior-scaled.
        angle: (N, N) mean principal angle between the k stiffest directions, radians.
        null_distance, null_angle: (M,) the same between repeated observations of one configuration each.
        stiff: k.
    """

    names: tuple[str, ...]
    distance: np.ndarray
    angle: np.ndarray
    null_distance: np.ndarray
    null_angle: np.ndarray
    stiff: int

    def p_value(self, what: str = "distance") -> np.ndarray:
        """(N, N) share of the null that is as large ("distance" or "angle"); 1 on the diagonal."""
        found, null = (self.distance, self.null_distance) if what == "distance" else (self.angle, self.null_angle)
        p = (1 + (null[None, None] >= found[..., None]).sum(-1)) / (1 + len(null))
        np.fill_diagonal(p, 1.0)
        return np.asarray(p)

    def summary(self) -> str:
        """One line a pair."""
        by_distance, by_angle, lines = self.p_value(), self.p_value("angle"), []
        for i, j in zip(*np.triu_indices(len(self.names), 1), strict=True):
            lines.append(
                f"{self.names[i]} - {self.names[j]}: distance {self.distance[i, j]:.2f} (p {by_distance[i, j]:.2g}), "
                f"angle {np.degrees(self.angle[i, j]):.0f} degrees (p {by_angle[i, j]:.2g})"
            )
        null = f"{np.median(self.null_distance):.2f} and {np.degrees(np.median(self.null_angle)):.0f} degrees"
        return "\n".join([*lines, f"repeated observations of one configuration: {null} (median of "
                                  f"{len(self.null_distance)} pairs)"])  # fmt: skip


def portrait(posterior: Posterior, x: object, n: int = 500, seed: int = 0) -> Portrait:
    """n posterior draws of an observation and the average information of the data along them."""
    density = posterior(x)
    z = np.clip(posterior.prior.unconstrain(density.sample(n, seed)), -LIMIT, LIMIT)
    return Portrait(z, pooled(local_geometry(density, ridge(density, z[:_ON_RIDGE], steps=3))))


def compare_subspaces(
    posterior: Posterior, observations: dict[str, WindowedFeatures], repeats: Resimulated, *, stiff: int = 3,
    windows: int = 1, most: int = 12, seed: int = 0,
) -> Comparison:
    """Distances and angles between the subspaces of observations, with their null.

    Args:
        posterior: that answers for all of them.
        observations: name -> features, two or more.
        repeats: simulations of configurations with several seeds each, such as `members_of(ensemble)`; each gives
            two observations of `windows` seeds.
        stiff: directions that are compared; how many of them the data inform.
        windows: simulations that make up one repeated observation, as windows make up a recording.
        most: configurations of the null.
        seed: of the draws.

    Raises:
        InferenceError: fewer than two observations, or too few repeats for the null.
    """
    if len(observations) < 2:
        raise InferenceError(f"comparing subspaces needs two observations or more, got {len(observations)}")
    if not 1 <= stiff <= len(posterior.prior):
        raise InferenceError(f"cannot compare {stiff} directions; valid: 1 to {len(posterior.prior)}")
    found = [portrait(posterior, x, seed=stream_key(seed, k) % 2**62) for k, x in enumerate(observations.values())]
    pairs = []
    for k, both in enumerate(_repeated(repeats, windows)[:most]):
        a, b = (portrait(posterior, x, seed=stream_key(seed, "null", k, half) % 2**62) for half, x in enumerate(both))
        pairs.append((a, b))
    n = len(found)
    distance, angle = np.zeros((2, n, n))
    for i in range(n):
        for j in range(i):
            distance[i, j] = distance[j, i] = energy_distance(found[i].z, found[j].z)
            angle[i, j] = angle[j, i] = stiff_angle(found[i], found[j], stiff)
    return Comparison(
        names=tuple(observations), distance=distance, angle=angle, stiff=stiff,
        null_distance=np.array([energy_distance(a.z, b.z) for a, b in pairs]),
        null_angle=np.array([stiff_angle(a, b, stiff) for a, b in pairs]),
    )  # fmt: skip


def energy_distance(a: np.ndarray, b: np.ndarray) -> float:
    """sqrt(2 E|a - b| - E|a - a'| - E|b - b'|) of samples (n, P) and (m, P); Szekely & Rizzo 2013, eq. 2.

    Examples:
        >>> random = np.random.default_rng(0)
        >>> a, b = random.standard_normal((2, 500, 2))
        >>> energy_distance(a, b) < 0.2 < energy_distance(a, b + 1.0)
        True
    """
    within = [_mean_apart(x) for x in (a, b)]
    return float(np.sqrt(max(2.0 * cdist(a, b).mean() - sum(within), 0.0)))


def _mean_apart(x: np.ndarray) -> float:
    """Mean distance of different points: without the zeros of each to itself, so that equal laws give 0."""
    return float(cdist(x, x).sum() / (len(x) * (len(x) - 1)))


def stiff_angle(a: Portrait, b: Portrait, stiff: int) -> float:
    """Mean principal angle, radians, between the `stiff` stiffest directions of two portraits."""
    bases = [p.geometry.directions[0, :stiff] for p in (a, b)]
    return float(principal_angles(bases[0], bases[1]).mean())


def _repeated(repeats: Resimulated, windows: int) -> list[tuple[WindowedFeatures, WindowedFeatures]]:
    """Two observations of each configuration whose simulations ran to the end."""
    n = repeats.values.shape[1]
    if 2 * windows > n:
        raise InferenceError(f"two observations of {windows} simulations need {2 * windows} seeds each, got {n}")
    kept = np.flatnonzero(repeats.ok[:, : 2 * windows].all(1) & (repeats.states == DEFINED).any((1, 2)))
    if not len(kept):
        raise InferenceError("no configuration ran to the end twice; there is nothing to take the null from")
    return [(_observed(repeats, k, range(windows)), _observed(repeats, k, range(windows, 2 * windows))) for k in kept]


def _observed(repeats: Resimulated, k: int, seeds: Sequence[int]) -> WindowedFeatures:
    return summarise([FeatureValues(repeats.values[k, r], repeats.states[k, r]) for r in seeds])
