"""Where units run: one contract, and existing engines behind it. Results come back in any order."""

import os
import warnings
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from functools import cache
from itertools import islice
from multiprocessing.util import Finalize
from queue import Empty, LifoQueue
from typing import Any

import joblib
import numpy as np
from joblib.externals.loky import ProcessPoolExecutor
from joblib.externals.loky.process_executor import BrokenProcessPool

from sbi_circuits.campaign.guard import ONE_THREAD, Guard, attempt, fault_of, follow
from sbi_circuits.campaign.unit import Fault, Job, Result, Task, measure_unit
from sbi_circuits.engines import Engine, Simulation
from sbi_circuits.errors import TableError, UnknownNameError
from sbi_circuits.table import Rows

Function = Callable[..., Rows]
EXECUTORS = ("auto", "inprocess", "loky", "dask")
_BATCHES_PER_STREAM, _UNITS_PER_WORKER = 16, 4


class WorkersLost(Exception):
    """Units are lost, and nobody knows which: all that are missing are to be run again."""


class Executor(ABC):
    """Runs a function on tasks.

    Tasks are taken one by one, some more than there are workers; each gives one result, in any order.
    """

    name: str

    @abstractmethod
    def run(self, function: Function, tasks: Iterable[Task]) -> Iterator[Result]:
        """Results of `function(*task.arguments)`; one that failed is a result with a fault.

        Raises:
            WorkersLost: results are missing, and it is not known whose.
        """

    def discard(self, fault: Fault) -> None:
        """Use the place of this fault no more, if that can be."""
        return None

    def close(self) -> None:
        """Stop what runs."""
        return None


class InProcess(Executor):
    """One task after another in this process: what to debug with."""

    name = "inprocess"

    def run(self, function: Function, tasks: Iterable[Task]) -> Iterator[Result]:
        """See `Executor.run`."""
        yield from (attempt(function, task) for task in tasks)


class Loky(Executor):
    """Worker processes on this machine, each guarded by a thread of this one; one thread of computing per worker.

    Args:
        workers: how many processes.
        limit: seconds a unit may take, or None.
    """

    name = "loky"

    def __init__(self, workers: int, limit: float | None = None):
        self.workers = workers
        self._guards = [Guard(limit) for _ in range(workers)]
        self._free: LifoQueue[Guard] = LifoQueue()
        for guard in self._guards:
            self._free.put(guard)

    def run(self, function: Function, tasks: Iterable[Task]) -> Iterator[Result]:
        """See `Executor.run`."""
        with joblib.parallel_config(backend="threading"):
            yield from _parallel(self._guarded, function, tasks, self.workers, self.close)

    def _guarded(self, function: Function, task: Task) -> Result:
        guard = self._free.get()
        try:
            return guard.attempt(function, task)
        finally:
            self._free.put(guard)

    def close(self) -> None:
        """Kill the workers."""
        for guard in self._guards:
            guard.stop()


class Dask(Executor):
    """The workers of a Dask cluster, through joblib; each runs units in a process of its own.

    Args:
        client: of the cluster, `distributed.Client`; the current one where None.
        limit: seconds a unit may take, or None.
        ahead: units handed over beyond those that run, at least; give more than the cluster will have cores where
            it grows later.

    Raises:
        TableError: there is no client, or Dask is not installed.
    """

    name = "dask"

    def __init__(self, client: Any = None, limit: float | None = None, ahead: int = 2):
        try:
            from sbi_circuits.campaign.dask_backend import Backend, current_client
        except ImportError as error:
            raise TableError(f"the executor dask needs the extra cluster ({error})") from error
        self.client = current_client() if client is None else client
        self.limit = limit
        self._backend = Backend(self.client, ahead)

    def run(self, function: Function, tasks: Iterable[Task]) -> Iterator[Result]:
        """See `Executor.run`."""
        with joblib.parallel_config(backend=self._backend):
            try:
                yield from _parallel(_on_dask, self.limit, tasks, -1, self._backend.forget, function)
            except self._backend.LOST as error:
                raise WorkersLost(" ".join(str(error).split())[:300]) from error

    def close(self) -> None:
        """End the processes that units ran in; the cluster stays."""
        with suppress(OSError, TimeoutError):
            self.client.run(_stop_guards, on_error="ignore")

    def discard(self, fault: Fault) -> None:
        """Retire the worker that a fault names."""
        if fault.worker:
            self.client.retire_workers([fault.worker])


def _parallel(run: Callable[..., Result], first: Any, tasks: Iterable[Task], workers: int,
              stop: Callable[[], None], *rest: Any) -> Iterator[Result]:  # fmt: skip
    """Results of `run(first, task, *rest)` by the active backend of joblib; `stop` is called if that is cut short."""
    calls = (joblib.delayed(run)(first, task, *rest) for task in tasks)
    parallel = joblib.Parallel(n_jobs=workers, return_as="generator_unordered", batch_size=1)
    with warnings.catch_warnings():
        # joblib warns of results that an interruption leaves unused; they will be simulated again.
        warnings.filterwarnings("ignore", message=r"\d+ tasks (have been|which were)")
        with closing(parallel(calls)) as results:
            try:
                yield from results
            except BaseException:
                stop()
                raise


