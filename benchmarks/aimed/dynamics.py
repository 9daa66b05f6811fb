"""What a simulation does: bursting, oscillating or asynchronous."""

from collections.abc import Sequence

import numpy as np
from scipy.signal import find_peaks

from sbi_circuits.features import DEFINED

LEAST_BURSTS = 1.0  # a minute
_PROMINENCE = 0.5  # of a peak in the spectrum, decades


def kinds(values: np.ndarray, states: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """(n,) what each simulation does: "bursting", "oscillating" or "asynchronous".

    Bursting: at least one network burst a minute. Oscillating, of the others: the spectrum has a peak three times as
    high as its surroundings. Where no spectrum was measured nothing tells those two apart: "without bursts".
    """
    bursting = values[:, list(names).index("bursts.rate_per_minute")] >= LEAST_BURSTS
    bands = [k for k, name in enumerate(names) if name.startswith("spectrum.")]
    if not bands:
        return np.where(bursting, "bursting", "without bursts")
    whole = (states[:, bands] == DEFINED).all(1)
    peaked = np.array([whole[i] and _peak(values[i, bands]) for i in range(len(values))], dtype=bool)
    return np.where(bursting, "bursting", np.where(peaked, "oscillating", "asynchronous"))


def _peak(log_power: np.ndarray) -> bool:
    return bool(len(find_peaks(log_power, prominence=_PROMINENCE)[0]))
