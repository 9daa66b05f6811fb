"""A trained object in a folder: weights as safetensors beside a JSON manifest, each moved into place whole."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from sbi_circuits.errors import InferenceError, SbiCircuitsError
from sbi_circuits.table import replace_file

Tensors = dict[str, torch.Tensor]
T = TypeVar("T")


@dataclass(frozen=True)
class Format:
    """What the files of one kind of object are called.

    Args:
        what: the object, as errors call it.
        schema: version of the manifest.
    """

    what: str
    schema: int

    @property
    def weights(self) -> str:
        """Name of the file of tensors."""
        return f"{self.what}.safetensors"

    @property
    def manifest(self) -> str:
        """Name of the file with everything else."""
        return f"{self.what}.json"

    def write(self, folder: Path, manifest: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> Path:
        """Write both files, the manifest (which holds the schema and the checksum) last; returns the folder."""
        folder.mkdir(parents=True, exist_ok=True)
        content = save({name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()})
        told = {"schema": self.schema, **manifest, "weights_sha256": hashlib.sha256(content).hexdigest()}
        replace_file(folder / self.weights, content)
        replace_file(folder / self.manifest, (json.dumps(told, indent=1, allow_nan=False) + "\n").encode())
        return folder

    def read(self, folder: Path, rebuild: Callable[[dict[str, Any], Tensors], T]) -> T:
        """What `rebuild` makes of manifest and tensors, once they are known to be what was written.

        Raises:
            InferenceError: missing or damaged files, or another schema version.
        """
        content, manifest = _bytes(folder / self.weights), self._manifest(folder / self.manifest)
        if hashlib.sha256(content).hexdigest() != manifest.get("weights_sha256"):
            raise InferenceError(f"{folder / self.weights} is damaged: its checksum is not the one in {self.manifest}")
        try:
            return rebuild(manifest, load(content))
        except (KeyError, TypeError, ValueError, RuntimeError, SafetensorError, SbiCircuitsError) as error:
            raise InferenceError(f"the {self.what} in {folder} is damaged: {_first_line(error)}") from error

    def _manifest(self, path: Path) -> dict[str, Any]:
        try:
            manifest = json.loads(_bytes(path))
        except ValueError as error:
            raise InferenceError(f"{path} is damaged: {_first_line(error)}") from error
        if not isinstance(manifest, dict) or manifest.get("schema") != self.schema:
            raise InferenceError(f"{path} has not schema {self.schema}, the one this version reads")
        return manifest


def named(prefix: str, arrays: Mapping[str, Any]) -> Tensors:
    """Arrays or tensors as tensors, with the prefix and a dot before their names."""
    return {f"{prefix}.{name}": a if isinstance(a, torch.Tensor) else torch.as_tensor(np.asarray(a))
            for name, a in arrays.items()}  # fmt: skip


def part(tensors: Mapping[str, torch.Tensor], prefix: str) -> Tensors:
    """The tensors that `named` gave this prefix, under their own names."""
    return {name.removeprefix(f"{prefix}."): t for name, t in tensors.items() if name.startswith(f"{prefix}.")}


def arrays(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, np.ndarray]:
    """The same, as arrays."""
    return {name: t.numpy() for name, t in part(tensors, prefix).items()}


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InferenceError(f"cannot read {path}: {error.strerror}") from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
