"""The parts of a circuit: populations, projections, inputs, and what a simulation keeps. All are values."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

from sbi_circuits.errors import CircuitError, UnknownNameError
from sbi_circuits.units import calls_in, names_in
from sbi_circuits.wiring_rules import EdgeList, Wiring

METHODS = ("euler", "exponential_euler", "rk4", "exact", "heun", "milstein", "trapezoid")
# Those that know what a noise term `xi` is.
NOISY_METHODS = ("euler", "heun", "milstein", "trapezoid")
RANDOM = frozenset({"rand", "randn"})
REDUCTIONS = ("each", "mean", "sum")
_PARAMETER = re.compile(r"\s*(\w+)\s*:\s*[^#]+")
_DEFINED = re.compile(r"\s*(?:d(\w+)\s*/\s*dt\s*=|(\w+)\s*[=:])")
_ENDS = ("_pre", "_post")
Pairs = tuple[tuple[str, str], ...]


def pairs(mapping: Mapping[str, Any] | Iterable[tuple[str, Any]]) -> Pairs:
    """Name -> expression as a tuple, in the order given."""
    items = mapping.items() if isinstance(mapping, Mapping) else mapping
    return tuple((str(k), str(v)) for k, v in items)


@cache
def declared_parameters(equations: str) -> tuple[str, ...]:
    """Names declared without an equation (`tau_m : second`), in order."""
    found = (_PARAMETER.fullmatch(line.partition("#")[0]) for line in equations.splitlines())
    return tuple(match[1] for match in found if match)


def defined_names(equations: str) -> frozenset[str]:
    """All names that some equations define."""
    found = (_DEFINED.match(line.partition("#")[0]) for line in equations.splitlines())
    return frozenset(match[1] or match[2] for match in found if match)


def is_random(expression: str) -> bool:
    """Whether an expression calls rand() or randn()."""
    return bool(calls_in(expression) & RANDOM)


@dataclass(frozen=True)
class Assignment:
    """One statement `target operator= expression`; `operator` is "" for a plain assignment."""

    target: str
    operator: str
    expression: str

    @property
    def value(self) -> str:
        """The target's new value."""
        return f"{self.target} {self.operator} ({self.expression})" if self.operator else self.expression


def assignments(text: str, where: str) -> tuple[Assignment, ...]:
    """Statements separated by lines or semicolons; raises `CircuitError` naming `where` and the statement."""
    lines = (line.partition("#")[0].strip() for line in text.replace(";", "\n").splitlines())
    return tuple(_assignment(line, where) for line in lines if line)


def _assignment(line: str, where: str) -> Assignment:
    for operator in ("+", "-", "*", "/"):
        left, found, right = line.partition(f"{operator}=")
        if found and left.strip().isidentifier():
            return Assignment(left.strip(), operator, right.strip())
    left, found, right = line.partition("=")
    if not found or not left.strip().isidentifier():
        raise CircuitError(f"{where}: cannot read {line!r}; write 'variable = expression'")
    return Assignment(left.strip(), "", right.strip())


