"""Checks of a circuit at construction: every name, every unit, every reference, before anything runs."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sbi_circuits.circuit_fields import check_proxies
from sbi_circuits.circuit_parts import NOISY_METHODS, CurrentSteps, PoissonInput, Population
from sbi_circuits.circuit_quantities import (
    Quantities,
    Variables,
    check_equation,
    check_expression,
    check_in_equation,
    noise_quantities,
    read_equations,
    time_quantities,
    variables_of,
)
from sbi_circuits.circuit_stimuli import Stimulus
from sbi_circuits.circuit_values import check_values
from sbi_circuits.errors import CircuitError, UnknownNameError
from sbi_circuits.projection_checks import check_projections
from sbi_circuits.units import brian2_units, check_dimensions, declared_quantities, evaluate

if TYPE_CHECKING:
    from sbi_circuits.circuit import Circuit


def check_circuit(circuit: "Circuit") -> None:
    """Raise `CircuitError` for the first thing that does not fit."""
    names = [p.name for p in circuit.populations]
    if not names or len(set(names)) != len(names):
        raise CircuitError(f"circuit {circuit.name}: populations need distinct names, got {names}")
    if circuit.dt <= 0:
        raise CircuitError(f"circuit {circuit.name}: dt must be positive, got {circuit.dt}")
    known = _quantities(circuit)
    variables = {p.name: _check_population(p, circuit, known) for p in circuit.populations}
    check_projections(circuit, known, variables)
    for entry in circuit.inputs:
        _check_input(entry, known, variables)
    _check_early_stop(circuit, known)
    for composite in circuit.composites:
        composite.check(known)
    _check_readouts(circuit, known, variables)
    check_proxies(circuit)
    check_values(circuit)


def _quantities(circuit: "Circuit") -> dict[str, Any]:
    """A Brian2 quantity for each parameter and constant."""
    known = declared_quantities(list(circuit.declared.items()))
    for name, expression in circuit.constants:
        if name in known:
            raise CircuitError(f"constant {name} repeats the name of a parameter or constant")
        try:
            known[name] = evaluate(expression, known, units=brian2_units)
        except CircuitError as error:
            raise CircuitError(f"constant {name}: {error}") from error
    return known


def _check_population(population: Population, circuit: "Circuit", known: Quantities) -> Variables:
    """Check one population; returns a quantity for each of its variables."""
    where = f"population {population.name}"
    equations = read_equations(population.equations, where)
    noise = noise_quantities(equations)
    if noise and population.method not in NOISY_METHODS:
        raise CircuitError(
            f"{where}: method {population.method} cannot integrate the noise {min(noise)}; "
            f"valid: {', '.join(NOISY_METHODS)}"
        )
    constants = {**known, **_own_namespace(population, known)}
    variables = variables_of(equations)
    scope = {**constants, **_input_quantities(population, circuit), **variables.readable, **time_quantities()}
    for equation in equations.values():
        check_equation(equation, {**scope, **noise}, where)
    _check_conditions(population, scope, variables)
    _check_start(population, constants, variables)
    check_dimensions(population.size, "1", known, f"{where}, size")
    if population.labels:
        check_dimensions(population.labels, "1", known, f"{where}, labels")
    return variables


def _own_namespace(population: Population, known: Quantities) -> dict[str, Any]:
    return {n: evaluate(e, known, units=brian2_units) for n, e in population.namespace}


def _input_quantities(population: Population, circuit: "Circuit") -> dict[str, Any]:
    named = [i for i in circuit.inputs if not isinstance(i, PoissonInput) and i.target == population.name]
    return declared_quantities([(i.name, i.unit) for i in named])


def _check_conditions(population: Population, scope: Quantities, variables: Variables) -> None:
    where = f"population {population.name}"
    if not population.threshold:
        return
    check_in_equation(population.threshold, 1, scope, f"{where}, threshold")
    for statement in population.resets():
        quantity = variables.settable.get(statement.target)
        if quantity is None:
            listed = ", ".join(variables.settable)
            raise CircuitError(f"{where}, reset: no variable {statement.target!r}; variables: {listed}")
        check_in_equation(statement.value, quantity, scope, f"{where}, reset of {statement.target}")


def _check_start(population: Population, constants: Quantities, variables: Variables) -> None:
    """Initial values, and the refractory period, which may use what is drawn with them."""
    where = f"population {population.name}"
    scope = {**constants, "i": 1, "N": 2}
    for target, expression in population.initial:
        quantity = variables.settable.get(target)
        if quantity is None:
            listed = ", ".join(variables.settable)
            raise CircuitError(f"{where}, initial value: no variable {target!r}; variables: {listed}")
        check_expression(expression, quantity, scope, f"{where}, initial value of {target}")
        scope[target] = quantity
    if population.refractory:
        own = {**constants, **variables.parameters}
        check_dimensions(population.refractory, "second", own, f"{where}, refractory")


def _check_input(
    entry: PoissonInput | CurrentSteps | Stimulus, known: Quantities, variables: Mapping[str, Variables]
) -> None:
    where = f"input to {entry.target}"
    if entry.target not in variables:
        raise UnknownNameError("target population of an input", entry.target, variables)
    if isinstance(entry, CurrentSteps):
        for _, value in entry.steps:
            check_dimensions(value, entry.unit, known, f"{where}, {entry.name}")
        return
    if isinstance(entry, Stimulus):
        check_dimensions(entry.scale, "1", known, f"{where}, scale of {entry.name}")
        return
    target = variables[entry.target].settable
    if entry.variable not in target:
        raise CircuitError(f"{where}: no variable {entry.variable!r}; it has {', '.join(target)}")
    check_expression(entry.weight, target[entry.variable], known, f"{where}, weight")
    check_dimensions(entry.rate, "Hz", known, f"{where}, rate")
    check_dimensions(entry.sources, "1", known, f"{where}, sources")
    check_dimensions(entry.fraction, "1", known, f"{where}, fraction")


def _check_early_stop(circuit: "Circuit", known: Quantities) -> None:
    stop = circuit.early_stop
    if stop is None:
        return
    circuit.population(stop.population)
    check_dimensions(stop.refractory, "second", known, "early stop, refractory")
    if not 0 <= stop.start < stop.stop:
        raise CircuitError(f"early stop: the window [{stop.start}, {stop.stop}] s is empty")


def _check_readouts(circuit: "Circuit", known: Quantities, variables: Mapping[str, Variables]) -> None:
    names = [r.name for r in circuit.readouts]
    if len(set(names)) != len(names):
        raise CircuitError(f"circuit {circuit.name}: readouts need distinct names, got {names}")
    for readout in circuit.readouts:
        where = f"readout {readout.name}"
        if readout.population not in variables:
            raise UnknownNameError(f"population of {where}", readout.population, variables)
        population = circuit.population(readout.population)
        own, inputs = _own_namespace(population, known), _input_quantities(population, circuit)
        scope = {**known, **own, **inputs, **variables[readout.population].readable, **time_quantities()}
        check_in_equation(readout.expression, declared_quantities([("", readout.unit)])[""], scope, where)
