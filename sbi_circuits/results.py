"""Ensembles as ArviZ InferenceData, and as NetCDF files that load again as they were."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from sbi_circuits.ensemble import Ensemble, describe_provenance
from sbi_circuits.errors import InferenceError, SbiCircuitsError
from sbi_circuits.features import FeatureSet, WindowedFeatures
from sbi_circuits.inference.encode import FeatureEncoder
from sbi_circuits.prior import Prior
from sbi_circuits.tree_files import read_tree, write_tree
from sbi_circuits.verification import Criterion, Judgement

SCHEMA = "sbi_circuits.ensemble"
SCHEMA_VERSION = 1
_PACKAGES = ("sbi-circuits", "numpy", "torch", "xarray")
_FEATURE, _SEEDS = ("feature",), ("configuration", "repeat")
_ENCODER = {"columns": ("encoder_column",), "ranks": ("feature", "encoder_rank")}  # the other arrays are per feature
_DRAWS = ("chain", "draw")


def to_inference_data(ensemble: Ensemble, n_prior: int = 1000) -> Any:
    """An ensemble as ArviZ InferenceData (ArviZ 0.x) or as the DataTree that took its place (1.x).

    Args:
        ensemble: with any number of verified members, none included.
        n_prior: draws from the prior to put beside them.

    Returns:
        Groups posterior (one variable per parameter, of the verified members as the draws of one chain),
        sample_stats, posterior_predictive (features of the re-simulations), observed_data, prior, and
        constant_data (all draws, why they were rejected, the scales of the features). Attributes hold the
        digests and settings of everything the ensemble came from.
    """
    import arviz  # slow to load; saving and loading do without it

    groups: Any = _groups(ensemble, n_prior)
    attrs = _attributes(ensemble)
    if hasattr(arviz, "InferenceData"):
        return arviz.InferenceData(attrs=attrs, **groups)
    return _tree(groups, attrs)


def save_ensemble(ensemble: Ensemble, path: str | Path, n_prior: int = 1000) -> Path:
    """Write an ensemble as NetCDF, whole or not at all; `arviz.from_netcdf` reads it too."""
    return write_tree(_tree(_groups(ensemble, n_prior), _attributes(ensemble)), path)


def load_ensemble(path: str | Path) -> Ensemble:
    """The ensemble that `save_ensemble` wrote.

    Raises:
        InferenceError: a file that is missing, damaged, of another schema version, or no ensemble.
    """
    content = read_tree(path, "ensemble")
    attrs = content.attrs
    if attrs.get("schema") != SCHEMA:
        raise InferenceError(f"{path} is not an ensemble: it was not written by save_ensemble")
    if attrs.get("schema_version") != SCHEMA_VERSION:
        found = attrs.get("schema_version")
        raise InferenceError(f"{path} has schema version {found}; this code reads version {SCHEMA_VERSION}")
    try:
        return _rebuild(content)
    except (KeyError, ValueError, TypeError, AttributeError, SbiCircuitsError) as error:
        raise InferenceError(f"cannot read the ensemble {path}: {type(error).__name__}: {error}") from error


def _tree(groups: Mapping[str, xr.Dataset], attrs: Mapping[str, Any]) -> xr.DataTree:
    tree = xr.DataTree.from_dict(dict(groups))
    tree.attrs.update(attrs)
    return tree


def _groups(ensemble: Ensemble, n_prior: int) -> dict[str, xr.Dataset]:
    return {
        "posterior": _parameters(ensemble.prior, ensemble.members),
        "sample_stats": _sample_stats(ensemble),
        "posterior_predictive": _predictive(ensemble),
        "observed_data": _observed(ensemble),
        "prior": _parameters(ensemble.prior, ensemble.prior.sample(n_prior, ensemble.seed)),
        "constant_data": _constant(ensemble),
    }


def _parameters(prior: Prior, theta: np.ndarray) -> xr.Dataset:
    """theta (K, P) as one chain of K draws, one variable per parameter."""
    about = [
        {"unit": p.unit, "label": p.label, "low": p.low, "high": p.high, "scale": p.scale}
        for p in prior.parameters
    ]
    columns = zip(prior.names, theta.T, about, strict=True)
    return _chain(len(theta), {name: (_DRAWS, column[None], attrs) for name, column, attrs in columns})


def _chain(draws: int, variables: Mapping[str, Any], coords: Mapping[str, Any] | None = None) -> xr.Dataset:
    own = {"chain": [0], "draw": np.arange(draws), **(coords or {})}
    return xr.Dataset(variables, coords=own, attrs={"inference_library": "sbi-circuits"})


def _sample_stats(ensemble: Ensemble) -> xr.Dataset:
    kept = ensemble.verified
    z = np.abs(np.nan_to_num(ensemble.judgement.z[kept])).max(axis=1, initial=0.0)
    of_density = {"long_name": "posterior log density of the configuration, 1/(units of the parameters)"}
    of_z = {"long_name": "largest difference from the observation over features, in standard deviations"}
    variables = {
        "log_prob": (_DRAWS, ensemble.log_prob[kept][None], of_density),
        "max_abs_z": (_DRAWS, z[None], of_z),
    }
    return _chain(len(z), variables)


def _predictive(ensemble: Ensemble) -> xr.Dataset:
    kept, dims = ensemble.verified, (*_DRAWS, "repeat", "feature")
    states = {"flag_values": [0, 1, 2], "flag_meanings": "defined undefined unobserved"}
    variables = {
        "value": (dims, ensemble.values[kept][None]),
        "state": (dims, ensemble.states[kept][None], states),
    }
    return _chain(int(kept.sum()), variables, _feature_coords(ensemble))


def _feature_coords(ensemble: Ensemble) -> dict[str, Any]:
    features = ensemble.feature_set
    return {"feature": np.array(features.names), "unit": (_FEATURE, np.array(features.units))}


def _observed(ensemble: Ensemble) -> xr.Dataset:
    seen, windows = ensemble.observation, ("window", "feature")
    variables = {
        "value": (_FEATURE, seen.values),
        "state": (_FEATURE, seen.states),
        "spread": (_FEATURE, seen.spread),
        "window_value": (windows, seen.window_values),
        "window_state": (windows, seen.window_states),
    }
    return xr.Dataset(variables, coords=_feature_coords(ensemble))


def _constant(ensemble: Ensemble) -> xr.Dataset:
    found, by_feature = ensemble.judgement, ("configuration", "feature")
    encoder = {
        f"encoder_{name}": (_ENCODER.get(name, _FEATURE), values)
        for name, values in ensemble.encoder.to_arrays().items()
    }
    variables = {
        "theta": (("configuration", "parameter"), ensemble.theta),
        "log_prob": (("configuration",), ensemble.log_prob),
        "values": ((*_SEEDS, "feature"), ensemble.values),
        "states": ((*_SEEDS, "feature"), ensemble.states),
        "outcomes": (_SEEDS, ensemble.outcomes.astype(str)),
        "verified": (("configuration",), found.verified),
        "z": (by_feature, found.z),
        "agrees": (by_feature, found.agrees),
        "seed_to_seed": (_FEATURE, found.unit),
        "sampling_error": (_FEATURE, found.error),
        "bound": ((), found.bound),
        **encoder,
    }
    coords = {"parameter": np.array(ensemble.prior.names), **_feature_coords(ensemble)}
    return xr.Dataset(variables, coords=coords)


def _attributes(ensemble: Ensemble) -> dict[str, Any]:
    own = {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": json.dumps({name: version(name) for name in _PACKAGES}),
        "prior_toml": ensemble.prior.to_toml(),
        "prior_digest": ensemble.prior.digest,
        "feature_set": json.dumps(ensemble.feature_set.to_dict()),
        "criterion": json.dumps(asdict(ensemble.criterion)),
        "seed": ensemble.seed,
        "yield": ensemble.yield_,
        "trust": ensemble.trust,
        "summary": ensemble.summary(),
        "provenance": json.dumps(dict(ensemble.provenance)),
    }
    # Settings of its own name win over those of the training, such as the seed.
    return {
        **{
            f"training_{k}" if k in own else k: v for k, v in describe_provenance(ensemble.provenance).items()
        },
        **own,
    }


def _rebuild(tree: xr.DataTree) -> Ensemble:
    attrs, (seen, kept) = tree.attrs, (_arrays(tree, name) for name in ("observed_data", "constant_data"))
    observed = ("value", "state", "spread", "window_value", "window_state")
    prior, features = (
        Prior.from_toml(attrs["prior_toml"]),
        FeatureSet.from_dict(json.loads(attrs["feature_set"])),
    )
    return Ensemble(
        prior=prior,
        feature_set=features,
        observation=WindowedFeatures(*(seen[name] for name in observed)),
        theta=kept["theta"],
        log_prob=kept["log_prob"],
        values=kept["values"],
        states=kept["states"],
        outcomes=kept["outcomes"].astype(str),
        judgement=Judgement(
            kept["verified"], kept["z"], kept["agrees"], kept["seed_to_seed"], float(kept["bound"]),
            kept.get("sampling_error", np.full(len(features.names), np.nan)),  # not kept by the first releases
        ),
        criterion=Criterion(**json.loads(attrs["criterion"])),
        encoder=FeatureEncoder.from_arrays({k.removeprefix("encoder_"): v for k, v in kept.items()}),
        seed=int(attrs["seed"]),
        trust=str(attrs["trust"]),
        provenance=json.loads(attrs["provenance"]),
    )


def _arrays(tree: xr.DataTree, group: str) -> dict[str, np.ndarray]:
    return {str(name): variable.values for name, variable in tree.children[group].data_vars.items()}
