"""Delivery of many spikes at once over dense wiring (numba): counts as bit planes, 512 targets at a time.

A row of the wiring is also kept as bits, one for each target. The spikes that arrive in a step are counted for 512
targets together by carry-save adders on the bits of their rows (Harley-Seal; Mula, Kurz, Lemire 2018, Comput J 61:111),
which leaves the count of target j in bit j of a few planes; each plane is then added to the state under its
mask. The cost hardly depends on the number of spikes, so lists of targets stay better where few arrive.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from sbi_circuits.engines.intrinsics import prefetch

# Planes count up to 2^7 - 1 spikes; more of them are counted in turns.
PLANES, MOST = 7, 127
# Words of 64 targets in a vector of 512 bits; rows and planes are at least as long.
VECTOR_WORDS = 8
_WORD, _LANES = 64, 16
_I64, _I32, _I16 = ir.IntType(64), ir.IntType(32), ir.IntType(16)
_BITS = ir.VectorType(_I64, VECTOR_WORDS)
_MASK = ir.VectorType(ir.IntType(1), _LANES)
# Targets of the spikes of a step, for each word of a row, from which planes are faster than lists (measured); wiring
# with fewer targets than the second in a word would take more memory as bits than as lists, and rarely pay.
_EVENTS_PER_WORD, _LEAST_PER_WORD = 7.0, 1.0
NEVER = 2**31
# Without masked addition the planes are no faster than lists.
_HAS_MASKS = bool(binding.get_host_cpu_features().get("avx512bw", False))


def words_of(targets: int) -> int:
    """Words of a row of bits over that many targets."""
    return max(-(-targets // _WORD), VECTOR_WORDS)


@njit(cache=True)
def row_bits(indptr, targets, words):  # type: ignore[no-untyped-def]
    """The rows of sources as bits: (sources, words) uint64; bit j % 64 of word j // 64 is target j."""
    bits = np.zeros((len(indptr) - 1, words), dtype=np.uint64)
    for i in range(len(indptr) - 1):
        for k in range(indptr[i], indptr[i + 1]):
            j = np.uint64(targets[k])
            bits[i, j >> np.uint64(6)] |= np.uint64(1) << (j & np.uint64(63))
    return bits


def _full_adder(builder: Any, a: Any, b: Any, c: Any) -> tuple[Any, Any]:
    """Sum and carry of three bits, in each of 512 places."""
    either = builder.xor(a, b)
    return builder.xor(either, c), builder.or_(builder.and_(a, b), builder.and_(either, c))


def _is_any(builder: Any, bits: Any) -> Any:
    """Whether any of 512 bits is set."""
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(_I64, [_BITS]), f"llvm.vector.reduce.or.v{VECTOR_WORDS}i64"
    )
    return builder.icmp_unsigned("!=", builder.call(function, [bits]), _I64(0))


class _Counters:
    """Planes of 512 counters in registers, and the steps that add rows of bits to them."""

    def __init__(self, builder: Any, planes: int):
        self.builder = builder
        self.planes = [cgutils.alloca_once_value(builder, ir.Constant(_BITS, None)) for _ in range(planes)]

    def add(self, carry: Any, level: int) -> None:
        """Add 2^level where `carry` has a bit."""
        for plane in self.planes[level:]:
            old = self.builder.load(plane)
            self.builder.store(self.builder.xor(old, carry), plane)
            carry = self.builder.and_(old, carry)

    def add_four(self, rows: list[Any]) -> None:
        ones, twos = (self.builder.load(plane) for plane in self.planes[:2])
        ones, first = _full_adder(self.builder, ones, rows[0], rows[1])
        ones, second = _full_adder(self.builder, ones, rows[2], rows[3])
        twos, carry = _full_adder(self.builder, twos, first, second)
        self.builder.store(ones, self.planes[0])
        self.builder.store(twos, self.planes[1])
        self.add(carry, 2)


