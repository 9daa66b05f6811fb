"""The benchmark of tables measures what it says, and writes into its own section only."""

from pathlib import Path

import pytest

from benchmarks import tables


def test_small_parts_are_measured(tmp_path: Path) -> None:
    lines = tables.parts(tmp_path, 64)
    assert lines[0].startswith("64 simulations of 40 features in 4 parts of 16") and "1 after compaction" in lines[0]
    assert sum(line.startswith("| ") for line in lines) == 9 and list(tmp_path.iterdir()) == []


def test_the_table_is_informative_and_the_same_every_time(tmp_path: Path) -> None:
    of = tables.write_table(tmp_path / "a", 40, tables.wide(100), 16)
    again = tables.write_table(tmp_path / "b", 40, tables.wide(100), 16)
    assert len(of.manifest.feature_names) == 100 and len(of) == 40 and of.digest == again.digest


def test_a_section_is_replaced_and_the_others_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "RESULTS.md"
    file.write_text("# Measured\n\n## Before\nkept\n\n## After\nkept too\n")
    monkeypatch.setattr(tables, "RESULTS", file)
    tables.write({"One": "first", "Two": "second"})
    tables.write({"Two": "new"})
    text = file.read_text()
    assert text.index("## Before\nkept\n") < text.index("## After\nkept too") < text.index(tables.TITLE)
    assert text.count(tables.TITLE) == 1 and "### One\nfirst\n\n### Two\nnew\n" in text and "second" not in text


def test_memory_is_that_of_this_process() -> None:
    block, figures = tables.measured(lambda: bytearray(200_000_000))
    assert figures["peak"] > 200_000_000 and len(block) == 200_000_000
    assert tables.memory("VmRSS") <= tables.memory("VmHWM")
