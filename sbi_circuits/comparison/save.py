"""A classifier in a folder: weights as safetensors beside a JSON manifest, each moved into place whole."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from sbi_circuits.calibration import HeldOut, ReachTest
from sbi_circuits.comparison.classifier import CircuitClassifier
from sbi_circuits.comparison.network import ClassifierConfig, Members
from sbi_circuits.comparison.reliability import Reliability
from sbi_circuits.inference.artefact import Format, Tensors, arrays, named, part
from sbi_circuits.inference.encode import FeatureEncoder
from sbi_circuits.prior import Prior

FORMAT = Format("classifier", schema=1)
_FIGURES = ("log_loss", "expected", "accuracy", "p_value", "rows")
_CURVE = ("predicted", "found", "counts")
_PLAIN = ("feature_set", "protocol", "tables")
_ROWS = ("theta", "values", "states")


def save_classifier(classifier: CircuitClassifier, folder: str | Path) -> Path:
    """Write `classifier.safetensors` and `classifier.json` into a folder; returns it."""
    tensors = {name: torch.as_tensor(getattr(classifier, name)) for name in ("offset", "log_ok")}
    tensors |= named("encoder", classifier.encoder.to_arrays())
    tensors |= named("reliability", {name: getattr(classifier.reliability, name) for name in _CURVE})
    tensors |= named("members", classifier.members.state_dict())
    for k, name in enumerate(classifier.names):
        test = classifier.reach[name]
        for kind, held in (("known", test.known), ("aside", test.aside)):
            tensors |= named(f"reach.{k}.{kind}", {row: getattr(held, row) for row in _ROWS})
    manifest = {
        "circuits": classifier.names, "feature_names": classifier.feature_names,
        "feature_set_digest": classifier.feature_set_digest, "scale": classifier.scale,
        **{name: dict(getattr(classifier, name)) for name in _PLAIN},
        "priors": [classifier.reach[name].known.prior.to_toml() for name in classifier.names],
        "reliability": {name: getattr(classifier.reliability, name) for name in _FIGURES},
        "config": asdict(classifier.members.config),
    }  # fmt: skip
    return FORMAT.write(Path(folder), manifest, tensors)


def load_classifier(folder: str | Path) -> CircuitClassifier:
    """Read what `save_classifier` wrote; its probabilities equal those before.

    Raises:
        InferenceError: missing or damaged files, or another schema version.
    """
    return FORMAT.read(Path(folder), _rebuild)


def _rebuild(manifest: dict[str, Any], tensors: Tensors) -> CircuitClassifier:
    names, features = tuple(manifest["circuits"]), tuple(manifest["feature_names"])
    encoder = FeatureEncoder.from_arrays(arrays(tensors, "encoder"))
    members = Members(encoder.inputs, len(names), ClassifierConfig(**manifest["config"]), seed=0)
    members.load_state_dict(part(tensors, "members"))
    reach = {}
    for k, name in enumerate(names):
        prior = Prior.from_toml(manifest["priors"][k])
        rows = [arrays(tensors, f"reach.{k}.{kind}") for kind in ("known", "aside")]
        reach[name] = ReachTest(*(HeldOut(**r, prior=prior, feature_names=features) for r in rows))
    figures: dict[str, Any] = {**arrays(tensors, "reliability"), **manifest["reliability"]}
    return CircuitClassifier(
        names, features, manifest["feature_set_digest"], encoder, members.eval().requires_grad_(False),
        float(manifest["scale"]), tensors["offset"].numpy(), tensors["log_ok"].numpy(), reach,
        Reliability(**figures), **{name: manifest[name] for name in _PLAIN},
    )  # fmt: skip
