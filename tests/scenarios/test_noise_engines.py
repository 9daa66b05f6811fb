"""The noise `xi` on every engine: known distributions, Brian2's spikes in distribution, the order of Euler-Maruyama."""

import dataclasses

import numpy as np
import pytest
from scipy import stats

from sbi_circuits.circuit import Circuit, Population, Record
from sbi_circuits.engines import Engine, Protocol
from sbi_circuits.errors import TranslationError
from sbi_circuits.prior import Parameter, Prior
from tests.scenarios.engines import COMPILED, EXACT, FAST, REFERENCE
from tests.scenarios.test_distributions import mean_cv, swap_p_value

ALPHA = 1e-4  # error probability of each comparison with a known distribution; seeds are fixed
each_fast_engine = pytest.mark.parametrize("name", sorted(FAST))

# Each cell reports once, after `end`, whether its v is above a level; levels are spread over the population.
WIENER = """
dv/dt = -v/tau + sigma*(2/tau)**0.5*xi : 1
level : 1
"""
PRIOR = Prior((Parameter("tau", "ms", 1, 100),))


def gauge(sigma: str = "1", method: str = "euler", equations: str = WIENER, size: int = 40_000) -> Circuit:
    """Ornstein-Uhlenbeck cells, stationary variance sigma**2, whose spikes sample the distribution of v at 100 ms."""
    cells = Population(
        "cell", str(size), equations, threshold="t > end and v > level", reset="v = v", refractory="1*second",
        initial={"level": "4*(i + 0.5)/N - 2"}, method=method,  # type: ignore[arg-type]
    )  # fmt: skip
    constants = {"sigma": sigma, "end": "99.9*ms"}
    return Circuit(f"gauge_{method}", PRIOR, (cells,), constants=constants, dt=5e-3, defaults={"tau": 20.0})  # type: ignore[arg-type]


def above(engine: Engine, circuit: Circuit, dt: float, seed: int = 3) -> np.ndarray:
    """Whether each cell is above its level at the end: (N,)."""
    # One step past `end`: cells report in the step at 100 ms.
    protocol = Protocol(0.1 + dt, record=Record(counts=False, moments=True), dt=dt)
    simulation = engine.run(circuit, circuit.default_theta(), protocol, seed, 0)
    assert simulation.recording is not None
    return simulation.recording.moments["cell"].spikes > 0


def deviation(found: np.ndarray, sd: float) -> float:
    """Standardised number of cells above their level, if v is normal with mean 0 and this standard deviation."""
    levels = 4 * (np.arange(len(found)) + 0.5) / len(found) - 2
    weight = np.sign(levels)  # a wrong width shows on either side of 0 with opposite signs
    p = stats.norm.sf(levels / sd)
    return float((weight * (found - p)).sum() / np.sqrt((p * (1 - p)).sum()))


def discrete_sd(dt: float, tau: float = 0.02) -> float:
    """Stationary standard deviation of the Euler-Maruyama chain; 1 in continuous time."""
    return float(np.sqrt(1 / (1 - dt / (2 * tau))))


@each_fast_engine
def test_an_ornstein_uhlenbeck_process_has_the_width_of_its_chain(name: str) -> None:
    bound, dt = stats.norm.isf(ALPHA / 2), 0.005
    found = above(FAST[name](), gauge(), dt)
    assert abs(deviation(found, discrete_sd(dt))) < bound
    # Negative controls: the width of continuous time, and noise eight percent too strong.
    assert abs(deviation(found, 1.0)) > bound
    assert abs(deviation(above(FAST[name](), gauge("1.08"), dt), discrete_sd(dt))) > bound


