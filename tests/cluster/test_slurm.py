"""On a real Slurm: a campaign by job array and by dask-jobqueue gives the table of one process, byte for byte."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from slurm import missing, slurm, wait_for_job

from sbi_circuits.campaign import campaign_status, read_plan, run_campaign, verify_campaign
from sbi_circuits.campaign.journal import History
from sbi_circuits.table import Rows, Table, rows_equal

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(bool(missing()), reason=f"not installed: {', '.join(missing())} (slurm-wlm, munge)"),
]
UNITS, UNIT = 200, 2
PLAN = ("simulate", "izhikevich", "--n", str(UNITS * UNIT), "--unit", str(UNIT), "--duration", "0.1", "--seed", "5",
        "--features", "isi,bursts", "--engine", "kernel[numba]", "--plan")  # fmt: skip


@pytest.fixture(scope="module")
def cluster() -> Iterator[dict[str, str]]:
    with slurm() as environment:
        yield {**environment, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Table:
    """The campaign in this process."""
    folder = tmp_path_factory.mktemp("whole")
    call({**os.environ}, *PLAN, "--out", str(folder))
    return run_campaign(read_plan(folder)[0], folder, progress=False)


def call(environment: dict[str, str], *words: str) -> str:
    command = [sys.executable, "-m", "sbi_circuits", *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def submit(environment: dict[str, str], folder: Path, tasks: int) -> str:
    """Submit a job array; the number of the job."""
    said = call(environment, "campaign", "slurm", str(folder), "--array", str(tasks), "--time", "00:30:00")
    return said.split("as job ")[1].split(";")[0]


def content(table: Table) -> dict[str, bytes]:
    """Bytes of the theta, feature, state and outcome columns of all parts, in order."""
    whole = [pq.read_table(part.path).combine_chunks() for part in table.parts()]
    names = [n for n in whole[0].column_names if n.startswith(("theta", "x.")) or n in ("states", "outcome", "reason")]
    return {name: b"".join(_bytes(part[name]) for part in whole) for name in names}


def _bytes(column: object) -> bytes:
    values = column.to_pylist()  # type: ignore[attr-defined]
    return repr(values).encode() if isinstance(values[0], str) else np.array(values).tobytes()


def check(folder: Path, expected: Table) -> Rows:
    table = Table.open(folder)
    assert rows_equal(table.read(), expected.read())
    assert content(table) == content(expected)
    assert verify_campaign(folder) == []
    status = campaign_status(folder)
    assert (status.done, status.missing, status.faults, status.running) == (UNITS * UNIT, 0, {}, 0)
    return table.read()


def test_a_job_array_fills_the_table(tmp_path: Path, cluster: dict[str, str], expected: Table) -> None:
    """200 units by four tasks, two at a time; each takes what is missing."""
    call(cluster, *PLAN, "--out", str(tmp_path))
    job = submit(cluster, tmp_path, tasks=4)
    wait_for_job(job, cluster)
    check(tmp_path, expected)
    makers = {record["journal"] for record in History.read(tmp_path / "journal").done.values()}
    assert len(makers) >= 2, "one task did all of it"
    assert len(Table.open(tmp_path).parts()) == UNITS
    assert len(list((tmp_path / "slurm").glob(f"{job}_*.log"))) == 4


def test_dask_jobqueue_fills_the_table(tmp_path: Path, cluster: dict[str, str], expected: Table) -> None:
    """200 units by two jobs of Dask workers, which Slurm starts."""
    call(cluster, *PLAN, "--out", str(tmp_path))
    call(cluster, "campaign", "run", str(tmp_path), "--cluster", "slurm", "--jobs", "2", "--memory", "2GB",
         "--walltime", "00:30:00", "--option", "interface=lo", "--progress", "none")  # fmt: skip
    check(tmp_path, expected)


def test_an_array_that_is_cancelled_goes_on_when_it_is_submitted_again(
    tmp_path: Path, cluster: dict[str, str], expected: Table
) -> None:
    call(cluster, *PLAN, "--out", str(tmp_path))
    for attempt in range(2):
        job = submit(cluster, tmp_path, tasks=2)
        if attempt == 0:
            parts = tmp_path / "parts"
            while not 0 < len(list(parts.glob("part-*"))) < UNITS:
                time.sleep(0.05)
            subprocess.run(["scancel", "--signal=KILL", "--full", job], env=cluster, check=True)
        wait_for_job(job, cluster)
        if attempt == 0:
            assert 0 < len(list(parts.glob("part-*"))) < UNITS, "the tasks were not cancelled within the campaign"
    assert rows_equal(Table.open(tmp_path).read(), expected.read())
    assert verify_campaign(tmp_path) == []
    assert set(campaign_status(tmp_path).faults) <= {"coordinator"}


def test_one_unit_alone_in_a_batch_on_dask_and_in_a_task_is_the_same(
    tmp_path: Path, cluster: dict[str, str], expected: Table
) -> None:
    """The first unit: theta, features, states and outcomes have the same bytes wherever, and with whatever, it ran."""
    first = ("simulate", "izhikevich", "--n", str(UNIT), *PLAN[4:])
    found = {}
    for name in ("alone", "batch", "dask", "task"):
        words = [*PLAN[:5], str(UNITS), *PLAN[6:]] if name == "batch" else first
        call(cluster, *words, "--out", str(tmp_path / name))
        if name == "task":
            wait_for_job(submit(cluster, tmp_path / name, tasks=1), cluster)
        else:
            own = {"alone": (), "batch": ("--n", str(UNITS)), "dask": ("--cluster", "local")}[name]
            call(cluster, "campaign", "run", str(tmp_path / name), "--progress", "none", *own)
        rows = Table.open(tmp_path / name).read().take(np.arange(UNIT))
        found[name] = [a.tobytes() for a in (rows.theta, rows.values, rows.states, rows.outcome)]
    assert all(one == found["alone"] for one in found.values())
    rows = expected.read().take(np.arange(UNIT))
    assert found["alone"] == [a.tobytes() for a in (rows.theta, rows.values, rows.states, rows.outcome)]
