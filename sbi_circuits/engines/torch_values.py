"""Numbers of a batch of simulations as tensors that depend differentiably on the configurations."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sbi_circuits.circuit import Circuit, CurrentSteps, Population, Projection, Stimulus
from sbi_circuits.circuit_values import edge_values
from sbi_circuits.engines.rate_program import Program
from sbi_circuits.engines.setup import Setup
from sbi_circuits.engines.torch_functions import TORCH_FUNCTIONS
from sbi_circuits.seeds import generator
from sbi_circuits.units import evaluate, unit_scale

Number = float | Tensor
Values = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Batch:
    """Simulations that are run together: equal sizes, equal projections.

    Args:
        circuit: what is simulated.
        program: its translation.
        setups: (B,) of each simulation.
        theta: (B, P) configurations in declared units, double precision; may require a gradient.
        seed: of all of them.
        indices: (B,) of each.
        dtype, device: of the state.
    """

    circuit: Circuit
    program: Program
    setups: tuple[Setup, ...]
    theta: Tensor
    seed: int
    indices: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    def values(self) -> dict[str, Number]:
        """SI values of parameters, (B, 1), and of constants, which are numbers where they depend on none."""
        columns = self.theta.unbind(-1)
        known: dict[str, Number] = {
            p.name: column[:, None] * unit_scale(p.unit)
            for p, column in zip(self.circuit.prior.parameters, columns, strict=True)
        }
        for name, expression in self.circuit.constants:
            known[name] = evaluate(expression, known, TORCH_FUNCTIONS)
        return known

    def namespace(self, population: Population, values: Values) -> dict[str, Number]:
        """Values as the population's equations see them."""
        own = {name: evaluate(expression, values, TORCH_FUNCTIONS) for name, expression in population.namespace}
        return {**values, **own}

    def invariants(self, expressions: Iterable[str], known: Values) -> list[Number]:
        """Values of K: numbers, or (B, 1) in the precision of the state."""
        with np.errstate(all="ignore"):
            return [self.cast(evaluate(e, known, TORCH_FUNCTIONS)) for e in expressions]

    def cast(self, value: Any) -> Number:
        """A number stays one; a tensor or array takes the type and place of the state."""
        if isinstance(value, Tensor):
            return value.to(self.device, self.dtype)
        return float(value) if np.ndim(value) == 0 else torch.as_tensor(value, dtype=self.dtype, device=self.device)

    def known(self, position: int, values: Values) -> dict[str, Any]:
        """What the invariants of a population are evaluated from."""
        cells = self.setups[0].cells[position]
        return {**self.namespace(cells.population, values), "dt": self.setups[0].dt, "N": float(cells.size)}

    def initial(self, position: int, values: Values) -> tuple[Tensor, ...]:
        """Where each variable of a population starts: (B, N) each, in the order of the translation."""
        cells, part = self.setups[0].cells[position], self.program.parts[position]
        population, size = cells.population, cells.size
        draws = [generator(self.seed, i, "initial", population.name) for i in self.indices]
        known = {**self.namespace(population, values), "i": torch.arange(size, dtype=torch.float64), "N": float(size)}
        functions = {**TORCH_FUNCTIONS, **drawing(draws, [size] * len(draws))}
        found: dict[str, Any] = {}
        for variable, expression in population.initial:
            found[variable] = evaluate(expression, {**known, **found}, functions)
        shape = (len(self.setups), size)
        return tuple(
            self.expanded(found[v], shape) if v in found else torch.zeros(shape, dtype=self.dtype, device=self.device)
            for v in part.variables
        )

    def expanded(self, value: Any, shape: tuple[int, ...]) -> Tensor:
        """A value as a tensor of the state's type, broadcast to a shape."""
        tensor = torch.as_tensor(value, dtype=torch.float64)
        return tensor.to(self.device, self.dtype).expand(shape)

    def weights(self, projection: Projection, counts: Sequence[int], values: Values) -> list[Tensor]:
        """Weights of the synapses of each simulation: (S_b,) each, double precision on the host."""
        draws = [generator(self.seed, i, "weight", projection.name) for i in self.indices]
        measured = {n: torch.as_tensor(v, dtype=torch.float64) for n, v in edge_values(projection).items()}
        rows: list[Tensor] = []
        measured = {name: torch.as_tensor(column) for name, column in edge_values(projection).items()}
        for b, (draw, count) in enumerate(zip(draws, counts, strict=True)):
            own = {n: v[b] if isinstance(v, Tensor) and v.ndim else v for n, v in values.items()} | measured
            value = evaluate(projection.weight, {**own, **measured}, {**TORCH_FUNCTIONS, **drawing([draw], [count])})
            rows.append(torch.as_tensor(value, dtype=torch.float64).reshape(-1).expand(count))
        return rows

    def courses(self, position: int, values: Values) -> list["TimeCourse"]:
        """Stimuli of a population, in the order of the translation."""
        part = self.program.parts[position]
        given = {c.name: c for c in self.setups[0].courses if c.target == part.name}
        scales = {i.name: i.scale for i in self.circuit.inputs if isinstance(i, Stimulus) and i.target == part.name}
        return [
            TimeCourse(given[n].rows, torch.as_tensor(given[n].values, dtype=self.dtype, device=self.device),
                       self.cast(evaluate(scales[n], values, TORCH_FUNCTIONS)))
            for n in part.stimuli
        ]  # fmt: skip

    def currents(self, position: int, values: Values) -> list["Current"]:
        """Shared inputs of a population, in the order of the translation."""
        part, setup = self.program.parts[position], self.setups[0]
        steps = {(c.target, c.name): c.starts for c in setup.currents}
        declared = {(i.target, i.name): i for i in self.circuit.inputs if isinstance(i, CurrentSteps)}
        found = []
        for name in part.shared:
            key = (part.name, name)
            levels = [self.cast(evaluate(v, values, TORCH_FUNCTIONS)) for _, v in declared[key].steps]
            found.append(Current(steps[key], [0.0, *levels]))
        return found


@dataclass(frozen=True, eq=False)
class Current:
    """A piecewise constant input: `levels[0]` before step `starts[0]`, `levels[k + 1]` from step `starts[k]` on."""

    starts: np.ndarray
    levels: list[Number]

    def at(self, step: int) -> Number:
        """Its value in a time step."""
        return self.levels[int(np.searchsorted(self.starts, step, side="right"))]


@dataclass(frozen=True, eq=False)
class TimeCourse:
    """A stimulus: `scale` times row `rows[step]` of `values`, (samples, units)."""

    rows: np.ndarray
    values: Tensor
    scale: Number

    def at(self, step: int) -> Tensor:
        """Its values in a time step, (1, units) or (B, units)."""
        return self.scale * self.values[int(self.rows[step])][None]


def drawing(draws: Sequence[np.random.Generator], sizes: Sequence[int]) -> dict[str, Callable[[], Tensor]]:
    """rand() and randn() of a batch: one row for each simulation, drawn as `prepare` draws them."""

    def rows(draw: Callable[[np.random.Generator, int], np.ndarray]) -> Tensor:
        return torch.as_tensor(np.stack([draw(g, n) for g, n in zip(draws, sizes, strict=True)]))

    return {
        "rand": lambda: rows(lambda g, n: g.random(n)),
        "randn": lambda: rows(lambda g, n: g.standard_normal(n)),
    }
