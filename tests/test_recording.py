"""Recordings: what they refuse, and that cutting, selecting and summing keep every spike."""

import numpy as np
import pytest

from sbi_circuits.errors import RecordingError, SbiCircuitsError
from sbi_circuits.recording import Outcome, PopulationCounts, Recording
from sbi_circuits.seeds import generator


def poisson(n_units: int, rate: float, duration: float, seed: int = 0, t0: float = 0.0) -> list[np.ndarray]:
    rng = generator(seed, "poisson")
    return [t0 + np.sort(rng.uniform(0, duration, rng.poisson(rate * duration))) for _ in range(n_units)]


@pytest.mark.parametrize(
    ("trains", "t0", "t1", "message"),
    [
        ([[0.1]], 1.0, 1.0, "the valid interval [1, 1) s is empty"),
        ([[0.1]], 0.0, np.inf, "the valid interval [0, inf) s is empty"),
        ([[0.1, np.nan]], 0.0, 1.0, "spike times contain NaN or infinity"),
        ([[-0.1, 0.2]], 0.0, 1.0, "negative spike time -0.1 s"),
        ([[0.1], [0.3, 0.2]], 0.0, 1.0, "spike times of unit 1 are not sorted"),
        ([[], [0.3, 0.2], []], 0.0, 1.0, "spike times of unit 1 are not sorted"),
        ([[0.5, 2.0]], 0.0, 1.0, "spike times reach from 0.5 to 2 s, outside the valid interval [0, 1) s"),
    ],
)
def test_impossible_recordings_are_refused(trains: list, t0: float, t1: float, message: str) -> None:
    with pytest.raises(RecordingError) as caught:
        Recording.from_units(trains, t0, t1)
    assert str(caught.value) == message


def test_units_may_start_before_the_previous_one_ended() -> None:
    recording = Recording.from_units([[0.5, 0.9], [], [0.1]], 0.0, 1.0)
    assert [recording.unit(u).tolist() for u in range(3)] == [[0.5, 0.9], [], [0.1]]


def test_groups_and_kinds_are_checked() -> None:
    with pytest.raises(RecordingError, match=r"^1 unit groups for 2 units$"):
        Recording.from_units([[0.1], [0.2]], 0.0, 1.0, groups=("A",))
    with pytest.raises(SbiCircuitsError, match=r"^unknown unit kind 'neuron'; valid: cell, channel$"):
        Recording.from_units([[0.1]], 0.0, 1.0, unit_kind="neuron")
    with pytest.raises(RecordingError, match=r"^the unit offsets do not partition the spike times$"):
        Recording(0.0, 1.0, np.array([0.1]), np.array([0, 2]))


def test_outcomes() -> None:
    assert Outcome("ok").ok and not Outcome("silent", "no spikes").ok
    with pytest.raises(SbiCircuitsError, match=r"^unknown outcome 'lost'; valid: diverged, failed, ok"):
        Outcome("lost")


def test_windows_partition_the_spikes() -> None:
    recording = Recording.from_units(poisson(5, 20.0, 10.0), 0.0, 10.0)
    parts = [recording.window(a, a + 2.5) for a in (0.0, 2.5, 5.0, 7.5)]
    for u in range(5):
        assert np.concatenate([p.unit(u) for p in parts]).tolist() == recording.unit(u).tolist()
    with pytest.raises(RecordingError, match=r"^\[8, 12\) s is not within \[0, 10\) s$"):
        recording.window(8.0, 12.0)


def test_channels_keep_every_spike_of_their_cells() -> None:
    recording = Recording.from_units(poisson(20, 5.0, 10.0), 0.0, 10.0)
    channels = recording.as_channels(4, 5, seed=3)
    assert channels.unit_kind == "channel" and channels.n_units == 4
    assert np.sort(channels.times).tolist() == np.sort(recording.times).tolist()
    assert channels.times.tolist() == recording.as_channels(4, 5, seed=3).times.tolist()
    assert channels.times.tolist() != recording.as_channels(4, 5, seed=4).times.tolist()


def test_too_few_cells_and_channels_of_channels() -> None:
    recording = Recording.from_units(poisson(9, 5.0, 1.0), 0.0, 1.0)
    message = r"^5 channels of 2 cells need 10 cells, the recording has 9; record more spikes$"
    with pytest.raises(RecordingError, match=message):
        recording.as_channels(5, 2)
    with pytest.raises(RecordingError, match=r"^this recording is of channels already$"):
        recording.as_channels(3, 3).as_channels(1, 1)


def test_counts_bin_simulated_times_exactly() -> None:
    """Multiples of a time step fall on bin edges, where rounding would move them to the bin before."""
    steps = np.arange(0, 10_000, 5)
    recording = Recording.from_units([steps * 1e-4], 0.0, 1.0)
    assert recording.population_counts().tolist() == [2] * 1000


def test_a_last_partial_bin_is_left_out() -> None:
    recording = Recording.from_units([[0.0005, 0.0015, 0.0024]], 0.0, 0.0025)
    assert recording.population_counts().tolist() == [1, 1]


def test_select_keeps_units_and_drops_population_counts() -> None:
    counts = {"exc": PopulationCounts(np.ones(1000, dtype=int), 100)}
    recording = Recording.from_units([[0.1], [0.2], [0.3]], 0.0, 1.0, groups=("a", "b", "a"), counts=counts)
    chosen = recording.select([2, 0])
    assert chosen.times.tolist() == [0.3, 0.1] and chosen.groups == ("a", "a") and not chosen.counts
