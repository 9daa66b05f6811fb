"""Launches on a CUDA device: buffers and a stream for each of the batches under way, and what a kernel may use."""

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
from numba import cuda

from sbi_circuits.engines.cuda_batch import Batch
from sbi_circuits.engines.cuda_device import SIMULATED
from sbi_circuits.engines.cuda_source import argument_names

# What the simulator is given: as much shared memory as a block has without asking for more, and two blocks.
_SIMULATED_SHARED, _SIMULATED_BLOCKS, _SIMULATED_MEMORY = 48 * 1024, 2, 2**28
SLOTS = 6  # batches under way at a time
RAMP = (4, 2)  # parts of a batch that are launched first, so that the device need not wait for a whole one
# Slots with buffers: the first, smaller batches have some of their own, which would have to grow for whole ones.
BUFFERED = SLOTS + len(RAMP)
_GROWTH = 1.5  # of a buffer that has to grow: to free one waits for the device


class Host:
    """Page-locked memory of the host, for copies to and from the device, that grows and is used again.

    To make or free such memory can wait for all that the device has to do, so slots whose batches are launched one
    after another, and read one after another, share one.
    """

    def __init__(self) -> None:
        self.uploaded = cuda.event()
        self._buffers: dict[str, Any] = {}

    def array(self, name: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """An array; its content is whatever was there."""
        found: np.ndarray = _view(self._buffers, name, shape, dtype, cuda.pinned_array)
        return found


class Slot:
    """A stream, and buffers on both sides that grow and are used again; those of the host may be shared."""

    def __init__(self, host: Host | None = None) -> None:
        self.stream = cuda.stream()
        self.made, self.began, self.ended = (cuda.event() for _ in range(3))
        self.made.record(self.stream)
        self._device: dict[str, Any] = {}
        self._host = host or Host()

    def span(self, first: "Slot") -> tuple[float, float]:
        """When the last kernel began and ended, in seconds since the slot `first` was made; once both are over."""
        if SIMULATED:
            return 0.0, 0.0
        since = (cuda.event_elapsed_time(first.made, e) for e in (self.began, self.ended))
        began, ended = (1e-3 * t for t in since)
        return began, ended

    def device(self, name: str, shape: tuple[int, ...], dtype: Any) -> Any:
        """An array on the device; its content is whatever was there."""
        return _view(self._device, name, shape, dtype, cuda.device_array)

    def uploads(self, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """`upload` of all arrays of a launch, once the copies of the launch before have been made."""
        self._host.uploaded.synchronize()
        found = {name: self.upload(name, values) for name, values in arrays.items()}
        self._host.uploaded.record(self.stream)
        return found

    def upload(self, name: str, values: np.ndarray) -> Any:
        """A copy on the device, made when the stream comes to it."""
        staged = self._host.array("to " + name, values.shape, values.dtype)
        staged[...] = values
        target = self.device(name, values.shape, values.dtype)
        target.copy_to_device(staged, stream=self.stream)
        return target

    def reserve(self, name: str, size: int, dtype: Any) -> None:
        """Make room for downloads of `size` entries; best done while the device has nothing to do."""
        self._host.array("from " + name, (size,), dtype)

    def download(self, name: str, values: Any) -> np.ndarray:
        """A copy on the host, complete once the stream has been waited for."""
        staged = self._host.array("from " + name, values.shape, values.dtype)
        values.copy_to_host(staged, stream=self.stream)
        return staged


def _view(buffers: dict[str, Any], name: str, shape: tuple[int, ...], dtype: Any, new: Any) -> Any:
    size, dtype = int(np.prod(shape)), np.dtype(dtype)
    found = buffers.get(name)
    if found is None or found.dtype != dtype or found.size < size:
        before = 0 if found is None or found.dtype != dtype else found.size
        del found
        buffers.pop(name, None)
        found = buffers[name] = new(max(size + size // 8, int(_GROWTH * before), 1), dtype=dtype)
    return found[:size].reshape(shape)


def launch(kernel: Any, batch: Batch, blocks: int, slot: Slot) -> dict[str, Any]:
    """Queue a batch on a slot's stream; returns the device arrays it will write."""
    slot.stream.synchronize()  # at once, unless a batch was given up: its kernel may still use the buffers
    given = slot.uploads({**batch.inputs(), "queue": np.zeros(2, dtype=np.int64)})
    written = {name: slot.device(name, shape, dtype) for name, (shape, dtype) in batch.outputs(blocks).items()}
    scalars = {
        "total": len(batch), "dt": batch.stack.dt, "bins_per_step": batch.bins_per_step, "keep": batch.keep,
    }  # fmt: skip
    arrays: Mapping[str, Any] = {**given, **written, **scalars}
    arguments = [arrays[name] for name in argument_names(batch.columns)]
    if not SIMULATED:
        allow_shared_memory(compiled(kernel, arguments), batch.memory.bytes)
    slot.began.record(slot.stream)
    kernel[blocks, batch.threads, slot.stream, batch.memory.bytes](*arguments)
    slot.ended.record(slot.stream)
    return {**written, "queue": given["queue"]}


def compiled(kernel: Any, arguments: list[Any]) -> Any:
    """The kernel compiled for arguments of these types: from numba's cache on disk, or now."""
    types = tuple(kernel.typeof_pyval(a) for a in arguments)
    return kernel.overloads.get(types) or kernel.compile(types)


def allow_shared_memory(overload: Any, shared_bytes: int) -> None:
    """Raise a kernel's limit of dynamic shared memory, which is 48 KB unless asked for; numba-cuda does not ask."""
    if shared_bytes <= 48 * 1024:
        return
    from cuda.bindings import driver

    overload.bind()
    handle = overload._codelibrary.get_cufunc().handle
    attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    if isinstance(handle, driver.CUfunction):
        (error,) = driver.cuFuncSetAttribute(handle, attribute, shared_bytes)
    else:
        device = cuda.get_current_device().id
        (error,) = driver.cuKernelSetAttribute(attribute, shared_bytes, handle, device)
    if error != driver.CUresult.CUDA_SUCCESS:
        raise RuntimeError(f"the driver refused {shared_bytes} bytes of shared memory: {error}")


def shared_memory_limit() -> int:
    """Bytes of shared memory one block can have."""
    if SIMULATED:
        return _SIMULATED_SHARED
    return int(cuda.get_current_device().MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)


@cache
def device_memory() -> int:
    """Bytes of memory of the device."""
    if SIMULATED:
        return _SIMULATED_MEMORY
    return int(cuda.current_context().get_memory_info()[1])


def most_blocks(shared_bytes: int, threads: int, registers: int) -> int:
    """How many blocks the device holds at a time: by shared memory, threads and registers."""
    if SIMULATED:
        return _SIMULATED_BLOCKS
    device = cuda.get_current_device()
    by_memory = device.MAX_SHARED_MEMORY_PER_MULTIPROCESSOR // (shared_bytes + 1024)
    by_threads = device.MAX_THREADS_PER_MULTIPROCESSOR // threads
    by_registers = device.MAX_REGISTERS_PER_MULTIPROCESSOR // (registers * threads)
    per_sm = max(1, min(by_memory, by_threads, by_registers, device.MAX_BLOCKS_PER_MULTIPROCESSOR))
    return int(device.MULTIPROCESSOR_COUNT * per_sm)


def resident_blocks(batch: Batch, registers: int) -> int:
    """`most_blocks`, or fewer where their scratch memory is more than a batch's share of the device."""
    # All slots have scratch memory of their own, beside what is read and kept.
    room = device_memory() // (2 * BUFFERED)
    return max(1, min(most_blocks(batch.memory.bytes, batch.threads, registers), room // scratch_bytes(batch)))


def scratch_bytes(batch: Batch) -> int:
    """Global memory one block works in."""
    names = ("bitmaps", "indptrs", "synapses", "lasts", "arena_real", "arena_int", "arena_short", "scratch")
    outputs = batch.outputs(1)
    return sum(int(np.prod(outputs[n][0])) * np.dtype(outputs[n][1]).itemsize for n in names)
