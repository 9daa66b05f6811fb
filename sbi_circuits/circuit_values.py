"""Numbers of a circuit at one configuration, and the check of their ranges when a circuit is made.

An expression that depends on parameters is checked at the defaults and at the bounds of the prior of every
parameter it uses, also through constants.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from sbi_circuits.circuit_parts import PoissonInput, Population, Projection
from sbi_circuits.circuit_stimuli import Stimulus
from sbi_circuits.errors import CircuitError
from sbi_circuits.units import FUNCTIONS, evaluate, names_in, unit_scale
from sbi_circuits.wiring_rules import EdgeList, Explicit, FixedIndegree, FixedTotal, Independent, OneToOne

if TYPE_CHECKING:
    from sbi_circuits.circuit import Circuit

Values = Mapping[str, float]
# With more parameters than this in one expression, their bounds are tried one at a time.
_CORNERS = 5


def population_size(population: Population, values: Values) -> int:
    """Number of neurons; raises `CircuitError` below 1."""
    size = int(np.floor(evaluate(population.size, values) + 1e-9))
    if size < 1:
        raise CircuitError(f"population {population.name}: size {population.size} = {size} is below 1")
    return size


def refractory_seconds(population: Population, values: Values) -> float:
    """Refractory period where all neurons share it, 0 where there is none; raises `CircuitError` below 0."""
    if not population.refractory or population.refractory_varies:
        return 0.0
    seconds = float(evaluate(population.refractory, values))
    if seconds < 0:
        raise CircuitError(
            f"population {population.name}: refractory {population.refractory} = {seconds:g} s is negative"
        )
    return seconds


def poisson_numbers(entry: PoissonInput, values: Values) -> tuple[float, float, int]:
    """Fraction driven, rate (Hz) and number of sources; raises `CircuitError` where one cannot be."""
    fraction, rate = float(evaluate(entry.fraction, values)), float(evaluate(entry.rate, values))
    sources = int(evaluate(entry.sources, values))
    if not 0 <= fraction <= 1 or rate < 0 or sources < 0:
        raise CircuitError(
            f"input to {entry.target}: fraction {fraction:g} must be in [0, 1], rate {rate:g} Hz and "
            f"sources {sources} must not be negative"
        )
    return fraction, rate, sources


def is_present(projection: Projection, values: Values) -> bool:
    """Whether the projection exists at this configuration."""
    return not projection.when or bool(evaluate(projection.when, values))


def check_values(circuit: "Circuit") -> None:
    """Raise `CircuitError` for the first number that cannot be at the defaults or at a bound of the prior."""
    _RangeChecks(circuit).run()


class _RangeChecks:
    def __init__(self, circuit: "Circuit"):
        self.circuit = circuit
        self.constants = dict(circuit.constants)
        self.sizes = {p.name: p.size for p in circuit.populations}
        low, high = ({p.name: getattr(p, end) for p in circuit.prior.parameters} for end in ("low", "high"))
        self.bounds = {name: (low[name], high[name]) for name in low}
        self.base = {n: (a + b) / 2 for n, (a, b) in self.bounds.items()} | {
            n: v for n, v in circuit.defaults if n in self.bounds
        }

    def run(self) -> None:
        for population in self.circuit.populations:
            self._population(population)
        for projection in self.circuit.projections:
            self._projection(projection)
        for entry in self.circuit.inputs:
            if isinstance(entry, PoissonInput):
                used = (entry.fraction, entry.rate, entry.sources)
                self._everywhere(used, partial(poisson_numbers, entry))
            elif isinstance(entry, Stimulus):
                self._everywhere((self.sizes[entry.target],), partial(self._stimulus, entry))

    def _stimulus(self, entry: Stimulus, values: Values) -> None:
        entry.check_size(population_size(next(p for p in self.circuit.populations if p.name == entry.target), values))

    def _everywhere(self, expressions: Iterable[str], check: Callable[[Values], object]) -> None:
        """Run a check at every point that matters for these expressions; the message says where it failed."""
        used = self._parameters(expressions)
        for point in self._points(used):
            try:
                with np.errstate(all="ignore"):
                    check(self._values(point))
            except ZeroDivisionError:
                continue
            except CircuitError as error:
                where = ", ".join(f"{n} = {point[n]:g} {self.circuit.declared[n]}".removesuffix(" 1") for n in used)
                raise CircuitError(f"{error} (at {where})" if where else str(error)) from error

    def _parameters(self, expressions: Iterable[str]) -> tuple[str, ...]:
        """Parameters the expressions use, through constants too, sorted."""
        found: set[str] = set()
        waiting = set().union(*(names_in(e) for e in expressions))
        while waiting:
            name = waiting.pop()
            if name not in found:
                found.add(name)
                waiting |= names_in(self.constants[name]) if name in self.constants else set()
        return tuple(sorted(found & self.bounds.keys()))

    def _points(self, used: tuple[str, ...]) -> Iterator[dict[str, float]]:
        yield self.base
        if len(used) <= _CORNERS:
            for corner in product(*(self.bounds[n] for n in used)) if used else ():
                yield {**self.base, **dict(zip(used, corner, strict=True))}
        else:
            yield from ({**self.base, n: end} for n in used for end in self.bounds[n])

    def _values(self, point: Mapping[str, float]) -> dict[str, float]:
        values = {name: value * unit_scale(self.circuit.declared[name]) for name, value in point.items()}
        for name, expression in self.circuit.constants:
            values[name] = float(evaluate(expression, values))
        return values

    def _population(self, population: Population) -> None:
        where = f"population {population.name}"
        self._everywhere([population.size], lambda values: population_size(population, values))
        if population.labels:
            self._everywhere(
                [population.labels],
                lambda values: _not_negative(population.labels, values, f"{where}: number of labels"),
            )
        if population.refractory and not population.refractory_varies:
            own = dict(population.namespace)
            self._everywhere(
                [population.refractory, *own.values()],
                lambda values: refractory_seconds(population, self.circuit.namespace(population, values)),
            )

    def _projection(self, projection: Projection) -> None:
        sizes = [self.sizes[projection.source], self.sizes[projection.target]]
        used = [projection.delay, *([projection.when] if projection.when else [])]
        self._everywhere(used, lambda values: self._delay(projection, values))
        match projection.wiring:
            case Independent(probability=e) | FixedTotal(probability=e):
                used = [e]
            case FixedIndegree(number=e):
                used = [e, *sizes]
            case _:
                used = sizes
        when = [projection.when] if projection.when else []
        self._everywhere([*used, *when], lambda values: self._wiring(projection, values))

    def _delay(self, projection: Projection, values: Values) -> None:
        if not is_present(projection, values):
            return
        where = f"projection {projection.name}: delay {projection.delay}"
        for extreme in (0.0, 1.0):
            functions: dict[str, Callable[..., float]] = {**FUNCTIONS, "rand": partial(float, extreme), "randn": float}
            delay = float(np.min(evaluate(projection.delay, {**values, **edge_values(projection)}, functions)))
            if delay < 0:
                raise CircuitError(f"{where} = {delay:g} s is negative")
            if not projection.random_delay and 0 < delay < self.circuit.dt * (1 - 1e-9):
                raise CircuitError(f"{where} = {delay:g} s is shorter than the time step dt = {self.circuit.dt:g} s")

    def _wiring(self, projection: Projection, values: Values) -> None:
        if not is_present(projection, values):
            return
        where = f"projection {projection.name}"
        source, target = (population_size(self.circuit.population(n), values)
                          for n in (projection.source, projection.target))  # fmt: skip
        match projection.wiring:
            case Independent(probability=e) | FixedTotal(probability=e):
                p = float(evaluate(e, values))
                if not 0 <= p <= 1:
                    raise CircuitError(f"{where}: probability {e} = {p:g} is outside [0, 1]")
            case FixedIndegree(number=e):
                degree = int(evaluate(e, values))
                if not 0 <= degree <= source - (projection.source == projection.target):
                    raise CircuitError(f"{where}: in-degree {degree} from {source} neurons cannot be")
            case OneToOne() if source != target:
                raise CircuitError(f"{where}: one-to-one between {source} and {target} neurons")
            case EdgeList(source=i, target=j) if len(i) and (i.max() >= source or j.max() >= target):
                row = int(((i >= source) | (j >= target)).argmax())
                raise CircuitError(f"{where}: row {row} of the edge list is outside {source} x {target} neurons")
            case Explicit(pairs=listed) if any(i >= source or j >= target for i, j in listed):
                raise CircuitError(f"{where}: a pair is outside {source} x {target} neurons")


def edge_values(projection: Projection) -> dict[str, np.ndarray]:
    """SI values of the columns of measured wiring: name -> (S,), by source, then target; empty for other rules."""
    rule = projection.wiring
    if not isinstance(rule, EdgeList):
        return {}
    return {name: unit_scale(unit) * values[rule.order] for name, (unit, values) in rule.columns.items()}


def _not_negative(expression: str, values: Values, where: str) -> None:
    value = float(evaluate(expression, values))
    if value < 0:
        raise CircuitError(f"{where} {expression} = {value:g} is negative")
