"""Tables: the append-only store of simulations, one Parquet part per unit of work.

A table is a folder: `manifest.json` says what the rows are of, `parts/part-<start>-<stop>.parquet` hold them.
A part appears whole or not at all, so a table is consistent whenever its writer was killed.
"""

import hashlib
import json
import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from sbi_circuits.errors import TableError
from sbi_circuits.features import FeatureSet
from sbi_circuits.prior import Prior
from sbi_circuits.table_rows import (
    KEY,
    MECHANISM,
    ROW_FIELDS,
    Damaged,
    Manifest,
    Rows,
    content_bytes,
    decode,
    encode,
    file_columns,
    join,
    no_rows,
    read_parquet,
    replace_file,
    rows_equal,
    wanted_fields,
    write_parquet,
)  # fmt: skip

__all__ = [
    "ROW_FIELDS", "BaseTable", "Manifest", "MemoryTable", "Part", "Rows", "Table", "concat", "join",
    "replace_file", "rows_equal",
]  # fmt: skip

_PART = re.compile(r"part-(\d{10})-(\d{10})\.parquet")
_CAMPAIGN = ("engine", "seed", "proposal")
_log = logging.getLogger(__name__)


class BaseTable(ABC):
    """Simulations of one circuit under one prior, measured with one feature set."""

    manifest: Manifest

    @abstractmethod
    def read(self, columns: Sequence[str] | None = None) -> Rows:
        """All rows, sorted by seed and index, each simulation once.

        Args:
            columns: fields of `Rows` to read; all where None. Index and seed always come.

        Raises:
            UnknownNameError: for a field that does not exist.
        """

    @property
    def prior(self) -> Prior:
        return self.manifest.prior

    @cached_property
    def feature_set(self) -> FeatureSet:
        """The feature set; raises `FeatureError` where its version is not this code's."""
        return FeatureSet.from_dict(self.manifest.features)

    @property
    def circuit_name(self) -> str:
        return self.manifest.circuit_name

    @property
    def circuit_digest(self) -> str:
        return self.manifest.circuit_digest

    @property
    def digest(self) -> str:
        """SHA-256 of what was simulated and of all rows, whatever the order of writing; not of wall time."""
        identity, rows = self.manifest.identity(), self.read()
        found = hashlib.sha256("".join(identity[name] for name in MECHANISM).encode())
        for name in ROW_FIELDS:
            if name != "wall_s":
                found.update(content_bytes(getattr(rows, name)))
        return found.hexdigest()

    def __len__(self) -> int:
        return len(self.read(("index",)))

    def counts(self) -> dict[str, int]:
        """How many simulations had each outcome."""
        names, counts = np.unique(self.read(("outcome",)).outcome, return_counts=True)
        return dict(zip(names.tolist(), counts.tolist(), strict=True))

    def export_file(self, path: str | Path, only: Sequence[str] | None = None) -> Path:
        """Write all rows to one Parquet file, theta and features as float32; `Table.load_file` reads it.

        Args:
            path: of the file.
            only: outcomes to keep; all where None.
        """
        rows = self.read()
        chosen = rows if only is None else rows.take(np.isin(rows.outcome, list(only)))
        content = encode(chosen, self.manifest, np.float32)
        write_parquet(Path(path), content, {KEY: self.manifest.to_json().encode()}, level=15)
        return Path(path)


@dataclass(frozen=True, eq=False)
class MemoryTable(BaseTable):
    """A table held in memory: read from a file, or several put together."""

    manifest: Manifest
    rows: Rows

    def read(self, columns: Sequence[str] | None = None) -> Rows:
        wanted = wanted_fields(columns)
        found = {name: getattr(self.rows, name) for name in ROW_FIELDS}
        return Rows(**{name: a if name in wanted else a[:0] for name, a in found.items()})


def concat(tables: Sequence[BaseTable]) -> MemoryTable:
    """Several tables as one, in memory; a simulation that is in two of them counts once.

    Raises:
        TableError: no table, or another circuit, prior, feature set or protocol; the message names it.
    """
    if not tables:
        raise TableError("nothing to put together: give at least one table")
    first = tables[0].manifest
    for k, table in enumerate(tables[1:], start=2):
        first.require_same(table.manifest, f"table {k} does not fit the first", _CAMPAIGN)
    manifests = [table.manifest for table in tables]
    engine = " + ".join(sorted({m.engine for m in manifests}))
    proposal = " + ".join(sorted({m.proposal for m in manifests}))
    seed = first.seed if len({m.seed for m in manifests}) == 1 else None
    manifest = replace(first, engine=engine, proposal=proposal, seed=seed)
    return MemoryTable(manifest, join([table.read() for table in tables]))


@dataclass(frozen=True, order=True)
class Part:
    """One file of a table: the simulations start..stop."""

    start: int
    stop: int
    path: Path = field(compare=False)


