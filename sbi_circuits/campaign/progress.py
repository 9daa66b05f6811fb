"""Live progress of a campaign: done, rate, remaining time, outcomes so far."""

import sys
from collections import Counter
from time import monotonic
from types import TracebackType
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

LINE_EVERY = 30.0  # seconds between lines where there is no terminal


class Progress:
    """Shows how far a campaign is: a bar on a terminal, else a line every half minute; or nothing.

    Args:
        total: simulations of the campaign.
        done: how many there were at the start.
        outcomes: how many of those had each outcome.
        shown: False for no output at all.
    """

    def __init__(self, total: int, done: int, outcomes: dict[str, int], shown: bool = True):
        self.total, self.at_start, self.done = total, done, done
        self.outcomes, self.shown = Counter(outcomes), shown
        self.started = self.last_line = monotonic()
        self.bar: Bar | None = None

    def __enter__(self) -> "Progress":
        if self.shown and sys.stderr.isatty():
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
        self.done += len(outcomes)
        self.outcomes.update(outcomes.tolist())
        if self.bar is not None:
            self.bar.update(self.bar.task_ids[0], completed=self.done, description=self.text())
        elif self.shown and monotonic() - self.last_line >= LINE_EVERY:
            self.last_line = monotonic()
            self.say(f"{self.done}/{self.total} simulations, {self.text()}")

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
        if self.shown:
            print(line, file=sys.stderr, flush=True)


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
