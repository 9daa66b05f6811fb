"""`campaign` on the command line, the plan in a folder, progress for programs and notebooks."""

import json
import sys
import types
from pathlib import Path
from typing import Any

import fakes
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from sbi_circuits.campaign import Campaign, plan_campaign, read_plan, run_campaign
from sbi_circuits.campaign import slurm as arrays
from sbi_circuits.campaign.cluster import ClusterPlan, parse_options, queue_arguments
from sbi_circuits.campaign.progress import Progress
from sbi_circuits.campaign.slurm import ArrayJob, write_script
from sbi_circuits.campaign.unit import Job
from sbi_circuits.circuit import get_circuit, list_circuits
from sbi_circuits.cli import app
from sbi_circuits.engines import ENGINES, Protocol
from sbi_circuits.errors import TableError
from sbi_circuits.features import FeatureSet
from sbi_circuits.table import Table, rows_equal

N = 40


def call(*words: object, status: int = 0) -> str:
    result: Result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == status, f"{result.output}\n{result.exception!r}"
    return result.output


@pytest.mark.parametrize("name", list_circuits())
def test_a_folder_holds_all_of_a_campaign(tmp_path: Path, name: str) -> None:
    """The circuit, too, as plain content: what is read back is the same value, and plans the same simulations."""
    circuit = get_circuit(name)
    whole = circuit.fix(**{circuit.prior.names[0]: circuit.prior.parameters[0].high})
    campaign = Campaign(whole, 8, FeatureSet.of("isi", "bursts"), Protocol(2.0, warmup=0.5), seed=7, unit=3,
                        engine="kernel[numba]")  # fmt: skip
    plan_campaign(campaign, tmp_path, time_limit=9.0, attempts=5)
    again, terms = read_plan(tmp_path)
    assert again.circuit == whole and again.digest == campaign.digest
    assert (again.n, again.unit, terms.time_limit, terms.attempts) == (8, 3, 9.0, 5)
    assert np.array_equal(again.theta(range(8)), campaign.theta(range(8)))


