"""Feature sets: ordered, versioned lists of features, and how a recording is looked at."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from typing import Any, ClassVar, Protocol

import numpy as np

from sbi_circuits.digests import digest
from sbi_circuits.errors import FeatureError, UnknownNameError
from sbi_circuits.features.bursts import Bursts
from sbi_circuits.features.counts import Counts
from sbi_circuits.features.field import Field
from sbi_circuits.features.field_pairs import FieldPair
from sbi_circuits.features.isi import Intervals
from sbi_circuits.features.oscillations import Oscillation
from sbi_circuits.features.spectrum import Spectrum
from sbi_circuits.features.states import (
    UNOBSERVED,
    FeatureValues,
    WindowedFeatures,
    require,
    settle,
    summarise,
    unobserved,
)  # fmt: skip
from sbi_circuits.recording import COUNT_BIN, PopulationCounts, Recording

VERSION = 1  # raise it when any family gives another number for the same recording
VIEWS = ("cells", "channels")


class Family(Protocol):
    """A family of features: a frozen dataclass whose fields are its options."""

    name: ClassVar[str]

    @property
    def names(self) -> tuple[str, ...]: ...
    @property
    def units(self) -> tuple[str, ...]: ...
    @property
    def absolute(self) -> tuple[bool, ...]: ...
    def measure(self, recording: Recording) -> FeatureValues: ...


_KINDS = (Intervals, Bursts, Spectrum, Counts, Field, Oscillation, FieldPair)
FAMILIES: dict[str, type] = {kind.name: kind for kind in _KINDS}


@dataclass(frozen=True)
class FeatureSet:
    """An ordered list of feature families, and the view of the recording they are computed in.

    Args:
        families: the families with their options; see `FeatureSet.of`.
        view: "cells", or "channels" for comparing with electrodes: recorded cells are summed into channels
            first, and what cannot be compared (single-cell intervals, absolute rates and power) is unobserved
            on both sides. In the view of cells a recording of channels has the same features unobserved.
        n_channels: how many channels cells are summed into.
        cells_per_channel: cells in each.

    Raises:
        FeatureError: no family, or one twice; a view that is not valid raises `UnknownNameError`.

    Examples:
        >>> features = FeatureSet.of("isi", "bursts", spectrum={"low": 1.0, "high": 100.0, "step": 1.0})
        >>> features.width, features.names[0], features.units[0], features.family_slices["bursts"]
        (140, 'isi.rate_mean', 'Hz', slice(18, 40, None))
        >>> FeatureSet.from_dict(features.to_dict()) == features
        True
        >>> recording = Recording.from_units([[0.5, 1.0, 1.5, 2.0], [0.1]], 0.0, 2.5)
        >>> measured = features.measure(recording)
        >>> measured.values.shape, float(measured.values[0])
        ((140,), 1.0)
        >>> bool(measured.defined[features.names.index("bursts.width_mean")])  # no burst
        False
    """

    families: tuple[Family, ...]
    view: str = "cells"
    n_channels: int = 16
    cells_per_channel: int = 5

    def __post_init__(self) -> None:
        object.__setattr__(self, "families", tuple(self.families))
        require(bool(self.families), f"a feature set needs a family; valid: {', '.join(sorted(FAMILIES))}")
        names = [family.name for family in self.families]
        twice = sorted({name for name in names if names.count(name) > 1})
        require(not twice, f"feature family {', '.join(twice)} is there twice")
        if self.view not in VIEWS:
            raise UnknownNameError("view", self.view, VIEWS)
        for option in ("n_channels", "cells_per_channel"):
            value = getattr(self, option)
            positive = isinstance(value, int) and value >= 1
            require(positive, f"{option} must be a positive integer, got {value!r}")

    @classmethod
    def of(
        cls,
        *names: str,
        view: str = "cells",
        n_channels: int = 16,
        cells_per_channel: int = 5,
        **options: Mapping[str, Any],
    ) -> "FeatureSet":
        """A feature set from family names (default options) and keywords `family={option: value}`.

        Raises:
            UnknownNameError: for a family or an option that does not exist.
        """
        families = [_family(name, {}) for name in names]
        families += [_family(name, chosen) for name, chosen in options.items()]
        return cls(tuple(families), view, n_channels, cells_per_channel)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """(F,) names, "family.feature"."""
        return tuple(f"{family.name}.{name}" for family in self.families for name in family.names)

    @cached_property
    def units(self) -> tuple[str, ...]:
        """(F,) Brian2 units, or "1"."""
        return tuple(unit for family in self.families for unit in family.units)

    @property
    def width(self) -> int:
        return len(self.names)

    @cached_property
    def family_slices(self) -> dict[str, slice]:
        """Where each family lies in the values."""
        edges = np.cumsum([0, *(len(family.names) for family in self.families)]).tolist()
        return {f.name: slice(a, b) for f, a, b in zip(self.families, edges, edges[1:], strict=False)}

    @property
    def version(self) -> int:
        """Version of the features' definitions; part of the digest."""
        return VERSION

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON content."""
        return {
            "version": self.version,
            "families": [{"name": f.name, **asdict(f)} for f in self.families],  # type: ignore[call-overload]
            "view": self.view,
            "n_channels": self.n_channels,
            "cells_per_channel": self.cells_per_channel,
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "FeatureSet":
        """The feature set that `to_dict` gave.

        Raises:
            FeatureError: for content of another version, or that is no feature set.
        """
        try:
            version, listed = content["version"], content["families"]
            require(version == VERSION, f"feature set of version {version!r}; this is version {VERSION}")
            families = tuple(_family(f["name"], {k: v for k, v in f.items() if k != "name"}) for f in listed)
            return cls(families, content["view"], content["n_channels"], content["cells_per_channel"])
        except (KeyError, TypeError) as error:
            raise FeatureError(f"this is no feature set: {error!r}") from error

    @cached_property
    def digest(self) -> str:
        """SHA-256 hex digest of the content."""
        return digest(self.to_dict())

    def measure(self, recording: Recording, seed: int = 0) -> FeatureValues:
        """Features of one recording: (F,) values and states.

        Args:
            recording: simulated or measured, of cells or of channels.
            seed: of the assignment of cells to channels, in the view of channels.

        Raises:
            RecordingError: when there are too few recorded cells for the channels.
        """
        return self._measure(self._seen(recording, seed))

    def measure_windows(self, recording: Recording, window_s: float, seed: int = 0) -> WindowedFeatures:
        """Features of the consecutive windows of a long recording, to set beside simulations as long.

        Args:
            recording: as for `measure`; one shorter than a window is a single window.
            window_s: length of the simulations, s; a last partial window is left out.
            seed: as for `measure`.

        Raises:
            FeatureError: for a window that is not positive.
        """
        require(window_s > 0, f"the window must be longer than 0 s, got {window_s:g}")
        seen = self._seen(recording, seed)
        return self._timed(summarise([self._measure(part) for part in _windows(seen, window_s)]))

    def _timed(self, found: WindowedFeatures) -> WindowedFeatures:
        """The same with the first window in place of the mean, where features follow the time within a window."""
        values, states = found.values.copy(), found.states.copy()
        for family in self.families:
            if getattr(family, "timed", False):
                where = self.family_slices[family.name]
                values[where], states[where] = found.window_values[0, where], found.window_states[0, where]
        return replace(found, values=values, states=states)

    def _seen(self, recording: Recording, seed: int) -> Recording:
        if self.view == "channels" and recording.unit_kind == "cell":
            return recording.as_channels(self.n_channels, self.cells_per_channel, seed)
        return recording

    def _measure(self, seen: Recording) -> FeatureValues:
        channels = seen.unit_kind == "channel"
        parts = [_measure_family(family, seen, channels) for family in self.families]
        values, states = (np.concatenate([getattr(p, part) for p in parts]) for part in ("values", "states"))
        return FeatureValues(values, states)


def _measure_family(family: Family, seen: Recording, channels: bool) -> FeatureValues:
    hidden = np.array(family.absolute) & channels
    if hidden.all():
        return unobserved(len(hidden))
    measured = family.measure(seen)
    return settle(measured.values, np.where(hidden, UNOBSERVED, measured.states).astype(np.uint8))


def _family(name: str, options: Mapping[str, Any]) -> Family:
    if name not in FAMILIES:
        raise UnknownNameError("feature family", name, FAMILIES)
    kind = FAMILIES[name]
    valid = [f.name for f in fields(kind)]
    for option in options:
        if option not in valid:
            raise UnknownNameError(f"option of {name}", option, valid)
    family: Family = kind(**options)
    return family


def _windows(recording: Recording, window_s: float) -> Iterator[Recording]:
    n = int(recording.duration / window_s + 1e-9)
    if n <= 1 and recording.duration < (1 + 1e-9) * window_s:
        yield recording
        return
    for k in range(n):
        start = recording.t0 + k * window_s
        yield _cut(recording, start, min(start + window_s, recording.t1))


def _cut(recording: Recording, t0: float, t1: float) -> Recording:
    """One window, with the counts of whole populations where they were kept."""
    first = round((t0 - recording.t0) / COUNT_BIN)
    bins = slice(first, first + int((t1 - t0) / COUNT_BIN + 1e-6))
    counts = {name: PopulationCounts(c.values[bins], c.size) for name, c in recording.counts.items()}
    return replace(recording.window(t0, t1), counts=counts)
