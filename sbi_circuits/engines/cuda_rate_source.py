"""Source text of a rate circuit's CUDA kernel: simulations side by side in the threads of a block.

A block holds some simulations (`per_block`), and each of them has the threads `unit`, `unit + units`, ... of it; a
thread computes every `units`-th neuron. Where simulations share their synapses, neighbouring threads are neighbouring
simulations and arrays have the simulation last; where they differ, a block is one simulation and neighbouring threads
are neighbouring neurons, which come last. Both are one kernel: neuron n of a simulation stands at
`origin + n * across`.

Where every population has one neuron and nothing is coupled, the state, the invariants and the random key stay in
registers for all steps (`lone`): a step touches memory only where it samples. Counting for such a circuit, u
instructions an update and 60 a pair of normals (ten rounds of Philox and Box and Muller's transform): an H200 issues
3.3e13 thread instructions a second (see `cuda_source`), so that at most 3.3e13 / (u + 60) steps a second can be.
"""

from sbi_circuits.engines.coupling import Coupling
from sbi_circuits.engines.cuda_printer import show, uses
from sbi_circuits.engines.cuda_rate_sums import Sum, used_constants
from sbi_circuits.engines.rate_program import Program
from sbi_circuits.engines.rate_source import names_of_parts
from sbi_circuits.engines.synapse_source import noise_numbers

_HEADER = '''"""CUDA kernel of the rate circuit {name!r}, generated from its equations.

Precision {real}, {where}, parts {parts}.
"""

import math

import numpy as np
from numba import types

from sbi_circuits.engines.cuda_device import (
    ceil_double, ceil_single, cuda, device, exp_double, exp_single, exprel_double, exprel_single, floor_double,
    floor_single, sign_double, sign_single, trunc_double, trunc_single,
)
from sbi_circuits.engines.cuda_synapses import (
    lane_normals_double, lane_normals_single, lone_normal_double, lone_normal_single,
)

real = np.{real}
ONE, ZERO = real(1.0), real(0.0)
'''
# What `run` is handed of each projection, each name followed by the projection's number.
LINK_ARRAYS = ("present", "starts", "jump", "sources", "weights", "all_pairs", "dense", "past", "lags", "scratch", "KS")
_FIRST = ("steps", "first", "every", "dt", "per_block", "across", "along", "sizes", "keys")
_SYNC = "        cuda.syncthreads()"


def cuda_rate_source(name: str, program: Program, single: bool, lone: bool, digest: str = "") -> str:
    """The module of a rate circuit's CUDA kernel as Python source; it holds the function `run`.

    Args:
        name: of the circuit.
        program: its translation.
        single: whether the kernel computes in single precision.
        lone: whether every population has one neuron, and there are no projections.
        digest: of the parts the kernel calls, so that a change of them is another module.
    """
    header = _HEADER.format(name=name, real="float32" if single else "float64", parts=digest,
                            where="state in registers" if lone else "state in global memory")  # fmt: skip
    functions = [_update(k, program, single) for k in range(len(program.parts))]
    functions += [_read(k, program, single) for k in range(len(program.outputs))]
    body = _Lone(program, single) if lone else _Many(program, single)
    return "\n\n\n".join([header.rstrip(), *functions, body.run()]) + "\n"


def argument_names(program: Program) -> list[str]:
    """Arguments of `run`, in order."""
    return [*_FIRST, *names_of_parts(program, LINK_ARRAYS)]


def _constants(expressions: list[str]) -> str:
    """Parameters of a function that are invariants."""
    return "".join(f", k{j}" for j in used_constants(expressions))


def _update(number: int, program: Program, single: bool) -> str:
    """One step of one neuron: its new values."""
    part = program.parts[number]
    expressions = [s.expression for s in part.update]
    names = ", ".join([*part.variables, *part.noise, *part.shared, *part.stimuli, "t", "i"])
    lines = ["@device", f"def update_{number}({names}{_constants(expressions)}):"]
    if uses(expressions, "not_refractory"):
        lines.append("    not_refractory = True")
    lines += [f"    {s.target} = {show(s.expression, single)}" for s in part.update]
    result = ", ".join(f"_{v}" if v in part.updated else v for v in part.variables)
    return "\n".join([*lines, f"    return ({result},)"])


