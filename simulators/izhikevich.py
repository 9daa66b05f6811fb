"""Network of 1000 simple-model neurons with random all-to-all synapses and noisy thalamic input.

Izhikevich 2003, IEEE Trans Neural Netw 14:1569: 800 excitatory cells from regular spiking to chattering, 200
inhibitory cells from low-threshold to fast spiking, spread by r uniform in [0, 1] as in the paper's program.

Differences from that program, which computes in whole milliseconds. Its input 5 randn() (excitatory, 2 randn()
inhibitory) is held for 1 ms and so moves v by a normal amount of 5 mV a millisecond; here it is white noise of the
same strength, `noise_e` mV in 1 ms, at every time step. Its synaptic input of one millisecond moves v by the weight;
here v jumps by the weight, one time step after the spike. Self-connections are left out.
"""

from importlib.resources import files

from sbi_circuits.circuit import AllToAll, Circuit, EarlyStop, Population, Projection
from sbi_circuits.prior import Prior

EQUATIONS = """
dv/dt = 0.04/ms/mV*v**2 + 5/ms*v + 140*mV/ms - u + noise*xi*ms**-0.5 : volt
du/dt = a*(b*v - u) : volt/second
r : 1 (constant)
"""
EXCITATORY = EQUATIONS + "c : volt (constant)\nd : volt/second (constant)"
INHIBITORY = EQUATIONS + "a : hertz (constant)\nb : hertz (constant)"


def _cells(name: str, size: str, equations: str, initial: dict[str, str], own: dict[str, str]) -> Population:
    return Population(
        name=name,
        size=size,
        equations=equations,
        threshold="v >= 30*mV",
        reset="v = c\nu += d",
        initial={"r": "rand()", **initial, "v": "-65*mV", "u": "b*v"},  # type: ignore[arg-type]
        namespace=own,  # type: ignore[arg-type]
        method="euler",
    )


def _projections() -> tuple[Projection, ...]:
    kinds = (("exc", "w_e*rand()"), ("inh", "-w_i*rand()"))
    return tuple(
        Projection(f"{source[0]}2{target[0]}", source, target, AllToAll(), weight, "v_post += weight", "lag")
        for source, weight in kinds
        for target in ("exc", "inh")
    )


def circuit() -> Circuit:
    """The circuit with a prior over the largest weights and the thalamic input of both kinds of cells."""
    return Circuit(
        name="izhikevich",
        prior=Prior.from_toml(files("sbi_circuits.priors").joinpath("izhikevich.toml").read_text()),
        populations=(
            _cells("exc", "0.8*n_total", EXCITATORY, {"c": "-65*mV + 15*mV*r**2", "d": "(8 - 6*r**2)*mV/ms"},
                   {"a": "0.02/ms", "b": "0.2/ms", "noise": "noise_e"}),
            _cells("inh", "0.2*n_total", INHIBITORY, {"a": "(0.02 + 0.08*r)/ms", "b": "(0.25 - 0.05*r)/ms"},
                   {"c": "-65*mV", "d": "2*mV/ms", "noise": "noise_i"}),
        ),
        projections=_projections(),
        constants={"n_total": "1000", "lag": "0.5*ms"},  # type: ignore[arg-type]
        dt=5e-4,
        # No cell is refractory; at 2 ms per spike the rule stops below 0.05 Hz and above 250 Hz.
        early_stop=EarlyStop("exc", "2*ms", saturated=0.5),
        defaults={"w_e": 0.5, "w_i": 1.0, "noise_e": 5.0, "noise_i": 2.0},  # type: ignore[arg-type]
        title="Simple-model network with noise and random weights, 4 free parameters",
        source="Izhikevich 2003, IEEE Trans Neural Netw 14:1569",
    )  # fmt: skip
