"""Proof by simulation: features along sloppy directions stay, along stiff ones of the same length they do not."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sbi_circuits.ensemble import Ensemble
from sbi_circuits.errors import InferenceError
from sbi_circuits.subspace.density import LIMIT, unbounded
from sbi_circuits.subspace.paths import Paths, Walks
from sbi_circuits.subspace.resimulate import (
    FeatureChange,
    Resimulated,
    Runner,
    feature_change,
    judged,
    members_of,
    resimulate_like,
    variability,
)

WITHIN = 2.0  # seed-to-seed standard deviations


@dataclass(frozen=True, eq=False)
class DirectionProof:
    """Feature changes of K members along named directions, by the length of the move.

    Args:
        names: (D,) of the directions, such as "sloppy" and "stiff".
        length: (L,) of the moves, prior-scaled.
        changes: (D, L) each of K members against themselves unmoved.
    """

    names: tuple[str, ...]
    length: np.ndarray
    changes: tuple[tuple[FeatureChange, ...], ...]

    def typical(self, name: str) -> np.ndarray:
        """(L,) typical change along a direction, seed-to-seed standard deviations; see `FeatureChange.typical`."""
        return np.array([c.typical for c in self.changes[self.names.index(name)]])

    def failures(self, name: str) -> np.ndarray:
        """(L,) share of members whose change could not be measured."""
        return np.array([c.failure_rate for c in self.changes[self.names.index(name)]])

    def ratio(self, stiff: str = "stiff", sloppy: str = "sloppy", least: float = 0.1) -> np.ndarray:
        """(L,) typical change along one direction over that along another, which counts as `least` at the least."""
        return self.typical(stiff) / np.maximum(self.typical(sloppy), least)

    def summary(self) -> str:
        """One line a direction."""
        lines = []
        for name, changes in zip(self.names, self.changes, strict=True):
            parts = [f"{c.typical:.2f} at {length:g}" for c, length in zip(changes, self.length, strict=True)]
            failed = float(np.mean([c.failure_rate for c in changes]))
            lines.append(f"{name}: feature change {', '.join(parts)} prior sd ({failed:.0%} failed)")
        return "\n".join(lines)


@dataclass(frozen=True, eq=False)
class PointProof:
    """Feature changes at B x S points of paths or walks, and which points agree with the observation.

    Args:
        change: (B * S) points against their reference.
        verified: (B, S) bool, by the ensemble's own rule.
        counted: (B, S) bool: points that are not part of their own reference.
        runs: the simulations.
    """

    change: FeatureChange
    verified: np.ndarray
    counted: np.ndarray
    runs: Resimulated

    @property
    def size(self) -> np.ndarray:
        """(B, S) feature change, seed-to-seed standard deviations; infinite where it failed."""
        return self.change.size.reshape(self.verified.shape)

    @property
    def moved(self) -> FeatureChange:
        """The changes that count."""
        return self.change[self.counted.ravel()]

    @property
    def failure_rate(self) -> float:
        return self.moved.failure_rate

    def summary(self, what: str) -> str:
        """One line."""
        moved, verified = self.moved, self.verified[self.counted]
        share = f"{moved.within(WITHIN):.0%} of {len(moved.size)} points within {WITHIN:g} seed-to-seed sd"
        return (f"{what}: {share} (median {np.median(moved.size):.2f}), {verified.mean():.0%} verified, "
                f"{moved.failure_rate:.0%} failed")  # fmt: skip


def prove_directions(
    ensemble: Ensemble, chosen: np.ndarray, directions: dict[str, np.ndarray], lengths: Sequence[float], runner: Runner
) -> DirectionProof:
    """Move members along directions, simulate them there and where they were, and compare.

    Args:
        ensemble: whose members move.
        chosen: (K,) numbers among the verified members.
        directions: name -> (P,) or (K, P) unit vectors, prior-scaled.
        lengths: of the moves; each member goes forth or back, whichever stays farther from the bounds of the prior.
        runner: how to simulate; the unmoved members use the same number of seeds.

    Raises:
        InferenceError: no directions or lengths.
    """
    if not directions or not len(lengths):
        raise InferenceError("a proof needs at least one direction and one length")
    z = unbounded(ensemble.prior, ensemble.members[chosen])
    moved = []
    for unit in directions.values():
        unit = np.broadcast_to(unit, z.shape)
        farthest = max(lengths) * unit
        sign = np.where(np.abs(z + farthest).max(1) <= np.abs(z - farthest).max(1), 1.0, -1.0)[:, None]
        moved += [np.clip(z + sign * length * unit, -LIMIT, LIMIT) for length in lengths]
    runs = resimulate_like(ensemble, ensemble.prior.constrain(np.concatenate([z, *moved])), runner)
    k, unit_ = len(z), feature_unit(ensemble)
    changes = [_compared(ensemble, runs[:k], runs[k * (m + 1) : k * (m + 2)], unit_) for m in range(len(moved))]
    rows = [tuple(changes[d * len(lengths) : (d + 1) * len(lengths)]) for d in range(len(directions))]
    return DirectionProof(tuple(directions), np.asarray(lengths, dtype=float), tuple(rows))


def prove_paths(ensemble: Ensemble, paths: Paths, runner: Runner) -> PointProof:
    """Simulate every point of paths; the reference of each is the mean of its path's ends, which do not count."""
    rows, points = paths.z.shape[:2]
    runs = resimulate_like(ensemble, paths.theta.reshape(rows * points, -1), runner)
    counted = np.ones((rows, points), dtype=bool)
    counted[:, [0, -1]] = False
    ends = np.arange(rows)[:, None] * points + [0, points - 1]
    return _points(ensemble, runs, _together(runs, ends), counted)


