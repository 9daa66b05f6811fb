"""One-dimensional mixtures of normals on an interval: density, and draws by inversion.

The mixture is cut off at the ends of the interval and divided by the mass within, so that posteriors that pile up on
a bound keep their shape, no draw leaves it and the density integrates to one. A last, wide component stands for the
prior. Bishop 1994, "Mixture density networks"; autoregressive: Uria et al. 2013, arXiv:1306.0186 (RNADE).
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

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


def mixture(
    raw: Tensor, low: Tensor, high: Tensor, prior_mean: Tensor, prior_log_sd: Tensor, normalised: bool = True
) -> Mixture:
    """The components that raw numbers (*, 3 K + 1) stand for, on the interval [low, high], each (*,).

    Args:
        normalised: the weights sum to one; drawing does not need that.
    """
    k = (raw.shape[-1] - 1) // 3
    logits, mean, log_sd = raw.split([k + 1, k, k], dim=-1)
    log_sd = log_sd / (1.0 + log_sd.abs() / _STEEP)
    reach = BEYOND * log_sd.exp()
    mean = torch.minimum(torch.maximum(mean, low[..., None] - reach), high[..., None] + reach)
    mean = torch.cat([mean, prior_mean[..., None]], dim=-1)
    log_sd = torch.cat([log_sd, prior_log_sd[..., None]], dim=-1)
    # As log_softmax, which is slow on so few.
    logits = logits - logits.detach().amax(-1, keepdim=True)
    return Mixture(logits - logits.exp().sum(-1, keepdim=True).log() if normalised else logits, mean, log_sd)


def log_density(m: Mixture, u: Tensor, low: Tensor, high: Tensor, bounded: bool) -> Tensor:
    """Log density (*,) at u (*,)."""
    standard = (u[..., None] - m.mean) * (-m.log_sd).exp()
    total = torch.logsumexp(m.log_weight - m.log_sd - 0.5 * standard.square(), dim=-1) - _LOG_SQRT_2PI
    if not bounded:
        return total
    below, within = _masses(m, low, high)
    return total - (m.log_weight.exp() * within).sum(-1).clamp(min=_TINY).log()


def draw(m: Mixture, noise: Tensor, low: Tensor, high: Tensor, bounded: bool) -> Tensor:
    """u (*,) of standard normal noise (*,): which component, and where in it, both from the same number.

    The rank of the noise within the share of the chosen component is uniform again.
    """
    below, within = _masses(m, low, high) if bounded else (torch.zeros_like(m.mean), torch.ones_like(m.mean))
    share = m.log_weight.exp() * within
    edges = share.cumsum(-1)
    rank = torch.special.ndtr(noise)[..., None] * edges[..., -1:]
    chosen = (rank > edges).sum(-1, keepdim=True).clamp(max=share.shape[-1] - 1)
    width = share.gather(-1, chosen)
    left = ((rank - edges.gather(-1, chosen)) / width.clamp(min=_TINY) + 1.0).clamp(0.0, 1.0)
    probability = below.gather(-1, chosen) + left * within.gather(-1, chosen)
    tiny = torch.finfo(noise.dtype).eps
    u = m.mean.gather(-1, chosen) + m.log_sd.gather(-1, chosen).exp() * torch.special.ndtri(
        probability.clamp(tiny, 1.0 - tiny)
    )
    return torch.minimum(torch.maximum(u[..., 0], low), high)


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
