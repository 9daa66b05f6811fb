"""When a simulation counts as agreeing with an observation, in units of seed-to-seed variability.

A configuration is simulated with several seeds. The mean of its scaled features is compared with the observation;
the unit of the difference is the standard deviation such a difference has when both come from one circuit: the
circuit's own seed-to-seed variability, together with how the recording varies from window to window (could the
simulation be one more window of this recording?) or with the standard error of its mean over windows (is the
circuit's mean the recording's mean? - the stricter question, which no circuit passes that is not the recorded one).
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from sbi_circuits.errors import InferenceError, UnknownNameError
from sbi_circuits.features import DEFINED, UNDEFINED, UNOBSERVED, WindowedFeatures
from sbi_circuits.inference.encode import FeatureEncoder

AGAINST = ("windows", "mean")
# Share of the windows in which a feature must be (un)defined for that to count as what the recording does.
_SEEN = 0.1
# Fewer pairs than this say too little about the tails; the bound of Student's t is used then.
_MIN_PAIRS = 40
_MAD_TO_SD = 0.6745
_Q90_TO_SD = 1.6449  # quantile .9 of the absolute value of a standard normal
# Heavy tails may widen the bound so much; beyond it the bound would no longer reject anything.
_MOST = 1.25
# A median of absolute differences tells as much about a standard deviation as this share of them would.
_EFFICIENCY = 0.37
_LEAST_DF = 8.0
# In robust standard deviations of the whole table: below it a difference means nothing to anyone.
_FLOOR = 0.01


@dataclass(frozen=True)
class Criterion:
    """The rule of agreement.

    Args:
        repeats: seeds per configuration, at least 2.
        level: probability with which the observed circuit itself may be rejected, over all features together.
        against: "windows", whether a simulation could be a window of the recording, or "mean", whether its mean
            over seeds is the recording's mean over windows.

    Raises:
        InferenceError: numbers that cannot be.
    """

    repeats: int = 2
    level: float = 0.05
    against: str = "windows"

    def __post_init__(self) -> None:
        if self.against not in AGAINST:
            raise UnknownNameError("comparison of a criterion", self.against, AGAINST)
        if self.repeats < 2 or not 0 < self.level < 1:
            raise InferenceError(f"verification needs repeats >= 2 and 0 < level < 1, got {self.repeats}, {self.level}")


@dataclass(frozen=True, eq=False)
class Judgement:
    """What verification found for M configurations and F features.

    Args:
        verified: (M,) bool.
        z: (M, F) difference from the observation in units of its standard deviation; NaN where it was not compared.
        agrees: (M, F) bool; True for features that were not observed.
        unit: (F,) seed-to-seed standard deviation of one simulation, in scaled feature units.
        bound: |z| above which a feature disagrees.
    """

    verified: np.ndarray
    z: np.ndarray
    agrees: np.ndarray
    unit: np.ndarray
    bound: float


def judge(
    observation: WindowedFeatures,
    values: np.ndarray,
    states: np.ndarray,
    ok: np.ndarray,
    encoder: FeatureEncoder,
    criterion: Criterion,
) -> Judgement:
    """Compare re-simulations with an observation.

    Args:
        observation: the features of the recording and of its windows.
        values, states: (M, R, F) of R seeds of M configurations.
        ok: (M, R) bool: outcome ok.
        encoder: the scales of the features.
        criterion: the rule.
    """
    x = encoder.scaled(values, states)
    defined = (states == DEFINED) & ok[:, :, None]
    unit = seed_to_seed(x, defined, observation.states)
    target, error = _observed(observation, encoder, unit, criterion)
    n = defined.sum(1)
    mean = np.where(defined, x, 0.0).sum(1) / np.maximum(n, 1)
    spread = np.sqrt(unit**2 / np.maximum(n, 1) + error**2)
    compared = (observation.states == DEFINED) & (2 * n > criterion.repeats - 1)
    z = np.where(compared, (mean - target) / spread, np.nan)
    bound = _bound(x, defined, unit, observation.states == DEFINED, criterion)
    agrees = _agrees(observation.states, states, ok, compared, z, bound)
    if criterion.against == "windows":
        agrees |= _seen_alike(observation, states, ok) & (~compared | (np.abs(np.where(compared, z, 0.0)) <= bound))
    return Judgement(np.asarray(ok.all(1) & agrees.all(1)), z, agrees, unit, bound)


def seed_to_seed(x: np.ndarray, defined: np.ndarray, observed_states: np.ndarray) -> np.ndarray:
    """Seed-to-seed standard deviation (F,) of scaled features x (M, R, F), from differences between seeds.

    Configurations whose features are defined like the observation's count first: variability differs between
    regimes. The median of the differences keeps a few unstable configurations from hiding the others' precision.
    """
    alike = (defined == (observed_states == DEFINED)).mean((1, 2)) > 0.9
    difference = np.abs(x[:, 1:] - x[:, :1])
    both = defined[:, 1:] & defined[:, :1]
    return np.array([_spread(difference[..., f], both[..., f], alike) for f in range(x.shape[2])])


def _spread(difference: np.ndarray, both: np.ndarray, alike: np.ndarray) -> float:
    for rows in (alike, np.ones_like(alike)):
        found = difference[rows][both[rows]]
        if len(found) >= 8:
            middle, upper = np.quantile(found, [0.5, 0.9]) / np.sqrt(2.0) / [_MAD_TO_SD, _Q90_TO_SD]
            # The median says nothing of a feature that is mostly constant and sometimes not (sub-peaks, say).
            return float(middle) if middle > _FLOOR else max(float(upper), _FLOOR)
    return 1.0


def _observed(
    observation: WindowedFeatures, encoder: FeatureEncoder, unit: np.ndarray, criterion: Criterion
) -> tuple[np.ndarray, np.ndarray]:
    """Scaled observation (F,), and the standard deviation of a window or the standard error of the mean.

    Windows vary at least as much as one circuit does from seed to seed: a single window shows no spread at all,
    and a few of them show too little of it by chance.
    """
    x = encoder.scaled(observation.window_values, observation.window_states)
    defined = observation.window_states == DEFINED
    n = np.maximum(defined.sum(0), 1)
    mean = np.where(defined, x, 0.0).sum(0) / n
    variance = np.where(defined, (x - mean) ** 2, 0.0).sum(0) / np.maximum(n - 1, 1)
    return mean, np.sqrt(np.maximum(variance, unit**2) / (n if criterion.against == "mean" else 1))


def _bound(x: np.ndarray, defined: np.ndarray, unit: np.ndarray, observed: np.ndarray, criterion: Criterion) -> float:
    """Bound on the largest |z| over features that the same circuit exceeds with probability `level`.

    Student's t with Bonferroni's correction, as the unit was estimated too; or where there are enough pairs of
    seeds the quantile they show themselves, up to 1.25 times as much: features have heavy tails and are
    correlated.
    """
    pairs = (defined[:, 1:] & defined[:, :1])[..., observed]
    found = float(np.median(pairs.sum((0, 1)))) if observed.any() else 0.0
    tail = criterion.level / (2 * max(int(observed.sum()), 1))
    student = float(stdtrit(max(_EFFICIENCY * found, _LEAST_DF), 1.0 - tail))
    apart = np.abs(x[:, 1:] - x[:, :1])[..., observed] / (unit[observed] * np.sqrt(2.0))
    complete = pairs.mean(-1) > 0.9
    if complete.sum() < _MIN_PAIRS:
        return student
    shown = float(np.quantile(np.where(pairs, apart, 0.0).max(-1)[complete], 1.0 - criterion.level))
    return min(max(student, shown), _MOST * student)


def _seen_alike(observation: WindowedFeatures, states: np.ndarray, ok: np.ndarray) -> np.ndarray:
    """(M, F): every seed has the feature defined, or undefined, as some windows of the recording have it too."""
    seen = np.stack([(observation.window_states == s).mean(0) >= _SEEN for s in (DEFINED, UNDEFINED, UNOBSERVED)])
    return np.asarray((seen[states, np.arange(states.shape[2])] | ~ok[:, :, None]).all(1))


def _agrees(
    observed: np.ndarray, states: np.ndarray, ok: np.ndarray, compared: np.ndarray, z: np.ndarray, bound: float
) -> np.ndarray:
    """(M, F): defined alike and close, or undefined alike, or not observed."""
    undefined = ((states == UNDEFINED) & ok[:, :, None]).sum(1)
    close = compared & (np.abs(np.where(compared, z, np.inf)) <= bound)
    missing = 2 * undefined >= states.shape[1]
    agrees = np.where(observed == DEFINED, close, np.where(observed == UNDEFINED, missing, True))
    # What the simulations cannot measure either is no ground for rejection.
    return agrees | (states == UNOBSERVED).all(1)
