"""Is the observation in reach of the circuit? A p-value that is calibrated on simulations kept aside.

Three scores of how odd a row of features is among the simulations: the Mahalanobis distance, the distance to the
nearest simulations, and the negative log density of a kernel estimate. Each is turned into a rank among rows kept
aside, the smallest rank counts, and is ranked itself: under exchangeability of the observation and those rows the
p-value is exact, whatever the scores (full conformal prediction: Vovk, Gammerman, Shafer 2005, Algorithmic Learning
in a Random World). `posterior.check` answers quickly from what a posterior keeps; this answers with a p-value.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy.special import logsumexp

from sbi_circuits.calibration.held_out import HeldOut
from sbi_circuits.errors import InferenceError
from sbi_circuits.features import UNOBSERVED

_NEIGHBOURS = 5
_MOST = 2000  # rows of each half
_BANDWIDTHS = np.geomspace(0.2, 2.0, 7)
_MIN_ROWS = 40
_SCORES = ("Mahalanobis distance", "distance to the nearest simulations", "density")


@dataclass(frozen=True)
class Reach:
    """Whether the simulations could have produced an observation.

    Args:
        p_value: share of simulations that are at least as odd.
        scores: p-value by each score alone.
        oddest: (feature, standard deviations) that differ most from what the other features lead to expect.
        rows: simulations that calibrated it.
    """

    p_value: float
    scores: dict[str, float]
    oddest: tuple[tuple[str, float], ...]
    rows: int

    def inside(self, alarm: float = 0.01) -> bool:
        """Whether the observation passes at that rate of false alarms."""
        return self.p_value > alarm

    def summary(self) -> str:
        """One line for people."""
        found = f"p {self.p_value:.2g} among {self.rows} simulations"
        if self.inside():
            return f"observation is in reach of the circuit ({found})"
        odd = ", ".join(f"{name} by {away:+.1f} sd" for name, away in self.oddest)
        return f"observation is out of reach of the circuit ({found}); oddest given the others: {odd}"


@dataclass(frozen=True, eq=False)
class ReachTest:
    """Asks whether observations are in reach of a circuit; made by `ReachTest.fit`.

    Args:
        known: simulations that say what is usual.
        aside: simulations that calibrate the scores.

    Examples:
        >>> from sbi_circuits.prior import Parameter, Prior
        >>> from sbi_circuits.seeds import generator
        >>> prior, x = Prior((Parameter("g", "1", 0, 1),)), generator(0, "x").standard_normal((400, 2))
        >>> held = HeldOut(prior.sample(400, 0), x, np.zeros((400, 2), dtype=np.uint8), prior, ("a", "b"))
        >>> test = ReachTest.fit(held)
        >>> [test.check((np.array(v), np.zeros(2))).inside() for v in ([0.5, -1.0], [9.0, 0.0])]
        [True, False]
    """

    known: HeldOut
    aside: HeldOut

    @classmethod
    def fit(cls, held: HeldOut, seed: int = 0) -> "ReachTest":
        """Split simulations at random into those that say what is usual and those that calibrate.

        Raises:
            InferenceError: fewer than 40 rows.
        """
        if len(held) < _MIN_ROWS:
            raise InferenceError(f"the test of an observation needs at least {_MIN_ROWS} simulations, got {len(held)}")
        known, aside = held.split(0.5, seed)
        return cls(known.take(slice(_MOST)), aside.take(slice(_MOST)))

    def check(self, x: Any) -> Reach:
        """Compare an observation, a pair (values, states) or an object with both; unobserved features do not count."""
        values, states = x if isinstance(x, tuple) else (x.values, x.states)
        values, states = np.asarray(values, dtype=float), np.asarray(states)
        if states.shape != self.known.states.shape[1:]:
            raise InferenceError(f"an observation has {states.size} features, the simulations "
                                 f"{self.known.states.shape[1]}")  # fmt: skip
        seen = np.flatnonzero(states != UNOBSERVED)
        if not len(seen):
            return Reach(1.0, dict.fromkeys(_SCORES, 1.0), (), len(self.aside))
        scorer = self._all if len(seen) == len(states) else _Scorer.of(self.known, self.aside, seen)
        return scorer.check(values, states)

    @cached_property
    def _all(self) -> "_Scorer":
        return _Scorer.of(self.known, self.aside, np.arange(len(self.known.feature_names)))


@dataclass(frozen=True, eq=False)
class _Scorer:
    """The scores for one set of observed features; `usual` (m, 3) are those of the rows kept aside."""

    known: HeldOut
    seen: np.ndarray
    centre: np.ndarray
    precision: np.ndarray
    whiten: np.ndarray
    points: np.ndarray
    bandwidth: float
    usual: np.ndarray

    @classmethod
    def of(cls, known: HeldOut, aside: HeldOut, seen: np.ndarray) -> "_Scorer":
        raw = _columns(known, known.values, known.states, seen)
        centre = raw.mean(0)
        covariance = _shrunk(raw - centre)
        values, vectors = np.linalg.eigh(covariance)
        whiten = vectors / np.sqrt(values)
        points = (raw - centre) @ whiten
        bandwidth = _bandwidth(points)
        blank = cls(known, seen, centre, vectors / values @ vectors.T, whiten, points, bandwidth, np.zeros((0, 3)))
        usual = blank.scores(_columns(known, aside.values, aside.states, seen))
        return cls(known, seen, centre, blank.precision, whiten, points, bandwidth, usual)

    def scores(self, raw: np.ndarray) -> np.ndarray:
        """(n, 3) scores, larger for odder rows."""
        white = (raw - self.centre) @ self.whiten
        squares = _squares(white, self.points)
        k = min(_NEIGHBOURS, len(self.points))
        nearest = np.sqrt(np.partition(squares, k - 1, axis=1)[:, :k]).mean(1)
        density = logsumexp(-0.5 * squares / self.bandwidth**2, axis=1)
        return np.stack([(white**2).sum(1), nearest, -density], axis=1)

    def check(self, values: np.ndarray, states: np.ndarray) -> Reach:
        raw = _columns(self.known, values[None], states[None], self.seen)
        every = np.vstack([self.scores(raw), self.usual])
        # The share of all rows, the observation among them, that is at least as odd by each score.
        ordered = np.sort(every, axis=0)
        ranks = np.stack([len(every) - np.searchsorted(o, e, "left") for o, e in zip(ordered.T, every.T, strict=True)])
        shares = ranks / len(every)
        smallest = shares.min(0)
        p = float((smallest <= smallest[0]).mean())
        return Reach(p, dict(zip(_SCORES, shares[:, 0].tolist(), strict=True)), self._oddest(raw[0]), len(self.usual))

    def _oddest(self, raw: np.ndarray, most: int = 3) -> tuple[tuple[str, float], ...]:
        """Features by their residual given all others, in its standard deviations."""
        away = self.precision @ (raw - self.centre) / np.sqrt(np.diag(self.precision))
        half = len(self.seen)
        # A feature has a value and an indicator of being undefined: the odder of the two speaks for it.
        both = np.stack([away[:half], away[half:]])
        sizes = both[np.abs(both).argmax(0), np.arange(half)]
        order = np.argsort(-np.abs(sizes), kind="stable")[:most]
        return tuple((self.known.feature_names[self.seen[k]], float(sizes[k])) for k in order)


def _columns(known: HeldOut, values: np.ndarray, states: np.ndarray, seen: np.ndarray) -> np.ndarray:
    points = known.points(values, states)
    return points[:, np.concatenate([seen, len(known.feature_names) + seen])]


def _shrunk(centred: np.ndarray) -> np.ndarray:
    """Covariance (d, d) of rows (n, d), its diagonal lifted the more, the fewer rows there are."""
    n, d = centred.shape
    covariance = centred.T @ centred / n
    floor = max(0.01, d / (n + d)) * max(float(np.trace(covariance)) / d, 1e-12)
    return covariance + floor * np.eye(d)


def _squares(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(n, m) squared distances."""
    return np.maximum((a**2).sum(1)[:, None] + (b**2).sum(1) - 2.0 * a @ b.T, 0.0)


def _bandwidth(points: np.ndarray) -> float:
    """Width of the kernels, by the likelihood of each point (of 500 at most) given the others."""
    some = points[:500]
    squares = _squares(some, some)
    np.fill_diagonal(squares, np.inf)
    typical = float(np.sqrt(np.median(squares.min(1)))) or 1.0
    widths = typical * _BANDWIDTHS
    scores = [float((logsumexp(-0.5 * squares / h**2, axis=1) - points.shape[1] * np.log(h)).mean()) for h in widths]
    return float(widths[int(np.argmax(scores))])


