"""Proof by simulation: features along sloppy directions stay, along stiff ones of the same length they do not."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from sbi_circuits.ensemble import Ensemble
from sbi_circuits.errors import InferenceError
from sbi_circuits.seeds import generator, stream_key
from sbi_circuits.subspace.density import LIMIT, unbounded
from sbi_circuits.subspace.paths import Paths, Walks
from sbi_circuits.subspace.resimulate import (
    FeatureChange,
    Resimulated,
    Runner,
    feature_change,
    feature_unit,
    judged,
    members_of,
    resimulate_like,
)

WITHIN = 2.0  # seed-to-seed standard deviations
REFERENCE = 8  # seeds of each configuration that others are compared with


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
        """(L,) typical change along one direction over that along another, which counts as `least` at the least.

        Failures make the ratio smaller: those along the first, such as a network that fell silent, are left out,
        and those along the second count as infinite change.
        """
        changed = self.changes[self.names.index(stiff)]
        return np.array([c.measured.typical for c in changed]) / np.maximum(self.typical(sloppy), least)

    def summary(self) -> str:
        """One line a direction."""
        lines = []
        for name, changes in zip(self.names, self.changes, strict=True):
            parts = [f"{c.measured.typical:.2f} at {length:g} ({c.failure_rate:.0%} failed)"
                     for c, length in zip(changes, self.length, strict=True)]  # fmt: skip
            lines.append(f"{name}: feature change {', '.join(parts)} prior sd")
        if {"stiff", "sloppy"} <= set(self.names):
            lines.append(f"stiff over sloppy: {', '.join(f'{r:.1f}' for r in self.ratio())}")
        return "\n".join(lines)


@dataclass(frozen=True, eq=False)
class PointProof:
    """Feature changes at B x S points of paths or walks, and which points agree with the observation.

    Args:
        change: (B * S) points against their reference.
        verified: (B, S) bool, by the ensemble's own rule.
        counted: (B, S) bool: points that are not where the reference was taken.
        runs: the simulations; reference: (B) of what the points of each row are compared with.
        recording: (B * S) points against the windows of the recording.
    """

    change: FeatureChange
    verified: np.ndarray
    counted: np.ndarray
    runs: Resimulated
    reference: Resimulated
    recording: FeatureChange

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
        seen = self.recording[self.counted.ravel()]
        share = f"{moved.within(WITHIN):.0%} of {len(moved.size)} points within {WITHIN:g} seed-to-seed sd"
        return (f"{what}: {share} (median {np.median(moved.size):.2f}), {seen.within(WITHIN):.0%} of the recording, "
                f"{verified.mean():.0%} verified, {moved.failure_rate:.0%} failed{self._again()}")  # fmt: skip

    def _again(self) -> str:
        """How many of the members where the references were taken agree with the observation once more."""
        again = self.verified[~self.counted]
        return f"; {int(again.sum())} of {len(again)} members verified again by new seeds" if len(again) else ""


def prove_directions(
    ensemble: Ensemble, chosen: np.ndarray, directions: dict[str, np.ndarray], lengths: Sequence[float], runner: Runner,
    seeds: int = REFERENCE,
) -> DirectionProof:  # fmt: skip
    """Move members along directions, simulate them there and where they were, and compare.

    Args:
        ensemble: whose members move.
        chosen: (K,) numbers among the verified members.
        directions: name -> (P,) or (K, P) unit vectors, prior-scaled.
        lengths: of the moves; each member goes forth or back, whichever stays farther from the bounds of the prior.
        runner: how to simulate; seeds: of the unmoved members.

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
    still = resimulate_like(ensemble, ensemble.prior.constrain(z), _reference(runner, seeds))
    runs = resimulate_like(ensemble, ensemble.prior.constrain(np.concatenate(moved)), runner)
    k, unit_ = len(z), feature_unit(ensemble)
    changes = [_compared(ensemble, still, runs[k * m : k * (m + 1)], unit_) for m in range(len(moved))]
    rows = [tuple(changes[d * len(lengths) : (d + 1) * len(lengths)]) for d in range(len(directions))]
    return DirectionProof(tuple(directions), np.asarray(lengths, dtype=float), tuple(rows))


