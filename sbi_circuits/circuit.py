"""Circuits: populations, equations, wiring and inputs as one frozen value, and the registry of them.

Equations, thresholds, resets and initial values are written in Brian2's equation language; names in
them are the circuit's parameters, its constants (which carry units), or the population's own namespace.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import entry_points
from typing import Any

import numpy as np

from sbi_circuits.circuit_checks import check_circuit
from sbi_circuits.digests import digest, plain
from sbi_circuits.errors import CircuitError, UnknownNameError
from sbi_circuits.prior import Prior
from sbi_circuits.units import evaluate
from sbi_circuits.wiring_rules import (
    AllToAll,
    Explicit,
    FixedIndegree,
    FixedTotal,
    Independent,
    OneToOne,
    Wiring,
)

__all__ = [
    "AllToAll", "Circuit", "CurrentSteps", "EarlyStop", "Explicit", "FixedIndegree", "FixedTotal",
    "Independent", "OneToOne", "PoissonInput", "Population", "Projection", "Record",
    "get_circuit", "list_circuits", "register",
]  # fmt: skip

METHODS = ("euler", "exponential_euler", "rk4", "exact")
ENTRY_POINT_GROUP = "sbi_circuits.circuits"
_ON_SPIKE = re.compile(r"\s*(\w+)_post\s*\+=\s*(.+)")
Pairs = tuple[tuple[str, str], ...]


def _pairs(mapping: Mapping[str, Any] | Iterable[tuple[str, Any]]) -> Pairs:
    items = mapping.items() if isinstance(mapping, Mapping) else mapping
    return tuple((str(k), str(v)) for k, v in items)


@dataclass(frozen=True)
class Population:
    """Neurons of one kind.

    Args:
        name: an identifier.
        size: number of neurons, an expression in parameters; rounded down.
        equations: Brian2 equations, one per line.
        threshold, reset: Brian2 expressions; both empty for a population that never spikes.
        refractory: duration, an expression with units of time; empty for none.
        initial: variable -> expression; may use randn() and rand(), drawn per neuron.
        method: numerical integration, one of `METHODS`.
        namespace: name -> expression; the population's own meaning of a name in its equations.
        labels: number of labels, an expression; every neuron draws `label_draws` of them with replacement.
        label_draws: how many labels a neuron has.
    """

    name: str
    size: str
    equations: str
    threshold: str = ""
    reset: str = ""
    refractory: str = ""
    initial: Pairs = ()
    method: str = "euler"
    namespace: Pairs = ()
    labels: str = ""
    label_draws: int = 2

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", str(self.size))
        object.__setattr__(self, "initial", _pairs(self.initial))
        object.__setattr__(self, "namespace", _pairs(self.namespace))
        if not self.name.isidentifier():
            raise CircuitError(f"population name {self.name!r} is not an identifier")
        if self.method not in METHODS:
            raise UnknownNameError(f"integration method of population {self.name}", self.method, METHODS)
        if bool(self.threshold) != bool(self.reset):
            raise CircuitError(f"population {self.name}: give both threshold and reset, or neither")


@dataclass(frozen=True)
class Projection:
    """Synapses from one population to another.

    Args:
        name: an identifier.
        source, target: names of populations.
        wiring: a wiring rule.
        weight: an expression in parameters, in the units of the variable it acts on.
        on_spike: effect of a presynaptic spike, `variable_post += expression`, where the expression
            may use `weight`.
        delay: an expression with units of time; a multiple of dt after rounding.
        when: a condition on parameters; the projection is absent where it is false.
    """

    name: str
    source: str
    target: str
    wiring: Wiring
    weight: str
    on_spike: str
    delay: str = "0*ms"
    when: str = ""

    def effect(self) -> tuple[str, str]:
        """Variable of the target that a spike increments, and the increment."""
        match = _ON_SPIKE.fullmatch(self.on_spike)
        if match is None:
            raise CircuitError(
                f"projection {self.name}: on_spike must be 'variable_post += expression', got {self.on_spike!r}"
            )
        return match[1], match[2].strip()


@dataclass(frozen=True)
class PoissonInput:
    """Independent Poisson sources onto each driven neuron, summed (Brian2's PoissonInput).

    Args:
        target: population.
        variable: state variable every event increments by `weight`.
        sources: number of sources per neuron, an expression.
        rate: of each source, an expression with units of Hz.
        weight: an expression in the variable's units.
        fraction: the first floor(fraction * size) neurons are driven.
    """

    target: str
    variable: str
    sources: str
    rate: str
    weight: str
    fraction: str = "1"

    def __post_init__(self) -> None:
        object.__setattr__(self, "sources", str(self.sources))


@dataclass(frozen=True)
class CurrentSteps:
    """A piecewise constant quantity shared by a population, used by `name` in its equations.

    Args:
        target: population.
        name: the name in the equations; zero before the first time.
        unit: of the values.
        steps: (time in seconds, value expression) pairs, times increasing.
    """

    target: str
    name: str
    unit: str
    steps: tuple[tuple[float, str], ...]

    def __post_init__(self) -> None:
        steps = tuple((float(t), str(v)) for t, v in self.steps)
        object.__setattr__(self, "steps", steps)
        if any(a[0] >= b[0] for a, b in zip(steps, steps[1:], strict=False)):
            raise CircuitError(f"input {self.name}: step times must increase")


@dataclass(frozen=True)
class EarlyStop:
    """Stops a simulation whose rate over a first window says it is silent or saturated.

    The statistic is refractory * mean spike count / (stop - start) of one population (Gao et al. 2024):
    silent at or below `silent`, saturated at or above `saturated`.
    """

    population: str
    refractory: str
    start: float = 0.1
    stop: float = 1.1
    silent: float = 1e-4
    saturated: float = 0.99


@dataclass(frozen=True)
class Record:
    """What a simulation keeps.

    Args:
        spikes: how many randomly chosen cells (over all populations) keep their spike times, or -1 for all.
        counts: 1 ms counts of every population.
        moments: moments of the interspike intervals of every neuron.

    Raises:
        CircuitError: if nothing is kept.
    """

    spikes: int = 0
    counts: bool = True
    moments: bool = False

    def __post_init__(self) -> None:
        if self.spikes < -1:
            raise CircuitError(f"Record.spikes must be -1 (all cells) or a number of cells, got {self.spikes}")
        if not (self.spikes or self.counts or self.moments):
            raise CircuitError("an empty Record keeps nothing; ask for spikes, counts or moments")


@dataclass(frozen=True)
class Circuit:
    """A mechanistic circuit, written once and run by every engine.

    Args:
        name: of the circuit; an identifier.
        prior: the parameters and their joint distribution.
        populations, projections, inputs: the parts; populations are ordered.
        constants: name -> expression with units.
        dt: time step of the reference simulation, seconds.
        early_stop: when to stop silent or saturated simulations; None for never.
        defaults: name -> value in declared units; a configuration worth starting from.
        title, source: one line for people, and where the circuit was published.

    Raises:
        CircuitError: naming the part, the expression and the reason.
    """

    name: str
    prior: Prior
    populations: tuple[Population, ...]
    projections: tuple[Projection, ...] = ()
    inputs: tuple[PoissonInput | CurrentSteps, ...] = ()
    constants: Pairs = ()
    dt: float = 1e-4
    early_stop: EarlyStop | None = None
    defaults: tuple[tuple[str, float], ...] = ()
    title: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        for name in ("populations", "projections", "inputs"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        object.__setattr__(self, "constants", _pairs(self.constants))
        defaults = self.defaults.items() if isinstance(self.defaults, Mapping) else self.defaults
        object.__setattr__(self, "defaults", tuple((k, float(v)) for k, v in defaults))
        if not self.name.isidentifier():
            raise CircuitError(f"circuit name {self.name!r} is not an identifier")
        check_circuit(self)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the mechanism: parameter names and units, not their bounds, and no text for people."""
        content = plain(self)
        for key in ("prior", "title", "source", "defaults"):
            content.pop(key)
        return digest([content, self.declared])

    @property
    def declared(self) -> dict[str, str]:
        """Parameter name -> unit."""
        return {p.name: p.unit for p in self.prior.parameters}

    def population(self, name: str) -> Population:
        """The population of that name; raises `UnknownNameError`."""
        for population in self.populations:
            if population.name == name:
                return population
        raise UnknownNameError("population", name, [p.name for p in self.populations])

    def values(self, theta: np.ndarray) -> dict[str, float]:
        """SI values of every parameter and constant at one configuration (P,) in declared units."""
        values = self.prior.to_si(theta)
        for name, expression in self.constants:
            values[name] = float(evaluate(expression, values))
        return values

    def namespace(self, population: Population, values: Mapping[str, float]) -> dict[str, float]:
        """SI values as the population's equations see them."""
        own = {name: float(evaluate(expression, values)) for name, expression in population.namespace}
        return {**values, **own}

    def default_theta(self) -> np.ndarray:
        """The default configuration (P,), declared units; raises `PriorError` where one is missing."""
        return self.prior.validate(dict(self.defaults))

    def with_prior(self, prior: Prior) -> "Circuit":
        """The same mechanism under another prior over the same parameters."""
        prior.check_units(self.declared)
        return replace(self, prior=prior)

    def fix(self, **values: float) -> "Circuit":
        """The circuit with some parameters held at a value (declared units): constants from now on."""
        for name in values:
            _ = self.prior[name]
        free = tuple(p for p in self.prior.parameters if p.name not in values)
        held = tuple((n, f"{float(v)!r}*{_factor(self.prior[n].unit)}") for n, v in values.items())
        defaults = tuple((n, v) for n, v in self.defaults if n not in values)
        return replace(self, prior=Prior(free), constants=held + self.constants, defaults=defaults)


def _factor(unit: str) -> str:
    return f"({unit})"


_REGISTERED: dict[str, Circuit] = {}


def register(circuit: Circuit) -> Circuit:
    """Make a circuit known by its name in this process (for notebooks); returns it."""
    _REGISTERED[circuit.name] = circuit
    return circuit


def _installed() -> dict[str, Callable[[], Circuit]]:
    return {entry.name: entry.load for entry in entry_points(group=ENTRY_POINT_GROUP)}


def list_circuits() -> tuple[str, ...]:
    """Names of all circuits: installed by entry point, or registered in this process."""
    return tuple(sorted({*_REGISTERED, *_installed()}))


def get_circuit(name: str) -> Circuit:
    """The circuit of that name.

    Raises:
        UnknownNameError: listing the circuits there are.
    """
    if name in _REGISTERED:
        return _REGISTERED[name]
    installed = _installed()
    if name not in installed:
        raise UnknownNameError("circuit", name, list_circuits())
    build: Any = installed[name]()
    return register(build())
