"""Global geometry of a set of configurations: what narrowed, what depends on what, and how many dimensions it has."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree
from scipy.special import digamma
from scipy.stats import spearmanr

from sbi_circuits.errors import InferenceError
from sbi_circuits.prior import Prior
from sbi_circuits.seeds import generator
from sbi_circuits.subspace.density import unbounded

_RESAMPLES = 200
_LEAST = 20  # configurations
_SMALL_EIGENVALUE = 0.05  # of the largest: Fukunaga & Olsen 1971, IEEE Trans Comput C-20:176
_UNIFORM_VARIANCE = 1.0 / 12.0
_NORMAL_95 = 1.96


@dataclass(frozen=True)
class Estimate:
    """A number with its standard error; a dimension's holds what the choice of the scale may add."""

    value: float
    error: float

    @property
    def interval(self) -> tuple[float, float]:
        """Of 95 %: 1.96 errors to either side."""
        return self.value - _NORMAL_95 * self.error, self.value + _NORMAL_95 * self.error

    def __str__(self) -> str:
        return f"{self.value:.2f} +- {self.error:.2f}"


@dataclass(frozen=True, eq=False)
class Scales:
    """Intrinsic dimension by the size of the neighbourhood it is measured in.

    Args:
        neighbours: (S,) k of each scale.
        distance: (S,) median distance to neighbour 2 k, prior-scaled.
        dimension, error: (S,) estimate and standard error.
    """

    neighbours: np.ndarray
    distance: np.ndarray
    dimension: np.ndarray
    error: np.ndarray

    @property
    def finest(self) -> Estimate:
        """At the smallest scale, where the thickness of the set fills dimensions of its own."""
        return Estimate(float(self.dimension[0]), float(self.error[0]))

    @property
    def coarsest(self) -> Estimate:
        """At the largest scale, where a thin set shows its own dimension.

        Thickness makes it too large there still, and edges too small. How much is not known, but the dimension
        changes with the scale where it matters: the last step counts as error.
        """
        step = abs(self.dimension[-1] - self.dimension[-2]) if len(self.dimension) > 1 else 0.0
        return Estimate(float(self.dimension[-1]), float(np.hypot(self.error[-1], step)))


@dataclass(frozen=True, eq=False)
class GlobalGeometry:
    """What a set of K configurations of P parameters says without any density.

    Args:
        names: (P,) of the parameters; count: K.
        contraction, contraction_error: (P,) 1 - variance over the prior's, on the prior's own scale.
        participation: participation ratio of the covariance in unbounded coordinates.
        scales: nearest-neighbour dimension by scale.
        local_pca: dimension of the covariance of neighbours.
        correlation: (P, P) Spearman's.
        information: (P, P) mutual information, nats; 0 on the diagonal.
        information_noise: what 95 % of pairs stay below when nothing depends on anything, nats.
        variance: (P,) eigenvalues of the covariance, unbounded coordinates, descending; 1 is the prior's.
        axes: (P, P) their unit vectors, one a row.
    """

    names: tuple[str, ...]
    count: int
    contraction: np.ndarray
    contraction_error: np.ndarray
    participation: Estimate
    scales: Scales
    local_pca: Estimate
    correlation: np.ndarray
    information: np.ndarray
    information_noise: float
    variance: np.ndarray
    axes: np.ndarray

    def dependent(self) -> list[tuple[str, str, float]]:
        """Pairs of parameters that depend on one another beyond chance, the most first: names and nats."""
        i, j = np.triu_indices(len(self.names), 1)
        nats = self.information[i, j]
        order = [k for k in np.argsort(-nats, kind="stable") if nats[k] > self.information_noise]
        return [(self.names[i[k]], self.names[j[k]], float(nats[k])) for k in order]

    def summary(self) -> str:
        """A few lines for people."""
        order = np.argsort(-self.contraction, kind="stable")[:5]
        narrow = ", ".join(f"{self.names[p]} {self.contraction[p]:.0%}" for p in order)
        pairs = ", ".join(f"{a}-{b} {nats:.2f}" for a, b, nats in self.dependent()[:5]) or "none beyond chance"
        return "\n".join([
            f"{self.count} configurations of {len(self.names)} parameters",
            f"contracted most: {narrow}",
            f"dimension: participation ratio {self.participation}, nearest neighbours {self.scales.coarsest} "
            f"(finest scale {self.scales.finest}), local PCA {self.local_pca}",
            f"mutual information (nats): {pairs}",
        ])  # fmt: skip


