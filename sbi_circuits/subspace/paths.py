"""Paths of high density between configurations, and walks along the directions the data leave free.

Paths: Goncalves et al. 2020, eLife 9:e56261, "Posterior distributions over paths"; here as cubic splines in
unbounded coordinates, all pairs at once, over the mixture of all flows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.interpolate import CubicSpline
from torch import Tensor

from sbi_circuits.ensemble import Ensemble
from sbi_circuits.errors import InferenceError
from sbi_circuits.subspace.density import LIMIT, Density, gradient, log_density, unbounded
from sbi_circuits.subspace.local import LocalGeometry, local_geometry, stiff_step
from sbi_circuits.subspace.routes import chains
from sbi_circuits.subspace.surrogate import Refined, Surrogate

_POINTS = 24  # of a path while it is found
_FINE = 200
_RATE = 0.05
_CHAIN_KNOTS = 7
_STRETCH = 0.5  # nats that a path as long as one prior standard deviation costs


@dataclass(frozen=True, eq=False)
class Paths:
    """B paths of S points at equal distances along each.

    Args:
        z: (B, S, P), unbounded coordinates.
        theta: (B, S, P), declared units.
        log_prob: (B, S) log density in unbounded coordinates.
        straight: (B, S) the same along the straight lines between the ends.
        pairs: (B, 2) which configurations are joined; -1 where they have no number.
    """

    z: np.ndarray
    theta: np.ndarray
    log_prob: np.ndarray
    straight: np.ndarray
    pairs: np.ndarray

    def __len__(self) -> int:
        return len(self.z)

    @property
    def length(self) -> np.ndarray:
        """(B,) prior-scaled."""
        return np.asarray(np.linalg.norm(np.diff(self.z, axis=1), axis=2).sum(1))

    @property
    def stretch(self) -> np.ndarray:
        """(B,) length over that of the straight line."""
        return self.length / np.maximum(np.linalg.norm(self.z[:, -1] - self.z[:, 0], axis=1), 1e-12)

    @property
    def drop(self) -> np.ndarray:
        """(B,) nats by which the lowest point of each path lies below its lower end; negative where it does not."""
        return np.asarray(np.minimum(self.log_prob[:, 0], self.log_prob[:, -1]) - self.log_prob.min(1))

    @property
    def gain(self) -> np.ndarray:
        """(B,) nats by which the lowest point of each path lies above that of the straight line."""
        return np.asarray(self.log_prob.min(1) - self.straight.min(1))


def density_paths(
    density: Density, starts: np.ndarray, ends: np.ndarray, points: int = 9, knots: int = 5, steps: int = 150,
    via: Sequence[np.ndarray] | None = None,
) -> Paths:  # fmt: skip
    """Paths of high density from starts to ends, (B, P) each, unbounded coordinates.

    Each is a cubic spline through `knots` free knots, moved (Adam) to lower the mean and the maximum of the negative
    log density along it, and its length.

    Args:
        points: S, at equal distances along each path, both ends included.
        knots: between the ends.
        steps: of the optimisation.
        via: polygons (K_b, P), ends included, that the paths set out as; straight lines where None.

    Raises:
        InferenceError: shapes that differ, or fewer than 3 points.
    """
    starts, ends = np.asarray(starts, dtype=float), np.asarray(ends, dtype=float)
    if starts.ndim != 2 or starts.shape != ends.shape or points < 3:
        raise InferenceError(f"paths from {starts.shape} to {ends.shape} at {points} points; need (B, P) twice, >= 3")
    grid = np.linspace(0.0, 1.0, knots + 2)[:, None, None]
    line = starts + grid * (ends - starts)
    spline = torch.as_tensor(_basis(knots + 2, _POINTS))
    first = line if via is None else np.stack([_evenly(polygon, knots + 2) for polygon in via], axis=1)
    found = _relax(density, torch.as_tensor(first), spline, steps).numpy()
    fine = np.einsum("fk,kbp->bfp", _basis(knots + 2, _FINE), found)
    z = np.clip(np.stack([_evenly(path, points) for path in fine]), -LIMIT, LIMIT)
    straight = np.stack([_evenly(path, points) for path in line.transpose(1, 0, 2)])
    shape = (len(z), points)
    return Paths(
        z=z, theta=density.prior.constrain(z), log_prob=log_density(density, z.reshape(-1, z.shape[2])).reshape(shape),
        straight=log_density(density, straight.reshape(-1, z.shape[2])).reshape(shape),
        pairs=np.full((len(z), 2), -1),
    )  # fmt: skip


def ensemble_paths(
    density: Density, ensemble: Ensemble, pairs: np.ndarray, points: int = 9, surrogate: Surrogate | None = None,
    between: np.ndarray | None = None, steps: int = 150,
) -> Paths:  # fmt: skip
    """Paths between verified configurations of an ensemble.

    Args:
        density: the posterior at the ensemble's observation.
        ensemble: whose configurations are joined.
        pairs: (B, 2) numbers of configurations, counted over all draws of the ensemble.
        points: of each path.
        surrogate: learned near the members: a path then sets out as the shortest chain of members between which it
            expects the features to stay (`routes.chains`), and is relaxed under the posterior times the likelihood of
            the ends' features, which are what should stay: those of two members differ from the observation.
        between: (K, P) other configurations, unbounded coordinates, that chains may lead through.
        steps: of the optimisation.

    Raises:
        InferenceError: a configuration that is not there or not verified.
    """
    pairs = np.atleast_2d(np.asarray(pairs, dtype=int))
    members = np.flatnonzero(ensemble.verified)
    for number in pairs.ravel():
        if number not in members:
            listed = ", ".join(map(str, members[:20])) + (", ..." if len(members) > 20 else "")
            raise InferenceError(f"configuration {number} is not verified: a path joins verified ones; "
                                 f"valid: {listed or 'none'}")  # fmt: skip
    z = unbounded(ensemble.prior, ensemble.theta[pairs.ravel()]).reshape(*pairs.shape, -1)
    if surrogate is None:
        return replace(density_paths(density, z[:, 0], z[:, 1], points, steps=steps), pairs=pairs)
    known = unbounded(ensemble.prior, ensemble.members)
    known = known if between is None else np.concatenate([known, between])
    via = [known[chain] for chain in chains(surrogate, known, np.searchsorted(members, pairs))]
    kept = [Refined(density, surrogate.towards(ends)) for ends in z]
    found = [
        density_paths(own, ends[:1], ends[1:], points, _CHAIN_KNOTS, steps, [route])
        for own, ends, route in zip(kept, z, via, strict=True)
    ]
    z, theta, log_prob, straight = (
        np.concatenate([getattr(path, name) for path in found]) for name in ("z", "theta", "log_prob", "straight")
    )
    return Paths(z, theta, log_prob, straight, pairs)


def _relax(density: Density, line: Tensor, spline: Tensor, steps: int) -> Tensor:
    """Knots (K, B, P) after the optimisation; the ends stay."""
    inner = line[1:-1].clone().requires_grad_(True)
    optimiser = torch.optim.Adam([inner], lr=_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(steps, 1))
    best, kept = torch.full(line.shape[1:2], np.inf, dtype=line.dtype), inner.detach().clone()
    for _ in range(steps):
        z = torch.einsum("sk,kbp->bsp", spline, torch.cat([line[:1], inner, line[-1:]]))
        cost = _cost(density, z)
        better = cost.detach() < best
        best = torch.where(better, cost.detach(), best)
        kept[:, better] = inner.detach()[:, better]
        (inner.grad,) = torch.autograd.grad(cost.sum(), [inner])
        optimiser.step()
        schedule.step()
    return torch.cat([line[:1], kept, line[-1:]])


def _cost(density: Density, z: Tensor) -> Tensor:
    """(B,) of paths z (B, S, P)."""
    rows, points, parameters = z.shape
    below = -density.log_prob_z(z.reshape(-1, parameters)).reshape(rows, points)
    step = z.diff(dim=1).square().sum(-1)
    # The mean square of steps is least where they are equal: it keeps the points spread along the path.
    length = (points - 1) * step.sum(1)
    beyond = (z.abs() - LIMIT).clamp(min=0.0).square().sum((1, 2))
    return below.mean(1) + torch.logsumexp(below, 1) + _STRETCH * length + 10.0 * beyond


def _basis(knots: int, points: int) -> np.ndarray:
    """(points, knots): the natural cubic spline through knots is this times the knots."""
    grid = np.linspace(0.0, 1.0, knots)
    return np.asarray(CubicSpline(grid, np.eye(knots), bc_type="natural")(np.linspace(0.0, 1.0, points)))


def _evenly(path: np.ndarray, points: int) -> np.ndarray:
    """(points, P) at equal distances along a polygon (F, P)."""
    along = np.append(0.0, np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=1)))
    at = np.linspace(0.0, along[-1], points)
    return np.column_stack([np.interp(at, along, column) for column in path.T])


@dataclass(frozen=True, eq=False)
class Walks:
    """B walks of S steps from configurations.

    Args:
        z: (B, S + 1, P), unbounded coordinates; z[:, 0] is where they start.
        theta: (B, S + 1, P), declared units.
        log_prob: (B, S + 1), in unbounded coordinates.
        step: length of each step, prior-scaled.
    """

    z: np.ndarray
    theta: np.ndarray
    log_prob: np.ndarray
    step: float

    def __len__(self) -> int:
        return len(self.z)

    @property
    def distance(self) -> np.ndarray:
        """(B, S + 1) from the start, prior-scaled."""
        return np.asarray(np.linalg.norm(self.z - self.z[:, :1], axis=2))


def walk(
    density: Density, z: np.ndarray, dimension: int, direction: np.ndarray | None = None, steps: int = 8,
    step: float = 0.2, correct: bool = True,
) -> Walks:
    """Walk along the set: each step follows the part of the last one that lies in the sloppy tangent space.

    Args:
        density: whose set it is.
        z: (B, P) starts, unbounded coordinates.
        dimension: of the tangent space.
        direction: (P,) or (B, P) of the first step; the sloppiest direction of each start where None.
        steps, step: how many, and their length.
        correct: keep the slope across the set as it was at the start, by Newton steps in the stiff directions: a walk
            along a bent set would leave it otherwise.

    Examples:
        >>> from sbi_circuits.subspace.examples import ring
        >>> found = walk(ring(noise=0.05, radius=1.5), np.array([[1.5, 0.0]]), 1, steps=16)
        >>> bool(np.abs(np.linalg.norm(found.z[0], axis=1) - 1.5).max() < 0.05)  # stays on the circle
        True
    """
    z = np.array(z, dtype=float)
    here = local_geometry(density, z)
    across = _stiff_part(here, gradient(density, z), dimension)
    last = here.sloppy if direction is None else np.broadcast_to(np.asarray(direction, dtype=float), z.shape)
    points = [z]
    for _ in range(steps):
        last = _within(here, last, dimension)
        moved = np.clip(z + step * last, -LIMIT, LIMIT)
        here = local_geometry(density, moved)
        if correct:
            across = _transported(here, across, dimension)
            back = stiff_step(here, gradient(density, moved) - across, dimension)
            length = np.linalg.norm(back, axis=1, keepdims=True)
            moved = np.clip(moved + back * np.minimum(1.0, step / np.maximum(length, 1e-12)), -LIMIT, LIMIT)
        last, z = moved - z, moved
        points.append(z)
    found = np.stack(points, axis=1)
    rows = log_density(density, found.reshape(-1, z.shape[1])).reshape(found.shape[:2])
    return Walks(found, density.prior.constrain(found), rows, step)


def _within(geometry: LocalGeometry, direction: np.ndarray, dimension: int) -> np.ndarray:
    """Unit vectors (B, P): the part of a direction in the sloppy tangent space."""
    basis = geometry.tangent(dimension)
    part = np.einsum("mkp,mk->mp", basis, np.einsum("mkp,mp->mk", basis, direction))
    length = np.linalg.norm(part, axis=1, keepdims=True)
    return np.asarray(np.where(length > 1e-6, part / np.maximum(length, 1e-12), geometry.sloppy))


def _stiff_part(geometry: LocalGeometry, slope: np.ndarray, dimension: int) -> np.ndarray:
    basis = geometry.directions[:, : geometry.z.shape[1] - dimension]
    return np.asarray(np.einsum("mkp,mk->mp", basis, np.einsum("mkp,mp->mk", basis, slope)))


def _transported(geometry: LocalGeometry, slope: np.ndarray, dimension: int) -> np.ndarray:
    """The slope (B, P) across the set, turned into the stiff directions there; as steep as it was."""
    part = _stiff_part(geometry, slope, dimension)
    before, after = (np.linalg.norm(x, axis=1, keepdims=True) for x in (slope, part))
    return np.asarray(part * np.where(after > 1e-6 * before, before / np.maximum(after, 1e-12), 0.0))
