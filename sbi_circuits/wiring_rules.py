"""Wiring rules: which ordered pairs (source, target) of a projection carry a synapse.

Rules are values; the engines draw the synapses from them. A neuron never connects to itself where
source and target are the same population (`Explicit` and `OneToOne` excepted: they say what they mean).
"""

from dataclasses import dataclass

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
    """The listed (source, target) pairs, in this order."""

    pairs: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "pairs", tuple((int(i), int(j)) for i, j in self.pairs))
        if any(i < 0 or j < 0 for i, j in self.pairs):
            raise CircuitError("explicit wiring has a negative neuron index")


Wiring = Independent | FixedTotal | FixedIndegree | AllToAll | OneToOne | Explicit
