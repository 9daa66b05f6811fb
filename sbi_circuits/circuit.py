"""Circuits: populations, equations, wiring and inputs as one frozen value, and the registry of them.

Equations, thresholds, resets and initial values are written in Brian2's equation language; names in
them are the circuit's parameters, its constants (which carry units), or the population's own namespace.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import entry_points
from typing import Any

import numpy as np

from sbi_circuits.circuit_checks import check_circuit
from sbi_circuits.circuit_composites import Composite
from sbi_circuits.circuit_fields import FieldProxy, with_lfp
from sbi_circuits.circuit_parts import (
    METHODS,
    CurrentSteps,
    EarlyStop,
    Pairs,
    PoissonInput,
    Population,
    Projection,
    Readout,
    Record,
    pairs,
)
from sbi_circuits.circuit_stimuli import Stimulus
from sbi_circuits.digests import digest, plain
from sbi_circuits.errors import CircuitError, UnknownNameError
from sbi_circuits.prior import Prior
from sbi_circuits.units import evaluate
from sbi_circuits.wiring_rules import (
    AllToAll,
    EdgeList,
    Explicit,
    FixedIndegree,
    FixedTotal,
    Independent,
    OneToOne,
    Wiring,
)

__all__ = [
    "METHODS", "AllToAll", "Circuit", "CurrentSteps", "EarlyStop", "EdgeList", "Explicit", "FixedIndegree",
    "FixedTotal", "Independent", "OneToOne", "PoissonInput", "Population", "Projection", "Readout", "Record",
    "Stimulus", "Wiring", "Composite", "FieldProxy", "get_circuit", "list_circuits", "register", "with_lfp",
]  # fmt: skip

ENTRY_POINT_GROUP = "sbi_circuits.circuits"
# Constructs that came after the first tables were filled: where unused, they are not part of a digest.
_LATER_FIELDS = {"equations": "", "initial": [], "summed": "", "on_post": ""}


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
        composites: named combinations of parameters, to look at an ensemble by; no part of the mechanism.
        readouts: signals that can be recorded.
        proxies: signals that are weighted sums of readouts, such as an LFP proxy; recorded by name like these.

    Raises:
        CircuitError: naming the part, the expression and the reason.
    """

    name: str
    prior: Prior
    populations: tuple[Population, ...]
    projections: tuple[Projection, ...] = ()
    inputs: tuple[PoissonInput | CurrentSteps | Stimulus, ...] = ()
    constants: Pairs = ()
    dt: float = 1e-4
    early_stop: EarlyStop | None = None
    defaults: tuple[tuple[str, float], ...] = ()
    title: str = ""
    source: str = ""
    composites: tuple[Composite, ...] = ()
    readouts: tuple[Readout, ...] = ()
    proxies: tuple[FieldProxy, ...] = ()

    def __post_init__(self) -> None:
        for name in ("populations", "projections", "inputs", "composites", "readouts", "proxies"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        object.__setattr__(self, "constants", pairs(self.constants))
        defaults = self.defaults.items() if isinstance(self.defaults, Mapping) else self.defaults
        object.__setattr__(self, "defaults", tuple((k, float(v)) for k, v in defaults))
        if not self.name.isidentifier():
            raise CircuitError(f"circuit name {self.name!r} is not an identifier")
        check_circuit(self)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the mechanism: parameter names and units, not their bounds, and no text for people."""
        content = plain(self)
        for key in ("prior", "title", "source", "defaults", "composites"):
            content.pop(key)
        for readout in content["readouts"]:
            del readout["title"]
        for proxy in content["proxies"]:
            del proxy["title"]
        for later in ("readouts", "proxies"):
            if not content[later]:
                del content[later]
        for projection in content["projections"]:
            for key, unused in _LATER_FIELDS.items():
                if projection[key] == unused:
                    del projection[key]
            if not projection["wiring"].get("symmetric"):
                projection["wiring"].pop("symmetric", None)
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

    def readout(self, name: str) -> Readout:
        """The readout of that name; raises `UnknownNameError`."""
        for readout in self.readouts:
            if readout.name == name:
                return readout
        raise UnknownNameError(f"signal of circuit {self.name}", name, self.signal_names())

    def signal_names(self) -> tuple[str, ...]:
        """Names of everything that `Record.signals` may ask for."""
        return (*(r.name for r in self.readouts), *(p.name for p in self.proxies))

    @property
    def spikes(self) -> bool:
        """Whether any population has a threshold; a circuit without is a rate circuit."""
        return any(p.threshold for p in self.populations)

    def default_record(self) -> Record:
        """Spikes of 100 cells, counts and moments; of a circuit that never spikes, all its signals."""
        if self.spikes or not self.readouts:
            return Record(spikes=100, counts=True, moments=True)
        return Record(counts=False, signals=tuple(r.name for r in self.readouts))

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

    def composite_values(self, theta: np.ndarray) -> dict[str, np.ndarray]:
        """Name -> values (K,), each in its unit, of the composites at configurations (K, P), declared units."""
        rows = [self.values(row) for row in np.atleast_2d(np.asarray(theta, dtype=float))]
        return {c.name: np.array([c.value(row) for row in rows], dtype=float) for c in self.composites}

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
