"""How two channels of field signals go together: cross-correlation and coherence."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.signal import coherence

from sbi_circuits.features.field import BANDS, channel_of, chosen_signal
from sbi_circuits.features.states import FeatureValues, as_numbers, pack, require, unobserved
from sbi_circuits.recording import Recording

_NAMES = ("correlation", "peak_correlation", "peak_lag", *(f"coherence_{name}" for name, _, _ in BANDS))


@dataclass(frozen=True)
class FieldPair:
    """Cross-correlation and magnitude-squared coherence of two channels.

    `correlation` at lag 0; `peak_correlation` and `peak_lag` (s): the largest in absolute value within `max_lag`, a
    positive lag where the second channel follows the first; `coherence_<band>`: mean over the band, Welch's windows.
    Undefined for constant signals and shorter than two windows; unobserved where a signal is missing.

    Args:
        first, second: names of the signals; as for `Field` where empty.
        first_channel, second_channel: of each.
        max_lag: s.
        segment: length of Welch's windows, s.

    Raises:
        FeatureError: a lag or window that is not positive.
    """

    name: ClassVar[str] = "pair"
    first: str = ""
    second: str = ""
    first_channel: int = 0
    second_channel: int = 1
    max_lag: float = 0.1
    segment: float = 1.0

    def __post_init__(self) -> None:
        as_numbers(self, ("max_lag", "segment"))
        require(self.max_lag > 0 and self.segment > 0, "pair max_lag and segment must be positive")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the features, without the family's."""
        return _NAMES

    @property
    def units(self) -> tuple[str, ...]:
        """Seconds for the lag, none elsewhere."""
        return tuple("second" if n == "peak_lag" else "1" for n in _NAMES)

    @property
    def absolute(self) -> tuple[bool, ...]:
        """Nothing is hidden for channels of spikes."""
        return (False,) * len(_NAMES)

    def measure(self, recording: Recording) -> FeatureValues:
        """Features of one recording."""
        signals = [chosen_signal(recording, n) for n in (self.first, self.second)]
        if signals[0] is None or signals[1] is None:
            return unobserved(len(_NAMES))
        rate = signals[0].rate
        require(rate == signals[1].rate, f"signals at {rate:g} and {signals[1].rate:g} Hz cannot be paired")
        x, y = channel_of(signals[0], self.first_channel), channel_of(signals[1], self.second_channel)
        length = round(self.segment * rate)
        if len(x) < 2 * length or not (x.std() > 0 and y.std() > 0):
            return pack(_NAMES, {})
        return pack(_NAMES, {**self._correlations(x, y, rate), **_coherences(x, y, rate, length)})

    def _correlations(self, x: np.ndarray, y: np.ndarray, rate: float) -> dict[str, float]:
        lags = np.arange(-round(self.max_lag * rate), round(self.max_lag * rate) + 1)
        x, y = (v - v.mean() for v in (x, y))
        scale = np.sqrt((x**2).sum() * (y**2).sum())
        size = 1 << (2 * len(x) - 1).bit_length()
        whole = np.fft.irfft(np.conj(np.fft.rfft(x, size)) * np.fft.rfft(y, size), size) / scale
        found = whole[lags]
        top = int(np.abs(found).argmax())
        return {"correlation": float(whole[0]), "peak_correlation": float(found[top]),
                "peak_lag": float(lags[top] / rate)}  # fmt: skip


def _coherences(x: np.ndarray, y: np.ndarray, rate: float, length: int) -> dict[str, float]:
    frequency, value = coherence(x, y, fs=rate, window="hann", nperseg=length)
    found = {}
    for name, low, high in BANDS:
        inside = (frequency >= low) & (frequency < high)
        found[f"coherence_{name}"] = float(value[inside].mean()) if inside.any() else np.nan
    return found
