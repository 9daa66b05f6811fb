"""Deterministic micro-circuits: no noise, a few neurons, one construct each; engines agree on every spike."""

from sbi_circuits.circuit import (
    AllToAll,
    Circuit,
    CurrentSteps,
    EarlyStop,
    Explicit,
    FixedTotal,
    Independent,
    OneToOne,
    PoissonInput,
    Population,
    Projection,
)
from sbi_circuits.prior import Parameter, Prior

LIF = "dv/dt = (R*I_inj - v)/tau : volt (unless refractory)"
LIF_CONSTANTS = {"R": "100*Mohm", "tau": "20*ms", "v_th": "20*mV"}
TAU = Parameter("tau", "ms", 5, 50)
DRIVE = Parameter("drive", "pA", 0, 1000)


def _lif(name: str, size: str = "1", **extra: object) -> Population:
    settings: dict[str, object] = {
        "equations": LIF, "threshold": "v > v_th", "reset": "v = 0*mV", "refractory": "3*ms",
    }  # fmt: skip
    return Population(name=name, size=size, **{**settings, **extra})  # type: ignore[arg-type]


def _drive(target: str, *steps: tuple[float, str]) -> CurrentSteps:
    return CurrentSteps(target, "I_inj", "pA", steps or ((0.0, "drive"),))


def two_lif() -> Circuit:
    """Two LIF neurons; the driven one kicks the other through a delta synapse with a delay."""
    return Circuit(
        name="two_lif",
        prior=Prior((DRIVE, Parameter("delay", "ms", 0, 5))),
        populations=(_lif("first"), _lif("second")),
        projections=(
            Projection("kick", "first", "second", Explicit(((0, 0),)), "8*mV", "v_post += weight", "delay"),
            Projection("back", "second", "first", OneToOne(), "-3*mV", "v_post += weight", "2*delay"),
        ),
        inputs=(_drive("first", (0.01, "drive"), (0.3, "0.8*drive")), _drive("second", (0.0, "0.45*drive"))),
        constants=LIF_CONSTANTS,  # type: ignore[arg-type]
        dt=1e-4,
        defaults={"drive": 320.0, "delay": 1.5},  # type: ignore[arg-type]
    )


ADEX = """\
dv/dt = (g_L*(v_rest - v) + spike_current - w + I_inj + synaptic)/C : volt (unless refractory)
synaptic = g_e*(E_ge - v) + g_i*(E_gi - v) : amp
spike_current = g_L*delta_T*exp(clip((v - v_thresh)/(delta_T + 1e-9*mV), -20, 20)) : amp
dw/dt = (a*(v - v_rest) - w)/tau_w : amp
dg_e/dt = -g_e/tau_ge : siemens
dg_i/dt = -g_i/tau_gi : siemens
"""
ADEX_CONSTANTS = {
    "C": "200*pF", "g_L": "10*nS", "v_rest": "-65*mV", "v_thresh": "-50*mV", "v_reset": "-65*mV", "a": "4*nS",
    "b": "20*pA", "tau_w": "100*ms", "E_ge": "0*mV", "E_gi": "-80*mV", "tau_ge": "5*ms", "tau_gi": "8*ms",
}  # fmt: skip


def _adex(name: str, size: str) -> Population:
    return Population(
        name=name,
        size=size,
        equations=ADEX,
        threshold="v > v_thresh + 5*delta_T",
        reset="v = v_reset\nw += b",
        refractory="5*ms",
        initial={"v": "v_rest"},  # type: ignore[arg-type]
    )


