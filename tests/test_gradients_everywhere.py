"""Gradients of every differentiable feature by every parameter, through every rate circuit that ships."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from sbi_circuits.circuit import Record, get_circuit, list_circuits
from sbi_circuits.engines import Protocol
from sbi_circuits.engines.torch_engine import TorchEngine
from sbi_circuits.features.field import BANDS, SMOOTH, Field
from sbi_circuits.gradients.refine import constrain
from sbi_circuits.gradients.smooth import smooth_features, smooth_names, smooth_pair
from tests.scenarios.rates import RATE_CIRCUITS, changed, small_rate

# A window of 1 s has every band; it is the shortest that has.
RATE, FIELDS = 500.0, (Field(low=1, high=80), Field(low=1, high=80, relative=True))
PAIR = ("correlation", *(f"coherence_{name}" for name, _, _ in BANDS))
NAMES = [*(f"{n} (relative)" if f.relative else n for f in FIELDS for n in smooth_names(f)), *PAIR]
# Steps of the differences, in standard deviations of the prior; errors are relative to a row's largest entry.
SIZES, TOLERANCE = (1e-7, 5e-8), 1e-4
# Where every signal moves: configurations other than the default, and the two channels that are looked at. On its limit
# cycle the noisy Wilson-Cowan pair has gradients of 1e5 per standard deviation of the prior after 2 s, so that no step
# of a difference is small; above the upper onset it has not.
ALIVE: dict[str, dict[str, float]] = {
    "clustered_rate": {"s": 0.9, "g": 4.0},
    "random_rate": {"g": 2.5},
    "wilson_cowan": {"sigma": 0.02, "P": 2.4},
}
CHANNELS = {"leg_rhythm": [1, 2]}


def features_of(name: str) -> Callable[[Tensor], Tensor]:
    """Unbounded coordinates (B, P) to all features (B, F): of one channel, and of two."""
    circuit, _ = small_rate(name)
    protocol = Protocol(2.0, 0.1, Record(counts=False, signals=tuple(r.name for r in circuit.readouts),
                                         signal_rate=RATE), dt=2e-3)  # fmt: skip

    def features(z: Tensor) -> Tensor:
        # One and the same simulation for all: the index is the key of its noise and its wiring.
        signals = TorchEngine("double", "cpu").signals(circuit, constrain(circuit.prior, z), protocol, 3, [9] * len(z))
        channels = torch.cat([signals[r.name] for r in circuit.readouts], dim=1)[:, CHANNELS.get(name, [0, 1])]
        found = [smooth_features(channels[:, 0], RATE, field) for field in FIELDS]
        return torch.cat([*found, smooth_pair(channels, RATE)], dim=1)

    return features


def differences(features: Callable[[Tensor], Tensor], z: Tensor) -> np.ndarray:
    """(F, P) central differences, without their error of second order (Richardson)."""
    steps = torch.cat([torch.eye(len(z), dtype=z.dtype) * size for size in SIZES])
    with torch.no_grad():
        ahead, behind = features(torch.cat([z + steps, z - steps])).chunk(2)
    coarse, fine = ((ahead - behind) / (2 * steps.sum(1, keepdim=True))).numpy().reshape(2, len(z), -1)
    return np.asarray((4 * fine - coarse) / 3).T


def jacobian(features: Callable[[Tensor], Tensor], z: Tensor) -> np.ndarray:
    """(F, P) by going back through features and simulation."""
    z = z.clone().requires_grad_()
    values = features(z[None])[0]
    each = torch.eye(len(values), dtype=z.dtype)
    return np.asarray(torch.autograd.grad(values, z, each, is_grads_batched=True)[0].numpy())


def start(name: str) -> Tensor:
    circuit = get_circuit(name)
    theta = changed(circuit, ALIVE.get(name, {}))
    return torch.as_tensor(np.clip(circuit.prior.unconstrain(theta[None])[0], -1.5, 1.5))


def test_no_circuit_and_no_feature_is_left_out() -> None:
    assert set(RATE_CIRCUITS) == {name for name in list_circuits() if not get_circuit(name).spikes}
    assert {n.removesuffix(" (relative)") for n in NAMES} == {*SMOOTH, *PAIR}


QUICK = ("clustered_rate", "random_rate", "ssn")


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in sorted(RATE_CIRCUITS)]
)
def test_gradients_of_every_feature_through_every_circuit_are_finite_differences(name: str) -> None:
    features, z = features_of(name), start(name)
    found, expected = jacobian(features, z), differences(features, z)
    assert found.shape == (len(NAMES), len(z)) and np.isfinite(found).all()
    largest = np.abs(expected).max(axis=1, keepdims=True)
    assert (largest > 1e-6).all(), [NAMES[k] for k in np.flatnonzero(largest[:, 0] <= 1e-6)]
    error = np.abs(found - expected) / largest
    worst = np.unravel_index(error.argmax(), error.shape)
    assert error.max() < TOLERANCE, (NAMES[worst[0]], get_circuit(name).prior.names[worst[1]], error.max())


def test_negative_control_a_gradient_that_is_cut_is_found() -> None:
    whole, z = features_of("random_rate"), start("random_rate")
    cut = jacobian(lambda v: whole(torch.cat([v[:, :1].detach(), v[:, 1:]], dim=1)), z)
    expected = differences(whole, z)
    assert (np.abs(cut - expected) / np.abs(expected).max(axis=1, keepdims=True)).max() > 100 * TOLERANCE
