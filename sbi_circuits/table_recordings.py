"""Recordings of chosen simulations beside a table: Parquet files in which one row is one recording.

Spike times, unit offsets and group names are lists; counts, moments and signals are lists of named entries.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from sbi_circuits.errors import RecordingError
from sbi_circuits.readers import read_recording
from sbi_circuits.recording import IntervalMoments, PopulationCounts, Recording, Signal
from sbi_circuits.table_files import Damaged, Gone, read_parquet, replace_file, to_parquet

FOLDER = "recordings"  # beside the manifest of a table
SCHEMA_VERSION = 1
_KEY = b"sbi_circuits recordings"
_FILE = re.compile(r"rec-(\d{10})-(\d{10})\.parquet")
_ARCHIVE = re.compile(r"rec-(\d{10})\.npz")  # of one recording, as `write_recording` makes them

_NUMBERS, _WHOLE = pa.list_(pa.float64()), pa.list_(pa.int64())
_COUNTS = pa.struct({"name": pa.string(), "size": pa.int64(), "values": _WHOLE})
_MOMENTS = pa.struct({"name": pa.string(), "spikes": _WHOLE, "total": _NUMBERS, "total_squared": _NUMBERS})
_SIGNAL = pa.struct({
    "name": pa.string(), "unit": pa.string(), "rate": pa.float64(), "t0": pa.float64(), "channels": pa.int64(),
    "single": pa.bool_(), "values": _NUMBERS,
})  # fmt: skip
SCHEMA = pa.schema({
    "index": pa.int64(), "t0": pa.float64(), "t1": pa.float64(), "unit_kind": pa.string(), "times": _NUMBERS,
    "offsets": _WHOLE, "groups": pa.list_(pa.string()), "counts": pa.list_(_COUNTS), "moments": pa.list_(_MOMENTS),
    "signals": pa.list_(_SIGNAL), "meta": pa.string(),
})  # fmt: skip


def write_recordings(folder: str | Path, recordings: Mapping[int, Recording]) -> Path | None:
    """Write recordings of some simulations as one file, at once or not at all.

    Args:
        folder: `recordings` beside a table; made if it is not there.
        recordings: by index of the simulation.

    Returns:
        The file; None where there is nothing to write.

    Raises:
        RecordingError: `meta` that is not plain JSON.
        OSError: a folder or file that cannot be written.

    Examples:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> file = write_recordings(folder, {7: Recording.from_units([[0.1, 0.2], [0.3]], 0, 1)})
        >>> file.name, Recordings(folder)[7].unit(0).tolist()
        ('rec-0000000007-0000000008.parquet', [0.1, 0.2])
    """
    if not recordings:
        return None
    rows = [_to_row(index, recordings[index]) for index in sorted(recordings)]
    path = Path(folder) / f"rec-{rows[0]['index']:010d}-{rows[-1]['index'] + 1:010d}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    stamp = {_KEY: json.dumps({"schema_version": SCHEMA_VERSION}).encode()}
    replace_file(path, to_parquet(pa.Table.from_pylist(rows, schema=SCHEMA), stamp))
    return path


class Recordings(Mapping[int, Recording]):
    """Recordings that were kept beside a table, by index of the simulation; each is read when it is asked for.

    Args:
        folder: with files of `write_recordings`, or archives `rec-<index>.npz` of `write_recording`.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    @cached_property
    def _where(self) -> dict[int, Path]:
        """File of each simulation, as the folder was when it was first asked for."""
        found: dict[int, Path] = {}
        for path in sorted(self.folder.iterdir()) if self.folder.is_dir() else ():
            if match := _ARCHIVE.fullmatch(path.name):
                found[int(match[1])] = path
            elif match := _FILE.fullmatch(path.name):
                start, stop = int(match[1]), int(match[2])
                one = stop == start + 1  # then the name says which
                found |= dict.fromkeys([start] if one else _read(path, ["index"])["index"].to_pylist(), path)
        return found

    def __getitem__(self, index: int) -> Recording:
        """The recording of one simulation.

        Raises:
            KeyError: if none was kept; the message says how many were.
            RecordingError: a file that is damaged, naming it.
        """
        if index not in self._where:
            raise KeyError(f"no recording of simulation {index} in {self.folder}, which holds {len(self)}")
        path = self._where[index]
        if path.suffix == ".npz":
            return read_recording(path)
        content = _read(path)
        place = content["index"].to_pylist().index(index)
        return _from_row(content.slice(place, 1).to_pylist()[0], path)

    def __iter__(self) -> Iterator[int]:
        return iter(sorted(self._where))

    def __len__(self) -> int:
        return len(self._where)

    def missing(self, indices: Iterable[int]) -> list[int]:
        """Those of some simulations of which no recording was kept."""
        return [int(index) for index in indices if index not in self._where]


