"""Gradients through simulator and features, joined to inference."""

from sbi_circuits.gradients.refine import Refined, Target, refine
from sbi_circuits.gradients.smooth import smooth_features

__all__ = ["Refined", "Target", "refine", "smooth_features"]
