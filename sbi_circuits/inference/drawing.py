"""Networks of one member laid out for drawing: what does not change from draw to draw is evaluated once.

Draws lie along the last axis, so that every elementwise pass runs over contiguous numbers and each layer is one
product. The embedded features, the means of the Gaussian regression and its slopes all enter the first layer linearly:
for one observation they become its weights and its bias.

Shapes: B draws, N observations, P parameters, W hidden units.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import silu

from sbi_circuits.inference.batched import AutoregressiveNet, Linear


@dataclass(frozen=True, eq=False)
class Given:
    """What the draws of one member are given, the parameters in its order.

    Args:
        context: (N, H) embedded features.
        mean: (N, P) of z under the Gaussian regression.
        factor: (Q, P, P) Cholesky factors of its covariance, for Q patterns of observed features.
        row: (B,) which observation each draw is for; None where there is one.
        pattern: (B,) which of several factors each draw has; None where there is one.
    """

    context: Tensor
    mean: Tensor
    factor: Tensor
    row: Tensor | None
    pattern: Tensor | None

    @property
    def sd(self) -> Tensor:
        """Diagonals of the factors, (P, 1) or (P, B)."""
        found = self.factor.diagonal(dim1=1, dim2=2).T
        return found if self.pattern is None else found[:, self.pattern]

    def lean(self, i: int, u: Tensor) -> Tensor | None:
        """(B,) by how much the u before parameter i, (P, B), move its mean; None where there is one factor."""
        if self.pattern is None:
            return None
        return (u[:i] * self.factor[:, i, :i].T[:, self.pattern]).sum(0)

    def placed(self, u: Tensor) -> Tensor:
        """z (P, B) of the residual u (P, B)."""
        mean = self.mean.T if self.row is None else self.mean.T[:, self.row]
        if self.pattern is None:
            return mean + self.factor[0] @ u
        return mean + torch.einsum("bij,jb->ib", self.factor[self.pattern], u)


class Conditioner:
    """The networks of one member and layer, for N observations.

    Args:
        net: of all members.
        member: which one.
        given: the observations. The column of its own that each parameter's network reads is the mean of z.
        leaning: whether that mean follows the u before.
        outputs: (O,) which of the network's outputs are wanted; -1 stands for a zero. None: all.
    """

    def __init__(
        self, net: AutoregressiveNet, member: int, given: Given, leaning: bool, outputs: Tensor | None = None
    ):
        self.given, self.leaning, parameters = given, leaning, net.shape[1]
        groups = slice(member * parameters, (member + 1) * parameters)
        own = net.own[member, 0]
        own = torch.cat([own, torch.ones_like(own[:, :1])], dim=1)  # the column itself is the last row
        before = _with_row((net.before[member] * net.mask).permute(1, 2, 0))
        if leaning and given.pattern is None:
            before = before + own[:, :, None] * given.factor[0].tril(-1)[:, None]
        entered = _with_row(net.context_of(given.context, member).permute(1, 2, 0))
        bias = entered + own[:, :, None] * given.mean.T[:, None]
        leave = _augmented(net.leave, groups)
        if outputs is not None:
            leave = leave[:, outputs.clamp(min=0)] * (outputs >= 0)[:, None]
        # Rows are taken apart here once: at a few thousand draws each view costs a tenth of a product.
        self.own, self.bias, self.leave = own.unbind(0), bias.unbind(0), leave.unbind(0)
        self.spans = [_span(column) for column in net.mask[:, :, 0].T]
        self.before = [before[i, :, span] for i, span in enumerate(self.spans)]
        pairs: list[Any] = list(net.blocks)
        self.blocks = [[_augmented(part, groups).unbind(0) for part in (b.first, b.second)] for b in pairs]
        self.room: list[Tensor] = []

    def __call__(self, i: int, u: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs (O, B) for parameter i, and its own column (B,); of u (P, B) what i may depend on is read."""
        bias = self.bias[i] if self.given.row is None else self.bias[i].index_select(1, self.given.row)
        entered = torch.addmm(bias, self.before[i], u[self.spans[i]])
        lean = self.given.lean(i, u) if self.leaning else None
        if lean is not None:
            entered.addr_(self.own[i], lean)
        h, own = entered.tensor_split((-1,))
        active, active_rows, inner, inner_rows = self._rooms(entered)
        for first, second in self.blocks:
            torch.sigmoid(h, out=active_rows).mul_(h)
            torch.mm(first[i], active, out=inner_rows)
            silu(inner_rows, inplace=True)
            h.addmm_(second[i], inner)
        torch.sigmoid(h, out=active_rows).mul_(h)
        return torch.mm(self.leave[i], active), own[0]

    def _rooms(self, like: Tensor) -> list[Tensor]:
        """Two of the shape of `like`, each followed by its rows but the last, which is one and multiplies the bias."""
        if not self.room or self.room[0].shape != like.shape:
            rooms = (torch.ones_like(like), torch.ones_like(like))
            self.room = [part for room in rooms for part in (room, room[:-1])]
        return self.room


def _with_row(x: Tensor) -> Tensor:
    """x (P, W, *) with a row of zeros after the last."""
    return torch.cat([x, torch.zeros_like(x[:, :1])], dim=1)


def _augmented(linear: Linear, groups: slice) -> Tensor:
    """(P, outputs, inputs + 1): weights of some groups, the bias as the last column."""
    return torch.cat([linear.weight[groups].mT, linear.bias[groups].mT], dim=2)


def _span(depends: Tensor) -> slice:
    """The shortest slice of the parameters with all that one depends on, (P,)."""
    found = torch.nonzero(depends)[:, 0].tolist()
    return slice(found[0], found[-1] + 1) if found else slice(0, 0)
