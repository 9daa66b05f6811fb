"""Units and expressions: Brian2's unit system read as SI factors, and a safe evaluator.

Values enter in declared units and are converted to SI once; nothing below `Prior` knows a prefix.
"""

import ast
import logging
import operator
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import cache, reduce
from typing import Any, NamedTuple

import numpy as np

from sbi_circuits.errors import CircuitError, PriorError

_BINARY: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
    ast.Mod: operator.mod,
    ast.FloorDiv: operator.floordiv,
}
_UNARY: dict[type, Callable[[Any], Any]] = {
    ast.USub: operator.neg,
    ast.UAdd: lambda value: value,
    ast.Not: np.logical_not,
}
_COMPARE: dict[type, Callable[[Any, Any], Any]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}


def exprel(x: Any) -> Any:
    """(exp(x) - 1)/x, and 1 at x = 0."""
    x = np.asarray(x, dtype=float)
    return np.where(x == 0, 1.0, np.expm1(x) / np.where(x == 0, 1.0, x))


# Functions Brian2 knows in equations; the others are for expressions evaluated before a simulation starts.
EQUATION_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "abs": np.abs, "arccos": np.arccos, "arcsin": np.arcsin, "arctan": np.arctan, "ceil": np.ceil, "clip": np.clip,
    "cos": np.cos, "cosh": np.cosh, "exp": np.exp, "expm1": np.expm1, "exprel": exprel, "floor": np.floor,
    "int": np.trunc, "log": np.log, "log10": np.log10, "log1p": np.log1p, "sign": np.sign, "sin": np.sin,
    "sinh": np.sinh, "sqrt": np.sqrt, "tan": np.tan, "tanh": np.tanh,
}  # fmt: skip
FUNCTIONS: dict[str, Callable[..., Any]] = {
    **EQUATION_FUNCTIONS,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "round": np.round,
    "where": np.where,
}
CONSTANTS = {"pi": np.pi, "e": np.e, "inf": np.inf}


@cache
def brian2_units() -> dict[str, Any]:
    """The units Brian2 knows in equations (mV, nS, Hz, ...) by name; loaded on first use because Brian2 is slow."""
    from brian2.core.namespace import DEFAULT_UNITS
    from brian2.units.fundamentalunits import DIMENSIONLESS, Unit

    quiet_brian2()
    return {**DEFAULT_UNITS, "1": Unit(1.0, dim=DIMENSIONLESS, name="1", dispname="1")}


@cache
def _si_units() -> dict[str, float]:
    return {name: float(unit) for name, unit in brian2_units().items()}


@cache
def unit_scale(unit: str) -> float:
    """SI value of one `unit` (a product or quotient of Brian2 units, or "1").

    Raises:
        PriorError: if Brian2 does not know the unit.

    Examples:
        >>> unit_scale("mV"), unit_scale("1")
        (0.001, 1.0)
    """
    return float(_unit_quantity(unit))


@cache
def unit_dimensions(unit: str) -> Any:
    """Brian2 `Dimension` of a unit."""
    from brian2.units.fundamentalunits import get_dimensions

    return get_dimensions(_unit_quantity(unit))


def _unit_quantity(unit: str) -> Any:
    from brian2.units.fundamentalunits import DimensionMismatchError

    try:
        return evaluate(unit, {}, units=brian2_units)
    except (CircuitError, TypeError, DimensionMismatchError) as error:
        raise PriorError(f"unknown unit {unit!r}; use Brian2 units such as 1, ms, mV, nS, pA, pF, Hz") from error


@cache
def parse(expression: str) -> ast.expr:
    """The syntax tree of one expression; raises `CircuitError` naming the expression."""
    try:
        return ast.parse(expression.strip(), mode="eval").body
    except SyntaxError as error:
        raise CircuitError(f"cannot read the expression {expression!r}: {error.msg}") from error


def names_in(expression: str) -> set[str]:
    """Names used by an expression, functions excluded."""
    return set(_names_in(expression))


