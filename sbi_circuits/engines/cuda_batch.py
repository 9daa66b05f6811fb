"""Many simulations as the arrays one launch of a CUDA kernel reads and writes."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from sbi_circuits.circuit import FixedIndegree, FixedTotal, Readout
from sbi_circuits.engines import cuda_columns as at
from sbi_circuits.engines.base import Protocol
from sbi_circuits.engines.cuda_columns import Columns
from sbi_circuits.engines.cuda_device import LANES
from sbi_circuits.engines.cuda_memory import Given, Memory
from sbi_circuits.engines.cuda_signals import ROWS
from sbi_circuits.engines.cuda_stack import Stack
from sbi_circuits.engines.signals import Sampling, chosen_readouts, sampling
from sbi_circuits.recording import COUNT_BIN

# Bits of `keep`.
KEEP_COUNTS, KEEP_MOMENTS, KEEP_SPIKES = 1, 2, 4
_SHARE = 32  # of the memory, for what blocks keep while they run, and as much for what a batch keeps
_AT_MOST = 8  # the same of the memory for all batches under way together, however many spikes there were before
_MORE = 1.25  # room relative to what batches before needed


@dataclass(frozen=True)
class Room:
    """Sizes that are guessed, and grown where a simulation did not fit: spikes of one, and of the whole batch."""

    spikes: int
    pool: int
    synapses: float = 1.0


@dataclass(frozen=True, eq=False)
class Batch:
    """Host arrays of some simulations of one circuit, all with the same protocol.

    Args:
        columns: where each number stands.
        stack: the simulations.
        protocol: of all of them.
        real: NumPy type of the state.
        threads: of a block, a power of two.
        room: for spikes and synapses.
        shared_limit: bytes of shared memory a block can have.
    """

    columns: Columns
    stack: Stack
    protocol: Protocol
    real: Any
    threads: int
    room: Room
    shared_limit: int

    def __len__(self) -> int:
        return len(self.stack)

    @property
    def keep(self) -> int:
        record = self.protocol.record
        return KEEP_COUNTS * record.counts + KEEP_MOMENTS * record.moments + KEEP_SPIKES * (record.spikes != 0)

    @property
    def sizes(self) -> np.ndarray:
        """(B, populations) neurons."""
        return self.stack.sizes

    @cached_property
    def cells_at(self) -> np.ndarray:
        """(B, populations + 1) place of each population's first cell in arrays over all cells."""
        return np.concatenate([np.zeros((len(self), 1), dtype=np.int64), np.cumsum(self.sizes, axis=1)], axis=1)

    @property
    def depth(self) -> int:
        """Time steps whose spikes are kept, and the next one: its place is cleared while those are still read."""
        return 2 + int(self.stack.longest.max())

    @cached_property
    def capacities(self) -> np.ndarray:
        """(B, populations) most spikes within the steps whose spikes are kept."""
        return self.sizes * -(-(self.depth - 1) // self.stack.holds)

    @property
    def bins_per_step(self) -> float:
        return float(self.stack.dt / COUNT_BIN)

    @property
    def whole_bins(self) -> int:
        return int((self.stack.steps - self.stack.warmup_steps) * self.bins_per_step + 1e-6)

    @cached_property
    def rooms(self) -> np.ndarray:
        """(projections,) room for synapses in a block's scratch memory."""
        largest = self.stack.bounds.max(axis=0)
        rooms: np.ndarray = np.where(largest > 0, largest * self.room.synapses + 1, 0).astype(np.int64)
        return rooms

    @cached_property
    def memory(self) -> Memory:
        """Where the state of each simulation lies."""
        return Memory.of(self.columns, self.sizes, self.capacities, self.depth, self.real, self.threads,
                         self.shared_limit)  # fmt: skip

    def inputs(self) -> dict[str, np.ndarray]:
        """The arrays a kernel reads."""
        stack, none = self.stack, np.zeros(1, dtype=np.uint32)
        holds = np.minimum(stack.cell_holds, stack.steps) if stack.cell_holds.size else np.zeros((1, 1), dtype=np.int32)
        return {
            "layout": self._layout(), "plan": self._plan(), "levels": stack.levels, "reals": stack.reals,
            "initial": stack.initial, "labels": stack.labels, "slots": self._slots(), "holds": holds,
            "step_at": stack.step_at, "step_value": stack.step_value,
            "thresholds": np.concatenate([stack.thresholds, none]), "guide": stack.guide,
            **self.given.arrays(), **({"sampled": self._sampled[0]} if self.columns.outputs else {}),
        }  # fmt: skip

    @cached_property
    def grid(self) -> Sampling:
        """When signals are sampled."""
        return sampling(self.columns.circuit, self.protocol)

    @cached_property
    def _sampled(self) -> tuple[np.ndarray, int]:
        """First step, steps between samples, row of each readout's first channel (-1 for none); and how many rows."""
        chosen, rows, row = chosen_readouts(self.columns.circuit, self.protocol.record), [], 0
        for output in self.columns.outputs:
            rows.append(row if output.readout in chosen else -1)
            row += self._channels(output.readout) if output.readout in chosen else 0
        return np.array([self.grid.first, self.grid.every, *rows], dtype=np.int32), row

    def _channels(self, readout: Readout) -> int:
        """Rows of a readout in a batch whose simulations may differ in size."""
        return int(self.sizes[:, self.columns.position(readout.population)].max()) if readout.over == "each" else 1

    def signals(self, b: int, samples: np.ndarray) -> dict[str, np.ndarray]:
        """Readout -> (channels, samples) of simulation b, from all rows (rows, samples)."""
        found = {}
        for output, row in zip(self.columns.outputs, self._sampled[0][ROWS:].tolist(), strict=True):
            size = int(self.sizes[b, self.columns.position(output.readout.population)])
            channels = size if output.readout.over == "each" else 1
            if row >= 0:
                found[output.readout.name] = samples[row : row + channels]
        return found

    @cached_property
    def given(self) -> Given:
        """Synapses that the host drew."""
        return Given.of(self.columns, self.stack.drawn, self.real)

    def _layout(self) -> np.ndarray:
        c = self.columns
        layout = np.zeros(c.layout, dtype=np.int32)
        layout[: at.FIRST_SCRATCH] = self.memory.header
        sources = [int(self.sizes[:, c.position(p.source)].max()) + 1 for p in c.circuit.projections]
        rows, synapses = np.cumsum([0, *sources]), np.cumsum([0, *self.rooms])
        for j in range(len(c.circuit.projections)):
            layout[c.scratch(j, 0) : c.scratch(j, at.PER_SCRATCH)] = rows[j], synapses[j], self.rooms[j]
        for g, (row, synapse) in enumerate(zip(*self._group_places()[:2], strict=True)):
            layout[c.group(g, 0) : c.group(g, at.PER_GROUP)] = row, synapse
        return layout

    def _group_places(self) -> tuple[list[int], list[int], int, int]:
        """First row and first synapse of each group of projections, and entries for rows and synapses in all."""
        c = self.columns
        row = sum(int(self.sizes[:, c.position(p.source)].max()) + 1 for p in c.circuit.projections)
        synapse, rows, synapses = int(self.rooms.sum()), [], []
        for k, members in c.groups:
            rows.append(row)
            synapses.append(synapse)
            row += int(self.sizes[:, k].max()) * len(members) + 1
            synapse += int(self.rooms[list(members)].sum())
        return rows, synapses, row, synapse

    def _plan(self) -> np.ndarray:
        c, memory, stack = self.columns, self.memory, self.stack
        plan = np.zeros((len(self), c.integers), dtype=np.int32)
        plan[:, [at.STEPS, at.WARMUP]] = stack.steps, stack.warmup_steps
        plan[:, [at.RULE_START, at.RULE_STOP]] = stack.rules
        plan[:, [at.KEY_0, at.KEY_1]] = stack.keys.view(np.int32)
        turns = np.cumsum(-(-self.sizes // LANES) * LANES, axis=1)
        for k in range(len(c.parts)):
            turn = turns[:, k - 1] % self.threads if k else np.zeros(len(self), dtype=np.int64)
            plan[:, c.population(k, 0) : c.population(k, at.PER_POPULATION)] = np.stack([
                self.sizes[:, k], np.minimum(stack.holds[:, k], stack.steps), turn, memory.states[:, k],
                memory.noises[:, k], memory.rests[:, k], memory.spikes[:, k], self.capacities[:, k],
                memory.sorts[:, k], memory.tallies[:, k], self.cells_at[:, k],
            ], axis=1)  # fmt: skip
        for j in range(len(c.circuit.projections)):
            plan[:, c.projection(j, 0) : c.projection(j, at.PER_PROJECTION)] = self._projection(j)
        for m in range(len(c.poisson)):
            plan[:, c.input(m, 0) : c.input(m, at.PER_INPUT)] = stack.inputs[:, m]
        return plan

    def _projection(self, j: int) -> np.ndarray:
        """(B, per projection) numbers of projection j; all 0 where it is absent."""
        rows = np.zeros((len(self), at.PER_PROJECTION), dtype=np.int32)
        rows[:, at.PRESENT], rows[:, at.DELAY] = 1, self.stack.delays[:, j]
        rows[:, at.SUM_AT] = -1
        for (b, number), where in self.given.places.items():
            if number == j:
                rows[b, at.ROWS_AT : at.SUM_AT + 1] = where
        rows[:, at.OWN_AT :] = self.memory.links[:, j]
        return np.where(self.stack.delays[:, j, None] >= 0, rows, 0)

    def _slots(self) -> np.ndarray:
        """Recorded number of each cell, or -1."""
        if not self.keep & KEEP_SPIKES:
            return np.full((1, 1), -1, dtype=np.int32)
        slots = np.full((len(self), int(self.cells_at[:, -1].max())), -1, dtype=np.int32)
        rows, numbers = np.nonzero(self.stack.recorded >= 0)
        slots[rows, self.stack.recorded[rows, numbers]] = numbers
        return slots

    def outputs(self, blocks: int) -> dict[str, tuple[tuple[int, ...], Any]]:
        """Shapes and types of what a kernel writes and works in, with `blocks` blocks."""
        n, cells, (_, _, rows, synapses) = len(self), int(self.cells_at[:, -1].max()), self._group_places()
        counted, timed = bool(self.keep & KEEP_COUNTS), bool(self.keep & KEEP_MOMENTS)
        moments = (n, cells if timed else 1)
        memory = self.memory
        return {
            "bitmaps": ((blocks, self._bitmap_words()), np.uint32),
            "indptrs": ((blocks, 1 + rows), np.int32),
            "synapses": ((blocks, max(synapses, 1)), np.uint16),
            "lasts": ((blocks, cells), np.int32),
            "arena_real": ((blocks, 1 if memory.shared else memory.large_reals), self.real),
            "arena_int": ((blocks, 1 if memory.shared else memory.large_ints), np.int32),
            "arena_short": ((blocks, 1 if memory.shared else memory.large_shorts), np.uint16),
            "scratch": ((blocks, max(self.room.spikes, 1)), np.int64),
            "counts": ((n, len(self.columns.parts), self.whole_bins + 1 if counted else 1), np.int32),
            "number": (moments, np.int32), "sums": (moments, np.int32), "squares": (moments, np.int64),
            "kept": ((max(self.room.pool, 1),), np.int64),
            "status": ((n, 4), np.int64),
            **(self._signal_outputs(blocks) if self.columns.outputs else {}),
        }  # fmt: skip

    def _signal_outputs(self, blocks: int) -> dict[str, tuple[tuple[int, ...], Any]]:
        kept = self._sampled[1] > 0
        shape = (len(self), self._sampled[1], self.grid.number) if kept else (1, 1, 1)
        return {"signals": (shape, self.real), "shares": ((blocks, self.threads), np.float64)}

    def _bitmap_words(self) -> int:
        words = 1
        for p in self.columns.circuit.projections:
            if isinstance(p.wiring, (FixedTotal, FixedIndegree)):
                sources, targets = (self.sizes[:, self.columns.position(n)] for n in (p.source, p.target))
                words = max(words, int((sources * -(-targets // 32)).max()))
        return words


@dataclass(frozen=True)
class Seen:
    """Spikes kept by batches that have ended: the most of one simulation, and per simulation of a batch."""

    largest: int = 0
    mean: float = 0.0

    def joined(self, spikes: np.ndarray) -> "Seen":
        """With the spikes of the simulations of another batch."""
        return Seen(max(self.largest, int(spikes.max())), max(self.mean, float(spikes.sum()) / len(spikes)))


def first_room(stack: Stack, protocol: Protocol, blocks: int, memory: int, seen: Seen, batches: int = 1
               ) -> Room:  # fmt: skip
    """Room for spikes, such that hardly any simulation has to run again.

    Scratch memory and what is kept have a share of the device's memory each, and more only where batches that have
    ended say so; never more than neurons can fire that spike as soon as they may, nor than the device has for as many
    batches as are under way: the few simulations that fire far more than the others run again.

    Args:
        stack: simulations.
        protocol: of all of them.
        blocks: how many run at a time, at most.
        memory: of the device, bytes; batches: under way at a time.
        seen: what earlier batches of the same circuit and protocol kept.
    """
    if not protocol.record.spikes:
        return Room(0, 0)
    steps = stack.steps - stack.warmup_steps
    most = stack.recorded_cells * (steps // int(stack.holds.min()) + 1)
    share, at_most, running = memory // _SHARE // 8, memory // _AT_MOST // batches // 8, min(blocks, len(stack))
    share = min(share, at_most)
    spikes = min(most, max(share // running, min(int(_MORE * seen.largest), at_most // running), 1))
    pool = max(share, min(int(_MORE * seen.mean * len(stack)), at_most), spikes)
    return Room(spikes, min(spikes * len(stack), pool))
