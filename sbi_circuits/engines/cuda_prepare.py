"""One simulation ready to join a batch: its numbers evaluated, in any process."""

from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from time import perf_counter
from typing import Any

import numpy as np

from sbi_circuits.circuit import AllToAll, Circuit, FixedIndegree, FixedTotal, Independent, OneToOne, Projection
from sbi_circuits.engines.base import Protocol, Simulation, failure
from sbi_circuits.engines.cuda_columns import Columns
from sbi_circuits.engines.cuda_stack import Piece, Prepared, Stack
from sbi_circuits.engines.poisson_table import poisson_table
from sbi_circuits.engines.setup import Poisson, Setup, prepare, timestep
from sbi_circuits.engines.signal_source import readout_invariants
from sbi_circuits.engines.synapses import Synapses
from sbi_circuits.engines.wiring import wiring_number
from sbi_circuits.engines.wiring_total import number_to_draw, sharing_pairs
from sbi_circuits.errors import CircuitError
from sbi_circuits.units import evaluate
from sbi_circuits.wiring_rules import PAIR_CLASSES

_LARGEST_POPULATION = _LONGEST_HOLD = 2**16 - 1


def prepare_all(columns: Columns, thetas: np.ndarray, protocol: Protocol, seed: int, indices: Sequence[int], real: Any
                ) -> Piece:  # fmt: skip
    """All simulations that can be, stacked, and the failed outcome of each configuration that cannot."""
    found: list[Prepared] = []
    failed: dict[int, Simulation] = {}
    for row, (theta, index) in enumerate(zip(thetas, indices, strict=True)):
        began = perf_counter()
        try:
            found.append(prepare_one(columns, theta, protocol, seed, index, real))
        except Exception as error:
            failed[row] = Simulation(index, failure(error), None, perf_counter() - began)
    return Piece(len(indices), Stack.of(columns, found, real) if found else None, failed)


def prepare_one(columns: Columns, theta: np.ndarray, protocol: Protocol, seed: int, index: int, real: Any) -> Prepared:
    """One simulation; raises `CircuitError` for numbers that cannot be."""
    began, circuit = perf_counter(), columns.circuit
    setup = prepare(circuit, theta, protocol, seed, index, draw=False)
    for cells in setup.cells:
        if cells.size > _LARGEST_POPULATION:
            raise CircuitError(f"population {cells.population.name}: {cells.size} neurons; engine kernel[cuda] takes "
                               f"at most {_LARGEST_POPULATION}, engine kernel[numba] any number")  # fmt: skip
        if min(int(np.max(cells.refractory_steps, initial=0)), setup.steps) > _LONGEST_HOLD:
            raise CircuitError(f"population {cells.population.name}: refractory for more than {_LONGEST_HOLD} steps; "
                               "engine kernel[numba] takes any number")  # fmt: skip
    sizes = {c.population.name: c.size for c in setup.cells}
    rule, levels = _rule(circuit, setup, protocol)
    wiring, bounds = np.zeros(len(circuit.projections)), np.zeros(len(circuit.projections))
    # Projections within and between clusters ask for the same number.
    sharing = cache(lambda name: sharing_pairs(setup.labels[name]) if name in setup.labels else 0)
    for s in setup.synapses:
        projection = circuit.projections[s.number]
        wiring[s.number] = wiring_number(projection, setup.values, sizes)
        bounds[s.number] = synapse_bound(projection, s, wiring[s.number], sizes)
        if isinstance(projection.wiring, FixedTotal):
            bounds[s.number], wiring[s.number] = _exact_number(projection, wiring[s.number], sizes, sharing)
    return Prepared(
        index=index,
        setup=setup,
        reals=_reals(columns, setup, real),
        levels=np.concatenate([levels, wiring]),
        rule=rule,
        poisson=tuple(_poisson(entry, setup.dt) for entry in setup.poisson),
        bounds=bounds,
        wall_s=perf_counter() - began,
    )


def _poisson(entry: Poisson, dt: float) -> tuple[np.ndarray, np.ndarray, tuple[int, int, int]]:
    return _poisson_of(entry.target, entry.driven, entry.sources, entry.rate, dt)


