"""Features as network inputs: scales, masks and the features that training drops at random.

A value enters as [defined * scaled value, undefined, unobserved]; a column "defined" would be redundant.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from scipy.special import ndtr, ndtri
from torch import Tensor

from sbi_circuits.errors import InferenceError
from sbi_circuits.features import DEFINED, UNDEFINED, UNOBSERVED
from sbi_circuits.features.packed import PackedStates

_IQR_TO_SD = 1.349
_TAIL = 3.0  # robust standard deviations; beyond them values grow as arcsinh
_SKEWED = 2.0
_BLOCK = 2**22  # entries of the columns that are looked at together
_ENOUGH = 2**17  # rows that tell a scale well enough
_WHOLE_FAMILIES = 0.75  # of the rows that lose features
SCALINGS = ("robust", "rank")
_SCORES = np.linspace(-3.0, 3.0, 61)  # quantiles of a standard normal at which ranks are known


@dataclass(frozen=True, eq=False)
class FeatureEncoder:
    """Scales and columns found on the training rows; plain arrays, so that they are stored as such.

    Args:
        log: (F,) bool: the feature goes through a signed logarithm first.
        unit: (F,) the magnitude at which that logarithm turns from linear to logarithmic, feature units.
        centre, scale: (F,) median and robust standard deviation after the logarithm.
        columns: (C,) which of the 3 F columns [values, undefined, unobserved] the network sees.
        droppable: (F,) bool: the network was trained to do without this feature.
        can_undefine: (F,) bool: the network has seen this feature both defined and undefined.
        ranks: (F, 122) of rank scaling: 61 scaled values, then the normal quantile that each becomes, straight lines
            between them; None where the scaled values stay as they are.
    """

    log: np.ndarray
    unit: np.ndarray
    centre: np.ndarray
    scale: np.ndarray
    columns: np.ndarray
    droppable: np.ndarray
    can_undefine: np.ndarray
    ranks: np.ndarray | None = None

    @classmethod
    def fit(
        cls, values: np.ndarray, states: np.ndarray | PackedStates, dropping: bool, rows: np.ndarray | None = None,
        scaling: str = "robust",
    ) -> "FeatureEncoder":  # fmt: skip
        """Find scales on the DEFINED entries of values (n, F), and the columns that vary.

        Args:
            rows: which of the rows to look at; all where None.
            scaling: "robust": by median and interquartile range, logarithms of what is skewed; "rank": each feature
                becomes normal over the rows (van der Waerden's scores).

        Raises:
            InferenceError: if no feature varies.
        """
        columns = [_column(x, s) for x, s in feature_columns(values, PackedStates.of(states), rows)]
        log, unit, centre, scale, varies, *shares = map(np.array, zip(*columns, strict=True))
        defined, undefined, unobserved = (share > 0 for share in shares)
        can_undefine = undefined & defined
        informative = varies | can_undefine
        if not informative.any():
            raise InferenceError("no feature varies over the table; there is nothing to learn from")
        droppable = informative & (defined | undefined) & (dropping | unobserved)
        kept = np.flatnonzero(np.concatenate([varies, can_undefine, droppable]))
        found = cls(log.astype(bool), unit, centre, scale, kept, droppable, can_undefine)
        if scaling == "robust":
            return found
        pairs = enumerate(feature_columns(values, PackedStates.of(states), rows))
        ranks = [_ranks(found._unbent(x[s == DEFINED], f)) for f, (x, s) in pairs]
        return replace(found, ranks=np.array(ranks))

    @property
    def inputs(self) -> int:
        """Width of the network's input."""
        return len(self.columns)

    @property
    def missing(self) -> tuple[int, ...]:
        """(D,) for each input that is a value or "undefined", the input that says it is unobserved, or -1."""
        n, place = len(self.log), {int(column): i for i, column in enumerate(self.columns)}
        return tuple(place.get(2 * n + int(c) % n, -1) for c in self.columns if c < 2 * n)

    @property
    def ignored(self) -> np.ndarray:
        """(F,) bool: features of which the network sees nothing, as they never varied."""
        n = len(self.log)
        return ~np.isin(np.arange(n), self.columns % n)

    def scaled(self, values: np.ndarray, states: np.ndarray) -> np.ndarray:
        """Scaled values (*, F), zero where not defined; the tails grow as arcsinh beyond 3."""
        x = self._unbent(np.where(states == DEFINED, values, 0.0))
        if self.ranks is not None:
            x = np.stack([_scores(x[..., f], row) for f, row in enumerate(self.ranks)], axis=-1)
        tail = np.sign(x) * (_TAIL + np.arcsinh(np.maximum(np.abs(x) - _TAIL, 0.0)))
        return np.where(states == DEFINED, np.where(np.abs(x) > _TAIL, tail, x), 0.0)

    def _unbent(self, x: np.ndarray, feature: int | slice = slice(None)) -> np.ndarray:
        """x (*, F), or (*,) of one feature, after logarithm, centre and scale."""
        log, unit, centre, scale = (a[feature] for a in (self.log, self.unit, self.centre, self.scale))
        found: np.ndarray = (np.where(log, _signed_log(x, unit), x) - centre) / scale
        return found

    def tensors(self, values: np.ndarray, states: np.ndarray, dtype: torch.dtype) -> "EncodedFeatures":
        """Encoded rows; a state the network has never seen for a feature counts as unobserved."""
        states = self.known(states)
        return EncodedFeatures(
            torch.as_tensor(self.scaled(values, states)).to(dtype),
            torch.as_tensor(states == UNDEFINED).to(dtype),
            torch.as_tensor(states == UNOBSERVED).to(dtype),
            torch.as_tensor(self.columns),
        )

    def known(self, states: np.ndarray) -> np.ndarray:
        """States (*, F), unobserved where the network has never seen them."""
        unseen = (states == UNDEFINED) & ~self.can_undefine
        return np.where(unseen & self.droppable, UNOBSERVED, states)

    def to_arrays(self) -> dict[str, np.ndarray]:
        known = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: np.asarray(value) for name, value in known.items() if value is not None}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> "FeatureEncoder":
        """What `to_arrays` gave, with whatever else is in the mapping left out."""
        return cls(**{f.name: arrays[f.name] for f in fields(cls) if f.name in arrays})


