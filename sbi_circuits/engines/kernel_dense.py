"""Delivery of many spikes at once over dense wiring (numba): counts as bit planes, a vector of bits at a time.

A row of the wiring is also kept as bits, one for each target. The spikes that arrive in a step are counted for all
targets of a vector (256 or 512) together by carry-save adders on the bits of their rows (Harley-Seal; Mula, Kurz,
Lemire 2018, Comput J 61:111), which leaves the count of target j in bit j of a few planes; each plane is then added to
the state where it has bits. The cost grows little with the number of spikes, so lists of targets stay better where few
arrive.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from sbi_circuits.engines.intrinsics import ask_for_line, splat

# Planes count up to 2^7 - 1 spikes; more of them are counted in turns.
PLANES, MOST = 7, 127
# With registers for masks (AVX-512) 16 values are added under 16 bits of a plane. Without, 8 of them under what is made
# of the bits by arithmetic, and vectors of bits are half as long, as seven planes fill half of the registers.
HAS_MASKS = bool(binding.get_host_cpu_features().get("avx512bw", False))
# Words of 64 targets in a vector of bits; rows and planes are made of whole vectors.
VECTOR_WORDS = 8 if HAS_MASKS else 4
_WORD, _LINE_WORDS = 64, 8
_I64, _I32 = ir.IntType(64), ir.IntType(32)
_BITS = ir.VectorType(_I64, VECTOR_WORDS)
# Targets of the spikes of a step, for each word of a row, from which planes are faster than lists (measured); wiring
# with fewer targets than the second in a word would take more memory as bits than as lists, and rarely pay.
_EVENTS_PER_WORD, _LEAST_PER_WORD = (7.0 if HAS_MASKS else 20.0), 1.0
NEVER = 2**31


def words_of(targets: int) -> int:
    """Words of a row of bits over that many targets."""
    return -(-targets // (_WORD * VECTOR_WORDS)) * VECTOR_WORDS


@njit(cache=True)
def set_bits(indptr, targets, bits):  # type: ignore[no-untyped-def]
    """Write the rows of sources as bits (sources, words): bit j % 64 of word j // 64 is target j."""
    bits[:] = 0
    for i in range(len(indptr) - 1):
        for k in range(indptr[i], indptr[i + 1]):
            j = np.uint64(targets[k])
            bits[i, j >> np.uint64(6)] |= np.uint64(1) << (j & np.uint64(63))


def _full_adder(builder: Any, a: Any, b: Any, c: Any) -> tuple[Any, Any]:
    """Sum and carry of three bits, in each place of a vector."""
    either = builder.xor(a, b)
    return builder.xor(either, c), builder.or_(builder.and_(a, b), builder.and_(either, c))


def _is_any(builder: Any, bits: Any) -> Any:
    """Whether any bit of a vector is set."""
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(_I64, [_BITS]), f"llvm.vector.reduce.or.v{VECTOR_WORDS}i64"
    )
    return builder.icmp_unsigned("!=", builder.call(function, [bits]), _I64(0))


class _Counters:
    """Planes of counters in registers, and the steps that add rows of bits to them."""

    def __init__(self, builder: Any, planes: int):
        self.builder = builder
        self.planes = [cgutils.alloca_once_value(builder, ir.Constant(_BITS, None)) for _ in range(planes)]

    def add(self, carry: Any, level: int) -> None:
        """Add 2^level where `carry` has a bit."""
        for plane in self.planes[level:]:
            old = self.builder.load(plane)
            self.builder.store(self.builder.xor(old, carry), plane)
            carry = self.builder.and_(old, carry)

    def add_rows(self, rows: list[Callable[[], Any]]) -> None:
        """Add 2^n rows, each loaded when it is needed."""
        self.add(self._carry(rows), len(rows).bit_length() - 1)

    def _carry(self, rows: list[Callable[[], Any]]) -> Any:
        """What is left to add of 2^n rows, with weight 2^n."""
        if len(rows) == 1:
            return rows[0]()
        half = len(rows) // 2
        first, second = self._carry(rows[:half]), self._carry(rows[half:])
        plane = self.planes[half.bit_length() - 1]
        total, carry = _full_adder(self.builder, self.builder.load(plane), first, second)
        self.builder.store(total, plane)
        return carry


