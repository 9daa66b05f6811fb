"""Is the observation in reach, does the posterior reproduce it, and can a wrong posterior be mended?

Seeds are fixed; each test states the error probability of what it checks, and each has a negative control.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from exact import FAULTS, NAMES, PRIOR, ToyPosterior, simulate
from scipy.stats import binom
from tiny import tiny_ensemble, tiny_observation, tiny_posterior

from sbi_circuits.calibration import (
    Correction,
    HeldOut,
    ReachTest,
    Recalibrated,
    calibrate,
    load_correction,
    predictive_check,
    predictive_of,
    recalibrate,
    save_correction,
)
from sbi_circuits.errors import InferenceError
from sbi_circuits.features import DEFINED, UNDEFINED, UNOBSERVED
from sbi_circuits.inference.encode import FeatureEncoder
from sbi_circuits.seeds import generator

SEEN = np.zeros(2, dtype=np.uint8)


# --- in reach? ------------------------------------------------------------------------------------


def curved(n: int, seed: int) -> HeldOut:
    """Features on a parabola, with little noise; the second is undefined where the first is below -1."""
    random = generator(seed, "curved")
    a = random.standard_normal(n)
    values = np.stack([a, a**2 + 0.1 * random.standard_normal(n)], axis=1)
    states = np.zeros((n, 2), dtype=np.uint8)
    states[a < -1, 1] = UNDEFINED
    values[states == UNDEFINED] = 0.0
    return HeldOut(PRIOR.sample(n, seed), values, states, PRIOR, NAMES)


@pytest.fixture(scope="module")
def reach() -> ReachTest:
    return ReachTest.fit(curved(1000, seed=0), seed=0)


def test_p_values_of_new_simulations_hold_their_level(reach: ReachTest) -> None:
    """200 fresh rows: alarms at 0.05 within the central 99.8 % of a binomial, widened for the rows kept aside."""
    new = curved(200, seed=1)
    p = np.array([reach.check((v, s)).p_value for v, s in zip(new.values, new.states, strict=True)])
    # One set of 500 rows kept aside shifts the level of all alike, by a Beta(25, 475): sd 0.01.
    low, high = binom.ppf([0.001, 0.999], 200, [0.02, 0.08])
    assert low <= (p <= 0.05).sum() <= high and abs(np.median(p) - 0.5) < 0.15


@pytest.mark.parametrize(
    ("x", "states", "why"),
    [
        ([8.0, 64.0], SEEN, "far along the curve"),
        ([0.0, 2.0], SEEN, "off the curve, though each feature alone is usual"),
        ([1.0, 0.0], np.array([DEFINED, UNDEFINED]), "undefined where it is always defined"),
    ],
)
def test_observations_out_of_reach(reach: ReachTest, x: list[float], states: np.ndarray, why: str) -> None:
    found = reach.check((np.array(x), states))
    assert not found.inside(), why
    assert "out of reach" in found.summary() and found.oddest


def test_unobserved_features_do_not_count(reach: ReachTest) -> None:
    off = np.array([0.0, 2.0])
    assert reach.check((off, np.array([DEFINED, UNOBSERVED]))).inside()
    nothing = reach.check((off, np.full(2, UNOBSERVED)))
    assert nothing.p_value == 1.0 and nothing.inside()


def test_reach_needs_rows_and_features_that_fit(reach: ReachTest) -> None:
    with pytest.raises(InferenceError, match="at least 40 simulations, got 30"):
        ReachTest.fit(curved(30, seed=0))
    with pytest.raises(InferenceError, match="an observation has 3 features, the simulations 2"):
        reach.check((np.zeros(3), np.zeros(3)))


# --- posterior predictive -------------------------------------------------------------------------


def predictive(posterior: ToyPosterior, x: np.ndarray, seed: int, n: int = 200) -> object:
    """The check of an observation with n draws of a posterior, simulated again."""
    theta = posterior((x, SEEN)).sample(n, seed)
    values = PRIOR.unconstrain(theta) + 0.5 * generator(seed, "again").standard_normal((n, 2))
    states, scales = np.zeros((n, 2), dtype=np.uint8), simulate(300, 5)
    encoder = FeatureEncoder.fit(scales.values, scales.states, dropping=True)
    return predictive_check((x, SEEN), values, states, np.ones(n, dtype=bool), encoder, NAMES)


def test_predictive_check_passes_the_exact_posterior() -> None:
    """40 observations: its p-values are conservative, so at most 4 alarms at 0.05 (binomial: more with 5 %)."""
    new = simulate(40, seed=3)
    alarms = [not predictive(ToyPosterior(), x, seed).agrees() for seed, x in enumerate(new.values)]  # type: ignore[attr-defined]
    assert sum(alarms) <= 4


def test_predictive_check_fails_a_shifted_posterior() -> None:
    found = predictive(ToyPosterior(shift=6.0, width=0.5), np.array([0.0, 0.0]), seed=1)
    assert not found.agrees() and set(found.failing()) == set(NAMES) and found.p_joint < 0.02  # type: ignore[attr-defined]
    assert "isi.mean" in found.summary()  # type: ignore[attr-defined]


def test_predictive_check_of_states() -> None:
    """An observation without bursts, and draws that always burst; then the reverse."""
    values = generator(0, "v").standard_normal((100, 2))
    encoder = FeatureEncoder.fit(values, np.zeros((100, 2)), dropping=True)
    ok = np.ones(100, dtype=bool)
    without = (np.zeros(2), np.array([DEFINED, UNDEFINED]))
    found = predictive_check(without, values, np.zeros((100, 2)), ok, encoder, NAMES)
    assert found.failing() == ("bursts.rate",) and np.isnan(found.observed[1]) and found.defined[1] == 1.0
    never = np.tile([DEFINED, UNDEFINED], (100, 1))
    assert predictive_check((np.zeros(2), SEEN), values, never, ok, encoder, NAMES).failing() == ("bursts.rate",)
    assert predictive_check(without, values, never, ok, encoder, NAMES).agrees()


def test_predictive_check_of_an_ensemble() -> None:
    ensemble = tiny_ensemble()
    found = predictive_of(ensemble)
    assert found.simulations == int((ensemble.outcomes[:, 0] == "ok").sum())
    assert 0 < found.p_joint <= 1 and found.names == ensemble.feature_set.names
    far = replace(ensemble, observation=replace(ensemble.observation, values=ensemble.observation.values + 1e3))
    assert not predictive_of(far).agrees()


def test_predictive_check_needs_simulations() -> None:
    encoder = FeatureEncoder.fit(simulate(60, 0).values, np.zeros((60, 2)), dropping=True)
    with pytest.raises(InferenceError, match="10 simulations that ran to their end"):
        predictive_check((np.zeros(2), SEEN), np.zeros((20, 2)), np.zeros((20, 2)), np.arange(20) < 9, encoder, NAMES)


# --- recalibration --------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", FAULTS)
def test_recalibration_mends(fault: str) -> None:
    """Chosen on 500 rows, a wrong posterior passes on 400 others (false alarm rate 0.001), and failed before."""
    wrong = ToyPosterior(**FAULTS[fault])
    fixed = recalibrate(wrong, simulate(500, seed=10), draws=150, seed=0)
    fresh = simulate(480, seed=11)
    before, after = (calibrate(p, fresh, draws=100, local=False, seed=1) for p in (wrong, fixed))
    assert not before.agrees(0.001) and after.agrees(0.001)
    assert fixed.correction.p_before < fixed.correction.p_after
    scale, shift = np.array(fixed.correction.scale), np.array(fixed.correction.shift)
    assert np.allclose(scale, 1 / FAULTS[fault].get("width", 1.0), rtol=0.25)
    assert np.allclose(shift, -FAULTS[fault].get("shift", 0.0), atol=0.2)


def test_recalibration_leaves_the_exact_posterior_alone() -> None:
    """Shifts and log scales from 500 rows within 0.25: 5 standard errors of a mean and of a log sd."""
    correction = recalibrate(ToyPosterior(), simulate(500, seed=10), draws=150, seed=0).correction
    assert np.abs(np.log(correction.scale)).max() < 0.25 and np.abs(correction.shift).max() < 0.25


def test_recalibration_cannot_mend_what_is_right_on_average() -> None:
    wrong = ToyPosterior(local=0.4)
    fixed = recalibrate(wrong, simulate(500, seed=10), draws=150, seed=0)
    assert not calibrate(fixed, simulate(480, seed=11), draws=100, seed=1).agrees(0.01)


CORRECTION = Correction(PRIOR.names, (0.7, -0.4), (1.5, 0.6), 10, (0.4, 0.8), (0.5, 0.9), 0.01, 0.5)


def test_density_of_a_corrected_posterior_integrates_to_one_and_fits_its_draws() -> None:
    """Quadrature within 1 %; the mean of 4,000 draws within 4 standard errors of the density's (two-sided 6e-5)."""
    corrected = Recalibrated(ToyPosterior(), CORRECTION)((np.array([0.3, -0.2]), SEEN))
    axis, step = np.linspace(-6, 6, 241, retstep=True)
    z = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    density = np.exp(corrected.log_prob(PRIOR.constrain(z)) + PRIOR.log_abs_det(z)) * step**2
    assert density.sum() == pytest.approx(1.0, abs=0.01)
    draws = PRIOR.unconstrain(corrected.sample(4000, seed=0))
    expected = density @ z
    assert (np.abs(draws.mean(0) - expected) < 4 * draws.std(0) / np.sqrt(4000)).all()
    assert corrected.log_prob(np.array([9.0, 10.0])) == -np.inf
    assert PRIOR.contains(corrected.sample(500, seed=1)).all()
    assert np.array_equal(corrected.sample(5, 3), corrected.sample(5, 3))
    assert corrected.interval(0.5, 100).shape == (2, 2) and corrected.mean(100).shape == (2,)


