"""Readouts as Brian2 state monitors."""

from collections.abc import Sequence
from math import gcd
from typing import Any

import brian2
import numpy as np

from sbi_circuits.circuit import Readout
from sbi_circuits.engines.signals import Sampling
from sbi_circuits.units import unit_dimensions

_PREFIX = "readout_of_"


def readout_equations(readouts: Sequence[Readout], population: str) -> list[str]:
    """Equations that give a population's readouts names which can be monitored."""
    return [_equation(r) for r in readouts if r.population == population]


def _equation(readout: Readout) -> str:
    dimension = unit_dimensions(readout.unit)
    unit = "1" if dimension.is_dimensionless else repr(dimension)
    return f"{_PREFIX}{readout.name} = {readout.expression} : {unit}"


def signal_monitors(readouts: Sequence[Readout], groups: Any, grid: Sampling) -> dict[str, brian2.StateMonitor]:
    """One monitor for each readout, sampling after the sums over synapses and before the state updates."""
    found = {}
    # Brian2's clocks begin at time 0; the grid begins where the valid interval does.
    interval = gcd(grid.every, grid.first) * grid.dt
    for readout in readouts:
        group = groups[readout.population]
        clock = brian2.Clock(dt=interval * brian2.second, name=f"clock_of_{readout.name}")
        found[readout.name] = brian2.StateMonitor(
            group, f"{_PREFIX}{readout.name}", record=True, clock=clock, when="groups", order=group.order - 0.5,
            name=f"signal_{readout.name}",
        )  # fmt: skip
    return found


def sampled(readouts: Sequence[Readout], monitors: Any, grid: Sampling) -> dict[str, np.ndarray]:
    """(channels, samples) of each readout over the valid interval, SI."""
    return {r.name: _reduced(r, monitors[r.name], grid) for r in readouts}


def _reduced(readout: Readout, monitor: Any, grid: Sampling) -> np.ndarray:
    values = np.asarray(getattr(monitor, f"{_PREFIX}{readout.name}_"))
    steps = np.rint(np.asarray(monitor.t_[:]) / grid.dt).astype(np.int64)
    values = values[:, (steps >= grid.first) & ((steps - grid.first) % grid.every == 0)]
    return values if readout.over == "each" else getattr(np, readout.over)(values, axis=0, keepdims=True)
