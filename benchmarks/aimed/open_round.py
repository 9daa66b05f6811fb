"""A round under way: what came back of it, measured in order."""

from collections import Counter
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import asdict
from typing import Any

import numpy as np

from benchmarks.aimed.kernels import Kernels
from benchmarks.aimed.measuring import Measured, Workers
from benchmarks.aimed.packed import PackedRound
from benchmarks.aimed.settings import Wanted
from sbi_circuits.circuit import Circuit
from sbi_circuits.digests import digest
from sbi_circuits.engines import Protocol, Simulation
from sbi_circuits.features import UNDEFINED
from sbi_circuits.recording import Outcome
from sbi_circuits.seeds import measuring_seed
from sbi_circuits.table_rows import Manifest


class OpenRound:
    """Draws of a round (n, P), and the first `measured` of them with what they gave.

    Args:
        number, seed: of the round.
        kernels: what is drawn from.
        size: n.
        circuit, protocol, engine: what is simulated, and with which engine.
        wanted: views to measure in.
    """

    def __init__(self, number: int, seed: int, kernels: Kernels, size: int, circuit: Circuit, protocol: Protocol,
                 engine: str, wanted: Mapping[str, Wanted]):  # fmt: skip
        self.number, self.seed, self.kernels, self.wanted = number, seed, kernels, wanted
        self.z = kernels.sample_z(size, seed).astype(np.float32)
        self.theta = circuit.prior.constrain(self.z)
        self.protocol, self.measured = protocol, 0
        self.manifests = {name: _manifest(circuit, w, protocol, engine, seed, kernels, number) for name, w in
                          wanted.items()}  # fmt: skip
        shapes = {name: (size, max(1, round(protocol.duration / w.window_s)), w.features.width) for name, w in
                  wanted.items()}  # fmt: skip
        self._values = {name: np.zeros(shape, dtype=np.float32) for name, shape in shapes.items()}
        self._states = {name: np.full(shape, UNDEFINED, dtype=np.uint8) for name, shape in shapes.items()}
        self._found: list[tuple[Outcome, float, Future[Measured] | None]] = []

    def add(self, simulation: Simulation, workers: Workers) -> None:
        """The next simulation, in order; its recording is measured elsewhere."""
        recording, future = simulation.recording, None
        if simulation.outcome.ok and recording is not None:
            future = workers.measure(recording, self.wanted, measuring_seed(self.seed, simulation.index))
        self._found.append((simulation.outcome, simulation.wall_s, future))

    def collect(self, wait: bool = False, most: int | None = None) -> None:
        """Take in what was measured.

        Args:
            wait: for all of it.
            most: how many may be left to measure; it is waited for the others.
        """
        while self.measured < len(self._found):
            outcome, wall, future = self._found[self.measured]
            left = len(self._found) - self.measured
            if future is not None:
                if not (wait or future.done() or (most is not None and left > most)):
                    return
                outcome = self._taken(future.result())
            self._found[self.measured] = (outcome, wall, None)
            self.measured += 1

    def _taken(self, measured: Measured) -> Outcome:
        outcome, views = measured
        for name, (values, states) in views.items():
            self._values[name][self.measured], self._states[name][self.measured] = values, states
        return outcome

    def packed(self) -> PackedRound:
        """What was measured so far."""
        k = self.measured
        outcomes = [outcome for outcome, _, _ in self._found[:k]]
        return PackedRound(
            self.number, self.seed, self.kernels, self.manifests, self.z[:k],
            *(np.array([getattr(o, part) for o in outcomes], dtype=np.str_) for part in ("status", "reason")),
            np.array([wall for _, wall, _ in self._found[:k]]), {name: v[:k] for name, v in self._values.items()},
            {name: s[:k] for name, s in self._states.items()},
        )  # fmt: skip

    def ones(self) -> np.ndarray:
        """(measured,) weights of one, where weights are not asked for."""
        return np.ones(self.measured)

    def summary(self) -> str:
        """One line: outcomes, and the seconds that were simulated to the end."""
        counts = Counter(outcome.status for outcome, _, _ in self._found[: self.measured])
        whole = counts["ok"] * (self.protocol.warmup + self.protocol.duration)
        said = ", ".join(f"{n} {status}" for status, n in sorted(counts.items()))
        return (f"round {self.number}: {self.measured} simulations of {len(self.z)} ({said}), {whole:.0f} simulated "
                "seconds")  # fmt: skip


def _manifest(circuit: Circuit, wanted: Wanted, protocol: Protocol, engine: str, seed: int, kernels: Kernels,
              number: int) -> Manifest:  # fmt: skip
    content: dict[str, Any] = asdict(protocol)
    content["dt"] = protocol.dt or circuit.dt
    flat = {**content.pop("record"), **content, "duration": wanted.window_s}
    del flat["signals"], flat["signal_rate"]  # as in a campaign's, where there are none
    label = f"device round {number}@{digest(kernels.to_bytes().hex())[:12]}"
    return Manifest.of(circuit, wanted.features, flat, engine, seed, label)
