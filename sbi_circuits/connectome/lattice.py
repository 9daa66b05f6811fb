"""The hexagonal lattice of columns that an insect's eye is made of, and cells repeated on it."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sbi_circuits.connectome.wiring import Wiring
from sbi_circuits.errors import CircuitError

DEGREES = 5.8  # between neighbouring columns of the fly's eye (Lappalainen et al. 2024, Methods)


@dataclass(frozen=True)
class Lattice:
    """Columns (u, v) with |u|, |v| and |u + v| at most `extent`, ordered by u, then v.

    Args:
        extent: radius in columns, >= 0.

    Raises:
        CircuitError: a negative extent.

    Examples:
        >>> lattice = Lattice(15)
        >>> lattice.n_columns, lattice.distance.max().item()
        (721, 15)
        >>> Lattice(1).columns.tolist()
        [[-1, 0], [-1, 1], [0, -1], [0, 0], [0, 1], [1, -1], [1, 0]]
    """

    extent: int

    def __post_init__(self) -> None:
        if self.extent < 0:
            raise CircuitError(f"the extent of a lattice must be >= 0, got {self.extent}")

    @cached_property
    def columns(self) -> np.ndarray:
        """(C, 2) u and v."""
        side = np.arange(-self.extent, self.extent + 1)
        u, v = (grid.ravel() for grid in np.meshgrid(side, side, indexing="ij"))
        inside = abs(u + v) <= self.extent
        return np.stack([u[inside], v[inside]], axis=1)

    @property
    def n_columns(self) -> int:
        return 1 + 3 * self.extent * (self.extent + 1)

    @property
    def distance(self) -> np.ndarray:
        """(C,) columns between each column and the central one."""
        u, v = self.columns.T
        return (abs(u) + abs(v) + abs(u + v)) // 2

    @cached_property
    def positions(self) -> np.ndarray:
        """(C, 2) x (right) and y (up) of the columns, in columns.

        The eye that rendered the published stimuli (flyvis, `HexEye`) puts column (u, v) at v to the right and
        u + v/2 down, which stretches the regular lattice horizontally by 2/sqrt(3); angles are those of that eye.
        """
        u, v = self.columns.T
        return np.stack([v, -(u + v / 2)], axis=1).astype(float)

    def rank(self, stride: tuple[int, int] = (1, 1)) -> np.ndarray:
        """(2 extent + 1, 2 extent + 1) place of column (u, v) among those a stride keeps; -1 where there is none."""
        u, v = self.columns.T
        kept = (u % stride[0] == 0) & (v % stride[1] == 0)
        found = np.full((2 * self.extent + 1,) * 2, -1, dtype=np.int64)
        found[u[kept] + self.extent, v[kept] + self.extent] = np.arange(kept.sum())
        return found


@dataclass(frozen=True)
class LatticePair:
    """Synapses from one type to another that repeat in every column.

    Args:
        source, target: names of the types.
        sign: +1 or -1.
        offsets: of the target column from the source column: (du, dv, synapses) each.
    """

    source: str
    target: str
    sign: int
    offsets: tuple[tuple[int, int, float], ...]


@dataclass(frozen=True)
class LatticeWiring:
    """Cell types repeated on a lattice, and the pairs of types that are connected; `at` unrolls it.

    Args:
        cell_types: names; strides: (u, v) stride of each, (1, 1) for a cell in every column.
        pairs: what connects; each pair of types once.

    Raises:
        CircuitError: a type or a pair that is there twice, an unknown type, a negative count; naming the pair.

    Examples:
        >>> pair = LatticePair("A", "B", 1, ((0, 0, 2.0), (1, 0, 1.0)))
        >>> LatticeWiring(("A", "B"), ((1, 1), (1, 1)), (pair,)).at(1).n_edges
        11
    """

    cell_types: tuple[str, ...]
    strides: tuple[tuple[int, int], ...]
    pairs: tuple[LatticePair, ...]

    def __post_init__(self) -> None:
        seen: set[tuple[str, str]] = set()
        for row, pair in enumerate(self.pairs):
            where = f"pair {row} ({pair.source} -> {pair.target})"
            for name in (pair.source, pair.target):
                if name not in self.cell_types:
                    raise CircuitError(f"{where}: unknown cell type {name!r}; valid: {', '.join(self.cell_types)}")
            if (pair.source, pair.target) in seen:
                raise CircuitError(f"{where} is there twice")
            seen.add((pair.source, pair.target))
            _check_offsets(pair, where)

    def at(self, extent: int) -> Wiring:
        """The wiring of all cells within `extent` columns; strengths are shared by pair of types.

        The groups are those of `pairs`, in their order, whether or not the extent is large enough for all.
        """
        lattice = Lattice(extent)
        ranks = [lattice.rank(stride) for stride in self.strides]
        sizes = np.array([rank.max(initial=-1) + 1 for rank in ranks])
        starts = np.concatenate([[0], np.cumsum(sizes)])
        parts = [self._unrolled(k, pair, extent, ranks, starts) for k, pair in enumerate(self.pairs)]
        source, target, count, group = (np.concatenate(column) for column in zip(*parts, strict=True))
        columns = [np.argwhere(rank >= 0) - extent for rank in ranks]
        return Wiring(
            self.cell_types, np.repeat(np.arange(len(sizes)), sizes), source, target, count,
            np.array([pair.sign for pair in self.pairs])[group], group,
            tuple(f"{pair.source}->{pair.target}" for pair in self.pairs), column=np.concatenate(columns),
        )  # fmt: skip

    def _unrolled(
        self, k: int, pair: LatticePair, extent: int, ranks: list[np.ndarray], starts: np.ndarray
    ) -> tuple[np.ndarray, ...]:
        """Edges of one pair: source, target, count, group."""
        s, t = self.cell_types.index(pair.source), self.cell_types.index(pair.target)
        u, v = (np.argwhere(ranks[s] >= 0) - extent).T
        offsets = np.array(pair.offsets)
        du, dv = offsets[:, :2].astype(np.int64).T
        tu, tv = u + du[:, None], v + dv[:, None]
        inside = (abs(tu) <= extent) & (abs(tv) <= extent)
        rank = np.where(inside, ranks[t][(tu + extent) * inside, (tv + extent) * inside], -1)
        which, own = np.nonzero(rank >= 0)
        count = offsets[which, 2]
        return starts[s] + own, starts[t] + rank[which, own], count, np.full(len(own), k)


def _check_offsets(pair: LatticePair, where: str) -> None:
    if abs(pair.sign) != 1:
        raise CircuitError(f"{where}: sign must be +1 or -1, got {pair.sign}")
    places = [(du, dv) for du, dv, _ in pair.offsets]
    if not places or len(set(places)) < len(places):
        raise CircuitError(f"{where}: needs offsets, each once")
    for du, dv, count in pair.offsets:
        if not count >= 0:
            raise CircuitError(f"{where}: offset ({du}, {dv}) has a negative count, {count:g}")


def fill_hull(offsets: tuple[tuple[int, int, float], ...], count: float = 1.0) -> tuple[tuple[int, int, float], ...]:
    """Offsets with the gaps inside their convex hull filled, as the published wiring has it.

    Three offsets or more are taken as samples of a compact field: places inside the hull or on its border that were
    not seen get `count` synapses. Of the border the side of smallest v, where it is parallel to u, stays as it is.

    Examples:
        >>> fill_hull(((-1, 0, 5.0), (1, 0, 5.0), (0, 2, 5.0)))[3:]
        ((0, 1, 1.0),)
    """
    seen = {(du, dv) for du, dv, _ in offsets}
    if len(offsets) < 3:
        return offsets
    sides = _hull_sides(sorted(seen))
    (low_u, low_v), (high_u, high_v) = np.min(list(seen), axis=0), np.max(list(seen), axis=0)
    grid = [(u, v) for u in range(low_u, high_u + 1) for v in range(low_v, high_v + 1)]
    return offsets + tuple((u, v, count) for u, v in grid if (u, v) not in seen and _inside(u, v, sides))


def _hull_sides(points: list[tuple[int, int]]) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Sides of the convex hull, counterclockwise (monotone chain, Andrew 1979); points are sorted."""

    def half(ordered: list[tuple[int, int]]) -> list[tuple[int, int]]:
        chain: list[tuple[int, int]] = []
        for point in ordered:
            while len(chain) > 1 and _turn(chain[-2], chain[-1], point) <= 0:
                chain.pop()
            chain.append(point)
        return chain[:-1]

    corners = half(points) + half(points[::-1])
    return list(zip(corners, corners[1:] + corners[:1], strict=True))


def _turn(a: tuple[int, int], b: tuple[int, int], c: tuple[int, int]) -> int:
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


def _inside(u: int, v: int, sides: list[tuple[tuple[int, int], tuple[int, int]]]) -> bool:
    for a, b in sides:
        turn = _turn(a, b, (u, v))
        lower = a[1] == b[1] and b[0] > a[0]
        if turn < 0 or (turn == 0 and lower):
            return False
    return True
