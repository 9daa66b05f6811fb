"""Members in one batched computation: coordinates, many observations at once, threads, settings that cannot be."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from sbi_circuits.errors import InferenceError, UnknownNameError
from sbi_circuits.features import UNOBSERVED
from sbi_circuits.inference import Posterior, TrainingConfig, TrainingData, train
from sbi_circuits.inference.encode import feature_groups, random_drops
from sbi_circuits.inference.train import _families
from sbi_circuits.prior import Parameter, Prior
from sbi_circuits.seeds import generator

PRIOR = Prior((Parameter("a", "1", 0.0, 1.0), Parameter("b", "mV", -1.0, 1.0)))
SMALL = TrainingConfig(members=2, epochs=3, hidden=16, width=8)


def table(space: str, n: int = 400, noise: float = 0.3) -> TrainingData:
    """Features are theta with Gaussian noise, added in the unit cube or in its probit."""
    theta = PRIOR.sample(n, seed=0)
    z = PRIOR.unconstrain(theta) if space == "normal" else np.sqrt(12.0) * (PRIOR.to_unit(theta) - 0.5)
    values = z + noise * generator(0, "noise").standard_normal(z.shape)
    return TrainingData(theta, values, np.zeros(values.shape, dtype=np.uint8), PRIOR, ("x.a", "y.b"))


@pytest.fixture(scope="module")
def posterior() -> Posterior:
    return train(table("uniform"), replace(SMALL, coordinates="uniform"), progress=False, seed=0)


@pytest.mark.parametrize("space", ["normal", "uniform"])
def test_coordinates_are_those_in_which_the_features_are_linear(space: str) -> None:
    """4,000 rows at noise 0.3: the regressions differ by more than ten standard errors."""
    found = train(table(space, n=4000), replace(SMALL, epochs=1, members=1), progress=False, seed=0)
    assert found.coordinates == space and found.provenance["config"]["coordinates"] == space


def test_a_posterior_piled_up_on_a_bound_keeps_its_shape() -> None:
    """x far outside the prior: the exact posterior of `a` is a normal cut off at 1, almost an exponential there.

    Kolmogorov distance of 2,000 draws from it below 0.1; that of the prior, and of a normal about the mean, above.
    """
    data = table("uniform", n=3000)
    found = train(data, TrainingConfig(members=2, epochs=20, drop=0.0), progress=False, seed=0)
    draws = found([2.2, 0.0]).sample(2000, seed=0)[:, 0]
    centre, sd = 0.5 + 2.2 / np.sqrt(12.0), 0.3 / np.sqrt(12.0)
    exact = stats.truncnorm((0 - centre) / sd, (1 - centre) / sd, centre, sd)
    assert draws.max() <= 1.0 and stats.kstest(draws, exact.cdf).statistic < 0.1
    assert stats.kstest(PRIOR.sample(2000, seed=1)[:, 0], exact.cdf).statistic > 0.1
    normal = draws.mean() + draws.std() * generator(0, "control").standard_normal(2000)
    assert stats.kstest(normal, exact.cdf).statistic > 0.1


def test_many_observations_at_once(posterior: Posterior) -> None:
    values = np.array([[0.5, 0.1], [-1.0, 1.0], [0.0, 0.0]])
    states = np.zeros((3, 2), dtype=np.uint8)
    states[2, 1] = UNOBSERVED
    together = posterior.sample_rows(values, states, 3000, seed=1)
    assert together.shape == (3, 3000, 2) and PRIOR.contains(together).all()
    for row, (v, s) in enumerate(zip(values, states, strict=True)):
        alone = posterior((v, s)).sample(3000, seed=2)
        for column in range(2):  # two-sample Kolmogorov test, error probability 1e-4 each
            assert stats.ks_2samp(together[row, :, column], alone[:, column]).pvalue > 1e-4
    # Negative control: draws for another observation.
    assert stats.ks_2samp(together[0, :, 0], together[1, :, 0]).pvalue < 1e-4
    one = posterior.sample_rows(values[:1], states[:1], 50, seed=1)
    assert np.array_equal(one[0], posterior((values[0], states[0])).sample(50, seed=1))


def test_a_batch_of_observations_is_drawn_in_one_call(posterior: Posterior) -> None:
    named = {posterior.feature_names[0]: 0.0}
    given: list[Any] = [[0.5, 0.1], named, (np.zeros(2), np.array([0, UNOBSERVED], dtype=np.uint8))]
    many = 12_000  # draws of one observation lie in several parts
    together = posterior.sample_batch(given, many, seed=3)
    assert together.shape == (3, many, 2) and PRIOR.contains(together).all()
    assert np.array_equal(together, posterior.sample_batch(given, many, seed=3))
    # Rounding may turn the choice of a component, of one draw in many.
    alone, other = (posterior([0.5, 0.1]).sample(many, seed=seed) for seed in (3, 4))
    assert np.isclose(together[0], alone, atol=1e-4).all(1).mean() > 0.999
    assert np.isclose(together[0], other, atol=1e-4).all(1).mean() < 0.01  # negative control
    # The second and third are the same observation, each with draws of its own.
    assert stats.ks_2samp(together[1, :, 0], together[2, :, 0]).pvalue > 1e-4
    assert not set(map(tuple, together[1])) & set(map(tuple, together[2]))
    for row, x in zip(together, given, strict=True):
        assert stats.ks_2samp(row[:, 0], posterior(x).sample(many, seed=4)[:, 0]).pvalue > 1e-4
    assert stats.ks_2samp(together[0, :, 0], together[1, :, 0]).pvalue < 1e-4
    assert posterior.sample_batch([], 5, seed=0).shape == (0, 5, 2)
    assert posterior.sample_batch(np.zeros((40, 2)), 7, seed=0).shape == (40, 7, 2)


def test_a_batch_says_which_observation_does_not_fit(posterior: Posterior) -> None:
    with pytest.raises(InferenceError, match="observation 1: an observation has shape"):
        posterior.sample_batch([[0.0, 0.0], [0.0]], 5, seed=0)
    with pytest.raises(InferenceError, match="cannot draw -1"):
        posterior.sample_batch([[0.0, 0.0]], -1, seed=0)


def test_results_do_not_depend_on_the_number_of_threads() -> None:
    before, draws = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            trained = train(table("uniform"), SMALL, progress=False, seed=0)
            draws.append(trained([0.1, 0.2]).sample(200, seed=0))
    finally:
        torch.set_num_threads(before)
    assert np.allclose(draws[0], draws[1], rtol=1e-4, atol=1e-6)


def test_members_differ_and_each_keeps_its_best_weights(posterior: Posterior) -> None:
    z, inputs = torch.zeros(1, 2, dtype=torch.float64), torch.zeros(1, posterior.encoder.inputs, dtype=torch.float64)
    first, second = posterior.flows.log_prob(z, inputs)[:, 0].tolist()
    assert first != second
    assert [line.startswith("member") and "best epoch" in line for line in posterior.log].count(True) == 2


def test_without_drops_every_feature_is_needed() -> None:
    trained = train(table("uniform"), replace(SMALL, drop=0.0), progress=False, seed=0)
    with pytest.raises(InferenceError, match="missing: y.b"):
        trained({"x.a": 0.5})


def test_settings_that_cannot_be_list_what_can() -> None:
    message = "unknown transform of family 'zuko' 'mixture'; valid: auto, autoregressive, coupling"
    with pytest.raises(UnknownNameError, match=message):
        TrainingConfig(family="zuko", transform="mixture")
    with pytest.raises(UnknownNameError, match="valid: auto, normal"):
        TrainingConfig(transform="coupling", coordinates="uniform")
    assert TrainingConfig(family="nflows").resolve(1000, 5).transform == "autoregressive"
    assert TrainingConfig().resolve(1000, 5).transform == "mixture"


def test_families_that_never_vary_are_not_dropped_in_place_of_those_that_do() -> None:
    """One family tells something: it loses single features.

    Of four, 0 to 3 are kept as often each: given k, both of two are lost with C(2, k) / C(4, k), so in .4167 of the
    rows that lose something, and one of them in as many.
    """
    names = ("isi.mean", "isi.cv", "bursts.rate", "spectrum.10")
    ignored = np.array([False, False, True, True])
    assert _families(names, ignored).max() == 0
    assert sorted(set(_families(names, ignored[::-1]).tolist())) == [0, 1]
    assert _families(names, np.zeros(4, dtype=bool)).tolist() == feature_groups(names).tolist()
    for groups, one_of_two in ((_families(names, ignored), 0.65 * 0.4167), (feature_groups(names), None)):
        random = torch.Generator().manual_seed(0)
        lost = random_drops(4000, torch.as_tensor(groups), 0.65, random)[:, :2].sum(1)
        shares = (lost.bincount() / 4000).tolist()
        if one_of_two is None:  # negative control: whole families are lost, as if the others told anything
            assert shares[1] < 0.1
        else:  # four standard errors
            assert shares[1:] == pytest.approx([one_of_two, one_of_two], abs=0.03)
