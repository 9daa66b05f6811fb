"""The training loop of one flow: tensors stay on the device, the host looks once an epoch."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sbi_circuits.errors import InferenceError
from sbi_circuits.inference.config import TrainingConfig
from sbi_circuits.inference.encode import EncodedFeatures, random_drops
from sbi_circuits.inference.flows import ConditionalFlow

_WARM_UP = 0.05  # share of the steps in which the learning rate rises
_CHUNK = 1024


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows on the device: z (n, P), their features, the family of each feature (F,), and weights (n,), mean 1."""

    z: Tensor
    features: EncodedFeatures
    groups: Tensor
    weights: Tensor


@dataclass(frozen=True)
class Epoch:
    """One epoch: mean negative log densities in nats, in z coordinates, and the learning rate it ended on."""

    index: int
    train: float
    validation: float
    rate: float

    def __str__(self) -> str:
        losses = f"train {self.train:.4f} validation {self.validation:.4f}"
        return f"epoch {self.index}: {losses} rate {self.rate:.2e}"


@dataclass(frozen=True)
class MemberFit:
    """How one member's training went; its flow carries the weights of epoch `best`."""

    epochs: tuple[Epoch, ...]
    best: int
    validation: float
    seconds: float


def fit_flow(
    flow: ConditionalFlow,
    train: Rows,
    validation: Rows,
    config: TrainingConfig,
    seed: int,
    report: Callable[[Epoch], None],
) -> MemberFit:
    """Train a flow in place and leave the weights with the lowest validation loss in it.

    Epoch 0 is the untrained flow, a Gaussian regression or the prior: what cannot be learned is not.

    Args:
        config: resolved, see `TrainingConfig.resolve`.
        seed: of the order of the rows, the dropped features and the dropout.
        report: called after every epoch.

    Raises:
        InferenceError: if the loss stops being finite before anything was learned.
    """
    started = time.perf_counter()
    device = train.z.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        run = _Run(flow, train, config, torch.Generator(device).manual_seed(seed))
        epochs = [Epoch(0, math.nan, run.score(validation), 0.0)]
        best, best_weights = epochs[0], run.snapshot()
        for index in range(1, config.epochs + 1):
            loss = run.epoch()
            epochs.append(Epoch(index, loss, run.score(validation), run.rate))
            report(epochs[-1])
            if epochs[-1].validation < best.validation:
                best, best_weights = epochs[-1], run.snapshot()
            if not math.isfinite(loss) or index - best.index >= config.patience:
                break
    if best.index == 0 and not math.isfinite(loss):
        raise InferenceError("training diverged: the loss is not finite; lower the learning rate")
    run.restore(best_weights)
    return MemberFit(tuple(epochs), best.index, best.validation, time.perf_counter() - started)


class _Run:
    """The optimiser's state and the moving average of the weights."""

    def __init__(self, flow: ConditionalFlow, train: Rows, config: TrainingConfig, random: torch.Generator):
        self.flow, self.train, self.config, self.random = flow, train, config, random
        self.batch = min(config.batch, len(train.z))
        self.per_epoch = len(train.z) // self.batch
        self.steps = self.per_epoch * config.epochs
        self.step, self.rate = 0, 0.0
        self.weights: list[Tensor] = list(flow.parameters())
        self.average = [w.detach().clone() for w in self.weights]
        decayed = [w for w in self.weights if w.ndim > 1]
        plain = [w for w in self.weights if w.ndim <= 1]
        groups: list[dict[str, Any]] = [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(groups, lr=config.rate, weight_decay=config.weight_decay)

    def epoch(self) -> float:
        """One pass over the rows in random order; the mean loss, read from the device once."""
        self.flow.train()
        order = torch.randperm(len(self.train.z), generator=self.random, device=self.train.z.device)
        total = torch.zeros((), device=self.train.z.device)
        for k in range(self.per_epoch):
            total += self._step(order[k * self.batch : (k + 1) * self.batch])
        return float(total) / self.per_epoch

    def _step(self, rows: Tensor) -> Tensor:
        self._set_rate()
        features = self.train.features[rows]
        dropped = None
        if self.config.drop:
            dropped = random_drops(len(rows), self.train.groups, self.config.drop, self.random)
        log_prob = self.flow.log_prob(self.train.z[rows], features.inputs(dropped))
        loss = -(self.train.weights[rows] * log_prob).mean()
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.weights, self.config.clip)
        self.optimiser.step()
        with torch.no_grad():
            torch._foreach_lerp_(self.average, self.weights, 1.0 - self.config.ema)
        return loss.detach()

    def _set_rate(self) -> None:
        warm = max(1, round(_WARM_UP * self.steps))
        self.step += 1
        rising = self.step / warm
        falling = 0.5 * (1.0 + math.cos(math.pi * min(1.0, (self.step - warm) / max(1, self.steps - warm))))
        self.rate = self.config.rate * (rising if self.step < warm else falling)
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate

    def score(self, rows: Rows) -> float:
        """Mean negative log density of fully observed rows under the averaged weights."""
        current = [w.detach().clone() for w in self.weights]
        self.restore(self.average)
        loss = -float((rows.weights * log_densities(self.flow, rows)).sum() / rows.weights.sum())
        self.restore(current)
        return loss

    def snapshot(self) -> list[Tensor]:
        return [w.clone() for w in self.average]

    def restore(self, values: list[Tensor]) -> None:
        with torch.no_grad():
            torch._foreach_copy_(self.weights, values)
        self.flow.eval()


@torch.no_grad()
def log_densities(flow: ConditionalFlow, rows: Rows) -> Tensor:
    """Log density of every row, (n,), in chunks."""
    flow.eval()
    parts = [slice(k, k + _CHUNK) for k in range(0, len(rows.z), _CHUNK)]
    return torch.cat([flow.log_prob(rows.z[part], rows.features[part].inputs()) for part in parts])
