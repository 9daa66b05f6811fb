"""Running campaigns: units of work are simulated anywhere, and written by one process as parts of a table."""

import os
import signal
import threading
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice, starmap
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

import joblib
import numpy as np
from joblib.externals.loky import ProcessPoolExecutor
from joblib.externals.loky.process_executor import BrokenProcessPool

from sbi_circuits.campaign.plan import PROPOSAL_FILE, Campaign, units
from sbi_circuits.campaign.progress import Progress, tally
from sbi_circuits.circuit import Circuit
from sbi_circuits.engines import Engine, Protocol, Simulation, get_engine
from sbi_circuits.engines.base import failure
from sbi_circuits.errors import TableError, UnknownNameError
from sbi_circuits.features import UNDEFINED, FeatureSet, FeatureValues
from sbi_circuits.readers import read_recording, write_recording
from sbi_circuits.recording import Outcome
from sbi_circuits.seeds import stream_key
from sbi_circuits.table import Rows, Table

Tasks = Iterable[tuple[Any, ...]]
Results = Generator[Rows, None, None]
_Unit = tuple[int, np.ndarray, np.ndarray]  # first simulation, theta and weight of each

EXECUTORS = ("auto", "inprocess", "loky")
_REMEASURED = 64  # recordings per unit of work when features are measured again
_BATCHES_PER_STREAM, _UNITS_PER_WORKER = 16, 4
# The workers are the parallelism.
_ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}


@dataclass(frozen=True, eq=False)
class _Job:
    """What every unit of a campaign shares; it travels to the workers."""

    circuit: Circuit
    protocol: Protocol
    feature_set: FeatureSet
    engine: type[Engine]
    seed: int
    proposal: str
    recordings: Path | None


@cache
def _engine(kind: type[Engine]) -> Engine:
    return kind()


def run_campaign(
    campaign: Campaign,
    path: str | Path,
    workers: int = 1,
    progress: bool = True,
    on_unit: Callable[[Rows], None] | None = None,
    executor: str = "auto",
) -> Table:
    """Run the simulations of a campaign that a table still lacks.

    The table is consistent whenever this is interrupted or killed; running it again goes on from there.

    Args:
        campaign: what to run.
        path: folder of the table; made if it is not there.
        workers: processes to simulate in; -1 for one per core. An engine that runs many simulations at once stays
            in this process, and the others prepare and measure.
        progress: whether to show progress, and a last line, on stderr.
        on_unit: called with the rows of each unit once they are in place.
        executor: "inprocess", "loky", or "auto": in this process where one worker is asked for.

    Raises:
        TableError: the folder holds a table of something else (named), or cannot be written.
        TranslationError: the engine cannot express the circuit.
        UnknownNameError: an unknown executor.
        KeyboardInterrupt: on Ctrl-C, after a line that says how to go on.
    """
    run = _executor(executor, workers)
    engine = get_engine(campaign.engine)
    table = Table.create(path, campaign.manifest)
    if campaign.proposal is not None and not (table.path / PROPOSAL_FILE).exists():
        campaign.proposal.save(table.path / PROPOSAL_FILE)
    job = _Job(
        circuit=campaign.circuit,
        protocol=campaign.protocol,
        feature_set=campaign.feature_set,
        engine=type(engine),
        seed=campaign.seed,
        proposal=campaign.manifest.proposal,
        recordings=_recordings(table) if campaign.keep_recordings else None,
    )
    missing = table.missing(campaign.n)
    ranges = units(missing, campaign.unit)
    tasks = ((job, a, campaign.theta(range(a, b)), campaign.weight(range(a, b))) for a, b in ranges)
    results = _batches(job, tasks, workers) if engine.batch > 1 else run(simulate_unit, tasks)
    _fill(table, campaign.n, len(missing), results, progress, on_unit)
    return table


