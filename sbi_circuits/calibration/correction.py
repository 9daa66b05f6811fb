"""Recalibration: a posterior that is too sure, not sure enough or shifted, mended parameter by parameter.

In the prior's unbounded coordinates z every draw is moved along the line through the posterior's mean m(x):
z' = m(x) + shift * sd(x) + scale * (z - m(x)), one shift and one scale for each parameter, chosen so that the ranks
of held-out configurations become uniform. The map is a bijection given x, so the density remains exact, and no draw
leaves the prior. It mends what is wrong in the same way everywhere, and nothing else: correlations stay, and so does
what is too wide here and too narrow there (see L-C2ST and coverage by pattern).
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import minimize

from sbi_circuits.calibration.held_out import HeldOut
from sbi_circuits.calibration.ranks import Coverage, coverage_of_ranks, posterior_draws, ranks_among
from sbi_circuits.calibration.uniform import spread_ranks, uniformity
from sbi_circuits.ensemble import Ensemble, build_ensemble
from sbi_circuits.errors import InferenceError
from sbi_circuits.inference.encode import FeatureEncoder
from sbi_circuits.prior import Prior
from sbi_circuits.seeds import generator
from sbi_circuits.table import replace_file

FILE = "recalibration.json"
SCHEMA = 1
MOMENT_DRAWS = 512  # behind mean and standard deviation of each posterior
_MOMENT_SEED = 20
_MIN_ROWS = 50
_PULL = 0.05  # towards no change; the distance of uniform ranks is about 0.17
_LIMITS = (np.log(0.2), np.log(5.0))


@dataclass(frozen=True)
class Correction:
    """What recalibration does, and what it does to rows it was not chosen on (two-fold cross-validation).

    Args:
        names: (P,) of the parameters.
        shift: (P,) in the posterior's standard deviations; scale: (P,) factor on its width.
        rows: held-out simulations it was chosen on.
        before, after: coverage of central 50 % and 90 % intervals over all parameters; after: each half of the rows
            corrected by what was chosen on the other half.
        p_before, p_after: smallest p-value of uniform ranks, times the number of parameters.
    """

    names: tuple[str, ...]
    shift: tuple[float, ...]
    scale: tuple[float, ...]
    rows: int
    before: tuple[float, float]
    after: tuple[float, float]
    p_before: float
    p_after: float

    def summary(self) -> str:
        """Two lines for people."""
        order = np.argsort(-np.abs(np.log(self.scale)) - np.abs(self.shift))[:3]
        most = ", ".join(f"{self.names[k]} x{self.scale[k]:.2f} {self.shift[k]:+.2f} sd" for k in order)
        before, after = (
            f"{held[0]:.1%} and {held[1]:.1%} (p {p:.2g})"
            for held, p in ((self.before, self.p_before), (self.after, self.p_after))
        )
        return (
            f"recalibration (from {self.rows} rows) changes most: {most}\n"
            f"50 % and 90 % intervals held {before} before, {after} after, each half of the rows corrected by the other"
        )


@dataclass(frozen=True, eq=False)
class Recalibrated:
    """A posterior with a correction; called with an observation it gives a distribution, as the posterior does.

    Raises:
        InferenceError: a correction of other parameters.
    """

    original: Any
    correction: Correction

    def __post_init__(self) -> None:
        if self.correction.names != tuple(self.original.prior.names):
            raise InferenceError("the recalibration has other parameters than the posterior: "
                                 + ", ".join(self.correction.names))  # fmt: skip

    def __call__(self, x: Any) -> "RecalibratedDistribution":
        return RecalibratedDistribution(self.original(x), self.original.prior, self.correction)

    @property
    def prior(self) -> Prior:
        return self.original.prior

    @property
    def encoder(self) -> FeatureEncoder:
        return self.original.encoder

    @property
    def provenance(self) -> dict[str, Any]:
        """The posterior's own, and the correction."""
        return {**self.original.provenance, "recalibration": asdict(self.correction)}

    @property
    def feature_names(self) -> tuple[str, ...]:
        return self.original.feature_names

    @property
    def log(self) -> tuple[str, ...]:
        """The training log, and the correction."""
        return (*self.original.log, *self.correction.summary().splitlines())

    def observe(self, x: Any) -> Any:
        """x as one row of values and states."""
        return self.original.observe(x)

    def check(self, x: Any, level: float = 0.99) -> Any:
        """Whether the simulations could have produced x."""
        return self.original.check(x, level)

    def ensemble(self, observation: Any, n: int = 100, **options: Any) -> Ensemble:
        """Draw from the corrected posterior, simulate again, keep what agrees; see `build_ensemble`."""
        return build_ensemble(self, observation, n, **options)  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False)
