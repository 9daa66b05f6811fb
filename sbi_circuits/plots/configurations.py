"""Configurations against their prior: one row per parameter, and pairs of parameters."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator
from scipy.ndimage import gaussian_filter1d

from sbi_circuits.errors import InferenceError
from sbi_circuits.plots.style import ACCENT, GREY, INK, PALE, SMALL, blank, label, number, quantity, thin
from sbi_circuits.prior import Parameter, Prior

_BINS = 60
_DEFAULT_PAIRS = 6


def marginals(
    theta: np.ndarray, prior: Prior, reference: np.ndarray | None = None, title: str = ""
) -> Figure:
    """One thin row per parameter: the density of configurations over the range of the prior.

    Args:
        theta: (K, P) configurations, declared units; K may be 0.
        prior: of theta; its range is the pale band.
        reference: (P,) a configuration to mark, declared units.
        title: of the figure.

    Raises:
        InferenceError: theta of another width than the prior.
    """
    theta = _checked(theta, prior)
    rows = len(prior)
    fig = blank(7.0, 0.7 + 0.27 * rows)
    ax = thin(fig.add_subplot())
    u = prior.to_unit(theta)
    marks = None if reference is None else prior.to_unit(np.asarray(reference, dtype=float))
    for row, parameter in enumerate(prior.parameters):
        _row(ax, row, u[:, row], parameter, theta[:, row])
        if marks is not None:
            ax.plot(marks[row], row, "D", ms=3, mfc="white", mec=INK, mew=0.8, zorder=5)
    ax.set(xlim=(-0.14, 1.52), ylim=(rows - 0.4, -1.3), xticks=[], yticks=range(rows))
    ax.set_yticklabels([p.label or p.name for p in prior.parameters], fontsize=SMALL + 1)
    ax.tick_params(axis="y", length=0)
    _heading(ax, len(theta), reference is not None)
    label(ax, title=title)
    return fig


def _checked(theta: np.ndarray, prior: Prior) -> np.ndarray:
    theta = np.asarray(theta, dtype=float)
    if theta.ndim != 2 or theta.shape[1] != len(prior):
        raise InferenceError(f"configurations have shape {theta.shape}, expected (K, {len(prior)})")
    return theta


def _row(ax: Axes, row: int, u: np.ndarray, parameter: Parameter, values: np.ndarray) -> None:
    ax.add_patch(Rectangle((0, row - 0.4), 1, 0.8, color=PALE, lw=0))
    style: dict[str, Any] = {"fontsize": SMALL - 0.5, "color": GREY, "va": "center", "in_layout": False}
    ax.text(-0.012, row, number(parameter.low), ha="right", **style)
    log = ", log" if parameter.scale == "log" else ""
    ax.text(1.012, row, quantity(parameter.high, parameter.unit) + log, ha="left", **style)
    if not len(u):
        return
    x, density = _density(u)
    ax.fill_between(x, row + 0.4, row + 0.4 - 0.8 * density / density.max(), color=ACCENT, alpha=0.35, lw=0)
    low, q1, middle, q3, high = np.quantile(u, [0.05, 0.25, 0.5, 0.75, 0.95])
    ax.plot([low, high], [row + 0.3] * 2, color=INK, lw=0.7, solid_capstyle="butt")
    ax.plot([q1, q3], [row + 0.3] * 2, color=INK, lw=2.2, solid_capstyle="butt")
    ax.plot(middle, row + 0.3, "o", ms=3.2, mfc="white", mec=INK, mew=0.8)
    low, middle, high = np.quantile(values, [0.05, 0.5, 0.95])
    text = f"{number(middle)} [{number(low)}, {number(high)}]"
    ax.text(1.5, row, text, ha="right", fontsize=SMALL - 0.5, color=INK, va="center", in_layout=False)


def _density(u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Smoothed histogram over the unit interval; reflection keeps what lies at the bounds."""
    counts, edges = np.histogram(np.clip(u, 0, 1), bins=_BINS, range=(0, 1))
    # Silverman's rule in units of bins.
    width = 0.9 * max(float(u.std()), 0.01) * len(u) ** -0.2 * _BINS
    smooth = gaussian_filter1d(counts.astype(float), max(width, 0.7), mode="reflect")
    middles = (edges[1:] + edges[:-1]) / 2
    return np.array([0.0, *middles, 1.0]), np.pad(smooth, 1, mode="edge")


def _heading(ax: Axes, count: int, referenced: bool) -> None:
    style: dict[str, Any] = {"fontsize": SMALL - 0.5, "color": GREY, "va": "center", "in_layout": False}
    what = f"density, median, 50 % and 90 % of {count} configurations" if count else "no configuration"
    reference = "; diamond: reference" if referenced else ""
    ax.text(0.5, -0.85, f"{what}{reference}; band: prior", ha="center", **style)
    ax.text(1.5, -0.85, "median [5 %, 95 %]", ha="right", **style)


