"""Gaussian process regression of features on configurations, many targets at once.

Rasmussen & Williams 2006, Gaussian Processes for Machine Learning, equations 2.25, 2.26, 5.8 and 9.1.
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import log_ndtr
from torch import Tensor

from sbi_circuits.errors import InferenceError
from sbi_circuits.seeds import generator

_DTYPE = torch.float64
_FIT_ROWS, _FIT_STEPS, _FIT_RATE = 400, 50, 0.1
_MORE_STEPS = 10
_NOISES = torch.logspace(-3, 2, 41, dtype=_DTYPE)  # of one simulation, in units of the function's variance
_JITTER = 1e-6
_LEAST = 10  # rows
_CHUNK = 1024
_RARE = 0.01  # least share of simulations that show all features which is believed, so that no candidate is ruled out


@dataclass(frozen=True, eq=False)
class Regression:
    """Gaussian processes of T targets that share their length scales, each with a noise of its own.

    The covariance is that of a linear and of a smooth function, k(a, b) = exp(-|a - b|^2 / 2) + c a.b / P in
    coordinates divided by a length for each parameter, which says how much it matters. One decomposition into
    eigenvectors serves all targets.

    Args:
        z: (n, P) rows, unbounded coordinates, less their `middle` (P,).
        lengths: (P,); linear: c.
        weights: (n, T) of the rows in what is expected; vectors: (n, n), of the rows, each over the root of its number
            of seeds; inverse: (n, T) of the eigenvalues, noise included.
        centre, scale: (T,) of the targets; amplitude, noise: (T,) variance of the function and of one simulation, the
            first in units of scale^2, the second in units of the first.
    """

    z: Tensor
    middle: Tensor
    lengths: Tensor
    linear: Tensor
    weights: Tensor
    vectors: Tensor
    inverse: Tensor
    centre: Tensor
    scale: Tensor
    amplitude: Tensor
    noise: Tensor

    @classmethod
    def fit(
        cls, z: np.ndarray, y: np.ndarray, seeds: np.ndarray, before: "Regression | None" = None, seed: int = 0
    ) -> "Regression":
        """Fit targets y (n, T), each row the mean of `seeds` (n,) simulations of z (n, P).

        Lengths and linear part maximise the likelihood of some 400 rows, all targets as noisy, and then each
        target's noise that of all rows.

        Args:
            before: fitted to much the same rows, from which a few steps lead on.
            seed: of the rows that the likelihood is taken of.

        Raises:
            InferenceError: fewer than 10 rows.

        Examples:
            >>> z = np.random.default_rng(0).standard_normal((200, 3))
            >>> found = Regression.fit(z, z[:, :1] + z[:, 1:2] ** 2, np.ones(200))
            >>> at = torch.tensor([[0.5, 1.0, 2.0]], dtype=torch.float64)  # the third parameter does nothing
            >>> bool(abs(found.mean(at).item() - 1.5) < 0.05), int(found.lengths.argmax())
            (True, 2)
        """
        if len(z) < _LEAST:
            raise InferenceError(f"a surrogate needs {_LEAST} simulated configurations or more, got {len(z)}")
        points, targets = (torch.as_tensor(np.asarray(a, dtype=float)) for a in (z, y))
        middle, centre, scale = points.mean(0), targets.mean(0), targets.std(0).clamp(min=1e-9)
        points, targets = points - middle, (targets - centre) / scale
        root = torch.as_tensor(np.sqrt(np.asarray(seeds, dtype=float)))[:, None]
        rows = torch.as_tensor(generator(seed, "surrogate").permutation(len(z))[:_FIT_ROWS])
        lengths, linear = _fitted(points[rows], targets[rows], root[rows], before)
        values, vectors = torch.linalg.eigh(_weighted(points / lengths, linear, root))
        along = vectors.T @ (root * targets)
        noise, amplitude = _noise(values.clamp(min=_JITTER), along)
        inverse, vectors = 1.0 / (values.clamp(min=_JITTER)[:, None] + noise), root * vectors
        return cls(points, middle, lengths, linear, vectors @ (inverse * along), vectors, inverse, centre, scale,
                   amplitude, noise)  # fmt: skip

    def mean(self, z: Tensor) -> Tensor:
        """Expected targets (m, T) at z (m, P)."""
        return self.centre + self.scale * (self._cross(z) @ self.weights)

    def variance(self, z: Tensor) -> Tensor:
        """Variance (m, T) of what is expected at z (m, P): how little is known there, seeds left out."""
        return torch.cat([self._variance(part) for part in z.split(_CHUNK)])

    def _variance(self, z: Tensor) -> Tensor:
        known = (self._cross(z) @ self.vectors).square() @ self.inverse
        before = 1.0 + self.linear * ((z - self.middle) / self.lengths).square().mean(1, keepdim=True)
        return (before - known).clamp(min=0.0) * self.amplitude * self.scale**2

    def one_seed(self) -> Tensor:
        """(T,) variance from seed to seed."""
        return self.noise * self.amplitude * self.scale**2

    def _cross(self, z: Tensor) -> Tensor:
        return _kernel((z - self.middle) / self.lengths, self.z / self.lengths, self.linear)

    def squared_slopes(self, z: Tensor, unit: Tensor) -> Tensor:
        """Expected sum over targets of slope slope^T / unit^2, (m, P, P) at z (m, P).

        What is not known about a slope counts as well: a direction that nobody explored is not taken for flat.

        Args:
            unit: (T,) that the targets are counted in.
        """
        return torch.stack([self._squared_slope(point, unit) for point in z - self.middle])

    def _squared_slope(self, point: Tensor, unit: Tensor) -> Tensor:
        at, rows = point / self.lengths, self.z / self.lengths
        cross = torch.exp(-0.5 * (at - rows).square().sum(1))
        slopes = ((rows - at) * cross[:, None] + self.linear * rows / len(at)) / self.lengths  # of the kernel
        mean = (self.weights.T @ slopes) * (self.scale / unit)[:, None]
        size, along = self.amplitude * (self.scale / unit) ** 2, self.vectors.T @ slopes
        before = torch.diag((1.0 + self.linear / len(at)) / self.lengths**2)
        return mean.T @ mean + size.sum() * before - along.T @ ((self.inverse @ size)[:, None] * along)


def log_chance(whole: Regression, z: np.ndarray, off: np.ndarray, sd: np.ndarray, limit: np.ndarray) -> np.ndarray:
    """(m,) log probability that configurations z (m, P) show all features, each within its limit of a target.

    Features count as independent.

    Args:
        whole: share of the simulations that show all of them.
        off, sd: (m, T) expected difference of each feature from its target, and standard deviation of it.
        limit: (T,).
    """
    shown = whole.mean(torch.as_tensor(np.asarray(z, dtype=float))).numpy()[:, 0]
    return np.asarray(np.log(np.clip(shown, _RARE, 1.0)) + _log_within((-limit - off) / sd, (limit - off) / sd).sum(1))


def _log_within(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Log probability of a standard normal between two bounds, exact far out too: it still tells which is nearer."""
    flip = low > 0
    low, high = np.where(flip, -high, low), np.where(flip, -low, high)
    upper = log_ndtr(high)
    return np.asarray(upper + np.log1p(-np.exp(np.minimum(log_ndtr(low) - upper, -1e-12))))


