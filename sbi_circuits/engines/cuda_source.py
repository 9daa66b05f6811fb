"""Source text of a circuit's CUDA kernel: a persistent grid in which every block of threads runs one simulation.

The kernel has Brian2's order within a step, with a barrier between phases: summed couplings; noise; state updates
and thresholds; synapses and Poisson inputs; resets and records. In single precision spikes are counted (see
`cuda_tallies`), and a step has two barriers: after thresholds, and at its end. What is not counted, and everything in
double precision, is added in rounds such that no variable is added to twice in one: equal weights within a round make
sums independent of the order of threads; where increments differ, spikes are sorted and delivered one after another.
So results depend on nothing but the simulation.

Counting, for N neurons, R spikes/s each, S targets a neuron, h steps/s, E Poisson events a neuron and second, W warps
of a block:
    instructions: N h u (update) + 32 W h b (bookkeeping of every warp) + 110 N R S/100 (a warp each of 100 synapses)
        + 33 N E (random words)
    bytes of device memory: 2 N R S (targets), 40 N R (moments); state and random words stay on the chip
For adex_clustered at its check configuration (N 2000, R 24, S 126, h 5000, E 820, W 8) u is 58, with the sum of what
was counted, and a warp has some 1,000 instructions a step, half of them updates, by the code compiled for sm_90: an
H100, whose 132 SMs issue 3.3e13 thread instructions a second, could do 2.6e4 simulated seconds a second (its memory
2e5). The kernel before it, which added floats by compare-and-swap in rounds, had 1,575 and five barriers by the
counters of an H100, and did 7.9e3 of at most 1.6e4. This one has not run on a device yet.
"""

from sbi_circuits.circuit import AllToAll, FixedIndegree, FixedTotal, Independent, OneToOne
from sbi_circuits.engines import cuda_columns as at
from sbi_circuits.engines.cuda_columns import Columns
from sbi_circuits.engines.cuda_phases import Phases
from sbi_circuits.engines.cuda_printer import EACH_SPIKE, NEXT_SPIKE, constants, show, texts, uses
from sbi_circuits.engines.cuda_signals import SIGNAL_ARGUMENTS, signal_functions
from sbi_circuits.engines.cuda_state import States
from sbi_circuits.wiring_rules import PAIR_CLASSES

_HEADER = '''"""CUDA kernel of the circuit {name!r}, generated from its equations.

Precision {real}, state in {memory} memory, parts {parts}.
"""

import math

import numpy as np
from numba import types

from sbi_circuits.engines.cuda_device import (
    LANE_BITS, LANES, byte_of, ceil_double, ceil_single, cuda, device, exp_bounded, exp_double, exp_single,
    exprel_double, exprel_single, floor_double, floor_single, load_together, read_four, sign_double, sign_single,
    store_together, trunc_double, trunc_single,
)
from sbi_circuits.engines.cuda_parts import (
    any_not_finite, deliver, deliver_masked, fill, note_intervals, note_spikes, turned, zero,
)
from sbi_circuits.engines.cuda_poisson import draw_count, poisson_counts, poisson_events, word_ahead, words_of
from sbi_circuits.engines.cuda_synapses import (
    deliver_each, deliver_each_masked, normals_double, normals_single, sort_spikes,
)
from sbi_circuits.engines.cuda_wiring import (
    copy_given, draw_all, draw_independent, draw_indegree, draw_one_to_one, draw_total, join_rows, lengths_to_rows,
    note_lengths,
)

real = np.{real}
ONE, ZERO = real(1.0), real(0.0)
'''
ARGUMENTS = (
    "queue", "total", "layout", "plan", "levels", "reals", "initial", "labels", "slots", "holds", "step_at",
    "step_value", "thresholds", "guide", "given_indptr", "given_targets", "given_weights", "given_delays", "bitmaps",
    "indptrs", "synapses", "lasts", "arena_real", "arena_int", "arena_short", "counts", "number", "sums", "squares",
    "kept", "scratch", "status", "dt", "bins_per_step", "keep",
)  # fmt: skip
_FIRST_WIRING_STREAM = 16


def argument_names(columns: Columns) -> tuple[str, ...]:
    """Arguments of a circuit's kernel, in order."""
    return ARGUMENTS + (SIGNAL_ARGUMENTS if columns.outputs else ())


