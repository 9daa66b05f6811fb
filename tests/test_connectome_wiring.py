"""Wiring as a value: what is wrong is said in one line with its row; files, matrices and lattices give the same."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sbi_circuits.connectome.celegans import celegans, read_celegans
from sbi_circuits.connectome.fly import read_lattice_wiring, visual_system
from sbi_circuits.connectome.lattice import Lattice, LatticePair, LatticeWiring, fill_hull
from sbi_circuits.connectome.tables import from_matrix, read_wiring
from sbi_circuits.connectome.wiring import Wiring
from sbi_circuits.errors import CircuitError, SbiCircuitsError, UnknownNameError

Columns = dict[str, list[Any]]
EDGES: Columns = {"source": ["a", "b", "c"], "target": ["b", "c", "a"], "count": [3, 1, 2], "sign": [1, 1, -1]}
NODES: Columns = {"name": ["a", "b", "c"], "type": ["E", "E", "I"]}
GAPS: Columns = {"source": ["a", "b"], "target": ["b", "a"], "count": [4, 4]}


def changed(table: Columns, column: str, row: int, value: Any) -> Columns:
    return table | {column: [value if k == row else old for k, old in enumerate(table[column])]}


def test_a_table_gives_the_wiring_of_its_matrix() -> None:
    wiring = read_wiring(EDGES, NODES, GAPS)
    dense = wiring.matrix()
    assert wiring.groups == ("E->E", "E->I", "I->E") and wiring.gap.tolist() == [[0, 1]]
    assert dense.tolist() == [[0, 0, -2], [3, 0, 0], [0, 1, 0]]
    again = from_matrix(dense.T, ["a", "b", "c"], ["E", "E", "I"], wiring.gap_matrix())
    assert np.array_equal(again.matrix(), dense) and np.array_equal(again.gap_matrix(), wiring.gap_matrix())
    assert read_wiring(EDGES, NODES).digest != wiring.digest == read_wiring(EDGES, NODES, GAPS).digest


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_files_give_what_columns_give(tmp_path: Path, suffix: str) -> None:
    for name, table in (("edges", EDGES), ("nodes", NODES)):
        content, path = pa.table(table), tmp_path / f"{name}{suffix}"
        pq.write_table(content, path) if suffix == ".parquet" else pa.csv.write_csv(content, path)
    found = read_wiring(tmp_path / f"edges{suffix}", tmp_path / f"nodes{suffix}")
    assert found.digest == read_wiring(EDGES, NODES).digest


def test_an_export_with_one_row_for_each_neuropil_is_summed() -> None:
    large = 720575940600000000  # FlyWire's identifiers need all digits
    table = {
        "pre_root_id": [large + 1] * 2 + [large + 2], "post_root_id": [large + 2] * 2 + [large + 1],
        "neuropil": ["ME_L", "LO_L", "ME_L"], "syn_count": [5, 7, 9], "nt_type": ["ACH", "ACH", "GLUT"],
    }  # fmt: skip
    with pytest.raises(CircuitError, match=r"edges row 1: is there already, in row 0"):
        read_wiring(table)
    found = read_wiring(table, duplicates="sum")
    assert found.count.tolist() == [12, 9] and found.sign.tolist() == [1, -1]
    assert found.names.tolist() == [str(large + 1), str(large + 2)]


BAD_TABLES = {
    "edges row 1: count must be a number >= 0, got -1": lambda: read_wiring(changed(EDGES, "count", 1, -1)),
    "edges row 2: count must be a number, got many": lambda: read_wiring(changed(EDGES, "count", 2, "many")),
    "edges row 0: source is not among the 3 cells, got x": lambda: read_wiring(changed(EDGES, "source", 0, "x"), NODES),
    "edges row 2: target is not among the 3 cells, got y": lambda: read_wiring(changed(EDGES, "target", 2, "y"), NODES),
    "edges row 2: sign must be +1 or -1, got 0": lambda: read_wiring(changed(EDGES, "sign", 2, 0)),
    "nodes row 1: a cell of unknown type, got b": lambda: read_wiring(EDGES, changed(NODES, "type", 1, "")),
    "nodes row 2: this cell is there already, in row 0": lambda: read_wiring(EDGES, changed(NODES, "name", 2, "a")),
    "edges row 1: is there already, in row 0": lambda: read_wiring(
        changed(changed(EDGES, "source", 1, "a"), "target", 1, "b")
    ),
    "gap junctions row 1: asymmetric: another count": lambda: read_wiring(EDGES, NODES, changed(GAPS, "count", 1, 5)),
    "edges: no column for count (one of count, syn_count": lambda: read_wiring({"source": ["a"], "target": ["b"]}),
    "edges row 0: a transmitter without a sign (valid: ACH": lambda: read_wiring(
        {"source": ["a"], "target": ["b"], "count": [1], "transmitter": ["NO"]}
    ),
    "gap matrix row 0 (0), column 1 (1): asymmetric, 2 there and 0 back": lambda: from_matrix(
        np.zeros((2, 2)), gap=np.array([[0, 2], [0, 0]])
    ),
    "adjacency matrix row 1 (1), column 0 (0): negative count -3": lambda: from_matrix(
        np.array([[0, 1], [-3, 0]]), signs=np.ones(2)
    ),
    "adjacency matrix must be square, got shape (2, 3)": lambda: from_matrix(np.zeros((2, 3))),
    "there is no table nowhere.csv": lambda: read_wiring("nowhere.csv"),
    "edge 1: target is no cell (there are 2), got 5": lambda: Wiring(("A",), [0, 0], [0, 1], [1, 5], [1, 1], [1, 1]),  # type: ignore[arg-type]
    "cell 1: unknown type, got 3": lambda: Wiring(("A",), [0, 3], [], [], [], []),  # type: ignore[arg-type]
    "unknown treatment of duplicates 'drop'; valid: error, sum": lambda: read_wiring(EDGES, duplicates="drop"),
}


@pytest.mark.parametrize("message", BAD_TABLES)
def test_what_is_wrong_is_said_in_one_line_with_its_row(message: str) -> None:
    with pytest.raises(SbiCircuitsError) as caught:
        BAD_TABLES[message]()
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


PAIR = LatticePair("A", "B", 1, ((0, 0, 2.0), (1, -1, 3.0)))


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ((LatticePair("A", "C", 1, ((0, 0, 1.0),)),), r"pair 0 \(A -> C\): unknown cell type 'C'; valid: A, B"),
        ((PAIR, PAIR), r"pair 1 \(A -> B\) is there twice"),
        ((LatticePair("A", "B", 1, ((0, 0, -1.0),)),), r"pair 0 \(A -> B\): offset \(0, 0\) has a negative count, -1"),
        ((LatticePair("A", "B", 2, ((0, 0, 1.0),)),), r"sign must be \+1 or -1, got 2"),
        ((LatticePair("A", "B", 1, ()),), r"needs offsets"),
    ],
)
def test_bad_lattice_wiring_names_the_pair(pairs: tuple[LatticePair, ...], message: str) -> None:
    with pytest.raises(CircuitError, match=message):
        LatticeWiring(("A", "B"), ((1, 1), (1, 1)), pairs)


def test_a_lattice_is_unrolled_as_a_loop_would() -> None:
    """Against the definition, cell by cell, with a type that is not in every column."""
    pairs = (PAIR, LatticePair("B", "A", -1, ((2, 1, 1.0),)))
    wiring = LatticeWiring(("A", "B"), ((1, 1), (3, 2)), pairs).at(4)
    assert wiring.column is not None
    cells = zip(wiring.node_type, wiring.column.tolist(), strict=True)
    place = {(wiring.cell_types[t], *uv): k for k, (t, uv) in enumerate(cells)}
    wanted = set()
    for pair in pairs:
        for (kind, u, v), k in place.items():
            for du, dv, count in pair.offsets:
                if kind == pair.source and (pair.target, u + du, v + dv) in place:
                    wanted.add((k, place[pair.target, u + du, v + dv], count, pair.sign))
    columns = (wiring.source, wiring.target, wiring.count, wiring.sign)
    assert set(zip(*(column.tolist() for column in columns), strict=True)) == wanted
    assert len(Lattice(4).columns) == Lattice(4).n_columns == 61


def test_hulls_are_filled_on_all_sides_but_one() -> None:
    corners = ((-2, 0, 5.0), (2, 0, 5.0), (0, 2, 5.0))
    added = {(u, v) for u, v, _ in fill_hull(corners)[3:]}
    assert added == {(-1, 1), (0, 1), (1, 1)}  # the side of smallest v, from (-2, 0) to (2, 0), stays as it is
    assert fill_hull(corners[:2]) == corners[:2]


@pytest.mark.parametrize(("extent", "cells", "edges"), [(2, 1203, 28904), (5, 5759, 171471), (15, 45669, 1513231)])
def test_the_visual_system_has_the_published_sizes(extent: int, cells: int, edges: int) -> None:
    fly = visual_system(extent)
    assert (fly.wiring.n_nodes, fly.wiring.n_edges, fly.n_parameters) == (cells, edges, 734)
    assert (len(fly.wiring.cell_types), len(fly.wiring.groups)) == (65, 604)
    offsets = fly.wiring.column[fly.wiring.target] - fly.wiring.column[fly.wiring.source]  # type: ignore[index]
    if extent == 15:
        assert len(np.unique(np.column_stack([fly.wiring.group, offsets]), axis=0)) == 2355


def test_wiring_in_the_published_format_is_checked(tmp_path: Path) -> None:
    content = {
        "nodes": [{"name": "A", "pattern": ["stride", [1, 1]]}], "input_units": ["A"], "output_units": ["Z"],
        "edges": [{"src": "A", "tar": "A", "alpha": 1, "offsets": [[[0, 1], 2]]}],
    }  # fmt: skip
    path = tmp_path / "wiring.json"
    path.write_text(json.dumps(content))
    with pytest.raises(CircuitError, match="unknown cell type 'Z' among input_units and output_units"):
        read_lattice_wiring(path)
    path.write_text(json.dumps(content | {"nodes": [{"name": "A", "pattern": ["ring", 3]}]}))
    with pytest.raises(CircuitError, match="unknown pattern 'ring' of a cell type; valid: stride"):
        read_lattice_wiring(path)
    path.write_text("{}")
    with pytest.raises(CircuitError, match="is not the wiring of a lattice"):
        read_lattice_wiring(path)


@pytest.mark.parametrize("what", ["types", "columns"])
def test_a_shuffled_wiring_keeps_what_it_says_and_loses_the_rest(what: str) -> None:
    wiring = visual_system(3).wiring
    found = wiring.shuffled(1, what)
    assert found.digest == wiring.shuffled(1, what).digest != wiring.digest != wiring.shuffled(2, what).digest
    totals = [np.bincount(w.target, w.count * w.sign, w.n_nodes) for w in (wiring, found)]
    assert np.allclose(*totals)  # every cell keeps its synapses of either sign
    if what == "types":
        same_source = wiring.node_type[found.source[:1000]] == wiring.node_type[wiring.source[:1000]]
        assert same_source.mean() < 0.2
    if what == "columns":
        by_type = [np.bincount(w.group, w.count, len(w.groups)) for w in (wiring, found)]
        assert np.allclose(*by_type)
        moved = found.column[found.target] - found.column[found.source]  # type: ignore[index]
        assert abs(moved).mean() > 1.2 * abs(wiring.column[wiring.target] - wiring.column[wiring.source]).mean()  # type: ignore[index]
    with pytest.raises(UnknownNameError, match="unknown shuffle 'all'; valid: columns, types"):
        wiring.shuffled(0, "all")


def test_cells_types_and_parts_of_a_wiring() -> None:
    fly = visual_system(2).wiring
    part = fly.subset(["Mi1", "T4a"])
    assert set(part.node_type.tolist()) == {fly.type_index("Mi1"), fly.type_index("T4a")}
    kept = np.isin(fly.node_type, [fly.type_index("Mi1"), fly.type_index("T4a")])
    assert part.count.sum() == fly.count[kept[fly.source] & kept[fly.target]].sum()
    with pytest.raises(UnknownNameError, match="unknown cell type 'T9'"):
        fly.cells("T9")
    assert fly.names[fly.central()[fly.type_index("T4a")]] == "T4a 9"
    with pytest.raises(CircuitError, match="not on a lattice"):
        read_wiring(EDGES).central()


LARVA = Path(__file__).resolve().parents[2] / "shared" / "data" / "wiring" / "larva_mushroom_body.npz"


@pytest.mark.skipif(not LARVA.exists(), reason="../shared/data/wiring is not here")
def test_a_matrix_with_types_is_read() -> None:
    """The larva's mushroom body (Eichler et al. 2017): Kenyon cells, inputs, outputs, projection neurons."""
    with np.load(LARVA, allow_pickle=False) as file:
        weights, labels = file["A_left"], file["label_left"]
    wiring = from_matrix(weights, types=labels.tolist())
    assert wiring.n_nodes == 209 and set(wiring.cell_types) == set(labels.tolist())
    assert wiring.count.sum() == weights.sum() and wiring.n_edges == (weights > 0).sum()
    own = [name for name in wiring.groups if name.startswith("P->")]
    assert own and wiring.count[wiring.group == wiring.groups.index("P->K")].sum() > 0


