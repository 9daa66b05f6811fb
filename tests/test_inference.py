"""Posteriors against exact answers, and what a posterior, its training and its files promise.

The toy: two parameters and features with Gaussian noise, whose exact posterior is a quadrature on a grid.
"""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from test_flows import KINDS

from sbi_circuits.errors import InferenceError, PriorError, UnknownNameError
from sbi_circuits.features import DEFINED, UNDEFINED, UNOBSERVED, FeatureValues
from sbi_circuits.inference import Posterior, TrainingConfig, TrainingData, load_posterior, train
from sbi_circuits.prior import Parameter, Prior
from sbi_circuits.seeds import generator

PRIOR = Prior((Parameter("g", "nS", -1.0, 3.0), Parameter("tau", "ms", 1.0, 100.0, scale="log")))
NAMES = ("isi.mean", "isi.cv", "bursts.rate")
NOISE = np.array([0.5, 0.5, 0.7])
SMALL = TrainingConfig(members=1, epochs=2, hidden=16)
MEDIUM = TrainingConfig(members=1, epochs=20, hidden=48, batch=128, rate=3e-3)


# --- a toy with an exact posterior ----------------------------------------------------------------

AXIS = np.linspace(-4.5, 4.5, 91)
GRID = np.stack(np.meshgrid(AXIS, AXIS, indexing="ij"), axis=-1).reshape(-1, 2)
CELL = (AXIS[1] - AXIS[0]) ** 2


def means(z: np.ndarray) -> np.ndarray:
    """Features (n, 3) without noise: the first alone leaves the sign of z_0 open."""
    return np.stack([z[:, 0] ** 2, z[:, 0] + z[:, 1], z[:, 1]], axis=1)


