"""Laws that a trained posterior of every family keeps: bounds, total probability, files, seeds, threads, bad input.

The laws of untrained flows are in `test_flows`.
"""

import json
import sys
from collections.abc import Callable
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sbi_circuits.errors import InferenceError, UnknownNameError
from sbi_circuits.estimators import LikelihoodConfig, RatioConfig, load_estimator, save_estimator, train_estimator
from sbi_circuits.features import UNDEFINED, UNOBSERVED
from sbi_circuits.inference import Posterior, TrainingConfig, TrainingData, load_posterior, train
from sbi_circuits.inference.config import FAMILIES, LIBRARY_TRANSFORMS, TRANSFORMS
from sbi_circuits.prior import Parameter, Prior
from sbi_circuits.seeds import generator

KINDS = [*product(("batched",), TRANSFORMS), *product(FAMILIES[1:], LIBRARY_TRANSFORMS)]
ESTIMATORS: dict[str, LikelihoodConfig | RatioConfig] = {
    "likelihood": LikelihoodConfig(members=1, hidden=8, epochs=2, components=2),
    "ratio": RatioConfig(members=1, hidden=8, epochs=2, contrasts=3),
}
PRIOR = Prior((Parameter("g", "nS", -1.0, 3.0), Parameter("tau", "ms", 1.0, 100.0, scale="log")))
NAMES = ("isi.mean", "isi.cv", "bursts.rate")
FAR = ([50.0, -80.0, 1e6], [-1e9, 1e9, 0.0])


def rows(n: int = 300) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """theta, values and states: two noisy features of theta, and one that is undefined where g < 0."""
    theta = PRIOR.sample(n, seed=0)
    z = PRIOR.unconstrain(theta)
    values = np.hstack([z, z[:, :1] * z[:, 1:]]) + 0.4 * generator(0, "noise").standard_normal((n, 3))
    states = np.zeros(values.shape, dtype=np.uint8)
    states[theta[:, 0] < 0, 2] = UNDEFINED
    return theta, values, states


def data(n: int = 300) -> TrainingData:
    return TrainingData(*rows(n), PRIOR, NAMES)


def fitted(kind: tuple[str, str], n: int = 300) -> Posterior:
    config = TrainingConfig(*kind, members=2, epochs=3, hidden=16, width=8, bins=4)
    return train(data(n), config, progress=False, seed=0)


@cache
def posterior(kind: tuple[str, str]) -> Posterior:
    return fitted(kind)


@pytest.mark.parametrize("kind", KINDS)
def test_no_draw_leaves_the_prior(kind: tuple[str, str]) -> None:
    for x in (*FAR, {"isi.mean": 1e5}, {"bursts.rate": None}):
        theta = posterior(kind)(x).sample(2000, seed=0)
        assert np.isfinite(theta).all() and PRIOR.contains(theta).all()


@pytest.mark.parametrize("kind", KINDS)
def test_density_integrates_to_one(kind: tuple[str, str]) -> None:
    """Midpoint rule within 1 %, in declared units; what lies on one side of the mean is less."""
    step, axis = 0.1, np.arange(-9.0, 9.0, 0.1)
    z = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    theta = PRIOR.constrain(z)
    for x in ([0.2, 0.4, 0.1], {"isi.cv": -1.0}, {"isi.mean": -1.5, "bursts.rate": None}):
        density = np.exp(posterior(kind)(x).log_prob(theta) + PRIOR.log_abs_det(z)) * step**2
        assert density.sum() == pytest.approx(1.0, abs=0.01)
        assert density[z[:, 0] < density @ z[:, 0]].sum() < 0.9


@pytest.mark.parametrize("kind", KINDS)
def test_saved_loaded_and_drawn_with_one_seed_the_numbers_are_the_same(kind: tuple[str, str], tmp_path: Path) -> None:
    own = posterior(kind)
    again = load_posterior(own.save(tmp_path))
    for x in ([0.1, 0.2, 0.3], {"isi.cv": 0.2}, {"bursts.rate": None}):
        draws = own(x).sample(60, seed=4)
        assert np.array_equal(draws, own(x).sample(60, seed=4)) and np.array_equal(draws, again(x).sample(60, seed=4))
        assert np.array_equal(own(x).log_prob(draws), again(x).log_prob(draws))
        assert not np.array_equal(draws, own(x).sample(60, seed=5))


