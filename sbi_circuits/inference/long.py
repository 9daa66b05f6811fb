"""Families of many features (a spectrum of 990 values, binned counts) as a few numbers: fixed ones and learned ones.

A network that takes each of a thousand noisy values as an input of its own overfits a table of a few thousand rows,
and a regression on them has more coefficients than rows. Here the regression that flows start from sees `Summary`,
principal components of the family, and the members see these and a strided convolution of the family. Where a value
lies matters in a spectrum; of counts in time only what comes after what does: their convolution is averaged over time.

Shapes: M members, B rows, C network inputs, K features of a family.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad, silu

from sbi_circuits.inference.encode import FeatureEncoder

LONG = 64  # features; families of more are read so
POOLED = ("counts",)  # families whose features follow time
_AXES, _OUTPUTS = 32, 32
_CHANNELS = {False: (8, 16), True: (16, 32)}  # by `pooled`
_POSITIONS, _STRIDE = 128, 4  # of the first layer, about; of the second
_ROWS, _TINY = 4096, 1e-6
_SPARE, _ITERATIONS = 8, 6  # of the search for components
_MOMENTS = 3


@dataclass(frozen=True)
class LongFamily:
    """Which network inputs belong to a family of many features, and how it is read.

    Args:
        name: of the family.
        pooled: averaged over its features, as counts in time.
        values, undefined, unobserved: (K,) the inputs of each feature; -1 where there is none.
        axes: numbers of its `Summary`.
        channels: of the two layers of its convolution; none where these are 0.
        outputs: of the convolution.
    """

    name: str
    pooled: bool
    values: tuple[int, ...]
    undefined: tuple[int, ...]
    unobserved: tuple[int, ...]
    axes: int
    channels: tuple[int, int]
    outputs: int

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "LongFamily":
        """What `dataclasses.asdict` gave, as JSON keeps it."""
        known: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in content.items()}
        return cls(**known)

    @property
    def inputs(self) -> set[int]:
        """All inputs that belong to it."""
        return {i for columns in (self.values, self.undefined, self.unobserved) for i in columns if i >= 0}


def long_families(names: tuple[str, ...], encoder: FeatureEncoder) -> tuple[LongFamily, ...]:
    """The families of which more than 64 features tell something.

    Args:
        names: (F,) "family.feature".
        encoder: which network inputs each feature has.
    """
    place, n = {int(column): i for i, column in enumerate(encoder.columns)}, len(names)
    known = np.flatnonzero(~encoder.ignored)
    own = np.array([names[f].split(".")[0] for f in known])
    found = []
    for name in dict.fromkeys(own.tolist()):
        features = known[own == name]
        if len(features) > LONG:
            values, undefined, unobserved = (
                tuple(place.get(int(f) + k * n, -1) for f in features) for k in range(3)
            )
            pooled = name in POOLED
            axes = _MOMENTS if pooled else min(_AXES, len(features))
            channels = _CHANNELS[pooled]
            found.append(LongFamily(name, pooled, values, undefined, unobserved, axes, channels, _OUTPUTS))
    return tuple(found)


class Columns(nn.Module):
    """Picks inputs (*, C) by their positions (K,); zero where there is none. A slice where they lie together."""

    index: Tensor
    there: Tensor

    def __init__(self, columns: tuple[int, ...]):
        super().__init__()
        first = columns[0] if columns else -1
        together = first >= 0 and columns == tuple(range(first, first + len(columns)))
        self.slice = slice(first, first + len(columns)) if together else None
        self.empty = max(columns, default=-1) < 0
        index = torch.tensor(columns, dtype=torch.long)
        self.register_buffer("index", index.clamp(min=0), persistent=False)
        self.register_buffer("there", (index >= 0).float(), persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        if self.slice is not None:
            return inputs[..., self.slice]
        if self.empty:
            return inputs.new_zeros(*inputs.shape[:-1], len(self.index))
        return inputs[..., self.index] * self.there.to(inputs.dtype)


class Planes(nn.Module):
    """Values of one family, and where they are defined: both (*, K), the second None where nothing is ever missing."""

    def __init__(self, family: LongFamily):
        super().__init__()
        self.values, self.undefined = Columns(family.values), Columns(family.undefined)
        self.unobserved = Columns(family.unobserved)
        self.masked = not (self.undefined.empty and self.unobserved.empty)

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor | None]:
        if not self.masked:
            return self.values(inputs), None
        missing = [c(inputs) for c in (self.undefined, self.unobserved) if not c.empty]
        return self.values(inputs), 1.0 - (missing[0] if len(missing) == 1 else missing[0] + missing[1])

    def shares(self, inputs: Tensor) -> Tensor:
        """(*, 2) shares of the features that are undefined and unobserved."""
        return torch.stack([c(inputs).mean(-1) for c in (self.undefined, self.unobserved)], dim=-1)


class Summary(nn.Module):
    """A few fixed numbers of a family: whitened principal components, or moments of what follows time.

    Components of a part of the features are those of the part, scaled up by its share; the network, which is trained
    with parts, learns the rest.
    """

    offset: Tensor
    axes: Tensor

    def __init__(self, family: LongFamily):
        super().__init__()
        self.family, self.planes = family, Planes(family)
        if not family.pooled:
            k = len(family.values)
            self.register_buffer("offset", torch.zeros(k))
            self.register_buffer("axes", torch.eye(k, family.axes))

    @torch.no_grad()
    def fit(self, inputs: Any, rows: int, device: torch.device) -> None:
        """Find the components on some of the rows of `inputs`, which gives those it is indexed with."""
        if self.family.pooled:
            return
        step = max(1, -(-rows // _ROWS))
        parts = torch.arange(0, rows, step, device=device).split(512)
        planes = [self.planes(inputs[part]) for part in parts]
        x = torch.cat([values for values, _ in planes]).double()
        there = torch.cat([torch.ones_like(values) if t is None else t for values, t in planes]).double()
        offset = (x * there).sum(0) / there.sum(0).clamp(min=1.0)
        sizes, axes = _components((x - offset) * there / math.sqrt(len(x)), self.family.axes)
        self.offset.copy_(offset)
        self.axes.copy_(torch.where(sizes > _TINY * sizes[0], axes / sizes.clamp(min=1e-30), 0.0))

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs (*, C) to (*, axes); zero where nothing is observed."""
        x, there = self.planes(inputs)
        if self.family.pooled:
            return _moments(x, torch.ones_like(x) if there is None else there)
        centred, axes = x - self.offset.to(x.dtype), self.axes.to(x.dtype)
        if there is None:
            return centred @ axes
        share = there.mean(-1, keepdim=True).clamp(min=1.0 / there.shape[-1])
        return (centred * there) @ axes / share

    def seen(self, inputs: Tensor) -> Tensor:
        """(*, axes) one where any feature is observed."""
        some = 1.0 - self.planes.unobserved(inputs).amin(-1, keepdim=True)
        return some.expand(*some.shape[:-1], self.family.axes)


