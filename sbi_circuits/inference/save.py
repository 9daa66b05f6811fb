"""Writing a posterior: weights as safetensors beside a JSON manifest, each moved into place whole."""

from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sbi_circuits.inference.artefact import Format, Tensors, named
from sbi_circuits.table import replace_file

if TYPE_CHECKING:
    from sbi_circuits.inference.posterior import Posterior

FORMAT = Format("posterior", schema=2)
LOG = "training.log"
_PACKAGES = ("sbi-circuits", "torch", "zuko", "nflows", "numpy")


def save_posterior(posterior: "Posterior", folder: Path) -> Path:
    """Write a posterior; see `Posterior.save`."""
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / LOG, "".join(f"{line}\n" for line in posterior.log).encode())
    return FORMAT.write(folder, _manifest(posterior), _tensors(posterior))


def _tensors(posterior: "Posterior") -> Tensors:
    flows = {name: _stored(t) for name, t in posterior.flows.state_dict().items()}
    tensors = {"weights": torch.as_tensor(posterior.weights)} | named("flows", flows)
    return tensors | named("encoder", posterior.encoder.to_arrays()) | named("support", posterior.support.to_arrays())


def _stored(tensor: torch.Tensor) -> torch.Tensor:
    """Flows are trained in single precision and evaluated in double: nothing is lost by storing single."""
    return tensor.float() if tensor.is_floating_point() else tensor


def _manifest(posterior: "Posterior") -> dict[str, Any]:
    return {
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
