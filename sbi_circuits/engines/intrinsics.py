"""Small functions the generated kernels call, in the precision they run in.

The single-precision exponential is a polynomial so that the state update vectorises: Cody-Waite reduction to
|r| <= ln 2 / 2 and a polynomial of degree 5 with the least largest relative error (9e-8; 2e-7 with rounding).
"""

import math
from functools import partial
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

LOG2E = np.float32(1.44269504)
_LN2_HIGH, _LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
_C1, _C2, _C3 = np.float32(0.99999971), np.float32(0.49999148), np.float32(0.16667638)
_C4, _C5 = np.float32(0.04189816), np.float32(0.00829027)
# The same polynomial of r / ln 2, for powers of two.
_D1, _D2, _D3, _D4, _D5 = (np.float32(c * math.log(2.0) ** (k + 1)) for k, c in enumerate((_C1, _C2, _C3, _C4, _C5)))
_ONE = np.float32(1.0)
_LN2 = math.log(2.0)
_SQRT_HALF = int(np.float64(math.sqrt(0.5)).view(np.int64))
# Outside these bounds the result would not be a normal number of single precision.
LOWEST, HIGHEST = -87.0, 88.0
_LOWEST, _HIGHEST = np.float32(LOWEST), np.float32(HIGHEST)


@njit(cache=True, inline="always")
def _times_power_of_two(p, n):  # type: ignore[no-untyped-def]
    """p * 2^n of a float32, by adding n to its exponent."""
    return np.int32(np.float32(p).view(np.int32) + (np.int32(n) << np.int32(23))).view(np.float32)


@njit(cache=True, inline="always")
def exp_bounded(x):  # type: ignore[no-untyped-def]
    """exp of a float32 that is known to lie in [LOWEST, HIGHEST].

    Relative error below 2e-7. The relaxed operations of a kernel let the compiler merge the two subtractions, which
    adds some 2e-8 |x|: less than the rounding of x itself does.
    """
    n = np.rint(x * LOG2E)
    r = x - n * _LN2_HIGH - n * _LN2_LOW
    p = ((((_C5 * r + _C4) * r + _C3) * r + _C2) * r + _C1) * r + _ONE
    return _times_power_of_two(p, n)


@njit(cache=True, inline="always")
def exp2_bounded(x):  # type: ignore[no-untyped-def]
    """2^x of a float32 that is known to lie in `LOG2E` times [LOWEST, HIGHEST]; relative error below 2e-7.

    For exponentials whose argument is scaled by `LOG2E` where it is made, which costs nothing: the integer part is then
    taken off without a product. The rounding of the argument weighs as it does in that of `exp_bounded`.
    """
    n = np.rint(x)
    r = x - n
    p = ((((_D5 * r + _D4) * r + _D3) * r + _D2) * r + _D1) * r + _ONE
    return _times_power_of_two(p, n)


@njit(cache=True, inline="always")
def exp_single(x):  # type: ignore[no-untyped-def]
    """exp of a float32; arguments beyond [-87, 88] are clipped there."""
    return exp_bounded(min(max(x, _LOWEST), _HIGHEST))


@njit(cache=True, inline="always")
def exp_double(x):  # type: ignore[no-untyped-def]
    """exp of a float64."""
    return math.exp(x)


@njit(cache=True, inline="always")
def log_of_word(word):  # type: ignore[no-untyped-def]
    """log((word + 1/2) / 2^32) of a random word below 2^32, as float64; relative error below 3e-16.

    Without a call, so that a loop over words vectorises: log f = 2 atanh((f - 1)/(f + 1)) of a mantissa f between
    sqrt(1/2) and sqrt(2), by its series.
    """
    bits = np.float64(word + 0.5).view(np.int64)
    # The exponent grows by one where the mantissa is above sqrt(2), which is then halved.
    exponent = (bits - _SQRT_HALF) >> 52
    t = np.int64(bits - (exponent << 52)).view(np.float64)
    t = (t - 1.0) / (t + 1.0)
    s = t * t
    series = 1.0 / 21.0
    for k in range(19, 0, -2):
        series = series * s + 1.0 / k
    return np.float64(np.int32(exponent) - np.int32(32)) * _LN2 + 2.0 * t * series


@intrinsic
def trailing_zeros(typingctx: Any, word: Any) -> Any:
    """Position of the lowest set bit of a uint64, 64 where there is none, as int64."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 0))

    return types.int64(types.uint64), codegen


@intrinsic
def count_ones(typingctx: Any, word: Any) -> Any:
    """How many bits of a uint64 are set, as int64."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.ctpop(args[0])

    return types.int64(types.uint64), codegen


