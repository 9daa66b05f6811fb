"""Connectome-constrained circuits: the lattice, responses, tuning, predictions of an ensemble, training on a task."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure

from sbi_circuits.connectome import Consensus, EdgeTuning, Lattice, TaskFit
from sbi_circuits.connectome.tuning import CURVE_ANGLES, CURVES, MOTION_TYPES, POLARITY, preferred_contrast
from sbi_circuits.errors import CircuitError, UnknownNameError
from sbi_circuits.plots.style import ACCENT, GREY, INK, PALE, SMALL, blank, label, thin

_CORNERS = np.array([(2, 0), (1, 1.5), (-1, 1.5), (-2, 0), (-1, -1.5), (1, -1.5)]) / 3  # hexagons that leave no gap


def lattice_plot(
    lattice: Lattice, frames: Mapping[str, np.ndarray], low: float = 0.0, high: float = 1.0, cmap: str = "gray"
) -> Figure:
    """Values of all columns (C,), one lattice for each title: frames of a stimulus, or voltages of a cell type.

    Raises:
        CircuitError: where a frame has not one value for each column.
    """
    fig = blank(1.7 * max(len(frames), 1), 1.9)
    for k, (title, values) in enumerate(frames.items()):
        if np.shape(values) != (lattice.n_columns,):
            raise CircuitError(f"frame {title!r} has shape {np.shape(values)}, expected ({lattice.n_columns},)")
        ax = thin(fig.add_subplot(1, len(frames), k + 1))
        hexagons = PolyCollection(list(lattice.positions[:, None] + _CORNERS), array=values, cmap=cmap, lw=0.2)
        hexagons.set_clim(low, high)
        hexagons.set_edgecolor(PALE)
        ax.add_collection(hexagons)
        reach = lattice.extent + 1
        ax.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xticks=[], yticks=[])
        label(ax, title=title)
    return fig


def response_plot(
    responses: Mapping[str, np.ndarray], dt: float, onset: float = 0.0, offset: float | None = None
) -> Figure:
    """Voltages (T,), or (M, T) of several models, of one cell each; shaded from onset to offset (s)."""
    fig = blank(4.6, 0.5 + 0.8 * max(len(responses), 1))
    axes = fig.subplots(max(len(responses), 1), 1, sharex=True, squeeze=False)[:, 0]
    for ax, (name, traces) in zip(axes, responses.items(), strict=False):
        thin(ax, "left", "bottom")
        own = np.atleast_2d(traces)
        time = dt * np.arange(own.shape[1])
        ax.axvspan(onset, time[-1] if offset is None else offset, color=PALE, lw=0)
        ax.plot(time, own.T, color=GREY, lw=0.4)
        ax.plot(time, np.median(own, axis=0), color=ACCENT, lw=1.2)
        label(ax, "time (s)" if ax is axes[-1] else "", name)
    return fig


def tuning_plot(cell_types: Sequence[str], tuning: EdgeTuning) -> Figure:
    """Tuning curves of T4 and T5 for the edges they prefer: models (grey), their median (blue), measured (dashed).

    Raises:
        UnknownNameError: where one of these types is not among the cells.
    """
    fig = blank(6.4, 3.4)
    curves = tuning.curves()
    for k, name in enumerate(MOTION_TYPES):
        if name not in cell_types:
            raise UnknownNameError("cell type", name, cell_types)
        ax = fig.add_subplot(2, 4, k + 1, projection="polar")
        own = curves[:, list(cell_types).index(name), preferred_contrast(name)]
        own = own / np.maximum(own.max(-1, keepdims=True), 1e-9)
        theta = np.radians([*tuning.angles, tuning.angles[0]])
        for curve in own:
            ax.plot(theta, [*curve, curve[0]], color=GREY, lw=0.4)
        median = np.median(own, axis=0)
        ax.plot(theta, [*median, median[0]], color=ACCENT, lw=1.4)
        known = np.array([*CURVES[name], CURVES[name][0]])
        ax.plot(np.radians([*CURVE_ANGLES, 0]), known / known.max(), color=INK, lw=0.8, ls=(0, (4, 2)))
        ax.set(yticks=[], xticks=np.radians([0, 90, 180, 270]), ylim=(0, 1.05))
        ax.tick_params(labelsize=SMALL - 1, pad=-3)
        ax.set_title(name, fontsize=SMALL + 1, color=INK)
    return fig


def prediction_plot(found: Consensus, unit: str = "flash response index", types: Sequence[str] | None = None) -> Figure:
    """A quantity of each cell type over an ensemble: median and 80 % interval; known ON types blue, OFF types black."""
    chosen = np.array([found.cell_types.index(name) for name in types or found.cell_types])
    chosen = chosen[np.argsort(found.median[chosen], kind="stable")]
    fig = blank(max(2.5, 0.12 * len(chosen) + 0.8), 2.4)
    ax = thin(fig.add_subplot(), "left")
    low, high = found.interval()
    ax.axhline(0.0, color=GREY, lw=0.5)
    for x, k in enumerate(chosen):
        colour = {1: ACCENT, -1: INK}.get(POLARITY.get(found.cell_types[k], 0), GREY)
        ax.plot([x, x], [low[k], high[k]], color=colour, lw=1.2)
        ax.plot(x, found.median[k], "o", ms=3, color=colour)
    ax.set_xticks(range(len(chosen)), [found.cell_types[k] for k in chosen], rotation=90)
    ax.tick_params(axis="x", labelsize=SMALL - 1.5, length=0)
    label(ax, y=unit, title=f"{len(found.values)} models")
    return fig


def task_plot(fit: TaskFit) -> Figure:
    """Motion error during training, running means over 20 steps, against zero flow; dots: held-out error at the end."""
    fig = blank(3.8, 2.4)
    ax = thin(fig.add_subplot(), "left", "bottom")
    width = min(20, len(fit.losses))
    for losses, error in zip(fit.losses.T, fit.error, strict=True):
        means = np.convolve(losses, np.ones(width) / width, "valid")
        ax.plot(np.arange(width, len(losses) + 1), means, color=ACCENT, lw=0.8)
        ax.plot(len(losses), error, "o", ms=4, color=ACCENT)
    ax.axhline(fit.zero, color=INK, lw=0.8, ls=(0, (4, 3)))
    place = ax.get_yaxis_transform()
    ax.text(0.02, fit.zero, "zero flow", fontsize=SMALL, va="bottom", color=INK, transform=place)
    label(ax, "step", "error (columns/s)")
    return fig
