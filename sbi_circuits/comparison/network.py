"""Small classifiers trained together: every layer of all members is one batched product."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from sbi_circuits.errors import InferenceError

_WARM_UP = 0.1  # share of the steps in which the learning rate rises
Drop = Callable[[int, torch.Generator], Tensor]


@dataclass(frozen=True)
class ClassifierConfig:
    """Settings of the classifiers; a zero is derived from the number of rows.

    Args:
        members: classifiers in the ensemble.
        hidden: width of their layers; layers: how many.
        dropout: in the layers.
        batch: rows a step; epochs: most of them; rate: highest learning rate of AdamW, which decays to zero.
        weight_decay: of AdamW.
        drop: share of the rows of a batch that lose a random part of their features.
    """

    members: int = 5
    hidden: int = 64
    layers: int = 2
    dropout: float = 0.1
    batch: int = 128
    epochs: int = 0
    rate: float = 2e-3
    weight_decay: float = 1e-2
    drop: float = 0.5

    def __post_init__(self) -> None:
        for name, low in (("members", 1), ("hidden", 1), ("layers", 1), ("batch", 2), ("epochs", 0)):
            if getattr(self, name) < low:
                raise InferenceError(f"classifier: {name} = {getattr(self, name)} must be at least {low}")

    def steps(self, rows: int) -> int:
        """Optimisation steps: 40 epochs, between 400 and 4000 steps."""
        batches = max(1, -(-rows // self.batch))
        return batches * self.epochs if self.epochs else int(np.clip(40 * batches, 400, 4000))


class Members(nn.Module):
    """M classifiers of K classes: inputs (n, C), or (M, n, C), to logits (M, n, K)."""

    def __init__(self, inputs: int, classes: int, config: ClassifierConfig, seed: int) -> None:
        super().__init__()
        self.config = config
        random = torch.Generator().manual_seed(seed)
        widths = [inputs, *[config.hidden] * config.layers, classes]
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for a, b in zip(widths, widths[1:], strict=False):
            scale = np.sqrt(2.0 / a) if b != classes else 0.1 / np.sqrt(a)
            self.weights.append(nn.Parameter(scale * torch.randn(config.members, a, b, generator=random)))
            self.biases.append(nn.Parameter(torch.zeros(config.members, 1, b)))
        self.dropout = config.dropout

    def forward(self, x: Tensor, random: torch.Generator | None = None) -> Tensor:
        """Logits; dropout only where a generator is given."""
        h = x.expand(len(self.weights[0]), -1, -1) if x.dim() == 2 else x
        for k, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            h = torch.baddbmm(bias, h, weight)
            if k + 1 < len(self.weights):
                h = functional.silu(h)
                if random is not None and self.dropout:
                    kept = torch.rand(h.shape, generator=random) >= self.dropout
                    h = h * kept / (1 - self.dropout)
        return h


def fit_members(
    members: Members, inputs: Callable[[Tensor, Tensor | None], Tensor], rows: Tensor, labels: Tensor, weights: Tensor,
    validation: Tensor, config: ClassifierConfig, drops: Drop, seed: int,
) -> np.ndarray:  # fmt: skip
    """Train all members in place, each on its own order of rows; each keeps its weights of least validation loss.

    Args:
        inputs: rows and dropped features (or None) to network inputs.
        rows, labels: indices of the training rows, and the class of every row.
        weights: (K,) of the classes in the loss.
        validation: indices of the rows that choose the weights.
        drops: how many rows, to which of their features become unobserved.

    Returns:
        (M,) validation losses, nats a row.
    """

    def loss(chosen: Tensor, random: torch.Generator) -> Tensor:
        flat = chosen.flatten()
        x = inputs(flat, drops(len(flat), random)).reshape(*chosen.shape, -1)
        return _loss(members(x, random), labels[chosen], weights)

    def score() -> Tensor:
        return _loss(members(inputs(validation, None)), labels[validation].expand(config.members, -1), weights)

    return fit_together(members, rows, loss, score, config, seed)


def fit_together(
    module: nn.Module, rows: Tensor, loss: Callable[[Tensor, torch.Generator], Tensor], score: Callable[[], Tensor],
    config: ClassifierConfig, seed: int,
) -> np.ndarray:  # fmt: skip
    """Train a module whose parameters have the members along their first axis; see `fit_members`.

    Args:
        rows: indices of the training rows.
        loss: rows (M, n) to the loss (M,) of each member on its own.
        score: validation loss (M,).

    Returns:
        (M,) validation losses of the weights that were kept.

    Raises:
        InferenceError: if a member never had a finite validation loss.
    """
    random = torch.Generator().manual_seed(seed)
    steps, size = config.steps(len(rows)), min(config.batch, len(rows))
    optimiser = torch.optim.AdamW(module.parameters(), lr=config.rate, weight_decay=config.weight_decay)
    rise = max(1.0, _WARM_UP * steps)
    decay = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda t: min(1.0, (t + 1) / rise) * 0.5 * (1 + math.cos(math.pi * min(t / steps, 1.0)))
    )
    checks = max(1, steps // 40)
    best = torch.full((config.members,), torch.inf)
    kept = [p.detach().clone() for p in module.parameters()]
    for step in range(steps):
        losses = loss(rows[torch.randint(len(rows), (config.members, size), generator=random)], random)
        optimiser.zero_grad()
        losses.sum().backward()
        nn.utils.clip_grad_norm_(module.parameters(), 5.0)
        optimiser.step()
        decay.step()
        if (step + 1) % checks == 0 or step + 1 == steps:
            with torch.no_grad():
                found = score()
            better = found < best
            best = torch.where(better, found, best)
            for old, new in zip(kept, module.parameters(), strict=True):
                old[better] = new.detach()[better]
    with torch.no_grad():
        for old, new in zip(kept, module.parameters(), strict=True):
            new.copy_(old)
    if not torch.isfinite(best).all():
        raise InferenceError("training diverged: no finite validation loss")
    return best.numpy()


def _loss(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """(M,) weighted cross-entropy, nats."""
    members, n, classes = logits.shape
    own = weights[labels]
    losses = functional.cross_entropy(logits.reshape(-1, classes), labels.reshape(-1), reduction="none")
    return (losses.reshape(members, n) * own).sum(1) / own.sum(1)
