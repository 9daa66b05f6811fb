"""Checks of a circuit at construction: every name, every unit, every reference, before anything runs."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sbi_circuits.errors import CircuitError, UnknownNameError
from sbi_circuits.units import (
    brian2_units,
    check_dimensions,
    declared_quantities,
    dimensioned_value,
    evaluate,
    names_in,
)
from sbi_circuits.wiring_rules import FixedIndegree, FixedTotal, Independent

if TYPE_CHECKING:
    from sbi_circuits.circuit import Circuit, Population, Projection


def check_circuit(circuit: "Circuit") -> None:
    """Raise `CircuitError` for the first thing that does not fit."""
    names = [p.name for p in circuit.populations]
    if not names or len(set(names)) != len(names):
        raise CircuitError(f"circuit {circuit.name}: populations need distinct names, got {names}")
    if circuit.dt <= 0:
        raise CircuitError(f"circuit {circuit.name}: dt must be positive, got {circuit.dt}")
    known = _quantities(circuit)
    variables = {p.name: _check_population(p, circuit, known) for p in circuit.populations}
    projections = [p.name for p in circuit.projections]
    if len(set(projections)) != len(projections):
        raise CircuitError(f"circuit {circuit.name}: projections need distinct names, got {projections}")
    for projection in circuit.projections:
        _check_projection(projection, circuit, known, variables)
    for entry in circuit.inputs:
        _check_input(entry, known, variables)
    _check_early_stop(circuit, known)


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


def _check_population(population: "Population", circuit: "Circuit", known: Mapping[str, Any]) -> dict[str, Any]:
    """Check one population; returns a quantity for each of its state variables."""
    from brian2 import Equations
    from brian2.equations.equations import EquationError

    where = f"population {population.name}"
    try:
        equations = Equations(population.equations)
    except (EquationError, SyntaxError, ValueError) as error:
        raise CircuitError(f"{where}: cannot read the equations: {' '.join(str(error).split())}") from error
    scope = {**known, **_own_namespace(population, known), **_input_quantities(population, circuit)}
    variables = {
        name: (1.3 + 0.1 * k) * _quantity_of(dimension)
        for k, (name, dimension) in enumerate(sorted(equations.dimensions.items()))
        if name not in ("t", "dt", "xi")
    }
    scope |= variables | _time_quantities()
    for equation in equations.values():
        _check_equation(equation, scope, where)
    _check_conditions(population, scope, variables, known)
    check_dimensions(population.size, "1", known, f"{where}, size")
    if population.labels:
        check_dimensions(population.labels, "1", known, f"{where}, labels")
    return variables


def _own_namespace(population: "Population", known: Mapping[str, Any]) -> dict[str, Any]:
    return {n: evaluate(e, known, units=brian2_units) for n, e in population.namespace}


def _input_quantities(population: "Population", circuit: "Circuit") -> dict[str, Any]:
    shared = [
        (str(i.name), str(i.unit))  # type: ignore[union-attr]
        for i in circuit.inputs
        if hasattr(i, "steps") and i.target == population.name
    ]
    return declared_quantities(shared)


def _quantity_of(dimension: Any) -> Any:
    from brian2.units.fundamentalunits import Quantity

    return Quantity(1.0, dim=dimension)


def _time_quantities() -> dict[str, Any]:
    from brian2 import second

    return {"t": 1.7 * second, "dt": 1e-4 * second, "xi": 1.0 / second**0.5, "i": 1, "N": 2, "not_refractory": True}


def _check_equation(equation: Any, scope: Mapping[str, Any], where: str) -> None:
    if equation.expr is None:
        return
    from brian2 import second

    unit = equation.unit / second if equation.type == "differential equation" else equation.unit
    check_expression(str(equation.expr.code), unit, scope, f"{where}, equation of {equation.varname}")


def check_expression(expression: str, quantity: Any, scope: Mapping[str, Any], where: str) -> None:
    """Check an expression's dimensions against those of a quantity."""
    from brian2.units.fundamentalunits import have_same_dimensions

    value = dimensioned_value(expression, scope, where)
    if not have_same_dimensions(value, quantity):
        raise CircuitError(f"{where}: {expression!r} has units {_unit_name(value)}, expected {_unit_name(quantity)}")


def _unit_name(value: Any) -> str:
    from brian2.units.fundamentalunits import get_dimensions

    return str(get_dimensions(value))


