"""Measure the plate of cultures as the rounds measure simulations: `python -m benchmarks.aimed.cultures RECORDINGS`."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.aimed.settings import Settings, channels
from sbi_circuits.cultures import DAYS, SOURCE, PlateRow, plate
from sbi_circuits.features.states import FeatureValues, summarise

FILE = Path(__file__).with_name("cultures_120s.parquet")
HUMAN_FILE = Path(__file__).with_name("human_120s.parquet")
HUMAN, HUMAN_SOURCE = "hipsc_tc75_d41.npz", "human iPSC-derived neurons, day 41, Cotterill et al. 2016, J Neurophysiol"


def main(folder: Path) -> None:
    from sbi_circuits.readers import read_recording

    features, window = channels(), Settings().protocol.duration
    columns: dict[str, list] = {"day": [], "well": [], "values": [], "states": []}
    for day in DAYS:
        path = folder / f"epa_20140507_MW1007-103_div{day:02d}.npz"
        for well in sorted({row.well for row in plate()}):
            found = features.measure_windows(read_recording(path, group=well), window)
            columns["day"] += [day] * found.n_windows
            columns["well"] += [well] * found.n_windows
            columns["values"] += found.window_values.astype(np.float32).tolist()
            columns["states"] += found.window_states.tolist()
    types = {"day": pa.int16(), "well": pa.string(), "values": pa.list_(pa.float32()), "states": pa.list_(pa.uint8())}
    about = {"source": SOURCE, "feature_set": json.dumps(features.to_dict()), "window_s": str(window)}
    _write(FILE, pa.table({k: pa.array(v, types[k]) for k, v in columns.items()}), about)
    seen = features.measure_windows(read_recording(folder / HUMAN), window)
    human = {"values": seen.window_values.astype(np.float32).tolist(), "states": seen.window_states.tolist()}
    _write(HUMAN_FILE, pa.table({k: pa.array(v, types[k]) for k, v in human.items()}), about | {"source": HUMAN_SOURCE})


def _write(path: Path, table: pa.Table, about: dict[str, str]) -> None:
    temporary = path.with_suffix(".tmp")
    stamped = table.replace_schema_metadata(about)
    pq.write_table(stamped, temporary, compression="zstd", compression_level=15)
    os.replace(temporary, path)
    print(f"wrote {path} ({path.stat().st_size / 1e3:.0f} kB)")


def measured() -> tuple[PlateRow, ...]:
    """Every well on every day, in windows as long as the simulations."""
    table = pq.read_table(FILE)
    values = np.array(table["values"].to_pylist(), dtype=np.float64)
    states = np.array(table["states"].to_pylist(), dtype=np.uint8)
    keys = list(zip(table["day"].to_pylist(), table["well"].to_pylist(), strict=True))
    rows = []
    for key in sorted(set(keys)):
        own = [k for k, other in enumerate(keys) if other == key]
        rows.append(PlateRow(*key, summarise([FeatureValues(values[k], states[k]) for k in own])))
    return tuple(rows)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
