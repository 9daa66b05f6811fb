"""Core circuit of the fly's leg motor rhythm: DN excites E1, E1 excites E2, E2 excites I1, I1 inhibits E1 and E2.

Pugliese et al. 2025: tau dR/dt = max(cap tanh((a/cap)(I + 0.03 W R - theta)), 0) - R, W synapse counts of the
connectome, signed; tau = 20 +- 2 ms, a = 1 +- 0.1, theta = 7.5 +- 0.6, cap = 200 +- 10 Hz, drawn for every neuron; a is
divided and theta multiplied by the neuron's relative size (DN 10.7, E1 5.9, E2 3.3, I1 2.0). Counts of the known pairs:
DN to E1 100-167, E1 to E2 328-527, E2 to I1 27-129, I1 to E1 439-847. With counts near the upper ends it oscillates at
12-19 Hz; below a drive of some 180 it is silent. The count of I1 to E2 is not among those published.
"""

from importlib.resources import files

from sbi_circuits.circuit import Circuit, Population, Readout
from sbi_circuits.prior import Prior

_CELLS = ("DN", "E1", "E2", "I1")
_INPUTS = {
    "DN": "drive", "E1": "w*(N_dn_e1*R_DN - N_i1_e1*R_I1)", "E2": "w*(N_e1_e2*R_E1 - N_i1_e2*R_I1)",
    "I1": "w*N_e2_i1*R_E2",
}  # fmt: skip


def _equations() -> str:
    lines = []
    for cell in _CELLS:
        rate = f"clip(cap_{cell}*tanh(a_{cell}/cap_{cell}*({_INPUTS[cell]} - theta_{cell})), 0*Hz, 1e9*Hz)"
        lines += [f"dR_{cell}/dt = ({rate} - R_{cell})/tau_{cell} : Hz", f"tau_{cell} : second", f"cap_{cell} : Hz",
                  f"a_{cell} : Hz", f"theta_{cell} : 1"]  # fmt: skip
    return "\n".join(lines)


def _initial() -> dict[str, str]:
    drawn: dict[str, str] = {}
    for cell in _CELLS:
        drawn |= {
            f"tau_{cell}": "20*ms*(1 + 0.1*spread*randn())",
            f"cap_{cell}": "200*Hz*(1 + 0.05*spread*randn())",
            f"a_{cell}": f"1*Hz*(1 + 0.1*spread*randn())/size_{cell}",
            f"theta_{cell}": f"7.5*(1 + 0.08*spread*randn())*size_{cell}",
        }
    return drawn


def circuit() -> Circuit:
    """The circuit with a prior over the drive and the five synapse counts."""
    return Circuit(
        name="leg_rhythm",
        prior=Prior.from_toml(files("sbi_circuits.priors").joinpath("leg_rhythm.toml").read_text()),
        populations=(Population("core", "1", _equations(), initial=_initial(), method="trapezoid"),),  # type: ignore[arg-type]
        constants={  # type: ignore[arg-type]
            "w": "0.03/Hz", "spread": "1", "size_DN": "10.7", "size_E1": "5.9", "size_E2": "3.3", "size_I1": "2.0",
        },
        dt=5e-4,
        defaults={  # type: ignore[arg-type]
            "drive": 350.0, "N_dn_e1": 160.0, "N_e1_e2": 500.0, "N_e2_i1": 120.0, "N_i1_e1": 800.0, "N_i1_e2": 200.0,
        },
        readouts=tuple(
            Readout(cell, "core", f"R_{cell}", "Hz", title=f"firing rate of {cell}") for cell in _CELLS
        ),
        title="Core circuit of the leg motor rhythm, 6 free parameters",
        source="Pugliese et al. 2025, bioRxiv: connectome simulations of the fly's leg motor circuit",
    )  # fmt: skip
