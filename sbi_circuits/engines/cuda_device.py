"""What CUDA code is written against: `numba.cuda`, or its simulator where NUMBA_ENABLE_CUDASIM=1.

In the simulator a device function is plain Python, and `cuda` is the launch that is going on; numba swaps that into
the module of a kernel only, and restores it while other threads are still inside a device function.
"""

import math
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
from numba import config
from numba import cuda as _cuda

from sbi_circuits.errors import SbiCircuitsError

SIMULATED = bool(getattr(config, "ENABLE_CUDASIM", False))
# Threads that walk one row of synapses together: a warp, or two of the simulator's few threads.
LANES, LANE_BITS = (2, 1) if SIMULATED else (32, 5)

# One simulation is a grid of one block: the warning that this leaves a device idle helps nobody.
_settings: Any
for _settings in (config, getattr(getattr(_cuda, "core", None), "config", config)):
    _settings.CUDA_LOW_OCCUPANCY_WARNINGS = 0

cuda: Any
device: Callable[[Callable[..., Any]], Any]

if SIMULATED:
    from numba.cuda.simulator.kernel import _get_kernel_context

    class _Launch:
        def __getattr__(self, name: str) -> Any:
            return getattr(_get_kernel_context(), name)

    cuda = _Launch()

    def device(function: Callable[..., Any]) -> Any:
        """A function that runs on the device."""
        return function

    def float_from_bits(bits: Any) -> Any:
        """An int32 read as a float32."""
        return np.int32(bits).view(np.float32)

    def bits_of_float(value: Any) -> Any:
        """A float32 read as an int32."""
        return np.float32(value).view(np.int32)

    def floor_single(x: Any) -> Any:
        """Largest whole number at or below a float32."""
        return np.floor(x)

    def ceil_single(x: Any) -> Any:
        """Smallest whole number at or above a float32."""
        return np.ceil(x)

    floor_double, ceil_double = floor_single, ceil_single

    def byte_of(word: Any, number: int) -> Any:
        """One of the four bytes of a uint32, the lowest first, as an int32."""
        return np.int32((word >> np.uint32(8 * number)) & 255)

    def read_four(array: Any, at: Any, left: Any) -> Any:
        """Entries at `at`, `at` + LANES and so on, as far as `left` exceeds 0, LANES and so on; 0 elsewhere."""
        return tuple(array[at + np.uint64(n * LANES)] if left > n * LANES else np.uint16(0) for n in range(4))

    def load_together(array: Any, at: Any) -> Any:
        """The 16 bytes of an array from an aligned place on, as numbers."""
        return tuple(array[at : at + np.uint32(16 // array.itemsize)])

    def store_together(array: Any, at: Any, values: Any) -> None:
        """Store the 16 bytes of an array from an aligned place on."""
        array[at : at + np.uint32(len(values))] = values
else:
    from llvmlite import ir
    from numba.cuda import types
    from numba.cuda.extending import intrinsic

    cuda = _cuda
    device = _cuda.jit(device=True)

    @device
    def float_from_bits(bits):
        """An int32 read as a float32."""
        return cuda.libdevice.int_as_float(bits)

    @device
    def bits_of_float(value):
        """A float32 read as an int32."""
        return cuda.libdevice.float_as_int(value)

    @device
    def floor_single(x):
        """Largest whole number at or below a float32."""
        return cuda.libdevice.floorf(x)

    @device
    def ceil_single(x):
        """Smallest whole number at or above a float32."""
        return cuda.libdevice.ceilf(x)

    @device
    def floor_double(x):
        """Largest whole number at or below a float64."""
        return cuda.libdevice.floor(x)

    @device
    def byte_of(word, number):
        """One of the four bytes of a uint32, the lowest first, as an int32."""
        return np.int32(cuda.libdevice.byte_perm(np.int32(word), np.int32(0), np.int32(0x4440 + number)))

    @intrinsic
    def read_four(typingctx, array, at, left):
        """Entries at `at`, `at` + LANES and so on, as far as `left` exceeds 0, LANES and so on; 0 elsewhere.

        Of uint16 in device memory, all read at once: the compiler would move a load behind the atomic instruction
        before its use, and so wait for one after another.
        """
        loads = [f"setp.gt.s32 p, $5, {32 * n}; mov.b16 ${n}, 0; @p ld.global.u16 ${n}, [$4+{64 * n}];"
                 for n in range(4)]  # fmt: skip
        code, short = f"{{.reg .pred p; {' '.join(loads)}}}", ir.IntType(16)
        result = types.UniTuple(types.uint16, 4)

        def generate(context, builder, signature, arguments):
            data = context.make_array(signature.args[0])(context, builder, value=arguments[0]).data
            address = builder.ptrtoint(builder.gep(data, [arguments[1]]), ir.IntType(64))
            kind = ir.FunctionType(ir.LiteralStructType([short] * 4), [address.type, arguments[2].type])
            assembly = ir.InlineAsm(kind, code, "=h,=h,=h,=h,l,r", side_effect=True)
            found = builder.call(assembly, [address, arguments[2]])
            return context.make_tuple(builder, result, [builder.extract_value(found, n) for n in range(4)])

        return result(array, at, types.int32), generate

    def _place_together(context, builder, kind, array, at):
        """Pointer to 16 bytes of an array, and the type of what lies there."""
        data = context.make_array(kind)(context, builder, value=array).data
        vector = ir.VectorType(context.get_value_type(kind.dtype), 16 // (kind.dtype.bitwidth // 8))
        return builder.bitcast(builder.gep(data, [at]), vector.as_pointer()), vector

    @intrinsic
    def load_together(typingctx, array, at):
        """The 16 bytes of an array from an aligned place on, as numbers: one instruction."""
        result = types.UniTuple(array.dtype, 16 // (array.dtype.bitwidth // 8))

        def generate(context, builder, signature, arguments):
            place, vector = _place_together(context, builder, signature.args[0], *arguments)
            loaded, index = builder.load(place, align=16), ir.IntType(32)
            values = [builder.extract_element(loaded, index(k)) for k in range(vector.count)]
            return context.make_tuple(builder, result, values)

        return result(array, at), generate

    @intrinsic
    def store_together(typingctx, array, at, values):
        """Store the 16 bytes of an array from an aligned place on: one instruction."""

        def generate(context, builder, signature, arguments):
            place, vector = _place_together(context, builder, signature.args[0], *arguments[:2])
            stored, index = ir.Constant(vector, ir.Undefined), ir.IntType(32)
            for k in range(vector.count):
                stored = builder.insert_element(stored, builder.extract_value(arguments[2], k), index(k))
            builder.store(stored, place, align=16)
            return context.get_dummy_value()

        return types.void(array, at, values), generate

    @intrinsic
    def power_of_two(typingctx, x):
        """2 to the power of a float32, by the special function unit."""

        def generate(context, builder, signature, arguments):
            kind = ir.FunctionType(ir.FloatType(), [ir.FloatType()])
            return builder.call(ir.InlineAsm(kind, "ex2.approx.ftz.f32 $0, $1;", "=f,f"), arguments)

        return types.float32(types.float32), generate

    @device
    def ceil_double(x):
        """Smallest whole number at or above a float64."""
        return cuda.libdevice.ceil(x)


_LOG2E = np.float32(1.44269504)
_LN2_HIGH, _LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
_C1, _C2, _C3 = np.float32(0.99999971), np.float32(0.49999148), np.float32(0.16667638)
_C4, _C5 = np.float32(0.04189816), np.float32(0.00829027)
_LOWEST, _HIGHEST = np.float32(-87.0), np.float32(88.0)
_ZERO, _HALF, _ONE = np.float32(0.0), np.float32(0.5), np.float32(1.0)
_T1, _T2, _T3 = np.float32(1 / 2), np.float32(1 / 6), np.float32(1 / 24)
_T4, _T5, _T6, _T7 = np.float32(1 / 120), np.float32(1 / 720), np.float32(1 / 5040), np.float32(1 / 40320)
# Adding 1.5 * 2**23 rounds a float32 to a whole number, which then stands in its lowest bits.
_ROUND = np.float32(12582912.0)


@device
def exp_polynomial(x):
    """exp of a float32 in [-87, 88] by the polynomial of `intrinsics.exp_single`."""
    shifted = np.float32(x * _LOG2E + _ROUND)
    n = np.float32(shifted - _ROUND)
    r = np.float32(np.float32(x - n * _LN2_HIGH) - n * _LN2_LOW)
    p = ((((_C5 * r + _C4) * r + _C3) * r + _C2) * r + _C1) * r + _ONE
    scale = float_from_bits(np.int32((np.int64(bits_of_float(shifted)) << 23) + 1065353216 & 0x7FFFFFFF))
    return p * scale


if SIMULATED:
    exp_bounded = exp_polynomial
else:

    @device
    def exp_bounded(x):
        """exp of a float32 in [-87, 88] by a power of two, twelve instructions less in the update of every neuron.

        Relative error below 2e-7 + 1e-7 |x|, where the rounding of x itself makes 6e-8 |x|.
        """
        return power_of_two(x * _LOG2E)


@device
def exp_single(x):
    """exp of a float32, clipped to [-87, 88]."""
    return exp_bounded(min(max(x, _LOWEST), _HIGHEST))


@device
def exp_double(x):
    """exp of a float64."""
    return math.exp(x)


@device
def trunc_single(x):
    """A float32 without its fraction."""
    return floor_single(x) if x >= _ZERO else ceil_single(x)


@device
def trunc_double(x):
    """A float64 without its fraction."""
    return floor_double(x) if x >= 0.0 else ceil_double(x)


@device
def sign_single(x):
    """-1, 0 or 1 as a float32."""
    return _ONE if x > _ZERO else (-_ONE if x < _ZERO else _ZERO)


@device
def sign_double(x):
    """-1, 0 or 1 as a float64."""
    return 1.0 if x > 0.0 else (-1.0 if x < 0.0 else 0.0)


@device
def exprel_single(x):
    """(exp(x) - 1)/x of a float32, 1 at 0, as in `kernel_functions`."""
    if abs(x) < _HALF:
        return ((((((_T7 * x + _T6) * x + _T5) * x + _T4) * x + _T3) * x + _T2) * x + _T1) * x + _ONE
    return (exp_single(x) - _ONE) / x


@device
def exprel_double(x):
    """(exp(x) - 1)/x of a float64, 1 at 0."""
    return math.expm1(x) / x if x != 0.0 else 1.0


def require_device() -> None:
    """Raises `SbiCircuitsError` naming what is missing where no CUDA kernel can run."""
    if SIMULATED:
        return
    if find_spec("numba_cuda") is None:
        raise SbiCircuitsError("engine 'kernel[cuda]' needs numba-cuda: pip install 'sbi-circuits[cuda]'")
    if not _cuda.is_available():
        raise SbiCircuitsError("engine 'kernel[cuda]' finds no CUDA device; engine 'kernel[numba]' runs on the CPU")
