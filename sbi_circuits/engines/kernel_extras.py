"""Arrays of the constructs that not every kernel has: noise, synaptic variables, random weights and delays."""

from typing import Any

import numpy as np

from sbi_circuits.circuit import Circuit
from sbi_circuits.engines.coupling import Coupling
from sbi_circuits.engines.noise import row_length
from sbi_circuits.engines.setup import Setup
from sbi_circuits.engines.synapse_source import extra_names, is_noisy, noise_numbers
from sbi_circuits.engines.synapses import Synapses
from sbi_circuits.engines.translate import Translation
from sbi_circuits.units import evaluate


def extra_arguments(
    circuit: Circuit,
    parts: tuple[Translation, ...],
    links: dict[int, Coupling],
    setup: Setup,
    depth: int,
    padded: list[int],
    real: Any,
) -> dict[str, Any]:
    """Values of `extra_names`, allocated for one simulation.

    Args:
        circuit, parts, links: what the kernel was printed from.
        setup: of the simulation.
        depth: length of the ring of spikes, in time steps.
        padded: length of the state of each population.
        real: type of the state.
    """
    values: dict[str, Any] = {"keys": np.array(setup.keys, dtype=np.uint64)} if is_noisy(parts) else {}
    for cells, length, numbers in zip(setup.cells, padded, noise_numbers(parts), strict=True):
        values |= {f"noise_{m}": np.zeros(max(length, row_length(cells.size)), dtype=real) for m in numbers}
    for k, cells in enumerate(setup.cells):
        if cells.population.refractory_varies:
            values[f"refractory_{k}"] = np.asarray(cells.refractory_steps, dtype=np.int64)
    present = {s.number: s for s in setup.synapses}
    sources = {c.population.name: c.size for c in setup.cells}
    for k in range(len(circuit.projections)):
        values |= _of_projection(circuit, k, present.get(k), sources, links.get(k), setup, depth, real)
    return {name: values[name] for name in extra_names(circuit, parts, links)}


def _of_projection(circuit: Circuit, k: int, synapses: Synapses | None, sizes: dict[str, int], link: Coupling | None,
                   setup: Setup, depth: int, real: Any) -> dict[str, Any]:
    projection = circuit.projections[k]
    values: dict[str, Any] = {f"delays_{k}": np.zeros(1, np.int64) if synapses is None else synapses.delays}
    for e, (_, expression) in enumerate(projection.effects):
        each = projection.varies_by_synapse(expression)
        absent: Any = np.zeros(0) if each else 0.0
        increment = absent if synapses is None else synapses.increments[e]
        values[f"increment_{k}_{e}"] = np.asarray(increment, dtype=real) if each else real(increment)
    if link is None:
        return values
    number = sizes[projection.source]
    weight: Any = 0.0 if synapses is None else synapses.weight
    values[f"weights_{k}"] = np.atleast_1d(np.asarray(weight, dtype=real))
    values[f"KS_{k}"] = _invariants(link, setup, weight, real)
    own = np.zeros((len(link.variables), number), dtype=real)
    for row, name in enumerate(link.variables):
        own[row] = 0.0 if synapses is None else synapses.initial.get(name, 0.0)
    delay = 0 if synapses is None else synapses.delay_steps
    values |= {f"own_{k}": own, f"spiked_{k}": np.full(number, -delay, dtype=np.int64)}
    return values | {f"gain_{k}_{e}": np.zeros((depth, number), real) for e in range(len(projection.effects))}


def _invariants(link: Coupling, setup: Setup, weight: Any, real: Any) -> np.ndarray:
    known = {**setup.values, "dt": setup.dt} | ({} if link.random_weight else {"weight": weight})
    with np.errstate(all="ignore"):
        return np.array([float(evaluate(e, known)) for e in link.invariants], dtype=real)
