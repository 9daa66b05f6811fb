"""The sparse product of a wiring with the rates of its cells, forwards and backwards.

Edges that share a strength, a count and a sign share one weight, a *weight class*: 1,865 for the 1.5 million edges of
the fly's visual system. Edges are kept sorted by target and by source (a CSR matrix and its transpose), or, on a
lattice, as runs (`kernels`); each way one pass gives the gradient of the rates and, summed on the way, that of the
classes. Nothing of the size (edges, batch) is ever made, so memory is linear in edges.

Rates are kept in *lanes* (M, Q, N, 4): M models, N cells, and the stimuli of a batch in Q blocks of four.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sbi_circuits.connectome import kernels as compiled
from sbi_circuits.connectome.kernels import LANES
from sbi_circuits.connectome.wiring import Wiring
from sbi_circuits.errors import UnknownNameError

kernels: Any = compiled  # whose signatures are numba's, not mypy's
LAYOUTS = ("auto", "csr", "runs")
_CHUNK = 1 << 20  # edges whose gradients are held at once where torch makes them
_LONG = 3.0  # edges a run, on average, from which on runs are faster than CSR


@dataclass(frozen=True, eq=False)
class Csr:
    """Edges sorted by one end: `start` (N + 1,), the other end (E,), the weight class (E,)."""

    start: np.ndarray
    other: np.ndarray
    edge_class: np.ndarray

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        return self.start, self.other, self.edge_class

    def on(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Start, other end and class as tensors on a device, and the own end of every edge; copied there once."""
        if device not in self._copies:
            start, other, edge_class = (torch.as_tensor(a.astype(np.int64)).to(device) for a in self.arrays)
            own = torch.repeat_interleave(torch.arange(len(start) - 1, device=device), start.diff())
            self._copies[device] = (start, other, edge_class, own)
        return self._copies[device]

    @cached_property
    def _copies(self) -> dict[torch.device, tuple[Tensor, Tensor, Tensor, Tensor]]:
        return {}


@dataclass(frozen=True, eq=False)
class Runs:
    """Edges source + k -> target + k, k < length, of one weight class: four arrays (runs,)."""

    source: np.ndarray
    target: np.ndarray
    length: np.ndarray
    run_class: np.ndarray

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        return self.source, self.target, self.length, self.run_class


class Links:
    """A wiring made ready for products: its edges in the layout that suits it, and their weight classes.

    Args:
        wiring: whose edges.
        layout: "runs", "csr", or "auto": runs where they are long enough to pay.

    Raises:
        UnknownNameError: another layout.

    Examples:
        >>> wiring = Wiring(("A",), [0, 0], source=[0], target=[1], count=[3.0], sign=[-1])
        >>> links = Links(wiring)
        >>> weight = links.weights(torch.tensor([[0.5]]))  # one model, one group
        >>> product(links, weight, torch.ones(1, 1, 2, 4))[0, 0].tolist()
        [[0.0, 0.0, 0.0, 0.0], [-1.5, -1.5, -1.5, -1.5]]
    """

    def __init__(self, wiring: Wiring, layout: str = "auto"):
        if layout not in LAYOUTS:
            raise UnknownNameError("layout of edges", layout, LAYOUTS)
        self.n_nodes, self.n_edges, self.n_groups = wiring.n_nodes, wiring.n_edges, len(wiring.groups)
        key = np.stack([wiring.group.astype(np.float64), wiring.sign * wiring.count])
        found, edge_class = np.unique(key, axis=1, return_inverse=True)
        self.class_group = torch.as_tensor(found[0].astype(np.int64))
        self.class_scale = torch.as_tensor(found[1].astype(np.float32))
        self._ends = wiring.source, wiring.target, edge_class.ravel()
        runs = _runs(*self._ends)
        pays = self.n_edges > _LONG * len(runs.source)
        self.runs = runs if layout == "runs" or (layout == "auto" and pays) else None

    @cached_property
    def by_target(self) -> Csr:
        """The CSR matrix: row = target."""
        source, target, edge_class = self._ends
        return _sorted(target, source, edge_class, self.n_nodes, len(self.class_group))

    @cached_property
    def by_source(self) -> Csr:
        """Its transpose: row = source."""
        return _sorted(*self._ends, self.n_nodes, len(self.class_group))

    def weights(self, strength: Tensor) -> Tensor:
        """Weights of the classes (M, classes) from the shared strengths (M, groups); gradients flow back."""
        group, scale = (a.to(strength.device) for a in (self.class_group, self.class_scale))
        return strength[:, group] * scale.to(strength.dtype)

    @property
    def nbytes(self) -> int:
        """Bytes that the layout takes."""
        parts = [self.runs] if self.runs else [self.by_target, self.by_source]
        return sum(a.nbytes for part in parts for a in part.arrays)


