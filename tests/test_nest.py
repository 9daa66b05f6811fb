"""The kernel and NEST 3.10 on the network of Brunel 2000: spike for spike where nothing is random, else rate and CV.

NEST's activity at full size (12,500 neurons, four seeds of each regime, some ten minutes) is kept in
`golden/nest_brunel.json`, which `python -m benchmarks.engines.nest_reference` made; so that comparison needs no NEST.

The statistical rule: in every regime and for both statistics, the pooled t-test between the seeds of NEST and those
of the kernel has a p-value above ALPHA divided by the number of comparisons. Where both simulators agree it fails with
probability at most ALPHA (Bonferroni); it must fail where the kernel's delay, J or g is off by a few per cent, and
where NEST's delay and threshold are given to the kernel as they are. All seeds are fixed.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from benchmarks.engines import nest_reference
from benchmarks.engines.nest_client import (
    MISSING,
    REGIMES,
    Activity,
    activity,
    as_in_nest,
    available,
    brunel_task,
    protocol,
    run_nest,
)
from sbi_circuits.circuit import Circuit, Explicit, Population, Projection, Record, get_circuit
from sbi_circuits.engines import Protocol
from sbi_circuits.engines.kernel_numba import NumbaEngine
from sbi_circuits.engines.setup import prepare
from sbi_circuits.prior import Parameter, Prior
from sbi_circuits.seeds import generator

ALPHA = 1e-3
LEVEL = ALPHA / (2 * len(REGIMES))
SMALL_J = 0.5  # mV; J C_E is the same in the small network as in the large one
CONTROLS = {  # factors of (g, eta, J, delay) that must not pass the rule at full size
    "asynchronous irregular": {"g + 3 %": (1.03, 1, 1, 1), "J + 5 %": (1, 1, 1.05, 1)},
    "slow oscillation": {"g + 6 %": (1.06, 1, 1, 1)},
    "fast oscillation": {"g + 3 %": (1.03, 1, 1, 1)},
    "synchronous regular": {"delay + 7 % (0.1 ms)": (1, 1, 1, 1.6 / 1.5)},
}


def needs_nest(test: Callable[..., None]) -> Callable[..., None]:
    """Marks a test that runs NEST."""
    marked: Callable[..., None] = pytest.mark.nest(pytest.mark.skipif(not available(), reason=MISSING)(test))
    return marked


def small() -> Circuit:
    """The network with a fifth of the neurons and of their inputs."""
    circuit = get_circuit("brunel")
    return dataclasses.replace(circuit, constants={**dict(circuit.constants), "N_E": "2000"})


def configuration(regime: str, J: float, g: float = 1.0, delay: float = 1.5) -> np.ndarray:
    """theta of a regime; g is multiplied by `g`."""
    return np.array([g * REGIMES[regime][0], REGIMES[regime][1], J, delay])


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is compared: a network, how many seeds of each simulator, and the times (seconds)."""

    circuit: Circuit
    nest_seeds: int
    kernel_seeds: int
    duration: float
    warmup: float

    def nest(self, theta: np.ndarray) -> list[Activity]:
        tasks = [brunel_task(self.circuit, theta, self.duration, self.warmup, 1 + k) for k in range(self.nest_seeds)]
        return [Activity(found["rate"], found["cv"]) for found in map(run_nest, tasks)]

    def kernel(self, theta: np.ndarray) -> list[Activity]:
        """The kernel at the delay and threshold that mean to it what `theta` means to NEST."""
        return self.kernel_as_it_is(*as_in_nest(self.circuit, theta))

    def kernel_as_it_is(self, circuit: Circuit, theta: np.ndarray) -> list[Activity]:
        engine, times = NumbaEngine(), protocol(self.duration, self.warmup)
        return [activity(engine.run(circuit, theta, times, 0, k)) for k in range(self.kernel_seeds)]


