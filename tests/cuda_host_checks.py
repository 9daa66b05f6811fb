"""Checks of the host side of kernel[cuda], run by test_cuda.py: rows stacked, room for spikes, batches in order."""

import dataclasses
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from sbi_circuits.circuit import Circuit
from sbi_circuits.engines import Protocol, cuda_batch, cuda_launch, cuda_prepare, cuda_stack, kernel_cuda
from sbi_circuits.engines.cuda_recordings import trains
from sbi_circuits.engines.kernel_cuda import CudaEngine
from sbi_circuits.engines.kernel_numba import NumbaEngine
from tests.cuda_checks import CIRCUITS, EVERYTHING, dense, equal


@pytest.mark.parametrize("name", CIRCUITS)
def test_joined_pieces_are_what_one_piece_would_be(name: str) -> None:
    circuit = CIRCUITS[name]
    columns, thetas = kernel_cuda.columns_of(circuit, False), np.tile(circuit.default_theta(), (5, 1))
    protocol = Protocol(0.01, record=EVERYTHING)

    def piece(a: int, b: int) -> cuda_stack.Piece:
        return cuda_prepare.prepare_all(columns, thetas[a:b], protocol, 3, range(a, b), np.float64)

    joined = cuda_stack.Piece.join([piece(0, 2), piece(2, 3), piece(3, 5)]).stack
    whole = piece(0, 5).stack
    assert joined is not None and whole is not None
    assert arrays(joined, columns).keys() == arrays(whole, columns).keys()
    for key, values in arrays(whole, columns).items():
        if key not in ("thresholds", "plan"):
            assert np.array_equal(values, arrays(joined, columns)[key]), key
    again = arrays(joined.take([3, 1]), columns)
    assert np.array_equal(again["initial"], arrays(whole, columns)["initial"][[3, 1]])


def arrays(stack: cuda_stack.Stack, columns: kernel_cuda.Columns) -> dict[str, np.ndarray]:
    protocol = Protocol(0.01, record=EVERYTHING)
    return cuda_batch.Batch(columns, stack, protocol, np.float64, 4, cuda_batch.Room(10, 10), 48 * 1024).inputs()


def sized(rows: tuple[float, ...]) -> tuple[Circuit, np.ndarray]:
    population = dataclasses.replace(dense(1.0).populations[0], size="5 + 10*unused")
    return dataclasses.replace(dense(2500.0), populations=(population,)), np.array(rows)[:, None]


def test_pieces_of_other_sizes_are_filled_up() -> None:
    circuit, thetas = sized((0.2, 0.9, 0.5))
    columns, protocol = kernel_cuda.columns_of(circuit, False), Protocol(0.01, record=EVERYTHING)
    pieces = [cuda_prepare.prepare_all(columns, thetas[[k]], protocol, 3, [k], np.float64) for k in range(3)]
    joined = cuda_stack.Piece.join(pieces).stack
    whole = cuda_prepare.prepare_all(columns, thetas, protocol, 3, range(3), np.float64).stack
    assert joined is not None and whole is not None and joined.recorded.shape == (3, 14)
    assert np.array_equal(joined.recorded, whole.recorded) and (joined.recorded[0] == -1).sum() == 7
    assert np.array_equal(arrays(joined, columns)["slots"], arrays(whole, columns)["slots"])
    assert np.array_equal(joined.sizes.ravel(), [7, 14, 10])
    # Every simulation has its own table or shares it, wherever it lies.
    for b in range(3):
        _, driven, _, place, length = joined.inputs[b, 0]
        assert driven == int(0.7 * joined.sizes[b, 0])
        alone = pieces[b].stack
        assert alone is not None
        assert np.array_equal(joined.thresholds[place : place + length], alone.thresholds[:length])


@pytest.mark.parametrize("executed", [False, True])
def test_a_batch_with_some_that_did_not_fit_keeps_order_and_results(monkeypatch: pytest.MonkeyPatch, executed: bool
                                                                    ) -> None:  # fmt: skip
    circuit, thetas = sized((0.2, 0.9, 7e9, 0.5, 0.0, 0.7, 0.3))
    protocol = Protocol(0.01, record=EVERYTHING, early_stop=False)
    expected = list(NumbaEngine("double").run_batch(circuit, thetas, protocol, 3, range(7)))
    spikes = [0 if s.recording is None else len(s.recording.times) for s in expected]
    monkeypatch.setattr(kernel_cuda, "first_room", lambda *_: cuda_batch.Room(int(np.median(spikes)), 10**4))
    with ThreadPoolExecutor(2) as executor:
        engine = CudaEngine("double", batch=4, executor=executor if executed else None)
        found = list(engine.run_batch(circuit, thetas, protocol, 3, range(7)))
    assert [s.index for s in found] == list(range(7))
    assert [s.outcome.status for s in found] == [s.outcome.status for s in expected]
    assert found[2].outcome.status == "failed"
    assert all(equal(a.recording, b.recording) for a, b in zip(found, expected, strict=True) if a.outcome.ok)
    repeated = sum(launch.simulations for launch in engine.launches if launch.again)
    assert repeated == sum(n > np.median(spikes) for n in spikes) > 0


