"""Scales of features: ranks are normal whatever the values were, equal ones stay equal, the better scale is found."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from tiny import tiny_ensemble, tiny_table

from sbi_circuits.errors import UnknownNameError
from sbi_circuits.features import DEFINED, UNDEFINED, UNOBSERVED
from sbi_circuits.inference import TrainingConfig, TrainingData, load_posterior, train
from sbi_circuits.inference.encode import FeatureEncoder
from sbi_circuits.prior import Parameter, Prior
from sbi_circuits.results import load_ensemble, save_ensemble
from sbi_circuits.seeds import generator

PRIOR = Prior((Parameter("a", "1", 0.0, 1.0), Parameter("b", "1", 0.0, 1.0)))
SMALL = {"members": 1, "epochs": 2, "hidden": 8, "width": 8}


def encoder(x: np.ndarray, states: np.ndarray | None = None, scaling: str = "rank") -> FeatureEncoder:
    states = np.zeros(x.shape, np.uint8) if states is None else states
    return FeatureEncoder.fit(x, states, dropping=True, scaling=scaling)


def test_ranks_are_normal_whatever_the_values_are() -> None:
    """Cauchy, bimodal and exponential values; robust scaling leaves the second far from normal (control)."""
    random = generator(0, "values")
    two = np.where(random.random(4000) < 0.5, -5.0, 5.0) + random.standard_normal(4000)
    x = np.column_stack([random.standard_cauchy(4000), two, random.exponential(1.0, 4000)])
    ranked, robust = (encoder(x, scaling=s).scaled(x, np.zeros_like(x)) for s in ("rank", "robust"))
    away = [[stats.kstest(y[:, f], "norm").statistic for f in range(3)] for y in (ranked, robust)]
    assert max(away[0]) < 0.03 and away[1][1] > 0.2
    order = np.argsort(x[:, 0])
    assert (np.diff(ranked[order, 0]) >= 0).all()


def test_equal_values_stay_equal_and_far_ones_go_on() -> None:
    x = np.repeat([0.0, 1.0, 2.0], [100, 60, 40])[:, None]
    found = encoder(x)
    low, middle, high = found.scaled(np.array([[0.0], [1.0], [2.0]]), np.zeros((3, 1)))[:, 0]
    # Of 200 rows: the middles of their ranks are 50, 130 and 180.
    assert [low, middle, high] == pytest.approx(stats.norm.ppf([0.25, 0.65, 0.9]).tolist(), abs=1e-6)
    far, farther = found.scaled(np.array([[50.0], [100.0]]), np.zeros((2, 1)))[:, 0]
    assert high < far < farther < 12.0


def test_what_is_not_defined_does_not_count() -> None:
    x = generator(0, "values").standard_normal((300, 2))
    states = np.full(x.shape, DEFINED, np.uint8)
    states[::3, 0], states[1::3, 0] = UNDEFINED, UNOBSERVED
    wild = np.where(states == DEFINED, x, 1e9)
    found = encoder(wild, states)
    assert (found.scaled(wild, states)[states != DEFINED] == 0).all()
    assert np.abs(found.scaled(wild, states)).max() < 4.0
    none = np.full(x.shape, UNDEFINED, np.uint8)
    none[:, 1] = DEFINED
    assert np.isfinite(encoder(x, none).scaled(x, none)).all()


def warped(kind: str) -> TrainingData:
    """Features are normal scores of theta and noise, some of them bent beyond what a logarithm mends."""
    theta, random = PRIOR.sample(1500, seed=0), generator(0, "noise")
    x = PRIOR.unconstrain(theta) + 0.3 * random.standard_normal((1500, 2))
    if kind == "bent":
        x = np.sign(x) * np.expm1(np.abs(x) ** 3)
    elif kind == "line":
        x = np.sqrt(12.0) * (theta - 0.5) + 0.3 * random.standard_normal((1500, 2))
    return TrainingData(theta, x, np.zeros(x.shape, np.uint8), PRIOR, ("x.a", "y.b"))


@pytest.mark.parametrize(("kind", "scaling"), [("bent", "rank"), ("line", "robust")])
def test_the_better_scale_is_found(kind: str, scaling: str) -> None:
    config = TrainingConfig(**SMALL, scaling="auto", drop=0.0)  # type: ignore[arg-type]
    found = train(warped(kind), config, progress=False, seed=0)
    assert found.provenance["config"]["scaling"] == scaling
    assert (found.encoder.ranks is not None) == (scaling == "rank")


def test_a_posterior_on_ranks_is_saved_and_loaded(tmp_path: Path) -> None:
    config = TrainingConfig(**SMALL, scaling="rank")  # type: ignore[arg-type]
    found = train(warped("bent"), config, progress=False, seed=0)
    again = load_posterior(found.save(tmp_path))
    x = {"x.a": 30.0}
    draws = found(x).sample(50, seed=1)
    assert np.array_equal(draws, again(x).sample(50, seed=1))
    assert np.allclose(found(x).log_prob(draws), again(x).log_prob(draws), rtol=1e-10)
    assert again.check(x).score == pytest.approx(found.check(x).score)


def test_an_ensemble_keeps_the_ranks(tmp_path: Path) -> None:
    rows = tiny_table().read()
    ranked = encoder(rows.values, rows.states)
    again = load_ensemble(save_ensemble(replace(tiny_ensemble(), encoder=ranked), tmp_path / "ensemble.nc"))
    assert again.encoder.ranks is not None and np.array_equal(again.encoder.ranks, ranked.ranks)
    assert load_ensemble(save_ensemble(tiny_ensemble(), tmp_path / "plain.nc")).encoder.ranks is None


def test_scales_that_do_not_exist() -> None:
    with pytest.raises(UnknownNameError, match="unknown scaling 'z'; valid: auto, rank, robust"):
        TrainingConfig(scaling="z")
