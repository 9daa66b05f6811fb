"""Conditional draws against brute force, told apart by a classifier; and conditions that cannot be met."""

import time

import numpy as np
import pytest
import torch
from scipy.special import ndtr
from tiny import tiny_observation, tiny_posterior

from sbi_circuits.errors import PriorError, UnknownNameError
from sbi_circuits.subspace.conditioning import Condition, Conditioner, condition
from sbi_circuits.subspace.examples import Constrained, banana, ring, sheet, sum_only

ALIKE = 0.55
PROBLEMS = {"banana": (banana(0.2), 1, 0.3), "ring": (ring(0.2), 0, 0.5), "sheet": (sheet(0.2), 2, 0.5)}


def c2st(a: np.ndarray, b: np.ndarray, seed: int = 0) -> float:
    """Accuracy of a small network that tells two samples apart, by five-fold cross-validation; .5 if it cannot."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        x = np.concatenate([a, b])
        x = torch.as_tensor((x - x.mean(0)) / x.std(0)).float()
        y = torch.cat([torch.zeros(len(a)), torch.ones(len(b))])
        folds = torch.randperm(len(x)).split(-(-len(x) // 5))
        return float(np.mean([_accuracy(x, y, torch.cat([*folds[:k], *folds[k + 1 :]]), folds[k]) for k in range(5)]))


def _accuracy(x: torch.Tensor, y: torch.Tensor, training: torch.Tensor, held: torch.Tensor) -> float:
    layers = [torch.nn.Linear(x.shape[1], 48), torch.nn.ReLU(), torch.nn.Linear(48, 48), torch.nn.ReLU()]
    network = torch.nn.Sequential(*layers, torch.nn.Linear(48, 1))
    optimiser = torch.optim.Adam(network.parameters(), 3e-3, weight_decay=1e-4)
    for _ in range(15):
        for rows in training[torch.randperm(len(training))].split(128):
            loss = torch.nn.functional.binary_cross_entropy_with_logits(network(x[rows])[:, 0], y[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    with torch.no_grad():
        return float(((network(x[held])[:, 0] > 0) == (y[held] > 0.5)).float().mean())


def near(example: Constrained, parameter: int, low: float, high: float, n: int = 1000) -> np.ndarray:
    """Draws whose coordinate lies between low and high, by rejection."""
    found: list[np.ndarray] = []
    while sum(map(len, found)) < n:
        z = example.sample_z(40_000, 100 + len(found))
        found.append(z[(z[:, parameter] > low) & (z[:, parameter] < high)])
    return np.concatenate(found)[:n]


def value(z: float) -> float:
    """Declared units of the examples: between -1 and 1."""
    return float(2 * ndtr(z) - 1)


@pytest.mark.parametrize("name", PROBLEMS)
def test_fixed_parameters_agree_with_rejection_and_are_quick(name: str) -> None:
    example, parameter, z = PROBLEMS[name]
    conditioner = Conditioner(example, seed=0)
    began = time.perf_counter()
    found = conditioner.given({f"p{parameter}": value(z)}, n=1000)
    assert time.perf_counter() - began < 2.0
    free = [k for k in range(len(example.prior)) if k != parameter]
    drawn = example.prior.unconstrain(found.theta)
    assert np.allclose(drawn[:, parameter], z) and not found.exact
    brute = near(example, parameter, z - 0.01, z + 0.01)
    assert c2st(drawn[:, free], brute[:, free]) < ALIKE
    # Negative control: the unconditioned posterior is told apart.
    assert c2st(example.sample_z(1000, 3)[:, free], brute[:, free]) > 0.6


@pytest.mark.parametrize("width", [0.1, 2.0], ids=["chains", "kept"])
def test_bounded_parameters_agree_with_rejection(width: float) -> None:
    example = sum_only(4, noise=0.2)
    found = condition(example, bounded={"p0": (value(0.5), value(0.5 + width))}, n=1000)
    assert found.exact == (width > 1.0)
    brute = near(example, 0, 0.5, 0.5 + width)
    assert c2st(example.prior.unconstrain(found.theta), brute) < ALIKE


def test_several_conditions_of_a_trained_posterior_hold_exactly() -> None:
    density = tiny_posterior()(tiny_observation())
    found = Conditioner(density).given({"idle": -60.0}, {"tonic": (0.9, 1.4)}, n=300)
    names = density.prior.names
    assert (found.theta[:, names.index("idle")] == -60.0).all()
    tonic = found.theta[:, names.index("tonic")]
    assert tonic.min() >= 0.9 - 1e-9 and tonic.max() <= 1.4 + 1e-9
    assert "idle = -60" in found.summary(names) and len(np.unique(found.theta, axis=0)) > 200


def test_the_rest_makes_up_for_what_is_fixed() -> None:
    example = sum_only(2, noise=0.05, total=0.0)
    found = condition(example, {"p0": value(1.0)}, n=500)
    z = example.prior.unconstrain(found.theta)
    assert z[:, 1].mean() == pytest.approx(-1.0, abs=0.02) and z[:, 1].std() == pytest.approx(0.05, abs=0.015)


@pytest.mark.parametrize(
    ("fixed", "bounded", "error", "text"),
    [
        ({"p0": 2.0}, {}, PriorError, r"p0 = 2 1 is outside its prior \[-1, 1\]"),
        ({"q": 0.0}, {}, UnknownNameError, "valid: p0, p1"),
        ({}, {"p1": (2.0, 3.0)}, PriorError, "leave nothing of its prior"),
        ({}, {"p1": (0.5, 0.2)}, PriorError, "leave nothing"),
        ({"p0": 0.0}, {"p0": (0.0, 0.1)}, PriorError, "both fixed and bounded"),
        ({"p0": 0.0, "p1": 0.0}, {}, PriorError, "leave one free"),
    ],
)
def test_conditions_that_cannot_be(fixed: dict, bounded: dict, error: type, text: str) -> None:
    with pytest.raises(error, match=text):
        Condition.of(banana().prior, fixed, bounded)
