"""One deterministic micro-circuit per construct of the language, each with a constant whose change must show."""

from dataclasses import dataclass, replace

from sbi_circuits.circuit import AllToAll, Circuit, EdgeList, Explicit, Independent, OneToOne, Population, Projection
from sbi_circuits.prior import Parameter, Prior
from tests.scenarios.circuits import LIF_CONSTANTS

PRIOR = Prior((Parameter("drive", "mV", 0, 100),))
BIASED = "dv/dt = (drive*(1 + 0.07*i) - v)/tau : volt (unless refractory)"
RING = Explicit(((0, 1), (1, 2), (2, 3), (3, 0), (0, 2), (1, 3)), symmetric=False)
KICK = "v_post += weight"
# A table in no order, with a pair that occurs twice.
EDGES = EdgeList([2, 0, 1, 3, 0, 1, 0], [3, 1, 2, 0, 2, 3, 1],
                 {"count": [3, 1, 2, 2, 4, 1, 2], "latency": ("ms", [4.0, 1.0, 2.5, 7.0, 1.0, 3.0, 2.0])})  # fmt: skip


@dataclass(frozen=True)
class Construct:
    """A circuit that spikes, and a change of one constant that must change its spikes."""

    circuit: Circuit
    changed: tuple[str, str]

    def wrong(self) -> Circuit:
        """The circuit with the constant changed."""
        constants = {**dict(self.circuit.constants), self.changed[0]: self.changed[1]}
        return replace(self.circuit, constants=constants)  # type: ignore[arg-type]


def cells(equations: str = BIASED, size: int = 4, name: str = "cell", **extra: object) -> Population:
    settings: dict[str, object] = {"threshold": "v > v_th", "reset": "v = 0*mV", "refractory": "3*ms"}
    return Population(name, str(size), equations, **{**settings, **extra})  # type: ignore[arg-type]


def build(name: str, populations: object, projections: tuple[Projection, ...] = (), drive: float = 24.0,
          **constants: str) -> Circuit:
    populations = populations if isinstance(populations, tuple) else (populations,)
    constants = {"tau": "20*ms", "v_th": LIF_CONSTANTS["v_th"], **constants}
    return Circuit(name, PRIOR, populations, projections, constants=constants,  # type: ignore[arg-type]
                   defaults={"drive": drive})  # type: ignore[arg-type]


def recurrent(weight: str = "4*mV", on_spike: str = KICK, **extra: object) -> tuple[Projection, ...]:
    return (Projection("recurrent", "cell", "cell", RING, weight, on_spike, **extra),)  # type: ignore[arg-type]


FUNCTIONS = """
dv/dt = (drive*(1 + 0.1*i)*(smooth + steps)/scale - v)/tau : volt
x = v/v_th : 1
smooth = exp(-x**2) + log(2 + x) + log10(3 + x) + log1p(x + 1) + expm1(x/9) + exprel(x - 0.5) + sqrt(x + 2) + more : 1
more = sin(x) + cos(x) + tan(x/3) + sinh(x) + cosh(x) + tanh(x) + arcsin(x/9) + arccos(x/9) + arctan(x) : 1
steps = abs(x - 0.4) + sign(x - 0.3) + clip(3*x, 0.2, 0.7) + floor(4*x) + ceil(3*x) + int(9*x) + whole : 1
whole = (7*x + 3) % 2 + (5*x) // 2 + (-2.5*x) % 1.5 + (x + 2)**1.5 + (x + 2)**-1 + pi/4 : 1
"""
CONDITIONS = """
dv/dt = (drive*(1 + 0.05*i)*gate - v*int(not_refractory))/tau : volt
gate = 1 + 0.3*int(v > 5*mV and not (v > 12*mV or t < 40*ms)) + 0.2*int(not_refractory) + 0.1*int(kind != 1) : 1
kind : integer
"""
VARIED = """
dv/dt = (drive - v)/tau_m : volt (unless refractory)
dtheta/dt = -theta/tau_m : volt
tau_m : second
gap : volt
pause : second
"""
ALPHA = """
dv/dt = (drive*(1 + 0.1*i) + s - v)/tau : volt
ds/dt = (r - s)/tau_s : volt
dr/dt = -r/tau_s : volt
"""
CONDUCTANCE = """
dv/dt = (drive*(1 + 0.1*i) - v + g_e*(70*mV - v) + g_i*(-10*mV - v))/tau : volt (unless refractory)
dg_e/dt = -g_e/tau_e : 1
dg_i/dt = -g_i/tau_i : 1
"""
NOISY = "dv/dt = (drive*(1 + 0.1*i) - v)/tau + quiet*xi*tau**-0.5 : volt (unless refractory)"
TWO_NOISES = """
dv/dt = (drive*(1 + 0.1*i) - v - w)/tau + (quiet*xi_1 + 2*quiet*xi_2)*tau**-0.5 : volt (unless refractory)
dw/dt = (0.2*v - w)/(3*tau) + quiet*xi_2*tau**-0.5 : volt
"""
MULTIPLIED = "dv/dt = (drive*(1 + 0.1*i) - v)/tau + calm*v*xi*tau**-0.5 : volt (unless refractory)"
GAP = "dv/dt = (drive*(1 + 0.1*i) + gap - v)/tau : volt (unless refractory)\ngap : volt"
PASSIVE = "dv/dt = (drive*(1 + 0.2*i) + pull - v)/(3*tau) : volt\npull : volt"
FACILITATED = "du/dt = -u/tau_f : 1 (event-driven)"
DEPRESSED = "dx/dt = (1 - x)/tau_d : 1 (event-driven)"
USED = "u += U*(1 - u); v_post += weight*u*x; x -= u*x"
STP: dict[str, object] = {
    "on_spike": USED, "equations": f"{FACILITATED}\n{DEPRESSED}", "initial": {"u": "0", "x": "1"},
}  # fmt: skip
STP_CONSTANTS = {"U": "0.3", "tau_f": "90*ms", "tau_d": "120*ms"}


