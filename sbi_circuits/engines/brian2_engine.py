"""The reference engine: a real Brian2 network (Stimberg, Brette, Goodman 2019, eLife 8:e47314).

Slow and trusted: every other engine is compared with this one. Wiring and initial values come from the
same `Setup` as everywhere, so only the numerics and the Poisson events differ between engines.
"""

import gc
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import brian2
import numpy as np
from brian2.codegen.runtime.numpy_rt import NumpyCodeObject
from brian2.core.base import BrianObjectException
from brian2.devices.device import auto_target, get_device
from brian2.units.fundamentalunits import Quantity, get_dimensions

from sbi_circuits.circuit import Circuit, EarlyStop, PoissonInput, Readout
from sbi_circuits.engines.base import Engine, Protocol, Simulation
from sbi_circuits.engines.brian2_delays import delay_lines, delayed_equations
from sbi_circuits.engines.brian2_signals import readout_equations, sampled, signal_monitors
from sbi_circuits.engines.brian2_synapses import brian2_synapses
from sbi_circuits.engines.methods import register_methods
from sbi_circuits.engines.setup import Cells, Course, Poisson, Setup, Steps, prepare, timestep
from sbi_circuits.engines.signals import as_signals, chosen_readouts, sampling
from sbi_circuits.errors import CircuitError, TranslationError, UnknownNameError
from sbi_circuits.recording import COUNT_BIN, IntervalMoments, Outcome, PopulationCounts, Recording
from sbi_circuits.seeds import stream_key
from sbi_circuits.units import brian2_units, declared_quantities, evaluate, quiet_brian2, unit_dimensions

TARGETS = ("auto", "cython", "numpy")


@dataclass(frozen=True)
class Brian2Engine(Engine):
    """Runs circuits with Brian2 in runtime mode.

    Args:
        target: "cython" (everything compiled), "numpy", or "auto": Cython where a compiler works, save for
            the Poisson inputs, whose code contains their rates and would be compiled for every configuration.

    Raises:
        UnknownNameError: another target.
    """

    target: str = "auto"
    name = "brian2"

    def __post_init__(self) -> None:
        if self.target not in TARGETS:
            raise UnknownNameError("Brian2 target", self.target, TARGETS)

    def run(
        self, circuit: Circuit, theta: np.ndarray, protocol: Protocol, seed: int, index: int
    ) -> Simulation:
        """Simulate one configuration; see `Engine.run`."""
        start = time.perf_counter()
        setup = prepare(circuit, theta, protocol, seed, index)
        readouts = chosen_readouts(circuit, protocol.record)
        with _isolated(self.target, stream_key(seed, index, "brian2")):
            model = build_model(circuit, setup, self.target == "cython", readouts)
            if readouts:
                grid = sampling(circuit, protocol)
                model.watch(signal_monitors(readouts, model.groups, grid))
            outcome = _simulate(model, circuit, setup, protocol)
            recording = reduce_spikes(*model.spikes(), setup, protocol) if outcome.ok else None
            if recording is not None and readouts:
                values = sampled(readouts, model.signals, grid)
                recording = replace(recording, signals=as_signals(circuit, protocol.record, values, grid))
        return Simulation(index, outcome, recording, time.perf_counter() - start)


@dataclass(frozen=True, eq=False)
class Model:
    """A Brian2 network with its groups and spike monitors, by population, and monitors of signals, by readout."""

    network: brian2.Network
    groups: Mapping[str, brian2.NeuronGroup]
    monitors: Mapping[str, brian2.SpikeMonitor]
    setup: Setup
    signals: dict[str, brian2.StateMonitor] = field(default_factory=dict)

    def watch(self, signals: Mapping[str, brian2.StateMonitor]) -> None:
        """Sample some readouts from now on."""
        self.signals.update(signals)
        self.network.add(*signals.values())

    def run(self, steps: int) -> None:
        """Advance by a number of time steps; raises `TranslationError` where Brian2 cannot run it."""
        try:
            self.network.run(steps * self.setup.dt * brian2.second, namespace={})
        except BrianObjectException as error:
            reason = " ".join(str(error.__cause__ or error).split())
            raise TranslationError(f"Brian2 cannot run this circuit: {reason}") from error

    def spikes(self) -> tuple[np.ndarray, np.ndarray]:
        """Time step and cell (numbered over all populations) of every spike so far: two (S,) arrays."""
        steps, cells, first = [], [], 0
        for part in self.setup.cells:
            monitor = self.monitors.get(part.population.name)
            if monitor is not None:
                steps.append(np.rint(np.asarray(monitor.t_[:]) / self.setup.dt).astype(np.int64))
                cells.append(np.asarray(monitor.i[:], dtype=np.int64) + first)
            first += part.size
        empty = [np.zeros(0, dtype=np.int64)]
        return np.concatenate(steps + empty), np.concatenate(cells + empty)

    def finite(self) -> bool:
        """Whether every state variable is finite."""
        return all(
            bool(np.isfinite(group.variables[name].get_value()).all())
            for group in self.groups.values()
            for name in group.equations.diff_eq_names
        )


