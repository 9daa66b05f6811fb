"""Delivery of spikes by bit planes: the same sums as lists of targets, at every number of spikes."""

from unittest import mock

import numpy as np
import pytest

from sbi_circuits.circuit import Record, get_circuit
from sbi_circuits.engines import Protocol, get_engine, kernel_dense
from sbi_circuits.engines.kernel_dense import MOST, dense_arguments, expand, tally

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
    with mock.patch.multiple(kernel_dense, _HAS_MASKS=True, _LEAST_PER_WORD=0.0):
        dense = dense_arguments(((0, 1),), rows, [True, True], [targets, targets], np.float32)
    (stack,), (factors,) = dense["stack"], dense["factors"]
    ring = np.random.default_rng(3).permutation(SOURCES)[None, :].astype(np.int32)
    variable, filled = _aligned(-(-targets // 32) * 32), 0
    variable[:targets] = np.arange(targets) % 5
    for bits, weight in zip(dense["bits"], (np.float32(2), np.float32(3)), strict=True):
        filled = tally(bits, weight, ring, 0, count, variable, stack, factors, filled)
    expand(stack, factors, filled, variable)
    spiked = ring[0, :count]
    expected = np.arange(targets) % 5 + 2 * matrices[0][spiked].sum(0) + 3 * matrices[1][spiked].sum(0)
    assert np.array_equal(variable[:targets], expected)
    assert not variable[targets:].any()


def test_few_spikes_and_thin_wiring_take_lists():
    _, dense_rows = _wiring(640, 0.3, 0)
    _, thin_rows = _wiring(640, 0.002, 0)
    with mock.patch.object(kernel_dense, "_HAS_MASKS", True):
        arguments = dense_arguments(((0, 1), (2,)), (dense_rows, thin_rows, dense_rows), [True, True, False],
                                    [640] * 3, np.float32)  # fmt: skip
    enough = arguments["enough"]
    assert 1 <= enough[0] < 10
    assert enough[1] > SOURCES, "too thin"
    assert enough[2] > SOURCES, "pairs may be joined twice, which a bit cannot say"
    assert [b.shape[0] for b in arguments["bits"]] == [SOURCES, 0, 0]


@pytest.mark.parametrize("name", ["adex_clustered", "brunel"])
def test_simulations_do_not_depend_on_the_delivery(name):
    """Planes and lists round differently only: rates of a short simulation agree."""
    circuit, engine = get_circuit(name), get_engine("kernel[numba]")
    protocol = Protocol(0.2, record=Record(spikes=0, counts=True), early_stop=False)
    counts = []
    for masks in (False, True):
        with mock.patch.object(kernel_dense, "_HAS_MASKS", masks):
            recording = engine.run(circuit, circuit.default_theta(), protocol, 0, 0).recording
        counts.append(np.array([c.values.sum() for c in recording.counts.values()]))
    assert counts[0].sum() > 100
    assert counts[1] == pytest.approx(counts[0], rel=0.02)
