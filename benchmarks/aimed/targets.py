"""What the rounds aim at: cultures, and how near a simulation comes to each of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sbi_circuits.features import DEFINED, UNOBSERVED

# What the bursts of cultures differ in from those of most simulations: how wide, how irregular, how often, how high.
AIMED = (
    "bursts.rate_per_minute", "bursts.interval_mean", "bursts.interval_cv", "bursts.width_mean", "bursts.width_sd",
    "bursts.onset_mean", "bursts.offset_mean", "bursts.peak_rate_cv", "bursts.kernel_correlation",
    "bursts.subpeaks_mean", "bursts.peak_to_mean", "bursts.fraction_in_bursts", "bursts.rate_cv",
)  # fmt: skip
LOGARITHMIC = (
    "bursts.interval_mean", "bursts.interval_cv", "bursts.width_mean", "bursts.width_sd", "bursts.onset_mean",
    "bursts.offset_mean", "bursts.peak_to_mean", "bursts.rate_cv",
)  # fmt: skip
_FAR = 3.0  # standard deviations: what is further is as good as undefined on one side
_SMALLEST = 1e-3


@dataclass(frozen=True, eq=False)
class Targets:
    """Observed features, and the scales in which simulations are compared with them.

    Args:
        values, states: (T, F) features of each target.
        columns: (D,) positions of the features that are compared; logarithmic: (D,) which through the logarithm.
        scale: (D,) robust standard deviation of the windows of all targets.
    """

    values: np.ndarray
    states: np.ndarray
    columns: np.ndarray
    logarithmic: np.ndarray
    scale: np.ndarray

    @classmethod
    def of(cls, names: Sequence[str], values: np.ndarray, states: np.ndarray, windows: np.ndarray,
           window_states: np.ndarray) -> "Targets":  # fmt: skip
        """Targets from features by target (T, F) and by window (W, F)."""
        columns = np.array([list(names).index(name) for name in AIMED])
        logarithmic = np.array([name in LOGARITHMIC for name in AIMED])
        shown = _scaled(windows[:, columns], logarithmic)
        shown = np.where(window_states[:, columns] == DEFINED, shown, np.nan)
        scale = np.subtract(*np.nanquantile(shown, [0.84, 0.16], axis=0)) / 2
        return cls(values, states, columns, logarithmic, np.where(scale > 0, scale, 1.0))

    def distances(self, values: np.ndarray, states: np.ndarray) -> np.ndarray:
        """Root mean squared difference (n, T) of simulations (n, F) from the targets, standard deviations."""
        ours, defined = self._points(values, states)
        theirs, wanted = self._points(self.values, self.states)
        compared = self.states[:, self.columns] != UNOBSERVED
        found = np.zeros((len(values), len(self.values)))
        for t in range(len(self.values)):
            gap = np.minimum(np.abs(ours - theirs[t]), _FAR)
            gap = np.where(defined & wanted[t], gap, np.where(defined == wanted[t], 0.0, _FAR))
            found[:, t] = np.sqrt((gap[:, compared[t]] ** 2).mean(1))
        return found

    def _points(self, values: np.ndarray, states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        defined = states[:, self.columns] == DEFINED
        return np.where(defined, _scaled(values[:, self.columns], self.logarithmic) / self.scale, 0.0), defined


def _scaled(values: np.ndarray, logarithmic: np.ndarray) -> np.ndarray:
    return np.where(logarithmic, np.log(np.maximum(values, _SMALLEST)), values)
