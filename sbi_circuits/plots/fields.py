"""Signals of a recording over time, and the spectrum of one with its aperiodic line and peaks."""

import numpy as np
from matplotlib.figure import Figure

from sbi_circuits.errors import RecordingError
from sbi_circuits.features.field import channel_of, chosen_signal
from sbi_circuits.features.field_spectrum import SpectrumFit, fit_spectrum, power_spectrum
from sbi_circuits.plots.style import ACCENT, GREY, SMALL, blank, label, thin, unit_text
from sbi_circuits.recording import Recording

_CHANNELS = 20  # traces of one signal that are drawn at most


def signal_plot(recording: Recording, window: tuple[float, float] | None = None, title: str = "") -> Figure:
    """Every signal of a recording, one row each.

    Args:
        recording: that has signals.
        window: (start, stop) in seconds to show; the whole recording where None.
        title: of the figure.

    Raises:
        RecordingError: a recording without signals.
    """
    if not recording.signals:
        raise RecordingError("this recording has no signals")
    start, stop = (recording.t0, recording.t1) if window is None else window
    fig = blank(7.0, 0.6 + 1.1 * len(recording.signals))
    rows = fig.subplots(len(recording.signals), 1, sharex=True, squeeze=False)[:, 0]
    for ax, (name, signal) in zip(rows, recording.signals.items(), strict=True):
        cut = signal.window(start, stop)
        times = cut.t0 + np.arange(cut.values.shape[-1]) / cut.rate
        for values in cut.values[:_CHANNELS]:
            alone = len(cut.values) == 1
            ax.plot(times, values, lw=0.8 if alone else 0.5, color=ACCENT if alone else GREY, alpha=1 if alone else 0.7)
        unit = unit_text(signal.unit)
        label(thin(ax, "left", "bottom"), y=f"{name} ({unit})" if unit else name)
    label(rows[0], title=title)
    label(rows[-1], "time (s)")
    fig.align_ylabels()
    return fig


def field_spectrum_plot(
    recording: Recording, signal: str = "", channel: int = 0, low: float = 1.0, high: float = 80.0,
    segment: float = 1.0, title: str = "",
) -> Figure:  # fmt: skip
    """Power spectrum of one channel with its fit: the aperiodic line dashed, peaks above it.

    Args:
        recording: that has the signal.
        signal, channel, low, high, segment: as for `Field`.
        title: of the figure.

    Raises:
        RecordingError: a recording without signals.
    """
    found = chosen_signal(recording, signal)
    if found is None:
        raise RecordingError("this recording has no signals")
    frequency, power = power_spectrum(channel_of(found, channel), found.rate, segment)
    kept = (frequency >= low) & (frequency <= high)
    frequency, power = frequency[kept], power[kept]
    fit = fit_spectrum(frequency, power)
    fig = blank(3.6, 2.8)
    ax = thin(fig.subplots(), "left", "bottom")
    ax.loglog(frequency, power, lw=1.2, color=ACCENT)
    ax.loglog(frequency, 10 ** fit.curve(frequency), lw=0.8, color=GREY)
    line = SpectrumFit(fit.offset, fit.exponent, ())
    ax.loglog(frequency, 10 ** line.curve(frequency), "--", lw=0.8, color=GREY)
    for peak in fit.peaks[:1]:
        top = 10 ** float(fit.curve(np.array([peak.frequency]))[0])
        ax.annotate(f"{peak.frequency:.1f} Hz", (peak.frequency, top), fontsize=SMALL)
    unit = unit_text(found.unit) or "1"
    label(ax, "frequency (Hz)", f"power ({unit}²/Hz)", title)
    ax.text(0.02, 0.02, f"exponent {fit.exponent:.2f}", transform=ax.transAxes, fontsize=SMALL, color=GREY)
    return fig
