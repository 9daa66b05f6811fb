"""Engine `kernel[numba]`: a circuit's equations compiled into one fused loop per simulation, on one core."""

import hashlib
import importlib.util
import math
import os
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from sbi_circuits.circuit import Circuit, EarlyStop, EdgeList, Explicit, Projection
from sbi_circuits.engines.base import Engine, Protocol, Simulation
from sbi_circuits.engines.coupling import Coupling, couplings
from sbi_circuits.engines.delivery_source import delivery_groups, joined_groups
from sbi_circuits.engines.kernel_dense import dense_arguments
from sbi_circuits.engines.kernel_extras import extra_arguments
from sbi_circuits.engines.kernel_parts import DIVERGED, LAST, NOTED, NUMBER, OK, SATURATED, SILENT, SQUARED, TOTAL
from sbi_circuits.engines.kernel_rows import UNROLLED, join, pack, packed_bits, usual_lines
from sbi_circuits.engines.kernel_source import kernel_source
from sbi_circuits.engines.philox import new_stream
from sbi_circuits.engines.poisson_table import poisson_table
from sbi_circuits.engines.setup import Cells, Setup, prepare, timestep
from sbi_circuits.engines.signal_source import signal_arguments
from sbi_circuits.engines.signals import as_signals, chosen_readouts, sampling
from sbi_circuits.engines.synapse_source import uses_plain_delivery
from sbi_circuits.engines.synapses import Synapses
from sbi_circuits.engines.translate import Translation, translate
from sbi_circuits.engines.update_source import vector_registers
from sbi_circuits.engines.wiring import target_type
from sbi_circuits.errors import CircuitError, UnknownNameError
from sbi_circuits.recording import COUNT_BIN, IntervalMoments, Outcome, PopulationCounts, Recording, Signal
from sbi_circuits.units import evaluate

Links = dict[int, Coupling]
PRECISIONS = ("single", "double")
_STATUS = {OK: "ok", SILENT: "silent", SATURATED: "saturated", DIVERGED: "diverged"}
_POISSON_STREAM = 1
# Modules whose functions a generated kernel calls, or that these call.
_HELPERS = (
    "intrinsics", "kernel_dense", "kernel_functions", "kernel_parts", "kernel_rows", "kernel_synapses", "noise",
    "philox",
)  # fmt: skip
# Neurons of two interleaved 512-bit vectors of single precision, and bytes of a cache line.
_PADDING, _LINE = 32, 64
# Entries of the guide into a table of counts, as a power of two: so many that few of them hold a threshold.
_GUIDE_BITS = 12


class NumbaEngine(Engine):
    """Runs any translatable circuit; single precision by default, double for comparisons to the last bit."""

    name = "kernel[numba]"

    def __init__(self, precision: str = "single"):
        if precision not in PRECISIONS:
            raise UnknownNameError("precision", precision, PRECISIONS)
        self.single = precision == "single"

    def run(self, circuit: Circuit, theta: np.ndarray, protocol: Protocol, seed: int, index: int) -> Simulation:
        """See `Engine.run`."""
        began = time.perf_counter()
        kernel, parts, links = load_kernel(circuit, self.single)
        setup = prepare(circuit, theta, protocol, seed, index)
        arguments = _Arguments(circuit, parts, links, setup, protocol, np.float32 if self.single else np.float64)
        code, cells, steps = kernel(**arguments.all())
        outcome = Outcome(_STATUS[int(code)], _reason(int(code), circuit))
        recording = _recording(setup, protocol, arguments, cells, steps) if outcome.ok else None
        return Simulation(index, outcome, recording, time.perf_counter() - began)


def _reason(code: int, circuit: Circuit) -> str:
    stop = circuit.early_stop
    if code in (SILENT, SATURATED) and stop is not None:
        return f"{_STATUS[code]} over {stop.start:g}-{stop.stop:g} s"
    return "a state variable is not finite" if code == DIVERGED else ""


@cache
def load_kernel(circuit: Circuit, single: bool) -> tuple[Callable[..., Any], tuple[Translation, ...], Links]:
    """The compiled kernel of a circuit and what it was printed from; compiled once, then read from numba's cache."""
    parts = tuple(translate(circuit, p, reorder=single) for p in circuit.populations)
    links = couplings(circuit, reorder=single)
    source = kernel_source(circuit, parts, single, links)
    return _import_source(source, circuit.name).run, parts, links


def kernel_folder() -> Path:
    """Where generated kernels are kept: $SBI_CIRCUITS_CACHE, else the user's cache folder."""
    chosen = os.environ.get("SBI_CIRCUITS_CACHE")
    base = Path(chosen) if chosen else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "sbi_circuits"
    return base / "kernels"


