"""A posterior over a handful of the shared parameters, given measured tuning; the others come from trained models.

The bridge between training on a task and simulation-based inference: the ensemble says what the other parameters may
be, the simulations say which values of the chosen ones give tuning like that of an experiment.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sbi_circuits.connectome.lattice import Lattice
from sbi_circuits.connectome.models import Models, shared_prior
from sbi_circuits.connectome.network import RateNetwork, batches
from sbi_circuits.connectome.readouts import flash_response_index
from sbi_circuits.connectome.stimuli import CONTRASTS, flashes, moving_edges
from sbi_circuits.connectome.tuning import CURVE_ANGLES, CURVES, DIVERGED, POLARITY, preferred_contrast
from sbi_circuits.errors import UnknownNameError
from sbi_circuits.features import DEFINED, UNDEFINED
from sbi_circuits.inference.data import TrainingData
from sbi_circuits.prior import Prior
from sbi_circuits.seeds import generator

SILENT = 1e-3  # peak below which a cell has no tuning curve


@dataclass(frozen=True)
class CurveFeatures:
    """Tuning curves to moving edges of the preferred contrast, and flash response indices, as features.

    Args:
        types: of T4a to T5d. speed: columns/s. dt: s. settle: s on grey before.
        flash_types: cell types whose flash response index is a feature.

    Raises:
        UnknownNameError: a type whose tuning curve, or whose polarity, is not known.

    Examples:
        >>> features = CurveFeatures(("T4c",))
        >>> features.names[:2], len(features.names)
        (('T4c.curve_0', 'T4c.curve_30'), 13)
        >>> round(features.known()["T4c.curve_90"], 3)  # Maisak et al. 2013, largest value 1
        1.0
    """

    types: tuple[str, ...] = ("T4c",)
    speed: float = 19.0
    dt: float = 0.01
    settle: float = 1.0
    flash_types: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in self.types:
            preferred_contrast(name)
        for name in self.flash_types:
            if name not in POLARITY:
                raise UnknownNameError("type of known polarity", name, POLARITY)

    @property
    def names(self) -> tuple[str, ...]:
        """Curve at twelve angles, largest value 1, and direction selectivity, of each type; flash indices."""
        per_type = (*(f"curve_{angle}" for angle in CURVE_ANGLES), "selectivity")
        curves = tuple(f"{name}.{own}" for name in self.types for own in per_type)
        return curves + tuple(f"{name}.flash_index" for name in self.flash_types)

    def known(self) -> dict[str, float]:
        """The measured curves as an observation, and polarity, +1 or -1, for an index; selectivity is unobserved."""
        found = {f"{name}.flash_index": float(POLARITY[name]) for name in self.flash_types}
        for name in self.types:
            curve = np.array(CURVES[name])
            # Which of the twelve is largest differs between experiments and models; the scale is the curve's own.
            own = zip(CURVE_ANGLES, curve / curve.max(), strict=True)
            found |= {f"{name}.curve_{angle}": float(value) for angle, value in own}
        return found

    def measure(
        self, network: RateNetwork, lattice: Lattice, models: Models, workers: int = 1
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Values and states (M, F), and which models stayed bounded (M,)."""
        central = network.wiring.central()
        cells = np.array([central[network.wiring.type_index(name)] for name in self.types])
        wanted = sorted({preferred_contrast(name) for name in self.types})
        stimuli = moving_edges(lattice, self.speed, self.dt, CURVE_ANGLES, [CONTRASTS[k] for k in wanted])
        found = []
        for part in batches(models.n_models, 64):
            chosen = models.take(part)
            with np.errstate(over="ignore", invalid="ignore"):
                v = network.respond(chosen, stimuli.movie, self.dt, self.settle, cells, workers)
            found.append(np.maximum(v, 0.0).max(2).reshape(len(v), len(CURVE_ANGLES), len(wanted), -1))
        peaks = np.concatenate(found)  # (M, angles, contrasts, types)
        bounded = peaks.max((1, 2, 3)) < DIVERGED
        own = [wanted.index(preferred_contrast(name)) for name in self.types]
        curves = np.stack([peaks[:, :, k, j] for j, k in enumerate(own)], axis=1).astype(float)
        values, states = _described(np.where(bounded[:, None, None], curves, 0.0))
        index = self._flash_index(network, lattice, models, workers)
        bounded &= np.isfinite(index).all(1)
        index = np.where(bounded[:, None], index, 0.0)
        defined = np.full(index.shape, DEFINED, dtype=np.uint8)
        return np.hstack([values, index]), np.hstack([states, defined]), bounded

    def _flash_index(self, network: RateNetwork, lattice: Lattice, models: Models, workers: int) -> np.ndarray:
        """(M, flash types); not a number where a model diverges."""
        if not self.flash_types:
            return np.zeros((models.n_models, 0))
        central = network.wiring.central()
        cells = np.array([central[network.wiring.type_index(name)] for name in self.flash_types])
        movie = flashes(lattice, self.dt).movie
        v = network.respond(models, movie, self.dt, self.settle, cells, workers).astype(float)
        return np.where(abs(v).max((1, 2)) < DIVERGED, flash_response_index(v), np.nan)


