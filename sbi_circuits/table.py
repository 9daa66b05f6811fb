"""Tables: the append-only store of simulations, one Parquet part per unit of work.

A table is a folder: `manifest.json` says what the rows are of, `parts/part-<start>-<stop>.parquet` hold them.
A part appears whole or not at all, so a table is consistent whenever its writer was killed.
"""

import hashlib
import json
import logging
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sbi_circuits.circuit import Circuit
from sbi_circuits.errors import TableError, UnknownNameError
from sbi_circuits.features import FeatureSet
from sbi_circuits.prior import Prior

SCHEMA_VERSION = 1
WIDE = 64  # a family of more features than this is one list column
_KEY = b"sbi_circuits"
_PART = re.compile(r"part-(\d{10})-(\d{10})\.parquet")
_MECHANISM = ("circuit", "prior", "feature set")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of a table, sorted by seed and index; a field that was not asked for has length 0.

    Args:
        index: (n,) int64, of the simulation within its campaign.
        seed: (n,) int64, of the campaign.
        theta: (n, P) float64, declared units of the prior.
        values: (n, F) features in their units; 0 where not defined.
        states: (n, F) uint8: DEFINED, UNDEFINED or UNOBSERVED.
        outcome, reason: (n,) str, what became of each simulation.
        wall_s: (n,) wall time, seconds.
        proposal: (n,) str, what theta was drawn from.
    """

    index: np.ndarray
    seed: np.ndarray
    theta: np.ndarray
    values: np.ndarray
    states: np.ndarray
    outcome: np.ndarray
    reason: np.ndarray
    wall_s: np.ndarray
    proposal: np.ndarray

    def __len__(self) -> int:
        return len(self.index)

    def take(self, which: np.ndarray) -> "Rows":
        """The rows at some positions, or where a mask is true."""
        return Rows(*(a[which] if len(a) else a for a in map(self.__getattribute__, ROW_FIELDS)))


ROW_FIELDS = tuple(f.name for f in fields(Rows))


def join(parts: Sequence[Rows]) -> Rows:
    """Rows of several parts as one, sorted by seed and index; of repeated ones the first."""
    rows = Rows(*(np.concatenate([getattr(p, name) for p in parts]) for name in ROW_FIELDS))
    rows = rows.take(np.lexsort((rows.index, rows.seed)))
    repeated = (np.diff(rows.index) == 0) & (np.diff(rows.seed) == 0)
    if len(rows.theta):  # one index under two proposals is two simulations
        repeated &= (np.diff(rows.theta, axis=0) == 0).all(1)
    return rows.take(np.concatenate([[True], ~repeated])) if len(rows) else rows


def rows_equal(a: Rows, b: Rows) -> bool:
    """Whether two sets of rows are the same simulations with the same results; wall time does not count."""
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in ROW_FIELDS if name != "wall_s")


@dataclass(frozen=True)
class Manifest:
    """What the rows of a table are of.

    Args:
        circuit_name, circuit_digest, prior: what was simulated.
        features, features_digest, feature_names: content, digest and names of the feature set.
        protocol: plain values: duration, warm-up, what was recorded, time step.
        engine: its name; seed: of the campaign, None where there are several.
        proposal: "prior", or the name and digest of what theta was drawn from.
        code_version, created: of the writer, and when.
    """

    circuit_name: str
    circuit_digest: str
    prior: Prior
    features: Mapping[str, Any]
    features_digest: str
    feature_names: tuple[str, ...]
    protocol: Mapping[str, Any]
    engine: str
    seed: int | None
    proposal: str = "prior"
    code_version: str = field(default_factory=lambda: version("sbi-circuits"))
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    @classmethod
    def of(
        cls, circuit: Circuit, feature_set: FeatureSet, protocol: Mapping[str, Any], engine: str, seed: int | None,
        proposal: str = "prior",
    ) -> "Manifest":  # fmt: skip
        """The manifest of simulations of a circuit under its prior, measured with a feature set."""
        return cls(circuit.name, circuit.digest, circuit.prior, *_described(feature_set), protocol, engine, seed,
                   proposal)  # fmt: skip

    def measured_with(self, feature_set: FeatureSet) -> "Manifest":
        """The manifest of the same simulations, measured with another feature set."""
        features, features_digest, names = _described(feature_set)
        return replace(self, features=features, features_digest=features_digest, feature_names=names)

    def identity(self) -> dict[str, Any]:
        """Everything two tables must share for one to continue the other, by name."""
        own = dict(zip(_MECHANISM, (self.circuit_digest, self.prior.digest, self.features_digest), strict=True))
        protocol = {f"protocol {key}": value for key, value in self.protocol.items()}
        return {**own, **protocol, "engine": self.engine, "seed": self.seed, "proposal": self.proposal}

    def require_same(self, other: "Manifest", where: str, except_for: Iterable[str] = ()) -> None:
        """Raise `TableError` naming everything in which the other manifest differs."""
        here, there = self.identity(), other.identity()
        wrong = [k for k in {**here, **there} if k not in except_for and here.get(k) != there.get(k)]
        if wrong:
            raise TableError(f"{where}: {', '.join(_differs(k, here.get(k), there.get(k)) for k in wrong)}")

    def stamp(self) -> dict[str, Any]:
        """What each part repeats, so that a part alone can be identified."""
        own = {"schema_version": SCHEMA_VERSION, "code_version": self.code_version, "circuit_name": self.circuit_name}
        return {**own, **self.identity()}

    def to_json(self) -> str:
        content = {f.name: getattr(self, f.name) for f in fields(self)}
        content |= {"schema_version": SCHEMA_VERSION, "prior": self.prior.to_toml(), "prior_digest": self.prior.digest}
        return json.dumps(content, indent=1)

    @classmethod
    def from_json(cls, text: str | bytes, where: Path) -> "Manifest":
        """Read a manifest; raises `TableError` naming the file."""
        try:
            content = json.loads(text)
            found = content["schema_version"]
            if found != SCHEMA_VERSION:
                raise TableError(f"{where} has schema version {found}; this code reads version {SCHEMA_VERSION}")
            prior, names = Prior.from_toml(content["prior"]), tuple(content["feature_names"])
            chosen = {f.name: content[f.name] for f in fields(cls)} | {"prior": prior, "feature_names": names}
            return cls(**chosen)
        except (ValueError, KeyError, TypeError) as error:
            raise TableError(f"{where} is not the manifest of a table: {error!r}") from error


def _described(feature_set: FeatureSet) -> tuple[dict[str, Any], str, tuple[str, ...]]:
    return feature_set.to_dict(), feature_set.digest, tuple(feature_set.names)


def _differs(name: str, here: object, there: object) -> str:
    if name in _MECHANISM:
        return f"another {name} ({str(here)[:12]} here, {str(there)[:12]} there)"
    return f"another {name} ({here} here, {there} there)"


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
        """The feature set; raises `FeatureError` where its version is not this code's (measure again then)."""
        return FeatureSet.from_dict(self.manifest.features)

    @property
    def circuit_name(self) -> str:
        return self.manifest.circuit_name

    @property
    def circuit_digest(self) -> str:
        return self.manifest.circuit_digest

    @property
    def digest(self) -> str:
        """SHA-256 of what was simulated and of all rows, wall time excepted; the order of writing does not matter."""
        found = hashlib.sha256("".join(list(map(str, self.manifest.identity().values()))[:3]).encode())
        rows = self.read()
        for name in ROW_FIELDS:
            column = getattr(rows, name)
            if name != "wall_s":
                text = column.dtype.kind == "U"
                found.update(json.dumps(column.tolist()).encode() if text else np.ascontiguousarray(column).tobytes())
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
        content = _encode(chosen, self.manifest, np.float32)
        _write(Path(path), content, {_KEY: self.manifest.to_json().encode()}, level=15)
        return Path(path)