def pair(
    theta: np.ndarray,
    prior: Prior,
    names: Sequence[str] | None = None,
    reference: np.ndarray | None = None,
    title: str = "",
) -> Figure:
    """Pairs of parameters below the diagonal, their rank correlation above it, histograms on it.

    Args:
        theta: (K, P) configurations, declared units.
        prior: of theta; axes span its ranges.
        names: the parameters; the six whose range narrowed most where None.
        reference: (P,) a configuration to mark, declared units.
        title: of the figure.

    Raises:
        UnknownNameError: a name that is not in the prior.
        InferenceError: theta of another width than the prior.
    """
    theta = _checked(theta, prior)
    chosen = (
        [prior.names.index(prior[n].name) for n in names] if names is not None else _informed(theta, prior)
    )
    n = len(chosen)
    fig = blank(1.15 * n + 0.8, 1.1 * n + 0.6)
    axes = fig.subplots(n, n, squeeze=False)
    marks = None if reference is None else np.asarray(reference, dtype=float)
    for i, y in enumerate(chosen):
        for j, x in enumerate(chosen):
            ax = axes[i, j]
            if i < j:
                _correlation(ax, theta[:, x], theta[:, y])
                continue
            _scatter(thin(ax, "left", "bottom"), theta, prior, x, y, marks)
            _outer(ax, prior, x, y, bottom=i == n - 1, left=j == 0)
    fig.align_labels()
    if title:
        fig.suptitle(title, fontsize=SMALL + 1, color=INK, x=0.01, ha="left")
    return fig


def _informed(theta: np.ndarray, prior: Prior) -> list[int]:
    """Parameters whose central half narrowed most, in the order of the prior."""
    count = min(_DEFAULT_PAIRS, len(prior))
    if not len(theta):
        return list(range(count))
    q1, q3 = np.quantile(prior.to_unit(theta), [0.25, 0.75], axis=0)
    return sorted(np.argsort(q3 - q1, kind="stable")[:count].tolist())


def _scatter(ax: Axes, theta: np.ndarray, prior: Prior, x: int, y: int, marks: np.ndarray | None) -> None:
    across, up = prior.parameters[x], prior.parameters[y]
    _span(ax, across)
    if x == y:
        grid = np.linspace(0, 1, 21)[:, None].repeat(len(prior), axis=1)
        ax.hist(theta[:, x], bins=prior.from_unit(grid)[:, x].tolist(), color=ACCENT, alpha=0.5, lw=0)
        ax.spines["left"].set_visible(False)
        ax.set_yticks([])
        if marks is not None:
            ax.axvline(marks[x], color=INK, lw=0.8)
        return
    ax.set(yscale=up.scale, ylim=(up.low, up.high))
    size = float(np.clip(300 / max(len(theta), 1), 1.5, 8.0))
    ax.scatter(theta[:, x], theta[:, y], s=size, color=ACCENT, alpha=0.6, lw=0)
    if marks is not None:
        ax.plot(marks[x], marks[y], "D", ms=4, mfc="white", mec=INK, mew=0.9)


def _span(ax: Axes, parameter: Parameter) -> None:
    ax.set(xscale=parameter.scale, xlim=(parameter.low, parameter.high))


def _outer(ax: Axes, prior: Prior, x: int, y: int, bottom: bool, left: bool) -> None:
    """Numbers and labels on the outer axes only."""
    for axis, shown in ((ax.xaxis, bottom), (ax.yaxis, left and x != y)):
        if not shown:
            axis.set_tick_params(which="both", labelleft=False, labelbottom=False)
    for axis, parameter in ((ax.xaxis, prior.parameters[x]), (ax.yaxis, prior.parameters[y])):
        if axis is ax.yaxis and x == y:
            continue
        if parameter.scale == "linear":
            axis.set_major_locator(MaxNLocator(nbins=3))
        else:
            axis.set_major_locator(FixedLocator(_log_ticks(parameter.low, parameter.high)))
            axis.set_major_formatter(lambda value, _: number(value))
            axis.set_minor_locator(NullLocator())
    label(ax, prior.parameters[x].text if bottom else "", prior.parameters[y].text if left else "")


def _log_ticks(low: float, high: float) -> list[float]:
    """At most four round numbers between two bounds, for a logarithmic axis.

    Examples:
        >>> _log_ticks(0.2, 5), _log_ticks(1, 10000)
        ([0.2, 0.5, 2.0, 5.0], [1.0, 20.0, 500.0, 10000.0])
    """
    powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    found = [float(f"{m}e{k}") for k in powers for m in (1, 2, 5) if low <= float(f"{m}e{k}") <= high]
    positions = np.linspace(0, len(found) - 1, min(4, len(found))).round().astype(int)
    return [found[i] for i in positions]


def _correlation(ax: Axes, a: np.ndarray, b: np.ndarray) -> None:
    thin(ax).set(xticks=[], yticks=[])
    if len(a) < 3:
        return
    ranks = np.argsort(np.argsort(np.stack([a, b]), axis=1), axis=1)
    r = float(np.corrcoef(ranks)[0, 1])
    ax.text(0.5, 0.5, f"{r:+.2f}".replace("-", "−"), ha="center", va="center", transform=ax.transAxes,
            fontsize=6.5 + 5 * abs(r), color=INK if abs(r) > 0.3 else GREY)  # fmt: skip
