"""What a posterior is trained on: the usable rows of a table."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sbi_circuits.errors import InferenceError
from sbi_circuits.features import DEFINED
from sbi_circuits.prior import Prior

MIN_ROWS = 50


@dataclass(frozen=True, eq=False)
class TrainingData:
    """Configurations and the features of their simulations.

    Args:
        theta: (n, P) configurations, declared units of `prior`.
        values: (n, F) features, each in its own unit; what stands where a state is not DEFINED is ignored.
        states: (n, F) uint8: DEFINED, UNDEFINED or UNOBSERVED.
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
    states: np.ndarray
    prior: Prior
    feature_names: tuple[str, ...]
    feature_units: tuple[str, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    weights: np.ndarray | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "theta", np.asarray(self.theta, dtype=np.float64))
        object.__setattr__(self, "states", np.asarray(self.states, dtype=np.uint8))
        object.__setattr__(self, "feature_names", tuple(self.feature_names))
        units = tuple(self.feature_units) or ("1",) * len(self.feature_names)
        object.__setattr__(self, "feature_units", units)
        values = np.asarray(self.values, dtype=np.float64)
        self._check(values)
        object.__setattr__(self, "values", np.where(self.states == DEFINED, values, 0.0))
        weights = np.ones(self.rows) if self.weights is None else np.asarray(self.weights, dtype=np.float64)
        if weights.shape != (self.rows,) or not (np.isfinite(weights) & (weights >= 0)).all() or not weights.any():
            raise InferenceError("training needs one finite weight >= 0 per row, and some above 0")
        object.__setattr__(self, "weights", weights / weights.mean())

    @property
    def rows(self) -> int:
        return len(self.theta)

    def _check(self, values: np.ndarray) -> None:
        expected = (self.rows, len(self.feature_names))
        if values.shape != expected or self.states.shape != expected:
            found = f"{values.shape} and {self.states.shape}"
            raise InferenceError(f"features have shapes {found}, expected {expected}")
        if self.rows < MIN_ROWS:
            raise InferenceError(f"training needs at least {MIN_ROWS} rows with outcome ok, got {self.rows}")
        self.prior.validate(self.theta)
        bad = (self.states == DEFINED) & ~np.isfinite(values)
        if bad.any():
            row, column = np.argwhere(bad)[0]
            name, count = self.feature_names[column], bad[:, column].sum()
            raise InferenceError(f"feature {name} is defined but {values[row, column]} in {count} rows")

    @classmethod
    def from_table(cls, table: Any) -> "TrainingData":
        """The rows of a table whose outcome is ok.

        Args:
            table: has `prior`, `feature_set`, `circuit_name`, `circuit_digest`, `digest` and `read()`.
        """
        rows = table.read()
        outcome = np.asarray(rows.outcome).astype(str)
        ok = outcome == "ok"
        names, counts = np.unique(outcome, return_counts=True)
        provenance = {
            "circuit": table.circuit_name,
            "circuit_digest": table.circuit_digest,
            "table_digest": table.digest,
            "feature_set": table.feature_set.to_dict(),
            "feature_set_digest": table.feature_set.digest,
            "outcomes": dict(zip(names.tolist(), counts.tolist(), strict=True)),
            "protocol": dict(getattr(getattr(table, "manifest", None), "protocol", {})),
        }
        features = table.feature_set
        values, states = np.asarray(rows.values)[ok], np.asarray(rows.states)[ok]
        theta = np.asarray(rows.theta)[ok]
        weights = np.asarray(getattr(rows, "weight", np.ones(len(ok))), dtype=np.float64)[ok]
        return cls(theta, values, states, table.prior, features.names, tuple(features.units), provenance, weights)
