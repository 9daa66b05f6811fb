"""Numba's CUDA simulator with threads that wait at barriers; imported by what runs kernels in it."""

import threading
from typing import Any

import numpy as np

from sbi_circuits.engines.cuda_device import SIMULATED


def waiting_run(self: Any, grid_point: tuple[int, ...], *args: object) -> None:
    """Run the threads of one block of the simulator; they wait at barriers, while numba's own loop polls them."""
    barrier = threading.Barrier(int(np.prod(self._block_dim)))

    def target() -> None:
        try:
            self._f(*args)
        except BaseException:
            barrier.abort()
            raise

    threads = [BlockThread(target, self, grid_point, p, self._debug) for p in np.ndindex(*self._block_dim)]
    for thread in threads:
        thread.syncthreads = barrier.wait
        thread.start()
    for thread in threads:
        thread.join()
    for error, trace in (t.exception for t in threads if t.exception):
        if not isinstance(error, threading.BrokenBarrierError):
            raise error.with_traceback(trace)


if SIMULATED:
    from numba.cuda.simulator.kernel import BlockManager, BlockThread

    BlockManager.run = waiting_run

PATCHED = SIMULATED
