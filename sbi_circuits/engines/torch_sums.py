"""Sums over the synapses of one projection in a batch of simulations, with their delays."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sbi_circuits.circuit import Projection
from sbi_circuits.engines.coupling import Coupling
from sbi_circuits.engines.rate_program import names_of
from sbi_circuits.engines.synapses import Synapses
from sbi_circuits.engines.torch_coupling import Matrix, matrix
from sbi_circuits.engines.torch_source import function_source
from sbi_circuits.engines.torch_terms import Term, terms
from sbi_circuits.engines.torch_values import Batch, Number, Values
from sbi_circuits.errors import CircuitError

Load = Callable[[str, str], Any]


@dataclass(frozen=True, eq=False)
class Source:
    """What the targets of a projection see of its source: a function of the source's variables, delayed.

    Args:
        function: (*variables, K, dtype) to (B, N_source), or None for ones.
        names: of the variables.
        delays: (B,) in time steps.
    """

    function: Callable[..., Tensor] | None
    names: tuple[str, ...]
    delays: np.ndarray

    @property
    def depth(self) -> int:
        """Steps that have to be remembered."""
        return int(self.delays.max(initial=0))

    def delayed(self, history: list[Tensor], now: Tensor) -> Tensor:
        """The value each simulation's delay ago; `history` holds the last `depth` values, oldest first."""
        seen = [*history, now]
        distinct, which = np.unique(self.delays, return_inverse=True)
        chosen = [seen[-1 - int(d)] for d in distinct]
        if len(chosen) == 1:
            return chosen[0]
        return torch.stack(chosen)[torch.as_tensor(which), torch.arange(len(which))]


class Sum(torch.nn.Module):
    """One summed coupling: state of both ends to (B, N_target)."""

    def __init__(self, variable: str, source: str, target: str, sources: list[Source]):
        super().__init__()
        self.variable, self.source, self.target, self.sources = variable, source, target, sources


class Products(Sum):
    """A sum of matrix products."""

    def __init__(self, variable: str, link: Coupling, listed: Sequence[Term], matrices: Sequence[Matrix],
                 K: list[Number], load: Load, delays: np.ndarray, dtype: torch.dtype):  # fmt: skip
        reads = [_reads(t.pre, link.pre, "_pre") for t in listed]
        functions = [load("pre", function_source("pre", r, t.pre)) if t.pre else None
                     for r, t in zip(reads, listed, strict=True)]  # fmt: skip
        super().__init__(variable, link.source, link.target, [
            Source(f, _bare(r, "_pre"), delays if r else np.zeros(1, np.int64))
            for f, r in zip(functions, reads, strict=True)
        ])  # fmt: skip
        self.matrices, self.K, self.dtype = tuple(matrices), K, dtype
        self.post_reads = [_reads(t.post, link.post, "_post") for t in listed]
        self.posts = [load("post", function_source("post", r, t.post)) if t.post else None
                      for r, t in zip(self.post_reads, listed, strict=True)]  # fmt: skip

    def pre(self, k: int, values: dict[str, Tensor]) -> Tensor:
        """Factor of the source in one term."""
        source, some = self.sources[k], next(iter(values.values()))
        if source.function is None:
            return torch.ones_like(some)
        found = torch.as_tensor(source.function(*(values[n] for n in source.names), self.K, self.dtype))
        return found.expand_as(some)

    def total(self, pres: Sequence[Tensor], post: dict[str, Tensor]) -> Tensor:
        """The sum, from the (delayed) factors of the source."""
        found: Any = 0.0
        for k, (pre, entries, function) in enumerate(zip(pres, self.matrices, self.posts, strict=True)):
            value = entries.apply(pre)
            if function is not None:
                reads = _bare(self.post_reads[k], "_post")
                value = function(*(post[n] for n in reads), self.K, self.dtype) * value
            found = found + value
        return found


