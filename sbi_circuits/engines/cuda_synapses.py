"""CUDA parts for circuits with noise, or whose increments differ between synapses or spikes.

Sums of different numbers depend on their order. So spikes are sorted by neuron, and delivered one after another with
a barrier in between; within the row of one spike every target is another. The normals are those of `noise`.
"""

import math

import numpy as np

from sbi_circuits.engines.cuda_device import bits_of_float, cuda, device, float_from_bits
from sbi_circuits.engines.cuda_parts import philox

_NOISE_STREAM = 2**30
_F = np.float32
_TO_UNIT, _HALF_WORD = _F(2.0**-32), _F(2.0**-33)
_LN2_HIGH, _LN2_LOW = _F(0.693359375), _F(-2.12194440e-4)
_ONE, _HALF, _MINUS_TWO, _SQRT_HALF, _256 = _F(1.0), _F(0.5), _F(-2.0), _F(0.70710678), _F(256.0)
_L8, _L7, _L6 = _F(7.0376836292e-2), _F(-1.1514610310e-1), _F(1.1676998740e-1)
_L5, _L4, _L3 = _F(-1.2420140846e-1), _F(1.4249322787e-1), _F(-1.6668057665e-1)
_L2, _L1, _L0 = _F(2.0000714765e-1), _F(-2.4999993993e-1), _F(3.3333331174e-1)
_S2, _S1, _S0 = _F(-1.9515295891e-4), _F(8.3321608736e-3), _F(-1.6666654611e-1)
_C2, _C1, _C0 = _F(2.443315711809948e-5), _F(-1.388731625493765e-3), _F(4.166664568298827e-2)
_TO_ANGLE, _TO_ANGLE_DOUBLE, _QUARTER = _F(math.pi / 4 * 2.0**-31), math.pi / 4 * 2.0**-31, math.pi / 2


@device
def sort_spikes(tid, T, spikes, capacity, head, count, sorting):
    """Sort the spikes of this step by neuron, each thread counting the smaller ones; a barrier at the end."""
    s = np.int32(tid)
    while s < count:
        place = np.int32(head + s)
        if place >= capacity:
            place = np.int32(place - capacity)
        mine = spikes[np.uint32(place)]
        smaller = np.int32(0)
        other = np.int32(0)
        while other < count:
            place = np.int32(head + other)
            if place >= capacity:
                place = np.int32(place - capacity)
            if spikes[np.uint32(place)] < mine:
                smaller = np.int32(smaller + 1)
            other = np.int32(other + 1)
        sorting[np.uint32(smaller)] = mine
        s = np.int32(s + T)
    cuda.syncthreads()
    s = np.int32(tid)
    while s < count:
        place = np.int32(head + s)
        if place >= capacity:
            place = np.int32(place - capacity)
        spikes[np.uint32(place)] = sorting[np.uint32(s)]
        s = np.int32(s + T)
    cuda.syncthreads()


@device
def deliver_each(tid, T, indptr, row, targets, amount, each, weights, effect, gained, gains, spikes, capacity, start,
                 count, variable):  # fmt: skip
    """Add to the variable of every target of every spike: `amount`, or what the spike gained, times a weight of each
    synapse where they differ."""
    for s in range(count):
        place = np.int32(start + s)
        if place >= capacity:
            place = np.int32(place - capacity)
        first = np.int32(row + spikes[np.uint32(place)])
        value = gains[np.uint32(place)] if gained else amount
        stop = indptr[np.uint32(first + 1)]
        k = np.int32(indptr[np.uint32(first)] + tid)
        while k < stop:
            cuda.atomic.add(
                variable, np.uint32(targets[np.uint32(k)]), value * weights[effect, k] if each else value
            )
            k = np.int32(k + T)
        cuda.syncthreads()


@device
def deliver_each_masked(tid, T, indptr, row, targets, amount, each, weights, effect, gained, gains, spikes, capacity,
                        start, count, variable, rest):  # fmt: skip
    """As `deliver_each`, to neurons that are not refractory."""
    for s in range(count):
        place = np.int32(start + s)
        if place >= capacity:
            place = np.int32(place - capacity)
        first = np.int32(row + spikes[np.uint32(place)])
        value = gains[np.uint32(place)] if gained else amount
        stop = indptr[np.uint32(first + 1)]
        k = np.int32(indptr[np.uint32(first)] + tid)
        while k < stop:
            j = np.uint32(targets[np.uint32(k)])
            if rest[j] == 0:
                cuda.atomic.add(variable, j, value * weights[effect, k] if each else value)
            k = np.int32(k + T)
        cuda.syncthreads()


@device
def log_single(x):
    """Natural logarithm of a positive, normal float32, as in `noise`."""
    bits = np.int64(bits_of_float(x))
    exponent = np.float32((bits >> 23) - 126)
    m = float_from_bits(np.int32((bits & 0x007FFFFF) | 0x3F000000))
    if m < _SQRT_HALF:
        exponent = np.float32(exponent - _ONE)
        m = np.float32(m + m)
    r = np.float32(m - _ONE)
    z = r * r
    p = ((((((((_L8 * r + _L7) * r + _L6) * r + _L5) * r + _L4) * r + _L3) * r + _L2) * r + _L1) * r + _L0) * r * z
    return r + (p + exponent * _LN2_LOW - _HALF * z) + exponent * _LN2_HIGH


