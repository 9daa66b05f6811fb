"""Gradients through simulator and features, joined to inference."""

from sbi_circuits.gradients.refine import Refined, refine
from sbi_circuits.gradients.smooth import smooth_features

__all__ = ["Refined", "refine", "smooth_features"]
