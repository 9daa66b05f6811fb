"""The shipped circuits do what their papers say; figures measured at fixed seeds, with a control that must differ."""

from dataclasses import replace

import numpy as np
import pytest

from sbi_circuits.circuit import Circuit, Record, get_circuit
from sbi_circuits.engines import Protocol
from sbi_circuits.engines.brian2_engine import _isolated, build_model
from sbi_circuits.engines.kernel_numba import NumbaEngine
from sbi_circuits.engines.setup import prepare
from sbi_circuits.recording import Recording
from sbi_circuits.units import evaluate


def simulate(circuit: Circuit, duration: float, index: int = 0, precision: str = "single", **theta: float) -> Recording:
    """The recording of the kernel at the defaults and some other values, early stop off."""
    values = np.array([{**dict(circuit.defaults), **theta}[n] for n in circuit.prior.names])
    protocol = Protocol(duration, record=Record(counts=True, moments=True), early_stop=False)
    recording = NumbaEngine(precision).run(circuit, values, protocol, 11, index).recording
    assert recording is not None
    return recording


def rates(recording: Recording, population: str, bin_s: float) -> np.ndarray:
    """Mean rate of a population in consecutive bins, Hz."""
    counts = recording.counts[population]
    bins = counts.values.reshape(-1, round(bin_s * 1000))
    return bins.sum(1) / counts.size / bin_s


def with_constants(circuit: Circuit, **constants: str) -> Circuit:
    return replace(circuit, constants={**dict(circuit.constants), **constants})  # type: ignore[arg-type]


def band_power(recording: Recording, low: float, high: float) -> float:
    """Mean power of the excitatory population count in a band (Hz), averaged over windows of 1 s."""
    windows = recording.counts["exc"].values.reshape(-1, 1000).astype(float)
    windows = (windows - windows.mean(1, keepdims=True)) * np.hanning(1000)
    power = (abs(np.fft.rfft(windows)) ** 2).mean(0)
    frequency = np.fft.rfftfreq(1000, 1e-3)
    return float(power[(frequency >= low) & (frequency < high)].mean())


def test_izhikevich_cells_are_spread_as_published() -> None:
    """(c, d) = (-65, 8) + (15, -6) r^2 and (a, b) = (0.02, 0.25) + (0.08, -0.05) r; in Brian2's network too."""
    circuit = get_circuit("izhikevich")
    setup = prepare(circuit, circuit.default_theta(), Protocol(0.01), 0, 0)
    exc, inh = (cells.initial for cells in setup.cells)
    assert exc["c"] == pytest.approx(-0.065 + 0.015 * exc["r"] ** 2)
    assert exc["d"] == pytest.approx(8 - 6 * exc["r"] ** 2)
    assert inh["a"] == pytest.approx(20 + 80 * inh["r"]) and inh["b"] == pytest.approx(250 - 50 * inh["r"])
    assert exc["r"].min() < 0.01 and exc["r"].max() > 0.99 and 0.45 < exc["r"].mean() < 0.55
    small = with_constants(circuit, n_total="50")
    setup = prepare(small, small.default_theta(), Protocol(0.01), 0, 0)
    with _isolated("numpy", key=0):
        model = build_model(small, setup)
    for name, values in setup.cells[0].initial.items():
        assert np.array_equal(np.asarray(model.groups["exc"].variables[name].get_value()), values)


def test_izhikevich_network_fires_at_eight_hertz_with_alpha_and_gamma_rhythms() -> None:
    """Izhikevich 2003: mean rate around 8 Hz, alpha (10 Hz) and gamma (40 Hz) rhythms; without synapses none."""
    circuit = get_circuit("izhikevich")
    recording = simulate(circuit, 5.0)
    assert 6 < rates(recording, "exc", 1.0)[1:].mean() < 11

    def rhythm(found: Recording) -> tuple[float, float]:
        beyond = band_power(found, 100, 200)
        return band_power(found, 7, 13) / beyond, band_power(found, 30, 50) / beyond

    alpha, gamma = rhythm(recording)
    quiet_alpha, quiet_gamma = rhythm(simulate(circuit, 5.0, w_e=0.05, w_i=0.2))
    assert alpha > 10 * quiet_alpha and gamma > 5 * quiet_gamma
    assert band_power(recording, 7, 13) > 2 * band_power(recording, 15, 25)