@device
def angle_of(word):
    """A word shifted left by two bits, read as a signed integer."""
    shifted = (np.int64(word) << 2) & 0xFFFFFFFF
    return shifted - 0x100000000 if shifted >= 0x80000000 else shifted


@device
def pair_single(a, b):
    """Two standard normals, float32, from two words."""
    high, low = np.float32(a >> np.uint32(8)), np.float32(a & np.uint32(255))
    u = (high * _256 + low) * _TO_UNIT + _HALF_WORD
    radius = np.float32(math.sqrt(_MINUS_TWO * log_single(u)))
    x = np.float32(angle_of(b)) * _TO_ANGLE
    z = x * x
    s = ((_S2 * z + _S1) * z + _S0) * z * x + x
    c = ((_C2 * z + _C1) * z + _C0) * z * z - _HALF * z + _ONE
    quadrant = np.int32(b >> np.uint32(30))
    cosine, sine = (s, c) if quadrant == 1 or quadrant == 3 else (c, s)
    if quadrant == 1 or quadrant == 2:
        cosine = -cosine
    if quadrant >= 2:
        sine = -sine
    return radius * cosine, radius * sine


@device
def pair_double(a, b):
    """Two standard normals, float64, from two words."""
    radius = math.sqrt(-2.0 * math.log((np.float64(a) + 0.5) * 2.0**-32))
    x = np.float64(angle_of(b)) * _TO_ANGLE_DOUBLE
    angle = x + _QUARTER * np.float64(b >> np.uint32(30))
    return radius * math.cos(angle), radius * math.sin(angle)


@device
def normals_single(tid, T, row, neurons, number, step, k0, k1):
    """Fill `row` with the normals of noise `number` at a time step, a thread for four neurons."""
    lanes = (neurons + 3) >> 2
    for lane in range(tid, lanes, T):
        a, b, c, d = philox(np.uint32(lane), np.uint32(step), np.uint32(_NOISE_STREAM + number), k0, k1)
        first, second = pair_single(a, b)
        third, fourth = pair_single(c, d)
        row[np.uint32(lane)], row[np.uint32(lane + lanes)] = first, second
        row[np.uint32(lane + 2 * lanes)], row[np.uint32(lane + 3 * lanes)] = third, fourth


@device
def normals_double(tid, T, row, neurons, number, step, k0, k1):
    """As `normals_single`, float64."""
    lanes = (neurons + 3) >> 2
    for lane in range(tid, lanes, T):
        a, b, c, d = philox(np.uint32(lane), np.uint32(step), np.uint32(_NOISE_STREAM + number), k0, k1)
        first, second = pair_double(a, b)
        third, fourth = pair_double(c, d)
        row[np.uint32(lane)], row[np.uint32(lane + lanes)] = first, second
        row[np.uint32(lane + 2 * lanes)], row[np.uint32(lane + 3 * lanes)] = third, fourth


@device
def lane_normals_single(first, stride, row, origin, across, neurons, number, step, k0, k1):
    """Normals of one of the simulations that stand side by side, from `origin` on, `across` places apart."""
    blocks = (neurons + 3) >> 2
    for block in range(first, blocks, stride):
        a, b, c, d = philox(np.uint32(block), np.uint32(step), np.uint32(_NOISE_STREAM + number), k0, k1)
        at, hop = origin + block * across, blocks * across
        row[at], row[at + hop] = pair_single(a, b)
        row[at + 2 * hop], row[at + 3 * hop] = pair_single(c, d)


@device
def lane_normals_double(first, stride, row, origin, across, neurons, number, step, k0, k1):
    """As `lane_normals_single`, float64."""
    blocks = (neurons + 3) >> 2
    for block in range(first, blocks, stride):
        a, b, c, d = philox(np.uint32(block), np.uint32(step), np.uint32(_NOISE_STREAM + number), k0, k1)
        at, hop = origin + block * across, blocks * across
        row[at], row[at + hop] = pair_double(a, b)
        row[at + 2 * hop], row[at + 3 * hop] = pair_double(c, d)


@device
def lone_normal_single(number, step, k0, k1):
    """The normal of a population of one neuron."""
    a, b, _, _ = philox(np.uint32(0), np.uint32(step), np.uint32(_NOISE_STREAM + number), k0, k1)
    x, _ = pair_single(a, b)
    return x


@device
def lone_normal_double(number, step, k0, k1):
    """As `lone_normal_single`, float64."""
    a, b, _, _ = philox(np.uint32(0), np.uint32(step), np.uint32(_NOISE_STREAM + number), k0, k1)
    x, _ = pair_double(a, b)
    return x
