"""theta to simulations, streamed in order; an engine that runs many at once is handed many."""

from collections.abc import Iterator

import numpy as np

from sbi_circuits.circuit import Circuit, Record
from sbi_circuits.engines import Protocol, Simulation, get_engine
from sbi_circuits.engines.setup import check_stimuli


def simulate(
    circuit: Circuit,
    theta: np.ndarray,
    duration: float,
    *,
    seed: int = 0,
    start: int = 0,
    warmup: float = 0.0,
    record: Record | None = None,
    engine: str = "auto",
    early_stop: bool = True,
) -> Iterator[Simulation]:
    """Simulate configurations.

    Args:
        circuit: what to simulate.
        theta: (n, P) or (P,), in the prior's declared units.
        duration: valid interval of each simulation, seconds.
        seed: of the campaign; simulation k is keyed by (seed, start + k).
        start: index of the first simulation.
        warmup: simulated first and not recorded, seconds.
        record: what to keep; where None 1 ms counts, moments and the spikes of 100 cells, and all signals of a
            circuit that never spikes.
        engine: "auto", "kernel[numba]", "kernel[cuda]", "torch" or "brian2".
        early_stop: whether silent and saturated simulations end early.

    Yields:
        one `Simulation` per configuration, in order; one that cannot be run has the outcome failed.

    Raises:
        PriorError: a configuration outside the prior, or of the wrong width.
        UnknownNameError: an unknown engine.
        CircuitError: a stimulus that ends before the simulations do.
    """
    rows = np.atleast_2d(circuit.prior.validate(theta))
    record = circuit.default_record() if record is None else record
    protocol = Protocol(duration=duration, warmup=warmup, record=record, early_stop=early_stop)
    check_stimuli(circuit, protocol)
    yield from get_engine(engine, circuit).run_batch(circuit, rows, protocol, seed, range(start, start + len(rows)))