def adex_quartet() -> Circuit:
    """Three excitatory and one inhibitory adaptive exponential neuron with conductance synapses."""
    ring = Explicit(((0, 1), (1, 2), (2, 0), (0, 2)))
    return Circuit(
        name="adex_quartet",
        prior=Prior((DRIVE, Parameter("delta_T", "mV", 0, 5))),
        populations=(_adex("exc", "3"), _adex("inh", "1")),
        projections=(
            Projection("e2e", "exc", "exc", ring, "6*nS", "g_e_post += weight"),
            Projection("e2i", "exc", "inh", AllToAll(), "9*nS", "g_e_post += weight"),
            Projection("i2e", "inh", "exc", AllToAll(), "5*nS", "g_i_post += weight", "1*ms"),
        ),
        inputs=(_drive("exc", (0.02, "drive"), (0.4, "0.5*drive"), (0.6, "1.2*drive")), _drive("inh")),
        constants=ADEX_CONSTANTS,  # type: ignore[arg-type]
        dt=2e-4,
        defaults={"drive": 400.0, "delta_T": 2.0},  # type: ignore[arg-type]
    )


def zero_delay_chain() -> Circuit:
    """Five neurons in a ring without delays: a kick arrives in the step of the spike, before its resets."""
    chain = Explicit(tuple((k, k + 1) for k in range(4)) + ((4, 0),))
    return Circuit(
        name="zero_delay_chain",
        prior=Prior((DRIVE,)),
        populations=(
            _lif("cell", "5", equations="dv/dt = (R*I_inj*(1 + 0.1*i) - v)/tau : volt", refractory="",
                 initial={"v": "2*mV"}, reset="v -= v_th"),
        ),
        projections=(Projection("next", "cell", "cell", chain, "6*mV", "v_post += weight"),),
        inputs=(_drive("cell"),),
        constants=LIF_CONSTANTS,  # type: ignore[arg-type]
        defaults={"drive": 205.0},  # type: ignore[arg-type]
    )  # fmt: skip


def kicks_while_refractory() -> Circuit:
    """A delta input while the target is refractory must be ignored; one that arrives later must not."""
    pair = Explicit(((0, 1), (1, 0)))
    return Circuit(
        name="kicks_while_refractory",
        prior=Prior((DRIVE, Parameter("delay", "ms", 0, 20))),
        populations=(_lif("cell", "2", refractory="10*ms"),),
        projections=(Projection("kick", "cell", "cell", pair, "12*mV", "v_post += weight", "delay"),),
        inputs=(_drive("cell"),),
        constants=LIF_CONSTANTS,  # type: ignore[arg-type]
        defaults={"drive": 260.0, "delay": 4.0},  # type: ignore[arg-type]
    )


def one_cell(method: str, equations: str = LIF) -> Circuit:
    """One LIF neuron under a step current, integrated by `method`."""
    return Circuit(
        name=f"one_cell_{method}",
        prior=Prior((DRIVE, TAU)),
        populations=(_lif("cell", equations=equations, method=method),),
        inputs=(_drive("cell", (0.005, "drive"), (0.2, "1.7*drive")),),
        constants={k: v for k, v in LIF_CONSTANTS.items() if k != "tau"},  # type: ignore[arg-type]
        defaults={"drive": 230.0, "tau": 17.0},  # type: ignore[arg-type]
    )


def adaptive_rk4() -> Circuit:
    """A nonlinear cell with two coupled variables under Runge-Kutta."""
    return Circuit(
        name="adaptive_rk4",
        prior=Prior((DRIVE, TAU)),
        populations=(
            _lif("cell", "2", method="rk4", reset="v = 0*mV\nw += 2*mV",
                 equations="dv/dt = (R*I_inj - v + 0.02*v**2/mV - w)/tau : volt (unless refractory)\n"
                           "dw/dt = (0.1*v - w)/(5*tau) : volt"),
        ),
        inputs=(_drive("cell"),),
        constants={k: v for k, v in LIF_CONSTANTS.items() if k != "tau"},  # type: ignore[arg-type]
        defaults={"drive": 210.0, "tau": 17.0},  # type: ignore[arg-type]
    )  # fmt: skip


def without_threshold() -> Circuit:
    """A population that never spikes, beside one that does."""
    passive = {"threshold": "", "reset": "", "refractory": "", "equations": LIF.partition(" (unless")[0]}
    return Circuit(
        name="without_threshold",
        prior=Prior((DRIVE,)),
        populations=(_lif("passive", "2", **passive), _lif("active")),
        projections=(Projection("kick", "active", "passive", AllToAll(), "5*mV", "v_post += weight"),),
        inputs=(_drive("passive"), _drive("active")),
        constants=LIF_CONSTANTS,  # type: ignore[arg-type]
        defaults={"drive": 300.0},  # type: ignore[arg-type]
    )


