"""Local geometry: which directions the data hold fast at a configuration, and which they leave free.

The information of the data about theta is measured twice: by the curvature of the learned log likelihood at the
observation (observed information), and by the Fisher matrix E[s s^T] of its score s = grad log q(theta|x) -
grad log p(theta) over simulations of that configuration, which needs no differentiable simulator. Both are in units
of the prior's information: an eigenvalue of 1 halves the prior's variance along its direction; far above 1 a
direction is stiff, below 1 sloppy (Gutenkunst et al. 2007, PLoS Comput Biol 3:e189).
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.linalg import eigh

from sbi_circuits.errors import InferenceError
from sbi_circuits.inference import Posterior
from sbi_circuits.subspace.density import LIMIT, Density, gradient, hessian

SLOPPY = 1.0  # information below which a direction is sloppy: the prior holds more


@dataclass(frozen=True, eq=False)
class LocalGeometry:
    """Directions at M configurations, in prior-scaled units, the stiffest first.

    Args:
        z: (M, P) the configurations, unbounded coordinates.
        eigenvalues: (M, P) information of the data along each direction, descending.
        directions: (M, P, P) unit vectors; directions[m, k] belongs to eigenvalues[m, k].
    """

    z: np.ndarray
    eigenvalues: np.ndarray
    directions: np.ndarray

    def __len__(self) -> int:
        return len(self.z)

    @property
    def information(self) -> np.ndarray:
        """(M, P, P) the matrices these are the eigenvectors of."""
        return np.einsum("mk,mki,mkj->mij", self.eigenvalues, self.directions, self.directions)

    @property
    def dimension(self) -> np.ndarray:
        """(M,) how many directions are sloppy: the dimension of the tangent space."""
        return np.asarray((self.eigenvalues < SLOPPY).sum(1))

    @property
    def stiff(self) -> np.ndarray:
        """(M, P) the stiffest direction of each configuration."""
        return self.directions[:, 0]

    @property
    def sloppy(self) -> np.ndarray:
        """(M, P) the sloppiest direction of each."""
        return self.directions[:, -1]

    def tangent(self, dimension: int) -> np.ndarray:
        """(M, dimension, P) an orthonormal basis of the sloppiest directions.

        Raises:
            InferenceError: a dimension below 1 or above P.
        """
        parameters = self.z.shape[1]
        if not 1 <= dimension <= parameters:
            raise InferenceError(f"a tangent space of dimension {dimension}; valid: 1 to {parameters}")
        return self.directions[:, parameters - dimension :]


def local_geometry(density: Density, z: np.ndarray) -> LocalGeometry:
    """Observed information at z (M, P): -Hessian of the log posterior, less the prior's (the identity).

    Examples:
        >>> from sbi_circuits.subspace.examples import sum_only
        >>> found = local_geometry(sum_only(3, noise=0.1), np.zeros((1, 3)))
        >>> (found.eigenvalues.round(6) + 0.0).tolist()  # |1|^2 / noise^2 along the sum, nothing across it
        [[300.0, 0.0, 0.0]]
    """
    return from_information(z, -hessian(density, z) - np.eye(np.asarray(z).shape[1]))


def ridge(density: Density, z: np.ndarray, steps: int = 6, longest: float = 0.5) -> np.ndarray:
    """The points (M, P) of the density's ridge nearest z (M, P), along the stiff directions only.

    Beside the ridge a Hessian mixes in how the ridge bends; on it the tangent space is that of the set (Ozertem &
    Erdogmus 2011, J Mach Learn Res 12:1249). Newton steps in the stiff subspace, none longer than `longest`.
    """
    z = np.array(z, dtype=float)
    for _ in range(steps):
        move = stiff_step(local_geometry(density, z), gradient(density, z))
        length = np.linalg.norm(move, axis=1, keepdims=True)
        z = np.clip(z + move * np.minimum(1.0, longest / np.maximum(length, 1e-12)), -LIMIT, LIMIT)
    return z


def stiff_step(geometry: LocalGeometry, slope: np.ndarray, sloppy: int = 0) -> np.ndarray:
    """Newton step (M, P) of a log density with this slope (M, P), in stiff directions only.

    Args:
        geometry: of the density there.
        slope: gradient, or the part of it that is to go.
        sloppy: how many of the sloppiest directions are left out whatever their information.
    """
    curvature = np.maximum(geometry.eigenvalues + 1.0, 1.0)  # of the posterior: the prior's is 1
    moved = geometry.eigenvalues >= SLOPPY
    moved[:, moved.shape[1] - sloppy :] = False
    along = np.einsum("mki,mi->mk", geometry.directions, slope)
    return np.einsum("mk,mki->mi", np.where(moved, along / curvature, 0.0), geometry.directions)


def from_information(z: np.ndarray, information: np.ndarray) -> LocalGeometry:
    """Geometry of given matrices (M, P, P), in units of the prior's information."""
    values, vectors = eigh(information)
    return LocalGeometry(np.asarray(z, dtype=float), values[:, ::-1], vectors.transpose(0, 2, 1)[:, ::-1])


