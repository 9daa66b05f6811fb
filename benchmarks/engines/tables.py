"""Figures as Markdown, and their place in RESULTS.md: `## Engines` holds one `### ` part per measurement."""

import os
import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

HEADING = "## Engines"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def spread(values: Sequence[float], best: Callable[[Sequence[float]], float] = min) -> str:
    """Median and best, three significant digits: the minimum of times, the maximum of rates."""
    return f"{statistics.median(values):.3g} ({best(values):.3g})"


def ratio(slow: Sequence[float], fast: Sequence[float]) -> str:
    """How many times faster, by medians and by minima."""
    return f"{statistics.median(slow) / statistics.median(fast):.1f} ({min(slow) / min(fast):.1f})"


def replace_parts(text: str, parts: dict[str, str], order: Sequence[str]) -> str:
    """RESULTS.md with some parts of its section `HEADING` new and everything else as it was.

    Args:
        text: of the whole file.
        parts: title -> body of each new part.
        order: titles in the order they are to stand in; parts with other titles are dropped.
    """
    before, found, rest = text.partition(f"{HEADING}\n")
    end = re.search(r"^## ", rest, flags=re.MULTILINE)
    section, after = (rest[: end.start()], rest[end.start() :]) if end else (rest, "")
    pieces = re.split(r"^### (.+)\n", section, flags=re.MULTILINE)
    kept = {**dict(zip(pieces[1::2], (p.strip() for p in pieces[2::2]), strict=True)), **parts}
    lines = [before.rstrip() if found else text.rstrip(), HEADING]
    lines += [f"### {title}\n{kept[title].strip()}" for title in order if title in kept]
    return "\n\n".join([*lines, after.rstrip()]).rstrip() + "\n"


def write(path: Path, parts: dict[str, str], order: Sequence[str]) -> None:
    """Put new parts into a results file."""
    content = replace_parts(path.read_text() if path.exists() else "# Measured\n", parts, order)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(content)
    os.replace(temporary, path)
