"""Slurm job arrays: a script that any task of the array can run, since units are claimed and not dealt out."""

import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from sbi_circuits.campaign.folder import SLURM, read_plan
from sbi_circuits.errors import TableError
from sbi_circuits.table import replace_file

_STOP_BEFORE = 60  # seconds before its time is over, a task is told


@dataclass(frozen=True)
class ArrayJob:
    """What to ask Slurm for.

    Args:
        tasks: of the array; cores: of each task, a worker each; gpus: of each task.
        time: limit of a task, as Slurm writes it; memory: of a task, such as "8G"; partition: to run in.
        lines: further options, such as "--account=lab".
        run: further words for `sbi-circuits campaign run`.
    """

    tasks: int
    cores: int = 1
    gpus: int = 0
    time: str = ""
    memory: str = ""
    partition: str = ""
    lines: tuple[str, ...] = ()
    run: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.tasks < 1 or self.cores < 1 or self.gpus < 0:
            raise TableError(f"an array needs tasks and cores of 1 or more, got {self.tasks} and {self.cores}")

    def script(self, folder: Path, name: str, python: str = sys.executable) -> str:
        """The job script for the campaign in a folder."""
        options = {"job-name": name, "array": f"0-{self.tasks - 1}", "ntasks": "1", "cpus-per-task": str(self.cores),
                   "gpus-per-task": str(self.gpus or ""), "mem": self.memory, "time": self.time,
                   "partition": self.partition, "output": str(folder / SLURM / "%A_%a.log"), "open-mode": "append",
                   "signal": f"B:TERM@{_STOP_BEFORE}"}  # fmt: skip
        asked = [f"#SBATCH --{key}={value}" for key, value in options.items() if value]
        asked += [f"#SBATCH {line}" for line in ("--requeue", *self.lines)]
        share = '"$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT"'
        words = [python, "-m", "sbi_circuits", "campaign", "run", str(folder), "--workers", str(self.cores), *self.run]
        command = f"exec {shlex.join(words)} --share {share} --no-wait --progress json"
        return "\n".join(["#!/bin/bash", *asked, "# Every task takes units that are missing; submit it again at will.",
                          command, ""])  # fmt: skip


def write_script(path: str | Path, job: ArrayJob) -> Path:
    """Write the script of a job array into a campaign's folder; raises `TableError` where there is no campaign."""
    campaign, _ = read_plan(path)
    folder = Path(path).resolve()
    (folder / SLURM).mkdir(exist_ok=True)
    script = folder / SLURM / "array.sh"
    replace_file(script, job.script(folder, f"{campaign.circuit.name}-{campaign.digest[:8]}").encode())
    return script


def submit(script: Path) -> str:
    """Submit a script; the number of the job. Raises `TableError` with what Slurm said."""
    try:
        done = subprocess.run(["sbatch", "--parsable", str(script)], capture_output=True, text=True, check=True)
    except FileNotFoundError as error:
        raise TableError(f"there is no sbatch here; submit {script} where there is one") from error
    except subprocess.CalledProcessError as error:
        raise TableError(f"sbatch refused {script}: {' '.join(error.stderr.split())}") from error
    match = re.match(r"\d+", done.stdout)
    return match[0] if match else done.stdout.strip()
