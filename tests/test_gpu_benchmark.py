"""The GPU benchmark: its file of translations is fresh, and it runs from end to end without Brian2."""

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks import gpu
from benchmarks.gpu_rates import VBI, lacking, peer
from benchmarks.gpu_static import argument_types, by_line
from benchmarks.without_brian2 import FILE, export
from sbi_circuits.engines.cuda_signals import SIGNAL_ARGUMENTS
from sbi_circuits.engines.cuda_source import ARGUMENTS
from sbi_circuits.errors import SbiCircuitsError

ROOT = Path(__file__).resolve().parents[1]
# As nvdisasm prints it: where an instruction comes from, and from where that was called.
MACHINE_CODE = """\
	//## File "/a/kernel.py", line 3
        /*0010*/                   MOV R1, c[0x0][0x28] ;
	//## File "/b/parts.py", line 9 inlined at "/a/kernel.py", line 7
        /*0020*/                   LDS R2, [R1] ;
        /*0030*/                   FADD R2, R2, R2 ;
.L_x_1:
	//## File "/b/parts.py", line 2 inlined at "/b/parts.py", line 9
	//## File "/c/other.py", line 7
        /*0040*/                   EXIT ;
"""


def test_instructions_are_counted_by_the_line_that_calls_them() -> None:
    assert by_line(MACHINE_CODE, "kernel.py") == {3: 1, 7: 2}


@pytest.mark.parametrize("single", [True, False])
def test_every_argument_of_a_kernel_has_a_type(single: bool) -> None:
    names = ARGUMENTS + SIGNAL_ARGUMENTS
    found = dict(zip(names, argument_types(names, single), strict=True))
    assert str(found["reals"].dtype) == str(found["arena_real"].dtype) == ("float32" if single else "float64")
    assert found["guide"].ndim == found["counts"].ndim == 3 and str(found["dt"]) == "float64"


def test_the_translations_in_the_file_are_those_of_brian2() -> None:
    """Otherwise: python -m benchmarks.without_brian2."""
    assert json.loads(FILE.read_text(encoding="utf-8")) == export()


def test_without_a_device_it_ends_with_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise SbiCircuitsError(f"engine {name!r} finds no CUDA device")

    monkeypatch.setattr("sbi_circuits.engines.get_engine", missing)
    with pytest.raises(SystemExit, match=r"^gpu\.py: engine 'kernel\[cuda\]' finds no CUDA device$"):
        gpu.require_device()


def test_an_unknown_part_is_named_before_anything_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--only", "check,speed"])
    with pytest.raises(SystemExit, match="2"):
        gpu.main()
    assert "there is no part 'speed'; valid parts: equality, check, draws" in capsys.readouterr().err


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
    assert ("VBI's CuPy engine was NOT run: " in done.stdout) == bool(lacking())


@pytest.mark.slow
@pytest.mark.parametrize(("limit", "measured"), [(0.0, 1), (1000.0, 3)])
def test_slow_draws_are_cut_short_and_counted(limit: float, measured: int) -> None:
    """What ended in time is the figure; without the limit all three draws are."""
    code = (
        "from dataclasses import replace; from benchmarks import gpu; "
        f"print(*gpu.draws(replace(gpu.TINY, draws_limit_s={limit}), None, 1), sep='\\n')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True,
                          env={**os.environ, "NUMBA_ENABLE_CUDASIM": "1"})  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert re.search(rf"^\| \d+ \| {measured} \| ", done.stdout, re.MULTILINE), done.stdout


def test_vbi_runs_the_same_two_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its CuPy engine on NumPy; without vbi the benchmark says plainly that it did not run."""
    monkeypatch.setenv("VBI_ENGINE", "cpu")
    own = [(name, "single", "2 of 2", "0.5") for name in VBI]
    rows, about = peer(own, 2, 0.01)
    if find_spec("vbi") is None:
        assert (rows, about) == ([], "VBI's CuPy engine was NOT run: vbi not installed here; no ratio is known.")
    else:
        assert [row[0] for row in rows] == list(VBI) and "NumPy in place of CuPy" in about
        assert all(float(row[-1]) == pytest.approx(float(row[2]) / 0.5, rel=0.1) for row in rows)
    monkeypatch.setenv("VBI_ENGINE", "gpu")
    monkeypatch.setattr("benchmarks.gpu_rates.find_spec", lambda name: None)
    assert peer(own, 2, 0.01)[1].startswith("VBI's CuPy engine was NOT run: vbi and cupy not installed here")
