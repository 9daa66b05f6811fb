"""The observation beside the re-simulations, feature by feature, in the units verification judges in."""

from itertools import groupby
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from sbi_circuits.ensemble import Ensemble
from sbi_circuits.features import DEFINED
from sbi_circuits.plots.style import ACCENT, GREY, INK, PALE, SMALL, blank, label, number, thin, unit_text
from sbi_circuits.seeds import generator

WIDE = 40  # a family of more features than this is drawn as a curve
_SPAN = 2.5  # half-width of the axis, in bounds of the criterion


def feature_comparison(ensemble: Ensemble, title: str = "") -> Figure:
    """Observed features against re-simulations.

    Single features are rows: each dot is one configuration (mean over its seeds), its difference from the
    observation counted in standard deviations; the band is what counts as agreement, ticks are windows of the
    recording. Families of more than 40 features, spectra above all, are curves.

    Args:
        ensemble: with any number of verified members.
        title: of the figure.
    """
    rows, curves = _split(ensemble)
    heights = [0.75 + 0.19 * len(rows)] * bool(len(rows)) + [2.2] * len(curves)
    fig = blank(7.2, sum(heights) or 1.0)
    if not heights:
        return fig
    axes = list(fig.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0])
    if len(rows):
        _rows(thin(axes.pop(0), "bottom"), ensemble, rows)
    for ax, (family, features) in zip(axes, curves.items(), strict=True):
        _curve(thin(ax, "left", "bottom"), ensemble, family, features)
    if title:
        fig.suptitle(title, fontsize=SMALL + 1, color=INK, x=0.01, ha="left")
    return fig


