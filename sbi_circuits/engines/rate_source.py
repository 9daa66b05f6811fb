"""Source text of a rate circuit's numba kernel: simulations side by side in the lanes of vectors.

State variables are (N * LANES,), lane last, so that the innermost loop is over simulations, without branches: one
vector instruction computes the same operation for several parameter sets. A circuit with random wiring or weights has
LANES = 1; its innermost loop is over units, which are contiguous then.
"""

import re
from collections.abc import Set

from sbi_circuits.engines.coupling import Coupling
from sbi_circuits.engines.printer import show
from sbi_circuits.engines.rate_program import Program, names_of
from sbi_circuits.engines.synapse_source import noise_numbers
from sbi_circuits.engines.torch_terms import Term, terms
from sbi_circuits.engines.translate import Translation

_HEADER = '''"""Kernel of the rate circuit {name!r}, generated from its equations; precision {real}, {lanes} lanes."""

import math

import numpy as np
from numba import njit

from sbi_circuits.engines.intrinsics import LOG2E, exp2_bounded, exp_double, exp_single
from sbi_circuits.engines.kernel_functions import exprel_double, exprel_single
from sbi_circuits.engines.rate_noise import lane_normals_double, lane_normals_single

real = np.{real}
ONE, ZERO = real(1.0), real(0.0)
FLAGS = {flags}
LANES = {lanes}
'''
# Relaxed operations that keep NaN and infinity, by which a diverged simulation is known.
_SINGLE_FLAGS = "{'nsz', 'arcp', 'contract', 'afn', 'reassoc'}"
# What `run` is handed of each projection, each name followed by the projection's number.
LINK_ARRAYS = ("present", "indptr", "targets", "weights", "every", "dense", "past", "lags", "scratch", "KS")
_DECORATOR = "@njit(cache=True, fastmath=FLAGS, error_model='numpy')"


def rate_source(name: str, program: Program, single: bool, lanes: int) -> str:
    """The kernel module; it holds the function `run`.

    Args:
        name: of the circuit.
        program: its translation.
        single: whether the kernel computes in single precision.
        lanes: simulations side by side.
    """
    real, flags = ("float32", _SINGLE_FLAGS) if single else ("float64", "False")
    functions = [_update(k, program, single) for k in range(len(program.parts))]
    functions += [_read(k, program, single) for k in range(len(program.outputs))]
    for link in program.links:
        for e in range(len(link.summed)):
            functions += _sum(e, link, single)
    header = _HEADER.format(name=name, real=real, flags=flags, lanes=lanes)
    return "\n\n".join([header, *functions, _run(program, single)]) + "\n"


def _constants(expressions: list[str], array: str = "K") -> list[str]:
    used = sorted({int(j) for e in expressions for j in re.findall(r"K\[(\d+)\]", e)})
    return [f"k{j} = {array}[{j} * LANES + lane]" for j in used]


def _lane_loop(indent: str, body: list[str]) -> list[str]:
    return [f"{indent}for lane in range(LANES):", *(f"{indent}    {line}" for line in body)]


def _update(number: int, program: Program, single: bool) -> str:
    part = program.parts[number]
    arrays = [f"a_{n}" for n in (*part.variables, *part.noise, *part.shared)]
    body = [*_constants([s.expression for s in part.update])]
    body += [f"{n} = a_{n}[cell_ * LANES + lane]" for n in (*part.variables, *part.noise)]
    body += _driven(part, {*part.shared, *part.stimuli})
    if any("not_refractory" in s.expression for s in part.update):
        body.append("not_refractory = True")
    body += [f"{s.target} = {show(s.expression, single, part.invariants)}" for s in part.update]
    body += [f"a_{v}[cell_ * LANES + lane] = _{v}" for v in part.updated]
    lines = [
        _DECORATOR,
        f"def update_{number}({', '.join([*arrays, *_driven_names(part), 'size_', 't', 'K'])}):",
        "    for cell_ in range(size_):",
        "        i = real(cell_)",
        *_lane_loop("        ", body),
    ]
    return "\n".join(lines)


def _driven_names(part: Translation) -> list[str]:
    """Parameters of a function by which it knows its inputs in this step."""
    names = [f"piece_{n}" for n in part.shared]
    return [*names, *(f"{what}_{n}" for n in part.stimuli for what in ("a", "row", "gain"))]


def _driven(part: Translation, used: Set[str]) -> list[str]:
    """Lines that read inputs."""
    lines = [f"{n} = a_{n}[piece_{n} * LANES + lane]" for n in part.shared if n in used]
    return lines + [f"{n} = gain_{n}[lane] * a_{n}[row_{n}, cell_]" for n in part.stimuli if n in used]


