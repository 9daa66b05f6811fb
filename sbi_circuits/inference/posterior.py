"""The posterior: a lazy object; called with an observation it gives a distribution over configurations."""

from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from sbi_circuits.errors import InferenceError
from sbi_circuits.features import UNOBSERVED
from sbi_circuits.inference import coordinates
from sbi_circuits.inference.encode import EncodedFeatures, FeatureEncoder
from sbi_circuits.inference.flows import LibraryMembers
from sbi_circuits.inference.members import Members
from sbi_circuits.inference.observe import Observation, observation
from sbi_circuits.inference.save import save_posterior
from sbi_circuits.inference.support import ObservationCheck, Support
from sbi_circuits.prior import Prior
from sbi_circuits.seeds import generator, stream_key

Flows = Members | LibraryMembers
_CHUNK = 10_000
_ROWS_CHUNK = 1000  # every row has matrices of its own
_REDRAWS = 5
_TOO_MANY = 4 / 3  # times as many draws as asked for
_DTYPE = torch.float64  # inverting a narrow spline loses too many digits in single precision


@dataclass(frozen=True, eq=False)
class Posterior:
    """An ensemble of conditional flows over theta given features.

    See also: `train`, `load_posterior`.

    Args:
        prior: of theta.
        feature_names, feature_units: (F,) of the observation.
        encoder: features to network inputs.
        flows: the members of the mixture, as one conditional density.
        weights: (members,) of the mixture, summing to one.
        support: what `check` compares an observation with.
        provenance: circuit, digests, feature set, configuration, seed, counts, validation figures.
        log: lines of the training log.

    Examples:
        >>> posterior = train(table, seed=0)  # doctest: +SKIP
        >>> distribution = posterior({"isi.cv": 0.9, "bursts.rate": None})  # doctest: +SKIP
        >>> distribution.sample(1000, seed=0)  # doctest: +SKIP
    """

    prior: Prior
    feature_names: tuple[str, ...]
    feature_units: tuple[str, ...]
    encoder: FeatureEncoder
    flows: Flows
    weights: np.ndarray
    support: Support
    provenance: Mapping[str, Any]
    log: tuple[str, ...]

    def __post_init__(self) -> None:
        self.flows.to(_DTYPE).eval().requires_grad_(False)

    def __call__(self, x: Any) -> "PosteriorDistribution":
        """The distribution over theta given one observation.

        Args:
            x: feature values with states; a mapping name -> value (None: undefined; not named: unobserved); a
                pair (values, states); or an array (F,).

        Raises:
            UnknownNameError: a feature this posterior does not have.
            InferenceError: an observation that does not fit, or lacks features the flows cannot do without.
        """
        seen = self.observe(x)
        return PosteriorDistribution(self, self._encode(seen.values[None], seen.states[None]))

    def observe(self, x: Any) -> Observation:
        """x as one row of values and states, see `__call__`."""
        return observation(x, self.feature_names, str(self.provenance.get("feature_set_digest", "")))

    def check(self, x: Any, level: float = 0.99) -> ObservationCheck:
        """Whether the simulations could have produced x; a share `level` of those that did pass."""
        seen = self.observe(x)
        return self.support.check(
            seen.values, seen.states, self.encoder, self.feature_names, self.feature_units, level
        )

    def log_prob_rows(self, theta: np.ndarray, values: np.ndarray, states: np.ndarray) -> np.ndarray:
        """Log density of theta (n, P) given its own row of features (n, F) each: (n,), 1/declared units."""
        features = self._encode(np.asarray(values, dtype=float), np.asarray(states))
        return self._log_prob(np.asarray(theta, dtype=float), features)

    def sample_batch(self, observations: Iterable[Any], n: int, seed: int) -> np.ndarray:
        """n draws for each of N observations in one call: (N, n, P), declared units, never outside the prior.

        Those of different observations are independent; up to rounding, the first row is what
        `posterior(x).sample(n, seed)` gives.

        Args:
            observations: N of them, each as in `__call__`; a matrix (N, F) is N rows that are all defined.
            n: draws of each.
            seed: of the draws.

        Raises:
            UnknownNameError, InferenceError: for the first observation that does not fit, with its number.
        """
        rows = [self._observed(i, x) for i, x in enumerate(observations)]
        if not rows:
            return np.zeros((0, n, len(self.prior)))
        return self.sample_rows(np.stack([r.values for r in rows]), np.stack([r.states for r in rows]), n, seed)

    def _observed(self, number: int, x: Any) -> Observation:
        try:
            return self.observe(x)
        except InferenceError as error:
            raise InferenceError(f"observation {number}: {error}") from error

    def sample_rows(self, values: np.ndarray, states: np.ndarray, n: int, seed: int) -> np.ndarray:
        """n draws for each of N observations (N, F) at once: (N, n, P), declared units."""
        return self.draw_rows(self._encode(np.asarray(values, dtype=float), np.asarray(states)), n, seed)

    def draw_rows(self, features: EncodedFeatures, n: int, seed: int) -> np.ndarray:
        """n draws (N, n, P), declared units, for N rows of encoded features; see `sample_rows`."""
        if n < 0:
            raise InferenceError(f"cannot draw {n} configurations")
        random = generator(seed, "posterior")
        inputs, p = features.inputs(), len(self.prior)
        counts = random.multinomial(n, self.weights)  # strata: the same for every row
        parts = self._draw_members(counts, inputs, seed)
        z = np.concatenate(parts, axis=1)[:, random.permutation(n)].astype(float)
        theta = coordinates.from_z(self.prior, z.reshape(-1, p), self.coordinates)
        return theta.reshape(len(inputs), n, p)

    def _draw_members(self, counts: np.ndarray, inputs: Tensor, seed: int) -> list[np.ndarray]:
        """As many draws (N, count, P) of each member, coordinates of the flows, for N rows of inputs (N, C).

        All members are drawn from at once, each as often as the most wanted one, unless that were a third too many.
        The noise is the CPU's so that devices agree.
        """
        flows = self._drawn
        inputs, m = inputs.to(flows.start.mean), len(counts)
        randoms = [torch.Generator().manual_seed(stream_key(seed, "noise", k) % 2**63) for k in range(m)]
        rows, p = len(inputs), len(self.prior)
        noise = [torch.randn(rows, n, p, generator=r) for n, r in zip(counts.tolist(), randoms, strict=True)]
        together = m * counts.max() < _TOO_MANY * counts.sum()
        groups = [slice(0, m)] if together else [slice(k, k + 1) for k in range(m)]
        drawn = [z for group in groups for z in _drawn_group(flows, group, noise[group], inputs)]
        return [
            _redrawn(flows, member, z, inputs, random).cpu().numpy()
            for member, (z, random) in enumerate(zip(drawn, randoms, strict=True))
        ]

    def ensemble(self, observation: Any, n: int = 100, **options: Any) -> Any:
        """Draw, simulate again, keep what agrees: an `Ensemble`; see `sbi_circuits.build_ensemble` for the options.

        Args:
            observation: a `Recording`, or its features from `sbi_circuits.observe`.
            n: how many verified configurations are wanted.
        """
        # Simulating stands above inference; the package's own front door is the one way up from here.
        build = import_module("sbi_circuits").build_ensemble
        return build(self, observation, n, **options)

    def save(self, folder: str | Path) -> Path:
        """Write `posterior.safetensors`, `posterior.json` and `training.log` into a folder; returns it."""
        return save_posterior(self, Path(folder))

    def to(self, device: str | torch.device) -> "Posterior":
        """This posterior with its flows on another device (moved, not copied)."""
        self.flows.to(device)
        return replace(self)

    @property
    def device(self) -> torch.device:
        return next(self.flows.parameters()).device

    def _encode(self, values: np.ndarray, states: np.ndarray) -> EncodedFeatures:
        lacking = (states == UNOBSERVED).any(0) & ~self.encoder.droppable & ~self.encoder.ignored
        if lacking.any():
            names = ", ".join(np.array(self.feature_names)[lacking])
            raise InferenceError(f"this posterior was trained to need every feature; missing: {names}")
        return self.encoder.tensors(values, states, _DTYPE).to(self.device)

    @torch.no_grad()
    def _log_prob(self, theta: np.ndarray, features: EncodedFeatures) -> np.ndarray:
        """Log density of theta (n, P) given n rows of features, or one for all."""
        inside = self.prior.contains(theta)
        theta = np.where(inside[:, None], theta, self._middle)
        z = coordinates.to_z(self.prior, theta, self.coordinates)
        inputs = features.inputs()
        size = _CHUNK if len(inputs) == 1 else _ROWS_CHUNK
        parts = [slice(k, k + size) for k in range(0, len(z), size)]
        log_q = [self._mixture(z[part], inputs if len(inputs) == 1 else inputs[part]) for part in parts]
        log_q = np.concatenate([*log_q, np.zeros(0)])
        density = log_q + coordinates.log_abs_det(self.prior, theta, z, self.coordinates)
        return np.where(inside, density, -np.inf)

    def _mixture(self, z: np.ndarray, inputs: Tensor) -> np.ndarray:
        points = torch.as_tensor(z, dtype=_DTYPE, device=self.device)
        members = self.flows.log_prob(points, inputs).cpu().numpy()
        with np.errstate(divide="ignore"):
            return np.logaddexp.reduce(members + np.log(self.weights)[:, None], axis=0)

    def log_prob_z_rows(self, z: Tensor, values: np.ndarray, states: np.ndarray) -> Tensor:
        """Log density (n,) of z (n, P), unbounded coordinates, given its own row of features (n, F) each.

        Differentiable in z, unlike `log_prob_rows`.
        """
        return self._log_prob_z(z, self._encode(np.asarray(values, dtype=float), np.asarray(states)).inputs())

    def _log_prob_z(self, z: Tensor, inputs: Tensor) -> Tensor:
        points, log_slope = coordinates.from_unbounded(z, self.coordinates)
        members = self.flows.log_prob(points, inputs)
        weights = torch.as_tensor(self.weights, dtype=members.dtype, device=members.device)
        return torch.logsumexp(members + weights.log()[:, None], dim=0) + log_slope

    @property
    def coordinates(self) -> str:
        """Those of z in the flows, see `coordinates`."""
        return self.flows.spec.coordinates

    @cached_property
    def _drawn(self) -> Flows:
        """What draws: single precision is enough without splines, whose inversion loses digits, and twice as fast."""
        return deepcopy(self.flows).float() if self.flows.spec.transform in ("mixture", "affine") else self.flows

    @cached_property
    def _middle(self) -> np.ndarray:
        return self.prior.constrain(np.zeros(len(self.prior)))