def global_geometry(theta: np.ndarray, prior: Prior, seed: int = 0) -> GlobalGeometry:
    """Contraction, dimension and dependence of configurations theta (K, P), declared units.

    Raises:
        InferenceError: fewer than 20 configurations.
        PriorError: configurations outside the prior, or of another width.
    """
    z = unbounded(prior, theta)
    if z.ndim != 2 or len(z) < _LEAST:
        raise InferenceError(f"geometry needs at least {_LEAST} configurations, got {len(z)}; draw more")
    random = generator(seed, "geometry")
    contraction, error = _contraction(prior.to_unit(theta), random)
    values, vectors = np.linalg.eigh(np.atleast_2d(np.cov(z.T)))
    information, noise = dependence(z, random)
    return GlobalGeometry(
        names=prior.names, count=len(z), contraction=contraction, contraction_error=error,
        participation=participation_ratio(z, seed), scales=neighbour_dimension(z),
        local_pca=local_pca_dimension(z, seed),
        correlation=rank_correlation(z), information=information, information_noise=noise,
        variance=values[::-1], axes=vectors.T[::-1],
    )  # fmt: skip


def _contraction(u: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    resampled = [u[random.integers(len(u), size=len(u))].var(0, ddof=1) for _ in range(_RESAMPLES)]
    return 1.0 - u.var(0, ddof=1) / _UNIFORM_VARIANCE, np.std(resampled, axis=0) / _UNIFORM_VARIANCE


def participation_ratio(z: np.ndarray, seed: int = 0) -> Estimate:
    """(sum of eigenvalues)^2 / sum of squares, of the covariance of points z (K, P); the error is a bootstrap's.

    Examples:
        >>> z = np.random.default_rng(0).standard_normal((4000, 5)) * [1, 1, 1, 0.001, 0.001]
        >>> round(participation_ratio(z).value, 1)
        3.0
    """
    random = generator(seed, "participation")
    found = [_participation(z[random.integers(len(z), size=len(z))]) for _ in range(_RESAMPLES)]
    return Estimate(_participation(z), float(np.std(found)))


def _participation(z: np.ndarray) -> float:
    covariance = np.atleast_2d(np.cov(z.T))
    return float(np.trace(covariance) ** 2 / (covariance**2).sum())


def neighbour_dimension(z: np.ndarray, scales: Sequence[int] | None = None) -> Scales:
    """Intrinsic dimension of points z (K, P) from ratios of distances to neighbours k and 2 k.

    k = 1 is two-NN (Facco et al. 2017, Sci Rep 7:12140, eq. 8); larger k look at larger scales (Denti et al. 2022,
    Sci Rep 12:20005, eq. 8). The error is that of the likelihood.

    Args:
        z: distinct points.
        scales: k; powers of 2 up to K / 8 where None.

    Raises:
        InferenceError: too few points, or repeated ones.
    """
    points = np.unique(np.asarray(z, dtype=float), axis=0)
    if len(points) < _LEAST:
        raise InferenceError(f"dimension needs at least {_LEAST} distinct points, got {len(points)}")
    top = int(np.log2(len(points) / 8))
    chosen = np.array([2**k for k in range(top + 1)] if scales is None else scales)
    distances = cKDTree(points).query(points, k=int(2 * chosen.max()) + 1)[0]
    found = [_ratio_dimension(distances[:, 2 * k] / distances[:, k], int(k)) for k in chosen]
    dimension, error = np.array(found).T
    return Scales(chosen, np.median(distances[:, 2 * chosen], axis=0), dimension, error)


def _ratio_dimension(ratio: np.ndarray, k: int) -> tuple[float, float]:
    """Maximum of the likelihood of ratios mu = r(2k) / r(k): density d (mu^d - 1)^(k-1) / mu^((2k-1) d + 1) / B(k, k).

    Newton steps on log d; neighbourhoods overlap k-fold, which the error counts as fewer ratios.
    """
    log_mu = np.log(np.maximum(ratio, 1.0 + 1e-12))
    d = (digamma(2 * k) - digamma(k)) / log_mu.mean()
    for _ in range(100):
        grown = np.exp(np.minimum(d * log_mu, 700.0))
        part = (k - 1) * log_mu * grown / np.maximum(grown - 1.0, 1e-300)
        slope = (1.0 / d + part - (2 * k - 1) * log_mu).sum()
        curve = (-1.0 / d**2 - (k - 1) * log_mu**2 * grown / np.maximum(grown - 1.0, 1e-300) ** 2).sum()
        step = slope / curve
        d = float(np.clip(d - step, d / 2, d * 2))
        if abs(step) < 1e-9 * d:
            break
    return d, float(np.sqrt(k / -curve))


def local_pca_dimension(z: np.ndarray, seed: int = 0, neighbours: int = 0, anchors: int = 200) -> Estimate:
    """Mean over anchors of how many eigenvalues of the neighbours' covariance exceed 5 % of the largest.

    With half as many neighbours a thick set gives another number, with twice as many a bent one: the larger of the two
    differences counts as error.

    Args:
        z: (K, P) points.
        neighbours: of each anchor; 0 for an eighth of the points, the scale of `Scales.coarsest`.
        anchors: at most so many, drawn at random.
    """
    n, parameters = z.shape
    least = min(parameters + 1, n - 1)
    k = neighbours or int(np.clip(n // 8, least, n - 1))
    chosen = generator(seed, "anchors").permutation(n)[:anchors]
    finer, counts, coarser = (_large_eigenvalues(z, chosen, size) for size in (max(k // 2, least), k, 2 * k))
    independent = max(1.0, min(len(chosen), n / k))  # neighbourhoods that do not overlap
    step = max(abs(float(other.mean() - counts.mean())) for other in (finer, coarser))
    return Estimate(float(counts.mean()), float(np.hypot(counts.std() / np.sqrt(independent), step)))


def _large_eigenvalues(z: np.ndarray, anchors: np.ndarray, neighbours: int) -> np.ndarray:
    """(A,) how many there are in the neighbourhood of each anchor."""
    near = cKDTree(z).query(z[anchors], k=min(neighbours, len(z) - 1) + 1)[1]
    values = np.linalg.eigvalsh([np.atleast_2d(np.cov(z[rows].T)) for rows in near])
    return np.asarray((values > _SMALL_EIGENVALUE * values[:, -1:]).sum(1))


def rank_correlation(z: np.ndarray) -> np.ndarray:
    """Spearman's correlation (P, P) of points z (K, P); 0 where a column does not vary."""
    if z.shape[1] == 1:
        return np.ones((1, 1))
    ranks = np.argsort(np.argsort(z, axis=0, kind="stable"), axis=0, kind="stable")
    if z.shape[1] == 2:
        r = float(spearmanr(ranks[:, 0], ranks[:, 1]).statistic)
        return np.array([[1.0, r], [r, 1.0]])
    return np.asarray(spearmanr(ranks).statistic)


def dependence(z: np.ndarray, random: np.random.Generator, neighbours: int = 5) -> tuple[np.ndarray, float]:
    """Mutual information (P, P), nats, between columns of z (K, P), and its 95 % quantile where there is none.

    The null are the same columns, each in an order of its own.
    """
    parameters = z.shape[1]
    shuffled = np.column_stack([random.permutation(column) for column in z.T])
    found, null = np.zeros((parameters, parameters)), []
    for i in range(parameters):
        for j in range(i):
            found[i, j] = found[j, i] = max(mutual_information(z[:, i], z[:, j], neighbours), 0.0)
            null.append(mutual_information(shuffled[:, i], shuffled[:, j], neighbours))
    return found, max(float(np.quantile(null, 0.95)), 0.0) if null else 0.0


def mutual_information(a: np.ndarray, b: np.ndarray, neighbours: int = 5) -> float:
    """Mutual information of two samples (K,), nats; Kraskov et al. 2004, Phys Rev E 69:066138, eq. 8.

    Ranks in place of values: information does not change, and heavy tails do no harm.

    Examples:
        >>> random = np.random.default_rng(0)
        >>> x = random.standard_normal(4000)
        >>> y = 0.8 * x + 0.6 * random.standard_normal(4000)
        >>> round(mutual_information(x, y), 1), round(float(-0.5 * np.log(1 - 0.8**2)), 1)
        (0.5, 0.5)
    """
    n = len(a)
    u, v = (_uniform(x) for x in (a, b))
    both = np.column_stack([u, v])
    # Just below the distance of the k-th neighbour: strictly within it are the others.
    reach = np.nextafter(cKDTree(both).query(both, k=neighbours + 1, p=np.inf)[0][:, -1], 0.0)
    counts = [_within(x, reach) for x in (u, v)]
    return float(digamma(neighbours) + digamma(n) - np.mean(digamma(counts[0]) + digamma(counts[1])))


def _uniform(x: np.ndarray) -> np.ndarray:
    return np.asarray((np.argsort(np.argsort(x, kind="stable"), kind="stable") + 0.5) / len(x))


def _within(x: np.ndarray, reach: np.ndarray) -> np.ndarray:
    """(K,) how many of the points lie within each one's reach, itself included: n_x + 1 of the equation."""
    ordered = np.sort(x)
    return np.asarray(np.searchsorted(ordered, x + reach, "right") - np.searchsorted(ordered, x - reach, "left"))
