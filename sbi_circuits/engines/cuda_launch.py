"""Launches on a CUDA device: buffers and a stream for each of the batches under way, and what a kernel may use."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numba import cuda

from sbi_circuits.engines.cuda_batch import Batch
from sbi_circuits.engines.cuda_device import SIMULATED
from sbi_circuits.engines.cuda_source import ARGUMENTS

# What the simulator is given: as much shared memory as a block has without asking for more, and two blocks.
_SIMULATED_SHARED, _SIMULATED_BLOCKS = 48 * 1024, 2


class Slot:
    """A stream, and buffers on both sides that grow and are used again."""

    def __init__(self) -> None:
        self.stream = cuda.stream()
        self._device: dict[str, Any] = {}
        self._pinned: dict[str, Any] = {}

    def device(self, name: str, shape: tuple[int, ...], dtype: Any) -> Any:
        """An array on the device; its content is whatever was there."""
        return _view(self._device, name, shape, dtype, cuda.device_array)

    def upload(self, name: str, values: np.ndarray) -> Any:
        """A copy on the device, made when the stream comes to it."""
        staged = _view(self._pinned, "to " + name, values.shape, values.dtype, cuda.pinned_array)
        staged[...] = values
        target = self.device(name, values.shape, values.dtype)
        target.copy_to_device(staged, stream=self.stream)
        return target

    def download(self, name: str, values: Any) -> np.ndarray:
        """A copy on the host, complete once the stream has been waited for."""
        staged: np.ndarray = _view(self._pinned, "from " + name, values.shape, values.dtype, cuda.pinned_array)
        values.copy_to_host(staged, stream=self.stream)
        return staged


def _view(buffers: dict[str, Any], name: str, shape: tuple[int, ...], dtype: Any, new: Any) -> Any:
    size, dtype = int(np.prod(shape)), np.dtype(dtype)
    found = buffers.get(name)
    if found is None or found.dtype != dtype or found.size < size:
        buffers.pop(name, None)
        found = buffers[name] = new(size, dtype=dtype)
    return found[:size].reshape(shape)


def launch(kernel: Any, batch: Batch, blocks: int, slot: Slot) -> dict[str, Any]:
    """Queue a batch on a slot's stream; returns the device arrays it will write."""
    given = {name: slot.upload(name, values) for name, values in batch.inputs().items()}
    given["queue"] = slot.upload("queue", np.zeros(2, dtype=np.int64))
    written = {name: slot.device(name, shape, dtype) for name, (shape, dtype) in batch.outputs(blocks).items()}
    scalars = {
        "total": len(batch), "dt": batch.setups[0].dt, "bins_per_step": batch.bins_per_step, "keep": batch.keep,
    }  # fmt: skip
    arrays: Mapping[str, Any] = {**given, **written, **scalars}
    arguments = [arrays[name] for name in ARGUMENTS]
    ready = prepared(kernel, arguments, batch.memory.bytes)
    ready[blocks, batch.threads, slot.stream, batch.memory.bytes](*arguments)
    return {**written, "queue": given["queue"]}


def prepared(kernel: Any, arguments: list[Any], shared_bytes: int) -> Any:
    """The kernel compiled for these arguments and allowed to use so much shared memory."""
    if SIMULATED:
        return kernel
    ready = kernel.specialize(*arguments)
    if shared_bytes > 48 * 1024:
        allow_shared_memory(function_of(ready), shared_bytes)
    return ready


def function_of(specialized: Any) -> Any:
    """The driver's function of a kernel that is compiled for one list of arguments."""
    (overload,) = specialized.overloads.values()
    overload.bind()
    return overload._codelibrary.get_cufunc()


def allow_shared_memory(function: Any, shared_bytes: int) -> None:
    """Raise a kernel's limit of dynamic shared memory, which is 48 KB unless asked for; numba-cuda does not ask."""
    from cuda.bindings import driver

    attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    if isinstance(function.handle, driver.CUfunction):
        (error,) = driver.cuFuncSetAttribute(function.handle, attribute, shared_bytes)
    else:
        device = cuda.get_current_device().id
        (error,) = driver.cuKernelSetAttribute(attribute, shared_bytes, function.handle, device)
    if error != driver.CUresult.CUDA_SUCCESS:
        raise RuntimeError(f"the driver refused {shared_bytes} bytes of shared memory: {error}")


def shared_memory_limit() -> int:
    """Bytes of shared memory one block can have."""
    if SIMULATED:
        return _SIMULATED_SHARED
    return int(cuda.get_current_device().MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)


def resident_blocks(batch: Batch, registers: int) -> int:
    """How many blocks the device holds at a time: by shared memory, threads and registers."""
    if SIMULATED:
        return _SIMULATED_BLOCKS
    device = cuda.get_current_device()
    by_memory = device.MAX_SHARED_MEMORY_PER_MULTIPROCESSOR // (batch.memory.bytes + 1024)
    by_threads = device.MAX_THREADS_PER_MULTI_PROCESSOR // batch.threads
    by_registers = device.MAX_REGISTERS_PER_MULTIPROCESSOR // (registers * batch.threads)
    return int(device.MULTIPROCESSOR_COUNT * max(1, min(by_memory, by_threads, by_registers)))


def free_bytes() -> int:
    """Memory of the device that nobody uses."""
    return 2**30 if SIMULATED else int(cuda.current_context().get_memory_info()[0])
