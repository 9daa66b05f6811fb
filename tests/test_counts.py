"""Binned counts of populations: what they hold, what is missing, windows, and what cannot be."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from sbi_circuits.errors import SbiCircuitsError
from sbi_circuits.features import DEFINED, UNDEFINED, UNOBSERVED, FeatureSet
from sbi_circuits.recording import PopulationCounts, Recording
from sbi_circuits.seeds import generator

TRAINS = [[0.001, 0.0105, 0.705], [0.012, 1.2], []]
RECORDING = Recording.from_units(TRAINS, 0.0, 1.5)


def features(view: str = "cells", **options: object) -> FeatureSet:
    return FeatureSet.of(counts={"bin": 0.01, "window": 1.0, **options}, view=view)


def test_a_bin_holds_the_rate_of_its_spikes() -> None:
    """Rate times bin width and units is the histogram of all spikes; nothing beyond the window counts."""
    measured = features().measure(RECORDING)
    spikes = np.histogram(np.concatenate(TRAINS), bins=np.arange(101) * 0.01)[0]
    assert measured.defined.all() and np.allclose(measured.values * 0.01 * 3, spikes)
    assert features().names[:3] == ("counts.at_0", "counts.at_0.01", "counts.at_0.02")
    late = replace(RECORDING, t0=20.0, t1=21.5, times=RECORDING.times + 20.0)
    assert np.allclose(features().measure(late).values, measured.values)


def test_whole_populations_win_and_can_be_chosen() -> None:
    kept = {"e": PopulationCounts(np.arange(1500) % 3, 10), "i": PopulationCounts(np.ones(1500, dtype=int), 5)}
    simulated = replace(RECORDING, counts=kept)
    assert np.allclose(features(population="i").measure(simulated).values, 1 / (5 * 1e-3))
    both = features().measure(simulated).values
    expected = (kept["e"].values + 1)[:1000].reshape(100, 10).mean(1) / (15 * 1e-3)
    assert np.allclose(both, expected)


def test_what_was_not_recorded_is_unobserved_and_a_ratio_without_spikes_undefined() -> None:
    short = Recording.from_units([[0.001], [0.2, 0.5049]], 0.0, 0.505)
    measured = features().measure(short)
    assert (measured.states[:50] == DEFINED).all() and (measured.states[50:] == UNOBSERVED).all()
    silent = Recording.from_units([[]] * 3, 0.0, 0.505)
    assert features().measure(silent).defined[:50].all()  # no spikes are a rate of zero
    states = features(relative=True).measure(silent).states
    assert (states[:50] == UNDEFINED).all() and (states[50:] == UNOBSERVED).all()
    assert (features().measure(Recording(0.0, 2.0)).states == UNOBSERVED).all()
    electrodes = RECORDING.as_channels(3, 1)
    assert (features().measure(electrodes).states == UNOBSERVED).all()
    relative = features(relative=True).measure(electrodes)
    assert relative.defined.all() and relative.values.mean() == pytest.approx(1.0)


def test_windows_keep_the_first_and_not_a_mean_without_phase() -> None:
    """Ten windows of Poisson counts of variance m each: their mean has a tenth of it, unlike any simulation."""
    random = generator(0, "counts")
    trains = [np.sort(random.uniform(0, 10, 2000)) for _ in range(5)]
    recording = Recording.from_units(trains, 0.0, 10.0)
    found = FeatureSet.of("isi", counts={"bin": 0.01, "window": 1.0}).measure_windows(recording, 1.0)
    where = slice(-100, None)
    assert np.array_equal(found.values[where], found.window_values[0, where])
    assert found.values[where].var() > 5 * found.window_values[:, where].mean(0).var()
    assert found.values[0] == pytest.approx(found.window_values[:, 0].mean())  # other families: the mean


def test_a_set_is_a_value() -> None:
    again = FeatureSet.from_dict(features().to_dict())
    assert again == features() and again.digest != features(relative=True).digest
    assert FeatureSet.of("counts").width == 1000


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: features(bin=0.0005), "counts bin 0.0005 s must be a positive multiple of 0.001 s"),
        (lambda: features(bin=-0.01), "counts bin -0.01 s must be a positive multiple of 0.001 s"),
        (lambda: features(window=0.015), "counts window 0.015 s must be a multiple of bin 0.01 s"),
        (lambda: features(window=0.01), "counts bins of 0.01 s in a window of 0.01 s are 1; valid: 2 to 20000"),
        (lambda: features(width=1), "unknown option of counts 'width'; valid: bin, population, relative, window"),
    ],
)
def test_bad_counts(make: Callable[[], FeatureSet], message: str) -> None:
    with pytest.raises(SbiCircuitsError) as caught:
        make()
    assert str(caught.value) == message
