"""Binned counts of a population: the activity itself, for networks that find their own summary of it."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sbi_circuits.features.population import activity
from sbi_circuits.features.states import (
    DEFINED,
    UNOBSERVED,
    FeatureValues,
    as_numbers,
    pack,
    require,
    settle,
    unobserved,
)  # fmt: skip
from sbi_circuits.recording import COUNT_BIN, Recording

MOST_BINS = 20_000


@dataclass(frozen=True)
class Counts:
    """Spikes of a population in consecutive bins, from the start of the valid interval.

    `at_0`, `at_0.01`, ... (the start of each bin, s) hold the rate of a bin per unit, Hz, or relative to its mean. What
    lies beyond the end of a shorter recording is unobserved. When a bin comes matters only relative to the others:
    training reads them through a convolution whose outputs are averaged over time (see `inference.long`), and of a
    recording of several windows the first one is kept, not their mean.

    Args:
        bin: width of the bins, s; a multiple of 1 ms.
        window: how long they last together, s; a multiple of `bin`.
        relative: divide by the mean over the bins observed, so that neither the number of cells under an electrode nor
            its sensitivity matters; undefined without spikes. Otherwise in Hz, and unobserved for channels.
        population: the population or unit group to look at; all of them where empty.

    Raises:
        FeatureError: for bins that are no multiple of 1 ms, or do not divide the window into 2 to 20,000.

    Examples:
        >>> family = Counts(bin=0.5, window=2.0)
        >>> family.names
        ('at_0', 'at_0.5', 'at_1', 'at_1.5')
        >>> recording = Recording.from_units([[0.1, 0.2, 1.7]], 0.0, 1.9)
        >>> measured = family.measure(recording)
        >>> measured.values.tolist(), measured.states.tolist()
        ([4.0, 0.0, 0.0, 0.0], [0, 0, 0, 2])
    """

    name: ClassVar[str] = "counts"
    timed: ClassVar[bool] = True  # windows of a recording have no common mean
    bin: float = 0.01
    window: float = 10.0
    relative: bool = False
    population: str = ""

    def __post_init__(self) -> None:
        as_numbers(self, ("bin", "window"))
        whole = self.bin > 0 and abs(self.bin / COUNT_BIN - self._samples) < 1e-6 and self._samples >= 1
        require(whole, f"counts bin {self.bin:g} s must be a positive multiple of {COUNT_BIN:g} s")
        fits = self.window > 0 and abs(self.window / self.bin - self._bins) < 1e-6
        require(fits, f"counts window {self.window:g} s must be a multiple of bin {self.bin:g} s")
        bins = f"counts bins of {self.bin:g} s in a window of {self.window:g} s are {self._bins}"
        require(2 <= self._bins <= MOST_BINS, f"{bins}; valid: 2 to {MOST_BINS}")

    @property
    def _samples(self) -> int:
        """Samples of 1 ms in a bin."""
        return round(self.bin / COUNT_BIN)

    @property
    def _bins(self) -> int:
        return round(self.window / self.bin)

    @property
    def times(self) -> np.ndarray:
        """(F,) start of each bin after that of the recording, s."""
        return np.arange(self._bins) * self._samples / round(1 / COUNT_BIN)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the features, without the family's."""
        return tuple(f"at_{t:g}" if t < 1000 else f"at_{t:.3f}" for t in self.times)

    @property
    def units(self) -> tuple[str, ...]:
        """Hz, or none for a ratio."""
        return ("1" if self.relative else "Hz",) * self._bins

    @property
    def absolute(self) -> tuple[bool, ...]:
        """Which features mean nothing for channels: none of relative ones, all of absolute ones."""
        return (not self.relative,) * self._bins

    def measure(self, recording: Recording) -> FeatureValues:
        """Features of one recording."""
        seen = activity(recording, self.population)
        if seen is None:
            return unobserved(self._bins)
        kept = min(self._bins, len(seen.counts) // self._samples)
        rates = seen.rate()[: kept * self._samples].reshape(kept, self._samples).mean(1)
        if self.relative and not rates.any():
            return pack(self.names, {}, self.names[kept:])
        values = np.zeros(self._bins)
        values[:kept] = rates / rates.mean() if self.relative else rates
        return settle(values, np.where(np.arange(self._bins) < kept, DEFINED, UNOBSERVED).astype(np.uint8))
