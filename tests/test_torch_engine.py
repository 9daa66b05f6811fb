"""The engine torch: gradients, checkpoints, precision, couplings, clear errors."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from sbi_circuits.circuit import Circuit, PoissonInput, Record, get_circuit
from sbi_circuits.engines import Protocol
from sbi_circuits.engines.torch_coupling import CompressedRows, Dense
from sbi_circuits.engines.torch_engine import TorchEngine
from sbi_circuits.engines.torch_functions import IN_SOURCE, TORCH_FUNCTIONS
from sbi_circuits.engines.torch_terms import terms
from sbi_circuits.errors import CircuitError, TranslationError, UnknownNameError
from sbi_circuits.prior import Parameter, Prior
from sbi_circuits.units import EQUATION_FUNCTIONS
from tests.scenarios.rates import MICRO_RATES, RATE_CIRCUITS, small_rate

Loss = Callable[[Tensor], Tensor]


def finite_differences(loss: Loss, theta: Tensor, size: float = 1e-5) -> Tensor:
    """Central differences of a loss, by steps relative to each value."""
    gradient = torch.zeros_like(theta)
    with torch.no_grad():
        for k in range(theta.numel()):
            step = torch.zeros_like(theta).view(-1)
            step[k] = size * max(abs(float(theta.view(-1)[k])), 1e-2)
            step = step.view_as(theta)
            gradient.view(-1)[k] = (loss(theta + step) - loss(theta - step)) / (2 * step.sum())
    return gradient


def assert_gradients_agree(loss: Loss, theta: Tensor, rtol: float = 1e-5) -> None:
    (found,) = torch.autograd.grad(loss(theta), theta)
    expected = finite_differences(loss, theta)
    assert torch.isfinite(found).all() and float(expected.abs().max()) > 0
    # Rounding in a difference is relative to the loss: compared in the units of each parameter's own size.
    scale = theta.detach().abs().clamp_min(1e-2)
    assert torch.allclose(found * scale, expected * scale, rtol=rtol, atol=1e-7 * float((expected * scale).abs().max()))


def pair(circuit: Circuit) -> Tensor:
    """Two configurations near the default, inside the prior."""
    unit = np.clip(circuit.prior.to_unit(circuit.default_theta()), 0.05, 0.95)
    return torch.tensor(circuit.prior.from_unit(unit * np.array([[1.0], [0.99]])), requires_grad=True)


@pytest.mark.parametrize("name", sorted(RATE_CIRCUITS))
def test_gradients_of_every_circuit_are_finite_differences(name: str) -> None:
    circuit, _ = small_rate(name)
    record = circuit.default_record()
    protocol = Protocol(RATE_CIRCUITS[name].duration / 4, record=record)

    def loss(theta: Tensor) -> Tensor:
        found = TorchEngine("double", "cpu").signals(circuit, theta, protocol, 3, [0, 1])
        return torch.stack([(s * weights[n]).sum() for n, s in found.items()]).sum()

    theta = pair(circuit)
    with torch.no_grad():
        sample = TorchEngine("double", "cpu").signals(circuit, theta, protocol, 3, [0, 1])
    generator = torch.Generator().manual_seed(0)
    weights = {n: torch.rand(s.shape, generator=generator, dtype=s.dtype) / s.abs().max() for n, s in sample.items()}
    assert_gradients_agree(loss, theta)


@pytest.mark.parametrize("name", MICRO_RATES)
def test_gradients_of_every_construct_are_finite_differences(name: str) -> None:
    circuit = MICRO_RATES[name]
    protocol = Protocol(0.03, record=Record(counts=False, signals=("x", "sum")))

    def loss(theta: Tensor) -> Tensor:
        found = TorchEngine("double", "cpu").signals(circuit, theta, protocol, 3, [0, 1])
        return found["x"].pow(2).mean() + found["sum"].mean()

    assert_gradients_agree(loss, torch.tensor([[1.5, 10.0], [0.7, 14.0]], dtype=torch.float64, requires_grad=True))


def test_negative_control_a_wrong_gradient_is_found() -> None:
    """A clamp whose gradient is cut, though its value is not, fails the comparison."""

    def cut(theta: Tensor) -> Tensor:
        return (theta.detach() ** 2 + theta).sum()

    with pytest.raises(AssertionError):
        assert_gradients_agree(cut, torch.tensor([[1.0, 2.0]], dtype=torch.float64, requires_grad=True))


@pytest.mark.parametrize("name", ["dense", "sparse", "method_trapezoid"])
def test_checkpoints_change_nothing(name: str) -> None:
    circuit = MICRO_RATES[name]
    protocol = Protocol(0.05, record=circuit.default_record())
    theta = torch.tensor([[1.5, 10.0], [0.7, 14.0]], dtype=torch.float64, requires_grad=True)
    found = []
    for segment in (None, 7, 50, 64):
        signals = TorchEngine("double", "cpu").signals(circuit, theta, protocol, 3, [0, 1], segment)
        loss = torch.stack([s.pow(2).sum() for s in signals.values()]).sum()
        found.append((loss.detach(), *torch.autograd.grad(loss, theta)))
    for value, gradient in found[1:]:
        assert torch.equal(value, found[0][0]) and torch.allclose(gradient, found[0][1], rtol=1e-12)


def test_checkpoints_save_memory() -> None:
    """Bytes that autograd keeps between forward and backward pass."""
    circuit = MICRO_RATES["dense"]
    protocol = Protocol(0.4, record=Record(counts=False, signals=("mean",)))
    theta = torch.tensor([[1.5, 10.0]], dtype=torch.float64, requires_grad=True)

    def kept(segment: int | None) -> int:
        sizes: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            sizes[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            found = TorchEngine("double", "cpu").signals(circuit, theta, protocol, 3, [0], segment)
        assert found["mean"].requires_grad
        return sum(sizes.values())

    assert kept(20) < 0.3 * kept(None)


def test_sparse_and_dense_matrices_agree_and_so_do_their_gradients() -> None:
    draw = np.random.default_rng(0)
    rows, columns = np.nonzero(draw.random((12, 10)) < 0.3)
    weights = torch.tensor(draw.standard_normal(len(rows)), requires_grad=True)
    x = torch.tensor(draw.standard_normal((1, 10)), requires_grad=True)
    filled = torch.zeros(12, 10, dtype=torch.float64).index_put((torch.tensor(rows), torch.tensor(columns)), weights)
    sparse, dense = CompressedRows(rows, columns, weights, (1, 12, 10)), Dense(filled[None])
    target = torch.tensor(draw.standard_normal((1, 12)))
    found = [(m.apply(x), torch.autograd.grad((m.apply(x) * target).sum(), (weights, x))) for m in (sparse, dense)]
    assert torch.allclose(found[0][0], found[1][0])
    assert all(torch.allclose(a, b) for a, b in zip(found[0][1], found[1][1], strict=True))


def test_couplings_are_taken_apart() -> None:
    assert [(t.pre, t.post, t.weighted) for t in terms("weight*(v_pre - v_post)", True) or ()] == [
        ("(v_pre)", "", True), ("", "(-1.0) * (v_post)", True),
    ]  # fmt: skip
    assert terms("sin(v_pre - v_post)", False) is None and terms("weight**2*v_pre", True) is None


@pytest.mark.parametrize("name", sorted(EQUATION_FUNCTIONS))
def test_every_function_of_the_language_has_its_value_and_its_gradient(name: str) -> None:
    if name == "int":
        assert TORCH_FUNCTIONS["int"](torch.tensor(-1.7)) == -1 == TORCH_FUNCTIONS["int"](-1.7)
        return
    extra = (-0.4, 0.45) if name == "clip" else ()
    x = torch.tensor([0.2, 0.4, 0.7, 1e-5 if name == "exprel" else 1e-3], dtype=torch.float64, requires_grad=True)
    for function in (TORCH_FUNCTIONS[name], IN_SOURCE[name]):
        assert np.allclose(function(x, *extra).detach().numpy(), EQUATION_FUNCTIONS[name](x.detach().numpy(), *extra))
        (found,) = torch.autograd.grad(function(x, *extra).sum(), x)
        assert torch.isfinite(found).all()
    with torch.no_grad():
        h = 1e-8 if name != "exprel" else 1e-4
        expected = (function(x + h, *extra) - function(x - h, *extra)) / (2 * h)
    assert torch.allclose(found, expected, atol=1e-5, rtol=1e-4)


def test_single_precision_stays_close() -> None:
    circuit, theta = small_rate("jansen_rit")
    protocol = Protocol(0.2, record=circuit.default_record())
    pair = [TorchEngine(p, "cpu").run(circuit, theta, protocol, 0, 0).recording for p in ("single", "double")]
    assert pair[0] is not None and pair[1] is not None
    a, b = (r.signals["field"].values for r in pair)
    assert 0 < np.abs(a - b).max() < 1e-3 * np.abs(b).max()


def test_a_simulation_that_cannot_be_is_a_failed_outcome_and_disturbs_no_other() -> None:
    circuit = MICRO_RATES["dense"]
    shrinking = replace(circuit.populations[0], size="n - floor(g)*n")
    prior = Prior((Parameter("g", "1", 0, 0.9), Parameter("tau", "ms", 1, 50)))
    circuit = replace(circuit, populations=(shrinking,), prior=prior, defaults=(("g", 0.5), ("tau", 10.0)))
    thetas = np.array([[0.5, 10.0], [1.5, 10.0], [0.6, 10.0]])
    protocol = Protocol(0.01, record=circuit.default_record())
    found = list(TorchEngine().run_batch(circuit, thetas, protocol, 0, range(3)))
    assert [s.outcome.status for s in found] == ["ok", "failed", "ok"]
    assert "size" in found[1].outcome.reason and [s.index for s in found] == [0, 1, 2]


def test_bad_arguments_get_one_clear_line() -> None:
    engine, dense = TorchEngine(), MICRO_RATES["dense"]
    theta, protocol = dense.default_theta(), Protocol(0.01, record=dense.default_record())
    spiking = get_circuit("brunel")
    with pytest.raises(TranslationError, match=r"engine torch runs rate circuits; population exc of brunel has a"):
        engine.run(spiking, spiking.default_theta(), Protocol(0.01), 0, 0)
    noisy = replace(dense, inputs=(*dense.inputs, PoissonInput("units", "x", "1", "1*Hz", "1")))
    with pytest.raises(TranslationError, match=r"no Poisson inputs, which dense has. Valid engines: brian2, kernel"):
        engine.run(noisy, theta, protocol, 0, 0)
    with pytest.raises(UnknownNameError, match=r"unknown signal of circuit dense 'lfp'; valid: mean, sum, x"):
        engine.run(dense, theta, Protocol(0.01, record=Record(counts=False, signals=("lfp",))), 0, 0)
    with pytest.raises(CircuitError, match=r"cannot be sampled at 300 Hz .* valid: 1000 Hz divided by a whole number"):
        engine.run(dense, theta, Protocol(0.01, record=Record(counts=False, signals=("x",), signal_rate=300)), 0, 0)
    with pytest.raises(CircuitError, match=r"the record keeps no signals of dense; valid: x, mean, sum"):
        engine.signals(dense, torch.tensor(theta[None]), Protocol(0.01, record=Record()), 0, [0])
    with pytest.raises(UnknownNameError, match=r"unknown precision 'half'; valid: double, single"):
        TorchEngine("half")
    with pytest.raises(UnknownNameError, match=r"unknown device 'tpu'; valid: auto, cpu, cuda"):
        TorchEngine(device="tpu")
    if not torch.cuda.is_available():
        with pytest.raises(CircuitError, match="there is no CUDA device here; valid devices: auto, cpu"):
            TorchEngine(device="cuda")
