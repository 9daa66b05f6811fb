"""Projections with dynamics, for compiled engines: synaptic variables kept once per source, and summed couplings.

All synapses of a source see the same spikes, and a delay only shifts them in time. So variables that change at
presynaptic spikes only are the same for all its synapses: they are kept once per source neuron, updated when it
spikes, and what they give (the gain) travels with the spike.
"""

import ast
from dataclasses import dataclass
from typing import Any

from sbi_circuits.circuit import Circuit, Projection
from sbi_circuits.circuit_parts import Assignment, declared_parameters
from sbi_circuits.engines.rewrite import Rewriter, check_names, refusal
from sbi_circuits.engines.translate import Statement, integrate
from sbi_circuits.units import evaluate, names_in, parse


@dataclass(frozen=True)
class Coupling:
    """One projection with variables of its own or a summed coupling, ready to be printed by a compiled engine.

    Args:
        number: position of the projection in the circuit.
        source, target: populations.
        variables: kept once per source neuron; they start at `Synapses.initial`, 0 where not given.
        update: statements at a spike of a source neuron, in order; `gain_<e>` is what effect e adds. They use the
            variables, `elapsed` (seconds since the last spike), `<name>_pre` for each of `reads`, and K.
        reads: quantities of the source neuron that never change.
        summed: (variable of the target, expression over `<name>_pre`, `<name>_post`, `weight` and K).
        pre, post: names the summed expressions read from either end.
        random_weight: whether `weight` differs between synapses; it is among K's names otherwise.
        invariants: expressions of K, in order; evaluated from parameters, constants, `dt` and `weight`.
    """

    number: int
    source: str
    target: str
    variables: tuple[str, ...]
    update: tuple[Statement, ...]
    reads: tuple[str, ...]
    summed: tuple[tuple[str, str], ...]
    pre: tuple[str, ...]
    post: tuple[str, ...]
    random_weight: bool
    invariants: tuple[str, ...]


def couplings(circuit: Circuit, reorder: bool) -> dict[int, Coupling]:
    """Translation of every projection that needs one, by its number; the others are plain arrays of synapses.

    Raises:
        TranslationError: naming a construct that only the engine brian2 can run.
    """
    found = {}
    for number, projection in enumerate(circuit.projections):
        if projection.on_post:
            raise refusal(f"projection {projection.name}", "on_post (plasticity at spikes of the target)")
        if projection.has_state or projection.summed:
            found[number] = _Translator(circuit, number, projection, reorder).result()
    return found


