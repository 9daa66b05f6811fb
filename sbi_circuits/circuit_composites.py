"""Composites: quantities that combine parameters, such as a ratio or a time constant, named by the circuit."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sbi_circuits.errors import CircuitError
from sbi_circuits.units import check_dimensions, evaluate, unit_scale


@dataclass(frozen=True)
class Composite:
    """A named combination of a circuit's parameters and constants.

    Args:
        name: an identifier.
        expression: in parameters and constants, with units.
        unit: a Brian2 unit, or "1".
        about: one line for people.

    Raises:
        CircuitError: a name that is no identifier.

    Examples:
        >>> Composite("tau_m", "C/g_L", "ms", "membrane time constant").unit
        'ms'
    """

    name: str
    expression: str
    unit: str
    about: str = ""

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise CircuitError(f"composite name {self.name!r} is not an identifier")

    def check(self, known: Mapping[str, Any]) -> None:
        """Raise `CircuitError` unless the expression has the unit and a name of its own among `known` quantities."""
        if self.name in known:
            raise CircuitError(f"composite {self.name} repeats the name of a parameter or constant")
        check_dimensions(self.expression, self.unit, known, f"composite {self.name}")

    def value(self, values: Mapping[str, Any]) -> np.ndarray:
        """In its unit, for SI values of parameters and constants (floats, or arrays (K,) alike)."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(evaluate(self.expression, values), dtype=float) / unit_scale(self.unit)
