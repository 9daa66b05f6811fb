"""Rows of tables and what they are of, to and from Parquet files."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
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
KEY = b"sbi_circuits"  # of the metadata in a file
MECHANISM = ("circuit", "prior", "feature set")
_TEXTS = {"outcome": np.str_, "reason": np.str_, "proposal": np.str_}


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
        weight: (n,) prior density over the density theta was drawn from, on average 1; 1 for draws of the prior.
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
    weight: np.ndarray

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
        cls, circuit: Circuit, feature_set: FeatureSet, protocol: Mapping[str, Any], engine: str,
        seed: int | None, proposal: str = "prior",
    ) -> "Manifest":  # fmt: skip
        """The manifest of simulations of a circuit under its prior, measured with a feature set."""
        what = (circuit.name, circuit.digest, circuit.prior, *_described(feature_set))
        return cls(*what, protocol, engine, seed, proposal)

    def measured_with(self, feature_set: FeatureSet) -> "Manifest":
        """The manifest of the same simulations, measured with another feature set."""
        features, features_digest, names = _described(feature_set)
        return replace(self, features=features, features_digest=features_digest, feature_names=names)

    def identity(self) -> dict[str, Any]:
        """Everything two tables must share for one to continue the other, by name."""
        digests = (self.circuit_digest, self.prior.digest, self.features_digest)
        own = dict(zip(MECHANISM, digests, strict=True))
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
        versions = {"schema_version": SCHEMA_VERSION, "code_version": self.code_version}
        return {**versions, "circuit_name": self.circuit_name, **self.identity()}

    def to_json(self) -> str:
        content = {f.name: getattr(self, f.name) for f in fields(self)}
        content |= {"prior": self.prior.to_toml(), "prior_digest": self.prior.digest}
        content["schema_version"] = SCHEMA_VERSION
        return json.dumps(content, indent=1)

    @classmethod
    def from_json(cls, text: str | bytes, where: Path) -> "Manifest":
        """Read a manifest; raises `TableError` naming the file."""
        try:
            content = json.loads(text)
            found = content["schema_version"]
            if found != SCHEMA_VERSION:
                raise TableError(f"{where} has schema version {found}; this code reads {SCHEMA_VERSION}")
            prior, names = Prior.from_toml(content["prior"]), tuple(content["feature_names"])
            chosen = {f.name: content[f.name] for f in fields(cls)} | {"prior": prior, "feature_names": names}
            return cls(**chosen)
        except (ValueError, KeyError, TypeError) as error:
            raise TableError(f"{where} is not the manifest of a table: {error!r}") from error


def _described(feature_set: FeatureSet) -> tuple[dict[str, Any], str, tuple[str, ...]]:
    return feature_set.to_dict(), feature_set.digest, tuple(feature_set.names)


def _differs(name: str, here: object, there: object) -> str:
    if name in MECHANISM:
        return f"another {name} ({str(here)[:12]} here, {str(there)[:12]} there)"
    return f"another {name} ({here} here, {there} there)"


def content_bytes(column: np.ndarray) -> bytes:
    text = column.dtype.kind == "U"
    return json.dumps(column.tolist()).encode() if text else np.ascontiguousarray(column).tobytes()


class Damaged(Exception):
    """A file that is no whole Parquet file, or does not hold what its name says."""


def wanted_fields(columns: Sequence[str] | None) -> tuple[str, ...]:
    for name in columns or ():
        if name not in ROW_FIELDS:
            raise UnknownNameError("column of a table", name, ROW_FIELDS)
    return ROW_FIELDS if columns is None else ("index", "seed", *columns)


def _columns(manifest: Manifest) -> list[tuple[str, int, int]]:
    """Feature columns of a file, name and range: one per feature, or one per family where it is wide."""
    found: list[tuple[str, int, int]] = []
    for family, names in groupby(manifest.feature_names, lambda name: name.split(".")[0]):
        own, start = list(names), found[-1][2] if found else 0
        if len(own) > WIDE:
            found.append((f"x.{family}", start, start + len(own)))
        else:
            found += [(f"x.{name}", start + k, start + k + 1) for k, name in enumerate(own)]
    return found


def encode(rows: Rows, manifest: Manifest, theta_type: type = np.float64) -> pa.Table:
    n, widths = len(rows), (len(manifest.prior), len(manifest.feature_names))
    if rows.theta.shape != (n, widths[0]) or not rows.values.shape == rows.states.shape == (n, widths[1]):
        shapes = f"{rows.theta.shape}, {rows.values.shape} and {rows.states.shape}"
        raise TableError(f"theta, values and states have shapes {shapes}, expected {n} rows of {widths}")
    content = {name: pa.array(getattr(rows, name)) for name in ("index", "seed")}
    content |= {name: pa.array(getattr(rows, name).tolist(), pa.string()) for name in _TEXTS}
    content |= {name: pa.array(getattr(rows, name).astype(np.float64)) for name in ("wall_s", "weight")}
    for k, name in enumerate(manifest.prior.names):
        content[f"theta.{name}"] = pa.array(rows.theta[:, k].astype(theta_type))
    for name, start, stop in _columns(manifest):
        content[name] = _lists(rows.values[:, start:stop].astype(np.float32))
    content["states"] = _lists(rows.states.astype(np.uint8), always=True)
    return pa.table(content)


def _lists(matrix: np.ndarray, always: bool = False) -> pa.Array:
    flat = pa.array(np.ascontiguousarray(matrix).ravel())
    return pa.FixedSizeListArray.from_arrays(flat, matrix.shape[1]) if always or matrix.shape[1] > 1 else flat


def decode(content: pa.Table, manifest: Manifest, wanted: Sequence[str]) -> Rows:
    n = len(content)
    found: dict[str, np.ndarray] = {}
    numbers = {"index": np.int64, "seed": np.int64, "wall_s": np.float64, "weight": np.float64}
    for name, kind in {**numbers, **_TEXTS}.items():
        found[name] = np.array(content[name].to_pylist() if name in wanted else [], dtype=kind)
    for name, columns in _blocks(manifest).items():
        found[name] = _matrix(content, columns, n if name in wanted else 0)
    found["states"] = found["states"].astype(np.uint8)
    return Rows(**found)


def _blocks(manifest: Manifest) -> dict[str, list[tuple[str, int, int]]]:
    theta = [(f"theta.{name}", k, k + 1) for k, name in enumerate(manifest.prior.names)]
    states = [("states", 0, len(manifest.feature_names))]
    return {"theta": theta, "values": _columns(manifest), "states": states}


def _matrix(content: pa.Table, columns: list[tuple[str, int, int]], rows: int) -> np.ndarray:
    block = np.zeros((rows, columns[-1][2]))
    for name, start, stop in columns if rows else ():
        column = content[name].combine_chunks()
        flat = column if pa.types.is_floating(column.type) else column.flatten()
        block[:, start:stop] = flat.to_numpy(zero_copy_only=False).reshape(rows, stop - start)
    return block


def file_columns(manifest: Manifest, wanted: Sequence[str]) -> list[str]:
    blocks = _blocks(manifest)
    in_blocks = [name for block in blocks if block in wanted for name, _, _ in blocks[block]]
    return [name for name in wanted if name not in blocks] + in_blocks


def no_rows(manifest: Manifest) -> Rows:
    none, text = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.str_)
    theta, values = np.zeros((0, len(manifest.prior))), np.zeros((0, len(manifest.feature_names)))
    return Rows(none, none, theta, values, values.astype(np.uint8), text, text, np.zeros(0), text,
                np.zeros(0))  # fmt: skip


def read_parquet(path: Path, columns: Sequence[str] | None = None, footer_only: bool = False) -> Any:
    """Content of a Parquet file, or its footer; raises `Damaged`."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            return file.metadata if footer_only else file.read(columns, use_threads=False)
    except (pa.ArrowException, OSError, KeyError) as error:
        # An error of the system (no permission, no such disk) says nothing about the file.
        if isinstance(error, OSError) and error.errno is not None:
            raise TableError(f"cannot read {path}: {error.strerror}") from error
        raise Damaged(str(error).splitlines()[0]) from error


def write_parquet(path: Path, content: pa.Table, metadata: Mapping[bytes, bytes], level: int = 3) -> None:
    sink = pa.BufferOutputStream()
    stamped = content.replace_schema_metadata(dict(metadata))
    pq.write_table(stamped, sink, compression="zstd", compression_level=level, write_page_checksum=True)
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