@dataclass(frozen=True, eq=False)
class MemoryTable(BaseTable):
    """A table held in memory: read from a file, or several put together."""

    manifest: Manifest
    rows: Rows

    def read(self, columns: Sequence[str] | None = None) -> Rows:
        wanted = _wanted(columns)
        return Rows(*(a if n in wanted else a[:0] for n, a in ((n, getattr(self.rows, n)) for n in ROW_FIELDS)))


def concat(tables: Sequence[BaseTable]) -> MemoryTable:
    """Several tables as one, in memory; a simulation that is in two of them counts once.

    Raises:
        TableError: no table, or another circuit, prior, feature set or protocol; the message names it.
    """
    if not tables:
        raise TableError("nothing to put together: give at least one table")
    first = tables[0].manifest
    for k, table in enumerate(tables[1:], start=2):
        first.require_same(table.manifest, f"table {k} does not fit the first", ("engine", "seed", "proposal"))
    manifests = [t.manifest for t in tables]
    engine, proposal = (" + ".join(sorted({getattr(m, n) for m in manifests})) for n in ("engine", "proposal"))
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
        """A new table, or the one that is there if it is of the same; raises `TableError` naming what differs."""
        path = Path(path)
        if (path / "manifest.json").exists():
            table = cls.open(path)
            table.manifest.require_same(manifest, f"the table {path} is of something else; choose another folder")
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
            content = _parquet(path)
        except _Damaged as error:
            raise TableError(f"cannot read the table {path}: {error}") from error
        manifest = Manifest.from_json((content.schema.metadata or {}).get(_KEY, b"{}"), path)
        rows = _decode(content, manifest, ROW_FIELDS)
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
        _write(part.path, _encode(rows, manifest), {_KEY: stamp.encode()})
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
        wanted = _wanted(columns)
        found = [self._sound(part, _load_part, wanted) for part in self.parts()]
        empty = _decode(_encode(_no_rows(self.manifest), self.manifest), self.manifest, wanted)
        return join([empty, *(rows for rows in found if rows is not None)])

    def verify(self) -> list[str]:
        """Everything that is wrong, one line each: damaged or foreign parts, overlaps, other code versions."""
        parts, problems = self.parts(), []
        for part in parts:
            try:
                _check_footer(self, part)
                _load_part(self, part, ROW_FIELDS)
            except (_Damaged, TableError) as error:
                problems.append(f"{part.path.name}: {error}")
        strangers = {p.name for p in (self.path / "parts").glob("[!.]*")} - {p.path.name for p in parts}
        problems += [f"{name}: not a part of a table" for name in sorted(strangers)]
        pairs = zip(parts, parts[1:], strict=False)
        return problems + [f"{a.path.name} and {b.path.name} overlap" for a, b in pairs if b.start < a.stop]

    def _sound(self, part: Part, look: Any, *arguments: Any) -> Any:
        """What `look` finds in a part; a damaged part is set aside and gives None."""
        try:
            return look(self, part, *arguments)
        except _Damaged as error:
            aside = self.path / "set_aside" / part.path.name
            _log.warning("%s is damaged (%s): set aside in %s; its simulations count as missing", part.path.name,
                         error, aside.parent)  # fmt: skip
            aside.parent.mkdir(exist_ok=True)
            part.path.replace(aside)
            return None


