"""Clusters of rate units: each unit stands for a cluster with self-coupling s, coupled at random with gain g.

Stern, Sompolinsky, Abbott 2014, Phys Rev E 90:062710: tau dx_i/dt = -x_i + s tanh(x_i) + g sum_j J_ij tanh(x_j), J_ij
normal with variance 1/N. Without coupling a cluster has two stable states where s > 1. With weak coupling the network
keeps one of many fixed points; with s < 1 and little g it falls silent; with large g it is chaotic.
"""

from importlib.resources import files

from sbi_circuits.circuit import AllToAll, Circuit, Population, Projection, Readout
from sbi_circuits.prior import Prior

EQUATIONS = """
dx/dt = (-x + s*tanh(x) + recurrent)/tau : 1
recurrent : 1
"""


def circuit() -> Circuit:
    """The circuit with a prior over self-coupling, coupling and time constant; 100 clusters."""
    return Circuit(
        name="clustered_rate",
        prior=Prior.from_toml(files("sbi_circuits.priors").joinpath("clustered_rate.toml").read_text()),
        populations=(Population("clusters", "N_clusters", EQUATIONS, initial={"x": "randn()"}),),  # type: ignore[arg-type]
        projections=(
            Projection("recurrent", "clusters", "clusters", AllToAll(), "g*randn()/sqrt(N_clusters)",
                       summed="recurrent_post = weight*tanh(x_pre)"),
        ),
        constants={"N_clusters": "100"},  # type: ignore[arg-type]
        dt=1e-3,
        defaults={"s": 1.5, "g": 2.0, "tau": 20.0},  # type: ignore[arg-type]
        readouts=(
            Readout("rates", "clusters", "tanh(x)", "1", title="rate of each cluster, relative to its largest"),
            Readout("mean_rate", "clusters", "tanh(x)", "1", over="mean", title="mean rate of all clusters"),
            Readout("field", "clusters", "recurrent", "1", over="mean",
                    title="mean input between clusters; assumes that every cluster's current adds to the field alike"),
        ),
        title="Clustered rate network, 3 free parameters",
        source="Stern, Sompolinsky, Abbott 2014, Phys Rev E 90:062710",
    )  # fmt: skip
