"""What was observed, in any of the forms it comes in, as one row of values and states."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sbi_circuits.errors import InferenceError, UnknownNameError
from sbi_circuits.features import DEFINED, UNDEFINED, UNOBSERVED


@dataclass(frozen=True, eq=False)
class Observation:
    """One row of features: values (F,), 0 where not defined, and states (F,) uint8."""

    values: np.ndarray
    states: np.ndarray


def observation(x: Any, names: tuple[str, ...], feature_set_digest: str = "") -> Observation:
    """Read an observation.

    Args:
        x: an object with `values` and `states`; a mapping name -> value, where None is undefined and what is
            not named is unobserved; a pair (values, states); or an array (F,), all defined.
        names: the posterior's features, in order.
        feature_set_digest: of the training table's feature set; compared with that of x where both are known.

    Raises:
        UnknownNameError: a name that is not one of `names`.
        InferenceError: wrong width or feature set, unknown states, defined values that are not finite.

    Examples:
        >>> observation({"rate": 2.0, "cv": None}, ("rate", "cv", "ibi")).states.tolist()
        [0, 1, 2]
    """
    if isinstance(x, Mapping):
        return _checked(*_from_mapping(x, names), names)
    if hasattr(x, "values") and hasattr(x, "states"):
        _same_features(x, names, feature_set_digest)
        return _checked(x.values, x.states, names)
    if isinstance(x, tuple) and len(x) == 2:
        return _checked(*x, names)
    values = np.asarray(x, dtype=float)
    return _checked(values, np.full(values.shape, DEFINED), names)


def _from_mapping(x: Mapping[str, float | None], names: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    values, states = np.zeros(len(names)), np.full(len(names), UNOBSERVED)
    for name, value in x.items():
        if name not in names:
            raise UnknownNameError("feature", name, names)
        states[names.index(name)] = UNDEFINED if value is None else DEFINED
        values[names.index(name)] = 0.0 if value is None else float(value)
    return values, states


def _same_features(x: Any, names: tuple[str, ...], digest: str) -> None:
    features = getattr(x, "feature_set", None)
    own_names = tuple(getattr(features, "names", getattr(x, "names", names)))
    if own_names != names:
        odd = sorted(set(own_names) ^ set(names))
        what = ", ".join(odd) or "another order"
        raise InferenceError(f"the observation has other features than the posterior: {what}")
    own_digest = getattr(features, "digest", "")
    if digest and own_digest and own_digest != digest:
        raise InferenceError("the observation's features were computed with other settings than the table's")


def _checked(values: Any, states: Any, names: tuple[str, ...]) -> Observation:
    values, states = np.asarray(values, dtype=float), np.asarray(states)
    if values.shape != (len(names),) or states.shape != (len(names),):
        expected = f"({len(names)},): {', '.join(names)}"
        raise InferenceError(f"an observation has shape {values.shape}, expected {expected}")
    if not np.isin(states, (DEFINED, UNDEFINED, UNOBSERVED)).all():
        raise InferenceError(f"feature states must be {DEFINED}, {UNDEFINED} or {UNOBSERVED}")
    bad = np.flatnonzero((states == DEFINED) & ~np.isfinite(values))
    if len(bad):
        found = f"feature {names[bad[0]]} is {values[bad[0]]}"
        raise InferenceError(f"{found}; leave it out, or say it is undefined (None)")
    return Observation(np.where(states == DEFINED, values, 0.0), states.astype(np.uint8))
