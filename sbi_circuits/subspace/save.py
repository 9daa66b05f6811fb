"""A subspace report as one NetCDF file of plain groups; `xarray.open_datatree` reads it, nothing in it is code."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from sbi_circuits.ensemble import describe_provenance
from sbi_circuits.errors import InferenceError
from sbi_circuits.subspace.paths import Paths, Walks
from sbi_circuits.subspace.proof import PointProof
from sbi_circuits.subspace.report import SubspaceReport
from sbi_circuits.tree_files import read_tree, write_tree

SCHEMA = "sbi_circuits.subspace"
SCHEMA_VERSION = 1


def save_subspace(report: SubspaceReport, path: str | Path) -> Path:
    """Write a report as NetCDF, whole or not at all; returns the path."""
    return write_tree(to_tree(report), path)


def load_subspace(path: str | Path) -> xr.DataTree:
    """The groups that `save_subspace` wrote.

    Raises:
        InferenceError: a file that is missing, damaged, or no subspace of this schema version.
    """
    content = read_tree(path, "subspace")
    found = content.attrs.get("schema"), content.attrs.get("schema_version")
    if found != (SCHEMA, SCHEMA_VERSION):
        wanted = f"this code reads {SCHEMA} version {SCHEMA_VERSION}"
        raise InferenceError(f"{path} holds {found[0]} version {found[1]}; {wanted}")
    return content


def to_tree(report: SubspaceReport) -> xr.DataTree:
    """A report as groups members, global, local, directions, paths, walks, controls, conditionals and the rest."""
    groups = {
        "members": _members(report), "local": _local(report), "directions": _directions(report),
        **({"global": _global(report)} if report.overall else {}),
        **_moves("paths", report.paths, report.paths_proof), **_moves("walks", report.walks, report.walks_proof),
        **{f"control_{name}": _control(proof) for name, proof in report.controls.items()},
        **{f"conditional_{k}": _conditional(report, k) for k in range(len(report.conditionals))},
        **({"comparison": _comparison(report)} if report.comparison else {}),
        **({"effects": _effects(report)} if report.effects else {}),
        **({"features": _features(report)} if report.features else {}),
    }  # fmt: skip
    tree = xr.DataTree.from_dict({name: xr.Dataset(content) for name, content in groups.items()})
    ensemble = report.ensemble
    tree.attrs.update(describe_provenance(ensemble.provenance) | {
        "schema": SCHEMA, "schema_version": SCHEMA_VERSION, "summary": report.summary(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"), "prior_toml": ensemble.prior.to_toml(),
        "parameters": json.dumps(ensemble.prior.names), "features": json.dumps(ensemble.feature_set.names),
    })  # fmt: skip
    return tree


def _members(report: SubspaceReport) -> dict[str, Any]:
    composites = {f"composite_{name}": (("member",), values) for name, values in report.composites.items()}
    theta = (("member", "parameter"), report.ensemble.members, {"units": json.dumps(report.ensemble.prior.units)})
    found = report.covered
    return {"theta": theta, **composites, "covered": ((), found.covered), "covered_by_chance": ((), found.by_chance),
            "extent": (("axis",), found.extent)}  # fmt: skip


def _global(report: SubspaceReport) -> dict[str, Any]:
    found = report.overall
    assert found is not None
    estimates = {"participation": found.participation, "local_pca": found.local_pca}
    return {
        **{name: ((), e.value) for name, e in estimates.items()},
        **{f"{name}_error": ((), e.error) for name, e in estimates.items()},
        "contraction": (("parameter",), found.contraction),
        "contraction_error": (("parameter",), found.contraction_error),
        "neighbours": (("scale",), found.scales.neighbours),
        "neighbour_distance": (("scale",), found.scales.distance),
        "dimension": (("scale",), found.scales.dimension),
        "dimension_error": (("scale",), found.scales.error),
        "correlation": (("parameter", "other_parameter"), found.correlation),
        "mutual_information": (("parameter", "other_parameter"), found.information),
        "mutual_information_noise": ((), found.information_noise),
    }


def _control(proof: PointProof) -> dict[str, Any]:
    dims, shape = ("path", "inner_point"), proof.verified.shape
    return {
        "theta": ((*dims, "parameter"), proof.runs.theta.reshape(*shape, -1)), "size": (dims, proof.size),
        "verified": (dims, proof.verified), "failure_rate": ((), proof.failure_rate),
    }  # fmt: skip


def _local(report: SubspaceReport) -> dict[str, Any]:
    names, average = ("configuration", "direction", "parameter"), report.average
    learned = {} if report.learned is None else {
        "learned_eigenvalues": ((names[1],), report.learned.eigenvalues[0]),
        "learned_directions": (names[1:], report.learned.directions[0]),
    }  # fmt: skip
    return {
        **learned,
        "z": ((names[0], names[2]), report.local.z), "eigenvalues": (names[:2], report.local.eigenvalues),
        "directions": (names, report.local.directions), "average_eigenvalues": ((names[1],), average.eigenvalues[0]),
        "average_directions": (names[1:], average.directions[0]),
        "fisher_eigenvalues": ((names[1],), report.expected.eigenvalues[0]),
        "fisher_directions": (names[1:], report.expected.directions[0]),
        "tangent_angles": (("pair", "angle"), report.bent.angles),
        "tangent_distance": (("pair",), report.bent.distance),
    }  # fmt: skip


def _directions(report: SubspaceReport) -> dict[str, Any]:
    proof, dims = report.directions, ("kind", "length_", "configuration")
    return {
        "kind": (("kind",), np.array(proof.names)), "length": (("length_",), proof.length),
        "size": (dims, np.array([[c.size for c in row] for row in proof.changes])),
        "noise": (dims, np.array([[c.noise for c in row] for row in proof.changes])),
        "change": ((*dims, "feature"), np.array([[c.change for c in row] for row in proof.changes])),
        "failure_rate": (dims[:2], np.array([[c.failure_rate for c in row] for row in proof.changes])),
    }  # fmt: skip


def _moves(name: str, found: Paths | Walks | None, proof: PointProof | None) -> dict[str, dict[str, Any]]:
    """The group of paths or walks; none where there are none."""
    if found is None or proof is None:
        return {}
    dims = ("path", "point")
    content = {
        "theta": ((*dims, "parameter"), found.theta), "log_prob": (dims, found.log_prob),
        "size": (dims, proof.size), "from_recording": (dims, proof.recording.size.reshape(proof.verified.shape)),
        "verified": (dims, proof.verified), "failure_rate": ((), proof.failure_rate),
        "change": ((*dims, "feature"), proof.change.change.reshape(*proof.verified.shape, -1)),
    }  # fmt: skip
    if isinstance(found, Paths):
        content |= {"straight": (dims, found.straight), "pairs": (("path", "end"), found.pairs)}
    return {name: content}


def _conditional(report: SubspaceReport, k: int) -> dict[str, Any]:
    found, proof = report.conditionals[k]
    text = {"condition": found.condition.text, "exact": int(found.exact)}
    return {
        "theta": (("draw", "parameter"), found.theta, text), "acceptance": ((), found.acceptance),
        "size": (("simulated",), proof.change.size), "verified": (("simulated",), proof.verified.ravel()),
        "failure_rate": ((), proof.failure_rate),
    }  # fmt: skip


def _comparison(report: SubspaceReport) -> dict[str, Any]:
    found = report.comparison
    assert found is not None
    dims = ("observation", "other_observation")
    return {
        "observation": (("observation",), np.array(found.names)), "distance": (dims, found.distance),
        "angle": (dims, found.angle), "null_distance": (("pair",), found.null_distance),
        "null_angle": (("pair",), found.null_angle), "p_distance": (dims, found.p_value()),
        "p_angle": (dims, found.p_value("angle")),
    }  # fmt: skip


def _effects(report: SubspaceReport) -> dict[str, Any]:
    effects = report.effects
    return {
        "perturbation": (("perturbation",), np.array([e.perturbation.text for e in effects])),
        "information": (("perturbation",), np.array([e.information for e in effects])),
        "information_error": (("perturbation",), np.array([e.error for e in effects])),
        "change": (("perturbation", "member", "feature"), np.array([e.change.change for e in effects])),
        "size": (("perturbation", "member"), np.array([e.change.size for e in effects])),
    }


def _features(report: SubspaceReport) -> dict[str, Any]:
    return {
        "feature": (("feature",), np.array([v.name for v in report.features])),
        "information": (("feature",), np.array([v.information for v in report.features])),
        "information_error": (("feature",), np.array([v.error for v in report.features])),
    }
