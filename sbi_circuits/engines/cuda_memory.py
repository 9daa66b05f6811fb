"""Where things lie in the memory a block of a CUDA kernel has: in shared memory where they fit, else global."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sbi_circuits.engines.cuda_columns import Columns
from sbi_circuits.engines.setup import Setup, drawn_by_engine
from sbi_circuits.engines.synapses import Synapses

_WORDS = 2048  # random words in the buffer


@dataclass(frozen=True, eq=False)
class Memory:
    """Places of the state of each simulation, and how much memory a block needs.

    Args:
        header: the first entries of `layout`.
        states, noises, rests, spikes, sorts, tallies: (B, populations) where the arrays of each begin.
        links: (B, projections, 3) where synaptic variables, gains and times of spikes begin.
        large_reals, large_ints, large_shorts: entries of the state of the largest simulation.
        shared: whether the state lies in shared memory.
        bytes: of shared memory.
    """

    header: tuple[int, ...]
    states: np.ndarray
    noises: np.ndarray
    rests: np.ndarray
    spikes: np.ndarray
    sorts: np.ndarray
    tallies: np.ndarray
    links: np.ndarray
    large_reals: int
    large_ints: int
    large_shorts: int
    shared: bool
    bytes: int

    @classmethod
    def of(cls, columns: Columns, sizes: np.ndarray, capacities: np.ndarray, depth: int, real: Any, threads: int,
           limit: int) -> "Memory":  # fmt: skip
        """Lay out simulations of (B, populations) neurons, at most `capacities` spikes on their way at a time."""
        parts, populations = columns.parts, range(len(columns.parts))
        reals = [_whole(sizes * [len(p.variables) for p in parts]), (sizes + 3) * [len(p.noise) for p in parts]]
        shorts = [sizes, capacities, sizes * [k in columns.sorted_populations for k in populations]]
        tallies = sizes * [columns.tallies(k) for k in populations]
        own, gain, last = _link_sizes(columns, sizes, capacities)
        real_places, large_reals = _places([*reals, own, gain])
        int_places, large_ints = _places([tallies, last])
        short_places, large_shorts = _places(shorts)
        size = np.dtype(real).itemsize
        small = [columns.integers, len(parts) * depth, len(parts) * depth, _WORDS, 3 + 2 * len(columns.poisson)]
        places = [int(p) for p in np.cumsum([2 * -(-columns.reals * size // 8), *small])]
        state = 4 * int(_whole(places[-1]))  # bytes; the scan that lies there before the state does is of int64
        first_int = (state + int(_whole(large_reals)) * size) // 4
        first_short = 2 * (first_int + large_ints)
        needed = max(2 * (first_short + large_shorts), state + 16 * threads)
        shared = needed <= limit
        return cls(
            header=(depth, state // 8, *places[:-1], state // size, first_int, first_short),
            states=real_places[0], noises=real_places[1], rests=short_places[0], spikes=short_places[1],
            sorts=short_places[2], tallies=int_places[0],
            links=np.stack([real_places[2], real_places[3], int_places[1]], axis=-1),
            large_reals=int(_whole(large_reals)), large_ints=large_ints, large_shorts=large_shorts, shared=shared,
            bytes=needed if shared else state + 16 * threads,
        )  # fmt: skip


def _whole(entries: Any) -> Any:
    """Whole 16 bytes, of which one instruction reads the variables of a neuron."""
    return 4 * -(-entries // 4)


def _link_sizes(columns: Columns, sizes: np.ndarray, capacities: np.ndarray) -> list[np.ndarray]:
    """(B, projections) entries for synaptic variables, gains and times of spikes."""
    projections = columns.circuit.projections
    found = [np.zeros((len(sizes), len(projections)), dtype=np.int64) for _ in range(3)]
    for j, link in columns.links.items():
        if link.update:
            k = columns.position(link.source)
            amounts = (len(link.variables) * sizes[:, k], len(projections[j].effects) * capacities[:, k], sizes[:, k])
            for array, amount in zip(found, amounts, strict=True):
                array[:, j] = amount
    return found


def _places(amounts: list[np.ndarray]) -> tuple[list[np.ndarray], int]:
    """Where each of some (B, n) arrays of amounts begins when they follow one another, and the most that is needed."""
    ends = np.cumsum(np.concatenate(amounts, axis=1), axis=1)
    begins = np.concatenate([np.zeros((len(ends), 1), dtype=np.int64), ends], axis=1)
    edges = np.cumsum([0, *(a.shape[1] for a in amounts)])
    found = [begins[:, a:b] for a, b in zip(edges[:-1], edges[1:], strict=True)]
    return found, max(int(begins[:, -1].max()), 1)


@dataclass(frozen=True, eq=False)
class Given:
    """Synapses that the host drew, those of all simulations one after another.

    Args:
        indptr, targets, delays: as in `Synapses`; pointers into all targets.
        weights: (effects, S) factors of each synapse.
        places: (simulation, projection) -> first pointer, number of delays, first delay, first pointer of the
            synapses sorted by target (-1 for none), which summed couplings read.
    """

    indptr: np.ndarray
    targets: np.ndarray
    weights: np.ndarray
    delays: np.ndarray
    places: dict[tuple[int, int], tuple[int, int, int, int]]

    def arrays(self) -> dict[str, np.ndarray]:
        """Arguments of a kernel."""
        return {"given_indptr": self.indptr, "given_targets": self.targets, "given_weights": self.weights,
                "given_delays": self.delays}  # fmt: skip

    @classmethod
    def of(cls, columns: Columns, setups: Sequence[Setup], real: Any) -> "Given":
        """Collect what the device does not draw by itself."""
        effects = [len(p.effects) for p in columns.circuit.projections]
        collected = _Collected(max([1, *effects]))
        for b, setup in enumerate(setups):
            for s in setup.synapses:
                projection = columns.circuit.projections[s.number]
                if not drawn_by_engine(projection):
                    ends = setup.cells[columns.position(projection.target)].size if projection.summed else 0
                    collected.add(b, s, ends, bool(projection.effects))
        return collected.result(real)


class _Collected:
    def __init__(self, effects: int):
        self.effects = effects
        self.indptr: list[np.ndarray] = []
        self.targets: list[np.ndarray] = []
        self.weights: list[np.ndarray] = []
        self.delays: list[np.ndarray] = []
        self.places: dict[tuple[int, int], tuple[int, int, int, int]] = {}
        self.pointers = self.synapses = self.groups = 0

    def add(self, b: int, s: Synapses, ends: int, delivered: bool) -> None:
        """Rows by source where spikes are delivered; by target, of `ends` targets, where sums are taken."""
        forward, groups, delays = 0, 0, self.groups
        if delivered:
            factors = [np.asarray(v) if np.ndim(v) else np.ones(len(s.targets)) for v in s.increments]
            forward, groups = self._rows(s.indptr.ravel(), s.targets, factors), len(s.delays)
            self.delays.append(s.delays)
            self.groups += groups
        backward = -1
        if ends and len(s.targets):
            order = np.lexsort((s.sources, s.targets))
            weight = np.broadcast_to(s.weight, len(order))[order]
            pointers = np.concatenate([[0], np.cumsum(np.bincount(s.targets, minlength=ends))])
            backward = self._rows(pointers, s.sources[order], [weight])
        self.places[b, s.number] = forward, groups, delays, backward

    def _rows(self, indptr: np.ndarray, ends: np.ndarray, factors: list[np.ndarray]) -> int:
        place = self.pointers
        self.indptr.append(indptr + self.synapses)
        self.targets.append(ends)
        weights = np.ones((self.effects, len(ends)))
        for row, factor in enumerate(factors):
            weights[row] = factor
        self.weights.append(weights)
        self.pointers, self.synapses = place + len(indptr), self.synapses + len(ends)
        return place

    def result(self, real: Any) -> Given:
        none = np.zeros(1, dtype=np.int64)
        return Given(
            np.concatenate([*self.indptr, none]).astype(np.int32),
            np.concatenate([*self.targets, none]).astype(np.uint16),
            np.concatenate([*self.weights, np.zeros((self.effects, 1))], axis=1).astype(real),
            np.concatenate([*self.delays, none]).astype(np.int32),
            self.places,
        )
