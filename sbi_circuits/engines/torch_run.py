"""The loop over time steps on tensors, with gradients through time.

Without checkpoints the graph of every step stays in memory. With them the simulation is cut into segments: only the
state between segments is kept, and a segment is simulated again when its gradient is wanted (Chen et al. 2016,
arXiv 1604.06174): memory grows with the square root of the number of steps, for one more simulation.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from sbi_circuits.circuit import Readout
from sbi_circuits.engines.rate_program import Program
from sbi_circuits.engines.signals import Sampling
from sbi_circuits.engines.synapse_source import noise_numbers
from sbi_circuits.engines.torch_noise import Noise
from sbi_circuits.engines.torch_sums import sums
from sbi_circuits.engines.torch_values import Batch, Current, Number, TimeCourse


@dataclass(frozen=True, eq=False)
class _Population:
    """One population of a batch: its step, its K, noise and inputs."""

    name: str
    variables: tuple[str, ...]
    update: Callable[..., tuple[Tensor, ...]]
    K: list[Number]
    numbers: Tensor
    noise: list[Noise]
    currents: Sequence[Current | TimeCourse]

    def inputs(self, step: int) -> list[Number]:
        return [c.at(step) for c in self.currents]


@dataclass(frozen=True, eq=False)
class _Probe:
    """One readout of a batch."""

    readout: Readout
    position: int
    read: Callable[..., Any]
    K: list[Number]


class Run:
    """A batch of simulations, ready to advance.

    Args:
        batch: of the simulations.
        readouts: those that are sampled.
        module: functions generated from the program (see `torch_source`).
        load: (name, source text) to a function.
    """

    def __init__(self, batch: Batch, readouts: Sequence[Readout], module: Any, load: Callable[[str, str], Any]):
        self.batch, self.dt, program = batch, batch.setups[0].dt, batch.program
        values = batch.values()
        numbers = noise_numbers(program.parts)
        known = [batch.known(k, values) for k in range(len(program.parts))]
        self.populations = [
            _Population(
                part.name, part.variables, getattr(module, f"update_{k}"), batch.invariants(part.invariants, known[k]),
                torch.arange(batch.setups[0].cells[k].size, dtype=batch.dtype, device=batch.device),
                [Noise(n, batch.setups[0].cells[k].size, [s.keys for s in batch.setups], batch.dtype, batch.device)
                 for n in numbers[k]],
                [*batch.currents(k, values), *batch.courses(k, values)],
            )
            for k, part in enumerate(program.parts)
        ]  # fmt: skip
        self.sums = [s for link in program.links for s in sums(batch, link, values, load)]
        self.probes = [_probe(batch, program, r, module, known) for r in readouts]
        self.start = [list(batch.initial(k, values)) for k in range(len(program.parts))]

    def _position(self, name: str) -> int:
        return self.batch.program.position(name)

    def _seen(self, state: list[list[Tensor]], name: str) -> dict[str, Tensor]:
        k = self._position(name)
        return dict(zip(self.populations[k].variables, state[k], strict=True))

    def first_history(self) -> list[list[Tensor]]:
        """Before the start everything was as at the start."""
        state = [list(row) for row in self.start]
        return [
            [s.pre(k, self._seen(state, s.source))] * source.depth
            for s in self.sums
            for k, source in enumerate(s.sources)
        ]

    def _add_sums(self, state: list[list[Tensor]], history: list[list[Tensor]]) -> None:
        """Set the variables that sums determine; each projection sees those before it."""
        line = 0
        for coupling in self.sums:
            values, delayed = self._seen(state, coupling.source), []
            for k, source in enumerate(coupling.sources):
                now = coupling.pre(k, values)
                delayed.append(source.delayed(history[line], now) if source.depth else now)
                if source.depth:
                    history[line] = [*history[line][1:], now]
                line += 1
            total = coupling.total(delayed, self._seen(state, coupling.target))
            k = self._position(coupling.target)
            row = self.populations[k].variables.index(coupling.variable)
            state[k][row] = total.expand_as(state[k][row])

    def _sample(self, state: list[list[Tensor]], step: int) -> list[Tensor]:
        found = []
        for probe in self.probes:
            p = self.populations[probe.position]
            value = probe.read(*state[probe.position], *p.inputs(step), step * self.dt, p.numbers, probe.K,
                               self.batch.dtype)  # fmt: skip
            value = torch.as_tensor(value, dtype=self.batch.dtype, device=self.batch.device)
            value = value.expand(len(self.batch.setups), len(p.numbers))
            over = probe.readout.over
            found.append(value if over == "each" else getattr(value, over)(-1, keepdim=True))
        return found

    def advance(self, state: list[list[Tensor]], history: list[list[Tensor]], steps: range, grid: Sampling
                ) -> tuple[list[list[Tensor]], list[list[Tensor]], list[list[Tensor]]]:  # fmt: skip
        """State, history and samples after some steps."""
        state, history = [list(row) for row in state], [list(row) for row in history]
        samples: list[list[Tensor]] = []
        for step in steps:
            self._add_sums(state, history)
            if step >= grid.first and (step - grid.first) % grid.every == 0:
                samples.append(self._sample(state, step))
            t = step * self.dt
            for k, p in enumerate(self.populations):
                noise = [n.at(step) for n in p.noise]
                state[k] = list(p.update(*state[k], *noise, *p.inputs(step), t, p.numbers, p.K, self.batch.dtype))
        return state, history, samples

    def signals(self, grid: Sampling, segment: int | None = None) -> tuple[list[Tensor], list[Tensor]]:
        """Run to the end.

        Args:
            grid: steps, and when to sample.
            segment: steps between checkpoints; None for no checkpoints.

        Returns:
            each readout's samples (B, channels, samples), SI; and the last state, (B, N) each.
        """
        state, history = [list(row) for row in self.start], self.first_history()
        samples: list[list[Tensor]] = []
        length = segment or grid.steps
        for first in range(0, grid.steps, length):
            steps = range(first, min(first + length, grid.steps))
            state, history, found = self._segment(state, history, steps, grid, checkpointed=segment is not None)
            samples += found
        number = range(len(self.probes))
        return [torch.stack([s[k] for s in samples], dim=-1) for k in number], [v for row in state for v in row]

    def _segment(self, state: list[list[Tensor]], history: list[list[Tensor]], steps: range, grid: Sampling,
                 checkpointed: bool) -> Any:
        if not checkpointed:
            return self.advance(state, history, steps, grid)
        shape, past = [len(row) for row in state], [len(row) for row in history]

        def flat(*tensors: Tensor) -> tuple[Tensor, ...]:
            rows, lines = _cut(tensors, [*shape, *past])[: len(shape)], _cut(tensors, [*shape, *past])[len(shape) :]
            after, remembered, found = self.advance(rows, lines, steps, grid)
            return tuple(v for part in (*after, *remembered, *found) for v in part)

        inputs = [v for row in (*state, *history) for v in row]
        outputs = checkpoint(flat, *inputs, use_reentrant=False, preserve_rng_state=False)
        rows = _cut(outputs[: len(inputs)], [*shape, *past])
        number = max(len(self.probes), 1)
        rest = list(outputs[len(inputs) :])
        found = [rest[k : k + number] for k in range(0, len(rest), number)]
        return rows[: len(shape)], rows[len(shape) :], found


def _cut(tensors: Sequence[Tensor], lengths: Sequence[int]) -> list[list[Tensor]]:
    found, first = [], 0
    for length in lengths:
        found.append(list(tensors[first : first + length]))
        first += length
    return found


def _probe(batch: Batch, program: Program, readout: Readout, module: Any, known: list[dict[str, Any]]) -> _Probe:
    number = next(k for k, o in enumerate(program.outputs) if o.readout == readout)
    position = program.position(readout.population)
    K = batch.invariants(program.outputs[number].invariants, known[position])
    return _Probe(readout, position, getattr(module, f"read_{number}"), K)
