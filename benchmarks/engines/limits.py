"""Least time one core can take for a simulation: operations and bytes counted, ceilings measured.

Counted per simulated second, from the circuit's own equations and the activity that was simulated:

- state update, every neuron and step: the arithmetic operations of the update and threshold expressions as the
  kernel sees them, after constants are folded, plus 2 for the refractory test (`adex_clustered`: `operations` finds
  49, of which 19 are the exponential: 2 to clip, 4 to reduce the argument with the rounding, 10 for the polynomial,
  3 to scale by a power of two); bytes: every variable read and written (4 + 4), the end of the refractory period
  read (4), the spike flag written (4) (`adex_clustered`: 40).
- deliveries, every synapse of every spike: one addition at a place that is as good as random; bytes: the target (2)
  and the variable read and written (4 + 4). Where many spikes meet dense wiring the kernel counts them as bit planes
  (`engines/kernel_dense.py`) with fewer operations than that, so that there it may pass this limit, which is of lists.
- Poisson events: 30 integer operations of Philox for a random word (ten rounds of 12 for four words), one
  multiplication, one addition at a random place; bytes: the word written and read (4 + 4), the variable (4 + 4).

The limit adds up three phases, since each waits for the one before: the larger of operations and bytes for the
update; random additions for deliveries and for Poisson events; operations for the random words. The numbers are
for 2000 neurons at 5000 steps per second: 10^7 neuron steps, so 4.9e8 operations and 4e8 bytes per simulated
second before the first spike. Integer and single-precision vector operations are taken to run at the same rate.
"""

import ast
from dataclasses import dataclass
from typing import Any

from benchmarks.engines.machine import Peaks
from sbi_circuits.circuit import Circuit
from sbi_circuits.engines.translate import Translation, translate

EXPONENTIAL = 19
REFRACTORY_TEST = 2
WORD = 30
EVENT = WORD + 1
DELIVERY_BYTES, EVENT_BYTES = 10, 16


@dataclass(frozen=True)
class Work:
    """Operations, bytes and additions at random places, per simulated second."""

    update_operations: float
    update_bytes: float
    deliveries: float
    events: float

    @property
    def operations(self) -> float:
        return self.update_operations + self.deliveries + EVENT * self.events

    @property
    def bytes(self) -> float:
        return self.update_bytes + DELIVERY_BYTES * self.deliveries + EVENT_BYTES * self.events


def work(circuit: Circuit, counted: dict[str, Any]) -> Work:
    """Work of a simulation, from what a worker counted of it."""
    operations_, bytes_ = 0.0, 0.0
    for population, size in zip(circuit.populations, counted["populations"], strict=True):
        part = translate(circuit, population, reorder=True)
        steps = size * counted["steps"]
        operations_ += steps * operations(part)
        bytes_ += steps * (8 * len(part.variables) + 8)
    return Work(operations_, bytes_, counted["deliveries"], counted["poisson"])


def operations(part: Translation) -> int:
    """Arithmetic operations of one neuron in one step, without a spike."""
    expressions = [s.expression for s in part.update] + ([part.threshold] if part.threshold else [])
    return REFRACTORY_TEST + sum(_operations(ast.parse(e, mode="eval")) for e in expressions)


def _operations(tree: ast.AST) -> int:
    found = 0
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp | ast.Compare | ast.BoolOp | ast.IfExp):
            found += 1
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            found += {"exp": EXPONENTIAL, "clip": 2}.get(node.func.id, 1)
    return found


def limit(done: Work, peaks: Peaks) -> float:
    """Least seconds per simulated second."""
    update = max(done.update_operations / peaks.operations, done.update_bytes / peaks.cache_bytes)
    return update + (done.deliveries + done.events) / peaks.additions + EVENT * done.events / peaks.operations