def _counting(planes: int) -> Any:
    """Intrinsic that counts the bits of some rows over a vector; returns how many planes the counts need."""

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
                place = builder.gep(rows.data, [builder.add(builder.mul(source, stride), word)])
                # The next vectors of all rows are read after this one of all: time enough for a line to come.
                ask_for_line(builder, builder.gep(place, [_I64(_LINE_WORDS)]))
                return builder.load(builder.bitcast(place, _BITS.as_pointer()), align=8)

            counters, done = _Counters(builder, planes), _I64(0)
            # More together take fewer operations; the rest of them is added one by one.
            together = min(1 << (planes // 2), 8)
            if planes > 2:
                done = builder.and_(number, _I64(-together))
                with cgutils.for_range_slice(builder, _I64(0), done, _I64(together)) as (s, _):
                    counters.add_rows([partial(row, builder.add(s, _I64(k))) for k in range(together)])
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


def _added_under_masks(builder: Any, bits: Any, amount: Any, values: list[Any]) -> list[Any]:
    """Add `amount` where there are bits of 64 or 32 targets, 16 at a time."""
    amounts, found = splat(builder, amount, 16), []
    for q, old in enumerate(values):
        part = builder.trunc(builder.lshr(bits, ir.Constant(bits.type, 16 * q)), ir.IntType(16))
        mask = builder.bitcast(part, ir.VectorType(ir.IntType(1), 16))
        found.append(builder.select(mask, builder.fadd(old, amounts), old))
    return found


def _added_by_tests(builder: Any, bits: Any, amount: Any, values: list[Any]) -> list[Any]:
    """Add `amount` or zero, as there are bits of 32 targets, 8 at a time."""
    integers = ir.VectorType(_I32, 8)
    spread, found = splat(builder, bits, 8), []
    amounts = splat(builder, amount, 8)
    for q, old in enumerate(values):
        places = ir.Constant(integers, [1 << (8 * q + lane) for lane in range(8)])
        is_set = builder.icmp_unsigned("==", builder.and_(spread, places), places)
        found.append(builder.fadd(old, builder.select(is_set, amounts, ir.Constant(amounts.type, None))))
    return found


def _adding(targets: int, masks: bool) -> Any:
    """Intrinsic that adds the planes of a stack to 64 or 32 targets, the first of which is `block * targets`."""
    lanes, added = (16, _added_under_masks) if masks else (8, _added_by_tests)

    @intrinsic
    def add_planes(typingctx: Any, stack: Any, factors: Any, number: Any, block: Any, variable: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            planes, factor, state = (
                context.make_array(signature.args[k])(context, builder, args[k]) for k in (0, 1, 4)
            )
            number, block = args[2], args[3]
            width = builder.mul(builder.extract_value(planes.shape, 1), _I64(_WORD // targets))
            words = builder.bitcast(planes.data, ir.IntType(targets).as_pointer())
            vector = ir.VectorType(state.data.type.pointee, lanes).as_pointer()
            base = builder.mul(block, _I64(targets))
            starts = [builder.add(base, _I64(start)) for start in range(0, targets, lanes)]
            places = [builder.bitcast(builder.gep(state.data, [start]), vector) for start in starts]
            values = [cgutils.alloca_once_value(builder, builder.load(place, align=4 * lanes)) for place in places]
            with cgutils.for_range(builder, number) as loop:
                bits = builder.load(builder.gep(words, [builder.add(builder.mul(loop.index, width), block)]))
                amount = builder.load(builder.gep(factor.data, [loop.index]))
                for value, new in zip(
                    values, added(builder, bits, amount, [builder.load(v) for v in values]), strict=True
                ):
                    builder.store(new, value)
            for place, value in zip(places, values, strict=True):
                builder.store(builder.load(value), place, align=4 * lanes)
            return context.get_dummy_value()

        return types.void(stack, factors, types.int64, types.int64, variable), codegen

    return add_planes


# Constants of 64 targets would not fit beside their values where registers are few.
_BLOCK = 64 if HAS_MASKS else 32
_add_block, _add_32 = _adding(_BLOCK, HAS_MASKS), _adding(32, HAS_MASKS)


@njit(cache=True)
def expand(stack, factors, number, variable):  # type: ignore[no-untyped-def]
    """Add `factors[p]` to the targets in plane p, for the first `number` planes: `variable` holds whole 32 values."""
    whole = len(variable) // _BLOCK
    for block in range(whole):
        _add_block(stack, factors, number, block, variable)
    if len(variable) % _BLOCK:
        _add_32(stack, factors, number, 2 * whole, variable)


@njit(cache=True)
def _count(bits, ring, past, start, count, stack, first):  # type: ignore[no-untyped-def]
    """Count the bits of the rows of at most `MOST` spikes, from `start` on; returns the number of planes."""
    planes = np.int64(0)
    for word in range(0, bits.shape[1], VECTOR_WORDS):
        if count < 4:
            used = _count_3(bits, ring, past, start, count, word, stack, first)
        elif count < 16:
            used = _count_15(bits, ring, past, start, count, word, stack, first)
        else:
            used = _count_127(bits, ring, past, start, count, word, stack, first)
        planes = max(planes, used)
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
    joined: Sequence[Sequence[int]],
    groups: Sequence[Sequence[int]],
    wiring: Sequence[tuple[np.ndarray, np.ndarray]],
    distinct: Sequence[bool],
    targets: Sequence[int],
    real: Any,
) -> dict[str, Any]:
    """Room for the rows as bits where planes can pay, and the stack of each group, allocated for one simulation.

    Args:
        joined: numbers of the projections whose spikes are delivered together, either way.
        groups: numbers of the projections that add to the same variable.
        wiring: indptr and targets of each projection.
        distinct: whether no two synapses of a projection join the same pair.
        targets: size of the target population of each projection.
        real: type of the state.

    Returns:
        bits: of each projection, (sources, words) uint64 for `set_bits`, or no rows; enough: of each entry of `joined`
        the number of spikes from which planes are cheaper than lists; stack, factors: of each group, for `tally`.
    """
    words = [words_of(n) for n in targets]
    enough = [_enough([(*wiring[k], words[k]) for k in g]) if all(distinct[k] for k in g) else NEVER for g in joined]
    planned = {k for g, least in zip(joined, enough, strict=True) if least < NEVER for k in g}
    rows = [len(indptr) - 1 if k in planned and len(found) else 0 for k, (indptr, found) in enumerate(wiring)]
    return {
        "bits": tuple(_whole_lines((n, words[k])) for k, n in enumerate(rows)),
        "enough": np.array(enough, dtype=np.int64),
        "stack": tuple(_whole_lines((PLANES * len(g), words[g[0]])) for g in groups),
        "factors": tuple(np.zeros(PLANES * len(g), dtype=real) for g in groups),
    }


def _whole_lines(shape: tuple[int, int]) -> np.ndarray:
    """An array of words, not filled, that starts at a cache line: no vector of it then lies in two."""
    size = shape[0] * shape[1]
    room = np.empty(size + _LINE_WORDS, dtype=np.uint64)
    start = -(room.ctypes.data // 8) % _LINE_WORDS
    return room[start : start + size].reshape(shape)


def _enough(members: Sequence[tuple[np.ndarray, np.ndarray, int]]) -> int:
    """Number of spikes from which rows as bits are cheaper than lists: indptr, targets and words of each projection."""
    present = [entry for entry in members if len(entry[1])]
    events = sum(len(targets) for _, targets, _ in present)
    most = sum(words * (len(indptr) - 1) for indptr, _, words in present)
    if not present or events < _LEAST_PER_WORD * most:
        return NEVER
    return max(int(np.ceil(_EVENTS_PER_WORD * most / events)), 1)