def _read(path: Path, columns: list[str] | None = None) -> pa.Table:
    try:
        content = read_parquet(path, columns)
    except (Damaged, Gone) as error:
        raise RecordingError(f"cannot read {path}: {error}") from error
    stamp = (content.schema.metadata or {}).get(_KEY)
    if stamp is None:
        raise RecordingError(f"{path} holds no recordings")
    version = json.loads(stamp).get("schema_version")
    if version != SCHEMA_VERSION:
        raise RecordingError(f"{path} has schema version {version}; this code reads {SCHEMA_VERSION}")
    return content


def _to_row(index: int, recording: Recording) -> dict[str, Any]:
    try:
        meta = json.dumps(dict(recording.meta))
    except TypeError as error:
        raise RecordingError(f"cannot write the recording: meta is not plain JSON ({error})") from error
    names = ("t0", "t1", "unit_kind", "times", "offsets")
    return {
        **{name: getattr(recording, name) for name in names}, "index": int(index), "groups": list(recording.groups),
        "counts": [{"name": n, "size": c.size, "values": c.values} for n, c in recording.counts.items()],
        "moments": [{"name": n, **vars(m)} for n, m in recording.moments.items()],
        "signals": [_signal_row(n, s) for n, s in recording.signals.items()], "meta": meta,
    }  # fmt: skip


def _signal_row(name: str, signal: Signal) -> dict[str, Any]:
    values = np.atleast_2d(signal.values)
    about = {"name": name, "unit": signal.unit, "rate": signal.rate, "t0": signal.t0, "channels": len(values)}
    return {**about, "single": values.dtype == np.float32, "values": values.ravel().astype(np.float64)}


def _from_row(row: Mapping[str, Any], path: Path) -> Recording:
    try:
        return Recording(
            row["t0"], row["t1"], np.array(row["times"], dtype=np.float64), np.array(row["offsets"], dtype=np.int64),
            tuple(row["groups"]), row["unit_kind"],
            {c["name"]: PopulationCounts(np.array(c["values"], dtype=np.int64), c["size"]) for c in row["counts"]},
            {m["name"]: _moments(m) for m in row["moments"]}, {s["name"]: _signal(s) for s in row["signals"]},
            json.loads(row["meta"]),
        )  # fmt: skip
    except (RecordingError, ValueError, TypeError, KeyError) as error:
        raise RecordingError(f"{path.name}: damaged recording ({error})") from error


def _moments(entry: Mapping[str, Any]) -> IntervalMoments:
    spikes = np.array(entry["spikes"], dtype=np.int64)
    return IntervalMoments(spikes, np.array(entry["total"], dtype=float), np.array(entry["total_squared"], dtype=float))


def _signal(entry: Mapping[str, Any]) -> Signal:
    kind = np.float32 if entry["single"] else np.float64
    values = np.array(entry["values"], dtype=kind).reshape(entry["channels"], -1)
    return Signal(values, entry["rate"], entry["unit"], entry["t0"])
