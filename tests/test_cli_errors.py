"""The command line: every bad input is one line, without a traceback, and nothing is lost."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from commands import SIMULATE, call, error
from tiny import (
    DURATION,
    changed,
    tiny_circuit,
    tiny_ensemble,
    tiny_table,
)

from sbi_circuits.circuit import register
from sbi_circuits.results import save_ensemble


@pytest.mark.parametrize(
    ("times", "line"),
    [
        ([-1.0, 0.5], "bad.npz: negative spike time -1 s"),
        ([0.5, float("nan")], "bad.npz: spike times contain NaN or infinity"),
        ([0.5, 0.25], "bad.npz: spike times of unit 0 are not sorted"),
        ([], "bad.npz: the recording has no spikes"),
    ],
)
def test_bad_recordings(times: list[float], line: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.npz"
    np.savez(path, spike_times_s=np.array(times), unit_ids=np.zeros(len(times), dtype=int), duration_s=5.0)
    assert error("features", path) == line


def test_missing_and_unreadable_files(recording: Path, posterior: Path, tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("no archive")
    none = tmp_path / "none"
    assert (
        error("features", tmp_path / "text.npz") == "text.npz: not a readable NumPy archive of plain arrays"
    )
    assert error("features", tmp_path / "a.xyz").startswith(
        "a.xyz: unknown suffix '.xyz'; valid: .npz, .nwb, "
    )
    assert error("features", recording, "--group", "Z9") == "rec.npz: unknown group 'Z9'; valid: exc"
    assert error("train", none, "--out", tmp_path / "p") == f"there is no table {none}"
    assert (
        error("train", tmp_path, "--out", tmp_path / "p")
        == f"{tmp_path} is not a table: it has no manifest.json"
    )
    assert error("infer", "--recording", none, "--posterior", posterior) == f"there is no {none}"
    assert error("infer", "--recording", recording, "--posterior", none) == f"there is no {none}"
    assert error("verify", none) == f"there is no ensemble {none}"
    line = error(*SIMULATE, "--out", tmp_path / "t", "--prior", none)
    assert line == f"No such file or directory: {none}"


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    line = error(*SIMULATE, "--out", tmp_path / "file" / "table")
    assert line == f"cannot make a table in {tmp_path / 'file' / 'table'}: Not a directory"


Edit = Callable[[str], str]


@pytest.mark.parametrize(
    ("edit", "line"),
    [
        (lambda t: t.replace("low = 0.2\n", "low = 5.0\n"), "parameter tonic: low 5 must be below high 5"),
        (
            lambda t: t.replace('"idle"', '"idl"'),
            "unknown parameter of the prior 'idl'; valid: bursting, idle, tonic",
        ),
        (lambda t: t[: t.rindex("[[")], "the prior lacks the circuit's parameters: idle"),
        (lambda t: t.replace('"mV"', '"nS"'), "parameter idle: unit nS does not fit, expected mV"),
        (lambda t: t.replace('"mV"', '"mw"'), "unknown unit 'mw'"),
        (lambda t: t + "[", "cannot read the prior: "),
    ],
)
def test_bad_priors(edit: Edit, line: str, tmp_path: Path) -> None:
    path = tmp_path / "prior.toml"
    path.write_text(edit(tiny_circuit().prior.to_toml()))
    assert error(*SIMULATE, "--out", tmp_path / "t", "--prior", path).startswith(line)


def test_unknown_names_list_the_valid_ones(recording: Path, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "t")
    # Other tests of this process may have registered more circuits and engines.
    assert error("describe", "nets").startswith("unknown circuit 'nets'; valid: adex_clustered, brunel")
    line = error(*SIMULATE, "--engine", "gpu", *out)
    assert line.startswith("unknown engine 'gpu'; valid: auto, brian2") and "kernel[numba]" in line
    line = error("features", recording, "--set", "isi,burst")
    assert line == "unknown feature family 'burst'; valid: bursts, counts, field, isi, oscillation, pair, spectrum"
    assert error("features", recording, "--view", "wells") == "unknown view 'wells'; valid: cells, channels"
    line = error("train", tiny_table().path, *out, "--family", "made")
    assert line == "unknown flow family 'made'; valid: batched, nflows, zuko"


def test_numbers_that_cannot_be(recording: Path, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "t")
    assert error(*SIMULATE, *out, "--n", 0) == "n of a campaign must be from 1 to 9999999999, got 0"
    assert error(*SIMULATE, *out, "--duration", 0) == "duration 0.0 s must be > 0 and warmup 0.0 s >= 0"
    assert (
        error(*SIMULATE, *out, "--spikes", -2)
        == "Record.spikes must be -1 (all cells) or a number of cells, got -2"
    )
    assert error("features", recording, "--window", 0) == "the window must be longer than 0 s, got 0"


def test_a_table_of_another_circuit(tmp_path: Path) -> None:
    out = tmp_path / "table"
    call(*SIMULATE, "--out", out, "--n", 4)
    register(tiny_circuit("other", "dv/dt = (idle*tonic + bursting*mV - 2*v*tonic) : volt"))
    other = ("simulate", "other", *SIMULATE[2:])
    line = error(*other, "--out", out, "--n", 4)
    assert line.startswith(f"the table {out} is of something else: another circuit (")
    call(*other, "--out", tmp_path / "other", "--n", 4)
    line = error("train", out, tmp_path / "other", "--out", tmp_path / "p")
    assert line.startswith("table 2 does not fit the first: another circuit (")


def test_too_few_simulations_to_train_on(tmp_path: Path) -> None:
    call(*SIMULATE, "--out", tmp_path / "table", "--n", 4)
    line = error("train", tmp_path / "table", "--out", tmp_path / "p")
    assert line.startswith("training needs at least 50 rows with outcome ok, got ")


def test_the_default_observation_is_the_demonstrations(posterior: Path) -> None:
    line = error("infer", "--posterior", posterior)
    assert line.startswith("rat cortical culture, plate 1007-103") and "has other features than the" in line


def test_options_that_exclude_each_other(posterior: Path, recording: Path, observation: Path) -> None:
    both = ("--recording", recording, "--features", observation, "--posterior", posterior)
    assert error("infer", *both) == "give --recording or --features, not both"
    both = ("--table", tiny_table().path, "--posterior", posterior)
    assert error("infer", *both) == "give --posterior or --table, not both"


def test_an_ensemble_is_not_verified_with_its_own_seed(tmp_path: Path) -> None:
    save_ensemble(tiny_ensemble(), tmp_path / "e.nc")
    line = error("verify", tmp_path / "e.nc", "--seed", 3, "--engine", "tiny")
    assert line == "seed 3 made this ensemble; verify with another one"


def test_observations_that_do_not_fit_the_posterior(
    observation: Path, posterior: Path, recording: Path
) -> None:
    infer = ("infer", "--features", observation, "--posterior", posterior)
    changed(observation, window_s=60.0)
    line = "tiny.npz A1 has windows of 60 s, the simulations last 20 s; measure again with --window 20"
    assert error(*infer) == line
    call("features", recording, "--set", "isi", "--window", DURATION, "--json", observation)
    assert error(*infer).startswith("rec.npz has other features than the posterior; give the recording")
    observation.write_text("{")
    assert error(*infer).startswith("observation.json is not a JSON file (")
