"""Every tutorial runs from its first cell to its last, at its small size, wherever it is started."""

from pathlib import Path
from typing import Any

import jupytext
import nbclient
import pytest

from sbi_circuits import demo
from sbi_circuits.cultures import PLATE_FILE

FOLDER = Path(__file__).resolve().parents[1] / "tutorials"
TUTORIALS = sorted(FOLDER.glob("[0-9]*.py"))
TABLE = PLATE_FILE.with_name(demo.TABLE)


def errors(notebook: Any) -> list[str]:
    """What went wrong in a notebook that was executed with errors allowed: cell and traceback."""
    return [
        f"{cell.source}\n" + "\n".join(output.traceback)
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if output.output_type == "error"
    ]


def execute(notebook: Any, folder: Path) -> Any:
    client = nbclient.NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        allow_errors=True,
        resources={"metadata": {"path": str(folder)}},
    )
    return client.execute()


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_a_tutorial_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not TABLE.exists():
        pytest.skip(f"{TABLE.name} is not in the package yet (benchmarks/demo_table.py)")
    monkeypatch.setenv("SBI_CIRCUITS_TUTORIAL_SIZE", "small")
    for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    notebook = execute(jupytext.read(path), tmp_path)
    assert not errors(notebook), errors(notebook)[0]


def test_a_cell_that_fails_is_found(tmp_path: Path) -> None:
    """Negative control of the test above."""
    notebook = execute(jupytext.reads("# %%\n1 / 0\n", fmt="py:percent"), tmp_path)
    assert len(errors(notebook)) == 1 and "ZeroDivisionError" in errors(notebook)[0]


def test_tutorials_are_listed_and_are_text() -> None:
    """Each is a percent script paired with a notebook that is not kept, and the list names it."""
    listed = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert TUTORIALS
    for path in TUTORIALS:
        assert "formats: ipynb,py:percent" in path.read_text(encoding="utf-8")
        assert f"({path.name})" in listed
    assert not list(FOLDER.glob("*.ipynb"))