def test_the_worm_has_the_counts_of_its_table(tmp_path: Path) -> None:
    """Against sums of the arrays, not through the loader's own indices."""
    from importlib.resources import files

    source = files("sbi_circuits.data") / "connectome" / "celegans_cook2019.npz"
    with source.open("rb") as file, np.load(file, allow_pickle=False) as content:
        nodes, chemical, gap = (content[name] for name in ("nodes", "chemical", "gap"))
    worm = celegans()
    assert worm.n_edges == (chemical > 0).sum() == 4879 and worm.count.sum() == chemical.sum() == 28113
    assert worm.gap_matrix().sum() == gap.sum() == 23313 and len(worm.gap) == (np.triu(gap) > 0).sum()
    a, b = (nodes.tolist().index(name) for name in ("AVAL", "VA8"))
    assert abs(worm.matrix()[b, a]) == chemical[a, b] > 0 and worm.gap_matrix()[a, b] == gap[a, b]
    inhibitory = set(worm.names[np.unique(worm.source[worm.sign < 0])].tolist())
    assert {"DD1", "VD13", "RIS"} <= inhibitory and not {"AVAL", "ASHL"} & inhibitory
    gap[3, 7] += 1
    np.savez(tmp_path / "bad.npz", nodes=nodes, chemical=chemical, gap=gap)
    with pytest.raises(CircuitError, match=r"gap matrix row 3 \(I5\), column 7 \(M3R\): asymmetric"):
        read_celegans(tmp_path / "bad.npz")
    with pytest.raises(CircuitError, match="cannot read"):
        read_celegans(tmp_path / "none.npz")
