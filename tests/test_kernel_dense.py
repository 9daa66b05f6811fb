"""Delivery of spikes by bit planes: the same sums as lists of targets, at every number of spikes."""

from unittest import mock

import numpy as np
import pytest
from numba import njit

from sbi_circuits.circuit import Record, get_circuit
from sbi_circuits.engines import Protocol, get_engine, kernel_dense
from sbi_circuits.engines.kernel_dense import MOST, NEVER, dense_arguments, expand, set_bits, tally

SOURCES = 300


def _wiring(targets, probability, seed):
    matrix = np.random.default_rng(seed).random((SOURCES, targets)) < probability
    indptr = np.concatenate([[0], np.cumsum(matrix.sum(1))])
    return matrix, (indptr, np.nonzero(matrix)[1].astype(np.uint16))


def _aligned(size):
    raw = np.zeros(4 * size + 64, dtype=np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + 4 * size].view(np.float32)


@pytest.mark.parametrize("targets", [1, 63, 400, 512, 513, 1600, 2000])
@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 15, 16, 77, MOST, MOST + 1, 300])
def test_planes_add_what_the_rows_say(targets, count):
    """Law: two projections onto one variable, small whole weights, so that every sum is exact."""
    matrices, rows = zip(*(_wiring(targets, p, seed) for p, seed in ((0.3, 1), (0.05, 2))), strict=True)
    with mock.patch.object(kernel_dense, "_LEAST_PER_WORD", 0.0):
        dense = dense_arguments(((0,), (1,)), ((0, 1),), rows, [True, True], [targets, targets], np.float32)
    (stack,), (factors,) = dense["stack"], dense["factors"]
    ring = np.random.default_rng(3).permutation(SOURCES)[None, :].astype(np.int32)
    variable, filled = _aligned(-(-targets // 32) * 32), 0
    variable[:targets] = np.arange(targets) % 5
    for row, bits, weight in zip(rows, dense["bits"], (np.float32(2), np.float32(3)), strict=True):
        assert not bits.ctypes.data % 64
        set_bits(*row, bits)
        filled = tally(bits, weight, ring, 0, count, variable, stack, factors, filled)
    expand(stack, factors, filled, variable)
    spiked = ring[0, :count]
    expected = np.arange(targets) % 5 + 2 * matrices[0][spiked].sum(0) + 3 * matrices[1][spiked].sum(0)
    assert np.array_equal(variable[:targets], expected)
    assert not variable[targets:].any()


@pytest.mark.parametrize(("targets", "masks"), [(64, True), (32, True), (32, False)])
def test_both_ways_of_adding_a_plane_add_to_the_targets_with_bits(targets, masks):
    """Whether or not the processor has registers for masks, as both are made for any."""
    add = kernel_dense._adding(targets, masks)

    @njit
    def add_all(stack, factors, number, variable):  # type: ignore[no-untyped-def]
        for block in range(len(variable) // targets):
            add(stack, factors, number, block, variable)

    stack = np.random.default_rng(4).integers(0, 2**64, (5, 8), dtype=np.uint64)
    factors, variable = np.array([1, 2, 4, 8, 64], dtype=np.float32), _aligned(64 * 7)
    variable[:] = np.arange(len(variable)) % 3
    is_set = np.unpackbits(stack.view(np.uint8), axis=1, bitorder="little")[:, : len(variable)]
    expected = variable + (factors[:4, None] * is_set[:4]).sum(0)
    add_all(stack, factors, 4, variable)
    assert np.array_equal(variable, expected)


def test_few_spikes_and_thin_wiring_take_lists():
    _, dense_rows = _wiring(640, 0.3, 0)
    _, thin_rows = _wiring(640, 0.002, 0)
    none = (np.zeros(SOURCES + 1, dtype=np.int64), np.zeros(0, dtype=np.uint16))
    rows = (dense_rows, thin_rows, dense_rows, dense_rows, none, none)
    distinct = [True, True, False, True, True, True]
    arguments = dense_arguments(((0, 4), (1,), (2, 3), (5,)), (), rows, distinct, [640] * 6, np.float32)
    enough = arguments["enough"]
    assert 1 <= enough[0] < 10
    assert enough[1] == NEVER, "too thin"
    assert enough[2] == NEVER, "pairs of one may be joined twice, which a bit cannot say, and both go one way"
    assert enough[3] == NEVER, "nothing to deliver"
    assert [b.shape[0] for b in arguments["bits"]] == [SOURCES, 0, 0, 0, 0, 0]
    both = dense_arguments(((0, 1),), (), rows[:2], distinct[:2], [640] * 2, np.float32)["enough"]
    assert enough[0] < both[0] < 3 * enough[0], "a thin projection beside a dense one costs its words"


@pytest.mark.parametrize("name", ["adex_clustered", "brunel"])
def test_simulations_do_not_depend_on_the_delivery(name):
    """Planes and lists round differently only: rates of a short simulation agree."""
    circuit, engine = get_circuit(name), get_engine("kernel[numba]")
    protocol = Protocol(0.2, record=Record(spikes=0, counts=True), early_stop=False)
    counts = []
    for least in (0.0, np.inf):
        with mock.patch.multiple(kernel_dense, _EVENTS_PER_WORD=1.0, _LEAST_PER_WORD=least):
            recording = engine.run(circuit, circuit.default_theta(), protocol, 0, 0).recording
        counts.append(np.array([c.values.sum() for c in recording.counts.values()]))
    assert counts[0].sum() > 100
    assert counts[1] == pytest.approx(counts[0], rel=0.02)
