"""Parameters with names, units and bounds, and the independent joint prior over them."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import ndtr, ndtri

from sbi_circuits.digests import digest
from sbi_circuits.errors import PriorError, UnknownNameError
from sbi_circuits.seeds import uniform_rows
from sbi_circuits.units import unit_dimensions, unit_scale

SCALES = ("linear", "log")
_LOG_SQRT_2PI = 0.5 * np.log(2.0 * np.pi)
# ndtri of the smallest step below 1 is about 8.2; beyond it the bijection would leave float64.
_Z_MAX = 8.0


@dataclass(frozen=True)
class Parameter:
    """A named, unit-bearing, bounded quantity, uniform on its (linear or logarithmic) scale.

    Args:
        name: an identifier, as it appears in the circuit's equations.
        unit: a Brian2 unit ("mV", "nS", "Hz", ...) or "1".
        low, high: bounds in `unit`; low < high, and low > 0 on a logarithmic scale.
        scale: "linear" or "log".
        label: text for plots; the name where empty.

    Raises:
        PriorError: naming what is wrong.

    Examples:
        >>> Parameter("tau_w", "ms", 5, 20000, scale="log").low
        5.0
    """

    name: str
    unit: str
    low: float
    high: float
    scale: str = "linear"
    label: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "low", _finite(self.name, "low", self.low))
        object.__setattr__(self, "high", _finite(self.name, "high", self.high))
        if not self.name.isidentifier():
            raise PriorError(f"parameter name {self.name!r} is not an identifier")
        if self.low >= self.high:
            raise PriorError(f"parameter {self.name}: low {self.low:g} must be below high {self.high:g}")
        if self.scale not in SCALES:
            raise UnknownNameError(f"scale of parameter {self.name}", self.scale, SCALES)
        if self.scale == "log" and self.low <= 0:
            raise PriorError(f"parameter {self.name}: a log scale needs low > 0, got {self.low:g}")
        unit_scale(self.unit)

    @property
    def text(self) -> str:
        """Label with its unit, for axes."""
        name = self.label or self.name
        return name if self.unit == "1" else f"{name} ({self.unit})"


def _finite(name: str, which: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise PriorError(f"parameter {name}: {which} {value!r} is not a number") from error
    if not np.isfinite(number):
        raise PriorError(f"parameter {name}: {which} must be finite, got {number}")
    return number


@dataclass(frozen=True)
class Prior:
    """Independent joint distribution over parameters; theta has shape (*, P), in the declared units.

    The bijection to R^P is the probit of the cumulative probability, so that the prior is a standard
    normal in the unbounded coordinates and no draw of a flow there can leave the bounds.

    Examples:
        >>> prior = Prior((Parameter("g", "1", 0, 8), Parameter("tau", "ms", 1, 100, "log")))
        >>> theta = prior.sample(3, seed=0)
        >>> theta.shape, bool(np.allclose(prior.constrain(prior.unconstrain(theta)), theta))
        ((3, 2), True)
    """

    parameters: tuple[Parameter, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "parameters", tuple(self.parameters))
        if not self.parameters:
            raise PriorError("a prior needs at least one parameter")
        repeated = {n for n in self.names if self.names.count(n) > 1}
        if repeated:
            raise PriorError(f"parameters named twice: {', '.join(sorted(repeated))}")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(p.name for p in self.parameters)

    @property
    def units(self) -> tuple[str, ...]:
        return tuple(p.unit for p in self.parameters)

    def __len__(self) -> int:
        return len(self.parameters)

    def __getitem__(self, name: str) -> Parameter:
        for parameter in self.parameters:
            if parameter.name == name:
                return parameter
        raise UnknownNameError("parameter", name, self.names)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of names, units, bounds and scales (labels do not matter)."""
        return digest([[p.name, p.unit, p.low, p.high, p.scale] for p in self.parameters])

    @cached_property
    def _log(self) -> np.ndarray:
        return np.array([p.scale == "log" for p in self.parameters])

    @cached_property
    def _ends(self) -> tuple[np.ndarray, np.ndarray]:
        low = np.array([p.low for p in self.parameters])
        high = np.array([p.high for p in self.parameters])
        return self._scaled(low), self._scaled(high)

    def _scaled(self, theta: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(self._log, np.log(np.where(self._log, theta, 1.0)), theta)

    def sample(self, n: int, seed: int, start: int = 0) -> np.ndarray:
        """Draw theta for simulation indices start..start+n: shape (n, P), declared units.

        Row i depends only on (seed, i): a larger sample begins with the smaller one.
        """
        if n < 0 or start < 0:
            raise PriorError(f"cannot draw {n} configurations from index {start}; both must be >= 0")
        return self.from_unit(uniform_rows(seed, start, start + n, len(self), "prior"))

    def log_prob(self, theta: np.ndarray) -> np.ndarray:
        """Log density, shape (*,), in 1/declared units; -inf outside the bounds."""
        theta = np.asarray(theta, dtype=float)
        low, high = self._ends
        inside = self.contains(theta)
        with np.errstate(invalid="ignore", divide="ignore"):
            jacobian = np.where(self._log, np.log(np.where(self._log, theta, 1.0)), 0.0).sum(-1)
        return np.where(inside, -np.log(high - low).sum() - jacobian, -np.inf)

    def contains(self, theta: np.ndarray) -> np.ndarray:
        """Whether each theta (*, P) lies within the bounds (inclusive): shape (*,)."""
        low = np.array([p.low for p in self.parameters])
        high = np.array([p.high for p in self.parameters])
        return np.asarray(((theta >= low) & (theta <= high)).all(-1))

    def to_unit(self, theta: np.ndarray) -> np.ndarray:
        """Cumulative probability of each parameter: theta (*, P) to the unit cube."""
        low, high = self._ends
        return (self._scaled(np.asarray(theta, dtype=float)) - low) / (high - low)

    def from_unit(self, u: np.ndarray) -> np.ndarray:
        """Inverse of `to_unit`."""
        low, high = self._ends
        scaled = low + (high - low) * np.asarray(u, dtype=float)
        theta = np.where(self._log, np.exp(np.where(self._log, scaled, 0.0)), scaled) if self._log.any() else scaled
        # Rounding in exp(log(high)) may step over a bound by one ulp.
        return np.clip(theta, [p.low for p in self.parameters], [p.high for p in self.parameters])

    def unconstrain(self, theta: np.ndarray) -> np.ndarray:
        """theta (*, P) to z in R^P; the prior becomes a standard normal."""
        with np.errstate(divide="ignore"):
            return np.clip(ndtri(np.clip(self.to_unit(theta), 0.0, 1.0)), -_Z_MAX, _Z_MAX)

    def constrain(self, z: np.ndarray) -> np.ndarray:
        """z in R^P to theta (*, P); never outside the bounds."""
        return self.from_unit(ndtr(np.asarray(z, dtype=float)))

    def log_abs_det(self, z: np.ndarray) -> np.ndarray:
        """log |d theta / d z| summed over parameters, shape (*,)."""
        z = np.asarray(z, dtype=float)
        log_normal = (-0.5 * z**2 - _LOG_SQRT_2PI).sum(-1)
        return log_normal - self.log_prob(self.constrain(z))

    def z_log_prob(self, z: np.ndarray) -> np.ndarray:
        """Log density of the prior in unbounded coordinates: a standard normal, shape (*,)."""
        return (-0.5 * np.asarray(z) ** 2 - _LOG_SQRT_2PI).sum(-1)

    def validate(self, theta: Mapping[str, float] | Sequence[float] | np.ndarray) -> np.ndarray:
        """theta as an array (*, P), or the reason why it cannot be one.

        Args:
            theta: a mapping name -> value (declared units), or an array (*, P).

        Raises:
            PriorError: unknown or missing names, wrong width, values not finite or out of bounds.
        """
        values = self._from_mapping(theta) if isinstance(theta, Mapping) else np.asarray(theta, dtype=float)
        if values.shape[-1:] != (len(self),):
            raise PriorError(f"theta has shape {values.shape}, expected (*, {len(self)}): {', '.join(self.names)}")
        for i, p in enumerate(self.parameters):
            column = values[..., i]
            wrong = ~((column >= p.low) & (column <= p.high))
            if wrong.any():
                bad = np.atleast_1d(column)[np.atleast_1d(wrong)][0]
                raise PriorError(f"{p.name} = {bad:g} {p.unit} is outside its prior [{p.low:g}, {p.high:g}]")
        return values

    def _from_mapping(self, theta: Mapping[str, float]) -> np.ndarray:
        for name in theta:
            if name not in self.names:
                raise UnknownNameError("parameter", name, self.names)
        missing = [n for n in self.names if n not in theta]
        if missing:
            raise PriorError(f"missing parameters: {', '.join(missing)}")
        return np.array([float(theta[n]) for n in self.names])

    def to_si(self, theta: np.ndarray) -> dict[str, float]:
        """One configuration (P,) as name -> SI value."""
        return {p.name: float(v) * unit_scale(p.unit) for p, v in zip(self.parameters, theta, strict=True)}

    def check_units(self, declared: Mapping[str, str]) -> None:
        """Check names and dimensions against a circuit's declaration (name -> unit).

        Raises:
            PriorError: an unknown or missing parameter, or a unit that does not fit.
        """
        unknown = [n for n in self.names if n not in declared]
        if unknown:
            raise UnknownNameError("parameter of the prior", unknown[0], declared)
        missing = [n for n in declared if n not in self.names]
        if missing:
            raise PriorError(f"the prior lacks the circuit's parameters: {', '.join(missing)}")
        for p in self.parameters:
            if unit_dimensions(p.unit) is not unit_dimensions(declared[p.name]):
                raise PriorError(f"parameter {p.name}: unit {p.unit} does not fit, expected {declared[p.name]}")

    @classmethod
    def from_toml(cls, source: str | Path) -> "Prior":
        """Read a prior from TOML text, or from a path: one `[[parameter]]` table each."""
        text = source.read_text() if isinstance(source, Path) else source
        try:
            content = tomllib.loads(text)
            return cls(tuple(Parameter(**entry) for entry in content["parameter"]))
        except (tomllib.TOMLDecodeError, KeyError, TypeError) as error:
            raise PriorError(f"cannot read the prior: {error}") from error

    def to_toml(self) -> str:
        """The prior as TOML text; `Prior.from_toml(prior.to_toml()) == prior`."""
        return "\n".join(_parameter_toml(p) for p in self.parameters)


def _parameter_toml(p: Parameter) -> str:
    lines = ["[[parameter]]", f'name = "{p.name}"', f'unit = "{p.unit}"', f"low = {p.low!r}", f"high = {p.high!r}"]
    if p.scale != "linear":
        lines.append(f'scale = "{p.scale}"')
    if p.label:
        lines.append(f"label = '{p.label}'")
    return "\n".join(lines) + "\n"
