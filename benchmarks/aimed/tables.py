"""Tables to train on, from the recordings of the rounds: `python -m benchmarks.aimed.tables FOLDER`.

Any features, in windows of any length: a simulation of 120 s is one row of a table of 120 s, and two of one of 60 s,
which the shipped table of bursts then joins. Every row carries its weight, prior over the mixture that all rounds drew
from together. Where FOLDER holds rounds of a device (`device.py`), what the table that is kept does not hold of theirs
is joined to it, each with weights of its own mixture.
"""

import argparse
import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.aimed.kernels import Kernels, standard_normal
from benchmarks.aimed.packed import packed_rounds, packed_table
from benchmarks.aimed.settings import TABLES, Wanted, kept
from sbi_circuits.demo import TABLE, demo_table
from sbi_circuits.inference.weights import balance_weights
from sbi_circuits.seeds import measuring_seed
from sbi_circuits.table import MemoryTable, Table, concat
from sbi_circuits.table_recordings import FOLDER, Recordings
from sbi_circuits.table_rows import ROW_FIELDS, Rows

_ROUND = re.compile(r"round-(\d+)")


def start_table(folder: Path) -> MemoryTable:
    """The simulations of 60 s that the first round aims with: those in `folder/start`, else the shipped ones."""
    own = folder / "start" / TABLE
    return Table.load_file(own) if own.exists() else demo_table()


def rounds(folder: Path) -> dict[int, Table]:
    """The rounds begun so far, by number."""
    found = {int(m[1]): path for path in folder.iterdir() if (m := _ROUND.fullmatch(path.name))}
    return {number: Table.open(found[number]) for number in sorted(found)}


def table_of(folder: Path, wanted: Wanted) -> MemoryTable:
    """All rounds, measured as wanted; what was measured before is read."""
    of_device = packed_rounds(folder)
    if not of_device:
        return _of_rounds(folder, wanted)
    before = Table.load_file(kept(wanted.name))
    more = packed_table(of_device, wanted.name)
    known = set(zip(before.rows.seed.tolist(), before.rows.index.tolist(), strict=True))
    fresh = np.array([key not in known for key in zip(more.rows.seed.tolist(), more.rows.index.tolist(), strict=True)])
    return concat([before, MemoryTable(more.manifest, more.rows.take(fresh))]) if fresh.any() else before


def _of_rounds(folder: Path, wanted: Wanted) -> MemoryTable:
    parts = [_measured(folder, number, table, wanted) for number, table in rounds(folder).items()]
    joined = concat(parts)
    joined.rows.weight[:] = weights(folder, joined)
    return concat([start_table(folder), joined]) if wanted.with_start else joined


def weights(folder: Path, joined: MemoryTable) -> np.ndarray:
    """(n,) prior over the mixture of all rounds, each with as many rows as it has."""
    z = joined.prior.unconstrain(joined.rows.theta)
    seeds, counts = np.unique(joined.rows.seed, return_counts=True)
    numbers = {int(table.manifest.seed or 0): number for number, table in rounds(folder).items()}
    kernels = [Kernels.load(folder / f"kernels-{numbers[int(seed)]:03d}.safetensors") for seed in seeds]
    return balance_weights(standard_normal(z), np.array([k.log_prob_z(z) for k in kernels]), counts)


def _measured(folder: Path, number: int, table: Table, wanted: Wanted) -> MemoryTable:
    """One round; kept beside it once it is whole, and measured on where it has grown."""
    path = folder / f"round-{number:03d}-{wanted.name}.parquet"
    before = Table.load_file(path) if path.exists() else None
    light = table.read(("theta", "outcome", "reason", "wall_s", "proposal", "weight"))
    windows = round(float(table.manifest.protocol["duration"]) / wanted.window_s)
    have = set() if before is None else set((before.rows.index // windows).tolist())
    recordings = Recordings(table.path / FOLDER)
    fresh = [k for k, index in enumerate(light.index) if int(index) not in have]
    protocol = {**table.manifest.protocol, "duration": wanted.window_s}
    manifest = replace(table.manifest.measured_with(wanted.features), protocol=protocol)
    made = [_rows(light.take(slice(k, k + 1)), recordings, wanted, windows) for k in fresh]
    if not made:
        assert before is not None
        return before
    found = MemoryTable(manifest, _joined(made))
    found = found if before is None else concat([before, found])
    return Table.load_file(found.export_file(path))  # as it will be read later, in single precision


def _rows(one: Rows, recordings: Recordings, wanted: Wanted, windows: int) -> Rows:
    """The windows of one simulation as rows; a single one where it ended early."""
    index, width = int(one.index[0]), wanted.features.width
    values, states = np.zeros((1, width)), np.ones((1, width), dtype=np.uint8)
    if one.outcome[0] == "ok":
        seed = measuring_seed(int(one.seed[0]), index)
        seen = wanted.features.measure_windows(recordings[index], wanted.window_s, seed=seed)
        values, states = seen.window_values, seen.window_states
    repeated = one.take(np.zeros(len(values), dtype=np.int64))
    return replace(repeated, index=index * windows + np.arange(len(values)), values=values, states=states)


def _joined(parts: list[Rows]) -> Rows:
    return Rows(*(np.concatenate([getattr(p, name) for p in parts]) for name in ROW_FIELDS))


def main(folder: Path, names: list[str]) -> None:
    for name in names:
        table = table_of(folder, TABLES[name])
        path = table.export_file(folder / f"{name}.parquet")
        ok = table.rows.weight[table.rows.outcome == "ok"]
        effective = ok.sum() ** 2 / (ok**2).sum()
        print(f"{name}: {len(table)} rows, {table.counts()}, {effective:.0f} effective rows under the prior; "
              f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB)", flush=True)  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="*", default=list(TABLES), choices=list(TABLES))
    arguments = parser.parse_args()
    main(arguments.folder, arguments.only)
