"""Integration methods that the toolkit adds to Brian2's."""

from functools import cache
from typing import Any


def trapezoid(equations: Any, variables: Any = None, method_options: Any = None) -> str:
    """Abstract code of Heun's method in the drift and in the noise.

    With F(x, t) = dt f(x, t) + sum_k dW_k g_k(x, t): x + (F(x, t) + F(x + F(x, t), t + dt))/2 (Rumelin 1982, SIAM J
    Numer Anal 19:604; Kloeden, Platen 1992, section 15.1). Second order without noise, Stratonovich's sense with it.
    Brian2's own `heun` takes the drift by Euler's method.
    """
    noises = sorted(equations.stochastic_variables)
    substituted = equations.get_substituted_expressions(variables)
    changes = {name: _change(expression, noises) for name, expression in substituted}
    ahead = {name: f"__p_{name}" for name in changes} | {"t": "(t + dt)"}
    lines = [f"{xi} = dt**.5 * randn()" for xi in noises]
    lines += [f"__k_{name} = {change}" for name, change in changes.items()]
    lines += [f"__p_{name} = {name} + __k_{name}" for name in changes]
    lines += [f"_{name} = {name} + 0.5*(__k_{name} + {_substitute(c, ahead)})" for name, c in changes.items()]
    return "\n".join([*lines, *(f"{name} = _{name}" for name in changes)])


def _change(expression: Any, noises: list[str]) -> str:
    """dt f + sum of dW g of one variable."""
    drift, diffusion = expression.split_stochastic()
    parts = [f"dt*({drift.code})"] + [f"{xi}*({diffusion[xi].code})" for xi in noises if xi in (diffusion or {})]
    return " + ".join(parts)


def _substitute(text: str, names: dict[str, str]) -> str:
    from brian2.utils.stringtools import word_substitute

    result: str = word_substitute(text, names)
    return result


@cache
def register_methods() -> None:
    """Make the methods known to Brian2 by their names."""
    from brian2.stateupdaters.base import StateUpdateMethod

    StateUpdateMethod.register("trapezoid", _method())


def _method() -> Any:
    from brian2.stateupdaters.base import StateUpdateMethod

    class Trapezoid(StateUpdateMethod):
        def __call__(self, equations: Any, variables: Any = None, method_options: Any = None) -> str:
            return trapezoid(equations, variables, method_options)

    return Trapezoid()