def _read(number: int, program: Program, single: bool) -> str:
    """One readout: its value for every unit, or reduced over them, into `out_` (channels * LANES,)."""
    output = program.outputs[number]
    part, over = program.parts[program.position(output.readout.population)], output.readout.over
    used = names_of(output.expression)
    arrays = [f"a_{n}" for n in (*part.variables, *part.shared)]
    body = _constants([output.expression])
    body += [f"{n} = a_{n}[cell_ * LANES + lane]" for n in part.variables if n in used]
    body += _driven(part, used)
    value = show(output.expression, single, output.invariants)
    body.append(f"out_[cell_ * LANES + lane] = {value}" if over == "each" else f"out_[lane] += {value}")
    lines = [
        _DECORATOR,
        f"def read_{number}({', '.join([*arrays, *_driven_names(part), 'size_', 't', 'K', 'out_'])}):",
        *([] if over == "each" else ["    out_[:] = ZERO"]),
        "    for cell_ in range(size_):",
        "        i = real(cell_)",
        *_lane_loop("        ", body),
        *(["    out_[:] /= real(size_)"] if over == "mean" else []),
    ]
    return "\n".join(lines)


def _sum(e: int, link: Coupling, single: bool) -> list[str]:
    expression = link.summed[e][1]
    listed = terms(expression, link.random_weight)
    arrays = [*(f"b_{n}" for n in link.pre), *(f"c_{n}" for n in link.post)]
    head = ["indptr", "targets", "weights", "every", "dense", "past", "lags", "step", "same", "felt", *arrays,
            "sources", "size", "scratch", "K"]  # fmt: skip
    if listed is None:
        return [_pairs(e, link, single, head)]
    lines = [_DECORATOR, f"def sum_{link.number}_{e}({', '.join(head)}):", "    felt[:] = ZERO"]
    for number, term in enumerate(listed, first_term(link, e)):
        lines += _product(term, link, single, number)
    return ["\n".join(lines)]


def _pairs(e: int, link: Coupling, single: bool, head: list[str]) -> str:
    """A coupling that is no product: evaluated for every synapse."""
    expression = link.summed[e][1]
    body = _constants([expression])
    body += [f"{n}_pre = b_{n}[i * LANES + lane]" for n in link.pre]
    body += [f"{n}_post = c_{n}[j * LANES + lane]" for n in link.post]
    body += ["weight = weights[q * LANES + lane]"] if link.random_weight else []
    body.append(f"felt[j * LANES + lane] += {show(expression, single, link.invariants)}")
    lines = [
        _DECORATOR,
        f"def sum_{link.number}_{e}({', '.join(head)}):",
        "    felt[:] = ZERO",
        "    for i in range(sources):",
        "        for q in range(indptr[i], indptr[i + 1]):",
        "            j = np.int64(targets[q])",
        *_lane_loop("            ", body),
    ]
    return "\n".join(lines)


def first_term(link: Coupling, e: int) -> int:
    """Number of the first term of a sum, counted over the projection's sums."""
    return sum(len(terms(text, link.random_weight) or ()) for _, text in link.summed[:e])


def _product(term: Term, link: Coupling, single: bool, number: int) -> list[str]:
    """One term: the source's factor, the matrix, the target's factor."""
    before = _factor(term.pre, link.pre, "b", "pre", "i") + [
        f"scratch[0, i * LANES + lane] = {show(term.pre, single, link.invariants) if term.pre else 'ONE'}"
    ]
    factor = f"{show(term.post, single, link.invariants)} * " if term.post else ""
    after = _factor(term.post, link.post, "c", "post", "j") + [
        f"felt[j * LANES + lane] += {factor}scratch[1, j * LANES + lane]"
    ]
    weight = "weights[q * LANES + lane] * " if term.weighted else ""
    return [
        "    for i in range(sources):",
        *_lane_loop("        ", before),
        *_delayed(number),
        "    scratch[1, : size * LANES] = ZERO",
        *(_dense() if term.weighted else _every_pair()),
        "    else:",
        "        for i in range(sources):",
        "            for q in range(indptr[i], indptr[i + 1]):",
        "                j = np.int64(targets[q])",
        *_lane_loop("                ", [f"scratch[1, j * LANES + lane] += {weight}scratch[0, i * LANES + lane]"]),
        "    for j in range(size):",
        *_lane_loop("        ", after),
    ]


def _delayed(number: int) -> list[str]:
    """Put the source's factor into the ring of its past, and take out the one that arrives now."""
    return [
        "    if past.shape[1] > 1:",
        "        if step == 0:",
        f"            past[{number}, :, : sources * LANES] = scratch[0, : sources * LANES]",
        "        for i in range(sources):",
        "            for lane in range(LANES):",
        f"                past[{number}, step % past.shape[1], i * LANES + lane] = scratch[0, i * LANES + lane]",
        "                then = (step - lags[lane]) % past.shape[1]",
        f"                scratch[0, i * LANES + lane] = past[{number}, then, i * LANES + lane]",
    ]


