"""Brian2's C++ standalone mode, one thread: for benchmarks. Every network is compiled for itself.

Standalone code cannot stop early, so the circuit's early-stop rule does not apply here.
"""

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import brian2
import numpy as np
from brian2.devices.device import get_device, reset_device

from sbi_circuits.circuit import Circuit
from sbi_circuits.engines.base import Protocol, Simulation
from sbi_circuits.engines.brian2_engine import build_model, reduce_spikes
from sbi_circuits.engines.setup import prepare
from sbi_circuits.recording import Outcome
from sbi_circuits.seeds import stream_key


@dataclass(frozen=True)
class Timings:
    """Where the time went, in seconds.

    Args:
        compile_s: wall time of generating and compiling the C++ project.
        simulation_s: processor time of the simulation loop of each repeat; without synapse creation.
    """

    compile_s: float
    simulation_s: tuple[float, ...]


def run_standalone(
    circuit: Circuit,
    theta: np.ndarray,
    protocol: Protocol,
    seed: int,
    index: int,
    directory: Path,
    repeats: int = 1,
) -> tuple[Simulation, Timings]:
    """Simulate one configuration as a compiled C++ program.

    Args:
        circuit, theta, protocol, seed, index: as in `Engine.run`; the early-stop rule is left out.
        directory: where the C++ project is written.
        repeats: how often the program is run; the runs are equal and only timed again.
    """
    start = time.perf_counter()
    setup = prepare(circuit, theta, protocol, seed, index)
    with _standalone():
        brian2.seed(stream_key(seed, index, "brian2") & 0x7FFFFFFF)
        model = build_model(circuit, setup)
        model.run(setup.steps)
        device = get_device()
        began = time.perf_counter()
        device.build(directory=str(directory), compile=True, run=False, with_output=False)
        compile_s = time.perf_counter() - began
        seconds = []
        for _ in range(repeats):
            device.run(str(directory), with_output=False)
            # Brian2 keeps it private, but it is what its own reports print.
            seconds.append(float(device._last_run_time))
        outcome = Outcome("ok") if model.finite() else Outcome("diverged", "a state variable is not finite")
        recording = reduce_spikes(*model.spikes(), setup, protocol) if outcome.ok else None
    simulation = Simulation(index, outcome, recording, time.perf_counter() - start)
    return simulation, Timings(compile_s, tuple(seconds))


@contextmanager
def _standalone() -> Iterator[None]:
    """The C++ device for the length of the block, then the one before it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        brian2.set_device("cpp_standalone", build_on_run=False)
        try:
            yield
        finally:
            get_device().reinit()
            reset_device()
