"""Encoded features of a whole table, held once: training and validation rows are views of one matrix."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from sbi_circuits.features import UNDEFINED, UNOBSERVED
from sbi_circuits.features.packed import PER_BYTE, PackedStates, row_chunks
from sbi_circuits.inference.encode import EncodedFeatures, FeatureEncoder

_UNOBSERVED_BITS = 0b10101010  # of four packed states, the bits that only UNOBSERVED has


@dataclass(frozen=True, eq=False)
class StoredFeatures:
    """Rows of encoded features on a device, four bytes a value and two bits a state.

    Args:
        values: (N, F) float32, scaled.
        bits: (N, ceil(F / 4)) uint8, packed states, see `PackedStates`.
        columns: which of the 3 F columns the network sees.
        rows: (n,) which of the N rows these are.
        lost: (Q, F) bool: features that count as unobserved, in row i those of lost[i % Q].
    """

    values: Tensor
    bits: Tensor
    columns: Tensor
    rows: Tensor
    lost: Tensor | None = None

    @classmethod
    def of(
        cls, encoder: FeatureEncoder, values: np.ndarray, states: np.ndarray | PackedStates, in_place: bool = False
    ) -> "StoredFeatures":
        """Encode values, states (n, F) part by part.

        Args:
            in_place: write the scaled values over `values`, where these are float32; then nothing is held twice.
        """
        reuse = in_place and values.dtype == np.float32 and isinstance(states, PackedStates)
        found = values if reuse else np.empty(values.shape, dtype=np.float32)
        packed = PackedStates.of(states) if reuse else PackedStates.empty(*values.shape)
        for part in row_chunks(*values.shape):
            known = encoder.known(states[part])
            found[part] = encoder.scaled(values[part], known)
            packed[part] = known
        scaled, bits, columns = (torch.as_tensor(a) for a in (found, packed.bits, encoder.columns))
        return cls(scaled, bits, columns, torch.arange(len(found)))

    def __len__(self) -> int:
        return len(self.rows)

    def only(self, rows: np.ndarray) -> "StoredFeatures":
        """Some of these rows; nothing is copied."""
        return replace(self, rows=self.rows[torch.as_tensor(rows, device=self.rows.device)])

    def without(self, lost: Tensor) -> "StoredFeatures":
        """The same rows, lacking the features of one of the patterns `lost` (Q, F) each, in turn."""
        return replace(self, lost=lost)

    def to(self, device: torch.device) -> "StoredFeatures":
        return StoredFeatures(*(t.to(device) for t in (self.values, self.bits, self.columns, self.rows)))

    def __getitem__(self, rows: Tensor | slice) -> EncodedFeatures:
        """The features (*, F) of some of the rows."""
        chosen = self.rows[rows]
        states = self._states(chosen)
        undefined, unobserved = ((states == s).to(self.values.dtype) for s in (UNDEFINED, UNOBSERVED))
        found = EncodedFeatures(self.values[chosen], undefined, unobserved, self.columns)
        if self.lost is None:
            return found
        turn = torch.arange(len(self), device=self.rows.device)[rows] % len(self.lost)
        return found.without(self.lost[turn])

    def inputs(self) -> "Inputs":
        """Network inputs (n, C), made when they are asked for."""
        return Inputs(self)

    def patterns(self) -> tuple[Tensor, Tensor]:
        """The different sets of unobserved features (Q, F), float32, and which of them each row (n,) has."""
        known: dict[bytes, int] = {}
        found = torch.zeros(len(self), dtype=torch.long)
        for part in row_chunks(len(self), self.bits.shape[1]):
            lacking = (self.bits[self.rows[part]] & _UNOBSERVED_BITS).cpu().numpy()
            # Most tables lack nothing: one row then stands for all.
            unique, inverse = np.unique(lacking if lacking.any() else lacking[:1], axis=0, return_inverse=True)
            numbers = [known.setdefault(row.tobytes(), len(known)) for row in unique]
            found[part] = torch.as_tensor(np.array(numbers)[inverse.ravel()])
        bits = np.array([np.frombuffer(row, dtype=np.uint8) for row in known])
        patterns = PackedStates(bits, self.values.shape[1])[:] == UNOBSERVED
        device = self.values.device
        return torch.as_tensor(patterns).float().to(device), found.to(device)

    def _states(self, chosen: Tensor) -> Tensor:
        shifts = torch.arange(0, 2 * PER_BYTE, 2, dtype=torch.uint8, device=self.bits.device)
        return ((self.bits[chosen][..., None] >> shifts) & 3).flatten(-2)[..., : self.values.shape[1]]


@dataclass(frozen=True, eq=False)
class Inputs:
    """Network inputs (n, C) of stored features; only slices of them exist."""

    features: StoredFeatures

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        return self.features[rows].inputs()
