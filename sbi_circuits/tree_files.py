"""Trees of arrays as NetCDF files: written whole or not at all, and read without executing anything."""

import os
from pathlib import Path
from typing import Literal

import xarray as xr

from sbi_circuits.errors import InferenceError

_ENGINE: Literal["h5netcdf"] = "h5netcdf"  # of the NetCDF engines the one that ArviZ installs


def write_tree(tree: xr.DataTree, path: str | Path) -> Path:
    """Write a tree, whole or not at all; folders are made. Returns the path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        tree.to_netcdf(temporary, engine=_ENGINE)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def read_tree(path: str | Path, what: str) -> xr.DataTree:
    """A tree, in memory; `what` names it where it cannot be read.

    Raises:
        InferenceError: a file that is missing or damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise InferenceError(f"there is no {what} {path}")
    try:
        with xr.open_datatree(path, engine=_ENGINE) as tree:
            return tree.load()
    except Exception as error:  # HDF5 names damage in many ways
        raise InferenceError(f"cannot read the {what} {path}: not a whole NetCDF file") from error
