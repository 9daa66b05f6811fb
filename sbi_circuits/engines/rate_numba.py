"""Engine `kernel[numba]`: spiking circuits one by one, rate circuits side by side in the lanes of vectors."""

import hashlib
import time
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from sbi_circuits.circuit import AllToAll, Circuit, FixedIndegree, FixedTotal, Independent, Projection
from sbi_circuits.engines.base import Engine, Protocol, Simulation, failure
from sbi_circuits.engines.coupling import Coupling
from sbi_circuits.engines.kernel_numba import NumbaEngine, _import_source
from sbi_circuits.engines.noise import row_length
from sbi_circuits.engines.rate_program import Program, is_rate_circuit, rate_program
from sbi_circuits.engines.rate_source import argument_names, rate_source
from sbi_circuits.engines.rate_values import Lanes, population_sizes
from sbi_circuits.engines.rewrite import refusal
from sbi_circuits.engines.setup import prepare
from sbi_circuits.engines.signals import Sampling, chosen_readouts, quiet_recording, sampling
from sbi_circuits.engines.synapse_source import noise_numbers
from sbi_circuits.engines.synapses import Synapses
from sbi_circuits.engines.torch_terms import terms
from sbi_circuits.errors import TranslationError
from sbi_circuits.recording import Outcome
from sbi_circuits.units import evaluate

# Simulations side by side: several vectors of single precision, so that one hides the latency of another.
LANES = 64
_DENSE = 0.2


class CompiledEngine(NumbaEngine):
    """`kernel[numba]` for every circuit; single precision by default, double for comparisons to the last bit."""

    def run(self, circuit: Circuit, theta: np.ndarray, protocol: Protocol, seed: int, index: int) -> Simulation:
        """See `Engine.run`."""
        if is_rate_circuit(circuit):
            return self._lanes(circuit, np.atleast_2d(theta), protocol, seed, [index])[0]
        return super().run(circuit, theta, protocol, seed, index)

    def run_batch(
        self, circuit: Circuit, thetas: np.ndarray, protocol: Protocol, seed: int, indices: Sequence[int]
    ) -> Iterator[Simulation]:
        """See `Engine.run_batch`."""
        if not is_rate_circuit(circuit):
            yield from Engine.run_batch(self, circuit, thetas, protocol, seed, indices)
            return
        for group, sizes in _groups(circuit, thetas, _lanes_of(circuit)):
            if isinstance(sizes, Exception):
                yield Simulation(int(indices[group.start]), failure(sizes), None, 0.0)
                continue
            began, own = time.perf_counter(), [int(i) for i in indices[group]]
            try:
                found = self._lanes(circuit, thetas[group], protocol, seed, own)
            except TranslationError:
                raise
            except Exception as error:
                wall_s = (time.perf_counter() - began) / len(own)
                found = [Simulation(i, failure(error), None, wall_s) for i in own]
            yield from found

    def _lanes(self, circuit: Circuit, thetas: np.ndarray, protocol: Protocol, seed: int, indices: list[int]
               ) -> list[Simulation]:  # fmt: skip
        """Simulations of equal sizes, up to as many as there are lanes."""
        began, number = time.perf_counter(), len(indices)
        lanes = _lanes_of(circuit)
        # A lane without a simulation of its own repeats the last one.
        padded = np.concatenate([thetas, np.repeat(thetas[-1:], lanes - number, axis=0)])
        keys = (*indices, *[indices[-1]] * (lanes - number))
        run, program = load_rate_kernel(circuit, self.single, lanes)
        grid = sampling(circuit, protocol)
        side = Lanes(circuit, program, padded, seed, keys, population_sizes(circuit, thetas[0]), grid.dt)
        arrays = _Arrays(side, protocol, grid, np.float32 if self.single else np.float64)
        run(*(arrays.named[name] for name in argument_names(program)))
        return self._recordings(arrays, number, time.perf_counter() - began)

    def _recordings(self, arrays: "_Arrays", number: int, seconds: float) -> list[Simulation]:
        side, found = arrays.side, []
        finite, signals = arrays.finite(), arrays.signals()
        sizes = {p.name: n for p, n in zip(side.circuit.populations, side.sizes, strict=True)}
        for lane in range(number):
            index = side.indices[lane]
            if not finite[lane]:
                outcome = Outcome("diverged", "a state variable is not finite")
                found.append(Simulation(index, outcome, None, seconds / number))
                continue
            own = {name: values[:, :, lane].T for name, values in signals.items()}
            recording = quiet_recording(side.circuit, sizes, arrays.protocol, own, self.name)
            found.append(Simulation(index, Outcome("ok"), recording, seconds / number))
        return found


