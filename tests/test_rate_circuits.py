"""The rate circuits do what their papers say, each with a control on the other side of the transition."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from sbi_circuits.circuit import Circuit, Record, get_circuit
from sbi_circuits.engines import Protocol, get_engine
from sbi_circuits.engines.rate_program import rate_program
from sbi_circuits.engines.rate_values import Lanes
from sbi_circuits.engines.torch_engine import TorchEngine, _functions
from sbi_circuits.engines.torch_source import torch_source
from sbi_circuits.prior import Parameter, Prior


def signals(name: str, rows: list[dict[str, float]], duration: float, warmup: float, *names: str,
            engine: str = "kernel[numba]", seed: int = 0, **constants: str) -> dict[str, np.ndarray]:  # fmt: skip
    """(configurations, channels, samples) of some signals at 1000 Hz; every run must be ok."""
    circuit = get_circuit(name)
    circuit = replace(circuit, constants={**dict(circuit.constants), **constants})  # type: ignore[arg-type]
    theta = np.array([[{**dict(circuit.defaults), **row}[n] for n in circuit.prior.names] for row in rows])
    protocol = Protocol(duration, warmup, Record(counts=False, signals=names))
    found = list(get_engine(engine).run_batch(circuit, theta, protocol, seed, range(len(theta))))
    assert all(s.outcome.ok for s in found)
    return {n: np.stack([s.recording.signals[n].values for s in found if s.recording]) for n in names}


def extent(values: np.ndarray) -> np.ndarray:
    """Peak to peak of the first channel of each configuration."""
    return np.ptp(values[:, 0], axis=-1)


def peak_frequency(values: np.ndarray, low: float = 1.0) -> float:
    """Frequency (Hz) of the largest Fourier component of one channel at 1000 Hz."""
    centred = (values - values.mean()) * np.hanning(len(values))
    power, frequency = abs(np.fft.rfft(centred, 8 * len(values))) ** 2, np.fft.rfftfreq(8 * len(values), 1e-3)
    return float(frequency[np.where(frequency > low, power, 0).argmax()])


def jacobian_eigenvalues(circuit: Circuit, theta: np.ndarray, state: list[float], order: list[str]) -> np.ndarray:
    """Eigenvalues (1/s) of a circuit of one unit at its fixed point, by one Euler step of automatic differentiation.

    Args:
        circuit: with one population of one unit; its noise must be 0.
        theta: configuration.
        state: where the search for the fixed point begins, SI.
        order: names of the variables in `state`.
    """
    population = replace(circuit.populations[0], method="euler")
    circuit = replace(circuit, populations=(population,))
    program = rate_program(circuit, False, "torch")
    part, dt = program.parts[0], 1e-6
    lanes = Lanes(circuit, program, theta[None], 0, (0,), (1,), dt)
    K = lanes.invariants(part.invariants, lanes.known(0), float).tolist()
    update = _functions(torch_source(circuit.name, program)).update_0

    def drift(x: torch.Tensor) -> torch.Tensor:
        values = dict(zip(order, x, strict=True))
        noise = [torch.zeros(())] * len(part.noise)
        found = update(*(values[v] for v in part.variables), *noise, 0.0, 0.0, K, torch.float64)
        after = dict(zip(part.variables, found, strict=True))
        return torch.stack([(after[v] - values[v]) / dt for v in order])

    x = torch.tensor(state, dtype=torch.float64)
    for _ in range(50):
        jacobian = torch.autograd.functional.jacobian(drift, x)
        x = x - torch.linalg.solve(jacobian, drift(x))
    assert float(drift(x).abs().max()) < 1e-6 * float(x.abs().max()) / dt * 1e-3
    return torch.linalg.eigvals(torch.autograd.functional.jacobian(drift, x)).numpy()


def test_wilson_cowan_oscillates_between_two_onsets_of_the_drive() -> None:
    """Wilson, Cowan 1972, figure 11: a limit cycle at P = 1.25; rest at P = 0 (and a high state at large P)."""
    drives = [0.0, 0.75, 1.25, 1.5, 2.5, 3.5]
    found = signals("wilson_cowan", [{"P": p, "sigma": 0.0} for p in drives], 1.0, 2.0, "E", "I")
    swing = extent(found["E"])
    assert (swing[[0, 1, 4, 5]] < 1e-3).all() and (swing[[2, 3]] > 0.1).all()
    assert found["E"][0].mean() < 0.01 < 0.2 < found["E"][5].mean()
    cycle = found["E"][2, 0], found["I"][2, 0]
    lag = np.argmax([np.corrcoef(cycle[0][:900], cycle[1][k : 900 + k])[0, 1] for k in range(20)])
    assert 2 <= lag <= 15  # inhibition follows excitation


def test_the_onset_of_wilson_cowans_oscillation_is_where_the_fixed_point_loses_its_stability() -> None:
    circuit = get_circuit("wilson_cowan")

    def growth(drive: float) -> float:
        theta = np.array([{**dict(circuit.defaults), "P": drive, "sigma": 0.0}[n] for n in circuit.prior.names])
        return float(jacobian_eigenvalues(circuit, theta, [0.2, 0.1], ["E", "I"]).real.max())

    edges = np.array([1.75, 1.9, 2.0, 2.2])
    rates = np.array([growth(p) for p in edges])
    assert (np.diff(rates) < 0).all() and rates[0] > 0 > rates[-1]
    onset = float(np.interp(0, -rates, edges))
    swing = extent(signals("wilson_cowan", [{"P": onset + d, "sigma": 0.0} for d in (-0.1, 0.1)], 0.5, 6.0, "E")["E"])
    assert swing[0] > 0.02 and swing[1] < 1e-3


def test_the_supralinear_network_responds_paradoxically_under_strong_input() -> None:
    """Input to inhibitory cells lowers their own rate where recurrent excitation alone would be unstable."""
    rows = [{"c": c, "sigma": 0.0, "extra_I": e} for c in (2.0, 40.0) for e in (0.0, 0.5)]
    found = signals("ssn", rows, 0.01, 1.0, "r_E", "r_I")
    rate = {n: v[:, 0, -1] for n, v in found.items()}
    assert rate["r_I"][1] > rate["r_I"][0] and rate["r_E"][1] < rate["r_E"][0]  # weak input
    assert rate["r_I"][3] < rate["r_I"][2] and rate["r_E"][3] < rate["r_E"][2]  # strong input
    # k n (drive)^(n - 1) W_EE - 1: growth of excitation on its own.
    for k, unstable in ((0, False), (2, True)):
        drive = np.sqrt(rate["r_E"][k] / 0.04)
        assert (0.04 * 2 * drive * 1.25 > 1) == unstable


def test_the_random_network_becomes_chaotic_at_a_coupling_of_one() -> None:
    """Sompolinsky et al. 1988: silent below g = 1; above it active, and two close starts part."""
    rows = [{"g": g} for g in (0.7, 0.9, 1.3, 2.0)]
    found = signals("random_rate", rows, 0.5, 3.0, "rates")["rates"]
    spread = found.std(axis=(1, 2))
    assert (spread[:2] < 1e-6).all() and spread[2] > 0.2 and spread[3] > spread[2]
    assert divergence(2.5) > 1e3 > 1e-1 > divergence(0.7)


def divergence(g: float) -> float:
    """How much a difference of 1e-8 in the drive, felt for 20 ms, has grown after 1 s."""
    circuit = get_circuit("random_rate")
    pulse = replace(circuit.populations[0], equations=circuit.populations[0].equations.replace(
        "drive)", "1e-8*kick*int(t < 20*ms))"))  # fmt: skip
    parameters = tuple(p for p in circuit.prior.parameters if p.name != "drive")
    circuit = replace(circuit, populations=(pulse,), prior=Prior((*parameters, Parameter("kick", "1", 0, 1))),
                      defaults=())  # fmt: skip
    protocol = Protocol(1.0, record=Record(counts=False, signals=("rates",)))
    pair = [TorchEngine().run(circuit, np.array([g, 10.0, k]), protocol, 3, 0).recording for k in (0.0, 1.0)]
    assert pair[0] is not None and pair[1] is not None
    apart = np.linalg.norm(pair[0].signals["rates"].values - pair[1].signals["rates"].values, axis=0)
    return float(apart[-1] / apart[20])


def test_jansen_rit_has_an_alpha_rhythm() -> None:
    """Jansen, Rit 1995: 8 to 12 Hz for inputs between 120 and 320/s; without oscillation far above."""
    rows = [{"p": p, "sigma": 0.0} for p in (120.0, 200.0, 280.0, 450.0)]
    field = signals("jansen_rit", rows, 2.0, 4.0, "field")["field"]
    assert all(8 < peak_frequency(field[k, 0]) < 12 for k in range(3))
    assert (extent(field)[:3] > 1.5).all() and extent(field)[3] < 0.01
    noisy = signals("jansen_rit", [{"p": 220.0, "sigma": 2.0}], 4.0, 2.0, "field")["field"]
    assert 8 < peak_frequency(noisy[0, 0]) < 12


def test_the_bifurcations_of_jansen_rit_are_the_published_ones() -> None:
    """Grimbert, Faugeras 2006, section 3: Hopf bifurcations of the upper branch at p = 89.83 and 315.70/s."""
    circuit = get_circuit("jansen_rit")
    order = ["y0", "y1", "y2", "y3", "y4", "y5"]

    def growth(p: float) -> float:
        theta = np.array([{**dict(circuit.defaults), "p": p, "sigma": 0.0}[n] for n in circuit.prior.names])
        values = jacobian_eigenvalues(circuit, theta, [0.11e-3, 24e-3, 17e-3, 0.0, 0.0, 0.0], order)
        return float(values.real[np.abs(values.imag) > 1].max())

    for published, sign in ((89.83, 1), (315.70, -1)):
        below, above = growth(published - 0.5), growth(published + 0.5)
        assert sign * below < 0 < sign * above


def test_clusters_freeze_are_silent_or_chaotic() -> None:
    """Stern et al. 2014: silent at s < 1 and weak coupling, one of many fixed points at s > 1, chaos at large g."""
    rows = [{"s": s, "g": g} for s, g in ((0.5, 0.3), (2.0, 0.2), (0.5, 2.5))]
    found = signals("clustered_rate", rows, 0.5, 3.0, "rates")["rates"]
    size, motion = np.abs(found).mean(axis=(1, 2)), found.std(axis=2).mean(axis=1)
    assert size[0] < 1e-6 and size[1] > 0.8 and size[2] > 0.4
    assert motion[1] < 1e-6 and motion[2] > 0.2
    ends = [signals("clustered_rate", rows[1:2], 0.01, 2.0, "rates", seed=s)["rates"][0, :, -1] for s in (0, 1)]
    signs = np.sign(ends)
    assert 0.2 < (signs[0] == signs[1]).mean() < 0.8  # another start, another fixed point


def test_the_leg_rhythm_has_the_published_frequencies_and_threshold() -> None:
    """Pugliese et al. 2025: 12 to 19 Hz for most settings at the upper ends of the counts, silent at low drive."""
    counts = {"N_dn_e1": 167.0, "N_e1_e2": 527.0, "N_e2_i1": 129.0, "N_i1_e1": 847.0}
    rows = [{**counts, "drive": d, "N_i1_e2": n} for d in (300.0, 350.0, 400.0) for n in (0.0, 100.0, 200.0)] * 8
    found = signals("leg_rhythm", rows, 2.0, 1.0, "E1")["E1"]
    beating = extent(found) > 2.0
    inside = [12 <= peak_frequency(found[k, 0]) <= 19 for k in np.flatnonzero(beating)]
    print(beating.mean(), np.mean(inside))
    assert beating.mean() > 0.75 and np.mean(inside) > 0.9
    quiet = signals("leg_rhythm", [{**counts, "drive": d, "N_i1_e2": 200.0} for d in (100.0, 150.0)], 1.0, 1.0,
                    "E1", "E2", "I1")  # fmt: skip
    assert max(float(extent(v).max()) for v in quiet.values()) < 0.01
    assert max(float(v.max()) for v in quiet.values()) < 0.5


SLOWLY = [pytest.param(n, marks=pytest.mark.slow) for n in ("wilson_cowan", "ssn")]


@pytest.mark.parametrize("name", ["jansen_rit", *SLOWLY])
def test_noise_has_the_same_effect_on_every_engine(name: str) -> None:
    """The engines torch and kernel[numba] draw the same numbers; Brian2's give the same spread."""
    circuit = get_circuit(name)
    theta = np.repeat(circuit.default_theta()[None], 2, axis=0)
    signal = circuit.readouts[0].name
    protocol = Protocol(0.1, 0.1, Record(counts=False, signals=(signal,)))

    def found(engine: str) -> np.ndarray:
        runs = get_engine(engine).run_batch(circuit, theta, protocol, 1, range(2))
        return np.stack([s.recording.signals[signal].values[0] for s in runs if s.recording])

    kernel, tensors, brian2 = found("kernel[numba]"), found("torch"), found("brian2")
    scale = kernel.std()
    assert np.abs(kernel - tensors).max() < 1e-2 * scale
    assert np.abs(kernel[0] - kernel[1]).max() > 0.1 * scale
    assert 0.5 < brian2.std() / scale < 2 and np.abs(brian2 - kernel).max() > 0.1 * scale
