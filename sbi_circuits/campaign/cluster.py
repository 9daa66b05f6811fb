"""Dask clusters for campaigns: local processes, one worker per GPU, and the queues that dask-jobqueue knows."""

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from sbi_circuits.campaign.guard import ONE_THREAD
from sbi_circuits.errors import TableError, UnknownNameError

QUEUES = {"slurm": "SLURMCluster", "pbs": "PBSCluster", "lsf": "LSFCluster", "sge": "SGECluster"}
CLUSTERS = ("local", "cuda", *QUEUES)
_SETTINGS = {
    # A unit runs in a process of its own; and what kills a Dask worker is a node's end, not the unit's fault.
    "distributed.worker.daemon": False,
    "distributed.scheduler.allowed-failures": 1000,
}


@dataclass(frozen=True)
class ClusterPlan:
    """What to ask a cluster for.

    Args:
        kind: "local", "cuda" (a worker per GPU of this machine), "slurm", "pbs", "lsf", "sge", or the address of a
            scheduler, such as tcp://node:8786.
        jobs: of a queue, or processes of a local cluster; cores: of each job, a worker each.
        memory: of each job, such as "8GB"; walltime: of each job; queue: partition or queue.
        options: further arguments of the class in dask-jobqueue or dask-cuda.
        workers_per_gpu: workers that share a GPU.
    """

    kind: str
    jobs: int = 1
    cores: int = 1
    memory: str = "4GB"
    walltime: str | None = None
    queue: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    workers_per_gpu: int = 1


@contextmanager
def open_client(plan: ClusterPlan, logs: Path) -> Iterator[tuple[Any, int]]:
    """A Dask client of the cluster, and how many workers it is to have; the cluster ends with the context.

    Args:
        plan: what to ask for.
        logs: folder for what the jobs print.

    Raises:
        UnknownNameError: an unknown cluster.
        TableError: the extra `cluster`, or dask-cuda, is not installed.
    """
    dask, distributed = _needed("dask"), _needed("distributed")
    with ExitStack() as stack:
        stack.enter_context(dask.config.set(_SETTINGS))
        if "://" in plan.kind:
            client = stack.enter_context(distributed.Client(plan.kind, set_as_default=False))
            yield client, sum(client.ncores().values())
            return
        cluster, workers = _cluster(plan, logs)
        stack.enter_context(cluster)
        if plan.kind in QUEUES:  # keeps as many: a job whose time is over is followed by another
            cluster.adapt(minimum_jobs=plan.jobs, maximum_jobs=plan.jobs)
        yield stack.enter_context(distributed.Client(cluster, set_as_default=False)), workers


def _cluster(plan: ClusterPlan, logs: Path) -> tuple[Any, int]:
    if plan.kind == "local":
        own = {"n_workers": plan.jobs, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
        return _needed("distributed").LocalCluster(**{**own, **plan.options}), plan.jobs
    if plan.kind == "cuda":
        own = {"threads_per_worker": plan.workers_per_gpu, "dashboard_address": None}
        cluster = _needed("dask_cuda").LocalCUDACluster(**{**own, **plan.options})
        return cluster, len(cluster.workers) * plan.workers_per_gpu
    if plan.kind not in QUEUES:
        raise UnknownNameError("cluster", plan.kind, [*CLUSTERS, "an address such as tcp://node:8786"])
    return getattr(_needed("dask_jobqueue"), QUEUES[plan.kind])(**queue_arguments(plan, logs)), plan.jobs * plan.cores


def queue_arguments(plan: ClusterPlan, logs: Path) -> dict[str, Any]:
    """Arguments of a class of dask-jobqueue: a worker of one thread per core."""
    environment = {"DASK_DISTRIBUTED__WORKER__DAEMON": "False", **ONE_THREAD}
    prologue = [f"export {name}={value}" for name, value in environment.items()]
    scheduler = {"dashboard_address": None}
    found: dict[str, Any] = {"cores": plan.cores, "processes": plan.cores, "memory": plan.memory,
                             "log_directory": str(logs), "job_script_prologue": prologue,
                             "scheduler_options": scheduler}  # fmt: skip
    found |= {name: value for name, value in (("walltime", plan.walltime), ("queue", plan.queue)) if value}
    for name, value in plan.options.items():
        found[name] = [*found[name], *value] if isinstance(found.get(name), list) else value
    return found


def parse_options(given: list[str]) -> dict[str, Any]:
    """`name=value` pairs; values are JSON where they can be, else text. Raises `TableError`.

    Examples:
        >>> parse_options(["interface=ib0", "job_extra_directives=[\\"--gpus=1\\"]"])
        {'interface': 'ib0', 'job_extra_directives': ['--gpus=1']}
    """
    found = {}
    for pair in given:
        name, sign, value = pair.partition("=")
        if not (sign and name.isidentifier()):
            raise TableError(f"an option of a cluster is name=value, got {pair!r}")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


def _needed(module: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        extra = "dask-cuda (pip install dask-cuda)" if module == "dask_cuda" else "the extra cluster"
        raise TableError(f"this cluster needs {extra}: {error}") from error
