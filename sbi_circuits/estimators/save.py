"""An estimator in a folder: weights as safetensors beside a JSON manifest, each moved into place whole."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from sbi_circuits.comparison.network import ClassifierConfig, Members
from sbi_circuits.errors import InferenceError, PriorError
from sbi_circuits.estimators.likelihood import AutoregressiveDensity, LikelihoodConfig, NeuralLikelihood
from sbi_circuits.estimators.posterior import EstimatedPosterior, LogDensity
from sbi_circuits.estimators.ratio import NeuralRatio, RatioConfig
from sbi_circuits.inference.encode import FeatureEncoder
from sbi_circuits.inference.support import Support
from sbi_circuits.prior import Prior
from sbi_circuits.table import replace_file

SCHEMA = 1
WEIGHTS, MANIFEST = "estimator.safetensors", "estimator.json"


def save_estimator(posterior: EstimatedPosterior, folder: str | Path) -> Path:
    """Write `estimator.safetensors` and `estimator.json` into a folder; returns it."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    density: Any = posterior.density
    arrays = {f"encoder.{name}": a for name, a in posterior.encoder.to_arrays().items()}
    arrays |= {f"support.{name}": a for name, a in posterior.support.to_arrays().items()}
    tensors = {name: torch.as_tensor(np.asarray(a)).contiguous().clone() for name, a in arrays.items()}
    tensors |= {f"density.{name}": t.detach().clone() for name, t in density.network.state_dict().items()}
    if posterior.ok is not None:
        tensors |= {f"ok.{name}": t.detach().clone() for name, t in posterior.ok.state_dict().items()}
    content = save(tensors)
    manifest = {
        "schema": SCHEMA, "kind": posterior.kind, "prior": posterior.prior.to_toml(),
        "feature_names": posterior.feature_names, "feature_units": posterior.feature_units,
        "config": asdict(density.network.config), "ok": posterior.ok and asdict(posterior.ok.config),
        "provenance": dict(posterior.provenance), "log": posterior.log, "particles": posterior.particles,
        "weights_sha256": hashlib.sha256(content).hexdigest(),
    }  # fmt: skip
    replace_file(folder / WEIGHTS, content)
    replace_file(folder / MANIFEST, (json.dumps(manifest, indent=1, allow_nan=False) + "\n").encode())
    return folder


def load_estimator(folder: str | Path) -> EstimatedPosterior:
    """Read what `save_estimator` wrote; its draws equal those before, seed by seed.

    Raises:
        InferenceError: missing or damaged files, or another schema version.
    """
    folder = Path(folder)
    try:
        content = (folder / WEIGHTS).read_bytes()
        manifest = json.loads((folder / MANIFEST).read_bytes())
        if manifest["schema"] != SCHEMA:
            raise InferenceError(f"{folder / MANIFEST} has not schema {SCHEMA}, the one this version reads")
        if hashlib.sha256(content).hexdigest() != manifest["weights_sha256"]:
            raise InferenceError(f"{folder / WEIGHTS} is damaged: its checksum is not the one in {MANIFEST}")
        return _rebuild(manifest, load(content))
    except OSError as error:
        raise InferenceError(f"cannot read {error.filename}: {error.strerror}") from error
    except (KeyError, TypeError, ValueError, RuntimeError, SafetensorError, PriorError) as error:
        raise InferenceError(f"the estimator in {folder} is damaged: {str(error).splitlines()[0]}") from error


def _rebuild(manifest: dict[str, Any], tensors: dict[str, torch.Tensor]) -> EstimatedPosterior:
    prior = Prior.from_toml(manifest["prior"])
    encoder = FeatureEncoder(**{name: t.numpy() for name, t in _part(tensors, "encoder.").items()})
    support = Support(**{name: t.numpy() for name, t in _part(tensors, "support.").items()})
    weights = _part(tensors, "density.")
    density: LogDensity
    if manifest["kind"] == "likelihood":
        network = AutoregressiveDensity(len(prior), weights["used"], LikelihoodConfig(**manifest["config"]), seed=0)
        density = NeuralLikelihood(_filled(network, weights))
    else:
        members = Members(len(prior) + encoder.inputs, 1, RatioConfig(**manifest["config"]), seed=0)
        density = NeuralRatio(_filled(members, weights))
    ok = None
    if manifest["ok"] is not None:
        ok = _filled(Members(len(prior), 2, ClassifierConfig(**manifest["ok"]), seed=0), _part(tensors, "ok."))
    return EstimatedPosterior(
        prior, tuple(manifest["feature_names"]), tuple(manifest["feature_units"]), encoder, manifest["kind"], density,
        ok, support, manifest["provenance"], tuple(manifest["log"]), int(manifest["particles"]),
    )  # fmt: skip


def _filled(network: Any, weights: dict[str, torch.Tensor]) -> Any:
    network.load_state_dict(weights)
    return network.eval().requires_grad_(False)


def _part(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
