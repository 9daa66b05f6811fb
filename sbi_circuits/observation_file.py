"""Observations as small JSON files: the features of a recording without the recording."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sbi_circuits.errors import FeatureError
from sbi_circuits.features import DEFINED, UNDEFINED, UNOBSERVED, FeatureSet, WindowedFeatures

SCHEMA_VERSION = 1
STATES = {DEFINED: "defined", UNDEFINED: "undefined", UNOBSERVED: "unobserved"}
_CODES = {name: code for code, name in STATES.items()}


@dataclass(frozen=True, eq=False)
class ObservedFeatures:
    """The features of a recording, and where they come from.

    Args:
        feature_set: what was measured.
        features: values, states and spread (F,), and those of W windows (W, F), in the declared units.
        window_s: length of a window, seconds.
        source: where the recording was published; recording: its file; group: the well or population.

    Raises:
        FeatureError: features of another width than the feature set.
    """

    feature_set: FeatureSet
    features: WindowedFeatures
    window_s: float
    source: str = ""
    recording: str = ""
    group: str = ""

    def __post_init__(self) -> None:
        f, width = self.features, (self.feature_set.width,)
        if not f.values.shape == f.states.shape == f.spread.shape == width:
            raise FeatureError(f"the observation has {f.values.shape} features, its feature set {width}")
        windows = (len(f.window_values), *width)
        if not len(f.window_values) or f.window_values.shape != windows or f.window_states.shape != windows:
            raise FeatureError(
                f"the windows have shape {f.window_values.shape}, expected (W, {width[0]}) and W >= 1"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON content."""
        f = self.features
        return {
            "schema_version": SCHEMA_VERSION,
            "source": self.source,
            "recording": self.recording,
            "group": self.group,
            "window_s": self.window_s,
            "feature_set": self.feature_set.to_dict(),
            "names": list(self.feature_set.names),
            "units": list(self.feature_set.units),
            "values": f.values.tolist(),
            "states": [STATES[s] for s in f.states.tolist()],
            "spread": f.spread.tolist(),
            "window_values": f.window_values.tolist(),
            "window_states": [[STATES[s] for s in row] for row in f.window_states.tolist()],
        }

    @classmethod
    def from_dict(cls, content: Any) -> "ObservedFeatures":
        """The observation that `to_dict` gave.

        Raises:
            FeatureError: other content, or names and units that are not those of the feature set.
        """
        try:
            if content["schema_version"] != SCHEMA_VERSION:
                raise FeatureError(
                    f"schema version {content['schema_version']}; this code reads {SCHEMA_VERSION}"
                )
            feature_set = FeatureSet.from_dict(content["feature_set"])
            _same("names", content["names"], feature_set.names)
            _same("units", content["units"], feature_set.units)
            found = WindowedFeatures(
                _numbers(content["values"]),
                _states(content["states"]),
                _numbers(content["spread"]),
                _numbers(content["window_values"]),
                _states(content["window_states"]),
            )
            about = (str(content.get(name, "")) for name in ("source", "recording", "group"))
            return cls(feature_set, found, float(content["window_s"]), *about)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise FeatureError(f"this is no observation: {type(error).__name__}: {error}") from error


def write_observation(path: str | Path, observed: ObservedFeatures) -> Path:
    """Write an observation as JSON, at once or not at all; returns the path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(observed.to_dict(), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    temporary.replace(path)
    return path


def read_observation(source: str | Path) -> ObservedFeatures:
    """Read an observation from a file, or from JSON text.

    Raises:
        FeatureError: a file that is missing or does not hold an observation; the message names it.
    """
    name = source.name if isinstance(source, Path) else "the observation"
    try:
        text = source.read_text(encoding="utf-8") if isinstance(source, Path) else source
        return ObservedFeatures.from_dict(json.loads(text))
    except OSError as error:
        raise FeatureError(f"cannot read {source}: {error.strerror}") from error
    except ValueError as error:
        raise FeatureError(f"{name} is not a JSON file ({str(error).splitlines()[0]})") from error
    except FeatureError as error:
        raise FeatureError(f"{name}: {error}") from error


def _same(what: str, found: Any, expected: tuple[str, ...]) -> None:
    if list(found) != list(expected):
        odd = [f for f in [*found, *expected] if f not in found or f not in expected]
        raise FeatureError(
            f"its {what} are not those of its feature set ({odd[0] if odd else 'another order'})"
        )


def _numbers(values: Any) -> np.ndarray:
    found = np.array(values, dtype=np.float64)
    if not np.isfinite(found).all():
        raise FeatureError("its values are not all finite; what is not defined has the value 0")
    return found


def _states(names: Any) -> np.ndarray:
    rows = [[_CODES[name] for name in row] for row in names] if names and isinstance(names[0], list) else None
    return np.array([_CODES[name] for name in names] if rows is None else rows, dtype=np.uint8)
