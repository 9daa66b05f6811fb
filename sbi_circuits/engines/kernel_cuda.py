"""Engine `kernel[cuda]`: batches of simulations on one GPU, a block of threads for each.

Two batches are under way at a time, each with a stream and buffers of its own: while the device runs one, the host
prepares the next and whoever iterates works on the results of the one before. The blocks of a launch stay until its
queue of simulations is empty, so that one that stops early makes room for the next at once.
"""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numba import cuda

from sbi_circuits.circuit import Circuit
from sbi_circuits.engines.base import Engine, Protocol, Simulation, failure
from sbi_circuits.engines.coupling import couplings
from sbi_circuits.engines.cuda_batch import KEEP_COUNTS, KEEP_MOMENTS, Batch, Room, check_setup, first_room
from sbi_circuits.engines.cuda_columns import Columns
from sbi_circuits.engines.cuda_device import LANES, SIMULATED, require_device
from sbi_circuits.engines.cuda_launch import Slot, launch, resident_blocks, shared_memory_limit
from sbi_circuits.engines.cuda_source import cuda_source
from sbi_circuits.engines.kernel_numba import _STATUS, PRECISIONS, _import_source, _reason
from sbi_circuits.engines.setup import Setup, prepare
from sbi_circuits.engines.translate import translate
from sbi_circuits.errors import UnknownNameError
from sbi_circuits.recording import IntervalMoments, Outcome, PopulationCounts, Recording

_REGISTERS = 64  # per thread: then an SM of 65,536 registers holds 1024 threads
_LACKING = 4  # code of a simulation whose synapses did not fit
_SLOTS = 2


@dataclass(frozen=True, eq=False)
class _UnderWay:
    """A batch on the device."""

    batch: Batch
    written: dict[str, Any]
    slot: Slot
    began: float