def _components(x: Tensor, wanted: int) -> tuple[Tensor, Tensor]:
    """The largest singular values (wanted,) of x (n, K) and their right vectors (K, wanted).

    By subspace iteration from a fixed start (Halko et al. 2011, SIAM Review 53:217, algorithm 4.4), a small part of the
    time of the whole decomposition.
    """
    most = min(wanted + _SPARE, *x.shape)
    random = torch.Generator().manual_seed(0)
    basis = torch.randn(x.shape[1], most, generator=random, dtype=x.dtype).to(x.device)
    for _ in range(_ITERATIONS):
        basis = torch.linalg.qr(x.T @ (x @ basis)).Q
    _, sizes, turn = torch.linalg.svd(x @ basis, full_matrices=False)
    found = (basis @ turn.T)[:, :wanted]
    more = wanted - found.shape[1]
    return pad(sizes[:wanted], (0, more)), pad(found, (0, more))


def _moments(x: Tensor, there: Tensor) -> Tensor:
    """Mean over the features, and the logarithms of their variance and of that of their steps: (*, 3)."""
    share = there.mean(-1, keepdim=True).clamp(min=1.0 / there.shape[-1])
    mean = (x * there).mean(-1, keepdim=True) / share
    variance = ((x - mean).square() * there).mean(-1, keepdim=True) / share
    both = there[..., 1:] * there[..., :-1]
    steps = (x.diff(dim=-1).square() * both).sum(-1, keepdim=True) / both.sum(-1, keepdim=True).clamp(min=1.0)
    some = (share * there.shape[-1] > 1.5).to(x.dtype)
    return torch.cat([mean, some * (variance + 0.01).log(), some * (steps + 0.01).log()], dim=-1)


