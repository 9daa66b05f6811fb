"""What held-out simulations say of a posterior, and where an observation lies among simulations."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sbi_circuits.calibration import Calibration, LocalCheck, PredictiveCheck, ReachTest, Tarp, ecdf_band
from sbi_circuits.calibration.uniform import spread_ranks
from sbi_circuits.plots.style import ACCENT, GREY, INK, PALE, SMALL, blank, label, number, thin, unit_text

_NAMED = 3  # parameters that get a name in the figure
_MOST = 40  # features in one figure


def rank_plot(calibration: Calibration) -> Figure:
    """How far the distribution of each parameter's ranks is from uniform; the band holds 95 % of exact ones.

    A curve above zero in the first half and below in the second is too narrow a posterior, the reverse too wide a
    one; a curve on one side is shifted. Parameters that leave the band are blue, the worst have their names.
    """
    fig = blank(4.6, 2.8)
    ax = thin(fig.add_subplot(), "left", "bottom")
    u = np.sort(spread_ranks(calibration.ranks, calibration.draws), axis=0)
    n = len(u)
    height = (np.arange(n) + 0.5) / n
    away = height[:, None] - u
    band = ecdf_band(n)
    ax.axhspan(-band, band, color=PALE, lw=0)
    ax.plot([0, 1], [0, 0], color=INK, lw=0.6)
    worst = np.argsort(-np.abs(away).max(0), kind="stable")
    outside = np.abs(away).max(0) > band
    for p in worst[::-1]:
        ax.plot(u[:, p], away[:, p], color=ACCENT if outside[p] else GREY, lw=0.9, alpha=0.9 if outside[p] else 0.6)
    for p in [p for p in worst[:_NAMED] if outside[p]]:
        at = int(np.abs(away[:, p]).argmax())
        ax.annotate(calibration.parameters[p], (u[at, p], away[at, p]), fontsize=SMALL, color=ACCENT,
                    ha="center", va="bottom" if away[at, p] > 0 else "top")  # fmt: skip
    ax.set(xlim=(0, 1), xticks=[0, 0.5, 1])
    ax.margins(y=0.15)
    inside = int((~outside).sum())
    title = f"{inside} of {len(outside)} parameters within the 95 % band, {n} simulations"
    label(ax, "rank among posterior draws", "ECDF - uniform", title)
    return fig


def tarp_plot(tarp: Tarp) -> Figure:
    """Expected coverage of regions of the whole configuration against their credibility, with the 95 % band."""
    fig = blank(3.2, 3.1)
    ax = thin(fig.add_subplot(), "left", "bottom")
    levels = np.linspace(0, 1, 201)
    band = ecdf_band(tarp.rows)
    ax.fill_between(levels, np.clip(levels - band, 0, 1), np.clip(levels + band, 0, 1), color=PALE, lw=0)
    ax.plot([0, 1], [0, 1], color=INK, lw=0.6, ls=(0, (4, 3)))
    ax.plot(levels, tarp.coverage(levels), color=ACCENT, lw=1.1)
    ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xticks=[0, 0.25, 0.5, 0.75, 1], yticks=[0, 0.25, 0.5, 0.75, 1])
    label(ax, "credibility of the region", "expected coverage", f"TARP, p {tarp.p_value:.2g}")
    return fig


def pattern_plot(calibration: Calibration, level: float = 0.9) -> Figure:
    """Coverage of one level by pattern of undefined features and by subset of observed ones."""
    rows = [("all observations", calibration.coverage)]
    rows += [(p.text, p.coverage) for p in calibration.patterns if len(calibration.patterns) > 1]
    rows += [(f"only {name} observed", part.coverage) for name, part in calibration.subsets.items()]
    fig = blank(5.6, 0.8 + 0.24 * len(rows))
    ax = thin(fig.add_subplot(), "bottom")
    at = int(np.abs(calibration.coverage.levels - level).argmin())
    level = float(calibration.coverage.levels[at])
    ax.axvline(level, color=INK, lw=0.6, ls=(0, (4, 3)))
    for y, (_, coverage) in enumerate(rows):
        wrong = abs(coverage.overall[at] - level) > 3 * coverage.overall_error[at]
        ax.errorbar(coverage.overall[at], y, xerr=2 * coverage.overall_error[at], fmt="o", ms=4, elinewidth=1.0,
                    color=ACCENT if wrong else GREY)  # fmt: skip
    ax.set(ylim=(len(rows) - 0.5, -0.5), yticks=range(len(rows)), xlim=(min(0.5, ax.get_xlim()[0]), 1.0))
    ax.set_yticklabels([f"{name} ({coverage.rows})" for name, coverage in rows])
    ax.tick_params(axis="y", length=0)
    label(ax, f"coverage of {level:.0%} intervals, with two standard errors")
    return fig


def local_plot(check: LocalCheck) -> Figure:
    """How well a classifier tells the truth from draws, against classifiers of permuted labels (L-C2ST)."""
    fig = blank(3.6, 2.2)
    ax = thin(fig.add_subplot(), "bottom")
    every = np.maximum(np.append(check.null, check.statistic), 1e-12)
    bins = np.geomspace(every.min() / 1.1, every.max() * 1.1, 40)
    ax.hist(np.maximum(check.null, 1e-12), bins=bins.tolist(), color=GREY, alpha=0.5, label="permuted labels")
    ax.axvline(max(check.statistic, 1e-12), color=ACCENT, lw=1.4, label="this posterior")
    ax.set_xscale("log")
    ax.set_yticks([])
    ax.legend(fontsize=SMALL, frameon=False)
    label(ax, "mean squared distance from not knowing", "", f"L-C2ST, p {check.p_value:.2g}")
    return fig


def predictive_plot(check: PredictiveCheck) -> Figure:
    """Observed features among re-simulated posterior draws, the oddest first; 40 at most."""
    order = np.argsort(check.p_values, kind="stable")[:_MOST]
    fig = blank(6.4, 0.9 + 0.19 * len(order))
    ax = thin(fig.add_subplot(), "bottom")
    failing = check.failing()
    low, middle, high = check.quantiles
    for y, f in enumerate(order):
        colour = ACCENT if check.names[f] in failing else INK
        if not np.isnan(middle[f]):
            ax.plot([-1, 1], [y, y], color=PALE, lw=6, solid_capstyle="butt", zorder=1)
            centre, half = (low[f] + high[f]) / 2, float(high[f] - low[f]) / 2
            half = half or abs(float(check.observed[f] - centre)) or 1.0  # every draw gave the same value
            at = np.clip((check.observed[f] - centre) / half, -2.4, 2.4)
            ax.plot((middle[f] - centre) / half, y, "|", color=GREY, ms=7, zorder=2)
            if not np.isnan(at):
                ax.plot(at, y, "o", color=colour, ms=4, zorder=3)
        unit = unit_text(check.units[f])
        text = "undefined" if np.isnan(check.observed[f]) else f"{number(check.observed[f])} {unit}".strip()
        ax.text(4.0, y, f"{text}, p {check.p_values[f]:.2g}", fontsize=SMALL, color=colour, va="center", ha="right",
                in_layout=False)  # fmt: skip
    ax.set(xlim=(-2.5, 4.1), ylim=(len(order) - 0.4, -0.6), yticks=range(len(order)), xticks=[-2, -1, 0, 1, 2])
    ax.set_yticklabels([check.names[f] for f in order])
    ax.tick_params(axis="y", length=0)
    ax.spines["bottom"].set_bounds(-2.4, 2.4)
    title = f"all features together: p {check.p_joint:.2g}, {check.simulations} simulations"
    label(ax, "position; the band holds 90 % of simulated posterior draws", "", title)
    return fig


def reach_plot(test: ReachTest, x: Any) -> Figure:
    """The observation among simulations, in the two directions in which it differs most and they vary most."""
    values, states = x if isinstance(x, tuple) else (x.values, x.states)
    values, states = np.asarray(values, dtype=float), np.asarray(states)
    seen = np.tile(states != 2, 2)
    points = test.known.points(test.known.values, test.known.states)[:, seen]
    own = test.known.points(values[None], states[None])[0, seen]
    fig = blank(3.6, 3.3)
    ax = thin(fig.add_subplot(), "left", "bottom")
    plane = _plane(points, own)
    _cloud(ax, (points - points.mean(0)) @ plane, (own - points.mean(0)) @ plane)
    found = test.check((values, states))
    title = f"{'in' if found.inside() else 'out of'} reach, p {found.p_value:.2g}"
    label(ax, "along the observation", "across, most variable", title)
    return fig


def _plane(points: np.ndarray, own: np.ndarray) -> np.ndarray:
    """(d, 2) orthonormal: the whitened direction of the observation, and the main one of the points across it."""
    centred = points - points.mean(0)
    covariance = centred.T @ centred / len(points) + 1e-3 * np.eye(points.shape[1])
    first = np.linalg.solve(covariance, own - points.mean(0))
    first /= max(float(np.linalg.norm(first)), 1e-12)
    across = centred - np.outer(centred @ first, first)
    second = np.linalg.svd(across, full_matrices=False)[2][0]
    return np.stack([first, second], axis=1)


def _cloud(ax: Axes, points: np.ndarray, own: np.ndarray) -> None:
    ax.scatter(points[:, 0], points[:, 1], s=4, color=GREY, alpha=0.4, lw=0, label="simulations")
    ax.plot(own[0], own[1], "o", ms=6, color=ACCENT, label="observation")
    ax.legend(fontsize=SMALL, frameon=False)
