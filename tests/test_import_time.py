"""`import sbi_circuits` is quick, and its public names load on first use."""

import subprocess
import sys
from pathlib import Path

import pytest

import sbi_circuits

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 0.5  # s
HEAVY = ("torch", "brian2", "arviz", "matplotlib", "numba", "pandas")
TIMED_IMPORT = """
import sys, time
start = time.perf_counter()
import sbi_circuits
print(time.perf_counter() - start, *(name for name in sys.argv[1:] if name in sys.modules))
"""


def fresh_import() -> tuple[float, list[str]]:
    """Seconds that the import takes in a new interpreter, and the heavy libraries it has loaded."""
    command = [sys.executable, "-c", TIMED_IMPORT, *HEAVY]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    seconds, *loaded = done.stdout.split()
    return float(seconds), loaded


def test_import_is_quick_and_loads_nothing_heavy() -> None:
    fresh_import()
    runs = [fresh_import() for _ in range(3)]
    assert [loaded for _, loaded in runs] == [[], [], []]
    assert min(seconds for seconds, _ in runs) < LIMIT


def test_every_public_name_resolves() -> None:
    for name in sbi_circuits._EXPORTS:
        assert name in dir(sbi_circuits)
        assert getattr(sbi_circuits, name) is not None


def test_no_public_name_is_also_a_submodule() -> None:
    """Importing a submodule binds it on the package, where it would hide the public name."""
    submodules = {path.stem for path in (ROOT / "sbi_circuits").iterdir()}
    assert submodules.isdisjoint(sbi_circuits._EXPORTS)


def test_simulate_is_the_function_after_its_module_was_imported() -> None:
    import sbi_circuits.simulation

    assert sbi_circuits.simulate is sbi_circuits.simulation.simulate


def test_unknown_name_lists_the_public_ones() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'Circus'; public names: .*Circuit.*Prior"):
        sbi_circuits.Circus  # noqa: B018
