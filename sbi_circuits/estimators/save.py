"""An estimator in a folder: weights as safetensors beside a JSON manifest, each moved into place whole."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from sbi_circuits.comparison.network import ClassifierConfig, Members
from sbi_circuits.estimators.likelihood import AutoregressiveDensity, LikelihoodConfig, NeuralLikelihood
from sbi_circuits.estimators.posterior import EstimatedPosterior, LogDensity
from sbi_circuits.estimators.ratio import NeuralRatio, RatioConfig
from sbi_circuits.inference.artefact import Format, Tensors, arrays, named, part
from sbi_circuits.inference.encode import FeatureEncoder
from sbi_circuits.inference.support import Support
from sbi_circuits.prior import Prior

FORMAT = Format("estimator", schema=1)


def save_estimator(posterior: EstimatedPosterior, folder: str | Path) -> Path:
    """Write `estimator.safetensors` and `estimator.json` into a folder; returns it."""
    density: Any = posterior.density
    tensors = named("encoder", posterior.encoder.to_arrays()) | named("support", posterior.support.to_arrays())
    tensors |= named("density", density.network.state_dict())
    tensors |= {} if posterior.ok is None else named("ok", posterior.ok.state_dict())
    manifest = {
        "kind": posterior.kind, "prior": posterior.prior.to_toml(),
        "feature_names": posterior.feature_names, "feature_units": posterior.feature_units,
        "config": asdict(density.network.config), "ok": posterior.ok and asdict(posterior.ok.config),
        "provenance": dict(posterior.provenance), "log": posterior.log, "particles": posterior.particles,
    }  # fmt: skip
    return FORMAT.write(Path(folder), manifest, tensors)


def load_estimator(folder: str | Path) -> EstimatedPosterior:
    """Read what `save_estimator` wrote; its draws equal those before, seed by seed.

    Raises:
        InferenceError: missing or damaged files, or another schema version.
    """
    return FORMAT.read(Path(folder), _rebuild)


def _rebuild(manifest: dict[str, Any], tensors: Tensors) -> EstimatedPosterior:
    prior = Prior.from_toml(manifest["prior"])
    encoder = FeatureEncoder.from_arrays(arrays(tensors, "encoder"))
    support = Support(**arrays(tensors, "support"))
    weights = part(tensors, "density")
    density: LogDensity
    if manifest["kind"] == "likelihood":
        network = AutoregressiveDensity(len(prior), weights["used"], LikelihoodConfig(**manifest["config"]), seed=0)
        density = NeuralLikelihood(_filled(network, weights))
    else:
        members = Members(len(prior) + encoder.inputs, 1, RatioConfig(**manifest["config"]), seed=0)
        density = NeuralRatio(_filled(members, weights))
    ok = None
    if manifest["ok"] is not None:
        ok = _filled(Members(len(prior), 2, ClassifierConfig(**manifest["ok"]), seed=0), part(tensors, "ok"))
    return EstimatedPosterior(
        prior, tuple(manifest["feature_names"]), tuple(manifest["feature_units"]), encoder, manifest["kind"], density,
        ok, support, manifest["provenance"], tuple(manifest["log"]), int(manifest["particles"]),
    )  # fmt: skip


def _filled(network: Any, weights: Tensors) -> Any:
    network.load_state_dict(weights)
    return network.eval().requires_grad_(False)
