"""Source text of a circuit's numba kernel: one fused loop over time steps, in Brian2's order.

Brian2's schedule within a step is: state updates, thresholds, synapses and Poisson inputs, resets. A spike
of step s that travels for d steps acts in step s + d, before that step's resets.
"""

from sbi_circuits.circuit import Circuit, PoissonInput
from sbi_circuits.engines import synapse_source
from sbi_circuits.engines.coupling import Coupling
from sbi_circuits.engines.delivery_source import delivery_functions, delivery_lines, fetch_lines, unpack_lines
from sbi_circuits.engines.poisson_table import COUNTS, EVENTS, PAIRS
from sbi_circuits.engines.signal_source import signal_functions, signal_lines, signal_names
from sbi_circuits.engines.translate import Statement, Translation
from sbi_circuits.engines.update_source import early_values, reset_function, update_function

_HEADER = '''"""Kernel of the circuit {name!r}, generated from its equations; precision {real}."""

import math

import numpy as np
from numba import njit

from sbi_circuits.engines.intrinsics import FLAGGED, LOG2E, align_stack, chosen, exp2_bounded, exp_double, exp_single
from sbi_circuits.engines.kernel_parts import (
    DIVERGED, LOG, OK, SATURATED, SILENT, all_finite, deliver, gather, keep_held, log_spikes, note_intervals,
    note_spikes, poisson_counts, poisson_events, poisson_pairs, prefetch_rows, restore_held,
)
from sbi_circuits.engines.kernel_dense import expand, set_bits, tally
from sbi_circuits.engines.kernel_rows import AHEAD, LINES, add_row, deliver_packed, prefetch_arrivals, prefetch_row
{imports}
real = np.{real}
ONE, ZERO = real(1.0), real(0.0)
FLAGS = {flags}
'''
# Relaxed operations that keep NaN and infinity, by which a diverged simulation is known.
_SINGLE_FLAGS = "{'nsz', 'arcp', 'contract', 'afn', 'reassoc'}"


def kernel_source(circuit: Circuit, parts: tuple[Translation, ...], single: bool, links: dict[int, Coupling]) -> str:
    """The kernel module of a circuit as Python source; it holds the function `run`.

    Args:
        circuit: for its projections and inputs.
        parts: translations of its populations.
        single: whether the kernel computes in single precision.
        links: translations of the projections that need one.
    """
    real, flags = ("float32", _SINGLE_FLAGS) if single else ("float64", "False")
    imports = "".join(f"{line}\n" for line in synapse_source.imports(circuit, parts, links))
    header = _HEADER.format(name=circuit.name, real=real, flags=flags, imports=imports)
    updates = [update_function(k, part, single) for k, part in enumerate(parts)]
    resets = [reset_function(k, part, single) for k, part in enumerate(parts) if part.threshold]
    joints = [*synapse_source.functions(links, single), *signal_functions(circuit, parts, single)]
    deliveries = delivery_functions(circuit, single)
    return "\n\n".join([header, *updates, *resets, *deliveries, *joints, _run(circuit, parts, links, single)]) + "\n"


# Arrays of the kernel that exist once per population.
_PER_POPULATION = ("until", "fired", "ring", "K", "shared", "noted", "slots")


