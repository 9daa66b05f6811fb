"""Importance weights: rows from other proposals than the prior still answer for the prior."""

import numpy as np
import pytest
from scipy import stats

from sbi_circuits.errors import InferenceError
from sbi_circuits.inference import TrainingConfig, train
from sbi_circuits.inference.data import TrainingData
from sbi_circuits.inference.weights import balance_weights, local_weights
from sbi_circuits.prior import Parameter, Prior

PRIOR = Prior((Parameter("a", "1", 0.0, 1.0),))
SHARE = 0.25  # of the rows that were drawn from the prior


def aimed(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a mixture: a quarter from the prior, the others from Beta(2, 8); and their weights."""
    random = np.random.default_rng(seed)
    prior_rows = round(SHARE * n)
    theta = np.concatenate([random.random(prior_rows), random.beta(2, 8, n - prior_rows)])[:, None]
    log_proposals = np.array([np.zeros(n), stats.beta.logpdf(theta[:, 0], 2, 8)])
    return theta, balance_weights(np.zeros(n), log_proposals, np.array([prior_rows, n - prior_rows]))


def test_balance_weights_give_back_the_prior() -> None:
    """Weighted mean and variance are the prior's within five standard errors; the bound 1/share holds."""
    theta, weight = aimed(20_000, 0)
    error = 5 * np.sqrt(np.mean(weight**2) / len(weight))
    assert abs(weight.mean() - 1) < error and weight.max() <= 1 / SHARE + 1e-9
    assert abs((weight * theta[:, 0]).mean() - 0.5) < error
    # Negative control: without weights the mean is far off.
    assert abs(theta.mean() - 0.5) > 3 * error


def test_rows_no_proposal_could_have_drawn_are_refused() -> None:
    with pytest.raises(InferenceError, match="1 rows have no density"):
        balance_weights(np.zeros(2), np.array([[0.0, -np.inf]]), np.array([2]))
    with pytest.raises(InferenceError, match="for 2 proposals"):
        balance_weights(np.zeros(2), np.zeros((1, 2)), np.array([1, 1]))


def test_local_weights_keep_ratios_among_alike_rows_and_lift_rare_ones() -> None:
    points = np.concatenate([np.zeros((100, 1)), np.full((100, 1), 10.0)])
    weights = np.concatenate([np.tile([1.0, 3.0], 50), np.tile([1e-4, 3e-4], 50)])
    found = local_weights(points, weights, neighbours=100)
    np.testing.assert_allclose(found, np.tile([0.5, 1.5], 100))
    assert (local_weights(points, np.ones(200)) == 1).all()
    assert local_weights(points, np.where(np.arange(200) == 0, 1e6, 1.0), neighbours=100).max() == 5.0


def test_training_with_weights_answers_for_the_prior() -> None:
    """x = a + noise of sd 0.3, at x = 0.5: the posterior mean is 0.5 under the prior, lower under the proposals."""
    theta, weight = aimed(3000, 1)
    values = theta + 0.3 * np.random.default_rng(2).standard_normal(theta.shape)
    states = np.zeros(values.shape, dtype=np.uint8)
    means = {}
    for importance in ("truncated", "none"):
        config = TrainingConfig(members=1, epochs=20, drop=0.0, importance=importance)
        data = TrainingData(theta, values, states, PRIOR, ("x.a",), weights=weight)
        means[importance] = train(data, config, progress=False, seed=0)({"x.a": 0.5}).mean(4000)[0]
    # Sampling error of the fit, seen over seeds, is about 0.02.
    assert abs(means["truncated"] - 0.5) < 0.08
    assert means["none"] < means["truncated"] - 0.08
