"""The command `connectome` and the figures: what they say, write, and refuse."""

from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from typer.testing import CliRunner, Result

from sbi_circuits.cli import app
from sbi_circuits.connectome import (
    Consensus,
    EdgeTuning,
    Lattice,
    MotionMovies,
    TaskConfig,
    fit_task,
    load_models,
    visual_system,
)
from sbi_circuits.connectome import task as task_module
from sbi_circuits.connectome.tuning import MOTION_TYPES
from sbi_circuits.errors import CircuitError, UnknownNameError
from sbi_circuits.plots import lattice_plot, prediction_plot, response_plot, save, task_plot, tuning_plot
from sbi_circuits.seeds import generator


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["connectome", *map(str, arguments)])


def texts(fig: Figure) -> list[str]:
    fig.draw_without_rendering()
    return [text.get_text() for text in fig.findobj(matplotlib.text.Text) if text.get_text()]


def test_check_says_what_is_in_a_table_or_what_is_wrong(tmp_path: Path) -> None:
    table = tmp_path / "edges.csv"
    table.write_text("pre_root_id,post_root_id,syn_count,nt_type\n1,2,10,ACH\n2,3,4,GABA\n2,3,6,GABA\n")
    wrong = call("check", "--edges", table)
    assert wrong.exit_code == 2 and wrong.stderr == "error: edges.csv row 2: is there already, in row 1\n"
    right = call("check", "--edges", table, "--duplicates", "sum")
    assert right.exit_code == 0 and "3 cells of 1 types, 2 edges, 20 synapses" in right.output
    assert "50% of the edges inhibit" in right.output
    none = call("check")
    assert none.exit_code == 2 and "connectome check needs --edges" in none.output
    other = call("draw")
    assert other.exit_code == 2
    assert "unknown task of connectome 'draw'; valid: check, fit, silence, tuning" in other.output


def test_tuning_writes_read_outs_and_figures(tmp_path: Path) -> None:
    found = call("tuning", "--extent", 4, "--models", 2, "--speed", 25, "--out", tmp_path)
    assert found.exit_code == 0, found.output
    assert "2 models, 0 diverged" in found.output and "T4c: tuning curve +0." in found.output
    rows = (tmp_path / "readouts.csv").read_text().splitlines()
    assert len(rows) == 1 + 2 * 65 and rows[0].startswith("model,type,flash_index")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["flash.png", "readouts.csv", "tuning.png"]


def test_fit_and_silence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_module.MotionMovies, "draw", short(task_module.MotionMovies.draw))
    found = call("fit", "--extent", 1, "--models", 2, "--steps", 2, "--out", tmp_path)
    assert found.exit_code == 0, found.output
    assert "2 steps, motion error" in found.output and "zero flow" in found.output
    models = load_models(tmp_path / "models.safetensors")
    assert models.n_models == 2 and models.provenance["source"] == "fit_task"
    fitted = ("--fitted", tmp_path / "models.safetensors", "--extent", 1, "--out", tmp_path / "s")
    silent = call("silence", "--type", "L1", *fitted)
    assert silent.exit_code == 0 and "models agree on the sign" in silent.output
    assert (tmp_path / "s" / "silencing.png").is_file()
    assert "connectome silence needs --type" in call("silence").output
    assert "unknown cell type 'L9'" in call("silence", "--type", "L9", "--extent", 1).output


def short(draw: object) -> object:
    """Movies of fewer waves: what a test does not wait for."""

    def drawn(self: MotionMovies, *arguments: object) -> object:
        return draw(MotionMovies(frames=self.frames, waves=4), *arguments)  # type: ignore[operator]

    return drawn


def test_figures_draw_what_they_are_given(tmp_path: Path) -> None:
    lattice = Lattice(3)
    fig = lattice_plot(lattice, {"one": np.zeros(37), "two": np.ones(37)})
    assert texts(fig)[-2:] == ["one", "two"] and len(fig.axes) == 2
    assert save(fig, tmp_path / "lattice.png", dpi=50).read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(CircuitError, match=r"frame 'bad' has shape \(3,\), expected \(37,\)"):
        lattice_plot(lattice, {"bad": np.zeros(3)})
    random = generator(0, "plots")
    tuning = EdgeTuning(random.random((2, 8, 1, 2, 12)), (10.0,), (0.0, 1.0), tuple(range(0, 360, 30)))
    assert set(MOTION_TYPES) <= set(texts(tuning_plot(MOTION_TYPES, tuning)))
    with pytest.raises(UnknownNameError, match="unknown cell type 'T4a'"):
        tuning_plot(("A",), tuning)
    found = Consensus(("Mi1", "L1", "X"), random.normal(size=(5, 3)))
    assert {"Mi1", "L1", "X", "5 models"} <= set(texts(prediction_plot(found)))
    assert {"T4a", "time (s)"} <= set(texts(response_plot({"T4a": random.random((3, 20))}, 0.01, 0.05, 0.1)))
    config = TaskConfig(models=2, steps=3, validation=2, movies=MotionMovies(frames=10, waves=4))
    assert "zero flow" in texts(task_plot(fit_task(visual_system(1), config, progress=False)))
