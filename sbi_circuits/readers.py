"""Reading measured recordings: NumPy archives, NWB and the formats neo reads; writing our own archives.

Nothing is unpickled: archives are read with `allow_pickle=False`, and neo's pickle format is not offered.
"""

import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from sbi_circuits.errors import RecordingError
from sbi_circuits.recording import IntervalMoments, PopulationCounts, Recording, Signal

SCHEMA = "sbi_circuits.recording/1"
# Suffix -> neo class, for formats that hold spike trains; fixed, so that a file never chooses code to run.
NEO_CLASSES = {
    ".kwik": "KwikIO",
    ".mat": "NeoMatlabIO",
    ".nev": "BlackrockIO",
    ".nex": "NeuroExplorerIO",
    ".nix": "NixIO",
    ".pl2": "Plexon2IO",
    ".plx": "PlexonIO",
    ".smr": "CedIO",
    ".smrx": "CedIO",
    ".src": "BrainwareSrcIO",
    ".txt": "AsciiSpikeTrainIO",
}
SUFFIXES = (".npz", ".nwb", *NEO_CLASSES)


def read_recording(path: str | Path, *, group: str | None = None, unit_kind: str | None = None) -> Recording:
    """Read a recording from a file.

    Args:
        path: `.npz` (written by `write_recording`, or an archive of `spike_times_s` (S,), `unit_ids` (S,),
            `duration_s` and optional `unit_*` (U,) arrays and JSON `meta`), `.nwb`, or a format of neo.
        group: keep only the units of this group (well, population, electrode group); see `list_groups`.
        unit_kind: "cell" or "channel", where the file's own answer is not wanted. Archives whose units have
            positions of electrodes (`unit_x_um`) hold channels; everything else holds cells.

    Returns:
        The recording; its valid interval, in seconds, is the file's. NWB: the longest interval common to all
        units' `obs_intervals`, else from 0 to the last spike or interval of the session. neo: the longest
        common interval of the spike trains of the first segment that has any.

    Raises:
        RecordingError: a file that is missing, damaged, without spikes or of an unknown suffix; an unknown
            group; spike times that cannot be; an optional library that is not installed.
        UnknownNameError: an unknown unit kind.

    Examples:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "two.npz"
        >>> write_recording(path, Recording.from_units([[0.1, 0.2], [0.3]], 0, 1, groups=("A1", "B2")))
        >>> list_groups(path), read_recording(path, group="B2").times.tolist()
        (('A1', 'B2'), [0.3])
    """
    recording = _load(Path(path))
    if unit_kind is not None:
        recording = replace(recording, unit_kind=unit_kind)
    return recording if group is None else _of_group(recording, group, Path(path))


def list_groups(path: str | Path) -> tuple[str, ...]:
    """Names of the groups of units in a file, in its order."""
    return tuple(dict.fromkeys(_load(Path(path)).groups))


def from_arrays(
    times: np.ndarray | Sequence[float],
    unit_ids: np.ndarray | Sequence[int] | None = None,
    t0: float = 0.0,
    t1: float | None = None,
    *,
    n_units: int | None = None,
    groups: Sequence[str] = (),
    unit_kind: str = "cell",
    meta: Mapping[str, Any] | None = None,
) -> Recording:
    """A recording from spike times and the unit of each.

    Args:
        times: (S,) seconds, sorted within each unit.
        unit_ids: (S,) integers from 0; one unit where left out.
        t0, t1: valid interval, seconds; t1 is the last spike where left out.
        n_units: how many units there are, silent ones included; the largest id + 1 where left out.
        groups: (U,) group of each unit.
        unit_kind: "cell" or "channel".
        meta: plain values worth keeping.

    Raises:
        RecordingError: no spikes at all, arrays that do not fit, or spike times that cannot be.

    Examples:
        >>> from_arrays([0.1, 0.2, 0.15], [0, 0, 1], t1=1.0).unit(1).tolist()
        [0.15]
    """
    times = _vector(times, "spike times", np.float64)
    ids = _vector(np.zeros(len(times)) if unit_ids is None else unit_ids, "unit ids", np.int64)
    if not len(times):
        raise RecordingError("the recording has no spikes")
    if len(ids) != len(times):
        raise RecordingError(f"{len(ids)} unit ids for {len(times)} spike times")
    n = int(ids.max()) + 1 if n_units is None else n_units
    if ids.min() < 0 or ids.max() >= n:
        raise RecordingError(f"unit ids reach from {ids.min()} to {ids.max()}, valid: 0 to {n - 1}")
    order = np.argsort(ids, kind="stable")
    offsets = np.concatenate([[0], np.cumsum(np.bincount(ids, minlength=n))])
    last = float(times.max()) if t1 is None else t1
    kept = {} if meta is None else meta
    return Recording(t0, last, times[order], offsets, tuple(groups), unit_kind, meta=kept)