def remeasure(
    source: str | Path,
    feature_set: FeatureSet,
    path: str | Path,
    workers: int = 1,
    progress: bool = True,
    executor: str = "auto",
) -> Table:
    """Measure the kept recordings of a table again: the same simulations, other features.

    Args:
        source: folder of a table whose campaign kept its recordings.
        feature_set: what to measure now.
        path: folder of the new table.
        workers, progress, executor: as for `run_campaign`.

    Raises:
        TableError: recordings that are not there; a folder that holds another table.
    """
    run, old = _executor(executor, workers), Table.open(source)
    rows = old.read(("theta", "outcome", "reason", "wall_s", "proposal", "weight"))
    kept = old.path / "recordings"
    files = [recording_file(kept, i) for i in rows.index[rows.outcome == "ok"]]
    lost = [file.name for file in files if not file.exists()]
    if lost:
        how = "run the campaign with keep_recordings in a new folder"
        raise TableError(f"{len(lost)} recordings are not in {kept}, the first {lost[0]}; {how}")
    table = Table.create(path, old.manifest.measured_with(feature_set))
    missing = np.setdiff1d(rows.index, table.done())
    ranges = ((a, np.searchsorted(rows.index, [a, b])) for a, b in units(missing, _REMEASURED))
    tasks = ((feature_set, kept, rows.take(np.arange(*edges))) for _, edges in ranges)
    _fill(table, len(rows), len(missing), run(_remeasure_unit, tasks), progress, None)
    return table


def simulate_unit(job: _Job, start: int, theta: np.ndarray, weight: np.ndarray) -> Rows:
    """Simulate and measure the simulations from `start` on, one per row of theta (k, P) and weight (k,)."""
    indices = range(start, start + len(theta))
    simulations = _engine(job.engine).run_batch(job.circuit, theta, job.protocol, job.seed, indices)
    return _measure_unit(job, start, theta, weight, simulations)


def _measure_unit(job: _Job, start: int, theta: np.ndarray, weight: np.ndarray, simulations: Iterable[Simulation]
                  ) -> Rows:  # fmt: skip
    return _rows(start, job.seed, theta, weight, job.proposal, [_measured(job, s) for s in simulations])


def _batches(job: _Job, tasks: Tasks, workers: int) -> Results:
    """Units of an engine that runs many simulations at once."""
    number, engine = joblib.cpu_count() if workers == -1 else workers, _engine(job.engine)
    if number == 1:
        yield from (_measure_unit(job, *unit, found) for unit, found in _simulated(job, engine, tasks))
        return
    with ProcessPoolExecutor(number, env=_ONE_THREAD) as engine.executor:
        waiting: deque[Any] = deque()
        for unit, found in _simulated(job, engine, tasks):
            waiting.append(engine.executor.submit(_in_worker, os.getpid(), _measure_unit, job, *unit, found))
            if len(waiting) > _UNITS_PER_WORKER * number:
                yield waiting.popleft().result()
        yield from (future.result() for future in waiting)
    engine.executor = None


def _simulated(job: _Job, engine: Engine, tasks: Tasks) -> Iterator[tuple[_Unit, list[Simulation]]]:
    """Each unit with its simulations."""
    for together, simulations in _streams(job, engine, tasks):
        for unit in together:
            yield unit, list(islice(simulations, len(unit[1])))


def _streams(job: _Job, engine: Engine, tasks: Tasks) -> Iterator[tuple[list[_Unit], Iterator[Simulation]]]:
    """Units together with their simulations, which come one after another; some batches in one stream."""
    rest = ((start, theta, weight) for _, start, theta, weight in tasks)
    while True:
        chosen: list[_Unit] = []
        while sum(len(theta) for _, theta, _ in chosen) < _BATCHES_PER_STREAM * engine.batch:
            if (unit := next(rest, None)) is None:
                break
            chosen.append(unit)
        if not chosen:
            return
        indices = [i for start, theta, _ in chosen for i in range(start, start + len(theta))]
        theta = np.concatenate([theta for _, theta, _ in chosen])
        yield chosen, engine.run_batch(job.circuit, theta, job.protocol, job.seed, indices)


def _measured(job: _Job, simulation: Simulation) -> tuple[Outcome, FeatureValues, float]:
    """Outcome, features and wall time of one simulation; its recording is kept where the campaign asks."""
    began, index, outcome = perf_counter(), simulation.index, simulation.outcome
    measured = _undefined(job.feature_set)
    if outcome.ok and simulation.recording is not None:
        try:
            measured = job.feature_set.measure(simulation.recording, seed=measuring_seed(job.seed, index))
        except Exception as error:
            outcome = failure(error)
        else:
            if job.recordings is not None:
                write_recording(recording_file(job.recordings, index), simulation.recording)
    return outcome, measured, simulation.wall_s + perf_counter() - began


