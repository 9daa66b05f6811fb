"""Rounds that a device simulated: one file each, every configuration once, beside it what was measured in every view.

A table for each view would repeat the configurations, and take twice the room.
Configurations are kept as unbounded coordinates in single precision, which is exactly what was simulated.
"""

import base64
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.aimed.kernels import Kernels, standard_normal
from sbi_circuits.errors import TableError
from sbi_circuits.table import MemoryTable, join
from sbi_circuits.table_files import replace_file
from sbi_circuits.table_rows import Manifest, Rows

FORMAT = 1
_FILE = re.compile(r"device-(\d+)\.parquet")
_LEVEL = 6  # of the compression: more gains nothing on numbers like these


@dataclass(frozen=True, eq=False)
class PackedRound:
    """A round: n simulations of P parameters, measured in some views.

    Args:
        number, seed: of the round.
        kernels: what theta was drawn from.
        manifests: of the table of each view.
        z: (n, P) float32, unbounded coordinates.
        outcome, reason: (n,) text; wall_s: (n,) seconds.
        values, states: of each view, (n, W, F) float32 and uint8: windows of one simulation, and their features.
    """

    number: int
    seed: int
    kernels: Kernels
    manifests: Mapping[str, Manifest]
    z: np.ndarray
    outcome: np.ndarray
    reason: np.ndarray
    wall_s: np.ndarray
    values: Mapping[str, np.ndarray]
    states: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.z)

    def save(self, folder: Path) -> Path:
        """Write `device-NNN.parquet`, at once or not at all."""
        path, sink = folder / f"device-{self.number:03d}.parquet", pa.BufferOutputStream()
        content = {"outcome": pa.array(self.outcome.tolist()), "reason": pa.array(self.reason.tolist()),
                   "wall_s": pa.array(self.wall_s.astype(np.float32)), "z": _lists(self.z)}  # fmt: skip
        for name in self.manifests:
            content |= {f"values.{name}": _lists(self.values[name]), f"states.{name}": _lists(self.states[name])}
        about = {"format": FORMAT, "number": self.number, "seed": self.seed,
                 "kernels": base64.b64encode(self.kernels.to_bytes()).decode(),
                 "views": {name: [*self.values[name].shape[1:]] for name in self.manifests},
                 "manifests": {name: m.to_json() for name, m in self.manifests.items()}}  # fmt: skip
        table = pa.table(content).replace_schema_metadata({"device_round": json.dumps(about)})
        floats = ["wall_s", "z.list.element", *(f"values.{name}.list.element" for name in self.manifests)]
        encoded = {"use_dictionary": ["outcome", "reason"], "use_byte_stream_split": floats}
        pq.write_table(table, sink, compression="zstd", compression_level=_LEVEL, write_page_checksum=True, **encoded)
        replace_file(path, sink.getvalue())
        return path

    @classmethod
    def load(cls, path: Path) -> "PackedRound":
        """Read a file; raises `TableError` naming it where it is none of these."""
        try:
            table = pq.read_table(path, page_checksum_verification=True)
            about = json.loads((table.schema.metadata or {})[b"device_round"])
            if about["format"] != FORMAT:
                raise TableError(f"{path} has format {about['format']}; this code reads {FORMAT}")
            return cls._of(table, about, path)
        except (pa.ArrowException, OSError, KeyError, ValueError) as error:
            raise TableError(f"{path} is not a round of a device: {str(error).splitlines()[0]}") from error

    @classmethod
    def _of(cls, table: pa.Table, about: Mapping[str, Any], path: Path) -> "PackedRound":
        views: dict[str, list[int]] = about["views"]
        manifests = {name: Manifest.from_json(about["manifests"][name], path) for name in views}
        values, states = ({name: _array(table[f"{kind}.{name}"]).reshape(-1, *shape) for name, shape in views.items()}
                          for kind in ("values", "states"))  # fmt: skip
        parameters = len(next(iter(manifests.values())).prior)
        return cls(about["number"], about["seed"], Kernels.from_bytes(base64.b64decode(about["kernels"])), manifests,
                   _array(table["z"]).reshape(-1, parameters), np.array(table["outcome"].to_pylist(), dtype=np.str_),
                   np.array(table["reason"].to_pylist(), dtype=np.str_), table["wall_s"].to_numpy(), values,
                   states)  # fmt: skip

    def table(self, view: str, weights: np.ndarray | None = None) -> MemoryTable:
        """The table of one view; a simulation that ended early is one row, another one row per window.

        Args:
            view: name of it.
            weights: (n,) of the simulations; by the round's own proposal where None.
        """
        manifest, windows = self.manifests[view], self.values[view].shape[1]
        ok, n = self.outcome == "ok", len(self)
        of = np.repeat(np.arange(n), np.where(ok, windows, 1))
        window = np.arange(len(of)) - np.repeat(np.cumsum(np.where(ok, windows, 1)) - np.where(ok, windows, 1),
                                                np.where(ok, windows, 1))  # fmt: skip
        weight = own_weights([self]) if weights is None else weights
        rows = Rows(
            index=(of * windows + window).astype(np.int64), seed=np.full(len(of), self.seed, dtype=np.int64),
            theta=manifest.prior.constrain(self.z)[of], values=self.values[view][of, window].astype(np.float64),
            states=self.states[view][of, window], outcome=self.outcome[of], reason=self.reason[of],
            wall_s=self.wall_s[of].astype(np.float64), proposal=np.full(len(of), manifest.proposal),
            weight=weight[of],
        )  # fmt: skip
        return MemoryTable(manifest, rows)


def packed_rounds(folder: Path) -> list[PackedRound]:
    """The rounds of a device that lie in a folder, by number."""
    return [PackedRound.load(path) for path in sorted(packed_files(folder))]


def packed_files(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if _FILE.fullmatch(path.name)]


def own_weights(rounds: Sequence[PackedRound]) -> np.ndarray:
    """(n,) prior over the mixture of all rounds, each with as many simulations as it has; one round after another."""
    from sbi_circuits.inference.weights import balance_weights  # not there where a device only simulates

    z = np.concatenate([r.z for r in rounds]).astype(np.float64)
    counts = np.array([len(r) for r in rounds])
    return balance_weights(standard_normal(z), np.array([r.kernels.log_prob_z(z) for r in rounds]), counts)


def packed_table(rounds: Sequence[PackedRound], view: str) -> MemoryTable:
    """One view of all rounds as one table, its weights those of all rounds together."""
    edges = np.cumsum([len(r) for r in rounds])[:-1]
    parts = [r.table(view, w) for r, w in zip(rounds, np.split(own_weights(rounds), edges), strict=True)]
    for part in parts[1:]:
        parts[0].manifest.require_same(part.manifest, "rounds of different kinds", ("engine", "seed", "proposal"))
    engines, proposals = (" + ".join(sorted({getattr(p.manifest, key) for p in parts})) for key in
                          ("engine", "proposal"))  # fmt: skip
    manifest = replace(parts[0].manifest, engine=engines, proposal=proposals, seed=None)
    return MemoryTable(manifest if len(parts) > 1 else parts[0].manifest, join([p.rows for p in parts]))


def _lists(array: np.ndarray) -> pa.Array:
    flat = np.ascontiguousarray(array).reshape(len(array), -1)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat.ravel()), flat.shape[1])


def _array(column: pa.ChunkedArray) -> np.ndarray:
    found: np.ndarray = np.concatenate([chunk.flatten().to_numpy() for chunk in column.chunks])
    return found
