"""Simulations as recordings, from what a batch left on the device."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, repeat

import numpy as np
from numba import njit

from sbi_circuits.engines.base import Simulation
from sbi_circuits.engines.cuda_batch import KEEP_COUNTS, KEEP_MOMENTS, Batch
from sbi_circuits.engines.cuda_rate import NAME
from sbi_circuits.engines.kernel_numba import _STATUS, _reason
from sbi_circuits.engines.signals import as_signals
from sbi_circuits.recording import IntervalMoments, Outcome, PopulationCounts, Recording, Signal

_LOW = 2**32 - 1


@dataclass(frozen=True, eq=False)
class Results:
    """What became of a batch.

    Args:
        batch: that ran.
        kept: what it left on the device, in buffers that will be used again: nothing here refers to them.
        wall_s: share of each simulation in the time the batch took.
    """

    batch: Batch
    kept: dict[str, np.ndarray]
    wall_s: float

    def simulations(self, rows: Sequence[int]) -> list[Simulation]:
        """Some of the simulations; the wall time of one includes what preparing it took."""
        return [self._simulation(b) for b in rows]

    def _simulation(self, b: int) -> Simulation:
        stack, outcome = self.batch.stack, self._outcomes[self._status[b][0]]
        recording = self._recording(b) if outcome.ok else None
        return Simulation(int(stack.indices[b]), outcome, recording, self.wall_s + float(stack.walls[b]))

    @cached_property
    def _status(self) -> list[list[int]]:
        status: list[list[int]] = self.kept["status"].tolist()
        return status

    @cached_property
    def _outcomes(self) -> dict[int, Outcome]:
        circuit = self.batch.columns.circuit
        return {code: Outcome(status, _reason(code, circuit)) for code, status in _STATUS.items()}

    @cached_property
    def _names(self) -> tuple[str, ...]:
        return tuple(p.name for p in self.batch.columns.circuit.populations)

    def _recording(self, b: int) -> Recording:
        """What the kernel kept of one simulation, copied; spikes of step n are at n dt."""
        batch, stack = self.batch, self.batch.stack
        _, number, _, begin = self._status[b]
        chosen = slice(begin, begin + number) if batch.protocol.record.spikes else slice(0)
        recorded = stack.recorded[b][stack.recorded[b] >= 0]
        times, offsets = trains(self.kept["spikes"][chosen], len(recorded), stack.dt)
        # Recorded cells ascend, so those of each population follow one another.
        edges = np.searchsorted(recorded, batch.cells_at[b]).tolist()
        groups = (repeat(n, z - a) for n, a, z in zip(self._names, edges[:-1], edges[1:], strict=True))
        return Recording(
            t0=stack.warmup_steps * stack.dt,
            t1=stack.steps * stack.dt,
            times=times,
            offsets=offsets,
            groups=tuple(chain.from_iterable(groups)),
            counts=self._counts(b) if batch.keep & KEEP_COUNTS else {},
            moments=self._moments(b) if batch.keep & KEEP_MOMENTS else {},
            signals=self._signals(b) if "signals" in self.kept else {},
            meta={"engine": NAME},
        )

    def _signals(self, b: int) -> dict[str, Signal]:
        batch = self.batch
        values = batch.signals(b, self.kept["signals"][b].astype(np.float64))
        return as_signals(batch.columns.circuit, batch.protocol.record, values, batch.grid)

    def _counts(self, b: int) -> dict[str, PopulationCounts]:
        counts = self.kept["counts"][b, :, : self.batch.whole_bins]
        sizes = self.batch.sizes[b].tolist()
        return {n: PopulationCounts(counts[k].copy(), sizes[k]) for k, n in enumerate(self._names)}

    def _moments(self, b: int) -> dict[str, IntervalMoments]:
        dt, edges, found = self.batch.stack.dt, self.batch.cells_at[b].tolist(), {}
        number, sums, squares = (self.kept[n][b] for n in ("number", "sums", "squares"))
        for name, a, z in zip(self._names, edges[:-1], edges[1:], strict=True):
            spikes = number[a:z].astype(np.int64)
            found[name] = IntervalMoments(spikes, sums[a:z] * dt, squares[a:z] * dt**2)
        return found


def trains(spikes: np.ndarray, cells: int, dt: float) -> tuple[np.ndarray, np.ndarray]:
    """Spike times of each cell, one cell after another: (S,) seconds; and (cells + 1,) where those of each begin.

    Args:
        spikes: (S,) cell * 2**32 + step. A kernel keeps them in the order of time, which takes no sorting.
        cells: how many there are.
        dt: time step, seconds.
    """
    times, offsets, ascending = _trains(spikes, cells, dt)
    return (times, offsets) if ascending else _trains(np.sort(spikes), cells, dt)[:2]


# One call without the interpreter's lock, where NumPy would take and give it back with every array.
@njit(cache=True, nogil=True)
def _trains(spikes, cells, dt):  # type: ignore[no-untyped-def]
    """See `trains`; and whether spikes were in the order of time, without which the times are not."""
    offsets, last, ascending = np.zeros(cells + 1, dtype=np.int64), np.int64(0), True
    for spike in spikes:
        cell = spike >> 32
        if cell < 0 or cell >= cells:
            raise ValueError("a spike of a cell that is not recorded")
        offsets[cell + 1] += 1
    for cell in range(cells):
        offsets[cell + 1] += offsets[cell]
    times, ends = np.empty(len(spikes)), offsets[:-1].copy()
    for spike in spikes:
        cell, step = spike >> 32, spike & _LOW
        ascending &= step >= last
        last = step
        times[ends[cell]] = step * dt
        ends[cell] += 1
    return times, offsets, ascending
