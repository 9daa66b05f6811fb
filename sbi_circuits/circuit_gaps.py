"""Gap junctions: which projections are, and whether both directions conduct alike."""

import ast
from collections.abc import Iterator

import numpy as np

from sbi_circuits.circuit_parts import Projection
from sbi_circuits.errors import CircuitError
from sbi_circuits.units import names_in, parse
from sbi_circuits.wiring_rules import AllToAll, EdgeList, Explicit, FixedIndegree, FixedTotal, Independent


def is_gap_junction(projection: Projection) -> bool:
    """Whether a projection is of gap junctions: a summed coupling of a population with itself in proportion to the
    difference of one variable at its ends, such as `weight*(v_pre - v_post)`.

    Between two populations nothing is known of symmetry: a conductance per area differs with the areas.
    """
    return projection.source == projection.target and any(_differs(parse(e)) for _, e in projection.sums())


def _differs(tree: ast.expr) -> bool:
    """Whether an expression is a product with a factor `x_pre - x_post` (or the other way round)."""
    match tree:
        case ast.BinOp(op=ast.Mult() | ast.Div()):
            return _differs(tree.left) or _differs(tree.right)
        case ast.UnaryOp():
            return _differs(tree.operand)
        case ast.BinOp(left=ast.Name(id=a), op=ast.Sub(), right=ast.Name(id=b)):
            ends = {(a.rpartition("_")[2], a.rpartition("_")[0]), (b.rpartition("_")[2], b.rpartition("_")[0])}
            return {end for end, _ in ends} == {"pre", "post"} and len({name for _, name in ends}) == 1
    return False


def check_gap_junctions(projection: Projection) -> None:
    """Raise `CircuitError` for gap junctions that are not alike in both directions, naming the first."""
    if not projection.summed.strip() or not is_gap_junction(projection):
        return
    if getattr(projection.wiring, "symmetric", None) is False:
        return
    for problem in _problems(projection):
        raise CircuitError(
            f"projection {projection.name}: gap junctions are asymmetric, {problem}; valid: AllToAll, or Explicit or "
            f"EdgeList with both directions of every pair (symmetric=False for those that rectify)"
        )


def _problems(projection: Projection) -> Iterator[str]:
    rule = projection.wiring
    drawn = projection.random_weight and not isinstance(rule, EdgeList)
    if isinstance(rule, (Independent, FixedTotal, FixedIndegree)) or (drawn and isinstance(rule, AllToAll | Explicit)):
        yield "each direction is drawn on its own"
    elif isinstance(rule, Explicit):
        listed = set(rule.pairs)
        for i, j in sorted(p for p in listed if p[::-1] not in listed):
            yield f"the pair ({i}, {j}) has no pair ({j}, {i})"
    elif isinstance(rule, EdgeList):
        yield from _unequal(rule, tuple(sorted(names_in(projection.weight) & rule.columns.keys())))


def _unequal(edges: EdgeList, columns: tuple[str, ...]) -> Iterator[str]:
    """Rows whose other direction is missing, or has other values in the columns that make the weight."""

    def rows(a: np.ndarray, b: np.ndarray) -> list[tuple[float, ...]]:
        listed = np.column_stack([a, b, *(edges.columns[c][1] for c in columns)])
        return sorted(map(tuple, listed.tolist()))

    there, back = rows(edges.source, edges.target), rows(edges.target, edges.source)
    if there != back:
        i, j, *_ = min(set(there) ^ set(back)) if set(there) ^ set(back) else there[0]
        differs = f", or {', '.join(columns)} of it differs" if columns else ""
        yield f"the pair ({i:g}, {j:g}) has no pair ({j:g}, {i:g}){differs}"