def test_a_plan_is_run_grown_checked_and_told_about(tmp_path: Path) -> None:
    folder = tmp_path / "t"
    plan_campaign(fakes.campaign(20), folder)
    assert "done      0/20 simulations" in call("campaign", "status", folder)
    assert "20 simulations are missing: 0 to 19" in call("campaign", "verify", folder, status=1)
    assert "0 simulations are missing" in call("campaign", "run", folder, "--progress", "none")
    call("campaign", "run", folder, "--n", N, "--progress", "none", "--executor", "inprocess")
    status = json.loads(call("campaign", "status", folder, "--json"))
    assert (status["done"], status["total"], status["missing"], status["faults"]) == (N, N, 0, {})
    assert sum(status["outcomes"].values()) == N and sum(status["codes"].values()) == N
    assert "every simulation is there once" in call("campaign", "verify", folder)
    whole = run_campaign(fakes.campaign(N), tmp_path / "whole", progress=False)
    assert rows_equal(Table.open(folder).read(), whole.read())
    part = Table.open(folder).parts()[0].path
    part.write_bytes(part.read_bytes()[:-9])
    assert part.name in call("campaign", "verify", folder, "--keep", status=1) and part.exists()
    assert "set aside" in call("campaign", "verify", folder, status=1) and not part.exists()
    assert "0 simulations had been given up" in call("campaign", "retry", folder, "--progress", "none")
    assert rows_equal(Table.open(folder).read(), whole.read())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("run", "nowhere"), "is not a table"),
        (("run", "t", "--share", "2/2"), "--share is k/m"),
        (("run", "t", "--progress", "loud"), "unknown progress 'loud'; valid: auto, json, none"),
        (("run", "t", "--executor", "mpi"), "unknown executor 'mpi'; valid: auto, dask, inprocess, loky"),
        (("run", "t", "--executor", "inprocess", "--time-limit", "3"), "a time limit needs a worker"),
        (("run", "t", "--cluster", "condor"), "unknown cluster 'condor'; valid: an address"),
        (("run", "t", "--cluster", "local", "--option", "x"), "an option of a cluster is name=value, got 'x'"),
        (("run", "t", "--time-limit", "0"), "must be above 0 s"),
        (("run", "t", "--attempts", "0"), "attempts must be 1 or more"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    plan_campaign(fakes.campaign(3), "t")
    output = call("campaign", *words, status=2)
    assert said in output and output.startswith("error: ") and len(output.splitlines()) == 1


def test_what_is_no_plan_is_refused(tmp_path: Path) -> None:
    table = run_campaign(fakes.campaign(3), tmp_path, progress=False)
    file = tmp_path / "campaign.json"
    content = json.loads(file.read_text())
    for change, said in (({"schema_version": 99}, "schema version 99"), ({"circuit": {"": "os"}}, "is not the plan")):
        file.write_text(json.dumps(content | change))
        with pytest.raises(TableError, match=said):
            read_plan(table.path)
    content["circuit"]["populations"][0]["equations"] = fakes.EQUATIONS.replace("20", "30")
    file.write_text(json.dumps(content))
    with pytest.raises(TableError, match="this code does not make the rows of .*another circuit"):
        read_plan(table.path)
    file.unlink()
    with pytest.raises(TableError, match=r"has no campaign.json"):
        read_plan(table.path)


def test_shares_begin_at_different_ends(tmp_path: Path) -> None:
    """And each goes on until all is there."""
    orders = []
    for k in range(2):
        seen: list[int] = []
        run_campaign(fakes.campaign(N, unit=5), tmp_path / str(k), progress=False, share=(k, 2),
                     on_unit=lambda rows, seen=seen: seen.append(int(rows.index[0])))  # type: ignore[misc]  # fmt: skip
        orders.append(seen)
    assert orders[0] == list(range(0, N, 5)) and orders[1] == [*range(20, N, 5), *range(0, 20, 5)]


def test_the_script_of_a_job_array(tmp_path: Path) -> None:
    """Compared whole; docs/clusters.md shows the same lines."""
    job = ArrayJob(50, 16, 0, "08:00:00", "32G", "long", ("--account=lab",), ("--time-limit", "3600"))
    script = job.script(Path("/scratch/me/culture"), "adex_clustered-1a2b3c4d", "/home/me/.venv/bin/python")
    documented = (Path(__file__).parents[1] / "docs" / "clusters.md").read_text("utf-8")
    shown = documented[documented.index("#!/bin/bash") :]
    assert script.split() == shown[: shown.index("```")].replace("\\\n", " ").split()
    gpus = ArrayJob(8, 8, 1).script(Path("/f"), "name", "python")
    assert "#SBATCH --gpus-per-task=1" in gpus and "--mem" not in gpus and "--time" not in gpus


def test_an_array_is_written_and_what_sbatch_says_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan_campaign(fakes.campaign(3), tmp_path)
    assert "wrote" in call("campaign", "slurm", tmp_path, "--array", 2, "--no-submit")
    script = (tmp_path / "slurm" / "array.sh").read_text()
    assert f"campaign run {tmp_path} --workers 1" in script and "#SBATCH --array=0-1\n" in script
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(TableError, match="there is no sbatch here"):
        arrays.submit(write_script(tmp_path, ArrayJob(1)))
    sbatch = tmp_path / "sbatch"
    sbatch.write_text("#!/bin/sh\necho 'invalid partition' >&2\nexit 1\n")
    sbatch.chmod(0o755)
    with pytest.raises(TableError, match="sbatch refused .*invalid partition"):
        arrays.submit(tmp_path / "slurm" / "array.sh")
    with pytest.raises(TableError, match="tasks and cores of 1 or more"):
        ArrayJob(0)


def test_arguments_of_a_queue() -> None:
    plan = ClusterPlan("slurm", 2, 16, "32GB", "08:00:00", "long",
                       parse_options(["interface=ib0", 'job_script_prologue=["module load x"]']))  # fmt: skip
    found = queue_arguments(plan, Path("/logs"))
    assert (found["cores"], found["processes"], found["memory"], found["walltime"]) == (16, 16, "32GB", "08:00:00")
    assert (found["queue"], found["interface"]) == ("long", "ib0")
    assert "export NUMBA_NUM_THREADS=1" in found["job_script_prologue"]
    assert found["job_script_prologue"][-1] == "module load x"


class BatchEngine(fakes.FakeEngine):
    """Runs 2048 at once."""

    batch = 2048


def test_workers_that_share_a_gpu_run_less_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENGINES, "fake", (__name__, "BatchEngine"))
    sizes = [Job.of(fakes.campaign(3), None, sharers).make_engine().batch for sharers in (1, 2, 4)]
    assert sizes == [2048, 1024, 512]


def test_progress_for_programs(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setattr("sbi_circuits.campaign.progress.LINE_EVERY", 0.0)
    run_campaign(fakes.campaign(N), tmp_path, progress="json")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["done"] for line in lines] == [7, 14, 21, 28, 35, 40, 40]
    assert all(line["total"] == N and line["rate"] > 0 and line["left_s"] >= 0 for line in lines)
    assert lines[-1]["message"].startswith("wrote 40 simulations") and sum(lines[-1]["outcomes"].values()) == N


def test_progress_in_a_notebook_is_one_line_that_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """What IPython displays is replaced, with a bar; nothing is printed on stderr but the last line."""
    shown: list[str] = []

    class Cell:
        def update(self, content: dict[str, str], raw: bool) -> None:
            shown.append(content["text/plain"])

    class ZMQInteractiveShell:
        pass

    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=ZMQInteractiveShell))  # type: ignore[arg-type]
    display = types.SimpleNamespace(display=lambda *_, **__: Cell())
    monkeypatch.setitem(sys.modules, "IPython.display", display)  # type: ignore[arg-type]
    monkeypatch.setattr("sbi_circuits.campaign.progress._NOTEBOOK_EVERY", 0.0)
    with Progress(10, 0, {}) as progress:
        progress.update(np.array(["ok"] * 5))
        progress.end("done")
    assert shown[0].startswith("███████████████░░░░░░░░░░░░░░░ 5/10 simulations, ") and "5 ok" in shown[0]
