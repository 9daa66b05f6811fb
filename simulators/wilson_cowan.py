"""Wilson-Cowan pair: one excitatory and one inhibitory population, with a limit cycle between two onsets of the drive.

Wilson, Cowan 1972, Biophys J 12:1, equations 11 and 12, at the values of their figure 11 (limit cycle at P = 1.25):
c1 = 16, c2 = 12, c3 = 15, c4 = 3, a_e = 1.3, theta_e = 4, a_i = 2, theta_i = 3.7, r = 1. E and I are the proportions
of active cells above rest. The noise is additive and not part of the paper; sigma = 0 switches it off.
"""

from importlib.resources import files

from sbi_circuits.circuit import Circuit, Population, Readout
from sbi_circuits.prior import Prior

EQUATIONS = """
dE/dt = (-E + (1 - r*E)*S_e)/tau_e + sigma*xi_e*tau_e**-0.5 : 1
dI/dt = (-I + (1 - r*I)*S_i)/tau_i + sigma*xi_i*tau_i**-0.5 : 1
S_e = 1/(1 + exp(-a_e*(c_ee*E - c_ei*I + P - theta_e))) - 1/(1 + exp(a_e*theta_e)) : 1
S_i = 1/(1 + exp(-a_i*(c_ie*E - c_ii*I + Q - theta_i))) - 1/(1 + exp(a_i*theta_i)) : 1
"""

CONSTANTS = {"a_e": "1.3", "theta_e": "4", "a_i": "2", "theta_i": "3.7", "r": "1", "Q": "0"}


def circuit() -> Circuit:
    """The circuit with a prior over the four couplings, the drive, both time constants and the noise."""
    return Circuit(
        name="wilson_cowan",
        prior=Prior.from_toml(files("sbi_circuits.priors").joinpath("wilson_cowan.toml").read_text()),
        populations=(Population("pair", "1", EQUATIONS, initial={"E": "0.1", "I": "0.05"}, method="trapezoid"),),  # type: ignore[arg-type]
        constants=CONSTANTS,  # type: ignore[arg-type]
        dt=1e-4,
        defaults={  # type: ignore[arg-type]
            "c_ee": 16.0, "c_ei": 12.0, "c_ie": 15.0, "c_ii": 3.0, "P": 1.25, "tau_e": 8.0, "tau_i": 8.0, "sigma": 0.01,
        },
        readouts=(
            Readout("E", "pair", "E", "1", title="proportion of excitatory cells active, above rest"),
            Readout("I", "pair", "I", "1", title="proportion of inhibitory cells active, above rest"),
            Readout("field", "pair", "c_ee*E - c_ei*I", "1",
                    title="net recurrent input to excitatory cells; assumes that it makes the field"),
        ),
        title="Wilson-Cowan pair of populations, 8 free parameters",
        source="Wilson, Cowan 1972, Biophys J 12:1",
    )  # fmt: skip
