"""Draws spread evenly over the set, not by posterior mass, and how much of its extent they cover.

Farthest-point selection (Gonzalez 1985, Theor Comput Sci 38:293) among posterior draws of high density; `grow`
carries it on from verified configurations, with a surrogate that learns from every simulation made on the way.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial import cKDTree

from sbi_circuits.ensemble import Ensemble
from sbi_circuits.errors import InferenceError
from sbi_circuits.inference import Posterior, TrainingData
from sbi_circuits.seeds import generator, stream_key
from sbi_circuits.subspace.density import LIMIT, Density, log_density, unbounded
from sbi_circuits.subspace.resimulate import SCREENED, Resimulated, Runner, judged, require_match, screened
from sbi_circuits.subspace.surrogate import Surrogate, learn

_LARGEST_STEP, _SMALLEST_STEP = 1.0, 0.1
_WANTED = 0.4  # share of proposals that should be verified: more means that steps can be longer
_CANDIDATES = 48  # for each configuration that is simulated
_DRAWN = 12  # of them drawn from the posterior
_FEW = 3  # members that differences can be taken of
_LIKELY = 3  # for each of them, that the surrogate takes for the most likely to be verified
_LOWEST = 0.02  # quantile of the members' density below which candidates are dropped


def evenly_spread(density: Density, n: int, mass: float = 0.9, pool: int = 4000, seed: int = 0) -> np.ndarray:
    """n configurations (n, P), declared units, far from one another within the densest `mass` of the posterior.

    Raises:
        InferenceError: n below 1 or above what the pool leaves, or a mass that is none.
    """
    if not 0.0 < mass <= 1.0 or not 1 <= n <= mass * pool:
        most = int(min(max(mass, 0.0), 1.0) * pool)
        raise InferenceError(f"cannot spread {n} configurations over a mass of {mass:g}; valid: 1 to {most}")
    theta = density.sample(pool, stream_key(seed, "even") % 2**62)
    z = np.clip(density.prior.unconstrain(theta), -LIMIT, LIMIT)
    log_p = log_density(density, z)
    dense = log_p >= np.quantile(log_p, 1.0 - mass)
    chosen = farthest_points(z[dense], n, first=int(np.argmax(log_p[dense])))
    return np.asarray(theta[dense][chosen])


def farthest_points(z: np.ndarray, n: int, first: int = 0, taken: np.ndarray | None = None) -> np.ndarray:
    """Numbers (n,) of points z (K, P), each the farthest from those before it and from points `taken` (T, P).

    Examples:
        >>> farthest_points(np.array([[0.0], [0.2], [0.9], [1.0]]), 3).tolist()
        [0, 3, 1]
    """
    if taken is not None and len(taken):
        distance = cKDTree(taken).query(z)[0]
        chosen = [int(np.argmax(distance))]
    else:
        distance, chosen = np.full(len(z), np.inf), [first]
    while True:
        distance = np.minimum(distance, np.linalg.norm(z - z[chosen[-1]], axis=1))
        if len(chosen) >= min(n, len(z)):
            return np.array(chosen)
        chosen.append(int(np.argmax(distance)))


@dataclass(frozen=True, eq=False)
class Coverage:
    """How far configurations reach over the set that the posterior describes.

    Args:
        extent: (P,) their range along each principal axis of the posterior, over its central 90 %.
        covered: share of posterior draws no farther from a configuration than draws are from as many other draws.
        by_chance: the share that as many draws of the posterior itself cover.
        evenness: median distance to the nearest other configuration, over that of as many posterior draws.
    """

    extent: np.ndarray
    covered: float
    by_chance: float
    evenness: float

    def summary(self) -> str:
        """One line."""
        low, middle = np.quantile(self.extent, [0.1, 0.5])
        return (f"coverage: {self.covered:.0%} of posterior draws lie near a configuration ({self.by_chance:.0%} with "
                f"as many posterior draws), extent {middle:.0%} of the posterior's along the median axis ({low:.0%} at "
                f"the lowest tenth), spacing {self.evenness:.2f} times that of posterior draws")  # fmt: skip


def coverage(density: Density, theta: np.ndarray, pool: int = 2000, seed: int = 0) -> Coverage:
    """Coverage of the posterior by configurations theta (K, P), declared units, K >= 2.

    Raises:
        InferenceError: fewer than two configurations.
    """
    z = unbounded(density.prior, theta)
    if len(z) < 2:
        raise InferenceError(f"coverage needs two configurations or more, got {len(z)}")
    drawn = density.sample(pool + len(z), stream_key(seed, "coverage") % 2**62)
    points = np.clip(density.prior.unconstrain(drawn), -LIMIT, LIMIT)
    like, others = points[: len(z)], points[len(z) :]
    axes = np.linalg.eigh(np.atleast_2d(np.cov(others.T)))[1]
    central = np.ptp(np.quantile(others @ axes, [0.05, 0.95], axis=0), axis=0)
    extent = np.ptp(z @ axes, axis=0) / np.maximum(central, 1e-12)
    reach = float(np.quantile(cKDTree(like).query(others)[0], 0.9))
    shares = [float((cKDTree(p).query(others)[0] <= reach).mean()) for p in (z, like)]
    spacing = [float(np.median(cKDTree(p).query(p, k=2)[0][:, 1])) for p in (z, like)]
    return Coverage(extent, shares[0], shares[1], spacing[0] / max(spacing[1], 1e-12))


@dataclass(frozen=True)
class Growth:
    """One round of `grow`.

    Args:
        step: of the proposals, in units of the differences between members.
        tried, verified: how many configurations.
        screened: how many of those tried were given up after one seed.
        expected: share of them that the surrogate expected to be verified; NaN without one.
    """

    step: float
    tried: int
    verified: int
    screened: int = 0
    expected: float = float("nan")


def grow(
    posterior: Posterior, ensemble: Ensemble, n: int, runner: Runner, *, most: int = 2000, batch: int = 64,
    step: float = 0.5, known: TrainingData | None = None,
    report: Callable[[Growth, Ensemble], None] | None = None,
) -> tuple[Ensemble, tuple[Growth, ...]]:
    """Verify configurations around verified ones until there are n.

    Candidates are posterior draws, so that members do not confine them, and members moved along differences of other
    members, so that steps follow the set, or of posterior draws; moves that the posterior finds too unlikely are
    dropped. A surrogate of the features, learned anew in every round from all that was simulated near the members
    (`learn`), picks candidates that may well be verified, and of these the farthest from all members are simulated,
    beside some at random. The length of the steps follows the share that is verified. A configuration whose first
    seed is far out gets no second one (`screened`).

    Args:
        posterior: of the ensemble's observation.
        ensemble: to grow; with fewer than three verified members candidates are posterior draws alone.
        n: verified configurations wanted, those of the ensemble included.
        runner: how to simulate; `repeats` are the ensemble's own.
        most: configurations simulated at most; batch: in each round.
        step: of the first round, see `Growth`.
        known: simulations made already that the surrogate may learn from, such as those of the posterior's table.
        report: called after each round with what it gave and the ensemble so far.

    Returns:
        The ensemble with every configuration tried, judged together by the ensemble's rule, and the rounds.

    Raises:
        InferenceError: an ensemble that is not the posterior's, or simulations to learn from that are not of its kind.
    """
    require_match(posterior, ensemble)
    density, rounds, surrogate = posterior(ensemble.observation), list[Growth](), None
    runner = replace(runner, repeats=ensemble.values.shape[1])
    while ensemble.verified.sum() < n and sum(r.tried for r in rounds) < most:
        key, surrogate = stream_key(runner.seed, "grow", len(rounds)), learn(ensemble, known, surrogate)
        proposals, expected = _proposals(density, ensemble, surrogate, batch, step, key)
        runs = screened(ensemble, ensemble.prior.constrain(proposals), replace(runner, seed=key % 2**62))
        before, ensemble = len(ensemble.theta), joined(density, ensemble, runs)
        given_up = int((runs.outcomes == SCREENED).any(1).sum())
        found = Growth(step, len(runs), int(ensemble.verified[before:].sum()), given_up, expected)
        rounds.append(found)
        if report is not None:
            report(found, ensemble)
        change = np.exp((found.verified / max(found.tried, 1) - _WANTED) / (2 * _WANTED))
        step = float(np.clip(step * change, _SMALLEST_STEP, _LARGEST_STEP))
    return ensemble, tuple(rounds)


def _proposals(
    density: Density, ensemble: Ensemble, surrogate: Surrogate | None, n: int, step: float, key: int
) -> tuple[np.ndarray, float]:
    """n candidates (n, P), unbounded coordinates, between and around the members, and the yield expected of them."""
    random, z = generator(key, "picked"), unbounded(ensemble.prior, ensemble.members)
    drawn = density.sample((_CANDIDATES if len(z) < _FEW else _DRAWN) * n, key % 2**62)
    kept = np.clip(ensemble.prior.unconstrain(drawn), -LIMIT, LIMIT)
    if len(z) >= _FEW:
        kept = np.concatenate([kept, _moved(density, ensemble, n, step, key)])
    chance = np.full(len(kept), np.nan)
    if surrogate is not None:
        chance = surrogate.probability(kept)
        likely = np.argsort(-chance, kind="stable")[: _LIKELY * n]
        kept, chance = kept[likely], chance[likely]
    # The farthest alone would all lie on the rim.
    far = farthest_points(kept, n // 2, taken=z)
    rest = random.permutation(np.setdiff1d(np.arange(len(kept)), far))
    chosen = np.concatenate([far, rest[: n - len(far)]])
    return kept[chosen], float(chance[chosen].mean())


def _moved(density: Density, ensemble: Ensemble, n: int, step: float, key: int) -> np.ndarray:
    """Candidates (m, P), m >= n: members that were moved, those that are too unlikely left out."""
    random, z = generator(key, "proposals"), unbounded(ensemble.prior, ensemble.members)
    many = (_CANDIDATES - _DRAWN) * n
    drawn = np.clip(ensemble.prior.unconstrain(density.sample(2 * many, (key + 1) % 2**62)), -LIMIT, LIMIT)
    # Members that stand alone are left more often: their surroundings are known least.
    alone = cKDTree(z).query(z, k=min(4, len(z)))[0][:, -1]
    parent = random.choice(len(z), size=many, p=alone / alone.sum())
    a, b = random.integers(len(z), size=(2, many))
    by_members = random.random((many, 1)) < 0.5
    move = np.where(by_members, z[a] - z[b], drawn[:many] - drawn[many:])
    moved = np.clip(z[parent] + step * random.random((many, 1)) * move, -LIMIT, LIMIT)[a != b]
    likely = moved[log_density(density, moved) >= np.quantile(log_density(density, z), _LOWEST)]
    return likely if len(likely) >= n else moved


def joined(density: Density, ensemble: Ensemble, runs: Resimulated) -> Ensemble:
    """The ensemble with more configurations, as many seeds each, all judged together."""
    every = Resimulated(*(np.concatenate([getattr(ensemble, name), getattr(runs, name)])
                          for name in ("theta", "values", "states", "outcomes")))  # fmt: skip
    z = unbounded(ensemble.prior, runs.theta)
    log_prob = log_density(density, z) - ensemble.prior.log_abs_det(z)
    return replace(
        ensemble, theta=every.theta, values=every.values, states=every.states, outcomes=every.outcomes,
        log_prob=np.concatenate([ensemble.log_prob, log_prob]), judgement=judged(ensemble, every),
    )  # fmt: skip