def _read(number: int, program: Program, single: bool) -> str:
    """One readout of one neuron."""
    output = program.outputs[number]
    part = program.parts[program.position(output.readout.population)]
    names = ", ".join([*part.variables, *part.shared, *part.stimuli, "t", "i"])
    return "\n".join([
        "@device",
        f"def read_{number}({names}{_constants([output.expression])}):",
        f"    return real({show(output.expression, single)})",
    ])  # fmt: skip


class _Printer:
    """What both kernels have in common.

    Args:
        program: the translation.
        single: precision.
    """

    def __init__(self, program: Program, single: bool):
        self.program, self.single = program, single
        self.noise = noise_numbers(program.parts)

    def run(self) -> str:
        """The kernel."""
        return "\n".join([
            f"def run({', '.join(argument_names(self.program))}):",
            *self._begin(),
            "    sample = 0",
            "    for step in range(steps):",
            "        t = real(step * dt)",
            *self._inputs(),
            *self._before(),
            "        if step >= first and (step - first) % every == 0:",
            *self._samples(),
            "            sample += 1",
            *self._updates(),
            *self._end(),
        ])  # fmt: skip

    def _begin(self) -> list[str]:
        return [
            "    tid = np.int64(cuda.threadIdx.x)",
            "    unit, units, place = tid // per_block, np.int64(cuda.blockDim.x) // per_block, tid % per_block",
            "    lane = np.int64(cuda.blockIdx.x) * per_block + place",
            "    lanes = keys.shape[1]",
            "    key_0, key_1 = keys[0, lane], keys[1, lane]",
        ]

    def _inputs(self) -> list[str]:
        """Value of every shared input in this step."""
        return [
            f"        x{k}_{name} = levels_{k}[{row}, which_{k}[{row}, step] * lanes + lane]"
            for k, part in enumerate(self.program.parts)
            for row, name in enumerate(part.shared)
        ]

    def _driven(self, k: int, unit: str) -> list[str]:
        """Inputs of a neuron: those that its population shares, then its own."""
        part = self.program.parts[k]
        courses = [f"gains_{k}[{n}, lane] * course_{k}_{n}[rows_{k}[{n}, step], {unit}]"
                   for n in range(len(part.stimuli))]  # fmt: skip
        return [f"x{k}_{name}" for name in part.shared] + courses

    def _loads(self, indent: str, name: str, expressions: list[str], prefix: str) -> list[str]:
        """Lines that read the invariants some expressions use."""
        return [f"{indent}{prefix}{j} = {name}[{j} * lanes + lane]" for j in used_constants(expressions)]

    def _passed(self, expressions: list[str], prefix: str) -> list[str]:
        return [f"{prefix}{j}" for j in used_constants(expressions)]

    def _texts(self, k: int) -> list[str]:
        return [s.expression for s in self.program.parts[k].update]

    def _before(self) -> list[str]:
        raise NotImplementedError

    def _samples(self) -> list[str]:
        raise NotImplementedError

    def _updates(self) -> list[str]:
        raise NotImplementedError

    def _end(self) -> list[str]:
        return []


class _Lone(_Printer):
    """A thread is a simulation."""

    def _begin(self) -> list[str]:
        lines = super()._begin()
        for k, part in enumerate(self.program.parts):
            lines += [f"    s{k}_{row} = v_{k}_{row}[lane]" for row in range(len(part.variables))]
            lines += self._loads("    ", f"K_{k}", self._texts(k), f"K{k}_")
        for k, output in enumerate(self.program.outputs):
            lines += self._loads("    ", f"KR_{k}", [output.expression], f"KR{k}_")
        return lines

    def _before(self) -> list[str]:
        return []

    def _state(self, k: int) -> list[str]:
        return [f"s{k}_{row}" for row in range(len(self.program.parts[k].variables))]

    def _samples(self) -> list[str]:
        lines = []
        for k, output in enumerate(self.program.outputs):
            p = self.program.position(output.readout.population)
            passed = self._passed([output.expression], f"KR{k}_")
            arguments = ", ".join([*self._state(p), *self._driven(p, '0'), "t", "ZERO", *passed])
            lines += [f"            if wanted_{k}:",
                      f"                out_{k}[sample, lane] = read_{k}({arguments})"]  # fmt: skip
        return lines

    def _updates(self) -> list[str]:
        lines, normal = [], "lone_normal_single" if self.single else "lone_normal_double"
        for k in range(len(self.program.parts)):
            state, noise = self._state(k), [f"z{m}" for m in self.noise[k]]
            lines += [f"        z{m} = {normal}({m}, step, key_0, key_1)" for m in self.noise[k]]
            arguments = [*state, *noise, *self._driven(k, '0'), "t", "ZERO", *self._passed(self._texts(k), f"K{k}_")]
            lines += [f"        {', '.join(state)}, = update_{k}({', '.join(arguments)})"] if state else []
        return lines

    def _end(self) -> list[str]:
        parts = enumerate(self.program.parts)
        return [f"    v_{k}_{row}[lane] = s{k}_{row}" for k, p in parts for row in range(len(p.variables))]


