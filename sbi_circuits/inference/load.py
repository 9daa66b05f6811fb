"""Reading a posterior that was saved; no code in the files is run, as there is none."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load

from sbi_circuits.errors import InferenceError, SbiCircuitsError
from sbi_circuits.inference.config import FlowSpec
from sbi_circuits.inference.encode import FeatureEncoder
from sbi_circuits.inference.flows import build_flows, torch_device
from sbi_circuits.inference.posterior import Posterior
from sbi_circuits.inference.save import MANIFEST, SCHEMA, WEIGHTS
from sbi_circuits.inference.shipped import posterior_folder
from sbi_circuits.inference.support import Support
from sbi_circuits.prior import Prior


def load_posterior(name_or_folder: str | Path, device: str = "cpu") -> Posterior:
    """Read a posterior that `Posterior.save` wrote; its draws equal those before, seed by seed.

    Args:
        name_or_folder: where it was saved; or, where there is no such folder, the name of a posterior that comes with
            the package ("adex_clustered"; `load_card` says how far to trust it).
        device: "cpu", "cuda", or "auto".

    Raises:
        InferenceError: missing or damaged files, or another schema version.
        UnknownNameError: a name that is neither a folder nor shipped.

    Examples:
        >>> posterior = load_posterior("adex_clustered")
        >>> posterior({"bursts.interval_mean": 10.0, "bursts.width_mean": 0.07}).sample(100, seed=0).shape
        (100, 28)
    """
    folder = posterior_folder(name_or_folder)
    content, manifest = _read(folder / WEIGHTS), _read_manifest(folder / MANIFEST)
    if hashlib.sha256(content).hexdigest() != manifest.get("weights_sha256"):
        raise InferenceError(f"{folder / WEIGHTS} is damaged: its checksum is not the one in {MANIFEST}")
    try:
        return _rebuild(manifest, load(content)).to(torch_device(device))
    except (KeyError, TypeError, ValueError, RuntimeError, SafetensorError, SbiCircuitsError) as error:
        raise InferenceError(f"cannot read the posterior in {folder}: {_first_line(error)}") from error


def _rebuild(manifest: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> Posterior:
    content = manifest["flows"]
    flows = build_flows(FlowSpec(**content | {"missing": tuple(content["missing"])}), seed=0)
    flows.load_state_dict(_part(tensors, "flows."))
    return Posterior(
        prior=Prior.from_toml(manifest["prior"]),
        feature_names=tuple(manifest["feature_names"]),
        feature_units=tuple(manifest["feature_units"]),
        encoder=FeatureEncoder(**_arrays(tensors, "encoder.")),
        flows=flows,
        weights=tensors["weights"].numpy(),
        support=Support(**_arrays(tensors, "support.")),
        provenance=manifest["provenance"],
        log=tuple(manifest["log"]),
    )


def _part(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def _arrays(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, np.ndarray]:
    return {name: t.numpy() for name, t in _part(tensors, prefix).items()}


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InferenceError(f"cannot read {path}: {error.strerror}") from error


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(_read(path))
    except ValueError as error:
        raise InferenceError(f"{path} is damaged: {_first_line(error)}") from error
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
        raise InferenceError(f"{path} has not schema {SCHEMA}, the one this version reads")
    return manifest


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
