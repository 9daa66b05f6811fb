"""What a table is: a digest of all its rows, and its usable ones as matrices, from the same two passes."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from sbi_circuits.errors import TableError
from sbi_circuits.features import DEFINED
from sbi_circuits.features.packed import PackedStates
from sbi_circuits.table_rows import MECHANISM, TEXTS, feature_positions

_LIGHT = ("theta", *TEXTS, "weight")
OK = "ok"


@dataclass(frozen=True, eq=False)
class Usable:
    """The simulations of a table that ended ok.

    Args:
        theta: (n, P) float64, declared units.
        values: (n, F) float32, in their units; 0 where not defined.
        states: (n, F) packed.
        weight: (n,) importance weights.
        counts: how many simulations of the table had each outcome.
        digest: of the whole table, see `BaseTable.digest`.
    """

    theta: np.ndarray
    values: np.ndarray
    states: PackedStates
    weight: np.ndarray
    counts: dict[str, int]
    digest: str


@dataclass(eq=False)
class _Light:
    """Everything of a table but its features: arrays of all rows, and texts as JSON without brackets."""

    index: np.ndarray
    seed: np.ndarray
    theta: np.ndarray
    weight: np.ndarray
    ok: np.ndarray
    counts: dict[str, int]
    texts: dict[str, list[bytes]]

    @classmethod
    def of(cls, table: Any) -> "_Light":
        arrays: dict[str, list[np.ndarray]] = {name: [] for name in ("index", "seed", "theta", "weight", "ok")}
        texts: dict[str, list[bytes]] = {name: [] for name in TEXTS}
        counts: Counter[str] = Counter()
        for rows in table.batches(_LIGHT):
            for name in ("index", "seed", "theta", "weight"):
                arrays[name].append(getattr(rows, name))
            arrays["ok"].append(rows.outcome == OK)
            counts.update(rows.outcome.tolist())
            for name, pieces in texts.items():
                pieces += [json.dumps(getattr(rows, name).tolist())[1:-1].encode()] if len(rows) else []
        joined = {name: np.concatenate([*_none(name, len(table.prior)), *a]) for name, a in arrays.items()}
        return cls(**joined, counts=dict(sorted(counts.items())), texts=texts)


def _none(name: str, parameters: int) -> list[np.ndarray]:
    kind = bool if name == "ok" else np.int64 if name in ("index", "seed") else np.float64
    return [np.zeros((0, parameters) if name == "theta" else 0, kind)]


def digest_of(table: Any) -> str:
    """SHA-256 of what was simulated and of all rows of a table, part by part."""
    light = _Light.of(table)
    every = PackedStates.empty(len(light.ok), len(table.manifest.feature_names))
    return _read(table, light, every, lambda at, values, states: None)


def load_usable(table: Any, features: Sequence[str] | None = None) -> Usable:
    """The simulations of a table that ended ok, each part straight into place.

    Args:
        table: read in two passes, first without its features.
        features: names of features or families to keep; all where None.

    Raises:
        UnknownNameError: a name that is neither.
        TableError: the table changed meanwhile, or a part is of another one.
    """
    table = table.frozen()
    chosen = feature_positions(table.manifest.feature_names, features)
    light = _Light.of(table)
    target = np.cumsum(light.ok) - 1  # where each row that ended ok goes
    values = np.empty((int(light.ok.sum()), len(chosen)), dtype=np.float32)
    whole = len(chosen) == len(table.manifest.feature_names)
    every = PackedStates.empty(len(light.ok), len(table.manifest.feature_names))
    # Where all rows are usable their states are held once.
    states = every if whole and light.ok.all() else PackedStates.empty(*values.shape)

    def keep(at: int, found: np.ndarray, own: np.ndarray) -> None:
        kept = light.ok[at : at + len(found)]
        if kept.any():
            start = target[at : at + len(found)][kept][0]
            place, own = slice(start, start + kept.sum()), own[kept] if whole else own[kept][:, chosen]
            values[place] = found[kept] if whole else found[kept][:, chosen]
            if own.any():
                values[place][own != DEFINED] = 0.0
            if states is not every:
                states[place] = own

    found = _read(table, light, every, keep)
    pa.default_memory_pool().release_unused()  # what reading took is free for what comes now
    ok = slice(None) if light.ok.all() else light.ok
    return Usable(light.theta[ok], values, states, light.weight[ok], light.counts, found)


def _read(
    table: Any, light: _Light, states: PackedStates, keep: Callable[[int, np.ndarray, np.ndarray], None]
) -> str:
    """The digest; fills `states`, and hands `keep` the position, values and states of each batch of rows."""
    identity = table.manifest.identity()
    found = hashlib.sha256("".join(identity[name] for name in MECHANISM).encode())
    for array in (light.index, light.seed, light.theta):
        found.update(np.ascontiguousarray(array).data)
    at = 0
    for rows in table.batches(("values", "states"), precision=np.float64):
        if not np.array_equal(rows.index, light.index[at : at + len(rows)]):
            raise TableError("the table changed while it was read; read it again")
        found.update(np.ascontiguousarray(rows.values).data)
        states[at : at + len(rows)] = rows.states
        keep(at, rows.values, rows.states)
        at += len(rows)
    if at != len(light.index):
        raise TableError("the table changed while it was read; read it again")
    for piece in _ending(light, states):
        found.update(piece)
    return found.hexdigest()


def _ending(light: _Light, states: PackedStates) -> Iterator[Any]:
    """What comes after the values, in the order of the fields of a row."""
    for part in states.chunks():
        yield np.ascontiguousarray(states[part]).data
    for name in TEXTS:
        yield b"[" + b", ".join(light.texts[name]) + b"]"
    yield np.ascontiguousarray(light.weight).data