def p_values(a: list[Activity], b: list[Activity]) -> np.ndarray:
    """Pooled t-tests of rate and CV: (2,)."""
    one, other = (np.array([(x.rate, x.cv) for x in group]) for group in (a, b))
    p: np.ndarray = stats.ttest_ind(one, other, axis=0).pvalue
    return p


def line(activities: list[Activity]) -> str:
    rate, cv = ([getattr(a, name) for a in activities] for name in ("rate", "cv"))
    return f"{np.mean(rate):.2f} +- {np.std(rate, ddof=1):.2f} Hz, CV {np.mean(cv):.4f} +- {np.std(cv, ddof=1):.4f}"


def chain() -> Circuit:
    """Sixty neurons above threshold, coupled at random with two delays and both signs; nothing else is random."""
    draw = generator(11, "pairs")
    pairs = [(int(i), int(j)) for i, j in draw.integers(0, 60, size=(900, 2)) if i != j]
    pairs = sorted(set(pairs))
    excitatory = tuple(p for p in pairs if p[0] < 48)
    inhibitory = tuple(p for p in pairs if p[0] >= 48)
    cells = Population(
        name="cells", size="60", equations="dv/dt = (E - v)/tau : volt (unless refractory)", threshold="v > theta",
        reset="v = V_r", refractory="2*ms", initial={"v": "19*mV*rand()"}, method="exact",
    )  # fmt: skip
    return Circuit(
        name="chain",
        prior=Prior((Parameter("E", "mV", 15.0, 40.0),)),
        populations=(cells,),
        projections=(
            Projection("e", "cells", "cells", Explicit(excitatory), "0.31*mV", "v_post += weight", "1.5*ms"),
            Projection("i", "cells", "cells", Explicit(inhibitory), "-1.17*mV", "v_post += weight", "0.7*ms"),
        ),
        constants={"tau": "20*ms", "theta": "20*mV", "V_r": "10*mV"},  # type: ignore[arg-type]
        dt=1e-4,
    )


def chain_task(
    circuit: Circuit, theta: np.ndarray, times: Protocol, extra_steps: int, decays: int
) -> dict[str, object]:
    """NEST's task of `chain`, its delays longer by some steps and its threshold moved by some decays."""
    setup = prepare(circuit, theta, times, 0, 0)
    v = setup.values
    keep = np.exp(-setup.dt / v["tau"]) ** decays
    return {
        "network": "explicit", "seed": 1, "dt": 0.1, "warmup": 0.0, "duration": times.duration, "E_L": v["E"] * 1e3,
        "tau": 20.0, "V_reset": 10.0, "t_ref": 2.0, "V_th": (v["theta"] - (1 - keep) * v["E"]) / keep * 1e3,
        "V_m": (setup.cells[0].initial["v"] * 1e3).tolist(),
        "pairs": [[int(i), int(j)] for s in setup.synapses for i, j in zip(s.sources, s.targets, strict=True)],
        "weights": [1e3 * s.increments[0] for s in setup.synapses for _ in s.targets],
        "delays": [0.1 * (d + extra_steps) for s in setup.synapses for d in s.synapse_delays.tolist()],
    }  # fmt: skip


def raster(found: dict[str, list[float]]) -> set[tuple[int, int]]:
    return {(int(cell), int(np.rint(time / 0.1))) for cell, time in zip(found["cells"], found["times"], strict=True)}


@needs_nest
def test_spikes_equal_nest_spike_for_spike() -> None:
    """With one step more delay and the threshold one decay later; not with the values as they are."""
    circuit, theta, times = chain(), np.array([24.0]), Protocol(1.0, record=Record(spikes=-1))
    recording = NumbaEngine("double").run(circuit, theta, times, 0, 0).recording
    assert recording is not None
    cells = np.repeat(np.arange(60), np.diff(recording.offsets))
    steps = np.rint(recording.times / circuit.dt).astype(int)
    own = set(zip(cells.tolist(), steps.tolist(), strict=True))
    assert len(own) > 500
    same = raster(run_nest(chain_task(circuit, theta, times, extra_steps=1, decays=1)))
    assert own == {spike for spike in same if spike[1] < 10_000}
    for extra, decays in ((0, 0), (0, 1), (1, 0)):
        other = raster(run_nest(chain_task(circuit, theta, times, extra, decays)))
        assert len(own ^ other) > 100, (extra, decays)


