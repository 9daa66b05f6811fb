"""Training networks on a task: the flow of moving textures, from their wiring and random initial values.

Many models at once, from different seeds: their parameters are rows of the same tensors, and Adam treats rows alike, so
that each model is trained as if it were alone. An interrupted training goes on where it stopped and ends in the same
numbers: movies are drawn by step, and the optimiser's state is kept.
Source of the task, loss and activity penalty: Lappalainen et al. 2024, Methods ("Task", "Training").
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from sbi_circuits.connectome.decoder import FlowDecoder
from sbi_circuits.connectome.fly import VisualSystem
from sbi_circuits.connectome.models import Models, initial_models
from sbi_circuits.connectome.motion import MotionMovies
from sbi_circuits.connectome.network import RateNetwork, TrainableModels
from sbi_circuits.errors import InferenceError
from sbi_circuits.table import replace_file

SCHEMA = "1"
STATE = "training.safetensors"
_PART = 16  # movies of the validation that are seen at once
_SETTLE_STEPS = 5  # on grey, before each step, from the state that the last step settled to


@dataclass(frozen=True)
class TaskConfig:
    """Settings of a training.

    Args:
        models: how many are trained at once. steps: of the optimiser. batch: movies a step.
        movies: what they are drawn from.
        rate: learning rate of the decoder; network_rate: of the shared parameters. Both fall by a cosine to a tenth.
        penalty: weight of the activity penalty; the voltages on grey of the cells of each type are pushed into
            `active`, through the resting potentials only.
        warm: frames at the start of each movie that do not count. validation: movies to judge by.
        hidden, radius: of the decoder. seed: of initial values and movies.

    Raises:
        InferenceError: a number that is not positive.
    """

    models: int = 2
    steps: int = 1000
    batch: int = 4
    movies: MotionMovies = field(default_factory=MotionMovies)
    rate: float = 3e-3
    network_rate: float = 2e-4
    penalty: float = 0.1
    active: tuple[float, float] = (0.05, 5.0)
    warm: int = 8
    validation: int = 64
    hidden: int = 8
    radius: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("models", "steps", "batch", "rate", "network_rate", "validation", "hidden"):
            if not getattr(self, name) > 0:
                raise InferenceError(f"{name} of a training must be > 0, got {getattr(self, name)}")
        if not 0 <= self.warm < self.movies.frames:
            raise InferenceError(f"warm must leave some of {self.movies.frames} frames, got {self.warm}")

    def identity(self) -> dict[str, Any]:
        """What two parts of one training must share: everything but the number of steps so far."""
        return json.loads(json.dumps(asdict(self)))


@dataclass(frozen=True, eq=False)
class TaskFit:
    """What a training ended in.

    Args:
        models: trained; order of the seeds.
        error: (M,) mean distance between decoded and true flow on held-out movies, columns/s.
        start: (M,) the same before training. zero: of no flow at all.
        losses: (steps, M) of each step. steps: done in all. seconds: of this call.
    """

    models: Models
    error: np.ndarray
    start: np.ndarray
    zero: float
    losses: np.ndarray
    steps: int
    seconds: float

    def summary(self) -> str:
        """One line."""
        listed = ", ".join(f"{e:.3f}" for e in self.error)
        return f"{self.steps} steps, motion error {listed} columns/s; zero flow {self.zero:.3f}"

    def best_first(self) -> Models:
        """The models, smallest error first."""
        return self.models.take(np.argsort(self.error))


def fit_task(
    system: VisualSystem,
    config: TaskConfig | None = None,
    folder: str | Path | None = None,
    start: Models | None = None,
    device: str = "cpu",
    progress: bool = True,
    save_every: float = 60.0,
) -> TaskFit:
    """Train models of a visual system to report the flow of moving textures.

    Args:
        system: that sees. config: settings.
        folder: where the training is kept and, if it is there already, goes on; nothing is kept where None.
        start: initial values; the published random ones where None.
        device: "cpu", or "cuda" where there is one.
        progress: lines on standard error. save_every: s between saves.

    Raises:
        InferenceError: a folder with another training, or a damaged one, naming what differs.

    Examples:
        >>> from sbi_circuits.connectome.fly import visual_system
        >>> small = TaskConfig(models=1, steps=2, validation=4, movies=MotionMovies(frames=10))
        >>> fit_task(visual_system(1), small, progress=False).losses.shape
        (2, 1)
    """
    config, began = config or TaskConfig(), time.monotonic()
    training = _Training(system, config, start, device)
    if folder is not None:
        training.load(Path(folder))
    zero = training.validate(None)[0]
    if training.step == 0:
        training.first_error = training.validate(training.decoder)
    last_saved = last_line = began
    for step in range(training.step, config.steps):
        training.advance(step)
        now = time.monotonic()
        if folder is not None and (now - last_saved > save_every or step + 1 == config.steps):
            training.save(Path(folder))
            last_saved = now
        if progress and (now - last_line > 15 or step + 1 == config.steps):
            last_line = now
            recent = np.mean(training.losses[-50:])
            left = (now - began) / max(step + 1 - training.started, 1) * (config.steps - step - 1)
            line = f"step {step + 1}/{config.steps}, loss {recent:.3f} (zero flow {zero:.3f}), {left:.0f} s left"
            print(line, file=sys.stderr, flush=True)
    error = training.validate(training.decoder)
    models = training.models.models(source="fit_task", seed=config.seed, steps=config.steps, error=error.tolist())
    return TaskFit(models, error, np.asarray(training.first_error), float(zero), np.array(training.losses),
                   training.step, time.monotonic() - began)  # fmt: skip


class _Training:
    """Models, decoders, optimiser, and where they are."""

    def __init__(self, system: VisualSystem, config: TaskConfig, start: Models | None, device: str):
        self.system, self.config, self.device = system, config, torch.device(device)
        network = RateNetwork.of(system)
        initial = initial_models(system.wiring, config.models, config.seed) if start is None else start
        if initial.n_models != config.models:
            raise InferenceError(f"{initial.n_models} models to start from, but {config.models} are to be trained")
        self.models = TrainableModels(network, initial).to(self.device)
        decoder = FlowDecoder(system, config.models, config.hidden, config.radius, seed=config.seed)
        self.decoder = decoder.to(self.device)
        groups = [
            {"params": list(self.decoder.parameters()), "lr": config.rate},
            {"params": list(self.models.parameters()), "lr": config.network_rate},
        ]
        self.optimiser = torch.optim.Adam(groups, betas=(0.9, 0.99))
        self.grey = self.models.settle(config.movies.dt, 1.0)
        self.step = self.started = 0
        self.losses: list[list[float]] = []
        self.first_error = np.zeros(config.models)

    def advance(self, step: int) -> None:
        """One step of the optimiser."""
        config = self.config
        movie, flow = self._movies(config.batch, "training", step)
        self._schedule(step)
        grey = self._settled(self.grey)
        self.grey = grey.detach()
        v = self.models(movie, config.movies.dt, self.grey)
        losses = _error(self.decoder(v[:, :, config.warm :], self.grey), flow)
        self.optimiser.zero_grad()
        if config.penalty:
            # The penalty acts on the resting potentials alone: strengths are the task's.
            (pushed,) = torch.autograd.grad(self._penalty(grey), self.models.rest)
        losses.sum().backward()
        if config.penalty:
            assert self.models.rest.grad is not None
            self.models.rest.grad += pushed
        self.optimiser.step()
        self.models.clamp()
        self.losses.append(losses.detach().cpu().tolist())
        self.step = step + 1

    def _penalty(self, grey: Tensor) -> Tensor:
        cells = torch.as_tensor(self.system.wiring.central(), device=grey.device)
        v, (low, high) = grey[:, 0, cells], self.config.active
        return self.config.penalty * ((low - v).relu().square() + (v - high).relu().square()).sum()

    def _settled(self, state: Tensor) -> Tensor:
        grey = torch.full((1, _SETTLE_STEPS, self.system.lattice.n_columns), 0.5, device=self.device)
        return self.models(grey, self.config.movies.dt, state)[:, :, -1]

    def _schedule(self, step: int) -> None:
        fall = 0.1 + 0.9 * 0.5 * (1 + np.cos(np.pi * step / self.config.steps))
        for group, rate in zip(self.optimiser.param_groups, (self.config.rate, self.config.network_rate), strict=True):
            group["lr"] = rate * fall

    def _movies(self, n: int, *labels: object) -> tuple[Tensor, Tensor]:
        movie, flow = self.config.movies.draw(self.system.lattice, n, self.config.seed, *labels)
        return torch.as_tensor(movie, device=self.device), torch.as_tensor(flow, device=self.device)

    def validate(self, decoder: Callable[[Tensor, Tensor], Tensor] | None) -> np.ndarray:
        """(M,) error on held-out movies; of zero flow where there is no decoder."""
        config, found = self.config, []
        for part in range(0, config.validation, _PART):
            movie, flow = self._movies(min(_PART, config.validation - part), "validation", part)
            if decoder is None:
                found.append(_error(torch.zeros_like(flow)[None, :, None], flow))
                continue
            with torch.no_grad():
                v = self.models(movie, config.movies.dt, self.grey)
                found.append(_error(decoder(v[:, :, config.warm :], self.grey), flow))
        return torch.stack(found).mean(0).cpu().numpy()

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Everything that a training consists of, by name."""
        for part in ("models", "decoder"):
            for name, parameter in getattr(self, part).named_parameters():
                yield f"{part}.{name}", parameter.data
                for moment in ("exp_avg", "exp_avg_sq"):
                    state = self.optimiser.state[parameter]
                    if not state:
                        zeros = {name: torch.zeros_like(parameter.data) for name in ("exp_avg", "exp_avg_sq")}
                        state.update(step=torch.tensor(0.0), **zeros)
                    yield f"{part}.{name}.{moment}", state[moment]
        yield "grey", self.grey

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        content = {name: tensor.detach().cpu().contiguous() for name, tensor in self.tensors()}
        content["losses"] = torch.tensor(self.losses)
        content["first_error"] = torch.as_tensor(self.first_error)
        header = {"schema": SCHEMA, "step": str(self.step), "config": json.dumps(self.config.identity()),
                  "wiring": self.system.wiring.digest}  # fmt: skip
        replace_file(folder / STATE, save(content, metadata=header))

    def load(self, folder: Path) -> None:
        """Go on from what is in a folder, if anything is."""
        path = folder / STATE
        if not path.exists():
            return
        try:
            with safe_open(path, framework="pt") as file:
                header = file.metadata() or {}
                self._require_same(path, header)
                for name, tensor in self.tensors():
                    tensor.copy_(file.get_tensor(name))
                self.losses = file.get_tensor("losses").tolist()
                self.first_error = file.get_tensor("first_error").numpy()
        except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
            raise InferenceError(f"the training in {folder} is damaged: {str(error).splitlines()[0]}") from error
        self.step = self.started = int(header["step"])
        for state in self.optimiser.state.values():
            state["step"] = torch.tensor(float(self.step))

    def _require_same(self, path: Path, header: dict[str, str]) -> None:
        if header.get("schema") != SCHEMA:
            raise InferenceError(f"{path} has not schema {SCHEMA} of trainings, the one this version reads")
        there, here = json.loads(header["config"]), self.config.identity()
        wrong = [f"{name} ({there.get(name)} there)" for name in here if there.get(name) != here[name]]
        if header["wiring"] != self.system.wiring.digest:
            wrong.append("wiring")
        if wrong:
            raise InferenceError(f"{path} is of another training: {', '.join(wrong)}")


def _error(found: Tensor, flow: Tensor) -> Tensor:
    """(M,) mean distance of flow (M, S, T, 2, C) from the true flow (S, 2, C)."""
    apart = found - flow[None, :, None]
    return (apart.square().sum(3) + 1e-12).sqrt().mean((1, 2, 3))
