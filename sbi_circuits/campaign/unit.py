"""Units of work: what a worker is told, what it does, and the rows or the fault that comes back."""

import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from sbi_circuits.campaign.code import code_identity, host_name
from sbi_circuits.campaign.plan import Campaign
from sbi_circuits.circuit import Circuit
from sbi_circuits.engines import ENGINES, Engine, Protocol, Simulation
from sbi_circuits.engines.base import failure
from sbi_circuits.features import UNDEFINED, FeatureSet, FeatureValues
from sbi_circuits.recording import Outcome
from sbi_circuits.seeds import measuring_seed
from sbi_circuits.table import Rows
from sbi_circuits.table_recordings import Recordings, write_recordings

# Errors that say something about the machine and nothing about the circuit: no outcome of a simulation.
_OF_THE_MACHINE = (
    "MemoryError", "_ArrayMemoryError", "OSError", "BlockingIOError", "SystemError", "CudaAPIError", "LinkerError",
    "BrokenProcessPool", "TerminatedWorkerError",
)  # fmt: skip


class WrongCode(Exception):
    """A worker whose code is not the campaign's."""


class MachineError(Exception):
    """A simulation that the machine, not the circuit, made fail."""


@dataclass(frozen=True, eq=False)
class Job:
    """What every unit of a campaign shares; it travels to the workers.

    Args:
        circuit, protocol, feature_set: what is simulated and measured.
        engine: class of the engine.
        seed: of the campaign.
        proposal: name of what theta is drawn from.
        recordings: folder to keep recordings in, or None.
        code: identity of the code that must run it.
        workers_per_gpu: how many share a GPU, and its memory: each has an engine that runs as much less at once.
        keep_every: recordings of every so many-th simulation are kept.
    """

    circuit: Circuit
    protocol: Protocol
    feature_set: FeatureSet
    engine: type[Engine]
    seed: int
    proposal: str
    recordings: Path | None
    code: str
    workers_per_gpu: int = 1
    keep_every: int = 1

    @classmethod
    def of(cls, campaign: Campaign, recordings: Path | None, workers_per_gpu: int = 1) -> "Job":
        """The job of a campaign; its engine is not made here, where there may be no GPU."""
        module, name = ENGINES[campaign.engine]
        return cls(campaign.circuit, campaign.protocol, campaign.feature_set, getattr(import_module(module), name),
                   campaign.seed, campaign.manifest.proposal, recordings, code_identity(), workers_per_gpu,
                   max(1, int(campaign.keep_recordings)))  # fmt: skip

    def make_engine(self) -> Engine:
        """The engine in this process, made once; see `workers_per_gpu`."""
        return _engine(self.engine, self.workers_per_gpu)


@dataclass(frozen=True, eq=False)
class Task:
    """A unit of work: the simulations start..stop, and the arguments of the function that runs them."""

    start: int
    stop: int
    arguments: tuple[Any, ...]


@dataclass(frozen=True)
class Fault:
    """Why a unit has no rows.

    Args:
        kind: "killed", "time limit", "memory", "error", "code", "disk" or another word that `status` counts by.
        reason: one line.
        place: host it happened on.
        worker: address of the Dask worker, if it was one.
    """

    kind: str
    reason: str
    place: str = ""
    worker: str = ""


@dataclass(frozen=True, eq=False)
class Result:
    """What became of a task: rows, a fault of this unit, or an error that no other unit would escape.

    Args:
        start, stop: the simulations.
        rows, fault, error: one of the three; the error as its class and arguments, since not every error travels.
        place: host it ran on; seconds: how long it took.
    """

    start: int
    stop: int
    rows: Rows | None = None
    fault: Fault | None = None
    error: tuple[type[Exception], tuple[Any, ...]] | None = None
    place: str = ""
    seconds: float = 0.0

    def raise_error(self) -> None:
        """Raise the error, if there is one."""
        if self.error is not None:
            kind, arguments = self.error
            error = kind.__new__(kind, *arguments)
            Exception.__init__(error, *arguments)  # some take other arguments than their text
            raise error


