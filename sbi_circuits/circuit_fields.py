"""LFP proxies: weighted sums of signals, each shifted in time, as a signal of their own."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sbi_circuits.circuit_parts import Readout
from sbi_circuits.errors import CircuitError, UnknownNameError

if TYPE_CHECKING:
    from sbi_circuits.circuit import Circuit

# Mazzoni et al. 2015, the weighted sum of fixed coefficients: delays of both currents, s, and the weight of GABA's.
AMPA_DELAY, GABA_DELAY, GABA_WEIGHT = 6e-3, 0.0, 1.65


@dataclass(frozen=True)
class FieldProxy:
    """A signal made of readouts: the sum of `weight` times each, as it was `delay` seconds before.

    Engines sample the readouts (reduced over neurons while they simulate) and add; before the start of a simulation a
    readout counts as it is at the start, so that a warmup as long as the longest delay makes it exact.

    Args:
        name: of the signal; an identifier.
        terms: (readout, weight, delay in s) of each; the readouts have one channel.
        unit: of the readouts.
        title: what the signal stands for, and what that assumes.

    Raises:
        CircuitError: a name that is no identifier, no terms, a negative delay.
    """

    name: str
    terms: tuple[tuple[str, float, float], ...]
    unit: str
    title: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "terms", tuple((str(n), float(w), float(d)) for n, w, d in self.terms))
        if not self.name.isidentifier():
            raise CircuitError(f"proxy name {self.name!r} is not an identifier")
        if not self.terms or any(d < 0 for _, _, d in self.terms):
            raise CircuitError(f"proxy {self.name} needs terms (readout, weight, delay in s), no delay below 0")


def check_proxies(circuit: "Circuit") -> None:
    """Raise for the first proxy that does not fit a circuit."""
    readouts = {r.name: r for r in circuit.readouts}
    names = [*readouts, *(p.name for p in circuit.proxies)]
    if len(set(names)) != len(names):
        raise CircuitError(f"circuit {circuit.name}: readouts and proxies need distinct names, got {names}")
    for proxy in circuit.proxies:
        for name, _, _ in proxy.terms:
            if name not in readouts:
                raise UnknownNameError(f"readout of proxy {proxy.name}", name, readouts)
            if readouts[name].over == "each" or readouts[name].unit != proxy.unit:
                raise CircuitError(
                    f"proxy {proxy.name} ({proxy.unit}) adds readouts of its unit over sum or mean; {name} is in "
                    f"{readouts[name].unit} over {readouts[name].over}"
                )


def with_lfp(
    circuit: "Circuit", population: str = "exc", *, ampa: str = "g_e*(E_ge - v)", gaba: str = "g_i*(E_gi - v)",
    unit: str = "pA", over: str = "mean",
) -> "Circuit":  # fmt: skip
    """The circuit with an LFP proxy: the reference weighted sum (RWS) of Mazzoni et al. 2015.

    lfp(t) = I_AMPA(t - 6 ms) - 1.65 I_GABA(t - 0 ms), each summed over the excitatory cells (Mazzoni et al. 2015, PLoS
    Comput Biol 11:e1004584; they normalise it, and so do features with `relative`). Depolarising currents are positive:
    as long as GABA hyperpolarises, its current is negative, and the sum is |I_AMPA| + 1.65 |I_GABA|, both on one side
    because an inward current at the apical dendrite and an outward one at the soma make the same dipole.

    It stands for the potential beside pyramidal cells with parallel dendrites, away from the depth where the dipole
    turns over, and assumes that

    - the synaptic currents of all excitatory cells add alike, wherever they are;
    - excitatory synapses sit on apical dendrites and inhibitory ones near somata, which is in the delay and the weight;
    - other cells, other currents and spikes add nothing.

    The values were fitted to one network of integrate-and-fire cells; they are not fitted to this circuit.

    Args:
        circuit: any circuit.
        population: of the excitatory (pyramidal) cells.
        ampa, gaba: currents of one of its cells, expressions over its variables and the circuit's constants.
        unit: of both.
        over: "sum" or "mean" over the cells.

    Returns:
        the circuit with the readouts `ampa` and `gaba` and the proxy `lfp`, for `Record(signals=("lfp",))`.

    Raises:
        CircuitError: an expression that does not fit the population.

    Examples:
        >>> from sbi_circuits.circuit import get_circuit
        >>> [p.name for p in with_lfp(get_circuit("adex_clustered")).proxies]
        ['lfp']
    """
    currents = (
        Readout("ampa", population, ampa, unit, over, "excitatory synaptic current"),
        Readout("gaba", population, gaba, unit, over, "inhibitory synaptic current"),
    )
    title = "LFP proxy: AMPA currents 6 ms before less 1.65 GABA currents of excitatory cells (Mazzoni et al. 2015)"
    proxy = FieldProxy("lfp", (("ampa", 1.0, AMPA_DELAY), ("gaba", -GABA_WEIGHT, GABA_DELAY)), unit, title)
    return replace(circuit, readouts=(*circuit.readouts, *currents), proxies=(*circuit.proxies, proxy))
