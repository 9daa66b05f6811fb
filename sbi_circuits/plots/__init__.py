"""Figures, light and for print: each function returns a `matplotlib.figure.Figure` of its own."""

from sbi_circuits.plots.calibration import (
    local_plot,
    pattern_plot,
    predictive_plot,
    rank_plot,
    reach_plot,
    tarp_plot,
)
from sbi_circuits.plots.circuits import probability_plot, reliability_plot
from sbi_circuits.plots.comparison import feature_comparison
from sbi_circuits.plots.configurations import marginals, pair
from sbi_circuits.plots.connectome import (
    lattice_plot,
    prediction_plot,
    response_plot,
    task_plot,
    tuning_plot,
)
from sbi_circuits.plots.fields import field_spectrum_plot, signal_plot
from sbi_circuits.plots.rasters import raster
from sbi_circuits.plots.style import save, unit_text
from sbi_circuits.plots.subspace import (
    between_plot,
    direction_plot,
    effect_plot,
    path_pairs,
    path_rasters,
    spectrum_plot,
    strip_plot,
)
from sbi_circuits.plots.training import coverage_plot, training_curve

__all__ = [
    "between_plot", "coverage_plot", "direction_plot", "effect_plot", "feature_comparison", "field_spectrum_plot",
    "lattice_plot",
    "local_plot", "marginals", "pair", "path_pairs", "path_rasters", "pattern_plot", "prediction_plot",
    "predictive_plot", "probability_plot", "rank_plot", "raster", "reach_plot", "reliability_plot",
    "response_plot", "save", "signal_plot", "spectrum_plot", "strip_plot", "tarp_plot", "task_plot", "training_curve",
    "tuning_plot", "unit_text",
]  # fmt: skip
