"""AdamW without `torch.optim.Optimizer`, whose first use in a process loads the compiler: seconds, as long as training.

Loshchilov & Hutter 2019, arXiv:1711.05101; the step itself is torch's fused one.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim.adamw import adamw


class AdamW:
    """Steps of the weights along their gradients, decaying some of them towards zero.

    Args:
        decayed, plain: weights with and without decay; leaves that gather gradients.
        weight_decay: share of a decayed weight that is lost per step, over the rate.
    """

    def __init__(self, decayed: Sequence[Tensor], plain: Sequence[Tensor], weight_decay: float):
        self._groups = [_Group(decayed, weight_decay), _Group(plain, 0.0)]

    def zero_grad(self) -> None:
        for group in self._groups:
            for weight in group.weights:
                weight.grad = None

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """One step; weights without a gradient stay."""
        for group in self._groups:
            group.step(rate)


class _Group:
    def __init__(self, weights: Sequence[Tensor], decay: float):
        self.weights, self.decay = list(weights), decay
        self.means = [torch.zeros_like(w) for w in self.weights]
        self.squares = [torch.zeros_like(w) for w in self.weights]
        self.steps = [torch.zeros((), device=w.device) for w in self.weights]

    def step(self, rate: float) -> None:
        state = zip(self.weights, self.means, self.squares, self.steps, strict=True)
        used = [(w, w.grad, m, v, t) for w, m, v, t in state if w.grad is not None]
        if used:
            weights, grads, means, squares, steps = map(list, zip(*used, strict=True))
            adamw(
                weights, grads, means, squares, [], steps, fused=True, amsgrad=False, maximize=False,
                beta1=0.9, beta2=0.999, lr=rate, weight_decay=self.decay, eps=1e-8,
            )  # fmt: skip