class _Many(_Printer):
    """Any sizes and projections; a barrier wherever a thread reads what another has written."""

    def _begin(self) -> list[str]:
        kind = "float32" if self.single else "float64"
        return [*super()._begin(), "    origin = lane * along", f"    shares = cuda.shared.array(0, types.{kind})"]

    def _before(self) -> list[str]:
        lines = []
        for link in self.program.links:
            lines.append(f"        if present_{link.number}[lane]:")
            for e in range(len(link.summed)):
                lines += [f"    {line}" for line in self._sum(link, e).lines()]
        return lines

    def _sum(self, link: Coupling, e: int) -> Sum:
        (felt,) = self._arrays(link.target, (link.summed[e][0],)).values()
        pre, post = self._arrays(link.source, link.pre), self._arrays(link.target, link.post)
        return Sum(link, e, self.single, felt, pre, post, self._size(link.source), self._size(link.target))

    def _arrays(self, population: str, names: tuple[str, ...]) -> dict[str, str]:
        """Array of each variable of a population."""
        k = self.program.position(population)
        return {n: f"v_{k}_{self.program.parts[k].variables.index(n)}" for n in names}

    def _size(self, population: str) -> str:
        return f"sizes[{self.program.position(population)}]"

    def _samples(self) -> list[str]:
        lines = []
        for k, output in enumerate(self.program.outputs):
            p = self.program.position(output.readout.population)
            state = [f"v_{p}_{row}[at]" for row in range(len(self.program.parts[p].variables))]
            passed = self._passed([output.expression], "c")
            value = f"read_{k}({', '.join([*state, *self._driven(p, 'n'), 't', 'real(n)', *passed])})"
            each = output.readout.over == "each"
            lines += [
                f"            if wanted_{k}:",
                *self._loads("                ", f"KR_{k}", [output.expression], "c"),
                *([] if each else ["                share = ZERO"]),
                f"                for n in range(unit, sizes[{p}], units):",
                "                    at = origin + n * across",
                f"                    {f'out_{k}[sample, n * lanes + lane] =' if each else 'share +='} {value}",
                *([] if each else self._together(k, p, output.readout.over == "mean")),
            ]
        return lines

    def _together(self, k: int, p: int, mean: bool) -> list[str]:
        """Shares of the threads of a simulation, added in their order."""
        return [
            "                shares[tid] = share",
            "                cuda.syncthreads()",
            "                if unit == 0:",
            "                    for other in range(1, units):",
            "                        share += shares[other * per_block + place]",
            f"                    out_{k}[sample, lane] = share{f' / real(sizes[{p}])' if mean else ''}",
            "                cuda.syncthreads()",
        ]

    def _updates(self) -> list[str]:
        fill = "lane_normals_single" if self.single else "lane_normals_double"
        lines = [
            f"        {fill}(unit, units, noise_{m}, origin, across, sizes[{k}], {m}, step, key_0, key_1)"
            for k in range(len(self.program.parts))
            for m in self.noise[k]
        ]
        lines += [_SYNC] if lines else []
        for k, part in enumerate(self.program.parts):
            state = [f"v_{k}_{row}[at]" for row in range(len(part.variables))]
            noise = [f"noise_{m}[at]" for m in self.noise[k]]
            arguments = [*state, *noise, *self._driven(k, 'n'), "t", "real(n)", *self._passed(self._texts(k), "c")]
            if part.updated:
                lines += [
                    *self._loads("        ", f"K_{k}", self._texts(k), "c"),
                    f"        for n in range(unit, sizes[{k}], units):",
                    "            at = origin + n * across",
                    f"            {', '.join(state)}, = update_{k}({', '.join(arguments)})",
                ]
        return [*lines, _SYNC]


__all__ = ["LINK_ARRAYS", "argument_names", "cuda_rate_source"]