def prove_paths(ensemble: Ensemble, paths: Paths, runner: Runner, seeds: int = REFERENCE) -> PointProof:
    """Simulate every point of paths and compare it with the path's ends.

    The reference of a path is the mean of its two ends, each simulated `seeds` times for this alone. A point stays
    where the root mean square difference of its mean features from the reference's, over the features that the
    observation defines and in units of `feature_unit`, is at most WITHIN: the seeds' own noise, of point and
    reference, is left in, which makes points look farther than they are. A point that loses a feature or ends early
    does not stay. The ends do not count.
    """
    rows, points = paths.z.shape[:2]
    ends = resimulate_like(ensemble, paths.theta[:, [0, -1]].reshape(2 * rows, -1), _reference(runner, seeds))
    runs = resimulate_like(ensemble, paths.theta.reshape(rows * points, -1), runner)
    counted = np.ones((rows, points), dtype=bool)
    counted[:, [0, -1]] = False
    return _points(ensemble, runs, _together(ends, np.arange(2 * rows).reshape(rows, 2)), counted)


def prove_controls(ensemble: Ensemble, paths: Paths, proof: PointProof, runner: Runner, seed: int = 0
                   ) -> dict[str, PointProof]:  # fmt: skip
    """Points that should not stay, against the same references: what `prove_paths` would find of other routes.

    Returns:
        "straight": the inner points of the straight lines between the ends; "random": as many at the same distances
        from the start in a random direction, as far as the prior goes.
    """
    rows, points, parameters = paths.z.shape
    start, t = paths.z[:, :1], np.linspace(0.0, 1.0, points)[1:-1, None]
    end = paths.z[:, -1:] - start
    away = generator(seed, "control").standard_normal((rows, 1, parameters))
    away *= np.linalg.norm(end, axis=2, keepdims=True) / np.linalg.norm(away, axis=2, keepdims=True)
    found = {}
    for name, move in (("straight", end), ("random", away)):
        theta = ensemble.prior.constrain(np.clip(start + t * move, -LIMIT, LIMIT))
        own = replace(runner, seed=stream_key(runner.seed, name) % 2**62)
        runs = resimulate_like(ensemble, theta.reshape(-1, parameters), own)
        found[name] = _points(ensemble, runs, proof.reference, np.ones((rows, points - 2), dtype=bool))
    return found


def _reference(runner: Runner, seeds: int) -> Runner:
    return replace(runner, repeats=seeds, seed=stream_key(runner.seed, "reference") % 2**62)


def prove_walks(ensemble: Ensemble, walks: Walks, runner: Runner, seeds: int = REFERENCE) -> PointProof:
    """Simulate every point of walks; the reference is where each began, with `seeds` of its own; see `prove_paths`."""
    rows, points = walks.z.shape[:2]
    starts = resimulate_like(ensemble, walks.theta[:, 0], _reference(runner, seeds))
    runs = resimulate_like(ensemble, walks.theta.reshape(rows * points, -1), runner)
    counted = np.ones((rows, points), dtype=bool)
    counted[:, 0] = False
    return _points(ensemble, runs, starts, counted)


def prove_draws(ensemble: Ensemble, theta: np.ndarray, runner: Runner) -> PointProof:
    """Simulate configurations (n, P), declared units, such as conditional draws, against the members' mean."""
    runs = resimulate_like(ensemble, theta, runner)
    known = members_of(ensemble)
    reference = _together(known, np.arange(len(known))[None])
    return _points(ensemble, runs, reference, np.ones((1, len(runs)), dtype=bool))


def _points(ensemble: Ensemble, runs: Resimulated, references: Resimulated, counted: np.ndarray) -> PointProof:
    each = references[np.repeat(np.arange(len(references)), counted.shape[1])]
    unit, seen = feature_unit(ensemble), ensemble.observation
    windows = Resimulated(runs.theta[:1], seen.window_values[None], seen.window_states[None],
                          np.full((1, seen.n_windows), "ok"))  # fmt: skip
    return PointProof(
        change=_compared(ensemble, each, runs, unit), verified=judged(ensemble, runs).verified.reshape(counted.shape),
        counted=counted, runs=runs, reference=references, recording=_compared(ensemble, windows, runs, unit),
    )  # fmt: skip


def _compared(ensemble: Ensemble, reference: Resimulated, changed: Resimulated, unit: np.ndarray) -> FeatureChange:
    observed = ensemble.observation.states
    return feature_change(reference, changed, unit, ensemble.encoder, ensemble.feature_set.names, observed)


def _together(runs: Resimulated, groups: np.ndarray) -> Resimulated:
    """Configurations of each row of groups (G, K) as one, with the seeds of all."""
    repeats = groups.shape[1] * runs.values.shape[1]
    values, states = (x[groups].reshape(len(groups), repeats, -1) for x in (runs.values, runs.states))
    return Resimulated(runs.theta[groups].mean(1), values, states, runs.outcomes[groups].reshape(len(groups), repeats))
