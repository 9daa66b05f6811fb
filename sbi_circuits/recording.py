"""Recordings: spikes, population counts and signals over a valid interval, simulated or measured."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from sbi_circuits.errors import RecordingError, UnknownNameError
from sbi_circuits.seeds import generator

OUTCOMES = ("ok", "silent", "saturated", "diverged", "failed")
UNIT_KINDS = ("cell", "channel")
COUNT_BIN = 1e-3  # seconds; the width of the population counts


@dataclass(frozen=True)
class Outcome:
    """What became of a simulation: data, not an exception.

    Args:
        status: one of `OUTCOMES`; silent and saturated were stopped early.
        reason: one line for people; empty when ok.
    """

    status: str
    reason: str = ""

    def __post_init__(self) -> None:
        if self.status not in OUTCOMES:
            raise UnknownNameError("outcome", self.status, OUTCOMES)

    @property
    def ok(self) -> bool:
        return self.status == "ok"


@dataclass(frozen=True, eq=False)
class Signal:
    """A sampled signal: values (channels, samples) in `unit` at `rate` Hz, from time `t0` (s)."""

    values: np.ndarray
    rate: float
    unit: str
    t0: float = 0.0

    def window(self, t0: float, t1: float) -> "Signal":
        """The samples with times in [t0, t1)."""
        # Rounding of times must not cost a sample: a small shift makes the edges exact.
        first, end = (max(0, int(np.ceil((t - self.t0) * self.rate - 1e-6))) for t in (t0, t1))
        return Signal(self.values[..., first:end], self.rate, self.unit, self.t0 + first / self.rate)


@dataclass(frozen=True, eq=False)
class PopulationCounts:
    """Spikes of a whole population in bins of 1 ms.

    Args:
        values: (bins,) non-negative integers; bin k covers [t0 + k ms, t0 + (k + 1) ms).
        size: how many neurons the population has.
    """

    values: np.ndarray
    size: int


@dataclass(frozen=True, eq=False)
class IntervalMoments:
    """Moments of the interspike intervals of every neuron of a population, reduced while simulating.

    Args:
        spikes: (N,) number of spikes in the valid interval.
        total: (N,) sum of the intervals between them, seconds.
        total_squared: (N,) sum of the squared intervals, seconds^2.
    """

    spikes: np.ndarray
    total: np.ndarray
    total_squared: np.ndarray


@dataclass(frozen=True, eq=False)
class Recording:
    """Dynamics over the valid interval [t0, t1): the same type for simulations and measurements.

    Args:
        t0, t1: valid interval, seconds.
        times: (S,) spike times in seconds, sorted within each unit, units one after another.
        offsets: (U + 1,) the spikes of unit u are times[offsets[u]:offsets[u + 1]].
        groups: (U,) name of each unit's group: population, well, electrode.
        unit_kind: "cell" (one neuron each) or "channel" (an electrode that sums several).
        counts: population name -> `PopulationCounts`; where a simulation kept them.
        moments: population name -> `IntervalMoments`; where a simulation kept them.
        signals: name -> `Signal` (fields, voltages).
        meta: plain values worth keeping (source, seed, configuration).

    Raises:
        RecordingError: an empty interval, times that are negative, not finite, unsorted or outside it.
    """

    t0: float
    t1: float
    times: np.ndarray = field(default_factory=lambda: np.zeros(0))
    offsets: np.ndarray = field(default_factory=lambda: np.zeros(1, dtype=np.int64))
    groups: tuple[str, ...] = ()
    unit_kind: str = "cell"
    counts: Mapping[str, PopulationCounts] = field(default_factory=dict)
    moments: Mapping[str, IntervalMoments] = field(default_factory=dict)
    signals: Mapping[str, Signal] = field(default_factory=dict)
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "times", np.asarray(self.times, dtype=np.float64))
        object.__setattr__(self, "offsets", np.asarray(self.offsets, dtype=np.int64))
        groups = tuple(map(str, self.groups)) or ("",) * self.n_units
        object.__setattr__(self, "groups", groups)
        self._check()

    def _check(self) -> None:
        if not (np.isfinite(self.t0) and np.isfinite(self.t1) and self.t1 > self.t0):
            raise RecordingError(f"the valid interval [{self.t0:g}, {self.t1:g}) s is empty")
        if self.unit_kind not in UNIT_KINDS:
            raise UnknownNameError("unit kind", self.unit_kind, UNIT_KINDS)
        if len(self.groups) != self.n_units:
            raise RecordingError(f"{len(self.groups)} unit groups for {self.n_units} units")
        bounds_ok = self.offsets[0] == 0 and self.offsets[-1] == len(self.times)
        if not bounds_ok or (np.diff(self.offsets) < 0).any():
            raise RecordingError("the unit offsets do not partition the spike times")
        # The extremes are not finite where any time is not.
        low, high = (self.times.min(), self.times.max()) if len(self.times) else (self.t0, self.t0)
        if not (np.isfinite(low) and np.isfinite(high)):
            raise RecordingError("spike times contain NaN or infinity")
        if low < 0 and len(self.times):
            raise RecordingError(f"negative spike time {low:g} s")
        back = self.times[1:] < self.times[:-1]
        edges = self.offsets[1:-1]
        back[edges[(edges > 0) & (edges < len(self.times))] - 1] = False
        if back.any():
            unit = int(np.searchsorted(self.offsets, np.flatnonzero(back)[0], side="right")) - 1
            raise RecordingError(f"spike times of unit {unit} are not sorted")
        if low < self.t0 or high > self.t1:
            raise RecordingError(
                f"spike times reach from {low:g} to {high:g} s, "
                f"outside the valid interval [{self.t0:g}, {self.t1:g}) s"
            )

    @property
    def duration(self) -> float:
        """Length of the valid interval, seconds."""
        return self.t1 - self.t0

    @property
    def n_units(self) -> int:
        return len(self.offsets) - 1

    def unit(self, index: int) -> np.ndarray:
        """Spike times of one unit, seconds."""
        return self.times[self.offsets[index] : self.offsets[index + 1]]

    @classmethod
    def from_units(cls, trains: Sequence[Iterable[float]], t0: float, t1: float, **kwargs: Any) -> "Recording":
        """A recording from one array of spike times (seconds) per unit."""
        arrays = [np.asarray(t, dtype=np.float64).ravel() for t in trains]
        offsets = np.concatenate([[0], np.cumsum([len(a) for a in arrays])]).astype(np.int64)
        times = np.concatenate(arrays) if arrays else np.zeros(0)
        return cls(t0=t0, t1=t1, times=times, offsets=offsets, **kwargs)

    def select(self, units: Sequence[int] | np.ndarray) -> "Recording":
        """The recording of some units only; counts and moments of whole populations are left out."""
        trains = [self.unit(int(u)) for u in units]
        groups = tuple(self.groups[int(u)] for u in units)
        chosen = Recording.from_units(trains, self.t0, self.t1, groups=groups, unit_kind=self.unit_kind)
        return replace(chosen, signals=self.signals, meta=self.meta)

    def window(self, t0: float, t1: float) -> "Recording":
        """Spikes and signals within [t0, t1) as a recording of its own; reductions over time cannot be cut."""
        if t0 < self.t0 or t1 > self.t1:
            raise RecordingError(f"[{t0:g}, {t1:g}) s is not within [{self.t0:g}, {self.t1:g}) s")
        trains = [s[np.searchsorted(s, t0) : np.searchsorted(s, t1)] for s in map(self.unit, range(self.n_units))]
        signals = {name: signal.window(t0, t1) for name, signal in self.signals.items()}
        return Recording.from_units(trains, t0, t1, groups=self.groups, unit_kind=self.unit_kind, signals=signals,
                                    meta=self.meta)  # fmt: skip

    def as_channels(self, n_channels: int, cells_per_channel: int, seed: int = 0) -> "Recording":
        """Sum random groups of cells into channels, as an electrode does.

        Args:
            n_channels: how many channels.
            cells_per_channel: cells summed into each, drawn without replacement.
            seed: of the assignment of cells to channels.

        Raises:
            RecordingError: for channels already, or when there are too few cells.
        """
        if self.unit_kind != "cell":
            raise RecordingError("this recording is of channels already")
        wanted = n_channels * cells_per_channel
        if wanted > self.n_units:
            raise RecordingError(f"{n_channels} channels of {cells_per_channel} cells need {wanted} cells, "
                                 f"the recording has {self.n_units}; record more spikes")
        cells = generator(seed, "channels").permutation(self.n_units)[:wanted].reshape(n_channels, -1)
        trains = [np.sort(np.concatenate([self.unit(int(u)) for u in row])) for row in cells]
        return Recording.from_units(trains, self.t0, self.t1, unit_kind="channel", signals=self.signals, meta=self.meta)

    def population_counts(self, bin_width: float = COUNT_BIN) -> np.ndarray:
        """Spikes of all units in bins over the valid interval: (bins,) int64; a last partial bin is left out."""
        bins = int((self.t1 - self.t0) / bin_width + 1e-6)
        # Simulated spike times are multiples of dt and fall on bin edges: a small shift makes the bin exact.
        index = np.floor((self.times - self.t0) / bin_width + 1e-6).astype(np.int64)
        return np.bincount(index[index < bins], minlength=bins)
