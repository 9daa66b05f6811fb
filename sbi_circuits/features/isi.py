"""Interspike-interval statistics of single cells, summarised over cells."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sbi_circuits.features.population import chosen_names, units_of
from sbi_circuits.features.states import FeatureValues, pack, unobserved
from sbi_circuits.recording import IntervalMoments, Recording

MIN_SPIKES = 3  # a unit's intervals count from two intervals on
QUARTILES = (0.25, 0.5, 0.75)
_UNITS = {
    "rate": "Hz",
    "count": "1",
    "mean": "second",
    "sd": "second",
    "cv": "1",
    "q25": "second",
    "q50": "second",
    "q75": "second",
}
_FRACTIONS = ("active_fraction", "cv_fraction")


@dataclass(frozen=True)
class Intervals:
    """Interspike intervals of single cells; the family `isi`.

    For each unit: rate, spike count, and the mean, sd (ddof 1), coefficient of variation and quartiles of its
    intervals. The features are the mean and the sd (ddof 1) of each over units (`mean_sd`: the sd over
    units of their mean interval): rate and count over all
    units, the rest over units with at least three spikes. A mean needs one such unit, an sd two.
    `active_fraction` and `cv_fraction` are the fractions of units with at least one and at least three
    spikes.

    Simulations that kept only the moments of their intervals have no quartiles: unobserved. Electrodes sum
    cells, so the whole family is unobserved for channels.

    Args:
        population: the population or unit group to look at; all of them where empty.

    Examples:
        >>> from sbi_circuits.recording import Recording
        >>> recording = Recording.from_units([[0.1, 0.2, 0.3], [0.5]], 0.0, 1.0)
        >>> measured = Intervals().measure(recording)
        >>> values = dict(zip(Intervals().names, measured.values.tolist()))
        >>> round(values["mean_mean"], 3), values["rate_mean"], values["cv_fraction"]
        (0.1, 2.0, 0.5)
    """

    name: ClassVar[str] = "isi"
    population: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the features, without the family's."""
        return (*(f"{name}_{part}" for name in _UNITS for part in ("mean", "sd")), *_FRACTIONS)

    @property
    def units(self) -> tuple[str, ...]:
        """Brian2 unit of each feature, or "1"."""
        return (*(unit for unit in _UNITS.values() for _ in ("mean", "sd")), *("1" for _ in _FRACTIONS))

    @property
    def absolute(self) -> tuple[bool, ...]:
        """Which features mean nothing for channels: all."""
        return (True,) * len(self.names)

    def measure(self, recording: Recording) -> FeatureValues:
        """Features of one recording of cells."""
        units = units_of(recording, self.population)
        if units.n_units:
            return self._summary(*_of_trains(units), duration=recording.duration)
        if recording.moments:
            chosen = [recording.moments[n] for n in chosen_names(recording.moments, self.population)]
            hidden = [name for name in self.names if name.startswith("q")]
            return self._summary(*_of_moments(chosen), duration=recording.duration, hidden=hidden)
        return unobserved(len(self.names))

    def _summary(
        self,
        spikes: np.ndarray,
        per_unit: Mapping[str, np.ndarray],
        duration: float,
        hidden: Iterable[str] = (),
    ) -> FeatureValues:
        """Mean and sd over units: `spikes` is (U,), each of `per_unit` (V,), the units with enough spikes."""
        found: dict[str, float] = {}
        for name, values in {"rate": spikes / duration, "count": spikes, **per_unit}.items():
            if len(values) >= 1:
                found[f"{name}_mean"] = float(values.mean())
            if len(values) >= 2:
                found[f"{name}_sd"] = float(values.std(ddof=1))
        if len(spikes):
            found["active_fraction"] = float(np.mean(spikes >= 1))
            found["cv_fraction"] = float(np.mean(spikes >= MIN_SPIKES))
        return pack(self.names, found, hidden)


def _of_moments(moments: list[IntervalMoments]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(U,) spike counts and the per-unit statistics of the units with enough spikes."""
    spikes = np.concatenate([np.asarray(m.spikes) for m in moments])
    total = np.concatenate([np.asarray(m.total, dtype=np.float64) for m in moments])
    squared = np.concatenate([np.asarray(m.total_squared, dtype=np.float64) for m in moments])
    keep = spikes >= MIN_SPIKES
    return spikes.astype(np.float64), _statistics(spikes[keep] - 1, total[keep], squared[keep])


def _of_trains(recording: Recording) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The same from spike trains, with quartiles; all units at once."""
    spikes = np.diff(recording.offsets)
    keep = spikes >= MIN_SPIKES
    n = spikes[keep] - 1
    if not keep.any():
        return spikes.astype(np.float64), _statistics(n, np.zeros(0), np.zeros(0))
    unit = np.repeat(np.arange(len(spikes)), spikes)
    within = (unit[1:] == unit[:-1]) & keep[unit[1:]]
    intervals = np.diff(recording.times)[within]
    starts = np.concatenate([[0], np.cumsum(n)[:-1]])
    mean = np.add.reduceat(intervals, starts) / n
    # Deviations from each unit's own mean: the sum of squares alone cancels badly for regular trains.
    deviations = np.add.reduceat((intervals - np.repeat(mean, n)) ** 2, starts)
    found = _statistics(n, mean * n, deviations + n * mean**2)
    return spikes.astype(np.float64), found | _quartiles(intervals, n, starts)


def _statistics(n: np.ndarray, total: np.ndarray, squared: np.ndarray) -> dict[str, np.ndarray]:
    mean = total / n
    variance = np.maximum(squared - n * mean**2, 0.0) / (n - 1)
    sd = np.sqrt(variance)
    positive = mean > 0
    return {"mean": mean, "sd": sd, "cv": sd[positive] / mean[positive]}


def _quartiles(intervals: np.ndarray, n: np.ndarray, starts: np.ndarray) -> dict[str, np.ndarray]:
    """Linear-interpolated quartiles of each unit's n intervals, which begin at `starts`."""
    rank = np.repeat(np.arange(len(n)), n)
    # One plain sort of (unit, interval) pairs folded into a float is much faster than a lexsort; folding
    # costs at most a few 1e-12 s.
    span = 2.0 * float(intervals.max()) + 1.0
    ordered = np.sort(intervals + rank * span) - rank * span
    found = {}
    for q in QUARTILES:
        position = q * (n - 1)
        low = np.floor(position).astype(np.int64)
        part = position - low
        below, above = ordered[starts + low], ordered[starts + np.minimum(low + 1, n - 1)]
        found[f"q{round(100 * q)}"] = np.maximum(below + part * (above - below), 0.0)
    return found
