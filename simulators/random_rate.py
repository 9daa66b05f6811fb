"""Random network of rate units: silent below a coupling of 1, chaotic above.

Sompolinsky, Crisanti, Sommers 1988, Phys Rev Lett 61:259: tau dx_i/dt = -x_i + sum_j J_ij tanh(x_j), J_ij normal with
variance g^2/N, no self-coupling. In the limit of large N the state 0 loses its stability at g = 1.
"""

from importlib.resources import files

from sbi_circuits.circuit import AllToAll, Circuit, Population, Projection, Readout
from sbi_circuits.prior import Prior

EQUATIONS = """
dx/dt = (-x + recurrent + drive)/tau : 1
recurrent : 1
"""


def circuit() -> Circuit:
    """The circuit with a prior over coupling, time constant and a constant drive; N = 200 units."""
    return Circuit(
        name="random_rate",
        prior=Prior.from_toml(files("sbi_circuits.priors").joinpath("random_rate.toml").read_text()),
        populations=(Population("units", "N_units", EQUATIONS, initial={"x": "randn()"}),),  # type: ignore[arg-type]
        projections=(
            Projection("recurrent", "units", "units", AllToAll(), "g*randn()/sqrt(N_units)",
                       summed="recurrent_post = weight*tanh(x_pre)"),
        ),
        constants={"N_units": "200"},  # type: ignore[arg-type]
        dt=1e-3,
        defaults={"g": 1.5, "tau": 10.0, "drive": 0.0},  # type: ignore[arg-type]
        readouts=(
            Readout("rates", "units", "tanh(x)", "1", title="rate of each unit, relative to its largest"),
            Readout("mean_rate", "units", "tanh(x)", "1", over="mean", title="mean rate of all units"),
            Readout("field", "units", "recurrent", "1", over="mean",
                    title="mean recurrent input; assumes that every unit's synaptic current adds to the field alike"),
        ),
        title="Random network of rate units, 3 free parameters",
        source="Sompolinsky, Crisanti, Sommers 1988, Phys Rev Lett 61:259",
    )  # fmt: skip
