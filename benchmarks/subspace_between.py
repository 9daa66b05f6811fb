"""Whether recordings leave different subspaces: the `between` of `benchmarks.subspace`.

One well on four days, two other wells, a human network and units of rat CA1, all as four windows of a minute, against
repeated observations, four simulations each, of configurations that were verified for that well on one day.
"""

from pathlib import Path

import numpy as np

from sbi_circuits.cultures import DAYS, culture
from sbi_circuits.ensemble import observe
from sbi_circuits.features import WindowedFeatures
from sbi_circuits.features.states import FeatureValues, summarise
from sbi_circuits.inference import Posterior, load_posterior
from sbi_circuits.readers import from_arrays, read_recording
from sbi_circuits.recording import Recording
from sbi_circuits.results import load_ensemble
from sbi_circuits.subspace import Runner, compare_subspaces, members_of, resimulate_like

DATA = Path(__file__).resolve().parents[1].parent / "shared" / "data"
_WINDOWS = 4
_OTHERS = ("A8", "F1")


def between(folder: Path, name: str, day: int, well: str, repeats: int, workers: int) -> None:
    """Distances and angles between the subspaces of recordings, with their null.

    Args:
        folder: with the ensemble of `culture` for this well and day.
        name: of the posterior, or its folder.
        repeats: configurations of the null.
    """
    source, ensemble = load_posterior(name), load_ensemble(folder / "ensemble.nc")
    random = np.random.default_rng(0)
    members = ensemble.members[random.permutation(len(members_of(ensemble)))[:repeats]]
    runs = resimulate_like(ensemble, members, Runner(repeats=2 * _WINDOWS, seed=7, workers=workers))
    seen = recordings(source, day, well)
    for label, x in seen.items():
        print(f"{label}: {source.check(x).summary()}")
    print(compare_subspaces(source, seen, runs, windows=_WINDOWS, most=repeats).summary())


def recordings(source: Posterior, day: int, well: str) -> dict[str, WindowedFeatures]:
    """Four windows each, from the middle of every recording."""
    found = {f"{well} day {d}": culture(d, well) for d in DAYS}
    found |= {f"{other} day {day}": culture(day, other) for other in _OTHERS}
    if DATA.is_dir():
        human = read_recording(DATA / "cultures" / "hipsc_tc75_d41.npz")
        found |= {"human network": observe(source, human), "CA1 units": observe(source, units_as_channels())}
    return {label: middle(x) for label, x in found.items()}


def middle(x: WindowedFeatures) -> WindowedFeatures:
    """The middle windows of an observation as one of its own."""
    first = max((x.n_windows - _WINDOWS) // 2, 0)
    rows = range(first, min(first + _WINDOWS, x.n_windows))
    return summarise([FeatureValues(x.window_values[k], x.window_states[k]) for k in rows])


def units_as_channels(most: int = 16) -> Recording:
    """The most active units of rat CA1, each taken for a channel, though a culture's holds several cells."""
    units = read_recording(DATA / "units" / "rat_ca1_w_maze.npz")
    counts = [len(units.unit(k)) for k in range(units.n_units)]
    trains = [units.unit(int(k)) for k in np.argsort(counts)[::-1][:most]]
    times, ids = np.concatenate(trains), np.repeat(np.arange(len(trains)), [len(t) for t in trains])
    order = np.argsort(times, kind="stable")
    return from_arrays(times[order], ids[order], t1=units.t1, unit_kind="channel")