@cache
def _names_in(expression: str) -> frozenset[str]:
    tree = parse(expression)
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    return frozenset(n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and id(n) not in called)


def calls_in(expression: str) -> set[str]:
    """Names of the functions an expression calls."""
    return set(_calls_in(expression))


@cache
def _calls_in(expression: str) -> frozenset[str]:
    calls = (node.func for node in ast.walk(parse(expression)) if isinstance(node, ast.Call))
    return frozenset(f.id for f in calls if isinstance(f, ast.Name))


def evaluate(
    expression: str | float | int,
    values: Mapping[str, Any],
    functions: Mapping[str, Callable[..., Any]] = FUNCTIONS,
    units: Callable[[], Mapping[str, Any]] = _si_units,
) -> Any:
    """Value of an arithmetic expression; names come from `values`, then `units`, calls from `functions`.

    Raises:
        CircuitError: for a name or a construct that is not available.

    Examples:
        >>> float(evaluate("floor(n * p)", {"n": 10, "p": 0.55}))
        5.0
    """
    if isinstance(expression, (int, float)):
        return expression
    return _read(expression)(_Scope(values, functions, units))


class _Scope(NamedTuple):
    """Where an expression finds its names and functions."""

    values: Mapping[str, Any]
    functions: Mapping[str, Callable[..., Any]]
    units: Callable[[], Mapping[str, Any]]


_Reader = Callable[[_Scope], Any]


@cache
def _read(expression: str) -> _Reader:
    return _Reading(expression).reader(parse(expression))


class _Reading:
    """Turns the syntax tree of an expression into nested functions, once.

    Not Python's own evaluation, so that a circuit file stays data; and no walk at every evaluation, as a campaign
    evaluates the same hundred expressions for each of its simulations. What is not allowed is refused when a value
    is asked for.
    """

    def __init__(self, text: str):
        self.text = text

    def reader(self, node: ast.AST) -> _Reader:
        match node:
            case ast.Constant(value=bool() | int() | float() as value):
                return lambda scope: value
            case ast.Name():
                return self._name(node.id)
            case ast.BinOp() if type(node.op) in _BINARY:
                return self._both(_BINARY[type(node.op)], node.left, node.right)
            case ast.UnaryOp() if type(node.op) in _UNARY:
                one, operand = _UNARY[type(node.op)], self.reader(node.operand)
                return lambda scope: one(operand(scope))
            case ast.BoolOp():
                return self._boolean(node)
            case ast.Compare(ops=[op], comparators=[right]) if type(op) in _COMPARE:
                return self._both(_COMPARE[type(op)], node.left, right)
            case ast.Call(func=ast.Name(id=name)):
                return self._call(name, node)
        return self._refused(f"{type(node).__name__} is not allowed in the expression {self.text!r}")

    def _refused(self, message: str) -> _Reader:
        def refuse(scope: _Scope) -> Any:
            raise CircuitError(message)

        return refuse

    def _both(self, operate: Callable[[Any, Any], Any], first: ast.AST, second: ast.AST) -> _Reader:
        left, right = self.reader(first), self.reader(second)
        return lambda scope: operate(left(scope), right(scope))

    def _name(self, name: str) -> _Reader:
        def find(scope: _Scope) -> Any:
            if name in scope.values:
                return scope.values[name]
            for known in (scope.units(), CONSTANTS):
                if name in known:
                    return known[name]
            raise CircuitError(
                f"undefined name {name!r} in {self.text!r}; known: {', '.join(sorted(map(str, scope.values)))}"
            )

        return find

    def _call(self, name: str, node: ast.Call) -> _Reader:
        arguments = [self.reader(a) for a in node.args]

        def call(scope: _Scope) -> Any:
            if name in scope.functions and not node.keywords:
                return scope.functions[name](*[a(scope) for a in arguments])
            raise CircuitError(
                f"unknown function {name!r} in {self.text!r}; valid: {', '.join(sorted(scope.functions))}"
            )

        return call

    def _boolean(self, node: ast.BoolOp) -> _Reader:
        values = [self.reader(v) for v in node.values]
        join = np.logical_and if isinstance(node.op, ast.And) else np.logical_or
        return lambda scope: reduce(join, [v(scope) for v in values])