@dataclass(frozen=True, eq=False)
class EncodedFeatures:
    """Rows of encoded features on a device: scaled values and indicators, each (n, F)."""

    values: Tensor
    undefined: Tensor
    unobserved: Tensor
    columns: Tensor

    def to(self, device: torch.device) -> "EncodedFeatures":
        return EncodedFeatures(*(getattr(self, f.name).to(device) for f in fields(self)))

    def __getitem__(self, rows: Tensor | slice) -> "EncodedFeatures":
        return EncodedFeatures(self.values[rows], self.undefined[rows], self.unobserved[rows], self.columns)

    def without(self, dropped: Tensor) -> "EncodedFeatures":
        """The same rows where the entries in `dropped` (*, F) bool are unobserved."""
        kept = (~dropped).to(self.values.dtype)
        unobserved = torch.maximum(self.unobserved, 1.0 - kept)
        return EncodedFeatures(self.values * kept, self.undefined * kept, unobserved, self.columns)

    def inputs(self, dropped: Tensor | None = None) -> Tensor:
        """Network inputs (*, C); `dropped` (*, F) bool makes entries unobserved."""
        rows = self if dropped is None else self.without(dropped)
        return torch.cat([rows.values, rows.undefined, rows.unobserved], dim=-1)[..., self.columns]


def feature_groups(names: tuple[str, ...]) -> np.ndarray:
    """(F,) index of the family of each feature: what stands before the first dot.

    Examples:
        >>> feature_groups(("isi.mean", "bursts.rate", "isi.cv")).tolist()
        [1, 0, 1]
    """
    return np.unique([name.split(".")[0] for name in names], return_inverse=True)[1]


