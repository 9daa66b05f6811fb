"""Directions of Brunel's network: recovered from rates, against the analytic ones of the mean-field theory."""

import numpy as np
import pytest

from benchmarks.subspace import ASYNCHRONOUS, RATE, directions, mean_field_rate, stiff_direction
from sbi_circuits import TrainingConfig, get_circuit, train
from sbi_circuits.circuit import Record
from sbi_circuits.inference import TrainingData
from sbi_circuits.simulation import simulate

CONFIG = TrainingConfig(members=2, drop=0.0, epochs=40)


def test_the_rate_constrains_one_direction_and_it_is_the_analytic_one() -> None:
    """Rates of the theory with 3 % noise; the shuffled ones are the negative control."""
    theta = ASYNCHRONOUS.sample(500, seed=0)
    random = np.random.default_rng(0)
    log_rate = np.log([mean_field_rate(t) for t in theta])[:, None] + 0.03 * random.standard_normal((500, 1))
    states = np.zeros((500, 1), dtype=np.uint8)
    found = []
    for seen in (log_rate, random.permutation(log_rate)):
        data = TrainingData(theta, seen, states, ASYNCHRONOUS, (RATE,))
        found.append(directions(train(data, CONFIG, progress=False, seed=0), seen, each=12))
    right, control = found
    assert np.median(right.stiff) < 8.0 and np.median(right.sloppy) < 8.0
    assert np.median(control.stiff) > 25.0 and np.median(control.information) < 5.0 < np.median(right.information)


def test_the_analytic_direction_is_what_the_theory_says_of_single_parameters() -> None:
    slope = stiff_direction(ASYNCHRONOUS, np.zeros(4))
    assert slope[0] < -0.2 and slope[1] > 0.2  # inhibition lowers the rate, drive raises it
    assert abs(slope[3]) < 1e-6  # the stationary rate does not depend on the delay


@pytest.mark.slow
def test_the_theory_is_that_of_the_simulated_network() -> None:
    circuit = get_circuit("brunel").with_prior(ASYNCHRONOUS)
    theta = ASYNCHRONOUS.sample(6, seed=5)
    record = Record(spikes=100, counts=True)
    for row, run in zip(theta, simulate(circuit, theta, 0.4, seed=1, warmup=0.1, record=record), strict=True):
        assert run.recording is not None
        rate = run.recording.counts["exc"].values.sum() / 10_000 / 0.4
        assert rate == pytest.approx(mean_field_rate(row), rel=0.12)
