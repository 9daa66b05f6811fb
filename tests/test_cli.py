"""The command line: every command writes what it says; every bad input is one line, without a traceback."""

import csv
import json
import subprocess
import sys
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from typing import Any

import numpy as np
import pytest
from commands import SIMULATE, call, error
from tiny import (
    CELLS,
    DURATION,
    FEATURES,
    TinyEngine,
    tiny_circuit,
    tiny_posterior,
    tiny_table,
)

from sbi_circuits.inference.rounds import Gain
from sbi_circuits.nearby import DRAWN
from sbi_circuits.observation_file import read_observation
from sbi_circuits.readers import read_recording, write_recording
from sbi_circuits.recording import Recording
from sbi_circuits.results import load_ensemble
from sbi_circuits.table import Table

ROOT = Path(__file__).resolve().parents[1]


# --- start-up ---


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sbi_circuits", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_help_is_quick_and_names_every_command() -> None:
    """Computing time, which does not depend on what else the machine does."""
    before = getrusage(RUSAGE_CHILDREN)
    done = run("--help")
    after = getrusage(RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2.0 and done.returncode == 0
    commands = ("list", "describe", "features", "simulate", "train", "infer", "verify", "calibrate", "compare", "demo")
    assert all(f" {name} " in done.stdout for name in commands)


def test_no_traceback_in_a_real_process(tmp_path: Path) -> None:
    done = run("features", str(tmp_path / "none.npz"))
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == f"error: no recording at {tmp_path / 'none.npz'}\n"


# --- commands ---


def test_version_list_and_describe() -> None:
    assert call("--version").stdout.startswith("sbi-circuits 0.")
    listed = call("list").stdout
    assert "adex_clustered" in listed and "brunel" in listed and "Bursts on demand" in listed
    described = call("describe", "tiny").stdout
    assert all(
        text in described for text in ("Bursts on demand", "exc", "tonic", "-70", "log", "source: tests")
    )


def test_features_are_printed_and_written(recording: Path, tmp_path: Path) -> None:
    json_file, csv_file = tmp_path / "a.json", tmp_path / "out" / "a.csv"
    options = ("--set", "isi,bursts", "--window", DURATION, "--json", json_file, "--csv", csv_file)
    result = call("features", recording, *options)
    assert "bursts.rate_per_minute" in result.stdout and "3 windows of 20 s" in result.stdout
    assert f"wrote {json_file}" in result.stdout.replace("\n", " ")
    observed = read_observation(json_file)
    assert (
        observed.feature_set == FEATURES and observed.recording == "rec.npz" and observed.window_s == DURATION
    )
    rows = list(csv.DictReader(csv_file.read_text().splitlines()))
    values = {row["feature"]: row["value"] for row in rows}
    assert float(values["isi.rate_mean"]) == observed.features.values[0] and len(rows) == FEATURES.width


def test_features_of_all_groups(tmp_path: Path) -> None:
    groups = ("A1",) * 2 + ("B2",) * 2 + ("C3",)
    trains = [np.arange(1, 50) / 10] * 4 + [np.zeros(0)]
    write_recording(
        tmp_path / "wells.npz", Recording.from_units(trains, 0, 5, groups=groups, unit_kind="channel")
    )
    result = call("features", tmp_path / "wells.npz", "--all-groups", "--json", tmp_path / "all.json")
    assert "A1" in result.stdout and "B2" in result.stdout and "C3" not in result.stdout
    assert [content["group"] for content in json.loads((tmp_path / "all.json").read_text())] == ["A1", "B2"]
    together = call("features", tmp_path / "wells.npz")
    assert together.stderr == "note: wells.npz has 3 groups, taken together; see --group (A1, B2, C3)\n"
    assert call("features", tmp_path / "wells.npz", "--group", "A1").stderr == ""


def test_a_feature_set_comes_from_a_file(recording: Path, observation: Path) -> None:
    assert "bursts.rate_cv" in call("features", recording, "--set", observation).stdout


def test_a_short_recording_has_undefined_features(tmp_path: Path) -> None:
    write_recording(tmp_path / "short.npz", Recording.from_units([[0.01]], 0.0, 0.05))
    assert call("features", tmp_path / "short.npz").stdout.count("undefined") > 20


def test_simulate_resumes_and_says_what_it_wrote(tmp_path: Path) -> None:
    out = tmp_path / "table"
    call(*SIMULATE, "--out", out, "--n", 20)
    result = call(*SIMULATE, "--out", out, "--n", 30, "--seed", 0)
    assert result.stdout.startswith(f"wrote {out}: a table of 30 simulations of tiny (")
    assert "wrote 10 simulations" in result.stderr and len(Table.open(out)) == 30


def test_simulate_with_another_prior_and_kept_recordings(tmp_path: Path) -> None:
    prior = tmp_path / "prior.toml"
    prior.write_text(tiny_circuit().prior.to_toml().replace("low = 0.2\n", "low = 1.0\n"))
    call(*SIMULATE, "--out", tmp_path / "table", "--n", 6, "--prior", prior, "--keep-recordings")
    assert Table.open(tmp_path / "table").prior["tonic"].low == 1.0
    assert len(list((tmp_path / "table" / "recordings").iterdir())) == 6


def test_simulate_the_default_configuration(tmp_path: Path) -> None:
    result = call("simulate", "tiny", "--default", "--engine", "tiny", "--out", tmp_path / "one")
    assert "wrote" in result.stdout and (tmp_path / "one" / "raster.png").exists()
    assert read_recording(tmp_path / "one" / "recording.npz").n_units == CELLS


def test_train_writes_a_posterior_of_several_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exported = tiny_table().export_file(tmp_path / "table.parquet")
    seen: dict[str, Any] = {}

    def quick(table: Any, config: Any, seed: int) -> Any:
        seen.update(rows=len(table), family=config.family, seed=seed)
        return tiny_posterior()

    monkeypatch.setattr("sbi_circuits.cli_infer.train", quick)
    # The stand-in is of another table, whose rows cannot judge it.
    monkeypatch.setattr("sbi_circuits.cli_infer.calibrate_trained", lambda *arguments: None)
    result = call("train", tiny_table().path, "--out", tmp_path / "p", "--family", "nflows", "--seed", 4)
    assert seen == {"rows": 300, "family": "nflows", "seed": 4}
    assert (
        "gain over the prior" in result.stdout and f"wrote the posterior to {tmp_path / 'p'}" in result.stdout
    )
    assert {p.name for p in (tmp_path / "p").iterdir()} >= {
        "posterior.safetensors",
        "posterior.json",
        "training.png",
    }
    call("train", exported, exported, "--out", tmp_path / "p")
    assert seen["rows"] == 300


def test_infer_from_a_recording_and_verify(posterior: Path, recording: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ("--n", 4, "--max-draws", 24, "--seed", 3, "--engine", "tiny", "--out", out)
    result = call("infer", "--recording", recording, "--posterior", posterior, *options)
    assert "observation is inside the simulations" in result.stdout
    names = (
        "ensemble.nc",
        "summary.txt",
        "features.png",
        "marginals.png",
        "pair.png",
        "recording.png",
        "raster.png",
        "report.html",
    )
    for name in names:
        assert (out / name).stat().st_size > 0 and f"wrote {out / name}: " in result.stdout
    ensemble = load_ensemble(out / "ensemble.nc")
    text = (out / "summary.txt").read_text()
    assert text.startswith("observation: rec.npz\ncircuit: tiny\n") and ensemble.summary() in text
    assert "bursting" in text and len(ensemble.members) >= 4

    folder = tmp_path / "page"
    shown = call("report", out / "ensemble.nc", "--recording", recording, "--engine", "tiny", "--out", folder)
    assert shown.stdout.startswith(f"{len(ensemble.members)} of ") and (folder / "report.html").exists()

    again = call(
        "verify", out / "ensemble.nc", "--seed", 5, "--engine", "tiny", "--out", tmp_path / "again.nc"
    )
    assert f"of {len(ensemble.members)} members agree with the observation again" in again.stdout
    assert load_ensemble(tmp_path / "again.nc").seed == 5


def test_infer_from_an_observation_file(posterior: Path, observation: Path, tmp_path: Path) -> None:
    options = ("--n", 1, "--max-draws", 4, "--engine", "tiny", "--out", tmp_path / "out")
    result = call("infer", "--features", observation, "--posterior", posterior, *options)
    assert "observation: tiny.npz A1" in result.stdout and not (tmp_path / "out" / "recording.png").exists()


def test_infer_draws_around_the_simulations_of_a_table(posterior: Path, observation: Path, tmp_path: Path) -> None:
    line = ("infer", "--features", observation, "--posterior", posterior, "--n", 4, "--max-draws", 16, "--engine",
            "tiny", "--out", tmp_path / "out", "--draw")  # fmt: skip
    result = call(*line, "nearby", "--table", tiny_table().path)
    assert f"draws: {DRAWN}" in result.stdout and f"draws: {DRAWN}" in (tmp_path / "out" / "summary.txt").read_text()
    assert DRAWN not in call(*line, "posterior").stdout  # negative control
    assert error(*line, "nearby") == (
        "to draw around simulations their table is needed beside this posterior: give it by --table"
    )
    assert error(*line, "prior").endswith("valid: auto, nearby, posterior")


def test_infer_offers_and_makes_an_aimed_round(
    posterior: Path, observation: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sbi_circuits.cli_infer._LOW_YIELD", 1.1)  # every yield is below it
    out = tmp_path / "out"
    line = ("infer", "--features", observation, "--posterior", posterior, "--n", 4, "--max-draws", 4, "--engine",
            "tiny", "--out", out)  # fmt: skip
    assert "the same line with --refine" in call(*line).stdout
    result = call(*line, "--refine", "--round", 80)
    assert "aimed round: 80 simulations" in result.stdout and "the yield went from" in result.stdout
    assert "the yield went from" in (out / "summary.txt").read_text() and "--refine" not in result.stdout
    assert (out / "refined" / "posterior.safetensors").exists()
    assert "stopped after 1" in result.stdout and "it taught" in (out / "summary.txt").read_text()
    # The same line goes on with what it has; more rounds begin with the first.
    monkeypatch.setattr("sbi_circuits.aimed_round.expected_gain", lambda *rest, **more: Gain(1.0, 0.01, 3))
    again = call(*line, "--refine", "--round", 80, "--rounds", 2)
    assert again.stdout.count("aimed round: 80 simulations") == 2 and "stopped after 2 rounds" in again.stdout


def test_a_truncated_part_is_set_aside_and_simulated_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "table"
    call(*SIMULATE, "--out", out, "--n", 20)
    whole = Table.open(out).digest
    part = sorted((out / "parts").iterdir())[0]
    part.write_bytes(part.read_bytes()[:200])
    result = call(*SIMULATE, "--out", out, "--n", 20)
    assert f"{part.name} is damaged" in caplog.text and (out / "set_aside" / part.name).exists()
    assert "wrote 16 simulations" in result.stderr and Table.open(out).digest == whole


def test_an_interrupted_campaign_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = TinyEngine.run

    def interrupted(self: TinyEngine, *arguments: Any) -> Any:
        if arguments[-1] == 20:
            raise KeyboardInterrupt
        return original(self, *arguments)

    out = tmp_path / "table"
    monkeypatch.setattr(TinyEngine, "run", interrupted)
    result = call(*SIMULATE, "--out", out, "--n", 40, status=130)
    line = f"interrupted: 16/40 simulations are in {out}; run the same campaign again to go on"
    assert result.stderr.splitlines() == [line, "interrupted"]
    monkeypatch.undo()
    assert "wrote 24 simulations" in call(*SIMULATE, "--out", out, "--n", 40).stderr


def test_demo_calls_the_demonstration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr("sbi_circuits.demo.demo", lambda *arguments: seen.extend(arguments))
    call("demo", "--out", tmp_path, "--workers", 3)
    assert seen == [tmp_path, 3]
