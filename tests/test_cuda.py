"""The engine kernel[cuda]: `cuda_checks.py` in numba's simulator, and on the device where there is one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sbi_circuits.circuit import get_circuit
from sbi_circuits.engines import default_engine, get_engine
from sbi_circuits.errors import SbiCircuitsError

ROOT = Path(__file__).resolve().parents[1]


RATES = ("test_rates", "test_rate_orders", "test_rate_campaigns")
CHECKS = (
    "tests/cuda_checks.py", "tests/cuda_counting_checks.py", "tests/cuda_host_checks.py",
    *(f"tests/scenarios/{name}.py" for name in RATES),
)  # fmt: skip


def run_checks(simulated: bool, checks: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the checks in a process of their own: numba chooses the simulator when it is imported."""
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "1" if simulated else "0", "ENGINE_OF_RATES": "kernel[cuda]"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-x",
               str(ROOT / checks), *arguments]  # fmt: skip
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("checks", CHECKS)
def test_the_checks_pass_in_the_simulator(checks: str) -> None:
    """All but the first three files are the scenario list that every engine of rate circuits passes."""
    done = run_checks(True, checks)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


@pytest.mark.gpu
@pytest.mark.parametrize("checks", CHECKS)
def test_the_checks_pass_on_a_device(checks: str) -> None:
    done = run_checks(False, checks)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


@pytest.mark.gpu
def test_auto_is_the_device() -> None:
    assert default_engine() == get_engine("auto").name == "kernel[cuda]"
    assert default_engine(get_circuit("brunel")) == "kernel[cuda]"
    assert default_engine(get_circuit("wilson_cowan")) == "kernel[cuda]"


@pytest.mark.parametrize("name", ["brunel", "wilson_cowan", "random_rate"])
def test_auto_takes_the_fused_kernel_where_there_is_a_device(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sbi_circuits.engines._cuda_device", lambda: True)
    assert default_engine(get_circuit(name)) == "kernel[cuda]"
    monkeypatch.setattr("sbi_circuits.engines._cuda_device", lambda: False)
    assert default_engine(get_circuit(name)) == "kernel[numba]"


def test_what_is_missing_is_named() -> None:
    """Without a device the error names the extra or the other engine; with one there is nothing to say."""
    try:
        get_engine("kernel[cuda]")
    except SbiCircuitsError as error:
        assert "pip install 'sbi-circuits[cuda]'" in str(error) or "kernel[numba]" in str(error)
        assert default_engine() == "kernel[numba]"