@cache
def _engine(kind: type[Engine], sharers: int) -> Engine:
    engine = kind()
    if engine.batch > 1:
        engine.batch = max(1, engine.batch // sharers)
    return engine


def simulate_unit(job: Job, start: int, theta: np.ndarray, weight: np.ndarray) -> Rows:
    """Simulate and measure the simulations from `start` on, one per row of theta (k, P) and weight (k,).

    Raises:
        WrongCode: where this process runs other code than the campaign.
        MachineError: a simulation failed for want of memory, disk or a device.
        TranslationError: the engine cannot express the circuit.
    """
    here = code_identity()
    if here != job.code:
        raise WrongCode(f"{host_name()} has code {here}, the campaign {job.code}")
    indices = range(start, start + len(theta))
    with deferred_interrupts() as check:
        simulations = job.make_engine().run_batch(job.circuit, theta, job.protocol, job.seed, indices)
        return measure_unit(job, start, theta, weight, _checked(simulations, check))


def _checked(simulations: Iterable[Simulation], check: Callable[[], None]) -> Iterator[Simulation]:
    for simulation in simulations:
        check()
        yield simulation


@contextmanager
def deferred_interrupts() -> Iterator[Callable[[], None]]:
    """Ctrl-C and the signal to end wait for the end of a simulation: what it gives raises `KeyboardInterrupt` then.

    In the middle of compiled code they would end as an error of the simulation, and as its outcome.
    """
    came: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    own = [number for number, handler in before.items() if callable(handler)]

    def check() -> None:
        if came:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield check
        return
    for number in own:
        signal.signal(number, lambda number, frame: came.append(number))
    try:
        yield check
    finally:
        for number in own:
            signal.signal(number, before[number])
    check()


def measure_unit(job: Job, start: int, theta: np.ndarray, weight: np.ndarray, simulations: Iterable[Simulation]
                 ) -> Rows:  # fmt: skip
    """Rows of simulations that have run; see `simulate_unit`."""
    rows = make_rows(start, job.seed, theta, weight, job.proposal, [_measured(job, s) for s in simulations])
    for index, reason in zip(rows.index, rows.reason.tolist(), strict=True):
        if reason.partition(":")[0] in _OF_THE_MACHINE:
            raise MachineError(f"simulation {index}: {reason}")
    return rows


def remeasure_unit(feature_set: FeatureSet, kept: Path, rows: Rows) -> Rows:
    """Rows of the same simulations, measured again from their kept recordings."""
    found, recordings = [], Recordings(kept)
    for k, index in enumerate(map(int, rows.index)):
        outcome, measured = Outcome(str(rows.outcome[k]), str(rows.reason[k])), _undefined(feature_set)
        if outcome.ok:
            try:
                measured = feature_set.measure(recordings[index], seed=measuring_seed(int(rows.seed[k]), index))
            except Exception as error:
                outcome = failure(error)
        found.append((outcome, measured, float(rows.wall_s[k])))
    again = make_rows(int(rows.index[0]), int(rows.seed[0]), rows.theta, rows.weight, "", found)
    return replace(again, proposal=rows.proposal)


def _measured(job: Job, simulation: Simulation) -> tuple[Outcome, FeatureValues, float]:
    """Outcome, features and wall time of one simulation; its recording is kept where the campaign asks."""
    began, index, outcome = perf_counter(), simulation.index, simulation.outcome
    measured = _undefined(job.feature_set)
    if outcome.ok and simulation.recording is not None:
        try:
            measured = job.feature_set.measure(simulation.recording, seed=measuring_seed(job.seed, index))
        except Exception as error:
            outcome = failure(error)
        else:
            if job.recordings is not None and index % job.keep_every == 0:
                write_recordings(job.recordings, {index: simulation.recording})
    return outcome, measured, simulation.wall_s + perf_counter() - began


def _undefined(feature_set: FeatureSet) -> FeatureValues:
    width = len(feature_set.names)
    return FeatureValues(np.zeros(width), np.full(width, UNDEFINED, dtype=np.uint8))


def make_rows(start: int, seed: int, theta: np.ndarray, weight: np.ndarray, proposal: str,
              found: list[tuple[Outcome, FeatureValues, float]]) -> Rows:  # fmt: skip
    """Rows of a table from what each simulation gave."""
    n = len(found)
    return Rows(
        index=np.arange(start, start + n, dtype=np.int64),
        seed=np.full(n, seed, dtype=np.int64),
        theta=theta,
        values=np.stack([m.values for _, m, _ in found]),
        states=np.stack([m.states for _, m, _ in found]),
        outcome=np.array([o.status for o, _, _ in found], dtype=np.str_),
        reason=np.array([o.reason for o, _, _ in found], dtype=np.str_),
        wall_s=np.array([w for _, _, w in found]),
        proposal=np.full(n, proposal),
        weight=weight,
    )


def tasks_of(campaign: Campaign, job: Job, ranges: Iterable[tuple[int, int]]) -> Iterator[Task]:
    """The tasks of some ranges of simulations, made one at a time."""
    for a, b in ranges:
        yield Task(a, b, (job, a, campaign.theta(range(a, b)), campaign.weight(range(a, b))))
