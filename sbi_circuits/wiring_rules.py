"""Wiring rules: which ordered pairs (source, target) of a projection carry a synapse.

Rules are values; the engines draw the synapses from them. A neuron never connects to itself where
source and target are the same population (`EdgeList`, `Explicit` and `OneToOne` excepted: they say what they mean).
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from sbi_circuits.errors import CircuitError, UnknownNameError

PAIR_CLASSES = ("all", "same_label", "other_label")


@dataclass(frozen=True)
class Independent:
    """Every pair independently with `probability` (an expression in parameters)."""

    probability: str


@dataclass(frozen=True)
class FixedTotal:
    """Exactly ceil(probability * number of pairs) synapses, drawn without replacement from a class of pairs.

    `pairs` is "all", "same_label" (two labelled neurons that agree in at least one label, position by
    position) or "other_label" (the others).
    """

    probability: str
    pairs: str = "all"

    def __post_init__(self) -> None:
        if self.pairs not in PAIR_CLASSES:
            raise UnknownNameError("class of pairs", self.pairs, PAIR_CLASSES)


@dataclass(frozen=True)
class FixedIndegree:
    """Every target receives exactly `number` synapses from distinct sources (Brunel 2000)."""

    number: str


@dataclass(frozen=True)
class AllToAll:
    """Every pair."""


@dataclass(frozen=True)
class OneToOne:
    """Neuron i to neuron i, for populations of the same size."""


@dataclass(frozen=True)
class Explicit:
    """The listed (source, target) pairs, in this order.

    `symmetric` says that every pair has its mirror image: where one is missing the circuit is an error. None asks it
    of gap junctions only (see `Projection`), False of nothing.
    """

    pairs: tuple[tuple[int, int], ...]
    symmetric: bool | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "pairs", tuple((int(i), int(j)) for i, j in self.pairs))
        if any(i < 0 or j < 0 for i, j in self.pairs):
            raise CircuitError("explicit wiring has a negative neuron index")
        listed = set(self.pairs)
        alone = {(i, j) for i, j in listed if (j, i) not in listed} if self.symmetric else set()
        if alone:
            i, j = min(alone)
            raise CircuitError(f"symmetric wiring (gap junctions): the pair ({i}, {j}) has no pair ({j}, {i})")


@dataclass(frozen=True, eq=False)
class EdgeList:
    """Measured wiring: one synapse for each row of a table, with values of its own (a connectome).

    Two lists are equal where their content is; a circuit that has one is hashed by that content.

    Args:
        source, target: (S,) indices of neurons in their populations; a pair may occur more than once.
        columns: name -> (S,) values, or (unit, values). The projection's `weight`, `delay` and `initial` may name
            them: `weight="strength*count"`, `delay="latency"`.
        symmetric: False for gap junctions that conduct better one way.

    Raises:
        CircuitError: a column of another length, an index or value that cannot be, naming the first such row.

    Examples:
        >>> wiring = EdgeList([0, 0, 1], [1, 2, 0], {"count": [3, 1, 2], "latency": ("ms", [1.0, 2.0, 1.0])})
        >>> len(wiring), wiring.units
        (3, {'count': '1', 'latency': 'ms'})
    """

    source: np.ndarray
    target: np.ndarray
    columns: Mapping[str, Any] = field(default_factory=dict)
    symmetric: bool | None = None

    def __post_init__(self) -> None:
        for name in ("source", "target"):
            object.__setattr__(self, name, _indices(getattr(self, name), name))
        if len(self.target) != len(self.source):
            raise CircuitError(f"edge list: {len(self.source)} sources, {len(self.target)} targets")
        found = {name: entry if isinstance(entry, tuple) else ("1", entry) for name, entry in self.columns.items()}
        read = {name: (unit, _column(name, values, len(self.source))) for name, (unit, values) in found.items()}
        object.__setattr__(self, "columns", read)

    def __len__(self) -> int:
        return len(self.source)

    @property
    def units(self) -> dict[str, str]:
        """Unit of each column."""
        return {name: unit for name, (unit, _) in self.columns.items()}

    @cached_property
    def order(self) -> np.ndarray:
        """(S,) rows of the table by source, then target: the order in which engines keep synapses."""
        return np.lexsort((self.target, self.source))

    @cached_property
    def content(self) -> str:
        """SHA-256 of indices, names, units and values."""
        found = hashlib.sha256(self.source.tobytes() + self.target.tobytes())
        for name, (unit, values) in sorted(self.columns.items()):
            found.update(f"\x1f{name}\x1f{unit}\x1f".encode() + values.tobytes())
        return found.hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, EdgeList) and self.content == other.content

    def __hash__(self) -> int:
        return hash(self.content)


def _indices(values: Any, name: str) -> np.ndarray:
    found = np.asarray(values)
    if found.ndim != 1 or (found.size and not np.issubdtype(found.dtype, np.integer)):
        raise CircuitError(f"edge list: {name} must be whole numbers, one for each synapse")
    if found.size and found.min() < 0:
        raise CircuitError(f"edge list: {name} of row {int(np.argmax(found < 0))} is negative")
    return found.astype(np.int64)


def _column(name: str, values: Any, rows: int) -> np.ndarray:
    found = np.asarray(values, dtype=np.float64)
    if found.shape != (rows,):
        raise CircuitError(f"edge list: column {name} has shape {found.shape}, there are {rows} synapses")
    if not np.isfinite(found).all():
        raise CircuitError(f"edge list: {name} of row {int(np.argmax(~np.isfinite(found)))} is not finite")
    return found


Wiring = Independent | FixedTotal | FixedIndegree | AllToAll | OneToOne | Explicit | EdgeList
