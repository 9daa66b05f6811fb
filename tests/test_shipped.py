"""The posterior that ships: by name, whole or refused; its card speaks of it and of nothing else."""

import json
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
from commands import call, error
from tiny import DURATION, THETA, tiny_posterior, tiny_recording

from sbi_circuits.demo import demo_table
from sbi_circuits.errors import InferenceError, UnknownNameError
from sbi_circuits.inference import Card, load_card, load_posterior, load_simulations, shipped, shipped_posteriors
from sbi_circuits.nearby import mismatches
from sbi_circuits.readers import write_recording

ROOT = Path(__file__).resolve().parents[1]
NAME = "adex_clustered"
COVERED = {"all": {"all features": {"rows": 9, "levels": {"0.5": [0.5, 0.1]}, "text": "50 % intervals hold 50 %"}}}


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    return Path(shutil.copytree(shipped.FOLDER / NAME, tmp_path / "copied"))


@pytest.fixture
def tiny_shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package in which a posterior of the toy circuit ships under the name that `infer` uses."""
    folder = tiny_posterior().save(tmp_path / "package" / NAME)
    weights = json.loads((folder / "posterior.json").read_text())["weights_sha256"]
    training = {"rows": 90, "simulations": 100, "gain": 1.0}
    features = {"families": ["isi", "bursts"], "view": "cells", "window_s": DURATION}
    card = Card(NAME, weights, training, features, COVERED, {}, ("toy",), "tests")
    (folder / "card.json").write_text(json.dumps(card.to_dict()))
    monkeypatch.setattr(shipped, "FOLDER", tmp_path / "package")
    return folder


def test_it_loads_by_name_and_answers_for_any_subset() -> None:
    posterior = load_posterior(NAME)
    assert posterior.provenance["circuit"] == NAME and len(posterior.prior) == 28
    few = posterior({"bursts.interval_mean": 10.0, "bursts.width_mean": 0.07}).sample(500, seed=0)
    nothing = posterior({}).sample(500, seed=0)
    assert posterior.prior.contains(few).all() and posterior.prior.contains(nothing).all()
    z, wide = posterior.prior.unconstrain(few), posterior.prior.unconstrain(nothing)
    assert np.abs(z.mean(0) - wide.mean(0)).max() > 0.2  # what was observed says something


def test_what_ships_is_small_and_is_no_pickle() -> None:
    files = [path for path in shipped.FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 20e6
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".log", ".parquet"}


@pytest.mark.parametrize("name", shipped_posteriors())
def test_simulations_that_come_with_a_posterior_are_its_own(name: str) -> None:
    table = load_simulations(name)
    if name == NAME:  # its table is that of the demonstration
        assert table is None and not mismatches(load_posterior(name), demo_table())
        return
    assert table is not None and table.digest == load_card(name).training["table_digest"]
    assert not mismatches(load_posterior(name), table)
    assert mismatches(load_posterior(NAME), table)  # control: those of another posterior


def test_the_wheel_holds_them() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    patterns = project["tool"]["setuptools"]["package-data"]["sbi_circuits.data"]
    data = shipped.FOLDER.parent
    packed = {path for pattern in patterns for path in data.glob(pattern)}
    assert {path for path in shipped.FOLDER.rglob("*") if path.is_file()} <= packed


@pytest.mark.parametrize("name", shipped_posteriors())
def test_the_card_speaks_of_its_posterior(name: str) -> None:
    card, posterior = load_card(name), load_posterior(name)
    assert card.name == name and card.features["families"] == list(_families(posterior.feature_names))
    assert card.features["window_s"] == posterior.provenance["protocol"]["duration"]
    assert card.training["gain"] == posterior.provenance["validation"]["validation_gain"] > 1.0
    by_proposal = card.training["proposals"].values()
    assert sum(sum(each.values()) for each in by_proposal) == card.training["simulations"]
    assert sum(card.training["outcomes"].values()) == card.training["simulations"]
    judged = {kind: found["all features"]["rows"] for kind, found in card.coverage.items()}
    assert judged.pop("all") == sum(judged.values()) >= 200
    assert card.weak and name in card.summary() and all(line in card.summary() for line in card.weak)


def _families(names: tuple[str, ...]) -> dict[str, None]:
    return dict.fromkeys(name.split(".")[0] for name in names)


def test_a_wrong_name_lists_the_right_ones() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown posterior 'adex'; valid: adex_clustered.* folder"):
        load_posterior("adex")
    with pytest.raises(UnknownNameError, match="unknown posterior 'adex'"):
        load_card("adex")
    with pytest.raises(InferenceError, match="cannot read nowhere/adex_clustered/posterior.safetensors"):
        load_posterior("nowhere/adex_clustered")


def test_a_folder_of_that_name_comes_first(tiny_shipped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny_shipped.parent)
    monkeypatch.setattr(shipped, "FOLDER", tiny_shipped / "none")
    assert len(load_posterior(NAME).prior) == len(tiny_posterior().prior)


def test_negative_control_weights_with_one_byte_changed(copied: Path) -> None:
    weights = copied / "posterior.safetensors"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(bytes(content))
    with pytest.raises(InferenceError, match="posterior.safetensors is damaged: its checksum"):
        load_posterior(copied)
    (copied / "posterior.json").write_text("{")
    with pytest.raises(InferenceError, match="posterior.json is damaged"):
        load_posterior(copied)


def test_negative_control_cards(copied: Path) -> None:
    card = copied / "card.json"
    content = json.loads(card.read_text())
    for changed, message in (
        (content | {"weights_sha256": "0" * 64}, "speaks of other weights"),
        (content | {"schema": 99}, "has not schema 1"),
        ({"schema": 1}, "is damaged"),
        ([], "is damaged"),
    ):
        card.write_text(json.dumps(changed))
        with pytest.raises(InferenceError, match=message):
            load_card(copied)
    card.unlink()
    with pytest.raises(InferenceError, match="cannot read .*card.json"):
        load_card(copied)


def test_infer_uses_it_where_nothing_else_is_named(tiny_shipped: Path, tmp_path: Path) -> None:
    write_recording(tmp_path / "rec.npz", tiny_recording(THETA, 3 * DURATION, 5))
    options = ("--n", 2, "--max-draws", 6, "--engine", "tiny", "--out", tmp_path / "out")
    result = call("infer", "--recording", tmp_path / "rec.npz", *options)
    assert "using the one that ships\nposterior adex_clustered: isi, bursts of cells" in result.stdout
    assert "weak: toy" in result.stdout and (tmp_path / "out" / "ensemble.nc").is_file()


def test_infer_names_the_posteriors_there_are(tmp_path: Path) -> None:
    write_recording(tmp_path / "rec.npz", tiny_recording(THETA, 3 * DURATION, 5))
    line = error("infer", "--recording", tmp_path / "rec.npz", "--posterior", "adex")
    assert line.startswith("unknown posterior 'adex'; valid: adex_clustered")
