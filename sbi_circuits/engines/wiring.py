"""Synapses drawn from wiring rules, as compressed rows: the targets of each source, ascending.

Every rule draws from a stream of its own, keyed by simulation and projection, so adding a projection
changes no other wiring.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit

from sbi_circuits.circuit import Circuit, Projection
from sbi_circuits.engines.intrinsics import log_of_word
from sbi_circuits.engines.philox import WORDS, new_stream, philox, refill
from sbi_circuits.engines.wiring_total import fixed_total
from sbi_circuits.errors import CircuitError
from sbi_circuits.seeds import generator
from sbi_circuits.units import evaluate
from sbi_circuits.wiring_rules import (
    PAIR_CLASSES,
    AllToAll,
    EdgeList,
    Explicit,
    FixedIndegree,
    FixedTotal,
    Independent,
    OneToOne,
)

# Philox stream numbers: wiring of projection k is 16 + k; below 16 is free for the kernels.
_FIRST_WIRING_STREAM = 16
_EMPTY = np.zeros((0, 0), dtype=np.int32)
_SHIFT = np.uint64(32)


@dataclass(frozen=True, eq=False)
class Rows:
    """Compressed synapses: targets of source i are `targets[indptr[i]:indptr[i + 1]]`."""

    indptr: np.ndarray
    targets: np.ndarray

    @property
    def sources(self) -> np.ndarray:
        """Source of each synapse, aligned with `targets`."""
        return np.repeat(np.arange(len(self.indptr) - 1), np.diff(self.indptr))


def draw_labels(circuit: Circuit, values: Mapping[str, float], sizes: Mapping[str, int], seed: int, index: int
                ) -> dict[str, np.ndarray]:
    """Labels (draws, N) of every labelled population with at least one label."""
    labels = {}
    for population in circuit.populations:
        count = int(evaluate(population.labels, values)) if population.labels else 0
        if count >= 1:
            draw = generator(seed, index, "labels", population.name)
            shape = (population.label_draws, sizes[population.name])
            labels[population.name] = draw.integers(0, count, size=shape).astype(np.int32)
    return labels


def draw_rows(
    projection: Projection,
    number: int,
    values: Mapping[str, float],
    sizes: Mapping[str, int],
    labels: Mapping[str, np.ndarray],
    keys: tuple[int, int],
) -> Rows:
    """Synapses of one projection.

    Args:
        projection: whose wiring rule is drawn.
        number: its position in the circuit; names its random stream.
        values: SI values of parameters and constants.
        sizes: population sizes.
        labels: from `draw_labels`.
        keys: Philox key of the simulation.

    Raises:
        CircuitError: a probability outside [0, 1] or an in-degree that cannot be.
    """
    sources, targets = sizes[projection.source], sizes[projection.target]
    same = projection.source == projection.target
    words, header = new_stream(keys, _FIRST_WIRING_STREAM + number)
    dtype = target_type(targets)
    number_of = wiring_number(projection, values, sizes)
    match projection.wiring:
        case Independent():
            indptr, found = _independent(number_of, sources, targets, same, words, header)
        case FixedTotal(pairs=pairs):
            pair_labels = labels.get(projection.source, _EMPTY) if pairs != "all" else _EMPTY
            which = PAIR_CLASSES.index(pairs)
            indptr, found = fixed_total(number_of, sources, targets, same, pair_labels, which, words, header, dtype)
        case FixedIndegree():
            indptr, found = _fixed_indegree(int(number_of), sources, targets, same, header)
        case AllToAll():
            indptr, found = _independent(1.0, sources, targets, same, words, header)
        case OneToOne():
            indptr, found = np.arange(sources + 1, dtype=np.int64), np.arange(sources)
        case Explicit(pairs=listed):
            i, j = np.array(listed, dtype=np.int64).reshape(-1, 2).T
            indptr, found = _listed(projection, i, j, np.lexsort((j, i)), sources, targets)
        case EdgeList() as edges:
            indptr, found = _listed(projection, edges.source, edges.target, edges.order, sources, targets)
    return Rows(indptr, found.astype(dtype, copy=False))


def target_type(neurons: int) -> Any:
    """Type that numbers of targets are kept in."""
    return np.uint16 if neurons < 2**16 else np.int32


def wiring_number(projection: Projection, values: Mapping[str, float], sizes: Mapping[str, int]) -> float:
    """The probability or in-degree of a projection's wiring rule at one configuration; 0 where it has none.

    Raises:
        CircuitError: a probability outside [0, 1], an in-degree that cannot be, sizes that do not fit.
    """
    sources, targets = sizes[projection.source], sizes[projection.target]
    match projection.wiring:
        case Independent(probability=expression) | FixedTotal(probability=expression):
            p = float(evaluate(expression, values))
            if not 0.0 <= p <= 1.0:
                raise CircuitError(f"projection {projection.name}: probability {expression} = {p:g} is outside [0, 1]")
            return p
        case FixedIndegree(number=n):
            degree = int(evaluate(n, values))
            if not 0 <= degree <= sources - (projection.source == projection.target):
                raise CircuitError(f"projection {projection.name}: in-degree {degree} from {sources} neurons cannot be")
            return degree
        case OneToOne() if sources != targets:
            raise CircuitError(f"projection {projection.name}: one-to-one between {sources} and {targets} neurons")
    return 0.0


def _listed(projection: Projection, i: np.ndarray, j: np.ndarray, order: np.ndarray, sources: int, targets: int
            ) -> tuple[np.ndarray, np.ndarray]:
    if len(i) and (i.max() >= sources or j.max() >= targets):
        raise CircuitError(f"projection {projection.name}: a pair is outside {sources} x {targets} neurons")
    indptr = np.concatenate([[0], np.cumsum(np.bincount(i, minlength=sources))]).astype(np.int64)
    return indptr, j[order]


@njit(cache=True)
def _independent(p, sources, targets, same, words, header):  # type: ignore[no-untyped-def]
    """Bernoulli pairs by geometric jumps over the flattened matrix, the diagonal left out."""
    width = targets - 1 if same else targets
    expected = sources * width * p
    found = np.empty(int(expected + 8.0 * np.sqrt(expected + 1.0)) + 64, dtype=np.int32)
    indptr = np.zeros(sources + 1, dtype=np.int64)
    scale = 1.0 / np.log1p(-p) if 0.0 < p < 1.0 else 0.0
    jumps = np.empty(WORDS)
    # Source, and the place in its row where the last synapse was.
    i, place, n = 0 if p > 0.0 else sources, np.int64(-1), 0
    while i < sources:
        refill(words, header)
        _jumps(words, scale, jumps)
        if n + WORDS > len(found):
            found = _longer(found, n)
        for jump in jumps:
            place += 1 + np.int64(jump)
            while place >= width and i < sources:
                place -= width
                i += 1
                indptr[i] = n
            if i == sources:
                break
            found[n] = place + np.int64(same and place >= i)
            n += 1
    return indptr, found[:n]


@njit(cache=True, fastmath={"contract"}, error_model="numpy")
def _jumps(words, scale, jumps):  # type: ignore[no-untyped-def]
    """Pairs without a synapse before the next one, not yet rounded down; a loop of its own, so that it vectorises."""
    for k in range(WORDS):
        jumps[k] = log_of_word(words[k]) * scale


@njit(cache=True)
def _longer(found, n):  # type: ignore[no-untyped-def]
    grown = np.empty(2 * len(found) + WORDS, dtype=np.int32)
    grown[:n] = found[:n]
    return grown


@njit(cache=True)
def _fixed_indegree(degree, sources, targets, same, header):  # type: ignore[no-untyped-def]
    """Distinct sources of each target, then turned into rows of sources by a counting sort.

    Target j draws from the counters (0, j + 1), (1, j + 1), ... of the stream, so that targets can be drawn in any
    order.
    """
    key0, key1, stream = header[2], header[3], header[4]
    chosen = np.empty((targets, degree), dtype=np.int32)
    mark = np.full(sources, -1, dtype=np.int64)
    indptr = np.zeros(sources + 1, dtype=np.int64)
    for j in range(targets):
        n, block = 0, np.uint64(0)
        while n < degree:
            for word in philox(block, np.uint64(j + 1), stream, key0, key1):
                i = np.int64((word * np.uint64(sources)) >> _SHIFT)
                if n < degree and mark[i] != j and not (same and i == j):
                    mark[i] = j
                    chosen[j, n] = i
                    indptr[i + 1] += 1
                    n += 1
            block += np.uint64(1)
    indptr = np.cumsum(indptr)
    cursor = indptr[:-1].copy()
    found = np.empty(targets * degree, dtype=np.int32)
    for j in range(targets):
        for n in range(degree):
            i = chosen[j, n]
            found[cursor[i]] = j
            cursor[i] += 1
    return indptr, found
