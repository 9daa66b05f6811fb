"""The smooth features of `Field` on tensors: the same numbers, with gradients."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from sbi_circuits.errors import FeatureError
from sbi_circuits.features.field import BANDS, SMOOTH, Field

_LN10 = float(np.log(10.0))


def welch_power(values: Tensor, rate: float, segment: float) -> tuple[Tensor, Tensor]:
    """Welch's power spectral density as `features.field_spectrum.power_spectrum` gives it.

    Args:
        values: (..., samples).
        rate: samples per second.
        segment: length of the windows, s.

    Returns:
        frequency (F,) in Hz and power (..., F) in unit^2/Hz.

    Raises:
        FeatureError: a signal shorter than a window.
    """
    length = round(segment * rate)
    if values.shape[-1] < length:
        raise FeatureError(f"the signal has {values.shape[-1]} samples, a window of {segment:g} s needs {length}")
    windows = values.unfold(-1, length, length - length // 2)
    taper = torch.hann_window(length, periodic=True, dtype=values.dtype, device=values.device)
    transformed = torch.fft.rfft((windows - windows.mean(-1, keepdim=True)) * taper)
    power = (transformed.real**2 + transformed.imag**2).mean(-2) / (rate * (taper**2).sum())
    doubled = torch.full((power.shape[-1],), 2.0, dtype=values.dtype, device=values.device)
    doubled[0] = 1.0
    if length % 2 == 0:
        doubled[-1] = 1.0
    frequency = torch.arange(power.shape[-1], dtype=values.dtype, device=values.device) * (rate / length)
    return frequency, power * doubled


def smooth_features(values: Tensor, rate: float, field: Field) -> Tensor:
    """The features of `Field` up to `slope`.

    Args:
        values: (B, samples) one channel of each simulation.
        rate: samples per second.
        field: the family with its options; `relative` leaves out the variance.

    Returns:
        (B, F), in the order of `smooth_names(field)`.

    Examples:
        >>> t = torch.arange(2000, dtype=torch.float64) / 1000
        >>> wave = torch.sin(2 * torch.pi * 10 * t)[None]
        >>> found = smooth_features(wave, 1000.0, Field())
        >>> round(float(found[0, smooth_names(Field()).index("centre")]), 1)
        10.0
    """
    frequency, power = welch_power(values, rate, field.segment)
    kept = (frequency >= field.low - 1e-9) & (frequency <= field.high + 1e-9)
    frequency, power = frequency[kept], power[..., kept].clamp_min(1e-300)
    step, total = float(frequency[1] - frequency[0]), power.sum(-1)
    scale = total if field.relative else torch.full_like(total, 1.0 / step)
    found = [
        torch.log(power[..., (frequency >= low) & (frequency < high)].sum(-1) / scale) / _LN10 for _, low, high in BANDS
    ]
    if not field.relative:
        found.append(torch.log(total * step) / _LN10)
    centre = (frequency * power).sum(-1) / total
    spread = (((frequency - centre[..., None]) ** 2 * power).sum(-1) / total).sqrt()
    logarithm = torch.log(frequency) / _LN10
    weights = (logarithm - logarithm.mean()) / ((logarithm - logarithm.mean()) ** 2).sum()
    slope = (torch.log(power) / _LN10 * weights).sum(-1)
    return torch.stack([*found, centre, spread, slope], dim=-1)


def smooth_names(field: Field) -> tuple[str, ...]:
    """Names of what `smooth_features` gives, without the family's."""
    return tuple(n for n in SMOOTH if not (field.relative and n == "log_variance"))


def smooth_pair(values: Tensor, rate: float, segment: float = 1.0) -> Tensor:
    """Correlation at lag 0 and coherence by band of two channels, as `FieldPair` gives them.

    Args:
        values: (B, 2, samples).
        rate: samples per second.
        segment: length of Welch's windows, s.

    Returns:
        (B, 1 + bands).
    """
    centred = values - values.mean(-1, keepdim=True)
    x, y = centred[:, 0], centred[:, 1]
    correlation = (x * y).sum(-1) / ((x**2).sum(-1) * (y**2).sum(-1)).sqrt()
    length = round(segment * rate)
    windows = values.unfold(-1, length, length - length // 2)
    taper = torch.hann_window(length, periodic=True, dtype=values.dtype, device=values.device)
    a, b = torch.fft.rfft((windows - windows.mean(-1, keepdim=True)) * taper).unbind(1)
    cross = (a.conj() * b).mean(-2)
    power = (a.abs() ** 2).mean(-2) * (b.abs() ** 2).mean(-2)
    coherence = (cross.real**2 + cross.imag**2) / power
    frequency = torch.arange(coherence.shape[-1], dtype=values.dtype, device=values.device) * (rate / length)
    bands = [coherence[:, (frequency >= low) & (frequency < high)].mean(-1) for _, low, high in BANDS]
    return torch.stack([correlation, *bands], dim=-1)


def check_smooth(names: Sequence[str], field: Field) -> np.ndarray:
    """Positions of features in `smooth_names`; raises `FeatureError` for one that has no gradient."""
    valid = smooth_names(field)
    for name in names:
        if name not in valid:
            raise FeatureError(f"feature {name!r} has no gradient; valid: {', '.join(valid)}")
    return np.array([valid.index(n) for n in names])
