"""The figures of a run as a table, and their place in RESULTS.md."""

import datetime
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.engines.machine import description, load
from benchmarks.engines.tables import table

RESULTS = Path(__file__).resolve().parents[1] / "RESULTS.md"
HEADING = "## Inference on the tasks of sbibm"
Found = Mapping[tuple[str, str, int], list[dict[str, Any]]]
_COLUMNS = ("task", "simulations", "estimator", "C2ST", "range", "held-out log density", "training s", "10,000 draws s")


def comparison(found: Found, observations: int) -> str:
    """One row for each estimator, task and budget, then the mean over the tasks."""
    rows = [_row(*key, results) for key, results in found.items()]
    rows += [_mean_row(estimator, budget, found) for estimator, budget in sorted({(e, b) for e, _, b in found})]
    what = f"Observations 1 to {observations} of each task; C2ST as sbibm defines it; processor seconds, one thread."
    return context("make bench-inference", what, _COLUMNS, rows)


def context(command: str, what: str, columns: Sequence[str], rows: list[list[str]]) -> str:
    """A table with the command that makes it, what it shows, and where and when it was measured."""
    where = f"{datetime.date.today()}, {description()}; load average {load()}."
    return f"`{command}`. {what} {where}\n\n{table(columns, rows)}"


def _row(estimator: str, task: str, budget: int, results: list[dict[str, Any]]) -> list[str]:
    scores = np.concatenate([r["c2st"] for r in results])
    held_out = np.mean([r["held_out"] for r in results])
    train_s, draw_s = (np.mean([r[name] for r in results]) for name in ("train_s", "draw_s"))
    spread = f"{scores.min():.3f}-{scores.max():.3f}"
    figures = [f"{scores.mean():.3f}", spread, f"{held_out:.3f}", f"{train_s:.0f}", f"{draw_s:.2f}"]
    return [task, str(budget), estimator, *figures]


def _mean_row(estimator: str, budget: int, found: Found) -> list[str]:
    chosen = [results for (e, _, b), results in found.items() if (e, b) == (estimator, budget)]
    means = [np.mean([np.mean([r[name] for r in results]) for results in chosen]) for name in ("c2st", "train_s")]
    return [f"mean of {len(chosen)}", str(budget), estimator, f"{means[0]:.3f}", "", "", f"{means[1]:.0f}", ""]


def write_results(text: str, heading: str = HEADING) -> None:
    """Put the text into RESULTS.md under a heading, in place of what stood there up to the next heading.

    A part that is new goes to the end of the section of these benchmarks, a section that is new to the end of the file.
    """
    content = RESULTS.read_text() if RESULTS.exists() else "# Measured\n"
    if heading not in content.splitlines():
        start = content.find(f"{HEADING}\n") if heading.startswith("### ") else -1
        end = content.find("\n## ", start + 1) if start >= 0 else -1
        at = end if end >= 0 else len(content)
        content = f"{content[:at].rstrip()}\n\n{heading}\n{content[at:]}"
    before, _, rest = content.partition(f"{heading}\n")
    following = re.search(r"^##+ ", rest, flags=re.MULTILINE)
    after = rest[following.start() :] if following else ""
    parts = [before.rstrip(), f"{heading}\n{text.strip()}", after.rstrip()]
    temporary = RESULTS.with_suffix(".tmp")
    temporary.write_text("\n\n".join(part for part in parts if part) + "\n")
    os.replace(temporary, RESULTS)
