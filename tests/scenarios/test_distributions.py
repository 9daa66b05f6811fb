"""Brian2 and the kernel on random networks: rates, irregularity and spectra from the same distributions.

Both engines simulate the same networks (same wiring and initial state) with their own noise. If they agree,
the two results of a network could be swapped; a permutation test swaps them at random. The error
probability of every comparison is ALPHA, and a kernel with one time constant off by 20 % must fail it.
"""

import dataclasses

import numpy as np
import pytest
from scipy.signal import welch

from sbi_circuits.circuit import Circuit, Record, get_circuit
from sbi_circuits.engines import Engine, Protocol
from sbi_circuits.engines.brian2_engine import Brian2Engine
from sbi_circuits.engines.kernel_numba import NumbaEngine
from sbi_circuits.recording import IntervalMoments, Recording
from sbi_circuits.seeds import generator

ALPHA = 1e-3
BANDS = ((2, 8), (8, 30), (30, 100), (100, 300))  # Hz
SWAPS = 19999
SELECTION = 10**6  # simulation indices by which draws are chosen; never those that are compared


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is compared: prior draws of a circuit, how many networks of each, and for how long (seconds)."""

    circuit: Circuit
    draws: int
    networks: int
    duration: float
    seed: int = 1

    def thetas(self) -> list[np.ndarray]:
        """The first prior draws whose network neither falls silent nor saturates."""
        chosen: list[np.ndarray] = []
        index = 0
        while len(chosen) < self.draws:
            theta = self.circuit.prior.sample(1, self.seed, index)[0]
            if self._alive(theta, SELECTION + index):
                chosen.append(theta)
            index += 1
        return chosen

    def _alive(self, theta: np.ndarray, index: int) -> bool:
        simulation = NumbaEngine().run(self.circuit, theta, Protocol(1.2), self.seed, index)
        if simulation.recording is None:
            return False
        counts = simulation.recording.counts["exc"]
        return 0.5 < counts.values.sum() / counts.size / 1.2 < 80

    def statistics(
        self, engine: Engine, thetas: list[np.ndarray], circuit: Circuit | None = None
    ) -> np.ndarray:
        """Statistics of every simulation: (draws, networks, statistics)."""
        protocol = Protocol(self.duration, record=Record(moments=True), early_stop=False)
        circuit = self.circuit if circuit is None else circuit
        rows = []
        for d, theta in enumerate(thetas):
            for k in range(self.networks):
                simulation = engine.run(circuit, theta, protocol, self.seed, d * self.networks + k)
                assert simulation.recording is not None, simulation.outcome
                rows.append(summary(simulation.recording))
        return np.array(rows).reshape(len(thetas), self.networks, -1)


def summary(recording: Recording) -> np.ndarray:
    """Log rates, mean CV of the interspike intervals, and log power of the population rate in bands."""
    counts = recording.counts
    rates = [np.log(0.1 + c.values.sum() / c.size / recording.duration) for c in counts.values()]
    cvs = [mean_cv(recording.moments[name]) for name in counts]
    frequency, power = welch(counts["exc"].values.astype(float), fs=1000, nperseg=1000)
    bands = [np.log(1e-6 + power[(frequency >= a) & (frequency < b)].mean()) for a, b in BANDS]
    return np.array([*rates, *cvs, *bands])


def mean_cv(moments: IntervalMoments) -> float:
    """Mean over neurons with at least three spikes; NaN where there is none."""
    enough = moments.spikes >= 3
    if not enough.any():
        return float("nan")
    n = moments.spikes[enough] - 1
    mean = moments.total[enough] / n
    variance = np.maximum(moments.total_squared[enough] / n - mean**2, 0)
    return float(np.mean(np.sqrt(variance) / mean))


def swap_p_value(a: np.ndarray, b: np.ndarray) -> float:
    """Probability that two engines that agree differ this much: a permutation test on paired results.

    The test statistic adds up, over draws and statistics, the squared mean difference over networks in units
    of its root mean square, which no swap changes. A pair with an undefined value does not count.

    Args:
        a, b: (draws, networks, statistics); entry (d, k) of both belongs to the same network.
    """
    difference = np.nan_to_num(a - b)
    size = np.sqrt((difference**2).mean(1, keepdims=True))
    scaled = difference / np.where(size > 0, size, 1)
    signs = generator(0, "swaps").choice([-1.0, 1.0], size=(SWAPS, *scaled.shape[:2]))
    swapped = (np.einsum("rdk,dks->rds", signs, scaled) ** 2).sum((1, 2))
    observed = (scaled.sum(1) ** 2).sum()
    return float((1 + np.count_nonzero(swapped >= observed - 1e-9)) / (1 + SWAPS))


def slowed(circuit: Circuit, constant: str, factor: float = 1.2) -> Circuit:
    """The circuit with a time constant wrong in its equations; wiring and parameters stay the same."""
    wrong = [
        dataclasses.replace(p, equations=p.equations.replace(f"/{constant} ", f"/({factor}*{constant}) "))
        for p in circuit.populations
    ]
    assert wrong[0].equations != circuit.populations[0].equations
    return dataclasses.replace(circuit, populations=tuple(wrong))


def check(plan: Plan, reference: Engine) -> None:
    """The kernel passes the comparison with Brian2; with a wrong synaptic time constant it does not."""
    thetas = plan.thetas()
    expected = plan.statistics(reference, thetas)
    found = plan.statistics(NumbaEngine(), thetas)
    wrong = plan.statistics(NumbaEngine(), thetas, slowed(plan.circuit, "tau_ge"))
    p_right, p_wrong = swap_p_value(found, expected), swap_p_value(wrong, expected)
    print(f"p = {p_right:.4f} for the kernel, {p_wrong:.5f} with tau_ge off by 20 %")
    assert p_right > ALPHA
    assert p_wrong < ALPHA


def test_the_test_is_exact_where_nothing_differs() -> None:
    """Its p-values are uniform: half of them below 1/2, a tenth below 1/10, within 4 sd of chance."""
    draw = generator(3, "null")
    p = np.array([swap_p_value(*draw.standard_normal((2, 4, 4, 5))) for _ in range(100)])
    assert np.count_nonzero(p < 0.5) == pytest.approx(50, abs=4 * np.sqrt(25))
    assert np.count_nonzero(p < 0.1) == pytest.approx(10, abs=4 * np.sqrt(9))


def test_negative_control_a_shift_of_one_standard_deviation() -> None:
    a, b = generator(4, "shift").standard_normal((2, 20, 3, 5))
    assert swap_p_value(a, b) > ALPHA > swap_p_value(a + 1.0, b)


def test_undefined_statistics_do_not_count() -> None:
    a, b = generator(5, "undefined").standard_normal((2, 4, 4, 3))
    without = swap_p_value(a[..., :2], b[..., :2])
    a[..., 2] = np.nan
    assert swap_p_value(a, b) == without


def test_engines_agree_on_small_networks() -> None:
    circuit = get_circuit("adex_clustered")
    small = dataclasses.replace(circuit, constants={**dict(circuit.constants), "n_total": "300"})
    check(Plan(small, draws=5, networks=4, duration=1.0), Brian2Engine(target="numpy"))


@pytest.mark.slow
def test_engines_agree_on_twenty_prior_draws() -> None:
    check(Plan(get_circuit("adex_clustered"), draws=20, networks=3, duration=2.5), Brian2Engine())
