"""Features of one field signal's spectrum: band powers, centre and width, aperiodic part, peaks."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sbi_circuits.errors import UnknownNameError
from sbi_circuits.features.field_spectrum import fit_spectrum, power_spectrum
from sbi_circuits.features.states import FeatureValues, as_numbers, pack, require, unobserved
from sbi_circuits.recording import Recording, Signal

BANDS = (("delta", 1.0, 4.0), ("theta", 4.0, 8.0), ("alpha", 8.0, 13.0), ("beta", 13.0, 30.0), ("gamma", 30.0, 80.0))
SMOOTH = (*(f"log_power_{name}" for name, _, _ in BANDS), "log_variance", "centre", "bandwidth", "slope")
FITTED = ("offset", "exponent", "peak_frequency", "peak_height", "peak_width", "peaks")


@dataclass(frozen=True)
class Field:
    """Spectrum of one channel of a field signal.

    - `log_power_<band>`: log10 of the power in delta 1-4, theta 4-8, alpha 8-13, beta 13-30, gamma 30-80 Hz, unit^2;
      with `relative` as a share of the power from `low` to `high`, so that the scale of an amplifier, or of a proxy,
      does not matter.
    - `log_variance`: log10 of the power from `low` to `high`; unobserved where `relative`.
    - `centre`, `bandwidth`: mean and standard deviation of frequency, weighted by power, from `low` to `high`, Hz.
    - `slope`: of a line through log10 power over log10 frequency, peaks and all.
    - `offset`, `exponent`: of the aperiodic part; `peak_frequency` (Hz), `peak_height` (log10 units above it),
      `peak_width` (Hz) of the highest peak, undefined where there is none; `peaks`: their number (see `fit_spectrum`).

    Those before `offset` are smooth functions of the signal and exist for tensors too (`sbi_circuits.gradients`).
    Undefined where the signal is constant or shorter than a window; unobserved without the signal.

    Args:
        signal: name of the signal; the only one, or the one called "field", where empty.
        channel: which of its channels.
        low, high: range of frequencies, Hz.
        segment: length of Welch's windows, s.
        relative: divide by the power in the range.

    Raises:
        FeatureError: bounds out of order, or a window too short for them.

    Examples:
        >>> Field(low=2, high=60).names[:3]
        ('log_power_delta', 'log_power_theta', 'log_power_alpha')
    """

    name: ClassVar[str] = "field"
    signal: str = ""
    channel: int = 0
    low: float = 1.0
    high: float = 80.0
    segment: float = 1.0
    relative: bool = False

    def __post_init__(self) -> None:
        as_numbers(self, ("low", "high", "segment"))
        require(0 < self.low < self.high, f"field low {self.low:g} Hz must be above 0 and below high {self.high:g} Hz")
        require(self.segment >= 1 / self.low, f"field segment {self.segment:g} s is shorter than a period of low")
        require(self.channel >= 0, f"field channel must be 0 or more, got {self.channel}")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the features, without the family's."""
        return (*SMOOTH, *FITTED)

    @property
    def units(self) -> tuple[str, ...]:
        """Hz, or a logarithm or number without unit."""
        hertz = {"centre", "bandwidth", "peak_frequency", "peak_width"}
        return tuple("Hz" if n in hertz else "1" for n in self.names)

    @property
    def absolute(self) -> tuple[bool, ...]:
        """A field has no units that are cells or channels of spikes: nothing is hidden."""
        return (False,) * len(self.names)

    def measure(self, recording: Recording) -> FeatureValues:
        """Features of one recording."""
        found = chosen_signal(recording, self.signal)
        if found is None:
            return unobserved(len(self.names))
        values, hidden = channel_of(found, self.channel), ("log_variance", "offset") if self.relative else ()
        if len(values) < round(self.segment * found.rate) or not values.std() > 1e-12 * np.abs(values).max(initial=0):
            return pack(self.names, {}, hidden)
        frequency, power = power_spectrum(values, found.rate, self.segment)
        kept = (frequency >= self.low - 1e-9) & (frequency <= self.high + 1e-9)
        frequency, power = frequency[kept], np.maximum(power[kept], 1e-300)
        return pack(self.names, {**self._smooth(frequency, power), **self._fitted(frequency, power)}, hidden)

    def _smooth(self, frequency: np.ndarray, power: np.ndarray) -> dict[str, float]:
        step, total = frequency[1] - frequency[0], power.sum()
        scale = total if self.relative else 1.0 / step
        bands = {f"log_power_{name}": _log(power[(frequency >= a) & (frequency < b)].sum(), scale)
                 for name, a, b in BANDS}  # fmt: skip
        centre = float((frequency * power).sum() / total)
        spread = float(np.sqrt(((frequency - centre) ** 2 * power).sum() / total))
        slope = float(np.polyfit(np.log10(frequency), np.log10(power), 1)[0])
        return {**bands, "log_variance": float(np.log10(total * step)), "centre": centre, "bandwidth": spread,
                "slope": slope}  # fmt: skip

    @staticmethod
    def _fitted(frequency: np.ndarray, power: np.ndarray) -> dict[str, float]:
        fit = fit_spectrum(frequency, power)
        found = {"offset": fit.offset, "exponent": fit.exponent, "peaks": float(len(fit.peaks))}
        if fit.peaks:
            top = fit.peaks[0]
            found |= {"peak_frequency": top.frequency, "peak_height": top.height, "peak_width": top.width}
        return found


def _log(power: float, scale: float) -> float:
    return float(np.log10(power / scale)) if power > 0 else np.nan


def chosen_signal(recording: Recording, name: str) -> Signal | None:
    """The signal of that name; where empty the only one, or "field". None without signals.

    Raises:
        UnknownNameError: a name that is not there, or several signals and no name.
    """
    signals = recording.signals
    if not signals:
        return None
    chosen = name or (next(iter(signals)) if len(signals) == 1 else "field")
    if chosen not in signals:
        raise UnknownNameError("signal", chosen, signals)
    return signals[chosen]


def channel_of(signal: Signal, channel: int) -> np.ndarray:
    """(samples,) one channel; raises `UnknownNameError` where there is none of that number."""
    if channel >= len(signal.values):
        raise UnknownNameError("channel", channel, map(str, range(len(signal.values))))
    return np.asarray(signal.values[channel], dtype=float)
