"""Likelihood, ratio and combined posteriors against exact ones; the sampler against targets known in closed form.

Toy as in `exact`: z ~ N(0, 1), x = z + N(0, NOISE^2), so that the posterior of m recordings is
N(sum(x) / (m + NOISE^2), NOISE^2 / (m + NOISE^2)) for each parameter. Seeds are fixed.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from exact import NAMES, NOISE, PRIOR, ToyPosterior, simulate
from scipy.stats import kstest, norm
from tiny import THETA, tiny_observation, tiny_table

from sbi_circuits.errors import InferenceError, UnknownNameError
from sbi_circuits.estimators import (
    EstimatedPosterior,
    LikelihoodConfig,
    RatioConfig,
    combine,
    load_estimator,
    sample_posterior,
    save_estimator,
    train_estimator,
)
from sbi_circuits.features import DEFINED, UNDEFINED, UNOBSERVED
from sbi_circuits.inference import TrainingData
from sbi_circuits.seeds import generator
from sbi_circuits.table import MemoryTable

CONFIGS: dict[str, LikelihoodConfig | RatioConfig] = {
    "likelihood": LikelihoodConfig(members=2, hidden=32, epochs=15, components=3),
    "ratio": RatioConfig(members=2, hidden=48, epochs=30, contrasts=7),
}
SEEN = np.zeros(2, dtype=np.uint8)


def data(n: int = 2000, seed: int = 0) -> TrainingData:
    rows = simulate(n, seed)
    return TrainingData(rows.theta, rows.values, rows.states, PRIOR, NAMES)


@pytest.fixture(scope="module", params=sorted(CONFIGS))
def trained(request: pytest.FixtureRequest) -> EstimatedPosterior:
    posterior = train_estimator(data(), request.param, CONFIGS[request.param], seed=0)
    return replace(posterior, particles=600)


def exact(x: np.ndarray) -> tuple[np.ndarray, float]:
    """Mean (2,) and sd of the posterior of recordings x (m, 2), unbounded coordinates."""
    return x.sum(0) / (len(x) + NOISE**2), float(NOISE / np.sqrt(len(x) + NOISE**2))


# --- the sampler ----------------------------------------------------------------------------------


def test_two_modes_and_the_evidence() -> None:
    """A mixture of 1/4 and 3/4 far apart: draws as the exact distribution (p > 0.001), evidence within 0.15.

    Particles are not independent, so the test takes every tenth; shifted by 0.15 the same draws must fail.
    """
    width, modes, shares = 0.2, np.array([-1.5, 1.0]), np.array([0.25, 0.75])

    def log_likelihood(z: np.ndarray) -> np.ndarray:
        # The posterior is the mixture itself, as the prior is divided out.
        density = (shares * norm.pdf(z[:, :1], modes, width)).sum(1)
        with np.errstate(divide="ignore"):
            return np.log(density) - norm.logpdf(z[:, 0]) + 3.0

    found = sample_posterior(log_likelihood, parameters=1, particles=4000, seed=0)
    draws = found.z[generator(0, "thin").permutation(4000)[:400], 0]

    def cdf(z: np.ndarray) -> np.ndarray:
        return (shares * norm.cdf(np.asarray(z)[:, None], modes, width)).sum(1)

    assert kstest(draws, cdf).pvalue > 0.001 and kstest(draws + 0.15, cdf).pvalue < 0.001
    assert found.log_evidence == pytest.approx(3.0, abs=0.15)


def test_narrow_and_correlated_in_many_dimensions() -> None:
    """Ten dimensions, standard deviations 0.02 along and 0.3 across: means and sds within 15 % of a sd, 25 %."""
    direction = np.ones(10) / np.sqrt(10)

    def log_likelihood(z: np.ndarray) -> np.ndarray:
        along = (z - 0.5) @ direction
        across = ((z - 0.5) ** 2).sum(1) - along**2
        return -0.5 * (along / 0.02) ** 2 - 0.5 * across / 0.3**2

    found = sample_posterior(log_likelihood, parameters=10, particles=2000, seed=1)
    along = (found.z - 0.5) @ direction
    assert abs(along.mean()) < 0.006 and along.std() == pytest.approx(0.02, rel=0.25)
    sd = np.sqrt(1 / (1 + 1 / 0.3**2))
    others = found.z - np.outer(found.z @ direction, direction)
    assert np.sqrt((others.var(0)).sum() / 9) == pytest.approx(sd, rel=0.15)


def test_impossible_likelihoods() -> None:
    with pytest.raises(InferenceError, match="no configuration of the prior has a finite likelihood"):
        sample_posterior(lambda z: np.full(len(z), np.nan), 2, 50)
    half = sample_posterior(lambda z: np.where(z[:, 0] > 0, 0.0, -np.inf), 1, 500)
    assert (half.z > 0).all() and half.log_evidence == pytest.approx(np.log(0.5), abs=0.2)


# --- estimators -----------------------------------------------------------------------------------


@pytest.mark.parametrize("recordings", [1, 4])
def test_posteriors_are_the_exact_ones(trained: EstimatedPosterior, recordings: int) -> None:
    """Over 4 preparations: mean error of the mean below 0.25 sd, of the sd below 15 % (one recording) and 25 %."""
    errors, widths = [], []
    for seed in range(4):
        z = 0.7 * generator(seed, "truth").standard_normal(2)
        x = z + NOISE * generator(seed, "recordings").standard_normal((recordings, 2))
        draws = trained([(row, SEEN) for row in x]).sample_z(600, seed)
        mean, sd = exact(x)
        errors.append(np.abs(draws.mean(0) - mean) / sd)
        widths.append(draws.std(0) / sd)
    assert np.mean(errors) < 0.25
    assert np.mean(widths) == pytest.approx(1.0, abs=0.15 if recordings == 1 else 0.25)


def test_what_is_unobserved_leaves_the_prior(trained: EstimatedPosterior) -> None:
    """The second parameter has the prior's spread when its feature is unobserved, the first its posterior's."""
    x = (np.array([0.5, 9.0]), np.array([DEFINED, UNOBSERVED]))
    draws = trained(x).sample_z(600, seed=0)
    mean, sd = exact(np.array([[0.5, 0.0]]))
    assert abs(draws[:, 0].mean() - mean[0]) < 0.4 * sd and draws[:, 0].std() == pytest.approx(sd, rel=0.3)
    assert abs(draws[:, 1].mean()) < 0.2 and draws[:, 1].std() == pytest.approx(1.0, abs=0.15)


def test_density_integrates_to_one(trained: EstimatedPosterior) -> None:
    """Within 1 %."""
    axis, step = np.linspace(-5, 5, 101, retstep=True)
    z = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    for x in ([0.5, -0.5], [1.5, 0.0], [-1.0, 1.0]):
        distribution = trained((np.array(x), SEEN))
        density = np.exp(distribution.log_prob(PRIOR.constrain(z)) + PRIOR.log_abs_det(z)) * step**2
        assert density.sum() == pytest.approx(1.0, abs=0.01)
    assert distribution.log_prob(np.array([-1.0, 10.0])) == -np.inf


def test_draws_are_in_the_prior_and_depend_on_the_seed(trained: EstimatedPosterior) -> None:
    distribution = trained((np.array([4.0, -4.0]), SEEN))
    theta = distribution.sample(50, seed=1)
    assert theta.shape == (50, 2) and PRIOR.contains(theta).all()
    assert np.array_equal(theta, distribution.sample(50, seed=1))
    assert not np.array_equal(theta, distribution.sample(50, seed=2))
    assert distribution.sample(700, seed=1).shape == (700, 2)
    assert distribution.interval(0.5, 100).shape == (2, 2) and distribution.mean(100).shape == (2,)


def test_a_likelihood_knows_what_is_undefined() -> None:
    """The second feature is undefined exactly where z_1 > 0: posteriors lie on the right side in 90 % or more."""
    rows = simulate(1500, seed=2)
    z = PRIOR.unconstrain(rows.theta)
    states = rows.states.copy()
    states[z[:, 1] > 0, 1] = UNDEFINED
    given = TrainingData(rows.theta, rows.values, states, PRIOR, NAMES)
    posterior = replace(train_estimator(given, "likelihood", CONFIGS["likelihood"], seed=0), particles=500)
    without = posterior((np.zeros(2), np.array([DEFINED, UNDEFINED]))).sample_z(500, seed=0)[:, 1]
    with_it = posterior((np.array([0.0, -1.0]), SEEN)).sample_z(500, seed=0)[:, 1]
    assert (without > 0).mean() > 0.9 and (with_it < 0).mean() > 0.9


def test_simulations_that_fail_count_against_their_configurations(tmp_path: Path) -> None:
    """Below 0.25 Hz the toy circuit is silent: posteriors seldom go there, however little was observed.

    Without the count of failures as many draws are there as of the prior. 2,000 draws: the shares are known to
    within .006 (one standard deviation), far less than what lies between them and the bounds.
    """
    table = tiny_table()
    posterior = replace(train_estimator(table, "ratio", RatioConfig(members=1, hidden=16, epochs=3)), particles=2000)
    assert posterior.ok is not None
    counting, blind = load_estimator(save_estimator(posterior, tmp_path)), replace(posterior, ok=None)
    silent = [float((found({}).sample(2000, seed=0)[:, 0] < 0.25).mean()) for found in (counting, blind)]
    prior = float((table.prior.sample(4000, 1)[:, 0] < 0.25).mean())
    assert prior > 0.05 and silent[0] < 0.4 * prior and silent[0] < 0.4 * silent[1]
    assert silent[1] > 0.6 * prior
    ok_only = MemoryTable(table.manifest, table.read().take(table.read().outcome == "ok"))
    assert train_estimator(ok_only, "ratio", RatioConfig(members=1, hidden=8, epochs=1)).ok is None


def test_real_features_of_a_circuit() -> None:
    """40 features with undefined ones: the rate the recording was made with has more density than a wrong one."""
    posterior = train_estimator(tiny_table(), "likelihood", LikelihoodConfig(members=1, hidden=48), seed=0)
    distribution = replace(posterior, particles=400)(tiny_observation())
    wrong = THETA * np.array([4.0, 1.0, 1.0])
    assert distribution.log_prob(THETA) > distribution.log_prob(wrong) + 3.0
    assert posterior.check(tiny_observation()).inside


# --- many recordings, from a posterior of single ones ---------------------------------------------


def test_single_posteriors_combine() -> None:
    """From exact single posteriors the exact one of five recordings: mean within 0.2 sd, sd within 15 %."""
    x = np.array([0.4, -0.3]) + NOISE * generator(3, "five").standard_normal((5, 2))
    single = ToyPosterior()
    draws = combine(single, [(row, SEEN) for row in x], particles=1500).sample_z(1500, seed=0)  # type: ignore[arg-type]
    mean, sd = exact(x)
    assert (np.abs(draws.mean(0) - mean) < 0.2 * sd).all() and np.allclose(draws.std(0), sd, rtol=0.15)


def test_combining_one_recording_changes_nothing() -> None:
    x = (np.array([0.4, -0.3]), SEEN)
    theta = PRIOR.sample(20, 0)
    combined = combine(ToyPosterior(), [x])  # type: ignore[arg-type]
    assert combined.log_prob(theta) == pytest.approx(ToyPosterior()(x).log_prob(theta), abs=0.05)


def test_a_saved_estimator_draws_the_same(trained: EstimatedPosterior, tmp_path: Path) -> None:
    again = load_estimator(save_estimator(trained, tmp_path))
    x = [(np.array([0.3, -0.2]), SEEN), (np.array([0.1, 0.2]), SEEN)]
    assert np.array_equal(again(x).sample(20, seed=1), trained(x).sample(20, seed=1))
    assert again.kind == trained.kind and again.log == trained.log
    with pytest.raises(InferenceError, match="cannot read .*: No such file"):
        load_estimator(tmp_path / "nowhere")
    manifest = (tmp_path / "estimator.json").read_text()
    (tmp_path / "estimator.json").write_text(manifest.replace('"schema": 1', '"schema": 9'))
    with pytest.raises(InferenceError, match="has not schema 1"):
        load_estimator(tmp_path)
    (tmp_path / "estimator.json").write_text(manifest[: len(manifest) // 2])
    with pytest.raises(InferenceError, match="is damaged"):
        load_estimator(tmp_path)


def test_bad_input(trained: EstimatedPosterior) -> None:
    with pytest.raises(UnknownNameError, match="unknown kind of estimator 'score'; valid: likelihood, ratio"):
        train_estimator(data(60), "score")
    with pytest.raises(InferenceError, match="takes a LikelihoodConfig, got RatioConfig"):
        train_estimator(data(60), "likelihood", RatioConfig())
    with pytest.raises(InferenceError, match="give at least one observation"):
        trained([])
    with pytest.raises(InferenceError, match=r"an observation has shape \(3,\)"):
        trained(np.zeros(3))
    with pytest.raises(InferenceError, match="cannot draw -1 configurations"):
        trained((np.zeros(2), SEEN)).sample(-1, 0)
    with pytest.raises(InferenceError, match=r"theta has shape \(3,\)"):
        trained((np.zeros(2), SEEN)).log_prob(np.zeros(3))
    with pytest.raises(InferenceError, match="level 1 must lie between 0 and 1"):
        trained((np.zeros(2), SEEN)).interval(1.0)
