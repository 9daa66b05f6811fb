"""Which of several circuits explains a recording."""

from sbi_circuits.comparison.classifier import (
    CircuitClassifier,
    CircuitProbabilities,
    compare_circuits,
    train_classifier,
)
from sbi_circuits.comparison.network import ClassifierConfig
from sbi_circuits.comparison.reliability import Reliability, reliability
from sbi_circuits.comparison.save import load_classifier, save_classifier

__all__ = [
    "CircuitClassifier", "CircuitProbabilities", "ClassifierConfig", "Reliability", "compare_circuits",
    "load_classifier", "reliability", "save_classifier", "train_classifier",
]  # fmt: skip
