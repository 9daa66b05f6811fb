"""Sums over synapses as matrix products: an expression over both ends taken apart into weight, source and target.

sum_j w_ij (v_j - u_i) tanh(r_j) = sum_j w_ij (v_j tanh(r_j)) - u_i sum_j w_ij tanh(r_j): two terms, each a factor of
the target times the matrix of weights (or of ones) times a factor of the source.
"""

import ast
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product

from sbi_circuits.engines.rate_program import names_of


@dataclass(frozen=True)
class Term:
    """`post * sum over synapses of (weight or 1) * pre`; factors that are not there are ""."""

    pre: str
    post: str
    weighted: bool


# A product as factors (expression, whether it divides).
_Product = tuple[tuple[ast.expr, bool], ...]


def terms(expression: str, random_weight: bool) -> tuple[Term, ...] | None:
    """The terms of a summed expression, or None where it cannot be taken apart (such as `sin(v_pre - v_post)`)."""
    products = _sum(ast.parse(expression, mode="eval").body)
    found = [_term(p, random_weight) for p in products]
    return None if None in found else tuple(t for t in found if t is not None)


def _side(node: ast.expr) -> str:
    """"pre", "post", "weight", "" for none of them, "mixed" for several."""
    names = names_of(ast.unparse(node))
    sides = {"weight" if n == "weight" else n.rpartition("_")[2] for n in names}
    return "mixed" if len(sides) > 1 else next(iter(sides), "")


def _sum(node: ast.expr) -> list[_Product]:
    """An expression as a sum of products; what belongs to one side stays whole."""
    if _side(node) != "mixed":
        return [((node, False),)]
    match node:
        case ast.BinOp(op=ast.Add()):
            return _sum(node.left) + _sum(node.right)
        case ast.BinOp(op=ast.Sub()):
            return _sum(node.left) + [_negative(p) for p in _sum(node.right)]
        case ast.UnaryOp(op=ast.USub()):
            return [_negative(p) for p in _sum(node.operand)]
        case ast.BinOp(op=ast.Mult()):
            return [a + b for a, b in product(_sum(node.left), _sum(node.right))]
        case ast.BinOp(op=ast.Div()):
            below = _sum(node.right)
            if len(below) == 1:
                inverse = tuple((factor, not divides) for factor, divides in below[0])
                return [a + inverse for a in _sum(node.left)]
    return [((node, False),)]


def _negative(factors: _Product) -> _Product:
    return ((ast.UnaryOp(ast.USub(), ast.Constant(1.0)), False), *factors)


def _term(factors: _Product, random_weight: bool) -> Term | None:
    sides = [_side(f) for f, _ in factors]
    weights = [(f, divides) for (f, divides), side in zip(factors, sides, strict=True) if side == "weight"]
    plain = all(isinstance(f, ast.Name) and not divides for f, divides in weights)
    if "mixed" in sides or len(weights) > 1 or not plain or (weights and not random_weight):
        return None
    pre = _product((f, s) for f, s in zip(factors, sides, strict=True) if s == "pre")
    post = _product((f, s) for f, s in zip(factors, sides, strict=True) if s in ("post", ""))
    return Term(pre, post, bool(weights))


def _product(chosen: Iterable[tuple[tuple[ast.expr, bool], str]]) -> str:
    text = ""
    for (factor, divides), _ in chosen:
        if divides:
            text = f"{text or '1.0'} / ({ast.unparse(factor)})"
        else:
            text = f"{text} * ({ast.unparse(factor)})" if text else f"({ast.unparse(factor)})"
    return text
