"""Simulations that a posterior has not seen, which is what it can be judged by."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from sbi_circuits.errors import InferenceError, UnknownNameError
from sbi_circuits.features import UNDEFINED, UNOBSERVED
from sbi_circuits.inference.data import TrainingData
from sbi_circuits.inference.encode import FeatureEncoder
from sbi_circuits.inference.train import _split
from sbi_circuits.prior import Prior
from sbi_circuits.seeds import generator

DRAWN_FROM = ("prior", "all")
_APART = 2.0  # distance between a defined and an undefined feature, robust standard deviations


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Configurations drawn from the prior and the features of their simulations.

    Args:
        theta: (n, P) configurations, declared units of `prior`.
        values, states: (n, F) features of their simulations.
        prior: that theta was drawn from.
        feature_names: (F,) names.

    Raises:
        InferenceError: rows that do not match.
    """

    theta: np.ndarray
    values: np.ndarray
    states: np.ndarray
    prior: Prior
    feature_names: tuple[str, ...]

    def __post_init__(self) -> None:
        features = (len(self.theta), len(self.feature_names))
        if self.values.shape != features or self.states.shape != features or self.theta.shape[1:] != (len(self.prior),):
            shapes = f"theta {self.theta.shape}, values {self.values.shape} and states {self.states.shape}"
            raise InferenceError(f"held-out rows do not match: {shapes}, {features[1]} features")

    @classmethod
    def from_table(cls, table: Any, rows: int | None = None, seed: int = 0, drawn_from: str = "prior") -> "HeldOut":
        """The rows of a table whose outcome is ok.

        Args:
            table: of simulations that were not trained on.
            rows: most rows to take, at random; all where None.
            seed: of that choice.
            drawn_from: "prior", only rows drawn from the prior, which calibration is about; or "all", which judges a
                posterior that took its proposals for the prior.

        Raises:
            InferenceError: no such row; `UnknownNameError`: another `drawn_from`.
        """
        if drawn_from not in DRAWN_FROM:
            raise UnknownNameError("origin of rows", drawn_from, DRAWN_FROM)
        found = table.read(("theta", "values", "states", "outcome", "proposal"))
        usable = (found.outcome == "ok") & ((found.proposal == "prior") | (drawn_from == "all"))
        if not usable.any():
            raise InferenceError(f"none of {len(found)} simulations ended ok and was drawn from the prior")
        chosen = generator(seed, "held out").permutation(np.flatnonzero(usable))[:rows]
        part = found.take(np.sort(chosen))
        return cls(part.theta, part.values, part.states, table.prior, tuple(table.feature_set.names))

    def __len__(self) -> int:
        return len(self.theta)

    def take(self, which: np.ndarray | slice) -> "HeldOut":
        """The rows at some positions, or where a mask is true."""
        return replace(self, theta=self.theta[which], values=self.values[which], states=self.states[which])

    def split(self, share: float = 0.5, seed: int = 0) -> tuple["HeldOut", "HeldOut"]:
        """Two parts at random; the first has that share of the rows."""
        order = generator(seed, "split").permutation(len(self))
        cut = round(share * len(self))
        return self.take(np.sort(order[:cut])), self.take(np.sort(order[cut:]))

    def only(self, observed: Iterable[str]) -> "HeldOut":
        """The same rows with all other features unobserved.

        Args:
            observed: names of features, or of families ("bursts").

        Raises:
            UnknownNameError: for a name that is neither.
        """
        kept = feature_mask(self.feature_names, observed)
        states = np.where(kept, self.states, UNOBSERVED).astype(np.uint8)
        return replace(self, values=np.where(kept, self.values, 0.0), states=states)

    @cached_property
    def encoder(self) -> FeatureEncoder:
        """Feature scales of these rows."""
        return FeatureEncoder.fit(self.values, self.states, dropping=True)

    def points(self, values: np.ndarray, states: np.ndarray) -> np.ndarray:
        """Features (n, F) as points (n, 2 F) in these rows' scales, what is undefined set apart."""
        return np.hstack([self.encoder.scaled(values, states), _APART * (np.asarray(states) == UNDEFINED)])


def feature_mask(names: tuple[str, ...], observed: Iterable[str]) -> np.ndarray:
    """(F,) bool: features named, or in a family named.

    Examples:
        >>> feature_mask(("isi.cv", "bursts.rate"), ["bursts"]).tolist()
        [False, True]
    """
    families = [name.split(".")[0] for name in names]
    wanted = list(observed)
    for name in wanted:
        if name not in names and name not in families:
            raise UnknownNameError("feature or family", name, {*names, *families})
    return np.array([n in wanted or f in wanted for n, f in zip(names, families, strict=True)])


def require_unseen(posterior: Any, table: Any) -> None:
    """Refuse the table a posterior was trained on, and tables of something else.

    Raises:
        InferenceError: naming what is wrong.
    """
    trained = posterior.provenance
    if trained.get("circuit_digest", table.circuit_digest) != table.circuit_digest:
        raise InferenceError(f"the table is of another circuit ({table.circuit_name}) than the posterior's "
                             f"({trained.get('circuit', 'unknown')})")  # fmt: skip
    if trained.get("feature_set_digest", table.feature_set.digest) != table.feature_set.digest:
        raise InferenceError("the table was measured with another feature set than the posterior's")
    if posterior.prior.digest != table.prior.digest:
        raise InferenceError("the table has another prior than the posterior")
    if trained.get("table_digest") == table.digest:
        raise InferenceError("the posterior was trained on this table, which cannot judge it; simulate another one "
                             "with another seed (sbi-circuits simulate ... --seed 1)")  # fmt: skip


def validation_rows(posterior: Any, table: Any, rows: int | None = None) -> HeldOut:
    """The rows of its own training table that a posterior was not fitted to; they only chose when training stopped.

    Args:
        posterior: from `train`.
        table: it was trained on.
        rows: most rows to take; all where None.

    Raises:
        InferenceError: another table than the posterior's, or no such row that was drawn from the prior.
    """
    trained = posterior.provenance
    if trained.get("table_digest") != table.digest:
        raise InferenceError("the posterior was trained on another table; any row of this one can judge it")
    data = TrainingData.from_table(table)
    _, chosen = _split(data.theta, trained["config"]["validation"], trained["seed"])
    found = table.read(("outcome", "proposal"))
    drawn = (found.proposal == "prior")[found.outcome == "ok"]
    if trained["config"]["importance"] != "none":
        chosen = chosen[drawn[chosen]]
    if not len(chosen):
        raise InferenceError("none of the rows kept from training was drawn from the prior")
    chosen = chosen[:rows]
    return HeldOut(data.theta[chosen], data.values[chosen], data.states[chosen], data.prior, data.feature_names)
