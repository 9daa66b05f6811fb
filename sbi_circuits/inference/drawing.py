"""Networks of some members laid out for drawing: what does not change from draw to draw is evaluated once.

Draws lie along the last axis, so that every elementwise pass runs over contiguous numbers and each layer is one product
for all members. The embedded features, the means of the Gaussian regression and its slopes all enter the first layer
linearly: for one observation they become its weights and its bias.

Shapes: M members, B draws, N observations, P parameters, W hidden units.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import silu

from sbi_circuits.inference.batched import AutoregressiveNet


@dataclass(frozen=True, eq=False)
class Given:
    """What the draws of some members are given, the parameters in the order of each.

    Args:
        members: which ones.
        context: (M, N, H) embedded features.
        mean: (M, N, P) of z under the Gaussian regression.
        factor: (M, Q, P, P) Cholesky factors of its covariance, for Q patterns of observed features.
        row: (B,) which observation each draw is for; None where there is one.
        pattern: (B,) which of several factors each draw has; None where there is one.
    """

    members: slice
    context: Tensor
    mean: Tensor
    factor: Tensor
    row: Tensor | None
    pattern: Tensor | None

    @property
    def sd(self) -> Tensor:
        """Diagonals of the factors, (P, M, 1) or (P, M, B)."""
        found = self.factor.diagonal(dim1=2, dim2=3).permute(2, 0, 1)
        return found if self.pattern is None else found[..., self.pattern]

    def lean(self, i: int, u: Tensor) -> Tensor:
        """(M, B) by how much the u before parameter i, (M, P, B), move its mean, where there are several factors."""
        return (u[:, :i] * self.factor[:, :, i, :i].mT[..., self.pattern]).sum(1)

    def placed(self, u: Tensor) -> Tensor:
        """z (M, P, B) of the residual u (M, P, B)."""
        mean = self.mean.mT if self.row is None else self.mean.mT[..., self.row]
        if self.pattern is None:
            return mean + self.factor[:, 0] @ u
        return mean + torch.einsum("mbij,mjb->mib", self.factor[:, self.pattern], u)


class Conditioner:
    """The networks of one layer, for N observations.

    Args:
        net: of all members.
        given: members and observations. The column of its own that each parameter's network reads is the mean of z.
        leaning: whether that mean follows the u before.
        outputs: (O,) which of the network's outputs are wanted; -1 stands for a zero. None: all.
    """

    def __init__(self, net: AutoregressiveNet, given: Given, leaning: bool, outputs: Tensor | None = None):
        self.given, self.leaning, self.spans = given, leaning, net.spans
        own = net.own[given.members, 0].transpose(0, 1)[..., None]
        before = (net.before[given.members] * net.mask).permute(2, 0, 3, 1)
        slopes = given.factor[:, 0].tril(-1).transpose(0, 1)[:, :, None]
        if leaning and given.pattern is None:
            before = before + own * slopes
        mean = given.mean.permute(2, 0, 1)[:, :, None]
        bias = net.context_of(given.context, given.members).permute(2, 0, 3, 1) + own * mean
        leave = self._augmented(net.leave, net)
        if outputs is not None:
            leave = leave[:, :, outputs.clamp(min=0)] * (outputs >= 0)[:, None]
        # Rows are taken apart here once: at a few thousand draws each view costs a tenth of a product.
        self.own, self.bias, self.mean, self.leave = (a.contiguous().unbind(0) for a in (own, bias, mean, leave))
        self.before = [part[..., span] for part, span in zip(before.contiguous().unbind(0), self.spans, strict=True)]
        self.slopes = [part[..., span] for part, span in zip(slopes.contiguous().unbind(0), self.spans, strict=True)]
        pairs: list[Any] = list(net.blocks)
        self.blocks = [[self._augmented(part, net).unbind(0) for part in (b.first, b.second)] for b in pairs]
        self.room: list[Tensor] = []

    def __call__(self, i: int, u: Tensor) -> Tensor:
        """Outputs (M, O, B) for parameter i; of u (M, P, B) what it may depend on is read."""
        h = torch.baddbmm(self._of_row(self.bias[i]), self.before[i], u[:, self.spans[i]])
        if self.leaning and self.given.pattern is not None:
            h.addcmul_(self.own[i], self.given.lean(i, u)[:, None])
        active, rows, inner = self._rooms(h)
        for first, second in self.blocks:
            torch.sigmoid(h, out=rows).mul_(h)
            torch.bmm(first[i], active, out=inner)
            silu(inner, inplace=True)
            h.baddbmm_(second[i][..., :-1], inner).add_(second[i][..., -1:])
        torch.sigmoid(h, out=rows).mul_(h)
        return torch.bmm(self.leave[i], active)

    def means(self, i: int, u: Tensor) -> Tensor:
        """(M, B) the means of parameter i given the u (M, P, B) before it."""
        if self.given.pattern is None:
            return torch.baddbmm(self._of_row(self.mean[i]), self.slopes[i], u[:, self.spans[i]])[:, 0]
        return self._of_row(self.mean[i])[:, 0] + self.given.lean(i, u)

    def _of_row(self, x: Tensor) -> Tensor:
        """x (M, *, N) of the observation of each draw, (M, *, B); (M, *, 1) of the only one."""
        return x if self.given.row is None else x.index_select(2, self.given.row)

    def _augmented(self, linear: Any, net: AutoregressiveNet) -> Tensor:
        """(P, M, outputs, inputs + 1): weights, the bias as the last column."""
        parts = (part.unflatten(0, net.shape[:2])[self.given.members].mT for part in (linear.weight, linear.bias))
        return torch.cat([*parts], dim=3).transpose(0, 1).contiguous()

    def _rooms(self, h: Tensor) -> list[Tensor]:
        """Room for h (M, W, B) with a last row of ones, which multiply the bias; its other rows; and for h again."""
        if not self.room or self.room[2].shape != h.shape:
            active = h.new_ones(len(h), h.shape[1] + 1, h.shape[2])
            self.room = [active, active[:, :-1], torch.empty_like(h)]
        return self.room
