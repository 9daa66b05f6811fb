"""Jansen-Rit cortical column: pyramidal cells, excitatory and inhibitory interneurons, with an alpha rhythm.

Jansen, Rit 1995, Biol Cybern 73:357, equation 6: A = 3.25 mV, B = 22 mV, a = 100/s, b = 50/s, v0 = 6 mV, e0 = 2.5/s,
r = 0.56/mV, C = 135, C1 = C, C2 = 0.8 C, C3 = C4 = 0.25 C, input p between 120 and 320/s. Its bifurcations with p are
those of Grimbert, Faugeras 2006, Neural Comput 18:3052: an alpha rhythm between p = 89.83 and 315.70/s. The input's
noise is white, of strength sigma.
"""

from importlib.resources import files

from sbi_circuits.circuit import Circuit, Population, Readout
from sbi_circuits.prior import Prior

EQUATIONS = """
dy0/dt = y3 : volt
dy1/dt = y4 : volt
dy2/dt = y5 : volt
dy3/dt = A*a*S_0 - 2*a*y3 - a**2*y0 : volt/second
dy4/dt = A*a*(p + C2*S_1) - 2*a*y4 - a**2*y1 + A*a*sigma*xi : volt/second
dy5/dt = B*b*C4*S_2 - 2*b*y5 - b**2*y2 : volt/second
S_0 = 2*e0/(1 + exp(r*(v0 - (y1 - y2)))) : Hz
S_1 = 2*e0/(1 + exp(r*(v0 - C1*y0))) : Hz
S_2 = 2*e0/(1 + exp(r*(v0 - C3*y0))) : Hz
"""

CONSTANTS = {
    "v0": "6*mV", "e0": "2.5*Hz", "r": "0.56/mV", "C1": "C", "C2": "0.8*C", "C3": "0.25*C", "C4": "0.25*C",
}  # fmt: skip


def circuit() -> Circuit:
    """The circuit with a prior over both gains, both rate constants, connectivity, input and its noise."""
    return Circuit(
        name="jansen_rit",
        prior=Prior.from_toml(files("sbi_circuits.priors").joinpath("jansen_rit.toml").read_text()),
        populations=(
            Population("column", "1", EQUATIONS, method="trapezoid",
                       initial={"y0": "0.1*mV", "y1": "20*mV", "y2": "15*mV"}),  # type: ignore[arg-type]
        ),
        constants=CONSTANTS,  # type: ignore[arg-type]
        dt=1e-4,
        defaults={  # type: ignore[arg-type]
            "A": 3.25, "B": 22.0, "a": 100.0, "b": 50.0, "C": 135.0, "p": 220.0, "sigma": 2.0,
        },
        readouts=(
            Readout("field", "column", "y1 - y2", "mV",
                    title="membrane potential of the pyramidal cells; assumes that it is proportional to the field"),
            Readout("rate", "column", "S_0", "Hz", title="firing rate of the pyramidal cells"),
        ),
        title="Jansen-Rit column, 7 free parameters",
        source="Jansen, Rit 1995, Biol Cybern 73:357",
    )  # fmt: skip
