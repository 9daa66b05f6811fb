"""Whether recordings leave different subspaces: the `between` of `benchmarks.subspace`.

One well on four days, two other wells, a human network and units of rat CA1, all as four windows of a minute. Nulls:
recordings of single wells on one day, every other of eight windows against the rest; and, where `culture` has left an
ensemble, twice four simulations of configurations that were verified.
"""

from pathlib import Path

import numpy as np

from sbi_circuits.cultures import DAYS, culture, plate
from sbi_circuits.ensemble import observe
from sbi_circuits.features import WindowedFeatures
from sbi_circuits.features.states import FeatureValues, summarise
from sbi_circuits.inference import Posterior, load_posterior
from sbi_circuits.readers import from_arrays, read_recording
from sbi_circuits.recording import Recording
from sbi_circuits.results import load_ensemble
from sbi_circuits.subspace import Resimulated, Runner, compare_subspaces, resimulate_like

DATA = Path(__file__).resolve().parents[1].parent / "shared" / "data"
_WINDOWS = 4
_OTHERS = ("A8", "F1")


def between(folder: Path, name: str, day: int, well: str, repeats: int, workers: int) -> None:
    """Distances and angles between the subspaces of recordings, with their nulls.

    Args:
        folder: with the ensemble of `culture` for this well and day; without one, the first null alone.
        name: of the posterior, or its folder.
        repeats: wells, or configurations, of a null.
    """
    source, path = load_posterior(name), folder / "ensemble.nc"
    seen, nulls = recordings(source, day, well), {"wells on one day": repeated_wells(repeats)}
    if path.exists():
        members = load_ensemble(path).members
        chosen = members[np.random.default_rng(0).permutation(len(members))[:repeats]]
        runner = Runner(repeats=2 * _WINDOWS, seed=7, workers=workers)
        nulls["simulations"] = resimulate_like(load_ensemble(path), chosen, runner)
    for label, x in seen.items():
        print(f"{label}: {source.check(x).summary()}")
    for label, runs in nulls.items():
        print(f"null: {label}")
        print(compare_subspaces(source, seen, runs, windows=_WINDOWS, most=repeats).summary(), flush=True)


def repeated_wells(n: int) -> Resimulated:
    """Eight middle windows of n wells, as if each were simulated with eight seeds; every other one comes first."""
    rows = [row for row in plate() if row.features.n_windows >= 2 * _WINDOWS]
    chosen = np.random.default_rng(1).permutation(len(rows))[:n]
    found = [middle(rows[k].features, 2 * _WINDOWS) for k in chosen]
    order = np.concatenate([np.arange(0, 2 * _WINDOWS, 2), np.arange(1, 2 * _WINDOWS, 2)])
    values, states = (np.stack([getattr(x, name)[order] for x in found]) for name in ("window_values", "window_states"))
    return Resimulated(np.zeros((len(found), 0)), values, states, np.full((len(found), 2 * _WINDOWS), "ok"))


def recordings(source: Posterior, day: int, well: str) -> dict[str, WindowedFeatures]:
    """Four windows each, from the middle of every recording."""
    found = {f"{well} day {d}": culture(d, well) for d in DAYS}
    found |= {f"{other} day {day}": culture(day, other) for other in _OTHERS}
    if DATA.is_dir():
        human = read_recording(DATA / "cultures" / "hipsc_tc75_d41.npz")
        found |= {"human network": observe(source, human), "CA1 units": observe(source, units_as_channels())}
    return {label: middle(x) for label, x in found.items()}


def middle(x: WindowedFeatures, windows: int = _WINDOWS) -> WindowedFeatures:
    """The middle windows of an observation as one of its own."""
    first = max((x.n_windows - windows) // 2, 0)
    rows = range(first, min(first + windows, x.n_windows))
    return summarise([FeatureValues(x.window_values[k], x.window_states[k]) for k in rows])


def units_as_channels(most: int = 16) -> Recording:
    """The most active units of rat CA1, each taken for a channel, though a culture's holds several cells."""
    units = read_recording(DATA / "units" / "rat_ca1_w_maze.npz")
    counts = [len(units.unit(k)) for k in range(units.n_units)]
    trains = [units.unit(int(k)) for k in np.argsort(counts)[::-1][:most]]
    times, ids = np.concatenate(trains), np.repeat(np.arange(len(trains)), [len(t) for t in trains])
    order = np.argsort(times, kind="stable")
    return from_arrays(times[order], ids[order], t1=units.t1, unit_kind="channel")
