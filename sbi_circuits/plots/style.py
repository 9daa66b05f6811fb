"""The look that all figures share: one accent colour and greys, thin axes, nothing without meaning."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

ACCENT, INK, GREY, PALE = (
    "#0072b2",
    "#222222",
    "#8a8a8a",
    "#ececec",
)  # the blue of Okabe & Ito's colour-blind safe set
SMALL, NORMAL = 7.0, 8.0
_UNITS = {"1": "", "second": "s", "1/(60*second)": "1/min", "1/second": "1/s", "hertz": "Hz"}


def unit_text(unit: str) -> str:
    """A Brian2 unit as people write it; empty for numbers without one.

    Examples:
        >>> unit_text("1/(60*second)"), unit_text("mV"), unit_text("1")
        ('1/min', 'mV', '')
    """
    return _UNITS.get(unit, unit)


def number(value: float) -> str:
    """Three significant digits with a minus sign, without an exponent where it can be avoided.

    Examples:
        >>> number(1234.5), number(0.01234), number(-2.0), number(0.0)
        ('1234', '0.0123', '−2', '0')
    """
    text = f"{value:.0f}" if 1000 <= abs(value) < 1e5 else f"{value:.3g}"
    return text.replace("-", "−")


def quantity(value: float, unit: str) -> str:
    """A value with its unit."""
    return f"{number(value)} {unit_text(unit)}".strip()


def blank(width: float, height: float) -> Figure:
    """A white figure, sizes in inches."""
    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def thin(ax: Axes, *sides: str) -> Axes:
    """Leave only the named sides of the frame, thin, with small ticks."""
    for side, spine in ax.spines.items():
        spine.set_visible(side in sides)
        spine.set_linewidth(0.6)
        spine.set_color(INK)
    ax.tick_params(labelsize=SMALL, width=0.6, length=2.5, color=INK, labelcolor=INK, which="major")
    ax.tick_params(width=0.4, length=1.5, labelsize=SMALL, which="minor")
    return ax


def label(ax: Axes, x: str = "", y: str = "", title: str = "") -> None:
    """Axis labels, and a title at the left."""
    ax.set_xlabel(x, fontsize=NORMAL, color=INK)
    ax.set_ylabel(y, fontsize=NORMAL, color=INK)
    if title:
        ax.set_title(title, fontsize=NORMAL, color=INK, loc="left")


def save(fig: Figure, path: str | Path, dpi: int = 150) -> Path:
    """Write a figure, at once or not at all; the suffix says the format. Returns the path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.tmp{path.suffix}")
    try:
        fig.savefig(temporary, dpi=dpi)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
