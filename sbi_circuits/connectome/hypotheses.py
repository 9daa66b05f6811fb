"""What an ensemble of models predicts: where it agrees, where it splits, and what silencing a cell type would change.

Every prediction is a number for each model, so that its spread comes with it. Following Lappalainen et al. 2024, who
clustered their models by tuning and read each cluster as a hypothesis.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import pdist, squareform

from sbi_circuits.connectome.models import Models
from sbi_circuits.errors import CircuitError
from sbi_circuits.seeds import generator


@dataclass(frozen=True, eq=False)
class Consensus:
    """One quantity of each cell type over an ensemble.

    Args:
        cell_types: (R,).
        values: (M, R), of each model.
    """

    cell_types: tuple[str, ...]
    values: np.ndarray

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.values.shape[1] != len(self.cell_types):
            raise CircuitError(f"values have shape {self.values.shape}, expected (models, {len(self.cell_types)})")

    @property
    def median(self) -> np.ndarray:
        """(R,)."""
        return np.asarray(np.median(self.values, axis=0))

    def interval(self, level: float = 0.8) -> np.ndarray:
        """(2, R) central interval over the models."""
        return np.quantile(self.values, [0.5 - level / 2, 0.5 + level / 2], axis=0)

    @property
    def agreement(self) -> np.ndarray:
        """(R,) share of the models that give the sign most of them give: 0.5 says nothing, 1 all agree."""
        positive = (self.values > 0).mean(0)
        return np.asarray(np.maximum(positive, 1 - positive))

    def agreed(self, share: float = 0.9) -> list[str]:
        """Types on whose sign at least `share` of the models agree, most certain first."""
        order = np.argsort(-self.agreement, kind="stable")
        return [self.cell_types[k] for k in order if self.agreement[k] >= share]

    def table(self, types: list[str] | None = None) -> str:
        """Median, 80 % interval and agreement, one line a type."""
        low, high = self.interval()
        chosen = [self.cell_types.index(name) for name in types or self.cell_types]
        lines = [
            f"{self.cell_types[k]:10s} {self.median[k]:+.2f} ({low[k]:+.2f} to {high[k]:+.2f}), "
            f"{self.agreement[k]:.0%} of {len(self.values)} models agree on the sign"
            for k in chosen
        ]
        return "\n".join(lines)


@dataclass(frozen=True, eq=False)
class Split:
    """Clusters of models.

    Args:
        labels: (M,) cluster of each model, 0 the largest.
        score: mean silhouette of the first division; p_value: how often a single normal cloud divides as well.
    """

    labels: np.ndarray
    score: float
    p_value: float

    @property
    def n_clusters(self) -> int:
        return int(self.labels.max()) + 1


def split(vectors: np.ndarray, seed: int = 0, level: float = 0.05, draws: int = 100, smallest: int = 3) -> Split:
    """Clusters of models by a vector of predictions each, such as tuning curves; one where nothing speaks for two.

    The models are divided in two (Ward) as long as the division is better, by its silhouette, than all but a share
    `level` of divisions of normal clouds of the same covariance.

    Args:
        vectors: (M, D). seed: of the clouds. draws: how many. smallest: models that a cluster must have.

    Raises:
        CircuitError: fewer than twice `smallest` models, or values that are not finite.

    Examples:
        >>> values = np.concatenate([np.zeros((8, 2)), np.ones((6, 2))]) + 0.1 * generator(0).normal(size=(14, 2))
        >>> split(values).labels.tolist()
        [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1]
    """
    vectors = np.asarray(vectors, dtype=float)
    if vectors.ndim != 2 or len(vectors) < 2 * smallest or not np.isfinite(vectors).all():
        raise CircuitError(f"clustering needs finite vectors of {2 * smallest} models or more, got {vectors.shape}")
    labels = np.zeros(len(vectors), dtype=int)
    score, p_value = _divide(vectors, labels, np.arange(len(vectors)), seed, level, draws, smallest)
    order = np.argsort(-np.bincount(labels), kind="stable")
    return Split(np.argsort(order)[labels], score, p_value)


def _divide(
    vectors: np.ndarray, labels: np.ndarray, own: np.ndarray, seed: int, level: float, draws: int, smallest: int
) -> tuple[float, float]:
    """Divide the models `own` further while it pays, writing their labels; score and p-value of the first division."""
    if len(own) < 2 * smallest:
        return 0.0, 1.0
    halves, score = _halves(vectors[own])
    random = generator(seed, "split", int(own[0]), len(own))
    clouds = [_halves(_cloud(vectors[own], random))[1] for _ in range(draws)]
    p_value = (1 + sum(cloud >= score for cloud in clouds)) / (1 + draws)
    parts = own[halves == 0], own[halves == 1]
    if p_value <= level and min(map(len, parts)) >= smallest:
        labels[parts[1]] = labels.max() + 1
        for part in parts:
            _divide(vectors, labels, part, seed, level, draws, smallest)
    return score, p_value


def _halves(vectors: np.ndarray) -> tuple[np.ndarray, float]:
    """Two clusters, and the mean silhouette (Rousseeuw 1987)."""
    distance = squareform(pdist(vectors))
    halves = fcluster(linkage(vectors, "ward"), 2, "maxclust") - 1
    if halves.max() == 0:
        return halves, 0.0
    member = halves[:, None] == np.arange(2)
    sums, sizes = distance @ member, member.sum(0)
    inside = sums[member] / np.maximum(sizes[halves] - 1, 1)
    outside = sums[~member] / sizes[1 - halves]
    widths = (outside - inside) / np.maximum(np.maximum(inside, outside), 1e-12)
    return halves, float(np.where(sizes[halves] > 1, widths, 0.0).mean())


def _cloud(vectors: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """As many draws of a normal distribution with the same covariance (along the axes that there are)."""
    centred = vectors - vectors.mean(0)
    _, scales, axes = np.linalg.svd(centred, full_matrices=False)
    return np.asarray(random.normal(size=(len(vectors), len(scales))) * scales / np.sqrt(len(vectors)) @ axes)


@dataclass(frozen=True, eq=False)
class Silencing:
    """What changes where a cell type falls silent.

    Args:
        silenced: the types. before, after: (M, R) read-outs of each model. cell_types: (R,) whose.
    """

    silenced: tuple[str, ...]
    before: np.ndarray
    after: np.ndarray
    cell_types: tuple[str, ...]

    @property
    def change(self) -> Consensus:
        """After minus before, of each model."""
        return Consensus(self.cell_types, self.after - self.before)

    def largest(self, n: int = 5) -> list[str]:
        """Types with the largest median change, silenced ones left out."""
        order = np.argsort(-abs(self.change.median), kind="stable")
        return [self.cell_types[k] for k in order if self.cell_types[k] not in self.silenced][:n]


def silence(
    models: Models,
    silenced: str | tuple[str, ...],
    measure: Callable[[Models], np.ndarray],
    cell_types: tuple[str, ...],
) -> Silencing:
    """Cut every synapse from some cell types and measure again.

    Args:
        models: M of them. silenced: type or types.
        measure: gives (M, R) read-outs of models, such as `edge_tuning(...).selectivity()[..., 1]`.
        cell_types: (R,) of the read-outs.

    Raises:
        UnknownNameError: a type that does not exist.
    """
    types = (silenced,) if isinstance(silenced, str) else tuple(silenced)
    cut = models.silenced(*types)
    return Silencing(types, measure(models), measure(cut), cell_types)
