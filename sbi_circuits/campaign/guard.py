"""A worker process of its own for each unit: it may die, hang or run out of memory without harm to the campaign."""

import errno
import multiprocessing
import os
import re
import signal
import threading
from collections.abc import Callable
from concurrent.futures import TimeoutError as NotInTime
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

from joblib.externals.loky import ProcessPoolExecutor
from joblib.externals.loky.process_executor import BrokenProcessPool

from sbi_circuits.campaign.code import host_name
from sbi_circuits.campaign.unit import Fault, MachineError, Result, Task, WrongCode
from sbi_circuits.errors import SbiCircuitsError
from sbi_circuits.table import Rows

# The workers are the parallelism, and no sum depends on how many cores there are.
ONE_THREAD = {
    f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL", "BLIS", "NUMEXPR", "NUMBA", "VECLIB_MAXIMUM")
}  # fmt: skip
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}


def attempt(function: Callable[..., Rows], task: Task) -> Result:
    """Run a task here. Mistakes of the user and a full disk are errors, anything else that is raised is a fault."""
    began = perf_counter()
    try:
        rows = function(*task.arguments)
    except SbiCircuitsError as error:
        return Result(task.start, task.stop, error=(type(error), (str(error),)), place=host_name())
    except (Exception, SystemExit) as error:
        if isinstance(error, OSError) and error.errno in _NO_ROOM:
            told = (error.errno, error.strerror, error.filename)
            return Result(task.start, task.stop, error=(OSError, told), place=host_name())
        return Result(task.start, task.stop, fault=fault_of(error), place=host_name())
    return Result(task.start, task.stop, rows, place=host_name(), seconds=perf_counter() - began)


def fault_of(error: BaseException) -> Fault:
    """What became of a unit that raised."""
    text = " ".join(str(error).split()) or "no message"
    told = isinstance(error, (WrongCode, MachineError))
    reason = text if told else f"{type(error).__name__}: {text}"
    kind = "code" if isinstance(error, WrongCode) else "memory" if "MemoryError" in reason else "error"
    return Fault(kind, reason[:300], host_name())


class Guard:
    """One worker process, started when needed and again after it died.

    Args:
        limit: seconds a task may take, or None; starting the process does not count.
    """

    def __init__(self, limit: float | None = None):
        self.limit = limit
        self._pool: Any = None

    def attempt(self, function: Callable[..., Rows], task: Task) -> Result:
        """Run a task in the process; its death and the time limit are faults."""
        began = perf_counter()
        try:
            pool = self._started(function, task)
            result = pool.submit(attempt, function, task).result(self.limit)
        except NotInTime:
            self.stop()
            return self._fault(task, "time limit", f"no result within {self.limit:g} s")
        except BrokenProcessPool as error:
            self.stop()
            return self._fault(task, "killed", _how_it_ended(error))
        except (Exception, SystemExit) as error:  # what cannot be sent to a worker, or back
            return Result(task.start, task.stop, fault=fault_of(error), place=host_name())
        return replace(result, seconds=perf_counter() - began)

    def _fault(self, task: Task, kind: str, reason: str) -> Result:
        return Result(task.start, task.stop, fault=Fault(kind, reason, host_name()), place=host_name())

    def _started(self, function: Callable[..., Rows], task: Task) -> Any:
        if self._pool is None:
            own = multiprocessing.current_process()
            if own.daemon:
                own.daemon = False  # as Dask's workers are: they could have no child
            self._pool = ProcessPoolExecutor(1, env=ONE_THREAD, initializer=follow, initargs=(os.getpid(),))
            # Brings what a task needs into the process, so that no time limit counts it.
            self._pool.submit(_nothing, function, task.arguments[:1]).result()
        return self._pool

    def stop(self) -> None:
        """Kill the process, whatever it is doing."""
        pool, self._pool = self._pool, None
        if pool is not None:
            with suppress(OSError):
                pool.shutdown(wait=True, kill_workers=True)


def _nothing(*_: object) -> None:
    return None


def _how_it_ended(error: BaseException) -> str:
    found = re.search(r"exit codes of the workers are \{(.*?)\}", str(error))
    return f"the worker ended by {found[1] if found else 'an unknown cause'}; SIGKILL often means out of memory"


@cache
def follow(parent: int) -> None:
    """Leave Ctrl-C, which reaches every process of a terminal, to the parent; end when it was killed."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(OSError):  # where memory runs out, the system is to take a worker and not who knows what is done
        Path("/proc/self/oom_score_adj").write_text("500")
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        sleep(1.0)
    os._exit(1)