def write_recording(path: str | Path, recording: Recording) -> None:
    """Write a recording as a NumPy archive, at once or not at all; `read_recording` gives it back.

    Raises:
        RecordingError: a suffix other than `.npz`, a folder that does not exist, or `meta` that is not JSON.
    """
    path = Path(path)
    if path.suffix != ".npz":
        raise RecordingError(f"cannot write {path.name}: recordings are written as .npz")
    arrays = _to_arrays(recording)
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise RecordingError(f"cannot write {path}: {error.strerror}") from error
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez_compressed(file, **arrays)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _to_arrays(recording: Recording) -> dict[str, Any]:
    header = {
        "t0": recording.t0,
        "t1": recording.t1,
        "unit_kind": recording.unit_kind,
        "counts": {name: c.size for name, c in recording.counts.items()},
        "moments": list(recording.moments),
        "signals": {name: [s.rate, s.unit, s.t0] for name, s in recording.signals.items()},
        "meta": dict(recording.meta),
    }
    try:
        text = json.dumps(header)
    except TypeError as error:
        raise RecordingError(f"cannot write the recording: meta is not plain JSON ({error})") from error
    arrays: dict[str, Any] = {"schema": np.array(SCHEMA), "header": np.array(text)}
    arrays |= {"times": recording.times, "offsets": recording.offsets}
    arrays["groups"] = np.array(recording.groups, dtype=str)
    arrays |= {f"counts/{name}": c.values for name, c in recording.counts.items()}
    arrays |= {f"signals/{name}": s.values for name, s in recording.signals.items()}
    for name, m in recording.moments.items():
        arrays[f"moments/{name}"] = np.stack([m.spikes, m.total, m.total_squared])
    return arrays


