"""Compaction: the same rows in fewer parts, whatever kills it, and whoever writes meanwhile."""

import json
import logging
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import fakes
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_table import filled, manifest, random_rows

from sbi_circuits import table_compact
from sbi_circuits.errors import TableError
from sbi_circuits.table import Table, rows_equal
from sbi_circuits.table_compact import compact_table
from sbi_circuits.table_parts import CHECKED, stamp_of

KILLED = """
import os, shutil, signal, sys
from pathlib import Path
from sbi_circuits import table_compact
from sbi_circuits.table import Table

whole, folder, first, every = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
steps = 0

def counted(function):
    def wrapped(*given, **named):
        global steps
        if steps == last:
            os.kill(os.getpid(), signal.SIGKILL)
        steps += 1
        return function(*given, **named)
    return wrapped

def child():
    for name in ("read_parquet", "write_parquet", "check_part", "_flush"):
        setattr(table_compact, name, counted(getattr(table_compact, name)))
    os.fsync, Path.unlink, Path.replace = counted(os.fsync), counted(Path.unlink), counted(Path.replace)
    table_compact.compact_table(Table.open(folder / str(last)), megabytes=0.05)
    os._exit(0)

last = first - every
while True:  # libraries are loaded once; this process itself never touches a table
    last += every
    shutil.copytree(whole, folder / str(last))
    pid = os.fork()
    if pid == 0:
        child()
    if not os.WIFSIGNALED(os.waitpid(pid, 0)[1]):
        break
print(last)
"""


def many(path: Path, units: int = 40, size: int = 4) -> Table:
    return filled(path, *((k * size, (k + 1) * size) for k in range(units)))


def names(table: Table) -> list[str]:
    return [f"{p.start}-{p.stop}" for p in table.parts()]


def test_rows_digest_and_stamps_stay(tmp_path: Path) -> None:
    table = many(tmp_path)
    rows, digest, stamp = table.read(), table.digest, stamp_of(table.parts()[0])
    done = compact_table(table)
    assert (done.before, done.after, done.merged, done.left_over) == (40, 1, 1, 0) and names(table) == ["0-160"]
    assert str(done) == "40 parts became 1"
    assert rows_equal(table.read(), rows) and (table.read().wall_s == rows.wall_s).all()
    assert table.digest == digest and table.verify() == [] and stamp_of(table.parts()[0]) == stamp
    assert table.done().tolist() == list(range(160))
    assert compact_table(table).merged == 0


def test_parts_stay_within_the_size_that_is_wanted(tmp_path: Path) -> None:
    """One part may be larger on its own; all merged ones are below, and the larger the size the fewer."""
    sizes = {}
    for megabytes in (0.01, 0.03, 1.0):
        table = many(tmp_path / str(megabytes))
        compact_table(table, megabytes)
        sizes[megabytes] = len(table.parts())
        parts = table_compact._sized(table.parts())
        assert all(size <= 1.1e6 * megabytes for part, size, _ in parts if len(part) > 4)
        assert table.done().tolist() == list(range(160))
    assert sizes[0.01] > sizes[0.03] > sizes[1.0] == 1


def test_only_neighbours_are_merged(tmp_path: Path) -> None:
    table = filled(tmp_path, (0, 4), (4, 8), (12, 16), (16, 20), (30, 31))
    compact_table(table)
    assert names(table) == ["0-8", "12-20", "30-31"]
    assert table.missing(32).tolist() == [*range(8, 12), *range(20, 30), 31]


def test_parts_that_overlap_are_merged_whatever_their_size(tmp_path: Path) -> None:
    """As two processes with units of other sizes leave them; each simulation once."""
    table = filled(tmp_path / "a", (0, 8), (6, 10), (10, 12), (11, 20), (20, 24))
    rows, digest = table.read(), table.digest
    assert len([line for line in table.verify() if line.endswith("overlap")]) == 2
    compact_table(table, 1e-5)
    assert names(table) == ["0-10", "10-20", "20-24"] and table.verify() == []
    assert rows_equal(table.read(), rows) and table.digest == digest == filled(tmp_path / "b", (0, 24)).digest


def test_versions_of_the_code_are_not_mixed(tmp_path: Path) -> None:
    table, of = filled(tmp_path, (0, 4), (4, 8)), manifest()
    for start in (8, 12):
        table.append(start, start + 4, random_rows(of, start, start + 4), replace(of, code_version="9.9"))
    compact_table(table)
    assert names(table) == ["0-8", "8-16"]
    assert [stamp_of(part)["code_version"] for part in table.parts()] == [of.code_version, "9.9"]


