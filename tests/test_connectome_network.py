"""The sparse step and the networks on it: against slow independent computations, forwards and backwards."""

import numpy as np
import pytest
import torch

from sbi_circuits.connectome.fly import published_models, visual_system
from sbi_circuits.connectome.models import Models, initial_models, load_models, save_models, shared_prior
from sbi_circuits.connectome.network import RateNetwork, TrainableModels
from sbi_circuits.connectome.sparse import Links, lanes, product, unlanes
from sbi_circuits.connectome.wiring import Wiring
from sbi_circuits.errors import CircuitError, InferenceError, UnknownNameError
from sbi_circuits.seeds import generator

DT = 0.005


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def movie_of(extent: int, stimuli: int, frames: int) -> np.ndarray:
    columns = visual_system(extent).lattice.n_columns
    return generator(3, "movie").random((stimuli, frames, columns)).astype(np.float32)


def slow(models: Models, k: int, movie: np.ndarray, extent: int, settle: int) -> np.ndarray:
    """The published equations, cell by cell, in double precision: a dense matrix and a loop over cells' inputs."""
    fly = visual_system(extent)
    wiring, dense = fly.wiring, np.zeros((fly.wiring.n_nodes,) * 2)
    for source, target, count, sign, group in zip(
        wiring.source, wiring.target, wiring.count, wiring.sign, wiring.group, strict=True
    ):
        dense[target, source] += sign * count * float(models.strength[k, group])
    rest = np.array([float(models.rest[k, t]) for t in wiring.node_type])
    tau = np.array([max(float(models.tau[k, t]), DT) for t in wiring.node_type])
    place = {tuple(uv): c for c, uv in enumerate(fly.lattice.columns.tolist())}
    assert wiring.column is not None
    seen_by = [
        place[tuple(uv)] if fly.wiring.cell_types[t] in fly.input_types else -1
        for t, uv in zip(wiring.node_type, wiring.column.tolist(), strict=True)
    ]
    found = np.empty((len(movie), movie.shape[1], wiring.n_nodes))
    for s, frames in enumerate(movie.astype(float)):
        v = rest.copy()
        for t in range(-settle, len(frames)):
            frame = np.full(frames.shape[1], 0.5) if t < 0 else frames[t]
            seen = np.array([frame[c] if c >= 0 else 0.0 for c in seen_by])
            v = v + DT / tau * (-v + rest + dense @ np.where(v > 0, v, 0.0) + seen)
            if t >= 0:
                found[s, t] = v
    return found


def test_a_trained_model_responds_as_the_slow_computation_says() -> None:
    """To 1e-5, for all 1,203 cells; a model whose strength is off by a thousandth is told apart."""
    movie, models = movie_of(2, 5, 20), published_models().take([0, 7])
    network = RateNetwork.of(visual_system(2))
    cells = np.arange(network.wiring.n_nodes)
    fast = network.respond(models, movie, DT, settle=0.1, cells=cells, workers=2)
    network.links.runs = None  # the other layout of the same edges
    assert abs(network.respond(models, movie, DT, settle=0.1, cells=cells) - fast).max() < 1e-5
    assert fast.shape == (2, 5, 20, 1203)
    wanted = slow(models, 1, movie, 2, settle=20)
    assert abs(wanted).max() > 1.0 and abs(fast[1] - wanted).max() < 1e-5
    wrong = network.respond(
        models.take([1]).with_values(["strength.L1->Mi1"], models.values(["strength.L1->Mi1"])[1:] * 1.01),
        movie, DT, settle=0.1, cells=cells,
    )  # fmt: skip
    assert abs(wrong[0] - wanted).max() > 1e-5


def test_the_differentiable_network_responds_alike() -> None:
    movie, models = movie_of(2, 3, 10), published_models().take([0, 7])
    network = RateNetwork.of(visual_system(2))
    trainable = TrainableModels(network, models)
    v = trainable(torch.from_numpy(movie), DT, trainable.settle(DT, 0.05))
    fast = network.respond(models, movie, DT, settle=0.05, cells=np.arange(network.wiring.n_nodes))
    assert tuple(v.shape) == fast.shape and abs(v.detach().numpy() - fast).max() < 1e-5
    own = torch.from_numpy(movie)[None].repeat(2, 1, 1, 1)
    own[1] = 0.5
    apart = trainable(own, DT, trainable.settle(DT, 0.05)).detach()
    assert torch.allclose(apart[0], v[0].detach()) and not torch.allclose(apart[1], v[1].detach())
    again = trainable.models()
    assert np.array_equal(again.strength, models.strength) and again.groups == models.groups


