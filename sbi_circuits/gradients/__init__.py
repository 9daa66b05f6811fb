"""Gradients through simulator and features, joined to inference."""

from sbi_circuits.gradients.proposal import GradientProposal, gradient_proposal, with_prior_part
from sbi_circuits.gradients.refine import Refined, Target, refine
from sbi_circuits.gradients.smooth import smooth_features

__all__ = [
    "GradientProposal", "Refined", "Target", "gradient_proposal", "refine", "smooth_features", "with_prior_part",
]  # fmt: skip
