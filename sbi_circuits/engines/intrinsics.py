"""Small functions the generated kernels call, in the precision they run in.

The single-precision exponential is a polynomial so that the state update vectorises: Cody-Waite reduction to
|r| <= ln 2 / 2 and a degree-6 Taylor-like polynomial (Cephes expf), relative error below 2e-7.
"""

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

_LOG2E = np.float32(1.44269504)
_LN2_HIGH, _LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
_C5, _C4, _C3 = np.float32(1.9875691500e-4), np.float32(1.3981999507e-3), np.float32(8.3334519073e-3)
_C2, _C1, _C0 = np.float32(4.1665795894e-2), np.float32(1.6666665459e-1), np.float32(5.0000001201e-1)
_ONE, _HALF = np.float32(1.0), np.float32(0.5)
_LOWEST, _HIGHEST = np.float32(-87.0), np.float32(88.0)


@intrinsic
def _float_from_bits(typingctx: Any, bits: Any) -> Any:
    """Reinterpret an int32 as a float32."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.int32), codegen


@njit(cache=True, inline="always")
def exp_single(x):  # type: ignore[no-untyped-def]
    """exp of a float32; arguments beyond [-87, 88] are clipped there."""
    x = min(max(x, _LOWEST), _HIGHEST)
    n = np.floor(x * _LOG2E + _HALF)
    r = x - n * _LN2_HIGH - n * _LN2_LOW
    p = ((((_C5 * r + _C4) * r + _C3) * r + _C2) * r + _C1) * r + _C0
    return (p * r * r + r + _ONE) * _float_from_bits((np.int32(n) + np.int32(127)) << np.int32(23))


@njit(cache=True, inline="always")
def exp_double(x):  # type: ignore[no-untyped-def]
    """exp of a float64."""
    return math.exp(x)
