"""Running campaigns: units of work are simulated anywhere, and written by one process as parts of a table."""

import os
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from sbi_circuits.campaign.claims import LEASE, Claims
from sbi_circuits.campaign.code import code_identity
from sbi_circuits.campaign.coordinator import Coordinator, look, takeover
from sbi_circuits.campaign.executors import Executor, make_executor
from sbi_circuits.campaign.folder import CLAIMS, JOURNAL, PLAN_FILE, RECORDINGS, Terms, read_plan, write_plan
from sbi_circuits.campaign.journal import Journal
from sbi_circuits.campaign.plan import PROPOSAL_FILE, Campaign, units
from sbi_circuits.campaign.progress import Progress, tally
from sbi_circuits.campaign.unit import Fault, Job, Task, remeasure_unit
from sbi_circuits.errors import TableError
from sbi_circuits.features import FeatureSet
from sbi_circuits.table import Rows, Table
from sbi_circuits.table_recordings import Recordings

_REMEASURED = 64  # recordings per unit of work when features are measured again


def run_campaign(
    campaign: Campaign,
    path: str | Path,
    workers: int = 1,
    progress: bool | str = True,
    on_unit: Callable[[Rows], None] | None = None,
    executor: str | Executor = "auto",
    *,
    time_limit: float | None = None,
    attempts: int = 3,
    wait: bool = True,
    share: tuple[int, int] = (0, 1),
    accept_code: bool = False,
    lease: float = LEASE,
    workers_per_gpu: int = 1,
) -> Table:
    """Run the simulations of a campaign that a table still lacks.

    The table is consistent whenever this is interrupted or killed; running it again goes on from there. Several
    processes, on several machines that share the folder, may run it at once: they share out the units.

    Args:
        campaign: what to run.
        path: folder of the table; made if it is not there.
        workers: processes to simulate in; -1 for one per core. An engine that runs many simulations at once stays
            in this process, and the others prepare and measure.
        progress: whether to show progress, and a last line, on stderr; "json" for one JSON object a line.
        on_unit: called with the rows of each unit once they are in place.
        executor: "inprocess", "loky", "dask" (the cluster of this process's `distributed.Client`), "auto" (in this
            process where one worker is asked for, else loky), or an `Executor`.
        time_limit: seconds after which a unit's worker is killed; None for no limit.
        attempts: failures of a simulation (killed, out of time or memory, an error outside of its circuit) after
            which it is given up; those of a failed unit are then run one by one.
        wait: whether to wait for units that other processes run.
        share: (k, m): where several start at once, begin at the k-th of m shares.
        accept_code: whether to go on although the campaign was begun by other code.
        lease: seconds of silence after which other processes may take this one for dead.
        workers_per_gpu: how many workers share a GPU and its memory.

    Raises:
        TableError: the folder holds a table of something else (named), or cannot be written; other code; workers
            lost; simulations given up, after all others are done.
        TranslationError: the engine cannot express the circuit.
        UnknownNameError: an unknown executor.
        KeyboardInterrupt: on Ctrl-C, after a line that says how to go on.
    """
    kept = Path(path) / RECORDINGS if campaign.keep_recordings else None
    job = Job.of(campaign, kept, workers_per_gpu)
    terms = Terms(time_limit, attempts)
    run = make_executor(executor, workers, time_limit, job)
    if run.name == "dask" and job.engine.batch > campaign.unit:  # a unit is what a worker's engine has at a time
        campaign = replace(campaign, unit=job.engine.batch // workers_per_gpu)
    table = Table.create(path, campaign.manifest)
    with closing(run):
        try:
            terms = _prepare(campaign, table, terms, accept_code)
            _coordinate(campaign, table, terms, run, job, progress, on_unit, wait, share, lease)
        except OSError as error:
            raise TableError(f"cannot write into {table.path}: {error.strerror or error}") from error
    return table


def plan_campaign(
    campaign: Campaign, path: str | Path, *, time_limit: float | None = None, attempts: int = 3
) -> Table:
    """Write a campaign down in a folder, for other processes to run; arguments as for `run_campaign`.

    Raises:
        TableError: the folder holds a table of something else, or cannot be written; other code.
    """
    terms = Terms(time_limit, attempts)
    table = Table.create(path, campaign.manifest)
    try:
        _prepare(campaign, table, terms, accept_code=False)
    except OSError as error:
        raise TableError(f"cannot write into {table.path}: {error.strerror or error}") from error
    return table


def _prepare(campaign: Campaign, table: Table, terms: Terms, accept_code: bool) -> Terms:
    """Write down what another process needs to join; the terms, with all codes that may make rows."""
    if campaign.proposal is not None and not (table.path / PROPOSAL_FILE).exists():
        campaign.proposal.save(table.path / PROPOSAL_FILE)
    for name in (CLAIMS, JOURNAL, *([RECORDINGS] if campaign.keep_recordings else [])):
        (table.path / name).mkdir(exist_ok=True)
    n, codes, here = campaign.n, terms.codes, code_identity()
    if (table.path / PLAN_FILE).exists():
        before, agreed = read_plan(table.path)
        n, codes = max(n, before.n), agreed.codes
    if here not in codes:
        if not accept_code:
            refusal = f"{table.path} was begun by code {codes[0]}, here is {here}: their rows may differ"
            with Journal(table.path / JOURNAL, f"refused-{here.partition('+')[2]}") as journal:
                journal.fault(None, None, Fault("code", refusal))
            how = "use that code, or accept this one (--accept-code): each unit notes its own"
            raise TableError(f"{refusal}; {how}")
        codes = (*codes, here)
    terms = replace(terms, codes=codes)
    write_plan(replace(campaign, n=n), table, terms)
    return terms


def _coordinate(
    campaign: Campaign, table: Table, terms: Terms, run: Executor, job: Job, shown: bool | str,
    on_unit: Callable[[Rows], None] | None, wait: bool, share: tuple[int, int], lease: float,
) -> None:  # fmt: skip
    state = look(table, campaign.n, bool(shown))
    if state.have.all() and not state.damaged:
        _say_end(Progress(campaign.n, campaign.n, state.outcomes, shown), table, 0)
        return
    with ExitStack() as stack:
        claims = stack.enter_context(Claims(table.path / CLAIMS, lease))
        what = {"executor": run.name, "n": campaign.n, "time_limit": terms.time_limit}
        journal = stack.enter_context(Journal(table.path / JOURNAL, claims.owner, **what))
        claims.on_takeover = takeover(journal)
        _tidy(table, claims)
        for name in state.damaged:
            start, stop = (int(k) for k in name.removesuffix(".parquet").split("-")[1:])
            journal.fault(start, stop, Fault("damaged", f"{name} is damaged and was set aside"))
        at_start = int(state.have.sum())
        progress = stack.enter_context(Progress(campaign.n, at_start, state.outcomes, shown))
        coordinator = Coordinator(campaign, table, terms, run, job, claims, journal, state, progress, on_unit, share)
        try:
            coordinator.run(wait)
        except KeyboardInterrupt:
            progress.say(f"interrupted: {_there(progress, table)}; run the same campaign again to go on")
            raise
        except (OSError, TableError) as error:
            _on_disk_error(error, table, journal, progress)
            raise
        lost = coordinator.given_up()
        if len(lost):
            raise TableError(_given_up(lost, coordinator, table))
        _say_end(progress, table, progress.done - at_start)


def _on_disk_error(error: Exception, table: Table, journal: Journal, progress: Progress) -> None:
    """Make a full disk known, and leave no half-written file on it."""
    cause = error if isinstance(error, OSError) else error.__cause__
    if not isinstance(cause, OSError):
        return
    reason = cause.strerror or str(cause)
    for file in (table.path / "parts").glob(f".*.{os.getpid()}.tmp"):
        file.unlink(missing_ok=True)
    with suppress(OSError):
        journal.fault(None, None, Fault("disk", reason))
    there = f"{_there(progress, table)}; make room, and run the same campaign again to go on"
    raise TableError(f"cannot write into {table.path}: {reason}; {there}") from cause


def _tidy(table: Table, claims: Claims) -> None:
    """Remove what dead processes left half-written, where no other is at work."""
    claims.bury()
    if claims.owners() == [claims.owner]:
        for file in (table.path / "parts").glob(".*.tmp"):
            file.unlink(missing_ok=True)


def _given_up(lost: np.ndarray, coordinator: Coordinator, table: Table) -> str:
    found = Counter(f"{coordinator.reasons[int(k)]['kind']}: {coordinator.reasons[int(k)]['reason']}" for k in lost)
    told = "; ".join(f"{count} x {reason}" for reason, count in found.most_common(3))
    there = _there(coordinator.progress, table)
    return (f"{len(lost)} simulations were given up after {coordinator.terms.attempts} attempts ({told}); {there}; "
            f"`sbi-circuits campaign retry {table.path}` tries them again")  # fmt: skip


def _say_end(progress: Progress, table: Table, made: int) -> None:
    progress.end(f"wrote {made} simulations to {table.path} ({progress.done} in all: {tally(progress.outcomes)})")


def _there(progress: Progress, table: Table) -> str:
    return f"{progress.done}/{progress.total} simulations are in {table.path}"


def remeasure(
    source: str | Path,
    feature_set: FeatureSet,
    path: str | Path,
    workers: int = 1,
    progress: bool | str = True,
    executor: str | Executor = "auto",
) -> Table:
    """Measure the kept recordings of a table again: the same simulations, other features.

    Args:
        source: folder of a table whose campaign kept its recordings.
        feature_set: what to measure now.
        path: folder of the new table.
        workers, progress, executor: as for `run_campaign`.

    Raises:
        TableError: recordings that are not there; a folder that holds another table; a unit that failed.
    """
    old = Table.open(source)
    rows = old.read(("theta", "outcome", "reason", "wall_s", "proposal", "weight"))
    kept = old.path / RECORDINGS
    lost = Recordings(kept).missing(rows.index[rows.outcome == "ok"])
    if lost:
        how = "run the campaign with keep_recordings in a new folder"
        raise TableError(f"{len(lost)} recordings are not in {kept}, the first of simulation {lost[0]}; {how}")
    run = make_executor(executor, workers, None)
    table = Table.create(path, old.manifest.measured_with(feature_set))
    missing = np.setdiff1d(rows.index, table.done())
    ranges = ((a, b, np.searchsorted(rows.index, [a, b])) for a, b in units(missing, _REMEASURED))
    tasks = (Task(a, b, (feature_set, kept, rows.take(np.arange(*edges)))) for a, b, edges in ranges)
    before = table.counts() if progress else {}
    with closing(run), Progress(len(rows), len(rows) - len(missing), before, progress) as shown:
        for result in run.run(remeasure_unit, tasks):
            result.raise_error()
            if result.rows is None or result.fault is not None:
                raise TableError(f"measuring {result.start} to {result.stop} failed: {result.fault}")
            table.append(result.start, result.stop, result.rows, table.manifest)
            shown.update(result.rows.outcome)
        _say_end(shown, table, len(missing))
    return table