def dimensioned_value(
    expression: str, known: Mapping[str, Any], where: str, functions: Mapping[str, Any] = FUNCTIONS
) -> Any:
    """A Brian2 quantity with the dimensions of `expression`; its value means nothing.

    Args:
        expression: an expression in Brian2's language.
        known: name -> Brian2 quantity, for the names that are not units.
        where: what is being checked, for the message.
        functions: those that may be called, beside rand and randn.

    Raises:
        CircuitError: naming the expression and the reason.
    """
    from brian2.units.fundamentalunits import DimensionMismatchError

    rules = {name: _DIMENSION_RULES.get(name, _dimensionless) for name in functions}
    rules |= dict.fromkeys(("rand", "randn"), lambda: 0.5)
    try:
        with np.errstate(all="ignore"):
            return evaluate(expression, known, rules, brian2_units)
    except CircuitError as error:
        raise CircuitError(f"{where}: {error}") from error
    except (DimensionMismatchError, TypeError, ZeroDivisionError) as error:
        raise CircuitError(f"{where}: units do not fit in {expression!r}: {str(error).splitlines()[0]}") from error


def check_dimensions(expression: str, unit: str, known: Mapping[str, Any], where: str) -> None:
    """Check with Brian2 that `expression` has the dimensions of `unit`; raises `CircuitError`."""
    from brian2.units.fundamentalunits import get_dimensions

    found = get_dimensions(dimensioned_value(expression, known, where))
    if found is not unit_dimensions(unit):
        raise CircuitError(f"{where}: {expression!r} has units {found}, expected {unit}")


def _same_dimensions(*values: Any) -> Any:
    return sum(values[1:], values[0])


def _dimensionless(*values: Any) -> float:
    from brian2.units.fundamentalunits import DIMENSIONLESS, DimensionMismatchError, get_dimensions

    for value in values:
        if get_dimensions(value) is not DIMENSIONLESS:
            raise DimensionMismatchError("a function's argument must be dimensionless", get_dimensions(value))
    return 1.5


# How each function treats units; every function not named here wants dimensionless arguments.
_DIMENSION_RULES: dict[str, Callable[..., Any]] = {
    "clip": _same_dimensions,
    "minimum": _same_dimensions,
    "maximum": _same_dimensions,
    "abs": _same_dimensions,
    "floor": _same_dimensions,
    "ceil": _same_dimensions,
    "sign": lambda value: 1.5,
    "where": lambda condition, a, b: _same_dimensions(a, b),
    "sqrt": lambda value: value**0.5,
    "int": lambda value: _dimensionless(1.0 * value),
}


def declared_quantities(units: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """One Brian2 quantity per (name, unit); for dimension checks only."""
    # Distinct values, so that differences in a denominator do not vanish.
    return {name: (1.5 + 0.01 * k) * _unit_quantity(unit) for k, (name, unit) in enumerate(units)}


def quiet_brian2() -> None:
    """Undo what importing Brian2 does to the process: its log files, its warnings and its exception hook."""
    from brian2.utils.logger import BrianLogger, brian_excepthook

    BrianLogger.log_level_error()
    # Brian2 logs all the code it generates; below errors nothing is worth even the formatting.
    logging.getLogger("brian2").setLevel(logging.ERROR)
    logging.captureWarnings(False)
    if sys.excepthook is brian_excepthook:
        sys.excepthook = sys.__excepthook__
    if BrianLogger.file_handler is not None:
        logging.getLogger("brian2").removeHandler(BrianLogger.file_handler)
        BrianLogger.file_handler.close()
        BrianLogger.file_handler = None
    for leftover in filter(None, (BrianLogger.tmp_log, BrianLogger.tmp_script)):
        with suppress(OSError):
            os.remove(leftover)
    BrianLogger.tmp_log = BrianLogger.tmp_script = None
