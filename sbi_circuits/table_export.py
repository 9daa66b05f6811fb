"""Tables for other tools: xarray, lazily where dask is there, and NetCDF or Parquet files."""

import os
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from sbi_circuits.errors import TableError
from sbi_circuits.features import DEFINED, UNDEFINED, UNOBSERVED
from sbi_circuits.table import BaseTable, Rows, Table
from sbi_circuits.table_info import overlap
from sbi_circuits.table_parts import Part
from sbi_circuits.table_rows import feature_positions

FORMATS = (".nc", ".parquet")
_SCALARS = ("seed", "outcome", "reason", "proposal", "wall_s", "weight")
_FEATURES = ("x", "state")


def to_xarray(table: BaseTable, features: Sequence[str] | None = None, lazy: bool = True) -> xr.Dataset:
    """The table as a dataset over (simulation, parameter, feature).

    Args:
        table: a table in a folder, or one in memory.
        features: names of features or families; all where None.
        lazy: leave the features of a table in a folder on disk until they are computed, a chunk per part, where dask
            is installed (extra `cluster`); parts must not overlap then.

    Returns:
        `theta` (simulation, parameter), `x` and `state` (simulation, feature), and the other fields by simulation. `x`
        is single precision and NaN where `state` is not "defined" (`state.attrs` has the codes).

    Raises:
        UnknownNameError: for a name that is no feature.
        TableError: parts of another table, or, lazily, parts that overlap.
    """
    table = table.frozen()
    dask = _dask() if lazy and isinstance(table, Table) else None
    light = table.read(("theta", *_SCALARS[1:]))
    chosen = feature_positions(table.manifest.feature_names, features)
    if dask is not None and isinstance(table, Table):
        x, state = _on_disk(table, chosen, dask)
    else:
        x, state = _in_memory(table, features)
    names = np.array(table.manifest.feature_names)[chosen]
    over = ("simulation", "feature")
    variables: dict[str, Any] = {"theta": (("simulation", "parameter"), light.theta)}
    variables |= {"x": (over, x), "state": (over, state)}
    variables |= {name: ("simulation", getattr(light, name)) for name in _SCALARS}
    coords = {
        "simulation": light.index, "parameter": list(table.prior.names), "feature": names.astype(str),
        "family": ("feature", [name.split(".")[0] for name in names]),
        "parameter_unit": ("parameter", [p.unit for p in table.prior.parameters]),
    }  # fmt: skip
    found = xr.Dataset(variables, coords, {"circuit": table.circuit_name, "circuit_digest": table.circuit_digest,
                                           "feature_set_digest": table.manifest.features_digest})  # fmt: skip
    found["state"].attrs = {"defined": DEFINED, "undefined": UNDEFINED, "unobserved": UNOBSERVED}
    found["wall_s"].attrs = {"units": "s"}
    return found


def export(table: BaseTable, path: str | Path, features: Sequence[str] | None = None) -> Path:
    """Write a table as one file, at once or not at all: NetCDF (`.nc`, some parts at a time) or Parquet (`.parquet`).

    Raises:
        TableError: another suffix, features chosen for Parquet, a file that cannot be written.
        UnknownNameError: for a name that is no feature.
    """
    path = Path(path)
    if path.suffix not in FORMATS:
        raise TableError(f"cannot write {path.name}: valid suffixes: {', '.join(FORMATS)}")
    if path.suffix == ".parquet":
        if features is not None:
            raise TableError("a table as one Parquet file has all its features; choose some for .nc")
        return table.export_file(path)
    found = to_xarray(table, features)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        found.to_netcdf(temporary, engine="h5netcdf", encoding={name: {"zlib": True} for name in _FEATURES})
        temporary.replace(path)
    except OSError as error:
        raise TableError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _dask() -> Any:
    """dask and its arrays; None where it is not installed."""
    try:
        return import_module("dask"), import_module("dask.array")
    except ImportError:
        return None


def _masked(rows: Rows) -> np.ndarray:
    return np.where(rows.states == DEFINED, rows.values, np.float32("nan"))


def _in_memory(table: BaseTable, features: Sequence[str] | None) -> tuple[np.ndarray, np.ndarray]:
    width = len(feature_positions(table.manifest.feature_names, features))
    x, state = np.empty((len(table), width), dtype=np.float32), np.empty((len(table), width), dtype=np.uint8)
    at = 0
    for rows in table.batches(("values", "states"), features):
        part = slice(at, at + len(rows))
        x[part], state[part], at = _masked(rows), rows.states, part.stop
    return x, state


def _on_disk(table: Table, chosen: np.ndarray, dask: Any) -> tuple[Any, Any]:
    library, arrays = dask
    parts = table.parts()
    if overlap(parts):
        raise TableError(f"parts of {table.path} overlap; run `sbi-circuits table compact {table.path}` first")
    names = [table.manifest.feature_names[k] for k in chosen]
    read = library.delayed(_one)
    blocks = [(len(part), read(table, part, names)) for part in parts]
    kinds = {"x": np.float32, "state": np.uint8}
    found = [
        [arrays.from_delayed(block[k], (n, len(chosen)), kinds[name]) for n, block in blocks]
        for k, name in enumerate(_FEATURES)
    ]
    empty = [arrays.zeros((0, len(chosen)), dtype=kinds[name]) for name in _FEATURES]
    x, state = (arrays.concatenate(own) if own else none for own, none in zip(found, empty, strict=True))
    return x, state


def _one(table: Table, part: Part, names: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """x and state of one part."""
    own = Table(table.path, table.manifest, [part])
    return _in_memory(own, names)
