"""Tables: the append-only store of simulations, one Parquet part per unit of work.

A table is a folder: `manifest.json` says what the rows are of, `parts/part-<start>-<stop>.parquet` hold them.
A part appears whole or not at all, so a table is consistent whenever its writer was killed.
"""

import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from sbi_circuits.errors import TableError
from sbi_circuits.features import FeatureSet
from sbi_circuits.prior import Prior
from sbi_circuits.table_digest import digest_of
from sbi_circuits.table_files import Damaged, Gone, decode, encode, read_parquet, replace_file, write_parquet
from sbi_circuits.table_parts import Checked, Part, list_parts, load_part, set_aside, sound_parts
from sbi_circuits.table_rows import KEY, ROW_FIELDS, Manifest, Rows, Wanted, collect, join, no_rows, rows_equal

__all__ = [
    "ROW_FIELDS", "BaseTable", "Manifest", "MemoryTable", "Part", "Rows", "Table", "concat", "join",
    "replace_file", "rows_equal",
]  # fmt: skip

_CAMPAIGN = ("engine", "seed", "proposal")
_BATCH = 2**22  # entries of the features of one batch of a table in memory


class BaseTable(ABC):
    """Simulations of one circuit under one prior, measured with one feature set."""

    manifest: Manifest

    @abstractmethod
    def _batches(self, wanted: Wanted) -> Iterator[Rows]:
        """Rows in order, each simulation once."""

    @abstractmethod
    def read(self, columns: Sequence[str] | None = None) -> Rows:
        """All rows, sorted by seed and index, each simulation once.

        Args:
            columns: fields of `Rows` to read; all where None. Index and seed always come.

        Raises:
            UnknownNameError: for a field that does not exist.
        """

    def batches(
        self, columns: Sequence[str] | None = None, features: Sequence[str] | None = None,
        parameters: Sequence[str] | None = None, precision: Any = np.float32,
    ) -> Iterator[Rows]:  # fmt: skip
        """The rows of `read`, some at a time: one part of the table is in memory, not all of it.

        Args:
            columns: fields of `Rows` to read; all where None. Index and seed always come.
            features: names of features or families ("bursts") that `values` and `states` are to have, in the order
                of the table; all where None.
            parameters: names of the parameters that theta is to have; all where None.
            precision: NumPy type of the values; tables hold single precision.

        Raises:
            UnknownNameError: for a name that does not exist.
            TableError: for a part of another table, or one that is moved meanwhile.
        """
        return self._batches(Wanted.of(self.manifest, columns, features, parameters, precision))

    def frozen(self) -> "BaseTable":
        """This table as it is now: simulations that are added later are not seen."""
        return self

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
        return digest_of(self.frozen())

    def __len__(self) -> int:
        return sum(len(rows) for rows in self.batches(("index",)))

    def counts(self) -> dict[str, int]:
        """How many simulations had each outcome."""
        found: Counter[str] = Counter()
        for rows in self.batches(("outcome",)):
            found.update(rows.outcome.tolist())
        return dict(sorted(found.items()))

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
        return self._only(self.rows, Wanted.of(self.manifest, columns).fields)

    def _only(self, rows: Rows, fields: Sequence[str]) -> Rows:
        found = {name: getattr(rows, name) for name in ROW_FIELDS}
        return Rows(**{name: a if name in fields else a[:0] for name, a in found.items()})

    def _batches(self, wanted: Wanted) -> Iterator[Rows]:
        step = max(1, _BATCH // max(len(wanted.features), 1))
        for k in range(0, len(self.rows), step):
            rows = self._only(self.rows.take(slice(k, k + step)), wanted.fields)
            values: np.ndarray = rows.values[:, wanted.features].astype(wanted.kind)
            states, theta = rows.states[:, wanted.features], rows.theta[:, wanted.parameters]
            yield replace(rows, theta=theta, values=values, states=states)


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


@dataclass(frozen=True, eq=False)
class Table(BaseTable):
    """A table in a folder, grown part by part; see `Table.create`, `Table.open`, `Table.load_file`."""

    path: Path
    manifest: Manifest
    listed: list[Part] | None = None

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
        except (Damaged, Gone) as error:
            raise TableError(f"cannot read the table {path}: {error}") from error
        manifest = Manifest.from_json((content.schema.metadata or {}).get(KEY, b"{}"), path)
        try:
            rows = decode(content, manifest, Wanted.of(manifest))
        except Damaged as error:
            raise TableError(f"cannot read the table {path}: {error}") from error
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
        part = Part.of(self.path / "parts", start, stop)
        stamp = json.dumps(replace(self.manifest, code_version=manifest.code_version).stamp())
        write_parquet(part.path, encode(rows, manifest), {KEY: stamp.encode()})
        Checked.add(self.path, [part])
        return part

    def parts(self) -> list[Part]:
        """The parts there are, in order; their content is not looked at."""
        return list_parts(self.path / "parts") if self.listed is None else list(self.listed)

    def frozen(self) -> "Table":
        return replace(self, listed=self.parts())

    def done(self) -> np.ndarray:
        """Indices of the simulations that are there, sorted; damaged parts are set aside first."""
        ranges = [np.arange(p.start, p.stop) for p in sound_parts(self.path, self.manifest)]
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
        table, wanted = self.frozen(), Wanted.of(self.manifest, columns)
        empty = decode(encode(no_rows(self.manifest), self.manifest), self.manifest, wanted)
        return collect(table._batches(wanted), sum(map(len, table.parts())), empty, wanted.fields)

    def _batches(self, wanted: Wanted) -> Iterator[Rows]:
        reached = 0
        for part in self.parts():
            # Where parts overlap, those before hold all simulations up to `reached`.
            if part.stop > reached and (rows := self._sound(part, wanted)) is not None:
                yield rows.take(slice(max(reached - part.start, 0), None))
                reached = part.stop

    def verify(self) -> list[str]:
        """Everything that is wrong, one line each: damaged or foreign parts, overlaps."""
        parts, problems, wanted = self.parts(), [], Wanted.of(self.manifest)
        for part in parts:
            try:
                load_part(part, self.manifest, wanted)
            except (Damaged, TableError) as error:
                problems.append(f"{part.path.name}: {error}")
            except Gone:
                problems.append(f"{part.path.name}: it was moved meanwhile")
        strangers = {p.name for p in (self.path / "parts").glob("[!.]*")} - {p.path.name for p in parts}
        problems += [f"{name}: not a part of a table" for name in sorted(strangers)]
        pairs = zip(parts, parts[1:], strict=False)
        return problems + [f"{a.path.name} and {b.path.name} overlap" for a, b in pairs if b.start < a.stop]

    def _sound(self, part: Part, wanted: Wanted) -> Rows | None:
        """The rows of a part; a damaged part is set aside and gives None."""
        try:
            return load_part(part, self.manifest, wanted)
        except Gone as error:
            raise TableError(f"{error} was moved while {self.path} was read; read it again") from error
        except Damaged as error:
            set_aside(part, self.path, error)
            if self.listed is not None:
                self.listed.remove(part)
            return None
