"""Worker processes that measure recordings in every view, and prepare simulations for a device."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from typing import Any

import numpy as np

from benchmarks.aimed.settings import Wanted
from sbi_circuits.engines.base import failure
from sbi_circuits.recording import Outcome, Recording

Measured = tuple[Outcome, dict[str, tuple[np.ndarray, np.ndarray]]]


def measure(recording: Recording, wanted: Mapping[str, Wanted], seed: int) -> Measured:
    """Every view of one recording: values (W, F) float32 and states (W, F) of its windows.

    What cannot be measured is a failed outcome without features.
    """
    try:
        found = {}
        for name, view in wanted.items():
            seen = view.features.measure_windows(recording, view.window_s, seed=seed)
            found[name] = (seen.window_values.astype(np.float32), seen.window_states)
        return Outcome("ok"), found
    except (MemoryError, OSError):  # of the machine: no outcome
        raise
    except Exception as error:
        return failure(error), {}


class Workers(Executor):
    """Processes for both kinds of work; what an engine hands in can be called off, what is to be measured is not.

    Args:
        n: processes; each with one thread.
    """

    def __init__(self, n: int):
        os.environ |= {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
        context = multiprocessing.get_context("spawn")  # a process that holds a device must not be copied
        self._pool = ProcessPoolExecutor(n, mp_context=context)
        self._preparing: set[Future[Any]] = set()
        # Ctrl-C reaches the whole group, and only the parent is to answer it: a new process goes on ignoring it.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            for _ in range(n):
                self._pool.submit(os.getpid)
        finally:
            signal.signal(signal.SIGINT, before)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Work of an engine."""
        future = self._pool.submit(fn, *args, **kwargs)
        self._preparing.add(future)
        future.add_done_callback(self._preparing.discard)
        return future

    def measure(self, recording: Recording, wanted: Mapping[str, Wanted], seed: int) -> "Future[Measured]":
        return self._pool.submit(measure, recording, wanted, seed)

    def call(self, fn: Callable[..., Any], *args: Any) -> Future[Any]:
        """Other work that is not called off."""
        return self._pool.submit(fn, *args)

    def call_off(self) -> None:
        """Cancel what an engine handed in and nobody began."""
        for future in list(self._preparing):
            future.cancel()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._pool.shutdown(wait, cancel_futures=cancel_futures)
