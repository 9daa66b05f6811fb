"""States of the features of many simulations, two bits each."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from sbi_circuits.errors import FeatureError
from sbi_circuits.features.states import UNOBSERVED

PER_BYTE = 4
_SHIFTS = np.arange(0, 8, 2, dtype=np.uint8)
_CHUNK = 2**20  # entries that are unpacked at once


@dataclass(frozen=True, eq=False)
class PackedStates:
    """States (n, F) of which an entry takes a quarter of a byte; read like an array, by rows.

    Args:
        bits: (n, ceil(F / 4)) uint8; feature j lies in byte j // 4, at the bits 2 (j % 4) and 2 (j % 4) + 1.
        width: F.

    Examples:
        >>> packed = PackedStates.of(np.array([[0, 1, 2, 0, 1], [2, 0, 0, 0, 0]]))
        >>> packed.bits.shape, packed[1].tolist(), packed[np.array([0])].tolist()
        ((2, 2), [2, 0, 0, 0, 0], [[0, 1, 2, 0, 1]])
    """

    bits: np.ndarray
    width: int

    @classmethod
    def empty(cls, rows: int, width: int) -> "PackedStates":
        """Room for the states of so many rows, all DEFINED."""
        return cls(np.zeros((rows, -(-width // PER_BYTE)), dtype=np.uint8), width)

    @classmethod
    def of(cls, states: "np.ndarray | PackedStates") -> "PackedStates":
        """The states of a matrix (n, F); of packed ones the same.

        Raises:
            FeatureError: for states that do not exist, or that are no matrix.
        """
        if isinstance(states, PackedStates):
            return states
        matrix = np.asarray(states)
        if matrix.ndim != 2:
            raise FeatureError(f"states must be a matrix, one row per simulation, got shape {matrix.shape}")
        found = cls.empty(*matrix.shape)
        for part in found.chunks():
            found[part] = matrix[part]
        return found

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.bits), self.width

    def __len__(self) -> int:
        return len(self.bits)

    def __getitem__(self, rows: Any) -> np.ndarray:
        """States (*, F) uint8 of some rows: a position, a slice, positions or a mask."""
        chosen = self.bits[rows]
        return _spread(chosen).reshape(*chosen.shape[:-1], -1)[..., : self.width]

    def __setitem__(self, rows: Any, states: np.ndarray) -> None:
        states = np.asarray(states)
        if states.size and (states.max() > UNOBSERVED or states.min() < 0):
            raise FeatureError(f"states of features are 0 to {UNOBSERVED}, got {states.min()} to {states.max()}")
        fours = np.zeros((*states.shape[:-1], self.bits.shape[1] * PER_BYTE), dtype=np.uint8)
        fours[..., : self.width] = states
        shifted = fours.reshape(*states.shape[:-1], -1, PER_BYTE) << _SHIFTS
        self.bits[rows] = np.bitwise_or.reduce(shifted, axis=-1)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype=dtype)

    def columns(self, start: int, stop: int, rows: Any = slice(None)) -> np.ndarray:
        """States (n, stop - start) of some features and rows."""
        first = start // PER_BYTE
        chosen = self.bits[:, first : -(-stop // PER_BYTE)][rows]
        return _spread(chosen).reshape(len(chosen), -1)[:, start - first * PER_BYTE : stop - first * PER_BYTE]

    def chunks(self) -> Iterator[slice]:
        """Slices of rows, few enough to unpack at once."""
        return row_chunks(*self.shape)


def row_chunks(rows: int, width: int) -> Iterator[slice]:
    """Slices of the rows of a matrix (rows, width) of some million entries each.

    Examples:
        >>> [(part.start, part.stop) for part in row_chunks(5000, 2**19)][:2]
        [(0, 2), (2, 4)]
    """
    step = max(1, _CHUNK // max(width, 1))
    return (slice(k, min(k + step, rows)) for k in range(0, rows, step))


def _spread(bits: np.ndarray) -> np.ndarray:
    return (bits[..., None] >> _SHIFTS) & np.uint8(3)