class CudaEngine(Engine):
    """Runs any circuit the CUDA kernels can express; single precision by default, double for comparisons.

    Args:
        precision: "single" or "double".
        batch: simulations handed to the device together at most.
        threads: of a block, a power of two up to 1024; about an eighth of the neurons where None.

    Raises:
        SbiCircuitsError: numba-cuda or a CUDA device is missing.
        UnknownNameError: an unknown precision.
    """

    name = "kernel[cuda]"
    batch = 8 if SIMULATED else 2048

    def __init__(self, precision: str = "single", batch: int | None = None, threads: int | None = None):
        if precision not in PRECISIONS:
            raise UnknownNameError("precision", precision, PRECISIONS)
        require_device()
        self.single, self.real = precision == "single", np.float32 if precision == "single" else np.float64
        self.batch, self.threads = batch or self.batch, threads
        self._slots = [Slot() for _ in range(_SLOTS)]

    def run(self, circuit: Circuit, theta: np.ndarray, protocol: Protocol, seed: int, index: int) -> Simulation:
        """See `Engine.run`; a device is used well by `run_batch` only."""
        setup = self._prepare(circuit, theta, protocol, seed, index)
        (simulation,) = self._finish(self._launch(circuit, [setup], protocol, self._slots[0]), [index])
        return simulation

    def run_batch(
        self, circuit: Circuit, thetas: np.ndarray, protocol: Protocol, seed: int, indices: Sequence[int]
    ) -> Iterator[Simulation]:
        """See `Engine.run_batch`; two batches are under way at a time."""
        load_kernel(circuit, self.single, True)
        under_way: deque[tuple[_UnderWay | None, list[int], dict[int, Simulation]]] = deque()
        number = 0
        for begin in range(0, len(indices), self.batch):
            chosen = [int(i) for i in indices[begin : begin + self.batch]]
            setups, failed = self._prepare_all(circuit, thetas[begin : begin + self.batch], protocol, seed, chosen)
            slot = self._slots[number % _SLOTS]
            started = self._launch(circuit, list(setups.values()), protocol, slot) if setups else None
            under_way.append((started, chosen, failed))
            number += 1
            if len(under_way) == _SLOTS:
                yield from self._results(*under_way.popleft())
        while under_way:
            yield from self._results(*under_way.popleft())

    def _prepare(self, circuit: Circuit, theta: np.ndarray, protocol: Protocol, seed: int, index: int) -> Setup:
        setup = prepare(circuit, theta, protocol, seed, index, draw=False)
        check_setup(circuit, setup)
        return setup

    def _prepare_all(self, circuit: Circuit, thetas: np.ndarray, protocol: Protocol, seed: int, indices: list[int]
                     ) -> tuple[dict[int, Setup], dict[int, Simulation]]:  # fmt: skip
        """Setups by index, and the outcomes of configurations that cannot be."""
        setups, failed = {}, {}
        for theta, index in zip(thetas, indices, strict=True):
            began = time.perf_counter()
            try:
                setups[index] = self._prepare(circuit, theta, protocol, seed, index)
            except Exception as error:
                failed[index] = Simulation(index, failure(error), None, time.perf_counter() - began)
        return setups, failed

    def _results(
        self, started: _UnderWay | None, indices: list[int], failed: dict[int, Simulation]
    ) -> Iterator[Simulation]:
        running = [i for i in indices if i not in failed]
        found = iter(self._finish(started, running)) if started is not None else iter(())
        for index in indices:
            yield failed[index] if index in failed else next(found)

    def _launch(
        self, circuit: Circuit, setups: list[Setup], protocol: Protocol, slot: Slot, room: Room | None = None
    ) -> _UnderWay:
        began = time.perf_counter()
        cells = max(s.total_cells for s in setups)
        batch = Batch(
            columns=columns_of(circuit, self.single),
            setups=setups,
            protocol=protocol,
            real=self.real,
            threads=self.threads or block_size(cells),
            room=room or first_room(protocol, cells, len(setups)),
            shared_limit=shared_memory_limit(),
        )
        kernel = load_kernel(circuit, self.single, batch.memory.shared)
        blocks = min(len(batch), resident_blocks(batch, _REGISTERS))
        return _UnderWay(batch, launch(kernel, batch, blocks, slot), slot, began)

    def _finish(self, run: _UnderWay, indices: list[int]) -> list[Simulation]:
        """Wait for a batch and read what it kept; simulations that did not fit are run again with more room."""
        slot, batch = run.slot, run.batch
        names = [n for n, bit in (("counts", KEEP_COUNTS), ("number", KEEP_MOMENTS), ("sums", KEEP_MOMENTS),
                                  ("squares", KEEP_MOMENTS)) if batch.keep & bit]  # fmt: skip
        kept = {name: slot.download(name, run.written[name]) for name in [*names, "status", "queue"]}
        slot.stream.synchronize()
        used = min(int(kept["queue"][1]), batch.room.pool)
        kept["spikes"] = slot.download("spikes", run.written["kept"][: max(used, 1)])
        slot.stream.synchronize()
        wall = (time.perf_counter() - run.began) / len(batch)
        again = [b for b in range(len(batch)) if _does_not_fit(kept["status"][b], batch.room)]
        # The host's buffers are used again by the next batch: a recording keeps copies.
        found = {b: _simulation(batch, b, kept, indices[b], wall) for b in range(len(batch)) if b not in set(again)}
        if again:
            found |= self._run_again(run, again, kept["status"], indices)
        return [found[b] for b in range(len(batch))]

    def _run_again(
        self, run: _UnderWay, chosen: list[int], status: np.ndarray, indices: list[int]
    ) -> dict[int, Simulation]:
        batch = run.batch
        spikes = np.maximum(status[chosen, 1], 1)
        room = Room(int(max(spikes.max(), batch.room.spikes)), int(spikes.sum()), batch.room.synapses)
        if (status[chosen, 0] == _LACKING).any():
            room = replace(room, synapses=2 * room.synapses, pool=max(room.pool, room.spikes * len(chosen)))
        setups = [batch.setups[b] for b in chosen]
        again = self._launch(batch.columns.circuit, setups, batch.protocol, run.slot, room)
        return dict(zip(chosen, self._finish(again, [indices[b] for b in chosen]), strict=True))


def _does_not_fit(status: np.ndarray, room: Room) -> bool:
    code, spikes, _, offset = (int(s) for s in status)
    return code == _LACKING or (code == 0 and (spikes > room.spikes or offset + spikes > room.pool))


def _simulation(batch: Batch, b: int, kept: dict[str, np.ndarray], index: int, wall: float) -> Simulation:
    code = int(kept["status"][b, 0])
    outcome = Outcome(_STATUS[code], _reason(code, batch.columns.circuit))
    return Simulation(index, outcome, _recording(batch, b, kept) if outcome.ok else None, wall)


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
        meta={"engine": CudaEngine.name},
    )


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
    return Columns(circuit, parts, couplings(circuit, reorder=single))


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
