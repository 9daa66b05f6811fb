"""Neural posterior estimation: encoding, flows, training, and the posterior."""

from sbi_circuits.inference.config import TrainingConfig
from sbi_circuits.inference.data import TrainingData
from sbi_circuits.inference.load import load_posterior
from sbi_circuits.inference.posterior import Posterior, PosteriorDistribution
from sbi_circuits.inference.shipped import Card, load_card, load_simulations, shipped_posteriors
from sbi_circuits.inference.support import FeatureReason, ObservationCheck
from sbi_circuits.inference.train import train

__all__ = [
    "Card",
    "FeatureReason",
    "ObservationCheck",
    "Posterior",
    "PosteriorDistribution",
    "TrainingConfig",
    "TrainingData",
    "load_card",
    "load_posterior",
    "load_simulations",
    "shipped_posteriors",
    "train",
]
