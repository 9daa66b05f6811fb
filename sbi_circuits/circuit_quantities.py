"""Dimensions of everything a circuit's expressions can name; shared by the checks of populations and projections."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sbi_circuits.circuit_parts import RANDOM
from sbi_circuits.errors import CircuitError
from sbi_circuits.units import EQUATION_FUNCTIONS, FUNCTIONS, calls_in, dimensioned_value

Quantities = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Variables:
    """Quantities of one population: those that can be set, those declared without an equation, and all."""

    settable: Quantities
    parameters: Quantities
    readable: Quantities


def read_equations(text: str, where: str) -> Any:
    """Brian2's `Equations`; raises `CircuitError` where it cannot read them."""
    from brian2 import Equations
    from brian2.equations.equations import EquationError

    try:
        return Equations(text)
    except (EquationError, SyntaxError, ValueError) as error:
        raise CircuitError(f"{where}: cannot read the equations: {' '.join(str(error).split())}") from error


def variables_of(equations: Any) -> Variables:
    """A quantity for each variable of some equations; the numbers mean nothing."""
    names = sorted(name for name in equations.dimensions if name not in ("t", "dt", "xi"))
    readable = {n: (1.3 + 0.1 * k) * quantity_of(equations.dimensions[n]) for k, n in enumerate(names)}
    settable = equations.diff_eq_names | equations.parameter_names
    return Variables(
        {n: q for n, q in readable.items() if n in settable},
        {n: q for n, q in readable.items() if n in equations.parameter_names},
        readable,
    )


def quantity_of(dimension: Any) -> Any:
    """One unit of a dimension."""
    from brian2.units.fundamentalunits import Quantity

    return Quantity(1.0, dim=dimension)


def time_quantities() -> dict[str, Any]:
    """What every expression of a running simulation may use."""
    from brian2 import second

    return {"t": 1.7 * second, "dt": 1e-4 * second, "i": 1, "N": 2, "not_refractory": True}


def noise_quantities(equations: Any) -> dict[str, Any]:
    """The noise terms of some equations: white noise, 1/sqrt(second)."""
    from brian2 import second

    return {name: 1.0 / second**0.5 for name in equations.stochastic_variables}


def check_equation(equation: Any, scope: Quantities, where: str) -> None:
    """Check one of Brian2's equations: its functions, its names, its dimensions."""
    if equation.expr is None:
        return
    from brian2 import second

    unit = equation.unit / second if equation.type == "differential equation" else equation.unit
    check_in_equation(str(equation.expr.code), unit, scope, f"{where}, equation of {equation.varname}")


def check_in_equation(expression: str, quantity: Any, scope: Quantities, where: str) -> None:
    """As `check_expression`, for one that is evaluated while a simulation runs."""
    unknown = calls_in(expression) - EQUATION_FUNCTIONS.keys() - RANDOM
    if unknown:
        valid = ", ".join(sorted(EQUATION_FUNCTIONS))
        raise CircuitError(f"{where}: unknown function {min(unknown)!r} in {expression!r}; valid: {valid}")
    check_expression(expression, quantity, scope, where)


def check_expression(expression: str, quantity: Any, scope: Quantities, where: str) -> None:
    """Check an expression's dimensions against those of a quantity."""
    from brian2.units.fundamentalunits import get_dimensions, have_same_dimensions

    value = dimensioned_value(expression, scope, where, FUNCTIONS)
    if not have_same_dimensions(value, quantity):
        found, expected = get_dimensions(value), get_dimensions(quantity)
        raise CircuitError(f"{where}: {expression!r} has units {found}, expected {expected}")
