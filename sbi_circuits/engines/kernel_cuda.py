"""Engine `kernel[cuda]`: batches of simulations on one GPU, a block of threads for each.

Some batches are under way at a time, each with a stream and buffers of its own: while the device runs them, the host
prepares the next and whoever iterates works on the results of the one before. The blocks of a launch stay until its
queue of simulations is empty, so that one that stops early makes room for the next at once; where the queue is empty,
blocks of the next batch take the place of those that end. The results of a batch are read once the batch that comes
`SLOTS` - 1 later is on the device.
"""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numba import cuda

from sbi_circuits.circuit import Circuit
from sbi_circuits.engines.base import Engine, Protocol, Simulation
from sbi_circuits.engines.coupling import couplings
from sbi_circuits.engines.cuda_batch import KEEP_COUNTS, KEEP_MOMENTS, Batch, Room, Seen, first_room
from sbi_circuits.engines.cuda_columns import Columns
from sbi_circuits.engines.cuda_device import LANES, SIMULATED, require_device
from sbi_circuits.engines.cuda_launch import (
    BUFFERED,
    RAMP,
    SLOTS,
    Host,
    Slot,
    device_memory,
    launch,
    most_blocks,
    resident_blocks,
    shared_memory_limit,
)
from sbi_circuits.engines.cuda_prepare import prepare_all, prepare_one
from sbi_circuits.engines.cuda_rate import BATCH, NAME, run_one, run_rates
from sbi_circuits.engines.cuda_recordings import Results
from sbi_circuits.engines.cuda_source import cuda_source
from sbi_circuits.engines.cuda_stack import Piece, Stack
from sbi_circuits.engines.cuda_tallies import WORDS
from sbi_circuits.engines.kernel_numba import PRECISIONS, _import_source
from sbi_circuits.engines.rate_program import is_rate_circuit, outputs_of
from sbi_circuits.engines.translate import translate
from sbi_circuits.errors import UnknownNameError

_REGISTERS = 64  # per thread: then an SM of 65,536 registers holds 1024 threads
_LACKING = 4  # code of a simulation whose synapses did not fit
# Threads that build recordings, how many each builds at a time, and how many times as many wait to be taken.
_THREADS, _TOGETHER, _AHEAD = 4, 8, 4
_PIECES = 32  # parts of a batch that worker processes prepare
_AGAIN = 16  # part of the memory for the spikes of simulations that run again
_MORE = 1.25  # room on the host for spikes, relative to what batches before had


@dataclass(frozen=True)
class Launch:
    """When a kernel ran, in seconds since the engine was made, and what it was given.

    `again` says that its simulations had run before and did not fit.
    """

    began: float
    ended: float
    simulations: int
    blocks: int
    threads: int
    shared_bytes: int
    again: bool = False


@dataclass(frozen=True, eq=False)
class _UnderWay:
    """A batch on the device; no batch of its run has more than `most` simulations."""

    batch: Batch
    written: dict[str, Any]
    slot: Slot
    began: float
    blocks: int
    key: tuple[Circuit, Protocol]
    again: bool
    most: int


