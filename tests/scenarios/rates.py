"""Rate circuits for the shared scenario list: the shipped ones in small variants, and one micro-circuit a construct."""

from dataclasses import dataclass, field, replace

import numpy as np

from sbi_circuits.circuit import (
    AllToAll,
    Circuit,
    CurrentSteps,
    EdgeList,
    Explicit,
    FixedIndegree,
    Independent,
    OneToOne,
    Population,
    Projection,
    Readout,
    Stimulus,
    Wiring,
    get_circuit,
)
from sbi_circuits.prior import Parameter, Prior


@dataclass(frozen=True)
class RateCase:
    """A shipped rate circuit in a small variant.

    Args:
        constants: of the small variant.
        still: values that take its noise away.
        wrong: a value whose change every signal must show.
        duration: of a comparison, seconds.
    """

    constants: dict[str, str] = field(default_factory=dict)
    still: dict[str, float] = field(default_factory=dict)
    wrong: dict[str, float] = field(default_factory=dict)
    duration: float = 0.2


RATE_CIRCUITS = {
    "clustered_rate": RateCase({"N_clusters": "12"}, {}, {"s": 1.4}),
    "jansen_rit": RateCase({}, {"sigma": 0.0}, {"C": 130.0}, 0.05),
    "leg_rhythm": RateCase({}, {}, {"N_dn_e1": 155.0}, 0.4),
    "random_rate": RateCase({"N_units": "12"}, {}, {"g": 1.4}),
    "ssn": RateCase({}, {"sigma": 0.0}, {"W_IE": 1.25}, 0.1),
    "wilson_cowan": RateCase({}, {"sigma": 0.0}, {"c_ee": 16.5}, 0.1),
}


def small_rate(name: str) -> tuple[Circuit, np.ndarray]:
    """The small variant of a shipped rate circuit, and its default configuration."""
    circuit = get_circuit(name)
    circuit = replace(circuit, constants={**dict(circuit.constants), **RATE_CIRCUITS[name].constants})  # type: ignore[arg-type]
    return circuit, circuit.default_theta()


def changed(circuit: Circuit, values: dict[str, float]) -> np.ndarray:
    """The defaults with some values changed."""
    return np.array([{**dict(circuit.defaults), **values}[n] for n in circuit.prior.names])


PRIOR = Prior((Parameter("g", "1", 0, 5), Parameter("tau", "ms", 1, 50)))
LEAKY = "dx/dt = (-x + felt + stimulus)/tau : 1\nfelt : 1"
STEPS = (CurrentSteps("units", "stimulus", "1", ((0.01, "0.3"), (0.05, "0.1*g"), (0.07, "-0.2"))),)
DRIVEN = "dx/dt = (-x + felt + stimulus + course)/tau : 1\nfelt : 1"
FORMULAS = """
dx/dt = (-x + felt + stimulus + 0.1*formula)/tau : 1
formula = tanh(x)**2 + clip(3*x, 0, 1) + int(x > 0.2 and not (x > 1 or t < 20*ms)) + exprel(x) + abs(x - 0.1) + slow : 1
slow = sin(t/(7*ms))*clip(t/(50*ms), 0.2, 0.8) + exp(-t/(9*ms)) : 1
felt : 1
"""


def micro(name: str, wiring: Wiring, weight: str, summed: str, equations: str = LEAKY, method: str = "euler",
          delay: str = "0*ms", size: int = 10, stimuli: tuple[Stimulus, ...] = (),
          drawn: tuple[str, ...] = ()) -> Circuit:  # fmt: skip
    """One population that acts on itself by a summed coupling, under a stimulus in steps; `drawn` start at random."""
    initial = {name: "randn()" for name in ("x", *drawn)}
    return Circuit(
        name,
        PRIOR,
        (Population("units", "n", equations, initial=initial, method=method),),  # type: ignore[arg-type]
        (Projection("loop", "units", "units", wiring, weight, summed=summed, delay=delay),),
        (*STEPS, *stimuli),
        {"n": str(size)},  # type: ignore[arg-type]
        dt=1e-3,
        defaults={"g": 1.5, "tau": 10.0},  # type: ignore[arg-type]
        readouts=(
            Readout("x", "units", "x", "1"),
            Readout("mean", "units", "x**2 + felt + stimulus", "1", over="mean"),
            Readout("sum", "units", "tanh(x)*int(t > 10*ms)", "1", over="sum"),
        ),
    )


RING = Explicit(((0, 1), (1, 2), (2, 3), (3, 0), (0, 2), (1, 3)), symmetric=False)
# Rows of 2.5 time steps; for each unit another course, and in one of the circuits one for all.
COURSE = Stimulus("units", "course", "1", np.random.default_rng(5).normal(size=(60, 10)), 2.5e-3, "0.2*g")
COMMON = Stimulus("units", "course", "1", np.sin(np.arange(700) / 40), 2e-4, "g**2/tau*ms")
EDGES = EdgeList([0, 0, 1, 3, 4, 7, 7], [1, 2, 2, 5, 0, 8, 8], {"count": [3, 1, 2, 4, 1, 2, 5]})
RANDOM, TANH, ONE = "g*randn()/sqrt(n)", "felt_post = weight*tanh(x_pre)", "felt_post = g*tanh(x_pre)/n"
MICRO_RATES = {
    c.name: c
    for c in (
        micro("dense", AllToAll(), RANDOM, TANH),
        micro("low_rank", AllToAll(), "1", "felt_post = g*(tanh(x_pre)*cos(x_post) + 0.2*x_pre*x_post)/n"),
        micro("rank_two", AllToAll(), "1", "felt_post = g*(a_post*b_pre + 0.3*c_post*d_pre)*tanh(x_pre)/n",
              LEAKY + "".join(f"\n{name} : 1" for name in "abcd"), drawn=("a", "b", "c", "d")),
        micro("sparse", Independent("0.1"), RANDOM, TANH, size=30),
        micro("indegree", FixedIndegree("3"), "g/3", TANH),
        micro("one_to_one", OneToOne(), "0.5*g*rand()", TANH),
        micro("explicit", RING, "g", "felt_post = weight*(x_pre - x_post)"),
        micro("nonlinear_pair", Independent("0.5"), "0.3*g*rand()", "felt_post = weight*sin(x_pre - x_post)"),
        micro("delayed", AllToAll(), RANDOM, TANH, delay="4*ms"),
        micro("delayed_by_a_parameter", AllToAll(), "1", "felt_post = g*(tanh(x_pre) - 0.3*x_post)/n",
              delay="1*ms + 0.3*tau"),
        micro("edge_list", EDGES, "0.2*g*count", TANH),
        micro("stimulus", AllToAll(), RANDOM, TANH, DRIVEN, "rk4", stimuli=(COURSE,)),
        micro("stimulus_of_all", AllToAll(), "1", ONE, DRIVEN, stimuli=(COMMON,)),
        micro("formulas", AllToAll(), "1", ONE, FORMULAS),
        *(micro(f"method_{m}", AllToAll(), "1", ONE, method=m)
          for m in ("rk4", "exponential_euler", "heun", "trapezoid")),
    )
}  # fmt: skip
