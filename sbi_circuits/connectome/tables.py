"""Wiring from files and arrays: edge tables as CSV or Parquet, and adjacency matrices.

What is wrong in a table is said in one line that names the table, the row (counted from 0, without the header) and
what would be valid.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from sbi_circuits.connectome.wiring import Wiring, names_of, refuse, refuse_repeated
from sbi_circuits.errors import CircuitError, UnknownNameError

# Names under which exports carry a column; the first is ours, the second FlyWire's (codex.flywire.ai), then others'.
COLUMNS = {
    "source": ("source", "pre_root_id", "pre", "pre_pt_root_id", "bodyId_pre"),
    "target": ("target", "post_root_id", "post", "post_pt_root_id", "bodyId_post"),
    "count": ("count", "syn_count", "n_syn", "weight", "synapses"),
    "sign": ("sign",),
    "transmitter": ("transmitter", "nt_type", "nt"),
    "delay": ("delay_s",),
    "name": ("name", "root_id", "bodyId", "id"),
    "type": ("type", "cell_type", "primary_type"),
}
# Signs as taken by Shiu et al. 2024, Nature 634:210: GABA and glutamate inhibit, all others excite.
TRANSMITTER_SIGNS = {"ACH": 1, "DA": 1, "OCT": 1, "SER": 1, "GABA": -1, "GLUT": -1}
DUPLICATES = ("error", "sum")
Table = Mapping[str, Any] | str | Path


def read_wiring(
    edges: Table,
    nodes: Table | None = None,
    gaps: Table | None = None,
    signs: Mapping[str, int] = TRANSMITTER_SIGNS,
    duplicates: str = "error",
) -> Wiring:
    """Wiring from an edge table, with or without a table of the cells and one of gap junctions.

    Args:
        edges: a CSV or Parquet file, or columns by name: `source`, `target` (names of cells), `count`, then `sign`
            (+1, -1) or `transmitter`, and `delay_s` where it is known. FlyWire's names (`pre_root_id`, `post_root_id`,
            `syn_count`, `nt_type`) are understood, and some others, see `COLUMNS`. Edges without sign excite.
        nodes: `name` and `type` of every cell; without it all cells that an edge names are of one type.
        gaps: `source`, `target`, `count` of gap junctions, each pair once or in both directions alike.
        signs: of the transmitters.
        duplicates: "error", or "sum" where an export has one row for each neuropil.

    Raises:
        CircuitError: naming the table and the row: a cell or type that is not there, a negative count, an edge twice,
            gap junctions that are not symmetric, a column that is missing.
        UnknownNameError: a transmitter without a sign, another word for `duplicates`.

    Examples:
        >>> edges = {"pre_root_id": [7, 8], "post_root_id": [8, 9], "syn_count": [12, 5], "nt_type": ["ACH", "GABA"]}
        >>> wiring = read_wiring(edges)
        >>> wiring.n_nodes, wiring.sign.tolist(), wiring.names.tolist()
        (3, [1, -1], ['7', '8', '9'])
    """
    if duplicates not in DUPLICATES:
        raise UnknownNameError("treatment of duplicates", duplicates, DUPLICATES)
    table, where = _columns(edges), _named(edges, "edges")
    source, target = (names_of(_column(table, name, where)) for name in ("source", "target"))
    names, types = _cells(nodes, source, target)
    row = f"{where} row"
    own = _Cells(names)
    a, b = own.index(source, row, "source"), own.index(target, row, "target")
    count = _numbers(table, "count", where)
    refuse(count, ~(count >= 0), row, "count must be a number >= 0")
    sign = _signs(table, where, signs, len(count))
    delay = _numbers(table, "delay", where) if _has(table, "delay") else None
    if duplicates == "sum":
        a, b, count, sign = _summed(a, b, count, sign, len(names))
        delay = None
    gap, gap_count = _gaps(gaps, own)
    cell_types = tuple(dict.fromkeys(types.tolist()))
    place = {name: k for k, name in enumerate(cell_types)}
    return Wiring(
        cell_types, np.array([place[t] for t in types.tolist()], dtype=np.int64), a, b, count, sign, names=names,
        delay=delay, gap=gap, gap_count=gap_count, where=row,
    )  # fmt: skip


def from_matrix(
    weights: np.ndarray,
    names: Sequence[object] | np.ndarray | None = None,
    types: Sequence[str] | None = None,
    gap: np.ndarray | None = None,
    signs: np.ndarray | None = None,
) -> Wiring:
    """Wiring from an adjacency matrix whose row is the presynaptic cell.

    Args:
        weights: (n, n) synapse counts; where `signs` is None negative ones inhibit.
        names: (n,) of the cells; types: (n,) of each, one type where None.
        gap: (n, n) gap junctions, symmetric.
        signs: (n,) +1 or -1 of each presynaptic cell; counts must not be negative then.

    Raises:
        CircuitError: a matrix that is not square or not finite, a negative count, an asymmetric gap matrix; naming
            the row and the column.

    Examples:
        >>> from_matrix(np.array([[0, 2], [-1, 0]])).sign.tolist()
        [1, -1]
    """
    weights = _square(weights, "adjacency matrix")
    n = len(weights)
    labels = names_of(np.arange(n) if names is None else names)
    kinds = np.array(["cell"] * n if types is None else list(types))
    if len(labels) != n or len(kinds) != n or (signs is not None and len(signs) != n):
        raise CircuitError(f"adjacency matrix has {n} rows; names, types and signs must be as many")
    refuse_repeated(np.unique(labels, return_inverse=True)[1], "cell", "its name is there already")
    if signs is not None and (weights < 0).any():
        i, j = np.argwhere(weights < 0)[0]
        place = f"row {i} ({labels[i]}), column {j} ({labels[j]})"
        raise CircuitError(f"adjacency matrix {place}: negative count {weights[i, j]:g}")
    source, target = np.nonzero(weights)
    value = weights[source, target]
    sign = np.sign(value) if signs is None else np.asarray(signs)[source]
    found, amount = _gap_pairs(gap, labels)
    cell_types = tuple(dict.fromkeys(kinds.tolist()))
    node_type = np.array([cell_types.index(kind) for kind in kinds.tolist()], dtype=np.int64)
    return Wiring(cell_types, node_type, source, target, abs(value), sign, names=labels, gap=found, gap_count=amount)


class _Cells:
    """Names of cells, and where each stands."""

    def __init__(self, names: np.ndarray):
        self.place = {name: k for k, name in enumerate(names.tolist())}

    def index(self, wanted: np.ndarray, where: str, end: str) -> np.ndarray:
        found = np.array([self.place.get(name, -1) for name in wanted.tolist()], dtype=np.int64)
        refuse(wanted, found < 0, where, f"{end} is not among the {len(self.place)} cells")
        return found


def _columns(table: Table) -> dict[str, np.ndarray]:
    if isinstance(table, Mapping):
        return {name: np.asarray(values) for name, values in table.items()}
    path = Path(table)
    try:
        read = pa.parquet.read_table if path.suffix == ".parquet" else pa.csv.read_csv
        content = read(path)
    except FileNotFoundError as error:
        raise CircuitError(f"there is no table {path}") from error
    except (pa.ArrowException, OSError) as error:
        raise CircuitError(f"cannot read the table {path}: {str(error).splitlines()[0]}") from error
    return {name: content[name].to_numpy() for name in content.column_names}


def _named(table: Table, otherwise: str) -> str:
    return otherwise if isinstance(table, Mapping) else Path(table).name


def _has(table: Mapping[str, np.ndarray], name: str) -> bool:
    return any(own in table for own in COLUMNS[name])


def _column(table: Mapping[str, np.ndarray], name: str, where: str) -> np.ndarray:
    for own in COLUMNS[name]:
        if own in table:
            return table[own]
    there = ", ".join(table) or "none"
    raise CircuitError(f"{where}: no column for {name} (one of {', '.join(COLUMNS[name])}); there are: {there}")


def _numbers(table: Mapping[str, np.ndarray], name: str, where: str) -> np.ndarray:
    values = _column(table, name, where)
    try:
        return values.astype(np.float64)
    except (TypeError, ValueError):
        wrong = np.array([not _is_number(value) for value in values])
        refuse(values, wrong, f"{where} row", f"{name} must be a number")
        raise


def _is_number(value: object) -> bool:
    try:
        float(str(value))
    except ValueError:
        return False
    return True


def _signs(table: Mapping[str, np.ndarray], where: str, signs: Mapping[str, int], n: int) -> np.ndarray:
    if _has(table, "sign"):
        found = _numbers(table, "sign", where)
        refuse(found, abs(found) != 1, f"{where} row", "sign must be +1 or -1")
        return found
    if not _has(table, "transmitter"):
        return np.ones(n)
    named = names_of(_column(table, "transmitter", where))
    unknown = np.array([name not in signs for name in named.tolist()], dtype=bool)
    refuse(named, unknown, f"{where} row", f"a transmitter without a sign (valid: {', '.join(sorted(signs))})")
    return np.array([signs[name] for name in named.tolist()])


def _cells(nodes: Table | None, source: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if nodes is None:
        names = np.unique(np.concatenate([source, target]))
        return names, np.array(["cell"] * len(names))
    table, where = _columns(nodes), _named(nodes, "nodes")
    names, kinds = names_of(_column(table, "name", where)), _column(table, "type", where)
    refuse_repeated(np.unique(names, return_inverse=True)[1], f"{where} row", "this cell is there already")
    types = np.array(["" if kind is None else str(kind).strip() for kind in kinds.tolist()])
    refuse(names, np.isin(types, ("", "nan")), f"{where} row", "a cell of unknown type")
    return names, types


def _summed(
    a: np.ndarray, b: np.ndarray, count: np.ndarray, sign: np.ndarray, n: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """One row for each pair: counts added; the sign of the larger part."""
    key, inverse = np.unique(a * n + b, return_inverse=True)
    signed = np.bincount(inverse, count * sign)
    return key // n, key % n, np.bincount(inverse, count), np.where(signed < 0, -1, 1)


def _gaps(table: Table | None, cells: _Cells) -> tuple[np.ndarray, np.ndarray]:
    if table is None:
        return np.zeros((0, 2), dtype=np.int64), np.zeros(0)
    content, where = _columns(table), _named(table, "gap junctions")
    ends = [
        cells.index(names_of(_column(content, end, where)), f"{where} row", end) for end in ("source", "target")
    ]
    count = _numbers(content, "count", where)
    refuse(count, ~(count >= 0), f"{where} row", "count must be a number >= 0")
    low, high = np.sort(ends, axis=0)
    refuse_repeated(ends[0] * len(cells.place) + ends[1], f"{where} row", "this pair is there already")
    pairs, first, inverse = np.unique(low * len(cells.place) + high, return_index=True, return_inverse=True)
    refuse(count, count != count[first][inverse], f"{where} row", "asymmetric: another count in the other direction")
    return np.stack([pairs // len(cells.place), pairs % len(cells.place)], axis=1), count[first]


def _square(matrix: np.ndarray, where: str) -> np.ndarray:
    matrix = np.asarray(matrix, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise CircuitError(f"{where} must be square, got shape {matrix.shape}")
    refuse(matrix, ~np.isfinite(matrix).all(1), f"{where} row", "not finite")
    return matrix


def _gap_pairs(gap: np.ndarray | None, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if gap is None:
        return np.zeros((0, 2), dtype=np.int64), np.zeros(0)
    gap = _square(gap, "gap matrix")
    if gap.shape != (len(labels),) * 2:
        raise CircuitError(f"gap matrix has shape {gap.shape}, expected {(len(labels),) * 2}")
    unequal = gap != gap.T
    if unequal.any() or (gap < 0).any():
        i, j = np.argwhere(unequal | (gap < 0))[0]
        there, back = gap[i, j], gap[j, i]
        what = f"asymmetric, {there:g} there and {back:g} back" if unequal[i, j] else f"negative, {there:g}"
        raise CircuitError(f"gap matrix row {i} ({labels[i]}), column {j} ({labels[j]}): {what}")
    pairs = np.argwhere(np.triu(gap) > 0)
    return pairs, gap[tuple(pairs.T)]