class CudaEngine(Engine):
    """Runs any circuit the CUDA kernels can express; single precision by default, double for comparisons.

    Args:
        precision: "single" or "double".
        batch: simulations handed to the device together at most.
        threads: of a block, a power of two up to 1024; about an eighth of the neurons where None.
        executor: of processes that prepare simulations; None for this process.
        counting: whether spikes that arrive together are counted and added as one product, which is faster, or one
            after another in Brian2's order; None for the first in single precision, the second in double.

    Raises:
        SbiCircuitsError: numba-cuda or a CUDA device is missing.
        UnknownNameError: an unknown precision.
    """

    name = NAME
    batch = 8 if SIMULATED else 1024

    def __init__(
        self,
        precision: str = "single",
        batch: int | None = None,
        threads: int | None = None,
        executor: Executor | None = None,
        counting: bool | None = None,
    ):
        if precision not in PRECISIONS:
            raise UnknownNameError("precision", precision, PRECISIONS)
        require_device()
        self.single, self.real = precision == "single", np.float32 if precision == "single" else np.float64
        self.rate_batch = batch or BATCH
        self.batch, self.threads, self.executor = batch or self.batch, threads, executor
        self.counting = counting
        self.launches: list[Launch] = []
        host = Host()
        self._slots, self._lone, self._spare = [Slot(host) for _ in range(BUFFERED)], Slot(), list[Slot]()
        self._seen: dict[tuple[Circuit, Protocol], Seen] = {}
        self._until = 0.0
        self._threads = ThreadPoolExecutor(_THREADS, "recordings")

    def run(self, circuit: Circuit, theta: np.ndarray, protocol: Protocol, seed: int, index: int) -> Simulation:
        """See `Engine.run`; a device is used well by `run_batch` only."""
        if is_rate_circuit(circuit):
            return run_one(self, circuit, theta, protocol, seed, index)
        columns = columns_of(circuit, self.single, self.counting)
        stack = Stack.of(columns, [prepare_one(columns, theta, protocol, seed, index, self.real)], self.real)
        (simulation,) = self._finish(self._launch(columns, stack, protocol, self._lone))
        return simulation

    def run_batch(
        self, circuit: Circuit, thetas: np.ndarray, protocol: Protocol, seed: int, indices: Sequence[int]
    ) -> Iterator[Simulation]:
        """See `Engine.run_batch`; `SLOTS` batches are under way at a time."""
        if is_rate_circuit(circuit):
            yield from run_rates(self, circuit, thetas, protocol, seed, indices)
            return
        columns = columns_of(circuit, self.single, self.counting)
        under_way: deque[tuple[_UnderWay | None, Piece]] = deque()
        for number, piece in enumerate(self._prepared(columns, thetas, protocol, seed, indices)):
            slot, most = self._slots[_slot_of(number)], min(self.batch, len(indices))
            launched = self._launch(columns, piece.stack, protocol, slot, most=most) if piece.stack else None
            under_way.append((launched, piece))
            if len(under_way) == SLOTS:
                yield from self._results(*under_way.popleft())
        while under_way:
            yield from self._results(*under_way.popleft())

    def slot(self) -> Slot:
        """The stream and buffers of launches that are waited for at once."""
        return self._lone

    def span(self, slot: Slot) -> tuple[float, float]:
        """When the last kernel of a slot began and ended, seconds since the engine was made."""
        return slot.span(self._slots[0])

    def _prepared(self, columns: Columns, thetas: np.ndarray, protocol: Protocol, seed: int, indices: Sequence[int]
                  ) -> Iterator[Piece]:  # fmt: skip
        """Batches of prepared simulations; an executor is a batch ahead."""
        def pieces(begin: int, end: int, size: int) -> Iterator[tuple[Any, ...]]:
            for a in range(begin, end, size):
                b = min(a + size, end)
                yield columns, thetas[a:b], protocol, seed, [int(i) for i in indices[a:b]], self.real

        bounds = _bounds(len(indices), self.batch)
        if self.executor is None:
            yield from (prepare_all(*piece) for a, b in bounds for piece in pieces(a, b, self.batch))
            return
        ahead = deque[list[Future[Piece]]]()
        for begin, end in bounds:
            parts = pieces(begin, end, max((end - begin) // _PIECES, 1))
            ahead.append([self.executor.submit(prepare_all, *part) for part in parts])
            if len(ahead) > 1:
                yield Piece.join([future.result() for future in ahead.popleft()])
        while ahead:
            yield Piece.join([future.result() for future in ahead.popleft()])

    def _results(self, started: _UnderWay | None, piece: Piece) -> Iterator[Simulation]:
        """Simulations in the order they were asked for."""
        ran = self._finish(started) if started is not None else iter(())
        yield from (piece.failed[n] if n in piece.failed else next(ran) for n in range(piece.number))

    def _launch(self, columns: Columns, stack: Stack, protocol: Protocol, slot: Slot, room: Room | None = None,
                most: int = 1) -> _UnderWay:  # fmt: skip
        began, key = time.perf_counter(), (columns.circuit, protocol)
        columns = columns if counts_fit(columns, stack) else columns_of(columns.circuit, self.single, False)
        threads = self.threads or block_size(int(stack.sizes.sum(axis=1).max()))
        batch = Batch(columns, stack, protocol, self.real, threads, room or Room(0, 0), shared_memory_limit())
        if room is None:
            seen, held = self._seen.get(key, Seen()), most_blocks(batch.memory.bytes, threads, _REGISTERS)
            batch = replace(batch, room=first_room(stack, protocol, held, device_memory(), seen, BUFFERED))
        kernel = load_kernel(columns.circuit, self.single, batch.memory.shared, columns.counting)
        blocks = min(len(batch), resident_blocks(batch, _REGISTERS))
        self._reserve(batch, key, slot, most := max(most, len(batch)))
        written = launch(kernel, batch, blocks, slot)
        return _UnderWay(batch, written, slot, began, blocks, key, room is not None, most)

    def _reserve(self, batch: Batch, key: tuple[Circuit, Protocol], slot: Slot, most: int) -> None:
        """Room on the host for the results of as many simulations, made before the device is busy."""
        outputs, times = batch.outputs(1), most / len(batch)
        for name in _read(batch):
            shape, dtype = outputs[name]
            slot.reserve(name, int(np.prod(shape) * times), dtype)
        slot.reserve("spikes", int(_MORE * self._seen.get(key, Seen()).mean * most), np.int64)

    def _finish(self, run: _UnderWay) -> Iterator[Simulation]:
        """Wait for a batch and read what it kept; simulations that did not fit are run again with more room."""
        batch, kept = run.batch, self._kept(run)
        began, ended = run.slot.span(self._slots[0])
        self.launches.append(
            Launch(began, ended, len(batch), run.blocks, batch.threads, batch.memory.bytes, run.again)
        )
        status, now = kept["status"], time.perf_counter()
        # Batches overlap: each has the time since the one before it had ended.
        wall, self._until = (now - max(run.began, self._until)) / len(batch), now
        kept_spikes = np.where(status[:, 0] == 0, status[:, 1], 0)
        self._seen[run.key] = self._seen.get(run.key, Seen()).joined(kept_spikes)
        again = np.flatnonzero(does_not_fit(status, batch.room)).tolist()
        others, chosen = self._run_again(run, again, status) if again else iter(()), set(again)
        ran = self._built(Results(batch, kept, wall), [b for b in range(len(batch)) if b not in chosen])
        yield from (next(others if b in chosen else ran) for b in range(len(batch)))

    def _built(self, results: Results, rows: list[int]) -> Iterator[Simulation]:
        """Simulations of a batch, built by threads some ahead of whoever iterates."""
        waiting: deque[Future[list[Simulation]]] = deque()
        for first in range(0, len(rows), _TOGETHER):
            waiting.append(self._threads.submit(results.simulations, rows[first : first + _TOGETHER]))
            if len(waiting) > _AHEAD:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()

    def _kept(self, run: _UnderWay) -> dict[str, np.ndarray]:
        """What a batch left on the device, in buffers that the next batch to be read uses again."""
        slot, batch = run.slot, run.batch
        kept = {name: slot.download(name, run.written[name]) for name in [*_read(batch), "queue"]}
        slot.stream.synchronize()
        used = max(min(int(kept["queue"][1]), batch.room.pool), 1)
        slot.reserve("spikes", used * run.most // len(batch), np.int64)
        kept["spikes"] = slot.download("spikes", run.written["kept"][:used])
        slot.stream.synchronize()
        return kept

    def _run_again(self, run: _UnderWay, chosen: list[int], status: np.ndarray) -> Iterator[Simulation]:
        """Simulations that did not fit: in a slot of their own, as many now as there is memory for, others later."""
        share = np.cumsum(np.maximum(status[chosen, 1], 1)) // max(device_memory() // _AGAIN // 8, 1)
        parts = [[b for b, k in zip(chosen, share, strict=True) if k == number] for number in np.unique(share)]
        first = self._launched_again(run, parts[0], status)
        return chain(first, (s for part in parts[1:] for s in self._launched_again(run, part, status)))

    def _launched_again(self, run: _UnderWay, chosen: list[int], status: np.ndarray) -> Iterator[Simulation]:
        batch, spikes = run.batch, np.maximum(status[chosen, 1], 1)
        room = Room(int(max(spikes.max(), batch.room.spikes)), int(spikes.sum()), batch.room.synapses)
        if (status[chosen, 0] == _LACKING).any():
            room = replace(room, synapses=2 * room.synapses, pool=max(room.pool, room.spikes * len(chosen)))
        slot = self._spare.pop() if self._spare else Slot()
        started = self._launch(batch.columns, batch.stack.take(chosen), batch.protocol, slot, room)
        return self._last(started)

    def _last(self, started: _UnderWay) -> Iterator[Simulation]:
        yield from self._finish(started)
        self._spare.append(started.slot)


def _read(batch: Batch) -> list[str]:
    """The outputs of a batch that have a row for each simulation and are read."""
    bits = {"counts": KEEP_COUNTS, "number": KEEP_MOMENTS, "sums": KEEP_MOMENTS, "squares": KEEP_MOMENTS}
    names = [name for name, bit in bits.items() if batch.keep & bit]
    return [*names, *(["signals"] if batch.protocol.record.signals else []), "status"]


def _slot_of(number: int) -> int:
    """Which slot a batch takes, by its number within a run: `SLOTS` in turn, after those of the first batches."""
    return number if number < len(RAMP) else len(RAMP) + (number - len(RAMP)) % SLOTS


def _bounds(number: int, batch: int) -> list[tuple[int, int]]:
    """Begin and end of each batch; the first ones are smaller."""
    sizes = [max(batch // part, 1) for part in RAMP]
    begins = [0]
    while begins[-1] < number:
        begins.append(begins[-1] + (sizes.pop(0) if sizes else batch))
    return [(a, min(b, number)) for a, b in zip(begins[:-1], begins[1:], strict=True)]


def counts_fit(columns: Columns, stack: Stack) -> bool:
    """Whether the joined rows of every simulation can name the counts of all its neurons."""
    return int((stack.sizes @ [columns.tallies(k) for k in range(len(columns.parts))]).max()) <= WORDS


def does_not_fit(status: np.ndarray, room: Room) -> np.ndarray:
    """(B,) whether spikes or synapses of a simulation, with its row of `status`, were more than the room for them."""
    code, spikes, _, offset = status.T
    found: np.ndarray = (code == _LACKING) | (
        (code == 0) & ((spikes > room.spikes) | (offset + spikes > room.pool))
    )
    return found


def block_size(cells: int) -> int:
    """Threads of a block: a power of two, an eighth of the neurons; more warps repeat more of the bookkeeping."""
    if SIMULATED:
        return 2 * LANES
    return int(min(1024, max(64, 2 ** round(np.log2(cells / 8)))))


@cache
def columns_of(circuit: Circuit, single: bool, counting: bool | None = None) -> Columns:
    """A circuit translated, and where its numbers stand.

    Raises:
        TranslationError: naming a construct that only the engine brian2 can run.
    """
    parts = tuple(translate(circuit, p, reorder=single) for p in circuit.populations)
    counts = single if counting is None else counting
    return Columns(circuit, parts, couplings(circuit, reorder=single), outputs_of(circuit, single), counts)


@cache
def load_kernel(circuit: Circuit, single: bool, shared: bool, counting: bool | None = None) -> Any:
    """The kernel of a circuit; compiled at its first launch, then read from numba's cache."""
    source = cuda_source(columns_of(circuit, single, counting), single, shared, parts_digest())
    module = _import_source(source, f"{circuit.name}_cuda")
    options = {} if SIMULATED else {"max_registers": _REGISTERS, "cache": True}
    return cuda.jit(**options)(module.run)


@cache
def parts_digest() -> str:
    """Digest of the functions a kernel calls: numba's cache looks at the kernel's own file only."""
    names = ("device", "parts", "poisson", "synapses", "wiring")
    files = [Path(__file__).with_name(f"cuda_{name}.py") for name in names]
    return sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]
