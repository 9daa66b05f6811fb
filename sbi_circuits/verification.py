"""When a configuration counts as verified: when one and the same circuit may well stand behind it and the recording.

A configuration is simulated with several seeds. The mean of its scaled features is compared with the recording's, and
the difference is counted in the standard deviation it has when both come from one circuit: the circuit's variability
from seed to seed, and the sampling error of the recording, from resampling its blocks. All observed features have to
agree at once, at a joint level that correlations and tails of the features enter into. Whoever takes the observed
circuit itself is rejected with that probability, and no more.
"""

from dataclasses import dataclass

import numpy as np

from sbi_circuits.errors import InferenceError, UnknownNameError
from sbi_circuits.features import DEFINED, UNOBSERVED, WindowedFeatures
from sbi_circuits.inference.encode import FeatureEncoder
from sbi_circuits.verification_spread import (
    Variance,
    block_bootstrap,
    blocks_of,
    correlations,
    default_block,
    deviations,
    joint_bound,
    lost,
    nearest,
    prior_variance,
    seed_to_seed,
    states_apart,
)

__all__ = ["AGAINST", "Criterion", "Judgement", "judge", "seed_to_seed", "seeds_for"]
AGAINST = ("mean", "windows")
# Of the level: the rest is for features that are defined on one side only.
_OF_VALUES = 0.8
_FREEDOM = 6  # differences between windows and between seeds, together


@dataclass(frozen=True)
class Criterion:
    """The rule of agreement.

    Args:
        repeats: seeds per configuration, at least 2; `seeds_for` the length of the recording where None.
        level: probability with which the observed circuit itself may be rejected, over all features together: four
            fifths for the largest difference in value, one fifth, half of it shared evenly, for features that are
            defined in the recording and undefined in the simulations, or the reverse (`states_apart`, `lost`).
        against: "mean", whether the circuit's features are those of the recording, or "windows", whether a simulation
            could be one more window of it: the looser question, for recordings that change while they last.
        block: windows that are resampled together, a few intervals between bursts; the cube root of the number of
            windows where None.

    Raises:
        InferenceError: numbers that cannot be.
    """

    repeats: int | None = None
    level: float = 0.05
    against: str = "mean"
    block: int | None = None

    def __post_init__(self) -> None:
        if self.against not in AGAINST:
            raise UnknownNameError("comparison of a criterion", self.against, AGAINST)
        if (self.repeats is not None and self.repeats < 2) or not 0 < self.level < 1:
            raise InferenceError(f"verification needs repeats >= 2 and 0 < level < 1, got {self.repeats}, {self.level}")
        if self.block is not None and self.block < 1:
            raise InferenceError(f"blocks of a recording hold at least one window, got {self.block}")


def seeds_for(windows: int) -> int:
    """Seeds per configuration: with a few windows of a recording six more of both kinds tell how variable a circuit is.

    Short of that nearly every configuration would be verified, as its variability is not known.

    Examples:
        >>> [seeds_for(windows) for windows in (1, 3, 15)]
        [7, 5, 2]
    """
    return max(2, _FREEDOM + 2 - windows)


@dataclass(frozen=True, eq=False)
class Judgement:
    """What verification found for M configurations and F features.

    Args:
        verified: (M,) bool.
        z: (M, F) difference from the observation in units of its standard deviation; NaN where it was not compared.
        agrees: (M, F) bool; True for features that were not observed.
        unit: (F,) seed-to-seed standard deviation of one simulation, in scaled feature units.
        bound: |z| above which a feature disagrees.
        error: (F,) of the recording: standard error of its features ("mean") or standard deviation of its windows
            ("windows"), in scaled feature units.
    """

    verified: np.ndarray
    z: np.ndarray
    agrees: np.ndarray
    unit: np.ndarray
    bound: float
    error: np.ndarray


def judge(
    observation: WindowedFeatures,
    values: np.ndarray,
    states: np.ndarray,
    ok: np.ndarray,
    encoder: FeatureEncoder,
    criterion: Criterion,
) -> Judgement:
    """Compare re-simulations with an observation.

    A feature that the recording defines (in half of its windows or more) agrees where the mean over the seeds that
    define it lies within the bound. A feature that most seeds define and the recording's windows do not, or the
    reverse, disagrees, unless seeds of one circuit differ in it too often (`states_apart`). A simulation that ended
    early agrees with nothing.

    Args:
        observation: the features of the recording and of its windows.
        values, states: (M, R, F) of R seeds of M configurations.
        ok: (M, R) bool: outcome ok.
        encoder: the scales of the features.
        criterion: the rule.
    """
    x, defined = encoder.scaled(values, states), (states == DEFINED) & ok[:, :, None]
    windows = encoder.scaled(observation.window_values, observation.window_states)
    known, seen = observation.window_states == DEFINED, observation.states == DEFINED
    (mean, n), (target, m) = _mean(x, defined), _mean(windows, known)
    pool = nearest(mean, n / defined.shape[1], ok, target, seen)
    # A circuit behind the recording varies from seed to seed as the recording does from window to window.
    typical = prior_variance(x[pool], defined[pool], observation.states).pooled(*deviations(windows, known))
    variance = typical.pooled(*deviations(x, defined))
    error = _sampling_error(windows, known, criterion)
    # What few windows show may by chance be less than one circuit's variability.
    size = 1 if criterion.against == "windows" else np.maximum(m, 1)
    spread = np.sqrt(variance.value / np.maximum(n, 1) + np.maximum(error**2, variance.value / size))
    z = np.where(seen & (n > 0), (mean - target) / spread, np.nan)
    related = correlations(x[pool], defined[pool], Variance(variance.value[pool], variance.freedom[pool]))
    freedom = typical.freedom + np.median(np.maximum(n - 1, 0), axis=0)
    bound = joint_bound(related[np.ix_(seen, seen)], freedom[seen], _OF_VALUES * criterion.level)
    of_states = 0.5 * (1.0 - _OF_VALUES) * criterion.level
    share = of_states / max(int((observation.states != UNOBSERVED).sum()), 1)
    apart = states_apart(states, ok, pool, observation.window_states, share)
    apart |= lost(states, ok, observation.window_states, of_states)
    agrees: np.ndarray = ~apart & (np.abs(np.nan_to_num(z)) <= bound) & ok.any(axis=1, keepdims=True)
    known_error = np.sqrt(np.maximum(error**2, typical.value / size))
    return Judgement(np.asarray(ok.all(1) & agrees.all(1)), z, agrees, np.sqrt(typical.value), bound, known_error)


def _mean(x: np.ndarray, defined: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means (..., F) of x (..., R, F) where it is defined, and of how many."""
    n = defined.sum(-2)
    return np.where(defined, x, 0.0).sum(-2) / np.maximum(n, 1), n


def _sampling_error(windows: np.ndarray, known: np.ndarray, criterion: Criterion) -> np.ndarray:
    """(F,) of the recording: of its features from resampled blocks, or of single windows; 0 where it is too short."""
    if criterion.against == "windows":
        squares, freedom = deviations(windows, known)
        return np.asarray(np.sqrt(squares / np.maximum(freedom, 1)))
    block = blocks_of(len(windows), criterion.block or default_block(len(windows)))
    return block_bootstrap(windows, known, block).std(0) if block else np.zeros(windows.shape[1])
