"""The Gaussian answer every flow starts from: z and the features jointly normal, given what is observed.

With few simulations a regression is hard to beat; a flow that begins as one has only the deviations to learn.
Conditioning a joint normal is exact for every subset of observed features (Bishop 2006, PRML, eq. 2.81-2.82).
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sbi_circuits.inference.long import Columns, LongFamily, Summary

_RIDGES = (0.001, 0.01, 0.1, 0.3, 1.0, 3.0, 10.0)
_LOG_2PI = math.log(2.0 * math.pi)
_CHUNK = 1024  # rows whose inputs exist at one time
_ENTRIES = 2**21  # of the matrices that are factored together
_ROWS, _ROWS_PER_COLUMN, _HELD = 2**17, 64, 2**15  # of a large table some evenly spaced rows are enough


@dataclass(frozen=True, eq=False)
class _Sums:
    """Weighted sums over rows about their means: features (D, D), cross (D, P), targets (P, P); rows: as many of
    equal weight would tell as much."""

    rows: float
    features: Tensor
    cross: Tensor
    targets: Tensor


class GaussianStart(nn.Module):
    """u = L(x)^-1 (z - m(x)), with m and L L^T the mean and covariance of z given the observed features.

    Before `fit` it is the identity. It has no trained weights.

    Args:
        parameters: P.
        measured: D, how many of the first input columns are values or "undefined" indicators.
        missing: (D,) for each of them, the input column that says it is unobserved; -1 where it never is.
        long: families of which it sees the summary, after the other columns; D then counts both.
    """

    centre: Tensor
    features: Tensor
    cross: Tensor
    mean: Tensor
    covariance: Tensor
    missing: Tensor

    def __init__(
        self, parameters: int, measured: int, missing: tuple[int, ...], long: tuple[LongFamily, ...] = ()
    ):
        super().__init__()
        self.summaries = nn.ModuleList(Summary(family) for family in long)
        self.short: Columns | None = None  # all of them
        if long:
            elsewhere = {i for family in long for i in family.inputs}
            short = tuple(i for i in range(measured) if i not in elsewhere)
            self.short, missing = Columns(short), tuple(missing[i] for i in short)
            measured = len(missing) + sum(family.axes for family in long)
        self.register_buffer("centre", torch.zeros(measured))
        self.register_buffer("features", torch.eye(measured))
        self.register_buffer("cross", torch.zeros(measured, parameters))
        self.register_buffer("mean", torch.zeros(parameters))
        self.register_buffer("covariance", torch.eye(parameters))
        self.register_buffer("missing", torch.tensor(missing, dtype=torch.long))

    def fit(
        self, z: Tensor, inputs: Any, weights: Tensor, z_held: Tensor, inputs_held: Any, weights_held: Tensor
    ) -> float:
        """Estimate the joint normal on rows z (n, P), inputs (n, C), weights (n,); the best ridge held out wins.

        Args:
            z, weights, z_held, weights_held: tensors.
            inputs, inputs_held: tensors, or anything that gives the inputs of some rows when indexed with them.

        Returns:
            The gain over the prior on the held-out rows, nats a row; 0 where the prior itself won.
        """
        for summary in self.summaries:
            assert isinstance(summary, Summary)
            summary.fit(inputs, len(z), z.device)
        prior = {name: value.clone() for name, value in self.state_dict().items()}
        best, kept = float(self._score(z_held, inputs_held, weights_held)), prior
        zero = best
        sums = self._sums(z, inputs, weights)
        for ridge in _RIDGES:
            self._estimate(sums, ridge)
            score = float(self._score(z_held, inputs_held, weights_held))
            if score > best:  # never for NaN
                best, kept = score, {name: value.clone() for name, value in self.state_dict().items()}
        self.load_state_dict(kept)
        return best - zero

    def _sums(self, z: Tensor, inputs: Any, weights: Tensor) -> _Sums:
        """Set the centres, and sum over the rows about them."""
        d, p = len(self.centre), z.shape[1]
        parts = _some(len(z), max(_ROWS, _ROWS_PER_COLUMN * d), z.device)
        w = torch.cat([weights[part].double() for part in parts])
        shares = (w / w.mean() / len(w)).split([len(part) for part in parts])
        total, seen_total, mean = (z.new_zeros(k, dtype=torch.double) for k in (d, d, p))
        for part, share in zip(parts, shares, strict=True):
            x = inputs[part]
            seen = self.seen(x).double()
            total += share @ (self._columns(x).double() * seen)
            seen_total += share @ seen
            mean += share @ z[part].double()
        self.centre.copy_(total / seen_total.clamp(min=1.0 / len(w)))
        self.mean.copy_(mean)
        features, cross, targets = (z.new_zeros(k, m, dtype=torch.double) for k, m in ((d, d), (d, p), (p, p)))
        for part, share in zip(parts, shares, strict=True):
            x, y = self.centred(inputs[part].double()), z[part].double() - self.mean
            features += x.T @ (share[:, None] * x)
            cross += x.T @ (share[:, None] * y)
            targets += y.T @ (share[:, None] * y)
        return _Sums(float(w.sum() ** 2 / w.square().sum()), features, cross, targets)

    def _estimate(self, sums: _Sums, ridge: float) -> None:
        n, d = sums.rows, len(self.centre)
        self.features.copy_(sums.features + ridge * torch.eye(d, device=sums.features.device))
        self.cross.copy_(sums.cross)
        # The residuals of a regression on d columns are too small by about this factor.
        inflation = n / max(n - d, 0.2 * n)
        explained = self.cross.T.double() @ torch.linalg.solve(self.features.double(), self.cross.double())
        self.covariance.copy_(explained + inflation * (sums.targets - explained))

    def _score(self, z: Tensor, inputs: Any, weights: Tensor) -> Tensor:
        total, weight = z.new_zeros(()), weights.new_zeros(())
        for part in _some(len(z), _HELD, z.device, 1024):
            u, log_det = self(z[part], inputs[part])
            total = total + (weights[part] * (-0.5 * (u.square() + _LOG_2PI).sum(-1) + log_det)).sum()
            weight = weight + weights[part].sum()
        return total / weight

    def seen(self, inputs: Tensor) -> Tensor:
        """(*, D) one where a column of inputs (*, C) is observed."""
        flags = inputs[..., self.missing.clamp(min=0)]
        seen = 1.0 - torch.where(self.missing >= 0, flags, torch.zeros_like(flags))
        if self.short is None:
            return seen
        return torch.cat([seen, *(summary.seen(inputs) for summary in self.summaries)], dim=-1)  # type: ignore[operator]

    def _columns(self, inputs: Tensor) -> Tensor:
        """(*, D) what is regressed on."""
        if self.short is None:
            return inputs[..., : len(self.centre)]
        return torch.cat([self.short(inputs), *(summary(inputs) for summary in self.summaries)], dim=-1)

    @torch.no_grad()
    def moments(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Regression (Q, P, D) and covariance (Q, P, P) of z for Q patterns of observed columns (Q, D)."""
        (q, d), p = seen.shape, len(self.mean)
        gain, covariance = self.cross.new_empty(q, p, d), self.cross.new_empty(q, p, p)
        together = max(1, _ENTRIES // d**2)
        for k in range(0, q, together):
            part = slice(k, k + together)
            gain[part], covariance[part] = self._moments(seen[part])
        return gain, covariance

    def _moments(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        seen, cross = seen.double(), self.cross.double()
        # An unobserved column becomes an independent one: the shape stays the same whatever is missing.
        joint = self.features.double() * seen[:, :, None] * seen[:, None, :] + torch.diag_embed(1.0 - seen)
        cross = cross * seen[:, :, None]
        gain = torch.cholesky_solve(cross, torch.linalg.cholesky_ex(joint).L).mT
        return gain, self.covariance.double() - gain @ cross

    def centred(self, inputs: Tensor) -> Tensor:
        """Columns (*, D) about their means, zero where unobserved."""
        return (self._columns(inputs) - self.centre) * self.seen(inputs)

    @torch.no_grad()
    def condition(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (B, P) and Cholesky factor (B, P, P) of z given inputs (B, C)."""
        seen, pattern = torch.unique(self.seen(inputs), dim=0, return_inverse=True)
        gain, covariance = self.moments(seen)
        x = self.centred(inputs)
        mean = self.mean + (x @ gain[0].mT if len(seen) == 1 else (gain[pattern] @ x[..., None])[..., 0])
        return mean, torch.linalg.cholesky_ex(covariance).L[pattern]

    def forward(self, z: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """u (B, P) and the log determinant (B,); inputs may have one row for all."""
        mean, factor = self.condition(inputs)
        u = torch.linalg.solve_triangular(factor, (z - mean)[..., None], upper=False)[..., 0]
        return u, -factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    def inverse(self, u: Tensor, inputs: Tensor) -> Tensor:
        mean, factor = self.condition(inputs)
        return mean + (factor @ u[..., None])[..., 0]


def _some(rows: int, most: int, device: torch.device, chunk: int = _CHUNK) -> tuple[Tensor, ...]:
    """Positions of at most so many evenly spaced rows, in chunks."""
    return torch.arange(0, rows, max(1, -(-rows // most)), device=device).split(chunk)