def _load(path: Path) -> Recording:
    readers: dict[str, Callable[[Path], Recording]] = {".npz": _read_npz, ".nwb": _read_nwb}
    readers |= dict.fromkeys(NEO_CLASSES, _read_neo)
    if path.suffix.lower() not in readers:
        raise RecordingError(f"{path.name}: unknown suffix {path.suffix!r}; valid: {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise RecordingError(f"no recording at {path}")
    try:
        return readers[path.suffix.lower()](path)
    except RecordingError as error:
        raise RecordingError(f"{path.name}: {error}") from error


def _of_group(recording: Recording, group: str, path: Path) -> Recording:
    units = [u for u, name in enumerate(recording.groups) if name == group]
    if not units:
        valid = ", ".join(dict.fromkeys(filter(None, recording.groups))) or "none"
        raise RecordingError(f"{path.name}: unknown group {group!r}; valid: {valid}")
    chosen = recording.select(units)
    if not len(chosen.times):
        raise RecordingError(f"{path.name}: group {group!r} has no spikes")
    return chosen


def _read_npz(path: Path) -> Recording:
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
    except (OSError, ValueError, BadZipFile, EOFError, AttributeError) as error:
        raise RecordingError("not a readable NumPy archive of plain arrays") from error
    return _from_own(arrays) if "schema" in arrays else _from_shared(arrays)


def _from_own(arrays: Mapping[str, np.ndarray]) -> Recording:
    schema = str(arrays["schema"])
    if schema != SCHEMA:
        raise RecordingError(f"schema {schema!r}; this version reads {SCHEMA!r}")
    try:
        header = json.loads(str(arrays["header"]))
        recording = Recording(
            header["t0"],
            header["t1"],
            arrays["times"],
            arrays["offsets"],
            tuple(arrays["groups"].tolist()),
            header["unit_kind"],
            {n: PopulationCounts(arrays[f"counts/{n}"], size) for n, size in header["counts"].items()},
            {n: _moments(arrays[f"moments/{n}"]) for n in header["moments"]},
            {n: Signal(arrays[f"signals/{n}"], *about) for n, about in header["signals"].items()},
            header["meta"],
        )
    except (KeyError, ValueError, TypeError) as error:
        raise RecordingError(f"damaged archive ({type(error).__name__}: {error})") from error
    # A silent simulation is a recording; a file that carries nothing is a mistake.
    if not (len(recording.times) or recording.counts or recording.moments or recording.signals):
        raise RecordingError("the recording has no spikes")
    return recording


def _moments(rows: np.ndarray) -> IntervalMoments:
    return IntervalMoments(rows[0].astype(np.int64), rows[1], rows[2])


def _from_shared(arrays: Mapping[str, np.ndarray]) -> Recording:
    """An archive of `spike_times_s`, `unit_ids`, `duration_s`, `unit_*` and `meta`."""
    for key in ("spike_times_s", "unit_ids", "duration_s"):
        if key not in arrays:
            found = ", ".join(sorted(arrays)) or "none"
            raise RecordingError(f"no array {key!r} in the archive; found: {found}")
    times = _vector(arrays["spike_times_s"], "spike times", np.float64)
    of_units = {k: v for k, v in arrays.items() if k.startswith("unit_") and k != "unit_ids"}
    named = next((of_units[k] for k in ("unit_well", "unit_group", "unit_tetrode") if k in of_units), None)
    # Times stored as float32 may round past the duration by an ulp.
    last = float(times.max(initial=0.0))
    duration = float(arrays["duration_s"])
    return from_arrays(
        times,
        arrays["unit_ids"],
        t1=last if duration < last <= duration * (1 + 1e-6) else duration,
        n_units=max((len(v) for v in of_units.values()), default=None),
        groups=() if named is None else tuple(map(str, named.tolist())),
        unit_kind="channel" if "unit_x_um" in of_units else "cell",
        meta=_meta(arrays.get("meta")),
    )


def _meta(text: np.ndarray | None) -> dict[str, Any]:
    try:
        meta = json.loads(str(text)) if text is not None else {}
    except json.JSONDecodeError as error:
        raise RecordingError(f"meta is not JSON ({error})") from error
    return meta if isinstance(meta, dict) else {"meta": meta}


def _read_nwb(path: Path) -> Recording:
    pynwb = _optional("pynwb")
    try:
        with pynwb.NWBHDF5IO(str(path), mode="r") as file:
            session = file.read()
            if session.units is None or "spike_times" not in session.units.colnames:
                raise RecordingError("no units with spike times in the NWB file")
            return _from_nwb(session)
    except RecordingError:
        raise
    except Exception as error:  # HDF5 and NWB name damage in many ways
        raise RecordingError(f"not a readable NWB file ({type(error).__name__})") from error


def _from_nwb(session: Any) -> Recording:
    units = session.units
    trains = [np.asarray(units["spike_times"][u], dtype=np.float64) for u in range(len(units))]
    spans = []
    if "obs_intervals" in units.colnames:
        spans = [np.asarray(units["obs_intervals"][u]).reshape(-1, 2) for u in range(len(units))]
    spans = [s for s in spans if len(s)]
    t0, t1 = _common(spans) if spans else (0.0, _session_end(session, trains))
    groups = tuple(g.name for g in units["electrode_group"][:]) if "electrode_group" in units.colnames else ()
    meta = {"source": "nwb", "identifier": str(session.identifier)}
    return _cut_trains(trains, t0, t1, groups, meta)


def _session_end(session: Any, trains: Sequence[np.ndarray]) -> float:
    """Seconds of the last spike, or of the last trial or epoch if later."""
    stops = [float(t["stop_time"][-1]) for t in (session.trials, session.epochs) if t is not None and len(t)]
    return max([float(t.max()) for t in trains if len(t)] + stops, default=0.0)


def _common(spans: Sequence[np.ndarray]) -> tuple[float, float]:
    """The longest interval during which all units were observed; `spans`: per unit (n, 2), seconds."""
    edges = np.concatenate(spans)
    times = np.concatenate([edges[:, 0], edges[:, 1]])
    change = np.repeat([1, -1], len(edges))
    order = np.lexsort((-change, times))
    observed = np.cumsum(change[order]) >= len(spans)
    lengths = np.where(observed[:-1], np.diff(times[order]), 0.0)
    best = int(np.argmax(lengths))
    if lengths[best] <= 0:
        raise RecordingError("the units share no interval of observation")
    return float(times[order][best]), float(times[order][best + 1])


def _cut_trains(
    trains: Sequence[np.ndarray], t0: float, t1: float, groups: tuple[str, ...], meta: dict[str, Any]
) -> Recording:
    """A recording of the spikes within the valid interval."""
    if not any(len(t) for t in trains):
        raise RecordingError("the recording has no spikes")
    whole = Recording.from_units(trains, min(t0, 0.0), max(t1, *(t.max() for t in trains if len(t))))
    inside = [t[(t >= t0) & (t <= t1)] for t in map(whole.unit, range(whole.n_units))]
    return Recording.from_units(inside, t0, t1, groups=groups, meta=meta)


def _read_neo(path: Path) -> Recording:
    name = NEO_CLASSES[path.suffix.lower()]
    reader = getattr(_optional("neo").io, name)
    try:
        block = _neo_block(reader(filename=str(path)))
    except Exception as error:  # each of neo's formats names damage in its own way
        raise RecordingError(f"neo's {name} cannot read it ({type(error).__name__}: {error})") from error
    segment = next((s for s in block if s.spiketrains), None)
    if segment is None:
        raise RecordingError("the recording has no spikes")
    trains = [np.asarray(t.rescale("s").magnitude, dtype=np.float64) for t in segment.spiketrains]
    edges = [[[float(t.t_start.rescale("s")), float(t.t_stop.rescale("s"))]] for t in segment.spiketrains]
    t0, t1 = _common([np.array(e) for e in edges])
    return _cut_trains(trains, t0, t1, (), {"source": "neo", "format": name})


def _neo_block(reader: Any) -> list[Any]:
    """Segments of the first block, or the one segment of a format that has no blocks."""
    names = [kind.__name__ for kind in reader.readable_objects]
    return list(reader.read_block().segments) if "Block" in names else [reader.read_segment()]


def _optional(name: str) -> Any:
    try:
        if name == "neo":
            import_module("neo.io")
        return import_module(name)
    except ImportError as error:
        raise RecordingError(f"reading it needs {name}: pip install 'sbi-circuits[nwb]'") from error


def _vector(values: Any, what: str, dtype: type) -> np.ndarray:
    array = np.asarray(values)
    if array.ndim != 1:
        raise RecordingError(f"{what} must be a one-dimensional array, got shape {array.shape}")
    if array.size and not np.issubdtype(array.dtype, np.number):
        raise RecordingError(f"{what} must be numbers, got {array.dtype}")
    if dtype is np.int64 and array.size and not np.array_equal(array, np.floor(array)):
        raise RecordingError(f"{what} must be integers")
    return array.astype(dtype)
