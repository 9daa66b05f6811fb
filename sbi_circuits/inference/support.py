"""Is an observation one the simulations could have produced? A test with a stated rate of false alarms.

Three questions, each answered by split conformal prediction (Lei et al. 2018, JASA 113:1094): do single
features lie within the table's range, does the pattern of undefined features occur in it, and is the distance
to the nearest simulations usual? Only observed features take part.
"""

from dataclasses import dataclass, fields

import numpy as np

from sbi_circuits.features import DEFINED, UNDEFINED, UNOBSERVED
from sbi_circuits.features.packed import PackedStates
from sbi_circuits.inference.encode import FeatureEncoder, feature_columns
from sbi_circuits.seeds import generator

MAX_ROWS = 2000
_NEIGHBOURS = 5
_UNDEFINED_WEIGHT = 2.0  # distance between a defined and an undefined feature, robust standard deviations
_CENTRAL = (0.005, 0.995)
_STATES = {DEFINED: "defined", UNDEFINED: "undefined", UNOBSERVED: "unobserved"}


@dataclass(frozen=True)
class FeatureReason:
    """Why one feature puts an observation outside the simulations.

    Args:
        feature, unit: its name and unit.
        value: the observed value, NaN where undefined.
        low, high: the central 99 % of the table's defined values, in `unit`.
        state: "defined" or "undefined".
        frequency: share of the simulations in which the feature has that state.
    """

    feature: str
    unit: str
    value: float
    low: float
    high: float
    state: str
    frequency: float

    def __str__(self) -> str:
        unit = "" if self.unit == "1" else f" {self.unit}"
        if self.state == "undefined":
            return f"{self.feature} is undefined, as in {100 * self.frequency:.3g} % of the table"
        if self.frequency == 0:
            return f"{self.feature} = {self.value:.4g}{unit}, which no row of the table defines"
        within = f"99 % of the table lies within [{self.low:.4g}, {self.high:.4g}]{unit}"
        return f"{self.feature} = {self.value:.4g}{unit}, {within}"


@dataclass(frozen=True)
class ObservationCheck:
    """Whether an observation lies within the simulations.

    Args:
        inside: no test raised an alarm.
        score: mean distance to the nearest simulations, in whitened robust units.
        threshold: the largest score that is still inside.
        reasons: the features that are outside on their own.
        new_pattern: the combination of undefined features never occurs in the table, where that is unusual.
    """

    inside: bool
    score: float
    threshold: float
    reasons: tuple[FeatureReason, ...] = ()
    new_pattern: bool = False

    def summary(self) -> str:
        """One line for people."""
        if self.inside:
            figures = f"distance {self.score:.3g}, limit {self.threshold:.3g}"
            return f"observation is inside the simulations ({figures})"
        return f"observation is outside the simulations: {'; '.join(self._grounds())}"

    def _grounds(self) -> list[str]:
        grounds = [str(reason) for reason in self.reasons]
        if self.new_pattern:
            grounds.append("no simulation has this combination of undefined features")
        if self.score > self.threshold:
            figures = f"{self.score:.3g} from the nearest simulations, limit {self.threshold:.3g}"
            grounds.append(f"the combination of features is {figures}")
        return grounds


@dataclass(frozen=True, eq=False)
class Support:
    """What is kept of the training table for `check`.

    Args:
        scaled: (m, F) scaled features of at most 2,000 rows; half are neighbours, the rest calibrate.
        states: (m, F) their states.
        low, high: (F,) central 99 % of all defined values, feature units; NaN where there are none.
        frequencies: (3, F) share of DEFINED, UNDEFINED, UNOBSERVED in the whole table.
    """

    scaled: np.ndarray
    states: np.ndarray
    low: np.ndarray
    high: np.ndarray
    frequencies: np.ndarray

    @classmethod
    def fit(
        cls, values: np.ndarray, states: np.ndarray | PackedStates, encoder: FeatureEncoder, seed: int
    ) -> "Support":
        """Keep a random subsample of values, states (n, F), and the ranges of all rows."""
        chosen = generator(seed, "support").permutation(len(values))[:MAX_ROWS]
        packed, n = PackedStates.of(states), len(values)
        pairs = [(_range(x[s == DEFINED]), np.bincount(s, minlength=3) / n) for x, s in feature_columns(values, packed)]
        ranges, frequencies = [pair[0] for pair in pairs], np.array([pair[1] for pair in pairs]).T
        scaled = encoder.scaled(values[chosen], packed[chosen]).astype(np.float32)
        low, high = np.array(ranges).T
        return cls(scaled, packed[chosen], low, high, frequencies)

    def check(
        self,
        values: np.ndarray,
        states: np.ndarray,
        encoder: FeatureEncoder,
        names: tuple[str, ...],
        units: tuple[str, ...],
        level: float = 0.99,
    ) -> ObservationCheck:
        """Compare one observation (F,) with the table.

        Args:
            level: share of simulations that pass; each of the three tests gets a third of the rest.
        """
        observed = np.flatnonzero((states != UNOBSERVED) & (self.frequencies[UNOBSERVED] < 1.0))
        if not len(observed):
            return ObservationCheck(True, 0.0, np.inf)
        x = encoder.scaled(values[None], states[None])[:, observed]
        xs = states[None, observed]
        table, table_states = self.scaled[:, observed].astype(float), self.states[:, observed]
        alarm = (1.0 - level) / 3.0
        outside = _outside(table, table_states, x, xs, alarm)
        score, threshold = _distance(table, table_states, x, xs, alarm)
        reasons = tuple(self._reason(j, values, states, names, units) for j in observed[outside])
        unseen = _new_pattern(table_states, xs, alarm)
        inside = score <= threshold and not reasons and not unseen
        return ObservationCheck(bool(inside), score, threshold, reasons, unseen)

    def _reason(
        self, j: int, values: np.ndarray, states: np.ndarray, names: tuple[str, ...], units: tuple[str, ...]
    ) -> FeatureReason:
        state = int(states[j])
        value = float(values[j]) if state == DEFINED else float("nan")
        frequency = float(self.frequencies[state, j])
        low, high = float(self.low[j]), float(self.high[j])
        return FeatureReason(names[j], units[j], value, low, high, _STATES[state], frequency)

    def to_arrays(self) -> dict[str, np.ndarray]:
        return {f.name: np.asarray(getattr(self, f.name)) for f in fields(self)}