def _sorted(own: np.ndarray, other: np.ndarray, edge_class: np.ndarray, n: int, classes: int) -> Csr:
    order = np.lexsort((other, own))
    start = np.concatenate([[0], np.cumsum(np.bincount(own, minlength=n))])
    small = np.uint16 if classes <= 1 << 16 else np.uint32
    return Csr(start.astype(np.uint32), other[order].astype(np.uint32), edge_class[order].astype(small))


def _runs(source: np.ndarray, target: np.ndarray, edge_class: np.ndarray) -> Runs:
    order = np.lexsort((source, target - source, edge_class))
    ends = [a[order] for a in (source, target, edge_class)]
    steps = [np.diff(a, prepend=-2) for a in ends]
    first = np.flatnonzero((steps[0] != 1) | (steps[1] != 1) | (steps[2] != 0))
    length = np.diff(first, append=len(order))
    by_source = np.lexsort((ends[1][first], ends[0][first]))
    found = [a[first][by_source].astype(np.int64) for a in ends]
    return Runs(found[0], found[1], length[by_source].astype(np.int64), found[2])


def lanes(x: Tensor) -> Tensor:
    """(M, S, N) as lanes (M, Q, N, 4), the last block filled up with its last stimulus."""
    models, stimuli, cells = x.shape
    blocks = -(-stimuli // LANES)
    index = torch.arange(blocks * LANES, device=x.device).clamp(max=stimuli - 1)
    return x[:, index].reshape(models, blocks, LANES, cells).transpose(2, 3).contiguous()


def unlanes(x: Tensor, stimuli: int) -> Tensor:
    """Inverse of `lanes`: (M, Q, N, 4) as (M, S, N)."""
    models, blocks, cells, _ = x.shape
    return x.transpose(2, 3).reshape(models, blocks * LANES, cells)[:, :stimuli]


def product(links: Links, weight: Tensor, rates: Tensor) -> Tensor:
    """Synaptic input of every cell: (M, Q, N, 4) from rates of the same shape and weights (M, classes).

    Differentiable in weights and rates. Single precision on the processor runs in compiled kernels, on one thread;
    everything else (CUDA, double precision) in torch's sparse products.
    """
    return _Product.apply(links, weight, rates)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, links: Links, weight: Tensor, rates: Tensor) -> Tensor:
        ctx.links = links
        ctx.save_for_backward(weight, rates)
        return _ways(rates)[0](links, weight, rates)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor, Tensor]:
        weight, rates = ctx.saved_tensors
        dw, dx = _ways(rates)[1](ctx.links, weight, rates, grads[0])
        return None, dw, dx


def _ways(rates: Tensor) -> tuple[Callable[..., Tensor], Callable[..., tuple[Tensor, Tensor]]]:
    compiled = rates.device.type == "cpu" and rates.dtype == torch.float32
    return (_compiled_forward, _compiled_backward) if compiled else (_torch_forward, _torch_backward)


