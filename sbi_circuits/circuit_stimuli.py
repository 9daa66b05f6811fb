"""Stimuli: measured or designed time courses that drive the units of a population."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from sbi_circuits.errors import CircuitError


@dataclass(frozen=True, eq=False)
class Stimulus:
    """A time course for every unit of a population, used by `name` in its equations; rate circuits only.

    Two stimuli are equal where their content is; a circuit that has one is hashed by that content.

    Args:
        target: population.
        name: the name in the equations.
        unit: of the values.
        values: (samples, units), or (samples,) for a course that all units share; row k holds from k dt to
            (k + 1) dt, counted from the start of the simulation (its warmup included).
        dt: seconds from sample to sample; of any relation to the time step.
        scale: an expression in parameters by which all values are multiplied, so that simulations differ.

    Raises:
        CircuitError: values of another shape, that are not finite, or no positive dt.

    Examples:
        >>> course = Stimulus("column", "drive", "Hz", 120 + np.zeros((1000, 3)), dt=1e-3, scale="gain")
        >>> course.samples, course.units, course.rows(4, 5e-4).tolist()
        (1000, 3, [0, 0, 1, 1])
    """

    target: str
    name: str
    unit: str
    values: np.ndarray
    dt: float
    scale: str = "1"

    def __post_init__(self) -> None:
        where = f"stimulus {self.name} of population {self.target}"
        try:
            found = np.array(self.values, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise CircuitError(f"{where}: its values are no array of numbers") from error
        if found.ndim not in (1, 2) or found.size == 0:
            raise CircuitError(f"{where}: values of shape {found.shape}; expected (samples, units) or (samples,)")
        found = found.reshape(len(found), -1)
        if not np.isfinite(found).all():
            row = int(np.argmax(~np.isfinite(found).all(axis=1)))
            raise CircuitError(f"{where}: sample {row} is not finite")
        if not self.dt > 0:
            raise CircuitError(f"{where}: dt must be positive, got {self.dt} s")
        found.flags.writeable = False
        object.__setattr__(self, "values", found)
        object.__setattr__(self, "scale", str(self.scale))

    @property
    def samples(self) -> int:
        """Rows there are."""
        return len(self.values)

    @property
    def units(self) -> int:
        """Columns: 1 where all units share one course."""
        return self.values.shape[1]

    def rows(self, steps: int, dt: float) -> np.ndarray:
        """(steps,) the row that holds in each time step of `dt` seconds."""
        # Steps often fall on edges of rows: a small shift keeps rounding out of it.
        return np.floor(np.arange(steps) * (dt / self.dt) + 1e-6).astype(np.int64)

    def check_size(self, size: int) -> None:
        """Raise `CircuitError` unless there is a column for each of the population's units, or one for all."""
        if self.units not in (1, size):
            expected = f"({self.samples}, {size}) or ({self.samples},)"
            raise CircuitError(
                f"stimulus {self.name} of population {self.target} has values for {self.units} units, the population "
                f"has {size}; expected values of shape {expected}"
            )

    def check_length(self, steps: int, dt: float) -> None:
        """Raise `CircuitError` where a simulation goes on after the last sample."""
        needed = int(self.rows(steps, dt)[-1]) + 1 if steps else 0
        if self.samples < needed:
            raise CircuitError(
                f"stimulus {self.name} of population {self.target} has {self.samples} samples of {self.dt:g} s, "
                f"{self.samples * self.dt:g} s; the simulation lasts {steps * dt:g} s with its warmup; expected at "
                f"least {needed} samples"
            )

    @cached_property
    def content(self) -> str:
        """SHA-256 of names, unit, times and values."""
        head = "\x1f".join((self.target, self.name, self.unit, repr(self.dt), self.scale, str(self.values.shape)))
        return hashlib.sha256(head.encode() + self.values.tobytes()).hexdigest()

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, Stimulus) and self.content == other.content

    def __hash__(self) -> int:
        return hash(self.content)
