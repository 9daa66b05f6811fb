"""When to stop simulating: the expected gain of a round against gains that are known."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from sbi_circuits.errors import InferenceError
from sbi_circuits.inference import TrainingConfig, TrainingData, train
from sbi_circuits.inference.members import Members
from sbi_circuits.inference.posterior import Posterior
from sbi_circuits.inference.rounds import LEAST, Gain, _divergence, expected_gain, gain_of_round
from sbi_circuits.prior import Parameter, Prior
from sbi_circuits.seeds import generator

PRIOR = Prior((Parameter("a", "1", 0.0, 1.0), Parameter("b", "1", 0.0, 1.0)))
X = np.array([0.5, 0.25])  # two values of `a` are possible


def posterior(rows: int) -> Posterior:
    """x = (4 (a - 0.5)^2, b) + noise of sd 0.05: more than the Gaussian regression that all members begin with."""
    theta = PRIOR.sample(rows, seed=rows)
    x = np.column_stack([4 * (theta[:, 0] - 0.5) ** 2, theta[:, 1]])
    x += 0.05 * generator(rows, "noise").standard_normal(theta.shape)
    config = TrainingConfig(members=3, epochs=40, hidden=16, width=8, drop=0.0)
    return train(TrainingData(theta, x, np.zeros(x.shape, dtype=np.uint8), PRIOR, ("x", "y")), config, progress=False)


class Apart(Members):
    """Three members, each normal with sd 1e-3, at z = -1, 0 and 1."""

    def draw_members(self, members: slice, noise: Tensor, inputs: Tensor, row: Tensor | None = None) -> Tensor:
        return torch.arange(members.start, members.stop)[:, None, None] - 1.0 + 1e-3 * noise

    def log_prob(self, z: Tensor, inputs: Tensor) -> Tensor:
        away = (z - torch.tensor([-1.0, 0.0, 1.0], dtype=z.dtype)[:, None, None]) / 1e-3
        return -0.5 * away.square().sum(-1)


@pytest.fixture(scope="module")
def small() -> Posterior:
    return posterior(200)


@pytest.fixture(scope="module")
def large() -> Posterior:
    return posterior(2000)


def test_members_that_agree_expect_nothing(large: Posterior) -> None:
    only = replace(large, weights=np.array([1.0, 0.0, 0.0]))
    assert expected_gain(only, X).nats == pytest.approx(0.0, abs=1e-9)


def test_members_that_exclude_one_another_expect_the_entropy_of_their_weights(large: Posterior) -> None:
    """Where no draw of one is possible under another, knowing which is right is worth -sum w log w nats."""
    weights = np.array([0.5, 0.25, 0.25])
    apart = replace(large, weights=weights, flows=Apart(large.flows.spec))
    gain = expected_gain(apart, X, n=500)
    assert gain.nats == pytest.approx(-(weights * np.log(weights)).sum(), abs=1e-6)


def test_the_expected_gain_falls_with_the_simulations(small: Posterior, large: Posterior) -> None:
    few, many = expected_gain(small, X), expected_gain(large, X)
    assert few.nats > 2 * many.nats > 0 and not many.worth()


def test_a_round_that_taught_is_told_from_one_that_did_not(small: Posterior, large: Posterior) -> None:
    assert gain_of_round(small, large, X).worth()
    assert gain_of_round(large, large, X).nats == pytest.approx(0.0, abs=1e-9)


def test_chance_alone_is_not_worth_a_round() -> None:
    assert Gain(3 * LEAST, 0.5 * LEAST, 2).worth() is False and Gain(3.2 * LEAST, 0.5 * LEAST, 2).worth() is True
    assert "0.030 a parameter" in str(Gain(0.06, 0.01, 2))


def test_bad_questions_are_refused(small: Posterior) -> None:
    with pytest.raises(InferenceError, match="needs 2 or more and 2 draws, got 3 and 1"):
        expected_gain(small, X, n=1)
    with pytest.raises(InferenceError, match="under one prior"):
        gain_of_round(small, replace(small, prior=Prior((Parameter("c", "1", 0, 2), Parameter("d", "1", 0, 1)))), X)


@pytest.mark.parametrize("shift", [0.02, 0.5, 2.0])
def test_divergences_of_normals(shift: float) -> None:
    """Two normals with sd 1, `shift` apart: shift^2 / 2 nats, with the error that is stated."""

    class Normal:
        def __init__(self, mean: float):
            self.mean = mean

        def sample(self, n: int, seed: int) -> np.ndarray:
            return self.mean + generator(seed, "normal").standard_normal((n, 1))

        def log_prob(self, theta: np.ndarray) -> np.ndarray:
            return -0.5 * np.sum((theta - self.mean) ** 2, axis=-1)

    found = np.array([_divergence(Normal(0.0), Normal(shift), 500, seed) for seed in range(100)])  # type: ignore[arg-type]
    errors = (found[:, 0] - 0.5 * shift**2) / found[:, 1]
    assert abs(errors.mean()) < 0.5 and 0.7 < errors.std() < 1.5
    if shift < 0.1:  # without the control variate the error would be shift / sqrt(500)
        assert found[:, 1].max() < 0.1 * shift / np.sqrt(500)
