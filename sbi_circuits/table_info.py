"""What a table holds and how it is stored, in words."""

from itertools import pairwise
from pathlib import Path

from sbi_circuits.table import BaseTable, Table
from sbi_circuits.table_parts import Part
from sbi_circuits.table_recordings import FOLDER, Recordings

_MANY = 100  # parts of which the average is small enough to say so
_SMALL = 1e6  # bytes


def open_table(path: str | Path) -> BaseTable:
    """The table in a folder, or in an exported file; raises `TableError` where there is none."""
    return Table.open(path) if Path(path).is_dir() else Table.load_file(path)


def describe(table: BaseTable) -> list[str]:
    """Lines for people: simulations by outcome, parameters, features, what made them, digests, parts.

    Raises:
        TableError: for a part of another table.
    """
    counts, manifest = table.counts(), table.manifest
    outcomes = ", ".join(f"{n} {name}" for name, n in counts.items()) or "none"
    families = dict.fromkeys(name.split(".")[0] for name in manifest.feature_names)
    lines = [
        f"{sum(counts.values())} simulations of {manifest.circuit_name} ({outcomes})",
        f"{len(table.prior)} parameters: {', '.join(table.prior.names)}",
        f"{len(manifest.feature_names)} features of {', '.join(families)}",
        ", ".join([f"engine {manifest.engine}, seed {manifest.seed}, proposal {manifest.proposal}", *_times(table)]),
        f"digests: circuit {table.circuit_digest[:12]}, prior {table.prior.digest[:12]}, features "
        f"{manifest.features_digest[:12]}, rows {table.digest[:12]}",
    ]
    return [*lines, *_stored(table)] if isinstance(table, Table) else lines


def overlap(parts: list[Part]) -> bool:
    """Whether a simulation is in two parts, which other tools would count twice."""
    return any(b.start < a.stop for a, b in pairwise(parts))


def _times(table: BaseTable) -> list[str]:
    found = {name: table.manifest.protocol.get(name) for name in ("duration", "warmup")}
    return [f"{name} {value:g} s" for name, value in found.items() if isinstance(value, int | float)]


def _stored(table: Table) -> list[str]:
    parts = table.parts()
    size = sum(part.path.stat().st_size for part in parts)
    lines = [f"{len(parts)} parts, {size / 1e6:.1f} MB"]
    if kept := len(Recordings(table.path / FOLDER)):
        lines.append(f"recordings of {kept} simulations")
    if overlap(parts):
        lines.append("parts overlap, and other tools count simulations twice, until it is compacted")
    if overlap(parts) or (len(parts) > _MANY and size / len(parts) < _SMALL):
        lines.append(f"reading is quicker after: sbi-circuits table compact {table.path}")
    return lines
