"""Distributions over configurations whose invariances are known exactly: for tests, and to learn the tools with.

Each constrains a function f(z) of the unbounded coordinates to within a noise, so that the set f(z) = 0 is the
invariant one: a curve that bends (banana), a closed curve (ring), a two-dimensional sheet in six parameters, the
hyperplane of a sum. `isotropic` is the negative control: it constrains every direction alike.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sbi_circuits.prior import Parameter, Prior
from sbi_circuits.seeds import generator

_ALWAYS = -np.inf  # log density of a proposal that is exact: every candidate is kept
_POOL = 40  # draws of the prior for each that is wanted, at the least


@dataclass(frozen=True, eq=False)
class Constrained:
    """p(z) proportional to the prior, N(0, 1), times exp(-|f(z)|^2 / (2 noise^2)).

    Args:
        prior: P parameters.
        constraint: f, z (n, P) to (n, C), differentiable.
        noise: standard deviation of what is observed of f.
        propose: candidates (m, P) for rejection sampling, with their log density up to a constant (m,).
    """

    prior: Prior
    constraint: Callable[[Tensor], Tensor]
    noise: float
    propose: Callable[[int, np.random.Generator], tuple[np.ndarray, np.ndarray]]

    def log_prob_z(self, z: Tensor) -> Tensor:
        """Log density (n,) of z (n, P), up to a constant."""
        return -0.5 * (self.constraint(z) / self.noise).square().sum(-1) - 0.5 * z.square().sum(-1)

    def sample(self, n: int, seed: int) -> np.ndarray:
        """n exact draws (n, P), declared units, by rejection."""
        return self.prior.constrain(self.sample_z(n, seed))

    def sample_z(self, n: int, seed: int) -> np.ndarray:
        """n exact draws (n, P), unbounded coordinates."""
        random, found = generator(seed, "constrained"), [np.zeros((0, len(self.prior)))]
        while sum(map(len, found)) < n:
            z, log_proposal = self.propose(_POOL * max(n, 50), random)
            log_ratio = self.log_prob_z(torch.as_tensor(z)).numpy() - log_proposal
            # Proposals bound the density up to the constant they leave out, so their ratio is at most 1.
            found.append(z[np.log(random.random(len(z))) < log_ratio])
        return np.concatenate(found)[:n]


def plain_prior(parameters: int) -> Prior:
    """`parameters` parameters p0, p1, ... between -1 and 1."""
    return Prior(tuple(Parameter(f"p{k}", "1", -1.0, 1.0) for k in range(parameters)))


def banana(noise: float = 0.1) -> Constrained:
    """z1 = z0^2 - 1 up to the noise: an invariant parabola in the plane."""
    return _graph(2, (0,), (1,), lambda free: free[:, :1] ** 2 - 1.0, noise)


def sheet(noise: float = 0.1) -> Constrained:
    """Four of six parameters follow from z0 and z1: an invariant sheet that bends."""
    def heights(free: Tensor) -> Tensor:
        a, b = free[:, 0], free[:, 1]
        return torch.stack([0.5 * a, 0.5 * torch.sin(a), 0.4 * b, 0.3 * (a * b)], dim=-1)

    return _graph(6, (0, 1), (2, 3, 4, 5), heights, noise)


def ring(noise: float = 0.1, radius: float = 1.5) -> Constrained:
    """|z| = radius up to the noise: an invariant circle in the plane."""
    def propose(n: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        angle, r = 2 * np.pi * random.random(n), random.normal(radius, noise, n)
        z = r[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
        # The density of z is that of r, over r; the prior's and that factor are at most these.
        bound = -0.5 * (radius - 6 * noise) ** 2 + np.log(radius + 6 * noise)
        return z, -0.5 * ((r - radius) / noise) ** 2 - np.log(np.abs(r)) + bound

    return Constrained(plain_prior(2), lambda z: (_length(z) - radius)[:, None], noise, propose)


def sum_only(parameters: int = 4, noise: float = 0.1, total: float = 1.0) -> Constrained:
    """Only the sum of all parameters is observed: parameters - 1 invariant directions, all at right angles to 1."""
    spread = 1.0 / (parameters + noise**2)

    def propose(n: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        # The posterior is normal, and drawn from directly: a joint draw, moved to the observed sum.
        z = random.standard_normal((n, parameters))
        seen = z.sum(1) + noise * random.standard_normal(n)
        return z + spread * (total - seen)[:, None], np.full(n, _ALWAYS)

    return Constrained(plain_prior(parameters), lambda z: z.sum(-1, keepdim=True) - total, noise, propose)


def isotropic(parameters: int = 4, noise: float = 0.3) -> Constrained:
    """Every parameter is observed alike: no invariance."""
    shrink = 1.0 / (1.0 + noise**2)

    def propose(n: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        return noise * np.sqrt(shrink) * random.standard_normal((n, parameters)), np.full(n, _ALWAYS)

    return Constrained(plain_prior(parameters), lambda z: z, noise, propose)


def _graph(
    parameters: int, free: tuple[int, ...], bound: tuple[int, ...], heights: Callable[[Tensor], Tensor], noise: float
) -> Constrained:
    """Coordinates `bound` are `heights` of the free ones."""
    def constraint(z: Tensor) -> Tensor:
        return z[:, list(bound)] - heights(z[:, list(free)])

    def propose(n: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        z = random.standard_normal((n, parameters))
        level = heights(torch.as_tensor(z[:, list(free)])).numpy()
        z[:, list(bound)] = level + noise * z[:, list(bound)]
        away = (z[:, list(bound)] - level) / noise
        return z, -0.5 * (away**2).sum(1) - 0.5 * (z[:, list(free)] ** 2).sum(1)

    return Constrained(plain_prior(parameters), constraint, noise, propose)


def _length(z: Tensor) -> Tensor:
    return (z.square().sum(-1) + 1e-12).sqrt()
