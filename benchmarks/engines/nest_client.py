"""Ask NEST (in a process of its own, `nest_process.py`) for the same networks as the kernel's.

NEST and Brian2 cut a time step differently. Both decay, then add the input of the step; NEST compares with the
threshold after the input, Brian2 (and the kernel) before it, that is one decay later. So NEST with the delay d + dt
and the threshold V_th is, spike for spike, the kernel with the delay d and the threshold V_th exp(-dt/tau), for a
membrane that rests at zero; `tests/test_nest.py` proves it. `as_in_nest` moves a circuit by that much.
"""

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from sbi_circuits.circuit import Circuit, Record
from sbi_circuits.engines import Protocol, Simulation
from sbi_circuits.engines.setup import Setup

# (g, eta), and the mean rate (Hz) of one NEST run over 0.5 s after 0.1 s: Brunel 2000, Fig. 8 A to D has such states.
REGIMES = {
    "asynchronous irregular": (5.0, 2.0, 37.6),
    "slow oscillation": (4.5, 0.9, 5.0),
    "fast oscillation": (6.0, 4.0, 59.4),
    "synchronous regular": (3.0, 2.0, 333.0),
}
MIN_SPIKES = 3  # of a cell whose irregularity is counted, as everywhere in this project
PROCESS = Path(__file__).with_name("nest_process.py")
MISSING = "NEST is not installed: make .venv/.bench, or set NEST_PYTHON to a Python that has it"


@dataclasses.dataclass(frozen=True)
class Activity:
    """Mean rate (Hz) of all cells, mean CV of the interspike intervals of those with `MIN_SPIKES` spikes."""

    rate: float
    cv: float


def python() -> str:
    """The interpreter NEST runs in: $NEST_PYTHON, else this one."""
    return os.environ.get("NEST_PYTHON", sys.executable)


@cache
def available() -> bool:
    """Whether that interpreter has NEST."""
    if python() == sys.executable:
        return importlib.util.find_spec("nest") is not None
    found = subprocess.run([python(), "-c", "import nest"], capture_output=True, check=False)
    return found.returncode == 0


