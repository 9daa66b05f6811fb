"""Chains of verified members: the shortest routes between two of them along which the features should stay.

Straight lines between distant members leave a bent set; small steps from member to member do so less (as geodesics
are found on neighbourhood graphs: Tenenbaum et al. 2000, Science 290:2319).
"""

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import dijkstra
from scipy.spatial import cKDTree

from sbi_circuits.subspace.surrogate import Surrogate

_NEIGHBOURS = 12
_INNER = (0.25, 0.5, 0.75)  # where along an edge the surrogate is asked


def chains(surrogate: Surrogate, z: np.ndarray, pairs: np.ndarray) -> list[np.ndarray]:
    """For each pair (B, 2) of members z (K, P) the numbers of the members on the shortest route, ends included.

    Routes lead from neighbour to neighbour; an edge counts its length times one plus the squared feature change,
    in seed-to-seed standard deviations, that the surrogate expects along it. A pair that no route joins is joined
    straight.
    """
    edges, cost = _edges(surrogate, z)
    graph = coo_matrix((cost, edges.T), shape=(len(z), len(z))).tocsr()
    starts = np.unique(pairs[:, 0])
    before = dijkstra(graph, directed=False, indices=starts, return_predecessors=True)[1]
    return [_back(before[np.searchsorted(starts, a)], int(a), int(b)) for a, b in pairs]


def _edges(surrogate: Surrogate, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(E, 2) each edge once, and its cost (E,)."""
    near = cKDTree(z).query(z, k=min(_NEIGHBOURS + 1, len(z)))[1][:, 1:]
    both = np.column_stack([np.repeat(np.arange(len(z)), near.shape[1]), near.ravel()])
    edges = np.unique(np.sort(both, axis=1), axis=0)
    a, b = z[edges[:, 0]], z[edges[:, 1]]
    inner = np.concatenate([a + t * (b - a) for t in _INNER])
    away = surrogate.away(inner).reshape(len(_INNER), -1).mean(0)
    return edges, np.linalg.norm(b - a, axis=1) * (1.0 + away)


def _back(before: np.ndarray, start: int, end: int) -> np.ndarray:
    route = [end]
    while route[-1] != start and before[route[-1]] >= 0:
        route.append(int(before[route[-1]]))
    return np.array(route[::-1] if route[-1] == start else [start, end])
