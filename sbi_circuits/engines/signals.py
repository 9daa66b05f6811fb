"""When signals are sampled, and what a recording makes of the samples; the same for every engine.

A signal is sampled within a time step after the sums over synapses and before the state updates, so that everything
in its expression belongs to the time t = step dt.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sbi_circuits.circuit import Circuit, Readout, Record
from sbi_circuits.engines.base import Protocol
from sbi_circuits.engines.setup import timestep
from sbi_circuits.errors import CircuitError
from sbi_circuits.recording import COUNT_BIN, IntervalMoments, PopulationCounts, Recording, Signal


@dataclass(frozen=True)
class Sampling:
    """The grid of samples: steps `first`, `first + every`, ... below `steps`.

    Args:
        dt: time step, seconds.
        steps: of the whole simulation.
        first: step at which the valid interval begins.
        every: steps from sample to sample.
    """

    dt: float
    steps: int
    first: int
    every: int

    @property
    def number(self) -> int:
        """Samples there are."""
        return -(-(self.steps - self.first) // self.every)

    @property
    def rate(self) -> float:
        """Samples per second."""
        return 1.0 / (self.every * self.dt)


def sampling(circuit: Circuit, protocol: Protocol) -> Sampling:
    """The grid on which a protocol samples signals.

    Raises:
        CircuitError: a rate of signals that the time step does not divide.
    """
    dt = protocol.dt or circuit.dt
    exact = 1.0 / (protocol.record.signal_rate * dt)
    every = int(np.rint(exact))
    if every < 1 or abs(exact - every) > 1e-6 * exact:
        raise CircuitError(
            f"signals cannot be sampled at {protocol.record.signal_rate:g} Hz with a time step of {dt:g} s; "
            f"valid: {1 / dt:g} Hz divided by a whole number"
        )
    return Sampling(dt, timestep(protocol.warmup + protocol.duration, dt), timestep(protocol.warmup, dt), every)


def chosen_readouts(circuit: Circuit, record: Record) -> tuple[Readout, ...]:
    """The readouts a record asks for, in its order; raises `UnknownNameError` listing those of the circuit."""
    return tuple(circuit.readout(name) for name in record.signals)


def as_signals(readouts: Sequence[Readout], values: Mapping[str, np.ndarray], grid: Sampling) -> dict[str, Signal]:
    """Sampled values (channels, samples) of each readout as signals, SI values turned into the readout's unit."""
    from sbi_circuits.units import unit_scale

    return {
        r.name: Signal(np.asarray(values[r.name], dtype=float) / unit_scale(r.unit), grid.rate, r.unit,
                       grid.first * grid.dt)
        for r in readouts
    }  # fmt: skip


def quiet_recording(
    circuit: Circuit, sizes: Mapping[str, int], protocol: Protocol, values: Mapping[str, np.ndarray], engine: str
) -> Recording:
    """The recording of a circuit that never spikes.

    Args:
        circuit: that was simulated.
        sizes: of its populations.
        protocol: what to keep.
        values: readout -> (channels, samples), SI.
        engine: name of the engine.
    """
    grid, record = sampling(circuit, protocol), protocol.record
    cells = sum(sizes.values())
    recorded = cells if record.spikes < 0 else min(record.spikes, cells)
    bins = int((grid.steps - grid.first) * grid.dt / COUNT_BIN + 1e-6)
    silent = {n: PopulationCounts(np.zeros(bins, dtype=np.int64), size) for n, size in sizes.items()}
    none = {n: np.zeros(size) for n, size in sizes.items()}
    moments = {n: IntervalMoments(z.astype(np.int64), z, z) for n, z in none.items()}
    return Recording(
        t0=grid.first * grid.dt,
        t1=grid.steps * grid.dt,
        offsets=np.zeros(recorded + 1, dtype=np.int64),
        counts=silent if record.counts else {},
        moments=moments if record.moments else {},
        signals=as_signals(chosen_readouts(circuit, record), values, grid),
        meta={"engine": engine},
    )
