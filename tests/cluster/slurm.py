"""A Slurm of one node, in a temporary folder: munged, slurmctld and slurmd by hand, ended by their process ids.

Debian: `apt-get install slurm-wlm munge`. `python tests/cluster/slurm.py` starts one, says what to export, and ends it
when its input closes.
"""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "sinfo", "scancel")
_PATIENCE = 60.0  # seconds for the node to become idle, and for each daemon to end
_CONFIGURATION = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/none
KillWait=5
MinJobAge=30
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> list[str]:
    """Programs that are not installed."""
    return [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]


def _path() -> str:
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"


@contextmanager
def slurm(cpus: int = 2) -> Iterator[dict[str, str]]:
    """A running Slurm; gives the environment in which its commands work.

    Its folder is one of its own, since munge wants all folders above its socket open to everyone.

    Raises:
        RuntimeError: a daemon ended, or the node did not become idle; with the end of the logs.
    """
    with TemporaryDirectory(prefix="slurm-", ignore_cleanup_errors=True) as temporary:
        folder = Path(temporary)
        folder.chmod(0o755)
        yield from _running(folder, cpus)


def _running(folder: Path, cpus: int) -> Iterator[dict[str, str]]:
    (folder / "state").mkdir(mode=0o700)
    (folder / "spool").mkdir(mode=0o700)
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(1024))
    key.chmod(0o400)
    configuration = folder / "slurm.conf"
    user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
    configuration.write_text(_CONFIGURATION.format(host=socket.gethostname().split(".")[0], ports=_free_ports(2),
                                                   user=user, folder=folder, cpus=cpus, memory=_memory()))  # fmt: skip
    environment = {**os.environ, "SLURM_CONF": str(configuration), "PATH": _path()}
    munged = ["munged", "--foreground", "--key-file", str(key), "--socket", str(folder / "munge.socket"),
              "--pid-file", str(folder / "munged.pid"), "--log-file", str(folder / "munged.log"),
              "--seed-file", str(folder / "munged.seed")]  # fmt: skip
    with ExitStack() as stack:
        stack.enter_context(_daemon(munged, environment, folder))
        _until(lambda: (folder / "munge.socket").exists(), folder)
        stack.enter_context(_daemon(["slurmctld", "-D"], environment, folder))
        stack.enter_context(_daemon(["slurmd", "-D", "-f", str(configuration)], environment, folder))
        _until(lambda: _output(["sinfo", "-h", "-o", "%t"], environment) == "idle", folder)
        try:
            yield environment
        finally:
            subprocess.run(["scancel", "--user", user], env=environment, capture_output=True)
            with_jobs = ["squeue", "-h"]
            _until(lambda: not _output(with_jobs, environment), folder)


@contextmanager
def _daemon(command: Sequence[str], environment: dict[str, str], folder: Path) -> Iterator[None]:
    with (folder / f"{command[0]}.out").open("wb") as out:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=out)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _until(ready: object, folder: Path) -> None:
    end = time.monotonic() + _PATIENCE
    while not ready():  # type: ignore[operator]
        if time.monotonic() > end:
            told = {p.name: p.read_text(errors="replace")[-1500:] for p in folder.glob("*.[lo][ou][gt]")}
            logs = "\n".join(f"{name}:\n{text}" for name, text in told.items())
            raise RuntimeError(f"Slurm did not come up, or did not end:\n{logs}")
        time.sleep(0.2)


def wait_for_job(job: str, environment: dict[str, str], patience: float = 600.0) -> None:
    """Wait until no task of a job is queued or running; raises `RuntimeError` when patience ends."""
    end = time.monotonic() + patience
    while _output(["squeue", "-h", "-j", job], environment):
        if time.monotonic() > end:
            raise RuntimeError(f"job {job} has not ended after {patience:g} s")
        time.sleep(0.5)


def _output(command: Sequence[str], environment: dict[str, str]) -> str:
    return subprocess.run(command, env=environment, capture_output=True, text=True).stdout.strip()


def _free_ports(number: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]


def _memory() -> int:
    return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**20 * 0.9)


if __name__ == "__main__":
    if missing():
        raise SystemExit(f"not installed: {', '.join(missing())}")
    with slurm() as settings:
        print(f"export SLURM_CONF={settings['SLURM_CONF']}", flush=True)
        sys.stdin.read()