def _lanes_of(circuit: Circuit) -> int:
    """1 where simulations differ in synapses, which lanes share."""
    differ = any(p.random_weight or isinstance(p.wiring, (Independent, FixedTotal, FixedIndegree))
                 or p.when for p in circuit.projections)  # fmt: skip
    return 1 if differ else LANES


def _groups(circuit: Circuit, thetas: np.ndarray, lanes: int) -> Iterator[tuple[slice, Any]]:
    """Consecutive simulations of equal sizes, at most `lanes` together; or one that cannot be, with its error."""
    found: list[Any] = []
    for theta in thetas:
        try:
            found.append(population_sizes(circuit, theta))
        except Exception as error:
            found.append(error)
    first = 0
    for k in range(1, len(found) + 1):
        if k == len(found) or k - first == lanes or found[k] != found[first]:
            yield slice(first, k), found[first]
            first = k


@cache
def load_rate_kernel(circuit: Circuit, single: bool, lanes: int) -> tuple[Any, Program]:
    """The compiled kernel of a rate circuit, and its program."""
    program = rate_program(circuit, single, NumbaEngine.name)
    source = rate_source(circuit.name, program, single, lanes)
    return _import_source(source + _noise_digest(), f"{circuit.name}_rate").run, program


@cache
def _noise_digest() -> str:
    """A line that changes with the functions a kernel calls, because numba's cache does not see them."""
    text = Path(__file__).with_name("rate_noise.py").read_bytes()
    return f"# noise {hashlib.sha256(text).hexdigest()[:16]}\n"


