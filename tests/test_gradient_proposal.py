"""Gradient-informed proposals: exact densities and weights, and nearer to the observation than what they begin from."""

import numpy as np
import pytest
import torch

from sbi_circuits.circuit import Record, get_circuit
from sbi_circuits.engines import Protocol
from sbi_circuits.engines.torch_engine import TorchEngine
from sbi_circuits.errors import InferenceError
from sbi_circuits.features.field import Field
from sbi_circuits.gradients import GradientProposal, Refined, Target, gradient_proposal, with_prior_part
from sbi_circuits.gradients.proposal import _Local
from sbi_circuits.gradients.smooth import smooth_features, smooth_names
from sbi_circuits.prior import Parameter, Prior

PRIOR = Prior((Parameter("a", "1", -2, 3), Parameter("b", "ms", 1, 100, "log")))
NAMES = ("log_power_alpha", "log_power_beta", "centre")
PROTOCOL = Protocol(1.0, 0.2, Record(counts=False, signals=("field",), signal_rate=250.0), dt=4e-3)


def proposal(share: float = 0.2) -> GradientProposal:
    """Two normals in unbounded coordinates."""
    refined = Refined(*(np.zeros((2, 2)) for _ in range(2)), *(np.zeros(2) for _ in range(2)), np.zeros((1, 2)), 7)
    covariances = np.array([[[0.2, 0.05], [0.05, 0.1]], [[0.04, 0.0], [0.0, 0.3]]])
    return GradientProposal(PRIOR, np.array([[0.5, -0.3], [-0.4, 0.8]]), covariances, refined, 7, share)


def column() -> tuple[object, Target, np.ndarray]:
    """Jansen-Rit's column with little noise, a target of its own making, and draws around the truth."""
    circuit = get_circuit("jansen_rit").fix(sigma=0.5)
    field = Field(low=2, high=45)
    truth = np.array([{**dict(circuit.defaults), "a": 90.0, "p": 260.0}[n] for n in circuit.prior.names])
    with torch.no_grad():
        rows = torch.as_tensor(np.tile(truth, (8, 1)))
        signal = TorchEngine("double", "cpu").signals(circuit, rows, PROTOCOL, 99, range(8))["field"][:, 0]
    values = smooth_features(signal, 250.0, field)[:, [smooth_names(field).index(n) for n in NAMES]].mean(0).numpy()
    start = truth * np.linspace(0.9, 1.2, 4)[:, None]
    return circuit, Target(NAMES, values, np.array([0.5, 0.5, 3.0]), field), start


def test_the_density_integrates_to_one_and_weights_are_the_priors() -> None:
    made, draw = proposal(), np.random.default_rng(0)
    theta = PRIOR.from_unit(draw.random((200_000, 2)))
    # Importance sampling with the prior, and back: weights average 1, and weigh draws into the prior.
    density = np.exp(made.log_prob(theta) - PRIOR.log_prob(theta))
    assert density.mean() == pytest.approx(1.0, abs=5 * density.std() / len(density) ** 0.5)
    found = made.sample(60_000, 3)
    assert found.weights.max() <= (1 + 1e-12) / 0.2 and found.weights.mean() == pytest.approx(1.0, abs=0.03)
    unit = PRIOR.to_unit(found.theta)
    for moment in (1, 2, 3):
        assert (found.weights[:, None] * unit**moment).mean(0) == pytest.approx([1 / (1 + moment)] * 2, abs=0.02)
    # The control: without weights they are not the prior.
    assert abs(unit.mean(0) - 0.5).max() > 0.05


def test_sampling_is_from_the_density() -> None:
    """Draws without the prior's part have the moments that the normals have."""
    made = proposal(share=1e-9)
    z = PRIOR.unconstrain(made.sample(40_000, 5).theta)
    assert z.mean(0) == pytest.approx(made.centres.mean(0), abs=0.02)
    between = np.cov(made.centres.T, bias=True)
    assert np.cov(z.T) == pytest.approx(made.covariances.mean(0) + between, abs=0.02)


def test_jacobians_are_finite_differences() -> None:
    circuit, target, start = column()
    local = _Local(circuit, target, PROTOCOL, 3, TorchEngine("double", "cpu"))  # type: ignore[arg-type]
    z = circuit.prior.unconstrain(start[:2])  # type: ignore[attr-defined]
    found = local.jacobian(z, 1)
    for p in range(z.shape[1]):
        step = np.zeros_like(z)
        step[:, p] = 1e-6
        with torch.no_grad():
            ahead, behind = (local.features(torch.as_tensor(z + s), 1).numpy() for s in (step, -step))
        assert (ahead - behind) / 2e-6 == pytest.approx(found[:, :, p], rel=1e-4, abs=1e-5 * np.abs(found).max())


def test_the_proposal_is_nearer_than_what_it_begins_from_and_says_what_it_cost() -> None:
    circuit, target, start = column()
    made = gradient_proposal(circuit, start, target, PROTOCOL, seed=1, steps=5, repeats=2, share=1e-6)  # type: ignore[arg-type]
    assert made.simulations == 4 * (3 * 5 + 2) + 2 * (2 + 2 * (1 + 2 * len(NAMES)))
    assert made.centres.shape == (2, len(circuit.prior))  # type: ignore[attr-defined]
    assert (np.linalg.eigvalsh(made.covariances) <= 1.5**2 + 1e-9).all()  # never wider than the widened prior
    theta = made.sample(32, 2).theta
    local = _Local(circuit, target, PROTOCOL, 50, TorchEngine("double", "cpu"))  # type: ignore[arg-type]

    def apart(rows: np.ndarray) -> float:
        with torch.no_grad():
            z = torch.as_tensor(circuit.prior.unconstrain(rows))  # type: ignore[attr-defined]
            found = local.features(z, 0).numpy()
        return float(np.median(np.sqrt((((found - target.values) / target.scale) ** 2).mean(1))))

    prior = circuit.prior.sample(32, 4)  # type: ignore[attr-defined]
    assert apart(theta) < 0.7 * apart(prior)


def test_bad_arguments_get_one_clear_line() -> None:
    with pytest.raises(InferenceError, match="share of a proposal must be above 0 and below 1, got 1"):
        with_prior_part(PRIOR, np.zeros((2, 2)), lambda theta: theta[:, 0], 1.0, 0, "x")
