"""Measured features of a real plate of cultures, shipped as the default observation.

Rat cortical cultures on a 48-well plate (1007-103), 16 electrodes each, days 9 to 23 in vitro; Cotterill et al.
2016, J Biomol Screen, doi 10.1177/1087057116640520, data free to use. The package holds feature values computed by
this project (`benchmarks/culture_features.py`), not the recordings.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sbi_circuits.errors import FeatureError, UnknownNameError
from sbi_circuits.features import FeatureSet, WindowedFeatures
from sbi_circuits.features.states import FeatureValues, summarise

DAYS = (9, 14, 20, 23)
WINDOW = 60.0  # seconds; the simulations of the shipped table are as long
SOURCE = "rat cortical culture, plate 1007-103, Cotterill et al. 2016, doi 10.1177/1087057116640520"
PLATE_FILE = Path(str(files("sbi_circuits.data").joinpath("culture_1007-103_bursts.parquet")))


def culture_features() -> FeatureSet:
    """The feature set of cultures and of the shipped table: network bursts, in the view of channels."""
    return FeatureSet.of("bursts", view="channels", n_channels=16, cells_per_channel=5)


@dataclass(frozen=True, eq=False)
class PlateRow:
    """One well on one day: its features by window and their summary."""

    day: int
    well: str
    features: WindowedFeatures


def write_plate(rows: Sequence[PlateRow], path: Path) -> None:
    """Write one line per window: day, well, values and states."""
    windows = [r.features.n_windows for r in rows]
    values = np.concatenate([r.features.window_values for r in rows]).astype(np.float32)
    states = np.concatenate([r.features.window_states for r in rows])
    names = culture_features().names
    columns = {
        "day": np.repeat([r.day for r in rows], windows).astype(np.int16),
        "well": np.repeat([r.well for r in rows], windows),
        **{f"x.{name}": values[:, k] for k, name in enumerate(names)},
        **{f"state.{name}": states[:, k] for k, name in enumerate(names)},
    }
    metadata = {"source": SOURCE, "feature_set": culture_features().digest, "window_s": str(WINDOW)}
    table = pa.table(columns).replace_schema_metadata(metadata)
    pq.write_table(table, path, compression="zstd", compression_level=15)


@cache
def plate() -> tuple[PlateRow, ...]:
    """Every well active on all four days, on each day; read from the package.

    Raises:
        FeatureError: where the file was measured with other features than this code's; measure again then.
    """
    table = pq.read_table(PLATE_FILE)
    features = culture_features()
    if table.schema.metadata[b"feature_set"].decode() != features.digest:
        raise FeatureError(f"{PLATE_FILE.name} was measured with another feature set; "
                           "run benchmarks/culture_features.py again")  # fmt: skip
    values = np.column_stack([table[f"x.{n}"].to_numpy() for n in features.names]).astype(np.float64)
    states = np.column_stack([table[f"state.{n}"].to_numpy() for n in features.names])
    day, well = table["day"].to_numpy(), np.array(table["well"].to_pylist())
    keys = sorted({(int(d), str(w)) for d, w in zip(day, well, strict=True)})
    return tuple(_row(d, w, values[(day == d) & (well == w)], states[(day == d) & (well == w)]) for d, w in keys)


def _row(day: int, well: str, values: np.ndarray, states: np.ndarray) -> PlateRow:
    return PlateRow(day, well, summarise([FeatureValues(v, s) for v, s in zip(values, states, strict=True)]))


def culture(day: int, well: str) -> WindowedFeatures:
    """The features of one well on one day.

    Raises:
        UnknownNameError: a day or well that is not there; the message lists those that are.
    """
    rows = {(r.day, r.well): r.features for r in plate()}
    if day not in DAYS:
        raise UnknownNameError("day", day, map(str, DAYS))
    if (day, well) not in rows:
        raise UnknownNameError("well", well, {w for _, w in rows})
    return rows[day, well]


def typical_well(day: int) -> str:
    """The well whose features lie nearest the median of all wells of a day, in robust standard deviations."""
    rows = [r for r in plate() if r.day == day]
    x = np.array([r.features.values for r in rows])
    always = np.all([r.features.states == 0 for r in rows], axis=0)
    x = x[:, always]
    spread = np.subtract(*np.quantile(x, [0.75, 0.25], axis=0))
    distance = np.abs((x - np.median(x, axis=0)) / np.where(spread > 0, spread, 1.0)).mean(1)
    return rows[int(np.argmin(distance))].well
