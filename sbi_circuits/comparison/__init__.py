"""Which of several circuits explains a recording."""

from sbi_circuits.comparison.classifier import (
    CircuitClassifier,
    CircuitProbabilities,
    compare_circuits,
    train_classifier,
)
from sbi_circuits.comparison.network import ClassifierConfig
from sbi_circuits.comparison.reliability import Reliability, reliability

__all__ = [
    "CircuitClassifier", "CircuitProbabilities", "ClassifierConfig", "Reliability", "compare_circuits",
    "reliability", "train_classifier",
]  # fmt: skip
