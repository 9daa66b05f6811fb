"""Live progress of a campaign: done, rate, remaining time, outcomes so far; for people and for programs."""

import json
import sys
from collections import Counter
from collections.abc import Mapping
from time import monotonic
from types import TracebackType
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

LINE_EVERY = 30.0  # seconds between lines where there is no terminal
_NOTEBOOK_EVERY = 0.5  # seconds between changes of the line in a notebook
_BAR = 30  # characters of the bar in a notebook


class Progress:
    """Shows how far a campaign is.

    A bar on a terminal or in a notebook, else a line every half minute; or JSON, one object a line; or nothing.

    Args:
        total: simulations of the campaign.
        done: how many there were at the start.
        outcomes: how many of those had each outcome.
        shown: False for no output at all; "json" for JSON lines, with the keys done, total, rate (per second),
            left_s, outcomes, and at the end also message.
    """

    def __init__(self, total: int, done: int, outcomes: dict[str, int], shown: bool | str = True):
        self.total, self.at_start, self.done = total, done, done
        self.outcomes, self.shown, self.json = Counter(outcomes), bool(shown), shown == "json"
        self.started = self.last_line = monotonic()
        self.bar: Bar | None = None
        self.cell = _notebook_cell() if shown and not self.json else None

    def __enter__(self) -> "Progress":
        if self.shown and not self.json and self.cell is None and sys.stderr.isatty():
            columns: tuple[Any, ...] = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
            self.bar = Bar(*columns, console=Console(stderr=True))
            self.bar.add_task(self.text(), total=self.total, completed=self.done)
            self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.stop()

    def update(self, outcomes: np.ndarray) -> None:
        """Count the outcomes (k,) of one finished unit."""
        self.add(Counter(outcomes.tolist()))

    def add(self, outcomes: Mapping[str, int]) -> None:
        """Count simulations, by outcome."""
        self.done += sum(outcomes.values())
        self.outcomes.update(outcomes)
        if self.bar is not None:
            self.bar.update(self.bar.task_ids[0], completed=self.done, description=self.text())
        elif self.shown and monotonic() - self.last_line >= (LINE_EVERY if self.cell is None else _NOTEBOOK_EVERY):
            self.last_line = monotonic()
            self._tell(f"{self.done}/{self.total} simulations, {self.text()}")

    def _tell(self, line: str) -> None:
        if self.json:
            self.say("")
        elif self.cell is not None:
            full = round(_BAR * self.done / max(self.total, 1))
            self.cell.update({"text/plain": f"{'█' * full}{'░' * (_BAR - full)} {line}"}, raw=True)
        else:
            self.say(line)

    def state(self) -> dict[str, Any]:
        """What a program wants to know."""
        left = (self.total - self.done) / self.rate if self.done > self.at_start else None
        return {"done": self.done, "total": self.total, "rate": round(self.rate, 4),
                "left_s": None if left is None else round(left, 1), "outcomes": dict(self.outcomes)}  # fmt: skip

    @property
    def rate(self) -> float:
        """Simulations per second since the start."""
        return (self.done - self.at_start) / max(monotonic() - self.started, 1e-9)

    def text(self) -> str:
        """Rate, remaining time and outcomes so far, for people."""
        left = duration((self.total - self.done) / self.rate) if self.done > self.at_start else "?"
        return f"{self.rate:.3g}/s, {left} left; {tally(self.outcomes)}"

    def say(self, line: str) -> None:
        """One line on stderr, unless nothing is to be shown."""
        if self.json:
            line = json.dumps(self.state() | ({"message": line} if line else {}))
        if self.shown:
            print(line, file=sys.stderr, flush=True)

    def end(self, line: str) -> None:
        """The last line; in a notebook after a last look at the bar."""
        if self.cell is not None:
            self._tell(f"{self.done}/{self.total} simulations")
        self.say(line)


def _notebook_cell() -> Any:
    """A place in the output of a notebook's cell that can be written again; None elsewhere."""
    shell = sys.modules.get("IPython")
    kernel = None if shell is None else shell.get_ipython()
    if kernel is None or type(kernel).__name__ != "ZMQInteractiveShell":
        return None
    from IPython.display import display

    return display({"text/plain": ""}, raw=True, display_id=True)


def tally(outcomes: dict[str, int]) -> str:
    """Outcomes with their counts, most frequent first.

    Examples:
        >>> tally({"silent": 2, "ok": 5})
        '5 ok, 2 silent'
    """
    return ", ".join(f"{count} {name}" for name, count in Counter(outcomes).most_common()) or "none yet"


def duration(seconds: float) -> str:
    """A duration for people.

    Examples:
        >>> duration(4), duration(200), duration(9000)
        ('4 s', '3 min', '2 h 30 min')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
