"""Engine `kernel[cuda]`: batches of simulations on one GPU, a block of threads for each.

Two batches are under way at a time, each with a stream and buffers of its own: while the device runs one, the host
prepares the next and whoever iterates works on the results of the one before. The blocks of a launch stay until its
queue of simulations is empty, so that one that stops early makes room for the next at once.
"""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numba import cuda

from sbi_circuits.circuit import Circuit
from sbi_circuits.engines.base import Engine, Protocol, Simulation
from sbi_circuits.engines.coupling import couplings
from sbi_circuits.engines.cuda_batch import KEEP_COUNTS, KEEP_MOMENTS, Batch, Room, first_room
from sbi_circuits.engines.cuda_columns import Columns
from sbi_circuits.engines.cuda_device import LANES, SIMULATED, require_device
from sbi_circuits.engines.cuda_launch import Slot, launch, resident_blocks, shared_memory_limit
from sbi_circuits.engines.cuda_prepare import Prepared, prepare_all, prepare_one
from sbi_circuits.engines.cuda_rate import BATCH, run_one, run_rates
from sbi_circuits.engines.cuda_source import cuda_source
from sbi_circuits.engines.kernel_numba import _STATUS, PRECISIONS, _import_source, _reason
from sbi_circuits.engines.rate_program import is_rate_circuit, outputs_of
from sbi_circuits.engines.signals import as_signals
from sbi_circuits.engines.translate import translate
from sbi_circuits.errors import UnknownNameError
from sbi_circuits.recording import IntervalMoments, Outcome, PopulationCounts, Recording, Signal

_REGISTERS = 64  # per thread: then an SM of 65,536 registers holds 1024 threads
_LACKING = 4  # code of a simulation whose synapses did not fit
_SLOTS = 2
_PIECE = 32  # simulations a worker prepares at a time


@dataclass(frozen=True)
class Launch:
    """When a kernel ran, in seconds since the engine was made, and what it was given."""

    began: float
    ended: float
    simulations: int
    blocks: int
    threads: int
    shared_bytes: int


@dataclass(frozen=True, eq=False)
class _UnderWay:
    """A batch on the device."""

    batch: Batch
    written: dict[str, Any]
    slot: Slot
    began: float
    blocks: int


