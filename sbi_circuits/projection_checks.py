"""Checks of projections when a circuit is made: ends, wiring, and what a spike does at the synapse."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from sbi_circuits.circuit_gaps import check_gap_junctions
from sbi_circuits.circuit_parts import Assignment, Projection
from sbi_circuits.circuit_quantities import (
    Quantities,
    Variables,
    check_equation,
    check_expression,
    check_in_equation,
    read_equations,
    time_quantities,
    variables_of,
)
from sbi_circuits.errors import CircuitError, UnknownNameError
from sbi_circuits.units import check_dimensions, declared_quantities, dimensioned_value, names_in
from sbi_circuits.wiring_rules import FixedIndegree, FixedTotal, Independent, Wiring

if TYPE_CHECKING:
    from sbi_circuits.circuit import Circuit

RESERVED = frozenset({"weight", "delay", "lastupdate", "elapsed", "synaptic_increment"})


def check_projections(circuit: "Circuit", known: Quantities, variables: Mapping[str, Variables]) -> None:
    """Raise `CircuitError` for the first projection that does not fit."""
    names = [p.name for p in circuit.projections]
    if len(set(names)) != len(names):
        raise CircuitError(f"circuit {circuit.name}: projections need distinct names, got {names}")
    for projection in circuit.projections:
        _check_projection(projection, circuit, known, variables)
    summed = [(p.target, v) for p in circuit.projections for v, _ in p.sums()]
    for target, variable in summed:
        if summed.count((target, variable)) > 1:
            raise CircuitError(f"variable {variable} of population {target} is the sum of more than one coupling")


def _check_projection(
    projection: Projection, circuit: "Circuit", known: Quantities, variables: Mapping[str, Variables]
) -> None:
    where = f"projection {projection.name}"
    for end in (projection.source, projection.target):
        if end not in variables:
            raise UnknownNameError(f"population of {where}", end, variables)
    if projection.on_spike.strip() and not circuit.population(projection.source).threshold:
        raise CircuitError(f"{where}: its source {projection.source} has no threshold and never spikes")
    measured = _measured(projection, known, variables[projection.target])
    _Synapse(projection, known, measured, variables).check()
    if projection.summed and projection.delay != "0*ms" and (circuit.spikes or projection.random_delay):
        raise CircuitError(f"{where}: a summed coupling has a delay in rate circuits only, one for all its synapses")
    check_dimensions(projection.delay, "second", {**known, **measured}, f"{where}, delay")
    _check_wiring(projection, circuit, known)
    check_gap_junctions(projection)
    if projection.when:
        check_expression(projection.when, 1, known, f"{where}, when")


def _measured(projection: Projection, known: Quantities, target: Variables) -> Quantities:
    """A quantity for each column of measured wiring."""
    taken = projection.columns.keys() & (known.keys() | target.readable.keys() | RESERVED)
    if taken:
        raise CircuitError(f"projection {projection.name}: the column {min(taken)!r} of its edge list is named already")
    return declared_quantities(projection.columns.items())


class _Synapse:
    """What happens at the synapses of one projection, in terms of its own and its ends' variables."""

    def __init__(
        self, projection: Projection, known: Quantities, measured: Quantities, variables: Mapping[str, Variables]
    ):
        self.projection, self.known, self.at_start = projection, known, {**known, **measured}
        self.where = f"projection {projection.name}"
        self.target = variables[projection.target]
        equations = read_equations(projection.equations, self.where)
        self.equations, self.own = equations, variables_of(equations)
        taken = RESERVED & self.own.readable.keys()
        if taken:
            raise CircuitError(f"{self.where}: its variable {min(taken)!r} has a reserved name")
        ends = ((variables[projection.source], "_pre"), (self.target, "_post"))
        read = {f"{n}{suffix}": q for end, suffix in ends for n, q in end.readable.items()}
        time = {k: v for k, v in time_quantities().items() if k not in ("N", "not_refractory")}
        self.scope = {**known, **read, **time, "j": 1, **self.own.readable}

    def check(self) -> None:
        self.scope["weight"] = dimensioned_value(self.projection.weight, self.at_start, f"{self.where}, weight")
        for equation in self.equations.values():
            check_equation(equation, self.scope, self.where)
        for statement in self.projection.statements():
            self._statement(statement, "on_spike")
        for statement in self.projection.post_statements():
            self._statement(statement, "on_post")
        for variable, expression in self.projection.sums():
            quantity = self.target.parameters.get(variable)
            if quantity is None:
                listed = ", ".join(self.target.parameters) or "none"
                raise CircuitError(
                    f"{self.where}, summed: {self.projection.target} declares no quantity {variable!r} "
                    f"(a line `{variable} : unit` in its equations); it declares {listed}"
                )
            self._check(expression, quantity, "summed")
        self._initial()

    def _statement(self, statement: Assignment, part: str) -> None:
        name = statement.target
        variable = name.removesuffix("_post")
        if name in self.own.settable:
            self._check(statement.value, self.own.settable[name], f"{part} of {name}")
        elif not name.endswith("_post"):
            own = ", ".join([*self.own.settable, *(f"{v}_post" for v in self.target.settable)])
            raise CircuitError(f"{self.where}, {part}: no variable {name!r} to set; there are {own}")
        elif variable not in self.target.settable:
            listed = ", ".join(self.target.settable)
            raise CircuitError(f"{self.where}: {self.projection.target} has no variable {variable!r}; it has {listed}")
        elif statement.expression == "weight" and statement.operator in ("+", "-", ""):
            # Named after its own field: that is where the mistake is.
            quantity = self.target.settable[variable]
            check_expression(self.projection.weight, quantity, self.at_start, f"{self.where}, weight")
        else:
            self._check(statement.value, self.target.settable[variable], part)

    def _check(self, expression: str, quantity: object, part: str) -> None:
        doubtful = names_in(expression) & self.known.keys() & self.target.readable.keys()
        if doubtful:
            raise CircuitError(
                f"{self.where}, {part}: {min(doubtful)!r} in {expression!r} is a parameter or constant and also a "
                f"variable of {self.projection.target}; rename one"
            )
        check_in_equation(expression, quantity, self.scope, f"{self.where}, {part}")

    def _initial(self) -> None:
        for name, expression in self.projection.initial:
            if name not in self.own.settable:
                listed = ", ".join(self.own.settable) or "none"
                raise CircuitError(f"{self.where}, initial value: no variable {name!r}; variables: {listed}")
            where = f"{self.where}, initial value of {name}"
            check_expression(expression, self.own.settable[name], self.at_start, where)


def _check_wiring(projection: Projection, circuit: "Circuit", known: Quantities) -> None:
    where = f"projection {projection.name}, wiring"
    if not isinstance(projection.wiring, Wiring):
        valid = ", ".join(sorted(rule.__name__ for rule in Wiring.__args__))
        raise CircuitError(f"{where}: {projection.wiring!r} is no wiring rule; valid: {valid}")
    match projection.wiring:
        case Independent(probability=p) | FixedTotal(probability=p):
            check_dimensions(p, "1", known, where)
        case FixedIndegree(number=n):
            check_dimensions(n, "1", known, where)
    if isinstance(projection.wiring, FixedTotal) and projection.wiring.pairs != "all":
        labelled = circuit.population(projection.source).labels
        if projection.source != projection.target or not labelled:
            raise CircuitError(f"{where}: pairs by label need one labelled population as source and target")
