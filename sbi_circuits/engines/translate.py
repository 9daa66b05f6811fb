"""From a population's equations to plain statements: Brian2's state updaters, then Python syntax trees.

Brian2 turns equations and a method into abstract code; this module rewrites that code over three kinds of
names: state variables, hoisted invariants (everything that is constant during a simulation, evaluated once on
the host in double precision) and temporaries. Compiled engines print the result in their own syntax.
"""

import re
from dataclasses import dataclass
from functools import cache
from typing import Any

from sbi_circuits.circuit import Circuit, CurrentSteps, Population, Stimulus
from sbi_circuits.circuit_parts import is_random
from sbi_circuits.engines.methods import register_methods
from sbi_circuits.engines.rewrite import CALLS, Rewriter, check_names, refusal
from sbi_circuits.errors import TranslationError

__all__ = ["CALLS", "Statement", "Translation", "abstract_code", "translate"]

# One step of these evaluates the equations more than once, so that freezing a value is not freezing its derivative.
_STAGED = ("exact", "rk4", "heun", "milstein", "trapezoid")
_NOISE = re.compile(r"dt\s*\*\*\s*\.5\s*\*\s*randn\(\)")


@dataclass(frozen=True)
class Statement:
    """`target = expression`; the expression is Python source over state, invariants `K[j]` and temporaries."""

    target: str
    expression: str


@dataclass(frozen=True)
class Translation:
    """One population, ready to be printed by a compiled engine.

    Args:
        variables: state variables in storage order; shared inputs are not among them.
        shared: names of shared inputs (current steps).
        update: statements of one time step, in order; a state's new value is stored in `_<name>`.
        updated: state variables the update changes.
        held: updated variables that keep their value while the neuron is refractory.
        threshold: condition over the new state, or "".
        reset: statements at a spike.
        invariants: expressions of K, in order; evaluated from the population's constants.
        noise: names of the standard normals, one per neuron and step each, that the update reads.
        stimuli: names of inputs that differ between units; rate circuits only.
    """

    name: str
    variables: tuple[str, ...]
    shared: tuple[str, ...]
    update: tuple[Statement, ...]
    updated: tuple[str, ...]
    held: frozenset[str]
    threshold: str
    reset: tuple[Statement, ...]
    invariants: tuple[str, ...]
    noise: tuple[str, ...] = ()
    stimuli: tuple[str, ...] = ()


def translate(circuit: Circuit, population: Population, reorder: bool) -> Translation:
    """Translate one population.

    Args:
        circuit: for its shared inputs.
        population: whose equations are translated.
        reorder: gather invariant factors of products first (fast, single precision); without it every
            operation keeps Brian2's order, so that double precision agrees to the last bit.

    Raises:
        TranslationError: naming a construct that only the engine brian2 can run.
    """
    return _Translator(circuit, population, reorder).result()


def abstract_code(population: Population) -> list[tuple[str, str]]:
    """Brian2's abstract code of one time step as (target, expression) pairs."""
    where = f"population {population.name}, method {population.method}"
    frozen = bool(population.refractory) and population.method in _STAGED
    return list(_state_update(population.equations, population.method, frozen, where))


@cache
def _state_update(text: str, method: str, frozen: bool, where: str) -> tuple[tuple[str, str], ...]:
    from brian2 import Equations
    from brian2.equations.refractory import add_refractoriness

    equations = Equations(text)
    if frozen and len(equations.diff_eq_names) > 1:
        equations = add_refractoriness(equations)
    return integrate(equations, method, where) if equations.diff_eq_names else ()


def integrate(equations: Any, method: str, where: str) -> tuple[tuple[str, str], ...]:
    """Brian2's statements of one step `dt` of some equations; raises `TranslationError` where there are none."""
    from brian2.stateupdaters.base import StateUpdateMethod, UnsupportedEquationsException

    register_methods()
    try:
        code = StateUpdateMethod.apply_stateupdater(equations, {}, method)
    except (UnsupportedEquationsException, NotImplementedError) as error:
        raise TranslationError(f"{where}: {' '.join(str(error).split())}") from error
    pairs = [line.split("=", 1) for line in code.splitlines() if line.strip()]
    return tuple((target.strip(), expression.strip()) for target, expression in pairs)


class _Translator:
    def __init__(self, circuit: Circuit, population: Population, reorder: bool):
        from brian2 import Equations

        self.population, self.equations = population, Equations(population.equations)
        self.where = f"population {population.name}"
        inputs = [i for i in circuit.inputs if isinstance(i, CurrentSteps) and i.target == population.name]
        self.shared = tuple(i.name for i in inputs)
        courses = [i for i in circuit.inputs if isinstance(i, Stimulus) and i.target == population.name]
        self.stimuli = tuple(i.name for i in courses)
        if self.stimuli and circuit.spikes:
            raise refusal(self.where, f"the stimulus {self.stimuli[0]} in a circuit that spikes")
        given = {*self.shared, *self.stimuli}
        self.variables = tuple(sorted(self.equations.diff_eq_names | self.equations.parameter_names - given))
        self.noise = {name: f"z_{name}" for name in sorted(self.equations.stochastic_variables)}
        varying = {*self.variables, *given, *self.noise.values(), "t", "i", "not_refractory"}
        written = {e.varname: str(e.expr.code) for e in self.equations.values() if e.type == "subexpression"}
        self.rewriter = Rewriter(self.where, varying, written, reorder)
        check_names(self.where, (*self.variables, *self.shared, *self.stimuli))
        self._check_flags()

    def _check_flags(self) -> None:
        start = dict(self.population.initial)
        for equation in self.equations.values():
            name = equation.varname
            if "constant over dt" in equation.flags:
                raise refusal(self.where, f"{name} (constant over dt)")
            if "shared" in equation.flags and is_random(start.get(name, "0")):
                raise refusal(self.where, f"the shared variable {name}, which starts at random,")
            if equation.var_type == "boolean":
                raise refusal(self.where, f"the boolean variable {name}")

    def result(self) -> Translation:
        update = tuple(self._statements(abstract_code(self.population)))
        flagged = {e.varname for e in self.equations.values() if "unless refractory" in e.flags}
        rewrite = self.rewriter.expression
        return Translation(
            name=self.population.name,
            variables=self.variables,
            shared=self.shared,
            update=tuple(s for s in update if s.target not in self.variables),
            updated=tuple(s.target for s in update if s.target in self.variables),
            held=frozenset(flagged) if self.population.refractory else frozenset(),
            threshold=rewrite(self.population.threshold) if self.population.threshold else "",
            reset=tuple(Statement(s.target, rewrite(s.value)) for s in self.population.resets()),
            invariants=tuple(self.rewriter.invariants),
            noise=tuple(self.noise.values()),
            stimuli=self.stimuli,
        )

    def _statements(self, pairs: list[tuple[str, str]]) -> list[Statement]:
        statements = []
        for target, expression in pairs:
            if target in self.noise:
                expression = _NOISE.sub(f"dt**0.5*{self.noise[target]}", expression)
            statements.append(Statement(target, self.rewriter.expression(expression)))
            self.rewriter.varying.add(target)
        return statements
