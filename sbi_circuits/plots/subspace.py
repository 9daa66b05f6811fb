"""Invariant subspaces: directions, what simulation made of them, paths, and comparisons between recordings."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sbi_circuits.errors import InferenceError
from sbi_circuits.plots.configurations import pair
from sbi_circuits.plots.style import ACCENT, GREY, INK, PALE, SMALL, blank, label, thin
from sbi_circuits.prior import Prior
from sbi_circuits.recording import Recording
from sbi_circuits.subspace.between import Comparison
from sbi_circuits.subspace.local import SLOPPY, LocalGeometry
from sbi_circuits.subspace.paths import Paths, Walks
from sbi_circuits.subspace.perturbations import Effect
from sbi_circuits.subspace.proof import WITHIN, DirectionProof, PointProof

_LEAST = 1e-3  # information below this, noise and curvature included, is drawn there
_SHOWN = 3  # directions at either end
_MOST_CHANGE = 12.0  # seed-to-seed standard deviations; beyond, and where a simulation failed, the axis ends


def spectrum_plot(local: LocalGeometry, average: LocalGeometry, prior: Prior) -> Figure:
    """Information along each direction, of single members (grey) and on average, and what the end directions are.

    Args:
        local: geometry at members; average: over them.
        prior: names of the parameters.
    """
    fig = blank(7.0, 2.2 + 0.11 * len(prior))
    left, right = fig.subplots(1, 2, width_ratios=[1.0, 1.3])
    ax, number = thin(left, "left", "bottom"), np.arange(1, len(prior) + 1)
    for values in local.eigenvalues:
        ax.plot(number, np.maximum(values, _LEAST), color=GREY, lw=0.6, alpha=0.5)
    ax.plot(number, np.maximum(average.eigenvalues[0], _LEAST), "o-", color=ACCENT, lw=1.1, ms=3)
    ax.axhline(SLOPPY, color=INK, lw=0.6, ls=(0, (4, 3)))
    ax.set_yscale("log")
    sloppy = int(average.dimension[0])
    label(ax, "direction, stiffest first", "information over the prior's", f"{sloppy} of {len(prior)} sloppy")
    _loadings(thin(right), average.directions[0], prior)
    return fig


def _loadings(ax: Axes, directions: np.ndarray, prior: Prior) -> None:
    shown = min(_SHOWN, len(directions) // 2 or 1)
    rows = np.concatenate([directions[:shown], directions[-shown:]])
    ax.imshow(rows.T, cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto")
    names = [*(f"stiff {k + 1}" for k in range(shown)), *(f"sloppy {k + 1}" for k in range(shown)[::-1])]
    ax.set_xticks(range(len(rows)), names, fontsize=SMALL, rotation=40, ha="right")
    ax.set_yticks(range(len(prior)), [p.label or p.name for p in prior.parameters], fontsize=SMALL)
    ax.axvline(shown - 0.5, color=INK, lw=0.6)
    label(ax, title="parts of each parameter, -1 (blue) to 1 (red)")


def direction_plot(proof: DirectionProof) -> Figure:
    """Simulated feature change against the length of the move, for each kind of direction, with its failures."""
    fig = blank(3.8, 2.8)
    ax = thin(fig.add_subplot(), "left", "bottom")
    colours, dashes = {"sloppy": ACCENT, "sloppy here": ACCENT, "stiff": INK}, {"sloppy here": (0, (4, 2))}
    for name, changes in zip(proof.names, proof.changes, strict=True):
        colour = colours.get(name, GREY)
        for length, change in zip(proof.length, changes, strict=True):
            ax.plot(np.full(len(change.size), length), np.minimum(change.size, _MOST_CHANGE), ".", color=colour, ms=2.5,
                    alpha=0.4)  # fmt: skip
        failed = float(np.mean([c.failure_rate for c in changes]))
        middle = [min(float(np.median(c.size)), _MOST_CHANGE) for c in changes]
        ax.plot(proof.length, middle, "o", ls=dashes.get(name, "-"), color=colour, lw=1.1, ms=4,
                label=f"{name} ({failed:.0%} failed)")  # fmt: skip
    noise = float(np.mean([c.noise.mean() for row in proof.changes for c in row]))
    ax.axhline(noise, color=GREY, lw=0.6, ls=(0, (4, 3)), label="seeds alone")
    ax.set_ylim(0, None)
    ax.legend(fontsize=SMALL, frameon=False)
    label(ax, "length of the move (prior sd)", "feature change (seed-to-seed sd)")
    return fig


def strip_plot(
    found: Paths | Walks, proof: PointProof, title: str = "paths", controls: Mapping[str, PointProof] | None = None
) -> Figure:
    """Feature change at every simulated point: one row a path; rings are verified, crosses failed.

    Args:
        controls: of `prove_controls`; the share of their points that stay stands below.
    """
    fig = blank(6.0, 1.7 + 0.2 * len(found))
    ax = thin(fig.add_subplot(), "bottom")
    points = found.z.shape[1]
    size = np.minimum(proof.size, _MOST_CHANGE)
    image = ax.imshow(np.ma.masked_where(~np.isfinite(proof.size), size), cmap="magma_r", vmin=0, vmax=2 * WITHIN,
                      aspect="auto", extent=(-0.5, points - 0.5, len(found) - 0.5, -0.5))  # fmt: skip
    y, x = np.nonzero(proof.verified)
    ax.plot(x, y, "o", ms=4, mfc="none", mec=INK, mew=0.8)
    y, x = np.nonzero(~np.isfinite(proof.size))
    ax.plot(x, y, "x", ms=5, color=ACCENT)
    bar = fig.colorbar(image, ax=ax, shrink=0.9)
    bar.ax.tick_params(labelsize=SMALL)
    bar.set_label("change (seed-to-seed sd)", fontsize=SMALL)
    ax.set(yticks=[], xticks=range(points))
    within, failed = proof.moved.within(WITHIN), proof.failure_rate
    below = "".join(f"; {name} lines: {x.moved.within(WITHIN):.0%}" for name, x in (controls or {}).items())
    label(ax, f"point along the path{below}", "", f"{title}: {within:.0%} of points within {WITHIN:g} sd, {failed:.0%} "
          "failed; circles: verified")  # fmt: skip
    return fig


def path_rasters(recordings: Sequence[Recording | None], seconds: float = 10.0, units: int = 60) -> Figure:
    """Rasters at the points of one path, in order, one above the other.

    Args:
        recordings: one a point; None where the simulation did not run to the end.
        seconds: of each that are shown.
        units: of each at most.

    Raises:
        InferenceError: no recording at all.
    """
    if not any(r is not None for r in recordings):
        raise InferenceError("no point of the path has a recording to show")
    fig = blank(6.4, 0.5 + 0.62 * len(recordings))
    axes = fig.subplots(len(recordings), 1, squeeze=False)[:, 0]
    for k, (ax, recording) in enumerate(zip(axes, recordings, strict=True)):
        thin(ax).set(yticks=[], xlim=(0, seconds))
        ax.set_ylabel(str(k), fontsize=SMALL, rotation=0, va="center")
        if recording is None:
            ax.text(0.5, 0.5, "did not run to the end", transform=ax.transAxes, ha="center", va="center", color=GREY,
                    fontsize=SMALL)  # fmt: skip
        else:
            for row in range(min(units, recording.n_units)):
                times = recording.unit(row) - recording.t0
                times = times[times < seconds]
                ax.plot(times, np.full(len(times), row), ",", color=INK)
        if ax is not axes[-1]:
            ax.set_xticks([])
    label(thin(axes[-1], "bottom"), "time (s)")
    return fig


def path_pairs(
    theta: np.ndarray, paths: Paths | Walks, prior: Prior, names: Sequence[str] | None = None, most: int = 4
) -> Figure:
    """Pairs of parameters of members theta (K, P), declared units, with paths through them.

    Args:
        names: the parameters; the `most` that change most along the paths where None.
    """
    moved = np.ptp(prior.to_unit(paths.theta), axis=1).mean(0)
    chosen = list(names) if names is not None else [prior.names[p] for p in np.sort(np.argsort(-moved)[:most])]
    fig = pair(theta, prior, chosen)
    axes = np.array(fig.axes).reshape(len(chosen), len(chosen))
    columns = [prior.names.index(name) for name in chosen]
    for i, y in enumerate(columns):
        for j, x in enumerate(columns[:i]):
            for path in paths.theta:
                axes[i, j].plot(path[:, x], path[:, y], color=INK, lw=0.8, alpha=0.8)
                axes[i, j].plot(path[[0, -1], x], path[[0, -1], y], "o", ms=2.5, color=INK)
    return fig


def between_plot(comparison: Comparison) -> Figure:
    """Distance and angle between the subspaces of pairs of observations, against repeats of one configuration."""
    i, j = np.triu_indices(len(comparison.names), 1)
    names = [f"{comparison.names[a]} - {comparison.names[b]}" for a, b in zip(i, j, strict=True)]
    fig = blank(6.6, 1.0 + 0.24 * len(names))
    kinds = (("distance", comparison.distance[i, j], comparison.null_distance, "energy distance (prior sd)"),
             ("angle", np.degrees(comparison.angle[i, j]), np.degrees(comparison.null_angle),
              f"angle of {comparison.stiff} stiff directions (degrees)"))  # fmt: skip
    for ax, (kind, found, null, text) in zip(fig.subplots(1, 2, sharey=True), kinds, strict=True):
        thin(ax, "bottom")
        low, high = np.quantile(null, [0.05, 0.95])
        ax.axvspan(low, high, color=PALE, lw=0)
        beyond = comparison.p_value(kind)[i, j] < 0.05
        for y, value in enumerate(found):
            ax.plot(value, y, "o", ms=4.5, color=ACCENT if beyond[y] else GREY)
        ax.set(ylim=(len(names) - 0.5, -0.5), yticks=range(len(names)), xlim=(0, None))
        ax.set_yticklabels(names)
        ax.tick_params(axis="y", length=0)
        label(ax, text)
    fig.suptitle("band: 90 % of repeated observations of one configuration", fontsize=SMALL, color=INK)
    return fig


def effect_plot(effects: Sequence[Effect]) -> Figure:
    """What each perturbation is expected to tell about which member is right, and how far it moves their features."""
    fig = blank(7.0, 0.9 + 0.3 * len(effects))
    left, right = fig.subplots(1, 2, sharey=True)
    for y, effect in enumerate(effects):
        left.errorbar(effect.information, y, xerr=2 * effect.error, fmt="o", ms=4, elinewidth=1.0, color=ACCENT)
        size = np.minimum(effect.change.size, _MOST_CHANGE)
        right.plot(size, np.full(len(size), y), "|", color=GREY, ms=7)
        right.text(_MOST_CHANGE, y - 0.3, f"{effect.change.failure_rate:.0%} failed", fontsize=SMALL - 1, ha="right")
    thin(left, "bottom").set(ylim=(len(effects) - 0.5, -0.6), yticks=range(len(effects)), xlim=(0, None))
    left.set_yticklabels([effect.perturbation.text for effect in effects])
    thin(right, "bottom").set(xlim=(0, _MOST_CHANGE * 1.02))
    label(left, "expected information (nats, two errors)")
    label(right, "change of members (seed-to-seed sd)")
    return fig
