"""The contract every engine keeps: one configuration and one seed in, one simulation out."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from sbi_circuits.circuit import Circuit, Record
from sbi_circuits.errors import CircuitError
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


class Engine(ABC):
    """Runs circuits. The result depends on (circuit, theta, protocol, seed, index) and on nothing else."""

    name: str

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
