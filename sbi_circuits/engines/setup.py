"""One simulation as plain numbers: sizes, SI constants, initial values, synapses, inputs, recorded cells.

Every engine starts from the same `Setup`, so wiring and initial state are equal across engines.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from sbi_circuits.circuit import Circuit, CurrentSteps, PoissonInput, Population, Stimulus
from sbi_circuits.circuit_parts import declared_parameters
from sbi_circuits.circuit_values import poisson_numbers, population_size, refractory_seconds
from sbi_circuits.engines.base import Protocol
from sbi_circuits.engines.synapses import Drawing, Synapses, drawn_by_engine
from sbi_circuits.engines.wiring import draw_labels
from sbi_circuits.errors import CircuitError
from sbi_circuits.seeds import generator, kernel_keys
from sbi_circuits.units import FUNCTIONS, evaluate, unit_scale

__all__ = [
    "Cells", "Course", "Poisson", "Setup", "Steps", "Synapses", "check_stimuli", "drawn_by_engine", "prepare",
    "timestep",
]  # fmt: skip


@dataclass(frozen=True, eq=False)
class Cells:
    """One population: its size, the SI values its equations see, and where it starts.

    `refractory_steps` is (N,) where the refractory period depends on quantities of each neuron.
    """

    population: Population
    size: int
    constants: dict[str, float]
    refractory_steps: int | np.ndarray
    initial: dict[str, np.ndarray]


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
class Course:
    """One stimulus: `values[rows[s]]` in time step s, SI, (1,) or a value for each unit; times `scale`."""

    target: str
    name: str
    rows: np.ndarray
    values: np.ndarray
    scale: float


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
    courses: tuple[Course, ...]
    recorded: np.ndarray
    keys: tuple[int, int]
    values: dict[str, float]
    labels: dict[str, np.ndarray]

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


def prepare(circuit: Circuit, theta: np.ndarray, protocol: Protocol, seed: int, index: int, draw: bool = True) -> Setup:
    """Turn a configuration into numbers.

    Args:
        circuit, theta, protocol, seed, index: as in `Engine.run`.
        draw: whether all synapses are drawn here; without it, those that an engine can draw by itself
            (`drawn_by_engine`) have no targets.

    Raises:
        CircuitError: a size, probability, delay or rate that cannot be at this configuration.
    """
    dt = protocol.dt or circuit.dt
    values = circuit.values(theta)
    sizes = {p.name: population_size(p, values) for p in circuit.populations}
    keys, labels = kernel_keys(seed, index), draw_labels(circuit, values, sizes, seed, index)
    cells = tuple(_cells(circuit, p, sizes[p.name], values, dt, seed, index) for p in circuit.populations)
    drawing = Drawing(circuit, values, sizes, labels, dt, keys, seed, index)
    return Setup(
        dt=dt,
        steps=timestep(protocol.warmup + protocol.duration, dt),
        warmup_steps=timestep(protocol.warmup, dt),
        cells=cells,
        synapses=drawing.synapses(lambda projection: not draw and drawn_by_engine(projection)),
        poisson=tuple(_poisson(i, sizes, values) for i in circuit.inputs if isinstance(i, PoissonInput)),
        currents=tuple(_steps(i, values, dt) for i in circuit.inputs if isinstance(i, CurrentSteps)),
        courses=tuple(_course(i, sizes, values, protocol, dt) for i in circuit.inputs if isinstance(i, Stimulus)),
        recorded=_recorded(protocol.record.spikes, sum(sizes.values()), seed, index),
        keys=keys,
        values=values,
        labels=labels,
    )


def _cells(circuit: Circuit, population: Population, size: int, values: dict[str, float], dt: float, seed: int,
           index: int) -> Cells:
    constants = circuit.namespace(population, values)
    initial = _initial(population, size, constants, generator(seed, index, "initial", population.name))
    return Cells(population, size, constants, _refractory(population, size, constants, initial, dt), initial)


def _initial(population: Population, size: int, constants: dict[str, float], draw: np.random.Generator
             ) -> dict[str, np.ndarray]:
    """Where each variable starts: (N,) arrays, drawn in the order they are listed."""
    functions: dict[str, Callable[..., Any]] = {
        **FUNCTIONS,
        "randn": lambda: draw.standard_normal(size),
        "rand": lambda: draw.random(size),
    }
    initial: dict[str, np.ndarray] = {}
    for variable, expression in population.initial:
        known = {**constants, "i": np.arange(size, dtype=float), "N": size, **initial}
        initial[variable] = np.broadcast_to(evaluate(expression, known, functions), (size,)).astype(float)
    return initial


def _refractory(population: Population, size: int, constants: dict[str, float], initial: dict[str, np.ndarray],
                dt: float) -> int | np.ndarray:
    """Refractory period in whole steps; (N,) where neurons differ."""
    if not population.refractory_varies:
        return timestep(refractory_seconds(population, constants), dt)
    parameters = dict.fromkeys(declared_parameters(population.equations), np.zeros(size))
    seconds = np.broadcast_to(evaluate(population.refractory, {**constants, **parameters, **initial}), (size,))
    if not (seconds >= 0).all():
        raise CircuitError(
            f"population {population.name}: refractory {population.refractory} = {seconds.min():g} s is negative"
        )
    return ((seconds + 1e-3 * dt) / dt).astype(np.int64)


def _poisson(entry: PoissonInput, sizes: dict[str, int], values: dict[str, float]) -> Poisson:
    fraction, rate, sources = poisson_numbers(entry, values)
    driven = int(fraction * sizes[entry.target])
    return Poisson(entry.target, entry.variable, driven, sources, rate, float(evaluate(entry.weight, values)))


def _steps(entry: CurrentSteps, values: dict[str, float], dt: float) -> Steps:
    starts = np.array([int(np.round(t / dt)) for t, _ in entry.steps], dtype=np.int64)
    return Steps(entry.target, entry.name, starts, np.array([float(evaluate(v, values)) for _, v in entry.steps]))


def check_stimuli(circuit: Circuit, protocol: Protocol) -> None:
    """Raise `CircuitError` for a stimulus that ends before a simulation does."""
    dt = protocol.dt or circuit.dt
    for entry in circuit.inputs:
        if isinstance(entry, Stimulus):
            entry.check_length(timestep(protocol.warmup + protocol.duration, dt), dt)


def _course(entry: Stimulus, sizes: dict[str, int], values: dict[str, float], protocol: Protocol, dt: float) -> Course:
    steps = timestep(protocol.warmup + protocol.duration, dt)
    entry.check_length(steps, dt)
    entry.check_size(sizes[entry.target])
    scale = float(evaluate(entry.scale, values))
    return Course(entry.target, entry.name, entry.rows(steps, dt), entry.values * unit_scale(entry.unit), scale)


def _recorded(wanted: int, total: int, seed: int, index: int) -> np.ndarray:
    """Cells whose spikes are kept: ascending numbers over all populations in order."""
    if wanted < 0 or wanted >= total:
        return np.arange(total)
    return np.sort(generator(seed, index, "recorded").permutation(total)[:wanted])
