"""Many simulations as the arrays one launch of a CUDA kernel reads and writes."""

from collections.abc import Sequence
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
from sbi_circuits.engines.cuda_prepare import Prepared
from sbi_circuits.engines.cuda_signals import ROWS
from sbi_circuits.engines.setup import Setup
from sbi_circuits.engines.signals import Sampling, chosen_readouts, sampling
from sbi_circuits.recording import COUNT_BIN

# Bits of `keep`.
KEEP_COUNTS, KEEP_MOMENTS, KEEP_SPIKES = 1, 2, 4
_NEVER = np.iinfo(np.int32).max
_EXPECTED_RATE = 20.0  # Hz of a recorded cell, for the first guess at how many spikes there will be


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
        prepared: one per simulation.
        protocol: of all of them.
        real: NumPy type of the state.
        threads: of a block, a power of two.
        room: for spikes and synapses.
        shared_limit: bytes of shared memory a block can have.
    """

    columns: Columns
    prepared: Sequence[Prepared]
    protocol: Protocol
    real: Any
    threads: int
    room: Room
    shared_limit: int

    def __len__(self) -> int:
        return len(self.prepared)

    @cached_property
    def setups(self) -> list[Setup]:
        return [p.setup for p in self.prepared]

    @property
    def keep(self) -> int:
        record = self.protocol.record
        return KEEP_COUNTS * record.counts + KEEP_MOMENTS * record.moments + KEEP_SPIKES * (record.spikes != 0)

    @cached_property
    def sizes(self) -> np.ndarray:
        """(B, populations) neurons."""
        return np.array([[c.size for c in s.cells] for s in self.setups])

    @cached_property
    def cells_at(self) -> np.ndarray:
        """(B, populations + 1) place of each population's first cell in arrays over all cells."""
        return np.concatenate([np.zeros((len(self), 1), dtype=np.int64), np.cumsum(self.sizes, axis=1)], axis=1)

    @cached_property
    def depth(self) -> int:
        """Time steps whose spikes are kept."""
        return 1 + max((int(s.delays[-1]) for setup in self.setups for s in setup.synapses), default=0)

    @cached_property
    def holds(self) -> np.ndarray:
        """(B, populations) steps from a spike to the first that can follow; the fewest where neurons differ."""
        return np.array([[max(int(np.min(c.refractory_steps)), 1) for c in s.cells] for s in self.setups])

    @cached_property
    def capacities(self) -> np.ndarray:
        """(B, populations) most spikes within `depth` steps."""
        return self.sizes * -(-self.depth // self.holds)

    @property
    def bins_per_step(self) -> float:
        return float(self.setups[0].dt / COUNT_BIN)

    @property
    def whole_bins(self) -> int:
        setup = self.setups[0]
        return int((setup.steps - setup.warmup_steps) * self.bins_per_step + 1e-6)

    @cached_property
    def rooms(self) -> np.ndarray:
        """(projections,) room for synapses in a block's scratch memory."""
        largest = np.max([p.bounds for p in self.prepared], axis=0)
        rooms: np.ndarray = np.where(largest > 0, largest * self.room.synapses + 1, 0).astype(np.int64)
        return rooms

    @cached_property
    def memory(self) -> Memory:
        """Where the state of each simulation lies."""
        return Memory.of(self.columns, self.sizes, self.capacities, self.depth, self.real, self.threads,
                         self.shared_limit)  # fmt: skip

    def inputs(self) -> dict[str, np.ndarray]:
        """The arrays a kernel reads."""
        thresholds, guide, _ = self._tables
        step_at, step_value = self._shared_inputs()
        return {
            "layout": self._layout(), "plan": self._plan(), "levels": np.stack([p.levels for p in self.prepared]),
            "reals": np.stack([p.reals for p in self.prepared]),
            "initial": self._initial(), "labels": self._labels(), "slots": self._slots(), "holds": self._holds(),
            "step_at": step_at, "step_value": step_value, "thresholds": thresholds, "guide": guide,
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
        return Given.of(self.columns, self.setups, self.real)

    def _layout(self) -> np.ndarray:
        c = self.columns
        layout = np.zeros(c.layout, dtype=np.int32)
        layout[: at.FIRST_SCRATCH] = self.memory.header
        sources = [int(self.sizes[:, c.position(p.source)].max()) + 1 for p in c.circuit.projections]
        rows, synapses = np.cumsum([0, *sources]), np.cumsum([0, *self.rooms])
        for j in range(len(c.circuit.projections)):
            layout[c.scratch(j, 0) : c.scratch(j, at.PER_SCRATCH)] = rows[j], synapses[j], self.rooms[j]
        return layout

    def _plan(self) -> np.ndarray:
        c, memory = self.columns, self.memory
        plan = np.zeros((len(self), c.integers), dtype=np.int32)
        for b, setup in enumerate(self.setups):
            row = plan[b]
            row[[at.STEPS, at.WARMUP]] = setup.steps, setup.warmup_steps
            row[[at.RULE_START, at.RULE_STOP]] = self.prepared[b].rule
            row[[at.KEY_0, at.KEY_1]] = np.array(setup.keys, dtype=np.uint32).view(np.int32)
            turn = 0
            for k, cells in enumerate(setup.cells):
                row[c.population(k, 0) : c.population(k, at.PER_POPULATION)] = (
                    cells.size, self.holds[b, k], turn % self.threads, memory.states[b, k], memory.noises[b, k],
                    memory.untils[b, k], memory.spikes[b, k], self.capacities[b, k], memory.sorts[b, k],
                    self.cells_at[b, k],
                )  # fmt: skip
                turn += -(-cells.size // LANES) * LANES
            for s in setup.synapses:
                where = (*self.given.places.get((b, s.number), (0, 0, 0, -1)), *memory.links[b, s.number])
                row[c.projection(s.number, 0) : c.projection(s.number, at.PER_PROJECTION)] = 1, s.delay_steps, *where
            for m in range(len(setup.poisson)):
                row[c.input(m, 0) : c.input(m, at.PER_INPUT)] = self._tables[2][b][m]
        return plan

    def _holds(self) -> np.ndarray:
        """Steps from a spike to the first that can follow, of each cell, where cells differ."""
        if not any(p.refractory_varies for p in self.columns.circuit.populations):
            return np.zeros((1, 1), dtype=np.int32)
        holds = np.ones((len(self), int(self.cells_at[:, -1].max())), dtype=np.int32)
        for b, setup in enumerate(self.setups):
            steps = np.concatenate([np.broadcast_to(c.refractory_steps, c.size) for c in setup.cells])
            holds[b, : len(steps)] = np.maximum(steps, 1)
        return holds

    def _initial(self) -> np.ndarray:
        initial = np.zeros((len(self), self.columns.start_rows, int(self.sizes.max())), dtype=self.real)
        for b, setup in enumerate(self.setups):
            for k, cells in enumerate(setup.cells):
                for row, variable in self.columns.starts(k):
                    initial[b, row, : cells.size] = cells.initial[variable]
        return initial

    def _labels(self) -> np.ndarray:
        populations = self.columns.circuit.populations
        rows = self.columns.label_row(len(populations))
        width = int(self.sizes.max()) if rows else 1
        # Where a configuration has no labels, no two neurons share one.
        labels = np.tile(np.arange(width, dtype=np.int32), (len(self), max(rows, 1), 1))
        for b, setup in enumerate(self.setups):
            for k, population in enumerate(populations):
                found = setup.labels.get(population.name)
                if found is not None:
                    first = self.columns.label_row(k)
                    labels[b, first : first + len(found), : found.shape[1]] = found
        return labels

    def _slots(self) -> np.ndarray:
        """Recorded number of each cell, or -1."""
        if not self.keep & KEEP_SPIKES:
            return np.full((1, 1), -1, dtype=np.int32)
        slots = np.full((len(self), int(self.cells_at[:, -1].max())), -1, dtype=np.int32)
        for b, setup in enumerate(self.setups):
            slots[b, setup.recorded] = np.arange(len(setup.recorded))
        return slots

    def _shared_inputs(self) -> tuple[np.ndarray, np.ndarray]:
        """First steps and values of the shared inputs: (B, inputs, entries); past the last, a step never reached."""
        c = self.columns
        entries = max((len(s.starts) for setup in self.setups for s in setup.currents), default=0)
        shape = (len(self), max(c.shared_row(len(c.parts)), 1), max(entries, 1))
        step_at, values = np.full(shape, _NEVER, dtype=np.int32), np.zeros(shape, dtype=self.real)
        for b, setup in enumerate(self.setups):
            for s in setup.currents:
                k = c.position(s.target)
                row = c.shared_row(k) + c.parts[k].shared.index(s.name)
                step_at[b, row, : len(s.starts)], values[b, row, : len(s.starts)] = s.starts, s.values
        return step_at, values

    @cached_property
    def _tables(self) -> tuple[np.ndarray, np.ndarray, list[list[tuple[int, ...]]]]:
        """Thresholds of all Poisson inputs one after another, their guides (B, inputs, 256), and of each simulation
        and input: first count, driven neurons, mode, where its table is, its length."""
        guide = np.zeros((len(self), max(len(self.columns.poisson), 1), 256), dtype=np.int32)
        tables, length = [], 0
        rows: list[list[tuple[int, ...]]] = [[] for _ in self.setups]
        for b, prepared in enumerate(self.prepared):
            for m, table in enumerate(prepared.poisson):
                thresholds, guide[b, m], numbers = table
                rows[b].append((*numbers, length, len(thresholds)))
                tables.append(thresholds)
                length += len(thresholds)
        return np.concatenate([*tables, np.zeros(1, dtype=np.uint32)]), guide, rows

    def outputs(self, blocks: int) -> dict[str, tuple[tuple[int, ...], Any]]:
        """Shapes and types of what a kernel writes and works in, with `blocks` blocks."""
        n, cells, circuit = len(self), int(self.cells_at[:, -1].max()), self.columns.circuit
        counted, timed = bool(self.keep & KEEP_COUNTS), bool(self.keep & KEEP_MOMENTS)
        moments = (n, cells if timed else 1)
        memory = self.memory
        return {
            "bitmaps": ((blocks, self._bitmap_words()), np.uint32),
            "indptrs": ((blocks, 1 + sum(int(self.sizes[:, self.columns.position(p.source)].max()) + 1
                                         for p in circuit.projections)), np.int32),
            "synapses": ((blocks, max(int(self.rooms.sum()), 1)), np.uint16),
            "lasts": ((blocks, cells), np.int32),
            "arena_real": ((blocks, 1 if memory.shared else memory.large_reals), self.real),
            "arena_int": ((blocks, 1 if memory.shared else memory.large_ints), np.int32),
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


def first_room(protocol: Protocol, cells: int, simulations: int) -> Room:
    """A guess at how many spikes will be kept."""
    wanted = protocol.record.spikes
    recorded = cells if wanted < 0 else min(wanted, cells)
    spikes = int(recorded * protocol.duration * _EXPECTED_RATE) + (64 if recorded else 0)
    return Room(spikes, spikes * simulations)
