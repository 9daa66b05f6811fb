"""Every example in a docstring runs and gives what it shows."""

import doctest
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SKIPPED = {"__main__"}  # runs the command line when imported


def modules() -> list[str]:
    found = sorted((ROOT / "sbi_circuits").rglob("*.py"))
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in found]
    return [name.removesuffix(".__init__") for name in names if name.split(".")[-1] not in SKIPPED]


@pytest.mark.parametrize("name", modules())
def test_examples_in_docstrings(name: str) -> None:
    """An optional library that is not installed skips its module; anything else that fails is a failure."""
    try:
        module = import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "sbi_circuits":
            raise
        pytest.skip(f"{name} needs {error.name}")
    assert doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE).failed == 0
