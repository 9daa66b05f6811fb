"""Spikes of the recorded units, with the population rate below."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sbi_circuits.errors import RecordingError
from sbi_circuits.features.population import Activity, activity
from sbi_circuits.plots.style import ACCENT, GREY, SMALL, blank, label, thin
from sbi_circuits.recording import COUNT_BIN, Recording

_BINS = 1000  # of the rate, over the width of the figure


def raster(
    recording: Recording, window: tuple[float, float] | None = None, max_units: int = 100, title: str = ""
) -> Figure:
    """Raster of spikes with the population rate below.

    Args:
        recording: of cells or channels.
        window: (start, stop) in seconds to show; the whole recording where None.
        max_units: most units to show; the first ones of each group, in proportion, where there are more.
        title: of the figure.

    Raises:
        RecordingError: a window that does not overlap the recording.
    """
    start, stop = (recording.t0, recording.t1) if window is None else window
    start, stop = max(start, recording.t0), min(stop, recording.t1)
    if start >= stop:
        raise RecordingError(
            f"the window does not overlap the recording [{recording.t0:g}, {recording.t1:g}) s"
        )
    units = _units(recording, max_units)
    # A row needs about a point and a half to be told apart.
    height = float(np.clip(0.4 + 0.028 * len(units), 0.9, 3.2))
    fig = blank(7.0, height + 1.4)
    spikes, rate = fig.subplots(2, 1, sharex=True, height_ratios=[height, 0.9])
    _spikes(thin(spikes, "left"), recording, units, (start, stop))
    _rate(thin(rate, "left", "bottom"), recording, (start, stop))
    spikes.tick_params(axis="x", length=0)
    label(spikes, y=f"{recording.unit_kind}s", title=title)
    rate.set_xlim(start, stop)
    fig.align_ylabels()
    return fig


def _units(recording: Recording, most: int) -> np.ndarray:
    """Units to show, group by group."""
    groups = np.array(recording.groups)
    order = np.argsort(groups, kind="stable")
    if len(order) <= most:
        return order
    return order[np.linspace(0, len(order) - 1, most).round().astype(int)]


def _spikes(ax: Axes, recording: Recording, units: np.ndarray, window: tuple[float, float]) -> None:
    names = [recording.groups[u] for u in units]
    groups = list(dict.fromkeys(names))
    size = float(np.clip(150 / max(len(units), 1), 1.2, 6.0))
    for k, group in enumerate(groups):
        rows = [row for row, name in enumerate(names) if name == group]
        trains = [
            t[(t >= window[0]) & (t < window[1])] for t in (recording.unit(int(units[r])) for r in rows)
        ]
        x, y = np.concatenate(trains), np.repeat(rows, [len(t) for t in trains])
        colour = GREY if k % 2 else ACCENT
        ax.plot(x, y, "|", ms=size, mew=0.4, color=colour, rasterized=len(x) > 20_000)
        if group and 1 < len(groups) <= 8:
            style: dict[str, Any] = {"fontsize": SMALL, "color": colour, "va": "center"}
            ax.text(1.005, float(np.mean(rows)), group, transform=ax.get_yaxis_transform(), **style)
    ax.set_ylim(len(units) - 0.4 if len(units) else 1, -0.6)
    ax.locator_params(axis="y", integer=True, nbins=5)


def _rate(ax: Axes, recording: Recording, window: tuple[float, float]) -> None:
    found = activity(recording)
    if found is None:
        return
    factor = max(1, round((window[1] - window[0]) / _BINS / COUNT_BIN / 5) * 5)
    times, rate = _binned(found, recording.t0, factor)
    shown = (times >= window[0]) & (times < window[1])
    ax.fill_between(times[shown], rate[shown], step="mid", color=ACCENT, lw=0, alpha=0.9)
    ax.set_ylim(0, None)
    ax.locator_params(axis="y", nbins=3)
    unit = "channel" if found.channels else "cell"
    label(ax, "time (s)", f"Hz per {unit}")
    ax.text(
        1.0,
        1.0,
        f"bins of {factor} ms",
        transform=ax.transAxes,
        ha="right",
        va="bottom",
        fontsize=6,
        color=GREY,
    )


def _binned(found: Activity, t0: float, factor: int) -> tuple[np.ndarray, np.ndarray]:
    """Middles (s) and rates (Hz per unit) of bins of `factor` ms."""
    bins = len(found.counts) // factor
    rate = found.counts[: bins * factor].reshape(bins, factor).sum(1) / (found.size * factor * COUNT_BIN)
    return t0 + (np.arange(bins) + 0.5) * factor * COUNT_BIN, rate
