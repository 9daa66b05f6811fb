"""Features of field signals: known spectra and cycles, real fields, and the program specparam."""

from pathlib import Path

import numpy as np
import pytest

from sbi_circuits.errors import FeatureError, UnknownNameError
from sbi_circuits.features import FeatureSet
from sbi_circuits.features.field import BANDS, Field
from sbi_circuits.features.field_pairs import FieldPair
from sbi_circuits.features.field_spectrum import Peak, SpectrumFit, fit_spectrum, power_spectrum, specparam_fit
from sbi_circuits.features.oscillations import Oscillation, find_cycles
from sbi_circuits.features.states import UNDEFINED, UNOBSERVED
from sbi_circuits.recording import Recording, Signal

FIELDS = Path(__file__).resolve().parents[2] / "shared" / "data" / "fields"
RATE = 500.0
needs_data = pytest.mark.skipif(not FIELDS.is_dir(), reason="no ../shared/data/fields beside the repository")


def recording(values: np.ndarray, rate: float = RATE, unit: str = "mV") -> Recording:
    values = np.atleast_2d(values)
    return Recording(0.0, values.shape[1] / rate, signals={"field": Signal(values, rate, unit)})


def named(family: object, of: Recording) -> dict[str, float]:
    found = FeatureSet((family,)).measure(of)  # type: ignore[arg-type]
    return {n: float(v) for n, v, s in zip(family.names, found.values, found.states, strict=True) if s == 0}  # type: ignore[attr-defined]


def coloured(exponent: float, seconds: float, seed: int, peak: tuple[float, float] | None = None) -> np.ndarray:
    """Noise with power f**-exponent, and a rhythm (frequency in Hz, amplitude) of random phase."""
    draw = np.random.default_rng(seed)
    n = round(seconds * RATE)
    frequency = np.fft.rfftfreq(n, 1 / RATE)
    shape = np.where(frequency > 0, np.maximum(frequency, 1e-9) ** (-exponent / 2), 0)
    noise = np.fft.irfft(shape * (draw.standard_normal(len(shape)) + 1j * draw.standard_normal(len(shape))), n)
    noise /= noise.std()
    if peak is None:
        return noise
    phase = 2 * np.pi * peak[0] * np.arange(n) / RATE + np.cumsum(0.15 * draw.standard_normal(n))
    return noise + peak[1] * np.sin(phase)


def lfp(channel: int) -> tuple[np.ndarray, float]:
    content = np.load(FIELDS / "rat_ca1_ec3_lfp.npz", allow_pickle=False)
    return content["lfp"][channel].astype(float), float(content["fs"])


def s1() -> tuple[np.ndarray, float]:
    content = np.load(FIELDS / "human_meg_s1_ongoing_trials0-699.npz", allow_pickle=False)
    return content["signal"].astype(float), float(content["fs"])


@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.0])
def test_the_exponent_of_noise_is_found(exponent: float) -> None:
    found = [named(Field(low=2, high=60), recording(coloured(exponent, 40, k)))["exponent"] for k in range(5)]
    assert np.mean(found) == pytest.approx(exponent, abs=0.08)
    assert max(found) - min(found) < 0.5


def test_a_rhythm_is_a_peak_and_leaves_the_exponent_alone() -> None:
    field = Field(low=2, high=60)
    with_peak = [named(field, recording(coloured(1.0, 40, k, (11.0, 0.8)))) for k in range(5)]
    without = [named(field, recording(coloured(1.0, 40, k))) for k in range(5)]
    assert np.mean([f["peak_frequency"] for f in with_peak]) == pytest.approx(11.0, abs=0.3)
    assert np.mean([f["exponent"] for f in with_peak]) == pytest.approx(1.0, abs=0.15)
    assert min(f["peak_height"] for f in with_peak) > 2 * max(f.get("peak_height", 0.0) for f in without)
    assert min(f["log_power_alpha"] for f in with_peak) > max(f["log_power_alpha"] for f in without) + 0.3


