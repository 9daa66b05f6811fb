"""One-dimensional mixtures of normals on an interval: density, and draws by inversion.

The mixture is cut off at the ends of the interval and divided by the mass within, so that posteriors that pile up on
a bound keep their shape, no draw leaves it and the density integrates to one. A last, wide component stands for the
prior. Bishop 1994, "Mixture density networks"; autoregressive: Uria et al. 2013, arXiv:1306.0186 (RNADE).
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

_LOG_SQRT_2PI = 0.5 * math.log(2.0 * math.pi)
BEYOND = 3.0  # standard deviations that a mean may lie outside the interval: its mass within stays above 1e-3
_TINY = 1e-30
_STEEP = 7.0  # largest |log sd|
_PRIOR_LOGIT = -4.0


class Mixture(NamedTuple):
    """Components (*, K + 1): log weights before the cut, means and log standard deviations."""

    log_weight: Tensor
    mean: Tensor
    log_sd: Tensor


def initial_bias(components: int) -> Tensor:
    """(3 K + 1,) raw numbers of a mixture close to a standard normal."""
    quantiles = torch.special.ndtri((torch.arange(components) + 0.5) / components)
    sd = 0.6 if components > 1 else 1.0
    mean = quantiles * math.sqrt(1.0 - sd**2) / max(float(quantiles.std(correction=0)), 1e-6)
    log_sd = torch.full((components,), math.log(sd))
    return torch.cat([torch.zeros(components), torch.tensor([_PRIOR_LOGIT]), mean, log_sd])


def mixture(raw: Tensor, low: Tensor, high: Tensor, prior_mean: Tensor, prior_log_sd: Tensor) -> Mixture:
    """The components that raw numbers (*, 3 K + 1) stand for, on the interval [low, high], each (*,)."""
    k = (raw.shape[-1] - 1) // 3
    logits, mean, log_sd = raw.split([k + 1, k, k], dim=-1)
    log_sd = log_sd / (1.0 + log_sd.abs() / _STEEP)
    reach = BEYOND * log_sd.exp()
    mean = torch.minimum(torch.maximum(mean, low[..., None] - reach), high[..., None] + reach)
    mean = torch.cat([mean, prior_mean[..., None]], dim=-1)
    log_sd = torch.cat([log_sd, prior_log_sd[..., None]], dim=-1)
    # As log_softmax, which is slow on so few.
    logits = logits - logits.detach().amax(-1, keepdim=True)
    return Mixture(logits - logits.exp().sum(-1, keepdim=True).log(), mean, log_sd)


def log_density(m: Mixture, u: Tensor, low: Tensor, high: Tensor, bounded: bool) -> Tensor:
    """Log density (*,) at u (*,)."""
    standard = (u[..., None] - m.mean) * (-m.log_sd).exp()
    total = torch.logsumexp(m.log_weight - m.log_sd - 0.5 * standard.square(), dim=-1) - _LOG_SQRT_2PI
    if not bounded:
        return total
    below, within = _masses(m, low, high)
    return total - (m.log_weight.exp() * within).sum(-1).clamp(min=_TINY).log()


class Inverter:
    """Draws from mixtures of K components and the prior's, by inversion. Draws lie along the last axis.

    Args:
        components: K.
        bounded: whether components are cut off at the ends of the interval.
        like: (M, *, B) dtype and device of the draws, and M.
    """

    def __init__(self, components: int, bounded: bool, like: Tensor):
        k, self.bounded = components + 1, bounded
        self.one, self.middle = like.new_ones(()), like.new_tensor(0.5 * components)
        # A product is the fastest cumulative sum over so few.
        self.sums = like.new_ones(k + 1, k).tril_(-1).expand(len(like), -1, -1)
        raw = torch.arange(3 * k - 2, device=like.device).split([k, k - 1, k - 1])
        # Which raw number each row of `__call__` holds; -1 for those of the prior's component.
        self.columns = torch.cat([raw[0], *(functional.pad(part, (0, 1), value=-1) for part in raw[1:])])

    def __call__(
        self, raw: Tensor, uniform: Tensor, low: Tensor, high: Tensor, prior_mean: Tensor, prior_sd: Tensor, out: Tensor
    ) -> None:
        """Of numbers uniform on [0, 1] the component, and where in it: the rank in its share is uniform again.

        Components are cut off in terms of the error function, whose inverse takes a quarter of the time of the normal
        quantile.

        Args:
            raw: (M, 3 K + 3, B), see `columns`; overwritten.
            uniform: (M, B).
            low, high: (M, B) the interval.
            prior_mean, prior_sd: (M, B) or (M, 1), of the last component.
            out: (M, B) the draws.
        """
        weight, mean, sd = raw.chunk(3, dim=1)
        sd.div_(torch.add(self.one, sd.abs(), alpha=1.0 / _STEEP)).exp_()
        mean[:, -1], sd[:, -1] = prior_mean, prior_sd
        low, high = low[:, None], high[:, None]
        if self.bounded:  # bounds that stand for none are never reached
            torch.clamp(mean, min=torch.sub(low, sd, alpha=BEYOND), max=torch.add(high, sd, alpha=BEYOND), out=mean)
        weight, scale = torch.softmax(weight, dim=1), sd.mul_(math.sqrt(2.0))
        left, width = _erf_within(mean, scale, low, high) if self.bounded else (None, None)
        edges = torch.bmm(self.sums, weight if width is None else weight * width)
        rank = uniform[:, None] * edges[:, -1:]
        at = self._chosen(rank, edges[:, 1:-1])
        share = rank.sub_(edges.gather(1, at)).div_(weight.gather(1, at).clamp_(min=_TINY))
        reached = share.mul_(2.0).sub_(1.0) if left is None else share.add_(left.gather(1, at))
        least = torch.finfo(raw.dtype).eps - 1.0
        u = reached.clamp_(least, -least).erfinv_().mul_(scale.gather(1, at)).add_(mean.gather(1, at))
        torch.clamp(u, min=low, max=high, out=out[:, None])

    def _chosen(self, rank: Tensor, between: Tensor) -> Tensor:
        """(M, 1, B) the component that a rank (M, 1, B) falls into, given the edges (M, K, B) between them."""
        # Twice the number of edges passed, less K: sums of signs take half the time of sums of comparisons.
        passed = (rank - between).sign_().sum(1, keepdim=True)
        return torch.add(self.middle, passed, alpha=0.5).long().clamp_(0, between.shape[1])  # of NaN any


def _erf_within(mean: Tensor, scale: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """The error function of each component at the lower end of the interval, and by how much it grows within."""
    left, right = ((end - mean).div_(scale).erf_() for end in (low, high))
    return left, right.sub_(left)


def rank(m: Mixture, u: Tensor, low: Tensor, high: Tensor, bounded: bool) -> Tensor:
    """Cumulative probability (*,) at u (*,)."""
    below, within = _masses(m, low, high) if bounded else (torch.zeros_like(m.mean), torch.ones_like(m.mean))
    reached = torch.special.ndtr((u[..., None] - m.mean) * (-m.log_sd).exp()) - below
    weight = m.log_weight.exp()
    return (weight * reached).sum(-1) / (weight * within).sum(-1)


def _masses(m: Mixture, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Probability of each component below the interval, and within it."""
    scale = math.sqrt(0.5) * (-m.log_sd).exp()
    left = torch.erf((low[..., None] - m.mean) * scale)
    right = torch.erf((high[..., None] - m.mean) * scale)
    return 0.5 * (1.0 + left), 0.5 * (right - left)
