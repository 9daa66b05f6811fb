"""Other estimators behind the same `posterior(x)`: neural likelihood and ratio; many recordings of one preparation."""

from sbi_circuits.estimators.likelihood import LikelihoodConfig
from sbi_circuits.estimators.posterior import EstimatedPosterior, SampledDistribution, combine, train_estimator
from sbi_circuits.estimators.ratio import RatioConfig
from sbi_circuits.estimators.sampler import Particles, sample_posterior
from sbi_circuits.estimators.save import load_estimator, save_estimator

__all__ = [
    "EstimatedPosterior", "LikelihoodConfig", "Particles", "RatioConfig", "SampledDistribution", "combine",
    "load_estimator", "sample_posterior", "save_estimator", "train_estimator",
]  # fmt: skip