def _kernel(a: Tensor, b: Tensor, linear: Tensor) -> Tensor:
    product = a @ b.mT
    apart = a.square().sum(-1)[:, None] + b.square().sum(-1)[None] - 2.0 * product
    return torch.exp(-0.5 * apart.clamp(min=0.0)) + linear * product / a.shape[-1]


def _weighted(z: Tensor, linear: Tensor, root: Tensor) -> Tensor:
    """(n, n) covariance of rows z (n, P), each in units of the noise of its mean over seeds."""
    return root * _kernel(z, z, linear) * root.T


def _noise(values: Tensor, along: Tensor) -> tuple[Tensor, Tensor]:
    """Noise and amplitude (T,) that maximise the likelihood of targets along eigenvectors (n, T)."""
    total = values[:, None] + _NOISES  # (n, noises)
    amplitude = (along.square().T @ (1.0 / total) / len(values)).clamp(min=1e-9)
    best = (0.5 * len(values) * amplitude.log() + 0.5 * total.log().sum(0)).argmin(1)
    return _NOISES[best], amplitude.gather(1, best[:, None])[:, 0]


def _fitted(z: Tensor, y: Tensor, root: Tensor, before: Regression | None) -> tuple[Tensor, Tensor]:
    """Lengths (P,) and linear part that maximise the likelihood; amplitudes at their best, one noise for all."""
    start = torch.full((z.shape[1],), 0.5 * float(np.log(z.shape[1])) + 0.7, dtype=_DTYPE)
    free = [start.clone(), torch.zeros((), dtype=_DTYPE), torch.full((), -1.0, dtype=_DTYPE)]
    if before is not None:
        free = [before.lengths.log(), before.linear.log(), before.noise.log().mean()]
    for value in free:
        value.requires_grad_(True)
    optimiser = torch.optim.Adam(free, lr=_FIT_RATE)
    for _ in range(_FIT_STEPS if before is None else _MORE_STEPS):
        lengths, linear, noise = free
        matrix = _weighted(z * torch.exp(-lengths), linear.exp(), root)
        factor = torch.linalg.cholesky(matrix + (noise.exp() + _JITTER) * torch.eye(len(z), dtype=_DTYPE))
        half = torch.linalg.solve_triangular(factor, root * y, upper=False).square().sum(0)
        fit = 0.5 * len(z) * half.clamp(min=1e-9).log().sum() + y.shape[1] * factor.diagonal().log().sum()
        # A weak prior keeps lengths of parameters that hardly vary here from running away.
        loss = fit + 0.5 * (lengths - start).square().sum() + 0.05 * (linear.square() + noise.square())
        for value, grad in zip(free, torch.autograd.grad(loss, free), strict=True):
            value.grad = grad
        optimiser.step()
    return free[0].detach().exp(), free[1].detach().exp()