@dataclass(frozen=True, eq=False)
class Table(BaseTable):
    """A table in a folder, grown part by part; see `Table.create`, `Table.open`, `Table.load_file`."""

    path: Path
    manifest: Manifest

    @classmethod
    def create(cls, path: str | Path, manifest: Manifest) -> "Table":
        """A new table, or the one that is there if it is of the same.

        Raises:
            TableError: a table of something else, naming what differs; a folder that cannot be made.
        """
        path = Path(path)
        if (path / "manifest.json").exists():
            table = cls.open(path)
            table.manifest.require_same(manifest, f"the table {path} is of something else")
            return table
        try:
            (path / "parts").mkdir(parents=True, exist_ok=True)
            replace_file(path / "manifest.json", manifest.to_json().encode())
        except OSError as error:
            raise TableError(f"cannot make a table in {path}: {error.strerror}") from error
        return cls(path, manifest)

    @classmethod
    def open(cls, path: str | Path) -> "Table":
        """The table in a folder; raises `TableError` where there is none."""
        path, file = Path(path), Path(path) / "manifest.json"
        if not file.is_file():
            raise TableError(f"{path} is not a table: it has no manifest.json")
        return cls(path, Manifest.from_json(file.read_bytes(), file))

    @staticmethod
    def load_file(path: str | Path) -> MemoryTable:
        """A table from a single file that `export_file` wrote; raises `TableError` naming the file."""
        path = Path(path)
        if not path.is_file():
            raise TableError(f"there is no table {path}")
        try:
            content = read_parquet(path)
        except Damaged as error:
            raise TableError(f"cannot read the table {path}: {error}") from error
        manifest = Manifest.from_json((content.schema.metadata or {}).get(KEY, b"{}"), path)
        rows = decode(content, manifest, ROW_FIELDS)
        bounds = np.array([(p.low, p.high) for p in manifest.prior.parameters]).T
        # float32 may round over a bound of the prior.
        return MemoryTable(manifest, join([replace(rows, theta=np.clip(rows.theta, *bounds))]))

    def append(self, start: int, stop: int, rows: Rows, manifest: Manifest) -> Part:
        """Write the simulations start..stop as one part.

        Args:
            start, stop: range of indices.
            rows: stop - start of them, in order.
            manifest: what these rows are of.

        Raises:
            TableError: rows of something else than this table's, naming what differs, or not of this range.
        """
        self.manifest.require_same(manifest, f"these rows do not belong to {self.path}")
        if not np.array_equal(rows.index, np.arange(start, stop)):
            raise TableError(f"these rows are not the simulations {start} to {stop}")
        part = Part(start, stop, self.path / "parts" / f"part-{start:010d}-{stop:010d}.parquet")
        stamp = json.dumps(replace(self.manifest, code_version=manifest.code_version).stamp())
        write_parquet(part.path, encode(rows, manifest), {KEY: stamp.encode()})
        return part

    def parts(self) -> list[Part]:
        """The parts there are, in order; their content is not looked at."""
        found = ((_PART.fullmatch(p.name), p) for p in (self.path / "parts").iterdir())
        return sorted(Part(int(m[1]), int(m[2]), path) for m, path in found if m)

    def done(self) -> np.ndarray:
        """Indices of the simulations that are there, sorted; damaged parts are set aside first."""
        ranges = [np.arange(p.start, p.stop) for p in self.parts() if self._sound(p, _check_footer)]
        return np.unique(np.concatenate([np.zeros(0, dtype=np.int64), *ranges]))

    def missing(self, n: int) -> np.ndarray:
        """Indices below n that are not there, sorted."""
        return np.setdiff1d(np.arange(n), self.done(), assume_unique=True)

    def read(self, columns: Sequence[str] | None = None) -> Rows:
        """All rows, sorted by index, each simulation once; damaged parts are set aside, named and left out.

        Raises:
            UnknownNameError: for a field that does not exist.
            TableError: for a part of another table.
        """
        wanted = wanted_fields(columns)
        found = [self._sound(part, _load_part, wanted) for part in self.parts()]
        empty = decode(encode(no_rows(self.manifest), self.manifest), self.manifest, wanted)
        return join([empty, *(rows for rows in found if rows is not None)])

    def verify(self) -> list[str]:
        """Everything that is wrong, one line each: damaged or foreign parts, overlaps."""
        parts, problems = self.parts(), []
        for part in parts:
            try:
                _check_footer(self, part)
                _load_part(self, part, ROW_FIELDS)
            except (Damaged, TableError) as error:
                problems.append(f"{part.path.name}: {error}")
        strangers = {p.name for p in (self.path / "parts").glob("[!.]*")} - {p.path.name for p in parts}
        problems += [f"{name}: not a part of a table" for name in sorted(strangers)]
        pairs = zip(parts, parts[1:], strict=False)
        return problems + [f"{a.path.name} and {b.path.name} overlap" for a, b in pairs if b.start < a.stop]

    def _sound(self, part: Part, look: Any, *arguments: Any) -> Any:
        """What `look` finds in a part; a damaged part is set aside and gives None."""
        try:
            return look(self, part, *arguments)
        except Damaged as error:
            aside = self.path / "set_aside" / part.path.name
            text = "%s is damaged (%s): set aside in %s; its simulations count as missing"
            _log.warning(text, part.path.name, error, aside.parent)
            aside.parent.mkdir(exist_ok=True)
            part.path.replace(aside)
            return None


def _check_footer(table: Table, part: Part) -> bool:
    """Raises `Damaged` for a part that is not whole, `TableError` for one of another table."""
    footer = read_parquet(part.path, footer_only=True)
    stamp = json.loads((footer.metadata or {}).get(KEY, b"{}"))
    if footer.num_rows != part.stop - part.start:
        raise Damaged(f"it has {footer.num_rows} rows")
    expected = {k: v for k, v in table.manifest.stamp().items() if k != "code_version"}
    wrong = [name for name, value in expected.items() if stamp.get(name) != value]
    if wrong:
        raise TableError(f"{part.path} is a part of another table: {', '.join(wrong)} differ; move it away")
    return True


def _load_part(table: Table, part: Part, wanted: Sequence[str]) -> Rows:
    _check_footer(table, part)
    rows = decode(read_parquet(part.path, file_columns(table.manifest, wanted)), table.manifest, wanted)
    if not np.array_equal(rows.index, np.arange(part.start, part.stop)):
        raise Damaged("its rows are not the simulations its name says")
    return rows