class Gathered(Sum):
    """A coupling that is no matrix product: evaluated synapse by synapse, over all simulations at once."""

    def __init__(self, variable: str, link: Coupling, expression: str, batch: Batch, synapses: Sequence[Synapses],
                 weights: Sequence[Tensor] | None, K: list[Number], load: Load, delays: np.ndarray,
                 sizes: tuple[int, int]):  # fmt: skip
        self_sources = [Source(None, (n,), delays) for n in link.pre]
        super().__init__(variable, link.source, link.target, self_sources)
        sources, targets = sizes
        owner = np.repeat(np.arange(len(synapses)), [len(s.targets) for s in synapses])
        rows = np.concatenate([s.targets.astype(np.int64) for s in synapses]) + owner * targets
        columns = np.concatenate([s.sources.astype(np.int64) for s in synapses]) + owner * sources
        self.shape, self.dtype = (len(synapses), targets), batch.dtype
        self.rows, self.columns = (torch.as_tensor(a, device=batch.device) for a in (rows, columns))
        index = torch.as_tensor(owner, device=batch.device)
        self.K = [k[index, 0] if isinstance(k, Tensor) and k.ndim else k for k in K]
        self.weight = () if weights is None else (torch.cat(list(weights)).to(batch.device, batch.dtype),)
        self.post_names = link.post
        arguments = (*(f"{n}_pre" for n in link.pre), *(f"{n}_post" for n in link.post))
        self.function = load("coupling", function_source("coupling", (*arguments, *(["weight"] if weights else [])),
                                                         expression))  # fmt: skip

    def pre(self, k: int, values: dict[str, Tensor]) -> Tensor:
        """One variable of the source."""
        return values[self.sources[k].names[0]]

    def total(self, pres: Sequence[Tensor], post: dict[str, Tensor]) -> Tensor:
        """The sum, from the (delayed) variables of the source."""
        at_source = [p.reshape(-1)[self.columns] for p in pres]
        at_target = [post[n].reshape(-1)[self.rows] for n in self.post_names]
        each = self.function(*at_source, *at_target, *self.weight, self.K, self.dtype)
        flat = torch.zeros(self.shape[0] * self.shape[1], dtype=self.dtype, device=self.rows.device)
        return flat.index_add(0, self.rows, each.expand(len(self.rows))).reshape(self.shape)


def _reads(expression: str, names: Sequence[str], suffix: str) -> tuple[str, ...]:
    used = names_of(expression) if expression else frozenset()
    return tuple(f"{n}{suffix}" for n in names if f"{n}{suffix}" in used)


def _bare(names: Sequence[str], suffix: str) -> tuple[str, ...]:
    return tuple(n.removesuffix(suffix) for n in names)


def sums(batch: Batch, link: Coupling, values: Values, load: Load) -> list["Products | Gathered"]:
    """The summed couplings of one projection; none where it has no synapses.

    Args:
        batch: of the simulations.
        link: translation of the projection.
        values: SI values of parameters and constants.
        load: (name, source text) to a function.
    """
    projection = batch.circuit.projections[link.number]
    synapses = [next((s for s in setup.synapses if s.number == link.number), None) for setup in batch.setups]
    present = [s for s in synapses if s is not None]
    if not any(len(s.targets) for s in present):
        return []
    known = {**values, "dt": batch.setups[0].dt}
    if not link.random_weight:
        known["weight"] = batch.weights(projection, [1] * len(present), values)
        known["weight"] = torch.stack(known["weight"])
    K = batch.invariants(link.invariants, known)
    return [_one(batch, projection, link, present, variable, expression, K, values, load)
            for variable, expression in link.summed]  # fmt: skip


def _one(batch: Batch, projection: Projection, link: Coupling, synapses: list[Synapses], variable: str,
         expression: str, K: list[Number], values: Values, load: Load) -> Products | Gathered:
    size = {c.population.name: c.size for c in batch.setups[0].cells}
    sizes = size[link.source], size[link.target]
    if projection.random_delay:
        raise CircuitError(f"projection {projection.name}: synapses of a summed coupling share one delay")
    delays = np.array([s.delay_steps for s in synapses])
    listed = terms(expression, link.random_weight)
    if listed is None:
        weights = None
        if link.random_weight:
            weights = batch.weights(projection, [len(s.targets) for s in synapses], values)
        return Gathered(variable, link, expression, batch, synapses, weights, K, load, delays, sizes)
    matrices = {w: matrix(batch, projection, synapses, sizes, w, values) for w in {t.weighted for t in listed}}
    return Products(variable, link, listed, [matrices[t.weighted] for t in listed], K, load, delays, batch.dtype)
