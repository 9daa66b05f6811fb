"""Small variants of every shipped circuit, for the shared scenario list; sizes are constants of the circuits."""

from dataclasses import dataclass, replace

import numpy as np

from sbi_circuits.circuit import Circuit, PoissonInput, get_circuit


@dataclass(frozen=True)
class Shipped:
    """How a shipped circuit is made small, and free of chance.

    Args:
        constants: of the small variant.
        driven: constants of the variant without noise and Poisson input, driven so that it spikes all the same.
        theta: values the small variant needs to be active.
        still: values that take its noise away; they may lie outside the prior.
        edit: (old, new) in the equations of the variant without noise.
        wrong: a value that a comparison of distributions must detect.
        duration: of a comparison of distributions, seconds.
    """

    constants: dict[str, str]
    driven: dict[str, str]
    theta: dict[str, float]
    still: dict[str, float]
    edit: tuple[str, str]
    wrong: dict[str, float]
    duration: float
    steady: float = 0.15


SHIPPED = {
    "adex_clustered": Shipped(
        {"n_total": "120"}, {"I_bias": "600*pA"}, {"p_e2i": 0.1, "p_i2e": 0.2, "poisson_rate_e": 4.0}, {}, ("", ""),
        {"tau_ge": 6.5}, 0.6,
    ),
    "brunel": Shipped(
        {"N_E": "80"}, {}, {"J": 0.5, "g": 4.0}, {}, ("-v/tau", "(26*mV + 0.01*i*mV - v)/tau"), {"J": 0.4}, 0.4,
    ),
    "hodgkin_huxley": Shipped(
        {"n_total": "20", "inputs": "8"}, {"E_L": "-50*mV"}, {"rate": 2000.0}, {}, ("", ""),
        {"w_e": 3.0, "rate": 500.0}, 0.1, steady=0.05,
    ),
    "izhikevich": Shipped(
        {"n_total": "60"}, {}, {"w_e": 0.8, "w_i": 4.0}, {"noise_e": 0.0, "noise_i": 0.0},
        ("140*mV/ms", "(147 + 0.02*i)*mV/ms"), {"noise_e": 8.0}, 0.6,
    ),
    "lif_stp": Shipped(
        {"N_E": "80"}, {"sigma": "0*mV"}, {"mu_E": 25.0}, {"mu_E": 25.0}, ("", ""), {"mu_E": 28.0}, 0.2,
    ),
}  # fmt: skip


def small(name: str) -> tuple[Circuit, np.ndarray]:
    """The small variant of a shipped circuit, and a configuration at which it is active."""
    case = SHIPPED[name]
    circuit = get_circuit(name)
    circuit = replace(circuit, constants={**dict(circuit.constants), **case.constants})  # type: ignore[arg-type]
    return circuit, configuration(circuit, **case.theta)


def configuration(circuit: Circuit, **changes: float) -> np.ndarray:
    """The defaults with some values changed; unlike a validated theta they may leave the prior."""
    values = {**dict(circuit.defaults), **changes}
    return np.array([values[name] for name in circuit.prior.names])


def deterministic(name: str) -> tuple[Circuit, np.ndarray]:
    """The small variant without noise and Poisson input, driven by a constant."""
    case, (circuit, _) = SHIPPED[name], small(name)
    old, new = case.edit
    cells = circuit.populations
    if old:
        cells = tuple(replace(p, equations=p.equations.replace(old, new)) for p in cells)
        assert all(new in p.equations for p in cells)
    circuit = replace(
        circuit,
        populations=cells,
        constants={**dict(circuit.constants), **case.driven},  # type: ignore[arg-type]
        inputs=tuple(i for i in circuit.inputs if not isinstance(i, PoissonInput)),
    )
    return circuit, configuration(circuit, **{**case.theta, **case.still})
