"""Sparse network of leaky integrate-and-fire neurons with delta synapses and delays.

Brunel 2000, J Comput Neurosci 8:183, model A: 10,000 excitatory and 2,500 inhibitory neurons, connection
probability 0.1 by fixed in-degree, tau 20 ms, theta 20 mV, V_r 10 mV, tau_rp 2 ms.
"""

from importlib.resources import files

from sbi_circuits.circuit import Circuit, Composite, EarlyStop, FixedIndegree, PoissonInput, Population, Projection
from sbi_circuits.prior import Prior

EQUATIONS = "dv/dt = -v/tau : volt (unless refractory)"


def _cells(name: str, size: str) -> Population:
    return Population(
        name=name,
        size=size,
        equations=EQUATIONS,
        threshold="v > theta",
        reset="v = V_r",
        refractory="tau_rp",
        method="exact",
    )


def _projections() -> tuple[Projection, ...]:
    effect = "v_post += weight"
    kinds = (("exc", FixedIndegree("C_E"), "J"), ("inh", FixedIndegree("C_I"), "-g*J"))
    return tuple(
        Projection(f"{source[0]}2{target[0]}", source, target, wiring, weight, effect, "delay")
        for source, wiring, weight in kinds
        for target in ("exc", "inh")
    )


def circuit() -> Circuit:
    """The circuit with a prior over g, the external rate (in units of the threshold rate), J and the delay."""
    return Circuit(
        name="brunel",
        prior=Prior.from_toml(files("sbi_circuits.priors").joinpath("brunel.toml").read_text()),
        populations=(_cells("exc", "N_E"), _cells("inh", "N_E/4")),
        projections=_projections(),
        # nu_thr = theta/(J C_E tau) brings the mean input of the excitatory afferents to the threshold (Eq. 4 ff).
        inputs=tuple(
            PoissonInput(target, "v", "C_E", "nu_ext*theta/(J*C_E*tau)", "J") for target in ("exc", "inh")
        ),
        constants={
            "N_E": "10000", "C_E": "0.1*N_E", "C_I": "0.1*N_E/4", "tau": "20*ms", "theta": "20*mV",
            "V_r": "10*mV", "tau_rp": "2*ms",
        },  # type: ignore[arg-type]  # fmt: skip
        dt=1e-4,
        early_stop=EarlyStop("exc", "tau_rp"),
        defaults={"g": 5.0, "nu_ext": 2.0, "J": 0.1, "delay": 1.5},  # type: ignore[arg-type]
        title="Sparse LIF network with delta synapses (model A), 4 free parameters",
        source="Brunel 2000, J Comput Neurosci 8:183",
        composites=(
            Composite("mu_ext", "nu_ext*theta", "mV", "mean external input, Eq. 4"),
            Composite("feedback", "C_E*J*tau/theta*(1 - g*C_I/C_E)*Hz", "1", "recurrent input per Hz, over threshold"),
            Composite("EI_ratio", "C_E/(g*C_I)", "1", "excitatory over inhibitory input, at equal rates"),
        ),
    )