class _Arrays:
    """What a kernel works on, allocated for some simulations side by side."""

    def __init__(self, side: Lanes, protocol: Protocol, grid: Sampling, real: Any):
        self.side, self.protocol, self.grid, self.real = side, protocol, grid, real
        self.lanes = len(side.theta)
        self.named: dict[str, Any] = {
            "steps": grid.steps, "first": grid.first, "every": grid.every, "dt": grid.dt,
            "sizes": np.array(side.sizes, dtype=np.int64), "keys": side.keys(),
        }  # fmt: skip
        self.state: list[np.ndarray] = []
        for k in range(len(side.program.parts)):
            self._population(k)
        self._readouts()
        self._projections()

    def _population(self, k: int) -> None:
        side, part = self.side, self.side.program.parts[k]
        start = side.initial(k, self.real)
        self.state += start
        self.named |= {f"v_{k}_{row}": values for row, values in enumerate(start)}
        self.named[f"K_{k}"] = side.invariants(part.invariants, side.known(k), self.real)
        if part.shared:
            self.named[f"which_{k}"], self.named[f"levels_{k}"] = side.shared(k, self.grid.steps, self.real)
        if part.stimuli:
            rows, gains, courses = side.courses(k, self.grid.steps, self.real)
            self.named |= {f"rows_{k}": rows, f"gains_{k}": gains}
            self.named |= {f"course_{k}_{n}": values for n, values in enumerate(courses)}
        for m in noise_numbers(side.program.parts)[k]:
            self.named[f"noise_{m}"] = np.zeros(row_length(side.sizes[k]) * self.lanes, dtype=self.real)

    def _readouts(self) -> None:
        chosen = chosen_readouts(self.side.circuit, self.protocol.record)
        for k, output in enumerate(self.side.program.outputs):
            position = self.side.program.position(output.readout.population)
            channels = self.side.sizes[position] if output.readout.over == "each" else 1
            wanted = output.readout in chosen
            self.named[f"wanted_{k}"] = wanted
            self.named[f"out_{k}"] = np.zeros((self.grid.number if wanted else 0, channels * self.lanes), self.real)
            known = self.side.known(position)
            self.named[f"KR_{k}"] = self.side.invariants(output.invariants, known, self.real)

    def _projections(self) -> None:
        side = self.side
        if not side.program.links:
            return
        setup = prepare(side.circuit, side.theta[0], self.protocol, side.seed, side.indices[0])
        present = {s.number: s for s in setup.synapses}
        for link in side.program.links:
            self._projection(link, side.circuit.projections[link.number], present.get(link.number))

    def _projection(self, link: Coupling, projection: Projection, synapses: Synapses | None) -> None:
        k, (sources, size) = link.number, (self._size(link.source), self._size(link.target))
        there = synapses is not None and len(synapses.targets) > 0
        indptr = synapses.indptr[0] if synapses is not None else np.zeros(sources + 1, dtype=np.int64)
        targets = synapses.targets if synapses is not None else np.zeros(0, dtype=np.uint16)
        weights = np.zeros(0)
        known = {**self.side.values, "dt": self.side.dt}
        if link.random_weight and synapses is not None:
            weights = np.asarray(synapses.weight)
        else:
            with np.errstate(all="ignore"):
                known["weight"] = evaluate(projection.weight, self.side.values)
        # What is no matrix product is evaluated synapse by synapse.
        products = all(terms(e, link.random_weight) is not None for _, e in link.summed)
        dense = link.random_weight and products and len(targets) > _DENSE * sources * size
        if dense and synapses is not None:
            matrix = np.zeros((sources, size))
            np.add.at(matrix, (synapses.sources, synapses.targets.astype(np.int64)), weights)
            weights = matrix.ravel()
        self.named |= {
            f"present_{k}": there, f"indptr_{k}": indptr, f"targets_{k}": targets,
            f"weights_{k}": np.ascontiguousarray(weights, dtype=self.real),
            f"every_{k}": isinstance(projection.wiring, AllToAll), f"dense_{k}": bool(dense),
            **self._past(link, projection, sources, products),
            f"scratch_{k}": np.zeros((2, max(sources, size) * self.lanes), dtype=self.real),
            f"KS_{k}": self.side.invariants(link.invariants, known, self.real),
        }  # fmt: skip

    def _past(self, link: Coupling, projection: Projection, sources: int, products: bool) -> dict[str, np.ndarray]:
        """Ring of what sources were, as long as the longest delay, and the delay of each lane in steps."""
        delay = np.broadcast_to(evaluate(projection.delay, self.side.values), (self.lanes,))
        lags = np.round(delay / self.side.dt).astype(np.int64)
        if lags.any() and not products:
            raise refusal(f"projection {projection.name}", "a delayed coupling that is no product of its ends")
        number = sum(len(terms(e, link.random_weight) or ()) for _, e in link.summed)
        shape = (number, 1 + int(lags.max()), sources * self.lanes if lags.any() else 0)
        return {f"past_{link.number}": np.zeros(shape, dtype=self.real), f"lags_{link.number}": lags}

    def _size(self, population: str) -> int:
        return self.side.sizes[self.side.program.position(population)]

    def finite(self) -> np.ndarray:
        """(L,) whether everything a simulation left is finite."""
        outs = [self.named[f"out_{k}"] for k in range(len(self.side.program.outputs))]
        rows = [*self.state, *outs]
        checks = [np.isfinite(v.reshape(-1, self.lanes)).all(axis=0) for v in rows if v.size]
        return np.logical_and.reduce(checks)

    def signals(self) -> dict[str, np.ndarray]:
        """Readout -> (samples, channels, L) of those that were wanted."""
        found = {}
        for k, output in enumerate(self.side.program.outputs):
            if self.named[f"wanted_{k}"]:
                out = self.named[f"out_{k}"]
                found[output.readout.name] = out.reshape(len(out), -1, self.lanes)
        return found


__all__ = ["LANES", "CompiledEngine", "load_rate_kernel"]
