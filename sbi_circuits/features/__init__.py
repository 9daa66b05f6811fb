"""Features of recordings: named numbers with units, of fixed width, each defined, undefined or unobserved."""

from sbi_circuits.features.bursts import Bursts
from sbi_circuits.features.isi import Intervals
from sbi_circuits.features.sets import FAMILIES, VIEWS, FeatureSet
from sbi_circuits.features.spectrum import Spectrum
from sbi_circuits.features.states import DEFINED, UNDEFINED, UNOBSERVED, FeatureValues, WindowedFeatures

__all__ = [
    "DEFINED", "FAMILIES", "UNDEFINED", "UNOBSERVED", "VIEWS", "Bursts", "FeatureSet", "FeatureValues",
    "Intervals", "Spectrum", "WindowedFeatures",
]  # fmt: skip
