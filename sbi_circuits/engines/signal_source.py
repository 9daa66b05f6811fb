"""Readouts of circuits that spike, in their numba kernel: sampled, and reduced over neurons, while it runs."""

from typing import Any

import numpy as np

from sbi_circuits.circuit import Circuit
from sbi_circuits.engines.base import Protocol
from sbi_circuits.engines.printer import constants, show
from sbi_circuits.engines.rate_program import Output, names_of, outputs_of
from sbi_circuits.engines.setup import Setup
from sbi_circuits.engines.signals import chosen_readouts, sampling
from sbi_circuits.engines.synapse_source import DECORATOR
from sbi_circuits.engines.translate import Translation
from sbi_circuits.units import evaluate

Parts = tuple[Translation, ...]


def signal_names(circuit: Circuit) -> list[str]:
    """Arguments of `run` that a kernel with readouts has beside the others."""
    own = [f"{array}_{k}" for k in range(len(circuit.readouts)) for array in ("out", "KR")]
    return ["sample_first", "sample_every", "wanted", *own] if own else []


def signal_functions(circuit: Circuit, parts: Parts, single: bool) -> list[str]:
    """One function for each readout."""
    return [_read(k, o, _part(o, parts), single) for k, o in enumerate(outputs_of(circuit, single))]


def _part(output: Output, parts: Parts) -> Translation:
    return next(p for p in parts if p.name == output.readout.population)


def _read(number: int, output: Output, part: Translation, single: bool) -> str:
    over, used = output.readout.over, names_of(output.expression)
    variables = [v for v in part.variables if v in used]
    names = [*(f"a_{v}" for v in variables), *(n for n in part.shared if n in used)]
    value = show(output.expression, single, output.invariants)
    lines = [
        DECORATOR,
        f"def read_{number}({', '.join([*names, 'size_', 't', 'K', 'out_'])}):",
        *constants([output.expression]),
        "    total_ = ZERO",
        "    for i in range(size_):",
        *(f"        {v} = a_{v}[i]" for v in variables),
        f"        out_[i] = {value}" if over == "each" else f"        total_ += {value}",
        *({"each": [], "sum": ["    out_[0] = total_"], "mean": ["    out_[0] = total_ / real(size_)"]}[over]),
    ]
    return "\n".join(lines)


def signal_lines(circuit: Circuit, parts: Parts, single: bool) -> list[str]:
    """Samples of one step, after the sums over synapses and before the state updates."""
    if not circuit.readouts:
        return []
    lines = [
        "        if step >= sample_first and (step - sample_first) % sample_every == 0:",
        "            sample = (step - sample_first) // sample_every",
    ]
    for number, output in enumerate(outputs_of(circuit, single)):
        part, used = _part(output, parts), names_of(output.expression)
        k = parts.index(part)
        names = [f"state_{k}_{row}" for row, v in enumerate(part.variables) if v in used]
        names += [f"shared_{k}[{row}, step]" for row, n in enumerate(part.shared) if n in used]
        arguments = ", ".join([*names, f"sizes[{k}]", "t", f"KR_{number}", f"out_{number}[sample]"])
        lines += [f"            if wanted[{number}]:", f"                read_{number}({arguments})"]
    return lines


def signal_arguments(circuit: Circuit, setup: Setup, protocol: Protocol, real: Any) -> dict[str, Any]:
    """Values of `signal_names`, allocated for one simulation."""
    if not circuit.readouts:
        return {}
    grid, chosen = sampling(circuit, protocol), chosen_readouts(circuit, protocol.record)
    wanted = np.array([r in chosen for r in circuit.readouts])
    values: dict[str, Any] = {"sample_first": grid.first, "sample_every": grid.every, "wanted": wanted}
    cells = {c.population.name: c for c in setup.cells}
    for k, output in enumerate(outputs_of(circuit, real is np.float32)):
        own = cells[output.readout.population]
        channels = own.size if output.readout.over == "each" else 1
        values[f"out_{k}"] = np.zeros((grid.number if wanted[k] else 0, channels), dtype=real)
        values[f"KR_{k}"] = readout_invariants(output, own.constants, setup.dt, own.size, real)
    return values


def readout_invariants(output: Output, constants_: dict[str, float], dt: float, size: int, real: Any) -> np.ndarray:
    """Values of a readout's K."""
    known = {**constants_, "dt": dt, "N": size}
    with np.errstate(all="ignore"):
        return np.array([float(evaluate(e, known)) for e in output.invariants], dtype=real)
