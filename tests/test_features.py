"""Features: laws that hold for every family, quantities known beforehand, and what must not be found."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from sbi_circuits.errors import FeatureError, RecordingError, SbiCircuitsError
from sbi_circuits.features import DEFINED, UNDEFINED, UNOBSERVED, FeatureSet, FeatureValues
from sbi_circuits.recording import IntervalMoments, PopulationCounts, Recording
from sbi_circuits.seeds import generator

BAND = {"low": 1.0, "high": 100.0, "step": 1.0}


def everything(view: str = "cells", relative: bool = False, **options: int) -> FeatureSet:
    return FeatureSet.of("isi", "bursts", spectrum={**BAND, "relative": relative}, view=view, **options)


SETS = {
    "cells": everything(),
    "relative": everything(relative=True),
    "channels": everything("channels", relative=True, n_channels=5, cells_per_channel=4),
    "absolute channels": everything("channels", n_channels=5, cells_per_channel=4),
}


def poisson(n_units: int, rate: float, duration: float, seed: int = 0) -> Recording:
    rng = generator(seed, "poisson")
    trains = [np.sort(rng.uniform(0, duration, rng.poisson(rate * duration))) for _ in range(n_units)]
    return Recording.from_units(trains, 0.0, duration)


def from_rate(rate: Callable, top: float, n_units: int, duration: float, seed: int = 0) -> Recording:
    """An inhomogeneous Poisson process of `rate(t)` <= `top` Hz per unit, by thinning."""
    rng = generator(seed, "thinning")
    trains = []
    for _ in range(n_units):
        times = np.sort(rng.uniform(0, duration, rng.poisson(top * duration)))
        trains.append(times[rng.random(len(times)) * top < rate(times)])
    return Recording.from_units(trains, 0.0, duration)


def bursty(at: list[float], n_units: int = 40, duration: float = 60.0, sd: float = 0.1) -> Recording:
    """Gaussian bursts of 80 Hz at known times over a background of 0.2 Hz."""
    centres = np.array(at)

    def rate(t: np.ndarray) -> np.ndarray:
        return 0.2 + 80.0 * np.exp(-0.5 * ((t[:, None] - centres) / sd) ** 2).sum(axis=1)

    return from_rate(rate, 81.0, n_units, duration)


def shifted(recording: Recording, by: float) -> Recording:
    return replace(recording, t0=recording.t0 + by, t1=recording.t1 + by, times=recording.times + by)


def as_simulated(recording: Recording) -> Recording:
    """The same spikes, with the reductions that a simulation keeps."""
    counts = {"all": PopulationCounts(recording.population_counts(), recording.n_units)}
    return replace(recording, counts=counts)


def moments_of(recording: Recording) -> IntervalMoments:
    intervals = [np.diff(recording.unit(u)) for u in range(recording.n_units)]
    total, squared = ([float((i**k).sum()) for i in intervals] for k in (1, 2))
    return IntervalMoments(np.diff(recording.offsets), np.array(total), np.array(squared))


def values_of(features: FeatureSet, measured: FeatureValues) -> dict[str, float]:
    """Defined features by name."""
    chosen = measured.states == DEFINED
    return {n: float(v) for n, v, ok in zip(features.names, measured.values, chosen, strict=True) if ok}


def measure(recording: Recording, *names: str, **options: dict) -> dict[str, float]:
    features = FeatureSet.of(*names, **options)
    return values_of(features, features.measure(recording))


def equal(a: FeatureValues, b: FeatureValues, rtol: float = 1e-9) -> None:
    np.testing.assert_array_equal(a.states, b.states)
    np.testing.assert_allclose(a.values, b.values, rtol=rtol, atol=1e-9)


RECORDINGS = {
    "silent": Recording.from_units([[]] * 20, 0.0, 30.0),
    "one spike": Recording.from_units([[1.0]] + [[]] * 19, 0.0, 30.0),
    "two spikes at once": Recording.from_units([[1.0, 1.0]] + [[]] * 19, 0.0, 30.0),
    "short": Recording.from_units([[0.01, 0.02, 0.03]] * 20, 0.0, 0.05),
    "shorter than a bin": Recording.from_units([[0.0001]] * 20, 0.0, 0.0005),
    "constant": Recording.from_units([np.arange(0.0005, 10, 1e-3)] * 20, 0.0, 10.0),
    "poisson": poisson(20, 8.0, 30.0),
    "bursty": bursty([5.0, 12.0, 17.0, 29.0, 40.0, 52.0]),
    "late": shifted(bursty([5.0, 12.0, 17.0, 29.0, 40.0, 52.0]), 500.0),
    "counts only": Recording(0.0, 30.0, counts={"e": PopulationCounts(np.arange(30_000) % 7, 100)}),
    "channels": poisson(16, 8.0, 30.0).as_channels(16, 1),
    "no units": Recording(0.0, 30.0),
}


@pytest.mark.parametrize("features", SETS.values(), ids=SETS)
@pytest.mark.parametrize("recording", RECORDINGS.values(), ids=RECORDINGS)
def test_every_value_is_finite_and_has_a_state(features: FeatureSet, recording: Recording) -> None:
    """Fixed width for any recording; a state for every value; 0.0, never NaN, where there is none."""
    if features.view == "channels" and recording.unit_kind == "cell" and not recording.n_units:
        with pytest.raises(RecordingError, match="record more spikes"):
            features.measure(recording)
        return
    measured = features.measure(recording)
    windows = features.measure_windows(recording, 10.0)
    for values, states in ((measured.values, measured.states), (windows.values, windows.states)):
        assert values.shape == states.shape == (features.width,) == (len(features.units),)
        assert values.dtype == np.float64 and states.dtype == np.uint8
        assert np.isfinite(values).all() and set(states) <= {DEFINED, UNDEFINED, UNOBSERVED}
        assert (values[states != DEFINED] == 0).all()
    assert np.isfinite(windows.spread).all() and (windows.spread >= 0).all()


@pytest.mark.parametrize("name", ["poisson", "bursty"])
@pytest.mark.parametrize("features", [SETS["cells"], SETS["relative"]], ids=["cells", "relative"])
def test_the_order_of_units_does_not_matter(features: FeatureSet, name: str) -> None:
    recording = RECORDINGS[name]
    order = generator(1, "order").permutation(recording.n_units)
    equal(features.measure(recording), features.measure(recording.select(order)), rtol=1e-7)


@pytest.mark.parametrize("name", ["poisson", "bursty"])
@pytest.mark.parametrize("features", SETS.values(), ids=SETS)
def test_when_the_recording_began_does_not_matter(features: FeatureSet, name: str) -> None:
    # Multiples of 2^-14 s near the middle of a bin: the shift is exact and no spike changes its bin.
    grid = np.round(RECORDINGS[name].times * 1e3 - 0.5) * 1e-3 + 0.5e-3
    recording = replace(RECORDINGS[name], times=np.clip(np.round(grid * 2**14) / 2**14, 0.0, None))
    equal(features.measure(recording), features.measure(shifted(recording, 64.0)))


@pytest.mark.parametrize("name", ["silent", "one spike", "poisson", "bursty"])
@pytest.mark.parametrize("features", SETS.values(), ids=SETS)
def test_simulated_and_measured_spikes_give_the_same(features: FeatureSet, name: str) -> None:
    recording = RECORDINGS[name]
    equal(features.measure(recording), features.measure(as_simulated(recording)), rtol=1e-12)


def test_moments_give_what_the_trains_give() -> None:
    recording = bursty([5.0, 12.0, 17.0])
    features = FeatureSet.of("isi")
    trains = features.measure(recording)
    reduced = Recording(0.0, 60.0, moments={"all": moments_of(recording)})
    moments = features.measure(reduced)
    quartiles = np.array([".q" in name for name in features.names])
    assert (moments.states[quartiles] == UNOBSERVED).all()
    np.testing.assert_allclose(moments.values[~quartiles], trains.values[~quartiles], rtol=1e-9)


def test_intervals_match_numpy_unit_by_unit() -> None:
    recording = bursty([5.0, 12.0, 17.0])
    intervals = [np.diff(recording.unit(u)) for u in range(recording.n_units)]
    found = measure(recording, "isi")
    sds = np.array([i.std(ddof=1) for i in intervals])
    assert found["isi.mean_mean"] == pytest.approx(np.mean([i.mean() for i in intervals]))
    assert found["isi.sd_sd"] == pytest.approx(sds.std(ddof=1))
    assert found["isi.cv_mean"] == pytest.approx(np.mean(sds / [i.mean() for i in intervals]))
    for name, q in {"q25": 25, "q50": 50, "q75": 75}.items():
        each = [np.percentile(i, q) for i in intervals]
        assert found[f"isi.{name}_mean"] == pytest.approx(np.mean(each), rel=1e-9)
        assert found[f"isi.{name}_sd"] == pytest.approx(np.std(each, ddof=1), rel=1e-9)


def test_poisson_trains() -> None:
    """200 units of 2400 intervals: the standard error of the mean CV is 1 / sqrt(200 * 2400) = 0.0014."""
    found = measure(poisson(200, 20.0, 120.0), "isi", "bursts")
    assert found["isi.rate_mean"] == pytest.approx(20.0, abs=5 * np.sqrt(20.0 / (200 * 120)))
    assert found["isi.cv_mean"] == pytest.approx(1.0, abs=5 * 0.0015)
    assert found["isi.q50_mean"] == pytest.approx(np.log(2) / 20, rel=0.01)
    assert found["isi.cv_fraction"] == found["isi.active_fraction"] == 1.0


def test_units_with_too_few_spikes_count_as_units_only() -> None:
    found = measure(Recording.from_units([[], [1.0], [1.0, 2.0], [1.0, 2.0, 4.0]], 0.0, 10.0), "isi")
    assert found["isi.active_fraction"] == 0.75 and found["isi.cv_fraction"] == 0.25
    assert found["isi.count_mean"] == 1.5 and found["isi.rate_mean"] == pytest.approx(0.15)
    assert found["isi.mean_mean"] == 1.5 and "isi.mean_sd" not in found


def test_known_bursts() -> None:
    """Gaussian bursts of sd 0.1 s, smoothed by 0.02 s: full width at half maximum 2.355 * 0.102 = 0.240 s."""
    at = [5.0, 12.0, 17.0, 29.0, 40.0, 52.0]
    found = measure(bursty(at), "bursts")
    intervals = np.diff(at)
    assert found["bursts.rate_per_minute"] == 6.0
    assert found["bursts.interval_mean"] == pytest.approx(intervals.mean(), abs=0.05)
    assert found["bursts.interval_cv"] == pytest.approx(intervals.std(ddof=1) / intervals.mean(), abs=0.01)
    assert found["bursts.width_mean"] == pytest.approx(0.240, rel=0.1)
    assert found["bursts.peak_rate_mean"] == pytest.approx(80.2, rel=0.1)
    # From 10 % of the peak: 0.102 * sqrt(2 ln 10) = 0.219 s on either side.
    assert found["bursts.onset_mean"] == pytest.approx(0.219, rel=0.15)
    assert found["bursts.offset_mean"] == pytest.approx(0.219, rel=0.15)
    assert found["bursts.subpeaks_mean"] == 1.0 and "bursts.subpeak_interval_mean" not in found
    assert found["bursts.kernel_correlation"] > 0.95
    spikes_in = 80.0 * 0.1 * np.sqrt(2 * np.pi) * 6
    assert found["bursts.mean_rate"] == pytest.approx(0.2 + spikes_in / 60, rel=0.05)
    assert found["bursts.fraction_in_bursts"] == pytest.approx(0.968 * spikes_in / (spikes_in + 12), abs=0.02)
    assert found["bursts.log10_mean_to_peak"] == pytest.approx(-np.log10(found["bursts.peak_to_mean"]))


def test_known_subpeaks() -> None:
    """Each burst is three peaks 0.2 s apart, the middle one the highest."""
    centres = np.array([5.0, 10.0, 15.0, 20.0])

    def rate(t: np.ndarray) -> np.ndarray:
        delay = np.array([-0.2, 0.0, 0.2])
        height = np.array([60.0, 90.0, 60.0])
        parts = np.exp(-0.5 * ((t[:, None, None] - centres[:, None] - delay) / 0.03) ** 2) * height
        return 0.2 + parts.sum(axis=(1, 2))

    found = measure(from_rate(rate, 95.0, 200, 25.0), "bursts")
    assert found["bursts.rate_per_minute"] == pytest.approx(60 * 4 / 25)
    assert found["bursts.subpeaks_mean"] == 3.0 and found["bursts.subpeaks_sd"] == 0.0
    assert found["bursts.subpeak_interval_mean"] == pytest.approx(0.2, abs=0.01)


def test_peaks_that_grow_with_the_interval_before_them() -> None:
    gaps = np.array([3.0, 6.0, 4.0, 8.0, 5.0, 7.0])
    centres = 3.0 + np.concatenate([[0.0], np.cumsum(gaps)])
    heights = np.concatenate([[70.0], 50.0 + 5.0 * gaps])

    def rate(t: np.ndarray) -> np.ndarray:
        return (heights * np.exp(-0.5 * ((t[:, None] - centres) / 0.1) ** 2)).sum(axis=1)

    found = measure(from_rate(rate, 91.0, 200, 40.0), "bursts")
    assert found["bursts.interval_before_to_peak"] > 0.9
    assert found["bursts.interval_after_to_peak"] < 0.0


@pytest.mark.parametrize(
    ("n_bursts", "missing"),
    [
        (0, "width_mean peak_to_mean interval_mean kernel_correlation fraction_in_bursts"),
        (1, "interval_mean width_sd peak_rate_cv kernel_correlation"),
        (2, "interval_sd interval_cv interval_before_to_peak"),
        (3, "interval_before_to_peak interval_after_to_peak"),
        (4, ""),
    ],
)
def test_too_few_bursts_are_undefined_not_zero(n_bursts: int, missing: str) -> None:
    found = measure(bursty([5.0, 13.0, 18.0, 28.0][:n_bursts], duration=30.0), "bursts")
    assert found["bursts.rate_per_minute"] == 2 * n_bursts
    assert not {f"bursts.{name}" for name in missing.split()} & set(found)
    if n_bursts == 4:
        assert {f"bursts.{n}" for n in ("interval_cv", "interval_after_to_peak")} <= set(found)


@pytest.mark.parametrize("view", ["cells", "channels"])
@pytest.mark.parametrize("rate", [0.2, 1.0, 5.0, 20.0])
def test_negative_control_poisson_has_no_bursts(rate: float, view: str) -> None:
    """80 Poisson cells, whole or as 16 channels of 5, for ten minutes."""
    features = FeatureSet.of("bursts", view=view)
    found = values_of(features, features.measure(poisson(80, rate, 600.0)))
    assert found["bursts.rate_per_minute"] == 0.0


def test_negative_control_weak_peaks_are_no_bursts_of_cells() -> None:
    """The floor of 5 Hz: bursts of 3 Hz in 2000 cells stand out but do not count, as channels they may."""
    t = np.arange(30_000) * 1e-3
    rate = 0.05 + 3.0 * np.exp(-0.5 * ((t % 5 - 2.5) / 0.1) ** 2)
    counts = generator(0, "weak").poisson(2000 * 1e-3 * rate)
    recording = Recording(0.0, 30.0, counts={"exc": PopulationCounts(counts, 2000)})
    assert measure(recording, "bursts")["bursts.rate_per_minute"] == 0.0
    assert measure(recording, bursts={"floor": 2.0})["bursts.rate_per_minute"] == 12.0


def test_sinusoid_peaks_at_its_frequency() -> None:
    recording = from_rate(lambda t: 10.0 * (1 + 0.8 * np.sin(2 * np.pi * 12.0 * t)), 18.0, 100, 60.0)
    features = FeatureSet.of(spectrum={})
    power = features.measure(recording).values
    frequencies = np.arange(1, 991) / 2
    assert features.width == 990 and features.names[24] == "spectrum.log_power_12.5"
    assert frequencies[power.argmax()] == 12.0
    # A sinusoid of amplitude A has power A^2 / 2; a Hann window spreads it over three bins of 0.5 Hz.
    near = np.abs(frequencies - 12.0) <= 1.0
    assert 0.5 * (10.0**power[near]).sum() == pytest.approx(0.5 * 8.0**2, rel=0.1)


def test_poisson_spectrum_is_flat_at_its_known_level() -> None:
    """One-sided power of N Poisson trains of rate r, per unit: 2 r / N; relative to r^2: 2 / (N r)."""
    recording = poisson(50, 10.0, 120.0)
    for relative, level in ((False, 2 * 10.0 / 50), (True, 2 / (50 * 10.0))):
        features = FeatureSet.of(spectrum={"low": 10.0, "high": 490.0, "step": 10.0, "relative": relative})
        power = 10.0 ** features.measure(recording).values
        assert power.mean() == pytest.approx(level, rel=0.03) and power.std() < 0.2 * level


def test_wide_steps_average_the_narrow_bins() -> None:
    recording = poisson(20, 10.0, 60.0)
    fine = 10.0 ** FeatureSet.of(spectrum={}).measure(recording).values
    for step, weights in ((1.0, [0.5, 1.0, 0.5]), (1.5, [1.0, 1.0, 1.0]), (2.0, [0.5, 1, 1, 1, 0.5])):
        wide = FeatureSet.of(spectrum={"low": 10.0, "high": 10.0, "step": step}).measure(recording)
        half = len(weights) // 2
        expected = np.average(fine[19 - half : 20 + half], weights=weights)
        assert 10.0 ** wide.values[0] == pytest.approx(expected)


def test_channels_hide_what_cannot_be_compared_on_both_sides() -> None:
    simulated = as_simulated(bursty([5.0, 12.0, 17.0, 29.0], n_units=80, duration=40.0))
    measured = simulated.as_channels(16, 5, seed=7)
    features = everything("channels", relative=True)
    sides = [features.measure(r) for r in (simulated, measured)]
    hidden = {n for n, s in zip(features.names, sides[0].states, strict=True) if s == UNOBSERVED}
    absolute = {f"bursts.{name}" for name in ("mean_rate", "peak_rate_mean", "peak_rate_sd")}
    assert hidden == absolute | {n for n in features.names if n.startswith("isi.")}
    np.testing.assert_array_equal(sides[0].states, sides[1].states)
    assert (features.measure(simulated, seed=7).values == sides[1].values).all()
    absolute_power = everything("channels").measure(measured)
    assert (absolute_power.states[everything("channels").family_slices["spectrum"]] == UNOBSERVED).all()


def test_channels_in_the_view_of_cells_have_no_single_cells() -> None:
    measured = bursty([5.0, 12.0], n_units=80, duration=20.0).as_channels(16, 5)
    states = everything().measure(measured).states
    assert (states[everything().family_slices["isi"]] == UNOBSERVED).all()
    found = values_of(everything(), everything().measure(measured))
    assert found["bursts.rate_per_minute"] == 6.0 and "bursts.mean_rate" not in found


def test_whole_populations_win_over_the_recorded_sample() -> None:
    quiet = Recording.from_units([[1.0]] * 5, 0.0, 10.0, groups=("exc",) * 5)
    counts = {
        "exc": PopulationCounts(np.full(10_000, 8), 800),
        "inh": PopulationCounts(np.full(10_000, 6), 200),
    }
    recording = replace(quiet, counts=counts)
    assert measure(recording, "bursts")["bursts.mean_rate"] == pytest.approx(14.0)
    assert measure(recording, bursts={"population": "inh"})["bursts.mean_rate"] == pytest.approx(30.0)
    with pytest.raises(SbiCircuitsError, match=r"^unknown population 'pyr'; valid: exc, inh$"):
        measure(recording, bursts={"population": "pyr"})
    assert measure(quiet, bursts={"population": "exc"})["bursts.mean_rate"] == pytest.approx(0.1)


def test_windows_mean_what_a_simulation_means() -> None:
    features = everything()
    long = as_simulated(bursty([5.0, 12.0, 17.0, 29.0, 43.0, 52.0], duration=65.0))
    windows = features.measure_windows(long, 20.0)
    assert windows.n_windows == 3
    each = [features.measure(as_simulated(long.window(a, a + 20.0))) for a in (0.0, 20.0, 40.0)]
    for k, single in enumerate(each):
        equal(FeatureValues(windows.window_values[k], windows.window_states[k]), single)
    i = features.names.index("bursts.rate_per_minute")
    assert windows.window_values[:, i].tolist() == [9.0, 3.0, 6.0]
    assert windows.values[i] == 6.0 and windows.spread[i] == pytest.approx(3.0)
    # Of 3, 1 and 2 bursts only the first have an interval CV, and one window of three is too few.
    interval = features.names.index("bursts.interval_cv")
    assert windows.window_states[:, interval].tolist() == [DEFINED, UNDEFINED, UNDEFINED]
    assert windows.states[interval] == UNDEFINED and windows.values[interval] == 0.0


def test_a_recording_shorter_than_the_window_is_one_window() -> None:
    features = everything()
    recording = as_simulated(RECORDINGS["bursty"])
    windows = features.measure_windows(recording, 300.0)
    assert windows.n_windows == 1 and (windows.spread == 0).all()
    equal(FeatureValues(windows.values, windows.states), features.measure(recording))
    with pytest.raises(FeatureError, match=r"^the window must be longer than 0 s, got 0$"):
        features.measure_windows(recording, 0.0)
