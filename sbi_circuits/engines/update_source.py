"""Source text of a population's state update, threshold and reset in a numba kernel.

In single precision the loop over neurons is made of vector operations, and its speed is often that of fetching the
constants that do not fit in the vector registers next to the state. Where registers are few (AVX2 has 16), exponentials
of the old state are therefore taken in a loop of their own before it: each loop then holds its constants. The first of
them waits where the flag of its neuron's spike is written later, as every array more leaves less of the first cache.
"""

import ast
from dataclasses import dataclass, replace
from functools import cache

from sbi_circuits.engines.printer import constants, show
from sbi_circuits.engines.translate import Statement, Translation

# More exponentials than this cost more in what is stored and fetched between the loops than they save.
_MOST_EARLY = 4
_REGISTERS = {"avx512f": 32, "neon": 32}
_DECORATOR = "@njit(cache=True, fastmath=FLAGS, error_model='numpy')"


@cache
def vector_registers() -> int:
    """Vector registers of the machine this runs on."""
    from llvmlite import binding

    features = binding.get_host_cpu_features()
    return next((n for name, n in _REGISTERS.items() if features.get(name)), 16)


@dataclass(frozen=True)
class Early:
    """What is computed before the update proper.

    Args:
        values: expressions of the old state, shared inputs and invariants; number n is called `early_n`.
        update: the statements of the update, with those names in them.
    """

    values: tuple[str, ...]
    update: tuple[Statement, ...]

    @property
    def arrays(self) -> list[str]:
        """Names of the arrays for the values, but for the first, which lies in the array of flags."""
        return [f"early_{n}" for n in range(1, len(self.values))]


def early_values(part: Translation, single: bool) -> Early:
    """The exponentials that are taken in a loop of their own: none where registers are many, or they are too many."""
    found = _Early({*part.variables, *part.shared})
    update = tuple(replace(s, expression=found.taken_from(s.expression)) for s in part.update)
    few = single and part.threshold and vector_registers() < 32 and len(found.values) <= _MOST_EARLY
    return Early(tuple(found.values), update) if few else Early((), part.update)


class _Early(ast.NodeTransformer):
    """Replaces exponentials of known names by `early_n`."""

    def __init__(self, known: set[str]):
        self.known, self.values = known, dict[str, str]()

    def taken_from(self, expression: str) -> str:
        return ast.unparse(self.visit(ast.parse(expression, mode="eval").body))

    def visit_Call(self, node: ast.Call) -> ast.AST:
        names = {n.id for a in node.args for n in ast.walk(a) if isinstance(n, ast.Name)}
        functions = {c.func.id for c in ast.walk(node) if isinstance(c, ast.Call) and isinstance(c.func, ast.Name)}
        if isinstance(node.func, ast.Name) and node.func.id == "exp" and names <= self.known | functions | {"K"}:
            return ast.Name(self.values.setdefault(ast.unparse(node), f"early_{len(self.values)}"))
        return self.generic_visit(node)


def update_function(number: int, part: Translation, single: bool) -> str:
    """State update and threshold of one population, over all its neurons; returns how many spiked."""
    early = early_values(part, single)
    arrays = [*part.variables, *part.noise, *early.arrays]
    expressions = [*early.values, *(s.expression for s in early.update)]
    lines = [
        _DECORATOR,
        f"def update_{number}({', '.join('a_' + n for n in arrays)}"
        f"{''.join(', ' + n for n in part.shared)}, until, fired, step, t, K):",
        "    align_stack()",
        *constants([*expressions, *([part.threshold] if part.threshold else [])]),
        *_early_loop(part, early.values, single),
        "    count = np.int32(0)",
        f"    for i in range({_length(part)}):",
        *(f"        {v} = a_{v}[i]" for v in arrays),
        *(["        early_0 = np.int32(fired[i]).view(np.float32)"] if early.values else []),
        "        active = until[i] <= step",
        "        not_refractory = active",
        *(f"        {s.target} = {show(s.expression, single, part.invariants)}" for s in early.update),
    ]
    for v in part.updated:
        lines.append(f"        {v} = chosen(active, _{v}, {v})" if v in part.held else f"        {v} = _{v}")
    if part.threshold:
        lines.append(f"        spike = ({show(part.threshold, single, part.invariants)}) & active")
        # 32 bits, as wide as the state, so that one vector holds as many flags and counts as values.
        lines.append("        fired[i] = np.int32(-1) if spike else np.int32(0)")
        lines.append("        count = np.int32(count + spike)")
    # Last, so that the flag is stored between reading a held variable and storing it: see `chosen`.
    lines += [f"        a_{v}[i] = {v}" for v in part.updated]
    lines.append("    return count")
    return "\n".join(lines)


def _early_loop(part: Translation, values: tuple[str, ...], single: bool) -> list[str]:
    if not values:
        return []
    first, *others = (show(value, single, part.invariants) for value in values)
    used = {n.id for value in values for n in ast.walk(ast.parse(value)) if isinstance(n, ast.Name)}
    return [
        f"    for i in range({_length(part)}):",
        *(f"        {v} = a_{v}[i]" for v in part.variables if v in used),
        f"        fired[i] = np.float32({first}).view(np.int32)",
        *(f"        a_early_{n}[i] = {value}" for n, value in enumerate(others, 1)),
    ]


def _length(part: Translation) -> str:
    return f"a_{[*part.variables, *(f's_{n}' for n in part.shared)][0]}.shape[0]"


def reset_function(number: int, part: Translation, single: bool) -> str:
    """Reset of the neurons that spiked."""
    lines = [
        _DECORATOR,
        f"def reset_{number}({', '.join('a_' + n for n in part.variables)}"
        f"{''.join(', ' + n for n in part.shared)}, ring, now, count, t, K):",
        *constants(s.expression for s in part.reset),
        "    for s in range(count):",
        "        i = ring[now, s]",
    ]
    lines += [f"        {v} = a_{v}[i]" for v in part.variables]
    for statement in part.reset:
        lines.append(f"        {statement.target} = {show(statement.expression, single, part.invariants)}")
        lines.append(f"        a_{statement.target}[i] = {statement.target}")
    return "\n".join(lines)