def build_model(
    circuit: Circuit, setup: Setup, compile_poisson: bool = True, readouts: tuple[Readout, ...] = ()
) -> Model:
    """The Brian2 network of one simulation, on the active Brian2 device.

    Args:
        circuit: the circuit `setup` was prepared from.
        setup: sizes, SI constants, initial values and synapses.
        compile_poisson: whether Poisson inputs run as compiled code, like everything else, or in NumPy.
        readouts: those that will be sampled.
    """
    register_methods()
    clock = brian2.Clock(dt=setup.dt * brian2.second, name="simulation_clock")
    groups = {c.population.name: _neurons(circuit, c, setup, clock, readouts) for c in setup.cells}
    objects: list[Any] = list(groups.values())
    known = _as_quantities(setup.values, _quantities(circuit))
    present = [s for s in setup.synapses if len(s.targets)]
    objects += [brian2_synapses(circuit.projections[s.number], s, groups, known, clock) for s in present]
    objects += delay_lines(circuit, setup, groups, clock)
    inputs = _poisson_inputs(setup, groups)
    if not compile_poisson:
        for poisson in inputs:
            poisson.codeobj_class = NumpyCodeObject
    objects += inputs
    monitors = {
        c.population.name: brian2.SpikeMonitor(groups[c.population.name], name=f"spikes_{c.population.name}")
        for c in setup.cells
        if c.population.threshold
    }
    return Model(brian2.Network(objects, list(monitors.values())), groups, monitors, setup)


def reduce_spikes(steps: np.ndarray, cells: np.ndarray, setup: Setup, protocol: Protocol) -> Recording:
    """The recording of all spikes of a simulation, as its `Record` asks for.

    Args:
        steps, cells: (S,) time step and cell of every spike, cells numbered over all populations.
        setup: of the simulation.
        protocol: valid interval, and what to keep.
    """
    valid = (steps >= setup.warmup_steps) & (steps < setup.steps)
    order = np.lexsort((steps[valid], cells[valid]))
    steps, cells = steps[valid][order], cells[valid][order]
    record, t0 = protocol.record, setup.warmup_steps * setup.dt
    kept = np.isin(cells, setup.recorded)
    per_cell = np.bincount(cells[kept], minlength=setup.total_cells)[setup.recorded]
    return Recording(
        t0=t0,
        t1=setup.steps * setup.dt,
        times=steps[kept] * setup.dt,
        offsets=np.concatenate([[0], np.cumsum(per_cell)]),
        groups=setup.groups(),
        counts=_counts(steps, cells, setup) if record.counts else {},
        moments=_moments(steps, cells, setup) if record.moments else {},
        meta={"engine": Brian2Engine.name},
    )


def _ranges(setup: Setup) -> Iterator[tuple[str, int, int]]:
    """Name, first cell and end of each population, in the numbering over all populations."""
    first = 0
    for part in setup.cells:
        yield part.population.name, first, first + part.size
        first += part.size


def _counts(steps: np.ndarray, cells: np.ndarray, setup: Setup) -> dict[str, PopulationCounts]:
    bins = int((setup.steps - setup.warmup_steps) * setup.dt / COUNT_BIN + 1e-6)
    # Spikes fall on multiples of dt, many of them on bin edges: a small shift keeps rounding out of the bin.
    index = np.floor((steps - setup.warmup_steps) * (setup.dt / COUNT_BIN) + 1e-6).astype(np.int64)
    inside = index < bins
    counts = {}
    for name, first, end in _ranges(setup):
        chosen = inside & (cells >= first) & (cells < end)
        counts[name] = PopulationCounts(np.bincount(index[chosen], minlength=bins), end - first)
    return counts