class RecalibratedDistribution:
    """The corrected distribution over theta given one observation."""

    original: Any
    prior: Prior
    correction: Correction
    _mean: np.ndarray = field(init=False)
    _move: np.ndarray = field(init=False)
    _scale: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        z = self.prior.unconstrain(self.original.sample(MOMENT_DRAWS, _MOMENT_SEED))
        object.__setattr__(self, "_mean", z.mean(0))
        object.__setattr__(self, "_move", np.array(self.correction.shift) * z.std(0))
        object.__setattr__(self, "_scale", np.array(self.correction.scale))

    def sample(self, n: int, seed: int) -> np.ndarray:
        """n configurations (n, P), declared units, never outside the prior; equal seeds give equal draws."""
        return self.prior.constrain(self.sample_z(n, seed))

    def sample_z(self, n: int, seed: int) -> np.ndarray:
        """n draws (n, P) in the prior's unbounded coordinates."""
        z = self.prior.unconstrain(self.original.sample(n, seed))
        return self._mean + self._move + self._scale * (z - self._mean)

    def log_prob(self, theta: np.ndarray) -> np.ndarray:
        """Log density of theta (n, P) or (P,), 1/declared units; -inf outside the prior."""
        theta = np.asarray(theta, dtype=float)
        inside = self.prior.contains(theta)
        z = self.prior.unconstrain(np.where(inside[..., None], theta, self.prior.constrain(np.zeros(len(self.prior)))))
        before = self._mean + (z - self._mean - self._move) / self._scale
        source = self.prior.constrain(before)
        # log q'(theta) = log q(source) + log |d source / d theta|, through z on both sides.
        jacobian = self.prior.log_abs_det(before) - self.prior.log_abs_det(z)
        density = self.original.log_prob(source) + jacobian - np.log(self._scale).sum()
        return np.where(inside, density, -np.inf)

    def mean(self, n: int = 10_000, seed: int = 0) -> np.ndarray:
        """Posterior mean (P,), declared units, over n draws."""
        return self.sample(n, seed).mean(0)

    def quantiles(self, q: Any, n: int = 10_000, seed: int = 0) -> np.ndarray:
        """Quantiles of each parameter over n draws, declared units: (P,), or (len(q), P)."""
        return np.quantile(self.sample(n, seed), q, axis=0)

    def interval(self, level: float = 0.9, n: int = 10_000, seed: int = 0) -> np.ndarray:
        """Central interval of each parameter: (2, P)."""
        if not 0.0 < level < 1.0:
            raise InferenceError(f"level {level:g} must lie between 0 and 1")
        return self.quantiles([0.5 - level / 2, 0.5 + level / 2], n, seed)