def scores(posterior: Posterior, z: np.ndarray, values: np.ndarray, states: np.ndarray) -> np.ndarray:
    """Scores of the learned likelihood at z for simulations of these configurations.

    Args:
        posterior: whose flows learned it.
        z: (M, P), unbounded coordinates.
        values, states: (M, R, F) features of R simulations of each.

    Returns:
        (M, R, P), in prior-scaled units.
    """
    repeats = values.shape[1]
    rows = np.repeat(np.asarray(z, dtype=float), repeats, axis=0)
    x, seen = values.reshape(len(rows), -1), states.reshape(len(rows), -1)
    slope = torch.func.grad(lambda points: posterior.log_prob_z_rows(points, x, seen).sum())
    found = slope(torch.as_tensor(rows)).cpu().numpy() + rows
    return found.reshape(len(z), repeats, -1)


def fisher(posterior: Posterior, z: np.ndarray, values: np.ndarray, states: np.ndarray) -> LocalGeometry:
    """Fisher matrix of the learned likelihood at z (M, P), from R simulations of each; its rank is R at most.

    See `scores` for the arguments, and `pooled` for what all configurations have in common.
    """
    s = scores(posterior, z, values, states)
    return from_information(z, np.einsum("mri,mrj->mij", s, s) / s.shape[1])


def pooled(geometry: LocalGeometry) -> LocalGeometry:
    """Geometry (of one configuration, the mean) of the average information over all of them."""
    return from_information(geometry.z.mean(0, keepdims=True), geometry.information.mean(0, keepdims=True))


def principal_angles(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Angles (*, k), radians, ascending, between spaces spanned by orthonormal rows a and b, (*, k, P) each.

    Small angles are found from their sines (Bjorck & Golub 1973, Math Comput 27:579, eq. 13).

    Examples:
        >>> x, y, z = np.eye(3)
        >>> np.degrees(principal_angles(np.stack([x, y]), np.stack([x, z]))).round().tolist()
        [0.0, 90.0]
    """
    product = np.asarray(a) @ np.swapaxes(b, -1, -2)
    cosine = np.clip(np.linalg.svd(product, compute_uv=False), 0.0, 1.0)
    across = np.asarray(b) - np.swapaxes(product, -1, -2) @ np.asarray(a)
    sine = np.clip(np.linalg.svd(across, compute_uv=False)[..., ::-1], 0.0, 1.0)
    return np.where(cosine**2 < 0.5, np.arccos(cosine), np.arcsin(sine[..., : cosine.shape[-1]]))


@dataclass(frozen=True, eq=False)
class Bending:
    """How far the tangent spaces of different configurations point apart.

    Args:
        dimension: k of the spaces.
        angles: (pairs, k) principal angles, radians, ascending.
        distance: (pairs,) between the configurations, prior-scaled.
        by_chance: mean angle, radians, between random spaces of the same dimension.
    """

    dimension: int
    angles: np.ndarray
    distance: np.ndarray
    by_chance: float

    @property
    def mean(self) -> float:
        """Mean principal angle, radians; 0 for a flat set."""
        return float(self.angles.mean())

    @property
    def share(self) -> float:
        """Mean angle over that of random spaces: 0 flat, 1 as if tangent spaces had nothing in common."""
        return self.mean / self.by_chance if self.by_chance > 0 else 0.0


def bending(geometry: LocalGeometry, dimension: int, most: int = 2000, seed: int = 0) -> Bending:
    """Principal angles between the tangent spaces of pairs of configurations: how curved is the set?

    Args:
        geometry: of at least two configurations.
        dimension: of the tangent spaces.
        most: pairs at most, drawn at random where there are more.
        seed: of the pairs and the random spaces.
    """
    if len(geometry) < 2:
        raise InferenceError(f"bending needs two configurations or more, got {len(geometry)}")
    random = np.random.default_rng(seed)
    i, j = np.triu_indices(len(geometry), 1)
    chosen = random.permutation(len(i))[:most]
    i, j = i[chosen], j[chosen]
    bases = geometry.tangent(dimension)
    shape = (64, 2, dimension, bases.shape[2])
    chance = np.linalg.qr(np.swapaxes(random.standard_normal(shape), -1, -2))[0].swapaxes(-1, -2)
    distance = np.linalg.norm(geometry.z[i] - geometry.z[j], axis=1)
    by_chance = float(principal_angles(chance[:, 0], chance[:, 1]).mean())
    return Bending(dimension, principal_angles(bases[i], bases[j]), distance, by_chance)
