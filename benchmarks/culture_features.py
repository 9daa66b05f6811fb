"""Measure the features of one plate of rat cortical cultures and keep them as a small file in the package.

    python benchmarks/culture_features.py RECORDINGS_FOLDER

RECORDINGS_FOLDER holds epa_20140507_MW1007-103_div{09,14,20,23}.npz (Cotterill et al. 2016, "free to use any of the
data"). Of each well that is active on all four days (at least 10 electrodes above 0.1 Hz), every window of 60 s is
measured in the view of channels; the file holds feature values only, no recording.
"""

import sys
from pathlib import Path

import numpy as np

from sbi_circuits.cultures import DAYS, PLATE_FILE, WINDOW, PlateRow, culture_features, write_plate
from sbi_circuits.readers import list_groups, read_recording
from sbi_circuits.recording import Recording

MIN_ELECTRODES, MIN_RATE = 10, 0.1


def main(folder: Path) -> None:
    files = {day: folder / f"epa_20140507_MW1007-103_div{day:02d}.npz" for day in DAYS}
    recordings = {
        (day, well): read_recording(path, group=well) for day, path in files.items() for well in list_groups(path)
    }
    wells = sorted({well for _, well in recordings})
    active = [w for w in wells if all(_active(recordings.get((day, w))) for day in DAYS)]
    features = culture_features()
    rows = [
        PlateRow(day, well, features.measure_windows(recordings[day, well], WINDOW)) for day in DAYS for well in active
    ]
    write_plate(rows, PLATE_FILE)
    print(f"{len(active)} wells on {len(DAYS)} days written to {PLATE_FILE} ({PLATE_FILE.stat().st_size / 1e3:.0f} kB)")


def _active(recording: Recording | None) -> bool:
    if recording is None:
        return False
    rates = np.diff(recording.offsets) / recording.duration
    return bool((rates > MIN_RATE).sum() >= MIN_ELECTRODES)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
