"""Engine `torch`: rate circuits on tensors, many simulations at once, differentiable end to end."""

import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sbi_circuits.circuit import Circuit, Readout
from sbi_circuits.engines.base import Engine, Protocol, Simulation, failure
from sbi_circuits.engines.rate_program import Program, rate_program
from sbi_circuits.engines.setup import Setup, prepare
from sbi_circuits.engines.signals import chosen_readouts, quiet_recording, sampling
from sbi_circuits.engines.torch_run import Run
from sbi_circuits.engines.torch_source import torch_source
from sbi_circuits.engines.torch_values import Batch
from sbi_circuits.errors import CircuitError, UnknownNameError
from sbi_circuits.recording import Outcome
from sbi_circuits.units import unit_scale

PRECISIONS = {"single": torch.float32, "double": torch.float64}
DEVICES = ("auto", "cpu", "cuda")


class TorchEngine(Engine):
    """Runs rate circuits: Brian2's methods (euler, exponential_euler, rk4, exact, heun, milstein,
    trapezoid) on tensors.

    It is there for gradients (`signals`). On a CUDA device each of its steps is several launches; without gradients
    `kernel[cuda]`, which "auto" takes there, runs all steps of a batch in one launch.

    Args:
        precision: "double" or "single".
        device: "cpu", "cuda", or "auto" for CUDA where there is a device.

    Raises:
        UnknownNameError: another precision or device; `CircuitError` where there is no CUDA device.
    """

    name = "torch"
    batch = 1024

    def __init__(self, precision: str = "double", device: str = "auto"):
        if precision not in PRECISIONS:
            raise UnknownNameError("precision", precision, PRECISIONS)
        if device not in DEVICES:
            raise UnknownNameError("device", device, DEVICES)
        if device == "cuda" and not torch.cuda.is_available():
            raise CircuitError("there is no CUDA device here; valid devices: auto, cpu")
        self.dtype = PRECISIONS[precision]
        cuda = device != "cpu" and torch.cuda.is_available()
        self.device = torch.device("cuda" if cuda else "cpu")

    def run(self, circuit: Circuit, theta: np.ndarray, protocol: Protocol, seed: int, index: int) -> Simulation:
        """See `Engine.run`."""
        began = time.perf_counter()
        program = rate_program(circuit, False, self.name)
        setup = prepare(circuit, theta, protocol, seed, index)
        return self._together(circuit, program, np.atleast_2d(theta), protocol, seed, [index], [setup], began)[0]

    def run_batch(
        self, circuit: Circuit, thetas: np.ndarray, protocol: Protocol, seed: int, indices: Sequence[int]
    ) -> Iterator[Simulation]:
        """See `Engine.run_batch`."""
        program = rate_program(circuit, False, self.name)
        for first in range(0, len(thetas), self.batch):
            chosen = slice(first, first + self.batch)
            yield from self._batch(circuit, program, thetas[chosen], protocol, seed, indices[chosen])

    def _batch(self, circuit: Circuit, program: Program, thetas: np.ndarray, protocol: Protocol, seed: int,
               indices: Sequence[int]) -> list[Simulation]:  # fmt: skip
        """Up to `batch` simulations, in order; those of equal shape run together."""
        found: dict[int, Simulation] = {}
        shapes: dict[Any, list[tuple[int, Setup]]] = {}
        for row, (theta, index) in enumerate(zip(thetas, indices, strict=True)):
            began = time.perf_counter()
            try:
                setup = prepare(circuit, theta, protocol, seed, int(index))
            except Exception as error:
                found[row] = Simulation(int(index), failure(error), None, time.perf_counter() - began)
            else:
                shapes.setdefault(shape_of(setup), []).append((row, setup))
        for members in shapes.values():
            rows = [row for row, _ in members]
            setups, own = [setup for _, setup in members], [int(indices[row]) for row in rows]
            began = time.perf_counter()
            try:
                made = self._together(circuit, program, thetas[rows], protocol, seed, own, setups, began)
            except Exception as error:
                made = [Simulation(index, failure(error), None, time.perf_counter() - began) for index in own]
            found |= dict(zip(rows, made, strict=True))
        return [found[row] for row in range(len(thetas))]

    def _together(self, circuit: Circuit, program: Program, thetas: np.ndarray, protocol: Protocol, seed: int,
                  indices: list[int], setups: list[Setup], began: float) -> list[Simulation]:  # fmt: skip
        readouts, grid = chosen_readouts(circuit, protocol.record), sampling(circuit, protocol)
        theta = torch.as_tensor(thetas, dtype=torch.float64)
        batch = Batch(circuit, program, tuple(setups), theta, seed, tuple(indices), self.dtype, self.device)
        with torch.inference_mode():
            signals, last = _run(batch, readouts).signals(grid)
            finite = torch.stack([torch.isfinite(v.reshape(len(v), -1)).all(-1) for v in (*signals, *last)]).all(0)
        arrays = [s.cpu().numpy() for s in signals]
        wall_s = (time.perf_counter() - began) / len(indices)
        sizes = {c.population.name: c.size for c in setups[0].cells}
        made = []
        for b, index in enumerate(indices):
            if not bool(finite[b]):
                diverged = Outcome("diverged", "a state variable is not finite")
                made.append(Simulation(index, diverged, None, wall_s))
                continue
            own = {r.name: values[b] for r, values in zip(readouts, arrays, strict=True)}
            recording = quiet_recording(circuit, sizes, protocol, own, self.name)
            made.append(Simulation(index, Outcome("ok"), recording, wall_s))
        return made

    def signals(
        self, circuit: Circuit, theta: Tensor, protocol: Protocol, seed: int, indices: Sequence[int],
        segment: int | None = None,
    ) -> dict[str, Tensor]:  # fmt: skip
        """Signals that depend differentiably on the configurations.

        Args:
            circuit: a rate circuit.
            theta: (B, P) in declared units, double precision; gradients flow to it.
            protocol: how long, and which signals (`Record.signals`).
            seed: of all simulations.
            indices: (B,) of each simulation.
            segment: steps between checkpoints, which trade memory for a second simulation; None for none.

        Returns:
            readout -> (B, channels, samples) in the readout's unit.

        Raises:
            TranslationError: a circuit that spikes.
            CircuitError: simulations of different sizes, or a record without signals.
        """
        readouts, grid = chosen_readouts(circuit, protocol.record), sampling(circuit, protocol)
        if not readouts or {r.name for r in readouts} != {*protocol.record.signals}:
            valid = ", ".join(r.name for r in circuit.readouts)
            raise CircuitError(f"the record keeps no signals of {circuit.name}; valid: {valid}")
        program = rate_program(circuit, False, self.name)
        rows = theta.detach().cpu().numpy()
        setups = [prepare(circuit, row, protocol, seed, int(i)) for row, i in zip(rows, indices, strict=True)]
        if len({shape_of(s) for s in setups}) > 1:
            raise CircuitError(f"simulations of {circuit.name} differ in size; hand over those of one size together")
        batch = Batch(circuit, program, tuple(setups), theta.to(torch.float64), seed, tuple(map(int, indices)),
                      self.dtype, self.device)  # fmt: skip
        with nullcontext() if torch.is_grad_enabled() else torch.no_grad():
            found, _ = _run(batch, readouts).signals(grid, segment)
        return {r.name: s / unit_scale(r.unit) for r, s in zip(readouts, found, strict=True)}


