"""Restricted and truncated priors: the region holds what it should, and draws follow the prior inside it."""

import numpy as np
import pytest
from scipy import stats

from sbi_circuits.errors import InferenceError
from sbi_circuits.inference import TrainingConfig, train
from sbi_circuits.inference.data import TrainingData
from sbi_circuits.inference.restriction import restrict
from sbi_circuits.inference.truncated import truncated_prior
from sbi_circuits.prior import Parameter, Prior

PRIOR = Prior(
    (Parameter("a", "1", 0.0, 1.0), Parameter("b", "mV", -10.0, 10.0), Parameter("c", "ms", 1.0, 100.0, "log"))
)


def wanted(theta: np.ndarray) -> np.ndarray:
    return (theta[:, 0] > 0.7) & (theta[:, 1] > 0)


def test_a_restricted_prior_keeps_what_is_wanted_and_drops_the_rest() -> None:
    theta = PRIOR.sample(1500, seed=0)
    region = restrict(PRIOR, theta, wanted(theta), keep=0.95, seed=1)
    new = PRIOR.sample(4000, seed=1)
    kept = region.accepts(new)
    # 600 wanted draws: a share of .95 has a standard error of .009; five of them and the threshold's own error.
    assert kept[wanted(new)].mean() > 0.88
    assert kept.mean() < 0.4 and region.precision > 0.5
    draws = region.sample(500, seed=2)
    assert region.accepts(draws).all() and len(draws) == 500
    np.testing.assert_array_equal(draws[:100], region.sample(100, seed=2))
    # The third parameter has no part in it: its law stays the prior's (KS test, error probability 1e-4).
    assert stats.kstest(PRIOR.to_unit(draws)[:, 2], "uniform").pvalue > 1e-4
    # Negative control: the first parameter's law does not.
    assert stats.kstest(PRIOR.to_unit(draws)[:, 0], "uniform").pvalue < 1e-4


def test_global_random_state_is_left_alone() -> None:
    import torch

    before = torch.random.get_rng_state()
    theta = PRIOR.sample(300, seed=0)
    restrict(PRIOR, theta, wanted(theta), seed=1)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("bad", ["few", "all", "keep"])
def test_restriction_says_what_it_lacks(bad: str) -> None:
    theta = PRIOR.sample(100, seed=0)
    flags = {"few": np.arange(100) < 3, "all": np.ones(100, dtype=bool), "keep": np.arange(100) < 50}[bad]
    with pytest.raises(InferenceError, match="at least 20 wanted|keep must be"):
        restrict(PRIOR, theta, flags, keep=1.5 if bad == "keep" else 0.9)


def test_truncated_draws_follow_the_prior_inside_the_posterior_s_region() -> None:
    """A posterior that knows `a` to about 0.05: draws are near-uniform over that band, not bell-shaped."""
    theta = PRIOR.sample(1500, seed=0)
    noise = 0.05 * np.random.default_rng(0).standard_normal(1500)
    values = (theta[:, 0] + noise)[:, None]
    data = TrainingData(theta, values, np.zeros((1500, 1), dtype=np.uint8), PRIOR, ("x.a",))
    posterior = train(data, TrainingConfig(members=1, epochs=30, drop=0.0), progress=False, seed=0)
    draws = truncated_prior(posterior, {"x.a": 0.5}, 400, seed=3)
    plain = posterior({"x.a": 0.5}).sample(400, seed=3)
    assert draws.shape == (400, 3) and PRIOR.contains(draws).all()
    assert draws[:, 0].std() > 1.2 * plain[:, 0].std()
    assert np.abs(draws[:, 0] - 0.5).max() < 0.45
    with pytest.raises(InferenceError, match="0 < mass < 1"):
        truncated_prior(posterior, {"x.a": 0.5}, 10, seed=0, mass=1.0)
