"""Observation files: what is written is read again, and what cannot be one is refused in one line."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import FEATURES, changed, tiny_observation

from sbi_circuits.errors import FeatureError
from sbi_circuits.observation_file import read_observation


def test_observation_round_trip(observation: Path) -> None:
    read, seen = read_observation(observation), tiny_observation()
    for name in ("values", "states", "spread", "window_values", "window_states"):
        np.testing.assert_array_equal(getattr(read.features, name), getattr(seen, name))
    assert (read.source, read.recording, read.group) == ("tests", "tiny.npz", "A1")
    assert read_observation(observation.read_text()).feature_set == FEATURES


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"schema_version": 2}, "observation.json: schema version 2; this code reads 1"),
        ({"values": None}, "observation.json: this is no observation: KeyError: 'values'"),
        ({"values": [1.0]}, "observation.json: the observation has (1,) features, its feature set (40,)"),
        ({"states": ["maybe"] * 40}, "observation.json: this is no observation: KeyError: 'maybe'"),
        ({"names": ["a", *FEATURES.names[1:]]},
         "observation.json: its names are not those of its feature set (a)"),
        ({"units": ["mV", *FEATURES.units[1:]]},
         "observation.json: its units are not those of its feature set (mV)"),
        ({"spread": [float("nan")] * 40},
         "observation.json: its values are not all finite; what is not defined has the value 0"),
    ],
)  # fmt: skip
def test_bad_observations(changes: dict[str, Any], line: str, observation: Path) -> None:
    with pytest.raises(FeatureError) as caught:
        read_observation(changed(observation, **changes))
    assert str(caught.value) == line
