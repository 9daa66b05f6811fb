"""What is known about the tuning of the fly's visual neurons, and how far models agree with it.

Polarity and direction selectivity: as collected from the literature by Lappalainen et al. 2024, Nature 634:1132, and
kept in flyvis (MIT). Tuning curves of T4 and T5: Maisak et al. 2013, Nature 500:212, Fig. 3g, h, digitised there.
Their layers a, b, c, d prefer 180, 0, 90, 270 degrees; T4 ON edges, T5 OFF edges.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sbi_circuits.connectome.readouts import EdgeTuning
from sbi_circuits.errors import UnknownNameError

ON_TYPES = ("R1", "R2", "R3", "R4", "R5", "R6", "R7", "R8", "L5", "C3", "CT1(M10)", "Mi1", "Mi4", "T4a", "T4b", "T4c",
            "T4d", "Tm3")  # fmt: skip
OFF_TYPES = ("L1", "L2", "L3", "L4", "CT1(Lo1)", "Mi9", "T5a", "T5b", "T5c", "T5d", "Tm1", "Tm2", "Tm4", "Tm9")
POLARITY = {**dict.fromkeys(ON_TYPES, 1), **dict.fromkeys(OFF_TYPES, -1)}
MOTION_TYPES = ("T4a", "T4b", "T4c", "T4d", "T5a", "T5b", "T5c", "T5d")
NOT_SELECTIVE = ("Tm1", "Tm2", "Tm4", "Tm9", "CT1(Lo1)", "Mi1", "Tm3", "Mi4", "Mi9", "CT1(M10)")
PREFERRED = {name: {"a": 180.0, "b": 0.0, "c": 90.0, "d": 270.0}[name[-1]] for name in MOTION_TYPES}
DIVERGED = 1e4  # the published models reach 200 at most, but one, which reaches 1,600
CURVE_ANGLES = tuple(range(0, 360, 30))
CURVES = {
    "T4a": (0.04, 0.05, 0.165, 0.19, 0.29, 0.50, 1.0, 0.585, 0.31, 0.11, 0.06, 0.04),
    "T4b": (0.745, 0.785, 0.305, 0.265, 0.25, 0.335, 0.285, 0.23, 0.14, 0.11, 0.26, 0.775),
    "T4c": (0.04, 0.2, 0.57, 0.775, 0.715, 0.325, 0.22, 0.13, 0.13, 0.22, 0.155, 0.11),
    "T4d": (0.07, 0.07, 0.12, 0.17, 0.21, 0.14, 0.21, 0.29, 0.67, 0.655, 0.7, 0.510),
    "T5a": (0.20, 0.295, 0.265, 0.20, 0.25, 0.65, 1.0, 0.59, 0.29, 0.21, 0.20, 0.22),
    "T5b": (0.83, 0.855, 0.405, 0.16, 0.175, 0.24, 0.30, 0.25, 0.13, 0.2, 0.30, 0.655),
    "T5c": (0.20, 0.44, 0.69, 0.595, 0.745, 0.525, 0.34, 0.255, 0.34, 0.295, 0.26, 0.28),
    "T5d": (0.17, 0.21, 0.21, 0.20, 0.19, 0.15, 0.185, 0.42, 0.85, 0.79, 0.685, 0.565),
}


def preferred_contrast(name: str) -> int:
    """Index in (OFF, ON) of the edges a motion detector prefers: T4 ON, T5 OFF; raises `UnknownNameError`."""
    if name not in MOTION_TYPES:
        raise UnknownNameError("motion detector", name, MOTION_TYPES)
    return 1 if name.startswith("T4") else 0


@dataclass(frozen=True, eq=False)
class Agreement:
    """How each model agrees with what is known; one row a model.

    Args:
        flash: (M,) correlation of the flash response index with the polarity of 32 types.
        selectivity: (M,) correlation of direction selectivity (larger contrast) with known selectivity of 18 types.
        curves: (M, 8) largest correlation over speeds of the tuning curve with the measured one, for each of T4, T5.
        mean_curves: (M, 8) the same correlation of the tuning curve averaged over speeds.
        direction_error: (M, 8) degrees between preferred and known direction.
        dsi: (M, 8) direction selectivity index for the preferred contrast.
        diverged: (M,) bool: voltages without bound; such a model has no tuning: correlations and indices 0, errors 90.
    """

    flash: np.ndarray
    selectivity: np.ndarray
    curves: np.ndarray
    mean_curves: np.ndarray
    direction_error: np.ndarray
    dsi: np.ndarray
    diverged: np.ndarray

    def summary(self) -> dict[str, Any]:
        """Medians over the models, plain numbers."""
        by_type = {name: getattr(self, name) for name in ("curves", "mean_curves", "direction_error", "dsi")}
        listed = {
            name: dict(zip(MOTION_TYPES, np.round(np.median(value, 0), 3).tolist(), strict=True))
            for name, value in by_type.items()
        }
        return {"flash": round(float(np.median(self.flash)), 3),
                "selectivity": round(float(np.median(self.selectivity)), 3), **listed,
                "models": len(self.flash), "diverged": int(self.diverged.sum())}  # fmt: skip

    def take(self, which: Any) -> "Agreement":
        """Some of the models."""
        return Agreement(*(getattr(self, name)[which] for name in self.__dataclass_fields__))


def agreement(cell_types: tuple[str, ...], flash_index: np.ndarray, tuning: EdgeTuning) -> Agreement:
    """How models agree with known tuning.

    Args:
        cell_types: (R,) of the responses.
        flash_index: (M, R).
        tuning: of the same cells, 12 angles from 0 to 330 degrees.

    Raises:
        UnknownNameError: where a known type is not among the cells.
    """
    place = _places(cell_types)
    diverged = ~(tuning.peaks.max((1, 2, 3, 4)) < DIVERGED) | ~np.isfinite(flash_index).all(1)
    kept = np.where(diverged[:, None, None, None, None], 0.0, tuning.peaks)
    tuning = replace(tuning, peaks=kept.astype(np.float64))
    flash_index = np.where(diverged[:, None], 0.0, flash_index)
    detectors = [place[name] for name in MOTION_TYPES]
    contrast = np.array([preferred_contrast(name) for name in MOTION_TYPES])
    peaks = tuning.peaks[:, detectors, :, contrast]  # (8, M, speeds, angles): two advanced indices come first
    curves = [correlation(own, np.array(CURVES[name])) for name, own in zip(MOTION_TYPES, peaks, strict=True)]
    mean = [correlation(own.mean(1), np.array(CURVES[name])) for name, own in zip(MOTION_TYPES, peaks, strict=True)]
    selectivity = tuning.selectivity()
    known = [*NOT_SELECTIVE, *MOTION_TYPES]
    wanted = np.array([name in MOTION_TYPES for name in known], dtype=float)
    directions = tuning.preferred()[:, detectors, contrast]
    apart = abs(directions - np.array([PREFERRED[name] for name in MOTION_TYPES]))
    return Agreement(
        flash=correlation(flash_index[:, [place[name] for name in POLARITY]], np.array(list(POLARITY.values()))),
        selectivity=correlation(selectivity.max(-1)[:, [place[name] for name in known]], wanted),
        curves=np.stack(curves).max(-1).T,
        mean_curves=np.stack(mean).T,
        direction_error=np.where(diverged[:, None], 90.0, np.minimum(apart, 360.0 - apart)),
        dsi=selectivity[:, detectors, contrast],
        diverged=diverged,
    )


def _places(cell_types: tuple[str, ...]) -> dict[str, int]:
    place = {name: k for k, name in enumerate(cell_types)}
    for name in (*POLARITY, *NOT_SELECTIVE, *MOTION_TYPES):
        if name not in place:
            raise UnknownNameError("cell type", name, cell_types)
    return place


def correlation(found: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Pearson correlation over the last axis with known (K,); 0 where nothing varies.

    Examples:
        >>> correlation(np.array([[1.0, 2.0, 3.0], [2.0, 2.0, 2.0]]), np.array([0.0, 1.0, 2.0])).tolist()
        [1.0, 0.0]
    """
    a, b = found - found.mean(-1, keepdims=True), known - known.mean()
    scale = np.sqrt((a**2).sum(-1) * (b**2).sum())
    return np.asarray(np.divide((a * b).sum(-1), scale, out=np.zeros(a.shape[:-1]), where=scale > _EPS))


_EPS = 1e-12
