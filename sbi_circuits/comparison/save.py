"""A classifier in a folder: weights as safetensors beside a JSON manifest, each moved into place whole."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from sbi_circuits.calibration import HeldOut, ReachTest
from sbi_circuits.comparison.classifier import CircuitClassifier
from sbi_circuits.comparison.network import ClassifierConfig, Members
from sbi_circuits.comparison.reliability import Reliability
from sbi_circuits.errors import InferenceError, SbiCircuitsError
from sbi_circuits.inference.encode import FeatureEncoder
from sbi_circuits.prior import Prior
from sbi_circuits.table import replace_file

SCHEMA = 1
WEIGHTS, MANIFEST = "classifier.safetensors", "classifier.json"
_FIGURES = ("log_loss", "expected", "accuracy", "p_value", "rows")
_CURVE = ("predicted", "found", "counts")
_PLAIN = ("feature_set", "protocol", "tables")
_ROWS = ("theta", "values", "states")


def save_classifier(classifier: CircuitClassifier, folder: str | Path) -> Path:
    """Write `classifier.safetensors` and `classifier.json` into a folder; returns it."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = {"offset": classifier.offset, "log_ok": classifier.log_ok}
    arrays |= {f"encoder.{name}": a for name, a in classifier.encoder.to_arrays().items()}
    arrays |= {f"reliability.{name}": getattr(classifier.reliability, name) for name in _CURVE}
    for k, name in enumerate(classifier.names):
        test = classifier.reach[name]
        parts = (("known", test.known), ("aside", test.aside))
        arrays |= {f"reach.{k}.{part}.{row}": getattr(held, row) for part, held in parts for row in _ROWS}
    tensors = {name: torch.as_tensor(np.asarray(a)).contiguous().clone() for name, a in arrays.items()}
    tensors |= {f"members.{name}": t.detach().clone() for name, t in classifier.members.state_dict().items()}
    content = save(tensors)
    manifest = {
        "schema": SCHEMA, "circuits": classifier.names, "feature_names": classifier.feature_names,
        "feature_set_digest": classifier.feature_set_digest, "scale": classifier.scale,
        **{name: dict(getattr(classifier, name)) for name in _PLAIN},
        "priors": [classifier.reach[name].known.prior.to_toml() for name in classifier.names],
        "reliability": {name: getattr(classifier.reliability, name) for name in _FIGURES},
        "config": asdict(classifier.members.config), "weights_sha256": hashlib.sha256(content).hexdigest(),
    }  # fmt: skip
    replace_file(folder / WEIGHTS, content)
    replace_file(folder / MANIFEST, (json.dumps(manifest, indent=1, allow_nan=False) + "\n").encode())
    return folder


def load_classifier(folder: str | Path) -> CircuitClassifier:
    """Read what `save_classifier` wrote; its probabilities equal those before.

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
    except (KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise InferenceError(f"the classifier in {folder} is damaged: {str(error).splitlines()[0]}") from error
    except InferenceError:
        raise
    except SbiCircuitsError as error:
        raise InferenceError(f"the classifier in {folder} is damaged: {error}") from error


def _rebuild(manifest: dict[str, Any], tensors: dict[str, torch.Tensor]) -> CircuitClassifier:
    names, features = tuple(manifest["circuits"]), tuple(manifest["feature_names"])
    encoder = FeatureEncoder(**{name: t.numpy() for name, t in _part(tensors, "encoder.").items()})
    members = Members(encoder.inputs, len(names), ClassifierConfig(**manifest["config"]), seed=0)
    members.load_state_dict(_part(tensors, "members."))
    reach = {}
    for k, name in enumerate(names):
        prior = Prior.from_toml(manifest["priors"][k])
        parts = [_part(tensors, f"reach.{k}.{part}.") for part in ("known", "aside")]
        rows = [{row: p[row].numpy() for row in _ROWS} for p in parts]
        reach[name] = ReachTest(*(HeldOut(**r, prior=prior, feature_names=features) for r in rows))
    figures: dict[str, Any] = {name: t.numpy() for name, t in _part(tensors, "reliability.").items()}
    figures |= manifest["reliability"]
    return CircuitClassifier(
        names, features, manifest["feature_set_digest"], encoder, members.eval().requires_grad_(False),
        float(manifest["scale"]), tensors["offset"].numpy(), tensors["log_ok"].numpy(), reach,
        Reliability(**figures), **{name: manifest[name] for name in _PLAIN},
    )  # fmt: skip


def _part(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