class _Translator:
    def __init__(self, circuit: Circuit, number: int, projection: Projection, reorder: bool):
        from brian2 import Equations

        self.circuit, self.number, self.projection = circuit, number, projection
        self.where = f"projection {projection.name}"
        self.equations = Equations(projection.equations)
        self.source, self.target = (circuit.population(n) for n in (projection.source, projection.target))
        self.constants = self._constant_in_time()
        own = tuple(sorted(self.equations.diff_eq_names | self.equations.parameter_names))
        self.variables = own if projection.on_spike.strip() else ()
        check_names(self.where, own)
        written = {e.varname: str(e.expr.code) for e in self.equations.values() if e.type == "subexpression"}
        varying = {*own, "elapsed"} | ({"weight"} if projection.random_weight else set())
        self.rewriter = Rewriter(self.where, varying, written, reorder)
        self.gains = 0

    def _constant_in_time(self) -> frozenset[str]:
        """Quantities of the source neuron that nothing in the circuit changes."""
        name, set_elsewhere = self.source.name, {s.target for s in self.source.resets()}
        for p in self.circuit.projections:
            if p.target == name:
                ends = [s.target for s in (*p.statements(), *p.post_statements())] + [v for v, _ in p.sums()]
                set_elsewhere |= {end.removesuffix("_post") for end in ends}
        set_elsewhere |= {i.variable if hasattr(i, "variable") else i.name for i in self.circuit.inputs}
        return frozenset(declared_parameters(self.source.equations)) - set_elsewhere

    def result(self) -> Coupling:
        self._check()
        update = tuple(s for pair in self._pairs() for s in self._statement(pair))
        sums = self.projection.sums()
        ends = [self._ends(e) for _, e in sums]
        summed = tuple((v, self.rewriter.expression(e)) for v, e in sums)
        reads = sorted({n for s in update for n in names_in(s.expression) if n.endswith("_pre")})
        return Coupling(
            number=self.number,
            source=self.source.name,
            target=self.target.name,
            variables=self.variables,
            update=update,
            reads=tuple(n.removesuffix("_pre") for n in reads),
            summed=summed,
            pre=tuple(sorted({n for pre, _ in ends for n in pre})),
            post=tuple(sorted({n for _, post in ends for n in post})),
            random_weight=self.projection.random_weight,
            invariants=tuple(self.rewriter.invariants),
        )

    def _check(self) -> None:
        for equation in self.equations.values():
            if equation.type == "differential equation" and "event-driven" not in equation.flags:
                raise refusal(self.where, f"the synaptic variable {equation.varname}, which is not event-driven,")
            if equation.var_type == "boolean" or "summed" in equation.flags:
                raise refusal(self.where, f"the synaptic variable {equation.varname}")
        for name, expression in self.projection.initial:
            if self.projection.differs(expression):
                raise refusal(self.where, f"the initial value {expression!r} of {name}, one for each synapse,")
        if self.projection.random_delay:
            self._check_start()

    def _check_start(self) -> None:
        """Synapses of one source with different delays stay alike only if nothing moves before the first spike."""
        start = dict(self.projection.initial)
        names = [*self.circuit.prior.names, *(n for n, _ in self.circuit.constants)]
        values: dict[str, Any] = {name: 0.31 + 0.17 * k for k, name in enumerate(names)}
        initial = {v: float(evaluate(start.get(v, "0"), values)) for v in self.variables}
        for equation in self.equations.values():
            if equation.type == "differential equation":
                drift = evaluate(str(equation.expr.code), {**values, **initial})
                if abs(float(drift)) > 1e-9:
                    raise refusal(
                        self.where, f"{equation.varname}, which with random delays must start at its fixed point,"
                    )

    def _pairs(self) -> list[Assignment]:
        """Statements at a spike: the event-driven variables at that time, then what the circuit says."""
        if not self.projection.has_state:
            return []
        driven = [str(e) for e in self.equations.values() if "event-driven" in e.flags or e.type == "subexpression"]
        parameters = [str(e) for e in self.equations.values() if e.type == "parameter"]
        pairs: list[Assignment] = []
        if any("event-driven" in e.flags for e in self.equations.values()):
            from brian2 import Equations

            code = integrate(Equations("\n".join([*driven, *parameters])), "exact", self.where)
            pairs = [Assignment(target, "", _elapsed(expression)) for target, expression in code]
        return [*pairs, *self.projection.statements()]

    def _statement(self, statement: Assignment) -> list[Statement]:
        if self.projection.adds(statement):
            expression = statement.expression
            if self.projection.random_weight:
                expression = self._without_weight(expression)
            target, self.gains = f"gain_{self.gains}", self.gains + 1
        elif statement.target.endswith("_post"):
            raise refusal(self.where, f"{statement.target} {statement.operator}= {statement.expression}")
        else:
            target, expression = statement.target, statement.value
        self._check_names(expression)
        rewritten = Statement(target, self.rewriter.expression(expression))
        self.rewriter.varying.add(target)
        return [rewritten]

    def _check_names(self, expression: str) -> None:
        for name in sorted(names_in(expression)):
            end = name.removesuffix("_pre")
            if name.endswith("_pre") and end in self.constants:
                self.rewriter.varying.add(name)
            elif name.endswith(("_pre", "_post")) or name in ("t", "i", "j"):
                raise refusal(self.where, f"{name!r} in {expression!r}")
            elif name == "weight" and self.projection.random_weight:
                raise refusal(self.where, f"a random weight that is not a factor of the increment, in {expression!r},")

    def _without_weight(self, expression: str) -> str:
        """The increment with its factor `weight` taken out; the engines put it back for each synapse."""
        tree = parse(expression)
        factors = _product(tree)
        kept = [f for f in factors if not (isinstance(f, ast.Name) and f.id == "weight")]
        if len(kept) < len(factors) - 1:
            raise refusal(self.where, f"a power of the random weight in {expression!r}")
        return " * ".join(f"({ast.unparse(f)})" for f in kept) or "1.0"

    def _ends(self, expression: str) -> tuple[set[str], set[str]]:
        """Names a summed expression reads from the source and from the target."""
        found: tuple[set[str], set[str]] = set(), set()
        for name in sorted(names_in(expression)):
            for side, (suffix, population) in enumerate((("_pre", self.source), ("_post", self.target))):
                if name.endswith(suffix):
                    self._check_state(name.removesuffix(suffix), population.equations, expression)
                    found[side].add(name.removesuffix(suffix))
                    self.rewriter.varying.add(name)
            if name in self.variables or name in self.equations.names or name in ("t", "i", "j"):
                raise refusal(self.where, f"{name!r} in {expression!r}")
        return found

    def _check_state(self, name: str, equations: str, expression: str) -> None:
        from brian2 import Equations

        known = Equations(equations)
        if name not in known.diff_eq_names | known.parameter_names:
            raise refusal(self.where, f"{name!r}, which is no state variable, in {expression!r}")


def _product(node: ast.expr) -> list[ast.expr]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        return [*_product(node.left), *_product(node.right)]
    return [node]


def _elapsed(expression: str) -> str:
    """Brian2's `dt` of an exact update over one step, as the time since the last spike."""

    class _Replace(ast.NodeTransformer):
        def visit_Name(self, node: ast.Name) -> ast.AST:
            return ast.Name("elapsed") if node.id == "dt" else node

    return ast.unparse(_Replace().visit(ast.parse(expression, mode="eval").body))
