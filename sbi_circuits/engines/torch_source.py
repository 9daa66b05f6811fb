"""Source text of a rate circuit's step on tensors: one function for each update, sum and readout.

State is (simulations, units); `K[j]` is a number or (simulations, 1). Expressions keep the order of Brian2's
operations, so that double precision agrees with it.
"""

import ast

from sbi_circuits.engines.rate_program import Program

_HEADER = '''"""Step of the rate circuit {name!r} on tensors, generated from its equations."""

from sbi_circuits.engines.torch_functions import IN_SOURCE, both, either, negated, real
'''


class _Printer(ast.NodeTransformer):
    """Rewrites calls and conditions into functions of tensors."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        assert isinstance(node.func, ast.Name)
        arguments = [self.visit(a) for a in node.args]
        if node.func.id == "int":
            return _call("real", *arguments, ast.Name("dtype"))
        return ast.Call(ast.Name(f"f_{node.func.id}"), arguments, [])

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
        name = "both" if isinstance(node.op, ast.And) else "either"
        result = self.visit(node.values[0])
        for value in node.values[1:]:
            result = _call(name, result, self.visit(value))
        return result

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        if isinstance(node.op, ast.Not):
            return _call("negated", self.visit(node.operand))
        return self.generic_visit(node)


def _call(name: str, *arguments: ast.expr) -> ast.Call:
    return ast.Call(ast.Name(name), list(arguments), [])


def show(expression: str) -> str:
    """One rewritten expression as source on tensors."""
    return ast.unparse(ast.fix_missing_locations(_Printer().visit(ast.parse(expression, mode="eval").body)))


def _calls(program: Program) -> list[str]:
    """Functions that the program's expressions call."""
    texts = [s.expression for part in program.parts for s in part.update]
    texts += [o.expression for o in program.outputs] + [e for link in program.links for _, e in link.summed]
    trees = [ast.parse(text, mode="eval") for text in texts]
    nodes = (n.func for tree in trees for n in ast.walk(tree) if isinstance(n, ast.Call))
    return sorted({n.id for n in nodes if isinstance(n, ast.Name)} - {"int"})


def torch_source(name: str, program: Program) -> str:
    """The module of a circuit: `update_<population>`, `term_<projection>_<sum>_<k>` and `read_<readout>`."""
    lines = [_HEADER.format(name=name), *(f"f_{n} = IN_SOURCE[{n!r}]" for n in _calls(program))]
    functions = [_update(k, program) for k in range(len(program.parts))]
    functions += [_read(k, program) for k in range(len(program.outputs))]
    return "\n\n\n".join(["\n".join(lines), *functions]) + "\n"


def _update(k: int, program: Program) -> str:
    part = program.parts[k]
    arguments = [*part.variables, *part.noise, *part.shared, *part.stimuli, "t", "i", "K", "dtype"]
    body = [f"    {s.target} = {show(s.expression)}" for s in part.update]
    if any("not_refractory" in s.expression for s in part.update):
        body.insert(0, "    not_refractory = True")
    result = ", ".join(f"_{v}" if v in part.updated else v for v in part.variables)
    return "\n".join([f"def update_{k}({', '.join(arguments)}):", *body, f"    return ({result},)"])


def _read(k: int, program: Program) -> str:
    output = program.outputs[k]
    part = program.parts[program.position(output.readout.population)]
    arguments = [*part.variables, *part.shared, *part.stimuli, "t", "i", "K", "dtype"]
    return f"def read_{k}({', '.join(arguments)}):\n    return {show(output.expression)}"


def function_source(name: str, arguments: tuple[str, ...], expression: str) -> str:
    """One function of an expression, as text."""
    return f"def {name}({', '.join((*arguments, 'K', 'dtype'))}):\n    return {show(expression)}"
