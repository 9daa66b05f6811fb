"""Rate circuits on `kernel[cuda]`: host arrays of some simulations side by side, and what became of them."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numba import cuda

from sbi_circuits.circuit import AllToAll, Circuit, Projection
from sbi_circuits.engines.base import Protocol, Simulation, failure
from sbi_circuits.engines.coupling import Coupling
from sbi_circuits.engines.cuda_device import SIMULATED
from sbi_circuits.engines.cuda_rate_source import argument_names, cuda_rate_source
from sbi_circuits.engines.kernel_numba import _import_source
from sbi_circuits.engines.noise import row_length
from sbi_circuits.engines.rate_numba import _groups, _lanes_of
from sbi_circuits.engines.rate_program import rate_program
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

NAME = "kernel[cuda]"
# Simulations handed to the device together, and bytes of signals they may keep there.
BATCH = 4 if SIMULATED else 16384
_ROOM = 4 * 2**30
_DENSE = 0.2


@dataclass(frozen=True)
class Shape:
    """How simulations lie in the threads of a block and in memory.

    Args:
        per_block: simulations of a block.
        units: threads of each simulation.
        own: whether each simulation has synapses of its own, so that a block holds one.
        lone: whether every population has one neuron and nothing is coupled.
    """

    per_block: int
    units: int
    own: bool
    lone: bool

    @staticmethod
    def of(circuit: Circuit, sizes: Sequence[int]) -> "Shape":
        """The shape for a circuit; it does not depend on how many simulations there are."""
        largest, own = max(sizes), _lanes_of(circuit) == 1
        if largest == 1 and not circuit.projections:
            return Shape(2 if SIMULATED else 32, 1, False, True)
        if SIMULATED:
            return Shape(1, 3, True, False) if own else Shape(2, 2, False, False)
        if own:
            return Shape(1, int(min(512, max(32, 2 ** np.ceil(np.log2(largest))))), True, False)
        return Shape(32, int(min(8, 2 ** np.ceil(np.log2(largest)))), False, False)


def run_rates(
    engine: Any, circuit: Circuit, thetas: np.ndarray, protocol: Protocol, seed: int, indices: Sequence[int]
) -> Iterator[Simulation]:
    """Simulate many configurations of a rate circuit; see `Engine.run_batch`.

    Args:
        engine: a `CudaEngine`: its precision, the most simulations of a launch, and its list of launches.
        circuit, thetas, protocol, seed, indices: as in `Engine.run_batch`.
    """
    rate_program(circuit, engine.single, NAME)
    for group, sizes in _groups(circuit, thetas, _most(engine, circuit, protocol)):
        own = [int(i) for i in indices[group]]
        if isinstance(sizes, Exception):
            yield Simulation(own[0], failure(sizes), None, 0.0)
            continue
        yield from _group(engine, circuit, thetas[group], protocol, seed, own)


def _group(
    engine: Any, circuit: Circuit, thetas: np.ndarray, protocol: Protocol, seed: int, indices: list[int]
) -> Iterator[Simulation]:
    """Simulations of equal sizes; where one of them cannot be, each on its own."""
    began = time.perf_counter()
    try:
        arrays = _arrays(engine, circuit, thetas, protocol, seed, indices)
    except TranslationError:
        raise
    except Exception as error:
        if len(indices) > 1:
            for theta, index in zip(thetas, indices, strict=True):
                yield from _group(engine, circuit, theta[None], protocol, seed, [index])
        else:
            yield Simulation(indices[0], failure(error), None, time.perf_counter() - began)
        return
    yield from _launch(engine, arrays, len(indices), began)


def run_one(
    engine: Any, circuit: Circuit, theta: np.ndarray, protocol: Protocol, seed: int, index: int
) -> Simulation:
    """Simulate one configuration of a rate circuit; see `Engine.run`."""
    began = time.perf_counter()
    arrays = _arrays(engine, circuit, np.atleast_2d(theta), protocol, seed, [index])
    return _launch(engine, arrays, 1, began)[0]


def _arrays(
    engine: Any, circuit: Circuit, thetas: np.ndarray, protocol: Protocol, seed: int, indices: list[int]
) -> "Arrays":
    sizes = population_sizes(circuit, thetas[0])
    shape, program = Shape.of(circuit, sizes), rate_program(circuit, engine.single, NAME)
    # A thread without a simulation of its own repeats the last one.
    more = -len(indices) % shape.per_block
    padded, keys = np.concatenate([thetas, np.repeat(thetas[-1:], more, axis=0)]), (*indices, *[indices[-1]] * more)
    grid = sampling(circuit, protocol)
    side = Lanes(circuit, program, padded, seed, keys, sizes, grid.dt)
    return Arrays(side, protocol, grid, engine.real, shape)


def _launch(engine: Any, arrays: "Arrays", number: int, began: float) -> list[Simulation]:
    from sbi_circuits.engines.kernel_cuda import Launch

    circuit, shape, names = arrays.side.circuit, arrays.shape, argument_names(arrays.side.program)
    slot, kernel = engine.slot(), load_rate_kernel(circuit, engine.single, shape.lone)
    values = {name: arrays.named[name] for name in names}
    given = {n: slot.upload(n, v) if isinstance(v, np.ndarray) else v for n, v in values.items()}
    blocks, threads = arrays.lanes // shape.per_block, shape.per_block * shape.units
    shared = 0 if shape.lone else threads * np.dtype(engine.real).itemsize
    slot.began.record(slot.stream)
    kernel[blocks, threads, slot.stream, shared](*given.values())
    slot.ended.record(slot.stream)
    for name in (n for n in names if n.startswith(("v_", "out_"))):
        arrays.named[name] = slot.download(name, given[name])
    slot.stream.synchronize()
    first, last = engine.span(slot)
    engine.launches.append(Launch(first, last, number, blocks, threads, shared))
    return _simulations(arrays, number, began)


def _most(engine: Any, circuit: Circuit, protocol: Protocol) -> int:
    """Simulations of a launch: as many as were asked for, and as their signals leave room for."""
    wanted = engine.rate_batch
    grid, channels = sampling(circuit, protocol), 0
    sizes = dict(zip((p.name for p in circuit.populations), population_sizes(circuit, circuit.default_theta()),
                     strict=True))  # fmt: skip
    for readout in chosen_readouts(circuit, protocol.record):
        channels += sizes[readout.population] if readout.over == "each" else 1
    room = _ROOM // max(1, grid.number * channels * np.dtype(engine.real).itemsize)
    return int(max(1, min(wanted, room)))


def _simulations(arrays: "Arrays", number: int, began: float) -> list[Simulation]:
    side, found = arrays.side, []
    finite, signals = arrays.finite(), arrays.signals()
    sizes = {p.name: n for p, n in zip(side.circuit.populations, side.sizes, strict=True)}
    wall_s = (time.perf_counter() - began) / number
    for lane in range(number):
        index = side.indices[lane]
        if not finite[lane]:
            diverged = Outcome("diverged", "a state variable is not finite")
            found.append(Simulation(index, diverged, None, wall_s))
            continue
        own = {name: np.ascontiguousarray(values[:, :, lane].T) for name, values in signals.items()}
        recording = quiet_recording(side.circuit, sizes, arrays.protocol, own, NAME)
        found.append(Simulation(index, Outcome("ok"), recording, wall_s))
    return found


@cache
def load_rate_kernel(circuit: Circuit, single: bool, lone: bool) -> Any:
    """The kernel of a rate circuit; compiled at its first launch, then read from numba's cache."""
    from sbi_circuits.engines.kernel_cuda import parts_digest

    program = rate_program(circuit, single, NAME)
    module = _import_source(cuda_rate_source(circuit.name, program, single, lone, parts_digest()),
                            f"{circuit.name}_cuda_rate")  # fmt: skip
    return cuda.jit(**({} if SIMULATED else {"cache": True}))(module.run)


