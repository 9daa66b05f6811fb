"""Wiring as a value: who connects to whom, with how many synapses, of which sign, and what they share.

A `Wiring` comes from an edge table, from an adjacency matrix, or from a lattice of cell types, and any engine can
take it: `source`, `target`, `count`, `sign` and, where it was measured, `delay` are plain arrays over the edges.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from sbi_circuits.errors import CircuitError, UnknownNameError
from sbi_circuits.seeds import generator

SHUFFLES = ("columns", "types")


@dataclass(frozen=True, eq=False)
class Wiring:
    """A directed, signed, weighted graph of cells, and which of its edges share a strength.

    Args:
        cell_types: names of the types, each once.
        node_type: (n,) index of each cell's type in `cell_types`.
        source, target: (E,) indices of cells, presynaptic and postsynaptic.
        count: (E,) synapses of each edge, >= 0 (means over several columns need not be whole).
        sign: (E,) +1 or -1.
        group: (E,) index in `groups` of the strength an edge shares; by pair of types where there are no groups.
        groups: names of the groups.
        names: (n,) name of each cell; numbered within its type where empty.
        column: (n, 2) lattice coordinates u, v of each cell, or None where the wiring is not on a lattice.
        delay: (E,) delay of each edge, s, or None.
        gap: (G, 2) pairs of cells joined by gap junctions, each pair once.
        gap_count: (G,) how many.
        where: what the edges are called in messages.

    Raises:
        CircuitError: naming the first row that is wrong: a cell that does not exist, a negative count, a sign that
            is not +1 or -1, an edge that is there twice.

    Examples:
        >>> wiring = Wiring(("E", "I"), [0, 0, 1], source=[0, 1, 2], target=[1, 2, 0], count=[3, 1, 2], sign=[1, 1, -1])
        >>> wiring.groups, wiring.group.tolist(), wiring.names.tolist()
        (('E->E', 'E->I', 'I->E'), [0, 1, 2], ['E 0', 'E 1', 'I 0'])
        >>> wiring.matrix().tolist()  # row = target, column = source
        [[0.0, 0.0, -2.0], [3.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    """

    cell_types: tuple[str, ...]
    node_type: np.ndarray
    source: np.ndarray
    target: np.ndarray
    count: np.ndarray
    sign: np.ndarray
    group: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    groups: tuple[str, ...] = ()
    names: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.str_))
    column: np.ndarray | None = None
    delay: np.ndarray | None = None
    gap: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), dtype=np.int64))
    gap_count: np.ndarray = field(default_factory=lambda: np.zeros(0))
    where: str = "edge"

    def __post_init__(self) -> None:
        object.__setattr__(self, "cell_types", tuple(self.cell_types))
        for name in ("node_type", "source", "target", "group", "gap"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=np.int64))
        for name in ("count", "gap_count"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=np.float64))
        object.__setattr__(self, "sign", np.asarray(self.sign, dtype=np.int8))
        self._check()
        if not len(self.names):
            object.__setattr__(self, "names", self._numbered())
        if not self.groups:
            groups, group = self._by_types()
            object.__setattr__(self, "groups", groups)
            object.__setattr__(self, "group", group)

    def _check(self) -> None:
        n, edges = self.n_nodes, self.n_edges
        if len(set(self.cell_types)) < len(self.cell_types):
            raise CircuitError("a cell type is there twice")
        refuse(self.node_type, (self.node_type < 0) | (self.node_type >= len(self.cell_types)), "cell", "unknown type")
        for name in ("target", "count", "sign", *(("group",) if self.groups else ())):
            if len(getattr(self, name)) != edges:
                raise CircuitError(f"{self.where}s: {name} has {len(getattr(self, name))} rows, source has {edges}")
        for name in ("source", "target"):
            index = getattr(self, name)
            refuse(index, (index < 0) | (index >= n), self.where, f"{name} is no cell (there are {n})")
        refuse(self.count, ~(self.count >= 0) | np.isinf(self.count), self.where, "count must be a number >= 0")
        refuse(self.sign, abs(self.sign) != 1, self.where, "sign must be +1 or -1")
        refuse_repeated(self.source * max(n, 1) + self.target, self.where, "is there already")
        if self.delay is not None:
            object.__setattr__(self, "delay", np.asarray(self.delay, dtype=np.float64))
            refuse(self.delay, ~(self.delay >= 0), self.where, "delay must be >= 0 s")
        refuse(self.gap[:, 0], ((self.gap < 0) | (self.gap >= n)).any(1), "gap junction", "joins no cell")
        refuse(self.gap_count, ~(self.gap_count >= 0), "gap junction", "count must be a number >= 0")
        refuse_repeated(np.sort(self.gap, axis=1) @ np.array([n, 1]), "gap junction", "is there already")

    def _numbered(self) -> np.ndarray:
        seen = np.zeros(self.n_nodes, dtype=np.int64)
        for k in range(len(self.cell_types)):
            own = self.node_type == k
            seen[own] = np.arange(own.sum())
        return np.array([f"{self.cell_types[k]} {i}" for k, i in zip(self.node_type, seen, strict=True)])

    def _by_types(self) -> tuple[tuple[str, ...], np.ndarray]:
        pair = self.node_type[self.source] * len(self.cell_types) + self.node_type[self.target]
        found, group = np.unique(pair, return_inverse=True)
        named = [divmod(int(p), len(self.cell_types)) for p in found]
        return tuple(f"{self.cell_types[s]}->{self.cell_types[t]}" for s, t in named), group

    @property
    def n_nodes(self) -> int:
        return len(self.node_type)

    @property
    def n_edges(self) -> int:
        return len(self.source)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of everything that acts: types, edges, groups, delays, gap junctions; names do not matter."""
        found = hashlib.sha256("\x1f".join((*self.cell_types, "", *self.groups)).encode())
        for name in ("node_type", "source", "target", "count", "sign", "group", "delay", "gap", "gap_count"):
            column = getattr(self, name)
            found.update(name.encode() + (b"" if column is None else np.ascontiguousarray(column).tobytes()))
        return found.hexdigest()

    def type_index(self, name: str) -> int:
        """Index of a cell type; raises `UnknownNameError`."""
        if name not in self.cell_types:
            raise UnknownNameError("cell type", name, self.cell_types)
        return self.cell_types.index(name)

    def cells(self, name: str) -> np.ndarray:
        """Indices of the cells of a type, in order; raises `UnknownNameError`."""
        return np.flatnonzero(self.node_type == self.type_index(name))

    def central(self) -> np.ndarray:
        """(types,) index of the cell of each type in column (0, 0).

        Raises:
            CircuitError: where the wiring is not on a lattice, or a type has no cell there.
        """
        if self.column is None:
            raise CircuitError("this wiring is not on a lattice: it has no central column")
        middle = np.flatnonzero((self.column == 0).all(1))
        found = dict(zip(self.node_type[middle].tolist(), middle.tolist(), strict=True))
        missing = [name for k, name in enumerate(self.cell_types) if k not in found]
        if missing:
            raise CircuitError(f"no cell in the central column of type {', '.join(missing)}")
        return np.array([found[k] for k in range(len(self.cell_types))])

    def matrix(self, strength: np.ndarray | None = None) -> np.ndarray:
        """Dense signed weights (n, n), row = target: sign * count * strength of the group (1 where None).

        Raises:
            CircuitError: for more than 5,000 cells, whose matrix would not fit.
        """
        if self.n_nodes > 5000:
            raise CircuitError(f"a dense matrix of {self.n_nodes} cells is too large; use `sparse.Links`")
        found = np.zeros((self.n_nodes, self.n_nodes))
        shared = 1.0 if strength is None else np.asarray(strength)[self.group]
        found[self.target, self.source] = self.sign * self.count * shared
        return found

    def gap_matrix(self) -> np.ndarray:
        """Dense symmetric gap junctions (n, n)."""
        found = np.zeros((self.n_nodes, self.n_nodes))
        a, b = self.gap.T
        found[a, b] = found[b, a] = self.gap_count
        return found

    def subset(self, keep: Iterable[str]) -> "Wiring":
        """The wiring among the cells of some types only; groups keep their names and order."""
        kept = [self.type_index(name) for name in keep]
        return self.among(np.isin(self.node_type, kept))

    def among(self, chosen: np.ndarray) -> "Wiring":
        """The wiring among the cells (n,) bool that are chosen; types and groups stay as they are."""
        new = np.cumsum(chosen) - 1
        edges = chosen[self.source] & chosen[self.target]
        gaps = chosen[self.gap].all(1)
        return replace(
            self, node_type=self.node_type[chosen], names=self.names[chosen],
            column=None if self.column is None else self.column[chosen],
            source=new[self.source[edges]], target=new[self.target[edges]],
            count=self.count[edges], sign=self.sign[edges], group=self.group[edges],
            delay=None if self.delay is None else self.delay[edges],
            gap=new[self.gap[gaps]], gap_count=self.gap_count[gaps],
        )  # fmt: skip

    def shuffled(self, seed: int, what: str = "types") -> "Wiring":
        """The same cells, counts, signs and groups, wired at random: a control.

        Args:
            seed: of the permutation.
            what: "types": every source type is exchanged for another one with as many cells, so that each cell keeps
                its number of inputs, their counts, signs and layout; "columns": within each group the sources are
                permuted, so that types stay connected as they were and only the layout is lost.

        Raises:
            UnknownNameError: another `what`.
        """
        random = generator(seed, "shuffled wiring", what)
        if what == "types":
            source = self._exchanged(random)[self.source]
            return replace(self, source=source, where="shuffled edge")
        if what != "columns":
            raise UnknownNameError("shuffle", what, SHUFFLES)
        return self._scrambled(random)

    def _exchanged(self, random: np.random.Generator) -> np.ndarray:
        """(n,) the cell that stands in for each cell, of another type."""
        sizes = np.bincount(self.node_type, minlength=len(self.cell_types))
        by_type = [np.flatnonzero(self.node_type == k) for k in range(len(self.cell_types))]
        other = np.arange(self.n_nodes)
        for size in np.unique(sizes):
            alike = np.flatnonzero(sizes == size)
            for k, new in zip(alike, random.permutation(alike), strict=True):
                other[by_type[k]] = by_type[new]
        return other

    def _scrambled(self, random: np.random.Generator) -> "Wiring":
        source = self.source.copy()
        order = np.argsort(self.group, kind="stable")
        for edges in np.split(order, np.flatnonzero(np.diff(self.group[order])) + 1):
            source[edges] = random.permutation(source[edges])
        # A pair of cells may come up twice then: its counts are added, which keeps every cell's total.
        key = (self.group * self.n_nodes + source) * self.n_nodes + self.target
        _, first, inverse = np.unique(key, return_index=True, return_inverse=True)
        return replace(
            self, source=source[first], target=self.target[first], count=np.bincount(inverse, self.count),
            sign=self.sign[first], group=self.group[first], delay=None, where="shuffled edge",
        )  # fmt: skip


def refuse(values: np.ndarray, wrong: "np.ndarray | np.bool", where: str, reason: str) -> None:
    """Raise `CircuitError` for the first row that is wrong, with its value."""
    if np.any(wrong):
        row = int(np.argmax(wrong))
        raise CircuitError(f"{where} {row}: {reason}, got {values[row]}")


def refuse_repeated(key: np.ndarray, where: str, reason: str) -> None:
    """Raise `CircuitError` for the first row whose key an earlier row has."""
    _, first = np.unique(key, return_index=True)
    if len(first) < len(key):
        row = int(np.setdiff1d(np.arange(len(key)), first)[0])
        before = int(np.flatnonzero(key == key[row])[0])
        raise CircuitError(f"{where} {row}: {reason}, in row {before}")


def names_of(found: Sequence[object] | np.ndarray) -> np.ndarray:
    """Identifiers as text, whatever they were in the file."""
    return np.array([str(item) for item in found], dtype=np.str_)
