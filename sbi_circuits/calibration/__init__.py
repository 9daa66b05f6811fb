"""Is a posterior as sure as it should be, and is the observation one that it can speak of?"""

from sbi_circuits.calibration.correction import (
    Correction,
    Recalibrated,
    load_correction,
    recalibrate,
    save_correction,
)
from sbi_circuits.calibration.held_out import HeldOut, require_unseen, validation_rows
from sbi_circuits.calibration.local import LocalCheck, LocalTest
from sbi_circuits.calibration.predictive import PredictiveCheck, predictive_check, predictive_of
from sbi_circuits.calibration.ranks import (
    Coverage,
    Pattern,
    PosteriorLike,
    coverage,
    coverage_by_pattern,
    coverage_of_ranks,
    posterior_draws,
    rank_statistics,
    ranks_among,
    sbc_uniformity,
)
from sbi_circuits.calibration.reach import Reach, ReachTest
from sbi_circuits.calibration.regions import Tarp, nearby_references, tarp
from sbi_circuits.calibration.summary import Calibration, calibrate
from sbi_circuits.calibration.uniform import ecdf_band, holm, uniformity

__all__ = [
    "Calibration", "Correction", "Coverage", "HeldOut", "LocalCheck", "LocalTest", "Pattern", "PosteriorLike",
    "PredictiveCheck", "Reach", "ReachTest", "Recalibrated", "Tarp", "calibrate", "coverage", "coverage_by_pattern",
    "coverage_of_ranks", "ecdf_band", "holm", "load_correction", "nearby_references", "posterior_draws",
    "predictive_check", "predictive_of", "rank_statistics", "ranks_among", "recalibrate", "require_unseen",
    "save_correction", "sbc_uniformity", "tarp", "uniformity", "validation_rows",
]  # fmt: skip
