"""Expressions of a translation as CUDA source."""

import ast
from collections.abc import Iterable

from sbi_circuits.engines.printer import Printer, is_bounded
from sbi_circuits.engines.translate import Statement

# In the precision of their argument; the others have one function for each precision.
_MATH = {
    "log": "log", "log10": "log10", "log1p": "log1p", "expm1": "expm1", "sqrt": "sqrt", "sin": "sin", "cos": "cos",
    "tan": "tan", "sinh": "sinh", "cosh": "cosh", "tanh": "tanh", "arcsin": "asin", "arccos": "acos", "arctan": "atan",
}  # fmt: skip
# The loop over the spikes of a step, shared among threads; the names of the lines around it end in an underscore.
EACH_SPIKE = (
    "    spike_ = np.int32(tid_)",
    "    while spike_ < count_:",
    "        place_ = np.int32(head_ + spike_)",
    "        if place_ >= capacity_:",
    "            place_ = np.int32(place_ - capacity_)",
    "        number_ = np.int32(spikes_[np.uint32(place_)])",
    "        at_ = np.uint32(number_)",
)
NEXT_SPIKE = "        spike_ = np.int32(spike_ + threads_)"
_OWN = ("exp", "floor", "ceil", "trunc", "exprel", "sign")


class _CudaPrinter(Printer):
    """Rewrites calls too, into CUDA terms."""

    def __init__(self, single: bool, invariants: tuple[str, ...]):
        self.precision, self.invariants = "single" if single else "double", invariants

    def visit_Call(self, node: ast.Call) -> ast.AST:
        assert isinstance(node.func, ast.Name)
        arguments = [self.visit(a) for a in node.args]
        name = node.func.id
        if name == "clip":
            inner = ast.Call(ast.Name("max"), arguments[:2], [])
            return ast.Call(ast.Name("min"), [inner, arguments[2]], [])
        if name == "int":
            return ast.IfExp(arguments[0], ast.Name("ONE"), ast.Name("ZERO"))
        if name == "exp" and self.precision == "single" and is_bounded(node.args[0], self.invariants):
            return ast.Call(ast.Name("exp_bounded"), arguments, [])
        if name in _OWN:
            return ast.Call(ast.Name(f"{name}_{self.precision}"), arguments, [])
        function = ast.Attribute(ast.Name("math"), _MATH[name]) if name in _MATH else ast.Name(name)
        return ast.Call(function, arguments, [])


def show(expression: str, single: bool, invariants: tuple[str, ...] = ()) -> str:
    """One rewritten expression as CUDA source; `K[j]`, of which `invariants` are the texts, becomes `kj`."""
    tree = _CudaPrinter(single, invariants).visit(ast.parse(expression, mode="eval").body)
    return ast.unparse(ast.fix_missing_locations(tree))


def _nodes(expressions: Iterable[str]) -> Iterable[ast.AST]:
    return (node for e in expressions if e for node in ast.walk(ast.parse(e, mode="eval")))


def uses(expressions: Iterable[str], name: str) -> bool:
    """Whether a name stands in any of the expressions."""
    return any(isinstance(node, ast.Name) and node.id == name for node in _nodes(expressions))


def constants(expressions: Iterable[str], first: int) -> list[str]:
    """Lines that read the invariants used; `first` is where they begin in shared memory."""
    slices = (node.slice for node in _nodes(expressions) if isinstance(node, ast.Subscript))
    used = {int(s.value) for s in slices if isinstance(s, ast.Constant)}  # type: ignore[arg-type]
    return [f"    k{j} = R[np.uint32({first + j})]" for j in sorted(used)]


def texts(statements: Iterable[Statement]) -> list[str]:
    """Right-hand sides."""
    return [s.expression for s in statements]
