"""Elementwise bijections of u to v whose raw numbers a network gives; every one begins as the identity.

Rational-quadratic splines with shapes that do not depend on the data: Durkan et al. 2019, arXiv:1906.04032.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import pad, softplus

BOUND = 6.0  # splines act on [-6, 6] and are the identity beyond
_LEAST_WIDTH, _LEAST_SLOPE = 1e-3, 1e-3
_SLOPE_ONE = math.log(math.expm1(1.0 - _LEAST_SLOPE))  # softplus of it is a slope of one
_STEEP = 7.0


def width(kind: str, bins: int) -> int:
    """How many raw numbers one parameter takes: "spline" or "affine"."""
    return 3 * bins - 1 if kind == "spline" else 2


def bijection(kind: str, u: Tensor, raw: Tensor, inverse: bool = False) -> tuple[Tensor, Tensor]:
    """v and log |dv / du|, both (*,), of u (*,) and raw (*, width); of the inverse where asked for."""
    return (_spline if kind == "spline" else _affine)(u, raw, inverse)


def _affine(u: Tensor, raw: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
    shift, scale = raw.unbind(-1)
    scale = scale / (1.0 + scale.abs() / _STEEP)
    return ((u * (-scale).exp() - shift), -scale) if inverse else ((u + shift) * scale.exp(), scale)


def _spline(u: Tensor, raw: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
    """Equations 4 to 8 of the paper, the same operations whichever bin and whether inside or not."""
    bins = (raw.shape[-1] + 1) // 3
    x, y = _knots(raw[..., :bins]), _knots(raw[..., bins : 2 * bins])
    slope = pad(_LEAST_SLOPE + softplus(raw[..., 2 * bins :] + _SLOPE_ONE), (1, 1), value=1.0)
    inside = u.abs() < BOUND
    safe = u.clamp(-BOUND, BOUND)[..., None]
    index = ((y if inverse else x)[..., 1:-1] <= safe).sum(-1, keepdim=True)
    at = torch.cat([index, index + 1], dim=-1)
    (x0, x1), (y0, y1), (d0, d1) = (knot.gather(-1, at).unbind(-1) for knot in (x, y, slope))
    mean = (y1 - y0) / (x1 - x0)
    total = d0 + d1 - 2.0 * mean
    t = _solve(safe[..., 0] - y0, y1 - y0, mean, d0, total) if inverse else (safe[..., 0] - x0) / (x1 - x0)
    both = t * (1.0 - t)
    below = mean + total * both
    log_slope = 2.0 * (mean.log() - below.log()) + (d1 * t**2 + 2 * mean * both + d0 * (1 - t) ** 2).log()
    v = x0 + t * (x1 - x0) if inverse else y0 + (y1 - y0) * (mean * t**2 + d0 * both) / below
    log_slope = torch.where(inside, -log_slope if inverse else log_slope, torch.zeros_like(log_slope))
    return torch.where(inside, v, u), log_slope


def _knots(raw: Tensor) -> Tensor:
    """bins + 1 knots from -BOUND to BOUND."""
    share = _LEAST_WIDTH + (1.0 - _LEAST_WIDTH * raw.shape[-1]) * torch.softmax(raw, dim=-1)
    inner = 2.0 * BOUND * share.cumsum(-1)[..., :-1] - BOUND
    ends = torch.full_like(raw[..., :1], BOUND)
    return torch.cat([-ends, inner, ends], dim=-1)


def _solve(rise: Tensor, height: Tensor, mean: Tensor, d0: Tensor, total: Tensor) -> Tensor:
    """Where in the bin the spline has risen by `rise`: the root of equation 29 that stays exact."""
    a = height * (mean - d0) + rise * total
    b = height * d0 - rise * total
    c = -mean * rise
    root = (b.square() - 4.0 * a * c).clamp(min=0.0).sqrt()
    return (2.0 * c / (-b - root)).clamp(0.0, 1.0)
