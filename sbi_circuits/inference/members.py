"""All members of a posterior as one conditional density, trained and evaluated in one batched computation.

See also: `flows`, the same for the flows of zuko and nflows.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sbi_circuits.inference import heads, mixtures
from sbi_circuits.inference.batched import AutoregressiveNet, Embedding
from sbi_circuits.inference.config import FlowSpec
from sbi_circuits.inference.coordinates import bound
from sbi_circuits.inference.drawing import Conditioner, Given
from sbi_circuits.inference.gaussian import GaussianStart
from sbi_circuits.inference.long import LongInputs

_LOG_SQRT_2PI = 0.5 * math.log(2.0 * math.pi)
_PRIOR_SD = {"uniform": 30.0, "normal": 1.0}  # a normal so wide is flat between the bounds


@dataclass(frozen=True, eq=False)
class Frame:
    """The Gaussian regression for Q patterns of observed features, in the order of each member.

    Args:
        gain: (Q, P, D) regression.
        factor, inverse: (M, Q, P, P) Cholesky factor of the covariance, and its inverse.
    """

    gain: Tensor
    factor: Tensor
    inverse: Tensor


@dataclass(frozen=True, eq=False)
class Place:
    """Where z lies under the Gaussian regression, each (M, B, P) in the order of the member.

    Args:
        u: the residual, standard normal under the regression.
        mean, sd: of z given the features and the z before it.
        regression: mean of z given the features alone.
    """

    u: Tensor
    mean: Tensor
    sd: Tensor
    regression: Tensor


class Members(nn.Module):
    """q_m(z | features) for M members: mixtures, splines or affine maps of u, the residual of a Gaussian regression.

    Args:
        spec: shape of every member; `spec.members` of them.
    """

    orders: Tensor

    def __init__(self, spec: FlowSpec):
        super().__init__()
        self.spec = spec
        m, p = spec.members, spec.parameters
        self.start = GaussianStart(p, len(spec.missing), spec.missing, spec.long)
        self.shorten = LongInputs(m, spec.inputs, spec.long) if spec.long else None
        inputs = spec.inputs if self.shorten is None else self.shorten.width
        self.embedding = Embedding(m, inputs, spec.hidden, spec.blocks, spec.dropout)
        outputs = 3 * spec.bins + 1 if spec.transform == "mixture" else heads.width(self.kind, spec.bins)
        mask = _coupled(p) if spec.transform == "coupling" else torch.ones(p, p).triu(1)
        masks = [mask if i % 2 == 0 else mask.T for i in range(spec.layers)]
        nets = [AutoregressiveNet(m, spec.hidden, spec.width, outputs, 1, spec.dropout, mask) for mask in masks]
        self.layers = nn.ModuleList(nets)
        orders = [torch.arange(p), torch.arange(p).flip(0), *(torch.randperm(p) for _ in range(m))]
        self.register_buffer("orders", torch.stack(orders[:m]))
        if spec.transform == "mixture":
            with torch.no_grad():
                nets[0].leave.bias.add_(mixtures.initial_bias(spec.bins))

    def owned(self) -> Iterator[tuple[str, nn.Parameter, int | None]]:
        """(name, weight, None): the first axis of every weight is members, or members times parameters."""
        yield from ((name, weight, None) for name, weight in self.named_parameters())

    def net(self, depth: int) -> AutoregressiveNet:
        """The networks of one layer."""
        found = self.layers[depth]
        assert isinstance(found, AutoregressiveNet)
        return found

    @property
    def kind(self) -> str:
        return "affine" if self.spec.transform == "affine" else "spline"

    @property
    def bounded(self) -> bool:
        return self.spec.coordinates == "uniform"

    def frame(self, seen: Tensor) -> Frame:
        """The regression for patterns (Q, D)."""
        return frame(self.start, seen, self.orders)

    def context(self, inputs: Tensor) -> Tensor:
        """Inputs (M, B, C) to the context (M, B, H)."""
        return self.embedding(inputs if self.shorten is None else self.shorten(inputs, self.start.summaries))

    def _context_of(self, inputs: Tensor, member: int) -> Tensor:
        """The same of one member: (B, C) to (B, H)."""
        if self.shorten is not None:
            inputs = self.shorten(inputs[None], self.start.summaries, slice(member, member + 1))[0]
        return self.embedding.of(inputs, member)

    def log_density(self, z: Tensor, inputs: Tensor, frame: Frame, pattern: Tensor) -> Tensor:
        """Log density (M, B).

        Args:
            z: (M, B, P).
            inputs: (M, B, C) encoded features, or (M, 1, C) for all.
            frame: the regression.
            pattern: (M, B) which pattern of `frame` each row has.
        """
        where = place(self.start, z, inputs, frame, pattern, self.orders)
        c = self.context(inputs)
        log_sd = where.sd.log()
        if self.spec.transform == "mixture":
            raw = self.layers[0](where.u, c, where.mean).transpose(1, 2)
            mixture, low, high = self._mixture(raw, where.mean, where.sd)
            return (mixtures.log_density(mixture, where.u, low, high, self.bounded) - log_sd).sum(-1)
        u, total = where.u, -log_sd.sum(-1)
        for layer in self.layers:
            u, log_slope = heads.bijection(self.kind, u, layer(u, c, where.regression).transpose(1, 2))
            total = total + log_slope.sum(-1)
        return total - (0.5 * u.square() + _LOG_SQRT_2PI).sum(-1)

    @torch.no_grad()
    def ranks(self, z: Tensor, inputs: Tensor) -> Tensor:
        """Conditional distribution function (M, B, P) of each parameter of z (B, P), mixtures only, in their order."""
        m, b = self.spec.members, len(z)
        seen = torch.unique(self.start.seen(inputs), dim=0)
        rows, pattern = inputs.expand(b, -1).expand(m, -1, -1), torch.zeros(m, b, dtype=torch.long)
        where = place(self.start, z.expand(m, -1, -1), rows, self.frame(seen), pattern, self.orders)
        raw = self.layers[0](where.u, self.context(rows), where.mean).transpose(1, 2)
        mixture, low, high = self._mixture(raw, where.mean, where.sd)
        return mixtures.rank(mixture, where.u, low, high, self.bounded)

    def _mixture(self, raw: Tensor, mean: Tensor, sd: Tensor) -> tuple[mixtures.Mixture, Tensor, Tensor]:
        """The mixture in u, and the prior's bounds there."""
        edge, wide = bound(self.spec.coordinates), _PRIOR_SD[self.spec.coordinates]
        low, high = (-edge - mean) / sd, (edge - mean) / sd
        return mixtures.mixture(raw, low, high, -mean / sd, math.log(wide) - sd.log()), low, high

    def log_prob(self, z: Tensor, inputs: Tensor) -> Tensor:
        """Log density (M, B) of z (B, P) given inputs (B, C), or (1, C) for all; differentiable in z."""
        seen, pattern = torch.unique(self.start.seen(inputs), dim=0, return_inverse=True)
        m, b = self.spec.members, len(z)
        rows = inputs.expand(m, -1, -1)  # one row for all is looked at once
        return self.log_density(z.expand(m, -1, -1), rows, self.frame(seen), pattern.expand(b).expand(m, -1))

    @torch.no_grad()
    def draw(self, member: int, noise: Tensor, inputs: Tensor, row: Tensor | None = None) -> Tensor:
        """z (B, P) of standard normal noise (B, P).

        Args:
            member: which one.
            noise: (B, P).
            inputs: (N, C) encoded features.
            row: (B,) which row of inputs each draw is for; None where there is one for all.
        """
        return self.draw_members(slice(member, member + 1), noise[None], inputs, row)[0]

    @torch.no_grad()
    def draw_members(self, members: slice, noise: Tensor, inputs: Tensor, row: Tensor | None = None) -> Tensor:
        """z (M, B, P) of some members from noise (M, B, P) in one computation; other arguments as in `draw`."""
        seen, pattern = torch.unique(self.start.seen(inputs), dim=0, return_inverse=True)
        orders, x = self.orders[members], self.start.centred(inputs)
        regression = frame(self.start, seen, orders)
        gain, which = regression.gain, None if row is None or len(seen) == 1 else pattern[row]
        mean = self.start.mean + (x @ gain[0].mT if len(seen) == 1 else torch.einsum("npd,nd->np", gain[pattern], x))
        context = torch.stack([self._context_of(inputs, k) for k in range(self.spec.members)[members]])
        given = Given(members, context, mean[:, orders].transpose(0, 1), regression.factor, row, which)
        draw = self._draw_mixture if self.spec.transform == "mixture" else self._draw_flow
        z = draw(noise.mT.contiguous(), given)
        own = torch.arange(len(orders), device=z.device)[:, None]
        return z[own, torch.argsort(orders)].mT

    def _draw_mixture(self, noise: Tensor, given: Given) -> Tensor:
        """z (M, P, B) of noise (M, P, B)."""
        edge, wide = bound(self.spec.coordinates), _PRIOR_SD[self.spec.coordinates]
        inverter = mixtures.Inverter(self.spec.bins, self.bounded, noise)
        net = Conditioner(self.net(0), given, leaning=True, outputs=inverter.columns)
        u, sd, means = torch.empty_like(noise), given.sd, []
        ranks = torch.special.ndtr(noise).unbind(1)
        for i, (rank, out, scale) in enumerate(zip(ranks, u.unbind(1), sd, strict=True)):
            means.append(net.means(i, u))
            prior, half = means[i] / -scale, edge / scale
            inverter(net(i, u), rank, prior - half, prior + half, prior, wide / scale, out)
        return torch.stack(means, dim=1).addcmul_(sd.transpose(0, 1), u)

    def _draw_flow(self, noise: Tensor, given: Given) -> Tensor:
        """z (M, P, B) of noise (M, P, B)."""
        u, steps = noise, list(range(noise.shape[1]))
        if self.spec.transform == "coupling":
            steps = steps[::2] + steps[1::2]
        for depth in reversed(range(len(self.layers))):
            net, v = Conditioner(self.net(depth), given, leaning=False), torch.zeros_like(u)
            for i in steps if depth % 2 == 0 else reversed(steps):
                raw = net(i, v).mT.contiguous()
                v[:, i] = heads.bijection(self.kind, u[:, i], raw, inverse=True)[0]
            u = v
        return given.placed(u)