def _neurons() -> list[Construct]:
    varied = cells(
        VARIED, threshold="v > v_th + theta + gap", reset="v = 0*mV; theta += 1*mV", refractory="pause + 1*ms",
        initial={"tau_m": "clip(20*ms + 4*ms*randn(), 5*ms, 50*ms)", "pause": "0.1*tau_m", "gap": "0.5*mV*i",
                 "v": "v_th*rand()"},
    )  # fmt: skip
    return [
        Construct(build("functions", cells(FUNCTIONS, refractory=""), drive=30.0, scale="7.0"), ("scale", "7.3")),
        Construct(build("conditions", cells(CONDITIONS, initial={"kind": "i"})), ("tau", "21*ms")),
        Construct(build("heterogeneity", varied, drive=29.0), ("v_th", "20.5*mV")),
        Construct(build("noise_euler", cells(TWO_NOISES), quiet="0*mV", drive=30.0), ("quiet", "1*mV")),
        Construct(build("noise_heun", cells(NOISY, method="heun"), quiet="0*mV"), ("quiet", "1*mV")),
        Construct(build("noise_milstein", cells(MULTIPLIED, method="milstein"), calm="0"), ("calm", "0.1")),
    ]


def _synapses() -> list[Construct]:
    several = "r_post += weight; v_post += 0.5*p_v*weight; s_post += weight"
    two = Projection("two", "cell", "cell", RING, "3*mV", several)
    mixed = (
        Projection("e", "cell", "cell", RING, "w_e", "g_e_post += weight", "1.5*ms"),
        Projection("i", "cell", "cell", Explicit(((0, 3), (3, 1))), "0.2", "g_i_post += weight", "0.5*ms"),
    )
    stp = {**STP_CONSTANTS, "w": "18*mV"}
    used = {"on_spike": "x -= u_pre*x; v_post += weight*x*u_pre", "equations": DEPRESSED, "initial": {"x": "1"}}
    heterogeneous = cells(BIASED + "\nu : 1", initial={"u": "0.2 + 0.5*rand()"})
    everything = {**STP, "delay": "1*ms + 4*ms*rand()", "weight": "w*(0.5 + rand())"}
    return [
        Construct(build("alpha", cells(ALPHA, refractory=""), (two,), tau_s="5*ms", p_v="0.4"), ("p_v", "0.5")),
        Construct(build("conductance", cells(CONDUCTANCE), mixed, tau_e="5*ms", tau_i="8*ms", w_e="0.1"),
                  ("w_e", "0.12")),
        Construct(build("random_weights", cells(), recurrent("w*(1 + 0.5*randn())", delay="1*ms"), w="4*mV"),
                  ("w", "4.4*mV")),
        Construct(build("random_delays", cells(), recurrent(delay="spread*rand()"), spread="8*ms"),
                  ("spread", "9*ms")),
        Construct(build("random_both", cells(size=6), (
            Projection("dense", "cell", "cell", Independent("0.6"), "w*rand()", KICK, "spread*(0.1 + rand())"),
        ), w="4*mV", spread="6*ms"), ("spread", "9*ms")),
        Construct(build("measured_wiring", cells(), (
            Projection("edges", "cell", "cell", EDGES, "w*count", KICK, "slower*latency"),
        ), w="2*mV", slower="1"), ("slower", "1.5")),
        Construct(build("measured_plasticity", cells(), (
            Projection("edges", "cell", "cell", EDGES, "w*count", **STP),  # type: ignore[arg-type]
        ), **{**stp, "w": "9*mV"}), ("tau_f", "50*ms")),
        Construct(build("plasticity", cells(), recurrent("w", delay="1.2*ms", **STP), **stp), ("tau_f", "50*ms")),
        Construct(build("plasticity_random", cells(), recurrent(**everything), **stp), ("tau_d", "60*ms")),
        Construct(build("plasticity_of_source", heterogeneous, recurrent("w", **used), **stp), ("tau_d", "60*ms")),
    ]  # fmt: skip


def _summed() -> list[Construct]:
    gap = {"on_spike": "", "summed": "gap_post = weight*(v_pre - v_post)"}
    measured = Projection("edges", "cell", "cell", replace(EDGES, symmetric=False), "w*count", **gap)
    pull = {"on_spike": "", "summed": "pull_post = weight*clip(v_pre - v_post, -5*mV, p*5*mV)"}
    passive = cells(PASSIVE, name="passive", threshold="", reset="", refractory="")
    back = Projection("back", "passive", "cell", OneToOne(), "0.4", "", summed="gap_post = weight*(v_pre - v_post)")
    there = Projection("there", "cell", "passive", AllToAll(), "0.2*rand()", **pull)
    spikes = Projection("kicks", "cell", "passive", AllToAll(), "2*mV", KICK, "1*ms")
    return [
        Construct(build("gap_junctions", cells(GAP), recurrent("w", **gap), w="0.2"), ("w", "0.25")),
        Construct(build("measured_gap_junctions", cells(GAP), (measured,), w="0.1"), ("w", "0.14")),
        Construct(build("summed_between", (cells(GAP), passive), (back, there, spikes), p="1"), ("p", "0.3")),
    ]


CONSTRUCTS = {c.circuit.name: c for c in (*_neurons(), *_synapses(), *_summed())}