class Arrays:
    """What a launch works on.

    Args:
        side: the simulations.
        protocol: of all of them.
        grid: when signals are sampled.
        real: NumPy type of the state.
        shape: of the launch.
    """

    def __init__(self, side: Lanes, protocol: Protocol, grid: Sampling, real: Any, shape: Shape):
        self.side, self.protocol, self.grid, self.real, self.shape = side, protocol, grid, real, shape
        self.lanes = len(side.theta)
        # Whole rows of four, because normals come in fours.
        self.width = 1 if shape.lone else max(row_length(n) for n in side.sizes)
        across, along = (1, self.width) if shape.own else (self.lanes, 1)
        self.named: dict[str, Any] = {
            "steps": grid.steps, "first": grid.first, "every": grid.every, "dt": grid.dt,
            "per_block": shape.per_block, "across": across, "along": along,
            "sizes": np.array(side.sizes, dtype=np.int64), "keys": side.keys().astype(np.uint32),
        }  # fmt: skip
        for k in range(len(side.program.parts)):
            self._population(k)
        self._readouts()
        if side.program.links:
            self._projections()

    def _placed(self, values: np.ndarray, size: int) -> np.ndarray:
        """(size * L,), lane last, as the kernel has it: with room for the longest row, and neurons last where own."""
        full = np.zeros((self.width, self.lanes), dtype=self.real)
        full[:size] = values.reshape(size, self.lanes)
        return np.ascontiguousarray(full.T if self.shape.own else full).ravel()

    def _population(self, k: int) -> None:
        side, part = self.side, self.side.program.parts[k]
        for row, values in enumerate(side.initial(k, self.real)):
            self.named[f"v_{k}_{row}"] = self._placed(values, side.sizes[k])
        self.named[f"K_{k}"] = side.invariants(part.invariants, side.known(k), self.real)
        if part.shared:
            self.named[f"which_{k}"], self.named[f"levels_{k}"] = side.shared(k, self.grid.steps, self.real)
        if part.stimuli:
            rows, gains, courses = side.courses(k, self.grid.steps, self.real)
            self.named |= {f"rows_{k}": rows, f"gains_{k}": gains}
            self.named |= {f"course_{k}_{n}": values for n, values in enumerate(courses)}
        for m in noise_numbers(side.program.parts)[k]:
            self.named[f"noise_{m}"] = np.zeros(1 if self.shape.lone else self.width * self.lanes, dtype=self.real)

    def _readouts(self) -> None:
        side, chosen = self.side, chosen_readouts(self.side.circuit, self.protocol.record)
        for k, output in enumerate(side.program.outputs):
            position = side.program.position(output.readout.population)
            channels = side.sizes[position] if output.readout.over == "each" else 1
            wanted = output.readout in chosen
            self.named[f"wanted_{k}"] = wanted
            self.named[f"out_{k}"] = np.zeros((self.grid.number if wanted else 1, channels * self.lanes), self.real)
            self.named[f"KR_{k}"] = side.invariants(output.invariants, side.known(position), self.real)

    def _projections(self) -> None:
        side, circuit = self.side, self.side.circuit
        # Simulations that share their synapses are prepared once.
        chosen = range(self.lanes) if self.shape.own else range(1)
        setups = [prepare(circuit, side.theta[b], self.protocol, side.seed, side.indices[b]) for b in chosen]
        for link in side.program.links:
            found = [next((s for s in setup.synapses if s.number == link.number), None) for setup in setups]
            self._projection(link, circuit.projections[link.number], found)

    def _projection(self, link: Coupling, projection: Projection, found: Sequence[Synapses | None]) -> None:
        k, (sources, size) = link.number, (self._size(link.source), self._size(link.target))
        there = np.array([s is not None and len(s.targets) > 0 for s in found])
        products = all(terms(e, link.random_weight) is not None for _, e in link.summed)
        total = sum(len(s.targets) for s in found if s is not None)
        dense = bool(link.random_weight and products and total > _DENSE * sources * size * len(found))
        known = {**self.side.values, "dt": self.side.dt}
        if not link.random_weight:
            with np.errstate(all="ignore"):
                known["weight"] = evaluate(projection.weight, self.side.values)
        rows, listed, weights = _by_target(found, size)
        if dense:
            rows, listed, weights = rows[:1], listed[:1], _matrices(found, sources, size)
        present = there if self.shape.own else np.repeat(there, self.lanes)
        self.named |= {
            f"present_{k}": present, f"starts_{k}": rows, f"jump_{k}": size + 1 if self.shape.own else 0,
            f"sources_{k}": listed, f"weights_{k}": weights.astype(self.real),
            f"all_pairs_{k}": isinstance(projection.wiring, AllToAll), f"dense_{k}": dense,
            **self._past(link, projection, products),
            f"scratch_{k}": np.zeros(self.width * self.lanes, dtype=self.real),
            f"KS_{k}": self.side.invariants(link.invariants, known, self.real),
        }  # fmt: skip

    def _past(self, link: Coupling, projection: Projection, products: bool) -> dict[str, np.ndarray]:
        """Ring of what sources were, as long as the longest delay, and the delay of each simulation in steps."""
        delay = np.broadcast_to(evaluate(projection.delay, self.side.values), (self.lanes,))
        lags = np.round(delay / self.side.dt).astype(np.int64)
        if lags.any() and not products:
            raise refusal(f"projection {projection.name}", "a delayed coupling that is no product of its ends")
        number = sum(len(terms(e, link.random_weight) or ()) for _, e in link.summed)
        shape = (max(number, 1), 1 + int(lags.max()), self.width * self.lanes if lags.any() else 1)
        return {f"past_{link.number}": np.zeros(shape, dtype=self.real), f"lags_{link.number}": lags}

    def _size(self, population: str) -> int:
        return self.side.sizes[self.side.program.position(population)]

    def finite(self) -> np.ndarray:
        """(L,) whether everything a simulation left is finite."""
        shape = (self.lanes, -1) if self.shape.own else (-1, self.lanes)
        state = [v.reshape(shape) for n, v in self.named.items() if n.startswith("v_")]
        checks = [np.isfinite(v).all(axis=1 if self.shape.own else 0) for v in state]
        checks += [np.isfinite(v).all(axis=(0, 1)) for v in self.signals().values()]
        return np.logical_and.reduce(checks)

    def signals(self) -> dict[str, np.ndarray]:
        """Readout -> (samples, channels, L) of those that were wanted."""
        return {
            output.readout.name: (out := self.named[f"out_{k}"]).reshape(len(out), -1, self.lanes)
            for k, output in enumerate(self.side.program.outputs)
            if self.named[f"wanted_{k}"]
        }


