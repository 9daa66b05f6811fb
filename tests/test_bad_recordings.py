"""Recordings that cannot be explained, or only in part: one line, or a report that says what is left open."""

from pathlib import Path

import numpy as np
import pytest
from tiny import DURATION, THETA, tiny_posterior, tiny_recording
from typer.testing import CliRunner, Result

from sbi_circuits.cli import app
from sbi_circuits.errors import RecordingError
from sbi_circuits.readers import write_recording
from sbi_circuits.recording import Recording
from sbi_circuits.recording_concerns import concerns

GOOD = tiny_recording(THETA, 3 * DURATION, 4)


def scaled(factor: float) -> Recording:
    """The same spikes in another unit of time."""
    trains = [factor * GOOD.unit(u) for u in range(GOOD.n_units)]
    return Recording.from_units(trains, 0.0, factor * GOOD.t1)


def infer(recording: Recording, folder: Path) -> Result:
    posterior = tiny_posterior().save(folder / "posterior")
    path = folder / "rec.npz"
    write_recording(path, recording)
    options = ("--n", "1", "--max-draws", "2", "--engine", "tiny", "--out", str(folder / "out"))
    return CliRunner().invoke(app, ["infer", "--recording", str(path), "--posterior", str(posterior), *options])


@pytest.mark.parametrize(
    ("recording", "message"),
    [
        (Recording.from_units([[], [], []], 0.0, 60.0), "error: rec.npz: the recording has no spikes"),
        (scaled(1000.0), "error: spike times are not in seconds: they span 16.7 hours"),
        (scaled(1 / 3600), "error: spike times are not in seconds: half of the active units fire at"),
    ],
    ids=["silent", "milliseconds", "hours"],
)
def test_what_cannot_be_explained_is_one_line(recording: Recording, message: str, tmp_path: Path) -> None:
    result = infer(recording, tmp_path)
    assert result.exit_code == 2 and result.stderr.startswith(message), (result.output, result.exception)
    assert result.stderr.count("\n") == 1 and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("recording", "open_"),
    [
        (GOOD.select([0]), "what units do together, network bursts above all, cannot be concluded"),
        (GOOD.window(0.0, 5.0), "what happens less often than every 1.7 s cannot be concluded"),
    ],
    ids=["one channel", "five seconds"],
)
def test_what_tells_little_ends_in_a_report_that_says_so(recording: Recording, open_: str, tmp_path: Path) -> None:
    result = infer(recording, tmp_path)
    assert result.exit_code == 0, (result.output, result.exception)
    assert open_ in result.stdout
    for name in ("report.html", "summary.txt"):
        assert open_ in (tmp_path / "out" / name).read_text(encoding="utf-8")


def test_a_good_recording_raises_no_concern() -> None:
    """Negative control; so does a slow one: a rate of 0.01 Hz over hours, in doublets."""
    assert concerns(GOOD, DURATION) == ()
    slow = np.sort(np.concatenate([np.arange(100, 40000, 200.0), np.arange(100, 40000, 200.0) + 0.01]))
    assert concerns(Recording.from_units([slow, slow], 0.0, 40000.0), DURATION) == ()
    with pytest.raises(RecordingError, match="the recording is silent: no spike of 2 units in 60 s"):
        concerns(Recording.from_units([[], []], 0.0, 60.0), DURATION)
    with pytest.raises(RecordingError, match="milliseconds"):
        concerns(Recording.from_units([1000 * slow[::2], 900 * slow[::2]], 0.0, 4e7), DURATION)
