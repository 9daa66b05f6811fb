"""Read-outs of responses: flash response index, direction selectivity, preferred direction, tuning curves.

All take voltages and give one number for each model and cell type; definitions as in Lappalainen et al. 2024, Methods
("Flash response index", "Direction selectivity index", "Determining the preferred directions and tuning curves").
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sbi_circuits.connectome.lattice import Lattice
from sbi_circuits.connectome.models import Models
from sbi_circuits.connectome.network import RateNetwork, batches
from sbi_circuits.connectome.stimuli import ANGLES, CONTRASTS, SPEEDS, Stimuli, flashes, moving_edges
from sbi_circuits.errors import CircuitError

_TINY = 1e-15


def flash_response_index(responses: np.ndarray) -> np.ndarray:
    """(on - off) / (on + off) of the peaks of the responses to a dark and a bright flash, over their common minimum.

    Args:
        responses: (M, 2, T, R) voltages while the flash is on: OFF, then ON.

    Returns:
        (M, R), from -1 (responds to OFF) to 1 (to ON); 0 for cells that do not respond.

    Examples:
        >>> off, on = np.zeros(5), np.array([0.0, 1.0, 3.0, 1.0, 0.0])
        >>> flash_response_index(np.stack([off, on])[None, :, :, None]).round(6).tolist()
        [[1.0]]
    """
    # The published read-out adds |minimum|, which lifts a cell that never goes below zero, too.
    with np.errstate(over="ignore", invalid="ignore"):  # of a network that diverges: not a number
        lifted = responses + abs(responses.min(axis=(1, 2), keepdims=True))
        off, on = lifted.max(axis=2).transpose(1, 0, 2)
        return np.asarray((on - off) / (on + off + _TINY))


@dataclass(frozen=True, eq=False)
class EdgeTuning:
    """Peak responses to moving edges: (M, R, speeds, intensities, angles), rectified voltages.

    Args:
        peaks: those.
        speeds: (columns/s); intensities: OFF, ON; angles: degrees.

    Raises:
        CircuitError: a shape that does not fit.

    Examples:
        >>> peaks = np.zeros((1, 1, 1, 2, 4)); peaks[0, 0, 0, 1] = [1, 0, 0, 0]
        >>> tuning = EdgeTuning(peaks, (10.0,), (0.0, 1.0), (0, 90, 180, 270))
        >>> tuning.selectivity().round(6).tolist(), tuning.preferred()[..., 1].tolist()
        ([[[0.0, 1.0]]], [[0.0]])
    """

    peaks: np.ndarray
    speeds: tuple[float, ...]
    intensities: tuple[float, ...]
    angles: tuple[float, ...]

    def __post_init__(self) -> None:
        expected = (len(self.speeds), len(self.intensities), len(self.angles))
        if self.peaks.ndim != 5 or self.peaks.shape[2:] != expected:
            raise CircuitError(f"peaks have shape {self.peaks.shape}, expected (models, cells, {expected})")

    @property
    def _vector(self) -> np.ndarray:
        return np.asarray((self.peaks * np.exp(1j * np.radians(self.angles))).sum(-1))

    def selectivity(self) -> np.ndarray:
        """Direction selectivity index (M, R, intensities), mean over speeds: |vector sum| over the larger sum of peaks.

        The sum of peaks is that of the contrast with the larger one, so that weak responses are not selective.
        """
        strongest = self.peaks.sum(-1).max(-1, keepdims=True)
        return np.asarray((abs(self._vector) / (strongest + _TINY)).mean(2))

    def preferred(self) -> np.ndarray:
        """Preferred direction (M, R, intensities), degrees in [0, 360), of the vector sum over speeds."""
        return np.degrees(np.angle(self._vector.sum(2))) % 360.0

    def curves(self) -> np.ndarray:
        """Tuning curves (M, R, intensities, angles), averaged over speeds, largest value 1 (0 for silent cells)."""
        mean = self.peaks.mean(2)
        return np.asarray(mean / np.maximum(mean.max((-1, -2), keepdims=True), _TINY))


def flash_responses(
    network: RateNetwork, models: Models, lattice: Lattice, dt: float = 0.005, radius: int = 6, workers: int = 1
) -> np.ndarray:
    """Voltages (M, 2, T, types) of the central cell of each type during a flash of 1 s, OFF and ON."""
    stimuli = flashes(lattice, dt, radius)
    return network.respond(models, stimuli.movie, dt, workers=workers)


def edge_tuning(
    network: RateNetwork,
    models: Models,
    lattice: Lattice,
    speeds: Sequence[float] = SPEEDS,
    angles: Sequence[float] = ANGLES,
    dt: float = 0.005,
    workers: int = 1,
    cells: np.ndarray | None = None,
) -> EdgeTuning:
    """Peak responses of the central cells to moving edges, as published: 12 angles, 6 speeds, both contrasts.

    Args:
        network, models, lattice: who sees.
        speeds: columns/s. angles: degrees. dt: s. workers: threads. cells: (R,) others than the central ones.
    """
    movies = (moving_edges(lattice, speed, dt, angles) for speed in speeds)
    peaks = [peak_responses(network, models, stimuli, workers, cells) for stimuli in movies]
    shaped = [peak.reshape(len(peak), len(angles), len(CONTRASTS), -1).transpose(0, 3, 2, 1) for peak in peaks]
    return EdgeTuning(np.stack(shaped, axis=2), tuple(speeds), CONTRASTS, tuple(angles))


def peak_responses(
    network: RateNetwork, models: Models, stimuli: Stimuli, workers: int = 1, cells: np.ndarray | None = None
) -> np.ndarray:
    """Largest rectified voltage (M, S, R) of each cell while each stimulus is on."""
    on = slice(stimuli.onset, stimuli.offset)
    found = []
    for part in batches(models.n_models, max(workers, 1) * 4):  # what is held at once
        responses = network.respond(models.take(part), stimuli.movie, stimuli.dt, cells=cells, workers=workers)
        found.append(np.maximum(responses[:, :, on].max(2), 0.0))
    return np.concatenate(found)
