"""`features`: measure a recording, print a table, write JSON or CSV."""

import csv
import io
import json
import sys
from pathlib import Path

import numpy as np
from rich.console import Console

from sbi_circuits.cli_circuits import grid
from sbi_circuits.errors import FeatureError, RecordingError
from sbi_circuits.features import DEFINED, FeatureSet
from sbi_circuits.observation_file import STATES, ObservedFeatures, write_observation
from sbi_circuits.plots.style import unit_text
from sbi_circuits.readers import read_recording
from sbi_circuits.recording import Recording

_SHOWN = {
    "bursts.rate_per_minute": "bursts/min",
    "bursts.interval_mean": "interval (s)",
    "bursts.width_mean": "width (s)",
    "bursts.fraction_in_bursts": "in bursts",
    "bursts.rate_cv": "rate CV",
}


def feature_set(text: str, view: str) -> FeatureSet:
    """A feature set from family names ("isi,bursts"), or from a JSON file of one or of an observation.

    Raises:
        FeatureError, UnknownNameError: a file that does not hold one, unknown families or views.
    """
    if not text.endswith(".json"):
        return FeatureSet.of(*(name.strip() for name in text.split(",") if name.strip()), view=view)
    try:
        content = json.loads(Path(text).read_text(encoding="utf-8"))
        return FeatureSet.from_dict(content.get("feature_set", content))
    except (ValueError, AttributeError) as error:
        raise FeatureError(f"{text} does not hold a feature set") from error


def features(
    path: Path, group: str | None, sets: str, view: str, window: float | None, all_groups: bool,
    json_out: Path | None, csv_out: Path | None,
) -> None:  # fmt: skip
    """Print the features of a recording, or of each of its groups, and write them where asked."""
    chosen = feature_set(sets, view)
    whole = read_recording(path, group=group)
    if group is None and not all_groups:
        note_groups(whole, path)
    parts = _groups(whole) if all_groups else {group or "": whole}
    found = {name: measure(recording, chosen, window, path.name, name) for name, recording in parts.items()}
    if not found:
        raise RecordingError(f"{path.name}: no group has spikes")
    if all_groups:
        _print_groups(parts, found)
    else:
        _print_features(found[group or ""])
    if json_out is not None:
        _write_json(json_out, list(found.values()), all_groups)
    if csv_out is not None:
        _write_text(csv_out, _csv(found))


def measure(
    recording: Recording, chosen: FeatureSet, window: float | None, name: str, group: str
) -> ObservedFeatures:
    """The features of a recording in windows of so many seconds; in one window where None."""
    window_s = recording.duration if window is None else window
    source = str(recording.meta.get("source", recording.meta.get("source_repo", "")))
    return ObservedFeatures(
        chosen, chosen.measure_windows(recording, window_s), window_s, source, name, group
    )


def note_groups(recording: Recording, path: Path) -> None:
    """Say so on stderr where the electrodes of several wells are taken together."""
    names = sorted(set(recording.groups))
    if len(names) > 1 and recording.unit_kind == "channel":
        listed = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
        print(f"note: {path.name} has {len(names)} groups, taken together; see --group ({listed})",
              file=sys.stderr)  # fmt: skip


def _groups(recording: Recording) -> dict[str, Recording]:
    """Each group that has spikes, as a recording of its own."""
    names = np.array(recording.groups)
    parts = {
        str(name): recording.select(np.flatnonzero(names == name)) for name in dict.fromkeys(recording.groups)
    }
    return {name: part for name, part in parts.items() if len(part.times)}


def _print_features(observed: ObservedFeatures) -> None:
    f, windows = observed.features, observed.features.n_windows
    table = grid("feature", "value", "sd over windows", "state", "unit")
    for k, (name, unit) in enumerate(
        zip(observed.feature_set.names, observed.feature_set.units, strict=True)
    ):
        defined = f.states[k] == DEFINED
        value = f"{f.values[k]:.5g}" if defined else "-"
        spread = f"{f.spread[k]:.3g}" if defined and windows > 1 else "-"
        table.add_row(name, value, spread, STATES[int(f.states[k])], unit_text(unit))
    Console().print(table)
    print(f"{windows} window{'s' * (windows != 1)} of {observed.window_s:g} s")


def _print_groups(parts: dict[str, Recording], found: dict[str, ObservedFeatures]) -> None:
    names = next(iter(found.values())).feature_set.names
    shown = [n for n in _SHOWN if n in names] or list(names[:5])
    table = grid("group", "units", "spikes", "defined", *(_SHOWN.get(n, n) for n in shown))
    for group, observed in found.items():
        f, recording = observed.features, parts[group]
        cells = [
            f"{f.values[names.index(n)]:.4g}" if f.states[names.index(n)] == DEFINED else "-" for n in shown
        ]
        defined = f"{int((f.states == DEFINED).sum())}/{len(names)}"
        table.add_row(group, str(recording.n_units), str(len(recording.times)), defined, *cells)
    Console().print(table)


def _write_json(path: Path, found: list[ObservedFeatures], several: bool) -> None:
    if several:
        _write_text(
            path, json.dumps([observed.to_dict() for observed in found], indent=1, allow_nan=False) + "\n"
        )
    else:
        print(f"wrote {write_observation(path, found[0])}")


def _csv(found: dict[str, ObservedFeatures]) -> str:
    """Long form: one line per group and feature; what is not defined has no value."""
    sink = io.StringIO()
    rows = csv.writer(sink, lineterminator="\n")
    rows.writerow(["group", "feature", "value", "spread", "state", "unit"])
    for group, observed in found.items():
        f = observed.features
        for k, (name, unit) in enumerate(
            zip(observed.feature_set.names, observed.feature_set.units, strict=True)
        ):
            defined = f.states[k] == DEFINED
            numbers = [repr(float(f.values[k])), repr(float(f.spread[k]))] if defined else ["", ""]
            rows.writerow([group, name, *numbers, STATES[int(f.states[k])], unit])
    return sink.getvalue()


def _write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
    print(f"wrote {path}")