@pytest.mark.parametrize("batch", [1, 2])
def test_slots_are_used_in_turn_and_single_runs_between_disturb_nothing(batch: int) -> None:
    rows = (0.2, 0.9, 0.5, 0.0, 0.7, 0.3, 0.1, 0.8, 0.4, 0.6, 0.25, 0.35, 0.45, 0.15, 0.55, 0.65, 0.75, 0.85)
    circuit, thetas = sized(rows)
    protocol, engine = Protocol(0.005, record=EVERYTHING), CudaEngine("double", batch=batch)
    assert len(rows) > 2 + cuda_launch.SLOTS * batch
    expected = list(NumbaEngine("double").run_batch(circuit, thetas, protocol, 3, range(len(rows))))
    found = []
    for simulation in engine.run_batch(circuit, thetas, protocol, 3, range(len(rows))):
        found.append(simulation)
        if simulation.index in (0, 9):
            alone = engine.run(circuit, thetas[4], protocol, 3, 4)
            assert equal(alone.recording, expected[4].recording)
    assert [s.index for s in found] == list(range(len(rows)))
    assert all(equal(a.recording, b.recording) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("number", [1, 8, 30])
def test_a_slot_is_taken_again_only_when_its_batch_has_been_read(number: int) -> None:
    taken = [kernel_cuda._slot_of(k) for k in range(number)]
    assert max(taken) < cuda_launch.BUFFERED
    for k in range(number):
        under_way = taken[k : k + cuda_launch.SLOTS]
        assert len(set(under_way)) == len(under_way)


def test_room_is_learned_from_batches_that_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a small guess at first, the first run has simulations that do not fit and the second has none."""
    monkeypatch.setattr(cuda_batch, "_SHARE", 10**6)
    monkeypatch.setattr(kernel_cuda, "device_memory", lambda: 10**6 * 8 * 20)
    circuit, thetas = sized((0.9, 0.8, 0.7))
    engine, repeated, results = CudaEngine("double"), [], []
    for _ in range(2):
        engine.launches.clear()
        results.append(list(engine.run_batch(circuit, thetas, Protocol(0.02, record=EVERYTHING), 3, range(3))))
        repeated.append(sum(launch.simulations for launch in engine.launches if launch.again))
    assert repeated[0] > 0 and repeated[1] == 0
    assert all(equal(a.recording, b.recording) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("seen", [cuda_batch.Seen(), cuda_batch.Seen(10**9, 10**8)])
def test_room_never_takes_more_than_the_device_has(seen: cuda_batch.Seen) -> None:
    """Whatever the batches before kept, there is room for all that are under way together."""
    circuit, thetas = sized((0.9, 0.8, 0.7, 0.2))
    columns, protocol = kernel_cuda.columns_of(circuit, False), Protocol(100.0, record=EVERYTHING)
    memory, batches = 10**9, 6
    stack = cuda_prepare.prepare_all(columns, thetas, protocol, 3, range(4), np.float64).stack
    assert stack is not None
    room = cuda_batch.first_room(stack, protocol, 3, memory, seen, batches)
    assert 1 <= room.spikes <= room.pool and 8 * batches * (3 * room.spikes + room.pool) <= memory / 2


@pytest.mark.parametrize("ordered", [True, False])
def test_trains_follow_one_another_whatever_the_order_of_spikes(ordered: bool) -> None:
    draw = np.random.default_rng(0)
    cells, steps = draw.integers(0, 7, 500), np.sort(draw.integers(0, 2**31, 500))
    steps = steps if ordered else draw.permutation(steps)
    times, offsets = trains((cells << 32) + steps, 9, 1e-4)
    assert times.dtype == np.float64 and offsets.tolist() == [0, *np.cumsum(np.bincount(cells, minlength=9))]
    for cell in range(9):
        assert np.array_equal(times[offsets[cell] : offsets[cell + 1]], np.sort(steps[cells == cell]) * 1e-4)


@pytest.mark.parametrize("cell", [-1, 3])
def test_a_spike_of_a_cell_that_is_not_recorded_is_refused(cell: int) -> None:
    with pytest.raises(ValueError, match="not recorded"):
        trains(np.array([cell * 2**32 + 5], dtype=np.int64), 3, 1e-4)
