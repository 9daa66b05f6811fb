"""Which spikes a feature family looks at: a population's counts where kept, the recorded units elsewhere."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from sbi_circuits.errors import UnknownNameError
from sbi_circuits.recording import COUNT_BIN, Recording


@dataclass(frozen=True, eq=False)
class Activity:
    """Summed activity of the units a family looks at.

    Args:
        counts: (bins,) spikes of all of them in bins of 1 ms.
        size: how many units (neurons or channels) they are.
        channels: whether the units are electrodes, whose absolute rates mean nothing.
    """

    counts: np.ndarray
    size: int
    channels: bool

    @property
    def duration(self) -> float:
        """Seconds."""
        return len(self.counts) * COUNT_BIN

    @property
    def mean_rate(self) -> float:
        """Mean rate per unit, Hz; 0 without spikes."""
        return float(self.counts.sum()) / (self.size * self.duration) if self.duration else 0.0

    def rate(self) -> np.ndarray:
        """(bins,) rate per unit, Hz."""
        return self.counts / (self.size * COUNT_BIN)


def activity(recording: Recording, population: str = "") -> Activity | None:
    """Activity of a recording, or of one of its populations; None where nothing was recorded.

    The counts of whole populations win over the recorded units, which are often a small sample of them. A
    measured recording does not name populations and is taken whole.

    Raises:
        UnknownNameError: for a population that a simulation did not count.
    """
    if recording.counts:
        chosen = [recording.counts[name] for name in chosen_names(recording.counts, population)]
        size = sum(c.size for c in chosen)
        total = np.sum([c.values for c in chosen], axis=0)
        return Activity(total, size, False) if size else None
    units = units_of(recording, population)
    if not units.n_units:
        return None
    return Activity(units.population_counts(), units.n_units, units.unit_kind == "channel")


def chosen_names(available: Iterable[str], population: str) -> list[str]:
    """The populations to sum: the named one, or all of them."""
    names = list(available)
    if population and population not in names:
        raise UnknownNameError("population", population, names)
    return [population] if population else names


def units_of(recording: Recording, population: str) -> Recording:
    """The recorded units of a population; all of them where none is asked for or the recording names none."""
    if not population or population not in recording.groups:
        return recording
    return recording.select([u for u, group in enumerate(recording.groups) if group == population])