def _range(x: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(x, _CENTRAL) if len(x) else (np.nan, np.nan)
    return float(low), float(high)


def _halves(m: int) -> tuple[slice, slice]:
    return slice(0, m // 2), slice(m // 2, m)


def _limit(scores: np.ndarray, alarm: float) -> float:
    """The score that a share `alarm` of new simulations exceeds; the largest one of a small table."""
    rank = min(len(scores), int(np.ceil((len(scores) + 1) * (1.0 - alarm))))
    return float(np.sort(scores)[rank - 1])


def _outside(
    table: np.ndarray, states: np.ndarray, x: np.ndarray, xs: np.ndarray, alarm: float
) -> np.ndarray:
    """(f,) bool: features beyond the range of the table by more than it is usual for any feature to be."""
    fit, calibrate = _halves(len(table))
    ranges = np.array([_range(table[fit, j][states[fit, j] == DEFINED]) for j in range(table.shape[1])])
    limit = _limit(_excess(table[calibrate], states[calibrate], ranges).max(1), alarm)
    never = np.array([(states[:, j] != xs[0, j]).all() for j in range(table.shape[1])])
    # A state that never occurs in the kept rows is an alarm of its own only if no kept row is like it.
    return (_excess(x, xs, ranges)[0] > limit) | never


def _excess(x: np.ndarray, states: np.ndarray, ranges: np.ndarray) -> np.ndarray:
    """How far defined values (n, f) lie beyond their ranges, scaled units; 0 within, or without a range."""
    beyond = np.maximum(ranges[:, 0] - x, x - ranges[:, 1])
    return np.where((states == DEFINED) & ~np.isnan(beyond), np.maximum(beyond, 0.0), 0.0)


def _new_pattern(states: np.ndarray, xs: np.ndarray, alarm: float) -> bool:
    """Whether a pattern of undefined features is new although new patterns are rarer than `alarm`."""
    fit, calibrate = _halves(len(states))
    known = {row.tobytes() for row in states[fit] == UNDEFINED}
    if (xs[0] == UNDEFINED).tobytes() in known:
        return False
    new = [row.tobytes() not in known for row in states[calibrate] == UNDEFINED]
    return float(np.mean(new)) <= alarm


def _distance(
    table: np.ndarray, states: np.ndarray, x: np.ndarray, xs: np.ndarray, alarm: float
) -> tuple[float, float]:
    """Mean distance of x to its nearest rows, and the limit, after whitening with a shrunken covariance."""
    fit, calibrate = _halves(len(table))
    points, own = _points(table, states), _points(x, xs)
    centre = points[fit].mean(0)
    whiten = _whitening(points[fit] - centre)
    neighbours = (points[fit] - centre) @ whiten
    usual = _nearest((points[calibrate] - centre) @ whiten, neighbours)
    return float(_nearest((own - centre) @ whiten, neighbours)[0]), _limit(usual, alarm)


def _points(x: np.ndarray, states: np.ndarray) -> np.ndarray:
    return np.concatenate([x, _UNDEFINED_WEIGHT * (states == UNDEFINED)], axis=1)


def _whitening(centred: np.ndarray) -> np.ndarray:
    """(d, d) whitening of rows (n, d); small eigenvalues are lifted the more, the fewer rows there are."""
    n, d = centred.shape
    values, vectors = np.linalg.eigh(centred.T @ centred / n)
    floor = max(0.01, d / (n + d)) * max(values.mean(), 1e-12)
    return vectors / np.sqrt(np.maximum(values, 0.0) + floor)


def _nearest(points: np.ndarray, neighbours: np.ndarray) -> np.ndarray:
    """(n,) mean distance of each point to its nearest neighbours."""
    squares = (points**2).sum(1)[:, None] + (neighbours**2).sum(1) - 2.0 * points @ neighbours.T
    k = min(_NEIGHBOURS, len(neighbours))
    return np.sqrt(np.maximum(np.partition(squares, k - 1, axis=1)[:, :k], 0.0)).mean(1)
