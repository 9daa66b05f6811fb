"""Configurations pulled onto an observation by gradients through simulator and features.

Each configuration descends the distance of its own features from the observation, in the prior's unbounded coordinates
(so it never leaves the prior) and with the same noise in every step, in the direction of Adam (Kingma, Ba 2015, arXiv
1412.6980); a step that leads away is taken back and the next one is shorter. What comes out is a set of configurations
near the observation; it is no sample of the posterior. The distances that are reported are of simulations with other
seeds than those it descended on.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sbi_circuits.circuit import Circuit
from sbi_circuits.engines.base import Protocol
from sbi_circuits.engines.torch_engine import TorchEngine
from sbi_circuits.errors import CircuitError, FeatureError
from sbi_circuits.features.field import Field
from sbi_circuits.gradients.smooth import check_smooth, smooth_features
from sbi_circuits.prior import Prior

# What a step costs in simulations: one forward, and about two for the way back.
STEP_COST = 3
_BETA_1, _BETA_2 = 0.5, 0.9
_Z_MAX = 3.0


@dataclass(frozen=True, eq=False)
class Target:
    """What configurations are pulled onto.

    Args:
        features: names of smooth features of `field`.
        values: (F,) of the observation.
        scale: (F,) differences are counted in these, such as the features' spread over the prior.
        field: signal, channel and options.
    """

    features: tuple[str, ...]
    values: np.ndarray
    scale: np.ndarray
    field: Field

    def __post_init__(self) -> None:
        check_smooth(self.features, self.field)
        shapes = {len(self.features), *np.shape(self.values), *np.shape(self.scale)}
        if len(shapes) != 1 or not (np.asarray(self.scale) > 0).all():
            raise FeatureError(f"target: {len(self.features)} features need as many values and positive scales")

    def distance(self, signal: Tensor, rate: float) -> Tensor:
        """Root mean square difference over the features, (B,); `signal` is (B, samples)."""
        chosen = torch.as_tensor(check_smooth(self.features, self.field), device=signal.device)
        found = smooth_features(signal, rate, self.field)[:, chosen]
        values, scale = (torch.as_tensor(v).to(signal) for v in (self.values, self.scale))
        return (((found - values) / scale) ** 2).mean(-1).sqrt()


@dataclass(frozen=True, eq=False)
class Refined:
    """Configurations before and after.

    Args:
        start, theta: (n, P) in declared units.
        start_distance, distance: (n,) by simulations with seeds of their own; infinite where one diverged.
        path: (steps, n) distance of the simulation of each step.
        simulations: what all of it cost, in simulations (a gradient step counts as `STEP_COST`).
    """

    start: np.ndarray
    theta: np.ndarray
    start_distance: np.ndarray
    distance: np.ndarray
    path: np.ndarray
    simulations: int

    def summary(self) -> str:
        """One line: distances before and after, and the cost."""
        before, after = np.median(self.start_distance), np.median(self.distance)
        return (
            f"{len(self.theta)} configurations: median distance {before:.3g} before, {after:.3g} after, "
            f"{self.simulations} simulations"
        )


def refine(
    circuit: Circuit, theta: np.ndarray, target: Target, protocol: Protocol, *, seed: int = 0, steps: int = 20,
    rate: float = 0.15, repeats: int = 2, segment: int | None = None, engine: TorchEngine | None = None,
) -> Refined:  # fmt: skip
    """Pull configurations onto an observation.

    Args:
        circuit: a rate circuit.
        theta: (n, P) where to begin, in declared units, such as draws of a posterior.
        target: the observation.
        protocol: of the simulations; its record keeps the target's signal.
        seed: of the simulations.
        steps: of gradient descent.
        rate: length of the first steps, in standard deviations of the prior.
        repeats: simulations by which each configuration is verified.
        segment: steps between checkpoints (see `TorchEngine.signals`).
        engine: torch in double precision on the CPU where None.

    Raises:
        FeatureError: a feature without gradient.
        CircuitError: a record without the target's signal.
    """
    engine = TorchEngine("double", "cpu") if engine is None else engine
    start = np.atleast_2d(circuit.prior.validate(theta))
    name = target.field.signal or (protocol.record.signals[0] if protocol.record.signals else "")
    if name not in protocol.record.signals:
        kept = ", ".join(protocol.record.signals) or "none"
        raise CircuitError(f"the record keeps no signal {name!r}; it keeps: {kept}")
    runner = _Runner(circuit, target, protocol, seed, name, segment, engine)
    z, path = _descend(runner, circuit.prior, start, steps, rate)
    found = circuit.prior.constrain(z)
    before, after = (runner.verified(t, repeats) for t in (start, found))
    cost = len(start) * (STEP_COST * steps + 2 * repeats)
    return Refined(start, found, before, after, path, cost)


@dataclass(frozen=True, eq=False)
class _Runner:
    """Simulations to distances; simulation k of round r has index r n + k."""

    circuit: Circuit
    target: Target
    protocol: Protocol
    seed: int
    signal: str
    segment: int | None
    engine: TorchEngine

    def distance(self, theta: Tensor, round_: int) -> Tensor:
        indices = range(round_ * len(theta), (round_ + 1) * len(theta))
        found = self.engine.signals(self.circuit, theta, self.protocol, self.seed, list(indices), self.segment)
        return self.target.distance(found[self.signal][:, self.target.field.channel], self.protocol.record.signal_rate)

    def verified(self, theta: np.ndarray, repeats: int) -> np.ndarray:
        """Mean distance over simulations of rounds that no gradient has seen."""
        with torch.no_grad():
            rows = [self.distance(torch.as_tensor(theta), 1 + r).cpu().numpy() for r in range(repeats)]
        return np.where(np.isfinite(rows), rows, np.inf).mean(axis=0)


def _descend(
    runner: _Runner, prior: Prior, start: np.ndarray, steps: int, rate: float
) -> tuple[np.ndarray, np.ndarray]:
    """The best coordinates of each configuration, and the distance of every simulation on the way."""
    best = torch.as_tensor(np.clip(prior.unconstrain(start), -_Z_MAX, _Z_MAX))
    least = torch.full(best.shape[:1], torch.inf, dtype=best.dtype)
    first, second, accepted = torch.zeros_like(best), torch.zeros_like(best), torch.zeros_like(least)
    size, tried, path = torch.full_like(least, rate), best, []
    for _ in range(steps):
        distance, gradient = _gradient(runner, prior, tried)
        path.append(distance.numpy())
        better = (distance < least) & torch.isfinite(gradient).all(-1)
        best, least = torch.where(better[:, None], tried, best), torch.where(better, distance, least)
        first = torch.where(better[:, None], _BETA_1 * first + (1 - _BETA_1) * gradient, first)
        second = torch.where(better[:, None], _BETA_2 * second + (1 - _BETA_2) * gradient**2, second)
        accepted = accepted + better
        # What is farther away than before, or has diverged, is taken back, and the next step is shorter.
        size = torch.where(better, (1.2 * size).clamp_max(2 * rate), 0.4 * size)
        power = accepted.clamp_min(1)[:, None]
        step = first / (1 - _BETA_1**power) / ((second / (1 - _BETA_2**power)).sqrt() + 1e-8)
        tried = (best - size[:, None] * step).clamp(-_Z_MAX, _Z_MAX)
    return best.numpy(), np.array(path).reshape(steps, len(start))


def _gradient(runner: _Runner, prior: Prior, z: Tensor) -> tuple[Tensor, Tensor]:
    """Distance (n,) and the gradient (n, P) of its logarithm, with the same noise at every call."""
    z = z.detach().requires_grad_()
    distance = runner.distance(constrain(prior, z), 0)
    (gradient,) = torch.autograd.grad(torch.log(distance + 1e-9).sum(), z)
    return torch.nan_to_num(distance.detach().cpu(), nan=torch.inf), gradient


def constrain(prior: Prior, z: Tensor) -> Tensor:
    """`Prior.constrain` on tensors: z in R^P to theta in declared units, differentiably."""
    low, high = (torch.tensor([getattr(p, end) for p in prior.parameters], dtype=z.dtype) for end in ("low", "high"))
    log = torch.tensor([p.scale == "log" for p in prior.parameters])
    a, b = (torch.where(log, torch.log(torch.where(log, v, torch.ones_like(v))), v) for v in (low, high))
    scaled = a + (b - a) * torch.special.ndtr(z)
    return torch.where(log, torch.exp(torch.where(log, scaled, torch.zeros_like(scaled))), scaled)
