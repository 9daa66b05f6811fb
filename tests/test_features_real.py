"""Features of real recordings: cultures that mature, bursts in windows, the theta rhythm of CA1."""

from pathlib import Path

import numpy as np
import pytest
from test_features import BAND, values_of

from sbi_circuits.features import FeatureSet, FeatureValues
from sbi_circuits.readers import list_groups, read_recording
from sbi_circuits.recording import Recording

ACTIVE_WELLS = 35  # with 10 electrodes above 0.1 Hz on all four days
BURSTS_PER_MINUTE = {9: 1.26, 14: 3.17, 20: 5.19, 23: 5.39}  # median well, peaks of half the largest
ALL_BURSTS_PER_MINUTE = {9: 1.76, 14: 3.67, 20: 6.48, 23: 8.22}  # peaks of a tenth of the largest


@pytest.mark.slow
def test_real_cultures_mature(shared_data: Path) -> None:
    """48 rat cortical cultures on four days (Cotterill et al. 2016, doi 10.1177/1087057116640520)."""
    days = {}
    for day in BURSTS_PER_MINUTE:
        path = shared_data / "cultures" / f"epa_20140507_MW1007-103_div{day:02d}.npz"
        plate = read_recording(path)
        groups = np.array(plate.groups)
        days[day] = {g: plate.select(np.flatnonzero(groups == g)) for g in list_groups(path)}
    active = [g for g in days[9] if all(_active(wells.get(g)) for wells in days.values())]
    assert len(active) == ACTIVE_WELLS
    for prominence, expected in ((0.5, BURSTS_PER_MINUTE), (0.1, ALL_BURSTS_PER_MINUTE)):
        features = FeatureSet.of(bursts={"prominence": prominence}, view="channels")
        for day, wells in days.items():
            rates = [features.measure(wells[g]).values[0] for g in active]
            assert np.median(rates) == pytest.approx(expected[day], abs=0.02)


def _active(well: Recording | None) -> bool:
    return well is not None and np.sum(np.diff(well.offsets) > 0.1 * well.duration) >= 10


def test_real_culture_in_windows(shared_data: Path) -> None:
    well = read_recording(shared_data / "cultures" / "epa_20140507_MW1007-103_div20.npz", group="D5")
    features = FeatureSet.of("bursts", spectrum={**BAND, "relative": True}, view="channels")
    windows = features.measure_windows(well, 60.0)
    found = values_of(features, FeatureValues(windows.values, windows.states))
    assert windows.n_windows == 16
    assert 2 < found["bursts.interval_mean"] < 80 and 0.05 < found["bursts.width_mean"] < 0.35
    assert 50 < found["bursts.peak_to_mean"] < 500


def test_real_cells_have_a_theta_peak(shared_data: Path) -> None:
    """Rat CA1 in a W-maze: the population rate peaks at about 8 Hz (data of nelpy)."""
    recording = read_recording(shared_data / "units" / "rat_ca1_w_maze.npz")
    features = FeatureSet.of(spectrum={"low": 4.0, "high": 20.0, "step": 0.5})
    frequencies = 4.0 + 0.5 * np.arange(features.width)
    peak = frequencies[features.measure(recording).values.argmax()]
    assert peak == pytest.approx(8.0, abs=1.0)
