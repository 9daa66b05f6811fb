"""Workers seen from the benchmark: one process per engine, asked one task at a time, or several at once."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.engines.nest_client import MISSING, available
from sbi_circuits.engines import ENGINES

TOP = Path(__file__).resolve().parents[2]
RUNTIME, STANDALONE, NEST = "brian2 runtime", "brian2 standalone", "nest"
KERNEL = "kernel[numba]"
PUBLISHED = "brian2 as published"
CUDA = "kernel[cuda]"


class Worker:
    """A process that runs one engine; see `worker.py`."""

    def __init__(self, engine: str):
        self.engine = engine
        command = [sys.executable, "-m", "benchmarks.engines.worker", engine]
        self._process = subprocess.Popen(
            command, cwd=TOP, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def ask(self, **task: Any) -> dict[str, Any]:
        """Do one task; raises RuntimeError where the engine failed."""
        self.tell(**task)
        return self.hear()

    def tell(self, **task: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(task) + "\n")
        self._process.stdin.flush()

    def hear(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the worker of {self.engine} ended with status {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise RuntimeError(f"{self.engine}: {answer['error']}")
        return answer

    def close(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait()


@contextmanager
def workers(*engines: str) -> Iterator[list[Worker]]:
    """Workers for the length of a block."""
    started = [Worker(engine) for engine in engines]
    try:
        yield started
    finally:
        for worker in started:
            worker.close()


def together(group: list[Worker], **task: Any) -> list[dict[str, Any]]:
    """All workers do the same task at the same time."""
    for worker in group:
        worker.tell(**task)
    return [worker.hear() for worker in group]


def missing(engine: str) -> str:
    """Why an engine cannot be timed here; empty where it can."""
    if engine == NEST:
        return "" if available() else MISSING
    if engine in (RUNTIME, STANDALONE, PUBLISHED):
        return ""
    if engine not in ENGINES:
        return "not an engine of this version"
    if engine == CUDA:
        return "" if _cuda() else "no CUDA device, or numba-cuda is not installed; see make bench-gpu"
    return "" if find_spec(ENGINES[engine][0]) else "its module is missing"


def kernels() -> list[str]:
    """The package's compiled engines, the numba kernel first; Brian2 is timed in its two modes instead."""
    return [KERNEL, *(name for name in ENGINES if name not in (KERNEL, "brian2", "torch"))]


def _cuda() -> bool:
    try:
        from numba import cuda
    except ImportError:
        return False
    return bool(cuda.is_available())


def theta_of(values: dict[str, float], names: tuple[str, ...]) -> list[float]:
    """Named values in the prior's order."""
    return [float(v) for v in np.array([values[name] for name in names])]
