"""Rows of several projections side by side: the same sums as a matrix of each, and the flags of neurons that spiked."""

import dataclasses
import itertools

import numba
import numpy as np
import pytest

from sbi_circuits.circuit import Circuit, Independent, Population, Projection, Record
from sbi_circuits.engines import Protocol, kernel_dense, kernel_numba, kernel_rows
from sbi_circuits.engines.delivery_source import joined_groups
from sbi_circuits.engines.intrinsics import FLAGGED, trailing_zeros
from sbi_circuits.engines.kernel_dense import dense_arguments
from sbi_circuits.engines.kernel_numba import NumbaEngine
from sbi_circuits.engines.kernel_parts import LINE, LOG, gather
from sbi_circuits.engines.kernel_rows import (
    AHEAD,
    LINES,
    UNROLLED,
    add_row,
    deliver_packed,
    join,
    pack,
    packed_bits,
    prefetch_arrivals,
    usual_lines,
)
from sbi_circuits.prior import Parameter, Prior

SOURCES = 50


def _rows(targets, probability, seed):
    matrix = np.random.default_rng(seed).random((SOURCES, targets)) < probability
    dtype = np.uint16 if targets < 2**16 else np.int32
    return matrix, (np.concatenate([[0], np.cumsum(matrix.sum(1))]), np.nonzero(matrix)[1].astype(dtype))


@pytest.mark.parametrize("sizes", [(40,), (300, 40), (300, 7, 1), (70_000, 300)])
def test_joined_rows_hold_every_projection(sizes):
    matrices, rows = zip(*(_rows(n, 0.9 if k % 2 else 0.05, k) for k, n in enumerate(sizes)), strict=True)
    starts, targets = join(rows)
    assert len(targets) == sum(len(t) for _, t in rows)
    for i in range(SOURCES):
        for p, matrix in enumerate(matrices):
            at = i * len(sizes) + p
            assert np.array_equal(targets[starts[at] : starts[at + 1]], np.nonzero(matrix[i])[0])


def test_no_synapses_and_no_sources_can_be_joined():
    empty = (np.zeros(SOURCES + 1, dtype=np.int64), np.zeros(0, dtype=np.uint16))
    starts, targets = join([empty, empty])
    assert not starts.any() and len(starts) == 2 * SOURCES + 1 and len(targets) == 0
    prefetch_arrivals(starts, targets, 2, LINES, np.zeros((1, SOURCES), dtype=np.int32), 0, SOURCES)
    starts, targets = join([(np.zeros(1, dtype=np.int64), np.zeros(0, dtype=np.uint16))] * 2)
    assert len(starts) == 1


@pytest.mark.parametrize("count", [0, 1, 5, SOURCES])
def test_packed_rows_add_what_every_projection_does(count):
    """Law: three projections, some sources without synapses in one of them; whole weights, so that sums are exact."""
    sizes, places, weights = (300, 300, 40), (400, 0, 700), np.array([2, 3, 5], dtype=np.float32)
    matrices, rows = zip(*(_rows(n, p, n) for n, p in zip(sizes, (0.05, 0.2, 0.01), strict=True)), strict=True)
    spare = 740
    bits = packed_bits(rows, places, spare)
    assert bits == 10
    starts, entries = pack(rows, places, spare, bits)
    assert not (starts % UNROLLED).any() and starts[-1] == len(entries)
    heard, expected = np.zeros(1024, dtype=np.float32), np.zeros(1024)
    ring = np.random.default_rng(3).permutation(SOURCES)[None, :].astype(np.int32)
    assert count <= AHEAD or count == SOURCES
    deliver_packed(starts, entries, weights, bits, usual_lines(SOURCES, entries), ring, 0, count, heard)
    for matrix, size, place, weight in zip(matrices, sizes, places, weights, strict=True):
        expected[place : place + size] += weight * matrix[ring[0, :count]].sum(0)
    nobodys = slice(spare, spare + UNROLLED)
    assert (count == 0) == (not heard.any()) == (not heard[nobodys].any())
    heard[nobodys] = 0
    assert np.array_equal(heard, expected)


