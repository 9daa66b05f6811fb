"""Every figure draws without a warning, with labelled axes, and from no or little data too."""

from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from tiny import FEATURES, PRIOR, THETA, tiny_ensemble, tiny_posterior, tiny_recording

from sbi_circuits.calibration import coverage_of_ranks
from sbi_circuits.ensemble import Ensemble
from sbi_circuits.errors import InferenceError, RecordingError, UnknownNameError
from sbi_circuits.features import FeatureSet, WindowedFeatures
from sbi_circuits.inference.encode import FeatureEncoder
from sbi_circuits.plots import (
    coverage_plot,
    feature_comparison,
    marginals,
    pair,
    raster,
    save,
    training_curve,
    unit_text,
)
from sbi_circuits.recording import PopulationCounts, Recording
from sbi_circuits.seeds import generator
from sbi_circuits.verification import judge


@pytest.fixture(scope="module")
def ensemble() -> Ensemble:
    return tiny_ensemble()


def texts(fig: Figure) -> list[str]:
    fig.draw_without_rendering()
    found = [text.get_text() for text in fig.findobj(matplotlib.text.Text)]
    return [text for text in found if text]


def as_png(fig: Figure, folder: Path) -> Path:
    path = save(fig, folder / "figure.png", dpi=50)
    assert path.read_bytes()[:4] == b"\x89PNG" and [p.name for p in folder.iterdir()] == ["figure.png"]
    return path


def test_raster_shows_spikes_rate_and_units(tmp_path: Path) -> None:
    fig = raster(tiny_recording(THETA, 20.0, 0), (2.0, 8.0), title="a recording")
    assert {"time (s)", "Hz per cell", "cells", "a recording"} <= set(texts(fig))
    assert fig.axes[1].get_xlim() == (2.0, 8.0)
    as_png(fig, tmp_path)


def test_raster_of_counts_alone_of_channels_and_of_many_units() -> None:
    counts = {"exc": PopulationCounts(np.ones(2000, dtype=int), 10)}
    raster(Recording(0.0, 2.0, counts=counts)).draw_without_rendering()
    many = Recording.from_units([[0.5]] * 300, 0.0, 2.0, groups=("exc",) * 200 + ("inh",) * 100)
    assert {"exc", "inh"} <= set(texts(raster(many)))
    channels = Recording.from_units([[0.5]] * 3, 0.0, 2.0, unit_kind="channel")
    assert {"channels", "Hz per channel"} <= set(texts(raster(channels)))


def test_raster_of_a_window_outside() -> None:
    with pytest.raises(RecordingError, match=r"the window does not overlap the recording \[0, 2\) s"):
        raster(Recording.from_units([[0.5]], 0.0, 2.0), (3.0, 4.0))


def test_comparison_names_observed_features_with_units(ensemble: Ensemble, tmp_path: Path) -> None:
    fig = feature_comparison(ensemble, title="tiny")
    found = texts(fig)
    assert "bursts.rate_per_minute" in found and any(text.endswith("1/min") for text in found)
    assert "difference from the recording (standard deviations)" in found
    assert f"{ensemble.verified.sum()} verified" in found
    as_png(fig, tmp_path)


def spectral() -> Ensemble:
    """The same ensemble shape with a wide family: 60 frequencies."""
    features = FeatureSet.of(spectrum={"low": 1.0, "high": 60.0, "step": 1.0})
    random, width = generator(0, "spectral"), features.width
    values, states = random.standard_normal((20, 2, width)), np.zeros((20, 2, width), dtype=np.uint8)
    windows = random.standard_normal((5, width))
    seen = WindowedFeatures(windows.mean(0), states[0, 0], windows.std(0), windows, states[:5, 0])
    encoder = FeatureEncoder.fit(values[:, 0], states[:, 0], dropping=True)
    base = tiny_ensemble()
    found = judge(seen, values, states, np.ones((20, 2), dtype=bool), encoder, base.criterion)
    draws = {"theta": base.prior.sample(20, 0), "outcomes": np.full((20, 2), "ok")}
    own = {"feature_set": features, "observation": seen, "encoder": encoder, "judgement": found}
    return replace(base, values=values, states=states, **own, **draws)


def test_comparison_draws_wide_families_as_curves() -> None:
    fig = feature_comparison(spectral())
    assert "frequency (Hz)" in texts(fig) and fig.axes[0].get_xlim() == (1.0, 60.0)


def test_comparison_without_members(ensemble: Ensemble) -> None:
    nothing = np.zeros(len(ensemble.theta), dtype=bool)
    none = replace(ensemble, judgement=replace(ensemble.judgement, verified=nothing))
    assert "0 verified" in texts(feature_comparison(none))


@pytest.mark.parametrize("members", [0, 1, 40])
def test_configurations(members: int, tmp_path: Path) -> None:
    theta = PRIOR.sample(members, seed=0)
    rows = marginals(theta, PRIOR, reference=THETA)
    assert {"2 Hz", "5 Hz, log", "−50 mV", r"$\nu_0$"} <= set(texts(rows))
    pairs = pair(theta, PRIOR, names=("idle", "tonic"), reference=THETA)
    assert "$v_{idle}$ (mV)" in texts(pairs) and len(pairs.axes) == 4
    as_png(rows, tmp_path)


def test_pairs_are_of_what_narrowed_most() -> None:
    theta = PRIOR.sample(50, seed=0)
    theta[:, 1] = 1.0
    assert len(pair(theta, PRIOR).axes) == 9
    wide = replace(
        PRIOR, parameters=tuple(replace(p, name=f"{p.name}{k}") for k in range(3) for p in PRIOR.parameters)
    )
    nine = np.concatenate([theta] * 3, axis=1)
    names = {text.split(" ")[0] for text in texts(pair(nine, wide))}
    assert "bursting0" in names and "bursting2" in names and len(pair(nine, wide).axes) == 36


def test_wrong_configurations() -> None:
    with pytest.raises(InferenceError, match=r"configurations have shape \(4, 2\), expected \(K, 3\)"):
        marginals(np.zeros((4, 2)), PRIOR)
    with pytest.raises(UnknownNameError, match="unknown parameter 'g'; valid: bursting, idle, tonic"):
        pair(PRIOR.sample(5, 0), PRIOR, names=("g",))


def test_training_and_coverage(tmp_path: Path) -> None:
    assert {"epoch", "loss (nats per simulation)", "prior"} <= set(texts(training_curve(tiny_posterior())))
    ranks = generator(0, "ranks").integers(0, 101, (20, 3))
    fig = coverage_plot(coverage_of_ranks(ranks, 100))
    assert "coverage, 20 observations" in texts(fig)
    as_png(fig, tmp_path)


def test_units_as_people_write_them() -> None:
    assert all("second" not in unit_text(unit) for unit in FEATURES.units)
