"""Gradient-informed proposals: where to simulate next, from gradients through simulator and features.

Draws of a posterior are refined (see `refine`); around each of the nearest ones the features are taken as linear in the
prior's unbounded coordinates z, with the Jacobian that automatic differentiation gives, and as normal with the variance
that other seeds give them. The prior is standard normal in z, so that what is left open there is normal too, with
covariance (J' S^-1 J + 1)^-1 (Laplace's approximation with the Gauss-Newton curvature). The proposal is the mixture of
these, widened, with a part that is the prior's own: its density is known, so that weights are exact, and never above
one over that part (a defensive mixture: Hesterberg 1995, Technometrics 37:185).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import logsumexp

from sbi_circuits.campaign import TableProposal
from sbi_circuits.circuit import Circuit
from sbi_circuits.engines.base import Protocol
from sbi_circuits.engines.torch_engine import TorchEngine
from sbi_circuits.errors import InferenceError
from sbi_circuits.gradients.refine import STEP_COST, Refined, Target, constrain, refine
from sbi_circuits.gradients.smooth import check_smooth, smooth_features
from sbi_circuits.prior import Prior
from sbi_circuits.seeds import generator

_Density = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class GradientProposal:
    """A mixture of normals around refined configurations, in the prior's unbounded coordinates.

    Args:
        prior: over the parameters.
        centres: (K, P) in unbounded coordinates.
        covariances: (K, P, P) of the normals.
        refined: what was refined on the way, with its distances by simulations of other seeds.
        simulations: what making it cost, gradients included.
        share: of the prior in the mixture.
    """

    prior: Prior
    centres: np.ndarray
    covariances: np.ndarray
    refined: Refined
    simulations: int
    share: float = 0.2

    def log_prob(self, theta: np.ndarray) -> np.ndarray:
        """Log density of the normals at theta (n, P), declared units, without the prior's part."""
        z = self.prior.unconstrain(np.atleast_2d(theta))
        return self._normals(z) - self.prior.log_abs_det(z)

    def _normals(self, z: np.ndarray) -> np.ndarray:
        roots = np.linalg.cholesky(self.covariances)
        terms = []
        for centre, root in zip(self.centres, roots, strict=True):
            standard = np.linalg.solve(root, (z - centre).T)
            terms.append(-0.5 * (standard**2).sum(0) - np.log(np.diag(root)).sum())
        half = 0.5 * z.shape[1] * np.log(2 * np.pi)
        return np.asarray(logsumexp(terms, axis=0)) - np.log(len(terms)) - half

    def sample(self, n: int, seed: int) -> TableProposal:
        """Configurations for a campaign, with their importance weights.

        Args:
            n: how many.
            seed: of the draws.
        """
        draw = generator(seed, 0, "gradient proposal")
        chosen = draw.integers(len(self.centres), size=n)
        steps = np.einsum("nij,nj->ni", np.linalg.cholesky(self.covariances)[chosen],
                          draw.standard_normal((n, len(self.prior))))  # fmt: skip
        theta = self.prior.constrain(self.centres[chosen] + steps)
        return with_prior_part(self.prior, theta, self.log_prob, self.share, seed, "gradients")


def with_prior_part(
    prior: Prior, theta: np.ndarray, log_prob: _Density, share: float, seed: int, name: str
) -> TableProposal:
    """Draws of any proposal, a share of them replaced by draws of the prior, with weights prior over mixture.

    Args:
        prior: over the parameters.
        theta: (n, P) draws of the proposal, declared units.
        log_prob: of the proposal.
        share: of the prior, above 0: no weight is above its inverse.
        seed: of the draws of the prior.
        name: of the proposal, as it will stand in the table.

    Raises:
        InferenceError: a share that is not between 0 and 1.

    Examples:
        >>> from sbi_circuits.prior import Parameter
        >>> prior = Prior((Parameter("a", "1", 0, 2),))
        >>> near = lambda theta: np.where(theta[:, 0] < 1, 0.0, -np.inf)
        >>> mixed = with_prior_part(prior, np.full((4, 1), 0.5), near, 0.5, 0, "near 0.5")
        >>> bool((mixed.weights <= 2).all()), round(float(mixed.weights.min()), 3)
        (True, 0.667)
    """
    if not 0 < share < 1:
        raise InferenceError(f"the prior's share of a proposal must be above 0 and below 1, got {share:g}")
    own = generator(seed, 1, "prior part").random(len(theta)) < share
    mixed = np.where(own[:, None], prior.sample(len(theta), seed), theta)
    below = np.logaddexp(np.log1p(-share) + log_prob(mixed), np.log(share) + prior.log_prob(mixed))
    return TableProposal(mixed, f"{name}, with {share:.0%} of the prior", np.exp(prior.log_prob(mixed) - below))


