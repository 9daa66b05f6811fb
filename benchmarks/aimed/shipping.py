"""Make the table that ships, windows of 60 s in the view of channels: `python -m benchmarks.aimed.shipping TABLE OUT`.

`sbi_circuits.nearby` draws around its rows. TABLE is what `tables` wrote for `adex_clustered`; the simulations that
ship now are among its rows. Of every simulation that ran to its end the first window may stay: three quarters are those
nearest to the cultures that may be aimed at and to the human network, target by target, the others are drawn at random.
To ship it, OUT replaces `sbi_circuits/data/adex_clustered_channels_60s.parquet`.
"""

import argparse
from pathlib import Path

import numpy as np

from benchmarks.aimed.aiming import shorter_targets
from sbi_circuits.errors import TableError
from sbi_circuits.inference import load_posterior
from sbi_circuits.nearby import mismatches
from sbi_circuits.seeds import generator
from sbi_circuits.table import MemoryTable, Table

MOST = 40_000
_NEAR = 0.75
_LIMIT = 12e6  # bytes: with posteriors of some MB the wheel stays below 20


def chosen(table: MemoryTable, most: int, seed: int = 0) -> MemoryTable:
    """One window of `most` simulations that ran to their end: near the targets, and at random."""
    rows = table.rows.take(table.rows.outcome == "ok")
    _, first = np.unique(rows.theta, axis=0, return_index=True)
    rows = rows.take(np.sort(first))
    distances = shorter_targets().distances(rows.values, rows.states)
    rank = np.empty_like(distances)
    np.put_along_axis(rank, distances.argsort(0, kind="stable"), np.arange(len(rows), dtype=float)[:, None], axis=0)
    near = rank.min(1).argsort(kind="stable")[: round(_NEAR * most)]
    rest = np.setdiff1d(np.arange(len(rows)), near)
    others = generator(seed, "shipped").permutation(rest)[: most - len(near)]
    return MemoryTable(table.manifest, rows.take(np.sort(np.concatenate([near, others]))))


def main(source: Path, out: Path, most: int = MOST) -> MemoryTable:
    """Choose and write; prints the size.

    Raises:
        TableError: other simulations or features than the shipped posterior's, or a file too large to ship.
    """
    found = Table.load_file(source)
    other = mismatches(load_posterior("adex_clustered"), found)
    if other:
        raise TableError(f"{source} has another {' and '.join(other)} than the posterior that ships")
    table = chosen(found, most)
    size = table.export_file(out).stat().st_size
    print(f"wrote {out}: {len(table)} simulations, {size / 1e6:.1f} MB", flush=True)
    if size > _LIMIT:
        raise TableError(f"{out} has {size / 1e6:.1f} MB, {_LIMIT / 1e6:.0f} MB may ship: choose fewer with --most")
    return table


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--most", type=int, default=MOST)
    given = parser.parse_args()
    main(given.table, given.out, given.most)
