"""Restricted priors: spend simulations only where the dynamics one is after can be.

A classifier learns from simulations which configurations give wanted dynamics (say, network bursts); the prior is
then cut to the region it accepts. Inside the region the proposal is proportional to the prior, so posteriors whose
mass lies inside stay correct without weights (Goncalves et al. 2020, eLife 9:e56261, "restricted prior";
Deistler et al. 2022, NeurIPS, truncated proposals).
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from sbi_circuits.errors import InferenceError
from sbi_circuits.prior import Prior
from sbi_circuits.seeds import stream_key, uniform_rows

_MEMBERS, _HIDDEN, _EPOCHS, _BATCH = 4, 64, 60, 128
_MIN_WANTED = 20
_CHUNK = 20_000
_LEAST_ACCEPTED = 1e-4


@dataclass(frozen=True, eq=False)
class RestrictedPrior:
    """The prior cut to the configurations a classifier accepts.

    Args:
        prior: the full prior.
        members: the classifiers; their mean logit is the score.
        threshold: least score that is accepted.
        kept: share of held-out wanted configurations that are accepted.
        precision: share of held-out accepted configurations that are wanted.
    """

    prior: Prior
    members: tuple[nn.Module, ...]
    threshold: float
    kept: float
    precision: float

    def accepts(self, theta: np.ndarray) -> np.ndarray:
        """Whether each theta (n, P), declared units, lies in the region: (n,) bool."""
        return _score(self.members, self.prior.unconstrain(theta)) >= self.threshold

    def sample(self, n: int, seed: int) -> np.ndarray:
        """n configurations (n, P) of the prior within the region, declared units.

        Raises:
            InferenceError: if the region is smaller than 1e-4 of the prior.
        """
        found: list[np.ndarray] = []
        drawn = accepted = 0
        while accepted < n:
            u = uniform_rows(seed, drawn, drawn + _CHUNK, len(self.prior), "restricted prior")
            theta = self.prior.from_unit(u)
            found.append(theta[self.accepts(theta)])
            drawn, accepted = drawn + _CHUNK, accepted + len(found[-1])
            if drawn >= 10 * _CHUNK and accepted < _LEAST_ACCEPTED * drawn:
                raise InferenceError(f"the restricted prior accepts {accepted} of {drawn} draws; keep more of it")
        return np.concatenate(found)[:n]


def restrict(prior: Prior, theta: np.ndarray, wanted: np.ndarray, keep: float = 0.95, seed: int = 0) -> RestrictedPrior:
    """Learn where wanted dynamics are.

    Args:
        prior: of theta.
        theta: (n, P) simulated configurations, declared units.
        wanted: (n,) bool: which of them gave the wanted dynamics.
        keep: share of wanted configurations the region must retain, measured on held-out ones (cross-validation).
        seed: of initial weights and folds.

    Raises:
        InferenceError: fewer than 20 wanted configurations, none unwanted, or keep outside (0, 1].
    """
    wanted = np.asarray(wanted, dtype=bool)
    if wanted.sum() < _MIN_WANTED or wanted.all():
        raise InferenceError(f"a restricted prior needs at least {_MIN_WANTED} wanted and some unwanted simulations, "
                             f"got {wanted.sum()} wanted of {len(wanted)}")
    if not 0.0 < keep <= 1.0:
        raise InferenceError(f"keep must be in (0, 1], got {keep}")
    z = prior.unconstrain(theta)
    members, held_out = _cross_validate(z, wanted, seed)
    threshold = float(np.quantile(held_out[wanted], 1.0 - keep))
    inside = held_out >= threshold
    precision = float(wanted[inside].mean()) if inside.any() else 0.0
    return RestrictedPrior(prior, members, threshold, float(inside[wanted].mean()), precision)


def _cross_validate(z: np.ndarray, wanted: np.ndarray, seed: int) -> tuple[tuple[nn.Module, ...], np.ndarray]:
    """One classifier per fold, and the score of every row by the classifier that has not seen it."""
    fold = np.random.Generator(np.random.Philox(key=stream_key(seed, "folds"))).permutation(len(z)) % _MEMBERS
    members, scores = [], np.zeros(len(z))
    for k in range(_MEMBERS):
        member = _classifier(z[fold != k], wanted[fold != k], stream_key(seed, "classifier", k) % 2**63)
        scores[fold == k] = _score((member,), z[fold == k])
        members.append(member)
    return tuple(members), scores


def _classifier(z: np.ndarray, wanted: np.ndarray, seed: int) -> nn.Module:
    """A small network with dropout; the classes are weighted to count alike."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        network = nn.Sequential(
            nn.Linear(z.shape[1], _HIDDEN), nn.SiLU(), nn.Dropout(0.2),
            nn.Linear(_HIDDEN, _HIDDEN), nn.SiLU(), nn.Dropout(0.2), nn.Linear(_HIDDEN, 1),
        )  # fmt: skip
        _fit(network, torch.as_tensor(z, dtype=torch.float32), torch.as_tensor(wanted, dtype=torch.float32))
    return network.eval().requires_grad_(False)


def _fit(network: nn.Module, z: Tensor, wanted: Tensor) -> None:
    weight = (len(wanted) - wanted.sum()) / wanted.sum()
    loss = nn.BCEWithLogitsLoss(pos_weight=weight)
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, _EPOCHS)
    for _ in range(_EPOCHS):
        for rows in torch.randperm(len(z)).split(_BATCH):
            optimiser.zero_grad()
            loss(network(z[rows]).squeeze(-1), wanted[rows]).backward()
            optimiser.step()
        schedule.step()


@torch.no_grad()
def _score(members: tuple[nn.Module, ...], z: np.ndarray) -> np.ndarray:
    points = torch.as_tensor(z, dtype=torch.float32)
    return torch.stack([m(points).squeeze(-1) for m in members]).mean(0).double().numpy()
