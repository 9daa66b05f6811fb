"""The GPU benchmark: its file of translations is fresh, and it runs from end to end without Brian2."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.without_brian2 import FILE, export

ROOT = Path(__file__).resolve().parents[1]


def test_the_translations_in_the_file_are_those_of_brian2() -> None:
    """Otherwise: python -m benchmarks.without_brian2."""
    assert json.loads(FILE.read_text(encoding="utf-8")) == export()


@pytest.mark.slow
def test_the_benchmark_runs_without_brian2() -> None:
    """In the simulator, on tiny networks; Brian2 is hidden from it."""
    code = "import runpy, sys; sys.modules['brian2'] = None; runpy.run_path('benchmarks/gpu.py', run_name='__main__')"
    arguments = ["--tiny", "--without-brian2", "--workers", "1", "--only", "equality,sizes,rates,resources"]
    done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True,
                          env={**os.environ, "NUMBA_ENABLE_CUDASIM": "1"})  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "| double | 2 of 2 |" in done.stdout and "| 60 | 4 |" in done.stdout
    assert "| jansen_rit | single | 3 of 3 |" in done.stdout