def _factor(expression: str, names: tuple[str, ...], array: str, end: str, index: str) -> list[str]:
    """Lines that load what a factor reads."""
    if not expression:
        return []
    used = names_of(expression)
    loads = [f"{n}_{end} = {array}_{n}[{index} * LANES + lane]" for n in names if f"{n}_{end}" in used]
    return [*_constants([expression]), *loads]


def _every_pair() -> list[str]:
    """All to all with weight 1: the sum over the source, less a neuron's own part."""
    return [
        "    if every:",
        "        for lane in range(LANES):",
        "            everything = ZERO",
        "            for i in range(sources):",
        "                everything += scratch[0, i * LANES + lane]",
        "            for j in range(size):",
        "                own = scratch[0, j * LANES + lane] if same else ZERO",
        "                scratch[1, j * LANES + lane] = everything - own",
    ]


def _dense() -> list[str]:
    """A full matrix, one simulation: contiguous rows of targets."""
    return [
        "    if dense:",
        "        for i in range(sources):",
        "            seen = scratch[0, i]",
        "            for j in range(size):",
        "                scratch[1, j] += weights[i * size + j] * seen",
    ]


def argument_names(program: Program) -> list[str]:
    """Arguments of `run`, in order: those of every kernel, then what the circuit has."""
    return ["steps", "first", "every", "dt", "sizes", "keys", *names_of_parts(program, LINK_ARRAYS)]


def names_of_parts(program: Program, link_arrays: tuple[str, ...]) -> list[str]:
    """Arguments for what a circuit has: populations, noise, outputs, and these arrays of each projection."""
    names: list[str] = []
    for k, part in enumerate(program.parts):
        names += [f"v_{k}_{row}" for row in range(len(part.variables))] + [f"K_{k}"]
        names += [f"which_{k}", f"levels_{k}"] if part.shared else []
        names += [f"rows_{k}", f"gains_{k}"] if part.stimuli else []
        names += [f"course_{k}_{n}" for n in range(len(part.stimuli))]
    names += [f"noise_{m}" for numbers in noise_numbers(program.parts) for m in numbers]
    for k in range(len(program.outputs)):
        names += [f"wanted_{k}", f"out_{k}", f"KR_{k}"]
    for link in program.links:
        names += [f"{a}_{link.number}" for a in link_arrays]
    return names


def _rows(program: Program, population: str, variables: tuple[str, ...]) -> list[str]:
    k = program.position(population)
    return [f"v_{k}_{program.parts[k].variables.index(v)}" for v in variables]


def _run(program: Program, single: bool) -> str:
    lines = [
        "@njit(cache=True, error_model='numpy', nogil=True)",
        f"def run({', '.join(argument_names(program))}):",
        "    sample = 0",
        "    for step in range(steps):",
        "        t = real(step * dt)",
    ]
    for link in program.links:
        same = link.source == link.target
        for e, (variable, _) in enumerate(link.summed):
            arrays = [*_rows(program, link.target, (variable,)), *_rows(program, link.source, link.pre),
                      *_rows(program, link.target, link.post)]  # fmt: skip
            own = [f"{a}_{link.number}" for a in LINK_ARRAYS if a not in ("present", "scratch", "KS")] + ["step"]
            sizes = [f"sizes[{program.position(end)}]" for end in (link.source, link.target)]
            lines += [
                f"        if present_{link.number}:",
                f"            sum_{link.number}_{e}({', '.join([*own, str(same), *arrays, *sizes])}, "
                f"scratch_{link.number}, KS_{link.number})",
            ]
    lines += ["        if step >= first and (step - first) % every == 0:"]
    for k, output in enumerate(program.outputs):
        position = program.position(output.readout.population)
        rows = _rows(program, output.readout.population, program.parts[position].variables)
        lines += [
            f"            if wanted_{k}:",
            f"                read_{k}({', '.join([*rows, *_inputs(program, position), f'sizes[{position}]', 't'])}, "
            f"KR_{k}, out_{k}[sample])",
        ]
    lines.append("            sample += 1")
    fill = "lane_normals_single" if single else "lane_normals_double"
    numbers = noise_numbers(program.parts)
    for k, part in enumerate(program.parts):
        lines += [f"        {fill}(noise_{m}, sizes[{k}], {m}, step, keys, LANES)" for m in numbers[k]]
        rows = [*_rows(program, part.name, part.variables), *(f"noise_{m}" for m in numbers[k])]
        lines.append(f"        update_{k}({', '.join([*rows, *_inputs(program, k), f'sizes[{k}]', 't', f'K_{k}'])})")
    return "\n".join(lines)


def _inputs(program: Program, position: int) -> list[str]:
    part, k = program.parts[position], position
    number = range(len(part.shared))
    found = [f"levels_{k}[{row}]" for row in number] + [f"which_{k}[{row}, step]" for row in number]
    for n in range(len(part.stimuli)):
        found += [f"course_{k}_{n}", f"rows_{k}[{n}, step]", f"gains_{k}[{n}]"]
    return found
