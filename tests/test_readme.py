"""The README is true: its Python runs, and the commands, targets, modules, plots and files it names exist."""

import re
import shlex
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from brian2.codegen.runtime.numpy_rt import NumpyCodeObject
from tiny import THETA, TinyEngine, tiny_posterior, tiny_recording

import sbi_circuits
from sbi_circuits import circuit, engines, plots
from sbi_circuits.cli import app
from sbi_circuits.engines import brian2_engine
from sbi_circuits.inference import TrainingConfig
from sbi_circuits.readers import write_recording
from sbi_circuits.recording import Recording

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
QUICK = TrainingConfig(members=1, epochs=2, hidden=16, layers=1, transform="coupling")
# What a reader waits for, and a test does not.
SMALLER = {
    "workers=2": "workers=1, progress=False",
    "n=40, max_draws=120": "n=1, max_draws=4",
    "small_lif, 500,": "small_lif, 60,",
    "duration=10.0": "duration=2.0",
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, flags=re.MULTILINE | re.DOTALL)


def smaller(code: str) -> str:
    for text, less in SMALLER.items():
        code = code.replace(text, less)
    return code


def commands() -> dict[str, Any]:
    return typer.main.get_command(app).commands  # type: ignore[attr-defined, no-any-return]


@pytest.fixture
def small_world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder with a plate in it, a toy posterior in place of the shipped one, and a quick training."""
    train = sbi_circuits.train

    def quick(table: Any, seed: int = 0) -> Any:
        return train(table, QUICK, progress=False, seed=seed)

    monkeypatch.setattr(sbi_circuits, "train", quick)
    monkeypatch.setattr(sbi_circuits, "load_posterior", lambda name: tiny_posterior())
    monkeypatch.chdir(tmp_path)
    cells = tiny_recording(THETA, 60.0, seed=1)
    wells = Recording.from_units(
        [cells.unit(k) for k in range(cells.n_units)],
        0.0,
        60.0,
        groups=[("A3", "B4")[k % 2] for k in range(cells.n_units)],
    )
    write_recording(tmp_path / "plate.npz", wells)
    return tmp_path


def test_every_number_that_is_made_smaller_is_there() -> None:
    code = "".join(blocks("python"))
    assert [text for text in SMALLER if text not in code] == []


def test_the_recording_example_runs(
    small_world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # The toy circuit needs its toy engine, for which "auto" stands here.
    monkeypatch.setattr(engines, "DEFAULT_ENGINE", TinyEngine.name)
    exec(smaller(blocks("python")[0]), {})
    assert "configurations verified" in capsys.readouterr().out
    assert (small_world / "well_A3" / "ensemble.nc").is_file()


def test_the_circuit_example_runs_on_both_engines(
    small_world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Within thirty lines, and the rate that both print is the one the text gives."""
    monkeypatch.setattr(circuit, "_REGISTERED", dict(circuit._REGISTERED))
    # Compiling takes Brian2 a minute, for two seconds of 200 cells. Tutorial 07 has it compile.
    monkeypatch.setattr(brian2_engine, "auto_target", lambda: NumpyCodeObject)
    own, table, queries = blocks("python")[1:4]
    namespace: dict[str, Any] = {"__name__": "readme"}
    exec(own, namespace)
    printed = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in printed] == ["kernel[numba]", "brian2"]
    rates = re.findall(r"ok, (\d+) Hz", "".join(printed))
    (said,) = re.findall(r"Both engines print `(\d+) Hz`", TEXT)
    assert np.allclose([int(rate) for rate in rates], int(said), atol=2)
    definition = own[own.index("EQUATIONS") : own.index("register(")]
    assert len([line for line in definition.splitlines() if line.strip()]) <= 30
    exec(smaller(table), namespace)
    assert len(namespace["table"]) == 60
    assert namespace["posterior"].prior == namespace["small_lif"].prior
    capsys.readouterr()
    exec(smaller(queries), namespace)
    printed = capsys.readouterr().out
    assert "parts became 1" in printed and "(60, 1)" in printed and "outcome" in printed
    ok = namespace["table"].counts()["ok"]
    assert len(namespace["frame"]) == ok and namespace["dataset"].sizes["simulation"] == 60
    assert list(namespace["bursting"].columns) == ["index", "theta.J", "theta.g", "theta.tau_m", "theta.rate"]
    assert all(name.startswith("isi.") for name in namespace["intervals"].feature_names)


