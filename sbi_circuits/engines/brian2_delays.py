"""Delays of summed couplings in Brian2: what a source was some steps ago is a variable of it, set in every step."""

import re
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import brian2
import numpy as np

from sbi_circuits.circuit import Circuit, Population, Projection
from sbi_circuits.engines.setup import Setup
from sbi_circuits.engines.synapses import Synapses
from sbi_circuits.errors import CircuitError

_PRE = re.compile(r"\b(\w+)_pre\b")


def _name(variable: str, number: int) -> str:
    return f"{variable}_before_{number}"


def _read(projection: Projection) -> list[str]:
    """Variables of the source that the sums read."""
    return sorted({name for _, expression in projection.sums() for name in _PRE.findall(expression)})


def _delayed(circuit: Circuit, setup: Setup) -> list[tuple[Projection, Synapses]]:
    found = [(circuit.projections[s.number], s) for s in setup.synapses if circuit.projections[s.number].summed]
    found = [(p, s) for p, s in found if s.delays.any() and not circuit.spikes]
    for projection, synapses in found:
        if len(synapses.delays) > 1:
            raise CircuitError(f"projection {projection.name}: synapses of a summed coupling share one delay")
    return found


def delayed_sums(projection: Projection, synapses: Synapses) -> list[tuple[str, str]]:
    """(variable of the target, expression) of every sum, reading the past of the source where there is a delay."""
    if not synapses.delays.any() or projection.on_spike.strip():
        return list(projection.sums())
    return [(v, _PRE.sub(lambda m: f"{_name(m[1], synapses.number)}_pre", e)) for v, e in projection.sums()]


def delayed_equations(circuit: Circuit, setup: Setup, population: Population) -> list[str]:
    """Declarations of a population's past."""
    equations = brian2.Equations(population.equations)
    lines = []
    for projection, synapses in _delayed(circuit, setup):
        if projection.source == population.name:
            for name in _read(projection):
                dimension = equations.dimensions[name]
                unit = "1" if dimension.is_dimensionless else repr(dimension)
                lines.append(f"{_name(name, synapses.number)} : {unit}")
    return lines


def delay_lines(
    circuit: Circuit, setup: Setup, groups: Mapping[str, brian2.NeuronGroup], clock: brian2.Clock
) -> list[Any]:
    """Operations that set them before the sums are taken."""
    return [
        brian2.NetworkOperation(
            _line(groups[projection.source], name, synapses), clock=clock, when="groups", order=-2,
            name=f"delay_of_{name}_{synapses.number}",
        )
        for projection, synapses in _delayed(circuit, setup)
        for name in _read(projection)
    ]  # fmt: skip


def _line(group: brian2.NeuronGroup, name: str, synapses: Synapses) -> Callable[[], None]:
    past: deque[np.ndarray] = deque()

    def step() -> None:
        now = np.array(group.variables[name].get_value())
        if not past:
            past.extend([now] * synapses.delay_steps)
        past.append(now)
        group.variables[_name(name, synapses.number)].set_value(past.popleft())

    return step
