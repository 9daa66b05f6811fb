"""Writing a posterior: weights as safetensors beside a JSON manifest, each moved into place whole."""

import hashlib
import json
import os
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import save

if TYPE_CHECKING:
    from sbi_circuits.inference.posterior import Posterior

SCHEMA = 2
WEIGHTS, MANIFEST, LOG = "posterior.safetensors", "posterior.json", "training.log"
_PACKAGES = ("sbi-circuits", "torch", "zuko", "nflows", "numpy")


def save_posterior(posterior: "Posterior", folder: Path) -> Path:
    """Write a posterior; see `Posterior.save`."""
    folder.mkdir(parents=True, exist_ok=True)
    content = save(_tensors(posterior))
    manifest = _manifest(posterior) | {"weights_sha256": hashlib.sha256(content).hexdigest()}
    _replace(folder / WEIGHTS, content)
    _replace(folder / LOG, "".join(f"{line}\n" for line in posterior.log).encode())
    _replace(folder / MANIFEST, (json.dumps(manifest, indent=1, allow_nan=False) + "\n").encode())
    return folder


def _tensors(posterior: "Posterior") -> dict[str, torch.Tensor]:
    parts: dict[str, torch.Tensor] = {"weights": torch.as_tensor(posterior.weights)}
    parts |= {f"encoder.{name}": torch.as_tensor(a) for name, a in posterior.encoder.to_arrays().items()}
    parts |= {f"support.{name}": torch.as_tensor(a) for name, a in posterior.support.to_arrays().items()}
    parts |= {f"flows.{name}": _stored(t) for name, t in posterior.flows.state_dict().items()}
    return {name: t.detach().cpu().contiguous().clone() for name, t in parts.items()}


def _stored(tensor: torch.Tensor) -> torch.Tensor:
    """Flows are trained in single precision and evaluated in double: nothing is lost by storing single."""
    return tensor.float() if tensor.is_floating_point() else tensor


def _manifest(posterior: "Posterior") -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "prior": posterior.prior.to_toml(),
        "prior_digest": posterior.prior.digest,
        "feature_names": posterior.feature_names,
        "feature_units": posterior.feature_units,
        "signed_log": np.array(posterior.feature_names)[posterior.encoder.log].tolist(),
        "ignored": np.array(posterior.feature_names)[posterior.encoder.ignored].tolist(),
        "flows": asdict(posterior.flows.spec),
        "versions": {package: version(package) for package in _PACKAGES},
        "provenance": dict(posterior.provenance),
        "log": posterior.log,
    }


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(content)
    os.replace(temporary, path)