@lru_cache(maxsize=64)
def _poisson_of(target: str, driven: int, sources: int, rate: float, dt: float
                ) -> tuple[np.ndarray, np.ndarray, tuple[int, int, int]]:  # fmt: skip
    """The table of an input; simulations with the same numbers share one."""
    return poisson_table(Poisson(target, "", driven, sources, rate, 0.0), dt)


def _rule(circuit: Circuit, setup: Setup, protocol: Protocol) -> tuple[tuple[int, int], tuple[float, float, float]]:
    """Early stop: steps of its window; what a spike in it adds to the load, and the two levels."""
    stop = circuit.early_stop
    if stop is None or not protocol.early_stop or setup.steps < timestep(stop.stop, setup.dt):
        return (-1, -1), (0.0, 0.0, 0.0)
    size = next(c.size for c in setup.cells if c.population.name == stop.population)
    scale = float(evaluate(stop.refractory, setup.values)) / (size * (stop.stop - stop.start))
    window = timestep(stop.start, setup.dt), timestep(stop.stop, setup.dt)
    return window, (scale, stop.silent, stop.saturated)


def _reals(columns: Columns, setup: Setup, real: Any) -> np.ndarray:
    row = np.zeros(columns.reals, dtype=real)
    for k, (cells, part) in enumerate(zip(setup.cells, columns.parts, strict=True)):
        known = {**cells.constants, "dt": setup.dt, "N": cells.size}
        with np.errstate(all="ignore"):
            values = [float(evaluate(e, known)) for e in part.invariants]
        row[columns.invariant(k) : columns.invariant(k) + len(values)] = values
    for s in setup.synapses:
        _link_reals(columns, row, setup, s)
    for m, entry in enumerate(setup.poisson):
        row[columns.poisson_weight(m)] = entry.weight
    for k, output in enumerate(columns.outputs):
        own = setup.cells[columns.position(output.readout.population)]
        values_of = readout_invariants(output, own.constants, setup.dt, own.size, real)
        row[columns.readout_invariant(k) : columns.readout_invariant(k) + len(values_of)] = values_of
    return row


def _link_reals(columns: Columns, row: np.ndarray, setup: Setup, s: Synapses) -> None:
    """What a spike adds where synapses do not differ, and the numbers of a coupling."""
    first, link = columns.weight(s.number), columns.links.get(s.number)
    for e, increment in enumerate(s.increments):
        row[first + e] = 1.0 if np.ndim(increment) else increment
    if link is None:
        return
    known = {**setup.values, "dt": setup.dt} | ({} if link.random_weight else {"weight": s.weight})
    with np.errstate(all="ignore"):
        values = [float(evaluate(e, known)) for e in link.invariants]
    at_link = columns.link_invariant(s.number)
    row[at_link : at_link + len(values)] = values
    for n, variable in enumerate(link.variables):
        row[columns.own_start(s.number) + n] = s.initial.get(variable, 0.0)


def _exact_number(projection: Projection, p: float, sizes: dict[str, int], sharing: Callable[[str], int]
                  ) -> tuple[int, int]:  # fmt: skip
    """Synapses of an exact number among the pairs of a class, and how many the device draws for them."""
    assert isinstance(projection.wiring, FixedTotal)
    sources, targets = sizes[projection.source], sizes[projection.target]
    which = PAIR_CLASSES.index(projection.wiring.pairs)
    pairs = sharing(projection.source) if which else 0
    return number_to_draw(p, sources, targets, projection.source == projection.target, pairs, which)


def synapse_bound(projection: Projection, synapses: Synapses, number: float, sizes: dict[str, int]) -> float:
    """At least the synapses that a projection with this probability or in-degree has."""
    sources, targets = sizes[projection.source], sizes[projection.target]
    pairs = sources * targets
    match projection.wiring:
        case Independent():
            return min(number * pairs + 8.0 * (number * (1 - number) * pairs) ** 0.5 + 64, pairs)
        case FixedIndegree():
            return number * targets
        case AllToAll():
            return pairs
        case OneToOne():
            return sources
    return len(synapses.targets)
