"""From a population's equations to plain statements: Brian2's state updaters, then Python syntax trees.

Brian2 turns equations and a method into abstract code; this module rewrites that code over three kinds of
names: state variables, hoisted invariants (everything that is constant during a simulation, evaluated once on
the host in double precision) and temporaries. Compiled engines print the result in their own syntax.
"""

import ast
import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sbi_circuits.circuit import Circuit, CurrentSteps, Population
from sbi_circuits.errors import TranslationError
from sbi_circuits.units import parse

# Calls the compiled engines know; `int` of a condition becomes a real 0 or 1.
CALLS = ("exp", "log", "sqrt", "sin", "cos", "tanh", "abs", "clip", "floor", "ceil", "minimum", "maximum", "int")
_OPERATORS = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Pow, ast.Mod)


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


def abstract_code(population: Population, extra: str = "") -> list[tuple[str, str]]:
    """Brian2's abstract code of one time step as (target, expression) pairs."""
    from brian2 import Equations
    from brian2.equations.refractory import add_refractoriness
    from brian2.stateupdaters.base import StateUpdateMethod, UnsupportedEquationsException

    equations = Equations(population.equations)
    coupled = len(equations.diff_eq_names) > 1 and population.method in ("exact", "rk4")
    # With one step per variable, freezing a value is the same as freezing its derivative, and cheaper.
    if population.refractory and coupled:
        equations = add_refractoriness(equations)
    if not equations.diff_eq_names:
        return []
    try:
        code = StateUpdateMethod.apply_stateupdater(equations, {}, population.method)
    except (UnsupportedEquationsException, NotImplementedError) as error:
        reason = " ".join(str(error).split())
        raise TranslationError(f"population {population.name}, method {population.method}: {reason}") from error
    pairs = [line.split("=", 1) for line in code.splitlines() if line.strip()]
    return [(target.strip(), expression.strip()) for target, expression in pairs]


@dataclass
class _Translator:
    circuit: Circuit
    population: Population
    reorder: bool
    invariants: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        from brian2 import Equations

        self.equations = Equations(self.population.equations)
        self.shared = tuple(
            i.name for i in self.circuit.inputs if isinstance(i, CurrentSteps) and i.target == self.population.name
        )
        self.variables = tuple(sorted(self.equations.diff_eq_names | self.equations.parameter_names - {*self.shared}))
        written = [e for e in self.equations.values() if e.type == "subexpression"]
        self.subexpressions = {e.varname: str(e.expr.code) for e in written}
        self.varying = {*self.variables, *self.shared, "t", "i", "not_refractory"}
        if self.equations.stochastic_variables:
            noise = ", ".join(sorted(self.equations.stochastic_variables))
            raise TranslationError(f"population {self.population.name}: noise {noise!r} needs the engine brian2")

    def result(self) -> Translation:
        self.temporaries: set[str] = set()
        update = tuple(self._statements(abstract_code(self.population)))
        flagged = {e.varname for e in self.equations.values() if "unless refractory" in e.flags}
        updated = tuple(s.target for s in update if s.target in self.variables)
        reset = tuple(Statement(s.target, self._expression(s.value)) for s in self.population.resets())
        return Translation(
            name=self.population.name,
            variables=self.variables,
            shared=self.shared,
            update=tuple(s for s in update if s.target not in self.variables),
            updated=updated,
            held=frozenset(flagged) if self.population.refractory else frozenset(),
            threshold=self._expression(self.population.threshold) if self.population.threshold else "",
            reset=reset,
            invariants=tuple(self.invariants),
        )

    def _statements(self, pairs: list[tuple[str, str]]) -> list[Statement]:
        statements = []
        for target, expression in pairs:
            statements.append(Statement(target, self._expression(expression)))
            if target not in self.variables:
                self.temporaries.add(target)
        return statements

    def _expression(self, expression: str) -> str:
        # parse() caches its trees; work on a copy so that none of them is changed in place.
        tree = self._inline(copy.deepcopy(parse(expression)))
        self._check(tree, expression)
        return ast.unparse(_Hoist(self).visit(tree))

    def _inline(self, tree: ast.expr) -> ast.expr:
        """Replace names of subexpressions by what they stand for."""
        while names := [n for n in ast.walk(tree) if isinstance(n, ast.Name) and n.id in self.subexpressions]:
            tree = _substitute(tree, {n.id: parse(self.subexpressions[n.id]) for n in names})
        return tree

    def _check(self, tree: ast.expr, text: str) -> None:
        where = f"population {self.population.name}: "
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and not (isinstance(node.func, ast.Name) and node.func.id in CALLS):
                raise TranslationError(f"{where}{ast.unparse(node)!r} in {text!r} needs the engine brian2")
            if isinstance(node, ast.BinOp) and not isinstance(node.op, _OPERATORS):
                raise TranslationError(f"{where}operator {type(node.op).__name__} in {text!r} needs the engine brian2")

    def is_varying(self, node: ast.AST) -> bool:
        names = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
        return bool(names & (self.varying | self.temporaries))

    def hoist(self, node: ast.expr) -> ast.expr:
        """`K[j]` for an invariant expression; equal expressions share a j."""
        number = self.invariants.setdefault(ast.unparse(node), len(self.invariants))
        return ast.Subscript(ast.Name("K"), ast.Constant(number), ast.Load())


