"""The normals behind `xi`: their distribution, their independence, their addresses."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from sbi_circuits.engines.intrinsics import exp_single
from sbi_circuits.engines.kernel_functions import exprel_double, exprel_single
from sbi_circuits.engines.noise import NOISE_STREAM, log_single, normals_double, normals_single, row_length
from sbi_circuits.engines.philox import philox

KEYS = (np.uint64(123456789), np.uint64(987654321))
ALPHA = 1e-4  # error probability of each statistical check; the draws are fixed
FILL: dict[str, tuple[Callable[..., None], type]] = {
    "single": (normals_single, np.float32), "double": (normals_double, np.float64),
}  # fmt: skip
each_precision = pytest.mark.parametrize("precision", FILL)


def draws(precision: str, neurons: int, steps: int, number: int = 0, keys: tuple[np.uint64, np.uint64] = KEYS
          ) -> np.ndarray:
    """(steps, neurons) normals, as float64."""
    fill, real = FILL[precision]
    rows = np.zeros((steps, row_length(neurons)), dtype=real)
    for step, row in enumerate(rows):
        fill(row, neurons, number, step, *keys)
    return rows[:, :neurons].astype(float)


def distribution_p_values(x: np.ndarray) -> dict[str, float]:
    """p-values of mean, variance, kurtosis, the shape, and the share beyond 3.5 and 4.5 of standard normals."""
    x = x.ravel()
    n = x.size
    tails = {}
    for bound in (3.5, 4.5):
        expected = 2 * stats.norm.sf(bound)
        tails[f"beyond {bound}"] = stats.binomtest(int((abs(x) > bound).sum()), n, expected).pvalue
    return {
        "mean": 2 * stats.norm.sf(abs(x.mean()) * math.sqrt(n)),
        "variance": 2 * stats.norm.sf(abs(x.var() - 1) * math.sqrt(n / 2)),
        "fourth moment": 2 * stats.norm.sf(abs((x**4).mean() - 3) * math.sqrt(n / 96)),
        "shape": stats.kstest(x[:200_000], "norm").pvalue,
        **tails,
    }


@each_precision
def test_they_are_standard_normals(precision: str) -> None:
    p_values = distribution_p_values(draws(precision, 1001, 2000))
    assert min(p_values.values()) > ALPHA, p_values


def test_negative_controls_of_the_distribution() -> None:
    """One percent in the width, a shift of a hundredth, and tails cut at 4 are found out."""
    x = draws("double", 1001, 2000)
    assert distribution_p_values(1.01 * x)["variance"] < ALPHA
    assert distribution_p_values(x + 0.01)["mean"] < ALPHA
    assert distribution_p_values(np.clip(x, -4, 4))["beyond 4.5"] < ALPHA


def correlation_p_value(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * stats.norm.sf(abs((a * b).mean()) * math.sqrt(a.size)))


def pairs(x: np.ndarray, lanes: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Pairs of arrays that must be independent: neighbours, partners of one Box-Muller pair, lanes, steps."""
    return {
        "neighbours": (x[:, 1:], x[:, :-1]),
        "partners": (x[:, :lanes], x[:, lanes : 2 * lanes]),
        "lane": (x[:, :lanes], x[:, 2 * lanes : 3 * lanes]),
        "steps": (x[1:], x[:-1]),
    }


@each_precision
def test_neurons_steps_streams_and_keys_are_independent(precision: str) -> None:
    x, lanes = draws(precision, 1000, 1000), 250
    other = draws(precision, 1000, 1000, number=1)
    key = draws(precision, 1000, 1000, keys=(KEYS[0] + np.uint64(1), KEYS[1]))
    found = {**pairs(x, lanes), "stream": (x, other), "key": (x, key)}
    for name, (a, b) in found.items():
        # Of the values and of their sizes: partners of Box and Muller share their radius.
        sizes = [(v**2 - 1) / math.sqrt(2) for v in (a, b)]
        assert min(correlation_p_value(a, b), correlation_p_value(*sizes)) > ALPHA, name


def test_negative_control_a_correlation_of_a_hundredth() -> None:
    x = draws("double", 1000, 1000)
    mixed = 0.01 * x[:, 1:] + math.sqrt(1 - 1e-4) * x[:, :-1]
    assert correlation_p_value(mixed, x[:, 1:]) < ALPHA


@each_precision
@pytest.mark.parametrize("neurons", [1, 2, 5, 8, 1001])
def test_every_normal_has_its_address(precision: str, neurons: int) -> None:
    """Box and Muller by the book from the words at the documented counters."""
    step, number, lanes = 70_000, 3, -(-neurons // 4)
    fill, real = FILL[precision]
    row = np.full(row_length(neurons) + 5, 9.0, dtype=real)
    fill(row, neurons, number, step, *KEYS)
    assert (row[4 * lanes :] == 9).all()
    expected = np.zeros(4 * lanes)
    for lane in range(lanes):
        counter = (np.uint64(lane), np.uint64(step), np.uint64(NOISE_STREAM + number))
        words = [int(w) for w in philox(*counter, *KEYS)]
        for half in (0, 1):
            a, b = words[2 * half : 2 * half + 2]
            radius = math.sqrt(-2 * math.log((a + 0.5) / 2**32))
            # The lower 30 bits, signed, within the quadrant the upper two name.
            angle = math.pi / 2 * ((b >> 30) + ((b & (2**30 - 1)) / 2**30 + 0.5) % 1 - 0.5)
            expected[lane + 2 * half * lanes] = radius * math.cos(angle)
            expected[lane + (2 * half + 1) * lanes] = radius * math.sin(angle)
    assert row[: 4 * lanes] == pytest.approx(expected, abs=2e-6 if precision == "single" else 1e-12)


def test_single_precision_functions_are_accurate() -> None:
    """Relative errors over the whole range, and around the points where a formula would cancel."""
    x = np.concatenate([np.geomspace(1e-10, 1, 20_001), np.linspace(0.9, 1.1, 2001)]).astype(np.float32)
    found = np.array([log_single(v) for v in x], dtype=float)
    exact = np.log(x.astype(float))
    assert (abs(found - exact) <= 3e-7 * abs(exact) + 1e-12).all()
    x = np.concatenate([np.linspace(-20, 20, 4001), np.linspace(-1, 1, 2001), [0.0, 1e-8, -1e-8, 1e-30]])
    x = x.astype(np.float32)
    expected = np.array([math.expm1(v) / v if v else 1.0 for v in x.astype(float)])
    for function, bound in ((exprel_single, 6e-7), (exprel_double, 1e-15)):
        found = np.array([function(v) for v in (x if bound > 1e-10 else x.astype(float))], dtype=float)
        assert abs(found / expected - 1).max() < bound
    # The formula by itself loses everything near 0: the series is needed.
    near = np.float32(1e-6)
    assert abs((exp_single(near) - 1) / near - 1) > 1e-3