def _run(circuit: Circuit, parts: tuple[Translation, ...], links: dict[int, Coupling], single: bool) -> str:
    """The loop over time steps."""
    names = [*synapse_source.extra_names(circuit, parts, links), *signal_names(circuit)]
    extra = "".join(f", {name}" for name in names)
    lines = [
        "@njit(cache=True, error_model='numpy', nogil=True)",
        "def run(steps, warmup, bins_per_step, dt, sizes, refractory, state, until, fired, ring, ring_count, K,",
        "        shared, indptr, targets, joined, layout, weight, delay, bits, enough, stack, factors,",
        "        poisson, poisson_weight, poisson_size, words, header,",
        f"        rule, rule_levels, keep, counts, noted, slots{extra}):",
        "    depth = ring_count.shape[1]",
        "    room, kept = [np.empty((2, 1024), np.int32)], 0",
        "    window, code, at = 0, OK, header[0]",
        *_unpack_lines(circuit, parts, single),
        "    for step in range(steps):",
        "        t = real(step * dt)",
        "        now = step % depth",
    ]
    lines += synapse_source.before_update(parts, links, single)
    lines += signal_lines(circuit, parts, single)
    numbers = synapse_source.noise_numbers(parts)
    for k, (part, population) in enumerate(zip(parts, circuit.populations, strict=True)):
        more = [*(f"noise_{m}" for m in numbers[k]), *(f"{name}_{k}" for name in early_values(part, single).arrays)]
        lines += _state_lines(k, part, more, population.refractory_varies)
        lines += fetch_lines(k, circuit, parts, single)
    lines += synapse_source.after_update(parts, links)
    held = _held_rows(circuit, parts)
    lines += [f"        keep_held(state_{k}_{row}, saved_{k}_{row})" for k, row in held]
    lines += delivery_lines(circuit, parts, single)
    lines += _poisson_lines(circuit, parts)
    lines += [f"        restore_held(state_{k}_{row}, saved_{k}_{row}, until_{k}, np.int32(step))" for k, row in held]
    lines += [line for k, part in enumerate(parts) if part.threshold for line in _spike_lines(k, part)]
    lines += _stop_lines(circuit, parts)
    lines += [line for k, part in enumerate(parts) if part.threshold for line in _note_lines(k)]
    lines.append(f"    if not ({' and '.join(f'all_finite(state[{k}], sizes[{k}])' for k in range(len(parts)))}):")
    lines.append("        code = DIVERGED")
    lines.append("    return code, room[0][0, :kept], room[0][1, :kept]")
    return "\n".join(lines)


def _unpack_lines(circuit: Circuit, parts: tuple[Translation, ...], single: bool) -> list[str]:
    """Every array under a name of its own: taken from a tuple in the loop, it would be reference-counted there."""
    lines = []
    for k, part in enumerate(parts):
        lines += [f"    {name}_{k} = {name}[{k}]" for name in _PER_POPULATION]
        lines += [f"    state_{k}_{row} = state[{k}][{row}]" for row in range(len(part.variables))]
        if part.threshold:
            words = f"len(fired_{k}) // FLAGGED"
            lines.append(f"    words_{k}, places_{k} = np.empty({words}, np.uint64), np.empty({words}, np.int32)")
        lines += [f"    {name}_{k} = np.empty_like(state_{k}_0)" for name in early_values(part, single).arrays]
        lines.append(f"    log_{k}, logged_{k} = np.empty((2, LOG + sizes[{k}]), np.int32), 0")
    for k in range(len(circuit.projections)):
        lines.append(f"    indptr_{k}, targets_{k} = indptr[{k}], targets[{k}]")
    lines += unpack_lines(circuit, single)
    for k in range(sum(isinstance(i, PoissonInput) for i in circuit.inputs)):
        lines.append(f"    thresholds_{k}, guide_{k} = poisson[{k}]")
    lines += [f"    saved_{k}_{row} = np.empty_like(state_{k}_{row})" for k, row in _held_rows(circuit, parts)]
    return lines


def _arguments(number: int, part: Translation, noise: list[str]) -> str:
    rows = [f"state_{number}_{row}" for row in range(len(part.variables))]
    inputs = [f"shared_{number}[{row}, step]" for row in range(len(part.shared))]
    return ", ".join([*rows, *noise, *inputs])


