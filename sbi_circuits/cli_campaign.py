"""`campaign`: run, watch, check and repair campaigns, here, on a cluster, or as a Slurm job array."""

import json
import signal
from pathlib import Path
from typing import Annotated, Any

import typer

from sbi_circuits.errors import TableError

app = typer.Typer(no_args_is_help=True, help="Run, watch, check and repair campaigns; `simulate` makes them.")

Folder = Annotated[Path, typer.Argument(help="Folder of the campaign.")]
Workers = Annotated[int, typer.Option("--workers", help="Processes to simulate in; -1 for one per core.")]
Executor = Annotated[str, typer.Option(help="auto, inprocess, loky or dask.")]
Limit = Annotated[float | None, typer.Option(help="Seconds that a unit may take; its worker is then killed.")]
Attempts = Annotated[int | None, typer.Option(help="Failures of a simulation after which it is given up.")]
Shown = Annotated[str, typer.Option("--progress", help="auto (bar or lines), json, or none.")]
_SHOWN: dict[str, bool | str] = {"auto": True, "json": "json", "none": False}


@app.command()
def run(
    folder: Folder,
    workers: Workers = 1,
    executor: Executor = "auto",
    n: Annotated[int | None, typer.Option("--n", help="Grow the campaign to this many simulations.")] = None,
    time_limit: Limit = None,
    attempts: Attempts = None,
    cluster: Annotated[
        str | None, typer.Option(help="local, cuda, slurm, pbs, lsf, sge, or a scheduler's address; with Dask.")
    ] = None,
    jobs: Annotated[int, typer.Option(help="Jobs of the queue, or processes of a local cluster.")] = 1,
    cores: Annotated[int, typer.Option(help="Of each job, a worker each.")] = 1,
    memory: Annotated[str, typer.Option(help="Of each job.")] = "4GB",
    walltime: Annotated[str | None, typer.Option(help="Of each job, as the queue writes it.")] = None,
    queue: Annotated[str | None, typer.Option(help="Partition or queue.")] = None,
    option: Annotated[
        list[str] | None, typer.Option(help="name=value for the class of dask-jobqueue or dask-cuda; may be repeated.")
    ] = None,
    workers_per_gpu: Annotated[int, typer.Option(min=1, help="Workers that share a GPU and its memory.")] = 1,
    share: Annotated[str, typer.Option(help="k/m: begin at the k-th of m shares of what is missing.")] = "0/1",
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="For units that other processes run.")] = True,
    accept_code: Annotated[
        bool, typer.Option("--accept-code", help="Go on although other code began it; each unit notes its own.")
    ] = False,
    progress: Shown = "auto",
) -> None:
    """Run what a campaign lacks; any number of processes and machines may do so at once."""
    options: dict[str, Any] = {"time_limit": time_limit, "attempts": attempts, "wait": wait, "share": _share(share),
                               "accept_code": accept_code, "workers_per_gpu": workers_per_gpu}  # fmt: skip
    if cluster is None:
        _run(folder, n, progress, options | {"workers": workers, "executor": executor})
        return
    from sbi_circuits.campaign.cluster import ClusterPlan, open_client, parse_options
    from sbi_circuits.campaign.executors import Dask
    from sbi_circuits.campaign.folder import JOURNAL, read_plan

    plan = ClusterPlan(cluster, jobs, cores, memory, walltime, queue, parse_options(option or []), workers_per_gpu)
    limit = read_plan(folder)[1].time_limit if time_limit is None else time_limit
    with open_client(plan, folder.resolve() / JOURNAL / "dask") as (client, expected):
        _run(folder, n, progress, options | {"executor": Dask(client, limit, ahead=expected)})


def _run(folder: Path, n: int | None, progress: str, options: dict[str, Any]) -> None:
    from sbi_circuits.campaign import run_campaign
    from sbi_circuits.campaign.folder import read_plan

    if progress not in _SHOWN:
        raise TableError(f"unknown progress {progress!r}; valid: {', '.join(_SHOWN)}")
    campaign, terms = read_plan(folder)
    agreed = {"time_limit": terms.time_limit, "attempts": terms.attempts}
    options |= {name: value for name, value in agreed.items() if options.get(name) is None}
    # What a queue sends before it kills is an end like any other: claims are given back.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    table = run_campaign(campaign if n is None else campaign.grow(max(n, campaign.n)), folder,
                         progress=_SHOWN[progress], **options)  # fmt: skip
    print(f"{folder}: {len(table.missing(max(n or 0, campaign.n)))} simulations are missing")


def _share(text: str) -> tuple[int, int]:
    k, _, m = text.partition("/")
    if not (k.isdigit() and m.isdigit() and int(k) < int(m)):
        raise TableError(f"--share is k/m with 0 <= k < m, got {text!r}")
    return int(k), int(m)


@app.command()
def status(
    folder: Folder, json_out: Annotated[bool, typer.Option("--json", help="One JSON object, for programs.")] = False
) -> None:
    """Say how a campaign stands: done, running, failed by reason, rate and time left."""
    from sbi_circuits.campaign.status import campaign_status

    found = campaign_status(folder)
    print(json.dumps(found.to_dict()) if json_out else "\n".join(found.lines()))


@app.command()
def verify(
    folder: Folder,
    keep: Annotated[bool, typer.Option("--keep", help="Leave damaged parts where they are.")] = False,
) -> None:
    """Check every part; damaged ones are set aside. Exit status 1 where something is wrong."""
    from sbi_circuits.campaign.status import verify_campaign

    problems = verify_campaign(folder, set_aside=not keep)
    print("\n".join(problems) or f"{folder}: every simulation is there once, and every part is sound")
    if problems:
        raise typer.Exit(1)


@app.command()
def retry(
    folder: Folder,
    workers: Workers = 1,
    executor: Executor = "auto",
    time_limit: Limit = None,
    attempts: Attempts = None,
    progress: Shown = "auto",
) -> None:
    """Give simulations that were given up a new start, and run what is missing."""
    from sbi_circuits.campaign.status import forgive

    print(f"{folder}: {forgive(folder)} simulations had been given up")
    options = {"workers": workers, "executor": executor, "time_limit": time_limit, "attempts": attempts}
    _run(folder, None, progress, options)


@app.command()
def slurm(
    folder: Folder,
    array: Annotated[int, typer.Option("--array", min=1, help="Tasks of the job array.")],
    cores: Annotated[int, typer.Option(min=1, help="Of each task, a worker each.")] = 1,
    gpus: Annotated[int, typer.Option(min=0, help="Of each task.")] = 0,
    time: Annotated[str, typer.Option(help="Limit of a task, such as 04:00:00.")] = "",
    memory: Annotated[str, typer.Option(help="Of a task, such as 8G.")] = "",
    partition: Annotated[str, typer.Option(help="To run in.")] = "",
    line: Annotated[list[str] | None, typer.Option(help="Another option of sbatch; may be repeated.")] = None,
    time_limit: Limit = None,
    submit: Annotated[bool, typer.Option("--submit/--no-submit", help="Submit it, or write it only.")] = True,
) -> None:
    """Write a Slurm job array that runs a campaign, and submit it; again after it has ended, to go on."""
    from sbi_circuits.campaign import slurm as arrays

    own = () if time_limit is None else ("--time-limit", f"{time_limit:g}")
    job = arrays.ArrayJob(array, cores, gpus, time, memory, partition, tuple(line or ()), own)
    script = arrays.write_script(folder, job)
    print(f"wrote {script}")
    if submit:
        print(f"submitted it as job {arrays.submit(script)}; `sbi-circuits campaign status {folder}` says how it goes")
