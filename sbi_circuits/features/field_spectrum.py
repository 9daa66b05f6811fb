"""Power spectra of field signals: Welch's estimate, its aperiodic part and its peaks.

The aperiodic part is a line in log-log coordinates, log10 P = offset - exponent log10 f (Donoghue et al. 2020, Nat
Neurosci 23:1655). `fit_spectrum` is a fast fit for campaigns that takes the same steps as theirs: a robust line, peaks
as Gaussians above it, one after the other by a few Gauss-Newton steps, and the line again on what remains.
`specparam_fit` is their program, behind the extra `spectra`.
"""

from dataclasses import dataclass

import numpy as np
from scipy.signal import welch

from sbi_circuits.errors import FeatureError

# Of the lowest points of the flattened spectrum, which hold no peak (as in specparam's robust fit).
_LOWEST = 0.025
# Gauss-Newton steps and damping; the least height of a peak, log10 units.
_STEPS, _DAMPING, _LEAST = 12, 0.05, 0.1
_TO_SD = 1.0 / (2.0 * np.sqrt(2.0 * np.log(2.0)))  # width at half height to standard deviation


@dataclass(frozen=True)
class Peak:
    """One peak above the aperiodic part: centre (Hz), height (log10 units), width of two standard deviations (Hz)."""

    frequency: float
    height: float
    width: float


@dataclass(frozen=True)
class SpectrumFit:
    """Aperiodic offset (log10 power at 1 Hz) and exponent, and peaks, highest first."""

    offset: float
    exponent: float
    peaks: tuple[Peak, ...]

    def curve(self, frequency: np.ndarray) -> np.ndarray:
        """log10 power of the fit at some frequencies (Hz)."""
        line = self.offset - self.exponent * np.log10(frequency)
        return line + np.sum([_gaussian(frequency, p) for p in self.peaks] or [np.zeros(len(frequency))], axis=0)


def _gaussian(frequency: np.ndarray, peak: Peak) -> np.ndarray:
    return peak.height * np.exp(-2.0 * ((frequency - peak.frequency) / peak.width) ** 2)


def power_spectrum(values: np.ndarray, rate: float, segment: float) -> tuple[np.ndarray, np.ndarray]:
    """Welch's power spectral density: Hann windows that overlap by half, each less its mean.

    Args:
        values: (..., samples).
        rate: samples per second.
        segment: length of the windows, s; frequencies are 1/segment apart.

    Returns:
        frequency (F,) in Hz from 0 on, power (..., F) in unit^2/Hz.

    Raises:
        FeatureError: a signal shorter than a window.

    References:
        Welch 1967, IEEE Trans. Audio Electroacoust. 15:70.
    """
    length = round(segment * rate)
    if values.shape[-1] < length:
        raise FeatureError(f"the signal has {values.shape[-1]} samples, a window of {segment:g} s needs {length}")
    found: tuple[np.ndarray, np.ndarray] = welch(values, fs=rate, window="hann", nperseg=length, detrend="constant")
    return found


def fit_spectrum(
    frequency: np.ndarray, power: np.ndarray, max_peaks: int = 3, threshold: float = 2.0, min_width: float = 1.0,
    max_width: float = 12.0,
) -> SpectrumFit:  # fmt: skip
    """Line and peaks of one spectrum.

    Args:
        frequency: (F,) Hz, evenly spaced, above 0.
        power: (F,) positive.
        max_peaks: at most so many.
        threshold: a peak is higher than this many standard deviations of the flattened spectrum.
        min_width, max_width: bounds of the full width of a peak (two standard deviations), Hz.

    Examples:
        >>> f = np.arange(2.0, 50.0, 0.5)
        >>> p = 10 ** (1.0 - 1.5 * np.log10(f) + 0.8 * np.exp(-2 * ((f - 10) / 3) ** 2))
        >>> fit = fit_spectrum(f, p)
        >>> round(fit.exponent, 1), round(fit.peaks[0].frequency, 1), round(fit.peaks[0].height, 1)
        (1.5, 10.0, 0.8)
    """
    log_f, log_p = np.log10(frequency), np.log10(power)
    offset, exponent = _robust_line(log_f, log_p)
    flat = log_p - (offset - exponent * log_f)
    peaks = _peaks(frequency, flat, max_peaks, threshold, (min_width, max_width))
    rest = log_p - np.sum([_gaussian(frequency, p) for p in peaks] or [np.zeros(len(frequency))], axis=0)
    offset, exponent = _line(log_f, rest)
    return SpectrumFit(offset, exponent, tuple(sorted(peaks, key=lambda p: -p.height)))


def _line(log_f: np.ndarray, log_p: np.ndarray) -> tuple[float, float]:
    slope, offset = np.polyfit(log_f, log_p, 1)
    return float(offset), float(-slope)


