"""Calibration passes an exact posterior and fails one that is too narrow, too wide or shifted."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from sbi_circuits.calibration import coverage, coverage_of_ranks, rank_statistics, sbc_uniformity
from sbi_circuits.errors import InferenceError
from sbi_circuits.seeds import generator

ROWS, DRAWS, NOISE = 400, 200, 0.5


@dataclass(frozen=True)
class Gaussian:
    """N(mean, sd^2) for each of two parameters."""

    mean: np.ndarray
    sd: float

    def sample(self, n: int, seed: int) -> np.ndarray:
        return self.mean + self.sd * generator(seed, "gaussian").standard_normal((n, 2))


def gaussian_posterior(width: float = 1.0, shift: float = 0.0) -> Callable[..., Gaussian]:
    """Posterior of theta ~ N(0, 1) given x = theta + N(0, NOISE^2), with a wrong width and a shift in sd."""
    sd = np.sqrt(NOISE**2 / (1 + NOISE**2))
    return lambda x: Gaussian(x[0] / (1 + NOISE**2) + shift * sd, width * sd)


@pytest.fixture(scope="module")
def simulations() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = generator(0, "simulations")
    theta = random.standard_normal((ROWS, 2))
    return theta, theta + NOISE * random.standard_normal((ROWS, 2)), np.zeros((ROWS, 2), dtype=np.uint8)


Simulations = tuple[np.ndarray, np.ndarray, np.ndarray]


def test_exact_posterior_passes(simulations: Simulations) -> None:
    found = coverage(gaussian_posterior(), *simulations, draws=DRAWS, seed=1)
    ranks = rank_statistics(gaussian_posterior(), *simulations, draws=DRAWS, seed=1)
    assert found.agrees()
    assert np.allclose(found.parameters, found.levels[:, None], atol=3 * found.parameters_error.max())
    assert (sbc_uniformity(ranks, DRAWS) > 0.01).all()


@pytest.mark.parametrize(("width", "shift"), [(0.7, 0.0), (1.4, 0.0), (1.0, 0.5), (1.0, -0.5), (1.0, 1.0)])
def test_negative_control_distorted_posterior(simulations: Simulations, width: float, shift: float) -> None:
    """Ranks see every fault; coverage sees a wrong width and a shift of one sd, smaller shifts hardly."""
    ranks = rank_statistics(gaussian_posterior(width, shift), *simulations, draws=DRAWS, seed=1)
    assert (sbc_uniformity(ranks, DRAWS) < 0.01).all()
    if width != 1.0 or shift == 1.0:
        assert not coverage_of_ranks(ranks, DRAWS).agrees()


def test_coverage_says_which_way_it_is_wrong(simulations: Simulations) -> None:
    narrow = coverage(gaussian_posterior(0.6), *simulations, draws=DRAWS)
    wide = coverage(gaussian_posterior(1.8), *simulations, draws=DRAWS)
    assert (narrow.overall < narrow.levels).all() and (wide.overall > wide.levels).all()
    assert narrow.summary().startswith("50 % intervals hold ")


def test_p_values_of_exact_ranks_are_uniform() -> None:
    """Few draws make ties; the jitter keeps the test exact all the same."""
    ranks = generator(3, "exact").integers(0, 6, size=(200, 400))
    p = sbc_uniformity(ranks, draws=5)
    assert abs((p < 0.1).mean() - 0.1) < 0.05 and abs(p.mean() - 0.5) < 0.05


def test_ranks_reach_from_none_to_all() -> None:
    theta = np.array([[-9.0, 9.0]])
    nothing = np.zeros((1, 2))
    ranks = rank_statistics(lambda x: Gaussian(np.zeros(2), 1.0), theta, nothing, nothing, draws=20)
    assert ranks.tolist() == [[0, 20]]


def test_row_draws_do_not_depend_on_other_rows(simulations: Simulations) -> None:
    theta, values, states = (part[:5] for part in simulations)
    some = rank_statistics(gaussian_posterior(), theta[:3], values[:3], states[:3], draws=50)
    assert (rank_statistics(gaussian_posterior(), theta, values, states, draws=50)[:3] == some).all()


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_levels_lie_between_zero_and_one(level: float) -> None:
    with pytest.raises(InferenceError, match="levels must lie between 0 and 1"):
        coverage_of_ranks(np.zeros((3, 2), dtype=int), 10, (level,))


def test_rows_must_match(simulations: Simulations) -> None:
    theta, values, states = simulations
    with pytest.raises(InferenceError, match="calibration needs matching rows"):
        coverage(gaussian_posterior(), theta[:5], values, states)