def _by_target(found: Sequence[Synapses | None], size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Synapses of one simulation after another, by target and then source: row pointers, sources, weights."""
    rows, listed, weights, before = [], [], [], 0
    for synapses in found:
        targets = np.zeros(0, dtype=np.int64) if synapses is None else synapses.targets.astype(np.int64)
        order = np.argsort(targets, kind="stable")
        rows.append(before + np.concatenate([[0], np.cumsum(np.bincount(targets, minlength=size))]))
        if synapses is not None:
            listed.append(synapses.sources[order])
            weights.append(np.broadcast_to(synapses.weight, len(targets))[order])
        before += len(targets)
    empty = [np.zeros(1)]  # no array of a launch is empty
    return (np.concatenate(rows).astype(np.int64), np.concatenate(listed + empty).astype(np.int64),
            np.concatenate(weights + empty))  # fmt: skip


def _matrices(found: Sequence[Synapses | None], sources: int, size: int) -> np.ndarray:
    """Weights of every pair, one simulation after another."""
    matrices = np.zeros((len(found), sources, size))
    for matrix, synapses in zip(matrices, found, strict=True):
        if synapses is not None:
            np.add.at(matrix, (synapses.sources, synapses.targets.astype(np.int64)), synapses.weight)
    return matrices.ravel()


__all__ = ["BATCH", "Arrays", "Shape", "load_rate_kernel", "run_one", "run_rates"]