@each_fast_engine
def test_two_variables_share_a_noise_and_two_noises_are_independent(name: str) -> None:
    """v - u of two variables with one noise is 0; with two noises it has twice the variance."""
    bound, dt = stats.norm.isf(ALPHA / 2), 0.005
    pair = (WIENER.replace("-v/tau + sigma*(2/tau)**0.5*xi", "-v/tau + sigma*(1/tau)**0.5*(xi_1 - xi_2)"),
            WIENER.replace("xi :", "(xi - xi) :"))  # fmt: skip
    independent, shared = (above(FAST[name](), gauge(equations=e), dt) for e in pair)
    assert abs(deviation(independent, discrete_sd(dt))) < bound
    assert np.array_equal(shared, np.arange(len(shared)) < len(shared) // 2)


@each_fast_engine
@pytest.mark.parametrize("method", ["heun", "milstein"])
def test_multiplied_noise_is_stratonovichs(name: str, method: str) -> None:
    """dy = c y dW: ln y has mean 0; in Ito's sense it would be -c**2 T/2, and fewer cells above 1."""
    cells = Population(
        "cell", "20000", "dy/dt = c*y*xi : 1", threshold="t > end and y > 1", reset="y = y", refractory="1*second",
        initial={"y": "1"}, method=method,  # type: ignore[arg-type]
    )  # fmt: skip
    constants = {"c": "2*second**-0.5", "end": "99.9*ms"}
    circuit = Circuit(f"growth_{method}", PRIOR, (cells,), constants=constants, dt=1e-3, defaults={"tau": 20.0})  # type: ignore[arg-type]
    share = above(FAST[name](), circuit, 1e-3).mean()
    # 5 standard errors, and what a step of 1 ms costs.
    assert share == pytest.approx(0.5, abs=5 * 0.5 / np.sqrt(20_000) + 0.01)
    assert stats.norm.sf(0.5 * 2 * np.sqrt(0.1)) < 0.5 - 0.1


@each_fast_engine
def test_euler_refuses_multiplied_noise(name: str) -> None:
    with pytest.raises(TranslationError, match="multiplicative noise"):
        above(FAST[name](), gauge(equations=WIENER.replace("sigma*", "sigma*v*")), 5e-3)


@each_fast_engine
def test_measured_weak_order_of_euler_maruyama(name: str) -> None:
    """The error of the stationary width halves with the step: order 1."""
    circuit = gauge(size=400_000)
    level = dataclasses.replace(circuit.populations[0], initial={"level": "1"})  # type: ignore[arg-type]
    circuit = dataclasses.replace(circuit, populations=(level,))
    steps = (1e-2, 5e-3, 2.5e-3)
    widths = np.array([1 / stats.norm.isf(above(EXACT[name](), circuit, dt).mean()) for dt in steps])
    # Each width has a standard error of 0.003; by the chain's own variance the differences are 0.086 and 0.036.
    assert widths == pytest.approx([discrete_sd(dt) for dt in steps], abs=5 * 0.003)
    assert np.log2((widths[0] - widths[1]) / (widths[1] - widths[2])) == pytest.approx(1.24, abs=0.5)


def noisy_lif(sigma: float) -> Circuit:
    """LIF cells that fire by noise alone."""
    equations = f"dv/dt = (14*mV - v)/tau + {sigma}*mV*(2/tau)**0.5*xi : volt (unless refractory)"
    cells = Population("exc", "60", equations, "v > 20*mV", "v = 10*mV", "2*ms", initial={"v": "20*mV*rand()"})  # type: ignore[arg-type]
    return Circuit("noisy_lif", PRIOR, (cells,), dt=2e-4, defaults={"tau": 20.0})  # type: ignore[arg-type]


def statistics(engine: Engine, circuit: Circuit, networks: int = 12) -> np.ndarray:
    """Log rate and mean CV of each network: (1, networks, 2)."""
    protocol = Protocol(1.0, record=Record(moments=True))
    rows = []
    for index in range(networks):
        recording = engine.run(circuit, circuit.default_theta(), protocol, 5, index).recording
        assert recording is not None
        rows.append([np.log(recording.counts["exc"].values.sum()), mean_cv(recording.moments["exc"])])
    return np.array(rows)[None]


@pytest.mark.parametrize("name", [n for n in COMPILED if n in FAST])
def test_noisy_cells_fire_as_in_brian2(name: str) -> None:
    """A permutation test over 12 networks of 60 cells; noise ten percent too strong must fail it."""
    expected = statistics(FAST[REFERENCE](), noisy_lif(5))
    found, wrong = (statistics(FAST[name](), noisy_lif(sigma)) for sigma in (5, 5.5))
    assert swap_p_value(found, expected) > 1e-3 >= swap_p_value(wrong, expected)
