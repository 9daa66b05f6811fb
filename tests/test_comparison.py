"""Model comparison against exact probabilities, and classifiers that are too sure, not sure enough, or biased.

Toy: two circuits whose features are normal with different means; the exact log odds are linear in x. Seeds are fixed.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from exact import NAMES, PRIOR
from scipy.special import expit
from tiny import tiny_table

from sbi_circuits.calibration import HeldOut
from sbi_circuits.comparison import (
    CircuitClassifier,
    ClassifierConfig,
    compare_circuits,
    load_classifier,
    reliability,
    save_classifier,
    train_classifier,
)
from sbi_circuits.comparison.reliability import temperature
from sbi_circuits.errors import InferenceError, UnknownNameError
from sbi_circuits.features import DEFINED, UNDEFINED, UNOBSERVED
from sbi_circuits.plots import probability_plot, reliability_plot
from sbi_circuits.seeds import generator
from sbi_circuits.table import MemoryTable

QUICK = ClassifierConfig(members=2, hidden=24, epochs=8)
MEANS = {"left": np.array([-0.5, 0.0]), "right": np.array([0.5, 0.0])}
SEEN = np.zeros(2, dtype=np.uint8)


def rows(mean: np.ndarray, n: int, seed: int, undefined: float = 0.0) -> HeldOut:
    """Normal features with unit variance; the second is undefined in a share of the rows."""
    random = generator(seed, "rows", *mean)
    values = mean + random.standard_normal((n, 2))
    states = np.zeros((n, 2), dtype=np.uint8)
    states[:, 1] = np.where(random.random(n) < undefined, UNDEFINED, DEFINED)
    return HeldOut(PRIOR.sample(n, seed), np.where(states == DEFINED, values, 0.0), states, PRIOR, NAMES)


@pytest.fixture(scope="module")
def trained() -> CircuitClassifier:
    return train_classifier({name: rows(mean, 1500, 0) for name, mean in MEANS.items()}, config=QUICK, seed=0)


def right(classifier: CircuitClassifier, x: np.ndarray, **options: Mapping[str, float]) -> np.ndarray:
    return np.array([classifier((v, SEEN), **options).probabilities[1] for v in x])


def test_probabilities_are_the_exact_ones(trained: CircuitClassifier) -> None:
    """log p(right) / p(left) = x_0 exactly; mean error below 0.05 over 100 fresh rows, and no bias."""
    x = np.vstack([rows(mean, 50, 3).values for mean in MEANS.values()])
    error = right(trained, x) - expit(x[:, 0])
    assert np.abs(error).mean() < 0.05 and abs(error.mean()) < 0.04


def test_held_out_rows_find_it_calibrated(trained: CircuitClassifier) -> None:
    """False alarm rate of the test 0.05, of p > 0.001 0.001; the accuracy of the exact rule is 69 %."""
    found = trained.reliability
    assert found.p_value > 0.001 and found.rows == 600 and abs(found.accuracy - 0.69) < 0.06
    assert found.log_loss == pytest.approx(found.expected, abs=0.06)
    assert "right on 600 held-out simulations" in found.summary()


@pytest.mark.parametrize(("scale", "offset"), [(3.0, 0.0), (0.3, 0.0), (1.0, 1.0)])
def test_reliability_fails_a_distorted_classifier(scale: float, offset: float) -> None:
    """Too sure, not sure enough, biased towards one circuit."""
    random = generator(0, "labels")
    logits = random.standard_normal(600)
    labels = (random.random(600) < expit(logits)).astype(int)
    wrong = expit(scale * logits + offset)
    assert reliability(np.stack([1 - wrong, wrong], axis=1), labels).p_value < 0.005


def test_reliability_holds_its_level() -> None:
    """60 exact tables of probabilities: at most 8 below 0.05 (binomial, exceeded with 0.8 %)."""
    alarms = 0
    for seed in range(60):
        random = generator(seed, "level")
        p = expit(2 * random.standard_normal(150))
        labels = (random.random(150) < p).astype(int)
        alarms += reliability(np.stack([1 - p, p], axis=1), labels, seed).p_value < 0.05
    assert alarms <= 8


def test_temperature_undoes_overconfidence_and_bias() -> None:
    """Logits three times too large and shifted by one: found within 4 standard errors at 2,000 rows (about 0.25)."""
    random = generator(1, "temperature")
    exact = 1.5 * random.standard_normal(2000)
    labels = (random.random(2000) < expit(exact)).astype(int)
    scale, offset = temperature(np.stack([np.zeros(2000), 3 * exact + 1], axis=1), labels, np.ones(2))
    assert 3 * scale == pytest.approx(1.0, abs=0.25) and scale + offset[1] == pytest.approx(0.0, abs=0.25)


def test_circuits_that_cannot_be_told_apart_are_equally_probable() -> None:
    same = {name: rows(np.zeros(2), 600, seed) for seed, name in enumerate(("a", "b"))}
    found = train_classifier(same, config=QUICK, seed=0)
    x = generator(5, "x").standard_normal((50, 2))
    assert np.abs(right(found, x) - 0.5).mean() < 0.07 and abs(found.reliability.accuracy - 0.5) < 0.15


def test_prior_and_silence_count(trained: CircuitClassifier) -> None:
    """A circuit that is silent in 9 of 10 simulations, or improbable beforehand, has its odds divided so."""
    x = (np.array([0.4, 0.0]), SEEN)
    p = trained(x).probabilities
    quiet = replace(trained, log_ok=np.log([1.0, 0.1]))(x).probabilities
    assert quiet[1] / quiet[0] == pytest.approx(0.1 * p[1] / p[0])
    assert trained(x, {"left": 3, "right": 1}).probabilities == pytest.approx(
        np.array([3, 1]) * p / (np.array([3, 1]) * p).sum()
    )
    assert trained(x, {"left": 1.0}).best == "left"


def test_undefined_and_unobserved_features() -> None:
    """What is undefined in one circuit only decides; what is unobserved leaves the other features to decide."""
    parts = {"never": rows(np.zeros(2), 500, 0), "often": rows(np.zeros(2), 500, 1, undefined=0.5)}
    found = train_classifier(parts, config=QUICK, seed=0)
    assert found((np.zeros(2), np.array([DEFINED, UNDEFINED]))).probabilities[1] > 0.85
    assert found((np.zeros(2), SEEN)).probabilities[1] == pytest.approx(1 / 3, abs=0.1)
    assert found((np.zeros(2), np.array([DEFINED, UNOBSERVED]))).probabilities[1] == pytest.approx(0.5, abs=0.12)


def test_what_no_circuit_reaches_is_said(trained: CircuitClassifier) -> None:
    far = trained((np.array([9.0, -9.0]), SEEN)).summary()
    assert "none of the circuits reaches this observation" in far
    near = trained((np.array([0.9, 0.1]), SEEN))
    assert near.best == "right" and "none of the circuits" not in near.summary()


def test_seeds_decide(trained: CircuitClassifier) -> None:
    again = train_classifier({name: rows(mean, 1500, 0) for name, mean in MEANS.items()}, config=QUICK, seed=0)
    x = np.array([[0.2, 0.3]])
    assert np.array_equal(right(again, x), right(trained, x))


def test_tables_are_compared() -> None:
    """Two halves of one table are one circuit: nobody can tell them apart."""
    table = tiny_table()
    all_rows = table.read()
    halves = [MemoryTable(table.manifest, all_rows.take(np.arange(len(all_rows)) % 2 == k)) for k in (0, 1)]
    found = compare_circuits(halves, ClassifierConfig(members=2, hidden=16, epochs=4), seed=0)
    assert found.names == ("tiny (1)", "tiny (2)") and found.reliability.accuracy < 0.8
    assert (found.log_ok < 0).all()
    part = halves[0].read().take(np.arange(80))
    with pytest.raises(InferenceError, match=r"a comparison needs 100 simulations .* tiny \(2\) has \d+"):
        compare_circuits([halves[0], MemoryTable(table.manifest, part)])


def test_very_few_steps_train_too() -> None:
    config = ClassifierConfig(members=1, hidden=4, epochs=1, batch=512)
    found = train_classifier({name: rows(mean, 100, 0) for name, mean in MEANS.items()}, config=config)
    assert 0 < found((np.zeros(2), SEEN)).probabilities[0] < 1


def test_bad_input(trained: CircuitClassifier) -> None:
    with pytest.raises(InferenceError, match="at least two tables, got 1"):
        compare_circuits([tiny_table()])
    other = replace(tiny_table().manifest, protocol={**tiny_table().manifest.protocol, "duration": 5.0})
    with pytest.raises(InferenceError, match="last 20 s, those of tiny .* 5 s"):
        compare_circuits([tiny_table(), MemoryTable(other, tiny_table().read())])
    with pytest.raises(UnknownNameError, match="unknown circuit 'up'; valid: left, right"):
        trained((np.zeros(2), SEEN), {"up": 1.0})
    with pytest.raises(InferenceError, match="must be >= 0 and not all 0"):
        trained((np.zeros(2), SEEN), {"left": -1.0})
    with pytest.raises(InferenceError, match=r"feature isi.mean is nan"):
        trained((np.array([np.nan, 0]), SEEN))
    with pytest.raises(InferenceError, match="at least two circuits, got 1"):
        train_classifier({"one": rows(np.zeros(2), 200, 0)})
    renamed = replace(rows(np.zeros(2), 200, 0), feature_names=("a", "b"))
    with pytest.raises(InferenceError, match="one and two have other features"):
        train_classifier({"one": rows(np.zeros(2), 200, 0), "two": renamed})
    with pytest.raises(InferenceError, match="members = 0 must be at least 1"):
        ClassifierConfig(members=0)


def test_a_saved_classifier_is_the_same(trained: CircuitClassifier, tmp_path: Path) -> None:
    again = load_classifier(save_classifier(trained, tmp_path))
    x = (np.array([0.3, -0.2]), SEEN)
    assert np.array_equal(again(x).probabilities, trained(x).probabilities)
    assert again(x).summary() == trained(x).summary() and again.reliability.summary() == trained.reliability.summary()
    with pytest.raises(InferenceError, match="cannot read .*: No such file"):
        load_classifier(tmp_path / "nowhere")
    manifest = (tmp_path / "classifier.json").read_text()
    (tmp_path / "classifier.json").write_text(manifest.replace('"schema": 1', '"schema": 9'))
    with pytest.raises(InferenceError, match="has not schema 1"):
        load_classifier(tmp_path)
    (tmp_path / "classifier.json").write_text(manifest[: len(manifest) // 2])
    with pytest.raises(InferenceError, match="is damaged"):
        load_classifier(tmp_path)
    (tmp_path / "classifier.json").write_text(manifest)
    content = bytearray((tmp_path / "classifier.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "classifier.safetensors").write_bytes(content)
    with pytest.raises(InferenceError, match="classifier.safetensors is damaged: its checksum"):
        load_classifier(tmp_path)


def test_figures(trained: CircuitClassifier) -> None:
    for fig, expected in (
        (reliability_plot(trained.reliability), "probability given by the classifier"),
        (probability_plot(trained((np.zeros(2), SEEN))), "right"),
    ):
        fig.draw_without_rendering()
        assert expected in {text.get_text() for text in fig.findobj(matplotlib.text.Text)}
