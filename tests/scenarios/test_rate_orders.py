"""The measured order of convergence of every method on every engine of rate circuits.

Without noise the error of the final state; with noise the strong error, against exact solutions along the path that the
engine itself took, which the addresses of its random numbers give. Run on kernel[cuda] as `test_rates.py` is.
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import replace

import numpy as np
import pytest

from sbi_circuits.circuit import Circuit, Population, Readout, Record
from sbi_circuits.engines import Engine, Protocol
from sbi_circuits.engines.brian2_engine import Brian2Engine
from sbi_circuits.engines.noise import normals_double, row_length
from sbi_circuits.engines.setup import prepare
from sbi_circuits.errors import TranslationError
from sbi_circuits.prior import Parameter, Prior
from tests.scenarios.test_rates import EXACT, SHORTER, each_engine

TAU, END = 0.032, 0.032
PRIOR = Prior((Parameter("tau", "ms", 1, 100),))
REFERENCE: dict[str, Callable[[], Engine]] = {"brian2": lambda: Brian2Engine("numpy")}
WITH_BRIAN2 = (EXACT | REFERENCE) if "kernel[cuda]" not in EXACT else EXACT
# Each variable is linear in itself, as exponential_euler wants it, and time appears.
SMOOTH = """
dx/dt = (-x + tanh(2*y) + 0.5*cos(t/(8*ms)))/tau : 1
dy/dt = (-2*y + 1/(1 + x**2))/tau : 1
"""
ADDITIVE = "dx/dt = -x/tau + 0.7*xi*tau**-0.5 : 1"
MULTIPLIED = "dx/dt = -x/tau + 0.7*x*xi*tau**-0.5 : 1"
ORDERS = {"euler": 1, "exponential_euler": 1, "heun": 1, "milstein": 1, "trapezoid": 2, "rk4": 4}
# Units of a population whose mean error is taken, and steps to the end.
UNITS = 2000 if SHORTER == 1.0 else 200
STEPS = (8, 16, 32)


def circuit_of(equations: str, method: str, size: int = 1) -> Circuit:
    """Uncoupled units that start at 1."""
    start = {line.split("/")[0].strip()[1:]: "1" for line in equations.strip().splitlines()}
    units = Population("units", str(size), equations, initial=start, method=method)  # type: ignore[arg-type]
    return Circuit(f"order_{method}", PRIOR, (units,), dt=1e-3, defaults={"tau": 1e3 * TAU},  # type: ignore[arg-type]
                   readouts=(Readout("x", "units", "x", "1"),))  # fmt: skip


def protocol_of(steps: int) -> Protocol:
    """A run with so many steps to `END`, which is the last sample."""
    record = Record(counts=False, signals=("x",), signal_rate=8 / END)
    return Protocol(END * 9 / 8, record=record, dt=END / steps)


def final(engine: Engine, circuit: Circuit, steps: int, index: int = 0) -> np.ndarray:
    """(units,) x at `END`."""
    simulation = engine.run(circuit, circuit.default_theta(), protocol_of(steps), 11, index)
    assert simulation.recording is not None, simulation.outcome
    values = simulation.recording.signals["x"].values
    assert values.shape[1] == 9
    return np.asarray(values[:, 8], dtype=float)


def increments(circuit: Circuit, steps: int, index: int = 0) -> np.ndarray:
    """(steps, units) of the Wiener process that a simulation is driven by."""
    setup = prepare(circuit, circuit.default_theta(), protocol_of(steps), 11, index)
    size = setup.cells[0].size
    rows, keys = np.zeros((steps, row_length(size))), [np.uint64(k) for k in setup.keys]
    for step, row in enumerate(rows):
        normals_double(row, size, 0, step, *keys)
    return rows[:, :size] * np.sqrt(END / steps)


def exact_additive(dW: np.ndarray) -> np.ndarray:
    """The Ornstein-Uhlenbeck process at `END`, given the increments of its path.

    In a step, the integral of exp(-(t' - s)/tau) dW_s is normal given the increment, with a mean and variance that
    are known; the rest is drawn.
    """
    h, draw = END / len(dW), np.random.default_rng(0)
    decay = np.exp(-h / TAU)
    slope = TAU * (1 - decay) / h
    left = np.sqrt(TAU / 2 * (1 - decay**2) - slope**2 * h)
    x = np.ones(dW.shape[1])
    for row in dW:
        x = decay * x + 0.7 * TAU**-0.5 * (slope * row + left * draw.standard_normal(len(row)))
    return x


def exact_multiplied(dW: np.ndarray) -> np.ndarray:
    """Stratonovich's solution at `END`."""
    return np.asarray(np.exp(-END / TAU + 0.7 * TAU**-0.5 * dW.sum(axis=0)))


def measured_order(errors: list[float]) -> float:
    """Slope of log error over log step."""
    return float(-np.polyfit(np.log2(STEPS), np.log2(errors), 1)[0])


def strong_errors(engine: Engine, circuit: Circuit, exact: Callable[[np.ndarray], np.ndarray], of: int = 0
                  ) -> list[float]:  # fmt: skip
    """Root mean square error along the path, for each number of steps; `of` another simulation's path for a control."""
    pairs = [(final(engine, circuit, n), exact(increments(circuit, n, of))) for n in STEPS]
    return [float(np.sqrt(np.mean((found - expected) ** 2))) for found, expected in pairs]


def cases(engines: Iterable[str], methods: Iterable[str], quick: Collection[str]) -> list[object]:
    """Every engine and method; what kernels must be compiled for, or be simulated, is slow for all but some."""
    pairs = [(e, m) for e in sorted(engines) for m in methods]
    slow = [p for p in pairs if p[0].startswith("kernel") and p[1] not in quick]
    return [pytest.param(*p, marks=pytest.mark.slow) if p in slow else p for p in pairs]


@pytest.mark.parametrize(("engine", "method"), cases(WITH_BRIAN2, ORDERS, ("trapezoid", "rk4")))
def test_measured_order_without_noise(engine: str, method: str) -> None:
    made, circuit = WITH_BRIAN2[engine](), circuit_of(SMOOTH, method)
    x = [float(final(made, circuit, n)[0]) for n in (32, 64, 128)]
    assert np.log2((x[0] - x[1]) / (x[1] - x[2])) == pytest.approx(ORDERS[method], abs=0.2)


@pytest.mark.parametrize("engine", sorted(WITH_BRIAN2))
def test_exact_integration_has_no_error(engine: str) -> None:
    circuit = circuit_of("dx/dt = (3 - x)/tau : 1", "exact")
    assert final(WITH_BRIAN2[engine](), circuit, 8)[0] == pytest.approx(3 - 2 * np.exp(-END / TAU), rel=1e-12)


@pytest.mark.parametrize(("engine", "method"), cases(EXACT, ("euler", "heun", "milstein", "trapezoid"), ("euler",)))
def test_measured_strong_order_with_additive_noise(engine: str, method: str) -> None:
    """Order 1 for all: what an increment leaves open of a path within a step is of that size."""
    made, circuit = EXACT[engine](), circuit_of(ADDITIVE, method, UNITS)
    errors = strong_errors(made, circuit, exact_additive)
    assert measured_order(errors) == pytest.approx(1, abs=0.15) and errors[-1] < 0.05
    # The control: the path of another simulation.
    assert abs(measured_order(strong_errors(made, circuit, exact_additive, of=1))) < 0.15


STRONG = {"heun": 1.0, "milstein": 0.5, "trapezoid": 1.0}


@pytest.mark.parametrize(("engine", "method"), cases(EXACT, STRONG, ("trapezoid",)))
def test_measured_strong_order_with_multiplied_noise(engine: str, method: str) -> None:
    """In Stratonovich's sense; in Ito's sense the error stays.

    Brian2's milstein takes the slope of the noise at a point that the drift has moved, which costs half an order.
    """
    made, circuit = EXACT[engine](), circuit_of(MULTIPLIED, method, UNITS)
    errors = strong_errors(made, circuit, exact_multiplied)
    assert measured_order(errors) == pytest.approx(STRONG[method], abs=0.2) and errors[-1] < 0.1

    def ito(dW: np.ndarray) -> np.ndarray:
        return exact_multiplied(dW) * np.exp(-(0.7**2) / 2 * END / TAU)

    assert measured_order(strong_errors(made, circuit, ito)) < 0.5


@pytest.mark.parametrize(("engine", "method"), cases(EXACT, ("milstein",), ()))
def test_milstein_without_drift_has_order_one(engine: str, method: str) -> None:
    circuit = circuit_of(MULTIPLIED.replace("-x/tau + ", ""), method, UNITS)
    errors = strong_errors(EXACT[engine](), circuit, lambda dW: exact_multiplied(dW) * np.exp(END / TAU))
    assert measured_order(errors) == pytest.approx(1, abs=0.2)


@each_engine
def test_euler_refuses_multiplied_noise(engine: str) -> None:
    circuit = replace(circuit_of(MULTIPLIED, "euler"), name="multiplied")
    with pytest.raises(TranslationError, match="multiplicative noise"):
        final(EXACT[engine](), circuit, 8)