def test_a_part_that_is_added_meanwhile_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table, of = many(tmp_path, 5), manifest()
    check = table_compact.check_part

    def during(*given: object) -> None:
        table.append(20, 24, random_rows(of, 20, 24), of)
        check(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(table_compact, "check_part", during)
    compact_table(table)
    assert names(table) == ["0-20", "20-24"] and table.verify() == []


def test_what_an_interrupted_compaction_left_is_removed(tmp_path: Path) -> None:
    """Sources beside their merged part: read once, reported as overlaps, gone with the next compaction."""
    table = many(tmp_path / "table", 6)
    rows, sources = table.read(), [(p.path, p.path.read_bytes()) for p in table.parts()]
    compact_table(table)
    for path, content in sources[2:]:
        path.write_bytes(content)
    assert rows_equal(table.read(), rows) and len(table) == 24 and table.digest == many(tmp_path / "b", 6).digest
    assert any("overlap" in line for line in table.verify())
    done = compact_table(table)
    assert done.left_over == 4 and "4 left by an interrupted compaction removed" in str(done)
    assert names(table) == ["0-24"] and rows_equal(table.read(), rows) and table.verify() == []


def test_sources_stay_where_the_merged_part_is_damaged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What a kill and a bad disk leave together: the damaged one is set aside, the sources are read."""
    table = many(tmp_path, 6)
    rows, sources = table.read(), [(p.path, p.path.read_bytes()) for p in table.parts()]
    compact_table(table)
    merged = table.parts()[0].path
    content = bytearray(merged.read_bytes())
    content[300:400] = bytes(100)
    merged.write_bytes(content)
    for path, kept in sources:
        path.write_bytes(kept)
    with caplog.at_level(logging.WARNING):
        compact_table(table)
        assert rows_equal(table.read(), rows)
    assert table.done().tolist() == list(range(24))


def test_a_damaged_source_is_set_aside_and_the_others_are_kept(tmp_path: Path) -> None:
    table = many(tmp_path, 6)
    path = table.parts()[3].path
    content = bytearray(path.read_bytes())
    content[200:260] = bytes(60)
    path.write_bytes(content)
    compact_table(table)
    compact_table(table)
    assert names(table) == ["0-12", "16-24"] and table.missing(24).tolist() == [12, 13, 14, 15]
    assert (tmp_path / "set_aside" / path.name).exists()


def test_a_merged_part_that_reads_back_otherwise_is_not_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = many(tmp_path, 4)
    rows, write = table.read(), table_compact.write_parquet

    def wrong(path: Path, content: object, metadata: object) -> None:
        write(path, content.slice(0).set_column(0, "index", content["index"].combine_chunks()[::-1]), metadata)  # type: ignore

    monkeypatch.setattr(table_compact, "write_parquet", wrong)
    with pytest.raises(TableError, match="does not read back as it was written; its sources are kept"):
        compact_table(table)
    assert len(table.parts()) == 4 and rows_equal(table.read(), rows)


def test_a_full_disk_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = many(tmp_path, 4)
    rows = table.read()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(TableError, match="cannot write .*: No space left on device"):
        compact_table(table)
    assert len(table.parts()) == 4 and rows_equal(table.read(), rows)


def test_one_compaction_at_a_time(tmp_path: Path) -> None:
    table = many(tmp_path, 4)
    with table_compact._alone(tmp_path), pytest.raises(TableError, match="another compaction of .* is running"):
        compact_table(table)
    assert compact_table(table).merged == 1


@pytest.mark.parametrize("megabytes", [0.0, -1.0, float("nan")])
def test_sizes_that_cannot_be(tmp_path: Path, megabytes: float) -> None:
    with pytest.raises(TableError, match="parts must hold some megabytes"):
        compact_table(many(tmp_path, 2), megabytes)


@pytest.mark.parametrize("every", [17, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_at_any_moment_no_row_is_lost_or_doubled(tmp_path: Path, every: int) -> None:
    """Killed before every read, write, flush, rename and removal in turn, a compaction leaves rows and digest as they
    were; one that is let run ends the work."""
    whole = many(tmp_path / "whole", 20)
    rows, digest, states = whole.read(), whole.digest, set()
    command = [sys.executable, "-c", KILLED, str(whole.path), str(tmp_path), "3", str(every)]
    done = subprocess.run(command, cwd=Path(fakes.__file__).parent, check=True, capture_output=True, text=True)
    steps = range(3, int(done.stdout) + 1, every)
    for step in steps:
        table = Table.open(tmp_path / str(step))
        states.add((*names(table), len(list((table.path / "parts").iterdir()))))
        assert rows_equal(table.read(), rows) and table.digest == digest
        compact_table(table, 0.05)
        assert rows_equal(table.read(), rows) and table.verify() == []
        assert 1 < len(table.parts()) < 20
    assert steps[-1] > 60 and len(states) > len(steps) // 3  # the moments were many, and left different folders


def test_parts_that_were_checked_are_not_opened_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until one changes; a lost, broken or foreign line costs a look, and nothing else."""
    table, opened = many(tmp_path, 6), []
    check = table_compact.sound_parts.__globals__["check_part"]
    monkeypatch.setitem(
        table_compact.sound_parts.__globals__, "check_part", lambda part, of: (opened.append(part), check(part, of))
    )
    assert len(table.done()) == 24 and opened == []
    file = tmp_path / CHECKED
    lines = file.read_text().splitlines()
    file.write_text("\n".join(["junk \x00 part-1", *lines[2:-1], lines[-1][:40]]))
    assert len(table.done()) == 24 and len(opened) == 3
    file.unlink()
    assert len(table.done()) == 24 and len(opened) == 9
    part = table.parts()[1].path
    part.write_bytes(part.read_bytes()[:-1])
    assert table.missing(24).tolist() == [4, 5, 6, 7] and len(opened) == 10


def test_a_part_of_no_table_is_one_line(tmp_path: Path) -> None:
    table = many(tmp_path, 2)
    pq.write_table(pa.table({"a": [1, 2]}), tmp_path / "parts" / "part-0000000090-0000000092.parquet")
    for work in (table.done, table.read, lambda: compact_table(table)):
        with pytest.raises(TableError, match="another table: it is no part of any table; move it away"):
            work()
    assert json.loads((tmp_path / "manifest.json").read_text())["schema_version"] == 1
