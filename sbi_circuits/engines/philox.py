"""Philox4x32-10 in numba: counter-based random words for wiring and kernels.

Salmon et al. 2011, SC11, "Parallel random numbers: as easy as 1, 2, 3". The counter is
(block, block high, stream, 0), the key belongs to one simulation; so every word has an address.
"""

from typing import Any

import numpy as np
from numba import njit

# Words per refill: four lanes of WORDS // 4 blocks, written lane by lane so that the loop vectorises.
WORDS = 1024
LANES = WORDS // 4

_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
_MASK, _SHIFT = np.uint64(0xFFFFFFFF), np.uint64(32)
# Position of the bookkeeping entries in a stream's header.
_NEXT, _BLOCK, _K0, _K1, _STREAM = range(5)


@njit(cache=True, inline="always")
def philox(c0: Any, c1: Any, c2: Any, k0: Any, k1: Any) -> tuple[Any, Any, Any, Any]:
    """Four 32-bit words (held in uint64) at counter (c0, c1, c2, 0) under the key (k0, k1)."""
    c3 = np.uint64(0)
    for _ in range(10):
        p0 = _M0 * c0
        p1 = _M1 * c2
        c0, c1, c2, c3 = (p1 >> _SHIFT) ^ c1 ^ k0, p1 & _MASK, (p0 >> _SHIFT) ^ c3 ^ k1, p0 & _MASK
        k0 = (k0 + _W0) & _MASK
        k1 = (k1 + _W1) & _MASK
    return c0, c1, c2, c3


def new_stream(keys: tuple[int, int], stream: int) -> tuple[np.ndarray, np.ndarray]:
    """An empty stream of random words: (words (WORDS,) uint32, header (5,) uint64)."""
    header = np.array([WORDS, 0, keys[0], keys[1], stream], dtype=np.uint64)
    return np.zeros(WORDS, dtype=np.uint32), header


@njit(cache=True)
def refill(words: np.ndarray, header: np.ndarray) -> None:
    """The next WORDS words of the stream."""
    k0, k1, stream, block = header[_K0], header[_K1], header[_STREAM], header[_BLOCK]
    high = block >> _SHIFT
    for lane in range(LANES):
        a, b, c, d = philox((block + np.uint64(lane)) & _MASK, high, stream, k0, k1)
        words[lane] = np.uint32(a)
        words[lane + LANES] = np.uint32(b)
        words[lane + 2 * LANES] = np.uint32(c)
        words[lane + 3 * LANES] = np.uint32(d)
    header[_BLOCK] = block + np.uint64(LANES)
    header[_NEXT] = np.uint64(0)


@njit(cache=True, inline="always")
def next_word(words: np.ndarray, header: np.ndarray) -> Any:
    """The next 32-bit word of the stream, as uint64."""
    if header[_NEXT] == np.uint64(WORDS):
        refill(words, header)
    position = header[_NEXT]
    header[_NEXT] = position + np.uint64(1)
    return np.uint64(words[position])


@njit(cache=True, inline="always")
def below(words: np.ndarray, header: np.ndarray, n: int) -> Any:
    """A uniform integer in [0, n), n < 2**31, by multiply and shift (bias below n / 2**32)."""
    return np.int64((next_word(words, header) * np.uint64(n)) >> _SHIFT)


@njit(cache=True, inline="always")
def uniform(words: np.ndarray, header: np.ndarray) -> float:
    """A uniform in (0, 1)."""
    return (np.float64(next_word(words, header)) + 0.5) * (1.0 / 4294967296.0)