def test_the_fit_of_a_curve_is_the_curve() -> None:
    """Without noise the parameters come back; another exponent would not fit."""
    frequency = np.arange(2.0, 60.0, 0.5)
    truth = SpectrumFit(1.2, 1.4, (Peak(10.0, 0.9, 4.0), Peak(24.0, 0.5, 6.0)))
    fit = fit_spectrum(frequency, 10 ** truth.curve(frequency))
    assert (fit.offset, fit.exponent) == pytest.approx((1.2, 1.4), abs=0.08)
    assert [p.frequency for p in fit.peaks[:2]] == pytest.approx([10.0, 24.0], abs=0.3)
    assert [p.height for p in fit.peaks[:2]] == pytest.approx([0.9, 0.5], abs=0.08)
    assert [p.width for p in fit.peaks[:2]] == pytest.approx([4.0, 6.0], abs=0.8)
    worse = SpectrumFit(fit.offset, fit.exponent + 0.3, fit.peaks)
    error, larger = (np.abs(f.curve(frequency) - truth.curve(frequency)).mean() for f in (fit, worse))
    assert error < 0.05 < larger


def spectra() -> list[tuple[np.ndarray, np.ndarray]]:
    """Spectra of windows of real fields, 2 to 50 Hz."""
    found = []
    for channel in range(2):
        values, rate = lfp(channel)
        for window in values.reshape(6, -1):
            found.append(power_spectrum(window, rate, 1.0))
    trials, rate = s1()
    for block in trials.reshape(7, 100, -1):
        frequency, power = power_spectrum(block, rate, 1.0)
        found.append((frequency, power.mean(axis=0)))
    return [(f[(f >= 2) & (f <= 50)], p[(f >= 2) & (f <= 50)]) for f, p in found]


@needs_data
def test_the_fast_fit_agrees_with_specparam_on_real_fields() -> None:
    pytest.importorskip("specparam")
    pairs = [(fit_spectrum(f, p), specparam_fit(f, p)) for f, p in spectra()]
    exponents = np.array([[a.exponent, b.exponent] for a, b in pairs])
    tops = np.array([[a.peaks[0].frequency, b.peaks[0].frequency] for a, b in pairs if a.peaks and b.peaks])
    print(np.abs(np.diff(exponents)).max(), np.abs(np.diff(exponents)).mean(), np.abs(np.diff(tops)).max(), len(tops))
    assert np.corrcoef(exponents.T)[0, 1] > 0.97 and np.abs(np.diff(exponents)).mean() < 0.15
    assert len(tops) >= 15 and np.median(np.abs(np.diff(tops))) < 0.5
    # The fit is as good as theirs.
    errors = [
        [np.abs(np.log10(p) - fit.curve(f)).mean() for fit in pair]
        for (f, p), pair in zip(spectra(), pairs, strict=True)
    ]
    ours, theirs = np.array(errors).mean(axis=0)
    print(ours, theirs)
    assert ours < 1.25 * theirs


@needs_data
def test_real_fields_have_their_rhythms() -> None:
    """Theta of 8 Hz in rat CA1, 11 Hz in human S1; shuffled in time neither is there."""
    values, rate = lfp(0)
    found = named(Field(low=2, high=60), recording(values, rate))
    assert found["peak_frequency"] == pytest.approx(8.0, abs=0.7) and found["peak_height"] > 0.5
    cycles = named(Oscillation(low=5, high=11), recording(values, rate))
    assert 1 / cycles["period_mean"] == pytest.approx(8.0, abs=0.7) and cycles["rhythmic"] > 0.5
    shuffled = np.random.default_rng(0).permutation(values)
    control = named(Oscillation(low=5, high=11), recording(shuffled, rate))
    assert control["rhythmic"] < 0.5 * cycles["rhythmic"]
    trials, rate = s1()
    frequency, power = power_spectrum(trials, rate, 1.0)
    kept = (frequency >= 2) & (frequency <= 50)
    fit = fit_spectrum(frequency[kept], power.mean(axis=0)[kept])
    assert min(abs(p.frequency - 11.0) for p in fit.peaks) < 1.2  # specparam says 10.2
    inside = (frequency >= 7) & (frequency <= 15)
    assert frequency[inside][power.mean(axis=0)[inside].argmax()] == pytest.approx(11.0, abs=0.5)


@needs_data
def test_channels_of_a_real_field_are_coupled() -> None:
    """CA1 and entorhinal cortex share theta; reversed in time one of them does not."""
    pair = np.stack([lfp(0)[0], lfp(1)[0]])
    rate = lfp(0)[1]
    found = named(FieldPair(), recording(pair, rate))
    control = named(FieldPair(), recording(np.stack([pair[0], pair[1, ::-1]]), rate))
    assert found["coherence_theta"] > 2 * control["coherence_theta"] and found["coherence_theta"] > 0.3