@pytest.mark.parametrize("kind", KINDS)
def test_threads_change_rounding_at_most(kind: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Trained and drawn with one thread and with two; small networks are else trained with one whatever is set."""
    monkeypatch.setattr(sys.modules["sbi_circuits.inference.train"], "_SMALL", 0)
    found, before = [], torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            one = fitted(kind, 90)
            theta = one([0.1, 0.2, 0.3]).sample(200, seed=0)
            found.append((PRIOR.unconstrain(theta), one([0.1, 0.2, 0.3]).log_prob(PRIOR.sample(50, seed=0))))
    finally:
        torch.set_num_threads(before)
    for a, b in zip(*found, strict=True):
        assert np.allclose(a, b, rtol=1e-3, atol=1e-3)


# --- bad input: one line each ---------------------------------------------------------------------


@cache
def trained(kind: str) -> Any:
    """A posterior, or one of a likelihood or a ratio."""
    return posterior(("batched", "mixture")) if kind == "flow" else fit(kind)(data())


def fit(kind: str) -> Callable[[Any], Any]:
    if kind == "flow":
        return lambda table: train(table, TrainingConfig(members=1, epochs=1), progress=False)
    return lambda table: train_estimator(table, kind, ESTIMATORS[kind], seed=0)


EVERY = ("flow", *ESTIMATORS)


def refused(call: Callable[[], Any], error: type[Exception] = InferenceError) -> str:
    with pytest.raises(error) as caught:
        call()
    text = str(caught.value)
    assert text and "\n" not in text
    return text


@pytest.mark.parametrize("kind", EVERY)
def test_tables_that_teach_nothing(kind: str) -> None:
    theta, values, states = rows()
    table = lambda v, s=states, k=300: TrainingData(theta[:k], v[:k], s[:k], PRIOR, NAMES)  # noqa: E731
    assert "at least 50 rows with outcome ok, got 49" in refused(lambda: fit(kind)(table(values, states, 49)))
    constant = np.ones_like(values)
    assert "no feature varies" in refused(lambda: fit(kind)(table(constant, np.zeros_like(states))))
    one = np.where(np.arange(3) == 1, 5.0, values)
    assert "features that never varied, left out: isi.cv" in " ".join(fit(kind)(table(one)).log)


@pytest.mark.parametrize("kind", EVERY)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(kind: str, value: float) -> None:
    theta, values, states = rows()
    values[7, 1] = value
    text = refused(lambda: fit(kind)(TrainingData(theta, values, states, PRIOR, NAMES)))
    assert f"feature isi.cv is defined but {value} in 1 rows" in text
    assert f"feature isi.cv is {value}; leave it out" in refused(lambda: trained(kind)([0.0, value, 0.0]))


@pytest.mark.parametrize("kind", EVERY)
def test_observations_that_do_not_fit(kind: str) -> None:
    own = trained(kind)
    text = refused(lambda: own({"isi.man": 1.0}), UnknownNameError)
    assert text == "unknown feature 'isi.man'; valid: bursts.rate, isi.cv, isi.mean"
    assert "expected (3,): isi.mean, isi.cv, bursts.rate" in refused(lambda: own(np.zeros(5)))
    assert "states must be 0, 1 or 2" in refused(lambda: own((np.zeros(3), np.full(3, 9))))

    class Foreign:
        values, states, names = np.zeros(3), np.zeros(3), ("isi.mean", "isi.cv", "spectrum.10")

    assert "other features than the posterior: bursts.rate, spectrum.10" in refused(lambda: own(Foreign()))


@pytest.mark.parametrize("kind", EVERY)
@pytest.mark.parametrize("damage", ["missing", "cut", "changed", "empty", "foreign"])
def test_damaged_files(kind: str, damage: str, tmp_path: Path) -> None:
    own = trained(kind)
    own.save(tmp_path) if kind == "flow" else save_estimator(own, tmp_path)
    for path in sorted(p for p in tmp_path.iterdir() if p.suffix != ".log"):
        content = path.read_bytes()
        foreign = json.dumps({"schema": 99}).encode() if path.suffix == ".json" else bytes(len(content))
        wrong = {"cut": content[: len(content) // 2], "changed": content[:-9] + bytes(9), "empty": b""}
        wrong["foreign"] = foreign
        path.unlink() if damage == "missing" else path.write_bytes(wrong[damage])
        refused(lambda: (load_posterior if kind == "flow" else load_estimator)(tmp_path))
        path.write_bytes(content)
    again = (load_posterior if kind == "flow" else load_estimator)(tmp_path)
    assert np.array_equal(again([0.1, 0.2, 0.3]).sample(5, seed=0), own([0.1, 0.2, 0.3]).sample(5, seed=0))


@pytest.mark.parametrize("kind", sorted(ESTIMATORS))
def test_estimators_keep_to_the_prior(kind: str) -> None:
    for x in (*FAR, {"isi.mean": 1e5}, (np.zeros(3), np.full(3, UNOBSERVED))):
        theta = trained(kind)(x).sample(100, seed=0)
        assert np.isfinite(theta).all() and PRIOR.contains(theta).all()