def gradient_proposal(
    circuit: Circuit, theta: np.ndarray, target: Target, protocol: Protocol, *, seed: int = 0, steps: int = 10,
    keep: float = 0.5, repeats: int = 4, noises: int = 2, width: float = 1.5, share: float = 0.2,
    engine: TorchEngine | None = None,
) -> GradientProposal:  # fmt: skip
    """A proposal for the next round of simulations towards one observation.

    Args:
        circuit: a rate circuit.
        theta: (n, P) where to begin, declared units, such as draws of the posterior so far.
        target: the observation.
        protocol: of the simulations; its record keeps the target's signal.
        seed: of the simulations; those it verifies by have others than those it descends on.
        steps: of `refine`.
        keep: part of the refined configurations, the nearest, that become centres.
        repeats: simulations by which each of them is verified, and the variance of features is found.
        noises: realisations of the noise over which the Jacobian is averaged.
        width: factor of the standard deviations of the normals.
        share: of the prior in the mixture.
        engine: torch in double precision on the CPU where None.

    Raises:
        FeatureError: a feature without gradient.
        CircuitError: a record without the target's signal.
        InferenceError: no refined configuration can be simulated; a share outside (0, 1).
    """
    engine = TorchEngine("double", "cpu") if engine is None else engine
    refined = refine(circuit, theta, target, protocol, seed=seed, steps=steps, repeats=1, engine=engine)
    order = np.argsort(refined.distance)[: max(1, round(keep * len(theta)))]
    order = order[np.isfinite(refined.distance[order])]
    if len(order) == 0:
        raise InferenceError("none of the refined configurations has the target's features; begin from others")
    centres = circuit.prior.unconstrain(refined.theta[order])
    local = _Local(circuit, target, protocol, seed + 1, engine)
    variance = local.variance(centres, repeats)
    mean = np.mean([local.jacobian(centres, repeats + k) for k in range(noises)], axis=0)
    curvature = np.einsum("kfp,f,kfq->kpq", mean, 1.0 / variance, mean) + np.eye(centres.shape[1])
    covariances = width**2 * np.linalg.inv(curvature)
    # A Jacobian is one simulation forwards, and for each feature about two back.
    cost = len(order) * (repeats + noises * (1 + (STEP_COST - 1) * len(target.features)))
    return GradientProposal(circuit.prior, centres, covariances, refined, refined.simulations + cost, share)


@dataclass(frozen=True, eq=False)
class _Local:
    """Features around some configurations; simulation k of round r has index r n + k."""

    circuit: Circuit
    target: Target
    protocol: Protocol
    seed: int
    engine: TorchEngine

    def features(self, z: torch.Tensor, round_: int) -> torch.Tensor:
        """(n, F) of one simulation each."""
        field, rate = self.target.field, self.protocol.record.signal_rate
        indices = list(range(round_ * len(z), (round_ + 1) * len(z)))
        found = self.engine.signals(self.circuit, constrain(self.circuit.prior, z), self.protocol, self.seed, indices)
        signal = found[field.signal or self.protocol.record.signals[0]][:, field.channel]
        return smooth_features(signal, rate, field)[:, torch.as_tensor(check_smooth(self.target.features, field))]

    def variance(self, z: np.ndarray, repeats: int) -> np.ndarray:
        """(F,) of features from seed to seed, pooled over configurations; of what varies not, next to nothing."""
        with torch.no_grad():
            found = np.stack([self.features(torch.as_tensor(z), r).cpu().numpy() for r in range(repeats)])
        pooled = np.nanmean(np.where(np.isfinite(found), found, np.nan).var(axis=0, ddof=1), axis=0)
        return np.maximum(np.nan_to_num(pooled), (1e-3 * np.asarray(self.target.scale)) ** 2)

    def jacobian(self, z: np.ndarray, round_: int) -> np.ndarray:
        """(n, F, P) of the features by z, with the noise of one round; 0 where it is not finite."""
        start = torch.as_tensor(z).requires_grad_()
        columns = self.features(start, round_).unbind(1)
        rows = [torch.autograd.grad(c.sum(), start, retain_graph=True)[0].cpu().numpy() for c in columns]
        return np.nan_to_num(np.stack(rows, axis=1), nan=0.0, posinf=0.0, neginf=0.0)
