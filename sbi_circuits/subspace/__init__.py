"""Invariant subspaces: the configurations that one observation leaves possible, their directions, paths and proofs."""

from sbi_circuits.regression import Regression
from sbi_circuits.subspace.between import Comparison, compare_subspaces, energy_distance
from sbi_circuits.subspace.conditioning import Condition, Conditional, Conditioner, condition
from sbi_circuits.subspace.density import Density, gradient, hessian, log_density, score, unbounded
from sbi_circuits.subspace.even import Coverage, Growth, coverage, evenly_spread, farthest_points, grow
from sbi_circuits.subspace.explore import explored_paths
from sbi_circuits.subspace.geometry import (
    Estimate,
    GlobalGeometry,
    Scales,
    dependence,
    global_geometry,
    local_pca_dimension,
    mutual_information,
    neighbour_dimension,
    participation_ratio,
)
from sbi_circuits.subspace.local import (
    Bending,
    LocalGeometry,
    bending,
    fisher,
    local_geometry,
    pooled,
    principal_angles,
    ridge,
    scores,
)
from sbi_circuits.subspace.paths import Paths, Walks, density_paths, ensemble_paths, walk
from sbi_circuits.subspace.perturbations import (
    Effect,
    FeatureValue,
    Perturbation,
    expected_information,
    perturbed,
    predict,
    rank_features,
)
from sbi_circuits.subspace.proof import (
    DirectionProof,
    PointProof,
    prove_controls,
    prove_directions,
    prove_draws,
    prove_paths,
    prove_walks,
)
from sbi_circuits.subspace.report import Plan, SubspaceReport, analyse, loadings, path_ends
from sbi_circuits.subspace.resimulate import (
    FeatureChange,
    Resimulated,
    Runner,
    circuit_of,
    feature_change,
    feature_unit,
    members_of,
    require_match,
    resimulate,
    resimulate_like,
    screened,
)
from sbi_circuits.subspace.routes import chains
from sbi_circuits.subspace.save import load_subspace, save_subspace
from sbi_circuits.subspace.surrogate import Refined, Surrogate, learn

__all__ = [
    "Bending", "Comparison", "Condition", "Conditional", "Conditioner", "Coverage", "Density", "DirectionProof",
    "Effect", "Estimate", "FeatureChange", "FeatureValue", "GlobalGeometry", "Growth", "LocalGeometry", "Paths",
    "Perturbation", "Plan", "PointProof", "Refined", "Regression", "Resimulated", "Runner", "Scales",
    "SubspaceReport", "Surrogate", "Walks", "analyse", "bending", "chains", "circuit_of", "compare_subspaces",
    "condition", "coverage", "density_paths", "dependence", "energy_distance", "ensemble_paths", "evenly_spread",
    "expected_information", "explored_paths", "farthest_points", "feature_change", "feature_unit", "fisher",
    "global_geometry",
    "gradient", "grow", "hessian", "learn", "load_subspace", "loadings", "local_geometry", "local_pca_dimension",
    "log_density", "members_of", "mutual_information", "neighbour_dimension", "participation_ratio", "path_ends",
    "perturbed", "pooled", "predict", "principal_angles", "prove_controls", "prove_directions", "prove_draws",
    "prove_paths", "prove_walks", "rank_features", "require_match", "resimulate", "resimulate_like", "ridge",
    "save_subspace", "score", "scores", "screened", "unbounded", "walk",
]  # fmt: skip