def test_negative_control_the_rule_sees_a_shift_of_five_deviations() -> None:
    """And its p-values are those of chance where nothing differs (2000 pairs, bounds of 4.5 standard errors)."""
    draw = generator(12, "rule")
    one, other = ([Activity(*row) for row in draw.standard_normal((6, 2))] for _ in range(2))
    shifted = [Activity(a.rate + 5.0, a.cv) for a in other]
    assert p_values(one, other).min() > LEVEL > p_values(one, shifted)[0]
    null = stats.ttest_ind(draw.standard_normal((4, 2000)), draw.standard_normal((6, 2000)), axis=0).pvalue
    assert np.mean(null < 0.05) == pytest.approx(0.05, abs=4.5 * np.sqrt(0.05 * 0.95 / 2000))


@needs_nest
@pytest.mark.slow
def test_small_network_agrees_in_all_four_regimes() -> None:
    """2500 neurons, the rule over eight comparisons; delays 0.1 ms longer, J 10 % or g 5 % larger must not pass it."""
    plan = Plan(small(), nest_seeds=8, kernel_seeds=16, duration=0.5, warmup=0.1)
    p = []
    for regime in REGIMES:
        theta = configuration(regime, SMALL_J)
        nest, kernel = plan.nest(theta), plan.kernel(theta)
        p.append(p_values(nest, kernel))
        print(f"{regime}: NEST {line(nest)}; kernel {line(kernel)}; p {p[-1]}")
    assert np.min(p) > LEVEL
    controls = {
        "as it is": plan.kernel_as_it_is(plan.circuit, theta),
        "delay 1.6 ms": plan.kernel(configuration(regime, SMALL_J, delay=1.6)),
        "J + 10 %": plan.kernel(configuration(regime, 1.1 * SMALL_J)),
        "g + 5 %": plan.kernel(configuration(regime, SMALL_J, g=1.05)),
    }
    for name, control in controls.items():
        print(f"{regime}, {name}: {line(control)}; p {p_values(nest, control)}")
        assert p_values(nest, control).min() < LEVEL, name


@pytest.mark.slow
@pytest.mark.parametrize("regime", list(REGIMES))
def test_full_network_agrees_with_nest(regime: str) -> None:
    """12,500 neurons: the rule over the eight comparisons of the four regimes, and its controls."""
    nest, theta = nest_reference.activities(regime), nest_reference.theta(regime)
    assert len(nest) >= 4
    duration, warmup = nest_reference.times(regime)
    plan = Plan(get_circuit("brunel"), len(nest), 6, duration, warmup)
    kernel = plan.kernel(theta)
    print(f"{regime}: NEST {line(nest)}; kernel {line(kernel)}; p {p_values(nest, kernel)}")
    assert p_values(nest, kernel).min() > LEVEL
    wrong = {name: plan.kernel(theta * factors) for name, factors in CONTROLS[regime].items()}
    if regime == "synchronous regular":
        wrong["as it is"] = plan.kernel_as_it_is(plan.circuit, theta)
    for name, control in wrong.items():
        print(f"{regime}, {name}: {line(control)}; p {p_values(nest, control)}")
        assert p_values(nest, control).min() < LEVEL, name


@needs_nest
@pytest.mark.slow
def test_nest_still_gives_the_kept_activity() -> None:
    """Same version and seed, same numbers: the kept file is what NEST computes."""
    found = nest_reference.simulate("asynchronous irregular", 1)
    kept = nest_reference.activities("asynchronous irregular")[0]
    assert found["version"] == nest_reference.read()["version"]
    assert (found["rate"], found["cv"]) == pytest.approx((kept.rate, kept.cv), rel=1e-9)