def small_links(layout: str) -> Links:
    random = generator(1, "links")
    source, target = np.nonzero(random.random((30, 30)) < 0.3)
    count, sign = random.integers(1, 4, len(source)), random.choice([-1, 1], len(source))
    wiring = Wiring(("A", "B"), np.repeat([0, 1], 15), source, target, count, sign)
    return Links(wiring, layout)


@pytest.mark.parametrize("layout", ["csr", "runs"])
def test_the_product_and_its_gradients_are_those_of_a_dense_matrix(layout: str) -> None:
    """In both ways it is computed: compiled (single precision) and torch (double, as on CUDA)."""
    links, random = small_links(layout), generator(2, "values")
    strength, rates, g = (random.random(shape) for shape in ((2, 4), (2, 2, 30, 4), (2, 2, 30, 4)))
    source = np.repeat(np.arange(30), np.diff(links.by_source.start))
    place = (links.by_source.other, source)

    def run(dtype: torch.dtype, dense: bool) -> list[torch.Tensor]:
        s, x = (torch.tensor(a, dtype=dtype, requires_grad=True) for a in (strength, rates))
        weight = links.weights(s)
        if dense:
            matrix = torch.zeros(2, 30, 30, dtype=dtype)
            edges = weight[:, torch.as_tensor(links.by_source.edge_class.astype(np.int64))]
            ends = (torch.as_tensor(p.astype(np.int64)) for p in place)
            matrix = matrix.index_put((torch.arange(2)[:, None], *ends), edges)
            y = torch.einsum("mij,mqjb->mqib", matrix, x)
        else:
            y = product(links, weight, x)
        y.backward(torch.tensor(g, dtype=dtype))
        assert s.grad is not None and x.grad is not None
        return [y.detach(), s.grad, x.grad]

    wanted = run(torch.float64, True)
    for dtype, error in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        for found, right in zip(run(dtype, False), wanted, strict=True):
            assert (found - right).abs().max() < error * right.abs().max(), dtype


def test_gradients_through_time_are_finite_differences() -> None:
    network, models = RateNetwork.of(visual_system(1)), published_models().take([0])
    trainable = TrainableModels(network, models).double()
    movie = torch.from_numpy(movie_of(1, 2, 4)).double()
    names = ("strength.L1->Mi1", "rest.Mi1", "tau.L1")

    def loss() -> torch.Tensor:
        return trainable(movie, DT)[:, :, -1].square().sum()  # type: ignore[no-any-return]

    loss().backward()
    for name in names:
        kind, column = models.place(name)
        value, step = getattr(trainable, kind), 1e-6
        found = value.grad[0, column].item()
        sides = []
        for sign in (1, -1):
            with torch.no_grad():
                value[0, column] += sign * step
                sides.append(loss().item())
                value[0, column] -= sign * step
        assert found == pytest.approx((sides[0] - sides[1]) / (2 * step), rel=1e-5), name
        assert found != 0.0


def test_the_compiled_step_has_the_gradients_of_the_plain_one() -> None:
    """Single precision through the compiled step, against double precision through torch's own operations."""
    network, models = RateNetwork.of(visual_system(2)), published_models().take([0, 3])
    movie, found = torch.from_numpy(movie_of(2, 6, 6)), []
    for dtype in (torch.float32, torch.float64):
        trainable = TrainableModels(network, models).to(dtype)
        v = trainable(movie.to(dtype), 0.02, trainable.settle(0.02, 0.1))
        (v[:, :, 2:].sin() * torch.arange(v.shape[-1])).mean().backward()
        found.append({name: p.grad.double() for name, p in trainable.named_parameters() if p.grad is not None})
    assert set(found[0]) == {"strength", "rest", "tau"}
    for name, wanted in found[1].items():
        assert wanted.abs().max() > 0 and (found[0][name] - wanted).abs().max() < 2e-4 * wanted.abs().max(), name


