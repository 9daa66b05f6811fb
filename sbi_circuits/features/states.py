"""Feature values and their states: what is missing is said, never a bare NaN."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sbi_circuits.errors import FeatureError

DEFINED, UNDEFINED, UNOBSERVED = 0, 1, 2


@dataclass(frozen=True, eq=False)
class FeatureValues:
    """The features of one recording.

    Args:
        values: (F,) float64 in the units of the feature set; 0.0 where not defined.
        states: (F,) uint8. DEFINED: a number. UNDEFINED: the recording has no such quantity (no burst, so no
            inter-burst interval). UNOBSERVED: this experiment did not measure it.
    """

    values: np.ndarray
    states: np.ndarray

    @property
    def defined(self) -> np.ndarray:
        """(F,) bool: where `values` holds a number."""
        return self.states == DEFINED


@dataclass(frozen=True, eq=False)
class WindowedFeatures:
    """The features of the consecutive windows of one recording, and their summary.

    Args:
        values: (F,) mean over the windows in which the feature is defined; 0.0 where not defined.
        states: (F,) DEFINED where the feature is defined in at least half of the windows.
        spread: (F,) sd (ddof 1) over those windows; 0.0 with fewer than two of them.
        window_values: (W, F) values of each window.
        window_states: (W, F) states of each window.
    """

    values: np.ndarray
    states: np.ndarray
    spread: np.ndarray
    window_values: np.ndarray
    window_states: np.ndarray

    @property
    def n_windows(self) -> int:
        return len(self.window_values)


def pack(names: Sequence[str], found: Mapping[str, float], unobserved: Iterable[str] = ()) -> FeatureValues:
    """Feature values from the defined ones by name; the others are undefined, or unobserved if listed."""
    values = np.array([found.get(name, np.nan) for name in names], dtype=np.float64)
    states = np.where(np.isfinite(values), DEFINED, UNDEFINED).astype(np.uint8)
    hidden = set(unobserved)
    states[[i for i, name in enumerate(names) if name in hidden]] = UNOBSERVED
    return settle(values, states)


def settle(values: np.ndarray, states: np.ndarray) -> FeatureValues:
    """Feature values with 0.0 wherever the state is not DEFINED."""
    return FeatureValues(np.where(states == DEFINED, values, 0.0), states)


def unobserved(width: int) -> FeatureValues:
    """Feature values of a family that this experiment did not measure."""
    return FeatureValues(np.zeros(width), np.full(width, UNOBSERVED, dtype=np.uint8))


def summarise(windows: Sequence[FeatureValues]) -> WindowedFeatures:
    """Mean, state and spread of each feature over windows."""
    values = np.stack([w.values for w in windows])
    states = np.stack([w.states for w in windows])
    defined = states == DEFINED
    n = defined.sum(axis=0)
    mean = values.sum(axis=0) / np.maximum(n, 1)
    squares = np.where(defined, (values - mean) ** 2, 0.0).sum(axis=0)
    spread = np.where(n >= 2, np.sqrt(squares / np.maximum(n - 1, 1)), 0.0)
    missing = np.where((states == UNOBSERVED).any(axis=0), UNOBSERVED, UNDEFINED)
    state = np.where(2 * n >= len(windows), DEFINED, missing).astype(np.uint8)
    kept = settle(mean, state)
    return WindowedFeatures(kept.values, state, np.where(state == DEFINED, spread, 0.0), values, states)


def require(condition: bool, message: str) -> None:
    """Raise `FeatureError` with `message` unless the condition holds."""
    if not condition:
        raise FeatureError(message)


def as_numbers(family: object, names: Iterable[str]) -> None:
    """Turn options into finite floats, so that 1 and 1.0 give one digest; for `__post_init__`."""
    for name in names:
        value = getattr(family, name)
        number = float(value) if isinstance(value, (int, float)) else np.nan
        kind = type(family).__name__
        require(bool(np.isfinite(number)), f"option {name} of {kind} must be a number, got {value!r}")
        object.__setattr__(family, name, number)
