"""What a recording cannot tell, said before anything is inferred from it."""

import numpy as np

from sbi_circuits.errors import RecordingError
from sbi_circuits.recording import Recording

_FASTEST = 1000.0  # Hz; no cell, and hardly an electrode, keeps it up
_LONGEST = 6 * 3600.0  # s; of a recording without a single short interval
_SHORT_INTERVAL = 0.3  # s; every culture and every cell has some below it
_FEW_SPIKES = 100


def concerns(recording: Recording, window_s: float) -> tuple[str, ...]:
    """What cannot be concluded from a recording, one sentence each.

    Args:
        recording: of spikes; of one that holds signals alone nothing is said.
        window_s: length of the simulations it is to be compared with, s.

    Raises:
        RecordingError: no spikes at all, or times that cannot be seconds.

    Examples:
        >>> concerns(Recording.from_units([[0.5, 1.0, 1.2], []], 0.0, 5.0), 60.0)[0]
        '1 of 2 units has spikes: what units do together, network bursts above all, cannot be concluded'
    """
    spikes = np.diff(recording.offsets)
    if recording.signals and not spikes.sum():  # of fields
        return ()
    if not spikes.sum():
        raise RecordingError(f"the recording is silent: no spike of {recording.n_units} units in "
                             f"{recording.duration:g} s, so there is nothing to explain")  # fmt: skip
    _require_seconds(recording)
    return tuple(_found(recording, spikes, window_s))


def _found(recording: Recording, spikes: np.ndarray, window_s: float) -> list[str]:
    active, found = int((spikes > 0).sum()), list[str]()
    if active == 1:
        found.append(f"1 of {recording.n_units} unit{'s' * (recording.n_units != 1)} has spikes: what units do "
                     "together, network bursts above all, cannot be concluded")  # fmt: skip
    if recording.duration < window_s:
        found.append(f"the recording is {recording.duration:g} s long, the simulations {window_s:g} s: what happens "
                     f"less often than every {recording.duration / 3:.2g} s cannot be concluded")  # fmt: skip
    if spikes.sum() < _FEW_SPIKES:
        found.append(f"the recording has {spikes.sum()} spikes: little can be concluded from so few")
    return found


def _require_seconds(recording: Recording) -> None:
    spikes = np.diff(recording.offsets)
    rate = float(np.median(spikes[spikes > 0])) / recording.duration
    if rate > _FASTEST:
        raise RecordingError(f"spike times are not in seconds: half of the active units fire at {rate:.3g} Hz or more; "
                             "are they minutes or hours?")  # fmt: skip
    intervals = np.concatenate([np.diff(recording.unit(u)) for u in np.flatnonzero(spikes > 1)] or [np.zeros(0)])
    if recording.duration > _LONGEST and len(intervals) and np.quantile(intervals, 0.05) > _SHORT_INTERVAL:
        raise RecordingError(
            f"spike times are not in seconds: they span {recording.duration / 3600:.3g} hours, and 95 % of the "
            f"intervals of a unit are longer than {np.quantile(intervals, 0.05):.3g} s; are they milliseconds? "
            "divide them by 1000"
        )