def test_cycles_of_a_known_wave_are_its_own() -> None:
    """A triangle wave of 8 Hz that rises in a third of its period."""
    phase = (8.0 * np.arange(5000) / RATE) % 1
    wave = np.where(phase < 1 / 3, 3 * phase, 1.5 * (1 - phase))
    found = named(Oscillation(), recording(wave))
    assert found["period_mean"] == pytest.approx(1 / 8, rel=0.01) and found["period_cv"] < 0.02
    assert found["rise_share"] == pytest.approx(1 / 3, abs=0.02)
    assert found["amplitude_mean"] == pytest.approx(1.0, abs=0.05) and found["amplitude_cv"] < 0.05
    assert found["rhythmic"] == 1.0 and found["monotonicity"] > 0.98
    assert found["cycle_rate"] == pytest.approx(8.0, abs=0.3)
    cycles = find_cycles(np.sin(2 * np.pi * 8.0 * np.arange(5000) / RATE), RATE, 4, 20)
    assert cycles.rise.mean() == pytest.approx(0.5, abs=0.02)


def test_a_delayed_copy_has_its_lag_and_noise_has_none() -> None:
    x = coloured(1.0, 20, 1)
    shift = 13
    pair = named(FieldPair(), recording(np.stack([x[shift:], x[:-shift]])))
    assert pair["peak_lag"] == pytest.approx(shift / RATE, abs=1e-9) and pair["peak_correlation"] > 0.95
    other = named(FieldPair(), recording(np.stack([x, coloured(1.0, 20, 2)])))
    assert abs(other["peak_correlation"]) < 0.5 and other["coherence_alpha"] < 0.3
    mixed = named(FieldPair(), recording(np.stack([x, x + 0.5 * coloured(1.0, 20, 3)])))
    assert mixed["coherence_alpha"] > 0.6


def test_band_powers_add_up_and_scale() -> None:
    x = coloured(1.0, 20, 5)
    found, doubled = (named(Field(), recording(v)) for v in (x, 2 * x))
    total = sum(10 ** found[f"log_power_{name}"] for name, _, _ in BANDS)
    assert np.log10(total) == pytest.approx(found["log_variance"], abs=0.02)
    assert doubled["log_variance"] - found["log_variance"] == pytest.approx(np.log10(4))
    assert doubled["exponent"] == pytest.approx(found["exponent"])
    relative = [named(Field(relative=True), recording(v)) for v in (x, 2 * x)]
    assert relative[0] == pytest.approx(relative[1]) and "log_variance" not in relative[0]


def test_what_is_not_there_is_undefined_or_unobserved() -> None:
    families = (Field(), Oscillation(), FieldPair(second_channel=0))
    silent = FeatureSet(families).measure(Recording(0.0, 5.0))
    assert (silent.states == UNOBSERVED).all()
    constant = FeatureSet(families).measure(recording(np.ones(2500)))
    assert (constant.states == UNDEFINED).all()
    short = FeatureSet(families).measure(recording(coloured(1.0, 0.5, 0)))
    assert (short.states[: len(Field().names)] == UNDEFINED).all()
    relative = FeatureSet((Field(relative=True),)).measure(recording(coloured(1.0, 5, 0)))
    assert relative.states[Field().names.index("log_variance")] == UNOBSERVED


def test_windows_cut_signals() -> None:
    x = coloured(1.0, 10, 0)
    whole, features = recording(x), FeatureSet((Field(),))
    windows = features.measure_windows(whole, 2.0)
    assert windows.n_windows == 5
    assert np.allclose(windows.window_values[3], features.measure(recording(x[3000:4000])).values)


def test_a_set_with_field_families_round_trips() -> None:
    features = FeatureSet.of("oscillation", field={"low": 2, "high": 45, "relative": True}, pair={"max_lag": 0.2})
    assert FeatureSet.from_dict(features.to_dict()) == features and features.width == 10 + 15 + 8


def test_bad_options_get_one_clear_line() -> None:
    with pytest.raises(FeatureError, match="field low 5 Hz must be above 0 and below high 2 Hz"):
        Field(low=5, high=2)
    with pytest.raises(FeatureError, match="field segment 0.1 s is shorter than a period of low"):
        Field(segment=0.1)
    with pytest.raises(UnknownNameError, match="unknown signal 'eeg'; valid: field"):
        FeatureSet.of(field={"signal": "eeg"}).measure(recording(np.ones(600)))
    with pytest.raises(UnknownNameError, match="unknown channel 3; valid: 0"):
        FeatureSet.of(field={"channel": 3}).measure(recording(np.ones(600)))
    with pytest.raises(FeatureError, match="the signal has 100 samples, a window of 1 s needs 500"):
        power_spectrum(np.ones(100), RATE, 1.0)
