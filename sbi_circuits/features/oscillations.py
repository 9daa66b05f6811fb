"""Cycle-by-cycle statistics of an oscillation in a field signal.

Cycles are found as Cole and Voytek do (2019, J Neurophysiol 122:849): zero crossings of the band-passed signal divide
the trace, and the extrema of the trace itself between them are peaks and troughs; a cycle goes from trough to trough.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.signal import butter, sosfiltfilt

from sbi_circuits.features.field import channel_of, chosen_signal
from sbi_circuits.features.states import FeatureValues, as_numbers, pack, require, unobserved
from sbi_circuits.recording import Recording

_NAMES = (
    "cycle_rate", "period_mean", "period_cv", "amplitude_mean", "amplitude_cv", "rise_share", "peak_share",
    "monotonicity", "amplitude_consistency", "rhythmic",
)  # fmt: skip
_UNITS = ("Hz", "second", "1", "1", "1", "1", "1", "1", "1", "1")
# A cycle is part of a rhythm if its flanks and period are like its neighbours' (Cole, Voytek 2019).
_SMOOTH = 4.0  # times the upper end of the band: what is faster is noise on the cycles
_AMPLITUDE_RATIO, _PERIOD_RATIO, _MONOTONE = 0.5, 0.5, 0.7


@dataclass(frozen=True, eq=False)
class Cycles:
    """Cycles of one signal, trough to trough.

    Args:
        period: (C,) seconds.
        amplitude: (C,) mean height of both flanks, unit of the signal.
        rise: (C,) share of the period in which the signal rises.
        above: (C,) share of the period above half height (the peak's part).
        monotone: (C,) share of the samples that go the way of their flank.
        consistent: (C,) smallest ratio of heights of neighbouring flanks.
        rhythmic: (C,) whether the cycle is part of a rhythm.
    """

    period: np.ndarray
    amplitude: np.ndarray
    rise: np.ndarray
    above: np.ndarray
    monotone: np.ndarray
    consistent: np.ndarray
    rhythmic: np.ndarray


def find_cycles(values: np.ndarray, rate: float, low: float, high: float) -> Cycles:
    """Cycles of a signal.

    Args:
        values: (samples,).
        rate: samples per second.
        low, high: band in which the oscillation lies, Hz.
    """
    filtered = sosfiltfilt(butter(2, (low, high), "bandpass", fs=rate, output="sos"), values)
    if _SMOOTH * high < rate / 2:
        values = sosfiltfilt(butter(2, _SMOOTH * high, "lowpass", fs=rate, output="sos"), values)
    peaks, troughs = _extrema(values, filtered)
    return _cycles(values, peaks, troughs, rate)


def _extrema(values: np.ndarray, filtered: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Peaks between a rising and a falling crossing of the filtered signal, troughs between the others; alternating."""
    up = np.flatnonzero((filtered[:-1] < 0) & (filtered[1:] >= 0)) + 1
    down = np.flatnonzero((filtered[:-1] >= 0) & (filtered[1:] < 0)) + 1
    edges = np.sort(np.concatenate([up, down]))
    rising = np.isin(edges, up)
    found = [
        (a + int((values[a:b] if is_peak else -values[a:b]).argmax()), is_peak)
        for a, b, is_peak in zip(edges[:-1], edges[1:], rising[:-1], strict=True)
    ]
    peaks = np.array([k for k, is_peak in found if is_peak], dtype=np.int64)
    return peaks, np.array([k for k, is_peak in found if not is_peak], dtype=np.int64)


def _cycles(values: np.ndarray, peaks: np.ndarray, troughs: np.ndarray, rate: float) -> Cycles:
    rows = []
    for first, last in zip(troughs[:-1], troughs[1:], strict=True):
        inside = peaks[(peaks > first) & (peaks < last)]
        if len(inside) == 1:
            rows.append((int(first), int(inside[0]), int(last)))
    if not rows:
        none = np.zeros(0)
        return Cycles(none, none, none, none, none, none, np.zeros(0, dtype=bool))
    start, top, end = np.array(rows).T
    rise, fall = values[top] - values[start], values[top] - values[end]
    period = (end - start) / rate
    amplitude, monotone = 0.5 * (rise + fall), np.array([_monotone(values, *row) for row in rows])
    above = np.array([_above(values, *row) for row in rows])
    consistent = _consistency(rise, fall)
    ratio = np.minimum(period[1:] / period[:-1], period[:-1] / period[1:])
    like = np.minimum(np.concatenate([[1.0], ratio]), np.concatenate([ratio, [1.0]]))
    rhythmic = (consistent > _AMPLITUDE_RATIO) & (like > _PERIOD_RATIO) & (monotone > _MONOTONE)
    return Cycles(period, amplitude, (top - start) / (end - start), above, monotone, consistent, rhythmic)


def _monotone(values: np.ndarray, start: int, top: int, end: int) -> float:
    rises, falls = np.diff(values[start : top + 1]) > 0, np.diff(values[top : end + 1]) < 0
    return float(0.5 * (rises.mean() + falls.mean()))


def _above(values: np.ndarray, start: int, top: int, end: int) -> float:
    left, right = 0.5 * (values[start] + values[top]), 0.5 * (values[top] + values[end])
    return float(((values[start:top] > left).sum() + (values[top:end] > right).sum()) / (end - start))


def _consistency(rise: np.ndarray, fall: np.ndarray) -> np.ndarray:
    flanks = np.stack([rise, fall], axis=1).ravel()
    pairs = np.minimum(flanks[1:], flanks[:-1]) / np.maximum(np.maximum(flanks[1:], flanks[:-1]), 1e-300)
    ratio = np.concatenate([[1.0], np.where(pairs > 0, pairs, 0.0), [1.0]])
    return np.minimum.reduce([ratio[0:-2:2], ratio[1:-1:2], ratio[2::2]])


@dataclass(frozen=True)
class Oscillation:
    """Cycle-by-cycle statistics of one channel of a field signal in a band of frequencies.

    Cycles per second; mean and coefficient of variation of period and amplitude; mean share of the period in which
    the signal rises, and in which it is above half height; monotonicity and consistency of the flanks; share of
    cycles that are part of a rhythm. Undefined with fewer than two cycles; unobserved without the signal.

    Args:
        signal, channel: as for `Field`.
        low, high: of the band, Hz.

    Raises:
        FeatureError: bounds out of order.
    """

    name: ClassVar[str] = "oscillation"
    signal: str = ""
    channel: int = 0
    low: float = 4.0
    high: float = 20.0

    def __post_init__(self) -> None:
        as_numbers(self, ("low", "high"))
        require(0 < self.low < self.high, f"oscillation low {self.low:g} Hz must be above 0 and below {self.high:g} Hz")
        require(self.channel >= 0, f"oscillation channel must be 0 or more, got {self.channel}")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the features, without the family's."""
        return _NAMES

    @property
    def units(self) -> tuple[str, ...]:
        """Of the features; amplitudes are in the unit of the signal."""
        return _UNITS

    @property
    def absolute(self) -> tuple[bool, ...]:
        """Nothing is hidden for channels of spikes."""
        return (False,) * len(_NAMES)

    def measure(self, recording: Recording) -> FeatureValues:
        """Features of one recording."""
        found = chosen_signal(recording, self.signal)
        if found is None:
            return unobserved(len(_NAMES))
        values = channel_of(found, self.channel)
        require(self.high < found.rate / 2, f"oscillation high {self.high:g} Hz is above half of {found.rate:g} Hz")
        if len(values) < 3 * found.rate / self.low or not values.std() > 1e-12 * np.abs(values).max(initial=0):
            return pack(_NAMES, {})
        cycles = find_cycles(values, found.rate, self.low, self.high)
        if len(cycles.period) < 2:
            return pack(_NAMES, {"cycle_rate": len(cycles.period) / (len(values) / found.rate)})
        return pack(_NAMES, _statistics(cycles, len(values) / found.rate))


def _statistics(cycles: Cycles, duration: float) -> dict[str, float]:
    period, amplitude = cycles.period, cycles.amplitude
    size = abs(float(amplitude.mean()))
    return {
        "cycle_rate": len(period) / duration,
        "period_mean": float(period.mean()),
        "period_cv": float(period.std() / period.mean()),
        "amplitude_mean": float(amplitude.mean()),
        "amplitude_cv": float(amplitude.std()) / size if size > 0 else np.nan,
        "rise_share": float(cycles.rise.mean()),
        "peak_share": float(cycles.above.mean()),
        "monotonicity": float(cycles.monotone.mean()),
        "amplitude_consistency": float(cycles.consistent.mean()),
        "rhythmic": float(cycles.rhythmic.mean()),
    }
