"""Networks of all members at once: weights carry a leading axis of members, and one product serves them all.

Shapes: M members, B rows, P parameters, H hidden units.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import layer_norm, silu


class Linear(nn.Module):
    """x (G, B, inputs) to (G, B, outputs) with weights of its own for each of G groups.

    Args:
        groups: G; members, or members times parameters.
        inputs, outputs: widths.
        gain: of the initial weights; 0 starts at zero.
    """

    def __init__(self, groups: int, inputs: int, outputs: int, gain: float = 1.0):
        super().__init__()
        scale = gain / math.sqrt(max(inputs, 1))
        self.weight = nn.Parameter(scale * torch.randn(groups, inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(groups, 1, outputs))

    def forward(self, x: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, x, self.weight)

    def of(self, x: Tensor, group: int) -> Tensor:
        """The same for one group: x (B, inputs) to (B, outputs)."""
        return torch.addmm(self.bias[group], x, self.weight[group])


def _dropout(x: Tensor, rate: float) -> Tensor:
    """x, a share `rate` of whose entries is zero, scaled to the same mean; in steps of 1/256 on the CPU.

    A byte of a random word for each entry takes a third of the time of torch's own, once a quarter of a step.
    """
    if x.device.type != "cpu":
        return functional.dropout(x, rate)
    least = round(256 * rate)
    words = torch.empty(-(-x.numel() // 8), dtype=torch.int64).random_(-(2**63), None)
    kept = (words.view(torch.uint8)[: x.numel()] >= least).view(x.shape)
    return x * (kept.to(x.dtype) * (256 / (256 - least)))


class Residual(nn.Module):
    """x + W2 act(W1 act(x)); begins as the identity."""

    def __init__(self, groups: int, width: int, rate: float):
        super().__init__()
        self.first, self.second = Linear(groups, width, width), Linear(groups, width, width, gain=0.1)
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        h = silu(self.first(silu(x)))
        return x + self.second(_dropout(h, self.rate) if self.training and self.rate else h)

    def of(self, x: Tensor, group: int) -> Tensor:
        return x + self.second.of(silu(self.first.of(silu(x), group)), group)


class Embedding(nn.Module):
    """Features (M, B, C) to a context (M, B, H): residual blocks, then a normalisation."""

    def __init__(self, members: int, inputs: int, width: int, blocks: int, rate: float):
        super().__init__()
        self.enter = Linear(members, inputs, width)
        self.blocks = nn.ModuleList(Residual(members, width, rate) for _ in range(blocks))

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x)
        for block in self.blocks:
            h = block(h)
        return layer_norm(h, h.shape[-1:])

    def of(self, x: Tensor, member: int) -> Tensor:
        h = self.enter.of(x, member)
        for block in self.blocks:
            h = block.of(h, member)  # type: ignore[operator]
        return layer_norm(h, h.shape[-1:])


class AutoregressiveNet(nn.Module):
    """For each parameter i a network of its own of the context, the u that i may depend on, and one more column.

    Args:
        members: M.
        context: width of the context.
        width: H of each of the M x P networks.
        outputs: numbers for each parameter.
        blocks: residual blocks.
        rate: of dropout.
        mask: (P, P); 1 where the parameter of the column may depend on that of the row.
    """

    mask: Tensor

    def __init__(
        self, members: int, context: int, width: int, outputs: int, blocks: int, rate: float, mask: Tensor
    ):
        super().__init__()
        parameters = len(mask)
        groups = members * parameters
        self.shape = (members, parameters, width, outputs)
        self.enter = Linear(members, context, parameters * width)
        self.before = nn.Parameter(torch.randn(members, parameters, parameters, width) / math.sqrt(parameters))
        self.own = nn.Parameter(0.5 * torch.randn(members, 1, parameters, width))
        self.blocks = nn.ModuleList(Residual(groups, width, rate) for _ in range(blocks))
        self.leave = Linear(groups, width, outputs, gain=0.0)
        self.register_buffer("mask", mask[:, :, None], persistent=False)
        self.spans = [_span(column) for column in mask.T]  # what each may depend on

    def forward(self, u: Tensor, c: Tensor, own: Tensor) -> Tensor:
        """u, own (M, B, P) and c (M, B, context) to (M, P, B, outputs)."""
        members, parameters, width, outputs = self.shape
        before = (self.before * self.mask).flatten(2)
        h = (self.enter(c) + torch.bmm(u, before)).unflatten(-1, (parameters, width)) + own[..., None] * self.own
        h = h.transpose(1, 2).reshape(members * parameters, -1, width)
        for block in self.blocks:
            h = block(h)
        return self.leave(silu(h)).view(members, parameters, -1, outputs)

    def context_of(self, c: Tensor, members: slice) -> Tensor:
        """What the context (m, B, context) of some members adds to the first layer: (m, B, P, H)."""
        found = torch.baddbmm(self.enter.bias[members], c, self.enter.weight[members])
        return found.unflatten(-1, (self.shape[1], self.shape[2]))


def _span(depends: Tensor) -> slice:
    """The shortest slice of the parameters with all that one depends on, (P,)."""
    found = torch.nonzero(depends)[:, 0].tolist()
    return slice(found[0], found[-1] + 1) if found else slice(0, 0)
