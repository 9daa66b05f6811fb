"""Numbers of some rate simulations that run side by side, one a lane: arrays whose last axis is the lane."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from sbi_circuits.circuit import Circuit, CurrentSteps, Population, Stimulus
from sbi_circuits.circuit_parts import is_random
from sbi_circuits.circuit_values import population_size
from sbi_circuits.engines.rate_program import Program
from sbi_circuits.seeds import generator, kernel_keys
from sbi_circuits.units import FUNCTIONS, evaluate, unit_scale


@dataclass(frozen=True, eq=False)
class Lanes:
    """Simulations of equal sizes, with their configurations.

    Args:
        circuit, program: what is simulated, and its translation.
        theta: (L, P) in declared units.
        seed, indices: keys of the simulations.
        sizes: of the populations.
        dt: time step, seconds.
    """

    circuit: Circuit
    program: Program
    theta: np.ndarray
    seed: int
    indices: tuple[int, ...]
    sizes: tuple[int, ...]
    dt: float

    @cached_property
    def values(self) -> dict[str, Any]:
        """SI values of parameters and constants: (L,), or numbers."""
        known: dict[str, Any] = {
            p.name: self.theta[:, k] * unit_scale(p.unit) for k, p in enumerate(self.circuit.prior.parameters)
        }
        with np.errstate(all="ignore"):
            for name, expression in self.circuit.constants:
                known[name] = evaluate(expression, known)
        return known

    def known(self, position: int) -> dict[str, Any]:
        """What the invariants of a population are evaluated from."""
        own = {n: evaluate(e, self.values) for n, e in self.circuit.populations[position].namespace}
        return {**self.values, **own, "dt": self.dt, "N": self.sizes[position]}

    def invariants(self, expressions: Sequence[str], known: dict[str, Any], real: Any) -> np.ndarray:
        """Values of K, (K * L,)."""
        found = np.empty((len(expressions), len(self.theta)), dtype=real)
        with np.errstate(all="ignore"):
            for row, expression in enumerate(expressions):
                found[row] = evaluate(expression, known)
        return found.ravel()

    def initial(self, position: int, real: Any) -> list[np.ndarray]:
        """Where each variable of a population starts, in the order of the translation: (N * L,) each."""
        population, size = self.circuit.populations[position], self.sizes[position]
        drawn = any(is_random(e) for _, e in population.initial)
        found = self._drawn(population, position, size) if drawn else self._common(population, position, size)
        shape = (size, len(self.theta))
        return [
            np.array(np.broadcast_to(found.get(v, 0.0), shape), dtype=real).ravel()
            for v in self.program.parts[position].variables
        ]

    def _common(self, population: Population, position: int, size: int) -> dict[str, np.ndarray]:
        known = {**self.known(position), "i": np.arange(size, dtype=float)[:, None]}
        found: dict[str, Any] = {}
        for variable, expression in population.initial:
            found[variable] = evaluate(expression, {**known, **found})
        return found

    def _drawn(self, population: Population, position: int, size: int) -> dict[str, np.ndarray]:
        """Drawn for each simulation as `prepare` draws them."""
        draws = [generator(self.seed, i, "initial", population.name) for i in self.indices]
        functions: dict[str, Callable[..., Any]] = {
            **FUNCTIONS,
            "randn": lambda: np.stack([g.standard_normal(size) for g in draws], axis=-1),
            "rand": lambda: np.stack([g.random(size) for g in draws], axis=-1),
        }
        known = {**self.known(position), "i": np.arange(size, dtype=float)[:, None]}
        found: dict[str, Any] = {}
        for variable, expression in population.initial:
            found[variable] = evaluate(expression, {**known, **found}, functions)
        return found

    def shared(self, position: int, steps: int, real: Any) -> tuple[np.ndarray, np.ndarray]:
        """Inputs of a population: which piece each holds in each step, (inputs, steps), and (inputs, pieces * L)."""
        part, lanes = self.program.parts[position], len(self.theta)
        entries = {i.name: i for i in self.circuit.inputs if isinstance(i, CurrentSteps) and i.target == part.name}
        pieces = 1 + max((len(entries[n].steps) for n in part.shared), default=0)
        which = np.zeros((len(part.shared), steps if part.shared else 0), dtype=np.int32)
        levels = np.zeros((len(part.shared), pieces, lanes), dtype=real)
        for row, name in enumerate(part.shared):
            for k, (time, value) in enumerate(entries[name].steps):
                which[row, int(np.round(time / self.dt)) :] = k + 1
                levels[row, k + 1] = evaluate(value, self.values)
        return which, levels.reshape(len(part.shared), pieces * lanes)

    def courses(self, position: int, steps: int, real: Any) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
        """Stimuli of a population: the row of each step, (stimuli, steps); scales, (stimuli, L); (rows, N) values."""
        part, size, lanes = self.program.parts[position], self.sizes[position], len(self.theta)
        entries = {i.name: i for i in self.circuit.inputs if isinstance(i, Stimulus) and i.target == part.name}
        rows = np.zeros((len(part.stimuli), steps), dtype=np.int32)
        scales, values = np.zeros((len(part.stimuli), lanes), dtype=real), []
        for k, name in enumerate(part.stimuli):
            entry = entries[name]
            entry.check_size(size)
            entry.check_length(steps, self.dt)
            rows[k], scales[k] = entry.rows(steps, self.dt), evaluate(entry.scale, self.values)
            wide = np.broadcast_to(entry.values * unit_scale(entry.unit), (entry.samples, size))
            values.append(np.ascontiguousarray(wide, dtype=real))
        return rows, scales, values

    def keys(self) -> np.ndarray:
        """(2, L) Philox keys."""
        found = [kernel_keys(self.seed, i) for i in self.indices]
        return np.array(found, dtype=np.uint64).T.copy()


def population_sizes(circuit: Circuit, theta: np.ndarray) -> tuple[int, ...]:
    """Sizes at one configuration; raises `CircuitError` below 1."""
    values = circuit.values(theta)
    return tuple(population_size(p, values) for p in circuit.populations)