MICRO_CIRCUITS = {
    c.name: c
    for c in (
        two_lif(), adex_quartet(), zero_delay_chain(), kicks_while_refractory(), one_cell("rk4"),
        one_cell("exponential_euler"), one_cell("exact"), adaptive_rk4(), without_threshold(),
    )
}  # fmt: skip


def early_stopping() -> Circuit:
    """One LIF neuron under the early-stop rule: silent without drive, saturated with too much."""
    return Circuit(
        name="early_stopping",
        prior=Prior((Parameter("drive", "pA", 0, 1e6),)),
        populations=(_lif("cell", "3"),),
        inputs=(_drive("cell"),),
        constants=LIF_CONSTANTS,  # type: ignore[arg-type]
        early_stop=EarlyStop("cell", "3*ms", start=0.05, stop=0.25, silent=1e-4, saturated=0.9),
        defaults={"drive": 300.0},  # type: ignore[arg-type]
    )


def exploding() -> Circuit:
    """A variable that grows beyond every number."""
    return Circuit(
        name="exploding",
        prior=Prior((Parameter("growth", "1/ms", 0, 1000),)),
        populations=(
            Population("cell", "2", "dv/dt = growth*v*(1 + v**2) : 1", initial={"v": "1"}),  # type: ignore[arg-type]
        ),
        defaults={"growth": 1000.0},  # type: ignore[arg-type]
    )


def noisy(n_exc: int = 80) -> Circuit:
    """A small random network with Poisson input: every source of randomness there is, in little time."""
    excite = "v_post += weight"
    return Circuit(
        name="noisy",
        prior=Prior((Parameter("p", "1", 0, 1), Parameter("rate", "Hz", 0, 5000))),
        populations=(
            _lif("exc", str(n_exc), equations="dv/dt = -v/tau : volt (unless refractory)", labels="3",
                 initial={"v": "5*mV*rand()"}),
            _lif("inh", str(n_exc // 4), equations="dv/dt = -v/tau : volt (unless refractory)"),
        ),
        projections=(
            Projection("e2e", "exc", "exc", FixedTotal("p", "same_label"), "0.4*mV", excite, "1*ms"),
            Projection("e2i", "exc", "inh", Independent("p"), "0.4*mV", excite, "1*ms"),
            Projection("i2e", "inh", "exc", Independent("p"), "-1*mV", excite, "1*ms"),
        ),
        inputs=(
            PoissonInput("exc", "v", "100", "rate/100", "1*mV", fraction="0.8"),
            PoissonInput("inh", "v", "100", "rate/100", "1*mV"),
        ),
        constants={k: v for k, v in LIF_CONSTANTS.items() if k != "R"},  # type: ignore[arg-type]
        defaults={"p": 0.2, "rate": 1300.0},  # type: ignore[arg-type]
    )  # fmt: skip


def smooth_rise(method: str) -> Circuit:
    """Cells whose drive rises evenly with their number: how many cross the threshold measures v at the end.

    The drive that just reaches the threshold at the end of a smooth rise converges with the order of the
    integrator, free of the time grid of the spikes.
    """
    slow = "" if method == "exact" else " - u"
    equations = [f"dv/dt = (R*(low + width*(i + 0.5)/1000) - v{slow})/tau : volt"]
    if slow:
        equations.append("du/dt = (0.5*v - u)/tau : volt")
    return Circuit(
        name=f"smooth_rise_{method}",
        prior=Prior((Parameter("low", "pA", 0, 1e4), Parameter("width", "pA", 0, 1e4))),
        populations=(
            _lif("cell", "1000", method=method, refractory="1*second", equations="\n".join(equations)),
        ),
        constants=LIF_CONSTANTS,  # type: ignore[arg-type]
    )
