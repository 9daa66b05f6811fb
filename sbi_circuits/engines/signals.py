"""When signals are sampled, and what a recording makes of the samples; the same for every engine.

A signal is sampled within a time step after the sums over synapses and before the state updates, so that everything
in its expression belongs to the time t = step dt.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from sbi_circuits.circuit import Circuit, FieldProxy, Readout, Record
from sbi_circuits.engines.base import Protocol
from sbi_circuits.engines.setup import timestep
from sbi_circuits.errors import CircuitError
from sbi_circuits.recording import COUNT_BIN, IntervalMoments, PopulationCounts, Recording, Signal


@dataclass(frozen=True)
class Sampling:
    """The grid of samples: steps `first`, `first + every`, ... below `steps`; the first `lead` of them are kept for
    delays only.

    Args:
        dt: time step, seconds.
        steps: of the whole simulation.
        first: step of the first sample.
        every: steps from sample to sample.
        lead: samples before the valid interval.
    """

    dt: float
    steps: int
    first: int
    every: int
    lead: int = 0

    @property
    def begin(self) -> int:
        """Step at which the valid interval begins."""
        return self.first + self.lead * self.every

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
    begin, delays = timestep(protocol.warmup, dt), _delays(circuit, protocol.record)
    lead = min(max(delays, default=0), begin // every)
    return Sampling(dt, timestep(protocol.warmup + protocol.duration, dt), begin - lead * every, every, lead)


def _delays(circuit: Circuit, record: Record) -> list[int]:
    """Delays of the proxies that are recorded, in samples; raises `CircuitError` for one between samples."""
    found = []
    for proxy in (p for p in circuit.proxies if p.name in record.signals):
        for name, _, delay in proxy.terms:
            found.append(int(np.rint(delay * record.signal_rate)))
            if abs(delay * record.signal_rate - found[-1]) > 1e-6:
                raise CircuitError(
                    f"proxy {proxy.name}: the delay of {name}, {delay:g} s, is no whole number of samples at "
                    f"{record.signal_rate:g} Hz; valid: rates that are multiples of {1 / delay:g} Hz"
                )
    return found


def chosen_readouts(circuit: Circuit, record: Record) -> tuple[Readout, ...]:
    """The readouts that make the signals a record asks for; raises `UnknownNameError` listing those of the circuit."""
    terms = {p.name: [name for name, _, _ in p.terms] for p in circuit.proxies}
    names = [n for name in record.signals for n in terms.get(name, [name])]
    return tuple(circuit.readout(name) for name in dict.fromkeys(names))


def as_signals(circuit: Circuit, record: Record, values: Mapping[str, np.ndarray], grid: Sampling) -> dict[str, Signal]:
    """The signals a record asks for, in its order.

    Args:
        circuit: that was simulated.
        record: what to keep.
        values: readout -> (channels, samples), SI.
        grid: of the samples.
    """
    from sbi_circuits.units import unit_scale

    units = {r.name: r.unit for r in circuit.readouts} | {p.name: p.unit for p in circuit.proxies}
    scaled = {n: np.asarray(v, dtype=float) / unit_scale(units[n]) for n, v in values.items()}
    proxies = {p.name: p for p in circuit.proxies}
    made = {n: _summed(proxies[n], scaled, grid) if n in proxies else scaled[n][:, grid.lead :] for n in record.signals}
    return {n: Signal(v, grid.rate, units[n], grid.begin * grid.dt) for n, v in made.items()}


def _summed(proxy: FieldProxy, values: Mapping[str, np.ndarray], grid: Sampling) -> np.ndarray:
    """(1, samples) of the valid interval: each readout as it was before, at the earliest as at the first sample."""
    total = np.zeros((1, grid.number - grid.lead))
    for name, weight, delay in proxy.terms:
        at = np.arange(grid.lead, grid.number) - int(np.rint(delay * grid.rate))
        total += weight * values[name][:, np.maximum(at, 0)]
    return total


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
    bins = int((grid.steps - grid.begin) * grid.dt / COUNT_BIN + 1e-6)
    silent = {n: PopulationCounts(np.zeros(bins, dtype=np.int64), size) for n, size in sizes.items()}
    none = {n: np.zeros(size) for n, size in sizes.items()}
    moments = {n: IntervalMoments(z.astype(np.int64), z, z) for n, z in none.items()}
    return Recording(
        t0=grid.begin * grid.dt,
        t1=grid.steps * grid.dt,
        offsets=np.zeros(recorded + 1, dtype=np.int64),
        counts=silent if record.counts else {},
        moments=moments if record.moments else {},
        signals=as_signals(circuit, record, values, grid),
        meta={"engine": engine},
    )
