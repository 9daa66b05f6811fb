"""The training loop of all members at once: tensors stay on the device, the host looks once an epoch."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, nn

from sbi_circuits.errors import InferenceError
from sbi_circuits.inference.adamw import AdamW
from sbi_circuits.inference.config import FlowSpec, TrainingConfig
from sbi_circuits.inference.encode import EncodedFeatures, random_drops
from sbi_circuits.inference.gaussian import GaussianStart
from sbi_circuits.inference.members import Frame
from sbi_circuits.inference.stored import StoredFeatures

_WARM_UP = 0.05  # share of the steps in which the learning rate rises
_CHUNK = 1024
_HELD_OUT_PATTERNS = 64
_PATTERNS, _MOST_PATTERNS = 64, 2048  # of dropped features in one epoch; of all unobserved ones together


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows on the device: z (n, P), their features, the family of each feature (F,), and weights (n,), mean 1."""

    z: Tensor
    features: StoredFeatures
    groups: Tensor
    weights: Tensor


@dataclass(frozen=True)
class Epoch:
    """One epoch of one member: mean negative log densities in nats, and the learning rate it ended on."""

    index: int
    train: float
    validation: float
    rate: float

    def __str__(self) -> str:
        losses = f"train {self.train:.4f} validation {self.validation:.4f}"
        return f"epoch {self.index}: {losses} rate {self.rate:.2e}"


@dataclass(frozen=True)
class MemberFit:
    """How one member's training went; the weights are those of epoch `best`."""

    epochs: tuple[Epoch, ...]
    best: int
    validation: float
    seconds: float


class Trainable(Protocol):
    """What the loop needs of the members; `members.Members` and `flows.LibraryMembers` have it."""

    spec: FlowSpec
    start: GaussianStart

    def frame(self, seen: Tensor) -> Frame: ...
    def log_density(self, z: Tensor, inputs: Tensor, frame: Frame, pattern: Tensor) -> Tensor: ...
    def log_prob(self, z: Tensor, inputs: Tensor) -> Tensor: ...
    def owned(self) -> Iterator[tuple[str, nn.Parameter, int | None]]: ...


def fit_members(
    flows: Trainable,
    train: Rows,
    validation: Rows,
    config: TrainingConfig,
    seed: int,
    report: Callable[[int, list[Epoch]], None],
) -> tuple[MemberFit, ...]:
    """Train members in place and leave each with the weights of its lowest validation loss.

    Epoch 0 is the untrained flow, a Gaussian regression or the prior: what cannot be learned is not.

    Args:
        config: resolved, see `TrainingConfig.resolve`.
        seed: of the order of the rows, the dropped features and the dropout.
        report: called after every epoch, with its index and every member's figures.

    Raises:
        InferenceError: if the loss stops being finite before anything was learned.
    """
    started = time.perf_counter()
    device = train.z.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        run = _Run(flows, train, config, torch.Generator(device).manual_seed(seed))
        validation = _lacking(validation, config.drop, seed)
        history = [_epochs(0, torch.full_like(run.best, math.nan), run.keep_best(validation), 0.0)]
        last_gain = 0
        for index in range(1, config.epochs + 1):
            loss = run.epoch()
            before = run.best.clone()
            scores = run.keep_best(validation)
            history.append(_epochs(index, loss, scores, run.rate))
            report(index, history[-1])
            last_gain = index if bool((run.best < before).any()) else last_gain
            if not bool(torch.isfinite(loss).all()) or index - last_gain >= config.patience:
                break
    if last_gain == 0 and not bool(torch.isfinite(loss).all()):
        raise InferenceError("training diverged: the loss is not finite; lower the learning rate")
    run.rewind()
    seconds = time.perf_counter() - started
    return tuple(_member_fit(epochs, seconds) for epochs in zip(*history, strict=True))


def _lacking(rows: Rows, share: float, seed: int) -> Rows:
    """Held-out rows that lack features as often as those trained on, the same ones in every epoch."""
    if not share:
        return rows
    random = torch.Generator(rows.z.device).manual_seed(seed)
    patterns = random_drops(_HELD_OUT_PATTERNS, rows.groups, share, random)
    return replace(rows, features=rows.features.without(patterns))


def _epochs(index: int, loss: Tensor, scores: Tensor, rate: float) -> list[Epoch]:
    pairs = zip(loss.tolist(), scores.tolist(), strict=True)
    return [Epoch(index, train, validation, rate) for train, validation in pairs]


def _member_fit(epochs: tuple[Epoch, ...], seconds: float) -> MemberFit:
    best = min(epochs, key=lambda epoch: epoch.validation if math.isfinite(epoch.validation) else math.inf)
    return MemberFit(epochs, best.index, best.validation, seconds)


