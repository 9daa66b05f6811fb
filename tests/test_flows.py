"""Laws of every flow: densities and draws are of one distribution, and a new flow is the prior."""

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch

from sbi_circuits.inference.config import FAMILIES, LIBRARY_TRANSFORMS, TRANSFORMS, FlowSpec
from sbi_circuits.inference.coordinates import bound
from sbi_circuits.inference.flows import build_flows
from sbi_circuits.inference.posterior import Flows

KINDS = [*product(("batched",), TRANSFORMS), *product(FAMILIES[1:], LIBRARY_TRANSFORMS)]


def spec_of(family: str, transform: str, parameters: int, coordinates: str = "normal", **shape: Any) -> FlowSpec:
    layers = 1 if transform == "mixture" else 2
    shape = {"hidden": 16, "width": 8, "layers": layers, "bins": 6, "blocks": 1, "dropout": 0.1} | shape
    return FlowSpec(parameters, 3, (2, -1), family, transform, coordinates, members=2, **shape)


def random_flows(family: str, transform: str, parameters: int, coordinates: str = "normal") -> Flows:
    """Two members far from the identity, in double precision."""
    flows = build_flows(spec_of(family, transform, parameters, coordinates), seed=1)
    random = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for weight in flows.parameters():
            weight.add_(0.12 * torch.randn(weight.shape, generator=random))
        x = torch.randn(300, 3, generator=random)
        z = 0.5 * (x[:, :1] + 0.5 * x[:, 1:2] + torch.randn(300, parameters, generator=random))
        ones = torch.ones(300)
        flows.start.fit(z[:200], x[:200], ones[:200], z[200:], x[200:], ones[200:])
    return flows.double().eval()


def density_on_grid(flows: Flows, context: torch.Tensor, points: np.ndarray) -> np.ndarray:
    """Densities (members, G, ..., G)."""
    axes = np.meshgrid(*[points] * flows.spec.parameters, indexing="ij")
    z = torch.as_tensor(np.stack([axis.ravel() for axis in axes], axis=1))
    return flows.log_prob(z, context).exp().detach().numpy().reshape(-1, *axes[0].shape)


@pytest.mark.parametrize("parameters", [1, 2])
@pytest.mark.parametrize(
    ("family", "transform", "coordinates"), [*((*kind, "normal") for kind in KINDS), ("batched", "mixture", "uniform")]
)
def test_density_integrates_to_one_and_draws_follow_it(
    family: str, transform: str, coordinates: str, parameters: int
) -> None:
    """Quadrature within 1 %; marginal distributions of 4,000 draws within 0.03 (Kolmogorov: p = 0.0015)."""
    flows = random_flows(family, transform, parameters, coordinates)
    context = torch.tensor([[0.3, -1.0, 0.5]], dtype=torch.float64)
    edge, n = min(10.0, bound(coordinates)), 401 if parameters == 2 else 4001
    step = 2 * edge / n
    points = -edge + step * (np.arange(n) + 0.5)
    noise = torch.randn(4000, parameters, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for member, density in enumerate(density_on_grid(flows, context, points)):
        assert density.sum() * step**parameters == pytest.approx(1.0, abs=0.01)
        draws = flows.draw(member, noise, context).numpy()
        assert np.abs(draws).max() <= bound(coordinates)
        for axis in range(parameters):
            marginal = density if parameters == 1 else density.sum(1 - axis) * step
            expected = np.cumsum(marginal) * step
            found = np.searchsorted(np.sort(draws[:, axis]), points + step / 2) / len(draws)
            assert np.abs(found - expected).max() < 0.03


@pytest.mark.parametrize(("family", "transform"), [kind for kind in KINDS if kind[1] != "mixture"])
def test_density_of_a_draw_is_that_of_its_noise(family: str, transform: str) -> None:
    """log q(z) = log N(noise) - log |d z / d noise|, the derivatives by central differences."""
    flows = random_flows(family, transform, 4)
    noise = torch.randn(20, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    context, small = torch.ones(1, 3, dtype=torch.float64), 1e-6
    for member in range(2):
        z = flows.draw(member, noise, context)
        assert not torch.allclose(z, noise, atol=0.1)
        moved = [flows.draw(member, noise + small * e, context) for e in (*torch.eye(4), *-torch.eye(4))]
        jacobian = torch.stack([(up - down) / (2 * small) for up, down in zip(moved[:4], moved[4:], strict=True)], 2)
        normal = torch.distributions.Normal(0.0, 1.0).log_prob(noise).sum(1)
        expected = normal - torch.linalg.slogdet(jacobian).logabsdet
        assert torch.allclose(flows.log_prob(z, context)[member], expected, atol=1e-4)


@pytest.mark.parametrize("coordinates", ["normal", "uniform"])
def test_a_draw_of_a_mixture_has_the_rank_of_a_uniform_number(coordinates: str) -> None:
    """Every conditional distribution function of the draws is uniform: Kolmogorov distance of 4,000 below 0.03."""
    flows = random_flows("batched", "mixture", 3, coordinates)
    noise = torch.randn(4000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    context = torch.ones(1, 3, dtype=torch.float64)
    for member in range(2):
        ranks = flows.ranks(flows.draw(member, noise, context), context)[member].numpy()
        for column in ranks.T:
            assert np.abs(np.sort(column) - (np.arange(4000) + 0.5) / 4000).max() < 0.03
        wrong = flows.ranks(flows.draw(1 - member, noise, context), context)[member].numpy()
        assert max(np.abs(np.sort(c) - (np.arange(4000) + 0.5) / 4000).max() for c in wrong.T) > 0.03


@pytest.mark.parametrize("kind", KINDS)
def test_many_rows_are_drawn_as_one_by_one(kind: tuple[str, str]) -> None:
    flows = random_flows(*kind, 3)
    random = torch.Generator().manual_seed(0)
    noise = torch.randn(12, 3, generator=random, dtype=torch.float64)
    inputs = torch.randn(4, 3, generator=random, dtype=torch.float64)
    inputs[:, 2] = torch.tensor([0.0, 1.0, 0.0, 1.0])
    row = torch.tensor([0, 1, 2, 3] * 3)
    together = flows.draw(1, noise, inputs, row)
    alone = torch.cat([flows.draw(1, noise[k : k + 1], inputs[row[k]][None]) for k in range(12)])
    assert torch.allclose(together, alone, atol=1e-8)
    rows = flows.log_prob(noise[:4], inputs)
    assert torch.allclose(rows, torch.cat([flows.log_prob(noise[k : k + 1], inputs[k : k + 1]) for k in range(4)], 1))


@pytest.mark.parametrize(("family", "transform"), [kind for kind in KINDS if kind[1] != "mixture"])
def test_a_new_flow_is_the_prior_and_leaves_the_random_state_alone(family: str, transform: str) -> None:
    before = torch.random.get_rng_state()
    flows = build_flows(spec_of(family, transform, 4, hidden=8), seed=3).eval()
    assert torch.equal(before, torch.random.get_rng_state())
    z, x = torch.linspace(-4, 4, 20).reshape(5, 4), torch.linspace(-1, 1, 15).reshape(5, 3)
    prior = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(1)
    assert torch.allclose(flows.log_prob(z, x), prior.expand(2, -1), atol=1e-5)
