"""`list` and `describe`."""

import ast
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from sbi_circuits.circuit import (
    ENTRY_POINT_GROUP,
    Circuit,
    CurrentSteps,
    PoissonInput,
    get_circuit,
    list_circuits,
)


def list_all() -> None:
    """Print every circuit with one line about it; building installed ones would take seconds."""
    modules = {entry.name: entry.module for entry in entry_points(group=ENTRY_POINT_GROUP)}
    table = grid("circuit", "")
    for name in list_circuits():
        table.add_row(name, _first_line(modules[name]) if name in modules else get_circuit(name).title)
    Console().print(table)


def grid(*columns: str) -> Table:
    """An empty table in the style of all commands."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in columns:
        table.add_column(name, overflow="fold")
    return table


def _first_line(module: str) -> str:
    """First line of a module's docstring, without importing it."""
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        return ""
    text = ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0]


def describe(name: str) -> None:
    """Print the parts and the parameters of a circuit."""
    circuit, console = get_circuit(name), Console()
    console.print(f"[bold]{circuit.name}[/bold]: {circuit.title}", highlight=False)
    console.print(f"source: {circuit.source or 'not named'}", highlight=False)
    console.print(f"time step {circuit.dt * 1e3:g} ms, digest {circuit.digest[:12]}\n", highlight=False)
    tables = _populations(circuit), _projections(circuit), _inputs(circuit), _readouts(circuit), _parameters(circuit)
    for table in tables:
        if table.row_count:
            console.print(table, "")


def _populations(circuit: Circuit) -> Table:
    table = grid("population", "size", "threshold", "refractory", "method")
    for p in circuit.populations:
        table.add_row(p.name, p.size, p.threshold or "-", p.refractory or "-", p.method)
    return table


def _projections(circuit: Circuit) -> Table:
    table = grid("projection", "from", "to", "wiring", "weight", "delay", "when")
    for p in circuit.projections:
        table.add_row(p.name, p.source, p.target, str(p.wiring), p.weight, p.delay, p.when or "always")
    return table


def _inputs(circuit: Circuit) -> Table:
    table = grid("input to", "acts on", "what")
    for i in circuit.inputs:
        if isinstance(i, PoissonInput):
            table.add_row(i.target, i.variable, f"{i.sources} Poisson sources of {i.rate}, weight {i.weight}")
        elif isinstance(i, CurrentSteps):
            steps = ", ".join(f"{value} from {t:g} s" for t, value in i.steps)
            table.add_row(i.target, i.name, f"steps ({i.unit}): {steps}")
        else:
            units = "all units alike" if i.units == 1 else f"{i.units} units"
            what = f"stimulus ({i.unit}): {i.samples} samples of {i.dt:g} s, {units}, times {i.scale}"
            table.add_row(i.target, i.name, what)
    return table


def _readouts(circuit: Circuit) -> Table:
    table = grid("signal", "of", "what", "unit", "stands for")
    for p in circuit.proxies:
        sums = " ".join(f"{w:+g} {n}" + (f"(t - {1e3 * d:g} ms)" if d else "") for n, w, d in p.terms)
        table.add_row(p.name, "readouts", sums, p.unit, p.title)
    for r in circuit.readouts:
        over = "" if r.over == "each" else f"{r.over} of "
        table.add_row(r.name, r.population, over + r.expression, r.unit, r.title)
    return table


def _parameters(circuit: Circuit) -> Table:
    table, defaults = grid("parameter", "unit", "low", "high", "scale", "default"), dict(circuit.defaults)
    for p in circuit.prior.parameters:
        default = f"{defaults[p.name]:g}" if p.name in defaults else "-"
        table.add_row(p.name, p.unit, f"{p.low:g}", f"{p.high:g}", p.scale, default)
    return table
