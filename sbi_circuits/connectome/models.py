"""Sets of models that share a wiring: the values of the shared parameters, one row a model."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from sbi_circuits.connectome.wiring import Wiring
from sbi_circuits.errors import CircuitError, InferenceError, UnknownNameError
from sbi_circuits.prior import Parameter, Prior
from sbi_circuits.seeds import generator
from sbi_circuits.table import replace_file

SCHEMA = "1"
KINDS = ("strength", "rest", "tau")
_UNITS = {"strength": "1", "rest": "1", "tau": "second"}


@dataclass(frozen=True, eq=False)
class Models:
    """The shared parameters of M models of one wiring.

    Args:
        cell_types: (T,) names; groups: (G,) names of the shared strengths.
        strength: (M, G) >= 0, per synapse.
        rest: (M, T) resting potential, in the model's arbitrary unit.
        tau: (M, T) time constant, s.
        provenance: plain values: where they come from.

    Raises:
        CircuitError: shapes that do not fit, values that are not finite, negative strengths, tau that is not positive.
    """

    cell_types: tuple[str, ...]
    groups: tuple[str, ...]
    strength: np.ndarray
    rest: np.ndarray
    tau: np.ndarray
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in KINDS:
            object.__setattr__(self, name, np.atleast_2d(np.asarray(getattr(self, name), dtype=np.float32)))
        widths = {"strength": len(self.groups), "rest": len(self.cell_types), "tau": len(self.cell_types)}
        for name, width in widths.items():
            value = getattr(self, name)
            if value.shape != (self.n_models, width):
                raise CircuitError(f"{name} of the models has shape {value.shape}, expected {(self.n_models, width)}")
            if not np.isfinite(value).all():
                raise CircuitError(f"{name} of model {int(np.argmin(np.isfinite(value).all(1)))} is not finite")
        if (self.strength < 0).any() or (self.tau <= 0).any():
            raise CircuitError("strengths must be >= 0 and time constants > 0 s")

    @property
    def n_models(self) -> int:
        return len(self.strength)

    def take(self, which: Sequence[int] | slice | np.ndarray) -> "Models":
        """Some of the models, by position."""
        chosen = {name: getattr(self, name)[which] for name in KINDS}
        return replace(self, **chosen)

    def require(self, wiring: Wiring) -> None:
        """Raise `CircuitError` unless these are models of that wiring."""
        for name in ("cell_types", "groups"):
            own, other = getattr(self, name), getattr(wiring, name)
            if own != other:
                pairs = (pair for pair in zip(own, other, strict=False) if pair[0] != pair[1])
                here, there = next(pairs, (len(own), len(other)))
                raise CircuitError(f"these models are of another wiring: {name} differ ({here} and {there})")

    def silenced(self, *cell_types: str) -> "Models":
        """The models with every synapse from these types cut; raises `UnknownNameError`."""
        for name in cell_types:
            if name not in self.cell_types:
                raise UnknownNameError("cell type", name, self.cell_types)
        cut = np.array([group.partition("->")[0] in cell_types for group in self.groups])
        return replace(self, strength=np.where(cut, 0.0, self.strength))

    def values(self, names: Sequence[str]) -> np.ndarray:
        """(M, len(names)) of named parameters: "strength.A->B", "rest.A", "tau.A"; raises `UnknownNameError`."""
        return np.stack([getattr(self, kind)[:, k] for kind, k in map(self.place, names)], axis=1)

    def with_values(self, names: Sequence[str], values: np.ndarray) -> "Models":
        """The models with named parameters replaced: values (M, len(names))."""
        new = {kind: getattr(self, kind).copy() for kind in KINDS}
        for (kind, k), column in zip(map(self.place, names), np.asarray(values).T, strict=True):
            new[kind][:, k] = column
        return replace(self, **new)

    def place(self, name: str) -> tuple[str, int]:
        """Kind and column of a named parameter; raises `UnknownNameError`."""
        kind, _, what = name.partition(".")
        if kind not in KINDS:
            raise UnknownNameError("kind of shared parameter", kind, KINDS)
        valid = self.groups if kind == "strength" else self.cell_types
        if what not in valid:
            raise UnknownNameError(f"shared parameter {kind}", what, valid)
        return kind, valid.index(what)


def initial_models(wiring: Wiring, n: int, seed: int = 0) -> Models:
    """Random models to start training from, as published: rest ~ N(0.5, 0.05), tau 50 ms, strength 0.01 / mean count.

    Args:
        wiring: theirs; n: how many; seed: of the resting potentials.
    """
    groups = np.arange(len(wiring.groups))
    order = np.bincount(wiring.group, minlength=len(groups))
    mean = np.bincount(wiring.group, wiring.count, minlength=len(groups)) / np.maximum(order, 1)
    strength = np.where(mean > 0, 0.01 / np.maximum(mean, 1e-12), 0.0)
    types = len(wiring.cell_types)
    rest = np.stack([generator(seed, k, "rest").normal(0.5, 0.05, types) for k in range(n)])
    what = {"source": f"initial values, seed {seed}"}
    return Models(wiring.cell_types, wiring.groups, np.tile(strength, (n, 1)), rest, np.full((n, types), 0.05), what)


def shared_prior(models: Models, names: Sequence[str], factor: float = 4.0, rest: float = 0.5) -> Prior:
    """A prior over a handful of shared parameters, around what the models have.

    Args:
        models: their range widens to the bounds; strengths that died in training (below 1e-4 of the largest) do not.
        names: as for `Models.values`.
        factor: strengths and time constants: from the smallest over `factor` to the largest times `factor`,
            on a logarithmic scale; rest: resting potentials: that much beyond the range.
    """
    values = models.values(names)
    found = []
    for name, low, high in zip(names, values.min(0).tolist(), values.max(0).tolist(), strict=True):
        kind = name.partition(".")[0]
        scale, unit = ("linear" if kind == "rest" else "log"), _UNITS[kind]
        low = max(low, 1e-4 * max(high, 1e-3))
        ends = (low - rest, high + rest) if kind == "rest" else (low / factor, max(high, low) * factor)
        found.append(Parameter(identifier(name), unit, *ends, scale=scale, label=name))
    return Prior(tuple(found))


def identifier(name: str) -> str:
    """The name of a shared parameter as an identifier.

    Examples:
        >>> identifier("strength.CT1(Lo1)->T5a")
        'strength_CT1_Lo1__T5a'
    """
    text = name.replace("->", "__")
    return "".join(letter if letter.isalnum() or letter == "_" else "_" for letter in text).replace("___", "__")


def save_models(models: Models, path: str | Path) -> Path:
    """Write models to a safetensors file, whole or not at all; returns the path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    texts = {"cell_types": models.cell_types, "groups": models.groups, "provenance": dict(models.provenance)}
    header = {"schema": SCHEMA, **{name: json.dumps(value) for name, value in texts.items()}}
    replace_file(path, save({name: np.ascontiguousarray(getattr(models, name)) for name in KINDS}, metadata=header))
    return path


def load_models(path: str | Path) -> Models:
    """Read what `save_models` wrote.

    Raises:
        InferenceError: a file that is missing, damaged, or of another schema version.
    """
    path = Path(path)
    if not path.is_file():
        raise InferenceError(f"there is no file of models {path}")
    try:
        with safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in KINDS}
        if header.get("schema") != SCHEMA:
            raise InferenceError(f"{path} has not schema {SCHEMA} of models, the one this version reads")
        texts = {name: json.loads(header[name]) for name in ("cell_types", "groups", "provenance")}
    except (SafetensorError, KeyError, ValueError) as error:
        raise InferenceError(f"{path} holds no models: {str(error).splitlines()[0]}") from error
    return Models(tuple(texts["cell_types"]), tuple(texts["groups"]), **arrays, provenance=texts["provenance"])
