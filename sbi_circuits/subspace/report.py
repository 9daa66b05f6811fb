"""Everything about the subspace of one ensemble: geometry, directions, paths, walks and conditions, each simulated."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from sbi_circuits.ensemble import Ensemble
from sbi_circuits.errors import InferenceError
from sbi_circuits.features import UNOBSERVED
from sbi_circuits.inference import Posterior, TrainingData
from sbi_circuits.seeds import generator, stream_key
from sbi_circuits.subspace.between import Comparison
from sbi_circuits.subspace.conditioning import Bounds, Conditional, Conditioner
from sbi_circuits.subspace.density import unbounded
from sbi_circuits.subspace.even import Coverage, coverage, farthest_points
from sbi_circuits.subspace.explore import explored_paths
from sbi_circuits.subspace.geometry import GlobalGeometry, global_geometry
from sbi_circuits.subspace.local import (
    Bending,
    LocalGeometry,
    bending,
    fisher,
    from_information,
    local_geometry,
    pooled,
    principal_angles,
    ridge,
)
from sbi_circuits.subspace.paths import Paths, Walks, walk
from sbi_circuits.subspace.perturbations import Effect, FeatureValue
from sbi_circuits.subspace.proof import (
    DirectionProof,
    PointProof,
    prove_controls,
    prove_directions,
    prove_draws,
    prove_paths,
    prove_walks,
)
from sbi_circuits.subspace.resimulate import Runner, circuit_of, members_of, require_match
from sbi_circuits.subspace.surrogate import Refined, Surrogate, learn

_LEAST_MEMBERS = 3
_COMPARED = 3  # stiff directions of curvature and Fisher matrix


@dataclass(frozen=True)
class Plan:
    """How much of the subspace is looked at.

    Args:
        members: at which the local geometry is measured and directions are proved.
        lengths: of moves along directions, prior standard deviations.
        paths, points: how many paths, and points of each; explored: how often the points of a path are simulated and
            learned from before the path that is proved (`explored_paths`); controls: whether straight lines between
            their ends and lines in random directions are simulated as well, which should not stay.
        walks, steps, step: how many walks, their steps and the length of each.
        conditions: (fixed, bounded) pairs; draws: of each that are simulated.
        seed: of every choice here.
    """

    members: int = 12
    lengths: tuple[float, ...] = (0.25, 0.5)
    paths: int = 6
    points: int = 9
    explored: int = 3
    controls: bool = True
    walks: int = 6
    steps: int = 5
    step: float = 0.2
    conditions: tuple[tuple[Mapping[str, float], Bounds], ...] = ()
    draws: int = 12
    seed: int = 0

    def __post_init__(self) -> None:
        if self.members < 2 or not self.lengths or min(self.lengths) <= 0 or self.points < 3:
            raise InferenceError("a plan needs members >= 2, lengths > 0 and points >= 3")
        if min(self.paths, self.explored, self.walks, self.steps, self.draws) < 0 or self.step <= 0:
            raise InferenceError("a plan needs paths, explored, walks, steps and draws >= 0 and a step > 0")


@dataclass(frozen=True, eq=False)
class SubspaceReport:
    """The subspace of an ensemble.

    Args:
        ensemble: whose verified members these are.
        overall: geometry of the members; None where they are too few for it.
        composites: name -> (K,) value of each member, in the unit the circuit gives it.
        local: information of the data at some members, on the ridge near them; average: over them.
        expected: Fisher matrix of the learned likelihood, averaged over the simulations of these members.
        learned: information of one simulation about these members, by the surrogate, on average; None without one.
        bent: angles between their tangent spaces.
        covered: how much of the posterior the members cover.
        directions: feature changes along the sloppiest and stiffest direction of the sum of `average` and `learned`,
            the sloppiest one at each member ("sloppy here"), and a random one.
        paths, paths_proof; walks, walks_proof: None where none were asked for; controls: see `prove_controls`.
        conditionals: draws under conditions, with the proof of some of them.
        comparison: with other observations; effects: of perturbations; features: worth measuring.
    """

    ensemble: Ensemble
    overall: GlobalGeometry | None
    composites: Mapping[str, np.ndarray]
    local: LocalGeometry
    average: LocalGeometry
    expected: LocalGeometry
    bent: Bending
    covered: Coverage
    directions: DirectionProof
    learned: LocalGeometry | None = None
    paths: Paths | None = None
    paths_proof: PointProof | None = None
    controls: Mapping[str, PointProof] = field(default_factory=dict)
    walks: Walks | None = None
    walks_proof: PointProof | None = None
    conditionals: tuple[tuple[Conditional, PointProof], ...] = ()
    comparison: Comparison | None = None
    effects: tuple[Effect, ...] = ()
    features: tuple[FeatureValue, ...] = field(default=())

    def summary(self) -> str:
        """Lines for people."""
        names, average = self.ensemble.prior.names, self.average
        lines = [f"{int(self.ensemble.verified.sum())} verified configurations of {len(self.ensemble.theta)} simulated"]
        lines += [self.overall.summary()] if self.overall else []
        for name, values in self.composites.items():
            low, middle, high = np.nanquantile(values, [0.05, 0.5, 0.95])
            lines.append(f"{name}: {middle:.3g} [{low:.3g}, {high:.3g}]")
        lines += [
            f"stiffest direction: {loadings(average.stiff[0], names)}; sloppiest: {loadings(average.sloppy[0], names)}",
            f"{int(average.dimension[0])} of {len(names)} directions are sloppy; tangent spaces of members lie "
            f"{np.degrees(self.bent.mean):.0f} degrees apart (random ones {np.degrees(self.bent.by_chance):.0f})",
            self._agreement(),
            self.covered.summary(),
            self.directions.summary(),
        ]
        lines += [self.paths_proof.summary("paths")] if self.paths_proof else []
        lines += [proof.summary(f"control, {name} lines") for name, proof in self.controls.items()]
        lines += [self.walks_proof.summary("sloppy walks")] if self.walks_proof else []
        for conditional, proof in self.conditionals:
            lines.append(f"{conditional.summary(names)}; {proof.summary('simulated')}")
        lines += [self.comparison.summary()] if self.comparison else []
        lines += [effect.summary() for effect in self.effects]
        for value in self.features[:5]:
            lines.append(f"measuring {value.name}: {value.information:.2f} +- {value.error:.2f} nats")
        return "\n".join(lines)


    def _agreement(self) -> str:
        """Whether curvature and Fisher matrix see the same stiff directions."""
        stiff = max(1, min(_COMPARED, len(self.ensemble.prior) - 1))
        angles = principal_angles(self.average.directions[0, :stiff], self.expected.directions[0, :stiff])
        first = loadings(self.expected.stiff[0], self.ensemble.prior.names)
        text = (f"Fisher matrix of the learned likelihood: stiffest {first}; its {stiff} stiffest lie "
                f"{np.degrees(angles.mean()):.0f} degrees from those of the curvature")  # fmt: skip
        if self.learned is None:
            return text
        angles = principal_angles(self.average.directions[0, :stiff], self.learned.directions[0, :stiff])
        first, last = (loadings(x[0], self.ensemble.prior.names) for x in (self.learned.stiff, self.learned.sloppy))
        return (f"{text}\nsimulations near the set: stiffest {first}, sloppiest {last}; {stiff} stiffest "
                f"{np.degrees(angles.mean()):.0f} degrees from those of the curvature")  # fmt: skip


def loadings(direction: np.ndarray, names: Sequence[str], most: int = 4) -> str:
    """The parameters with the largest part in a direction (P,)."""
    order = np.argsort(-np.abs(direction), kind="stable")[:most]
    return ", ".join(f"{names[p]} {direction[p]:+.2f}" for p in order)


def analyse(
    posterior: Posterior, ensemble: Ensemble, plan: Plan | None = None, runner: Runner | None = None,
    known: TrainingData | None = None,
) -> SubspaceReport:  # fmt: skip
    """Geometry of an ensemble's subspace, with the simulations that prove it.

    Args:
        posterior: that the ensemble was drawn from.
        ensemble: with three verified members or more; `grow` it first for hundreds.
        plan: how much to look at.
        runner: how to simulate.
        known: see `grow`.

    Raises:
        InferenceError: an ensemble that is not the posterior's, or with too few members.
    """
    plan, runner = plan or Plan(), runner or Runner()
    require_match(posterior, ensemble)
    circuit = circuit_of(ensemble.provenance, ensemble.prior, runner.circuit)
    k = int(ensemble.verified.sum())
    if k < _LEAST_MEMBERS:
        raise InferenceError(f"a subspace needs {_LEAST_MEMBERS} verified members or more, the ensemble has {k}")
    conditions = Conditioner(posterior(ensemble.observation), plan.seed)
    given = [conditions.given(fixed, bounded, n=1000) for fixed, bounded in plan.conditions]
    density, z = conditions.density, unbounded(ensemble.prior, ensemble.members)
    chosen = farthest_points(z, min(plan.members, k), first=int(generator(plan.seed, "first").integers(k)))
    local, surrogate = local_geometry(density, ridge(density, z[chosen])), learn(ensemble, known)
    average, learned = pooled(local), _learned(surrogate, z[chosen])
    sloppy = max(1, int(average.dimension[0]))
    seen = members_of(ensemble).only(ensemble.observation.states != UNOBSERVED)[chosen]
    report = SubspaceReport(
        ensemble=ensemble, overall=global_geometry(ensemble.members, ensemble.prior, plan.seed) if k >= 20 else None,
        composites=circuit.composite_values(ensemble.members), local=local, average=average,
        expected=pooled(fisher(posterior, z[chosen], seen.values, seen.states)),
        bent=bending(local, min(sloppy, len(posterior.prior) - 1) or 1, seed=plan.seed),
        covered=coverage(density, ensemble.members, seed=plan.seed),
        directions=prove_directions(ensemble, chosen, _directions(local, learned, plan.seed), plan.lengths,
                                    _own(runner, 0)),
        learned=None if learned is None else pooled(learned),
    )  # fmt: skip
    if plan.paths:
        ends = path_ends(ensemble, plan.paths, plan.seed)
        paths = explored_paths(density, ensemble, ends, plan.points, _own(runner, -1), plan.explored, known, surrogate)
        proof = prove_paths(ensemble, paths, _own(runner, 1))
        controls = prove_controls(ensemble, paths, proof, _own(runner, 1), plan.seed) if plan.controls else {}
        report = replace(report, paths=paths, paths_proof=proof, controls=controls)
    if plan.walks and plan.steps:
        followed = density if surrogate is None else Refined(density, surrogate)
        walks = walk(followed, z[chosen[: plan.walks]], sloppy, steps=plan.steps, step=plan.step)
        report = replace(report, walks=walks, walks_proof=prove_walks(ensemble, walks, _own(runner, 2)))
    proved = [(c, prove_draws(ensemble, c.theta[: plan.draws], _own(runner, 3 + i))) for i, c in enumerate(given)]
    return replace(report, conditionals=tuple(proved))


def path_ends(ensemble: Ensemble, n: int, seed: int = 0) -> np.ndarray:
    """(n, 2) pairs of verified configurations, numbers among all draws: spread over the set, each with a random other.

    Raises:
        InferenceError: fewer than two verified members.
    """
    members = np.flatnonzero(ensemble.verified)
    if len(members) < 2:
        raise InferenceError(f"a path needs two verified members, the ensemble has {len(members)}")
    random, z = generator(seed, "paths"), unbounded(ensemble.prior, ensemble.members)
    starts = np.resize(farthest_points(z, min(n, len(z)), first=int(random.integers(len(z)))), n)
    ends = (starts + random.integers(1, len(members), size=n)) % len(members)
    return np.asarray(np.column_stack([members[starts], members[ends]]))


def _learned(surrogate: Surrogate | None, z: np.ndarray) -> LocalGeometry | None:
    return None if surrogate is None else from_information(z, surrogate.information(z))


def _directions(local: LocalGeometry, learned: LocalGeometry | None, seed: int) -> dict[str, np.ndarray]:
    """On average over members, at each of them (noisier), and at random.

    By the sum of what the posterior's curvature and the simulations near the set say: a direction is sloppy where
    neither of the two estimates sees information.
    """
    random = generator(seed, "random directions").standard_normal(local.z.shape)
    random /= np.linalg.norm(random, axis=1, keepdims=True)
    both = local if learned is None else from_information(local.z, local.information + learned.information)
    average = pooled(both)
    return {"sloppy": average.sloppy[0], "sloppy here": both.sloppy, "random": random, "stiff": average.stiff[0]}


def _own(runner: Runner, k: int) -> Runner:
    return replace(runner, seed=stream_key(runner.seed, "report", k) % 2**62)
