"""Expressions of Brian2's language rewritten for compiled engines: checked, inlined, invariants taken out.

The result is Python source over varying names, temporaries and `K[j]`, the invariants: everything constant
during a simulation, evaluated once on the host in double precision.
"""

import ast
import copy
import re
from collections.abc import Iterable, Mapping
from typing import Any

from sbi_circuits.errors import TranslationError
from sbi_circuits.units import EQUATION_FUNCTIONS, parse

# `int` of a number becomes `trunc`; `int` of a condition stays, and is a real 0 or 1.
CALLS = frozenset({*EQUATION_FUNCTIONS, "trunc"})
_OPERATORS = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Pow, ast.Mod, ast.FloorDiv)
# Local names of generated functions, which a variable of the same name would overwrite.
_TAKEN = re.compile(
    r"k\d+|K|ONE|ZERO|LOG2E|FLAGS|real|np|math|njit|active|chosen|count|dt|fired|now|ring|spike|step|until|last|own|"
    r"delay|elapsed|indptr|targets|weights|total|q|j|gain_\d+|early_\d+"
)
_ARRAYS = ("a", "b", "c", "to")
# Integer powers up to here are products, which every back end computes exactly as Brian2's C code.
_LARGEST_PRODUCT = 4


class Rewriter:
    """Rewrites the expressions of one population or projection, and collects its invariants.

    Args:
        where: of whom, for messages.
        varying: names that change during a simulation or differ between neurons.
        subexpressions: name -> expression, inlined wherever the name is used.
        reorder: gather invariant factors of products first (fast, single precision); without it every
            operation keeps Brian2's order, so that double precision agrees to the last bit.
        conditions: names that are true or false.
    """

    def __init__(
        self,
        where: str,
        varying: Iterable[str],
        subexpressions: Mapping[str, str],
        reorder: bool,
        conditions: Iterable[str] = ("not_refractory",),
    ):
        self.where, self.reorder, self.subexpressions = where, reorder, dict(subexpressions)
        self.varying, self.conditions = set(varying), frozenset(conditions)
        self.invariants: dict[str, int] = {}

    def expression(self, text: str) -> str:
        """One expression rewritten; raises `TranslationError` naming what only the engine brian2 can run."""
        # parse() caches its trees; work on a copy so that none of them is changed in place.
        tree = self._inline(copy.deepcopy(parse(text)))
        self._check(tree, text)
        return ast.unparse(_Hoist(self).visit(tree))

    def _inline(self, tree: ast.expr) -> ast.expr:
        """Replace names of subexpressions by what they stand for."""
        while names := [n for n in ast.walk(tree) if isinstance(n, ast.Name) and n.id in self.subexpressions]:
            tree = _substitute(tree, {n.id: parse(self.subexpressions[n.id]) for n in names})
        return tree

    def _check(self, tree: ast.expr, text: str) -> None:
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and not (isinstance(node.func, ast.Name) and node.func.id in CALLS):
                raise refusal(self.where, f"{ast.unparse(node)!r} in {text!r}")
            if isinstance(node, ast.BinOp) and not isinstance(node.op, _OPERATORS):
                raise refusal(self.where, f"operator {type(node.op).__name__} in {text!r}")

    def is_varying(self, node: ast.AST) -> bool:
        """Whether an expression has a value of its own for every neuron or step."""
        return any(isinstance(n, ast.Name) and n.id in self.varying for n in ast.walk(node))

    def is_condition(self, node: ast.AST) -> bool:
        """Whether an expression is true or false rather than a number."""
        match node:
            case ast.Compare() | ast.BoolOp() | ast.UnaryOp(op=ast.Not()) | ast.Constant(value=bool()):
                return True
            case ast.Name(id=name):
                return name in self.conditions
        return False

    def hoist(self, node: ast.expr) -> ast.expr:
        """`K[j]` for an invariant expression; equal expressions share a j."""
        number = self.invariants.setdefault(ast.unparse(node), len(self.invariants))
        value = ast.Subscript(ast.Name("K"), ast.Constant(number), ast.Load())
        return ast.Compare(value, [ast.NotEq()], [ast.Constant(0)]) if self.is_condition(node) else value


def check_names(where: str, names: Iterable[str]) -> None:
    """Raise `TranslationError` for a variable whose name means something else in compiled code."""
    found = sorted(names)
    for name in found:
        prefix, _, rest = name.partition("_")
        if _TAKEN.fullmatch(name) or (prefix in _ARRAYS and rest in found):
            raise refusal(where, f"a variable named {name!r}")


def refusal(where: str, construct: str) -> TranslationError:
    """The error for a construct that kernels do not have."""
    return TranslationError(f'{where}: {construct} cannot be compiled; engine="brian2" runs it')


class _Hoist(ast.NodeTransformer):
    """Replaces the largest invariant parts of an expression by entries of K."""

    def __init__(self, rewriter: Rewriter):
        self.rewriter = rewriter

    def visit(self, node: ast.AST) -> ast.AST:
        if isinstance(node, ast.expr) and not self.rewriter.is_varying(node):
            return self.rewriter.hoist(node)
        return super().visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        # The function's name is not a value; only the arguments are rewritten.
        arguments: list[Any] = [self.visit(a) for a in node.args]
        assert isinstance(node.func, ast.Name)
        number = node.func.id == "int" and not self.rewriter.is_condition(node.args[0])
        return ast.Call(ast.Name("trunc") if number else node.func, arguments, [])

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        if isinstance(node.op, ast.USub) and self.rewriter.reorder:
            return self.visit(ast.BinOp(ast.Constant(-1.0), ast.Mult(), node.operand))
        return self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        power = node.right.value if isinstance(node.right, ast.Constant) else None
        if isinstance(node.op, ast.Pow) and isinstance(power, int) and 2 <= power <= _LARGEST_PRODUCT:
            base = self.visit(node.left)
            product: ast.expr = base  # type: ignore[assignment]
            for _ in range(power - 1):
                product = ast.BinOp(product, ast.Mult(), base)  # type: ignore[arg-type]
            return product
        if self.rewriter.reorder and isinstance(node.op, (ast.Mult, ast.Div)):
            return self._product(node)
        return self.generic_visit(node)

    def _product(self, node: ast.BinOp) -> ast.AST:
        """Gather the invariant factors of a product into one, and divide by it once on the host."""
        above: list[ast.expr] = []
        below: list[ast.expr] = []
        _factors(node, above, below)
        fixed = [f for f in above if not self.rewriter.is_varying(f)]
        fixed_below = [f for f in below if not self.rewriter.is_varying(f)]
        result = _multiply([self.visit(f) for f in above if self.rewriter.is_varying(f)])  # type: ignore[misc]
        if fixed or fixed_below:
            constant: Any = _multiply(fixed) if fixed else ast.Constant(1.0)
            for factor in fixed_below:
                constant = ast.BinOp(constant, ast.Div(), factor)
            hoisted = self.rewriter.hoist(constant)
            result = hoisted if result is None else ast.BinOp(hoisted, ast.Mult(), result)
        for factor in below:
            if self.rewriter.is_varying(factor):
                left = result if result is not None else self.rewriter.hoist(ast.Constant(1.0))
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