def test_rows_are_packed_where_it_pays_and_16_bits_suffice():
    _, thin = _rows(300, 0.1, 0)
    _, long = _rows(300, 0.95, 0)
    empty = (np.zeros(SOURCES + 1, dtype=np.int64), np.zeros(0, dtype=np.uint16))
    assert packed_bits([thin, thin], [0, 300], 600) == 10
    assert packed_bits([thin, thin], [0, 300], 1020) == 10
    assert packed_bits([thin, thin], [0, 300], 1021) == 11, "the last of the spare places counts"
    assert packed_bits([thin, empty], [0, 300], 600) == 0, "one loop"
    assert packed_bits([long, long], [0, 300], 600) == 0, "long rows"
    assert packed_bits([thin, thin], [0, 32_000], 32_300) == 15
    assert packed_bits([thin, thin], [0, 33_000], 33_300) == 0, "16 bits leave none, which cannot tell two apart"
    assert packed_bits([thin, thin, thin], [0, 32_000, 0], 32_300) == 0, "three projections need two bits"


@pytest.mark.parametrize("entries", [1, 32, 33, 100, 200, 5000])
def test_rows_are_asked_for_by_their_usual_length(entries):
    touched = max((2 * start + 2 * entries + 63) // 64 for start in range(32))
    assert usual_lines(SOURCES, np.zeros(SOURCES * entries, dtype=np.uint16)) == min(touched, LINES)
    assert usual_lines(0, np.zeros(0, dtype=np.int32)) <= 1


@pytest.mark.parametrize("length", [0, 1, LINE, 2 * LINE, 2 * LINE + 1, 5 * LINE + 3])
def test_a_row_adds_to_each_of_its_targets_once(length):
    targets = np.random.default_rng(length).permutation(400)[:length].astype(np.uint16)
    variable = np.zeros(400, dtype=np.float32)
    add_row(targets, np.uint64(0), np.uint64(length), np.float32(2), variable, 0)
    assert np.array_equal(variable, 2.0 * np.isin(np.arange(400), targets))


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 1.0])
def test_gather_finds_every_flag(share):
    fired = -(np.random.default_rng(0).random(320) < share).astype(np.int32)
    ring = np.zeros((2, 320), dtype=np.int32)
    words, places = np.empty(320 // FLAGGED, dtype=np.uint64), np.empty(320 // FLAGGED, dtype=np.int32)
    until = np.arange(320, dtype=np.int32)
    for _ in range(2):
        count = gather(fired, words, places, ring, 1, until, 400)
        assert np.array_equal(ring[1, :count], np.nonzero(fired)[0])
    assert not ring[0].any()
    assert np.array_equal(until, np.where(fired, 400, np.arange(320)))


def test_the_lowest_bit_is_found_and_none_is_known():
    lowest = numba.njit(lambda word: trailing_zeros(word))
    assert [lowest(np.uint64(word)) for word in (1, 2, 12, 2**63, 2**64 - 1, 0)] == [0, 1, 2, 63, 0, 64]


def _echo(delays: tuple[str, ...], absent: int = -1) -> Circuit:
    """Cells that fire without end, and cells that fire once enough has arrived.

    All that arrives is whole numbers and nothing decays, so that single precision is exact; the thresholds of the first
    population lie between the multiples of 0.001 that its voltages are.
    """
    count = "dx/dt = 0*x/ms : 1\ndy/dt = 0*y/ms : 1"
    cells = (
        Population("cell", "60", "dv/dt = 1/ms : 1", "v > 1.0005", "v -= 1", initial=(("v", "0.013*i"),)),
        Population("far", "90", count, "x - y > 30.5", "x -= 30"),
        Population("near", "33", count, "x > 400.5", "x -= 400"),
    )
    places = ("cell far x 1", "cell far y 0.1", "cell near x 0.6", "far near x 0.2", "near far y 0.3")
    projections = tuple(
        Projection(f"p{k}", source, target, Independent(p), str(k + 1), f"{variable}_post += weight", delays[k],
                   when="unused > 2" if k == absent else "")
        for k, (source, target, variable, p) in enumerate(map(str.split, places))
    )
    prior = Prior((Parameter("unused", "1", 0, 1),))
    return Circuit("echo", prior, cells, projections, dt=1e-4, defaults={"unused": 0.5})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("delays", "groups"),
    [
        (("0*ms",) * 5, ((0, 1, 2), (3,), (4,))),
        (("0*ms", "0.5*ms", "0*ms", "0.3*ms", "0*ms"), ((0, 2), (1,), (3,), (4,))),
    ],
)  # fmt: skip
@pytest.mark.parametrize("way", ["packed", "lists", "packed or planes", "lists or planes"])
def test_joined_rows_deliver_what_single_rows_do(delays, groups, way, monkeypatch):
    """Law: in double precision projections are delivered one by one, and here no sum is rounded in either."""
    monkeypatch.setattr(kernel_dense, "_LEAST_PER_WORD", 0.0 if "planes" in way else np.inf)
    # Rows of so few targets are one vector of words.
    monkeypatch.setattr(kernel_dense, "_EVENTS_PER_WORD", 280.0 / kernel_dense.VECTOR_WORDS)
    enough = []
    monkeypatch.setattr(kernel_numba, "dense_arguments", lambda *a: _noted(enough, dense_arguments(*a)))
    monkeypatch.setattr(kernel_rows, "_LONG", 128 if "packed" in way else 0)
    circuit = _echo(delays)
    assert joined_groups(circuit) == groups
    protocol = Protocol(0.2, record=Record(spikes=-1, counts=True, moments=True), early_stop=False)
    single, double = (
        NumbaEngine(precision).run(circuit, circuit.default_theta(), protocol, 1, 0).recording
        for precision in ("single", "double")
    )
    assert single is not None and double is not None
    spikes = np.bincount(np.round(double.times[: double.offsets[60]] / circuit.dt).astype(int))
    is_many = spikes[spikes > 0] >= enough[0][0]
    assert is_many.any() == ("planes" in way) and not is_many.all(), "steps of many spikes and of few"
    assert all(counts.values.sum() > 100 for counts in double.counts.values())
    assert np.array_equal(single.offsets, double.offsets) and np.array_equal(single.times, double.times)
    for name, counts in double.counts.items():
        assert np.array_equal(single.counts[name].values, counts.values)


