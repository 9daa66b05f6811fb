"""L-C2ST: is the posterior of *this* observation right? A classifier that tries to tell truth from draws.

Source: Linhart, Gramfort, Rodrigues 2023, "L-C2ST: local diagnostics for posterior approximations in simulation-based
inference", arXiv:2306.03580 (Algorithms 1 and 2; statistic: equation 8). Two things differ, both for speed and power.
The classifier sees theta in units of the posterior itself, (theta - mean(x)) whitened by the draws' covariance, as
their flow variant does with the flow's own inverse; and it is a least-squares classifier on products and random
features, so that all label permutations of the null share one factorisation. Labels are permuted within an
observation, among its configuration and its draws, which are exchangeable if the posterior is exact: the p-values
hold at any number of rows.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from sbi_circuits.calibration.held_out import HeldOut
from sbi_circuits.calibration.ranks import PosteriorLike, posterior_draws
from sbi_circuits.calibration.uniform import conformal_p
from sbi_circuits.errors import InferenceError
from sbi_circuits.seeds import generator, stream_key

_SUMMARIES = 6  # directions of the features that the classifier sees
_RANDOM = 100
_MOST_PAIRS = 300
_RIDGES = 10.0 ** np.arange(-4, 3)
_MIN_ROWS = 50


@dataclass(frozen=True, eq=False)
class LocalCheck:
    """Whether the posterior of one observation can be told from the truth.

    Args:
        p_value: of the posterior being exact there.
        statistic: mean squared distance of the classifier from not knowing; 0 for an exact posterior.
        null: (K,) the statistic of classifiers trained on permuted labels.
    """

    p_value: float
    statistic: float
    null: np.ndarray

    def summary(self) -> str:
        """One line for people."""
        ratio = self.statistic / max(float(np.median(self.null)), 1e-300)
        verdict = "can be told from the truth" if self.p_value < 0.05 else "cannot be told from the truth"
        return f"the posterior of this observation {verdict} (L-C2ST p {self.p_value:.2g}, {ratio:.1f} times chance)"


@dataclass(frozen=True, eq=False)
class LocalTest:
    """A classifier trained on held-out simulations, and its null; made by `LocalTest.fit`, asked with `check`.

    Args:
        posterior: under test.
        held: the simulations it was trained on.
        basis: what the classifier sees.
        weights: (d, 1 + K) of the classifier, and of those of permuted labels.
        everywhere: the check over all held-out observations together.
        seed: of everything random.
        draws: of the posterior for every observation.
    """

    posterior: PosteriorLike
    held: HeldOut
    basis: "_Basis"
    weights: np.ndarray
    everywhere: LocalCheck
    seed: int
    draws: int

    @classmethod
    def fit(
        cls, posterior: PosteriorLike, held: HeldOut, draws: np.ndarray | None = None, *, copies: int = 4,
        permutations: int = 199, seed: int = 0,
    ) -> "LocalTest":  # fmt: skip
        """Train on held-out simulations.

        Args:
            posterior: under test.
            held: simulations it has not seen.
            draws: (n, D, P) of its posteriors where there are some already, declared units.
            copies: draws of each observation that stand beside its configuration.
            permutations: K, of the labels.
            seed: of draws, permutations and random features.

        Raises:
            InferenceError: fewer than 50 rows, or too few draws to know a posterior's covariance.
        """
        parameters = len(held.prior)
        if len(held) < _MIN_ROWS:
            raise InferenceError(f"L-C2ST needs at least {_MIN_ROWS} held-out simulations, got {len(held)}")
        if draws is None:
            draws = posterior_draws(posterior, held.values, held.states, copies + 20 * parameters, seed)
        if draws.shape[1] < copies + 2 * parameters + 2:
            most = copies + 2 * parameters + 2
            raise InferenceError(f"L-C2ST needs at least {most} draws of each posterior, got {draws.shape[1]}")
        residuals = _residuals(held.prior.unconstrain(held.theta), held.prior.unconstrain(draws), copies)
        points = held.points(held.values, held.states)
        basis = _Basis.fit(residuals.reshape(-1, parameters), points, seed)
        summaries = np.repeat(basis.summaries(points), copies + 1, axis=0)
        inputs = basis(residuals.reshape(-1, parameters), summaries)
        labels = _labels(len(held), copies, permutations, seed)
        weights = _least_squares(inputs, labels - labels.mean(0))
        scores = (inputs @ weights).reshape(len(held), copies + 1, -1)
        everywhere = _judged((scores[:, 1:] ** 2).mean((0, 1)))
        return cls(posterior, held, basis, weights, everywhere, seed, draws.shape[1])

    def check(self, x: Any, draws: int = 0) -> LocalCheck:
        """Test the posterior of one observation.

        Args:
            x: a pair (values, states), or an object with both.
            draws: of its posterior; as many as for the held-out ones where 0.
        """
        values, states = x if isinstance(x, tuple) else (x.values, x.states)
        values, states = np.asarray(values, dtype=float), np.asarray(states)
        copies = draws or self.draws
        prior, parameters = self.held.prior, len(self.held.prior)
        key = stream_key(self.seed, "local") % 2**63
        theta = self.posterior((values, states)).sample(copies + 20 * parameters, key)
        z = prior.unconstrain(theta)[None]
        residuals = _residuals(z[:, 0], z, copies)[0, 1:]
        summaries = self.basis.summaries(self.held.points(values[None], states[None]))
        scores = self.basis(residuals, np.repeat(summaries, copies, axis=0)) @ self.weights
        return _judged((scores**2).mean(0))


@dataclass(frozen=True, eq=False)
class _Basis:
    """Products and random features of residuals r (n, P) and summaries s (n, K) of the features.

    Args:
        centre, directions: of the points, (F,) and (F, K).
        first, second: indices of the products of residuals.
        projection, offset: of the random features, (P + K, R) and (R,).
        location, scale: of all of these over the held-out rows.
    """

    centre: np.ndarray
    directions: np.ndarray
    first: np.ndarray
    second: np.ndarray
    projection: np.ndarray
    offset: np.ndarray
    location: np.ndarray
    scale: np.ndarray

    @classmethod
    def fit(cls, residuals: np.ndarray, points: np.ndarray, seed: int) -> "_Basis":
        random = generator(seed, "classifier")
        centre = points.mean(0)
        _, sizes, rows = np.linalg.svd(points - centre, full_matrices=False)
        kept = min(_SUMMARIES, int((sizes > 1e-8 * max(sizes[0], 1e-300)).sum()))
        directions = rows[:kept].T * np.sqrt(len(points)) / sizes[:kept]
        parameters = residuals.shape[1]
        first, second = np.triu_indices(parameters)
        if len(first) > _MOST_PAIRS:  # every square, and some of the products
            squares = np.flatnonzero(first == second)
            others = random.permutation(np.flatnonzero(first != second))[: _MOST_PAIRS - len(squares)]
            chosen = np.sort(np.concatenate([squares, others]))
            first, second = first[chosen], second[chosen]
        projection = random.standard_normal((parameters + kept, _RANDOM))
        projection /= np.sqrt(max(1, parameters + kept) / 2)
        blank = cls(centre, directions, first, second, projection, random.standard_normal(_RANDOM),
                    np.zeros(1), np.ones(1))  # fmt: skip
        copies = len(residuals) // len(points)
        found = blank(residuals, np.repeat(blank.summaries(points), copies, axis=0))
        scale = found.std(0)
        return cls(centre, directions, first, second, projection, blank.offset, found.mean(0),
                   np.where(scale > 1e-9, scale, np.inf))  # fmt: skip

    def summaries(self, points: np.ndarray) -> np.ndarray:
        """(n, K) whitened directions of points (n, F), bounded so that none runs away."""
        return 3.0 * np.tanh((points - self.centre) @ self.directions / 3.0)

    def __call__(self, residuals: np.ndarray, summaries: np.ndarray) -> np.ndarray:
        # A posterior that is far too narrow has residuals that would outweigh everything else.
        r = 5.0 * np.tanh(residuals / 5.0)
        squares = r**2
        linear = [r, *(r * s[:, None] for s in summaries.T)]
        quadratic = [r[:, self.first] * r[:, self.second], *(squares * s[:, None] for s in summaries.T)]
        waves = np.tanh(np.hstack([r, summaries]) @ self.projection + self.offset)
        return (np.hstack([*linear, *quadratic, waves]) - self.location) / self.scale


def _residuals(z: np.ndarray, draws: np.ndarray, copies: int) -> np.ndarray:
    """z (n, P) and its first draws (n, 1 + copies, P), whitened by the other draws of each row.

    Exchangeable within a row if the posterior is exact: the scale is found without any of them.
    """
    others = draws[:, copies:]
    mean = others.mean(1, keepdims=True)
    centred = others - mean
    covariance = np.einsum("ndp,ndq->npq", centred, centred) / others.shape[1]
    n, width = others.shape[1], draws.shape[2]
    diagonal = np.einsum("npp->np", covariance)
    floor = width / (n + width) * diagonal + 1e-12
    covariance = covariance * (n / (n + width)) + floor[:, :, None] * np.eye(width)
    root = np.linalg.cholesky(covariance)
    members = np.concatenate([z[:, None], draws[:, :copies]], axis=1) - mean
    return np.linalg.solve(root, members.swapaxes(1, 2)).swapaxes(1, 2)


def _labels(rows: int, copies: int, permutations: int, seed: int) -> np.ndarray:
    """(rows * (1 + copies), 1 + K): 1 where the configuration stands, first the truth, then at random."""
    places = generator(seed, "permutations").integers(0, copies + 1, (rows, permutations))
    places = np.hstack([np.zeros((rows, 1), dtype=places.dtype), places])
    return (places[:, None] == np.arange(copies + 1)[:, None]).reshape(-1, permutations + 1).astype(float)


def _least_squares(inputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Ridge regression (d, K) of each column of labels (n, K), its ridge by generalised cross-validation."""
    n = len(inputs)
    values, vectors = np.linalg.eigh(inputs.T @ inputs / n)
    values = np.maximum(values, 0.0)
    projected = vectors.T @ (inputs.T @ labels) / n
    power = (labels**2).mean(0)
    # A direction without any variance has no projection either; the floor only keeps 0/0 away.
    best, scores = np.zeros(labels.shape[1], dtype=int), np.full(labels.shape[1], np.inf)
    for k, ridge in enumerate(_RIDGES):
        shrink = values / (values + ridge)
        explained = ((2 * shrink - shrink**2)[:, None] * projected**2 / np.maximum(values, 1e-12)[:, None]).sum(0)
        score = (power - explained) / (1 - shrink.sum() / n) ** 2 if shrink.sum() < n else np.full_like(power, np.inf)
        best, scores = np.where(score < scores, k, best), np.minimum(score, scores)
    return vectors @ (projected / (values[:, None] + _RIDGES[best]))


def _judged(statistics: np.ndarray) -> LocalCheck:
    return LocalCheck(conformal_p(statistics[0], statistics[1:]), float(statistics[0]), statistics[1:])