def recalibrate(
    posterior: Any, held: HeldOut, *, draws: int = 400, seed: int = 0, trained: np.ndarray | None = None
) -> Recalibrated:
    """Choose a correction on held-out simulations, and report what that does to ones it was not chosen on.

    Args:
        posterior: under correction; `prior` and a call with an observation are all it needs.
        held: simulations it has not seen.
        draws: of each posterior.
        seed: of draws and halves.
        trained: (n, D, P) draws of the posteriors of `held` where there are some already, declared units.

    Raises:
        InferenceError: fewer than 100 rows.
    """
    if len(held) < 2 * _MIN_ROWS:
        raise InferenceError(f"recalibration needs at least {2 * _MIN_ROWS} held-out simulations, got {len(held)}")
    theta = posterior_draws(posterior, held.values, held.states, draws, seed) if trained is None else trained
    z, truth = held.prior.unconstrain(theta), held.prior.unconstrain(held.theta)
    mean, sd = z.mean(1), np.maximum(z.std(1), 1e-9)
    order = generator(seed, "recalibration").permutation(len(held))
    away, spread = (truth - mean) / sd, (z - mean[:, None]) / sd[:, None]
    corrected = np.empty_like(spread)
    a, b = order[: len(held) // 2], order[len(held) // 2 :]
    for tried, chosen in ((a, b), (b, a)):
        shift, scale = _choose_all(away[chosen], spread[chosen])
        corrected[tried] = shift + scale * spread[tried]
    before, p_before = _score(away, spread, seed)
    after, p_after = _score(away, corrected, seed)
    shift, scale = _choose_all(away, spread)
    correction = Correction(
        held.prior.names, tuple(shift.tolist()), tuple(scale.tolist()), len(held),
        (float(before.overall[0]), float(before.overall[1])), (float(after.overall[0]), float(after.overall[1])),
        p_before, p_after,
    )  # fmt: skip
    return Recalibrated(posterior, correction)


def _choose_all(away: np.ndarray, spread: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shifts and scales (P,) for away (n, P) among spread (n, D, P)."""
    maps = [_choose(away[:, p], spread[:, :, p]) for p in range(away.shape[1])]
    shift, scale = map(np.array, zip(*maps, strict=True))
    return shift, scale


def _choose(away: np.ndarray, spread: np.ndarray) -> tuple[float, float]:
    """Shift and scale that make the ranks of away (n,) among shift + scale * spread (n, D) most uniform.

    Least Cramer-von Mises distance, with a weak pull towards no change.
    """
    n = len(away)
    expected = (np.arange(n) + 0.5) / n
    ordered = np.sort(spread, axis=1)
    grid = (np.arange(spread.shape[1]) + 0.5) / spread.shape[1]

    def distance(at: np.ndarray) -> float:
        moved = (away - at[0]) / np.exp(np.clip(at[1], *_LIMITS))
        u = np.array([np.interp(m, o, grid, 0.0, 1.0) for m, o in zip(moved, ordered, strict=True)])
        return float(((np.sort(u) - expected) ** 2).sum() + _PULL * (at**2).sum())

    options = {"xatol": 1e-3, "fatol": 1e-5, "initial_simplex": [[0, 0], [0.3, 0], [0, 0.3]]}
    found = minimize(distance, np.zeros(2), method="Nelder-Mead", options=options)
    return float(found.x[0]), float(np.exp(np.clip(found.x[1], *_LIMITS)))


def _score(away: np.ndarray, spread: np.ndarray, seed: int) -> tuple[Coverage, float]:
    ranks = ranks_among(spread, away)
    draws = spread.shape[1]
    p = uniformity(spread_ranks(ranks, draws, seed))
    return coverage_of_ranks(ranks, draws), float(min(1.0, p.min() * len(p)))


def save_correction(correction: Correction, folder: str | Path) -> Path:
    """Write `recalibration.json` beside a posterior; returns its path."""
    path = Path(folder) / FILE
    content = {"schema": SCHEMA} | asdict(correction)
    replace_file(path, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())
    return path


def load_correction(folder: str | Path) -> Correction:
    """Read what `save_correction` wrote.

    Raises:
        InferenceError: no such file, a damaged one, or another schema version.
    """
    path = Path(folder) / FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("schema", None) != SCHEMA:
            raise InferenceError(f"{path} has not schema {SCHEMA}, the one this version reads")
        fields: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in content.items()}
        return Correction(**fields)
    except OSError as error:
        raise InferenceError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise InferenceError(f"{path} is damaged: {str(error).splitlines()[0]}") from error
