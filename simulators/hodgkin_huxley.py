"""Small network of Hodgkin-Huxley cells with conductance synapses, integrated by Runge-Kutta.

Benchmark 3 of Brette et al. 2007, J Comput Neurosci 23:349 (COBAHH): the cells of Traub and Miles 1991, 20,000 um2
of membrane, excitatory synapses of 6 nS and 5 ms, inhibitory ones of 67 nS and 10 ms, four excitatory cells to an
inhibitory one. The benchmark has 4000 cells connected with probability 0.02; here 200 cells keep its 64 excitatory
and 16 inhibitory synapses onto each, and Poisson input of excitatory events stands in for its start from strong random
conductances, so that the activity of a small network lasts. At E_L = -60 mV a cell by itself fires slowly.
"""

from importlib.resources import files

from sbi_circuits.circuit import Circuit, EarlyStop, Independent, PoissonInput, Population, Projection
from sbi_circuits.prior import Prior

EQUATIONS = """
dv/dt = (g_L*(E_L - v) + g_e*(E_e - v) + g_i*(E_i - v) + sodium + potassium)/C : volt
sodium = g_Na*m**3*h*(E_Na - v) : amp
potassium = g_K*n**4*(E_K - v) : amp
dg_e/dt = -g_e/tau_e : siemens
dg_i/dt = -g_i/tau_i : siemens
dm/dt = alpha_m*(1 - m) - beta_m*m : 1
dh/dt = alpha_h*(1 - h) - beta_h*h : 1
dn/dt = alpha_n*(1 - n) - beta_n*n : 1
alpha_m = 0.32*4/exprel((13*mV - v + V_T)/(4*mV))/ms : hertz
beta_m = 0.28*5/exprel((v - V_T - 40*mV)/(5*mV))/ms : hertz
alpha_h = 0.128*exp((17*mV - v + V_T)/(18*mV))/ms : hertz
beta_h = 4/(1 + exp((40*mV - v + V_T)/(5*mV)))/ms : hertz
alpha_n = 0.032*5/exprel((15*mV - v + V_T)/(5*mV))/ms : hertz
beta_n = 0.5*exp((10*mV - v + V_T)/(40*mV))/ms : hertz
"""

CONSTANTS = {
    "n_total": "200", "inputs": "80", "area": "20000*um**2", "C": "1*uF/cm**2*area", "g_L": "5e-5*siemens/cm**2*area",
    "E_L": "-60*mV", "E_Na": "50*mV", "E_K": "-90*mV", "E_e": "0*mV", "E_i": "-80*mV", "V_T": "-63*mV",
    "tau_e": "5*ms", "tau_i": "10*ms", "sources": "100", "p": "clip(inputs/n_total, 0, 1)",
}  # fmt: skip


def _cells(name: str, size: str) -> Population:
    return Population(
        name=name,
        size=size,
        equations=EQUATIONS,
        threshold="v > -20*mV",
        # Nothing is reset: the spike is part of the equations, and counted once.
        reset="v = v",
        refractory="3*ms",
        initial={"v": "E_L + 5*mV*(randn() - 1)"},  # type: ignore[arg-type]
        method="rk4",
    )


def _projections() -> tuple[Projection, ...]:
    kinds = (("exc", "w_e", "g_e_post += weight"), ("inh", "w_i", "g_i_post += weight"))
    return tuple(
        Projection(f"{source[0]}2{target[0]}", source, target, Independent("p"), weight, effect)
        for source, weight, effect in kinds
        for target in ("exc", "inh")
    )


def circuit() -> Circuit:
    """The circuit with a prior over the densities of both channels, both weights and the external rate."""
    return Circuit(
        name="hodgkin_huxley",
        prior=Prior.from_toml(files("sbi_circuits.priors").joinpath("hodgkin_huxley.toml").read_text()),
        populations=(_cells("exc", "0.8*n_total"), _cells("inh", "0.2*n_total")),
        projections=_projections(),
        inputs=tuple(PoissonInput(n, "g_e", "sources", "rate/sources", "w_e") for n in ("exc", "inh")),
        constants={**CONSTANTS, "g_Na": "d_Na*area", "g_K": "d_K*area"},  # type: ignore[arg-type]
        dt=2e-5,
        early_stop=EarlyStop("exc", "3*ms"),
        defaults={"d_Na": 100.0, "d_K": 30.0, "w_e": 6.0, "w_i": 67.0, "rate": 300.0},  # type: ignore[arg-type]
        title="Hodgkin-Huxley network with conductance synapses, 5 free parameters",
        source="Brette et al. 2007, J Comput Neurosci 23:349 (benchmark 3)",
    )