def test_lanes_are_undone() -> None:
    x = torch.arange(2 * 6 * 3.0).view(2, 6, 3)
    assert lanes(x).shape == (2, 2, 3, 4) and torch.equal(unlanes(lanes(x), 6), x)


def test_memory_is_linear_in_edges() -> None:
    for layout, most in (("csr", 13), ("auto", 8)):
        small, large = (Links(visual_system(extent).wiring, layout) for extent in (2, 5))
        assert max(links.nbytes / links.n_edges for links in (small, large)) < most
        assert large.n_edges > 5 * small.n_edges and (layout == "csr") == (large.runs is None)
    with pytest.raises(UnknownNameError, match="unknown layout of edges 'coo'; valid: auto, csr, runs"):
        Links(visual_system(2).wiring, "coo")


def test_models_are_saved_and_read_back(tmp_path: object) -> None:
    from pathlib import Path

    models = published_models().take([1, 2]).silenced("Mi9")
    path = save_models(models, Path(str(tmp_path)) / "models.safetensors")
    again = load_models(path)
    for kind in ("strength", "rest", "tau"):
        assert np.array_equal(getattr(again, kind), getattr(models, kind))
    assert again.groups == models.groups and again.provenance == models.provenance
    cut = np.array([group.startswith("Mi9->") for group in models.groups])
    assert (models.strength[:, cut] == 0).all() and (models.strength[:, ~cut] != 0).any(0).mean() > 0.9
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InferenceError, match="holds no models"):
        load_models(path)
    with pytest.raises(InferenceError, match="there is no file of models"):
        load_models(path.with_name("none"))


def test_wrong_models_and_movies_are_refused() -> None:
    network, models = RateNetwork.of(visual_system(1)), published_models().take([0])
    with pytest.raises(CircuitError, match=r"a movie must have shape \(stimuli, frames, 7\), got \(1, 2, 8\)"):
        network.respond(models, np.zeros((1, 2, 8)), DT)
    with pytest.raises(CircuitError, match="dt must be > 0 s"):
        network.respond(models, np.zeros((1, 2, 7)), 0.0)
    other = Models(("A",), ("A->A",), np.ones((1, 1)), np.ones((1, 1)), np.ones((1, 1)))
    with pytest.raises(CircuitError, match=r"models are of another wiring: cell_types differ \(A and R1\)"):
        network.respond(other, np.zeros((1, 2, 7)), DT)
    with pytest.raises(UnknownNameError, match="unknown kind of shared parameter 'g'; valid: rest, strength, tau"):
        models.values(["g.L1"])
    with pytest.raises(UnknownNameError, match="unknown shared parameter tau 'L9'"):
        models.values(["tau.L9"])
    with pytest.raises(CircuitError, match="strengths must be >= 0"):
        Models(("A",), ("A->A",), -np.ones((1, 1)), np.ones((1, 1)), np.ones((1, 1)))


def test_initial_models_are_those_published() -> None:
    wiring = visual_system(5).wiring
    models = initial_models(wiring, 400, seed=1)
    assert np.allclose(models.tau, 0.05)
    assert abs(models.rest.mean() - 0.5) < 1e-3 and abs(models.rest.std() - 0.05) < 1e-3
    own = wiring.group == wiring.groups.index("L1->Mi1")
    assert models.strength[0, wiring.groups.index("L1->Mi1")] == pytest.approx(0.01 / wiring.count[own].mean())
    assert np.array_equal(initial_models(wiring, 2, seed=1).rest, models.rest[:2])


def test_a_prior_over_a_handful_of_parameters_holds_what_the_models_have() -> None:
    models = published_models()
    names = ("strength.L1->Mi1", "rest.T4c", "tau.CT1(M10)")
    prior = shared_prior(models, names)
    assert prior.names == ("strength_L1__Mi1", "rest_T4c", "tau_CT1_M10_")
    outside = ~prior.contains(models.values(names))
    assert outside.mean() < 0.1 and models.values(names)[outside, 0].max() < 1e-6  # strengths that died in training
    assert [p.scale for p in prior.parameters] == ["log", "linear", "log"]
