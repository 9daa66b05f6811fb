"""Rows of tables as Parquet: narrow families of features are columns, wide ones and the states fixed-size lists."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sbi_circuits.errors import TableError
from sbi_circuits.table_rows import TEXTS, Manifest, Rows, Wanted

WIDE = 64  # a family of more features than this is one list column


class Damaged(Exception):
    """A file that is no whole Parquet file, or does not hold what its name says."""


class Gone(Exception):
    """A file that is no longer there."""


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
    content |= {name: pa.array(getattr(rows, name).tolist(), pa.string()) for name in TEXTS}
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


def decode(content: pa.Table, manifest: Manifest, wanted: Wanted) -> Rows:
    """Rows of the content of a file; raises `Damaged` where it is not that of a table's."""
    try:
        return _decode(content, manifest, wanted)
    except (pa.ArrowException, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"its columns are not those of the table: {str(error).splitlines()[0]}") from error


def _decode(content: pa.Table, manifest: Manifest, wanted: Wanted) -> Rows:
    found: dict[str, np.ndarray] = {}
    numbers = {"index": np.int64, "seed": np.int64, "wall_s": np.float64, "weight": np.float64}
    for name, kind in numbers.items():
        found[name] = content[name].to_numpy().astype(kind) if name in wanted.fields else np.zeros(0, kind)
    for name in TEXTS:
        found[name] = _texts(content[name]) if name in wanted.fields else np.zeros(0, np.str_)
    for name, (columns, chosen, width) in _blocks(manifest, wanted).items():
        found[name] = _matrix(content, columns, chosen, len(content) if name in wanted.fields else 0, width)
    return Rows(**found)


def _texts(column: pa.ChunkedArray) -> np.ndarray:
    """As text of NumPy; few are different, so that each is made once."""
    encoded = column.combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    return np.array(encoded.dictionary.to_pylist() or [""], dtype=np.str_)[encoded.indices.to_numpy()]


_Columns = list[tuple[str, int, int]]


def _blocks(manifest: Manifest, wanted: Wanted) -> dict[str, tuple[_Columns, np.ndarray, Any]]:
    """Of each matrix: the columns of a file, the positions wanted of it, and its type."""
    theta = [(f"theta.{name}", k, k + 1) for k, name in enumerate(manifest.prior.names)]
    states = [("states", 0, len(manifest.feature_names))]
    return {
        "theta": (theta, wanted.parameters, np.float64),
        "values": (_columns(manifest), wanted.features, wanted.kind),
        "states": (states, wanted.features, np.uint8),
    }


def _within(chosen: np.ndarray, start: int, stop: int) -> np.ndarray:
    return np.flatnonzero((chosen >= start) & (chosen < stop))


def _matrix(content: pa.Table, columns: _Columns, chosen: np.ndarray, rows: int, kind: Any) -> np.ndarray:
    block: np.ndarray = np.zeros((rows, len(chosen)), kind)
    for name, start, stop in columns if rows else ():
        place = _within(chosen, start, stop)
        if len(place):
            column = content[name].combine_chunks()
            flat = column.flatten() if pa.types.is_fixed_size_list(column.type) else column
            numbers = flat.to_numpy(zero_copy_only=False).reshape(rows, stop - start)
            whole = len(place) == stop - start
            block[:, place[0] : place[-1] + 1] = numbers if whole else numbers[:, chosen[place] - start]
    return block


def file_columns(manifest: Manifest, wanted: Wanted) -> list[str]:
    blocks = _blocks(manifest, wanted)
    in_blocks = [
        name
        for block, (columns, chosen, _) in blocks.items()
        if block in wanted.fields
        for name, start, stop in columns
        if len(_within(chosen, start, stop))
    ]
    return [name for name in wanted.fields if name not in blocks] + in_blocks


@contextmanager
def open_parquet(path: Path) -> Iterator[pq.ParquetFile]:
    """A Parquet file; raises `Damaged`, `Gone`, or `TableError` where the system does not give it."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            yield file
    except FileNotFoundError as error:
        raise Gone(path.name) from error
    except (pa.ArrowException, OSError, KeyError) as error:
        # An error of the system (no permission, no such disk) says nothing about the file.
        if isinstance(error, OSError) and error.errno is not None:
            raise TableError(f"cannot read {path}: {error.strerror}") from error
        raise Damaged(str(error).splitlines()[0]) from error


def read_parquet(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Content of a Parquet file; raises as `open_parquet`."""
    with open_parquet(path) as file:
        return file.read(columns, use_threads=False)


def write_parquet(path: Path, content: pa.Table, metadata: Mapping[bytes, bytes], level: int = 3) -> None:
    """Write a file, at once or not at all; raises `TableError` where it cannot be written."""
    try:
        replace_file(path, to_parquet(content, metadata, level))
    except OSError as error:
        raise TableError(f"cannot write {path}: {error.strerror}") from error


def to_parquet(content: pa.Table, metadata: Mapping[bytes, bytes], level: int = 3) -> pa.Buffer:
    """Bytes of a file with checksums."""
    sink = pa.BufferOutputStream()
    stamped = content.replace_schema_metadata(dict(metadata))
    pq.write_table(stamped, sink, compression="zstd", compression_level=level, write_page_checksum=True)
    return sink.getvalue()


def replace_file(path: Path, content: Any) -> None:
    """Write a file under a temporary name beside it, then move it into place; raises `OSError`."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