@dataclass(frozen=True)
class Population:
    """Neurons of one kind.

    Args:
        name: an identifier.
        size: number of neurons, an expression in parameters; rounded down.
        equations: Brian2 equations, one per line; `name : unit` declares a quantity of each neuron.
        threshold, reset: Brian2 expressions; both empty for a population that never spikes.
        refractory: duration, an expression with units of time that may use quantities of each neuron; empty
            for none.
        initial: variable -> expression; may use randn() and rand(), drawn per neuron, the neuron's number `i`,
            and the variables before it in this list.
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
        object.__setattr__(self, "initial", pairs(self.initial))
        object.__setattr__(self, "namespace", pairs(self.namespace))
        if not self.name.isidentifier():
            raise CircuitError(f"population name {self.name!r} is not an identifier")
        if self.method not in METHODS:
            raise UnknownNameError(f"integration method of population {self.name}", self.method, METHODS)
        if bool(self.threshold) != bool(self.reset):
            raise CircuitError(f"population {self.name}: give both threshold and reset, or neither")

    @property
    def refractory_varies(self) -> bool:
        """Whether neurons differ in their refractory period."""
        return bool(self.refractory) and bool(names_in(self.refractory) & {*declared_parameters(self.equations)})

    def resets(self) -> tuple[Assignment, ...]:
        """The statements of the reset, in order."""
        return assignments(self.reset, f"population {self.name}, reset")


@dataclass(frozen=True)
class Projection:
    """Synapses from one population to another.

    Args:
        name: an identifier.
        source, target: names of populations.
        wiring: a wiring rule.
        weight: an expression in parameters; with rand() or randn() every synapse draws its own.
        on_spike: effect of a presynaptic spike when it arrives: statements on the projection's own variables
            and `variable_post += expression`, where expressions may use `weight`, parameters and constants.
        delay: an expression with units of time, rounded to whole steps; with rand() or randn() every synapse
            draws its own, and a negative one is an error. Of a summed coupling in a rate circuit it delays what
            the expression reads from the source, which before the start was as at the start.
        when: a condition on parameters; the projection is absent where it is false.
        equations: Brian2 equations of the projection's own variables, for instance
            `dx/dt = (1 - x)/tau_d : 1 (event-driven)`.
        initial: variable -> expression; where the projection's own variables start (0 where not given).
        summed: `variable_post = expression`, summed over synapses in every step, where the expression may use
            `variable_pre`, `variable_post` and `weight`. Proportional to `x_pre - x_post` within a population it is
            of gap junctions, whose two directions must be alike (see `wiring_rules.Explicit`).
        on_post: statements at a spike of the target (plasticity); engine brian2 only.
    """

    name: str
    source: str
    target: str
    wiring: Wiring
    weight: str
    on_spike: str = ""
    delay: str = "0*ms"
    when: str = ""
    equations: str = ""
    initial: Pairs = ()
    summed: str = ""
    on_post: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "initial", pairs(self.initial))
        if not (self.on_spike.strip() or self.summed.strip()):
            raise CircuitError(f"projection {self.name}: on_spike and summed are both empty; it has no effect")

    def statements(self) -> tuple[Assignment, ...]:
        """What a presynaptic spike does, in order."""
        return assignments(self.on_spike, f"projection {self.name}, on_spike")

    def post_statements(self) -> tuple[Assignment, ...]:
        """What a spike of the target does, in order."""
        return assignments(self.on_post, f"projection {self.name}, on_post")

    @cached_property
    def effects(self) -> Pairs:
        """(variable of the target, increment) of every statement `variable_post += increment`, in order."""
        return tuple((s.target.removesuffix("_post"), s.expression) for s in self.statements() if self.adds(s))

    @staticmethod
    def adds(statement: Assignment) -> bool:
        """Whether a statement increments a variable of the target."""
        return statement.target.endswith("_post") and statement.operator == "+"

    def sums(self) -> Pairs:
        """(variable of the target, expression) of every summed coupling."""
        lines = assignments(self.summed, f"projection {self.name}, summed")
        return tuple((s.target.removesuffix("_post"), s.expression) for s in lines)

    @cached_property
    def columns(self) -> dict[str, str]:
        """Name and unit of the values that measured wiring gives each synapse."""
        return self.wiring.units if isinstance(self.wiring, EdgeList) else {}

    def differs(self, expression: str) -> bool:
        """Whether synapses differ in an expression: each draws a number of its own, or has a measured one."""
        return is_random(expression) or bool(names_in(expression) & self.columns.keys())

    @cached_property
    def random_weight(self) -> bool:
        """Whether every synapse has its own weight."""
        return self.differs(self.weight)

    @cached_property
    def random_delay(self) -> bool:
        """Whether every synapse has its own delay."""
        return self.differs(self.delay)

    @cached_property
    def has_state(self) -> bool:
        """Whether a spike does more than add numbers known beforehand: variables of the projection, or of its ends."""
        others = any(not self.adds(s) for s in self.statements())
        return others or any(self.depends_on_state(e) for _, e in self.effects)

    @cached_property
    def _own(self) -> frozenset[str]:
        """Names that statements of the projection see and that are not known before a simulation."""
        return defined_names(self.equations) | {s.target for s in self.statements()} | {"t", "i", "j"}

    def depends_on_state(self, expression: str) -> bool:
        """Whether an increment depends on more than weight, parameters and constants."""
        names = names_in(expression)
        return bool(names & self._own or calls_in(expression) & RANDOM or any(n.endswith(_ENDS) for n in names))

    def varies_by_synapse(self, increment: str) -> bool:
        """Whether synapses of one projection differ in an increment, each by its own weight."""
        return self.random_weight and "weight" in names_in(increment)

    @cached_property
    def plain(self) -> bool:
        """Whether every synapse does the same at every spike, after the same delay, and nothing else."""
        return not (self.random_weight or self.random_delay or self.has_state or self.on_post or self.summed)


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
class Readout:
    """A signal that can be recorded: an expression over one population, sampled in time.

    Args:
        name: of the signal; an identifier.
        population: whose variables the expression uses.
        expression: over the population's variables, its subexpressions, its inputs, parameters, constants and `t`;
            noise is not among them.
        unit: of the signal; Brian2 units or "1".
        over: "each" (one channel a neuron), "mean" or "sum" (one channel over all of them).
        title: what the signal stands for, and what that assumes.

    Raises:
        CircuitError: a name that is no identifier; `UnknownNameError` for another reduction.
    """

    name: str
    population: str
    expression: str
    unit: str
    over: str = "each"
    title: str = ""

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise CircuitError(f"readout name {self.name!r} is not an identifier")
        if self.over not in REDUCTIONS:
            raise UnknownNameError(f"reduction of readout {self.name}", self.over, REDUCTIONS)


@dataclass(frozen=True)
class Record:
    """What a simulation keeps.

    Args:
        spikes: how many randomly chosen cells (over all populations) keep their spike times, or -1 for all.
        counts: 1 ms counts of every population.
        moments: moments of the interspike intervals of every neuron.
        signals: names of the circuit's readouts that are kept.
        signal_rate: samples of them per second; each is the value at its time, not an average, so the rate must
            be above twice the fastest frequency of the dynamics.

    Raises:
        CircuitError: if nothing is kept.
    """

    spikes: int = 0
    counts: bool = True
    moments: bool = False
    signals: tuple[str, ...] = ()
    signal_rate: float = 1000.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "signals", tuple(self.signals))
        if self.spikes < -1:
            raise CircuitError(f"Record.spikes must be -1 (all cells) or a number of cells, got {self.spikes}")
        if not (self.spikes or self.counts or self.moments or self.signals):
            raise CircuitError("an empty Record keeps nothing; ask for spikes, counts, moments or signals")
        if not self.signal_rate > 0:
            raise CircuitError(f"Record.signal_rate must be positive, got {self.signal_rate} Hz")
