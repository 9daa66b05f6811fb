"""Figures of calibration and of model comparison draw without a warning, with labelled axes."""

from pathlib import Path

import matplotlib
import numpy as np
import pytest
from exact import NAMES, ToyPosterior, simulate
from matplotlib.figure import Figure

from sbi_circuits.calibration import Calibration, HeldOut, ReachTest, calibrate, predictive_check
from sbi_circuits.features import DEFINED, UNDEFINED
from sbi_circuits.plots import local_plot, pattern_plot, predictive_plot, rank_plot, reach_plot, save, tarp_plot
from sbi_circuits.seeds import generator


def texts(fig: Figure) -> list[str]:
    fig.draw_without_rendering()
    return [text.get_text() for text in fig.findobj(matplotlib.text.Text) if text.get_text()]


def held() -> HeldOut:
    """Rows of the toy, the second feature undefined in a third of them."""
    rows = simulate(300, seed=4)
    states = rows.states.copy()
    states[:, 1] = np.where(generator(0, "undefined").random(300) < 1 / 3, UNDEFINED, DEFINED)
    return HeldOut(rows.theta, rows.values, states, rows.prior, rows.feature_names)


@pytest.fixture(scope="module")
def found() -> Calibration:
    return calibrate(ToyPosterior(width=0.5), held(), draws=80, subsets={"bursts": ["bursts"]}, seed=0)


def test_ranks_of_a_narrow_posterior_leave_the_band_by_name(found: Calibration, tmp_path: Path) -> None:
    fig = rank_plot(found)
    assert {"g", "tau", "rank among posterior draws"} <= set(texts(fig))
    assert "0 of 2 parameters within the 95 % band, 250 simulations" in texts(fig)
    assert save(fig, tmp_path / "ranks.png", dpi=50).stat().st_size > 1000


def test_ranks_of_the_exact_posterior_stay_within_it() -> None:
    exact = calibrate(ToyPosterior(), simulate(300, seed=5), draws=80, local=False, seed=0)
    assert "2 of 2 parameters within the 95 % band, 250 simulations" in texts(rank_plot(exact))


def test_regions_and_local_test(found: Calibration) -> None:
    assert {"credibility of the region", "expected coverage"} <= set(texts(tarp_plot(found.tarp)))
    assert found.local is not None
    assert {"this posterior", "permuted labels"} <= set(texts(local_plot(found.local)))


def test_patterns_and_subsets_are_named(found: Calibration) -> None:
    shown = texts(pattern_plot(found))
    assert any(text.startswith("bursts.rate undefined (") for text in shown)
    assert any(text.startswith("only bursts observed (") for text in shown)


def test_predictive_check_shows_what_fails() -> None:
    rows = simulate(60, seed=1)
    states = rows.states.copy()
    states[:30, 1] = UNDEFINED
    x = (np.array([40.0, 0.0]), np.array([DEFINED, UNDEFINED]))
    check = predictive_check(x, rows.values, states, np.ones(60, dtype=bool), rows.encoder, NAMES, ("ms", "Hz"))
    shown = texts(predictive_plot(check))
    assert "isi.mean" in shown and any(text.startswith("40 ms, p ") for text in shown)
    assert any(text.startswith("undefined, p ") for text in shown)


def test_observation_among_simulations() -> None:
    test = ReachTest.fit(held())
    shown = texts(reach_plot(test, (np.array([9.0, 0.0]), np.array([DEFINED, UNDEFINED]))))
    assert {"simulations", "observation"} <= set(shown) and any("out of reach" in text for text in shown)