def run_nest(task: Mapping[str, Any]) -> dict[str, Any]:
    """Run one task; see `nest_process.py` for what a task holds. Raises RuntimeError with NEST's own words."""
    if not available():
        raise RuntimeError(MISSING)
    done = subprocess.run([python(), str(PROCESS)], input=json.dumps(task), text=True, capture_output=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"NEST failed: {done.stderr.strip().splitlines()[-1:]}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def as_in_nest(circuit: Circuit, theta: np.ndarray) -> tuple[Circuit, np.ndarray]:
    """Brunel's circuit and configuration whose kernel does what NEST does at the values given.

    Args:
        circuit: `brunel`, or a smaller one of its kind.
        theta: (4,) g, external rate, J (mV), delay (ms).
    """
    values = circuit.values(theta)
    factor = np.exp(-circuit.dt / values["tau"])
    constants: Any = {**dict(circuit.constants), "theta": f"{float(values['theta'] * factor)!r}*volt"}
    moved = np.array(theta, dtype=float)
    names = list(circuit.prior.names)
    moved[names.index("delay")] -= circuit.dt * 1e3
    moved[names.index("nu_ext")] /= factor  # the input is counted in thresholds
    return dataclasses.replace(circuit, constants=constants), moved


def brunel_task(
    circuit: Circuit, theta: np.ndarray, duration: float, warmup: float, seed: int, synapse: str = "static_synapse"
) -> dict[str, Any]:
    """NEST's task of Brunel's network at exactly these values (delay and threshold as they are), times in seconds."""
    v = circuit.values(theta)
    return {
        "network": "brunel", "seed": seed, "dt": circuit.dt * 1e3, "duration": duration, "warmup": warmup,
        "N_E": int(v["N_E"]), "N_I": int(v["N_E"] / 4), "C_E": int(v["C_E"]), "C_I": int(v["C_I"]),
        "tau": v["tau"] * 1e3, "V_th": v["theta"] * 1e3, "V_reset": v["V_r"] * 1e3, "t_ref": v["tau_rp"] * 1e3,
        "J": v["J"] * 1e3, "g": v["g"], "delay": v["delay"] * 1e3,
        "rate": v["nu_ext"] * v["theta"] / (v["J"] * v["tau"]), "synapse": synapse, "min_spikes": MIN_SPIKES,
    }  # fmt: skip


def protocol(duration: float, warmup: float) -> Protocol:
    """What the comparison keeps of a kernel's simulation."""
    return Protocol(duration, warmup=warmup, record=Record(counts=True, moments=True), early_stop=False)


def activity(simulation: Simulation) -> Activity:
    """Rate and irregularity over all populations of a simulation that kept interval moments."""
    assert simulation.recording is not None, simulation.outcome
    moments = simulation.recording.moments.values()
    spikes, total, squared = (
        np.concatenate([getattr(m, name) for m in moments]) for name in ("spikes", "total", "total_squared")
    )
    enough = spikes >= MIN_SPIKES
    n = spikes[enough] - 1
    mean = total[enough] / n
    variance = np.maximum(squared[enough] / n - mean**2, 0.0)
    cv = float(np.mean(np.sqrt(variance) / mean)) if enough.any() else 0.0
    return Activity(float(spikes.sum() / len(spikes) / simulation.recording.duration), cv)


_AEIF = {  # NEST's name and factor of each constant of `adex_clustered`
    "C_m": ("C", 1e12), "g_L": ("g_L", 1e9), "E_L": ("v_rest", 1e3), "V_th": ("v_thresh", 1e3),
    "V_reset": ("v_reset", 1e3), "Delta_T": ("delta_T", 1e3), "a": ("a", 1e9), "b": ("b", 1e12),
    "tau_w": ("tau_w", 1e3), "t_ref": ("t_refrac", 1e3), "E_ex": ("E_ge", 1e3), "E_in": ("E_gi", 1e3),
    "I_e": ("I_bias", 1e12),
}  # fmt: skip
_DECAY = {"tau_syn_ex": ("tau_ge", 1e3), "tau_syn_in": ("tau_gi", 1e3)}


def adex_task(setup: Setup, file: Path, seed: int) -> dict[str, Any]:
    """NEST's near equivalent of one prepared `adex_clustered` simulation; its arrays are written into `file`.

    Same synapses, initial voltages and parameters; but NEST integrates with an adaptive Runge-Kutta method of order
    4(5) where the circuit asks for forward Euler, and its shortest delay is one step where the circuit has none.
    """
    names = {**_AEIF, **_DECAY}
    arrays: dict[str, Any] = {}
    for k, cells in enumerate(setup.cells):
        c = cells.constants
        values = [c[own] * factor for own, factor in names.values()]
        peak = (c["v_thresh"] + 5 * c["delta_T"]) * 1e3
        arrays[f"cells_{k}"] = np.array([*values, peak])
        arrays[f"V_m_{k}"] = cells.initial["v"] * 1e3
    arrays.update(_pairs(setup))
    by_target = {p.target: p for p in setup.poisson}
    inputs = [by_target[c.population.name] for c in setup.cells]
    arrays["rates"] = np.array([p.rate * p.sources for p in inputs])
    arrays["driven"] = np.array([p.driven for p in inputs])
    np.savez(file, **arrays)
    return {
        "network": "adex", "seed": seed, "file": str(file), "populations": len(setup.cells),
        "names": [*names, "V_peak"], "weight": inputs[0].weight * 1e9, "dt": setup.dt * 1e3,
        "warmup": setup.warmup_steps * setup.dt, "duration": (setup.steps - setup.warmup_steps) * setup.dt,
        "min_spikes": MIN_SPIKES,
    }  # fmt: skip


def _pairs(setup: Setup) -> dict[str, np.ndarray]:
    """All synapses, cells numbered over the populations in order; weights in nS, negative for inhibition."""
    first = dict(zip((c.population.name for c in setup.cells), _starts(setup), strict=True))
    sources, targets, weights = [], [], []
    for s in setup.synapses:
        sources.append(s.sources + first[s.source])
        targets.append(s.targets.astype(np.int64) + first[s.target])
        sign = -1e9 if s.variables[0] == "g_i" else 1e9
        weights.append(np.broadcast_to(sign * np.asarray(s.increments[0]), len(s.targets)))
    return {"sources": np.concatenate(sources), "targets": np.concatenate(targets), "weights": np.concatenate(weights)}


def _starts(setup: Setup) -> list[int]:
    return [int(n) for n in np.cumsum([0] + [c.size for c in setup.cells])[:-1]]
