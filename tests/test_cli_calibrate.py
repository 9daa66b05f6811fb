"""`calibrate`, `compare`, and what `train` and `infer` say of themselves."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from commands import call, error
from tiny import (
    CIRCUIT,
    DURATION,
    FEATURES,
    PROTOCOL,
    tiny_observation,
    tiny_posterior,
    tiny_table,
)

from sbi_circuits import cli_calibrate
from sbi_circuits.campaign import Campaign, run_campaign
from sbi_circuits.comparison import ClassifierConfig, compare_circuits
from sbi_circuits.inference import TrainingConfig, train
from sbi_circuits.observation_file import ObservedFeatures, write_observation


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of other simulations than the posterior's."""
    plan = Campaign(CIRCUIT, 160, FEATURES, PROTOCOL, seed=2, engine="tiny", unit=160)
    return run_campaign(plan, tmp_path_factory.mktemp("fresh") / "table", progress=False).path


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Callable[..., object]:
    """A classifier that is trained in a moment."""

    def small(tables: object, seed: int = 0) -> object:
        return compare_circuits(tables, ClassifierConfig(members=2, hidden=8, epochs=2), seed)  # type: ignore[arg-type]

    monkeypatch.setattr(cli_calibrate, "compare_circuits", small)
    return small


def test_a_posterior_is_judged_mended_and_used(posterior: Path, fresh: Path, recording: Path, tmp_path: Path) -> None:
    out = tmp_path / "calibration"
    said = call("calibrate", posterior, "--table", fresh, "--recording", recording, "--subset", "isi", "--subset",
                "bursts, isi", "--draws", 60, "--recalibrate", "--out", out).stdout  # fmt: skip
    assert "held-out simulations" in said and "TARP: " in said and "only bursts, isi observed" in said
    assert "reach of the circuit" in said and "the posterior of this observation" in said
    assert "recalibration (from" in said
    names = {path.name for path in out.iterdir()}
    assert {"calibration.json", "ranks.png", "coverage.png", "tarp.png", "patterns.png", "local.png", "reach.png",
            "local_observation.png"} == names  # fmt: skip
    assert json.loads((out / "calibration.json").read_text())["draws"] == 60
    again = call("infer", "--recording", recording, "--posterior", posterior, "--n", 1, "--max-draws", 12, "--engine",
                 "tiny", "--out", tmp_path / "inference").stdout  # fmt: skip
    assert "the recalibration in" in again
    assert "posterior predictive: " in (tmp_path / "inference" / "summary.txt").read_text()
    assert (tmp_path / "inference" / "predictive.png").exists()
    (posterior / "recalibration.json").unlink()


def test_the_training_table_cannot_judge(posterior: Path) -> None:
    table = tiny_table().path  # type: ignore[attr-defined]
    assert error("calibrate", posterior, "--table", table).startswith("the posterior was trained on this table")


def test_bad_input(posterior: Path, fresh: Path, recording: Path, tmp_path: Path) -> None:
    both = ("--recording", recording, "--features", recording)
    out = ("--draws", 30, "--out", tmp_path)
    assert error("calibrate", posterior, "--table", fresh, *both, *out).startswith("give one observation")
    assert "unknown feature or family 'spectrum'" in error(
        "calibrate", posterior, "--table", fresh, "--subset", "spectrum", *out
    )
    assert "at least 50 held-out simulations" in error("calibrate", posterior, "--table", fresh, "--rows", 20, *out)
    assert "is not a table" in error("calibrate", posterior, "--table", tmp_path, *out)
    assert error("compare", recording, "--table", fresh) == "a comparison needs at least two tables, got 1"
    assert error("compare", recording).startswith("give --table, two or more, or the --classifier")


def test_circuits_are_compared(
    fresh: Path, recording: Path, tmp_path: Path, quick: Callable[..., object]
) -> None:
    said = call("compare", recording, "--table", fresh, "--table", tiny_table().path, "--out", tmp_path).stdout  # type: ignore[attr-defined]
    assert "right on" in said and "tiny (1): probability 0." in said
    assert "3 windows of 20 s choose" in said
    content = json.loads((tmp_path / "comparison.json").read_text())
    assert sum(content["probabilities"].values()) == pytest.approx(1.0) and len(content["tables"]) == 2
    again = call("compare", recording, "--classifier", tmp_path / "classifier", "--out", tmp_path / "again").stdout
    assert again.splitlines()[:4] == said.splitlines()[:4]
    assert (tmp_path / "circuits.png").exists() and (tmp_path / "reliability.png").exists()


def test_observations_of_other_features_are_refused(
    fresh: Path, tmp_path: Path, quick: Callable[..., object]
) -> None:
    seen = ObservedFeatures(FEATURES, tiny_observation(), 3.0, "tests", "tiny.npz", "A1")
    file = write_observation(tmp_path / "observation.json", seen)
    tables = ("--table", fresh, "--table", tiny_table().path)  # type: ignore[attr-defined]
    assert "windows of other length than the simulations' 20 s" in error("compare", "--features", file, *tables)
    assert error("compare", *tables) == "give one observation: a recording, or --features"
    good = write_observation(tmp_path / "good.json", replace(seen, window_s=DURATION))
    assert "probability" in call("compare", "--features", good, *tables, "--out", tmp_path).stdout


def test_training_says_what_its_own_rows_make_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With half of the rows kept from training there are enough; with a tenth of 300 there are not."""
    table = tiny_table()
    cli_calibrate.calibrate_trained(tiny_posterior(), table, tmp_path, seed=0)
    assert "too few to judge it" in capsys.readouterr().out
    config = TrainingConfig(members=1, epochs=2, hidden=8, layers=1, transform="coupling", validation=0.5)
    posterior = train(table, config, progress=False, seed=0)
    cli_calibrate.calibrate_trained(posterior, table, tmp_path, seed=0)
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 3 and said[0].startswith("calibration on ") and (tmp_path / "ranks.png").exists()