def _state_lines(k: int, part: Translation, noise: list[str], refractory_varies: bool) -> list[str]:
    call = f"update_{k}({_arguments(k, part, noise)}, until_{k}, fired_{k}, np.int32(step), t, K_{k})"
    if not part.threshold:
        return [f"        {call}"]
    release = f"until_{k}, step + max(refractory[{k}], 1)"
    each = f"            hold_each(ring_{k}, now, n{k}, until_{k}, step, refractory_{k})"
    return [
        f"        n{k} = 0",
        f"        if {call} > 0:",
        f"            n{k} = gather(fired_{k}, words_{k}, places_{k}, ring_{k}, now, {release})",
        *([each] if refractory_varies else []),
        f"        ring_count[{k}, now] = n{k}",
    ]


def _position(parts: tuple[Translation, ...], population: str) -> int:
    return next(k for k, part in enumerate(parts) if part.name == population)


def _held_rows(circuit: Circuit, parts: tuple[Translation, ...]) -> list[tuple[int, int]]:
    """(population, row) of the variables that take spikes or events, but not in refractory neurons."""
    plain = [p for p in circuit.projections if synapse_source.uses_plain_delivery(p)]
    taken = [(p.target, p.effects[0][0]) for p in plain]
    taken += [(i.target, i.variable) for i in circuit.inputs if isinstance(i, PoissonInput)]
    held = {(_position(parts, target), variable) for target, variable in taken}
    return sorted((k, parts[k].variables.index(v)) for k, v in held if v in parts[k].held)


def _poisson_lines(circuit: Circuit, parts: tuple[Translation, ...]) -> list[str]:
    lines = []
    inputs = [i for i in circuit.inputs if isinstance(i, PoissonInput)]
    for k, entry in enumerate(inputs):
        target = _position(parts, entry.target)
        row = parts[target].variables.index(entry.variable)
        arguments = (
            f"(poisson_size[{k}, 0], thresholds_{k}, guide_{k}, poisson_size[{k}, 1], poisson_weight[{k}], "
            f"state_{target}_{row}, words, header, at)"
        )
        for test, mode, draw in (("if", PAIRS, "pairs"), ("elif", EVENTS, "events"), ("elif", COUNTS, "counts")):
            lines.append(f"        {test} poisson_size[{k}, 2] == {mode}:")
            lines.append(f"            at = poisson_{draw}{arguments}")
    return lines


def _spike_lines(k: int, part: Translation) -> list[str]:
    spikes = f"ring_{k}, now, n{k}"
    return [
        f"        if n{k} > 0:",
        f"            reset_{k}({_arguments(k, part, [])}, {spikes}, t, K_{k})",
        "            if step >= warmup:",
        "                if keep[0]:",
        f"                    counts[{k}, np.int64((step - warmup) * bins_per_step + 1e-6)] += n{k}",
        "                if keep[1] or keep[2]:",
        f"                    logged_{k} = log_spikes({spikes}, step, log_{k}, logged_{k})",
        f"                    if logged_{k} > LOG:",
        *(f"                    {line}" for line in _note_lines(k)),
    ]


def _note_lines(k: int) -> list[str]:
    """Turn the log of a population into what is kept: many spikes together, as each waits for the cache."""
    return [
        "    if keep[1]:",
        f"        note_intervals(log_{k}, logged_{k}, noted_{k})",
        "    if keep[2]:",
        f"        kept = note_spikes(log_{k}, logged_{k}, slots_{k}, room, kept)",
        f"    logged_{k} = 0",
    ]


def _stop_lines(circuit: Circuit, parts: tuple[Translation, ...]) -> list[str]:
    if circuit.early_stop is None:
        return []
    k = _position(parts, circuit.early_stop.population)
    return [
        "        if rule[0] <= step < rule[1]:",
        f"            window += n{k}",
        "        if step + 1 == rule[1]:",
        "            load = rule_levels[0] * window",
        f"            if not ({' and '.join(f'all_finite(state[{j}], sizes[{j}])' for j in range(len(parts)))}):",
        "                code = DIVERGED",
        "            elif load <= rule_levels[1]:",
        "                code = SILENT",
        "            elif load >= rule_levels[2]:",
        "                code = SATURATED",
        "            if code != OK:",
        "                break",
    ]


__all__ = ["Statement", "kernel_source"]