def _compiled_forward(links: Links, weight: Tensor, rates: Tensor) -> Tensor:
    x, w = _blocks(rates), weight.detach().contiguous().numpy()
    y = np.empty_like(x)
    for k in range(len(x)):
        _multiply(links, w[k * len(w) // len(x)], x[k], y[k])
    return torch.from_numpy(y).view(rates.shape)


def _compiled_backward(links: Links, weight: Tensor, rates: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    x, g, w = _blocks(rates), _blocks(grad), weight.detach().contiguous().numpy()
    dx, dw = np.empty_like(x), np.zeros_like(w)
    for k in range(len(x)):
        m = k * len(w) // len(x)
        _multiply_back(links, w[m], x[k], g[k], dx[k], dw[m])
    return torch.from_numpy(dw), torch.from_numpy(dx).view(rates.shape)


def _multiply(links: Links, w: np.ndarray, x: np.ndarray, y: np.ndarray) -> None:
    if links.runs:
        kernels.runs_forward(*links.runs.arrays, w, x, y)
    else:
        kernels.csr_forward(*links.by_target.arrays, w, x, y)


def _multiply_back(
    links: Links, w: np.ndarray, x: np.ndarray, g: np.ndarray, dx: np.ndarray, dw: np.ndarray
) -> None:
    if links.runs:
        kernels.runs_backward(*links.runs.arrays, w, x, g, dx, dw)
    else:
        kernels.csr_backward(*links.by_source.arrays, w, x, g, dx, dw)


def euler_step(
    links: Links, weight: Tensor, rest: Tensor, rate: Tensor, kind: Tensor, seeing: Tensor, seen: Tensor, v: Tensor
) -> Tensor:
    """v + rate (W relu(v) + rest + seen - v), of the shape of v; differentiable in weight, rest, rate and v.

    Args:
        links: the edges. weight: (M, classes). rest, rate = dt/tau: (M, types). kind: (N,) type of each cell.
        seeing: (K,) cells that see; seen: (1 or M, Q, K, 4) what. v: (M, Q, N, 4).

    On the processor, in single precision, it is one compiled pass each way, and keeps nothing but the voltages.
    """
    if v.device.type == "cpu" and v.dtype == torch.float32:
        return _Step.apply(links, weight, rest, rate, kind, seeing, seen, v)
    drive = product(links, weight, v.relu()).index_add(2, seeing, seen.expand(len(v), -1, -1, -1))
    own, speed = (a[:, None, kind, None] for a in (rest, rate))
    return v.lerp(drive + own, speed.expand_as(v))


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, links: Links, weight: Tensor, rest: Tensor, rate: Tensor, kind: Tensor, seeing: Tensor,
                seen: Tensor, v: Tensor) -> Tensor:  # fmt: skip
        x, shown = _blocks(v), seen.expand(len(v), -1, -1, -1).contiguous().view(-1, len(seeing), LANES).numpy()
        w, own, speed = (a.detach().contiguous().numpy() for a in (weight, rest, rate))
        out, u = np.empty_like(x), np.empty_like(x[0])
        for k in range(len(x)):
            m = k * len(w) // len(x)
            _multiply(links, w[m], np.maximum(x[k], 0.0), u)
            kernels.advance(u, own[m], speed[m], kind.numpy(), seeing.numpy(), shown[k], x[k], out[k])
        found = torch.from_numpy(out).view(v.shape)
        ctx.links = links
        ctx.save_for_backward(weight, rate, kind, v, found)
        return found

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        weight, rate, kind_, v, found = ctx.saved_tensors
        x, out, g, kind = _blocks(v), _blocks(found), _blocks(grads[0]), kind_.numpy()
        w, speed = (a.detach().contiguous().numpy() for a in (weight, rate))
        dw, drest, drate = np.zeros_like(w), np.zeros_like(speed), np.zeros_like(speed)
        dv, gu = np.empty_like(x), np.empty_like(x[0])
        for k in range(len(x)):
            m = k * len(w) // len(x)
            kernels.retreat(g[k], x[k], out[k], speed[m], kind, gu, drest[m], drate[m])
            _multiply_back(ctx.links, w[m], np.maximum(x[k], 0.0), gu, dv[k], dw[m])
            kernels.combine(g[k], x[k], speed[m], kind, dv[k])
        of = torch.from_numpy
        return None, of(dw), of(drest), of(drate), None, None, None, of(dv).view(v.shape)


def _blocks(x: Tensor) -> np.ndarray:
    return x.detach().contiguous().view(-1, x.shape[-2], LANES).numpy()


def _torch_forward(links: Links, weight: Tensor, rates: Tensor) -> Tensor:
    return _torch_product(links.by_target, weight.detach(), rates.detach(), links.n_nodes)


def _torch_product(csr: Csr, weight: Tensor, x: Tensor, n: int) -> Tensor:
    start, other, edge_class, _ = csr.on(x.device)
    found = []
    for w, own in zip(weight, x, strict=True):
        with warnings.catch_warnings():  # "CSR support is in beta state", once a process
            warnings.simplefilter("ignore", UserWarning)
            matrix = torch.sparse_csr_tensor(start, other, w[edge_class], (n, n), check_invariants=False)
        flat = own.transpose(0, 1).reshape(n, -1)
        found.append((matrix @ flat).view(n, -1, LANES).transpose(0, 1))
    return torch.stack(found)


def _torch_backward(links: Links, weight: Tensor, rates: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    dx = _torch_product(links.by_source, weight.detach(), grad, links.n_nodes)
    _, target, edge_class, source = links.by_source.on(rates.device)
    dw = torch.zeros_like(weight)
    for a in range(0, links.n_edges, _CHUNK):
        part = slice(a, a + _CHUNK)
        for m in range(len(weight)):
            edges = (grad[m][:, target[part]] * rates[m][:, source[part]]).sum((0, 2))
            dw[m].index_add_(0, edge_class[part], edges)
    return dw, dx
