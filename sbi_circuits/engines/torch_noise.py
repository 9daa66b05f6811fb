"""Normals of the noise terms for a batch of simulations: those of the kernels, at the same addresses."""

from collections.abc import Sequence

import numpy as np
import torch
from numba import njit

from sbi_circuits.engines.noise import normals_double, normals_single, row_length

# Steps whose normals are drawn at once.
CHUNK = 64


@njit(cache=True)
def _fill_single(out, row, number, first, keys, neurons):  # type: ignore[no-untyped-def]
    for s in range(out.shape[0]):
        for b in range(out.shape[1]):
            normals_single(row, neurons, number, first + s, keys[b, 0], keys[b, 1])
            out[s, b, :] = row[:neurons]


@njit(cache=True)
def _fill_double(out, row, number, first, keys, neurons):  # type: ignore[no-untyped-def]
    for s in range(out.shape[0]):
        for b in range(out.shape[1]):
            normals_double(row, neurons, number, first + s, keys[b, 0], keys[b, 1])
            out[s, b, :] = row[:neurons]


class Noise:
    """Normals of one noise term of one population.

    Args:
        number: of the term, counted over populations.
        neurons: of the population.
        keys: two words of each simulation.
        dtype, device: of the result.
    """

    def __init__(self, number: int, neurons: int, keys: Sequence[tuple[int, int]], dtype: torch.dtype,
                 device: torch.device):  # fmt: skip
        self.number, self.neurons, self.device = number, neurons, device
        self.keys = np.array(keys, dtype=np.uint64).reshape(-1, 2)
        self.single = dtype == torch.float32
        self.kind = np.float32 if self.single else np.float64
        self.first, self.values = -1, torch.zeros(0)

    def at(self, step: int) -> torch.Tensor:
        """(B, N) normals of a time step."""
        first = step - step % CHUNK
        if first != self.first:
            self.first, self.values = first, self._drawn(first)
        return self.values[step - first]

    def _drawn(self, first: int) -> torch.Tensor:
        out = np.empty((CHUNK, len(self.keys), self.neurons), dtype=self.kind)
        row = np.empty(row_length(self.neurons), dtype=self.kind)
        fill = _fill_single if self.single else _fill_double
        fill(out, row, self.number, first, self.keys, self.neurons)
        return torch.from_numpy(out).to(self.device)
