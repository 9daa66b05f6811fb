"""The contract every engine keeps: one configuration and one seed in, one simulation out."""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np

from sbi_circuits.circuit import Circuit, Record
from sbi_circuits.errors import CircuitError, TranslationError
from sbi_circuits.recording import Outcome, Recording


@dataclass(frozen=True)
class Protocol:
    """How long to simulate and what to keep.

    Args:
        duration: length of the valid interval, seconds.
        warmup: simulated before it and not recorded, seconds.
        record: what to keep.
        early_stop: whether the circuit's early-stop rule applies.
        dt: time step in seconds; the circuit's own where None.
    """

    duration: float
    warmup: float = 0.0
    record: Record = Record()
    early_stop: bool = True
    dt: float | None = None

    def __post_init__(self) -> None:
        if not self.duration > 0 or self.warmup < 0:
            raise CircuitError(f"duration {self.duration} s must be > 0 and warmup {self.warmup} s >= 0")
        if self.dt is not None and self.dt <= 0:
            raise CircuitError(f"dt must be positive, got {self.dt} s")


@dataclass(frozen=True, eq=False)
class Simulation:
    """What one run gave.

    Args:
        index: of the simulation within its campaign.
        outcome: what became of it.
        recording: the recording over [warmup, warmup + duration), where the outcome is ok; else None.
        wall_s: wall time it took, seconds.
    """

    index: int
    outcome: Outcome
    recording: Recording | None
    wall_s: float


_REASON_LENGTH = 300


def failure(error: Exception) -> Outcome:
    """The outcome of a simulation or measurement that raised; its reason is one line."""
    text = " ".join(str(error).split()) or "no message"
    return Outcome("failed", f"{type(error).__name__}: {text}"[:_REASON_LENGTH])


class Engine(ABC):
    """Runs circuits. The result depends on (circuit, theta, protocol, seed, index) and on nothing else."""

    name: str
    # How many simulations are worth handing over together: 1, or enough to fill a device.
    batch = 1
    # Processes in which an engine may prepare simulations; None for this one.
    executor: Executor | None = None

    @abstractmethod
    def run(self, circuit: Circuit, theta: np.ndarray, protocol: Protocol, seed: int, index: int) -> Simulation:
        """Simulate one configuration.

        Args:
            circuit: what to simulate.
            theta: (P,) in the prior's declared units.
            protocol: how long, and what to keep.
            seed, index: key of all randomness of this simulation.

        Raises:
            TranslationError: if the engine cannot express the circuit.
        """

    def run_batch(
        self, circuit: Circuit, thetas: np.ndarray, protocol: Protocol, seed: int, indices: Sequence[int]
    ) -> Iterator[Simulation]:
        """Simulate many configurations; one that cannot be run is a failed outcome and disturbs no other.

        Args:
            circuit: what to simulate.
            thetas: (n, P) in the prior's declared units.
            protocol: how long, and what to keep.
            seed: of all of them.
            indices: (n,) index of each; the result of one depends on its own index only.

        Yields:
            one `Simulation` per configuration, in order.

        Raises:
            TranslationError: if the engine cannot express the circuit.
        """
        for theta, index in zip(thetas, indices, strict=True):
            began = time.perf_counter()
            try:
                yield self.run(circuit, theta, protocol, seed, int(index))
            except TranslationError:
                raise  # this engine can run none of them
            except Exception as error:
                yield Simulation(int(index), failure(error), None, time.perf_counter() - began)
