"""Synapses of one simulation as plain arrays, grouped by delay: what every engine delivers spikes along."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sbi_circuits.circuit import Circuit, EdgeList, Explicit, Projection
from sbi_circuits.circuit_values import edge_values, is_present
from sbi_circuits.engines.wiring import Rows, draw_rows, target_type
from sbi_circuits.errors import CircuitError
from sbi_circuits.seeds import generator
from sbi_circuits.units import FUNCTIONS, evaluate

PerSynapse = float | np.ndarray


@dataclass(frozen=True, eq=False)
class Synapses:
    """One projection with its synapses, sorted by (delay, source, target).

    Args:
        number: position of the projection in the circuit.
        source, target: populations.
        variables: of the target, one for each effect of a spike.
        delays: (D,) distinct delays in time steps, ascending; one where all synapses share it.
        indptr: (D, N_source + 1); synapses of source i with delay d are `targets[indptr[d, i]:indptr[d, i + 1]]`.
        targets: (S,) target of each synapse.
        weight: SI value, or one for each synapse.
        increments: of each effect, SI: what a spike adds, or (S,) per synapse; where the projection has
            variables of its own, a factor of what they give.
        initial: variable of the projection -> where it starts; (S,) where synapses differ.
    """

    number: int
    source: str
    target: str
    variables: tuple[str, ...]
    delays: np.ndarray
    indptr: np.ndarray
    targets: np.ndarray
    weight: PerSynapse
    increments: tuple[PerSynapse, ...]
    initial: dict[str, PerSynapse]

    @property
    def delay_steps(self) -> int:
        """The delay where all synapses share it; the shortest elsewhere."""
        return int(self.delays[0])

    @property
    def rows(self) -> Rows:
        """The synapses as rows of sources, where they share one delay."""
        return Rows(self.indptr[0], self.targets)

    @property
    def sources(self) -> np.ndarray:
        """(S,) source of each synapse."""
        counts = np.diff(self.indptr, axis=1)
        return np.repeat(np.tile(np.arange(counts.shape[1]), len(counts)), counts.ravel())

    @property
    def synapse_delays(self) -> np.ndarray:
        """(S,) delay of each synapse in time steps."""
        return np.repeat(self.delays, np.diff(self.indptr, axis=1).sum(1))


@dataclass(frozen=True, eq=False)
class Drawing:
    """What synapses are drawn from: the configuration, population sizes, labels, time step and random keys."""

    circuit: Circuit
    values: Mapping[str, float]
    sizes: Mapping[str, int]
    labels: Mapping[str, np.ndarray]
    dt: float
    keys: tuple[int, int]
    seed: int
    index: int

    def synapses(self, drawn: Callable[[Projection], bool]) -> tuple[Synapses, ...]:
        """Synapses of every projection that is present; without targets where `drawn` says that an engine draws them.

        Raises:
            CircuitError: a probability, in-degree or delay that cannot be.
        """
        present = [(k, p) for k, p in enumerate(self.circuit.projections) if is_present(p, self.values)]
        return tuple(self._one(number, projection, drawn(projection)) for number, projection in present)

    def _one(self, number: int, projection: Projection, by_engine: bool) -> Synapses:
        rows = self._no_rows(projection) if by_engine else self._rows(number, projection)
        steps = self._delays(projection, len(rows.targets))
        weight = self._random(projection.weight, projection, "weight", len(rows.targets))
        initial = {n: self._random(e, projection, n, len(rows.targets)) for n, e in projection.initial}
        order, delays, indptr = _by_delay(rows, steps)
        weight = weight if order is None else _ordered(weight, order)
        return Synapses(
            number, projection.source, projection.target, tuple(v for v, _ in projection.effects), delays, indptr,
            rows.targets if order is None else rows.targets[order], weight,
            tuple(self._increment(projection, e, weight) for _, e in projection.effects),
            initial if order is None else {n: _ordered(v, order) for n, v in initial.items()},
        )  # fmt: skip

    def _rows(self, number: int, projection: Projection) -> Rows:
        return draw_rows(projection, number, self.values, self.sizes, self.labels, self.keys)

    def _no_rows(self, projection: Projection) -> Rows:
        targets = np.zeros(0, dtype=target_type(self.sizes[projection.target]))
        return Rows(np.zeros(self.sizes[projection.source] + 1, dtype=np.int64), targets)

    def _random(self, expression: str, projection: Projection, label: str, number: int) -> PerSynapse:
        """The value of an expression; one for each synapse where it calls rand() or randn(), or names a column."""
        if not projection.differs(expression):
            return self._known(expression)
        draw = generator(self.seed, self.index, label, projection.name)
        functions: dict[str, Callable[..., Any]] = {
            **FUNCTIONS, "rand": lambda: draw.random(number), "randn": lambda: draw.standard_normal(number),
        }  # fmt: skip
        value = evaluate(expression, {**self.values, **edge_values(projection)}, functions)
        return np.asarray(value, dtype=float) if np.ndim(value) else float(value)

    def _known(self, expression: str) -> PerSynapse:
        value = evaluate(expression, self.values)
        return np.asarray(value, dtype=float) if np.ndim(value) else float(value)

    def _delays(self, projection: Projection, number: int) -> int | np.ndarray:
        """Delays in steps, rounded to the nearest as Brian2 does."""
        delay = self._random(projection.delay, projection, "delay", number)
        shortest = delay if isinstance(delay, float) else float(delay.min()) if len(delay) else 0.0
        if not shortest >= 0:
            raise CircuitError(f"projection {projection.name}: delay {projection.delay} = {shortest:g} s is negative")
        steps = (np.asarray(delay) / self.dt).round().astype(np.int64)
        return steps if steps.ndim else int(steps)

    def _increment(self, projection: Projection, expression: str, weight: PerSynapse) -> PerSynapse:
        if projection.depends_on_state(expression):
            return weight if projection.varies_by_synapse(expression) else 1.0
        value = evaluate(expression, {**self.values, "weight": weight})
        return np.asarray(value, dtype=float) if np.ndim(value) else float(value)


def drawn_by_engine(projection: Projection) -> bool:
    """Whether an engine that draws its own wiring can do without the synapses of this projection."""
    return projection.plain and not isinstance(projection.wiring, (EdgeList, Explicit))


def _ordered(values: PerSynapse, order: np.ndarray) -> PerSynapse:
    return values[order] if isinstance(values, np.ndarray) else values


def _by_delay(rows: Rows, steps: int | np.ndarray) -> tuple[np.ndarray | None, np.ndarray, np.ndarray]:
    """Order of the synapses by delay (None where it stays), the distinct delays, and the row pointers of each."""
    if isinstance(steps, int) or len(steps) == 0:
        delay = steps if isinstance(steps, int) else 0
        return None, np.array([delay], dtype=np.int64), rows.indptr[None, :]
    order = np.argsort(steps, kind="stable")
    delays, group = np.unique(steps, return_inverse=True)
    number = len(rows.indptr) - 1
    counts = np.bincount(group * number + rows.sources, minlength=len(delays) * number)
    ends = np.concatenate([[0], np.cumsum(counts)])
    starts = ends[np.arange(len(delays))[:, None] * number + np.arange(number + 1)]
    return order, delays.astype(np.int64), starts.astype(np.int64)
