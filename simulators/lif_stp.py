"""Working memory in facilitated synapses: leaky integrate-and-fire cells, short-term plasticity, random delays.

Mongillo, Barak, Tsodyks 2008, Science 319:1543, and its supplement: excitatory cells (one selective population, the
others together) and inhibitory cells, white-noise external currents, delays uniform in 0.1-1 ms, synapses between
excitatory cells with facilitation and depression after Markram, Wang, Tsodyks 1998, PNAS 95:5323. A cue of 350 ms to
the selective cells loads the item; it is then held in the facilitation variable u of their synapses.

The network has 1000 cells for the paper's 10,000. A cell receives 0.8 of all cells in place of 0.2; weights are those
of the paper times 2.5 (`C_paper/C`), so that the mean input at a given rate is the same.
"""

from importlib.resources import files

from sbi_circuits.circuit import Circuit, CurrentSteps, EarlyStop, Independent, Population, Projection
from sbi_circuits.prior import Prior

EQUATIONS = "dv/dt = (mu - v + sigma*tau**0.5*xi)/tau : volt (unless refractory)"
CUED = EQUATIONS.replace("mu -", "mu*(1 + extra) -")
PLASTIC = """
du/dt = (U - u)/tau_f : 1 (event-driven)
dx/dt = (1 - x)/tau_d : 1 (event-driven)
"""
# u first, then x with the new u: the resources released by a spike are u x.
RELEASE = "u += U*(1 - u)\nv_post += weight*u*x\nx -= u*x"
DELAY = "0.1*ms + 0.9*ms*rand()"
EXCITATORY, INHIBITORY = ("selective", "other"), "inhibitory"


def _cells(name: str, size: str, equations: str, own: dict[str, str]) -> Population:
    return Population(
        name=name,
        size=size,
        equations=equations,
        threshold="v > theta",
        reset="v = V_r",
        refractory="tau_arp",
        initial={"v": "V_r + (theta - V_r)*rand()"},  # type: ignore[arg-type]
        namespace=own,  # type: ignore[arg-type]
    )


def _projections() -> tuple[Projection, ...]:
    found = []
    for source in EXCITATORY:
        for target in EXCITATORY:
            weight = {("selective", "selective"): "J_p", ("other", "other"): "gamma_0*J_p + (1 - gamma_0)*J_b"}
            found.append(Projection(
                f"{source}_to_{target}", source, target, Independent("p"),
                f"scale*({weight.get((source, target), 'J_b')})", RELEASE, DELAY,
                equations=PLASTIC, initial={"u": "U", "x": "1"},  # type: ignore[arg-type]
            ))  # fmt: skip
        found.append(_static(source, INHIBITORY, "scale*J_IE"))
        found.append(_static(INHIBITORY, source, "-scale*J_EI"))
    return (*found, _static(INHIBITORY, INHIBITORY, "-scale*J_II"))


def _static(source: str, target: str, weight: str) -> Projection:
    return Projection(f"{source}_to_{target}", source, target, Independent("p"), weight, "v_post += weight", DELAY)


def circuit() -> Circuit:
    """The circuit with a prior over the plasticity, the potentiated weight, the background and the cue."""
    excitatory = {"tau": "15*ms", "V_r": "16*mV", "mu": "mu_E"}
    return Circuit(
        name="lif_stp",
        prior=Prior.from_toml(files("sbi_circuits.priors").joinpath("lif_stp.toml").read_text()),
        populations=(
            _cells("selective", "f*N_E", CUED, excitatory),
            _cells("other", "(1 - f)*N_E", EQUATIONS, excitatory),
            _cells("inhibitory", "N_E/4", EQUATIONS, {"tau": "10*ms", "V_r": "13*mV", "mu": "mu_I"}),
        ),
        projections=_projections(),
        inputs=(CurrentSteps("selective", "extra", "1", ((2.0, "cue"), (2.35, "0"))),),
        constants={
            "N_E": "800", "p": "0.8", "scale": "0.2*8000/(p*N_E)", "f": "0.1", "gamma_0": "0.1", "theta": "20*mV",
            "tau_arp": "2*ms", "sigma": "1*mV", "J_b": "0.1*mV", "J_IE": "0.135*mV", "J_EI": "0.25*mV",
            "J_II": "0.2*mV", "mu_I": "21*mV",
        },  # type: ignore[arg-type]  # fmt: skip
        dt=1e-4,
        early_stop=EarlyStop("other", "tau_arp", silent=1e-5),
        defaults={"U": 0.2, "tau_f": 1500.0, "tau_d": 200.0, "J_p": 0.45, "mu_E": 23.1, "cue": 0.15},  # type: ignore[arg-type]
        title="Working memory by short-term plasticity, 6 free parameters",
        source="Mongillo, Barak, Tsodyks 2008, Science 319:1543",
    )
