"""The ratio p(x | theta) / p(x), learned by telling the configuration of a simulation from others.

Source: Durkan, Murray, Papamakarios 2020, "On contrastive learning for likelihood-free inference", arXiv:2002.03712.
What a network adds for x alone does not matter: the posterior is normalised for each observation.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sbi_circuits.comparison.network import ClassifierConfig, Members, fit_together
from sbi_circuits.inference.encode import EncodedFeatures, FeatureEncoder, feature_groups, random_drops

_CHUNK = 20_000


@dataclass(frozen=True)
class RatioConfig(ClassifierConfig):
    """Settings of the ratio; see `ClassifierConfig`.

    Args:
        contrasts: other configurations that each simulation is compared with.
    """

    members: int = 3
    hidden: int = 96
    dropout: float = 0.05
    rate: float = 5e-3
    contrasts: int = 15


@dataclass(frozen=True, eq=False)
class NeuralRatio:
    """log p(x | theta) up to a constant for each x, by the mean over members."""

    network: Members

    @torch.no_grad()
    def __call__(self, z: np.ndarray, x: EncodedFeatures) -> np.ndarray:
        """Log ratio (n,) of one row of encoded features at each z (n, P)."""
        points, row = torch.as_tensor(z, dtype=torch.float32), x.inputs()
        found = []
        for part in points.split(_CHUNK):
            inputs = torch.cat([part, row.expand(len(part), -1)], dim=-1)
            found.append(self.network(inputs)[..., 0].double().mean(0))
        return torch.cat(found).numpy() if found else np.zeros(0)


def fit_ratio(
    z: np.ndarray, values: np.ndarray, states: np.ndarray, names: tuple[str, ...], encoder: FeatureEncoder,
    parts: tuple[np.ndarray, np.ndarray], config: RatioConfig, seed: int,
) -> tuple[NeuralRatio, float]:  # fmt: skip
    """Train on rows of z (n, P) and features (n, F); returns it with its validation loss, nats a row."""
    encoded = encoder.tensors(values, states, torch.float32)
    points, groups = torch.as_tensor(z).float(), torch.as_tensor(feature_groups(names))
    network = Members(z.shape[1] + encoder.inputs, 1, config, seed)
    aside = torch.as_tensor(parts[1])
    fixed = torch.Generator().manual_seed(seed)
    fixed_x = encoded[aside].inputs()
    against = aside[torch.randint(len(aside), (len(aside), config.contrasts), generator=fixed)]

    def contrast(x: Tensor, own: Tensor, others: Tensor, random: torch.Generator | None) -> Tensor:
        """(M,) cross-entropy of finding the own z (M, n, P) among others (M, n, K, P), given x (M, n, C)."""
        every = torch.cat([own[:, :, None], others], dim=2)
        pairs = torch.cat([every, x[:, :, None].expand(-1, -1, every.shape[2], -1)], dim=-1)
        logits = network(pairs.flatten(1, 2), random).reshape(every.shape[:3])
        return (torch.logsumexp(logits, 2) - logits[:, :, 0]).mean(1)

    def loss(chosen: Tensor, random: torch.Generator) -> Tensor:
        dropped = random_drops(chosen.numel(), groups, config.drop, random)
        x = encoded[chosen.flatten()].inputs(dropped).reshape(*chosen.shape, -1)
        size = chosen.shape[1]
        shift = torch.randint(1, size, (size, min(config.contrasts, size - 1)), generator=random)
        others = chosen[:, (torch.arange(size)[:, None] + shift) % size]
        return contrast(x, points[chosen], points[others], random)

    def score() -> Tensor:
        x, own, others = (t.expand(config.members, *t.shape) for t in (fixed_x, points[aside], points[against]))
        return contrast(x, own, others, None)

    losses = fit_together(network, torch.as_tensor(parts[0]), loss, score, config, seed)
    return NeuralRatio(network.eval().requires_grad_(False)), float(losses.mean())
