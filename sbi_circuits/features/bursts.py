"""Network bursts: peaks of the smoothed population rate, and their shape and timing."""

from dataclasses import dataclass, fields
from typing import ClassVar

import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.signal import find_peaks, peak_prominences, peak_widths

from sbi_circuits.features.population import Activity, activity
from sbi_circuits.features.states import FeatureValues, as_numbers, pack, require, unobserved
from sbi_circuits.recording import COUNT_BIN, Recording

_UNITS = {
    "rate_per_minute": "1/(60*second)",
    "interval_mean": "second",
    "interval_sd": "second",
    "interval_cv": "1",
    "peak_rate_mean": "Hz",
    "peak_rate_sd": "Hz",
    "peak_rate_cv": "1",
    "width_mean": "second",
    "width_sd": "second",
    "onset_mean": "second",
    "offset_mean": "second",
    "kernel_correlation": "1",
    "interval_before_to_peak": "1",
    "interval_after_to_peak": "1",
    "subpeaks_mean": "1",
    "subpeaks_sd": "1",
    "subpeak_interval_mean": "second",
    "peak_to_mean": "1",
    "log10_mean_to_peak": "1",
    "fraction_in_bursts": "1",
    "mean_rate": "Hz",
    "rate_cv": "1",
}
_ABSOLUTE = ("peak_rate_mean", "peak_rate_sd", "mean_rate")


