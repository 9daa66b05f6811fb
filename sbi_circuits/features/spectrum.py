"""Power spectral density of the population rate."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.signal import welch

from sbi_circuits.features.population import activity
from sbi_circuits.features.states import (
    DEFINED,
    UNDEFINED,
    FeatureValues,
    as_numbers,
    pack,
    require,
    settle,
    unobserved,
)  # fmt: skip
from sbi_circuits.recording import COUNT_BIN, Recording

RESOLUTION = 0.5  # Hz; of segments of 2 s
SEGMENT = round(1 / (RESOLUTION * COUNT_BIN))


@dataclass(frozen=True)
class Spectrum:
    """log10 power of the population rate per unit (1 ms bins) at `low`, `low + step`, ..., `high` Hz.

    Welch's method: Hann windows of 2 s overlapping by half, so 0.5 Hz apart; a `step` of several 0.5 Hz
    averages the power over a band of that width around each frequency. Undefined where the power is zero and
    for recordings shorter than 2 s.

    Args:
        low, high: first and last frequency, Hz; multiples of 0.5.
        step: distance of the frequencies and width of each band, Hz; a multiple of 0.5.
        relative: divide by the squared mean rate (power in 1/Hz), so that neither the number of cells under
            an electrode nor its sensitivity matters. Otherwise the power is in Hz^2/Hz and unobserved for
            channels.
        population: the population or unit group to look at; all of them where empty.

    Raises:
        FeatureError: for frequencies that are no multiples of 0.5 Hz, out of order, or outside 0.5 to 500 Hz.

    References:
        Welch 1967, IEEE Trans. Audio Electroacoust. 15:70.

    Examples:
        >>> Spectrum(low=10, high=12).names
        ('log_power_10', 'log_power_10.5', 'log_power_11', 'log_power_11.5', 'log_power_12')
    """

    name: ClassVar[str] = "spectrum"
    low: float = 0.5
    high: float = 495.0
    step: float = 0.5
    relative: bool = False
    population: str = ""

    def __post_init__(self) -> None:
        as_numbers(self, ("low", "high", "step"))
        for option in ("low", "high", "step"):
            value = getattr(self, option)
            whole = value > 0 and (value / RESOLUTION).is_integer()
            require(whole, f"spectrum {option} {value:g} Hz must be a positive multiple of {RESOLUTION:g} Hz")
        require(self.high >= self.low, f"spectrum high {self.high:g} Hz is below low {self.low:g} Hz")
        fits = ((self.high - self.low) / self.step).is_integer()
        span = self.high - self.low
        require(fits, f"spectrum high - low ({span:g} Hz) must be a multiple of step {self.step:g} Hz")
        inside = self._bins()[0] - self._half() >= 1 and self._bins()[-1] + self._half() <= SEGMENT // 2
        bands = f"bands of {self.step:g} Hz from {self.low:g} to {self.high:g} Hz"
        require(inside, f"spectrum {bands} leave 0.5-500 Hz")

    def _bins(self) -> np.ndarray:
        """(F,) index of each frequency in Welch's grid."""
        return np.round(self.frequencies / RESOLUTION).astype(np.int64)

    def _half(self) -> int:
        return round(self.step / RESOLUTION) // 2

    @property
    def frequencies(self) -> np.ndarray:
        """(F,) Hz."""
        return self.low + self.step * np.arange(round((self.high - self.low) / self.step) + 1)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the features, without the family's."""
        return tuple(f"log_power_{f:g}" for f in self.frequencies)

    @property
    def units(self) -> tuple[str, ...]:
        """A logarithm has no unit."""
        return ("1",) * len(self.frequencies)

    @property
    def absolute(self) -> tuple[bool, ...]:
        """Which features mean nothing for channels: none of a relative spectrum, all of an absolute one."""
        return (not self.relative,) * len(self.frequencies)

    def measure(self, recording: Recording) -> FeatureValues:
        """Features of one recording."""
        seen = activity(recording, self.population)
        if seen is None:
            return unobserved(len(self.frequencies))
        if len(seen.counts) < SEGMENT or not seen.counts.any():
            return pack(self.names, {})
        relative_rate = seen.counts / seen.counts.mean()
        _, power = welch(relative_rate, fs=1 / COUNT_BIN, window="hann", nperseg=SEGMENT)
        power = np.convolve(power, self._weights(), mode="same")[self._bins()]
        # What rounding leaves of a constant rate is no power.
        states = np.where(power > 1e-24, DEFINED, UNDEFINED).astype(np.uint8)
        scale = 0.0 if self.relative else 2.0 * np.log10(seen.mean_rate)
        return settle(np.log10(np.maximum(power, 1e-300)) + scale, states)

    def _weights(self) -> np.ndarray:
        """Averages a band of width `step`; an even number of bins takes half of both its ends."""
        bins = round(self.step / RESOLUTION)
        if bins % 2:
            return np.full(bins, 1.0 / bins)
        return np.concatenate([[0.5], np.ones(bins - 1), [0.5]]) / bins