@torch.no_grad()
def frame(start: GaussianStart, seen: Tensor, orders: Tensor) -> Frame:
    """The regression for patterns (Q, D), the parameters in the order of each member (M, P)."""
    gain, covariance = start.moments(seen)
    ordered = torch.stack([covariance[:, order][:, :, order] for order in orders]).double()
    factor = torch.linalg.cholesky_ex(ordered).L
    unit = torch.eye(orders.shape[1], dtype=factor.dtype, device=factor.device)
    inverse = torch.linalg.solve_triangular(factor, unit, upper=False)
    return Frame(gain, factor.to(gain.dtype), inverse.to(gain.dtype))


def place(
    start: GaussianStart, z: Tensor, inputs: Tensor, frame: Frame, pattern: Tensor, orders: Tensor | None = None
) -> Place:
    """Residuals of z (M, B, P) given inputs (M, B, C), each row with its `pattern` (M, B) of the frame."""
    x, one = start.centred(inputs), frame.gain.shape[0] == 1
    mean = start.mean + (x @ frame.gain[0].mT if one else torch.einsum("mbpd,mbd->mbp", frame.gain[pattern], x))
    if orders is not None:
        order = orders[:, None].expand(-1, z.shape[1], -1)
        z, mean = z.gather(-1, order), mean.expand_as(z).gather(-1, order)
    # A frame of one order serves all members.
    own = torch.arange(len(frame.factor), device=z.device)[:, None]
    inverse = frame.inverse[:, 0] if one else frame.inverse[own, pattern]
    inverse = inverse.expand(len(z), *inverse.shape[1:])
    u = torch.einsum("mij,mbj->mbi" if one else "mbij,mbj->mbi", inverse, z - mean)
    sd = frame.factor.diagonal(dim1=-2, dim2=-1)
    sd = (sd if one else sd[own, pattern]).expand_as(u)
    return Place(u, z - u * sd, sd, mean)


def _coupled(parameters: int) -> Tensor:
    """Every second parameter depends on the others."""
    odd = (torch.arange(parameters) % 2).float()
    return (1.0 - odd)[:, None] * odd
