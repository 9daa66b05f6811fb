"""A rate circuit as plain statements: updates, sums over synapses, readouts; for engines that run many at once.

A rate circuit is one without thresholds: nothing in it spikes, and populations act on each other through `summed`
couplings. Sums are taken once a step, before the state updates, and held during the step (as Brian2 does), so that a
method of higher order keeps its order within a population only.
"""

import ast
from dataclasses import dataclass
from functools import cache

from sbi_circuits.circuit import Circuit, PoissonInput, Readout
from sbi_circuits.engines.coupling import Coupling, couplings
from sbi_circuits.engines.rewrite import Rewriter
from sbi_circuits.engines.translate import Translation, translate
from sbi_circuits.errors import TranslationError


@dataclass(frozen=True)
class Output:
    """One readout: its expression over state, inputs, temporaries and K, and the expressions of its own K."""

    readout: Readout
    expression: str
    invariants: tuple[str, ...]


@dataclass(frozen=True)
class Program:
    """A rate circuit, translated.

    Args:
        parts: of each population.
        links: of each projection, in order.
        outputs: of each readout, in order.
    """

    parts: tuple[Translation, ...]
    links: tuple[Coupling, ...]
    outputs: tuple[Output, ...]

    def position(self, population: str) -> int:
        """Number of a population."""
        return next(k for k, part in enumerate(self.parts) if part.name == population)


def is_rate_circuit(circuit: Circuit) -> bool:
    """Whether nothing in the circuit spikes and no input is made of events."""
    return not circuit.spikes and not any(isinstance(i, PoissonInput) for i in circuit.inputs)


@cache
def rate_program(circuit: Circuit, reorder: bool, engine: str) -> Program:
    """Translate a rate circuit.

    Args:
        circuit: the circuit.
        reorder: as in `translate`.
        engine: who asks, for the message.

    Raises:
        TranslationError: a circuit with thresholds or Poisson inputs, or a construct that only brian2 can run.
    """
    spiking = [p.name for p in circuit.populations if p.threshold]
    if spiking:
        raise TranslationError(
            f"engine {engine} runs rate circuits; population {spiking[0]} of {circuit.name} has a threshold. "
            f"Valid engines: brian2, kernel[cuda], kernel[numba]"
        )
    if not is_rate_circuit(circuit):
        raise TranslationError(
            f"engine {engine} has no Poisson inputs, which {circuit.name} has. Valid engines: brian2, kernel[cuda], "
            f"kernel[numba]"
        )
    parts = tuple(translate(circuit, p, reorder) for p in circuit.populations)
    links = couplings(circuit, reorder)
    return Program(parts, tuple(links[k] for k in sorted(links)), outputs_of(circuit, reorder))


@cache
def outputs_of(circuit: Circuit, reorder: bool) -> tuple[Output, ...]:
    """Translations of the readouts of any circuit, in order."""
    return tuple(_output(circuit, readout, reorder) for readout in circuit.readouts)


def _output(circuit: Circuit, readout: Readout, reorder: bool) -> Output:
    from brian2 import Equations

    population = circuit.population(readout.population)
    equations = Equations(population.equations)
    inputs = {
        i.name for i in circuit.inputs if not isinstance(i, PoissonInput) and i.target == population.name
    }
    varying = {*equations.diff_eq_names, *equations.parameter_names, *inputs, "t", "i"}
    written = {e.varname: str(e.expr.code) for e in equations.values() if e.type == "subexpression"}
    rewriter = Rewriter(f"readout {readout.name}", varying, written, reorder)
    expression = rewriter.expression(readout.expression)
    return Output(readout, expression, tuple(rewriter.invariants))


def names_of(expression: str) -> frozenset[str]:
    """Names of values an expression reads; K and functions are not among them."""
    tree = ast.parse(expression, mode="eval")
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    return frozenset(
        n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and id(n) not in called and n.id != "K"
    )
