"""What this machine can do at most, measured by small loops, and what it is.

Three ceilings of one core: single-precision operations per second (a multiply-add counts as two), bytes per
second to and from a working set (a read and a write of every byte), and additions per second at random places
of a small array.
"""

import os
import platform
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from numba import njit

from sbi_circuits.engines.update_source import vector_registers

REPEATS = 9
_PACKAGES = ("brian2", "numba", "numpy", "numba-cuda", "nest-simulator")


@dataclass(frozen=True)
class Peaks:
    """Ceilings of one core, per second."""

    operations: float
    cache_bytes: float
    memory_bytes: float
    additions: float

    def text(self) -> str:
        return (
            f"{self.operations / 1e9:.0f} Gop/s in single precision, {self.cache_bytes / 1e9:.0f} GB/s in cache, "
            f"{self.memory_bytes / 1e9:.0f} GB/s in memory, {self.additions / 1e9:.2f} G random additions per second"
        )


def measure_peaks(cells: int = 2000) -> Peaks:
    """The best of some repeats of each loop.

    Args:
        cells: size of the array of the random additions; the cached working set is ten arrays of that size.
    """
    cached, large = np.ones(10 * cells, np.float32), np.ones(2**24, np.float32)
    where = np.random.default_rng(0).integers(0, cells, 2**14).astype(np.uint16)
    target = np.zeros(cells, np.float32)
    rounds = 20_000
    return Peaks(
        operations=2 * _CHAIN * _BLOCK * rounds / _best(lambda: multiply_adds(rounds)),
        cache_bytes=8 * cached.size * 2000 / _best(lambda: _update(cached, 2000)),
        memory_bytes=8 * large.size / _best(lambda: _update(large, 1)),
        additions=where.size * 400 / _best(lambda: _scatter(where, target, 400)),
    )


def _best(run: Callable[[], object]) -> float:
    seconds = []
    for _ in range(REPEATS + 1):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    return min(seconds[1:])  # the first compiles


_BLOCK, _CHAIN = 256, 16


def multiply_adds(rounds: int) -> float:
    """Wall seconds of `rounds` passes over an array in the first cache, `_CHAIN` multiply-adds for each value."""
    values = np.linspace(0.1, 0.9, _BLOCK).astype(np.float32)
    _chain(values, 1)
    began = time.perf_counter()
    _chain(values, rounds)
    return time.perf_counter() - began


@njit(fastmath={"contract"})
def _chain(values, rounds):  # type: ignore[no-untyped-def]
    a, b = np.float32(0.999), np.float32(1e-4)
    for _ in range(rounds):
        for i in range(values.shape[0]):
            x = values[i]
            x = ((x * a + b) * a + b) * a + b
            x = ((x * a + b) * a + b) * a + b
            x = ((x * a + b) * a + b) * a + b
            x = ((x * a + b) * a + b) * a + b
            x = ((x * a + b) * a + b) * a + b
            values[i] = x * a + b


@njit
def _update(values, rounds):  # type: ignore[no-untyped-def]
    one = np.float32(1e-6)
    for _ in range(rounds):
        for i in range(values.shape[0]):
            values[i] += one


@njit
def _scatter(where, target, rounds):  # type: ignore[no-untyped-def]
    weight = np.float32(0.1)
    for _ in range(rounds):
        for k in range(where.shape[0]):
            target[where[k]] += weight


def description() -> str:
    """Processor, logical processors, vector registers of each, and versions, in one line."""
    known = [f"{p} {found}" for p in _PACKAGES if (found := _version(p))]
    software = ", ".join([f"Python {platform.python_version()}", *known])
    return f"{_processor()}, {os.cpu_count()} logical processors, {vector_registers()} vector registers; {software}"


def load() -> str:
    """How many processes want to run: above the number of processors, the figures are those of a busy machine."""
    return f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    match = re.search(r"model name\s*:\s*(.+)", info.read_text()) if info.exists() else None
    return match[1].strip() if match else platform.processor() or platform.machine()