@intrinsic
def align_stack(typingctx: Any) -> Any:
    """Start the caller's stack frame at a cache line, so that no vector that waits there straddles two."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        byte = ir.IntType(8).as_pointer()
        with builder.goto_entry_block():
            place = builder.alloca(ir.ArrayType(ir.IntType(8), 64))
            place.align = 64
        # Nothing is executed; the place must only not be optimised away.
        builder.asm(ir.FunctionType(ir.VoidType(), [byte]), "", "r", [builder.bitcast(place, byte)], True)
        return context.get_dummy_value()

    return types.void(), codegen


# Flags that are looked at together.
FLAGGED = 32


@intrinsic
def flagged(typingctx: Any, flags: Any, position: Any) -> Any:
    """Which of `FLAGGED` entries of an int32 array from `position` on are negative, as bits of a uint64."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        vector, mask = ir.VectorType(ir.IntType(32), FLAGGED), ir.IntType(FLAGGED)
        values = builder.load(builder.bitcast(builder.gep(data, [args[1]]), vector.as_pointer()), align=4)
        negative = builder.icmp_signed("<", values, ir.Constant(vector, None))
        return builder.zext(builder.bitcast(negative, mask), ir.IntType(64))

    return types.uint64(flags, types.int64), codegen


@intrinsic
def chosen(typingctx: Any, condition: Any, value: Any, other: Any) -> Any:
    """`value` where the condition holds, else `other`.

    Of an `if` whose result is stored where the other value came from, the compiler makes a store under a mask, which on
    some processors takes longer than all the rest of a short update. This stays a selection if something else is stored
    between.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.select(*args)

    return value(types.boolean, value, value), codegen


def splat(builder: Any, value: Any, lanes: int) -> Any:
    """Emit a vector of a value in every lane."""
    undefined = ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined)
    first = builder.insert_element(undefined, value, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(ir.IntType(32), lanes), None))


@intrinsic
def add_counts(typingctx: Any, words: Any, at: Any, first: Any, thresholds: Any, weight: Any, variable: Any, place: Any
               ) -> Any:  # fmt: skip
    """Add `weight * (first + n)` to `FLAGGED` values from `place` on: n thresholds lie at or below the word of each.

    Without a branch, and the words of many values at once.

    Args:
        words, at: random words (uint32), the first of which is at `at`.
        first, thresholds: from `poisson_table`; uint32.
        weight, variable, place: what to add to, of the type of `weight`.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        source, levels, state = (context.make_array(signature.args[k])(context, builder, args[k]) for k in (0, 3, 5))
        vector, spread = ir.VectorType(ir.IntType(32), FLAGGED), partial(splat, builder, lanes=FLAGGED)
        # Comparisons of signed numbers are those that most processors have: the order of words with the sign turned.
        sign = ir.Constant(ir.IntType(32), -(2**31))
        found = builder.load(builder.bitcast(builder.gep(source.data, [args[1]]), vector.as_pointer()), align=4)
        found = builder.xor(found, spread(sign))
        number = builder.extract_value(levels.shape, 0)
        most = builder.add(builder.trunc(args[2], ir.IntType(32)), builder.trunc(number, ir.IntType(32)))
        counts = cgutils.alloca_once_value(builder, spread(most))
        with cgutils.for_range(builder, number) as loop:
            level = spread(builder.xor(builder.load(builder.gep(levels.data, [loop.index])), sign))
            is_above = builder.sext(builder.icmp_signed(">", level, found), vector)
            builder.store(builder.add(builder.load(counts), is_above), counts)
        values = ir.VectorType(state.data.type.pointee, FLAGGED)
        target = builder.bitcast(builder.gep(state.data, [args[6]]), values.as_pointer())
        added = builder.fmul(builder.sitofp(builder.load(counts), values), spread(args[4]))
        size = state.data.type.pointee.get_abi_size(context.target_data)
        builder.store(builder.fadd(builder.load(target, align=size), added), target, align=size)
        return context.get_dummy_value()

    index = types.int64
    return types.void(words, index, index, thresholds, variable.dtype, variable, index), codegen


def ask_for_line(builder: Any, address: Any) -> None:
    """Emit a request for the cache line that holds an address; one past the end of an array does no harm."""
    byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(ir.VoidType(), [byte, word, word, word]), "llvm.prefetch.p0"
    )
    # For reading, to be kept in every level of cache, data.
    builder.call(function, [builder.bitcast(address, byte), word(0), word(3), word(1)])


@intrinsic
def prefetch(typingctx: Any, values: Any, position: Any) -> Any:
    """Ask for the cache line that holds `values[position]`; a position past the end does no harm."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        ask_for_line(builder, builder.gep(data, [args[1]]))
        return context.get_dummy_value()

    return types.void(values, types.int64), codegen
