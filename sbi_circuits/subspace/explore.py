"""Paths that are simulated while they are sought: what lies between two members is learned before it is claimed.

Between members that stand alone nobody has simulated, and a surrogate says there that it does not know. So the points
of a first path are simulated, the surrogate learns from them, and the path is sought anew, a few times. What proves
the last path are other simulations.
"""

from dataclasses import replace

import numpy as np

from sbi_circuits.ensemble import Ensemble
from sbi_circuits.inference import TrainingData
from sbi_circuits.seeds import stream_key
from sbi_circuits.subspace.density import Density, unbounded
from sbi_circuits.subspace.even import joined
from sbi_circuits.subspace.paths import Paths, ensemble_paths
from sbi_circuits.subspace.resimulate import Runner, resimulate_like
from sbi_circuits.subspace.surrogate import Surrogate, learn

_STEPS = 50  # of a search that is not the last


def explored_paths(
    density: Density, ensemble: Ensemble, pairs: np.ndarray, points: int, runner: Runner, rounds: int = 3,
    known: TrainingData | None = None, surrogate: Surrogate | None = None,
) -> Paths:  # fmt: skip
    """`ensemble_paths` whose inner points are simulated and learned from, `rounds` times, before the last search.

    Args:
        density: the posterior at the ensemble's observation.
        ensemble: whose configurations are joined; it is not changed.
        pairs: (B, 2) numbers of verified configurations, counted over all draws.
        points: of each path.
        runner: how to simulate; `repeats` are the ensemble's own.
        rounds: searches that are simulated; 0 for none.
        known: see `grow`.
        surrogate: learned from the ensemble; without one paths follow the posterior alone.
    """
    seen, between = ensemble, None
    for k in range(rounds if surrogate is not None else 0):
        # The points of every round lie between those of the last.
        found = ensemble_paths(density, ensemble, pairs, points + k % 2, surrogate, between, _STEPS)
        own = replace(runner, repeats=ensemble.values.shape[1], seed=stream_key(runner.seed, "explored", k) % 2**62)
        inner = found.theta[:, 1:-1].reshape(-1, found.theta.shape[2])
        seen = joined(density, seen, resimulate_like(ensemble, inner, own))
        fresh = np.arange(len(seen.theta)) >= len(ensemble.theta)
        between = unbounded(ensemble.prior, seen.theta[fresh & seen.verified])
        surrogate = learn(seen, known, surrogate) or surrogate
    return ensemble_paths(density, ensemble, pairs, points, surrogate, between)
