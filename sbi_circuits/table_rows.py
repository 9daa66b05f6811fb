"""Rows of tables, what they are of, and which parts of them to read."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from sbi_circuits.circuit import Circuit
from sbi_circuits.errors import TableError, UnknownNameError
from sbi_circuits.features import FeatureSet
from sbi_circuits.prior import Prior

SCHEMA_VERSION = 1
KEY = b"sbi_circuits"  # of the metadata in a file
MECHANISM = ("circuit", "prior", "feature set")
TEXTS = ("outcome", "reason", "proposal")


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of a table, sorted by seed and index; a field that was not asked for has length 0.

    Args:
        index: (n,) int64, of the simulation within its campaign.
        seed: (n,) int64, of the campaign.
        theta: (n, P) float64, declared units of the prior.
        values: (n, F) float64, or float32 where asked for; features in their units; 0 where not defined.
        states: (n, F) uint8: DEFINED, UNDEFINED or UNOBSERVED.
        outcome, reason: (n,) str, what became of each simulation.
        wall_s: (n,) wall time, seconds.
        proposal: (n,) str, what theta was drawn from.
        weight: (n,) prior density over the density theta was drawn from, on average 1; 1 for draws of the prior.
    """

    index: np.ndarray
    seed: np.ndarray
    theta: np.ndarray
    values: np.ndarray
    states: np.ndarray
    outcome: np.ndarray
    reason: np.ndarray
    wall_s: np.ndarray
    proposal: np.ndarray
    weight: np.ndarray

    def __len__(self) -> int:
        return len(self.index)

    def take(self, which: np.ndarray | slice) -> "Rows":
        """The rows at some positions, of a slice, or where a mask is true."""
        return Rows(*(a[which] if len(a) else a for a in map(self.__getattribute__, ROW_FIELDS)))


ROW_FIELDS = tuple(f.name for f in fields(Rows))


def join(parts: Sequence[Rows]) -> Rows:
    """Rows of several parts as one, sorted by seed and index; of repeated ones the first."""
    rows = Rows(*(np.concatenate([getattr(p, name) for p in parts]) for name in ROW_FIELDS))
    rows = rows.take(np.lexsort((rows.index, rows.seed)))
    repeated = (np.diff(rows.index) == 0) & (np.diff(rows.seed) == 0)
    if len(rows.theta):  # one index under two proposals is two simulations
        repeated &= (np.diff(rows.theta, axis=0) == 0).all(1)
    return rows.take(np.concatenate([[True], ~repeated])) if len(rows) else rows


def collect(batches: Iterable[Rows], most: int, empty: Rows, fields: Sequence[str]) -> Rows:
    """Batches as one, written into place one after another.

    Args:
        most: rows there may be, at most.
        empty: no rows, of the widths and types that are wanted.
        fields: that are wanted.
    """
    like = {name: getattr(empty, name) for name in fields}
    numbers = {name: np.empty((most, *a.shape[1:]), a.dtype) for name, a in like.items() if name not in TEXTS}
    texts: dict[str, list[np.ndarray]] = {name: [a] for name, a in like.items() if name in TEXTS}
    n = 0
    for rows in batches:
        for name, array in numbers.items():
            array[n : n + len(rows)] = getattr(rows, name)
        for name, pieces in texts.items():
            pieces.append(getattr(rows, name))
        n += len(rows)
    whole = {name: a[:n] for name, a in numbers.items()} | {name: np.concatenate(a) for name, a in texts.items()}
    return replace(empty, **whole)


def rows_equal(a: Rows, b: Rows) -> bool:
    """Whether two sets of rows are the same simulations with the same results; wall time does not count."""
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in ROW_FIELDS if name != "wall_s")


