"""Functions of equations that NumPy does not have, for numba kernels, accurate in the precision they run in."""

import math

import numpy as np
from numba import njit

from sbi_circuits.engines.intrinsics import exp_single

_ONE, _NEAR = np.float32(1.0), np.float32(0.5)
# 1/(k + 1)!; the next term is below 3e-9 for |x| <= 1/2.
_T1, _T2, _T3 = np.float32(1 / 2), np.float32(1 / 6), np.float32(1 / 24)
_T4, _T5, _T6, _T7 = np.float32(1 / 120), np.float32(1 / 720), np.float32(1 / 5040), np.float32(1 / 40320)


@njit(cache=True, inline="always")
def exprel_single(x):  # type: ignore[no-untyped-def]
    """(exp(x) - 1)/x of a float32, 1 at 0; relative error below 6e-7. No branch, so that it vectorises."""
    near = abs(x) < _NEAR
    series = ((((((_T7 * x + _T6) * x + _T5) * x + _T4) * x + _T3) * x + _T2) * x + _T1) * x + _ONE
    # Computed before the choice: within it, it would be a branch.
    elsewhere = (exp_single(x) - _ONE) / (_ONE if near else x)
    return series if near else elsewhere


@njit(cache=True, inline="always")
def exprel_double(x):  # type: ignore[no-untyped-def]
    """(exp(x) - 1)/x of a float64, 1 at 0."""
    return math.expm1(x) / x if x != 0.0 else 1.0