_GUARDS: LifoQueue[Guard] = LifoQueue()  # of a process of Dask's, between tasks


def _stop_guards() -> None:
    while not _GUARDS.empty():
        _GUARDS.get_nowait().stop()


@cache
def _stop_guards_at_exit() -> None:
    """Before multiprocessing waits for its children, which would wait for more work."""
    Finalize(None, _stop_guards, exitpriority=100)


def _on_dask(limit: float | None, task: Task, function: Function) -> Result:
    from sbi_circuits.campaign.dask_backend import address

    _stop_guards_at_exit()
    try:
        guard = _GUARDS.get_nowait()
    except Empty:
        guard = Guard()
    guard.limit = limit
    try:
        result = guard.attempt(function, task)
    finally:
        _GUARDS.put(guard)
    return result if result.fault is None else with_worker(result, address())


class Batched(Executor):
    """An engine that runs many simulations at once, in this process; the others prepare and measure.

    Args:
        job: what is run; tasks must be its.
        workers: processes, this one included if there is one only.
    """

    name = "batched"

    def __init__(self, job: Job, workers: int):
        self.job, self.workers = job, workers

    def run(self, function: Function, tasks: Iterable[Task]) -> Iterator[Result]:
        """See `Executor.run`; the function must be `simulate_unit`."""
        engine, job = self.job.make_engine(), self.job
        if self.workers == 1:
            for task, found in _simulated(job, engine, tasks):
                yield attempt(measure_unit, Task(task.start, task.stop, (*task.arguments, found)))
            return
        pool = ProcessPoolExecutor(self.workers, env=ONE_THREAD, initializer=follow, initargs=(os.getpid(),))
        engine.executor, waiting = pool, deque[tuple[Task, Any]]()
        try:
            for task, found in _simulated(job, engine, tasks):
                measured = Task(task.start, task.stop, (*task.arguments, found))
                waiting.append((task, pool.submit(attempt, measure_unit, measured)))
                if len(waiting) > _UNITS_PER_WORKER * self.workers:
                    yield waiting[0][1].result()
                    waiting.popleft()
            while waiting:
                yield waiting[0][1].result()
                waiting.popleft()
        except BrokenProcessPool as error:
            yield from (Result(t.start, t.stop, fault=fault_of(error)) for t, _ in waiting)
            raise WorkersLost(f"a process that prepares simulations ended: {error}") from error
        finally:
            engine.executor = None
            pool.shutdown(wait=True, kill_workers=True)


def _simulated(job: Job, engine: Engine, tasks: Iterable[Task]) -> Iterator[tuple[Task, list[Simulation]]]:
    """Each unit with its simulations."""
    for together, simulations in _streams(job, engine, iter(tasks)):
        for task in together:
            yield task, list(islice(simulations, task.stop - task.start))


def _streams(job: Job, engine: Engine, tasks: Iterator[Task]) -> Iterator[tuple[list[Task], Iterator[Simulation]]]:
    """Units together with their simulations, which come one after another; some batches in one stream."""
    while True:
        chosen: list[Task] = []
        while sum(t.stop - t.start for t in chosen) < _BATCHES_PER_STREAM * engine.batch:
            if (task := next(tasks, None)) is None:
                break
            chosen.append(task)
        if not chosen:
            return
        indices = [i for task in chosen for i in range(task.start, task.stop)]
        theta = np.concatenate([task.arguments[2] for task in chosen])
        yield chosen, engine.run_batch(job.circuit, theta, job.protocol, job.seed, indices)


def with_worker(result: Result, worker: str) -> Result:
    """The result, its fault naming the Dask worker."""
    fault = result.fault
    named = None if fault is None else Fault(fault.kind, fault.reason, fault.place, worker)
    return Result(result.start, result.stop, result.rows, named, result.error, result.place, result.seconds)


def make_executor(chosen: str | Executor, workers: int, limit: float | None, job: Job | None = None) -> Executor:
    """The executor of that name.

    Args:
        chosen: "inprocess", "loky", "dask", or "auto": in this process where one worker is asked for and no time
            limit; an `Executor` is taken as it is.
        workers: processes on this machine; -1 for one per core.
        limit: seconds a unit may take, or None.
        job: of a campaign, whose engine may want to run many simulations at once.

    Raises:
        UnknownNameError: an unknown executor.
        TableError: a number of workers or a time limit that cannot be.
    """
    if isinstance(chosen, Executor):
        return chosen
    if chosen not in EXECUTORS:
        raise UnknownNameError("executor", chosen, EXECUTORS)
    if workers == 0 or workers < -1:
        raise TableError(f"workers must be a number of processes, or -1 for one per core, got {workers}")
    if limit is not None and not limit > 0:
        raise TableError(f"the time limit of a unit must be above 0 s, got {limit:g} s")
    number = joblib.cpu_count() if workers == -1 else workers
    if chosen == "dask":
        return Dask(limit=limit)
    if job is not None and job.engine.batch > 1 and limit is None:
        return Batched(job, number)
    if chosen == "inprocess" and limit is not None:
        raise TableError("a time limit needs a worker that can be killed: executor loky or dask, not inprocess")
    return InProcess() if chosen == "inprocess" or (number == 1 and limit is None and chosen == "auto") else Loky(
        number, limit
    )