def test_the_example_with_gradients_runs(capsys: pytest.CaptureFixture[str]) -> None:
    namespace: dict[str, Any] = {}
    exec(blocks("python")[4].replace("steps=10", "steps=1").replace("sample(4", "sample(1"), namespace)
    assert "1 configurations: median distance" in capsys.readouterr().out
    assert namespace["gradient"].shape == (1, 7) and namespace["field"].shape == (1, 1, 500)


@pytest.mark.slow
def test_the_example_with_an_lfp_proxy_runs() -> None:
    namespace: dict[str, Any] = {}
    exec(blocks("python")[5], namespace)
    assert namespace["simulation"].recording.signals["lfp"].values.shape == (1, 2000)
    assert namespace["spectrum"].defined.sum() > 8


def test_there_is_no_python_that_is_not_tested() -> None:
    assert len(blocks("python")) == 6


def test_every_command_is_in_the_readme_and_every_one_in_it_exists() -> None:
    named = set(re.findall(r"sbi-circuits ([a-z]+)\b", "\n".join([*blocks("bash"), *re.findall(r"`([^`\n]+)`", TEXT)])))
    assert named == set(commands())


def test_options_of_commands_exist() -> None:
    lines = [shlex.split(line, comments=True) for block in blocks("bash") for line in block.splitlines()]
    for _, verb, *arguments in (line for line in lines if line and line[0] == "sbi-circuits"):
        command = commands()[verb]
        if hasattr(command, "commands"):  # a group, such as `table`
            command = command.commands[arguments[0]]
        options = {name for parameter in command.params for name in parameter.opts}
        assert {a for a in arguments if a.startswith("--")} <= options, verb


def test_targets_of_make_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", TEXT, flags=re.MULTILINE))
    assert {"demo", "test"} <= named <= targets


def test_modules_plots_and_files_exist() -> None:
    names = {
        name for name in re.findall(r"`(sbi_circuits(?:\.[a-z_]+)+)(?:\(|`)", TEXT) if not name.endswith(".from_arrays")
    }
    assert names and all(find_spec(name) is not None for name in names)
    table = TEXT[TEXT.index("| capability |") : TEXT.index("Plots are functions")]
    drawn = {name for row in table.splitlines()[2:] if row for name in re.findall(r"`(\w+)`", row.split("|")[4])}
    assert drawn and drawn <= set(plots.__all__)
    files = re.findall(r"\]\(([^)#:]+)\)", TEXT) + re.findall(r"`((?:benchmarks|simulators)/[\w./]*)`", TEXT)
    assert [name for name in files if not (ROOT / name).exists()] == []


def test_every_tutorial_is_in_the_readme_and_has_the_sections_it_names() -> None:
    files = sorted((ROOT / "tutorials").glob("[0-9]*.py"))
    sections = {f.name[:2]: set(re.findall(r"^# ## (\d+)\. ", f.read_text(), flags=re.MULTILINE)) for f in files}
    assert [f.name for f in files if f"](tutorials/{f.name})" not in TEXT] == []
    table = TEXT[TEXT.index("| capability |") : TEXT.index("Plots are functions")]
    cells = [re.sub(r"\[(\d+)\]\([^)]*\)", r"\1", row.split("|")[5]) for row in table.splitlines()[2:] if row]
    named = [(n, k) for cell in cells for n, *more in re.findall(r"(0\d)(?:, (\d+))?(?: (?:and|to) (\d+))?", cell)
             for k in more if k]  # fmt: skip
    assert len(named) > 20 and [pair for pair in named if pair[1] not in sections[pair[0]]] == []