class _Run:
    """The optimiser's state, the moving average of the weights, and the best of these for each member."""

    def __init__(self, flows: Trainable, train: Rows, config: TrainingConfig, random: torch.Generator):
        self.flows, self.train, self.config, self.random = flows, train, config, random
        self.members = flows.spec.members
        self.batch = min(config.batch, len(train.z))
        self.per_epoch = len(train.z) // self.batch
        self.steps = self.per_epoch * config.epochs
        self.step, self.rate = 0, 0.0
        owned = list(flows.owned())
        self.weights: list[Tensor] = [w for _, w, _ in owned]
        self.owners = [owner for _, _, owner in owned]
        self.average = [w.detach().clone() for w in self.weights]
        self.kept = [w.detach().clone() for w in self.weights]
        self.best = torch.full((self.members,), math.inf, device=train.z.device)
        decayed = [w for name, w, _ in owned if "bias" not in name]
        plain = [w for name, w, _ in owned if "bias" in name]
        self.optimiser = AdamW(decayed, plain, config.weight_decay)
        self.native, self.native_pattern = train.features.patterns()

    def epoch(self) -> Tensor:
        """One pass over the rows, in an order of its own for each member; the mean losses (M,)."""
        self._module().train()
        device, n = self.train.z.device, len(self.train.z)
        drops, frame = self._patterns()
        order = torch.rand(self.members, n, generator=self.random, device=device).argsort(1)
        chosen = torch.randint(len(drops), (self.members, n), generator=self.random, device=device)
        total = torch.zeros(self.members, device=device)
        for k in range(self.per_epoch):
            part = slice(k * self.batch, (k + 1) * self.batch)
            total += self._step(order[:, part], chosen[:, part], drops, frame)
        return total / self.per_epoch

    def _patterns(self) -> tuple[Tensor, Frame]:
        """Features that rows of this epoch lose (Q, F), and the regression for each with each native pattern."""
        groups, known = self.train.groups, len(self.native)
        drops = torch.zeros(1, len(groups), dtype=torch.bool, device=groups.device)
        if self.config.drop:
            size = max(8, min(_PATTERNS, _MOST_PATTERNS // known))
            drops = random_drops(size, groups, self.config.drop, self.random)
        nothing = torch.zeros(known * len(drops), len(groups), device=groups.device)
        lacking = self.native.repeat_interleave(len(drops), 0)
        empty = EncodedFeatures(nothing, nothing, lacking, self.train.features.columns)
        return drops, self.flows.frame(self.flows.start.seen(empty.inputs(drops.repeat(known, 1))))

    def _step(self, rows: Tensor, chosen: Tensor, drops: Tensor, frame: Frame) -> Tensor:
        self._set_rate()
        pattern = self.native_pattern[rows] * len(drops) + chosen
        inputs = self.train.features[rows].inputs(drops[chosen] if self.config.drop else None)
        log_density = self.flows.log_density(self.train.z[rows], inputs, frame, pattern)
        loss = -(self.train.weights[rows] * log_density).mean(1)
        self.optimiser.zero_grad()
        loss.sum().backward()
        self._clip()
        self.optimiser.step(self.rate)
        with torch.no_grad():
            torch._foreach_lerp_(self.average, self.weights, 1.0 - self.config.ema)
        return loss.detach()

    def _clip(self) -> None:
        """Each member by its own gradient norm: none can slow another down."""
        squares = torch.zeros(self.members, device=self.train.z.device)
        for w, owner in zip(self.weights, self.owners, strict=True):
            if w.grad is None:
                continue
            if owner is None:
                squares += w.grad.reshape(self.members, -1).square().sum(1)
            else:
                squares[owner] += w.grad.square().sum()
        factor = (self.config.clip / (squares.sqrt() + 1e-6)).clamp(max=1.0)
        for w, owner in zip(self.weights, self.owners, strict=True):
            if w.grad is not None:
                w.grad.mul_(_spread(factor, w) if owner is None else factor[owner])

    def _set_rate(self) -> None:
        warm = max(1, round(_WARM_UP * self.steps))
        self.step += 1
        rising = self.step / warm
        falling = 0.5 * (1.0 + math.cos(math.pi * min(1.0, (self.step - warm) / max(1, self.steps - warm))))
        self.rate = self.config.rate * (rising if self.step < warm else falling)

    @torch.no_grad()
    def keep_best(self, rows: Rows) -> Tensor:
        """Losses (M,) of held-out rows under the averaged weights, which are kept where they are the best."""
        current = [w.detach().clone() for w in self.weights]
        self._restore(self.average)
        scores = -(rows.weights * log_densities(self.flows, rows)).sum(1) / rows.weights.sum()
        self._restore(current)
        better = scores < self.best  # never for NaN
        self.best = torch.where(better, scores, self.best)
        for kept, average, owner in zip(self.kept, self.average, self.owners, strict=True):
            kept.copy_(torch.where(_spread(better, kept) if owner is None else better[owner], average, kept))
        return scores

    def rewind(self) -> None:
        self._restore(self.kept)

    def _restore(self, values: list[Tensor]) -> None:
        with torch.no_grad():
            torch._foreach_copy_(self.weights, values)
        self._module().eval()

    def _module(self) -> nn.Module:
        assert isinstance(self.flows, nn.Module)
        return self.flows


def _spread(values: Tensor, like: Tensor) -> Tensor:
    """values (M,) over a weight whose first axis is M, or M times as many groups."""
    repeated = values.repeat_interleave(like.shape[0] // len(values))
    return repeated.view(-1, *[1] * (like.ndim - 1))


@torch.no_grad()
def log_densities(flows: Trainable, rows: Rows) -> Tensor:
    """Log density of every row under every member, (M, n), in chunks."""
    parts = [slice(k, k + _CHUNK) for k in range(0, len(rows.z), _CHUNK)]
    return torch.cat([flows.log_prob(rows.z[part], rows.features[part].inputs()) for part in parts], dim=1)