def _remeasure_unit(feature_set: FeatureSet, kept: Path, rows: Rows) -> Rows:
    found = []
    for k, index in enumerate(map(int, rows.index)):
        outcome, measured = Outcome(str(rows.outcome[k]), str(rows.reason[k])), _undefined(feature_set)
        if outcome.ok:
            try:
                recording = read_recording(recording_file(kept, index))
                measured = feature_set.measure(recording, seed=measuring_seed(int(rows.seed[k]), index))
            except Exception as error:
                outcome = failure(error)
        found.append((outcome, measured, float(rows.wall_s[k])))
    again = _rows(int(rows.index[0]), int(rows.seed[0]), rows.theta, rows.weight, "", found)
    return replace(again, proposal=rows.proposal)


def measuring_seed(seed: int, index: int) -> int:
    """Seed of the measurement of one simulation (cells are assigned to channels at random)."""
    return stream_key(seed, index, "measure") >> 65


def recording_file(folder: Path, index: int) -> Path:
    """Where the recording of a simulation is kept."""
    return folder / f"rec-{index:010d}.npz"


def _recordings(table: Table) -> Path:
    folder = table.path / "recordings"
    folder.mkdir(exist_ok=True)
    return folder


def _undefined(feature_set: FeatureSet) -> FeatureValues:
    width = len(feature_set.names)
    return FeatureValues(np.zeros(width), np.full(width, UNDEFINED, dtype=np.uint8))


def _rows(start: int, seed: int, theta: np.ndarray, weight: np.ndarray, proposal: str,
          found: list[tuple[Outcome, FeatureValues, float]]) -> Rows:  # fmt: skip
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


def _fill(table: Table, total: int, missing: int, results: Results, shown: bool,
          on_unit: Callable[[Rows], None] | None) -> None:  # fmt: skip
    """Write units as they come; the worker's result does not matter until its part is in place."""
    before = table.counts() if shown else {}
    with closing(results), Progress(total, total - missing, before, shown) as progress:
        try:
            for rows in results:
                table.append(int(rows.index[0]), int(rows.index[-1]) + 1, rows, table.manifest)
                progress.update(rows.outcome)
                if on_unit is not None:
                    on_unit(rows)
        except KeyboardInterrupt:
            progress.say(f"interrupted: {_there(progress, table)}; run the same campaign again to go on")
            raise
        except BrokenProcessPool as error:
            there = f"{_there(progress, table)}; run the same campaign again, with fewer workers"
            raise TableError(f"a worker was killed (out of memory?): {there}") from error
        except OSError as error:
            raise TableError(f"cannot write into {table.path}: {error.strerror or error}") from error
    progress.say(f"wrote {missing} simulations to {table.path} ({total} in all: {tally(progress.outcomes)})")


def _there(progress: Progress, table: Table) -> str:
    return f"{progress.done}/{progress.total} simulations are in {table.path}"


def _executor(name: str, workers: int) -> Callable[[Callable[..., Rows], Tasks], Results]:
    """How to apply a function to tasks; results come in any order."""
    if name not in EXECUTORS:
        raise UnknownNameError("executor", name, EXECUTORS)
    if workers == 0 or workers < -1:
        raise TableError(f"workers must be a number of processes, or -1 for one per core, got {workers}")
    if name == "inprocess" or (name == "auto" and workers == 1):
        return _inprocess
    return lambda function, tasks: _loky(function, tasks, workers)


def _inprocess(function: Callable[..., Rows], tasks: Tasks) -> Results:
    yield from starmap(function, tasks)


def _loky(function: Callable[..., Rows], tasks: Tasks, workers: int) -> Results:
    calls = (joblib.delayed(_in_worker)(os.getpid(), function, *task) for task in tasks)
    # One thread per worker: the workers are the parallelism, and no sum depends on how many cores there are.
    with joblib.parallel_config(backend="loky", inner_max_num_threads=1), warnings.catch_warnings():
        # joblib warns of results that an interruption leaves unused; they will be simulated again.
        warnings.filterwarnings("ignore", message=r"\d+ tasks (have been|which were)")
        parallel = joblib.Parallel(n_jobs=workers, return_as="generator_unordered", batch_size=1)
        with closing(parallel(calls)) as results:
            yield from results


def _in_worker(parent: int, function: Callable[..., Rows], *task: Any) -> Rows:
    _follow(parent)
    return function(*task)


@cache
def _follow(parent: int) -> None:
    """Leave Ctrl-C, which reaches every process of a terminal, to the parent; end when it was killed."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        sleep(1.0)
    os._exit(1)