def _counting(planes: int) -> Any:
    """Intrinsic that counts the bits of some rows over 512 targets; returns how many planes the counts need."""

    @intrinsic
    def count_bits(typingctx: Any, bits: Any, ring: Any, past: Any, start: Any, count: Any, word: Any, stack: Any,
                   first: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            rows, spikes, counts = (
                context.make_array(signature.args[k])(context, builder, args[k]) for k in (0, 1, 6)
            )
            stride, length, width = (builder.extract_value(a.shape, 1) for a in (rows, spikes, counts))
            past, start, number, word, first = args[2], args[3], args[4], args[5], args[7]
            chosen = builder.gep(spikes.data, [builder.add(builder.mul(past, length), start)])

            def row(position: Any) -> Any:
                source = builder.zext(builder.load(builder.gep(chosen, [position])), _I64)
                start = builder.add(builder.mul(source, stride), word)
                return builder.load(builder.bitcast(builder.gep(rows.data, [start]), _BITS.as_pointer()), align=8)

            counters, done = _Counters(builder, planes), _I64(0)
            if planes > 2:
                done = builder.and_(number, _I64(-4))
                with cgutils.for_range_slice(builder, _I64(0), done, _I64(4)) as (s, _):
                    counters.add_four([row(builder.add(s, _I64(k))) for k in range(4)])
            with cgutils.for_range_slice(builder, done, number, _I64(1)) as (s, _):
                counters.add(row(s), 0)
            used = _I64(0)
            for p, plane in enumerate(counters.planes):
                start = builder.add(builder.mul(builder.add(first, _I64(p)), width), word)
                place = builder.bitcast(builder.gep(counts.data, [start]), _BITS.as_pointer())
                builder.store(builder.load(plane), place, align=8)
                used = builder.select(_is_any(builder, builder.load(plane)), _I64(p + 1), used)
            return used

        index = types.int64
        return index(bits, ring, index, index, index, index, stack, index), codegen

    return count_bits


_count_3, _count_15, _count_127 = _counting(2), _counting(4), _counting(PLANES)


def _splat(builder: Any, value: Any, vector: Any) -> Any:
    lanes = ir.Constant(ir.VectorType(_I32, _LANES), [0] * _LANES)
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), value, _I32(0))
    return builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), lanes)