def _described(curves: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values and states (M, F) of curves (M, types, angles)."""
    largest = curves.max(-1, keepdims=True)
    silent = largest < SILENT
    vector = abs((curves * np.exp(1j * np.radians(CURVE_ANGLES))).sum(-1, keepdims=True))
    scaled = curves / np.where(silent, 1.0, largest)
    selectivity = vector / np.where(silent, 1.0, curves.sum(-1, keepdims=True))
    values = np.where(silent, 0.0, np.concatenate([scaled, selectivity], axis=-1))
    states = np.broadcast_to(np.where(silent, UNDEFINED, DEFINED), values.shape)
    return values.reshape(len(curves), -1), states.reshape(len(curves), -1).astype(np.uint8)


def simulate_shared(
    network: RateNetwork,
    lattice: Lattice,
    models: Models,
    names: Sequence[str],
    features: CurveFeatures,
    n: int,
    seed: int = 0,
    prior: Prior | None = None,
    workers: int = 1,
) -> TrainingData:
    """Simulations for `sbi_circuits.inference.train`: chosen parameters from a prior, the others from trained models.

    Args:
        network, lattice: who sees.
        models: whose other parameters are used, each simulation those of one drawn at random.
        names: of the chosen parameters, as for `Models.values`.
        features: what is measured. n: simulations. seed: of everything random; simulation k depends on (seed, k).
        prior: over the chosen parameters, in their order; `shared_prior(models, names)` where None.

    Returns:
        Rows of the models that stayed bounded; `provenance["outcomes"]` counts those that did not.

    Raises:
        UnknownNameError: a parameter that does not exist.
        InferenceError: where fewer than 50 models stayed bounded.
    """
    for name in names:
        models.place(name)
    prior = prior or shared_prior(models, names)
    theta = prior.sample(n, seed)
    drawn = np.array([generator(seed, k, "model").integers(models.n_models) for k in range(n)])
    values, states, bounded = features.measure(network, lattice, models.take(drawn).with_values(names, theta), workers)
    outcomes: Mapping[str, int] = {"ok": int(bounded.sum()), "diverged": int((~bounded).sum())}
    provenance = {
        "circuit": "connectome", "circuit_digest": network.wiring.digest, "outcomes": dict(outcomes), "seed": seed,
        "parameters": list(names), "models": dict(models.provenance),
    }  # fmt: skip
    return TrainingData(theta[bounded], values[bounded], states[bounded], prior, features.names, (), provenance)


def with_parameters(models: Models, names: Sequence[str], theta: np.ndarray) -> Models:
    """One model for each configuration (n, P), its other parameters those of the models in turn.

    Raises:
        UnknownNameError: theta of another width than there are names.
    """
    theta = np.atleast_2d(theta)
    if theta.shape[1] != len(names):
        raise UnknownNameError("number of parameters", theta.shape[1], [str(len(names))])
    turn = np.arange(len(theta)) % models.n_models
    return models.take(turn).with_values(names, theta)