def _drawn_group(flows: Flows, members: slice, noise: list[Tensor], inputs: Tensor) -> list[Tensor]:
    """z (N, n, P) of some members for inputs (N, C), of noise (N, n, P) of each; the n may differ."""
    rows, n = len(inputs), max(part.shape[1] for part in noise)
    even = torch.stack([pad(part, (0, 0, 0, n - part.shape[1])) for part in noise]).flatten(1, 2).to(inputs)
    total = rows * n
    size = max(1, -(-total // max(1, round(total * len(noise) / _CHUNK))))  # parts of even size
    parts = [slice(k, min(k + size, total)) for k in range(0, total, size)]
    drawn = [_draw_part(flows, members, even[:, s], inputs, s, n) for s in parts]
    z = torch.cat([*drawn, even[:, :0]], dim=1).unflatten(1, (rows, n))
    return [z[k, :, : part.shape[1]] for k, part in enumerate(noise)]


def _draw_part(flows: Flows, members: slice, noise: Tensor, inputs: Tensor, part: slice, n: int) -> Tensor:
    """The draws `part` of rows (N, C), n each one after another; only the rows they belong to are looked at."""
    if len(inputs) == 1:
        return flows.draw_members(members, noise, inputs)
    first, last = part.start // n, (part.stop - 1) // n + 1
    row = torch.arange(part.start, part.stop, device=inputs.device) // n - first
    return flows.draw_members(members, noise, inputs[first:last], row)


def _redrawn(flows: Flows, member: int, z: Tensor, inputs: Tensor, random: torch.Generator) -> Tensor:
    """z (N, n, P), those that are not finite drawn again."""
    shape, z = z.shape, z.reshape(-1, z.shape[-1])
    for _ in range(_REDRAWS):
        lost = torch.nonzero(~torch.isfinite(z.sum(1)))[:, 0]
        if not len(lost):
            return z.view(shape)
        again = torch.randn(len(lost), z.shape[1], generator=random).to(inputs)
        z[lost] = flows.draw(member, again, inputs, None if len(inputs) == 1 else lost // shape[1])
    raise InferenceError("cannot draw for this observation; it is far outside the simulations")


@dataclass(frozen=True, eq=False)
class PosteriorDistribution:
    """The distribution over theta given one observation; drawn from only when asked.

    Args:
        posterior: where it comes from.
        features: the encoded observation, one row.
    """

    posterior: Posterior
    features: EncodedFeatures

    @property
    def prior(self) -> Prior:
        return self.posterior.prior

    def sample(self, n: int, seed: int) -> np.ndarray:
        """n configurations (n, P), declared units, never outside the prior; equal seeds give equal draws."""
        return self.posterior.draw_rows(self.features, n, seed)[0]

    def log_prob(self, theta: np.ndarray) -> np.ndarray:
        """Log density of theta (n, P) or (P,): (n,), in 1/declared units; -inf outside the prior."""
        theta = np.asarray(theta, dtype=float)
        if theta.shape[-1] != len(self.prior):
            raise InferenceError(f"theta has shape {theta.shape}, expected (*, {len(self.prior)})")
        rows = self.posterior._log_prob(theta.reshape(-1, len(self.prior)), self.features)
        return rows.reshape(theta.shape[:-1])

    def sample_z(self, n: int, seed: int) -> np.ndarray:
        """n draws (n, P) in the prior's unbounded coordinates, where the prior is a standard normal."""
        return self.prior.unconstrain(self.sample(n, seed))

    def log_prob_z(self, z: Tensor) -> Tensor:
        """Log density (n,) of z (n, P) in the prior's unbounded coordinates, float64; differentiable in z."""
        return self.posterior._log_prob_z(z, self.features.inputs())

    def mean(self, n: int = 10_000, seed: int = 0) -> np.ndarray:
        """Posterior mean (P,), declared units, over n draws."""
        return self.sample(n, seed).mean(0)

    def quantiles(self, q: float | np.ndarray | list[float], n: int = 10_000, seed: int = 0) -> np.ndarray:
        """Quantiles of each parameter over n draws, declared units: (P,), or (len(q), P) for several q."""
        return np.quantile(self.sample(n, seed), q, axis=0)

    def interval(self, level: float = 0.9, n: int = 10_000, seed: int = 0) -> np.ndarray:
        """Central interval of each parameter: (2, P), low and high, declared units.

        Raises:
            InferenceError: unless 0 < level < 1.
        """
        if not 0.0 < level < 1.0:
            raise InferenceError(f"level {level:g} must lie between 0 and 1")
        return self.quantiles([0.5 - level / 2, 0.5 + level / 2], n, seed)
