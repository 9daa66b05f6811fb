"""Parts: the files of a table. Each is checked against the table, and one that was checked is not opened again."""

import json
import logging
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from sbi_circuits.errors import TableError
from sbi_circuits.table_files import Damaged, Gone, decode, file_columns, open_parquet
from sbi_circuits.table_rows import KEY, Manifest, Rows, Wanted

CHECKED = "checked.txt"  # beside the manifest: name, size and time of change of parts known to be whole
_PART = re.compile(r"part-(\d{10})-(\d{10})\.parquet")
_LINE = re.compile(r"(part-\d{10}-\d{10}\.parquet) (\d+) (\d+)")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, order=True)
class Part:
    """One file of a table: the simulations start..stop."""

    start: int
    stop: int
    path: Path = field(compare=False)

    def __len__(self) -> int:
        return self.stop - self.start

    @classmethod
    def of(cls, folder: Path, start: int, stop: int) -> "Part":
        return cls(start, stop, folder / f"part-{start:010d}-{stop:010d}.parquet")


def list_parts(folder: Path) -> list[Part]:
    """The parts in a folder, in order, by their names; raises `TableError` where there is no folder."""
    try:
        names = os.listdir(folder)
    except OSError as error:
        raise TableError(f"cannot read {folder}: {error.strerror}") from error
    found = ((_PART.fullmatch(name), name) for name in names)
    ranges = sorted((int(m[1]), int(m[2]), name) for m, name in found if m)
    return [Part(start, stop, folder / name) for start, stop, name in ranges]


def check_part(part: Part, manifest: Manifest) -> None:
    """Look at the footer of a part; raises `Damaged`, `Gone`, or `TableError` for one of another table."""
    with open_parquet(part.path) as file:
        _check(file.metadata, part, manifest)


def load_part(part: Part, manifest: Manifest, wanted: Wanted) -> Rows:
    """Rows of a part; raises as `check_part`."""
    with open_parquet(part.path) as file:
        _check(file.metadata, part, manifest)
        content = file.read(file_columns(manifest, wanted), use_threads=False)
    rows = decode(content, manifest, wanted)
    if not np.array_equal(rows.index, np.arange(part.start, part.stop)):
        raise Damaged("its rows are not the simulations its name says")
    return rows


def stamp_of(part: Part) -> dict[str, object]:
    """What a part says it is of; raises `Damaged`."""
    with open_parquet(part.path) as file:
        return _stamp(file.metadata)


def _stamp(footer: object) -> dict[str, object]:
    try:
        found = json.loads((getattr(footer, "metadata", None) or {}).get(KEY, b"{}"))
    except ValueError as error:
        raise Damaged("it does not say what it is of") from error
    return found if isinstance(found, dict) else {}


def _check(footer: object, part: Part, manifest: Manifest) -> None:
    rows, stamp = getattr(footer, "num_rows", 0), _stamp(footer)
    if rows != len(part):
        raise Damaged(f"it has {rows} rows")
    expected = {k: v for k, v in manifest.stamp().items() if k != "code_version"}
    wrong = [name for name, value in expected.items() if stamp.get(name) != value]
    if wrong:
        what = f"{', '.join(wrong)} differ" if stamp else "it is no part of any table"
        raise TableError(f"{part.path} is a part of another table: {what}; move it away")


def set_aside(part: Part, folder: Path, error: Exception) -> None:
    """Move a damaged part out of the way, and say so."""
    aside = folder / "set_aside" / part.path.name
    text = "%s is damaged (%s): set aside in %s; its simulations count as missing"
    _log.warning(text, part.path.name, error, aside.parent)
    aside.parent.mkdir(exist_ok=True)
    try:
        part.path.replace(aside)
    except FileNotFoundError:
        pass  # another process was quicker


class Checked:
    """Parts whose footer was read once: a hint in a file that any process may append to, and that may be deleted.

    A line counts only while size and time of change are those of the part, so that a broken line, or one lost to
    another process, costs one more look at a footer.
    """

    def __init__(self, folder: Path):
        self.path = folder / CHECKED
        self._known: set[str] = set()
        try:
            text = self.path.read_text(encoding="ascii", errors="replace")
        except OSError:
            return
        self._known = {line for line in text.splitlines() if _LINE.fullmatch(line)}

    def __contains__(self, part: Part) -> bool:
        return _line(part) in self._known

    @classmethod
    def add(cls, folder: Path, parts: list[Part]) -> None:
        """Note parts that are whole; what cannot be written is left out."""
        text = "".join(f"{line}\n" for line in map(_line, parts) if line)
        try:
            with (folder / CHECKED).open("a", encoding="ascii") as file:
                file.write(text)
        except OSError:
            pass


def _line(part: Part) -> str:
    try:
        found = os.stat(part.path)
    except OSError:
        return ""
    return f"{part.path.name} {found.st_size} {found.st_mtime_ns}"


def sound_parts(folder: Path, manifest: Manifest) -> list[Part]:
    """The parts that are whole by their footers; damaged ones are set aside.

    Raises:
        TableError: for a part of another table.
    """
    checked, sound, new = Checked(folder), [], []
    for part in list_parts(folder / "parts"):
        if part not in checked:
            try:
                check_part(part, manifest)
            except Gone:
                continue
            except Damaged as error:
                set_aside(part, folder, error)
                continue
            new.append(part)
        sound.append(part)
    if new:
        Checked.add(folder, new)
    return sound
