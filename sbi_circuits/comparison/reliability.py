"""Does what a classifier calls 70 % happen in 70 % of the cases? Reliability on rows it has not seen."""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from sbi_circuits.calibration.uniform import conformal_p
from sbi_circuits.seeds import generator

_BINS = 10
_REPEATS = 999


@dataclass(frozen=True, eq=False)
class Reliability:
    """How often each class was right, by the probability it was given.

    Args:
        predicted, found: (B,) mean probability and share of hits of each bin that is not empty.
        counts: (B,) (row, class) pairs in it.
        log_loss: nats a row; expected: what it would be if the probabilities were true.
        accuracy: share of rows whose most probable class is right.
        p_value: of the probabilities being true.
        rows: how many rows.
    """

    predicted: np.ndarray
    found: np.ndarray
    counts: np.ndarray
    log_loss: float
    expected: float
    accuracy: float
    p_value: float
    rows: int

    @property
    def error(self) -> float:
        """Expected calibration error: mean distance of probability and share of hits."""
        return float(np.average(np.abs(self.predicted - self.found), weights=self.counts))

    def summary(self) -> str:
        """One line for people."""
        verdict = "calibrated" if self.p_value > 0.05 else "NOT calibrated"
        return (f"classifier: {self.accuracy:.0%} right on {self.rows} held-out simulations, {verdict} "
                f"(p {self.p_value:.2g}, calibration error {self.error:.1%})")  # fmt: skip


def reliability(probabilities: np.ndarray, labels: np.ndarray, seed: int = 0) -> Reliability:
    """Judge class probabilities (n, K) by the classes that were true (n,).

    The p-value compares two figures with those of labels drawn from the probabilities themselves, which is what
    being calibrated means: the squared difference of hits and probabilities over bins, and the log loss.

    Examples:
        >>> p = np.full((400, 2), 0.5)
        >>> reliability(p, np.arange(400) % 2).p_value > 0.05, reliability(p, np.zeros(400, dtype=int)).p_value < 0.01
        (True, True)
    """
    n, classes = probabilities.shape
    random = generator(seed, "reliability")
    edges = (random.random((_REPEATS, n))[:, :, None] > np.cumsum(probabilities, axis=1)[:, :-1]).sum(2)
    drawn = np.concatenate([labels[None], edges])
    bins = _bins(probabilities)
    logs = np.log(np.maximum(probabilities, 1e-300))
    losses = -np.take_along_axis(np.broadcast_to(logs, (len(drawn), n, classes)), drawn[:, :, None], 2)[:, :, 0].mean(1)
    uneven = _uneven(probabilities, drawn, bins)
    away = np.abs(losses - losses[1:].mean())
    p = min(1.0, 2 * min(conformal_p(uneven[0], uneven[1:]), conformal_p(away[0], away[1:])))
    hits = (labels[:, None] == np.arange(classes)).astype(float)
    counts = np.bincount(bins.ravel(), minlength=_BINS)
    held = counts > 0
    predicted = np.bincount(bins.ravel(), probabilities.ravel(), _BINS)[held] / counts[held]
    found = np.bincount(bins.ravel(), hits.ravel(), _BINS)[held] / counts[held]
    expected = float(-(probabilities * logs).sum(1).mean())
    accuracy = float((probabilities.argmax(1) == labels).mean())
    return Reliability(predicted, found, counts[held], float(losses[0]), expected, accuracy, p, n)


def _bins(probabilities: np.ndarray) -> np.ndarray:
    return np.minimum((probabilities * _BINS).astype(int), _BINS - 1)


def _uneven(probabilities: np.ndarray, drawn: np.ndarray, bins: np.ndarray) -> np.ndarray:
    """(R,) sum over bins and classes of (hits - expected)^2 / (variance + 1), for each row of labels (R, n)."""
    total = np.zeros(len(drawn))
    for k in range(probabilities.shape[1]):
        inside = (bins[:, k][:, None] == np.arange(_BINS)).astype(float)
        p = probabilities[:, k]
        expected, variance = p @ inside, (p * (1 - p)) @ inside
        total += (((drawn == k).astype(float) @ inside - expected) ** 2 / (variance + 1)).sum(1)
    return total


def temperature(logits: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> tuple[float, np.ndarray]:
    """Scale and offsets (K,) of logits (n, K) that make them most probable on rows kept aside (Guo et al. 2017).

    Args:
        weights: (K,) of the classes. A weak pull towards a scale of 1 and no offset keeps few rows from overdoing it.
    """
    classes = logits.shape[1]
    own = weights[labels] / weights[labels].mean()

    def loss(at: np.ndarray) -> float:
        logs = log_softmax(logits * np.exp(at[0]) + np.append(0.0, at[1:]), axis=1)
        return float(-(own * logs[np.arange(len(labels)), labels]).sum() + 0.5 * (at**2).sum())

    found = minimize(loss, np.zeros(classes), method="BFGS")
    return float(np.exp(found.x[0])), np.append(0.0, found.x[1:])


def mixed(logits: np.ndarray) -> np.ndarray:
    """Log probabilities (n, K) of the equal mixture of members' logits (M, n, K)."""
    return np.log(np.maximum(softmax(logits, axis=2).mean(0), 1e-300))
