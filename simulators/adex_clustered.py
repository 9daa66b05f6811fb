"""Clustered adaptive exponential integrate-and-fire network: 2000 neurons, 28 free parameters.

Gao, Deistler, Schulz, Goncalves, Macke 2024, bioRxiv 2024.08.21.608969. The inhibitory cells, and the
configuration in `DEFAULTS`, follow Zerlaut et al. 2018, J Comput Neurosci 44:45.
"""

from importlib.resources import files

from sbi_circuits.circuit import (
    Circuit,
    Composite,
    EarlyStop,
    FixedTotal,
    Independent,
    PoissonInput,
    Population,
    Projection,
)
from sbi_circuits.prior import Prior

# Where delta_T is 0 the cell is an adaptive LIF neuron: the clipped exponential keeps 0 * exp(.) at 0. At the
# spike the exponent is 5, so the upper clip acts only above the threshold; below -20 the term is < 1e-8 of itself.
EQUATIONS = """
dv/dt = (-g_L*(v - v_rest) + spike_current - w + I_bias + g_e*(E_ge - v) + g_i*(E_gi - v))/C : volt (unless refractory)
spike_current = g_L*delta_T*exp(clip((v - v_thresh)/(delta_T + 1e-9*mV), -20, 20)) : amp
dw/dt = (a*(v - v_rest) - w)/tau_w : amp
dg_e/dt = -g_e/tau_ge : siemens
dg_i/dt = -g_i/tau_gi : siemens
"""

INHIBITORY_CELL = {
    "C": "200*pF",
    "g_L": "10*nS",
    "v_rest": "-65*mV",
    "v_thresh": "-50*mV",
    "v_reset": "-65*mV",
    "t_refrac": "5*ms",
    "delta_T": "2*mV",
    "a": "4*nS",
    "b": "20*pA",
    "tau_w": "500*ms",
    "E_gi": "-80*mV",
    "tau_ge": "5*ms",
    "tau_gi": "5*ms",
}

# The check configuration: Zerlaut et al. for both populations, clusters at the published defaults.
DEFAULTS = {
    "exc_prop": 0.8, "p_e2e": 0.04, "p_e2i": 0.05, "p_i2e": 0.1, "p_i2i": 0.1, "R_pe2e": 3.0, "R_Qe2e": 1.2,
    "p_igniters": 0.9, "n_clusters": 10.0, "C": 200.0, "g_L": 10.0, "v_rest": -65.0, "v_thresh": -50.0,
    "v_reset": -65.0, "t_refrac": 5.0, "delta_T": 2.0, "a": 4.0, "b": 20.0, "tau_w": 500.0, "Q_e2e": 1.0,
    "Q_i2e": 5.0, "Q_e2i": 1.0, "Q_i2i": 5.0, "E_gi": -80.0, "tau_ge": 5.0, "tau_gi": 5.0,
    "poisson_rate_e": 2.0, "poisson_rate_i": 1.0,
}  # fmt: skip

# Synaptic charge a cell would get at one spike a cell, and what leaks: first-order quantities, no mean-field theory.
COMPOSITES = (
    Composite("EI_ratio", "exc_prop*p_e2e*Q_e2e*tau_ge/((1 - exc_prop)*p_i2e*Q_i2e*tau_gi)", "1",
              "excitatory over inhibitory conductance of an excitatory cell, at equal rates"),
    Composite("tau_m", "C/g_L", "ms", "membrane time constant of excitatory cells"),
    Composite("recurrence", "n_total*exc_prop*p_e2e*Q_e2e*tau_ge/C*(E_ge - v_rest)", "mV",
              "how far one spike of all its excitatory inputs drives a cell"),
    Composite("drive", "n_poisson*p_igniters*poisson_rate_e*Q_poisson*tau_ge/g_L*(E_ge - v_rest)", "mV",
              "mean depolarisation by the external input, averaged over excitatory cells"),
    Composite("adaptation", "b*tau_w", "pcoulomb", "charge that adaptation removes after one spike"),
)  # fmt: skip

CLUSTERED = "n_clusters >= 2 and R_pe2e != 1"
HOMOGENEOUS = "n_clusters < 2 or R_pe2e == 1"


def _cells(name: str, size: str, **extra: object) -> Population:
    return Population(
        name=name,
        size=size,
        equations=EQUATIONS,
        threshold="v > v_thresh + 5*delta_T",
        reset="v = v_reset\nw += b",
        refractory="t_refrac",
        initial={"v": "v_rest + 4*mV*randn()"},  # type: ignore[arg-type]
        method="euler",
        **extra,  # type: ignore[arg-type]
    )


def _projections() -> tuple[Projection, ...]:
    excite, inhibit = "g_e_post += weight", "g_i_post += weight"
    within, between = FixedTotal("p_e2e*R_pe2e", "same_label"), FixedTotal("p_e2e", "other_label")
    return (
        Projection("e2e", "exc", "exc", Independent("p_e2e"), "Q_e2e", excite, when=HOMOGENEOUS),
        Projection("e2e_within", "exc", "exc", within, "Q_e2e*R_Qe2e", excite, when=CLUSTERED),
        Projection("e2e_between", "exc", "exc", between, "Q_e2e", excite, when=CLUSTERED),
        Projection("e2i", "exc", "inh", Independent("p_e2i"), "Q_e2i", excite),
        Projection("i2e", "inh", "exc", Independent("p_i2e"), "Q_i2e", inhibit),
        Projection("i2i", "inh", "inh", Independent("p_i2i"), "Q_i2i", inhibit),
    )


def circuit() -> Circuit:
    """The circuit with its published prior."""
    return Circuit(
        name="adex_clustered",
        prior=Prior.from_toml(files("sbi_circuits.priors").joinpath("adex_clustered.toml").read_text()),
        populations=(
            _cells("exc", "floor(n_total*exc_prop + 1e-9)", labels="floor(n_clusters)"),
            _cells("inh", "n_total - floor(n_total*exc_prop + 1e-9)", namespace=INHIBITORY_CELL),
        ),
        projections=_projections(),
        inputs=(
            PoissonInput("exc", "g_e", "n_poisson", "poisson_rate_e", "Q_poisson", fraction="p_igniters"),
            PoissonInput("inh", "g_e", "n_poisson", "poisson_rate_i", "Q_poisson"),
        ),
        constants={
            "n_total": "2000", "n_poisson": "500", "Q_poisson": "1*nS", "E_ge": "0*mV", "I_bias": "0*pA",
        },  # type: ignore[arg-type]  # fmt: skip
        dt=2e-4,
        early_stop=EarlyStop("exc", "t_refrac"),
        defaults=DEFAULTS,  # type: ignore[arg-type]
        title="Clustered adaptive exponential network, 28 free parameters",
        source="Gao et al. 2024, bioRxiv 2024.08.21.608969",
        composites=COMPOSITES,
    )
