"""Which circuit explains a recording, and how far the classifier that says so can be believed."""

import numpy as np
from matplotlib.figure import Figure

from sbi_circuits.comparison import CircuitProbabilities, Reliability
from sbi_circuits.plots.style import ACCENT, GREY, INK, SMALL, blank, label, thin


def reliability_plot(found: Reliability) -> Figure:
    """How often the classifier was right against the probability it gave; bars are two standard errors."""
    fig = blank(3.2, 3.1)
    ax = thin(fig.add_subplot(), "left", "bottom")
    ax.plot([0, 1], [0, 1], color=INK, lw=0.6, ls=(0, (4, 3)))
    error = 2 * np.sqrt(found.predicted * (1 - found.predicted) / np.maximum(found.counts, 1))
    ax.errorbar(found.predicted, found.found, yerr=error, fmt="o", ms=4, color=ACCENT, elinewidth=1.0)
    ax.set(xlim=(0, 1), ylim=(-0.02, 1.02), aspect="equal", xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
    title = f"{found.rows} held-out simulations, p {found.p_value:.2g}"
    label(ax, "probability given by the classifier", "share of hits", title)
    return fig


def probability_plot(found: CircuitProbabilities) -> Figure:
    """Probability of each circuit, with the spread of the ensemble; grey: out of reach of that circuit."""
    fig = blank(4.2, 0.8 + 0.28 * len(found.names))
    ax = thin(fig.add_subplot(), "bottom")
    order = np.argsort(-found.probabilities, kind="stable")
    for y, k in enumerate(order):
        inside = found.reach[found.names[k]].inside()
        ax.barh(y, found.probabilities[k], height=0.6, color=ACCENT if inside else GREY, xerr=found.spread[k],
                error_kw={"elinewidth": 0.8, "ecolor": INK})  # fmt: skip
        text = f"{found.probabilities[k]:.2f}" + ("" if inside else ", out of reach")
        ax.text(1.02, y, text, fontsize=SMALL, va="center", color=INK)
    ax.set(xlim=(0, 1), ylim=(len(order) - 0.4, -0.6), yticks=range(len(order)), xticks=[0, 0.5, 1])
    ax.set_yticklabels([found.names[k] for k in order])
    ax.tick_params(axis="y", length=0)
    label(ax, "probability of the circuit")
    return fig