def test_corrections_are_kept_in_a_file(tmp_path: Path) -> None:
    save_correction(CORRECTION, tmp_path)
    assert load_correction(tmp_path) == CORRECTION
    assert "x1.50 +0.70 sd" in CORRECTION.summary()
    (tmp_path / "recalibration.json").write_text('{"schema": 9}')
    with pytest.raises(InferenceError, match="has not schema 1"):
        load_correction(tmp_path)
    (tmp_path / "recalibration.json").write_text("{")
    with pytest.raises(InferenceError, match="recalibration.json is damaged"):
        load_correction(tmp_path)
    with pytest.raises(InferenceError, match="cannot read"):
        load_correction(tmp_path / "nowhere")


def test_corrections_are_of_a_posterior() -> None:
    with pytest.raises(InferenceError, match="the recalibration has other parameters than the posterior: g, tau"):
        Recalibrated(tiny_posterior(), CORRECTION)
    with pytest.raises(InferenceError, match="at least 100 held-out simulations, got 99"):
        recalibrate(ToyPosterior(), simulate(99, 0))


def test_a_corrected_posterior_makes_ensembles() -> None:
    source = tiny_posterior()
    correction = replace(CORRECTION, names=source.prior.names, shift=(0.0,) * 3, scale=(1.0, 1.2, 0.8))
    corrected = Recalibrated(source, correction)
    x = tiny_observation()
    assert corrected.check(x).inside == source.check(x).inside
    ensemble = corrected.ensemble(x, 2, max_draws=4, seed=0, engine="tiny", progress=False)
    assert "recalibration" in ensemble.provenance and np.array_equal(
        ensemble.theta, corrected(x).sample(4, 0)[: len(ensemble.theta)]
    )
