"""What a round draws around: the simulations nearest to every target, and some of every kind of dynamics."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.aimed.dynamics import kinds
from benchmarks.aimed.kernels import Kernels, around
from benchmarks.aimed.settings import HELD_OUT_WELLS, Settings
from benchmarks.aimed.targets import Targets
from sbi_circuits.cultures import PlateRow
from sbi_circuits.seeds import generator
from sbi_circuits.table import BaseTable, Rows


@dataclass(frozen=True, eq=False)
class Candidates:
    """Simulations to draw around: configurations (n, P), unbounded, distances (n, T), and what they do (n,)."""

    z: np.ndarray
    distances: np.ndarray
    kinds: np.ndarray

    @classmethod
    def of(cls, table: BaseTable, targets: Targets) -> "Candidates":
        """Those of a table that ran to their end."""
        rows: Rows = table.read()
        ok = rows.take(rows.outcome == "ok")
        found = kinds(ok.values, ok.states, table.feature_set.names)
        return cls(table.prior.unconstrain(ok.theta), targets.distances(ok.values, ok.states), found)


def targets_of(plate: Sequence[PlateRow], names: Sequence[str]) -> Targets:
    """The wells that may be aimed at, on every day."""
    aimed = [row.features for row in plate if row.well not in HELD_OUT_WELLS]
    windows = [np.concatenate([getattr(f, name) for f in aimed]) for name in ("window_values", "window_states")]
    return Targets.of(names, np.array([f.values for f in aimed]), np.array([f.states for f in aimed]), *windows)


def choose(candidates: Sequence[Candidates], settings: Settings, seed: int) -> Kernels:
    """Kernels around the nearest simulations of every target, and around some of every kind of dynamics."""
    z, distances, found = (
        np.concatenate([getattr(c, name) for c in candidates]) for name in ("z", "distances", "kinds")
    )
    nearest = np.argsort(distances, axis=0)[: settings.nearest].T.ravel()
    random = generator(seed, "others")
    others = [random.permutation(np.flatnonzero(found == kind))[: settings.others] for kind in np.unique(found)]
    centres = z[np.concatenate([nearest, *others])]
    return around(centres, z[np.unique(nearest)], settings.widths, settings.prior_share)