def random_drops(rows: int, groups: Tensor, share: float, random: torch.Generator) -> Tensor:
    """Which entries (rows, F) become unobserved: `share` of the rows lose whole families, or single features.

    Of the rows that lose something, three in four keep whole families, at least one of them: these are the subsets
    that are asked for. The rest, or all where there is one family, keep single features, or none. Every number kept
    is as frequent, so that "only this one" and "all but this one" are trained as much as what lies between.
    """
    device, families = groups.device, int(groups.max()) + 1
    loses, by_family = torch.rand(2, rows, 1, generator=random, device=device)
    lost_families = _lost(rows, families, 1, random, device)[:, groups]
    lost_features = _lost(rows, len(groups), 0, random, device)
    whole = (by_family < _WHOLE_FAMILIES) & (families > 1)
    return (loses < share) & torch.where(whole, lost_families, lost_features)


def _lost(rows: int, things: int, least: int, random: torch.Generator, device: torch.device) -> Tensor:
    """(rows, things) bool: all but `least` to `things` - 1 of them, each number as often."""
    order = torch.rand(rows, things, generator=random, device=device).argsort(1).argsort(1)
    kept = least + (torch.rand(rows, 1, generator=random, device=device) * max(things - least, 1)).floor()
    return order >= kept


def feature_columns(
    values: np.ndarray, states: PackedStates, rows: np.ndarray | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Each feature's values (n,) and states (n,); some are copied together, as rows lie one after another."""
    chosen = slice(None) if rows is None else rows
    width = max(1, _BLOCK // max(len(values), 1))
    for start in range(0, values.shape[1], width):
        stop = min(start + width, values.shape[1])
        found = np.ascontiguousarray(values[:, start:stop][chosen].T, dtype=np.float64)
        yield from zip(found, np.ascontiguousarray(states.columns(start, stop, chosen).T), strict=True)


def _column(x: np.ndarray, states: np.ndarray) -> tuple[bool, float, float, float, bool, int, int, int]:
    counts = np.bincount(states, minlength=3)[[DEFINED, UNDEFINED, UNOBSERVED]]
    return *_scale(x[states == DEFINED]), *counts.tolist()


def _signed_log(x: np.ndarray, unit: np.ndarray | float) -> np.ndarray:
    return np.sign(x) * np.log1p(np.abs(x) / unit)


def _ranks(x: np.ndarray) -> np.ndarray:
    """(122,) values at 61 quantiles, and the score of each: of the middle of the ranks that equal values share."""
    if not len(x):
        return np.concatenate([_SCORES, _SCORES])
    x, least = np.sort(x), 0.5 / len(x)
    knots = np.unique(np.quantile(x, np.clip(ndtr(_SCORES), least, 1.0 - least)))
    below, upto = (np.searchsorted(x, knots, side) / len(x) for side in ("left", "right"))
    scores = ndtri(np.clip(0.5 * (below + upto), least, 1.0 - least))
    more = len(_SCORES) - len(knots)
    return np.concatenate([np.pad(a, (0, more), mode="edge") for a in (knots, scores)])


def _scores(x: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """Scores (*,) of x (*,); beyond the outermost values they go on with slope one."""
    knots, scores = np.split(ranks, 2)
    return np.interp(x, knots, scores) + np.minimum(x - knots[0], 0.0) + np.maximum(x - knots[-1], 0.0)


def _skewness(x: np.ndarray) -> float:
    spread = x.std()
    return 0.0 if spread == 0 else float(np.mean(((x - x.mean()) / spread) ** 3))


def _constant(x: np.ndarray) -> bool:
    return bool(np.ptp(x) <= 1e-12 * np.abs(x).max())


def _scale(x: np.ndarray) -> tuple[bool, float, float, float, bool]:
    """(log, unit, centre, scale, varies) of one feature's defined entries."""
    if len(x) < 2 or _constant(x):
        return False, 1.0, float(x.mean()) if len(x) else 0.0, 1.0, False
    some = x[:: -(-len(x) // _ENOUGH)]
    x = x if _constant(some) else some
    magnitudes = np.abs(x)[x != 0]
    unit = float(np.median(magnitudes))
    logged = _signed_log(x, unit)
    log = abs(_skewness(x)) > max(_SKEWED, 1.5 * abs(_skewness(logged)))
    y = logged if log else x
    q1, centre, q3 = np.quantile(y, [0.25, 0.5, 0.75])
    return log, unit, float(centre), float((q3 - q1) / _IQR_TO_SD or y.std()), True