def shape_of(setup: Setup) -> tuple[Any, ...]:
    """What simulations must share to be run together: sizes, and which projections there are."""
    return tuple(c.size for c in setup.cells), tuple(s.number for s in setup.synapses)


def _run(batch: Batch, readouts: Sequence[Readout]) -> Run:
    module = _functions(torch_source(batch.circuit.name, batch.program))
    return Run(batch, readouts, module, lambda name, text: getattr(_functions(_HEADER + text), name))


_HEADER = """
from sbi_circuits.engines.torch_functions import IN_SOURCE, both, either, negated, real
f_abs, f_ceil, f_clip, f_exprel, f_floor, f_sign, f_trunc = map(
    IN_SOURCE.get, ("abs", "ceil", "clip", "exprel", "floor", "sign", "trunc"))
f_arccos, f_arcsin, f_arctan, f_cos, f_sin, f_tan = map(
    IN_SOURCE.get, ("arccos", "arcsin", "arctan", "cos", "sin", "tan"))
f_cosh, f_sinh, f_tanh, f_exp, f_expm1 = map(IN_SOURCE.get, ("cosh", "sinh", "tanh", "exp", "expm1"))
f_log, f_log10, f_log1p, f_sqrt = map(IN_SOURCE.get, ("log", "log10", "log1p", "sqrt"))
"""


@cache
def _functions(source: str) -> Any:
    """The functions of some generated source."""
    from sbi_circuits.engines.kernel_numba import _import_source

    return _import_source(source, "torch")


__all__ = ["DEVICES", "PRECISIONS", "TorchEngine", "shape_of"]