class _Hoist(ast.NodeTransformer):
    """Replaces the largest invariant parts of an expression by entries of K."""

    def __init__(self, translator: _Translator):
        self.translator = translator

    def visit(self, node: ast.AST) -> ast.AST:
        if isinstance(node, ast.expr) and not self.translator.is_varying(node):
            return self.translator.hoist(node)
        return super().visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        # The function's name is not a value; only the arguments are rewritten.
        arguments: list[Any] = [self.visit(a) for a in node.args]
        return ast.Call(node.func, arguments, [])

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        if isinstance(node.op, ast.USub) and self.translator.reorder:
            return self.visit(ast.BinOp(ast.Constant(-1.0), ast.Mult(), node.operand))
        return self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        power = node.right.value if isinstance(node.right, ast.Constant) else None
        if isinstance(node.op, ast.Pow) and isinstance(power, int) and power in (2, 3, 4):
            # A small power of a varying value is a product, which every back end does exactly as Brian2's C code.
            base = self.visit(node.left)
            product: ast.expr = base  # type: ignore[assignment]
            for _ in range(power - 1):
                product = ast.BinOp(product, ast.Mult(), base)  # type: ignore[arg-type]
            return product
        if self.translator.reorder and isinstance(node.op, (ast.Mult, ast.Div)):
            return self._product(node)
        return self.generic_visit(node)

    def _product(self, node: ast.BinOp) -> ast.AST:
        """Gather the invariant factors of a product into one, and divide by it once on the host."""
        above: list[ast.expr] = []
        below: list[ast.expr] = []
        _factors(node, above, below)
        fixed = [f for f in above if not self.translator.is_varying(f)]
        fixed_below = [f for f in below if not self.translator.is_varying(f)]
        result = _multiply([self.visit(f) for f in above if self.translator.is_varying(f)])  # type: ignore[misc]
        if fixed or fixed_below:
            constant: Any = _multiply(fixed) if fixed else ast.Constant(1.0)
            for factor in fixed_below:
                constant = ast.BinOp(constant, ast.Div(), factor)
            hoisted = self.translator.hoist(constant)
            result = hoisted if result is None else ast.BinOp(hoisted, ast.Mult(), result)
        for factor in below:
            if self.translator.is_varying(factor):
                left = result if result is not None else ast.Constant(1.0)
                result = ast.BinOp(left, ast.Div(), self.visit(factor))  # type: ignore[arg-type]
        assert result is not None
        return result


def _factors(node: ast.expr, above: list[ast.expr], below: list[ast.expr]) -> None:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        _factors(node.left, above, below)
        _factors(node.right, above, below)
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
        _factors(node.left, above, below)
        _factors(node.right, below, above)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        above.append(ast.Constant(-1.0))
        _factors(node.operand, above, below)
    else:
        above.append(node)


def _multiply(factors: list[ast.expr]) -> ast.expr | None:
    result: ast.expr | None = None
    for factor in factors:
        result = factor if result is None else ast.BinOp(result, ast.Mult(), factor)
    return result


def _substitute(tree: ast.expr, replacements: Mapping[str, ast.expr]) -> ast.expr:
    class _Replace(ast.NodeTransformer):
        def visit_Name(self, node: ast.Name) -> ast.AST:
            return copy.deepcopy(replacements[node.id]) if node.id in replacements else node

    result: ast.expr = _Replace().visit(tree)
    return result
