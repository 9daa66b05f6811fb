"""Normals of the noise terms for simulations side by side, at the addresses of `noise`."""

import numpy as np
from numba import njit

from sbi_circuits.engines.noise import NOISE_STREAM, _pair_double, _pair_single
from sbi_circuits.engines.philox import philox

_STREAM = np.uint64(NOISE_STREAM)


@njit(cache=True, error_model="numpy")
def lane_normals_single(out, neurons, number, step, keys, lanes):  # type: ignore[no-untyped-def]
    """Fill `out` (N * lanes,) with the normals of a noise term in one step.

    Args:
        out: float32, lane last.
        neurons: of the population.
        number: of the noise.
        step: time step.
        keys: (2, lanes) uint64, of the simulations.
        lanes: simulations side by side.
    """
    blocks = (neurons + 3) >> 2
    stream = _STREAM + np.uint64(number)
    k0, k1 = keys[0], keys[1]
    for block in range(blocks):
        second, third, fourth = block + blocks, block + 2 * blocks, block + 3 * blocks
        if third < neurons:
            for lane in range(lanes):
                a, b, c, d = philox(np.uint64(block), np.uint64(step), stream, k0[lane], k1[lane])
                x, y = _pair_single(a, b)
                z, w = _pair_single(c, d)
                out[block * lanes + lane] = x
                out[second * lanes + lane] = y
                out[third * lanes + lane] = z
                if fourth < neurons:
                    out[fourth * lanes + lane] = w
        elif second < neurons:
            for lane in range(lanes):
                a, b, _, _ = philox(np.uint64(block), np.uint64(step), stream, k0[lane], k1[lane])
                x, y = _pair_single(a, b)
                out[block * lanes + lane] = x
                out[second * lanes + lane] = y
        else:
            for lane in range(lanes):
                a, b, _, _ = philox(np.uint64(block), np.uint64(step), stream, k0[lane], k1[lane])
                x, _ = _pair_single(a, b)
                out[block * lanes + lane] = x


@njit(cache=True, error_model="numpy")
def lane_normals_double(out, neurons, number, step, keys, lanes):  # type: ignore[no-untyped-def]
    """As `lane_normals_single`, float64."""
    blocks = (neurons + 3) >> 2
    stream = _STREAM + np.uint64(number)
    for block in range(blocks):
        for lane in range(lanes):
            a, b, c, d = philox(np.uint64(block), np.uint64(step), stream, keys[0, lane], keys[1, lane])
            x, y = _pair_double(a, b)
            z, w = _pair_double(c, d)
            for k, value in enumerate((x, y, z, w)):
                neuron = block + k * blocks
                if neuron < neurons:
                    out[neuron * lanes + lane] = value
