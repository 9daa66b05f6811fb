"""The likelihood of features given theta, one feature after another, each defined or not.

p(x | theta) is a product over features of the probability that the feature is defined, and, where it is, a mixture of
normal densities, given theta and the features before it. What is undefined takes part as such, and what is unobserved
is left out: the network was trained to do without it (cf. Papamakarios, Sterratt, Murray 2019, arXiv:1805.07226; masked
networks: Germain et al. 2015, arXiv:1502.03509).
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from sbi_circuits.comparison.network import ClassifierConfig, fit_together
from sbi_circuits.inference.encode import EncodedFeatures, FeatureEncoder, feature_groups, random_drops

_CHUNK = 20_000
_OUTLIERS, _BROAD = 1e-3, 4.0
_LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)
_LEAST_SCALE = 0.01  # of a mixture component, robust standard deviations of the feature


@dataclass(frozen=True)
class LikelihoodConfig(ClassifierConfig):
    """Settings of the likelihood; see `ClassifierConfig`.

    Args:
        components: normal densities for each feature.
    """

    members: int = 3
    hidden: int = 96
    dropout: float = 0.0
    rate: float = 5e-3
    components: int = 5


class AutoregressiveDensity(nn.Module):
    """M networks: z (M, n, P) and features to the log density (M, n) of the observed ones.

    Hidden unit of degree d sees theta and the features before d; the outputs of feature j see degrees up to j.
    """

    def __init__(self, parameters: int, used: Tensor, config: LikelihoodConfig, seed: int) -> None:
        """`used` (F,) bool: features that vary; the others say nothing of theta and do not count."""
        super().__init__()
        features = len(used)
        self.register_buffer("used", used.float())
        random = torch.Generator().manual_seed(seed)
        hidden = max(config.hidden, features)
        seen = torch.cat([torch.zeros(parameters), torch.arange(1, features + 1).repeat(3)])
        degree = torch.arange(hidden) % features
        out = torch.arange(features).repeat_interleave(1 + 3 * config.components)
        layers = [(seen, degree), *[(degree, degree)] * (config.layers - 1), (degree, out)]
        masks = [(a[:, None] <= b[None]).float() for a, b in layers]
        self.config = config
        self.components, self.features = config.components, features
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for k, mask in enumerate(masks):
            self.register_buffer(f"mask{k}", mask)
            scale = (1.0 if k + 1 < len(masks) else 0.1) / mask.sum(0).clamp(min=1).sqrt()
            shape = (config.members, *mask.shape)
            self.weights.append(nn.Parameter(scale * torch.randn(shape, generator=random)))
            self.biases.append(nn.Parameter(torch.zeros(config.members, 1, mask.shape[1])))
        # A linear regression of each feature on what is before it moves all its components.
        skip = (seen[:, None] <= torch.arange(features)[None]).float()
        self.register_buffer("skip_mask", skip)
        self.skip = nn.Parameter(torch.zeros(config.members, *skip.shape))
        spread = torch.linspace(-1.5, 1.5, config.components).repeat(features)
        start = torch.zeros(features, 1 + 3 * config.components)
        start[:, 1 + config.components : 1 + 2 * config.components] = spread.reshape(features, -1)
        with torch.no_grad():
            self.biases[-1] += start.flatten()

    def forward(self, z: Tensor, x: EncodedFeatures, dropped: Tensor | None = None) -> Tensor:
        """Log density (M, n) of the features x, (M, n, F) or (n, F), that are neither unobserved nor dropped."""
        unobserved = x.unobserved if dropped is None else torch.maximum(x.unobserved, dropped.to(x.values.dtype))
        kept = (1.0 - unobserved) * self.get_buffer("used")
        inputs = torch.cat([z, x.values * kept, x.undefined * kept, unobserved], dim=-1)
        if inputs.dim() == 2:
            inputs = inputs.expand(len(self.skip), -1, -1)
        h = inputs
        for k, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            h = torch.baddbmm(bias, h, weight * self.get_buffer(f"mask{k}"))
            h = functional.silu(h) if k + 1 < len(self.weights) else h
        line = torch.bmm(inputs, self.skip * self.get_buffer("skip_mask"))
        h = h.reshape(*h.shape[:2], self.features, 1 + 3 * self.components)
        return (self._features(h, line, x) * kept).sum(-1)

    def _features(self, h: Tensor, line: Tensor, x: EncodedFeatures) -> Tensor:
        """(M, n, F) log density of each feature."""
        k = self.components
        logits, centre = functional.log_softmax(h[..., 1 : 1 + k], -1), h[..., 1 + k : 1 + 2 * k] + line[..., None]
        scale = functional.softplus(h[..., 1 + 2 * k :] + 0.5) + _LEAST_SCALE
        away = (x.values[..., None] - centre) / scale
        mixture = torch.logsumexp(logits - 0.5 * away**2 - scale.log(), -1) - _LOG_SQRT_2PI
        # A broad component of fixed weight: one odd feature must not outweigh all others.
        broad = -0.5 * (x.values / _BROAD) ** 2 - math.log(_BROAD) - _LOG_SQRT_2PI
        density = torch.logaddexp(mixture + math.log(1 - _OUTLIERS), broad + math.log(_OUTLIERS))
        defined = functional.logsigmoid(h[..., 0]) + density
        return torch.where(x.undefined > 0, functional.logsigmoid(-h[..., 0]), defined)


@dataclass(frozen=True, eq=False)
class NeuralLikelihood:
    """log p(x | theta), by an equal mixture of members."""

    network: AutoregressiveDensity

    @torch.no_grad()
    def __call__(self, z: np.ndarray, x: EncodedFeatures) -> np.ndarray:
        """Log likelihood (n,) of one row of encoded features at each z (n, P)."""
        points = torch.as_tensor(z, dtype=torch.float32)
        found = []
        for part in points.split(_CHUNK):
            values, undefined, unobserved = (t.expand(len(part), -1) for t in (x.values, x.undefined, x.unobserved))
            row = EncodedFeatures(values, undefined, unobserved, x.columns)
            logs = self.network(part, row).double()
            found.append(torch.logsumexp(logs, 0) - np.log(len(logs)))
        return torch.cat(found).numpy() if found else np.zeros(0)


def fit_likelihood(
    z: np.ndarray, values: np.ndarray, states: np.ndarray, names: tuple[str, ...], encoder: FeatureEncoder,
    parts: tuple[np.ndarray, np.ndarray], config: LikelihoodConfig, seed: int,
) -> tuple[NeuralLikelihood, float]:  # fmt: skip
    """Train on rows of z (n, P) and features (n, F); returns it with its validation loss, nats a row."""
    encoded = encoder.tensors(values, states, torch.float32)
    points, groups = torch.as_tensor(z).float(), torch.as_tensor(feature_groups(names))
    network = AutoregressiveDensity(z.shape[1], torch.as_tensor(~encoder.ignored), config, seed)

    def loss(chosen: Tensor, random: torch.Generator) -> Tensor:
        flat = random_drops(chosen.numel(), groups, config.drop, random)
        return -network(points[chosen], encoded[chosen], flat.reshape(*chosen.shape, -1)).mean(1)

    validation = torch.as_tensor(parts[1])

    def score() -> Tensor:
        return -network(points[validation], encoded[validation]).mean(1)

    losses = fit_together(network, torch.as_tensor(parts[0]), loss, score, config, seed)
    return NeuralLikelihood(network.eval().requires_grad_(False)), float(losses.mean())
