"""The exact posteriors of the benchmark of subsets, against closed forms."""

import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import gamma, kstest, multivariate_normal, norm, poisson, truncnorm

from benchmarks.inference.drawing import row
from benchmarks.inference.long import Toy, log_evidence, oscillation, spectra
from benchmarks.inference.report import HEADING, write_results
from benchmarks.inference.subsets import exact_draws, gaussian_linear_uniform, gaussian_mixture, slcp
from sbi_circuits.prior import Parameter, Prior

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


def test_the_evidence_of_a_normal_likelihood_is_known() -> None:
    """z is a standard normal under the prior, x one more with sd .1: from draws far off, and within three per cent."""
    prior = Prior((Parameter("a", "1", 0.0, 1.0), Parameter("b", "1", 0.0, 1.0)))
    x = np.array([0.7, -0.4])

    def log_likelihood(theta: np.ndarray, x: np.ndarray) -> np.ndarray:
        return np.asarray(norm(x, 0.1).logpdf(prior.unconstrain(theta)).sum(1))

    toy = Toy(prior, ("x", "y"), lambda theta, random: theta, log_likelihood)
    start = x + 0.5 + 0.3 * np.random.default_rng(0).standard_normal((1000, 2))
    found, effective = log_evidence(toy, x, start, seed=0)
    assert effective > 300 and found == pytest.approx(norm(0.0, 1.01**0.5).logpdf(x).sum(), abs=0.03)


def test_likelihoods_of_the_toys_are_those_they_draw_from() -> None:
    """Differences between configurations, against the densities of scipy."""
    toy, random = spectra(30), np.random.default_rng(0)
    theta = toy.prior.sample(3, seed=0)
    x = toy.simulate(theta[:1], random)[0]
    clean = toy.simulate(theta, type("Exact", (), {"gamma": lambda self, k, s, n: np.ones(n)})())  # type: ignore[arg-type]
    exact = [gamma(9, scale=10**c / 9).logpdf(10**x).sum() for c in clean]
    assert np.diff(toy.log_likelihood(theta, x)) == pytest.approx(np.diff(exact), rel=1e-9)
    toy = oscillation()
    theta = toy.prior.sample(3, seed=1)
    x = toy.simulate(theta[:1], random)[0]
    t, phases = np.arange(500) * 0.01, np.linspace(0, 2 * np.pi, 400, endpoint=False)[:, None]
    rates = [a * 0.01 * (1 + b * np.sin(2 * np.pi * f * t + phases)) + 1e-9 for a, b, f in theta]
    exact = [logsumexp(poisson(rate).logpmf(x).sum(1)) - np.log(400) for rate in rates]
    assert toy.log_likelihood(theta, x) == pytest.approx(exact, rel=1e-3)


def test_two_checkouts_are_compared_pair_by_pair() -> None:
    """The second takes twice the time of the first whatever the load: the ratio of pairs sees it, medians need not."""
    load = [0.1, 0.4, 0.2]
    workers = [lambda job, seed, slow=slow: slow * load[seed] for slow in (1.0, 2.0)]
    found = row("28 normal | 10,000", workers, repeats=3)  # type: ignore[arg-type]
    assert found == ["28 normal", "10,000", "0.100", "0.200", "0.200", "0.400", "2.00"]
    alone = row("28 normal | 10,000", workers[:1], repeats=3)  # type: ignore[arg-type]
    assert alone == ["28 normal", "10,000", "0.100", "0.200", "", "", ""]
