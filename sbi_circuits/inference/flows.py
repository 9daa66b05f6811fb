"""Conditional spline flows of two libraries behind the interface of `members`.

A flow maps z in R^P, given the encoded features, to standard normal noise. Every flow begins as a Gaussian
regression (see `gaussian`), and weight decay pulls it back there; before that is fitted it is the prior.

Source: Durkan et al. 2019, "Neural spline flows", arXiv:1906.04032.
"""

import math
from collections.abc import Iterator

import torch
import zuko
from nflows import transforms as nft
from nflows.nn.nets import ResidualNet
from torch import Tensor, nn

from sbi_circuits.errors import InferenceError
from sbi_circuits.inference.config import FlowSpec
from sbi_circuits.inference.gaussian import GaussianStart
from sbi_circuits.inference.members import Frame, Members, frame, place

BOUND = 6.0  # the splines act on [-6, 6] and are the identity beyond; the prior's z is within 5 for 1e6 rows
_LOG_SQRT_2PI = 0.5 * math.log(2.0 * math.pi)
_MIN_DERIVATIVE = 1e-3  # nflows' default


class Block(nn.Module):
    """One residual block: x + W2 act(W1 norm(x))."""

    def __init__(self, width: int, dropout: float):
        super().__init__()
        self.body = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Dropout(dropout),
            nn.Linear(width, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class Standardise(nn.Module):
    """Elementwise u = (z + shift(c)) exp(scale(c)): brings a narrow posterior to the bins of the splines."""

    def __init__(self, parameters: int, width: int):
        super().__init__()
        self.head = _zeroed(nn.Linear(width, 2 * parameters))

    def terms(self, c: Tensor) -> tuple[Tensor, Tensor]:
        shift, raw = self.head(c).chunk(2, dim=-1)
        return shift, raw / (1.0 + raw.abs() / 7.0)  # the scale stays within exp(-7) .. exp(7)

    def forward(self, z: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        shift, scale = self.terms(c)
        return (z + shift) * scale.exp(), scale.sum(-1)

    def inverse(self, u: Tensor, c: Tensor) -> Tensor:
        shift, scale = self.terms(c)
        return u * (-scale).exp() - shift


class ConditionalFlow(nn.Module):
    """q(z | features): an embedding of the features, a conditional standardisation, then splines.

    See also: `LibraryMembers`.
    """

    def __init__(self, spec: FlowSpec, splines: "ZukoSplines | NflowsSplines"):
        super().__init__()
        self.spec = spec
        self.embedding = nn.Sequential(
            nn.Linear(spec.inputs, spec.hidden),
            *(Block(spec.hidden, spec.dropout) for _ in range(spec.blocks)),
            nn.LayerNorm(spec.hidden),
        )
        self.standardise = Standardise(spec.parameters, spec.hidden)
        self.splines = splines

    def log_prob(self, u: Tensor, inputs: Tensor) -> Tensor:
        """Log density of u (B, P) given encoded features (B, C), or (1, C) for all: shape (B,)."""
        c = self.embedding(inputs).expand(len(u), -1)
        u, log_scale = self.standardise(u, c)
        noise, log_det = self.splines(u, c)
        log_normal = -0.5 * noise.square().sum(-1) - self.spec.parameters * _LOG_SQRT_2PI
        return log_normal + log_scale + log_det

    def inverse(self, noise: Tensor, inputs: Tensor, row: Tensor | None) -> Tensor:
        """u (B, P) whose noise (B, P) this is, for encoded features (N, C); `row` (B,) says which, None: the only."""
        c = self.embedding(inputs)
        c = c.expand(len(noise), -1) if row is None else c[row]
        return self.standardise.inverse(self.splines.inverse(noise, c), c)


class LibraryMembers(nn.Module):
    """Members of the flows of a library, one after another, on the residual of one Gaussian regression."""

    def __init__(self, spec: FlowSpec):
        super().__init__()
        self.spec = spec
        self.start = GaussianStart(spec.parameters, len(spec.missing), spec.missing)
        splines = _SPLINES[spec.family]
        self.flows = nn.ModuleList(ConditionalFlow(spec, splines(spec)) for _ in range(spec.members))

    def flow(self, member: int) -> ConditionalFlow:
        found = self.flows[member]
        assert isinstance(found, ConditionalFlow)
        return found

    def owned(self) -> Iterator[tuple[str, nn.Parameter, int | None]]:
        """(name, weight, member)."""
        for member, flow in enumerate(self.flows):
            yield from ((name, weight, member) for name, weight in flow.named_parameters())

    def frame(self, seen: Tensor) -> Frame:
        """The regression for patterns (Q, D); the same order of the parameters for every member."""
        return frame(self.start, seen, torch.arange(self.spec.parameters)[None])

    def log_density(self, z: Tensor, inputs: Tensor, frame: Frame, pattern: Tensor) -> Tensor:
        """Log density (M, B); arguments as in `Members.log_density`."""
        where = place(self.start, z, inputs, frame, pattern)
        log_scale = where.sd.log().sum(-1)
        parts = [self.flow(m).log_prob(u, x) for m, (u, x) in enumerate(zip(where.u, inputs, strict=True))]
        return torch.stack(parts) - log_scale

    def log_prob(self, z: Tensor, inputs: Tensor) -> Tensor:
        """Log density (M, B) of z (B, P) given inputs (B, C), or (1, C) for all; differentiable in z."""
        u, log_start = self.start(z, inputs)
        return torch.stack([self.flow(m).log_prob(u, inputs) for m in range(self.spec.members)]) + log_start

    @torch.no_grad()
    def draw(self, member: int, noise: Tensor, inputs: Tensor, row: Tensor | None = None) -> Tensor:
        """z (B, P) of standard normal noise (B, P); arguments as in `Members.draw`."""
        u = self.flow(member).inverse(noise, inputs, row)
        mean, factor = self.start.condition(inputs)
        mean, factor = (mean, factor) if row is None else (mean[row], factor[row])
        return mean + (factor @ u[..., None])[..., 0]

    def draw_members(self, members: slice, noise: Tensor, inputs: Tensor, row: Tensor | None = None) -> Tensor:
        """z (M, B, P) of some members from noise (M, B, P); other arguments as in `Members.draw`."""
        chosen = range(self.spec.members)[members]
        return torch.stack([self.draw(m, part, inputs, row) for m, part in zip(chosen, noise, strict=True)])


class ZukoSplines(nn.Module):
    """Masked autoregressive splines of zuko; coupling is the autoregression of two passes."""

    def __init__(self, spec: FlowSpec):
        super().__init__()
        self.layers = nn.ModuleList(_zuko_layer(spec, i) for i in range(spec.layers))

    def forward(self, z: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        total = z.new_zeros(len(z))
        for layer in self.layers:
            z, log_det = layer(c).call_and_ladj(z)
            total = total + log_det
        return z, total

    def inverse(self, noise: Tensor, c: Tensor) -> Tensor:
        for layer in reversed(self.layers):
            noise = _zuko_inverse(layer, noise, c)
        return noise


def _zuko_inverse(layer: nn.Module, y: Tensor, c: Tensor) -> Tensor:
    """x with layer(c)(x) = y; a pass inverts only the parameters it settles, where zuko's own inverts all."""
    if not isinstance(layer, zuko.flows.MaskedAutoregressiveTransform):  # a single parameter
        return layer(c).inv(y)
    x = torch.zeros_like(y)
    for index in range(layer.passes):
        settled = layer.order == index
        phi = layer.hyper(torch.cat([x, c], dim=-1)).unflatten(-1, (-1, layer.total))[:, settled]
        sizes = [shape[0] for shape in layer.shapes]
        x[:, settled] = layer.univariate(*phi.split(sizes, dim=-1)).inv(y[:, settled])
    return x


def _zuko_layer(spec: FlowSpec, index: int) -> nn.Module:
    order = torch.arange(spec.parameters)
    layer = zuko.flows.MaskedAutoregressiveTransform(
        spec.parameters,
        spec.hidden,
        passes=None if spec.transform == "autoregressive" else 2,
        order=order if index % 2 == 0 else order.flip(0),
        univariate=_zuko_spline,
        shapes=[(spec.bins,), (spec.bins,), (spec.bins - 1,)],
        hidden_features=(spec.hidden, spec.hidden),
        activation=nn.SiLU,
    )
    _zeroed(layer.hyper[-1])
    return layer


def _zuko_spline(*phi: Tensor) -> torch.distributions.Transform:
    return zuko.transforms.MonotonicRQSTransform(*phi, bound=BOUND)


class NflowsSplines(nn.Module):
    """Autoregressive or coupling splines of nflows with linear tails."""

    def __init__(self, spec: FlowSpec):
        super().__init__()
        # Coupling needs two parts; a single parameter has only the context to depend on either way.
        coupling = spec.transform == "coupling" and spec.parameters > 1
        layer = _nflows_coupling if coupling else _nflows_autoregressive
        parts: list[nn.Module] = []
        for index in range(spec.layers):
            parts += [layer(spec, index), nft.ReversePermutation(spec.parameters)]
        self.composed = nft.CompositeTransform(parts)

    def forward(self, z: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        return self.composed(z, c)

    def inverse(self, noise: Tensor, c: Tensor) -> Tensor:
        return self.composed.inverse(noise, c)[0]


def _nflows_autoregressive(spec: FlowSpec, index: int) -> nn.Module:
    layer = nft.MaskedPiecewiseRationalQuadraticAutoregressiveTransform(
        spec.parameters, max(spec.hidden, spec.parameters), context_features=spec.hidden, num_bins=spec.bins,
        tails="linear", tail_bound=BOUND, num_blocks=1,
    )  # fmt: skip
    _identity(layer.autoregressive_net.final_layer, spec.bins)
    return layer


def _nflows_coupling(spec: FlowSpec, index: int) -> nn.Module:
    def net(inputs: int, outputs: int) -> nn.Module:
        return ResidualNet(inputs, outputs, spec.hidden, context_features=spec.hidden, num_blocks=1)

    mask = (torch.arange(spec.parameters) + index) % 2
    layer = nft.PiecewiseRationalQuadraticCouplingTransform(
        mask, net, num_bins=spec.bins, tails="linear", tail_bound=BOUND
    )
    _identity(layer.transform_net.final_layer, spec.bins)
    return layer


def _zeroed(linear: nn.Linear) -> nn.Linear:
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


def _identity(final: nn.Linear, bins: int) -> None:
    """Set the layer that gives (widths, heights, derivatives) so that every spline is the identity."""
    _zeroed(final)
    with torch.no_grad():
        final.bias.view(-1, 3 * bins - 1)[:, 2 * bins :] = math.log(math.expm1(1.0 - _MIN_DERIVATIVE))


def torch_device(name: str) -> torch.device:
    """The device of a name: "auto" (CUDA where there is one), "cpu" or "cuda".

    Raises:
        InferenceError: if CUDA is asked for and there is none.
    """
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise InferenceError("no CUDA device is available; use device 'cpu' or 'auto'")
    return (
        torch.device("cuda", 0) if name == "cuda" or (name == "auto" and available) else torch.device("cpu")
    )


_SPLINES: dict[str, type[ZukoSplines] | type[NflowsSplines]] = {"zuko": ZukoSplines, "nflows": NflowsSplines}


def build_flows(spec: FlowSpec, seed: int) -> "Members | LibraryMembers":
    """New members of a posterior, initialised from `seed`; the global random state is left as it was.

    Examples:
        >>> shape = {"members": 2, "hidden": 8, "width": 8, "layers": 2, "bins": 4, "blocks": 1, "dropout": 0.0}
        >>> spec = FlowSpec(2, 3, (-1, -1, -1), "zuko", "coupling", "normal", **shape)
        >>> flows = build_flows(spec, seed=0)
        >>> flows.log_prob(torch.zeros(1, 2), torch.ones(1, 3)).detach().double().numpy().round(4).tolist()  # the prior
        [[-1.8379], [-1.8379]]
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Members(spec) if spec.family == "batched" else LibraryMembers(spec)
