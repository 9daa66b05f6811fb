"""The shipped feature values of a plate of cultures."""

import numpy as np
import pytest

from sbi_circuits.cultures import DAYS, WINDOW, culture, culture_features, plate, typical_well
from sbi_circuits.errors import UnknownNameError
from sbi_circuits.readers import read_recording


def test_the_plate_has_35_wells_on_four_days() -> None:
    rows = plate()
    assert len(rows) == 35 * 4
    assert {len([r for r in rows if r.day == d]) for d in DAYS} == {35}
    assert {r.features.window_values.shape[1] for r in rows} == {culture_features().width}


def test_bursts_become_more_frequent_over_development() -> None:
    """Median well: 1.8 bursts a minute on day 9 and 8.2 on day 23 by the data's own description; here per window."""
    k = culture_features().names.index("bursts.rate_per_minute")
    medians = [np.median([r.features.values[k] for r in plate() if r.day == day]) for day in DAYS]
    assert medians[0] < medians[1] < medians[2]
    assert 1.0 < medians[0] < 2.5 and 4.0 < medians[3] < 9.0


def test_the_typical_well_is_one_of_them_and_unknown_ones_are_named() -> None:
    assert typical_well(20) in {r.well for r in plate()}
    with pytest.raises(UnknownNameError, match="valid: 14, 20, 23, 9"):
        culture(3, "A1")
    with pytest.raises(UnknownNameError, match="unknown well 'Z9'"):
        culture(20, "Z9")


def test_the_shipped_values_are_what_the_recording_gives(shared_data) -> None:  # type: ignore[no-untyped-def]
    well = typical_well(20)
    path = shared_data / "cultures" / "epa_20140507_MW1007-103_div20.npz"
    measured = culture_features().measure_windows(read_recording(path, group=well), WINDOW)
    shipped = culture(20, well)
    np.testing.assert_array_equal(measured.window_states, shipped.window_states)
    np.testing.assert_allclose(measured.values, shipped.values, rtol=1e-5, atol=1e-6)
