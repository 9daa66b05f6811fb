"""What the rounds of a device aim with: simulations near the targets, and some of every kind, few enough to carry."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from safetensors import safe_open
from safetensors.numpy import save

from benchmarks.aimed.choosing import Candidates, targets_of
from benchmarks.aimed.cultures import HUMAN_FILE, measured
from benchmarks.aimed.packed import packed_rounds
from benchmarks.aimed.settings import TABLES, kept
from benchmarks.aimed.targets import Targets
from sbi_circuits.cultures import PLATE_FILE, PlateRow, culture_features, plate
from sbi_circuits.features.states import FeatureValues, summarise
from sbi_circuits.seeds import generator
from sbi_circuits.table import BaseTable, Table, replace_file

FILE = "candidates.safetensors"
START = PLATE_FILE.with_name("adex_clustered_channels_60s.parquet")
_NEAREST = 30  # kept of each target
_OF_KIND = 600
_HUMAN = 6  # times that the human network counts: one target among a hundred others
_WITHIN = (1.0, 0.8)


@dataclass
class Aim:
    """What the next round aims with.

    Args:
        targets: as the rounds are measured.
        candidates: simulations to draw around.
        number: of the next round.
    """

    targets: Targets
    candidates: Candidates
    number: int = 0

    def learn(self, table: BaseTable) -> None:
        """Take in the simulations of the round that was the next, and go on to the one after it."""
        self.candidates = _joined([self.candidates, Candidates.of(table, self.targets)])
        self.number += 1

    def said(self) -> str:
        """How near the nearest simulations come to the targets."""
        nearest = self.candidates.distances.min(0)
        within = ", ".join(f"{(nearest < d).mean():.0%} within {d:g}" for d in _WITHIN)
        return f"targets' nearest simulations at {np.median(nearest):.2f} (median; {within})"

    def save(self, path: Path) -> None:
        """Write as safetensors, at once or not at all."""
        names, code = np.unique(self.candidates.kinds, return_inverse=True)
        content = {"z": self.candidates.z.astype(np.float32), "distances": self.candidates.distances.astype(np.float32),
                   "kinds": code.astype(np.uint8)}  # fmt: skip
        about = {"kinds": json.dumps(names.tolist()), "number": str(self.number)}
        replace_file(path, save({k: np.ascontiguousarray(v) for k, v in content.items()}, about))

    @classmethod
    def load(cls, path: Path, targets: Targets) -> "Aim":
        with safe_open(path, framework="numpy") as file:
            about, found = file.metadata(), {key: file.get_tensor(key) for key in ("z", "distances", "kinds")}
        kinds = np.array(json.loads(about["kinds"]), dtype=np.str_)[found["kinds"]]
        return cls(targets, Candidates(found["z"].astype(float), found["distances"].astype(float), kinds),
                   int(about["number"]))  # fmt: skip


def human() -> PlateRow:
    """The network of human iPSC-derived neurons, measured as the cultures are."""
    table = pq.read_table(HUMAN_FILE)
    values, states = (np.array(table[name].to_pylist()) for name in ("values", "states"))
    windows = [FeatureValues(v.astype(np.float64), s.astype(np.uint8)) for v, s in zip(values, states, strict=True)]
    return PlateRow(41, "human", summarise(windows))


def targets_of_rounds(names: Sequence[str]) -> Targets:
    """The cultures that may be aimed at, and the human network."""
    return targets_of([*measured(), *[human()] * _HUMAN], names)


def shorter_targets() -> Targets:
    """The same in windows of 60 s, by bursts alone; the human network's are those of its windows of 120 s."""
    names, person = culture_features().names, human().features
    places = [TABLES["adex_clustered_channels"].features.names.index(name) for name in names]
    windows = zip(person.window_values, person.window_states, strict=True)
    shorter = summarise([FeatureValues(v[places], s[places]) for v, s in windows])
    return targets_of([*plate(), *[PlateRow(41, "human", shorter)] * _HUMAN], names)


def first_candidates(targets: Targets) -> Aim:
    """The shipped simulations of 60 s, and those of 120 s that are kept."""
    shorter, longer = Table.load_file(START), Table.load_file(kept("adex_clustered_channels"))
    return Aim(targets, _joined([Candidates.of(shorter, shorter_targets()), Candidates.of(longer, targets)]))


def load_candidates(folders: Sequence[Path], targets: Targets, view: str) -> Aim | None:
    """What earlier runs left to aim with: candidates of the latest, and rounds it has not seen; None without any."""
    files = [folder / FILE for folder in folders if (folder / FILE).exists()]
    aim = max((Aim.load(file, targets) for file in files), key=lambda a: a.number, default=None)
    rounds = {r.number: r for folder in folders if folder.is_dir() for r in packed_rounds(folder)}
    for number in sorted(rounds):
        if aim is None:
            aim = first_candidates(targets)
        if number >= aim.number:
            aim.number = number
            aim.learn(rounds[number].table(view, np.ones(len(rounds[number]))))
    return aim


def _joined(parts: Sequence[Candidates]) -> Candidates:
    """Several as one, of which only what a round may choose is kept."""
    z, distances, kinds = (np.concatenate([getattr(c, name) for c in parts]) for name in ("z", "distances", "kinds"))
    nearest = np.argpartition(distances, min(_NEAREST, len(z) - 1), axis=0)[:_NEAREST].ravel()
    random = generator(len(z), "candidates")
    others = [random.permutation(np.flatnonzero(kinds == kind))[:_OF_KIND] for kind in np.unique(kinds)]
    kept = np.unique(np.concatenate([nearest, *others]))
    return Candidates(z[kept], distances[kept], kinds[kept])