def _moments(steps: np.ndarray, cells: np.ndarray, setup: Setup) -> dict[str, IntervalMoments]:
    """Moments from spikes sorted by cell, then time."""
    spikes = np.bincount(cells, minlength=setup.total_cells)
    same = cells[1:] == cells[:-1]
    owner, interval = cells[1:][same], np.diff(steps)[same] * setup.dt
    total = np.bincount(owner, weights=interval, minlength=setup.total_cells)
    squared = np.bincount(owner, weights=interval**2, minlength=setup.total_cells)
    return {name: IntervalMoments(spikes[a:b], total[a:b], squared[a:b]) for name, a, b in _ranges(setup)}


def _simulate(model: Model, circuit: Circuit, setup: Setup, protocol: Protocol) -> Outcome:
    rule = circuit.early_stop if protocol.early_stop else None
    done = 0
    if rule is not None and timestep(rule.stop, setup.dt) <= setup.steps:
        done = timestep(rule.stop, setup.dt)
        model.run(done)
        outcome = _first_window(model, rule, setup)
        if not outcome.ok:
            return outcome
    if done < setup.steps:
        model.run(setup.steps - done)
    return Outcome("ok") if model.finite() else Outcome("diverged", "a state variable is not finite")


def _first_window(model: Model, rule: EarlyStop, setup: Setup) -> Outcome:
    """What the early-stop rule says after its window; a state that is not finite is diverged, not silent."""
    if not model.finite():
        return Outcome("diverged", "a state variable is not finite")
    steps, cells = model.spikes()
    first, end = next((a, b) for name, a, b in _ranges(setup) if name == rule.population)
    start, stop = timestep(rule.start, setup.dt), timestep(rule.stop, setup.dt)
    spikes = np.count_nonzero((steps >= start) & (steps < stop) & (cells >= first) & (cells < end))
    refractory = float(evaluate(rule.refractory, setup.values))
    statistic = refractory * spikes / (end - first) / (rule.stop - rule.start)
    window = f"over {rule.start:g}-{rule.stop:g} s in {rule.population}"
    if statistic <= rule.silent:
        return Outcome("silent", f"refractory * rate = {statistic:.3g} <= {rule.silent:g} {window}")
    if statistic >= rule.saturated:
        return Outcome("saturated", f"refractory * rate = {statistic:.3g} >= {rule.saturated:g} {window}")
    return Outcome("ok")


def _quantities(circuit: Circuit) -> dict[str, Any]:
    """Parameters and constants with their dimensions; the numbers mean nothing."""
    known = declared_quantities(list(circuit.declared.items()))
    with np.errstate(all="ignore"):
        for name, expression in circuit.constants:
            known[name] = evaluate(expression, known, units=brian2_units)
    return known


def _as_quantities(values: Mapping[str, float], known: Mapping[str, Any]) -> dict[str, Any]:
    """SI values as Brian2 quantities with the dimensions of `known`."""
    return {name: Quantity.with_dimensions(values[name], get_dimensions(value)) for name, value in known.items()}


def _namespace(circuit: Circuit, cells: Cells) -> dict[str, Any]:
    """The population's constants as Brian2 quantities."""
    known = _quantities(circuit)
    with np.errstate(all="ignore"):
        own = {n: evaluate(e, known, units=brian2_units) for n, e in cells.population.namespace}
    return _as_quantities(cells.constants, {**known, **own})


