"""Training on a task, hypotheses, and inference over shared parameters; each with what must not be found."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sbi_circuits.connectome.decoder import HexConvolution
from sbi_circuits.connectome.fly import published_models, visual_system
from sbi_circuits.connectome.hypotheses import Consensus, silence, split
from sbi_circuits.connectome.lattice import DEGREES, Lattice
from sbi_circuits.connectome.models import Models, initial_models
from sbi_circuits.connectome.motion import MotionMovies, blur
from sbi_circuits.connectome.network import RateNetwork
from sbi_circuits.connectome.readouts import flash_responses
from sbi_circuits.connectome.shared_inference import CurveFeatures, simulate_shared, with_parameters
from sbi_circuits.connectome.task import TaskConfig, fit_task
from sbi_circuits.errors import CircuitError, InferenceError, UnknownNameError
from sbi_circuits.inference import TrainingConfig, train
from sbi_circuits.inference.data import TrainingData
from sbi_circuits.seeds import generator


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def test_movies_move_as_their_flow_says() -> None:
    """Brightness constancy: along the flow of each column the intensity does not change (Horn & Schunck 1981)."""
    lattice = Lattice(6)
    movies = MotionMovies(frames=12, dt=0.005, speed=6.0, periods=(40.0, 120.0), contrast=(0.1, 0.15), still=1)
    movie, flow = movies.draw(lattice, 6, 0, "test")
    place = {tuple(uv): k for k, uv in enumerate(lattice.columns.tolist())}
    inner = [k for k, (u, v) in enumerate(lattice.columns.tolist()) if lattice.distance[k] < 6]
    u, v = lattice.columns[inner].T
    up, down = ([place[a + s, b] for a, b in zip(u, v, strict=True)] for s in (-1, 1))  # y = -(u + v/2)
    right, left = ([place[a, b + s] for a, b in zip(u, v, strict=True)] for s in (1, -1))
    middle = movie[:, 6]
    dy = (middle[:, up] - middle[:, down]) / 2
    dx = (middle[:, right] - middle[:, left]) / 2 - dy / -2  # a step in v alone goes half a column down
    change = (movie[:, 7] - movie[:, 5])[:, inner] / (2 * movies.dt)
    predicted = -(flow[:, 0, inner] * dx + flow[:, 1, inner] * dy)
    assert np.corrcoef(change.ravel(), predicted.ravel())[0, 1] > 0.97
    assert np.corrcoef(change.ravel(), -predicted[::-1].ravel())[0, 1] < 0.5  # another movie's flow does not


def test_textures_have_the_power_of_natural_images() -> None:
    """Power falls with the square of spatial frequency: waves of every octave have the same share of it."""
    movie, _ = MotionMovies(frames=2, still=1, speed=1e-6, waves=64).draw(Lattice(12), 60, 1, "test")
    frames = movie[:, 1] - 0.5
    assert 0.08 < frames.std() < 0.32 and abs(frames.mean()) < 0.05
    x, y = Lattice(12).positions.T * DEGREES
    powers = []
    for low, high in ((12, 30), (30, 75)):
        random = generator(2, low)
        wave = 2 * np.pi / np.exp(random.uniform(np.log(low), np.log(high), 400))
        turn = random.uniform(0, np.pi, 400)
        phases = np.exp(-1j * (np.outer(x, wave * np.cos(turn)) + np.outer(y, wave * np.sin(turn))))
        seen = abs(frames @ phases) ** 2 / blur(wave + 0j) ** 2
        powers.append(float((seen * wave**2).mean()))  # power density times frequency squared
    assert 0.4 < powers[0] / powers[1] < 2.5
    with pytest.raises(CircuitError, match="speed of motion movies must be > 0"):
        MotionMovies(speed=0.0)


def test_a_hexagonal_convolution_is_the_sum_over_neighbours() -> None:
    lattice = Lattice(3)
    layer = HexConvolution(lattice, models=2, inputs=2, outputs=3, radius=1, seed=0)
    x = torch.from_numpy(generator(0, "x").normal(size=(2, 1, 2, 37))).float()
    found = layer(x).detach()
    place = {tuple(uv): k for k, uv in enumerate(lattice.columns.tolist())}
    wanted = torch.zeros(2, 3, 37)
    for k, (u, v) in enumerate(lattice.columns.tolist()):
        for du, dv in Lattice(1).columns.tolist():
            if (u + du, v + dv) in place:
                weight = layer.weight[:, :, :, du + 1, dv + 1].detach()
                wanted[:, :, k] += (weight @ x[:, 0, :, place[u + du, v + dv], None])[..., 0]
    assert torch.allclose(found[:, 0], wanted, atol=1e-5)


TINY = TaskConfig(
    models=2, steps=6, batch=2, validation=4, hidden=2, movies=MotionMovies(frames=8, waves=8), warm=4, seed=3
)


def test_an_interrupted_training_ends_in_the_same_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sbi_circuits.connectome import task

    fly = visual_system(1)
    whole = fit_task(fly, TINY, progress=False)
    advance = task._Training.advance

    def interrupted(self: "task._Training", step: int) -> None:
        if step == 4:
            self.save(tmp_path)
            raise KeyboardInterrupt
        advance(self, step)

    monkeypatch.setattr(task._Training, "advance", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit_task(fly, TINY, tmp_path, progress=False)
    monkeypatch.setattr(task._Training, "advance", advance)
    again = fit_task(fly, TINY, tmp_path, progress=False)
    assert np.array_equal(again.losses, whole.losses.astype(np.float32)) or np.allclose(again.losses, whole.losses)
    assert np.array_equal(again.models.strength, whole.models.strength) and np.array_equal(again.error, whole.error)
    assert np.array_equal(again.start, whole.start) and again.steps == 6
    with pytest.raises(InferenceError, match=r"is of another training: seed \(3 there\)"):
        fit_task(fly, replace(TINY, seed=4), tmp_path, progress=False)
    with pytest.raises(InferenceError, match="is of another training: wiring"):
        fit_task(visual_system(2), TINY, tmp_path, progress=False)
    (tmp_path / task.STATE).write_bytes(b"nothing")
    with pytest.raises(InferenceError, match="is damaged"):
        fit_task(fly, TINY, tmp_path, progress=False)


def test_models_trained_together_are_those_trained_alone() -> None:
    fly = visual_system(1)
    both = fit_task(fly, TINY, progress=False)
    first = initial_models(fly.wiring, 2, TINY.seed).take([0])
    alone = fit_task(fly, replace(TINY, models=1), start=first, progress=False)
    assert np.allclose(alone.models.strength[0], both.models.strength[0], rtol=1e-3, atol=1e-6)
    assert np.allclose(alone.losses[:, 0], both.losses[:, 0], rtol=1e-4)
    assert not np.allclose(both.losses[:, 0], both.losses[:, 1], rtol=1e-4)


def test_training_lowers_the_motion_error() -> None:
    """Small: 37 columns, from a published model; from random values see below. Blind, it learns nothing."""
    movies = MotionMovies(frames=14, waves=16, speed=8.0, turn=0.0)
    config = TaskConfig(models=1, steps=80, batch=16, validation=48, movies=movies, rate=1e-2)
    start = published_models().take([0])
    found = fit_task(visual_system(3), config, start=start, progress=False)
    assert found.error[0] < 0.95 * found.zero < found.start[0]
    assert "zero flow" in found.summary() and found.best_first().n_models == 1
    eyes = visual_system(3).input_types
    few = replace(config, steps=30)
    blind = fit_task(visual_system(3), few, start=start.silenced(*eyes), progress=False)
    assert blind.error[0] > 0.98 * found.zero


@pytest.mark.slow
def test_at_extent_5_the_error_falls_below_zero_flow() -> None:
    config = TaskConfig(models=1, steps=1000, batch=4)
    found = fit_task(visual_system(5), config, progress=False)
    assert found.error[0] < 0.95 * found.zero < found.start[0] and found.seconds < 600


def test_settings_are_checked() -> None:
    with pytest.raises(InferenceError, match="steps of a training must be > 0"):
        TaskConfig(steps=0)
    with pytest.raises(InferenceError, match="warm must leave some of 20 frames, got 20"):
        TaskConfig(warm=20)
    with pytest.raises(InferenceError, match="2 models to start from, but 1 are to be trained"):
        fit_task(visual_system(1), TaskConfig(models=1), start=published_models().take([0, 1]), progress=False)


def test_clusters_are_found_where_there_are_some_and_not_where_there_are_none() -> None:
    random = generator(0, "clusters")
    centres = np.array([[0, 0, 0], [4, 0, 0], [0, 4, 4]])
    truth = np.repeat([0, 1, 2], [20, 12, 8])
    found = split(centres[truth] + 0.4 * random.normal(size=(40, 3)))
    assert found.n_clusters == 3 and found.p_value < 0.05
    assert all(len(set(found.labels[truth == k])) == 1 for k in range(3)) and found.labels[0] == 0
    alone = [split(random.normal(size=(40, 3)) @ np.diag([3.0, 1.0, 0.5]), seed=k).n_clusters for k in range(20)]
    assert np.mean(np.array(alone) > 1) < 0.25
    with pytest.raises(CircuitError, match=r"needs finite vectors of 6 models or more, got \(4, 2\)"):
        split(np.zeros((4, 2)))


def test_a_consensus_says_how_many_agree() -> None:
    values = np.array([[1.0, -1.0], [2.0, 1.0], [3.0, -3.0], [0.5, 2.0]])
    found = Consensus(("A", "B"), values)
    assert found.agreement.tolist() == [1.0, 0.5] and found.agreed() == ["A"]
    assert found.median.tolist() == [1.5, 0.0] and "100% of 4 models agree" in found.table(["A"])
    with pytest.raises(CircuitError, match="values have shape"):
        Consensus(("A",), values)


def test_silencing_a_type_changes_what_it_feeds_and_not_what_it_does_not() -> None:
    fly = visual_system(3)
    network, models = RateNetwork.of(fly), published_models().take([0, 1, 3])

    def index(chosen: Models) -> np.ndarray:
        return flash_responses(network, chosen, fly.lattice, dt=0.01)[:, 1].max(1)

    found = silence(models, "L1", index, fly.wiring.cell_types)
    place = {name: k for k, name in enumerate(fly.wiring.cell_types)}
    assert found.silenced == ("L1",) and found.change.values.shape == (3, 65)
    assert np.median(abs(found.change.values[:, place["Mi1"]])) > 0.1  # one of its main inputs, in most models
    assert (found.change.values[:, [place["R7"], place["R8"]]] == 0).all()  # no path leads there
    assert (silence(models, "Tm30", index, fly.wiring.cell_types).change.values == 0).all()  # it has no targets
    assert "L1" not in found.largest(10) and len(found.largest(10)) == 10
    with pytest.raises(UnknownNameError, match="unknown cell type 'L9'"):
        silence(models, "L9", index, fly.wiring.cell_types)


def test_flash_indices_are_features_too() -> None:
    fly = visual_system(2)
    network, models = RateNetwork.of(fly), published_models().take([0, 1])
    features = CurveFeatures(("T4c",), flash_types=("Mi1", "L1"))
    values, states, bounded = features.measure(network, fly.lattice, models)
    assert features.names[-2:] == ("Mi1.flash_index", "L1.flash_index") and values.shape == states.shape == (2, 15)
    assert bounded.all() and (values[:, -2] > 0.2).all() and (values[:, -1] < -0.2).all()
    assert features.known()["Mi1.flash_index"] == 1.0 and features.known()["L1.flash_index"] == -1.0
    wild = models.with_values(["strength.Mi1->T4c"], np.full((2, 1), 1e30))
    assert not features.measure(network, fly.lattice, wild)[2].any()
    with pytest.raises(UnknownNameError, match="unknown type of known polarity 'Mi2'"):
        CurveFeatures(flash_types=("Mi2",))


NAMES = ("strength.Mi9->T4c", "strength.Mi1->T4c", "rest.T4c")


def test_tuning_informs_shared_parameters_and_tuning_of_others_does_not() -> None:
    fly = visual_system(2)
    network, models = RateNetwork.of(fly), published_models().take([0])
    features = CurveFeatures(("T4c",), dt=0.01, settle=0.5)
    data = simulate_shared(network, fly.lattice, models, NAMES, features, 500, seed=1)
    assert data.rows + data.provenance["outcomes"]["diverged"] == 500 and data.feature_names == features.names
    again = simulate_shared(network, fly.lattice, models, NAMES, features, 55, seed=1)
    assert np.array_equal(again.theta, data.theta[: len(again.theta)])
    config = TrainingConfig(members=1, epochs=25, hidden=24, layers=1, transform="coupling")
    posterior = train(data, config, progress=False, seed=0)
    gain = posterior.provenance["validation"]
    assert gain["validation_gain"] > 4 * gain["validation_gain_error"]
    shuffled = generator(0, "rows").permutation(data.rows)
    null = TrainingData(data.theta[shuffled], data.values, data.states, data.prior, data.feature_names)
    none = train(null, config, progress=False, seed=0).provenance["validation"]
    assert none["validation_gain"] < 2 * none["validation_gain_error"]
    drawn = posterior(features.known()).sample(3, seed=0)
    simulated = with_parameters(models, NAMES, drawn)
    assert simulated.n_models == 3 and np.allclose(simulated.values(NAMES), drawn, rtol=1e-5)
    with pytest.raises(UnknownNameError, match="unknown shared parameter strength 'Mi9->T9'"):
        simulate_shared(network, fly.lattice, models, ("strength.Mi9->T9",), features, 60)
    with pytest.raises(UnknownNameError, match="unknown motion detector 'Mi1'"):
        CurveFeatures(("Mi1",))
