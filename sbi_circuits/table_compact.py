"""Compaction: many small parts of a table become few large ones; safe to kill at any moment.

A merged part is written beside its sources and read back before they are removed. Killed in between, both are there:
they overlap, reading counts every simulation once, and the next compaction removes what is left over.
"""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from sbi_circuits.errors import TableError
from sbi_circuits.table import Table
from sbi_circuits.table_files import Damaged, Gone, open_parquet, read_parquet, write_parquet
from sbi_circuits.table_parts import CHECKED, Checked, Part, check_part, set_aside, sound_parts, stamp_of
from sbi_circuits.table_rows import KEY

LOCK = ".compact.lock"
_VERSION = "code_version"


@dataclass(frozen=True)
class Compaction:
    """What a compaction did.

    Args:
        before, after: parts of the table.
        merged: new parts that were written.
        left_over: parts that an interrupted compaction had left, and that were removed.
    """

    before: int
    after: int
    merged: int
    left_over: int

    def __str__(self) -> str:
        left = f", {self.left_over} left by an interrupted compaction removed" if self.left_over else ""
        return f"{self.before} parts became {self.after}{left}"


def compact_table(table: Table, megabytes: float = 64.0) -> Compaction:
    """Merge parts of a table that lie next to one another; rows, digest and what parts say they are of stay the same.

    Simulations may be added meanwhile. Only parts written by the same version of the code are merged.

    Args:
        table: in a folder.
        megabytes: size of the content of a merged part; that much is held in memory twice.

    Raises:
        TableError: another compaction of this table is running; a part of another table; a disk that is full.

    See also:
        `sbi-circuits table compact`.
    """
    if not megabytes > 0:
        raise TableError(f"parts must hold some megabytes, got {megabytes:g}")
    with _alone(table.path):
        found = sound_parts(table.path, table.manifest)
        kept = _without_left_over(found)
        limit = int(megabytes * 1e6)
        merged = [_merge(table, run) for run in _runs(_sized(kept), limit)]
        if any(merged) or len(kept) < len(found):
            _rewrite_checked(table)
        after = len(table.parts())
    return Compaction(len(found), after, sum(merged), len(found) - len(kept))


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the lock of a table, which the system takes back from a process that dies."""
    try:
        with (folder / LOCK).open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
    except BlockingIOError as error:
        raise TableError(f"another compaction of {folder} is running; wait for it to end") from error


def _without_left_over(parts: list[Part]) -> list[Part]:
    """The parts that are not within another one; those that are within it are removed, once it was read whole."""
    widest: list[Part] = []
    for part in sorted(parts, key=lambda p: (p.start, -p.stop)):
        if not widest or part.stop > widest[-1].stop:
            widest.append(part)
    kept = set(widest)
    inner = [part for part in parts if part not in kept]
    whole = {outer for outer in widest if any(_within(part, outer) for part in inner) and _reads(outer)}
    for part in inner:
        if any(_within(part, outer) for outer in whole):
            part.path.unlink(missing_ok=True)
    return [part for part in parts if part in kept or part.path.exists()]


def _within(part: Part, outer: Part) -> bool:
    return outer.start <= part.start and part.stop <= outer.stop


def _reads(part: Part) -> bool:
    try:
        return len(read_parquet(part.path)) == len(part)
    except (Damaged, Gone):
        return False


def _sized(parts: list[Part]) -> list[tuple[Part, int, object]]:
    """Parts with the size of their content, bytes, and the version that wrote them."""
    found = []
    for part in parts:
        try:
            with open_parquet(part.path) as file:
                size = sum(file.metadata.row_group(k).total_byte_size for k in range(file.metadata.num_row_groups))
            found.append((part, size, stamp_of(part).get(_VERSION)))
        except (Damaged, Gone):
            continue
    return found


def _runs(parts: list[tuple[Part, int, object]], limit: int) -> Iterator[list[Part]]:
    """Parts to merge: of one version, next to one another and together within the limit, or overlapping."""
    run: list[Part] = []
    total, reached, written_by = 0, -1, None
    for part, size, version in parts:
        overlaps, touches = part.start < reached, part.start == reached and total + size <= limit
        if run and not (version == written_by and (overlaps or touches)):
            yield run
            run, total = [], 0
        run, total = [*run, part], total + size
        reached, written_by = part.stop, version
    yield run


def _merge(table: Table, run: list[Part]) -> bool:
    """Write the parts as one, and remove them once it is on the disk and reads back the same."""
    if len(run) < 2:
        return False
    contents, reached = [], 0
    for part in run:
        try:
            contents.append(read_parquet(part.path).slice(max(reached - part.start, 0)))
            reached = part.stop
        except Gone:
            return False
        except Damaged as error:
            set_aside(part, table.path, error)
            return False
    whole = pa.concat_tables(contents).combine_chunks()
    new = Part.of(run[0].path.parent, run[0].start, run[-1].stop)
    stamp = json.dumps(table.manifest.stamp() | {_VERSION: stamp_of(run[0]).get(_VERSION)})
    write_parquet(new.path, whole, {KEY: stamp.encode()})
    _flush(new.path.parent)
    check_part(new, table.manifest)
    if not read_parquet(new.path).equals(whole):
        new.path.unlink()
        raise TableError(f"{new.path.name} does not read back as it was written; its sources are kept")
    for part in run:
        part.path.unlink(missing_ok=True)
    return True


def _flush(folder: Path) -> None:
    """Have the new name on the disk before the old ones go."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _rewrite_checked(table: Table) -> None:
    """Note the parts that are there now, without the lines of those that are gone."""
    parts, known = table.parts(), Checked(table.path)
    (table.path / CHECKED).unlink(missing_ok=True)
    Checked.add(table.path, [part for part in parts if part in known])
    sound_parts(table.path, table.manifest)
