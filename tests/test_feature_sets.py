"""Feature sets are values, and say what is wrong with a bad one."""

import json
from collections.abc import Callable

import pytest
from test_features import BAND, everything

from sbi_circuits.errors import SbiCircuitsError
from sbi_circuits.features import FAMILIES, FeatureSet
from sbi_circuits.units import unit_scale

VALID = "bursts, counts, field, isi, oscillation, pair, spectrum"


def test_sets_are_values() -> None:
    features = everything("channels", relative=True, n_channels=8)
    again = FeatureSet.from_dict(json.loads(json.dumps(features.to_dict())))
    assert again == features and hash(again) == hash(features) and again.digest == features.digest
    others = [everything(), everything("channels"), FeatureSet.of("isi"), FeatureSet.of("bursts", "isi")]
    assert len({f.digest for f in [features, *others]}) == 5
    integer = FeatureSet.of(spectrum={"low": 1, "high": 100, "step": 1})
    assert integer.digest == FeatureSet.of(spectrum=BAND).digest


def test_names_are_unique_and_units_are_known() -> None:
    features = everything()
    assert len(set(features.names)) == features.width
    assert [unit_scale(u) > 0 for u in features.units] == [True] * features.width
    for name, where in features.family_slices.items():
        assert {n.split(".")[0] for n in features.names[where]} == {name}
    fields = {"field", "oscillation", "pair", "counts"}  # their own tests: test_field_features.py, test_counts.py
    assert list(features.family_slices) == [name for name in FAMILIES if name not in fields]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FeatureSet.of("lfp"), f"unknown feature family 'lfp'; valid: {VALID}"),
        (lambda: FeatureSet.of(isi={"bin": 1}), "unknown option of isi 'bin'; valid: population"),
        (
            lambda: FeatureSet.of(spectrum={"max": 1}),
            "unknown option of spectrum 'max'; valid: high, low, population, relative, step",
        ),
        (lambda: FeatureSet.of(), "a feature set needs a family; valid: " + VALID),
        (lambda: FeatureSet.of("isi", isi={}), "feature family isi is there twice"),
        (lambda: FeatureSet.of("isi", view="wells"), "unknown view 'wells'; valid: cells, channels"),
        (lambda: FeatureSet.of("isi", n_channels=0), "n_channels must be a positive integer, got 0"),
        (
            lambda: FeatureSet.of(spectrum={"step": 0.7}),
            "spectrum step 0.7 Hz must be a positive multiple of 0.5 Hz",
        ),
        (
            lambda: FeatureSet.of(spectrum={"low": 9.0, "high": 8.0}),
            "spectrum high 8 Hz is below low 9 Hz",
        ),
        (
            lambda: FeatureSet.of(spectrum={"low": 1.0, "high": 4.5, "step": 1.0}),
            "spectrum high - low (3.5 Hz) must be a multiple of step 1 Hz",
        ),
        (
            lambda: FeatureSet.of(spectrum={"low": 0.5, "high": 4.5, "step": 2.0}),
            "spectrum bands of 2 Hz from 0.5 to 4.5 Hz leave 0.5-500 Hz",
        ),
        (
            lambda: FeatureSet.of(bursts={"smoothing": "20 ms"}),
            "option smoothing of Bursts must be a number, got '20 ms'",
        ),
        (lambda: FeatureSet.of(bursts={"smoothing": 0}), "bursts smoothing must be above 0 s, got 0"),
        (
            lambda: FeatureSet.of(bursts={"distance": 0.5}),
            "bursts distance 0.5 s must be at least twice the window 0.5 s",
        ),
        (
            lambda: FeatureSet.from_dict({"version": 0, "families": []}),
            "feature set of version 0; this is version 1",
        ),
        (lambda: FeatureSet.from_dict({"a": 1}), "this is no feature set: KeyError('version')"),
    ],
)
def test_bad_sets(make: Callable[[], FeatureSet], message: str) -> None:
    with pytest.raises(SbiCircuitsError) as caught:
        make()
    assert str(caught.value) == message
