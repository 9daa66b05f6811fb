"""Laws of the prior: a normalised density, a bijection, samples that only grow, text that comes back."""

from pathlib import Path

import numpy as np
import pytest
from scipy.integrate import dblquad
from scipy.stats import kstest

from sbi_circuits.circuit import get_circuit
from sbi_circuits.errors import PriorError, SbiCircuitsError, UnknownNameError
from sbi_circuits.prior import Parameter, Prior

MIXED = Prior((Parameter("g", "1", -2, 8), Parameter("tau", "ms", 0.5, 200, scale="log", label=r"$\tau$")))
PRIORS = {"mixed": MIXED, **{n: get_circuit(n).prior for n in ("adex_clustered", "brunel")}}
each_prior = pytest.mark.parametrize("prior", PRIORS.values(), ids=PRIORS)


def test_the_density_integrates_to_one() -> None:
    def density(tau: float, g: float) -> float:
        return float(np.exp(MIXED.log_prob(np.array([g, tau]))))

    total, _ = dblquad(density, -2, 8, 0.5, 200)
    assert total == pytest.approx(1, abs=1e-6)


@each_prior
def test_log_prob_is_minus_infinity_outside(prior: Prior) -> None:
    theta = prior.sample(20, seed=1)
    assert np.isfinite(prior.log_prob(theta)).all()
    for column, parameter in enumerate(prior.parameters):
        outside = theta.copy()
        outside[:, column] = parameter.high + 0.1 * (parameter.high - parameter.low)
        assert (prior.log_prob(outside) == -np.inf).all()
        assert not prior.contains(outside).any()
    assert np.isneginf(prior.log_prob(np.full(len(prior), np.nan)))


@each_prior
def test_samples_are_uniform_on_their_scale(prior: Prior) -> None:
    u = prior.to_unit(prior.sample(2000, seed=3))
    assert u.shape == (2000, len(prior)) and prior.contains(prior.from_unit(u)).all()
    assert min(kstest(column, "uniform").pvalue for column in u.T) > 1e-4


@each_prior
def test_a_larger_sample_begins_with_the_smaller_one(prior: Prior) -> None:
    whole = prior.sample(50, seed=5)
    assert np.array_equal(prior.sample(7, seed=5), whole[:7])
    assert np.array_equal(prior.sample(13, seed=5, start=20), whole[20:33])
    assert not np.array_equal(prior.sample(7, seed=6), whole[:7])
    assert prior.sample(0, seed=5).shape == (0, len(prior))


@each_prior
def test_the_bijection_inverts(prior: Prior) -> None:
    theta = prior.sample(200, seed=2)
    assert np.allclose(prior.constrain(prior.unconstrain(theta)), theta, rtol=1e-9, atol=1e-9)
    z = np.random.default_rng(0).standard_normal((200, len(prior)))
    assert np.allclose(prior.unconstrain(prior.constrain(z)), z, atol=1e-6)


@each_prior
def test_nothing_leaves_the_bounds(prior: Prior) -> None:
    z = np.array([-1e9, -40.0, 0.0, 40.0, 1e9])[:, None] * np.ones(len(prior))
    assert prior.contains(prior.constrain(z)).all()
    edges = np.array([[p.low for p in prior.parameters], [p.high for p in prior.parameters]])
    assert np.isfinite(prior.unconstrain(edges)).all()


def test_the_jacobian_is_the_derivative() -> None:
    z, step = np.random.default_rng(1).standard_normal((20, 2)), 1e-5
    slopes = [(MIXED.constrain(z + step * e) - MIXED.constrain(z - step * e)) / (2 * step) for e in np.eye(2)]
    expected = sum(np.log(slopes[k][:, k]) for k in range(2))
    assert np.allclose(MIXED.log_abs_det(z), expected, atol=1e-6)
    assert np.allclose(MIXED.log_prob(MIXED.constrain(z)) + MIXED.log_abs_det(z), MIXED.z_log_prob(z))


@each_prior
def test_toml_comes_back(prior: Prior, tmp_path: Path) -> None:
    assert Prior.from_toml(prior.to_toml()) == prior
    path = tmp_path / "prior.toml"
    path.write_text(prior.to_toml())
    assert Prior.from_toml(path).digest == prior.digest


