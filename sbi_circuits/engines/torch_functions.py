"""Functions of Brian2's equation language on tensors; gradients exist and are finite wherever the function's are."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sbi_circuits.units import FUNCTIONS


def _tensor(value: Any, like: Tensor) -> Tensor:
    return value if isinstance(value, Tensor) else torch.as_tensor(value, dtype=like.dtype, device=like.device)


def clip(x: Any, low: Any, high: Any) -> Any:
    """x held between two bounds, numbers or tensors; inside them the gradient is 1."""
    like = next((v for v in (x, low, high) if isinstance(v, Tensor)), None)
    if like is None:
        return np.clip(x, low, high)
    if isinstance(low, Tensor) or isinstance(high, Tensor) or not isinstance(x, Tensor):
        return torch.clamp(_tensor(x, like), _tensor(low, like), _tensor(high, like))
    return torch.clamp(x, low, high)


def exprel(x: Any) -> Any:
    """(exp(x) - 1)/x; around 0 its series, so that the gradient there is 1/2."""
    if not isinstance(x, Tensor):
        return FUNCTIONS["exprel"](x)
    small = x.abs() < 1e-4
    safe = torch.where(small, torch.ones_like(x), x)
    return torch.where(small, 1 + x / 2 + x * x / 6, torch.expm1(safe) / safe)


def real(condition: Any, dtype: torch.dtype) -> Any:
    """A condition as a number, 0 or 1."""
    return condition.to(dtype) if isinstance(condition, Tensor) else float(condition)


def both(a: Any, b: Any) -> Any:
    """Whether two conditions hold."""
    return a & b


def either(a: Any, b: Any) -> Any:
    """Whether one of two conditions holds."""
    return a | b


def negated(a: Any) -> Any:
    """Whether a condition does not hold."""
    return ~a if isinstance(a, Tensor) else not a


def _where(condition: Any, a: Any, b: Any) -> Any:
    like = next((v for v in (condition, a, b) if isinstance(v, Tensor)), None)
    if like is None:
        return np.where(condition, a, b)
    condition = condition if isinstance(condition, Tensor) else torch.as_tensor(condition, device=like.device)
    return torch.where(condition, a, b)


def _extreme(name: str) -> Callable[..., Any]:
    on_tensors, on_numbers = getattr(torch, name), getattr(np, name)

    def function(a: Any, b: Any) -> Any:
        like = next((v for v in (a, b) if isinstance(v, Tensor)), None)
        return on_numbers(a, b) if like is None else on_tensors(_tensor(a, like), _tensor(b, like))

    return function


def _either_kind(name: str, tensor_name: str) -> Callable[..., Any]:
    on_tensors, on_numbers = getattr(torch, tensor_name), FUNCTIONS[name]
    return lambda x: on_tensors(x) if isinstance(x, Tensor) else on_numbers(x)


_NAMES = {
    "abs": "abs", "arccos": "arccos", "arcsin": "arcsin", "arctan": "arctan", "ceil": "ceil", "cos": "cos",
    "cosh": "cosh", "exp": "exp", "expm1": "expm1", "floor": "floor", "int": "trunc", "log": "log", "log10": "log10",
    "log1p": "log1p", "round": "round", "sign": "sign", "sin": "sin", "sinh": "sinh", "sqrt": "sqrt", "tan": "tan",
    "tanh": "tanh",
}  # fmt: skip
TORCH_FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{name: _either_kind(name, tensor_name) for name, tensor_name in _NAMES.items()},
    "clip": clip, "exprel": exprel, "where": _where, "maximum": _extreme("maximum"), "minimum": _extreme("minimum"),
}  # fmt: skip


def _in_source(tensor_name: str, on_numbers: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A function of a tensor, or of a number: time and constants are numbers."""
    on_tensors = getattr(torch, tensor_name)
    return lambda x: on_tensors(x) if isinstance(x, Tensor) else float(on_numbers(x))


# What generated source calls by the language's own names; `trunc` is `int` of a number (see `rewrite`).
IN_SOURCE: dict[str, Callable[..., Any]] = {
    **{n: _in_source(t, FUNCTIONS[n]) for n, t in _NAMES.items() if n not in ("int", "round")},
    "trunc": _in_source("trunc", np.trunc), "clip": clip, "exprel": exprel,
}  # fmt: skip