class _Damaged(Exception):
    """A file that is no whole Parquet file, or does not hold what its name says."""


def _wanted(columns: Sequence[str] | None) -> tuple[str, ...]:
    for name in columns or ():
        if name not in ROW_FIELDS:
            raise UnknownNameError("column of a table", name, ROW_FIELDS)
    return ROW_FIELDS if columns is None else ("index", "seed", *columns)


def _columns(manifest: Manifest) -> list[tuple[str, int, int]]:
    """Feature columns of a file: name and range of features; one range per feature, or per family where wide."""
    found: list[tuple[str, int, int]] = []
    for family, names in groupby(manifest.feature_names, lambda name: name.split(".")[0]):
        own, start = list(names), found[-1][2] if found else 0
        if len(own) > WIDE:
            found.append((f"x.{family}", start, start + len(own)))
        else:
            found += [(f"x.{name}", start + k, start + k + 1) for k, name in enumerate(own)]
    return found


def _encode(rows: Rows, manifest: Manifest, theta_type: type = np.float64) -> pa.Table:
    n, widths = len(rows), (len(manifest.prior), len(manifest.feature_names))
    if rows.theta.shape != (n, widths[0]) or not rows.values.shape == rows.states.shape == (n, widths[1]):
        shapes = f"{rows.theta.shape}, {rows.values.shape} and {rows.states.shape}"
        raise TableError(f"theta, values and states have shapes {shapes}, expected {n} rows of {widths}")
    content = {name: pa.array(getattr(rows, name)) for name in ("index", "seed")}
    content |= {name: pa.array(getattr(rows, name).tolist(), pa.string()) for name in ("outcome", "reason", "proposal")}
    content["wall_s"] = pa.array(rows.wall_s.astype(np.float64))
    for k, name in enumerate(manifest.prior.names):
        content[f"theta.{name}"] = pa.array(rows.theta[:, k].astype(theta_type))
    for name, start, stop in _columns(manifest):
        content[name] = _lists(rows.values[:, start:stop].astype(np.float32))
    content["states"] = _lists(rows.states.astype(np.uint8), always=True)
    return pa.table(content)


