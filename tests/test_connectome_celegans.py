"""The worm's circuit of graded potentials, against Brian2 on the same table."""

import brian2 as b2
import numpy as np
import pytest

from sbi_circuits.connectome.celegans import GradedCircuit, GradedConstants, celegans
from sbi_circuits.errors import CircuitError, UnknownNameError

STIMULUS = {"PLML": 2.0, "PLMR": 2.0}  # pA


def brian2_voltages(circuit: GradedCircuit, duration: float, dt: float) -> np.ndarray:
    """(T, n) mV: the published equations as Brian2 integrates them, synapse by synapse."""
    wiring, c = circuit.wiring, circuit.constants
    b2.prefs.codegen.target = "numpy"
    b2.defaultclock.dt = dt * b2.second
    cells = b2.NeuronGroup(
        wiring.n_nodes,
        """dV/dt = (g_leak*(e_leak - V) + I_syn + I_gap + I)/capacitance : volt
        ds/dt = a_r/(1 + exp(-(V - V_th)*beta))*(1 - s) - a_d*s : 1
        I_syn : amp
        I_gap : amp
        I : amp
        V_th : volt""",
        method="rk4",
        namespace={
            "g_leak": c.g_leak * b2.psiemens, "e_leak": c.e_leak * b2.mV, "capacitance": c.capacitance * b2.pF,
            "a_r": c.a_r * b2.Hz, "a_d": c.a_d * b2.Hz, "beta": c.beta / b2.mV,
        },
    )  # fmt: skip
    synapses = b2.Synapses(cells, cells, "w : siemens\nE : volt\nI_syn_post = w*s_pre*(E - V_post) : amp (summed)")
    synapses.connect(i=wiring.source, j=wiring.target)
    synapses.w = c.g_syn * wiring.count * b2.psiemens
    synapses.E = np.where(wiring.sign > 0, c.e_excitatory, c.e_inhibitory) * b2.mV
    gaps = b2.Synapses(cells, cells, "g : siemens\nI_gap_post = g*(V_pre - V_post) : amp (summed)")
    matrix = wiring.gap_matrix()
    i, j = np.nonzero(matrix)
    gaps.connect(i=i, j=j)
    gaps.g = c.g_gap * matrix[i, j] * b2.psiemens
    cells.V_th = cells.V = circuit.threshold * b2.mV
    cells.s = circuit.resting_activation
    for name, value in STIMULUS.items():
        cells.I[int(np.flatnonzero(wiring.names == name)[0])] = value * b2.pA
    monitor = b2.StateMonitor(cells, "V", record=True, when="end")
    b2.Network(cells, synapses, gaps, monitor).run(duration * b2.second)
    return np.asarray(monitor.V / b2.mV).T


def test_the_worm_runs_as_brian2_says() -> None:
    """All neurons of the table (a cell outside has 2,000 junctions: tiny steps); a long step is told apart."""
    whole = celegans()
    circuit = GradedCircuit(whole.subset(["neuron"]))
    wanted = brian2_voltages(circuit, duration=0.008, dt=1e-5)
    found = circuit.run(STIMULUS, duration=0.008, dt=1e-5)
    moved = abs(wanted - circuit.threshold).max()
    assert moved > 0.5 and abs(found.voltage[0] - wanted).max() < 0.01 * moved
    coarse = circuit.run(STIMULUS, duration=0.008, dt=2e-3)
    assert abs(coarse.voltage[0, -1] - wanted[-1]).max() > 0.01 * moved


def test_without_input_every_cell_rests_where_its_synapses_are_half_way() -> None:
    circuit = GradedCircuit(celegans())
    quiet, touched = circuit.run([{}, STIMULUS], duration=0.2, onset=0.1, record=("PLML", "AVAL", "VA8")).voltage
    rest = circuit.threshold[[int(np.flatnonzero(circuit.wiring.names == n)[0]) for n in ("PLML", "AVAL", "VA8")]]
    assert abs(quiet - rest).max() < 1e-9 and abs(touched[:99] - rest).max() < 1e-9
    assert touched[-1, 0] - rest[0] > 0.1


def test_a_hyperpolarised_network_without_synapses_is_a_leak() -> None:
    """Law: with synapses and junctions of no conductance a cell charges as a capacitor does."""
    circuit = GradedCircuit(celegans(), GradedConstants(g_syn=0.0, g_gap=0.0))
    found = circuit.run({"AVAL": 1.0}, duration=0.3, record=("AVAL", "AVAR"))
    tau, depth = 1.0 / 10.0, 1e3 / 10.0  # C/g s, I/g mV
    assert np.allclose(found.voltage[0, :, 0], -35.0 + depth * (1 - np.exp(-found.time / tau)), atol=1e-6)
    assert np.allclose(found.voltage[0, :, 1], -35.0)


def test_cells_and_times_are_checked() -> None:
    circuit = GradedCircuit(celegans())
    with pytest.raises(UnknownNameError, match="unknown cell 'AVX'"):
        circuit.run({"AVX": 1.0}, duration=0.1)
    with pytest.raises(CircuitError, match="dt must be > 0 s"):
        circuit.run({}, duration=0.1, dt=0.0)