def simulate(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    theta = PRIOR.sample(n, seed)
    x = means(PRIOR.unconstrain(theta)) + NOISE * generator(seed, "noise").standard_normal((n, 3))
    return theta, x, np.zeros((n, 3), dtype=np.uint8)


def exact_density(x: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """Posterior density in z on GRID, by quadrature, given the features marked as observed."""
    error = ((means(GRID) - x) / NOISE)[:, observed]
    log_p = -0.5 * (error**2).sum(1) - 0.5 * (GRID**2).sum(1)
    density = np.exp(log_p - log_p.max())
    return density / (density.sum() * CELL)


def divergence(posterior: Posterior, x: np.ndarray, observed: np.ndarray) -> float:
    """KL(exact || posterior) in nats, by quadrature."""
    given = {name: value for name, value, seen in zip(NAMES, x, observed, strict=True) if seen}
    p = exact_density(x, observed)
    log_q = posterior(given).log_prob(PRIOR.constrain(GRID)) + PRIOR.log_abs_det(GRID)
    held = p > 1e-12
    return float((p[held] * (np.log(p[held]) - log_q[held])).sum() * CELL)


def mean_divergence(posterior: Posterior, seed: int, hidden: tuple[str, ...] = ()) -> float:
    observed = np.array([name not in hidden for name in NAMES])
    return float(np.mean([divergence(posterior, x, observed) for x in simulate(20, seed)[1]]))


def toy(n: int = 100, seed: int = 0) -> TrainingData:
    return TrainingData(*simulate(n, seed), PRIOR, NAMES, ("ms", "1", "Hz"), {"circuit": "toy"})


@pytest.fixture(scope="module")
def trained() -> Posterior:
    return train(toy(2000), replace(MEDIUM, members=2, epochs=30), progress=False, seed=0)


@pytest.fixture(scope="module")
def tiny() -> Posterior:
    return train(toy(), SMALL, progress=False, seed=0)


@pytest.mark.parametrize(("family", "transform"), KINDS)
def test_exact_posterior_is_recovered_by_every_flow(family: str, transform: str) -> None:
    """Mean divergence from the exact posterior below 0.25 nats, half of what a Gaussian regression leaves."""
    posterior = train(toy(1500), replace(MEDIUM, family=family, transform=transform), progress=False)
    assert mean_divergence(posterior, seed=77) < 0.25


def test_a_gaussian_regression_alone_is_not_enough_for_the_toy() -> None:
    posterior = train(toy(1500), replace(MEDIUM, epochs=1, rate=1e-9), progress=False)
    assert mean_divergence(posterior, seed=77) > 0.4


def test_ensemble_recovers_the_exact_posterior(trained: Posterior) -> None:
    assert mean_divergence(trained, seed=78) < 0.15


@pytest.mark.parametrize(
    ("hidden", "limit"),
    [(("isi.mean",), 0.2), (("bursts.rate",), 0.25), (("isi.cv", "bursts.rate"), 0.5), (NAMES, 0.05)],
)
def test_unobserved_features_leave_the_posterior_given_the_others(
    trained: Posterior, hidden: tuple[str, ...], limit: float
) -> None:
    """A Gaussian regression leaves 0.95 (without bursts.rate) and 1.05 nats (isi.mean alone: two modes)."""
    assert mean_divergence(trained, 79, hidden) < limit


def test_uninformative_features_give_the_prior_back() -> None:
    theta = PRIOR.sample(600, seed=0)
    noise = generator(1, "noise").standard_normal((600, 3))
    data = TrainingData(theta, noise, np.zeros((600, 3)), PRIOR, NAMES)
    posterior = train(data, replace(MEDIUM, members=2), progress=False)
    other = PRIOR.sample(500, seed=5)
    lost = PRIOR.log_prob(other) - posterior(noise[0]).log_prob(other)
    assert abs(lost.mean()) < 0.05
    assert "hardly different from the prior" in posterior.log[-1]


def test_undefined_is_information() -> None:
    """A feature that is undefined exactly where z_0 > 0 says so, whatever value stands in its place."""
    theta, x, states = simulate(1000, seed=0)
    states[PRIOR.unconstrain(theta)[:, 0] > 0, 2] = UNDEFINED
    x[states == UNDEFINED] = np.nan
    data = TrainingData(theta, x, states, PRIOR, NAMES)
    posterior = train(data, MEDIUM, progress=False)
    without = posterior({"bursts.rate": None}).sample_z(500, seed=0)[:, 0]
    with_it = posterior({"bursts.rate": 0.0}).sample_z(500, seed=0)[:, 0]
    assert (without > 0).mean() > 0.85 and (with_it < 0).mean() > 0.85


# --- the distribution object ----------------------------------------------------------------------


def test_density_in_declared_units_integrates_to_one(trained: Posterior) -> None:
    distribution = trained({"isi.mean": 1.0})
    g, log_tau = np.meshgrid(np.linspace(-1, 3, 202)[1:-1], np.linspace(0, np.log(100), 202)[1:-1])
    theta = np.stack([g.ravel(), np.exp(log_tau.ravel())], axis=1)
    cell = (4 / 201) * (np.log(100) / 201)
    assert (np.exp(distribution.log_prob(theta)) * theta[:, 1]).sum() * cell == pytest.approx(1.0, abs=0.03)
    assert distribution.log_prob(np.array([3.5, 10.0])) == -np.inf


def test_draws_never_leave_the_prior(trained: Posterior) -> None:
    for x in ([50.0, -80.0, 1e6], [0.0, 0.0, 0.0]):
        theta = trained(x).sample(12_000, seed=0)
        assert theta.shape == (12_000, 2) and np.isfinite(theta).all() and PRIOR.contains(theta).all()


def test_equal_seeds_give_equal_draws(trained: Posterior) -> None:
    distribution = trained([0.1, 0.2, 0.3])
    assert np.array_equal(distribution.sample(50, seed=1), distribution.sample(50, seed=1))
    assert not np.array_equal(distribution.sample(50, seed=1), distribution.sample(50, seed=2))
    assert distribution.sample(0, seed=1).shape == (0, 2)


def test_summaries_agree_with_the_draws(trained: Posterior) -> None:
    distribution = trained([0.1, 0.2, 0.3])
    theta = distribution.sample(500, seed=3)
    assert np.allclose(distribution.mean(500, seed=3), theta.mean(0))
    low, high = distribution.interval(0.8, 500, seed=3)
    assert np.allclose(((theta > low) & (theta < high)).mean(0), 0.8, atol=0.01)
    assert np.allclose(distribution.quantiles([0.1, 0.9], 500, seed=3), [low, high])


def test_all_forms_of_an_observation_are_one(trained: Posterior) -> None:
    values, states = np.array([0.1, 0.0, 0.3]), np.array([DEFINED, UNOBSERVED, DEFINED], dtype=np.uint8)
    forms = [{"bursts.rate": 0.3, "isi.mean": 0.1}, (values, states), FeatureValues(values, states)]
    draws = [trained(x).sample(20, seed=0) for x in forms]
    assert np.array_equal(draws[0], draws[1]) and np.array_equal(draws[0], draws[2])


def test_rows_of_observations_agree_with_one_by_one(trained: Posterior) -> None:
    theta, x, states = simulate(4, seed=80)
    states[1, 2] = UNOBSERVED
    rows = trained.log_prob_rows(theta, x, states)
    assert np.allclose(rows, [trained((x[i], states[i])).log_prob(theta[i]) for i in range(4)])


# --- training -------------------------------------------------------------------------------------


def test_training_depends_on_the_seed_only(tiny: Posterior) -> None:
    before = torch.random.get_rng_state()
    again, other = train(toy(), SMALL, progress=False, seed=0), train(toy(), SMALL, progress=False, seed=1)
    assert torch.equal(before, torch.random.get_rng_state())
    draws = [p([0.1, 0.2, 0.3]).sample(20, seed=0) for p in (tiny, again, other)]
    assert np.array_equal(draws[0], draws[1]) and not np.array_equal(draws[0], draws[2])


def test_log_says_what_was_gained(trained: Posterior) -> None:
    """Validation rows gain what the posterior and quadrature say, within 0.15 nats and the standard error."""
    figures = trained.provenance["validation"]
    posteriors = [exact_density(x, np.ones(3, dtype=bool)) for x in simulate(300, seed=82)[1]]
    prior = np.exp(PRIOR.z_log_prob(GRID))
    exact = np.mean([(p * np.log(np.maximum(p, 1e-300) / prior)).sum() * CELL for p in posteriors])
    assert figures["validation_gain"] == pytest.approx(exact, abs=0.15 + 3 * figures["validation_gain_error"])
    assert trained.log[-1].startswith(f"gain over the prior: {figures['validation_gain']:.3f}")


def test_progress_goes_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    train(toy(), SMALL, progress=True)
    streams = capsys.readouterr()
    assert streams.out == "" and "training" in streams.err
    train(toy(), SMALL, progress=False)
    assert capsys.readouterr().err == ""


def test_constant_features_are_left_out_and_named() -> None:
    data = toy()
    values = data.values.copy()
    values[:, 1] = 4.0
    posterior = train(replace(data, values=values), SMALL, progress=False)
    assert "features that never varied, left out: isi.cv" in posterior.log
    a, b = ({"isi.mean": 0.1, **extra} for extra in ({}, {"isi.cv": 4.0}))
    assert np.array_equal(posterior(a).sample(9, seed=0), posterior(b).sample(9, seed=0))


def test_weights_follow_validation_when_asked() -> None:
    config = replace(SMALL, members=3, weighting="validation")
    posterior = train(toy(), config, progress=False)
    assert posterior.weights.sum() == pytest.approx(1.0) and np.ptp(posterior.weights) > 0


# --- is the observation one of the simulations? ---------------------------------------------------


def test_false_alarms_of_the_check_are_as_rare_as_stated() -> None:
    """At level 0.9 a share of at most 0.1, plus 2 standard errors, of new simulations is flagged."""
    theta, x, states = simulate(800, seed=0)
    states[PRIOR.unconstrain(theta)[:, 0] > 0.5, 2] = UNDEFINED
    posterior = train(TrainingData(theta, x, states, PRIOR, NAMES), SMALL, progress=False)
    theta, x, states = simulate(200, seed=81)
    states[PRIOR.unconstrain(theta)[:, 0] > 0.5, 2] = UNDEFINED
    for hidden in ([], [1]):
        states[:, hidden] = UNOBSERVED
        flagged = [not posterior.check((row, s), level=0.9).inside for row, s in zip(x, states, strict=True)]
        assert 0.0 < np.mean(flagged) < 0.14


def test_a_value_out_of_range_is_named(trained: Posterior) -> None:
    check = trained.check({"isi.mean": 0.1, "bursts.rate": 40.0})
    assert not check.inside and [r.feature for r in check.reasons] == ["bursts.rate"]
    assert check.summary().startswith(
        "observation is outside the simulations: bursts.rate = 40 Hz, 99 % of the table"
    )


def test_an_impossible_combination_of_usual_values_is_found(trained: Posterior) -> None:
    """Each value is usual, but isi.cv - bursts.rate = z_0 = 4.5 does not go with isi.mean = z_0^2 = 0."""
    check = trained.check([0.0, 3.0, -1.5])
    assert not check.inside and not check.reasons and check.score > check.threshold
    assert "the combination of features" in check.summary()


def test_a_state_that_never_occurred_is_an_alarm(trained: Posterior) -> None:
    check = trained.check({"isi.mean": 0.1, "isi.cv": None})
    assert not check.inside and "isi.cv is undefined, as in 0 % of the table" in check.summary()


def test_a_usual_observation_and_an_empty_one_are_inside(trained: Posterior) -> None:
    assert trained.check([0.1, 0.1, 0.1]).summary().startswith("observation is inside the simulations")
    assert trained.check({}).inside


# --- files ----------------------------------------------------------------------------------------


def test_a_reloaded_posterior_is_the_same(tiny: Posterior, tmp_path: Path) -> None:
    again = load_posterior(tiny.save(tmp_path / "posterior"))
    for x in ([0.1, 0.2, 0.3], {"isi.cv": 0.2}):
        assert np.array_equal(tiny(x).sample(50, seed=4), again(x).sample(50, seed=4))
    assert again.prior == tiny.prior and again.log == tiny.log and again.feature_units == tiny.feature_units
    assert again.check([0.1, 0.2, 9.0]) == tiny.check([0.1, 0.2, 9.0])
    assert sorted(p.name for p in (tmp_path / "posterior").iterdir()) == [
        "posterior.json", "posterior.safetensors", "training.log",
    ]  # fmt: skip


def test_manifest_says_where_a_posterior_comes_from(tiny: Posterior, tmp_path: Path) -> None:
    manifest = json.loads((tiny.save(tmp_path) / "posterior.json").read_text())
    assert manifest["schema"] == 2 and manifest["provenance"]["circuit"] == "toy"
    assert {"torch", "zuko", "nflows", "sbi-circuits"} <= manifest["versions"].keys()
    assert (tmp_path / "training.log").read_text().splitlines() == list(tiny.log)


@pytest.mark.parametrize("name", ["posterior.json", "posterior.safetensors"])
@pytest.mark.parametrize("damage", ["missing", "cut", "changed", "empty"])
def test_damaged_files_are_refused_in_one_line(
    tiny: Posterior, tmp_path: Path, name: str, damage: str
) -> None:
    path = tiny.save(tmp_path) / name
    content = path.read_bytes()
    path.unlink()
    if damage != "missing":
        changed = content.replace(b'"schema": 2', b'"schema": 1')[:-8] + content[-8:][::-1]
        path.write_bytes({"cut": content[: len(content) // 2], "changed": changed, "empty": b""}[damage])
    with pytest.raises(InferenceError) as caught:
        load_posterior(tmp_path)
    assert "\n" not in str(caught.value) and "posterior" in str(caught.value)


def test_a_manifest_without_a_part_is_refused(tiny: Posterior, tmp_path: Path) -> None:
    path = tiny.save(tmp_path) / "posterior.json"
    manifest = json.loads(path.read_text())
    for key in ("prior", "flows", "feature_names", "log"):
        path.write_text(json.dumps({k: v for k, v in manifest.items() if k != key}))
        with pytest.raises(InferenceError, match=r"the posterior in .* is damaged"):
            load_posterior(tmp_path)


# --- errors ---------------------------------------------------------------------------------------


def test_too_few_rows() -> None:
    with pytest.raises(InferenceError, match="at least 50 rows with outcome ok, got 49"):
        toy(49)


def test_values_that_are_not_finite_name_the_feature() -> None:
    theta, x, states = simulate(60, seed=0)
    x[3, 1] = np.inf
    with pytest.raises(InferenceError, match="feature isi.cv is defined but inf in 1 rows"):
        TrainingData(theta, x, states, PRIOR, NAMES)


def test_theta_outside_the_prior() -> None:
    theta, x, states = simulate(60, seed=0)
    theta[0, 0] = 9.0
    with pytest.raises(PriorError, match="g = 9 nS is outside"):
        TrainingData(theta, x, states, PRIOR, NAMES)


def test_nothing_varies() -> None:
    data = toy()
    with pytest.raises(InferenceError, match="no feature varies"):
        train(replace(data, values=np.ones_like(data.values)), SMALL, progress=False)


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (
            {"isi.man": 1.0},
            UnknownNameError,
            "unknown feature 'isi.man'; valid: bursts.rate, isi.cv, isi.mean",
        ),
        ({"isi.mean": np.nan}, InferenceError, "feature isi.mean is nan; leave it out"),
        ([1.0, 2.0], InferenceError, r"shape \(2,\), expected \(3,\): isi.mean"),
        ((np.zeros(3), np.full(3, 7)), InferenceError, "feature states must be 0, 1 or 2"),
        (
            SimpleNamespace(values=np.zeros(3), states=np.zeros(3), names=("a",)),
            InferenceError,
            "other features",
        ),
    ],
)
def test_observations_that_do_not_fit(tiny: Posterior, x: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        tiny(x)


def test_without_dropping_every_feature_is_needed() -> None:
    posterior = train(toy(), replace(SMALL, drop=0.0), progress=False)
    with pytest.raises(InferenceError, match="trained to need every feature; missing: isi.cv, bursts.rate"):
        posterior({"isi.mean": 0.1})


@pytest.mark.parametrize(
    ("setting", "error"),
    [({"family": "maf"}, UnknownNameError), ({"drop": 2.0}, InferenceError), ({"bins": 1}, InferenceError)],
)
def test_settings_that_cannot_be(setting: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        TrainingConfig(**setting)
