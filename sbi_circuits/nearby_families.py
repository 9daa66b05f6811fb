"""What was drawn of each simulation of a table: it again as it is, configurations moved away from it, how many agreed.

Configurations near one that is verified are verified more often than any other. Drawn by their distance alone, all
soon descend from one simulation, and a hundred members of an ensemble are one circuit. So every family, a simulation of
the table and what descends from it, is drawn from by the share of its draws that was verified, however many there are;
and new families are tried for as long as they agree about as often.
"""

from dataclasses import dataclass, replace

import numpy as np

from sbi_circuits.nearby_known import LEAST_WINDOWS, Known

_LATELY = 16  # draws of a kind, that say how many of the next ones agree
_BEFORE = 0.5  # verified, and not verified, that each family has from the start
_TRIED = 2.0  # power of the shares that are verified, by which new families are tried: few are where none agree


@dataclass(frozen=True, eq=False)
class Families:
    """A record of the draws so far.

    Args:
        family: (M,) simulation, of the table or aimed, that each descends from; moved: (M,) whether it was moved away
            from it, or is the same configuration; verified: (M,).
        since: number of draws after which new families lie nearer than before, as some were aimed: what was verified
            of new ones until then says nothing of these.
    """

    family: np.ndarray
    moved: np.ndarray
    verified: np.ndarray
    since: int = 0

    @classmethod
    def none(cls) -> "Families":
        return cls(np.zeros(0, dtype=int), np.zeros(0, dtype=bool), np.zeros(0, dtype=bool))

    def followed_by(self, family: np.ndarray, moved: np.ndarray, verified: np.ndarray) -> "Families":
        """After a batch; verified: (M,) of all draws, as a verdict may change with what is simulated later."""
        return Families(
            np.concatenate([self.family, family]), np.concatenate([self.moved, moved]), verified, self.since
        )

    def nearer(self) -> "Families":
        """From here on new families lie nearer."""
        return replace(self, since=len(self.family))

    def worth(self, families: np.ndarray) -> np.ndarray:
        """(k,) by which each is drawn from: the share of its draws that is verified, as expected of the next one."""
        same = np.asarray(families)[:, None] == self.family
        return np.asarray(((same & self.verified).sum(1) + _BEFORE) / (same.sum(1) + 2 * _BEFORE))

    def n_new(self, n: int) -> int:
        """How many of the next n draws are to be of new families: all at first, then by what either kind yielded.

        All as long as none is verified: there is nothing to draw around.
        """
        if not self.verified.any():
            return n
        late = np.arange(len(self.family)) >= self.since
        new, moved = (self._lately(kind) for kind in (~self.moved & late, self.moved))
        return int(np.round(n * new**_TRIED / (new**_TRIED + moved**_TRIED)))

    def _lately(self, kind: np.ndarray) -> float:
        last = self.verified[kind][-_LATELY:]
        return float((last.sum() + 2 * _BEFORE) / (len(last) + 4 * _BEFORE))

    def new(self, known: Known, distance: np.ndarray, n: int) -> np.ndarray:
        """Rows (up to n,) of the nearest simulations of the table of which nothing was drawn."""
        rows = known.nearest_of_each(distance)
        return rows[~np.isin(known.family[rows], self.family)][:n]

    def centres(self, known: Known, distance: np.ndarray, k: int) -> np.ndarray:
        """Rows (up to k,) of the nearest families that were drawn from, one of each; of all where fewer than three."""
        rows = known.nearest_of_each(distance)
        drawn = rows[np.isin(known.family[rows], self.family)]
        return (drawn if len(drawn) >= LEAST_WINDOWS else rows)[:k]

    def told(self, roots: np.ndarray) -> str:
        """One line: from how many simulations of the table those descend that are verified; empty for fewer than two.

        Args:
            roots: the simulation of the table that each family descends from.
        """
        n = int(self.verified.sum())
        if n < 2:
            return ""
        sizes = np.unique(roots[self.family[self.verified]], return_counts=True)[1]
        from_ = f"{len(sizes)} simulation{'s' if len(sizes) > 1 else ''} of the table"
        return f"the {n} verified ones descend from {from_}, {sizes.max()} of them from one"
