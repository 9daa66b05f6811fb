"""Everything consistent with the data and with some parameters held fixed or within bounds, without training again.

Bounds that many posterior draws respect are met by keeping those. Otherwise draws near the condition, moved to it by
local-linear regression (Beaumont et al. 2002, Genetics 162:2025), start a population of Markov chains on the
posterior's own density, which propose differences of one another (ter Braak 2006, Stat Comput 16:239); half of the
chains at a time, so that each is a valid Metropolis step.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sbi_circuits.errors import InferenceError, PriorError, UnknownNameError
from sbi_circuits.prior import Prior
from sbi_circuits.seeds import generator, stream_key
from sbi_circuits.subspace.density import LIMIT, Density, log_density

Bounds = Mapping[str, tuple[float, float]]
_POOL = 4000  # posterior draws that conditions start from
_CHAINS, _LEAST_CHAINS = 500, 200
_COORDINATES = 7000  # chains times parameters: evaluating more takes longer
_NEAR = 0.1  # share of the pool that counts as near a fixed value
_JUMP = 0.1  # share of steps that try a whole difference, which leads from mode to mode


@dataclass(frozen=True)
class Condition:
    """Parameters held at a value or between bounds, in declared units.

    Examples:
        >>> from sbi_circuits.subspace.examples import plain_prior
        >>> Condition.of(plain_prior(2), {"p0": 0.5}, {"p1": (-0.5, 3.0)}).text
        'p0 = 0.5, -0.5 <= p1 <= 1'
    """

    fixed: tuple[tuple[str, float], ...]
    bounded: tuple[tuple[str, float, float], ...]

    @classmethod
    def of(cls, prior: Prior, fixed: Mapping[str, float] | None = None, bounded: Bounds | None = None) -> "Condition":
        """Check a condition against a prior; bounds are cut off at the prior's.

        Raises:
            UnknownNameError: a parameter that is not there.
            PriorError: a value outside the prior, bounds that leave nothing of it, or no free parameter.
        """
        fixed, bounded = dict(fixed or {}), dict(bounded or {})
        for name in (*fixed, *bounded):
            if name not in prior.names:
                raise UnknownNameError("parameter", name, prior.names)
        for name in fixed.keys() & bounded.keys():
            raise PriorError(f"{name} is both fixed and bounded; give one of them")
        if len(fixed) == len(prior):
            raise PriorError("every parameter is fixed; leave one free")
        for name, value in fixed.items():
            p = prior[name]
            if not p.low <= value <= p.high:
                raise PriorError(f"{name} = {value:g} {p.unit} is outside its prior [{p.low:g}, {p.high:g}]")
        cut = [(name, *_overlap(prior, name, *ends)) for name, ends in bounded.items()]
        return cls(tuple((k, float(v)) for k, v in fixed.items()), tuple(cut))

    @property
    def text(self) -> str:
        """For people."""
        held = [f"{name} = {value:g}" for name, value in self.fixed]
        return ", ".join([*held, *(f"{low:g} <= {name} <= {high:g}" for name, low, high in self.bounded)]) or "nothing"


def _overlap(prior: Prior, name: str, low: float, high: float) -> tuple[float, float]:
    p = prior[name]
    if not low < high or low >= p.high or high <= p.low:
        raise PriorError(f"bounds {low:g} to {high:g} of {name} leave nothing of its prior [{p.low:g}, {p.high:g}]")
    return max(float(low), p.low), min(float(high), p.high)


@dataclass(frozen=True, eq=False)
class Conditional:
    """Draws under a condition.

    Args:
        condition: that they meet.
        theta: (n, P), declared units.
        log_prob: (n,) log density of the unconditioned posterior, unbounded coordinates.
        exact: whether they are independent draws; else they come from Markov chains.
        acceptance: share of the posterior within the bounds where exact, else of proposals accepted.
        shift: (P,) of the mean against the unconditioned posterior, in its standard deviations.
    """

    condition: Condition
    theta: np.ndarray
    log_prob: np.ndarray
    exact: bool
    acceptance: float
    shift: np.ndarray

    def summary(self, names: tuple[str, ...]) -> str:
        """One line: how it was drawn, and what else moved."""
        order = [p for p in np.argsort(-np.abs(self.shift), kind="stable") if names[p] not in self._held][:4]
        moved = ", ".join(f"{names[p]} {self.shift[p]:+.1f} sd" for p in order)
        how = "kept draws of the posterior" if self.exact else "Markov chains"
        return f"given {self.condition.text}: {len(self.theta)} draws ({how}, {self.acceptance:.0%}); moved: {moved}"

    @property
    def _held(self) -> set[str]:
        return {name for name, _ in self.condition.fixed} | {name for name, _, _ in self.condition.bounded}


@dataclass(frozen=True, eq=False)
class Conditioner:
    """Answers conditions on one posterior; its draws are made once, at the first.

    Args:
        density: the posterior.
        seed: of everything random.

    Examples:
        >>> from sbi_circuits.subspace.examples import sum_only
        >>> density = sum_only(3, noise=0.1, total=0.0)
        >>> found = Conditioner(density).given({"p0": 0.8}, n=200)  # p0 at z = 1.28: the others make up for it
        >>> z = density.prior.unconstrain(found.theta)
        >>> bool(abs(z[:, 1:].sum(1).mean() + 1.28) < 0.1)
        True
    """

    density: Density
    seed: int = 0

    @cached_property
    def pool(self) -> np.ndarray:
        """(4000, P) draws of the posterior, unbounded coordinates."""
        theta = self.density.sample(_POOL, stream_key(self.seed, "pool") % 2**62)
        return np.clip(self.density.prior.unconstrain(theta), -LIMIT, LIMIT)

    def given(
        self, fixed: Mapping[str, float] | None = None, bounded: Bounds | None = None, n: int = 1000, steps: int = 30
    ) -> Conditional:
        """n draws of the posterior given fixed or bounded parameters.

        Args:
            fixed: name -> value, declared units.
            bounded: name -> (low, high), declared units.
            n: draws.
            steps: of the Markov chains, where they are needed, before draws are taken.

        Raises:
            UnknownNameError, PriorError: see `Condition.of`.
            InferenceError: fewer than one draw wanted.
        """
        condition = Condition.of(self.density.prior, fixed, bounded)
        if n < 1:
            raise InferenceError(f"cannot draw {n} configurations")
        region = _Region.of(self.density.prior, condition)
        inside = self.pool[region.contains(self.pool)]
        if not condition.fixed and len(inside) >= min(n, _POOL // 4):
            z, share = self._kept(region, inside, n)
            return self._result(condition, z, True, share)
        z, accepted = self._chains(region, n, steps)
        return self._result(condition, z, False, accepted)

    def _kept(self, region: "_Region", inside: np.ndarray, n: int) -> tuple[np.ndarray, float]:
        """n draws of the posterior that are inside."""
        parts, share = [inside], len(inside) / _POOL
        while sum(map(len, parts)) < n:
            seed = stream_key(self.seed, "kept", len(parts)) % 2**62
            theta = self.density.sample(int(1.2 * n / share) + 1, seed)
            z = np.clip(self.density.prior.unconstrain(theta), -LIMIT, LIMIT)
            parts.append(z[region.contains(z)])
        return np.concatenate(parts)[:n], share

    def _chains(self, region: "_Region", n: int, steps: int) -> tuple[np.ndarray, float]:
        random = generator(self.seed, "chains")
        chains = min(n, int(np.clip(_COORDINATES // len(region.low), _LEAST_CHAINS, _CHAINS)))
        takes = -(-n // chains)
        z = region.start(self.pool, chains, random)
        log_p = log_density(self.density, z)
        free = np.flatnonzero(~region.fixed)
        taken, accepted = [], []
        for k in range(steps + (takes - 1) * max(steps // 4, 1) + 1):
            for half in _halves(chains, random):
                accepted.append(self._step(z, log_p, half, region, free, random))
            if k >= steps and (k - steps) % max(steps // 4, 1) == 0:
                taken.append(z.copy())
        return np.concatenate(taken)[:n], float(np.mean(accepted))

    def _step(
        self, z: np.ndarray, log_p: np.ndarray, half: tuple[np.ndarray, np.ndarray], region: "_Region",
        free: np.ndarray, random: np.random.Generator,
    ) -> float:  # fmt: skip
        """Move one half of the chains in place by differences of the other; the share that moved."""
        own, others = half
        a, b = others[random.integers(len(others), size=(2, len(own)))]
        usual = 2.38 / np.sqrt(2.0 * len(free)) * np.exp(0.5 * random.standard_normal(len(own)))
        scale = np.where(random.random(len(own)) < _JUMP, 1.0, usual)[:, None]
        proposal = z[own].copy()
        proposal[:, free] += scale * (z[a] - z[b])[:, free] + 1e-3 * random.standard_normal((len(own), len(free)))
        inside = region.contains(proposal)
        log_new = np.full(len(own), -np.inf)
        if inside.any():
            log_new[inside] = log_density(self.density, proposal[inside])
        moved = np.log(random.random(len(own))) < log_new - log_p[own]
        z[own[moved]], log_p[own[moved]] = proposal[moved], log_new[moved]
        return float(moved.mean())

    def _result(self, condition: Condition, z: np.ndarray, exact: bool, acceptance: float) -> Conditional:
        theta = self.density.prior.constrain(z)
        for name, value in condition.fixed:  # exactly, not to the last digit of the map and back
            theta[:, self.density.prior.names.index(name)] = value
        shift = (z.mean(0) - self.pool.mean(0)) / np.maximum(self.pool.std(0), 1e-12)
        return Conditional(condition, theta, log_density(self.density, z), exact, acceptance, shift)


def condition(
    density: Density, fixed: Mapping[str, float] | None = None, bounded: Bounds | None = None, n: int = 1000,
    seed: int = 0,
) -> Conditional:
    """n draws of a posterior given fixed or bounded parameters; for several conditions keep a `Conditioner`."""
    return Conditioner(density, seed).given(fixed, bounded, n)


@dataclass(frozen=True, eq=False)
class _Region:
    """A condition in unbounded coordinates: low and high (P,), equal where a parameter is fixed."""

    low: np.ndarray
    high: np.ndarray

    @classmethod
    def of(cls, prior: Prior, condition: Condition) -> "_Region":
        low, high = np.full(len(prior), -LIMIT), np.full(len(prior), LIMIT)
        for name, first, last in (*((n, v, v) for n, v in condition.fixed), *condition.bounded):
            at = prior.names.index(name)
            ends = prior.constrain(np.zeros((2, len(prior))))
            ends[:, at] = first, last
            low[at], high[at] = np.clip(prior.unconstrain(ends)[:, at], -LIMIT, LIMIT)
        return cls(low, high)

    @property
    def fixed(self) -> np.ndarray:
        return self.low == self.high

    def contains(self, z: np.ndarray) -> np.ndarray:
        return np.asarray(((z >= self.low) & (z <= self.high) | self.fixed).all(1) & (z[:, self.fixed]
                          == self.low[self.fixed]).all(1))  # fmt: skip

    def start(self, pool: np.ndarray, chains: int, random: np.random.Generator) -> np.ndarray:
        """(chains, P) of the pool near the region, moved into it along the regression of all on what is held."""
        held = (self.low > -LIMIT) | (self.high < LIMIT)
        target = np.clip(pool, self.low, self.high)
        scale = np.maximum(pool[:, held].std(0), 1e-9)
        gap = (target - pool)[:, held] / scale
        distance = np.sqrt((gap**2).sum(1))
        near = np.argsort(distance, kind="stable")[: max(int(_NEAR * len(pool)), 4 * held.sum() + 10)]
        reach = max(float(distance[near[-1]]), 1e-9)
        weight = np.maximum(1.0 - (distance[near] / reach) ** 2, 1e-3)
        chosen = random.choice(len(near), size=chains, p=weight / weight.sum())
        x = pool[near][:, held]
        centred = x - np.average(x, axis=0, weights=weight)
        cross = centred.T @ (weight[:, None] * centred)
        ridge = 1e-3 * np.trace(cross) / len(cross) * np.eye(len(cross)) + 1e-12 * np.eye(len(cross))
        y = pool[near][:, ~held]
        y = y - np.average(y, axis=0, weights=weight)
        slope = np.linalg.solve(cross + ridge, centred.T @ (weight[:, None] * y))
        z = pool[near[chosen]].copy()
        z[:, ~held] += (target[near[chosen]] - z)[:, held] @ slope
        z[:, held] = target[near[chosen]][:, held]
        return np.clip(z, self.low, self.high)


def _halves(chains: int, random: np.random.Generator) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    order = random.permutation(chains)
    a, b = order[: chains // 2], order[chains // 2 :]
    return ((a, b), (b, a)) if len(a) else ()