def _import_source(source: str, name: str) -> Any:
    """Import source text as a module; it lies in a file so that numba can cache what it compiles.

    The file is written again at every first use, so that only what this process generated is ever run.
    """
    key = hashlib.sha256("".join([source, _helpers(), *_vectoriser_options()]).encode()).hexdigest()[:16]
    folder = kernel_folder()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}_{key}.py"
    if not path.exists() or path.read_text() != source:
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(source)
        os.replace(temporary, path)
    module_name = f"_sbi_circuits_kernel_{name}_{key}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise CircuitError(f"cannot load the generated kernel {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    _set_vectoriser()
    spec.loader.exec_module(module)
    return module


@cache
def _helpers() -> str:
    """Source of what kernels are compiled with: numba's cache does not see that an imported function has changed."""
    return "".join(Path(__file__).with_name(f"{name}.py").read_text() for name in _HELPERS)


@cache
def _vectoriser_options() -> tuple[str, ...]:
    """Options of LLVM's loop vectoriser.

    By default it gives up above eight run-time overlap checks between arrays, and does not interleave a loop of many
    operations, although two independent vectors hide the latency of a long update or exponential. With 16 registers
    two vectors are slower than one where most of what they need has then to be fetched again, so that there it is left
    to the vectoriser which loops have the registers for it.
    """
    if vector_registers() >= 32:
        return "-runtime-memory-check-threshold=200", "-force-vector-interleave=2"
    return "-runtime-memory-check-threshold=200", "-small-loop-cost=100", "-force-target-max-vector-interleave=2"


@cache
def _set_vectoriser() -> None:
    """Set the options for everything this process compiles from now on."""
    import llvmlite.binding

    for option in _vectoriser_options():
        llvmlite.binding.set_option("sbi_circuits", option)


def _padded(size: int) -> int:
    """Neurons of a population and its padding: whole vectors, so that the update has no scalar remainder."""
    return -(-size // _PADDING) * _PADDING


def _aligned(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Zeros that start at a cache line: a vector that straddles two lines costs two accesses."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    raw = np.zeros(size + _LINE, dtype=np.uint8)
    start = -raw.ctypes.data % _LINE
    return raw[start : start + size].view(dtype).reshape(shape)


def _until(size: int) -> np.ndarray:
    """The step at which each neuron's refractory period ends: never for the padding, which so never spikes."""
    until = _aligned((_padded(size),), np.int32)
    until[size:] = np.iinfo(np.int32).max
    return until


class _Arguments:
    """The arrays a kernel works on, allocated for one simulation."""

    def __init__(self, circuit: Circuit, parts: tuple[Translation, ...], links: Links, setup: Setup,
                 protocol: Protocol, real: Any):
        self.circuit, self.parts, self.links, self.setup, self.protocol = circuit, parts, links, setup, protocol
        self.real = real
        self.depth = 1 + max((int(s.delays[-1]) for s in setup.synapses), default=0)
        self.record = protocol.record
        self.sizes = [c.size for c in setup.cells]
        lengths = [len(p.variables) * _padded(n) for p, n in zip(parts, self.sizes, strict=True)]
        # One array for the state of all populations, as packed rows count places in it, and a few spare places.
        self.starts = [int(start) for start in np.cumsum([0, *lengths])]
        self.values = _aligned((self.starts[-1] + UNROLLED,), real)
        self.bins_per_step = setup.dt / COUNT_BIN
        self.whole_bins = int((setup.steps - setup.warmup_steps) * self.bins_per_step + 1e-6)
        # The steps after the last whole bin have a bin of their own, which is not kept.
        bins = self.whole_bins + 1
        self.counts = np.zeros((len(parts), bins if self.record.counts else 0), dtype=np.int32)
        sizes = self.sizes if self.record.moments else [0] * len(parts)
        self.sampled = signal_arguments(circuit, setup, protocol, real)
        self.noted = tuple(_aligned((n, NOTED), np.int64) for n in sizes)
        for noted in self.noted:
            noted[:, LAST] = -1

    def all(self) -> dict[str, Any]:
        """Keyword arguments of the kernel."""
        return {
            "steps": self.setup.steps,
            "warmup": self.setup.warmup_steps,
            "bins_per_step": self.bins_per_step,
            "dt": self.setup.dt,
            "sizes": np.array(self.sizes, dtype=np.int64),
            "refractory": self._refractory(),
            "keep": np.array([self.record.counts, self.record.moments, self.record.spikes != 0]),
            "counts": self.counts,
            "noted": self.noted,
            "slots": self._slots(),
            **self._state(),
            **self._synapses(),
            **self._poisson(),
            **self._rule(),
            **self._extras(),
        }

    def _refractory(self) -> np.ndarray:
        """Refractory period in steps of each population; where neurons differ it is among the extras."""
        steps = [c.refractory_steps for c in self.setup.cells]
        return np.array([s if isinstance(s, int) else 0 for s in steps], dtype=np.int64)

    def _extras(self) -> dict[str, Any]:
        padded = [_padded(n) for n in self.sizes]
        extra = extra_arguments(self.circuit, self.parts, self.links, self.setup, self.depth, padded, self.real)
        return extra | self.sampled

    def _state(self) -> dict[str, Any]:
        depth, cells = self.depth, self.setup.cells
        return {
            "state": tuple(self._initial(k, c, p) for k, (c, p) in enumerate(zip(cells, self.parts, strict=True))),
            "until": tuple(_until(n) for n in self.sizes),
            "fired": tuple(_aligned((_padded(n),), np.int32) for n in self.sizes),
            "ring": tuple(np.zeros((depth, n), dtype=np.int32) for n in self.sizes),
            "ring_count": np.zeros((len(self.parts), depth), dtype=np.int64),
            "K": tuple(self._invariants(c, p) for c, p in zip(self.setup.cells, self.parts, strict=True)),
            "shared": tuple(self._shared(p) for p in self.parts),
        }

    def _initial(self, k: int, cells: Cells, part: Translation) -> np.ndarray:
        state = self.values[self.starts[k] : self.starts[k + 1]].reshape(len(part.variables), -1)
        for row, name in enumerate(part.variables):
            if name in cells.initial:
                state[row, : cells.size] = cells.initial[name]
                state[row, cells.size :] = cells.initial[name][0]
        return state

    def _invariants(self, cells: Cells, part: Translation) -> np.ndarray:
        known = {**cells.constants, "dt": self.setup.dt, "N": cells.size}
        with np.errstate(all="ignore"):
            values = [float(evaluate(e, known)) for e in part.invariants]
        return np.array(values, dtype=self.real)

    def _shared(self, part: Translation) -> np.ndarray:
        """Value of each shared input at every step: (inputs, steps)."""
        values = np.zeros((len(part.shared), self.setup.steps if part.shared else 0), dtype=self.real)
        for entry in self.setup.currents:
            if entry.target == part.name:
                row = part.shared.index(entry.name)
                for start, value in zip(entry.starts, entry.values, strict=True):
                    values[row, start:] = value
        return values

    def _synapses(self) -> dict[str, Any]:
        present = {s.number: s for s in self.setup.synapses}
        projections = self.circuit.projections
        weight, delay = np.zeros(len(projections), dtype=self.real), np.zeros(len(projections), dtype=np.int64)
        rows = []
        for k, projection in enumerate(projections):
            found = present.get(k)
            if found is not None:
                delay[k] = found.delay_steps
                weight[k] = found.increments[0] if uses_plain_delivery(projection) else 0.0
            rows.append(self._rows(projection, found))
        # Projections that are joined are delivered with the delay of the first, which may be absent.
        for members in joined_groups(self.circuit):
            delay[list(members)] = max(delay[k] for k in members)
        return {"indptr": tuple(r[0] for r in rows), "targets": tuple(r[1] for r in rows), "weight": weight,
                "delay": delay, **self._dense(rows), **self._joined(rows, weight)}

    def _joined(self, rows: list[tuple[np.ndarray, np.ndarray]], weight: np.ndarray) -> dict[str, Any]:
        """Rows side by side, packed where it pays; in double precision spikes are added one by one, as Brian2 does."""
        joined, layout = [], []
        for members in joined_groups(self.circuit) if self.real is np.float32 else ():
            chosen, places = [rows[k] for k in members], [self._place(k) for k in members]
            first = min(places)
            places = [place - first for place in places]
            spare = self.starts[-1] - first
            bits = packed_bits(chosen, places, spare)
            starts, targets = pack(chosen, places, spare, bits) if bits else join(chosen)
            joined.append((starts, targets, weight[list(members)], self.values[first:]))
            parts = 1 if bits else len(members)
            layout.append((bits, parts, usual_lines((len(starts) - 1) // parts, targets)))
        return {"joined": tuple(joined), "layout": np.array(layout, dtype=np.int64).reshape(-1, 3)}

    def _place(self, k: int) -> int:
        """Where in the state of all populations the variable lies that spikes of a projection add to."""
        projection, names = self.circuit.projections[k], [p.name for p in self.parts]
        target = names.index(projection.target)
        row = self.parts[target].variables.index(projection.effects[0][0])
        return self.starts[target] + row * _padded(self.sizes[target])

    def _dense(self, rows: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
        """Arrays of the delivery by planes; in double precision spikes are added one by one, as Brian2 does."""
        sizes = {c.population.name: c.size for c in self.setup.cells}
        projections = self.circuit.projections
        distinct = [not isinstance(p.wiring, (EdgeList, Explicit)) for p in projections]
        joined, groups = (
            (joined_groups(self.circuit), delivery_groups(self.circuit)) if self.real is np.float32 else ((), ())
        )
        return dense_arguments(joined, groups, rows, distinct, [sizes[p.target] for p in projections], self.real)

    def _rows(self, projection: Projection, found: Synapses | None) -> tuple[np.ndarray, np.ndarray]:
        """Row pointers, by delay where synapses differ in it, and targets."""
        sizes = {c.population.name: c.size for c in self.setup.cells}
        if found is None:
            dtype = target_type(sizes[projection.target])
            indptr, targets = np.zeros((1, sizes[projection.source] + 1), dtype=np.int64), np.zeros(0, dtype=dtype)
        else:
            indptr, targets = found.indptr, found.targets
        return (indptr if projection.random_delay else indptr[0]), targets

    def _poisson(self) -> dict[str, Any]:
        tables = [poisson_table(p, self.setup.dt, _GUIDE_BITS) for p in self.setup.poisson]
        words, header = new_stream(self.setup.keys, _POISSON_STREAM)
        return {
            "poisson": tuple((t[0], t[1]) for t in tables),
            "poisson_size": np.array([t[2] for t in tables], dtype=np.int64).reshape(-1, 3),
            "poisson_weight": np.array([p.weight for p in self.setup.poisson], dtype=self.real),
            "words": words,
            "header": header,
        }

    def _rule(self) -> dict[str, Any]:
        stop = self.circuit.early_stop
        if stop is None or not self.protocol.early_stop or self.setup.steps < timestep(stop.stop, self.setup.dt):
            return {"rule": np.array([-1, -1]), "rule_levels": np.zeros(3)}
        return self._active_rule(stop)

    def _active_rule(self, stop: EarlyStop) -> dict[str, Any]:
        refractory = float(evaluate(stop.refractory, self.setup.values))
        position = [p.name for p in self.parts].index(stop.population)
        scale = refractory / (self.sizes[position] * (stop.stop - stop.start))
        window = [timestep(stop.start, self.setup.dt), timestep(stop.stop, self.setup.dt)]
        return {"rule": np.array(window), "rule_levels": np.array([scale, stop.silent, stop.saturated])}

    def _slots(self) -> tuple[np.ndarray, ...]:
        """Recorded number of each cell, or -1, by population."""
        slots = np.full(self.setup.total_cells, -1, dtype=np.int32)
        slots[self.setup.recorded] = np.arange(len(self.setup.recorded))
        return tuple(np.split(slots, np.cumsum(self.sizes)[:-1]))


def _recording(setup: Setup, protocol: Protocol, kept: _Arguments, cells: np.ndarray, steps: np.ndarray) -> Recording:
    """What the kernel kept, as a recording; spikes of step n are at n dt."""
    record, names = protocol.record, [c.population.name for c in setup.cells]
    recorded = len(setup.recorded)
    # Numbers of 16 bits are sorted by counting.
    order = np.argsort(cells.astype(np.uint16) if recorded <= 2**16 else cells, kind="stable")
    offsets = np.concatenate([[0], np.cumsum(np.bincount(cells, minlength=recorded))]) if recorded else np.zeros(1)
    return Recording(
        t0=setup.warmup_steps * setup.dt,
        t1=setup.steps * setup.dt,
        times=steps[order] * setup.dt,
        offsets=offsets,
        groups=setup.groups(),
        counts=_counts(kept, names) if record.counts else {},
        moments=_moments(kept, names) if record.moments else {},
        signals=_signals(kept) if record.signals else {},
        meta={"engine": NumbaEngine.name},
    )


def _signals(kept: _Arguments) -> dict[str, Signal]:
    readouts = kept.circuit.readouts
    chosen = chosen_readouts(kept.circuit, kept.record)
    values = {r.name: kept.sampled[f"out_{k}"].T for k, r in enumerate(readouts) if r in chosen}
    return as_signals(kept.circuit, kept.record, values, sampling(kept.circuit, kept.protocol))


def _counts(kept: _Arguments, names: list[str]) -> dict[str, PopulationCounts]:
    whole = kept.whole_bins
    return {n: PopulationCounts(kept.counts[k, :whole], kept.sizes[k]) for k, n in enumerate(names)}


def _moments(kept: _Arguments, names: list[str]) -> dict[str, IntervalMoments]:
    dt, moments = kept.setup.dt, {}
    for name, noted in zip(names, kept.noted, strict=True):
        number, total, squared = noted.T[[NUMBER, TOTAL, SQUARED]]
        moments[name] = IntervalMoments(number, total * dt, squared * dt**2)
    return moments