def _robust_line(log_f: np.ndarray, log_p: np.ndarray) -> tuple[float, float]:
    """A line through the lowest points of what a first line leaves."""
    offset, exponent = _line(log_f, log_p)
    flat = np.maximum(log_p - (offset - exponent * log_f), 0.0)
    low = flat <= np.quantile(flat, _LOWEST)
    return _line(log_f[low], log_p[low]) if low.sum() > 2 else (offset, exponent)


def _peaks(frequency: np.ndarray, flat: np.ndarray, number: int, threshold: float, widths: tuple[float, float]
           ) -> list[Peak]:  # fmt: skip
    """One peak after the other, all of them fitted again with each."""
    found: list[Peak] = []
    for _ in range(number):
        rest = flat - np.sum([_gaussian(frequency, p) for p in found] or [np.zeros(len(frequency))], axis=0)
        k = int(rest.argmax())
        if rest[k] <= max(threshold * rest.std(), _LEAST):
            break
        found = _fitted(frequency, flat, [*found, _one_peak(frequency, rest, k, widths)], widths)
    step = frequency[1] - frequency[0]
    # A peak at the very edge is the line's bend, not a rhythm.
    return [p for p in found if frequency[0] + step < p.frequency < frequency[-1] - step]


def _one_peak(frequency: np.ndarray, rest: np.ndarray, k: int, widths: tuple[float, float]) -> Peak:
    """Centre from a parabola through three points; the width whose Gaussian fits best around the centre."""
    step, height, centre = frequency[1] - frequency[0], float(rest[k]), float(frequency[k])
    if 0 < k < len(rest) - 1:
        a, b, c = rest[k - 1], rest[k], rest[k + 1]
        bend = a - 2 * b + c
        shift = 0.5 * (a - c) / bend if bend < 0 else 0.0
        centre, height = centre + float(shift) * step, float(b - 0.25 * (a - c) * shift)
    half = np.flatnonzero(rest < 0.5 * height)
    sides = [*(k - half[half < k])[-1:], *(half[half > k] - k)[:1]]
    width = 4.0 * _TO_SD * (min(sides) if sides else 1) * step
    return Peak(centre, height, float(np.clip(width, *widths)))


def _fitted(frequency: np.ndarray, flat: np.ndarray, peaks: list[Peak], widths: tuple[float, float]) -> list[Peak]:
    """All peaks at once by a few damped Gauss-Newton steps, from where the search found them."""
    if not peaks:
        return peaks
    x = np.array([[p.frequency, p.height, p.width] for p in peaks])
    for _ in range(_STEPS):
        shape, slopes = _with_slopes(frequency, x)
        normal = slopes @ slopes.T
        normal += _DAMPING * np.diag(np.diag(normal)) + 1e-12 * np.eye(len(normal))
        x = x + np.linalg.solve(normal, slopes @ (flat - shape)).reshape(x.shape)
        x[:, 0] = np.clip(x[:, 0], frequency[0], frequency[-1])
        x[:, 2] = np.clip(x[:, 2], *widths)
    found = [Peak(*map(float, row)) for row in x if row[1] > _LEAST]
    return found if np.isfinite(x).all() else peaks


def _with_slopes(frequency: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The sum of Gaussians (F,), and its derivatives by centre, height and width of each (3 peaks, F)."""
    away = (frequency - x[:, :1]) / x[:, 2:]
    unit = np.exp(-2.0 * away**2)
    whole = x[:, 1:2] * unit
    slopes = np.stack([4.0 * whole * away / x[:, 2:], unit, 4.0 * whole * away**2 / x[:, 2:]], axis=1)
    return whole.sum(0), slopes.reshape(3 * len(x), -1)


def specparam_fit(
    frequency: np.ndarray, power: np.ndarray, max_peaks: int = 3, threshold: float = 2.0, min_width: float = 1.0,
    max_width: float = 12.0,
) -> SpectrumFit:  # fmt: skip
    """The same by the program of Donoghue et al. 2020 (specparam); arguments as for `fit_spectrum`.

    Raises:
        FeatureError: where specparam is not installed.
    """
    try:
        from specparam import SpectralModel
    except ImportError as error:
        raise FeatureError("specparam is not installed; pip install 'sbi-circuits[spectra]'") from error
    model = SpectralModel(peak_width_limits=(min_width, max_width), max_n_peaks=max_peaks, peak_threshold=threshold,
                          min_peak_height=_LEAST, verbose=False)  # fmt: skip
    model.fit(frequency, power)
    offset, exponent = model.get_params("aperiodic")
    rows = np.atleast_2d(model.get_params("periodic"))
    peaks = [Peak(float(f), float(h), float(w)) for f, h, w in rows if np.isfinite(f)]
    return SpectrumFit(float(offset), float(exponent), tuple(sorted(peaks, key=lambda p: -p.height)))
