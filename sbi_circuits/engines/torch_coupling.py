"""The matrices of a batch of simulations: shared dense, dense, low rank, one to one, and compressed rows (CSR).

Which one a projection gets follows from its wiring and weights: all-to-all with one weight is a sum over the source
(rank one for each term, so a coupling of rank R is R terms), random weights on many pairs are dense matrices, few
synapses are compressed rows; what is the same in all simulations is kept once.
"""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sbi_circuits.circuit import AllToAll, OneToOne, Projection
from sbi_circuits.engines.synapses import Synapses
from sbi_circuits.engines.torch_values import Batch, Values

# A matrix with at least this share of its entries is dense.
_DENSE = 0.2
# torch says once in a process that sparse rows are young; it says so here.
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    torch.sparse_csr_tensor(torch.tensor([0, 1]), torch.tensor([0]), torch.tensor([1.0]), (1, 1))


class Matrix(ABC):
    """Weights of one projection in a batch: maps (B, N_source) to (B, N_target)."""

    @abstractmethod
    def apply(self, pre: Tensor) -> Tensor:
        """Sum over the synapses of each target of weight times source: (B, N_target)."""


class LowRank(Matrix):
    """Every pair with weight 1; a neuron does not reach itself where `same`."""

    def __init__(self, targets: int, same: bool):
        self.targets, self.same = targets, same

    def apply(self, pre: Tensor) -> Tensor:
        total = pre.sum(-1, keepdim=True)
        return total - pre if self.same else total.expand(-1, self.targets)


class Diagonal(Matrix):
    """One synapse for each neuron, with weights (B, N) or 1."""

    def __init__(self, weights: Tensor | float):
        self.weights = weights

    def apply(self, pre: Tensor) -> Tensor:
        return self.weights * pre


class Dense(Matrix):
    """Weights (B, N_target, N_source)."""

    def __init__(self, weights: Tensor):
        self.weights = weights

    def apply(self, pre: Tensor) -> Tensor:
        return torch.bmm(self.weights, pre.unsqueeze(-1)).squeeze(-1)


class SharedDense(Matrix):
    """Weights (N_target, N_source), the same in all simulations."""

    def __init__(self, weights: Tensor):
        self.weights = weights.T.contiguous()

    def apply(self, pre: Tensor) -> Tensor:
        return pre @ self.weights


class CompressedRows(Matrix):
    """Weights of a sparse matrix that has the simulations' matrices on its diagonal.

    Args:
        rows, columns: (S,) target and source of each synapse, counted over simulations.
        weights: (S,).
        shape: simulations, targets, sources.
    """

    def __init__(self, rows: np.ndarray, columns: np.ndarray, weights: Tensor, shape: tuple[int, int, int]):
        batch, targets, sources = shape
        order, back = np.lexsort((columns, rows)), np.lexsort((rows, columns))
        device = weights.device
        self.targets, self.weights = targets, weights
        self.plan = (
            _rows_plan(rows, columns, order, (batch * targets, batch * sources), device),
            _rows_plan(columns, rows, back, (batch * sources, batch * targets), device),
            torch.as_tensor(rows, device=device), torch.as_tensor(columns, device=device),
        )  # fmt: skip

    def apply(self, pre: Tensor) -> Tensor:
        flat: Tensor = _SparseProduct.apply(self.weights, pre.reshape(-1), self.plan)
        return flat.reshape(len(pre), self.targets)


_Rows = tuple[Tensor, Tensor, Tensor, tuple[int, int]]


def _rows_plan(rows: np.ndarray, columns: np.ndarray, order: np.ndarray, shape: tuple[int, int], device: Any) -> _Rows:
    """Row pointers, columns, order of the synapses and shape of a matrix in compressed rows."""
    pointers = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=shape[0]))])
    arrays = (torch.as_tensor(a, device=device) for a in (pointers, columns[order], order))
    return (*arrays, shape)  # type: ignore[return-value]


def _product(plan: _Rows, weights: Tensor, x: Tensor) -> Tensor:
    pointers, columns, order, shape = plan
    matrix = torch.sparse_csr_tensor(pointers, columns, weights[order], shape, check_invariants=False)
    return matrix @ x


class _SparseProduct(torch.autograd.Function):
    """y = W x with gradients for the stored entries of W only."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, x: Tensor, plan: Any) -> Tensor:
        ctx.save_for_backward(weights, x)
        ctx.plan = plan
        return _product(plan[0], weights, x)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (g,), (weights, x) = gradients, ctx.saved_tensors
        _, transposed, rows, columns = ctx.plan
        for_weights = g[rows] * x[columns] if ctx.needs_input_grad[0] else None
        for_x = _product(transposed, weights, g) if ctx.needs_input_grad[1] else None
        return for_weights, for_x, None


def matrix(
    batch: Batch, projection: Projection, synapses: Sequence[Synapses], sizes: tuple[int, int], weighted: bool,
    values: Values,
) -> Matrix:  # fmt: skip
    """The matrix of a projection.

    Args:
        batch: of the simulations.
        projection: whose synapses they are.
        synapses: (B,) those of each simulation.
        sizes: of source and target.
        weighted: whether entries are the synapses' own weights; ones otherwise.
        values: SI values of parameters and constants.
    """
    sources, targets = sizes
    if not weighted and isinstance(projection.wiring, AllToAll):
        return LowRank(targets, projection.source == projection.target)
    counts = [len(s.targets) for s in synapses]
    shared = _same_for_all(synapses)
    weights = batch.weights(projection, counts, values) if weighted else _ones(counts)
    if isinstance(projection.wiring, OneToOne):
        return Diagonal(torch.stack(weights).to(batch.device, batch.dtype) if weighted else 1.0)
    if sum(counts) < _DENSE * len(synapses) * sources * targets:
        return _compressed(batch, synapses, weights, (targets, sources))
    if shared and not weighted:
        return SharedDense(_filled(synapses[0], weights[0], (targets, sources)).to(batch.device, batch.dtype))
    dense = [_filled(s, w, (targets, sources)) for s, w in zip(synapses, weights, strict=True)]
    return Dense(torch.stack(dense).to(batch.device, batch.dtype))


def _ones(counts: Sequence[int]) -> list[Tensor]:
    return [torch.ones(n, dtype=torch.float64) for n in counts]


def _same_for_all(synapses: Sequence[Synapses]) -> bool:
    first = synapses[0]
    return all(
        np.array_equal(first.indptr, s.indptr) and np.array_equal(first.targets, s.targets) for s in synapses[1:]
    )


def _filled(synapses: Synapses, weights: Tensor, shape: tuple[int, int]) -> Tensor:
    targets, sources = (torch.as_tensor(a.astype(np.int64)) for a in (synapses.targets, synapses.sources))
    return torch.zeros(shape, dtype=torch.float64).index_put((targets, sources), weights, accumulate=True)


def _compressed(
    batch: Batch, synapses: Sequence[Synapses], weights: Sequence[Tensor], shape: tuple[int, int]
) -> CompressedRows:
    targets, sources = shape
    rows = np.concatenate([s.targets.astype(np.int64) + b * targets for b, s in enumerate(synapses)])
    columns = np.concatenate([s.sources.astype(np.int64) + b * sources for b, s in enumerate(synapses)])
    flat = torch.cat(list(weights)).to(batch.device, batch.dtype)
    return CompressedRows(rows, columns, flat, (len(synapses), targets, sources))