class CudaEngine(Engine):
    """Runs any circuit the CUDA kernels can express; single precision by default, double for comparisons.

    Args:
        precision: "single" or "double".
        batch: simulations handed to the device together at most.
        threads: of a block, a power of two up to 1024; about an eighth of the neurons where None.
        executor: of processes that prepare simulations; None for this process.

    Raises:
        SbiCircuitsError: numba-cuda or a CUDA device is missing.
        UnknownNameError: an unknown precision.
    """

    name = "kernel[cuda]"
    batch = 8 if SIMULATED else 2048

    def __init__(
        self,
        precision: str = "single",
        batch: int | None = None,
        threads: int | None = None,
        executor: Executor | None = None,
    ):
        if precision not in PRECISIONS:
            raise UnknownNameError("precision", precision, PRECISIONS)
        require_device()
        self.single, self.real = precision == "single", np.float32 if precision == "single" else np.float64
        self.rate_batch = batch or BATCH
        self.batch, self.threads, self.executor = batch or self.batch, threads, executor
        self.launches: list[Launch] = []
        self._slots = [Slot() for _ in range(_SLOTS)]

    def run(self, circuit: Circuit, theta: np.ndarray, protocol: Protocol, seed: int, index: int) -> Simulation:
        """See `Engine.run`; a device is used well by `run_batch` only."""
        if is_rate_circuit(circuit):
            return run_one(self, circuit, theta, protocol, seed, index)
        columns = columns_of(circuit, self.single)
        prepared = prepare_one(columns, theta, protocol, seed, index, self.real)
        (simulation,) = self._finish(self._launch(columns, [prepared], protocol, self._slots[0]))
        return simulation

    def run_batch(
        self, circuit: Circuit, thetas: np.ndarray, protocol: Protocol, seed: int, indices: Sequence[int]
    ) -> Iterator[Simulation]:
        """See `Engine.run_batch`; two batches are under way at a time."""
        if is_rate_circuit(circuit):
            yield from run_rates(self, circuit, thetas, protocol, seed, indices)
            return
        columns = columns_of(circuit, self.single)
        under_way: deque[tuple[_UnderWay | None, list[Prepared | Simulation]]] = deque()
        for number, found in enumerate(self._prepared(columns, thetas, protocol, seed, indices)):
            ready = [p for p in found if isinstance(p, Prepared)]
            started = self._launch(columns, ready, protocol, self._slots[number % _SLOTS]) if ready else None
            under_way.append((started, found))
            if len(under_way) == _SLOTS:
                yield from self._results(*under_way.popleft())
        while under_way:
            yield from self._results(*under_way.popleft())

    def slot(self) -> Slot:
        """The stream and buffers of launches that are waited for at once."""
        return self._slots[0]

    def span(self, slot: Slot) -> tuple[float, float]:
        """When the last kernel of a slot began and ended, seconds since the engine was made."""
        return slot.span(self._slots[0])

    def _prepared(self, columns: Columns, thetas: np.ndarray, protocol: Protocol, seed: int, indices: Sequence[int]
                  ) -> Iterator[list[Prepared | Simulation]]:  # fmt: skip
        """Batches of prepared simulations; an executor is some batches ahead."""
        def pieces(begin: int, size: int) -> Iterator[tuple[Any, ...]]:
            for a in range(begin, min(begin + self.batch, len(indices)), size):
                b = min(a + size, begin + self.batch, len(indices))
                yield columns, thetas[a:b], protocol, seed, [int(i) for i in indices[a:b]], self.real

        begins = range(0, len(indices), self.batch)
        if self.executor is None:
            yield from ([p for piece in pieces(a, self.batch) for p in prepare_all(*piece)] for a in begins)
            return
        ahead: deque[list[Any]] = deque()
        for begin in begins:
            ahead.append([self.executor.submit(prepare_all, *piece) for piece in pieces(begin, _PIECE)])
            if len(ahead) > _SLOTS:
                yield [p for future in ahead.popleft() for p in future.result()]
        while ahead:
            yield [p for future in ahead.popleft() for p in future.result()]

    def _results(self, started: _UnderWay | None, found: list[Prepared | Simulation]) -> Iterator[Simulation]:
        """Simulations in the order they were asked for."""
        ran = iter(self._finish(started) if started is not None else ())
        yield from (p if isinstance(p, Simulation) else next(ran) for p in found)

    def _launch(
        self, columns: Columns, prepared: list[Prepared], protocol: Protocol, slot: Slot, room: Room | None = None
    ) -> _UnderWay:
        began = time.perf_counter()
        cells = max(p.setup.total_cells for p in prepared)
        batch = Batch(
            columns=columns,
            prepared=prepared,
            protocol=protocol,
            real=self.real,
            threads=self.threads or block_size(cells),
            room=room or first_room(protocol, cells, len(prepared)),
            shared_limit=shared_memory_limit(),
        )
        kernel = load_kernel(columns.circuit, self.single, batch.memory.shared)
        blocks = min(len(batch), resident_blocks(batch, _REGISTERS))
        return _UnderWay(batch, launch(kernel, batch, blocks, slot), slot, began, blocks)

    def _finish(self, run: _UnderWay) -> list[Simulation]:
        """Wait for a batch and read what it kept; simulations that did not fit are run again with more room."""
        slot, batch = run.slot, run.batch
        names = [n for n, bit in (("counts", KEEP_COUNTS), ("number", KEEP_MOMENTS), ("sums", KEEP_MOMENTS),
                                  ("squares", KEEP_MOMENTS)) if batch.keep & bit]  # fmt: skip
        names += ["signals"] if batch.protocol.record.signals else []
        kept = {name: slot.download(name, run.written[name]) for name in [*names, "status", "queue"]}
        slot.stream.synchronize()
        used = min(int(kept["queue"][1]), batch.room.pool)
        kept["spikes"] = slot.download("spikes", run.written["kept"][: max(used, 1)])
        slot.stream.synchronize()
        began, ended = slot.span(self._slots[0])
        self.launches.append(Launch(began, ended, len(batch), run.blocks, batch.threads, batch.memory.bytes))
        wall = (time.perf_counter() - run.began) / len(batch)
        again = [b for b in range(len(batch)) if _does_not_fit(kept["status"][b], batch.room)]
        # The host's buffers are used again by the next batch: a recording keeps copies.
        found = {b: _simulation(batch, b, kept, wall) for b in range(len(batch)) if b not in set(again)}
        if again:
            found |= self._run_again(run, again, kept["status"])
        return [found[b] for b in range(len(batch))]

    def _run_again(self, run: _UnderWay, chosen: list[int], status: np.ndarray) -> dict[int, Simulation]:
        batch = run.batch
        spikes = np.maximum(status[chosen, 1], 1)
        room = Room(int(max(spikes.max(), batch.room.spikes)), int(spikes.sum()), batch.room.synapses)
        if (status[chosen, 0] == _LACKING).any():
            room = replace(room, synapses=2 * room.synapses, pool=max(room.pool, room.spikes * len(chosen)))
        again = self._launch(batch.columns, [batch.prepared[b] for b in chosen], batch.protocol, run.slot, room)
        return dict(zip(chosen, self._finish(again), strict=True))


