"""The exact posteriors of the benchmark of subsets, against closed forms."""

import numpy as np
import pytest
from scipy.stats import kstest, multivariate_normal, norm, truncnorm

from benchmarks.inference.report import HEADING, write_results
from benchmarks.inference.subsets import exact_draws, gaussian_linear_uniform, gaussian_mixture, slcp

LOW, HIGH = np.full(3, -1.0), np.full(3, 1.0)


def test_draws_of_a_normal_posterior_cut_off_by_the_prior() -> None:
    """Two features of three: two parameters are truncated normals, the third keeps its prior."""
    x = np.array([0.9, -0.2])
    theta = exact_draws(gaussian_linear_uniform, x, LOW, HIGH, n=3000)
    assert (np.abs(theta) <= 1.0).all()
    for i, centre in enumerate(x):
        edges = (LOW[i] - centre) / 0.1**0.5, (HIGH[i] - centre) / 0.1**0.5
        assert kstest(theta[:, i], truncnorm(*edges, loc=centre, scale=0.1**0.5).cdf).pvalue > 0.001
        assert kstest(theta[:, i], truncnorm(*edges, loc=centre, scale=0.4).cdf).pvalue < 0.001  # negative control
    assert kstest(theta[:, 2], "uniform", args=(-1.0, 2.0)).pvalue > 0.001


def test_draws_reach_every_mode() -> None:
    """slcp knows its scales only up to sign: four modes of equal weight."""
    low, high = np.full(5, -3.0), np.full(5, 3.0)
    theta = exact_draws(slcp, np.array([0.5, 0.0, -0.5, 0.4]), low, high, n=3000)
    signs = 2 * (theta[:, 2] > 0) + (theta[:, 3] > 0)
    assert np.bincount(signs, minlength=4) / 3000 == pytest.approx(np.full(4, 0.25), abs=0.04)


def test_likelihoods_of_a_part_of_the_features() -> None:
    """Differences of log likelihoods are those of the densities the tasks are defined by."""
    random = np.random.default_rng(0)
    theta, x = random.uniform(-3, 3, (4, 5)), random.standard_normal(4)

    def points(t: np.ndarray) -> float:
        a, b, c = t[2] ** 4, t[3] ** 4, np.tanh(t[4]) * t[2] ** 2 * t[3] ** 2
        cov = [[a + 1e-6, c], [c, b + 1e-6]]
        return float(sum(multivariate_normal(t[:2], cov).logpdf(point) for point in x.reshape(2, 2)))

    def mixture(t: np.ndarray) -> float:
        return float(np.log(0.5 * norm(t[0], 1.0).pdf(x[0]) + 0.5 * norm(t[0], 0.1).pdf(x[0])))

    assert np.diff(slcp(theta, x)) == pytest.approx(np.diff([points(t) for t in theta]), rel=1e-9)
    assert np.diff(gaussian_mixture(theta, x[:1])) == pytest.approx(np.diff([mixture(t) for t in theta]), rel=1e-9)


def test_a_part_of_the_results_is_replaced_and_the_rest_stays(tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "RESULTS.md"
    path.write_text(f"# Measured\n\n{HEADING}\nold\n\n### One\nkept\n\n## Other\nkept too\n")
    monkeypatch.setattr("benchmarks.inference.report.RESULTS", path)
    write_results("new")
    write_results("first", "### Two")
    write_results("second", "### Two")
    expected = f"# Measured\n\n{HEADING}\nnew\n\n### One\nkept\n\n### Two\nsecond\n\n## Other\nkept too\n"
    assert path.read_text() == expected