@dataclass(frozen=True, eq=False)
class _Found:
    """The smoothed rate (bins,), Hz, and the peaks in it: (K,) bins, heights (Hz) and prominences (Hz)."""

    rate: np.ndarray
    peaks: np.ndarray
    heights: np.ndarray
    bases: tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Bursts:
    """Network bursts; the family `bursts`.

    The population rate per unit in 1 ms bins is smoothed by a Gaussian kernel. A burst is a peak whose
    prominence is at least half the largest rate, at least `distance` from a higher one, and above a floor.
    The floor is `floor` for cells; for channels, whose absolute rate means nothing, `relative_floor` times
    the mean rate. Either way a peak must also exceed what a Poisson process of the same mean rate reaches by
    chance: (sqrt(m) + chance / 2)^2 spikes, m being those expected under the kernel. This matters for a
    handful of units and not for whole populations.

    Without a burst everything but `rate_per_minute`, `mean_rate` and `rate_cv` is undefined. Intervals need 2
    bursts (their sd and CV 3), the sd and CV of peaks and widths 2, the correlations of peak rate with the
    interval before and after 4. Widths are at half height; onset and offset run from 10 % of the prominence
    to the peak and back, and between them lie the spikes of `fraction_in_bursts`. `kernel_correlation` is the
    mean pairwise correlation of the rates within `window` of the peaks; sub-peaks are the local peaks within
    it, the main one included, whose prominence is at least `subpeak` of the main peak. `rate_cv` is the sd of
    the smoothed rate over its mean.

    Args:
        smoothing: sd of the kernel, s.
        prominence: least prominence, as a fraction of the largest rate. From 0.5 on every burst falls to half
            its height on both sides; a smaller burst on a shoulder is as wide as it stands out.
        floor: least peak rate per cell, Hz.
        relative_floor: least peak rate of channels over their mean rate.
        chance: how far (in sd of the square root of a Poisson count) a peak must stand above the mean rate.
        distance: least time between bursts, s; at least twice `window`.
        window: half of the window around a peak, s.
        edge: fraction of the prominence at which a burst begins and ends.
        subpeak: least prominence of a sub-peak, as a fraction of the burst's peak rate.
        population: the population or unit group to look at; all of them where empty.

    Raises:
        FeatureError: for options outside these ranges.

    Examples:
        >>> import numpy as np
        >>> from sbi_circuits.recording import Recording
        >>> burst = np.random.default_rng(0).normal(0.0, 0.05, 40)
        >>> trains = [np.sort(np.concatenate([t + burst for t in (1.0, 3.0, 5.0)])) for _ in range(20)]
        >>> recording = Recording.from_units(trains, 0.0, 6.0)
        >>> values = dict(zip(Bursts().names, Bursts().measure(recording).values.tolist()))
        >>> round(values["rate_per_minute"]), round(values["interval_mean"], 2)
        (30, 2.0)
    """

    name: ClassVar[str] = "bursts"
    smoothing: float = 0.02
    prominence: float = 0.5
    floor: float = 5.0
    relative_floor: float = 2.0
    chance: float = 4.0
    distance: float = 1.0
    window: float = 0.5
    edge: float = 0.1
    subpeak: float = 0.25
    population: str = ""

    def __post_init__(self) -> None:
        as_numbers(self, [f.name for f in fields(self) if f.name != "population"])
        require(self.smoothing > 0, f"bursts smoothing must be above 0 s, got {self.smoothing:g}")
        require(0 < self.prominence <= 1, f"bursts prominence must be in (0, 1], got {self.prominence:g}")
        require(0 < self.edge < 1, f"bursts edge must be in (0, 1), got {self.edge:g}")
        require(self.window > 0, f"bursts window must be above 0 s, got {self.window:g}")
        require(
            self.distance >= 2 * self.window,
            f"bursts distance {self.distance:g} s must be at least twice the window {self.window:g} s",
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the features, without the family's."""
        return tuple(_UNITS)

    @property
    def units(self) -> tuple[str, ...]:
        """Brian2 unit of each feature, or "1"."""
        return tuple(_UNITS.values())

    @property
    def absolute(self) -> tuple[bool, ...]:
        """Which features mean nothing for channels."""
        return tuple(name in _ABSOLUTE for name in _UNITS)

    def measure(self, recording: Recording) -> FeatureValues:
        """Features of one recording."""
        seen = activity(recording, self.population)
        if seen is None:
            return unobserved(len(_UNITS))
        if not len(seen.counts):
            return pack(self.names, {})
        bursts = self._find(seen)
        found = {
            "rate_per_minute": 60.0 * len(bursts.peaks) / seen.duration,
            "mean_rate": seen.mean_rate,
            **_timing(bursts),
        }
        if seen.mean_rate:
            found["rate_cv"] = float(bursts.rate.std()) / seen.mean_rate
        if len(bursts.peaks):
            found |= _strength(bursts, seen.mean_rate) | self._extent(bursts, seen) | self._shape(bursts)
        return pack(self.names, found)

    def _floor(self, seen: Activity) -> float:
        """Least rate of a peak, Hz."""
        # A Gaussian kernel averages as many spikes as a rectangle of this length.
        per_hertz = seen.size * 2.0 * np.sqrt(np.pi) * self.smoothing
        chance = (np.sqrt(seen.mean_rate * per_hertz) + self.chance / 2) ** 2 / per_hertz
        return max(float(chance), self.relative_floor * seen.mean_rate if seen.channels else self.floor)

    def _find(self, seen: Activity) -> _Found:
        rate = gaussian_filter1d(seen.rate(), self.smoothing / COUNT_BIN)
        top = float(rate.max())
        peaks = np.zeros(0, dtype=np.int64)
        if top > 0:
            peaks, _ = find_peaks(
                rate,
                height=self._floor(seen),
                distance=max(self.distance / COUNT_BIN, 1.0),
                prominence=self.prominence * top,
            )
        return _Found(rate, peaks, rate[peaks], peak_prominences(rate, peaks))

    def _extent(self, bursts: _Found, seen: Activity) -> dict[str, float]:
        """Width at half height, onset, offset and the fraction of spikes between them."""
        _, left, right = bursts.bases
        half = peak_widths(bursts.rate, bursts.peaks, 0.5, prominence_data=(bursts.heights, left, right))[0]
        down = 1.0 - self.edge
        _, _, start, stop = peak_widths(bursts.rate, bursts.peaks, down, prominence_data=bursts.bases)
        steps = np.zeros(len(seen.counts) + 1, dtype=np.int64)
        np.add.at(steps, np.ceil(start).astype(np.int64), 1)
        np.add.at(steps, np.floor(stop).astype(np.int64) + 1, -1)
        inside = np.cumsum(steps)[:-1] > 0
        return {
            **_mean_sd("width", COUNT_BIN * half),
            "onset_mean": COUNT_BIN * float(np.mean(bursts.peaks - start)),
            "offset_mean": COUNT_BIN * float(np.mean(stop - bursts.peaks)),
            "fraction_in_bursts": float(seen.counts[inside].sum() / seen.counts.sum()),
        }

    def _shape(self, bursts: _Found) -> dict[str, float]:
        """Kernel correlation and sub-peaks, within the window around each peak."""
        half = round(self.window / COUNT_BIN)
        return _kernels(bursts, half) | self._subpeaks(bursts, half)

    def _subpeaks(self, bursts: _Found, half: int) -> dict[str, float]:
        least = self.subpeak * float(bursts.heights.min())
        local, props = find_peaks(bursts.rate, height=least, prominence=least, wlen=2 * half + 1)
        owner = np.searchsorted(bursts.peaks - half, local, side="right") - 1
        near = (owner >= 0) & (local <= bursts.peaks[owner] + half)
        strong = props["prominences"] >= self.subpeak * bursts.heights[owner]
        local = np.union1d(local[near & strong], bursts.peaks)
        owner = np.searchsorted(bursts.peaks - half, local, side="right") - 1
        found = _mean_sd("subpeaks", np.bincount(owner, minlength=len(bursts.peaks)).astype(np.float64))
        gaps = np.diff(local)[np.diff(owner) == 0]
        return found | ({"subpeak_interval_mean": COUNT_BIN * float(gaps.mean())} if len(gaps) else {})


def _mean_sd(name: str, values: np.ndarray) -> dict[str, float]:
    """Mean of at least one value, sd (ddof 1) of at least two."""
    found = {f"{name}_mean": float(values.mean())} if len(values) else {}
    return found | ({f"{name}_sd": float(values.std(ddof=1))} if len(values) > 1 else {})


def _timing(bursts: _Found) -> dict[str, float]:
    """Intervals between bursts, and their correlation with the peaks after and before them."""
    intervals = COUNT_BIN * np.diff(bursts.peaks)
    found = _mean_sd("interval", intervals)
    if len(intervals) > 1:
        found["interval_cv"] = found["interval_sd"] / found["interval_mean"]
    if len(intervals) >= 3:
        found["interval_before_to_peak"] = _correlation(intervals, bursts.heights[1:])
        found["interval_after_to_peak"] = _correlation(intervals, bursts.heights[:-1])
    return found


def _strength(bursts: _Found, mean_rate: float) -> dict[str, float]:
    found = _mean_sd("peak_rate", bursts.heights)
    if len(bursts.heights) > 1:
        found["peak_rate_cv"] = found["peak_rate_sd"] / found["peak_rate_mean"]
    found["peak_to_mean"] = found["peak_rate_mean"] / mean_rate
    found["log10_mean_to_peak"] = -float(np.log10(found["peak_to_mean"]))
    return found


def _kernels(bursts: _Found, half: int) -> dict[str, float]:
    """Mean pairwise correlation of the rates around the peaks at least `half` bins from both ends."""
    whole = bursts.peaks[(bursts.peaks >= half) & (bursts.peaks < len(bursts.rate) - half)]
    n = len(whole)
    if n < 2:
        return {}
    shapes = bursts.rate[whole[:, None] + np.arange(-half, half + 1)]
    shapes -= shapes.mean(axis=1, keepdims=True)
    total = (shapes / np.linalg.norm(shapes, axis=1, keepdims=True)).sum(axis=0)
    return {"kernel_correlation": float((total @ total - n) / (n * (n - 1)))}


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Pearson correlation; NaN, which is undefined, where one of them does not vary."""
    dx, dy = x - x.mean(), y - y.mean()
    scale = float(np.linalg.norm(dx) * np.linalg.norm(dy))
    least = 1e-9 * float(np.linalg.norm(x) * np.linalg.norm(y))
    return float(dx @ dy) / scale if scale > least else np.nan