def _split(ensemble: Ensemble) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Features to draw as rows, and those of wide families; only what the observation defines."""
    names, seen = ensemble.feature_set.names, ensemble.observation.states == DEFINED
    families = {
        k: [i for i, _ in v] for k, v in groupby(enumerate(names), lambda pair: pair[1].split(".")[0])
    }
    defined = {family: np.array([i for i in own if seen[i]], dtype=int) for family, own in families.items()}
    wide = {family: own for family, own in defined.items() if len(own) > WIDE}
    narrow = [own for family, own in defined.items() if family not in wide]
    return np.concatenate([np.zeros(0, dtype=int), *narrow]), wide


def _rows(ax: Axes, ensemble: Ensemble, features: np.ndarray) -> None:
    found = ensemble.judgement
    edge = _SPAN * found.bound
    height = len(features)
    ax.add_patch(Rectangle((-found.bound, -0.5), 2 * found.bound, height, color=PALE, lw=0))
    ax.plot([0, 0], [-0.5, height - 0.5], color=INK, lw=0.6)
    jitter = generator(0, "jitter").uniform(-0.28, 0.28, len(ensemble.theta))
    windows = _windows(ensemble)
    for row, f in enumerate(features):
        for kept, colour, size, order in ((~found.verified, GREY, 4, 2), (found.verified, ACCENT, 7, 3)):
            z = np.clip(found.z[kept, f], -edge, edge)
            ax.scatter(z, row + jitter[kept], s=size, color=colour, alpha=0.6, lw=0, zorder=order)
        own = windows[:, f][ensemble.observation.window_states[:, f] == DEFINED]
        inside = own[np.abs(own) < edge]
        ax.plot(inside, np.full(len(inside), row), "|", ms=6, mew=0.7, color=INK, zorder=4)
        _values(ax, ensemble, row, f, edge)
    ax.set(xlim=(-edge * 1.02, edge * 1.85), ylim=(len(features) - 0.4, -1.6), yticks=range(len(features)))
    ax.set_yticklabels([ensemble.feature_set.names[f] for f in features])
    ax.tick_params(axis="y", length=0)
    ax.spines["bottom"].set_bounds(-edge, edge)
    step = max(1, round(found.bound))
    ax.set_xticks(np.arange(-(edge // step), edge // step + 1) * step)
    ax.set_xlabel("difference from the recording (standard deviations)", fontsize=SMALL + 1, color=INK,
                  x=1.02 / 2.87, ha="center")  # fmt: skip
    _legend(ax, ensemble, edge)


def _windows(ensemble: Ensemble) -> np.ndarray:
    """(W, F) windows of the recording as differences from their mean, in seed-to-seed standard deviations."""
    seen = ensemble.observation
    x = ensemble.encoder.scaled(seen.window_values, seen.window_states)
    defined = seen.window_states == DEFINED
    mean = np.where(defined, x, 0.0).sum(0) / np.maximum(defined.sum(0), 1)
    return (x - mean) / ensemble.judgement.unit


def _values(ax: Axes, ensemble: Ensemble, row: int, f: int, edge: float) -> None:
    """Observed value with its spread, and the median of the verified members, as numbers."""
    # Text inside the axes would only slow the layout down.
    style: dict[str, Any] = {"va": "center", "ha": "right", "fontsize": SMALL - 0.5, "in_layout": False}
    seen, unit = ensemble.observation, unit_text(ensemble.feature_set.units[f])
    spread = f" ± {number(seen.spread[f])}" if seen.n_windows > 1 else ""
    ax.text(edge * 1.45, row, f"{number(seen.values[f])}{spread} {unit}", color=INK, **style)
    kept = ensemble.states[ensemble.verified][:, :, f] == DEFINED
    if kept.any():
        middle = np.median(ensemble.values[ensemble.verified][:, :, f][kept])
        ax.text(edge * 1.83, row, f"{number(middle)} {unit}", color=ACCENT, **style)


def _legend(ax: Axes, ensemble: Ensemble, edge: float) -> None:
    n, m = int(ensemble.verified.sum()), len(ensemble.theta)
    style: dict[str, Any] = {"va": "center", "fontsize": SMALL - 0.5, "y": -1.0, "in_layout": False}
    ax.text(x=-edge, s=f"{n} verified", color=ACCENT, ha="left", **style)
    ax.text(x=-edge * 0.66, s=f"{m - n} rejected", color=GREY, ha="left", **style)
    ax.text(x=0, s="| windows of the recording", color=INK, ha="center", **style)
    ax.text(x=edge, s=f"band: ± {ensemble.judgement.bound:.1f} sd", color=GREY, ha="right", **style)
    ax.text(x=edge * 1.45, s="recording", color=INK, ha="right", **style)
    ax.text(x=edge * 1.83, s="verified", color=ACCENT, ha="right", **style)


def _curve(ax: Axes, ensemble: Ensemble, family: str, features: np.ndarray) -> None:
    seen, kept = ensemble.observation, ensemble.verified
    names = [ensemble.feature_set.names[f] for f in features]
    x = _numbers(names)
    own = seen.values[features]
    if seen.n_windows > 1:
        spread = seen.spread[features]
        ax.fill_between(x, own - spread, own + spread, color=PALE, lw=0)
    if kept.any():
        values = ensemble.values[kept][:, :, features].mean(1)
        low, high = np.quantile(values, [0.05, 0.95], axis=0)
        ax.fill_between(x, low, high, color=ACCENT, alpha=0.3, lw=0, label=f"{kept.sum()} verified, 90 %")
        ax.plot(x, np.median(values, axis=0), color=ACCENT, lw=0.9)
    ax.plot(x, own, color=INK, lw=0.9, label="recording, sd of windows")
    ax.legend(fontsize=SMALL, frameon=False, loc="upper right")
    ax.set_xlim(x[0], x[-1])
    frequency = family == "spectrum"
    label(ax, "frequency (Hz)" if frequency else f"{family}, index", "log10 power" if frequency else family)


def _numbers(names: list[str]) -> np.ndarray:
    """The number each name ends in (a frequency), or positions where they do not end in one."""
    try:
        return np.array([float(name.rsplit("_", 1)[-1]) for name in names])
    except ValueError:
        return np.arange(len(names), dtype=float)