@dataclass(frozen=True)
class Manifest:
    """What the rows of a table are of.

    Args:
        circuit_name, circuit_digest, prior: what was simulated.
        features, features_digest, feature_names: content, digest and names of the feature set.
        protocol: plain values: duration, warm-up, what was recorded, time step.
        engine: its name; seed: of the campaign, None where there are several.
        proposal: "prior", or the name and digest of what theta was drawn from.
        code_version, created: of the writer, and when.
    """

    circuit_name: str
    circuit_digest: str
    prior: Prior
    features: Mapping[str, Any]
    features_digest: str
    feature_names: tuple[str, ...]
    protocol: Mapping[str, Any]
    engine: str
    seed: int | None
    proposal: str = "prior"
    code_version: str = field(default_factory=lambda: version("sbi-circuits"))
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    @classmethod
    def of(
        cls, circuit: Circuit, feature_set: FeatureSet, protocol: Mapping[str, Any], engine: str,
        seed: int | None, proposal: str = "prior",
    ) -> "Manifest":  # fmt: skip
        """The manifest of simulations of a circuit under its prior, measured with a feature set."""
        what = (circuit.name, circuit.digest, circuit.prior, *_described(feature_set))
        return cls(*what, protocol, engine, seed, proposal)

    def measured_with(self, feature_set: FeatureSet) -> "Manifest":
        """The manifest of the same simulations, measured with another feature set."""
        features, features_digest, names = _described(feature_set)
        return replace(self, features=features, features_digest=features_digest, feature_names=names)

    def identity(self) -> dict[str, Any]:
        """Everything two tables must share for one to continue the other, by name."""
        digests = (self.circuit_digest, self.prior.digest, self.features_digest)
        own = dict(zip(MECHANISM, digests, strict=True))
        protocol = {f"protocol {key}": value for key, value in self.protocol.items()}
        return {**own, **protocol, "engine": self.engine, "seed": self.seed, "proposal": self.proposal}

    def require_same(self, other: "Manifest", where: str, except_for: Iterable[str] = ()) -> None:
        """Raise `TableError` naming everything in which the other manifest differs."""
        here, there = self.identity(), other.identity()
        wrong = [k for k in {**here, **there} if k not in except_for and here.get(k) != there.get(k)]
        if wrong:
            raise TableError(f"{where}: {', '.join(_differs(k, here.get(k), there.get(k)) for k in wrong)}")

    def stamp(self) -> dict[str, Any]:
        """What each part repeats, so that a part alone can be identified."""
        versions = {"schema_version": SCHEMA_VERSION, "code_version": self.code_version}
        return {**versions, "circuit_name": self.circuit_name, **self.identity()}

    def to_json(self) -> str:
        content = {f.name: getattr(self, f.name) for f in fields(self)}
        content |= {"prior": self.prior.to_toml(), "prior_digest": self.prior.digest}
        content["schema_version"] = SCHEMA_VERSION
        return json.dumps(content, indent=1)

    @classmethod
    def from_json(cls, text: str | bytes, where: Path) -> "Manifest":
        """Read a manifest; raises `TableError` naming the file."""
        try:
            content = json.loads(text)
            found = content["schema_version"]
            if found != SCHEMA_VERSION:
                raise TableError(f"{where} has schema version {found}; this code reads {SCHEMA_VERSION}")
            prior, names = Prior.from_toml(content["prior"]), tuple(content["feature_names"])
            chosen = {f.name: content[f.name] for f in fields(cls)} | {"prior": prior, "feature_names": names}
            return cls(**chosen)
        except (ValueError, KeyError, TypeError) as error:
            raise TableError(f"{where} is not the manifest of a table: {error!r}") from error


def _described(feature_set: FeatureSet) -> tuple[dict[str, Any], str, tuple[str, ...]]:
    return feature_set.to_dict(), feature_set.digest, tuple(feature_set.names)


def _differs(name: str, here: object, there: object) -> str:
    if name in MECHANISM:
        return f"another {name} ({str(here)[:12]} here, {str(there)[:12]} there)"
    return f"another {name} ({here} here, {there} there)"


@dataclass(frozen=True, eq=False)
class Wanted:
    """What to read of each row.

    Args:
        fields: of `Rows`.
        features, parameters: positions of the features and parameters wanted, among the table's.
        kind: NumPy type of the features' values.
    """

    fields: tuple[str, ...]
    features: np.ndarray
    parameters: np.ndarray
    kind: Any = np.float64

    @classmethod
    def of(
        cls, manifest: Manifest, columns: Sequence[str] | None = None, features: Sequence[str] | None = None,
        parameters: Sequence[str] | None = None, kind: Any = np.float64,
    ) -> "Wanted":  # fmt: skip
        """Fields, features and parameters by name; see `BaseTable.batches`."""
        for name in columns or ():
            if name not in ROW_FIELDS:
                raise UnknownNameError("column of a table", name, ROW_FIELDS)
        chosen = ROW_FIELDS if columns is None else tuple(dict.fromkeys(("index", "seed", *columns)))
        theta = _named("parameter", manifest.prior.names, parameters)
        return cls(chosen, feature_positions(manifest.feature_names, features), theta, kind)


def feature_positions(names: Sequence[str], wanted: Sequence[str] | None) -> np.ndarray:
    """Positions of features named, or in a family named; of all where None.

    Raises:
        UnknownNameError: for a name that is neither.

    Examples:
        >>> feature_positions(("isi.mean", "isi.cv", "bursts.rate"), ["bursts", "isi.cv"]).tolist()
        [1, 2]
    """
    families = [name.split(".")[0] for name in names]
    for name in wanted or ():
        if name not in names and name not in families:
            raise UnknownNameError("feature or family", name, {*names, *families})
    every, chosen = wanted is None, set(wanted or ())
    return np.array([k for k, (n, f) in enumerate(zip(names, families, strict=True)) if every or {n, f} & chosen], int)


def _named(kind: str, names: Sequence[str], wanted: Sequence[str] | None) -> np.ndarray:
    for name in wanted or ():
        if name not in names:
            raise UnknownNameError(kind, name, names)
    return np.array([k for k, name in enumerate(names) if wanted is None or name in wanted], int)


def no_rows(manifest: Manifest) -> Rows:
    none, text = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.str_)
    theta, values = np.zeros((0, len(manifest.prior))), np.zeros((0, len(manifest.feature_names)))
    return Rows(none, none, theta, values, values.astype(np.uint8), text, text, np.zeros(0), text,
                np.zeros(0))  # fmt: skip