def prove_walks(ensemble: Ensemble, walks: Walks, runner: Runner) -> PointProof:
    """Simulate every point of walks; the reference is where each began, which does not count."""
    rows, points = walks.z.shape[:2]
    runs = resimulate_like(ensemble, walks.theta.reshape(rows * points, -1), runner)
    counted = np.ones((rows, points), dtype=bool)
    counted[:, 0] = False
    return _points(ensemble, runs, runs[np.arange(rows) * points], counted)


def prove_draws(ensemble: Ensemble, theta: np.ndarray, runner: Runner) -> PointProof:
    """Simulate configurations (n, P), declared units, such as conditional draws, against the members' mean."""
    runs = resimulate_like(ensemble, theta, runner)
    known = members_of(ensemble)
    reference = _together(known, np.arange(len(known))[None])
    return _points(ensemble, runs, reference, np.ones((1, len(runs)), dtype=bool))


def feature_unit(ensemble: Ensemble) -> np.ndarray:
    """(F,) seed-to-seed standard deviation over the members, scaled features."""
    return variability(members_of(ensemble), ensemble.observation.states, ensemble.encoder)


def _points(ensemble: Ensemble, runs: Resimulated, references: Resimulated, counted: np.ndarray) -> PointProof:
    each = references[np.repeat(np.arange(len(references)), counted.shape[1])]
    change = _compared(ensemble, each, runs, feature_unit(ensemble))
    return PointProof(change, judged(ensemble, runs).verified.reshape(counted.shape), counted, runs)


def _compared(ensemble: Ensemble, reference: Resimulated, changed: Resimulated, unit: np.ndarray) -> FeatureChange:
    observed = ensemble.observation.states
    return feature_change(reference, changed, unit, ensemble.encoder, ensemble.feature_set.names, observed)


def _together(runs: Resimulated, groups: np.ndarray) -> Resimulated:
    """Configurations of each row of groups (G, K) as one, with the seeds of all."""
    repeats = groups.shape[1] * runs.values.shape[1]
    values, states = (x[groups].reshape(len(groups), repeats, -1) for x in (runs.values, runs.states))
    return Resimulated(runs.theta[groups].mean(1), values, states, runs.outcomes[groups].reshape(len(groups), repeats))
