"""Standard normals for the noise `xi` of equations: every one has an address in the simulation's random numbers.

Addresses. Noise number m (rows of `Translation.noise` counted over the circuit's populations, in order), time step
s, N neurons: with L = ceil(N / 4) lanes, lane l takes the four words (a, b, c, d) of Philox4x32-10 at the counter
(l, s, NOISE_STREAM + m, 0) under the simulation's key. Box and Muller's transform of (a, b) gives the normals of
neurons l and l + L, that of (c, d) those of neurons l + 2 L and l + 3 L (Box, Muller 1958, Ann Math Stat 29:610):
radius sqrt(-2 ln((a + 1/2) / 2**32)), angle pi/2 (k + f), where k is the upper two bits of b and f the lower thirty
as a signed fraction in [-1/2, 1/2); the cosine comes first. A lane needs nothing but its own number, so lanes can
be vector elements or threads.

The words are the same everywhere. In single precision the logarithm, sine and cosine are polynomials (Cephes,
S. Moshier: logf, sinf, cosf), so that the loop over lanes vectorises; in double precision those of the C library.
"""

import math

import numpy as np
from numba import njit

from sbi_circuits.engines.philox import philox

# Streams below belong to Poisson inputs (1) and wiring (16 + number of the projection).
NOISE_STREAM = 2**30

_STREAM = np.uint64(NOISE_STREAM)
_F = np.float32
_TO_UNIT, _HALF_WORD = _F(2.0**-32), _F(2.0**-33)
_LN2_HIGH, _LN2_LOW = _F(0.693359375), _F(-2.12194440e-4)
_ONE, _HALF, _TWO, _SQRT_HALF = _F(1.0), _F(0.5), _F(2.0), _F(0.70710678)
_L8, _L7, _L6 = _F(7.0376836292e-2), _F(-1.1514610310e-1), _F(1.1676998740e-1)
_L5, _L4, _L3 = _F(-1.2420140846e-1), _F(1.4249322787e-1), _F(-1.6668057665e-1)
_L2, _L1, _L0 = _F(2.0000714765e-1), _F(-2.4999993993e-1), _F(3.3333331174e-1)
_S2, _S1, _S0 = _F(-1.9515295891e-4), _F(8.3321608736e-3), _F(-1.6666654611e-1)
_C2, _C1, _C0 = _F(2.443315711809948e-5), _F(-1.388731625493765e-3), _F(4.166664568298827e-2)
# A word shifted left by two bits, read as a signed integer, times this is an angle in [-pi/4, pi/4).
_TO_ANGLE = _F(math.pi / 4 * 2.0**-31)


@njit(cache=True, inline="always")
def log_single(x):  # type: ignore[no-untyped-def]
    """Natural logarithm of a positive, normal float32; relative error below 2e-7 save around 1 (absolute 1e-7)."""
    bits = np.float32(x).view(np.int32)
    exponent = np.float32((bits >> np.int32(23)) - np.int32(126))
    m = np.int32((bits & np.int32(0x007FFFFF)) | np.int32(0x3F000000)).view(np.float32)
    low = m < _SQRT_HALF
    exponent = exponent - _ONE if low else exponent
    r = (m + m if low else m) - _ONE
    z = r * r
    p = ((((((((_L8 * r + _L7) * r + _L6) * r + _L5) * r + _L4) * r + _L3) * r + _L2) * r + _L1) * r + _L0) * r * z
    return r + (p + exponent * _LN2_LOW - _HALF * z) + exponent * _LN2_HIGH


@njit(cache=True, inline="always")
def _pair_single(a, b):  # type: ignore[no-untyped-def]
    """Two standard normals, float32, from two 32-bit words (uint64)."""
    # From signed integers, which every vector unit can convert.
    high = np.float32(np.int32(a >> np.uint64(8)))
    low = np.float32(np.int32(a & np.uint64(255)))
    u = (high * np.float32(256.0) + low) * _TO_UNIT + _HALF_WORD
    radius = np.sqrt(-_TWO * log_single(u))
    x = np.float32(np.int32(np.uint32(b << np.uint64(2)))) * _TO_ANGLE
    z = x * x
    s = ((_S2 * z + _S1) * z + _S0) * z * x + x
    c = ((_C2 * z + _C1) * z + _C0) * z * z - _HALF * z + _ONE
    quadrant = np.int32(b >> np.uint64(30))
    odd = (quadrant & np.int32(1)) == np.int32(1)
    cosine, sine = (s if odd else c), (c if odd else s)
    turned = (quadrant == np.int32(1)) | (quadrant == np.int32(2))
    below = quadrant >= np.int32(2)
    return radius * (-cosine if turned else cosine), radius * (-sine if below else sine)


@njit(cache=True, inline="always")
def _pair_double(a, b):  # type: ignore[no-untyped-def]
    """Two standard normals, float64, from two 32-bit words (uint64)."""
    radius = math.sqrt(-2.0 * math.log((np.float64(a) + 0.5) * 2.0**-32))
    x = np.float64(np.int32(np.uint32(b << np.uint64(2)))) * (math.pi / 4 * 2.0**-31)
    angle = x + (math.pi / 2) * np.float64(b >> np.uint64(30))
    return radius * math.cos(angle), radius * math.sin(angle)


@njit(cache=True, error_model="numpy")
def normals_single(row, neurons, number, step, k0, k1):  # type: ignore[no-untyped-def]
    """Fill `row`, float32, from its start with the normals of some neurons, as the module says.

    Args:
        row: at least `row_length(neurons)` long; numbers beyond the neurons mean nothing.
        neurons: of the population.
        number: of the noise.
        step: time step.
        k0, k1: uint64, the simulation's key.
    """
    lanes = (neurons + 3) >> 2
    first, second = row[:lanes], row[lanes : 2 * lanes]
    third, fourth = row[2 * lanes : 3 * lanes], row[3 * lanes : 4 * lanes]
    stream = _STREAM + np.uint64(number)
    for lane in range(lanes):
        a, b, c, d = philox(np.uint64(lane), np.uint64(step), stream, k0, k1)
        first[lane], second[lane] = _pair_single(a, b)
        third[lane], fourth[lane] = _pair_single(c, d)


@njit(cache=True, error_model="numpy")
def normals_double(row, neurons, number, step, k0, k1):  # type: ignore[no-untyped-def]
    """As `normals_single`, float64."""
    lanes = (neurons + 3) >> 2
    stream = _STREAM + np.uint64(number)
    for lane in range(lanes):
        a, b, c, d = philox(np.uint64(lane), np.uint64(step), stream, k0, k1)
        row[lane], row[lane + lanes] = _pair_double(a, b)
        row[lane + 2 * lanes], row[lane + 3 * lanes] = _pair_double(c, d)


def row_length(neurons: int) -> int:
    """Normals a population draws a step: its neurons in whole lanes."""
    return 4 * -(-neurons // 4)