def _does_not_fit(status: np.ndarray, room: Room) -> bool:
    code, spikes, _, offset = (int(s) for s in status)
    return code == _LACKING or (code == 0 and (spikes > room.spikes or offset + spikes > room.pool))


def _simulation(batch: Batch, b: int, kept: dict[str, np.ndarray], wall: float) -> Simulation:
    """The result of one simulation; its wall time is its share of the batch's, and what preparing it took."""
    prepared = batch.prepared[b]
    code = int(kept["status"][b, 0])
    outcome = Outcome(_STATUS[code], _reason(code, batch.columns.circuit))
    recording = _recording(batch, b, kept) if outcome.ok else None
    return Simulation(prepared.index, outcome, recording, wall + prepared.wall_s)


def _recording(batch: Batch, b: int, kept: dict[str, np.ndarray]) -> Recording:
    """What the kernel kept of one simulation; spikes of step n are at n dt."""
    setup = batch.setups[b]
    _, number, _, offset = (int(s) for s in kept["status"][b])
    # Cell * 2**32 + step: sorted, the spikes of each cell follow one another in time.
    chosen = slice(offset, offset + number) if batch.protocol.record.spikes else slice(0)
    spikes = np.sort(kept["spikes"][chosen])
    cells, steps = spikes >> 32, spikes & 0xFFFFFFFF
    recorded = len(setup.recorded)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(cells, minlength=recorded))]) if recorded else np.zeros(1)
    return Recording(
        t0=setup.warmup_steps * setup.dt,
        t1=setup.steps * setup.dt,
        times=steps * setup.dt,
        offsets=offsets,
        groups=setup.groups(),
        counts=_counts(batch, b, kept) if batch.keep & KEEP_COUNTS else {},
        moments=_moments(batch, b, kept) if batch.keep & KEEP_MOMENTS else {},
        signals=_signals(batch, b, kept) if "signals" in kept else {},
        meta={"engine": CudaEngine.name},
    )


def _signals(batch: Batch, b: int, kept: dict[str, np.ndarray]) -> dict[str, Signal]:
    values = batch.signals(b, kept["signals"][b].astype(np.float64))
    return as_signals(batch.columns.circuit, batch.protocol.record, values, batch.grid)


def _counts(batch: Batch, b: int, kept: dict[str, np.ndarray]) -> dict[str, PopulationCounts]:
    return {
        c.population.name: PopulationCounts(kept["counts"][b, k, : batch.whole_bins].copy(), c.size)
        for k, c in enumerate(batch.setups[b].cells)
    }


def _moments(batch: Batch, b: int, kept: dict[str, np.ndarray]) -> dict[str, IntervalMoments]:
    setup, found = batch.setups[b], {}
    for k, c in enumerate(setup.cells):
        of = slice(batch.cells_at[b, k], batch.cells_at[b, k + 1])
        number, sums, squares = (kept[n][b, of].astype(np.int64) for n in ("number", "sums", "squares"))
        found[c.population.name] = IntervalMoments(number, sums * setup.dt, squares * setup.dt**2)
    return found


def block_size(cells: int) -> int:
    """Threads of a block: a power of two, an eighth of the neurons; more warps repeat more of the bookkeeping."""
    if SIMULATED:
        return 2 * LANES
    return int(min(1024, max(64, 2 ** round(np.log2(cells / 8)))))


@cache
def columns_of(circuit: Circuit, single: bool) -> Columns:
    """A circuit translated, and where its numbers stand.

    Raises:
        TranslationError: naming a construct that only the engine brian2 can run.
    """
    parts = tuple(translate(circuit, p, reorder=single) for p in circuit.populations)
    return Columns(circuit, parts, couplings(circuit, reorder=single), outputs_of(circuit, single))


@cache
def load_kernel(circuit: Circuit, single: bool, shared: bool) -> Any:
    """The kernel of a circuit; compiled at its first launch, then read from numba's cache."""
    source = cuda_source(columns_of(circuit, single), single, shared, parts_digest())
    module = _import_source(source, f"{circuit.name}_cuda")
    options = {} if SIMULATED else {"max_registers": _REGISTERS, "cache": True}
    return cuda.jit(**options)(module.run)


@cache
def parts_digest() -> str:
    """Digest of the functions a kernel calls: numba's cache looks at the kernel's own file only."""
    names = ("device", "parts", "synapses", "wiring")
    files = [Path(__file__).with_name(f"cuda_{name}.py") for name in names]
    return sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]
