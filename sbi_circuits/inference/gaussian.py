"""The Gaussian answer every flow starts from: z and the features jointly normal, given what is observed.

With few simulations a regression is hard to beat; a flow that begins as one has only the deviations to learn.
Conditioning a joint normal is exact for every subset of observed features (Bishop 2006, PRML, eq. 2.81-2.82).
"""

import math

import torch
from torch import Tensor, nn

_RIDGES = (0.001, 0.01, 0.1, 0.3, 1.0, 3.0, 10.0)
_LOG_2PI = math.log(2.0 * math.pi)


class GaussianStart(nn.Module):
    """u = L(x)^-1 (z - m(x)), with m and L L^T the mean and covariance of z given the observed features.

    Before `fit` it is the identity. It has no trained weights.

    Args:
        parameters: P.
        measured: D, how many of the first input columns are values or "undefined" indicators.
        missing: (D,) for each of them, the input column that says it is unobserved; -1 where it never is.
    """

    centre: Tensor
    features: Tensor
    cross: Tensor
    mean: Tensor
    covariance: Tensor
    missing: Tensor

    def __init__(self, parameters: int, measured: int, missing: tuple[int, ...]):
        super().__init__()
        self.register_buffer("centre", torch.zeros(measured))
        self.register_buffer("features", torch.eye(measured))
        self.register_buffer("cross", torch.zeros(measured, parameters))
        self.register_buffer("mean", torch.zeros(parameters))
        self.register_buffer("covariance", torch.eye(parameters))
        self.register_buffer("missing", torch.tensor(missing, dtype=torch.long))

    def fit(
        self, z: Tensor, inputs: Tensor, weights: Tensor, z_held: Tensor, inputs_held: Tensor, weights_held: Tensor
    ) -> float:
        """Estimate the joint normal on rows z (n, P), inputs (n, C), weights (n,); the best ridge held out wins.

        Returns:
            The gain over the prior on the held-out rows, nats a row; 0 where the prior itself won.
        """
        prior = {name: value.clone() for name, value in self.named_buffers()}
        best, kept = float(self._score(z_held, inputs_held, weights_held)), prior
        zero = best
        for ridge in _RIDGES:
            self._estimate(z, inputs, weights, ridge)
            score = float(self._score(z_held, inputs_held, weights_held))
            if score > best:  # never for NaN
                best, kept = score, {name: value.clone() for name, value in self.named_buffers()}
        self.load_state_dict(kept)
        return best - zero

    def _estimate(self, z: Tensor, inputs: Tensor, weights: Tensor, ridge: float) -> None:
        w = weights.double()[:, None] / weights.double().mean()
        # As many rows of equal weight would tell as much.
        n, d = float(w.sum() ** 2 / w.square().sum()), len(self.centre)
        w = w / len(z)
        seen = self.seen(inputs).double()
        x, targets = inputs[:, :d].double(), z.double()
        self.centre.copy_((w * x * seen).sum(0) / (w * seen).sum(0).clamp(min=1.0 / len(z)))
        self.mean.copy_((w * targets).sum(0))
        x, targets = (x - self.centre) * seen, targets - self.mean
        self.features.copy_(x.T @ (w * x) + ridge * torch.eye(d, device=z.device))
        self.cross.copy_(x.T @ (w * targets))
        # The residuals of a regression on d columns are too small by about this factor.
        inflation = n / max(n - d, 0.2 * n)
        explained = self.cross.T.double() @ torch.linalg.solve(self.features.double(), self.cross.double())
        self.covariance.copy_(explained + inflation * (targets.T @ (w * targets) - explained))

    def _score(self, z: Tensor, inputs: Tensor, weights: Tensor) -> Tensor:
        total = z.new_zeros(())
        for part in torch.arange(len(z), device=z.device).split(1024):
            u, log_det = self(z[part], inputs[part])
            total = total + (weights[part] * (-0.5 * (u.square() + _LOG_2PI).sum(-1) + log_det)).sum()
        return total / weights.sum()

    def seen(self, inputs: Tensor) -> Tensor:
        """(*, D) one where a column of inputs (*, C) is observed."""
        flags = inputs[..., self.missing.clamp(min=0)]
        return 1.0 - torch.where(self.missing >= 0, flags, torch.zeros_like(flags))

    @torch.no_grad()
    def moments(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Regression (Q, P, D) and covariance (Q, P, P) of z for Q patterns of observed columns (Q, D)."""
        seen, cross = seen.double(), self.cross.double()
        # An unobserved column becomes an independent one: the shape stays the same whatever is missing.
        joint = self.features.double() * seen[:, :, None] * seen[:, None, :] + torch.diag_embed(1.0 - seen)
        cross = cross * seen[:, :, None]
        gain = torch.cholesky_solve(cross, torch.linalg.cholesky_ex(joint).L).mT
        covariance = self.covariance.double() - gain @ cross
        return gain.to(self.cross.dtype), covariance.to(self.cross.dtype)

    def centred(self, inputs: Tensor) -> Tensor:
        """Columns (*, D) about their means, zero where unobserved."""
        return (inputs[..., : len(self.centre)] - self.centre) * self.seen(inputs)

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