def _lists(matrix: np.ndarray, always: bool = False) -> pa.Array:
    flat = pa.array(np.ascontiguousarray(matrix).ravel())
    return pa.FixedSizeListArray.from_arrays(flat, matrix.shape[1]) if always or matrix.shape[1] > 1 else flat


def _decode(content: pa.Table, manifest: Manifest, wanted: Sequence[str]) -> Rows:
    n = len(content)
    found: dict[str, np.ndarray] = {}
    for name, kind in (("index", np.int64), ("seed", np.int64), ("wall_s", np.float64), ("outcome", np.str_),
                       ("reason", np.str_), ("proposal", np.str_)):  # fmt: skip
        found[name] = np.array(content[name].to_pylist() if name in wanted else [], dtype=kind)
    blocks = {"theta": [(f"theta.{name}", k, k + 1) for k, name in enumerate(manifest.prior.names)],
              "values": _columns(manifest), "states": [("states", 0, len(manifest.feature_names))]}  # fmt: skip
    for field_name, columns in blocks.items():
        rows = n if field_name in wanted else 0
        block = np.zeros((rows, columns[-1][2]), dtype=np.uint8 if field_name == "states" else np.float64)
        for name, start, stop in columns if rows else ():
            column = content[name].combine_chunks()
            flat = column if pa.types.is_floating(column.type) else column.flatten()
            block[:, start:stop] = flat.to_numpy(zero_copy_only=False).reshape(n, stop - start)
        found[field_name] = block
    return Rows(**found)


def _file_columns(manifest: Manifest, wanted: Sequence[str]) -> list[str]:
    theta = [f"theta.{name}" for name in manifest.prior.names] if "theta" in wanted else []
    values = [name for name, _, _ in _columns(manifest)] if "values" in wanted else []
    return [name for name in wanted if name not in ("theta", "values")] + theta + values


def _no_rows(manifest: Manifest) -> Rows:
    none, text = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.str_)
    features = np.zeros((0, len(manifest.feature_names)))
    return Rows(none, none, np.zeros((0, len(manifest.prior))), features, features.astype(np.uint8), text, text,
                np.zeros(0), text)  # fmt: skip


def _parquet(path: Path, columns: Sequence[str] | None = None, footer_only: bool = False) -> Any:
    """Content of a Parquet file, or its footer; raises `_Damaged`."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            return file.metadata if footer_only else file.read(columns, use_threads=False)
    except (pa.ArrowException, OSError, KeyError) as error:
        # An error of the system (no permission, no such disk) says nothing about the file.
        if isinstance(error, OSError) and error.errno is not None:
            raise TableError(f"cannot read {path}: {error.strerror}") from error
        raise _Damaged(str(error).splitlines()[0]) from error


def _check_footer(table: Table, part: Part) -> bool:
    """Raises `_Damaged` for a part that is not whole, `TableError` for one of another table."""
    footer = _parquet(part.path, footer_only=True)
    stamp = json.loads((footer.metadata or {}).get(_KEY, b"{}"))
    if footer.num_rows != part.stop - part.start:
        raise _Damaged(f"it has {footer.num_rows} rows")
    wrong = [name for name, value in table.manifest.stamp().items() if name != "code_version" and stamp.get(name) != value]
    if wrong:
        raise TableError(f"{part.path} is a part of another table: {', '.join(wrong)} differ; move it away")
    return True


def _load_part(table: Table, part: Part, wanted: Sequence[str]) -> Rows:
    _check_footer(table, part)
    rows = _decode(_parquet(part.path, _file_columns(table.manifest, wanted)), table.manifest, wanted)
    if not np.array_equal(rows.index, np.arange(part.start, part.stop)):
        raise _Damaged("its rows are not the simulations its name says")
    return rows


def _write(path: Path, content: pa.Table, metadata: Mapping[bytes, bytes], level: int = 3) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(content.replace_schema_metadata(dict(metadata)), sink, compression="zstd", compression_level=level,
                   write_page_checksum=True)  # fmt: skip
    try:
        replace_file(path, sink.getvalue())
    except OSError as error:
        raise TableError(f"cannot write {path}: {error.strerror}") from error


def replace_file(path: Path, content: Any) -> None:
    """Write a file under a temporary name beside it, then move it into place; raises `OSError`."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