def test_the_published_prior() -> None:
    """Bounds of Gao et al. 2024, from the reference's table."""
    prior = PRIORS["adex_clustered"]
    assert len(prior) == 28 and all(p.scale == "linear" for p in prior.parameters)
    bounds = {p.name: (p.low, p.high, p.unit) for p in prior.parameters}
    assert bounds["exc_prop"] == (0.7, 0.98, "1")
    assert bounds["tau_w"] == (5.0, 20000.0, "ms")
    assert bounds["Q_i2e"] == (1.0, 20.0, "nS")
    assert bounds["poisson_rate_e"] == (0.1, 5.0, "Hz")


def test_digests_see_the_density_and_not_the_labels() -> None:
    digest = Prior((Parameter("g", "1", 0, 1),)).digest
    assert Prior((Parameter("g", "1", 0, 1, label="$g$"),)).digest == digest
    assert Prior((Parameter("g", "1", 0, 2),)).digest != digest
    assert MIXED.digest == "3eb30745320d9d095d735a6dafeee0f8ac10ad492fc3fa1c4542268e2235f798"


def test_units_become_si_once() -> None:
    assert MIXED.to_si(np.array([3.0, 20.0])) == {"g": 3.0, "tau": pytest.approx(0.02)}


def test_validate_takes_arrays_and_mappings() -> None:
    assert MIXED.validate({"tau": 20, "g": 1}).tolist() == [1.0, 20.0]
    assert MIXED.validate([[1, 20], [2, 30]]).shape == (2, 2)
    assert MIXED["tau"].text == r"$\tau$ (ms)" and MIXED["g"].text == "g"


BAD = {
    "low >= high": (lambda: Parameter("g", "1", 2, 2), "parameter g: low 2 must be below high 2"),
    "not a number": (lambda: Parameter("g", "1", "x", 2), "parameter g: low 'x' is not a number"),
    "infinite": (lambda: Parameter("g", "1", 0, np.inf), "parameter g: high must be finite, got inf"),
    "name": (lambda: Parameter("g l", "1", 0, 1), "parameter name 'g l' is not an identifier"),
    "scale": (
        lambda: Parameter("g", "1", 1, 2, "sqrt"),
        "unknown scale of parameter g 'sqrt'; valid: linear, log",
    ),
    "log of zero": (
        lambda: Parameter("g", "1", 0, 2, "log"),
        "parameter g: a log scale needs low > 0, got 0",
    ),
    "unit": (
        lambda: Parameter("g", "nSi", 0, 2),
        "unknown unit 'nSi'; use Brian2 units such as 1, ms, mV, nS, pA, pF, Hz",
    ),
    "empty": (lambda: Prior(()), "a prior needs at least one parameter"),
    "twice": (lambda: Prior((Parameter("g", "1", 0, 1),) * 2), "parameters named twice: g"),
    "no parameter": (lambda: MIXED["h"], "unknown parameter 'h'; valid: g, tau"),
    "unknown value": (
        lambda: MIXED.validate({"g": 1, "tau": 2, "h": 3}),
        "unknown parameter 'h'; valid: g, tau",
    ),
    "missing value": (lambda: MIXED.validate({"g": 1}), "missing parameters: tau"),
    "width": (lambda: MIXED.validate([1, 2, 3]), "theta has shape (3,), expected (*, 2): g, tau"),
    "outside": (lambda: MIXED.validate([1, 300]), "tau = 300 ms is outside its prior [0.5, 200]"),
    "nan": (lambda: MIXED.validate([np.nan, 3]), "g = nan 1 is outside its prior [-2, 8]"),
    "negative draw": (
        lambda: MIXED.sample(-1, 0),
        "cannot draw -1 configurations from index 0; both must be >= 0",
    ),
    "no table": (lambda: Prior.from_toml("x = 1"), "cannot read the prior: 'parameter'"),
    "lacks": (
        lambda: MIXED.check_units({"g": "1", "tau": "second", "J": "mV"}),
        "the prior lacks the circuit's parameters: J",
    ),
    "unfit": (
        lambda: MIXED.check_units({"g": "1", "tau": "mV"}),
        "parameter tau: unit ms does not fit, expected mV",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_clear_line(case: str) -> None:
    build, message = BAD[case]
    with pytest.raises((PriorError, UnknownNameError)) as error:
        build()
    assert "\n" not in str(error.value)
    assert isinstance(error.value, SbiCircuitsError)
    assert str(error.value) == message