def _check_conditions(
    population: "Population", scope: Mapping[str, Any], variables: Mapping[str, Any], known: Mapping[str, Any]
) -> None:
    where = f"population {population.name}"
    if population.threshold:
        check_expression(population.threshold, 1, scope, f"{where}, threshold")
        for target, expression in reset_statements(population):
            if target not in variables:
                raise CircuitError(f"{where}, reset: no variable {target!r}; variables: {', '.join(variables)}")
            check_expression(expression, variables[target], scope, f"{where}, reset of {target}")
    for target, expression in population.initial:
        if target not in variables:
            raise CircuitError(f"{where}, initial value: no variable {target!r}; variables: {', '.join(variables)}")
        check_expression(expression, variables[target], scope, f"{where}, initial value of {target}")
    if population.refractory:
        check_dimensions(population.refractory, "second", {**known, **_own_namespace(population, known)},
                         f"{where}, refractory")


def reset_statements(population: "Population") -> list[tuple[str, str]]:
    """Reset as (variable, expression for its new value) pairs; `+=` and the like are written out."""
    statements = []
    for line in filter(None, (s.strip() for s in population.reset.replace(";", "\n").splitlines())):
        target, operator, expression = _split_assignment(line, population.name)
        statements.append((target, f"{target} {operator} ({expression})" if operator else expression))
    return statements


def _split_assignment(line: str, population: str) -> tuple[str, str, str]:
    for operator in ("+", "-", "*", "/"):
        left, found, right = line.partition(f"{operator}=")
        if found and left.strip().isidentifier():
            return left.strip(), operator, right.strip()
    left, found, right = line.partition("=")
    if not found or not left.strip().isidentifier():
        raise CircuitError(f"population {population}, reset: cannot read {line!r}; write 'variable = expression'")
    return left.strip(), "", right.strip()


def _check_projection(
    projection: "Projection", circuit: "Circuit", known: Mapping[str, Any], variables: Mapping[str, Mapping[str, Any]]
) -> None:
    where = f"projection {projection.name}"
    for end in (projection.source, projection.target):
        if end not in variables:
            raise UnknownNameError(f"population of {where}", end, variables)
    if not circuit.population(projection.source).threshold:
        raise CircuitError(f"{where}: its source {projection.source} has no threshold and never spikes")
    variable, effect = projection.effect()
    target = variables[projection.target]
    if variable not in target:
        raise CircuitError(f"{where}: {projection.target} has no variable {variable!r}; it has {', '.join(target)}")
    weight_only = names_in(effect) == {"weight"}
    if not weight_only:
        raise CircuitError(f"{where}: the increment may use only 'weight', got {effect!r}; put parameters in weight")
    check_expression(projection.weight, target[variable], known, f"{where}, weight")
    check_dimensions(projection.delay, "second", known, f"{where}, delay")
    _check_wiring(projection, circuit, known)
    if projection.when:
        check_expression(projection.when, 1, known, f"{where}, when")


def _check_wiring(projection: "Projection", circuit: "Circuit", known: Mapping[str, Any]) -> None:
    where = f"projection {projection.name}, wiring"
    match projection.wiring:
        case Independent(probability=p) | FixedTotal(probability=p):
            check_dimensions(p, "1", known, where)
        case FixedIndegree(number=n):
            check_dimensions(n, "1", known, where)
    if isinstance(projection.wiring, FixedTotal) and projection.wiring.pairs != "all":
        labelled = circuit.population(projection.source).labels
        if projection.source != projection.target or not labelled:
            raise CircuitError(f"{where}: pairs by label need one labelled population as source and target")


def _check_input(entry: Any, known: Mapping[str, Any], variables: Mapping[str, Mapping[str, Any]]) -> None:
    where = f"input to {entry.target}"
    if entry.target not in variables:
        raise UnknownNameError("target population of an input", entry.target, variables)
    if hasattr(entry, "steps"):
        for _, value in entry.steps:
            check_dimensions(value, entry.unit, known, f"{where}, {entry.name}")
        return
    target = variables[entry.target]
    if entry.variable not in target:
        raise CircuitError(f"{where}: no variable {entry.variable!r}; it has {', '.join(target)}")
    check_expression(entry.weight, target[entry.variable], known, f"{where}, weight")
    check_dimensions(entry.rate, "Hz", known, f"{where}, rate")
    check_dimensions(entry.sources, "1", known, f"{where}, sources")
    check_dimensions(entry.fraction, "1", known, f"{where}, fraction")


def _check_early_stop(circuit: "Circuit", known: Mapping[str, Any]) -> None:
    stop = circuit.early_stop
    if stop is None:
        return
    circuit.population(stop.population)
    check_dimensions(stop.refractory, "second", known, "early stop, refractory")
    if not 0 <= stop.start < stop.stop:
        raise CircuitError(f"early stop: the window [{stop.start}, {stop.stop}] s is empty")
