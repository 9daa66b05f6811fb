"""Stabilised supralinear network: two populations with a power-law gain, inhibition-stabilised under strong input.

Rubin, Van Hooser, Miller 2015, Neuron 85:402, equation 1 and its two-population example: power 2, k = 0.04,
W_EE = 1.25, W_EI = 0.65, W_IE = 1.2, W_II = 0.5, tau_E = 20 ms, tau_I = 10 ms; rates in Hz, inputs in mV. Input to the
inhibitory cells alone (extra_I) lowers their own rate where the network is inhibition-stabilised (Tsodyks, Skaggs,
Sejnowski, McNaughton 1997, J Neurosci 17:4382), and raises it where the input is weak.
"""

from importlib.resources import files

from sbi_circuits.circuit import Circuit, Population, Readout
from sbi_circuits.prior import Prior

EQUATIONS = """
dr_E/dt = (-r_E + k*clip(drive_E/mV, 0, 1e9)**power*Hz)/tau_E + sigma*xi_E*tau_E**-0.5 : Hz
dr_I/dt = (-r_I + k*clip(drive_I/mV, 0, 1e9)**power*Hz)/tau_I + sigma*xi_I*tau_I**-0.5 : Hz
drive_E = c + W_EE*r_E*mV/Hz - W_EI*r_I*mV/Hz : volt
drive_I = c + extra_I + W_IE*r_E*mV/Hz - W_II*r_I*mV/Hz : volt
"""

CONSTANTS = {"k": "0.04", "power": "2", "tau_E": "20*ms", "tau_I": "10*ms"}


def circuit() -> Circuit:
    """The circuit with a prior over the four couplings, both inputs and the noise."""
    return Circuit(
        name="ssn",
        prior=Prior.from_toml(files("sbi_circuits.priors").joinpath("ssn.toml").read_text()),
        populations=(Population("pair", "1", EQUATIONS, method="trapezoid"),),
        constants=CONSTANTS,  # type: ignore[arg-type]
        dt=1e-4,
        defaults={  # type: ignore[arg-type]
            "W_EE": 1.25, "W_EI": 0.65, "W_IE": 1.2, "W_II": 0.5, "c": 20.0, "extra_I": 0.0, "sigma": 0.2,
        },
        readouts=(
            Readout("r_E", "pair", "r_E", "Hz", title="rate of the excitatory cells"),
            Readout("r_I", "pair", "r_I", "Hz", title="rate of the inhibitory cells"),
            Readout("field", "pair", "W_EE*r_E*mV/Hz - W_EI*r_I*mV/Hz", "mV",
                    title="net recurrent input to excitatory cells; assumes that it makes the field"),
        ),
        title="Stabilised supralinear network of two populations, 7 free parameters",
        source="Rubin, Van Hooser, Miller 2015, Neuron 85:402",
    )  # fmt: skip