def _noted(found, arguments):
    found.append(arguments["enough"])
    return arguments


@pytest.mark.parametrize("absent", [0, 1])
def test_an_absent_projection_does_not_set_the_delay_of_those_it_is_joined_with(absent):
    circuit = _echo(("0.4*ms",) * 5, absent)
    protocol = Protocol(0.1, record=Record(spikes=-1), early_stop=False)
    single, double = (
        NumbaEngine(precision).run(circuit, circuit.default_theta(), protocol, 1, 0).recording
        for precision in ("single", "double")
    )
    assert len(double.times) > 5000 and np.array_equal(single.times, double.times)


@pytest.mark.parametrize("way", ["packed", "lists"])
def test_negative_control_a_lost_synapse_is_seen(way, monkeypatch):
    monkeypatch.setattr(kernel_dense, "_LEAST_PER_WORD", np.inf)
    monkeypatch.setattr(kernel_rows, "_LONG", 128 if way == "packed" else 0)
    circuit = dataclasses.replace(_echo(("0*ms",) * 5), name="echo_lost")
    protocol = Protocol(0.2, record=Record(spikes=-1), early_stop=False)
    expected = NumbaEngine("double").run(circuit, circuit.default_theta(), protocol, 1, 0).recording

    def one_lost(rows, *more):
        found = (pack if more else join)(rows, *more)
        found[0][1] -= 4
        return found

    monkeypatch.setattr(kernel_numba, "join", one_lost)
    monkeypatch.setattr(kernel_numba, "pack", one_lost)
    found = NumbaEngine().run(circuit, circuit.default_theta(), protocol, 1, 0).recording
    assert not np.array_equal(found.times, expected.times)


def test_the_log_of_spikes_is_emptied_in_time():
    """More spikes than the log holds, in a window that starts late: counts, intervals and rasters tell of the same."""
    circuit = _echo(("0*ms",) * 5)
    protocol = Protocol(0.3, warmup=0.0507, record=Record(spikes=-1, counts=True, moments=True), early_stop=False)
    recording = NumbaEngine().run(circuit, circuit.default_theta(), protocol, 1, 0).recording
    assert recording is not None
    groups, spikes = np.array(recording.groups), np.diff(recording.offsets)
    for name, moments in recording.moments.items():
        trains = [recording.times[a:b] for a, b in itertools.pairwise(recording.offsets)]
        intervals = [np.diff(train) for train, group in zip(trains, groups, strict=True) if group == name]
        assert np.array_equal(moments.spikes, spikes[groups == name])
        assert moments.total == pytest.approx([i.sum() for i in intervals])
        assert moments.total_squared == pytest.approx([(i**2).sum() for i in intervals])
    assert spikes[groups == "cell"].sum() > 3 * LOG
