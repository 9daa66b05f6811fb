"""Readers: every format gives the same recording, and every broken file one clear line."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sbi_circuits import readers
from sbi_circuits.errors import RecordingError
from sbi_circuits.readers import from_arrays, list_groups, read_recording, write_recording
from sbi_circuits.recording import IntervalMoments, PopulationCounts, Recording, Signal

TRAINS = ([0.25, 0.5, 1.5], [], [0.125, 2.75])


def full_recording() -> Recording:
    return Recording.from_units(
        TRAINS,
        0.0,
        3.0,
        groups=("exc", "exc", "inh"),
        counts={"exc": PopulationCounts(np.arange(3000) % 3, 800)},
        moments={"exc": IntervalMoments(np.array([3, 0]), np.array([1.25, 0.0]), np.array([1.1, 0.0]))},
        signals={"lfp": Signal(np.linspace(0, 1, 8).reshape(2, 4), 1000.0, "mV", 0.5)},
        meta={"seed": 3, "source": "test"},
    )


def same(a: Recording, b: Recording) -> bool:
    """Equal spikes, interval, groups and kind."""
    plain = [(r.t0, r.t1, r.groups, r.unit_kind, r.times.tolist(), r.offsets.tolist()) for r in (a, b)]
    return plain[0] == plain[1]


def shared_archive(path: Path, **changes: Any) -> Path:
    arrays: dict[str, Any] = {
        "spike_times_s": np.array([0.25, 0.5, 1.5, 0.125, 2.75]),
        "unit_ids": np.array([0, 0, 0, 2, 2], dtype=np.uint16),
        "duration_s": np.float64(3.0),
        "unit_well": np.array(["A1", "A1", "B2"]),
        "meta": np.array(json.dumps({"licence": "free"})),
    }
    arrays |= changes
    np.savez(path, **{k: v for k, v in arrays.items() if v is not None})
    return path


def test_written_recording_is_read_back_whole(tmp_path: Path) -> None:
    written = full_recording()
    write_recording(tmp_path / "a.npz", written)
    read = read_recording(tmp_path / "a.npz")
    assert same(read, written) and read.meta == written.meta
    assert read.counts["exc"].size == 800
    np.testing.assert_array_equal(read.counts["exc"].values, written.counts["exc"].values)
    for name in ("spikes", "total", "total_squared"):
        kept = getattr(written.moments["exc"], name)
        np.testing.assert_array_equal(getattr(read.moments["exc"], name), kept)
    lfp = read.signals["lfp"]
    assert (lfp.rate, lfp.unit, lfp.t0) == (1000.0, "mV", 0.5)
    np.testing.assert_array_equal(lfp.values, written.signals["lfp"].values)
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]


def test_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.npz"
    write_recording(path, full_recording())
    before = path.read_bytes()

    def broken(*args: Any, **kwargs: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez_compressed", broken)
    with pytest.raises(OSError, match="disk full"):
        write_recording(path, full_recording())
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"] and path.read_bytes() == before


def test_a_silent_simulation_is_a_recording(tmp_path: Path) -> None:
    counts = {"exc": PopulationCounts(np.zeros(1000, dtype=int), 10)}
    write_recording(tmp_path / "a.npz", Recording(0.0, 1.0, counts=counts))
    assert read_recording(tmp_path / "a.npz").n_units == 0


def test_archive_of_spike_times(tmp_path: Path) -> None:
    path = shared_archive(tmp_path / "a.npz")
    read = read_recording(path)
    assert same(read, Recording.from_units(TRAINS, 0.0, 3.0, groups=("A1", "A1", "B2")))
    assert read.meta == {"licence": "free"} and list_groups(path) == ("A1", "B2")
    assert read_recording(path, group="B2").times.tolist() == [0.125, 2.75]
    assert read_recording(path, unit_kind="channel").unit_kind == "channel"
    with_positions = shared_archive(tmp_path / "b.npz", unit_x_um=np.zeros(3))
    assert read_recording(with_positions).unit_kind == "channel"


def test_arrays() -> None:
    shuffled = from_arrays([0.125, 0.25, 0.5, 1.5, 2.75], [2, 0, 0, 0, 2], t1=3.0)
    assert same(shuffled, Recording.from_units(TRAINS, 0.0, 3.0))
    assert from_arrays([0.5, 1.0]).t1 == 1.0
    assert from_arrays([0.5, 1.0], n_units=1).n_units == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"times": []}, "the recording has no spikes"),
        ({"times": [0.1], "unit_ids": [0, 1]}, "2 unit ids for 1 spike times"),
        ({"times": [0.1], "unit_ids": [3], "n_units": 2}, "unit ids reach from 3 to 3, valid: 0 to 1"),
        ({"times": [0.1], "unit_ids": [0.5]}, "unit ids must be integers"),
        ({"times": [[0.1]]}, "spike times must be a one-dimensional array, got shape (1, 1)"),
        ({"times": ["a"]}, "spike times must be numbers, got <U1"),
        ({"times": [0.2, 0.1]}, "spike times of unit 0 are not sorted"),
        ({"times": [-0.2, 0.1]}, "negative spike time -0.2 s"),
        ({"times": [np.nan], "t1": 1.0}, "spike times contain NaN or infinity"),
    ],
)
def test_bad_arrays(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(RecordingError) as caught:
        from_arrays(**arguments)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"spike_times_s": np.array([5, 4, 6, 1, 2]) / 8}, "a.npz: spike times of unit 0 are not sorted"),
        ({"spike_times_s": np.array([-1.0, 0.25, 1.5, 0.1, 2.0])}, "a.npz: negative spike time -1 s"),
        ({"spike_times_s": np.zeros(0), "unit_ids": np.zeros(0)}, "a.npz: the recording has no spikes"),
        (
            {"duration_s": None},
            "a.npz: no array 'duration_s' in the archive; found: meta, spike_times_s, unit_ids, unit_well",
        ),
        ({"meta": np.array("[")}, "a.npz: meta is not JSON (Expecting value: line 1 column 2 (char 1))"),
        ({"unit_ids": np.array([{}] * 5)}, "a.npz: not a readable NumPy archive of plain arrays"),
        ({"schema": np.array("x/7")}, "a.npz: schema 'x/7'; this version reads 'sbi_circuits.recording/1'"),
        ({"schema": np.array(readers.SCHEMA)}, "a.npz: damaged archive (KeyError: 'header')"),
    ],
)  # fmt: skip
def test_bad_archives(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecordingError) as caught:
        read_recording(shared_archive(tmp_path / "a.npz", **changes))
    assert str(caught.value) == message


def test_bad_paths(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("no archive")
    lines = {
        "none.npz": f"no recording at {tmp_path / 'none.npz'}",
        "text.npz": "text.npz: not a readable NumPy archive of plain arrays",
        "a.pkl": f"a.pkl: unknown suffix '.pkl'; valid: {', '.join(readers.SUFFIXES)}",
    }
    for name, line in lines.items():
        with pytest.raises(RecordingError) as caught:
            read_recording(tmp_path / name)
        assert str(caught.value) == line


def test_unknown_and_silent_groups(tmp_path: Path) -> None:
    path = shared_archive(tmp_path / "a.npz", unit_well=np.array(["A1", "C3", "B2"]))
    with pytest.raises(RecordingError, match=r"^a.npz: unknown group 'Z9'; valid: A1, C3, B2$"):
        read_recording(path, group="Z9")
    with pytest.raises(RecordingError, match=r"^a.npz: group 'C3' has no spikes$"):
        read_recording(path, group="C3")


def test_bad_writes(tmp_path: Path) -> None:
    recording = full_recording()
    with pytest.raises(RecordingError, match=r"^cannot write a.csv: recordings are written as .npz$"):
        write_recording(tmp_path / "a.csv", recording)
    with pytest.raises(RecordingError, match=r"^cannot write .*No such file or directory$"):
        write_recording(tmp_path / "missing" / "a.npz", recording)
    unwritable = Recording.from_units(TRAINS, 0.0, 3.0, meta={"a": object()})
    with pytest.raises(RecordingError, match=r"^cannot write the recording: meta is not plain JSON"):
        write_recording(tmp_path / "a.npz", unwritable)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a.nwb", "a.mat"])
def test_missing_optional_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    (tmp_path / name).write_bytes(b"")

    def missing(module: str) -> None:
        raise ImportError(module)

    monkeypatch.setattr(readers, "import_module", missing)
    library = {"a.nwb": "pynwb", "a.mat": "neo"}[name]
    with pytest.raises(RecordingError) as caught:
        read_recording(tmp_path / name)
    assert str(caught.value) == f"{name}: reading it needs {library}: pip install 'sbi-circuits[nwb]'"


def write_nwb(path: Path, spans: list[list[list[float]]] | None) -> Path:
    pynwb = pytest.importorskip("pynwb")
    session = pynwb.NWBFile("test", "id-1", datetime(2024, 1, 1, tzinfo=UTC))
    for u, train in enumerate(TRAINS):
        extra = {} if spans is None else {"obs_intervals": spans[u]}
        session.add_unit(spike_times=train, **extra)
    with pynwb.NWBHDF5IO(str(path), "w") as file:
        file.write(session)
    return path


def test_nwb_without_intervals_spans_the_session(tmp_path: Path) -> None:
    read = read_recording(write_nwb(tmp_path / "a.nwb", None))
    assert same(read, Recording.from_units(TRAINS, 0.0, 2.75))


def test_nwb_intervals_give_the_longest_common_one(tmp_path: Path) -> None:
    spans = [[[0.0, 3.0]], [[0.0, 0.2], [0.375, 2.5]], [[0.0, 3.0]]]
    read = read_recording(write_nwb(tmp_path / "a.nwb", spans))
    assert same(read, Recording.from_units([[0.5, 1.5], [], []], 0.375, 2.5))


def test_nwb_units_that_share_no_interval(tmp_path: Path) -> None:
    path = write_nwb(tmp_path / "a.nwb", [[[0.0, 1.0]], [[1.0, 2.0]], [[2.0, 3.0]]])
    with pytest.raises(RecordingError, match=r"^a.nwb: the units share no interval of observation$"):
        read_recording(path)


def test_damaged_nwb(tmp_path: Path) -> None:
    pytest.importorskip("pynwb")
    (tmp_path / "a.nwb").write_bytes(b"no HDF5")
    with pytest.raises(RecordingError, match=r"^a.nwb: not a readable NWB file \(\w+\)$"):
        read_recording(tmp_path / "a.nwb")


def test_neo_formats(tmp_path: Path) -> None:
    neo = pytest.importorskip("neo")
    block = neo.Block()
    block.segments.append(neo.Segment())
    for train in TRAINS:
        block.segments[0].spiketrains.append(neo.SpikeTrain(train, units="s", t_start=0.0, t_stop=3.0))
    neo.io.NeoMatlabIO(filename=str(tmp_path / "a.mat")).write_block(block)
    assert same(read_recording(tmp_path / "a.mat"), Recording.from_units(TRAINS, 0.0, 3.0))


def test_damaged_neo_file(tmp_path: Path) -> None:
    pytest.importorskip("neo")
    (tmp_path / "a.mat").write_bytes(b"no MATLAB")
    with pytest.raises(RecordingError, match=r"^a.mat: neo's NeoMatlabIO cannot read it \("):
        read_recording(tmp_path / "a.mat")


def test_real_recordings(shared_data: Path) -> None:
    plate = shared_data / "cultures" / "epa_20140507_MW1007-103_div20.npz"
    assert len(list_groups(plate)) == 46
    well = read_recording(plate, group="D5")
    assert well.unit_kind == "channel" and 3 <= well.n_units <= 16 and 900 < well.duration < 1000
    cells = read_recording(shared_data / "units" / "rat_ca1_w_maze.npz")
    assert cells.unit_kind == "cell" and cells.n_units == 24
    assert len(cells.times) / cells.n_units / cells.duration == pytest.approx(0.55, abs=0.01)
    assert read_recording(shared_data / "cultures" / "hipsc_tc75_d41.npz").unit_kind == "channel"
