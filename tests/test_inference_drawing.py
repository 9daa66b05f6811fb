"""Draws of the members against their densities: the two read the same networks in different layouts."""

from functools import cache

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from sbi_circuits.inference import TrainingConfig, TrainingData, mixtures, train
from sbi_circuits.inference.config import FlowSpec
from sbi_circuits.inference.members import Members, place
from sbi_circuits.prior import Parameter, Prior

P, MEMBERS = 5, 2
INPUTS = torch.tensor([[0.4, -1.0, 0.7, 0, 0, 0], [-0.3, 0.0, 0.2, 0, 1, 0], [1.2, 0.1, 0.0, 0, 0, 1]])
KINDS = [("mixture", "uniform"), ("mixture", "normal"), ("affine", "normal"), ("autoregressive", "normal"),
         ("coupling", "normal")]  # fmt: skip


@cache
def members(transform: str, coordinates: str) -> Members:
    """Random networks, wide enough to bend what they start as, on a regression of correlated parameters."""
    random = torch.Generator().manual_seed(1)
    spec = FlowSpec(P, 6, (3, 4, 5), "batched", transform, coordinates, MEMBERS, 8, 6, 2, 3, 1, 0.0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        found = Members(spec)
        for net in found.layers:
            torch.nn.init.normal_(net.leave.weight, std=0.5)  # type: ignore[union-attr, arg-type]
    x = torch.cat([torch.randn(400, 3, generator=random), torch.zeros(400, 3)], dim=1)
    z = 0.5 * x[:, :3] @ torch.randn(3, P, generator=random) + 0.6 * torch.randn(400, P, generator=random)
    ones = torch.ones(400)
    assert found.start.fit(z, x, ones, z, x, ones) > 0.5
    return found.double().requires_grad_(False)


def noise(rows: int) -> Tensor:
    return torch.randn(rows, P, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def by_quantiles(
    flows: Members, member: int, z: Tensor, inputs: Tensor, given: Tensor
) -> tuple[np.ndarray, np.ndarray]:
    """u (B, P) of z, and what scipy's truncated normals make of the noise under the networks as training reads them."""
    seen, pattern = torch.unique(flows.start.seen(inputs), dim=0, return_inverse=True)
    m = flows.spec.members
    rows = inputs.expand(m, -1, -1)
    where = place(flows.start, z.expand(m, -1, -1), rows, flows.frame(seen), pattern.expand(m, -1), flows.orders)
    raw = flows.net(0)(where.u, flows.context(rows), where.mean).transpose(1, 2)
    mixture, low, high = flows._mixture(raw, where.mean, where.sd)
    own = mixtures.Mixture(*(part[member] for part in mixture))
    rank = stats.norm.cdf(given.numpy())
    ends = [end[member].numpy() if flows.bounded else np.sign(end[member].numpy()) * np.inf for end in (low, high)]
    return where.u[member].numpy(), truncated(own, rank, *ends)


def truncated(m: mixtures.Mixture, rank: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    weight, mean, sd = (part.numpy() for part in (m.log_weight.exp(), m.mean, m.log_sd.exp()))
    a, b = (low[..., None] - mean) / sd, (high[..., None] - mean) / sd
    edges = (weight * (stats.norm.cdf(b) - stats.norm.cdf(a))).cumsum(-1)
    edges, share = edges / edges[..., -1:], np.diff(edges / edges[..., -1:], axis=-1, prepend=0.0)
    chosen = (rank[..., None] > edges).sum(-1, keepdims=True)
    a, b, mean, sd, edge, share = (np.take_along_axis(v, chosen, -1)[..., 0] for v in (a, b, mean, sd, edges, share))
    return np.asarray(mean + sd * stats.truncnorm.ppf((rank - edge) / share + 1.0, a, b))


@pytest.mark.parametrize("kind", KINDS[:2])
@pytest.mark.parametrize("member", range(MEMBERS))
def test_mixtures_are_inverted_as_scipy_does(kind: tuple[str, str], member: int) -> None:
    """900 draws for three observations with three patterns of observed features; the parameters' orders differ."""
    flows, given, row = members(*kind), noise(900), torch.arange(3).repeat_interleave(300)
    z = flows.draw(member, given, INPUTS.double(), row)
    u, expected = by_quantiles(flows, member, z, INPUTS.double()[row], given)
    # The last digits of a probability near one are lost, which a flat tail of a component magnifies.
    assert np.quantile(np.abs(u - expected), 0.99) < 1e-9 and np.abs(u - expected).max() < 1e-5
    _, other = by_quantiles(flows, member, z, INPUTS.double()[row.flip(0)], given)
    assert np.abs(u - other).max() > 0.1  # negative control: another observation's networks


@pytest.mark.parametrize("kind", KINDS)
def test_one_observation_alone_or_among_others(kind: tuple[str, str]) -> None:
    """For one, its regression becomes part of the networks; several patterns are looked up draw by draw."""
    flows, given, row = members(*kind), noise(600), torch.arange(3).repeat_interleave(200)
    together = flows.draw(1, given, INPUTS.double(), row)
    alone = [flows.draw(1, given[row == k], INPUTS[k : k + 1].double()) for k in range(3)]
    assert torch.allclose(together, torch.cat(alone), rtol=0.0, atol=1e-8)
    same = INPUTS[:1].double().expand(2, -1).clone()
    same[1, 0] += 1.0  # two observations of one pattern
    pair = flows.draw(1, given, same, row.clamp(max=1))
    assert torch.allclose(pair[:200], alone[0], rtol=0.0, atol=1e-8)
    assert (pair[200:400] - flows.draw(1, given[200:400], same[:1])).abs().max() > 0.1  # negative control


@pytest.mark.parametrize("kind", KINDS)
def test_members_together_or_one_after_another(kind: tuple[str, str]) -> None:
    flows, row = members(*kind), torch.arange(3).repeat_interleave(50)
    given = torch.stack([noise(150), noise(150).flip(0)])
    for inputs, which in ((INPUTS.double(), row), (INPUTS[1:2].double(), None)):
        together = flows.draw_members(slice(0, MEMBERS), given, inputs, which)
        alone = torch.stack([flows.draw(m, given[m], inputs, which) for m in range(MEMBERS)])
        assert torch.allclose(together, alone, rtol=0.0, atol=1e-8)
        assert (together - alone.flip(0)).abs().max() > 0.1  # negative control


def test_how_often_another_member_is_drawn_from_changes_nothing() -> None:
    """Members wanted equally often are drawn from together, others not: the same draws up to rounding."""
    prior = Prior(tuple(Parameter(name, "1", 0.0, 1.0) for name in "ab"))
    theta = prior.sample(200, seed=0)
    data = TrainingData(theta, theta, np.zeros(theta.shape, dtype=np.uint8), prior, ("x.a", "x.b"))
    posterior = train(data, TrainingConfig(members=2, epochs=1, hidden=8, width=8), progress=False, seed=0)
    inputs = posterior([0.2, 0.7]).features.inputs().repeat(2, 1)
    even, uneven = (posterior._draw_members(np.array([300, n]), inputs, seed=1) for n in (300, 20))
    assert [z.shape for z in uneven] == [(2, 300, 2), (2, 20, 2)]
    assert np.isclose(even[0], uneven[0], atol=1e-4).all(2).mean() > 0.99
    assert np.isclose(even[0], even[1], atol=1e-4).all(2).mean() < 0.01  # negative control
    assert posterior._draw_members(np.array([0, 0]), inputs, seed=1)[0].shape == (2, 0, 2)


@pytest.mark.parametrize("kind", KINDS[2:])
def test_the_density_of_draws_is_that_of_their_noise(kind: tuple[str, str]) -> None:
    """log q(z) = log N(noise) - log |dz / dnoise|, the Jacobian by differences."""
    flows, given, step = members(*kind), noise(4), 1e-5
    for member in range(MEMBERS):
        for k in range(4):
            moves = given[k] + step * torch.cat([torch.eye(P), -torch.eye(P)]).double()
            z = flows.draw(member, torch.cat([given[k : k + 1], moves]), INPUTS[:1].double())
            slopes = (z[1 : P + 1] - z[P + 1 :]) / (2 * step)
            density = stats.norm.logpdf(given[k].numpy()).sum() - float(torch.linalg.slogdet(slopes).logabsdet)
            found = float(flows.log_prob(z[:1], INPUTS[:1].double())[member, 0])
            assert found == pytest.approx(density, abs=1e-4)


def test_noise_that_is_not_finite_gives_draws_that_are_not() -> None:
    """So that they are drawn again, see `Posterior.draw_rows`; the choice of a component must not fail."""
    given = noise(10)
    given[3] = torch.nan
    z = members("mixture", "uniform").draw(0, given, INPUTS[:1].double())
    assert torch.isfinite(z).all(1).tolist() == [k != 3 for k in range(10)]