def _neurons(
    circuit: Circuit, cells: Cells, setup: Setup, clock: brian2.Clock, readouts: tuple[Readout, ...]
) -> brian2.NeuronGroup:
    population = cells.population
    namespace = _namespace(circuit, cells)
    refractory: Any = population.refractory or False
    if isinstance(cells.refractory_steps, int):
        # By name, so that the generated code is the same at every configuration and compiled once.
        namespace["refractory_period"] = cells.refractory_steps * setup.dt * brian2.second
        refractory = refractory and "refractory_period"
    equations = [population.equations, *readout_equations(readouts, population.name)]
    equations += delayed_equations(circuit, setup, population)
    for current in (c for c in setup.currents if c.target == population.name):
        dimension = _current_dimension(circuit, current)
        namespace[f"{current.name}_values"] = _timed(current, setup, dimension)
        unit = "1" if dimension.is_dimensionless else repr(dimension)
        equations.append(f"{current.name} = {current.name}_values(t) : {unit} (constant over dt)")
    for course in (c for c in setup.courses if c.target == population.name):
        dimension = _current_dimension(circuit, course)
        namespace[f"{course.name}_values"] = _timed_course(course, cells.size, setup, dimension)
        unit = "1" if dimension.is_dimensionless else repr(dimension)
        equations.append(f"{course.name} = {course.name}_values(t, i) : {unit} (constant over dt)")
    group = brian2.NeuronGroup(
        cells.size,
        "\n".join(equations),
        threshold=population.threshold or None,
        reset=population.reset or None,
        refractory=refractory,
        method=population.method,
        namespace=namespace,
        clock=clock,
        name=f"population_{population.name}",
    )
    for variable, values in cells.initial.items():
        scalar = group.variables[variable].scalar
        setattr(group, f"{variable}_", float(values[0]) if scalar else values)
    return group


def _current_dimension(circuit: Circuit, current: Steps | Course) -> Any:
    declared = {(i.target, i.name): i.unit for i in circuit.inputs if not isinstance(i, PoissonInput)}
    return unit_dimensions(declared[current.target, current.name])


def _timed(current: Steps, setup: Setup, dimension: Any) -> brian2.TimedArray:
    """The steps on the grid of the simulation; Brian2 holds the last value from then on."""
    starts = np.clip(current.starts, 0, setup.steps)
    values = np.concatenate([[0.0], current.values])
    grid = values[np.searchsorted(starts, np.arange(starts.max(initial=0) + 1), side="right")]
    name = f"{current.name}_values_{current.target}"
    quantity = Quantity.with_dimensions(grid, dimension)
    return brian2.TimedArray(quantity, dt=setup.dt * brian2.second, name=name)


def _timed_course(course: Course, size: int, setup: Setup, dimension: Any) -> brian2.TimedArray:
    """A stimulus on the grid of the simulation, a column for each unit."""
    grid = np.broadcast_to(course.scale * course.values[course.rows], (len(course.rows), size))
    quantity = Quantity.with_dimensions(np.ascontiguousarray(grid), dimension)
    return brian2.TimedArray(quantity, dt=setup.dt * brian2.second, name=f"{course.name}_values_{course.target}")


def _poisson_inputs(setup: Setup, groups: Mapping[str, brian2.NeuronGroup]) -> list[brian2.PoissonInput]:
    inputs = []
    for number, poisson in enumerate(setup.poisson):
        if poisson.driven and poisson.sources and poisson.rate > 0:
            inputs.append(_poisson_input(number, poisson, groups[poisson.target], setup))
    return inputs


def _poisson_input(
    number: int, poisson: Poisson, group: brian2.NeuronGroup, setup: Setup
) -> brian2.PoissonInput:
    if poisson.rate * setup.dt > 1:
        raise CircuitError(f"input to {poisson.target}: rate {poisson.rate:g} Hz is above 1/dt")
    # By name: a number would be written into the code with fewer digits than it has.
    weight = f"poisson_increment_{number}"
    group.namespace[weight] = _increment(group, poisson.variable, poisson.weight)
    driven = group if poisson.driven == len(group) else group[: poisson.driven]
    order = 1000 + number  # after every projection
    return brian2.PoissonInput(
        driven, poisson.variable, poisson.sources, poisson.rate * brian2.Hz, weight=weight, order=order
    )


def _increment(group: brian2.NeuronGroup, variable: str, value: float) -> Any:
    return Quantity.with_dimensions(value, group.variables[variable].dim)


@contextmanager
def _isolated(target: str, key: int) -> Iterator[None]:
    """Brian2's global preferences and NumPy's global random state, set for one run and put back after it."""
    # Brian2 numbers the objects that are alive; with the old ones gone, compiled code is found again.
    gc.collect()
    device, preferred = get_device(), brian2.prefs.codegen.target
    state = device.get_random_state()
    brian2.prefs.codegen.target = auto_target().class_name if target == "auto" else target
    device.seed(np.array([(key >> shift) & 0xFFFFFFFF for shift in (0, 32, 64, 96)], dtype=np.uint32))
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        brian2.prefs.codegen.target = preferred
        device.set_random_state(state)


quiet_brian2()
