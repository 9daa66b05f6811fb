"""The report as one HTML file: nothing is loaded from anywhere, and it prints."""

import base64
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.metadata import version
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from sbi_circuits.calibration import Calibration
from sbi_circuits.ensemble import Ensemble
from sbi_circuits.errors import InferenceError
from sbi_circuits.features import DEFINED, UNDEFINED
from sbi_circuits.inference.shipped import Card
from sbi_circuits.nearby import OUT_OF_REACH
from sbi_circuits.plots.style import number, unit_text

_MOST_ROWS = 200
_DPI = 110
_LOW_YIELD = 0.05
_VERSIONS = ("sbi-circuits", "numpy", "torch", "brian2", "numba")
_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #222; margin: 2rem auto; max-width: 62rem; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: .2rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
.trust { border-left: .3rem solid #0072b2; background: #f3f7fa; padding: .7rem 1rem; font-size: 1.05rem; }
.trust.doubtful { border-color: #d55e00; background: #fdf5f0; }
figure { margin: 1rem 0; } figure img { max-width: 100%; height: auto; } figcaption { color: #555; font-size: .9rem; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .6rem; text-align: right; border-bottom: 1px solid #e3e3e3; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } thead th { border-bottom: 1px solid #222; vertical-align: bottom; }
.wide { overflow-x: auto; max-height: 32rem; overflow-y: auto; } .unit { color: #777; font-weight: normal; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; font-size: .85rem; }
dd { margin: 0; overflow-wrap: anywhere; } .figures { display: flex; gap: 2.5rem; flex-wrap: wrap; margin: 1rem 0; }
.figures b { display: block; font-size: 1.5rem; font-weight: 600; }
@media print {
  @page { size: A4; margin: 14mm; } body { margin: 0; max-width: none; font-size: 10pt; }
  figure, tr, .trust { break-inside: avoid; } h2 { break-after: avoid; }
  .wide { overflow: visible; max-height: none; } .configurations { font-size: 5.5pt; }
  .configurations th, .configurations td { padding: .1rem .2rem; white-space: normal; }
}
"""


@dataclass(frozen=True)
class Picture:
    """A figure of the report.

    Args:
        figure: to show.
        title: of its section.
        caption: what to see in it.
    """

    figure: Figure
    title: str
    caption: str


@dataclass(frozen=True)
class Verdict:
    """What a calibration found, as a report tells it.

    Args:
        rows: held-out simulations it rests on.
        passes: whether no test failed.
        direction: in which way intervals are wrong, where they are.
        findings: its lines.
    """

    rows: int
    passes: bool
    direction: str
    findings: tuple[str, ...]

    @classmethod
    def of(cls, calibration: Calibration) -> "Verdict":
        """What a calibration found."""
        lines = tuple(calibration.lines())
        return cls(calibration.rows, calibration.agrees(), calibration.direction(), lines)

    @classmethod
    def of_card(cls, card: Card) -> "Verdict":
        """What the card of a shipped posterior says, all features observed."""
        judged = card.calibration.get("all features", {})
        lines = [f"{kind}: {found['all features']['text']}" for kind, found in card.coverage.items()]
        lines += [f"{subset}: calibration {found['verdict']}" for subset, found in card.calibration.items()]
        return cls(int(judged.get("rows", 0)), bool(judged.get("passes", False)), str(judged.get("direction", "")),
                   (*lines, *(f"weak: {line}" for line in card.weak)))  # fmt: skip

    @classmethod
    def load(cls, path: str | Path) -> "Verdict":
        """Read the `calibration.json` that `sbi-circuits calibrate` wrote.

        Raises:
            InferenceError: a file that is missing or no calibration.
        """
        try:
            found = json.loads(Path(path).read_text(encoding="utf-8"))
            return cls(int(found["rows"]), bool(found["passes"]), str(found["direction"]), tuple(found["findings"]))
        except OSError as error:
            raise InferenceError(f"cannot read {path}: {error.strerror or error}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise InferenceError(f"{path} is no calibration: give the calibration.json of `calibrate`") from error


def trust_sentence(ensemble: Ensemble, calibration: Verdict | None = None) -> str:
    """One sentence on how far to trust an ensemble: yield, reach of the simulations, calibration, and what follows."""
    n, m = int(ensemble.verified.sum()), len(ensemble.theta)
    found = f"{n} of {m} drawn configurations reproduced the recording when they were simulated again"
    where = "the recording is like the simulations" if _is_inside(ensemble) else (
        "the recording is unlike any simulation the posterior was trained on"
    )  # fmt: skip
    return f"{found}, {where}{_calibrated(calibration)}: {_verdict(ensemble)}."


def _is_inside(ensemble: Ensemble) -> bool:
    return " is inside " in ensemble.trust and OUT_OF_REACH not in ensemble.trust


def _calibrated(calibration: Verdict | None) -> str:
    if calibration is None:
        return ""
    if calibration.passes:
        return f", and the posterior is calibrated as far as {calibration.rows} held-out simulations show"
    return f", and the posterior is {calibration.direction or 'miscalibrated'} on held-out simulations"


def _verdict(ensemble: Ensemble) -> str:
    if not ensemble.verified.any():
        return "no configuration is confirmed, so take the draws for places to search, not for an answer"
    if not _is_inside(ensemble):
        return "believe the verified members one by one, and not that they are all there are"
    if ensemble.yield_ < _LOW_YIELD:
        return "believe the verified members, and not the marginals of all draws"
    return "the verified members are circuits that do what was recorded, in the features that were compared"


def page(
    ensemble: Ensemble,
    pictures: Iterable[Picture],
    notes: Mapping[str, str] | None = None,
    calibration: Verdict | None = None,
) -> str:
    """The whole report as HTML text.

    Args:
        ensemble: what was found.
        pictures: figures, in order.
        notes: title -> text, shown at the head.
        calibration: of the posterior, where it was judged.
    """
    name = str(ensemble.provenance["circuit"])
    doubtful = not ensemble.verified.any() or not _is_inside(ensemble)
    parts = [
        f"<h1>Circuits behind a recording: {escape(name)}</h1>",
        *(f"<p>{escape(title)}: {escape(text)}</p>" for title, text in (notes or {}).items()),
        f'<p class="trust{" doubtful" * doubtful}">{escape(trust_sentence(ensemble, calibration))}</p>',
        _figures_at_a_glance(ensemble),
        *(_section(picture) for picture in pictures),
        _features(ensemble),
        _rejections(ensemble),
        *([_calibration(calibration)] if calibration is not None else []),
        _configurations(ensemble),
        _provenance(ensemble),
    ]
    head = f'<meta charset="utf-8"><title>{escape(name)}: report</title><style>{_STYLE}</style>'
    body = "\n".join(parts)
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'


def _figures_at_a_glance(ensemble: Ensemble) -> str:
    observed = int((ensemble.observation.states == DEFINED).sum())
    shown = {
        "verified configurations": str(int(ensemble.verified.sum())),
        "draws simulated again": str(len(ensemble.theta)),
        "yield": f"{ensemble.yield_:.0%}",
        "features compared": str(observed),
        "windows of the recording": str(ensemble.observation.n_windows),
    }
    return '<div class="figures">' + "".join(f"<div><b>{v}</b>{k}</div>" for k, v in shown.items()) + "</div>"


def _section(picture: Picture) -> str:
    title = escape(picture.title)
    image = f'<img alt="{title}" src="{_embedded(picture.figure)}">'
    return f"<h2>{title}</h2><figure>{image}<figcaption>{escape(picture.caption)}</figcaption></figure>"


def _embedded(figure: Figure) -> str:
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=_DPI)
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "") -> str:
    """Header cells are HTML already; those of the rows are text."""
    head = "".join(f"<th>{cell}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table class="{kind}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _headed(name: str, unit: str) -> str:
    text = unit_text(unit)
    return escape(name) + (f'<br><span class="unit">{escape(text)}</span>' if text and text != "1" else "")


def _features(ensemble: Ensemble) -> str:
    """Observed features beside those of the verified members, or of all draws where none is verified."""
    chosen = ensemble.verified if ensemble.verified.any() else np.ones(len(ensemble.theta), dtype=bool)
    values = np.where(ensemble.states[chosen] == DEFINED, ensemble.values[chosen], np.nan)
    rows = []
    for f, (name, unit) in enumerate(zip(ensemble.feature_set.names, ensemble.feature_set.units, strict=True)):
        state, own = ensemble.observation.states[f], values[..., f][np.isfinite(values[..., f])]
        seen = number(float(ensemble.observation.values[f])) if state == DEFINED else (
            "undefined" if state == UNDEFINED else "not observed"
        )  # fmt: skip
        quantiles = [number(float(q)) for q in np.quantile(own, [0.5, 0.05, 0.95])] if len(own) else ["undefined"] * 3
        rows.append([name, unit_text(unit), seen, *quantiles])
    of = "verified members" if ensemble.verified.any() else "all draws"
    header = ["feature", "unit", "recording", f"{of}: median", "5 %", "95 %"]
    return f"<h2>Features</h2>{_table(header, rows)}"


def _rejections(ensemble: Ensemble) -> str:
    found = list(ensemble.rejections().items())[:12]
    if not found:
        return "<h2>Why draws were rejected</h2><p>None was.</p>"
    rule = ensemble.summary().splitlines()[1]
    rows = [[name, f"{share:.0%}"] for name, share in found]
    return f"<h2>Why draws were rejected</h2><p>{escape(rule)}</p>{_table(['reason', 'share of draws'], rows)}"


def _calibration(calibration: Verdict) -> str:
    lines = "<br>".join(map(escape, calibration.findings))
    return f"<h2>Calibration of the posterior</h2><p>{lines}</p>"


def _configurations(ensemble: Ensemble) -> str:
    """Verified members by how near they come to the recording; the nearest draws where none is verified."""
    z = np.abs(np.nan_to_num(ensemble.judgement.z)).max(axis=1, initial=0.0)
    any_verified = bool(ensemble.verified.any())
    candidates = np.flatnonzero(ensemble.verified) if any_verified else np.arange(len(ensemble.theta))
    order = candidates[np.argsort(z[candidates], kind="stable")][: _MOST_ROWS if any_verified else 10]
    header = ["draw", *map(_headed, ensemble.prior.names, ensemble.prior.units), "largest difference<br>(sd)"]
    rows = [[str(i), *(number(float(v)) for v in ensemble.theta[i]), number(float(z[i]))] for i in order]
    title = "Verified configurations" if any_verified else "The nearest draws (none is verified)"
    left = len(candidates) - len(order) if any_verified else 0
    more = f"<p>{left} more are in ensemble.nc.</p>" if left else ""
    return f"<h2>{title}</h2>{_table(header, rows, 'configurations')}{more}"


def _provenance(ensemble: Ensemble) -> str:
    known = ensemble.provenance
    shown = {
        "circuit": f"{known['circuit']} ({str(known['circuit_digest'])[:16]})",
        "prior": ensemble.prior.digest[:16],
        "feature set": str(known.get("feature_set_digest", ensemble.feature_set.digest))[:16],
        "simulations": ", ".join(f"{v} {k}" for k, v in dict(known.get("outcomes", {})).items()),
        "engine": str(known.get("engine", "")),
        "seed": str(ensemble.seed),
        "reach": ensemble.trust,
        "versions": ", ".join(f"{name} {version(name)}" for name in _VERSIONS),
    }
    items = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in shown.items() if v)
    return f"<h2>Where this comes from</h2><dl>{items}</dl>"
