"""Expressions of a translation as numba source: calls, conditions and invariants in numba's terms."""

import ast
from collections.abc import Iterable

from sbi_circuits.engines.intrinsics import HIGHEST, LOWEST

_CALLS = {
    "abs": "abs", "trunc": "np.trunc", "sign": "np.sign", "floor": "np.floor", "ceil": "np.ceil",
    "log": "np.log", "log10": "np.log10", "log1p": "np.log1p", "expm1": "np.expm1", "sqrt": "np.sqrt",
    "sin": "np.sin", "cos": "np.cos", "tan": "np.tan", "sinh": "np.sinh", "cosh": "np.cosh", "tanh": "np.tanh",
    "arcsin": "np.arcsin", "arccos": "np.arccos", "arctan": "np.arctan",
}  # fmt: skip


class Printer(ast.NodeTransformer):
    """Rewrites what all compiled engines write alike: invariants and conditions."""

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        assert isinstance(node.slice, ast.Constant)
        return ast.Name(f"k{node.slice.value!r}")

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
        # Bitwise on conditions: no branch, so that a loop stays a vector loop, and threads of a warp together.
        operator = ast.BitAnd() if isinstance(node.op, ast.And) else ast.BitOr()
        result = self.visit(node.values[0])
        for value in node.values[1:]:
            result = ast.BinOp(result, operator, self.visit(value))
        return result

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        if isinstance(node.op, ast.Not):
            return ast.Compare(self.visit(node.operand), [ast.Eq()], [ast.Constant(False)])
        return self.generic_visit(node)


def is_bounded(argument: ast.expr, invariants: tuple[str, ...]) -> bool:
    """Whether a clip keeps the argument of an exponential where its result is a normal number of single precision."""
    match argument:
        case ast.Call(func=ast.Name(id="clip"), args=[_, low, high]):
            bounds = (_number(low, invariants), _number(high, invariants))
            return None not in bounds and LOWEST <= min(bounds) and max(bounds) <= HIGHEST  # type: ignore[type-var, operator]
    return False


def _number(node: ast.expr, invariants: tuple[str, ...]) -> float | None:
    """Value of an invariant that is a plain number."""
    match node:
        case ast.Subscript(slice=ast.Constant(value=int(j))) if j < len(invariants):
            try:
                return float(ast.literal_eval(invariants[j]))
            except ValueError:
                return None
    return None


class _NumbaPrinter(Printer):
    """Rewrites calls too, into numba's terms."""

    def __init__(self, single: bool, invariants: tuple[str, ...]):
        self.single, self.invariants = single, invariants

    def visit_Call(self, node: ast.Call) -> ast.AST:
        assert isinstance(node.func, ast.Name)
        # A visit rewrites a tree in place, so that each argument is visited once.
        if node.func.id == "exp":
            return self._exp(node.args[0])
        arguments = [self.visit(a) for a in node.args]
        match node.func.id:
            case "clip":
                inner = ast.Call(ast.Name("max"), arguments[:2], [])
                return ast.Call(ast.Name("min"), [inner, arguments[2]], [])
            case "int":
                return ast.IfExp(arguments[0], ast.Name("ONE"), ast.Name("ZERO"))
            case "exprel":
                return ast.Call(ast.Name("exprel_single" if self.single else "exprel_double"), arguments, [])
            case name:
                return ast.Call(ast.parse(_CALLS[name], mode="eval").body, arguments, [])

    def _exp(self, argument: ast.expr) -> ast.AST:
        """The exponential of an argument; where a clip already bounds it, as a power of two.

        What scales the argument, and bounds it, is then merged by the compiler with the factors that are there.
        """
        if not self.single:
            return ast.Call(ast.Name("exp_double"), [self.visit(argument)], [])
        if not is_bounded(argument, self.invariants):
            return ast.Call(ast.Name("exp_single"), [self.visit(argument)], [])
        assert isinstance(argument, ast.Call)
        scaled: list[ast.expr] = [ast.BinOp(ast.Name("LOG2E"), ast.Mult(), a) for a in argument.args]
        return ast.Call(ast.Name("exp2_bounded"), [self.visit(ast.Call(argument.func, scaled, []))], [])


def show(expression: str, single: bool, invariants: tuple[str, ...]) -> str:
    """One rewritten expression as numba source; `K[j]` becomes the local name `kj`."""
    tree = _NumbaPrinter(single, invariants).visit(ast.parse(expression, mode="eval").body)
    return ast.unparse(ast.fix_missing_locations(tree))


def _indices(expressions: Iterable[str]) -> list[int]:
    """Which invariants the expressions use."""
    used = {
        int(node.slice.value)  # type: ignore[arg-type]
        for e in expressions
        for node in ast.walk(ast.parse(e, mode="eval"))
        if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant)
    }
    return sorted(used)


def constants(expressions: Iterable[str]) -> list[str]:
    """Lines that give the invariants the expressions use their local names."""
    return [f"    k{j} = K[{j}]" for j in _indices(expressions)]
