"""Importance weights of rows drawn from several proposals."""

import numpy as np
from scipy.spatial import cKDTree

from sbi_circuits.errors import InferenceError


def balance_weights(log_prior: np.ndarray, log_proposals: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Prior density over the mixture that all rows together were drawn from (balance heuristic).

    Veach & Guibas 1995, SIGGRAPH. With a share s of the rows drawn from the prior no weight exceeds 1 / s, so that
    aimed rounds add precision where they aim and bias nowhere.

    Args:
        log_prior: (n,) log density of the prior at every row.
        log_proposals: (K, n) log density of every proposal at every row, in the same units.
        counts: (K,) how many rows were drawn from each.

    Returns:
        (n,) weights; their expectation over the rows is 1.

    Raises:
        InferenceError: shapes that do not fit, or a row that no proposal could have drawn.

    Examples:
        >>> log_proposals = np.array([[0.0, 0.0], [-np.inf, np.log(3.0)]])
        >>> balance_weights(np.zeros(2), log_proposals, np.array([1, 1])).round(3).tolist()
        [2.0, 0.5]
    """
    log_proposals, counts = np.atleast_2d(log_proposals), np.asarray(counts, dtype=float)
    if log_proposals.shape != (len(counts), len(log_prior)) or counts.sum() <= 0:
        what = f"{len(counts)} proposals and {len(log_prior)} rows"
        raise InferenceError(f"proposal densities of shape {log_proposals.shape} for {what}")
    with np.errstate(divide="ignore"):
        log_shares = np.log(counts / counts.sum())[:, None]
    mixture = np.logaddexp.reduce(log_shares + log_proposals, axis=0)
    if not np.isfinite(mixture).all():
        raise InferenceError(f"{(~np.isfinite(mixture)).sum()} rows have no density under any of the proposals")
    return np.exp(log_prior - mixture)


def local_weights(points: np.ndarray, weights: np.ndarray, neighbours: int = 50, limit: float = 5.0) -> np.ndarray:
    """Importance weights relative to rows with alike features, truncated.

    What a flow learns at one x depends only on the ratios of the weights there: dividing by their local mean changes
    no answer, and keeps rare dynamics, whose rows all weigh little, from being ignored. Truncation trades a little
    bias towards the proposals for variance (Ionides 2008, J Comput Graph Stat 17:295).

    Args:
        points: (n, D) scaled features, with indicators of what is undefined.
        weights: (n,) importance weights.
        neighbours: rows over which the local mean is taken.
        limit: largest weight that is returned.

    Returns:
        (n,) weights between 0 and `limit`; ones where all weights are equal.
    """
    if np.ptp(weights) == 0:
        return np.ones(len(weights))
    near = cKDTree(points).query(points, k=min(neighbours, len(points)))[1]
    mean = weights[near].mean(1)
    return np.minimum(weights / np.where(mean > 0, mean, 1.0), limit)
