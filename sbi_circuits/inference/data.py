"""What a posterior is trained on: the usable rows of a table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sbi_circuits.errors import InferenceError
from sbi_circuits.features import DEFINED
from sbi_circuits.features.packed import PackedStates, row_chunks
from sbi_circuits.prior import Prior
from sbi_circuits.table import BaseTable
from sbi_circuits.table_digest import load_usable
from sbi_circuits.table_rows import feature_positions

MIN_ROWS = 50


@dataclass(frozen=True, eq=False)
class TrainingData:
    """Configurations and the features of their simulations.

    Args:
        theta: (n, P) configurations, declared units of `prior`.
        values: (n, F) features, each in its own unit; what stands where a state is not DEFINED is ignored. Single
            precision stays single.
        states: (n, F) uint8: DEFINED, UNDEFINED or UNOBSERVED, or `PackedStates`, as which they are kept.
        prior: the prior that theta was drawn from.
        feature_names: (F,) names.
        feature_units: (F,) units; "1" where empty.
        provenance: plain values kept with the posterior (circuit, digests, feature set, counts).
        weights: (n,) importance of each row: prior density over the density theta was drawn from; ones where None.

    Raises:
        InferenceError: too few rows, shapes that do not fit, or defined values that are not finite.
        PriorError: theta outside the prior.

    Examples:
        >>> from sbi_circuits.prior import Parameter
        >>> prior = Prior((Parameter("g", "nS", 0, 1),))
        >>> theta = prior.sample(100, seed=0)
        >>> TrainingData(theta, theta**2, np.zeros((100, 1), dtype=np.uint8), prior, ("rate",)).rows
        100
    """

    theta: np.ndarray
    values: np.ndarray
    states: np.ndarray | PackedStates
    prior: Prior
    feature_names: tuple[str, ...]
    feature_units: tuple[str, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    weights: np.ndarray | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "theta", np.asarray(self.theta, dtype=np.float64))
        object.__setattr__(self, "states", PackedStates.of(self.states))
        object.__setattr__(self, "feature_names", tuple(self.feature_names))
        units = tuple(self.feature_units) or ("1",) * len(self.feature_names)
        object.__setattr__(self, "feature_units", units)
        values = np.asarray(self.values)
        values = values if values.dtype == np.float32 else values.astype(np.float64, copy=False)
        object.__setattr__(self, "values", self._zeroed(values) if self._check(values) else values)
        weights = np.ones(self.rows) if self.weights is None else np.asarray(self.weights, dtype=np.float64)
        if weights.shape != (self.rows,) or not (np.isfinite(weights) & (weights >= 0)).all() or not weights.any():
            raise InferenceError("training needs one finite weight >= 0 per row, and some above 0")
        object.__setattr__(self, "weights", weights / weights.mean())

    @property
    def rows(self) -> int:
        return len(self.theta)

    def _check(self, values: np.ndarray) -> bool:
        """Whether there are values to ignore that are not 0."""
        expected = (self.rows, len(self.feature_names))
        if values.shape != expected or self.states.shape != expected:
            found = f"{values.shape} and {self.states.shape}"
            raise InferenceError(f"features have shapes {found}, expected {expected}")
        if self.rows < MIN_ROWS:
            raise InferenceError(f"training needs at least {MIN_ROWS} rows with outcome ok, got {self.rows}")
        self.prior.validate(self.theta)
        bad, ignored, first = np.zeros(expected[1], dtype=np.int64), False, np.zeros(expected[1])
        for part in row_chunks(*expected):
            defined, finite = self.states[part] == DEFINED, np.isfinite(values[part])
            wrong = defined & ~finite
            ignored |= bool((values[part][~defined] != 0).any())
            if wrong.any():
                first = np.where(bad == 0, np.take_along_axis(values[part], wrong.argmax(0)[None], 0)[0], first)
                bad += wrong.sum(0)
        if bad.any():
            column = int(np.flatnonzero(bad)[0])
            what = f"feature {self.feature_names[column]} is defined but {first[column]}"
            raise InferenceError(f"{what} in {bad[column]} rows")
        return ignored

    def _zeroed(self, values: np.ndarray) -> np.ndarray:
        found = np.empty_like(values)
        for part in row_chunks(*values.shape):
            found[part] = np.where(self.states[part] == DEFINED, values[part], 0.0)
        return found

    @classmethod
    def from_table(cls, table: BaseTable, features: Sequence[str] | None = None) -> "TrainingData":
        """The rows of a table whose outcome is ok, read part by part into single-precision matrices.

        Args:
            table: of simulations; rows that are added meanwhile are not seen.
            features: names of features or families ("bursts") to train on; all where None.

        Raises:
            InferenceError: too few usable rows, or defined values that are not finite.
            TableError: parts of another table; a table that is moved meanwhile.
            UnknownNameError: a name that is no feature.
        """
        found = load_usable(table, features)
        whole = table.feature_set
        chosen = feature_positions(whole.names, features)
        names, units = (tuple(given[k] for k in chosen) for given in (whole.names, whole.units))
        provenance = {
            "circuit": table.circuit_name,
            "circuit_digest": table.circuit_digest,
            "table_digest": found.digest,
            "feature_set": whole.to_dict(),
            "feature_set_digest": whole.digest,
            "outcomes": found.counts,
            "protocol": dict(table.manifest.protocol),
        }
        return cls(found.theta, found.values, found.states, table.prior, names, units, provenance, found.weight)
