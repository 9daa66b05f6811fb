"""How training went, and whether a posterior is as sure as it should be."""

import re
from collections import defaultdict

import numpy as np
from matplotlib.figure import Figure

from sbi_circuits.calibration import Coverage
from sbi_circuits.inference import Posterior
from sbi_circuits.plots.style import ACCENT, GREY, INK, SMALL, blank, label, thin

_EPOCH = re.compile(r"member (\d+) epoch (\d+): train (\S+) validation (\S+) ")


def training_curve(posterior: Posterior) -> Figure:
    """Loss of each member over the epochs its log kept, nats a row; the line is the prior's."""
    fig = blank(4.2, 2.6)
    ax = thin(fig.add_subplot(), "left", "bottom")
    for k, rows in enumerate(_epochs(posterior.log).values()):
        epochs, train, validation = np.array(rows).T
        ax.plot(
            epochs,
            train,
            color=GREY,
            lw=0.9,
            label="training rows, some features dropped" if k == 0 else None,
        )
        ax.plot(
            epochs,
            validation,
            color=ACCENT,
            lw=0.9,
            label="validation rows, all features" if k == 0 else None,
        )
        best = int(np.argmin(validation))
        ax.plot(epochs[best], validation[best], "o", ms=3.5, mfc="white", mec=ACCENT, mew=0.9)
    prior = 0.5 * (1 + np.log(2 * np.pi)) * len(posterior.prior)
    ax.axhline(prior, color=INK, lw=0.6, ls=(0, (4, 3)))
    ax.annotate(
        "prior", (1.0, prior), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=SMALL
    )
    if ax.lines[1:]:
        ax.legend(fontsize=SMALL, frameon=False)
    label(ax, "epoch", "loss (nats per simulation)")
    return fig


def _epochs(log: tuple[str, ...]) -> dict[int, list[tuple[int, float, float]]]:
    """Member -> (epoch, training loss, validation loss) as far as the log holds them."""
    found = defaultdict(list)
    for match in filter(None, map(_EPOCH.match, log)):
        found[int(match[1])].append((int(match[2]), float(match[3]), float(match[4])))
    return found


def coverage_plot(coverage: Coverage) -> Figure:
    """Share of configurations within their intervals against the nominal level; grey: each parameter."""
    fig = blank(3.2, 3.1)
    ax = thin(fig.add_subplot(), "left", "bottom")
    ax.plot([0, 1], [0, 1], color=INK, lw=0.6, ls=(0, (4, 3)))
    levels = np.repeat(coverage.levels[:, None], coverage.parameters.shape[1], axis=1)
    ax.plot(levels.ravel(), coverage.parameters.ravel(), "_", color=GREY, ms=9, mew=0.7, alpha=0.7)
    ax.errorbar(coverage.levels, coverage.overall, yerr=coverage.overall_error, fmt="o", ms=4, color=ACCENT,
                elinewidth=1.0, capsize=0)  # fmt: skip
    ax.set(
        xlim=(0, 1),
        ylim=(0, 1.02),
        aspect="equal",
        xticks=[0, 0.25, 0.5, 0.75, 1],
        yticks=[0, 0.25, 0.5, 0.75, 1],
    )
    label(ax, "nominal level", f"coverage, {coverage.rows} observations")
    return fig
