"""Features on tensors are those of arrays, their gradients are finite differences, and refine comes nearer."""

import numpy as np
import pytest
import torch

from sbi_circuits.circuit import Record, get_circuit
from sbi_circuits.engines import Protocol
from sbi_circuits.errors import CircuitError, FeatureError
from sbi_circuits.features.field import SMOOTH, Field
from sbi_circuits.features.field_pairs import FieldPair
from sbi_circuits.gradients.refine import STEP_COST, Target, constrain, refine
from sbi_circuits.gradients.smooth import smooth_features, smooth_names, smooth_pair
from sbi_circuits.prior import Parameter, Prior
from sbi_circuits.recording import Recording, Signal
from tests.test_torch_engine import assert_gradients_agree

RATE = 500.0
FIELDS = [Field(), Field(low=2, high=45, segment=2.0), Field(relative=True), Field(segment=1.002)]


def walk(channels: int = 2, seconds: float = 5.0) -> np.ndarray:
    draw = np.random.default_rng(3)
    noise = draw.standard_normal((channels, round(seconds * RATE)))
    return np.cumsum(noise, axis=1) * 0.05 + noise + np.sin(2 * np.pi * 9 * np.arange(noise.shape[1]) / RATE)


@pytest.mark.parametrize("field", FIELDS)
def test_tensors_and_arrays_have_the_same_features(field: Field) -> None:
    values = walk()
    found = smooth_features(torch.as_tensor(values), RATE, field).numpy()
    names = smooth_names(field)
    for k in range(2):
        of = Recording(0.0, 5.0, signals={"field": Signal(values[k : k + 1], RATE, "mV")})
        measured = field.measure(of)
        expected = {n: v for n, v, s in zip(field.names, measured.values, measured.states, strict=True) if s == 0}
        assert set(names) == set(SMOOTH) & set(expected)
        assert found[k] == pytest.approx([expected[n] for n in names], rel=1e-9)


def test_pairs_on_tensors_and_arrays_are_the_same() -> None:
    values = walk()
    of = Recording(0.0, 5.0, signals={"field": Signal(values, RATE, "mV")})
    expected = FieldPair().measure(of).values[[0, *range(3, 8)]]
    assert smooth_pair(torch.as_tensor(values)[None], RATE)[0].numpy() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("number", range(len(SMOOTH)))
def test_gradients_of_every_smooth_feature_are_finite_differences(number: int) -> None:
    """By the amplitudes of twelve waves that make up the signal."""
    basis = torch.as_tensor(np.sin(2 * np.pi * np.outer(np.linspace(2, 70, 12), np.arange(1500) / RATE)))
    noise = torch.as_tensor(walk(1, 3.0)[0])

    def loss(amplitude: torch.Tensor) -> torch.Tensor:
        return smooth_features((amplitude @ basis + noise)[None], RATE, Field())[0, number]

    start = torch.linspace(0.5, 2.0, 12, dtype=torch.float64).requires_grad_()
    assert_gradients_agree(loss, start, rtol=1e-4)


def test_gradients_of_pairs_are_finite_differences() -> None:
    noise = torch.as_tensor(walk(3, 3.0))

    def loss(mixing: torch.Tensor) -> torch.Tensor:
        first, second = noise[0] + mixing[0] * noise[2], noise[1] + mixing[1] * noise[2]
        return smooth_pair(torch.stack([first, second])[None], RATE)[0].sum()

    assert_gradients_agree(loss, torch.tensor([0.4, 0.7], dtype=torch.float64, requires_grad=True), rtol=1e-4)


def test_the_unbounded_coordinates_are_the_priors() -> None:
    prior = Prior((Parameter("a", "1", -2, 3), Parameter("b", "ms", 1, 100, "log")))
    z = np.random.default_rng(0).standard_normal((5, 2))
    assert constrain(prior, torch.as_tensor(z)).numpy() == pytest.approx(prior.constrain(z))
    assert_gradients_agree(lambda v: constrain(prior, v).sum(), torch.as_tensor(z).requires_grad_())


def observed(steps: float = 1.0) -> tuple[object, Protocol, Target, np.ndarray]:
    """Jansen-Rit's column, and features of one of its configurations."""
    circuit = get_circuit("jansen_rit").fix(sigma=0.5)
    protocol = Protocol(1.0, 0.3, Record(counts=False, signals=("field",), signal_rate=500.0), dt=2e-3)
    field = Field(low=2, high=45)
    names = ("log_power_theta", "log_power_alpha", "log_power_beta", "centre")
    truth = np.array([{**dict(circuit.defaults), "a": 90.0, "p": 260.0}[n] for n in circuit.prior.names])
    from sbi_circuits.engines.torch_engine import TorchEngine

    with torch.no_grad():
        signal = TorchEngine("double", "cpu").signals(circuit, torch.as_tensor(np.tile(truth, (8, 1))), protocol, 99,
                                                      range(8))["field"][:, 0]  # fmt: skip
    features = smooth_features(signal, 500.0, field)[:, [smooth_names(field).index(n) for n in names]].mean(0)
    return circuit, protocol, Target(names, features.numpy(), np.array([0.5, 0.5, 0.5, 3.0]), field), truth


def test_refine_comes_nearer_to_the_observation_and_says_so_by_new_simulations() -> None:
    circuit, protocol, target, truth = observed()
    start = np.tile(circuit.default_theta(), (4, 1)) * np.linspace(0.9, 1.15, 4)[:, None]  # type: ignore[attr-defined]
    found = refine(circuit, start, target, protocol, seed=1, steps=10)  # type: ignore[arg-type]
    print(found.summary(), found.start_distance, found.distance)
    assert np.median(found.distance) < 0.6 * np.median(found.start_distance)
    assert circuit.prior.contains(found.theta).all() and found.path.shape == (10, 4)  # type: ignore[attr-defined]
    assert found.simulations == 4 * (10 * STEP_COST + 4)
    again = refine(circuit, start, target, protocol, seed=1, steps=2)  # type: ignore[arg-type]
    assert np.array_equal(again.path, found.path[:2])
    # The control: no steps, nothing gained; and the truth is near to begin with.
    still = refine(circuit, start, target, protocol, seed=1, steps=0)  # type: ignore[arg-type]
    assert np.allclose(still.theta, start) and np.median(still.distance) > 1.5 * np.median(found.distance)
    near = refine(circuit, truth[None], target, protocol, seed=1, steps=0)  # type: ignore[arg-type]
    assert near.distance[0] < np.median(found.start_distance)


def test_bad_arguments_get_one_clear_line() -> None:
    circuit, protocol, target, truth = observed()
    with pytest.raises(FeatureError, match=r"feature 'peak_frequency' has no gradient; valid: log_power_delta"):
        Target(("peak_frequency",), np.zeros(1), np.ones(1), Field())
    with pytest.raises(FeatureError, match="target: 1 features need as many values and positive scales"):
        Target(("centre",), np.zeros(2), np.ones(1), Field())
    with pytest.raises(CircuitError, match="the record keeps no signal 'rate'; it keeps: field"):
        refine(circuit, truth, Target(("centre",), np.zeros(1), np.ones(1), Field(signal="rate")), protocol)  # type: ignore[arg-type]