class _Strided(nn.Module):
    """x (M, B, L, inputs) to (M, B, ceil(L / stride), outputs): windows of twice the stride, as two products."""

    def __init__(self, members: int, inputs: int, outputs: int, stride: int):
        super().__init__()
        scale = 1.0 / math.sqrt(2 * stride * inputs)
        self.stride = stride
        self.here = nn.Parameter(scale * torch.randn(members, stride * inputs, outputs))
        self.next = nn.Parameter(scale * torch.randn(members, stride * inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(members, 1, outputs))

    def forward(self, x: Tensor, chosen: slice) -> Tensor:
        members, rows, length, _ = x.shape
        x = pad(x, (0, 0, 0, -length % self.stride))
        x = x.reshape(members, rows, x.shape[2] // self.stride, -1)
        after = pad(x[:, :, 1:], (0, 0, 0, 1))
        first = torch.baddbmm(self.bias[chosen], x.flatten(1, 2), self.here[chosen])
        return torch.baddbmm(first, after.flatten(1, 2), self.next[chosen]).unflatten(1, x.shape[1:3])


class Convolution(nn.Module):
    """A family (K features) to `outputs` numbers, with weights of its own for each member."""

    def __init__(self, members: int, family: LongFamily):
        super().__init__()
        self.family, self.planes = family, Planes(family)
        stride = -(-len(family.values) // _POSITIONS)
        first, second = family.channels
        entering = 2 if self.planes.masked else 1
        strided = [_Strided(members, entering, first, stride), _Strided(members, first, second, _STRIDE)]
        self.layers = nn.ModuleList(strided)
        self.block = stride * _STRIDE
        width = 2 * second if family.pooled else -(-len(family.values) // self.block) * second
        self.leave = nn.Parameter(torch.randn(members, width, family.outputs) / math.sqrt(width))
        self.bias = nn.Parameter(torch.zeros(members, 1, family.outputs))

    def forward(self, inputs: Tensor, chosen: slice = slice(None)) -> Tensor:
        """Inputs (m, B, C) of the chosen members to (m, B, outputs)."""
        x, there = self.planes(inputs)
        h = x[..., None] if there is None else torch.stack([x, there], dim=-1)
        for layer in self.layers:
            h = silu(layer(h, chosen))
        h = self._pooled(h, torch.ones_like(x) if there is None else there) if self.family.pooled else h.flatten(2)
        return torch.baddbmm(self.bias[chosen], h, self.leave[chosen])

    def _pooled(self, h: Tensor, there: Tensor) -> Tensor:
        """Mean and root mean square over the positions, by how much of each was observed."""
        weight = pad(there, (0, -there.shape[-1] % self.block)).unflatten(-1, (-1, self.block)).mean(-1)
        weight = (weight / weight.sum(-1, keepdim=True).clamp(min=_TINY))[..., None]
        mean, square = (weight * h).sum(2), (weight * h.square()).sum(2)
        return torch.cat([mean, (square + _TINY).sqrt()], dim=-1)


class LongInputs(nn.Module):
    """Network inputs (M, B, C) whose long families have become short: (M, B, width).

    Args:
        members: M.
        inputs: C.
        families: the long ones.
    """

    def __init__(self, members: int, inputs: int, families: tuple[LongFamily, ...]):
        super().__init__()
        rest = sorted(set(range(inputs)) - {i for family in families for i in family.inputs})
        self.rest = Columns(tuple(rest))
        self.convolutions = nn.ModuleList(Convolution(members, f) for f in families if any(f.channels))
        self.width = len(rest) + sum(f.axes + 2 + (f.outputs if any(f.channels) else 0) for f in families)

    def forward(self, inputs: Tensor, summaries: nn.ModuleList, chosen: slice = slice(None)) -> Tensor:
        return torch.cat([*self._parts(inputs, summaries, chosen)], dim=-1)

    def _parts(self, inputs: Tensor, summaries: nn.ModuleList, chosen: slice) -> Iterator[Tensor]:
        yield self.rest(inputs)
        for summary in summaries:
            assert isinstance(summary, Summary)
            yield from (summary(inputs), summary.planes.shares(inputs))
        for convolution in self.convolutions:
            yield convolution(inputs, chosen)