@pytest.mark.parametrize("index", [0, 1])
def test_a_cue_is_held_in_facilitated_synapses(index: int) -> None:
    """Mongillo et al. 2008: after the cue (2-2.35 s) the cells come back in population spikes; not without the cue,
    not with a weaker background, and not where facilitation decays in 100 ms."""
    circuit = get_circuit("lif_stp")

    def peaks(**theta: float) -> int:
        """Bins of 20 ms after 2.6 s in which the selective cells fire at more than 60 Hz."""
        found = rates(simulate(circuit, 4.6, index, **theta), "selective", 0.02)
        return int((found[130:] > 60).sum())

    held = peaks()
    assert 2 <= held <= 10
    assert peaks(cue=0.0) == peaks(mu_E=22.5) == peaks(tau_f=100.0) == 0


def test_hodgkin_huxley_rates_are_those_of_the_benchmark() -> None:
    """alpha_m and its kin by the formulas of Brette et al. 2007, appendix, from the circuit's own text."""
    circuit = get_circuit("hodgkin_huxley")
    lines = circuit.populations[0].equations.splitlines()
    parts = [line.replace(":", "=").split("=") for line in lines if line.startswith(("alpha", "beta"))]
    text = {name.strip(): expression for name, expression, _ in parts}
    u = np.linspace(-60.3, 90.7, 300)  # v - V_T, mV
    known = {"v": (u - 63) * 1e-3, "V_T": -63e-3}
    published = {
        "alpha_m": 0.32 * (13 - u) / (np.exp((13 - u) / 4) - 1), "beta_m": 0.28 * (u - 40) / (np.exp((u - 40) / 5) - 1),
        "alpha_h": 0.128 * np.exp((17 - u) / 18), "beta_h": 4 / (1 + np.exp((40 - u) / 5)),
        "alpha_n": 0.032 * (15 - u) / (np.exp((15 - u) / 5) - 1), "beta_n": 0.5 * np.exp((10 - u) / 40),
    }  # fmt: skip
    assert set(text) == set(published)
    for name, expected in published.items():
        assert np.asarray(evaluate(text[name], known)) == pytest.approx(expected * 1e3, rel=1e-9)


@pytest.mark.parametrize("precision", ["single", "double"])
def test_hodgkin_huxley_spikes_overshoot_and_stay_below_the_sodium_potential(precision: str) -> None:
    """Spikes rise beyond 20 mV and never to E_Na = 50 mV; at E_L = -65 mV and without input the cells rest."""
    circuit = with_constants(get_circuit("hodgkin_huxley"), n_total="20", inputs="0", E_L="-55*mV")

    def spikes(level: str, **constants: str) -> int:
        cells = tuple(replace(p, threshold=f"v > {level}") for p in circuit.populations)
        changed = replace(with_constants(circuit, **constants), populations=cells)
        counts = simulate(changed, 0.1, precision=precision, rate=0.0).counts
        return int(sum(c.values.sum() for c in counts.values()))

    low, high = spikes("-20*mV"), spikes("20*mV")
    assert low == high > 50
    assert spikes("50*mV") == 0
    assert spikes("-20*mV", E_L="-65*mV") == 0


def test_hodgkin_huxley_network_is_irregular() -> None:
    recording = simulate(get_circuit("hodgkin_huxley"), 1.0)
    moments = recording.moments["exc"]
    enough = moments.spikes > 5
    mean = moments.total[enough] / (moments.spikes[enough] - 1)
    variance = moments.total_squared[enough] / (moments.spikes[enough] - 1) - mean**2
    assert enough.mean() > 0.6 and np.mean(np.sqrt(variance) / mean) > 0.7
    assert 10 < rates(recording, "exc", 1.0)[0] < 80