def _adding(vectors: int) -> Any:
    """Intrinsic that adds the planes of a stack to `16 * vectors` targets."""

    @intrinsic
    def add_planes(typingctx: Any, stack: Any, factors: Any, number: Any, word: Any, variable: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            planes, factor, state = (
                context.make_array(signature.args[k])(context, builder, args[k]) for k in (0, 1, 4)
            )
            width, number, word = builder.extract_value(planes.shape, 1), args[2], args[3]
            vector = ir.VectorType(state.data.type.pointee, _LANES)
            base = builder.mul(word, _I64(_WORD))
            places = [
                builder.bitcast(builder.gep(state.data, [builder.add(base, _I64(_LANES * q))]), vector.as_pointer())
                for q in range(vectors)
            ]
            values = [cgutils.alloca_once_value(builder, builder.load(place, align=64)) for place in places]
            with cgutils.for_range(builder, number) as loop:
                at = builder.gep(planes.data, [builder.add(builder.mul(loop.index, width), word)])
                amount = _splat(builder, builder.load(builder.gep(factor.data, [loop.index])), vector)
                parts = builder.bitcast(at, _I16.as_pointer())
                for q, value in enumerate(values):
                    mask = builder.bitcast(builder.load(builder.gep(parts, [_I64(q)])), _MASK)
                    old = builder.load(value)
                    builder.store(builder.select(mask, builder.fadd(old, amount), old), value)
            for place, value in zip(places, values, strict=True):
                builder.store(builder.load(value), place, align=64)
            return context.get_dummy_value()

        return types.void(stack, factors, types.int64, types.int64, variable), codegen

    return add_planes


_add_64, _add_32 = _adding(4), _adding(2)


@njit(cache=True)
def prefetch_bits(bits, ring, past, count):  # type: ignore[no-untyped-def]
    """Ask for the rows of all spikes: their misses then wait together."""
    width = bits.shape[1]
    for s in range(count):
        start = np.int64(ring[past, s]) * width
        for k in range(0, width, VECTOR_WORDS):
            prefetch(bits, start + k)


@njit(cache=True)
def expand(stack, factors, number, variable):  # type: ignore[no-untyped-def]
    """Add `factors[p]` to the targets in plane p, for the first `number` planes: `variable` holds whole 32 values."""
    whole = len(variable) // 64
    for word in range(whole):
        _add_64(stack, factors, number, word, variable)
    if len(variable) % 64:
        _add_32(stack, factors, number, whole, variable)


@njit(cache=True)
def _count(bits, ring, past, start, count, stack, first):  # type: ignore[no-untyped-def]
    """Count the bits of the rows of at most `MOST` spikes, from `start` on; returns the number of planes."""
    planes, word, last = np.int64(0), 0, bits.shape[1] - VECTOR_WORDS
    while True:
        # The last vector may overlap the one before, and then writes the same counts again.
        at = min(word, last)
        if count < 4:
            used = _count_3(bits, ring, past, start, count, at, stack, first)
        elif count < 16:
            used = _count_15(bits, ring, past, start, count, at, stack, first)
        else:
            used = _count_127(bits, ring, past, start, count, at, stack, first)
        planes = max(planes, used)
        word += VECTOR_WORDS
        if at == last:
            return planes


@njit(cache=True)
def tally(bits, weight, ring, past, count, variable, stack, factors, filled):  # type: ignore[no-untyped-def]
    """Count the spikes of one projection into planes, pushed on a stack for `expand`.

    Args:
        bits: the rows of sources.
        weight: what a spike adds.
        ring, past, count: the first `count` entries of `ring[past]` are the sources that spiked.
        variable: of the targets.
        stack, factors: planes (planes, words) of uint64, and what each adds.
        filled: planes on the stack.

    Returns:
        The planes on the stack afterwards.
    """
    done = 0
    while True:
        turn = min(count - done, MOST)
        planes = _count(bits, ring, past, done, turn, stack, filled)
        for p in range(planes):
            factors[filled + p] = weight * (1 << p)
        done += turn
        if done == count:
            return filled + planes
        expand(stack, factors, filled + planes, variable)
        filled = 0


def dense_arguments(
    groups: tuple[tuple[int, ...], ...],
    wiring: Sequence[tuple[np.ndarray, np.ndarray]],
    distinct: Sequence[bool],
    targets: Sequence[int],
    real: Any,
) -> dict[str, Any]:
    """The rows as bits where planes can pay, and the stack of each group, allocated for one simulation.

    Args:
        groups: numbers of the projections that add to the same variable.
        wiring: indptr and targets of each projection.
        distinct: whether no two synapses of a projection join the same pair.
        targets: size of the target population of each projection.
        real: type of the state.
    """
    planned = {k for group in groups for k in group if distinct[k]}
    rows = [
        _row_bits(*entry, words_of(targets[k])) if k in planned else _no_bits() for k, entry in enumerate(wiring)
    ]
    return {
        "bits": tuple(bits for bits, _ in rows),
        "enough": np.array([enough for _, enough in rows], dtype=np.int64),
        "stack": tuple(np.zeros((PLANES * len(g), words_of(targets[g[0]])), dtype=np.uint64) for g in groups),
        "factors": tuple(np.zeros(PLANES * len(g), dtype=real) for g in groups),
    }


def _no_bits() -> tuple[np.ndarray, int]:
    return np.zeros((0, VECTOR_WORDS), dtype=np.uint64), NEVER


def _row_bits(indptr: np.ndarray, targets: np.ndarray, words: int) -> tuple[np.ndarray, int]:
    """Rows as bits, and the number of spikes from which they are cheaper than lists."""
    sources = len(indptr) - 1
    if len(targets) < _LEAST_PER_WORD * words * sources or not _HAS_MASKS:
        return _no_bits()
    return row_bits(indptr, targets, words), max(int(np.ceil(_EVENTS_PER_WORD * words * sources / len(targets))), 1)
