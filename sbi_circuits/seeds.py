"""Counter-based randomness keyed by (campaign seed, simulation index, stream); no global state anywhere.

Philox 4x32/4x64: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", SC11.
"""

import hashlib
from typing import Any

import numpy as np
from numpy.random.bit_generator import ISeedSequence


def stream_key(seed: int, *labels: object) -> int:
    """128-bit key of a named stream: the same labels give the same key on every machine.

    Examples:
        >>> stream_key(1, "prior") == stream_key(1, "prior"), stream_key(1, "prior") == stream_key(2, "prior")
        (True, False)
    """
    text = "\x1f".join([str(int(seed)), *map(str, labels)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "little")


def generator(seed: int, *labels: object) -> np.random.Generator:
    """NumPy generator of the stream (seed, labels), e.g. `generator(seed, index, "initial")`."""
    key = _Key(stream_key(seed, *labels))
    return np.random.Generator(np.random.Philox(key))  # type: ignore[arg-type] # any ISeedSequence will do


class _Key(ISeedSequence):
    """A key as `Philox` asks a seed for it: `Philox(key=...)` first draws a seed from the system and drops it."""

    def __init__(self, key: int):
        self.key = key

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> np.ndarray:
        """The 128-bit key as two 64-bit words, which is all that Philox asks for."""
        return np.frombuffer(self.key.to_bytes(8 * n_words, "little"), dtype=dtype)


def uniform_rows(seed: int, start: int, stop: int, width: int, *labels: object) -> np.ndarray:
    """Rows start..stop of an endless (row, width) matrix of uniforms in [0, 1).

    Row i depends only on (seed, labels, i, width), so a sample can be grown or cut without changing.
    """
    # A Philox block yields four 64-bit draws; rows are padded to whole blocks so that advance() can seek.
    blocks = -(-width // 4)
    bits = np.random.Philox(key=stream_key(seed, *labels))
    bits.advance(start * blocks)
    draws = np.random.Generator(bits).random((stop - start, 4 * blocks))
    return draws[:, :width]


def kernel_keys(seed: int, index: int) -> tuple[int, int]:
    """Two 32-bit Philox4x32 key words of one simulation."""
    key = stream_key(seed, index, "kernel")
    return key & 0xFFFFFFFF, (key >> 32) & 0xFFFFFFFF


def measuring_seed(seed: int, index: int) -> int:
    """Seed of the measurement of one simulation (cells are assigned to channels at random)."""
    return stream_key(seed, index, "measure") >> 65