def cuda_source(columns: Columns, single: bool, shared: bool, digest: str = "") -> str:
    """The module of a circuit's CUDA kernel as Python source; it holds the function `run`.

    Args:
        columns: the circuit and its translations.
        single: precision of the state.
        shared: whether state and spikes lie in shared memory; in global memory otherwise.
        digest: of the parts the kernel calls, so that a change of them is another module.
    """
    printer = _Kernel(columns, single, shared)
    header = _HEADER.format(name=columns.circuit.name, real="float32" if single else "float64",
                            memory="shared" if shared else "global", parts=digest)  # fmt: skip
    functions = [printer.update(k) for k in range(len(columns.parts))]
    functions += [printer.reset(k) for k, part in enumerate(columns.parts) if part.threshold]
    functions += [*printer.phases.functions(), *signal_functions(columns, single)]
    return "\n\n".join([header, *functions, printer.run()]) + "\n"


class _Kernel:
    """Prints the functions of one circuit."""

    def __init__(self, columns: Columns, single: bool, shared: bool):
        self.columns, self.single, self.shared = columns, single, shared
        self.circuit, self.parts = columns.circuit, columns.parts
        self.states = States(columns, single)
        self.phases = Phases(columns, single, self.states)

    def _names(self, k: int) -> str:
        part = self.parts[k]
        return "".join([*(f", a_{v}" for v in part.variables), *(f", {n}" for n in part.shared)])

    def update(self, k: int) -> str:
        """State update and threshold of one population; names of its own end in an underscore, no variable's does."""
        part = self.parts[k]
        expressions = [*texts(part.update), part.threshold]
        noise = "".join(f", a_{z}" for z in part.noise)
        varies, tallies = self.circuit.populations[k].refractory_varies, self.phases.tallies
        hears = not tallies.early and k in tallies.populations
        lines = [
            "@device",
            f"def update_{k}(first_, threads_, cells_{self.states.parameters(k)}{noise}{tallies.heard_names(k)}, "
            "rest_, spikes_, capacity_, head_, rings_, slot_, hold_, t, R):",
            *constants(expressions, self.columns.invariant(k)),
            *(tallies.weights(k) if hears else []),
            "    number_ = np.int32(first_)",
            "    while number_ < cells_:",
            "        at_ = np.uint32(number_)",
            *(["        i = real(number_)"] if uses(expressions, "i") else []),
            *self.states.load(k),
            "        left_ = np.int32(rest_[at_])",
            *(tallies.hearing(k, "left_ == 0") if hears else []),
            "        if left_ > 0:",
            "            left_ = np.int32(left_ - 1)",
            "            rest_[at_] = np.uint16(left_)",
            "        active_ = left_ == 0",
            "        not_refractory = active_",
            *(f"        {s.target} = {show(s.expression, self.single, part.invariants)}" for s in part.update),
        ]
        for v in part.updated:
            lines.append(f"        {v} = _{v} if active_ else {v}" if v in part.held else f"        {v} = _{v}")
        lines += self.states.store(k, {*part.updated, *(tallies.touched(k) if hears else [])})
        if part.threshold:
            lines += [
                f"        if ({show(part.threshold, self.single)}) & active_:",
                f"            rest_[at_] = np.uint16({'hold_[at_]' if varies else 'hold_'})",
                "            place_ = np.int32(head_ + cuda.atomic.add(rings_, slot_, np.int32(1)))",
                "            if place_ >= capacity_:",
                "                place_ = np.int32(place_ - capacity_)",
                "            spikes_[np.uint32(place_)] = np.uint16(number_)",
            ]
        return "\n".join([*lines, "        number_ = np.int32(number_ + threads_)"])

    def reset(self, k: int) -> str:
        """Reset of the neurons that spiked."""
        part = self.parts[k]
        expressions = texts(part.reset)
        lines = [
            "@device",
            f"def reset_{k}(tid_, threads_, spikes_, capacity_, head_, count_{self._names(k)}, t, R):",
            *constants(expressions, self.columns.invariant(k)),
            *EACH_SPIKE,
            *(["        i = real(number_)"] if uses(expressions, "i") else []),
            *(f"        {v} = a_{v}[at_]" for v in part.variables),
        ]
        for statement in part.reset:
            lines.append(f"        {statement.target} = {show(statement.expression, self.single)}")
            if statement.target in part.variables:
                lines.append(f"        a_{statement.target}[at_] = {statement.target}")
        return "\n".join([*lines, NEXT_SPIKE])

    def run(self) -> str:
        """The kernel: simulations from a queue, and the loop over time steps."""
        lines = [
            f"def run({', '.join(argument_names(self.columns))}):",
            *self._memory(),
            "    while True:",
            "        cuda.syncthreads()",
            "        if tid == 0:",
            "            control[0] = cuda.atomic.add(queue, 0, 1)",
            "        cuda.syncthreads()",
            "        sim = control[0]",
            "        if sim >= total:",
            "            break",
            *self._begin(),
            *self._wire(),
            *self._initial(),
            "        for step in range(steps):",
            *self.phases.step(),
            *self.phases.end(),
        ]
        return "\n".join(lines)

    def _memory(self) -> list[str]:
        """Views of shared (and global) memory that all simulations use alike."""
        c = self.columns
        populations = len(self.parts)
        return [
            f"    sr = cuda.shared.array(0, types.{'float32' if self.single else 'float64'})",
            "    si = cuda.shared.array(0, types.int32)",
            "    su = cuda.shared.array(0, types.uint32)",
            "    ss = cuda.shared.array(0, types.uint16)",
            "    sl = cuda.shared.array(0, types.int64)",
            "    tid, T = np.int32(cuda.threadIdx.x), np.int32(cuda.blockDim.x)",
            "    block = cuda.blockIdx.x",
            f"    depth = layout[{at.DEPTH}]",
            f"    R = sr[:{c.reals}]",
            f"    P = si[layout[{at.PLAN}] : layout[{at.PLAN}] + {c.integers}]",
            f"    starts = si[layout[{at.STARTS}] : layout[{at.STARTS}] + {populations} * depth]",
            f"    rings = si[layout[{at.RINGS}] : layout[{at.RINGS}] + {populations} * depth]",
            f"    words = su[layout[{at.WORDS_AT}] : layout[{at.WORDS_AT}] + 2048]",
            f"    control = si[layout[{at.CONTROL}] : layout[{at.CONTROL}] + {3 + 2 * len(c.poisson)}]",
            f"    scan = sl[layout[{at.SCAN}] : layout[{at.SCAN}] + 2 * cuda.blockDim.x]",
            "    large_real = " + (f"sr[layout[{at.LARGE_REALS}] :]" if self.shared else "arena_real[block]"),
            "    large_int = " + (f"si[layout[{at.LARGE_INTS}] :]" if self.shared else "arena_int[block]"),
            "    large_short = " + (f"ss[layout[{at.LARGE_SHORTS}] :]" if self.shared else "arena_short[block]"),
            "    bitmap, indptr, targets, last = bitmaps[block], indptrs[block], synapses[block], lasts[block]",
            "    spikes_kept = scratch[block]",
            "    keeper = np.int32(T >> 1)",
        ]

    def _begin(self) -> list[str]:
        """The numbers of one simulation, and views of its state."""
        c = self.columns
        lines = [
            f"        for n in range(tid, {c.integers}, T):",
            "            P[n] = plan[sim, n]",
            f"        for n in range(tid, {c.reals}, T):",
            "            R[n] = reals[sim, n]",
            "        cuda.syncthreads()",
            f"        steps, warmup = P[{at.STEPS}], P[{at.WARMUP}]",
            f"        key_0 = np.uint32(np.int64(P[{at.KEY_0}]) & 0xFFFFFFFF)",
            f"        key_1 = np.uint32(np.int64(P[{at.KEY_1}]) & 0xFFFFFFFF)",
        ]
        for k, part in enumerate(self.parts):
            value = {what: f"P[{c.population(k, what)}]" for what in range(at.PER_POPULATION)}
            numbers = f"{value[at.SIZE]}, {value[at.CAPACITY]}, {value[at.CELLS_AT]}"
            lines.append(f"        n_{k}, capacity_{k}, cells_{k} = {numbers}")
            lines += self.states.views(k, value[at.STATE_AT])
            lines += [
                f"        z{k}_{z} = "
                f"{_slice('large_real', f'{value[at.NOISE_AT]} + {row} * (n_{k} + 3)', f'(n_{k} + 3)')}"
                for row, z in enumerate(part.noise)
            ]
            lines += [
                f"        rest_{k} = {_slice('large_short', value[at.REST_AT], f'n_{k}')}",
                f"        spikes_{k} = {_slice('large_short', value[at.SPIKES_AT], f'capacity_{k}')}",
                *self.phases.tallies.views(k),
            ]
            if k in c.sorted_populations:
                lines.append(f"        sorting_{k} = {_slice('large_short', value[at.SORT_AT], f'n_{k}')}")
        return [*lines, *self.phases.views()]

    def _wire(self) -> list[str]:
        """Every projection's rows; a simulation whose synapses do not fit is left alone."""
        c = self.columns
        lines = ["        lacking = np.int64(0)"]
        for j, p in enumerate(self.circuit.projections):
            if p.plain:
                lines += [
                    f"        if P[{c.projection(j, at.PRESENT)}] == 1:",
                    f"            lacking = max(lacking, {self._draw(j)} - layout[{c.scratch(j, at.ROOM)}])",
                    "            cuda.syncthreads()",
                    *self._no_rows(j),
                ]
        return [*lines, *self.phases.tallies.join()]

    def _no_rows(self, j: int) -> list[str]:
        """Empty rows of a projection that a configuration does not have: where spikes are counted, no branch asks."""
        if j not in self.columns.counted:
            return []
        first = f"layout[{self.columns.scratch(j, at.SCRATCH_ROWS)}]"
        last = f"{first} + n_{self.columns.position(self.circuit.projections[j].source)} + 1"
        return ["        else:", f"            zero(tid, T, {last} - {first}, indptr[{first} : {last}])"]

    def _draw(self, j: int) -> str:
        c, p = self.columns, self.circuit.projections[j]
        rows, synapses, room = (f"layout[{c.scratch(j, n)}]" for n in (at.SCRATCH_ROWS, at.SCRATCH_SYNAPSES, at.ROOM))
        sources, targets = f"n_{c.position(p.source)}", f"n_{c.position(p.target)}"
        ends = f"{sources}, {targets}, {p.source == p.target}"
        out, random = f"indptr, {rows}, targets, {synapses}, {room}", f"key_0, key_1, {_FIRST_WIRING_STREAM + j}"
        level = f"levels[sim, {at.FIRST_WIRING + j}]"
        match p.wiring:
            case Independent():
                return f"draw_independent(tid, T, {level}, {ends}, {out}, words, scan, {random})"
            case FixedTotal(pairs=pairs):
                population = c.position(p.source)
                draws = self.circuit.populations[population].label_draws if pairs != "all" else 0
                label = f"labels, sim, {c.label_row(population)}, {draws}, {PAIR_CLASSES.index(pairs)}"
                scratch = f"bitmap, {out}, words, control, scan"
                return f"draw_total(tid, T, np.int64({level}), {ends}, {label}, {scratch}, {random})"
            case FixedIndegree():
                return f"draw_indegree(tid, T, np.int64({level}), {ends}, labels, bitmap, {out}, scan, {random})"
            case AllToAll():
                return f"draw_all(tid, T, {ends}, {out})"
            case OneToOne():
                return f"draw_one_to_one(tid, T, {sources}, {out})"
        given = f"given_indptr, P[{c.projection(j, at.ROWS_AT)}], given_targets"
        return f"copy_given(tid, T, {given}, {sources}, {out})"

    def _initial(self) -> list[str]:
        """State, records and random words as they are before the first step."""
        c, lines = self.columns, []
        for k, part in enumerate(self.parts):
            given = {v: row for row, v in c.starts(k)}
            lines.append(f"        for j in range(tid, n_{k}, T):")
            lines += [
                f"            a{k}_{v}[j] = " + (f"initial[sim, {given[v]}, j]" if v in given else "ZERO")
                for v in part.variables
            ]
            lines += [f"            rest_{k}[j] = 0", f"            last[cells_{k} + j] = -1"]
            lines += self.phases.tallies.starts(k)
        return [
            *lines,
            *self.phases.link_starts(),
            f"        zero(tid, T, {len(self.parts)} * depth, starts)",
            f"        zero(tid, T, {len(self.parts)} * depth, rings)",
            *(f"        zero(tid, T, counts.shape[2], counts[sim, {k}])" for k in range(len(self.parts))),
            *(f"        zero(tid, T, {a}.shape[1], {a}[sim])" for a in ("number", "sums", "squares")),
            "        if tid == 0:",
            "            control[1] = 0",
            *self.phases.rounds.note_bases(),
            *self.phases.first_words(),
            "        window, code, now = np.int64(0), np.int32(0), np.int32(0)",
            "        bin_of_counts = np.int64(-1)",
            *(f"        held_{k} = np.int32(0)" for k in range(len(self.parts))),
            *self.phases.tallies.lags(),
            *self.phases.tallies.rows(),
            *(f"        x{k}_{n}, next{k}_{n} = ZERO, np.int32(0)" for k, p in enumerate(self.parts) for n in p.shared),
            "        if lacking > 0:",
            "            steps, code = np.int32(0), np.int32(4)",
            "        cuda.syncthreads()",
            *self.phases.plan("        ", "0"),
        ]


def _slice(array: str, begin: str, length: str) -> str:
    return f"{array}[{begin} : {begin} + {length}]"


__all__ = ["ARGUMENTS", "argument_names", "cuda_source"]
