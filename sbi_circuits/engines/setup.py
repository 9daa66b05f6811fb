"""One simulation as plain numbers: sizes, SI constants, initial values, synapses, inputs, recorded cells.

Every engine starts from the same `Setup`, so wiring and initial state are equal across engines.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from sbi_circuits.circuit import Circuit, CurrentSteps, PoissonInput, Population
from sbi_circuits.engines.base import Protocol
from sbi_circuits.engines.wiring import Rows, draw_labels, draw_rows
from sbi_circuits.errors import CircuitError
from sbi_circuits.seeds import generator, kernel_keys
from sbi_circuits.units import FUNCTIONS, evaluate


@dataclass(frozen=True, eq=False)
class Cells:
    """One population: its size, the SI values its equations see, and where it starts."""

    population: Population
    size: int
    constants: dict[str, float]
    refractory_steps: int
    initial: dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Synapses:
    """One projection with its synapses; `number` is its position in the circuit."""

    number: int
    source: str
    target: str
    variable: str
    weight: float
    delay_steps: int
    rows: Rows


@dataclass(frozen=True, eq=False)
class Poisson:
    """One Poisson input: the first `driven` neurons have `sources` sources of `rate` Hz each."""

    target: str
    variable: str
    driven: int
    sources: int
    rate: float
    weight: float


@dataclass(frozen=True, eq=False)
class Steps:
    """One shared piecewise constant input: `values[k]` from time step `starts[k]` on; 0 before the first."""

    target: str
    name: str
    starts: np.ndarray
    values: np.ndarray


@dataclass(frozen=True, eq=False)
class Setup:
    """Everything an engine needs to run one simulation; all values in SI units."""

    dt: float
    steps: int
    warmup_steps: int
    cells: tuple[Cells, ...]
    synapses: tuple[Synapses, ...]
    poisson: tuple[Poisson, ...]
    currents: tuple[Steps, ...]
    recorded: np.ndarray
    keys: tuple[int, int]
    values: dict[str, float]

    @property
    def total_cells(self) -> int:
        return sum(c.size for c in self.cells)

    def groups(self) -> tuple[str, ...]:
        """Population of each recorded cell."""
        names = np.repeat([c.population.name for c in self.cells], [c.size for c in self.cells])
        return tuple(str(n) for n in names[self.recorded])


def timestep(time: float, dt: float) -> int:
    """Whole steps in a duration, as Brian2 counts them (its function `timestep`)."""
    return int((time + 1e-3 * dt) / dt)


def prepare(circuit: Circuit, theta: np.ndarray, protocol: Protocol, seed: int, index: int) -> Setup:
    """Turn a configuration into numbers.

    Raises:
        CircuitError: a size, probability, delay or rate that cannot be at this configuration.
    """
    dt = protocol.dt or circuit.dt
    values = circuit.values(theta)
    sizes = {p.name: _size(p, values) for p in circuit.populations}
    keys = kernel_keys(seed, index)
    cells = tuple(_cells(circuit, p, sizes[p.name], values, dt, seed, index) for p in circuit.populations)
    return Setup(
        dt=dt,
        steps=timestep(protocol.warmup + protocol.duration, dt),
        warmup_steps=timestep(protocol.warmup, dt),
        cells=cells,
        synapses=_synapses(circuit, values, sizes, dt, keys, draw_labels(circuit, values, sizes, seed, index)),
        poisson=tuple(_poisson(i, sizes, values) for i in circuit.inputs if isinstance(i, PoissonInput)),
        currents=tuple(_steps(i, values, dt) for i in circuit.inputs if isinstance(i, CurrentSteps)),
        recorded=_recorded(protocol.record.spikes, sum(sizes.values()), seed, index),
        keys=keys,
        values=values,
    )


def _size(population: Population, values: dict[str, float]) -> int:
    size = int(np.floor(evaluate(population.size, values) + 1e-9))
    if size < 1:
        raise CircuitError(f"population {population.name}: size {population.size} = {size} is below 1")
    return size


def _cells(circuit: Circuit, population: Population, size: int, values: dict[str, float], dt: float, seed: int,
           index: int) -> Cells:
    constants = circuit.namespace(population, values)
    refractory = float(evaluate(population.refractory, constants)) if population.refractory else 0.0
    draw = generator(seed, index, "initial", population.name)
    functions: dict[str, Callable[..., Any]] = {
        **FUNCTIONS,
        "randn": lambda: draw.standard_normal(size),
        "rand": lambda: draw.random(size),
    }
    initial = {
        variable: np.broadcast_to(evaluate(expression, constants, functions), (size,)).astype(float)
        for variable, expression in population.initial
    }
    return Cells(population, size, constants, timestep(refractory, dt), initial)


def _synapses(circuit: Circuit, values: dict[str, float], sizes: dict[str, int], dt: float, keys: tuple[int, int],
              labels: dict[str, np.ndarray]) -> tuple[Synapses, ...]:
    found = []
    for number, projection in enumerate(circuit.projections):
        if projection.when and not evaluate(projection.when, values):
            continue
        delay = float(evaluate(projection.delay, values))
        if delay < 0:
            raise CircuitError(f"projection {projection.name}: delay {projection.delay} = {delay:g} s is negative")
        weight = float(evaluate(projection.weight, values))
        variable, effect = projection.effects[0]
        weight = float(evaluate(effect, {"weight": weight}))
        rows = draw_rows(projection, number, values, sizes, labels, keys)
        # Brian2 rounds delays to the nearest step.
        steps = int(np.round(delay / dt))
        found.append(Synapses(number, projection.source, projection.target, variable, weight, steps, rows))
    return tuple(found)


def _poisson(entry: PoissonInput, sizes: dict[str, int], values: dict[str, float]) -> Poisson:
    fraction, rate = float(evaluate(entry.fraction, values)), float(evaluate(entry.rate, values))
    sources = int(evaluate(entry.sources, values))
    if not 0 <= fraction <= 1 or rate < 0 or sources < 0:
        raise CircuitError(
            f"input to {entry.target}: fraction {fraction:g} must be in [0, 1], rate {rate:g} Hz and "
            f"sources {sources} must not be negative"
        )
    driven = int(fraction * sizes[entry.target])
    return Poisson(entry.target, entry.variable, driven, sources, rate, float(evaluate(entry.weight, values)))


def _steps(entry: CurrentSteps, values: dict[str, float], dt: float) -> Steps:
    starts = np.array([int(np.round(t / dt)) for t, _ in entry.steps], dtype=np.int64)
    return Steps(entry.target, entry.name, starts, np.array([float(evaluate(v, values)) for _, v in entry.steps]))


def _recorded(wanted: int, total: int, seed: int, index: int) -> np.ndarray:
    """Cells whose spikes are kept: ascending numbers over all populations in order."""
    if wanted < 0 or wanted >= total:
        return np.arange(total)
    return np.sort(generator(seed, index, "recorded").permutation(total)[:wanted])
