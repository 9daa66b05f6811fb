"""Tables: what was appended comes back, damage is found, and nothing of another circuit gets in."""

import json
import logging
from dataclasses import replace
from pathlib import Path

import fakes
import numpy as np
import pyarrow.parquet as pq
import pytest

from sbi_circuits.campaign import run_campaign
from sbi_circuits.errors import TableError, UnknownNameError
from sbi_circuits.features import FeatureSet
from sbi_circuits.prior import Parameter, Prior
from sbi_circuits.recording import OUTCOMES
from sbi_circuits.table import ROW_FIELDS, Manifest, MemoryTable, Rows, Table, concat, join, rows_equal

OTHER_PRIOR = Prior((Parameter("g", "1", 0.1, 4), Parameter("rate", "Hz", 1, 20)))
WIDE = FeatureSet.of("isi", spectrum={"low": 1.0, "high": 100.0, "step": 1.0})


def manifest(
    feature_set: FeatureSet = WIDE,
    seed: int = 1,
    prior: Prior = fakes.PRIOR,
    equations: str = fakes.EQUATIONS,
    engine: str = "fake",
) -> Manifest:
    circuit = fakes.circuit(prior, equations=equations)
    return Manifest.of(circuit, feature_set, {"duration": 2.0}, engine, seed)


def random_rows(of: Manifest, start: int, stop: int) -> Rows:
    """Rows as a campaign would make them; row i depends on i only."""
    n, width = stop - start, len(of.feature_names)
    index = np.arange(start, stop)
    draws = np.array([np.random.default_rng(i).normal(size=width) for i in index])
    values, states = draws.astype(np.float32).astype(float), (draws > 1).astype(np.uint8)
    return Rows(
        index=index,
        seed=np.full(n, of.seed),
        theta=of.prior.sample(stop, seed=1)[start:],
        values=values,
        states=states,
        outcome=np.array(OUTCOMES)[index % len(OUTCOMES)],
        reason=np.array([f"because {i} «µ»" if i % 2 else "" for i in index]),
        wall_s=index / 10.0,
        proposal=np.full(n, "prior"),
        weight=1.0 + index % 3,
    )


def filled(path: Path, *ranges: tuple[int, int], of: Manifest | None = None) -> Table:
    of = of or manifest()
    table = Table.create(path, of)
    for start, stop in ranges:
        table.append(start, stop, random_rows(of, start, stop), of)
    return table


@pytest.fixture
def table(tmp_path: Path) -> Table:
    return filled(tmp_path / "table", (0, 10), (10, 13), (20, 30))


def part(table: Table, number: int) -> Path:
    return table.parts()[number].path


def test_rows_come_back_as_they_were(table: Table) -> None:
    """What is read equals what was appended, value for value, in a table opened anew."""
    expected = join([random_rows(table.manifest, *r) for r in ((0, 10), (10, 13), (20, 30))])
    again = Table.open(table.path)
    assert rows_equal(again.read(), expected)
    assert np.array_equal(again.read().wall_s, expected.wall_s)
    assert (len(again), again.feature_set, again.prior) == (23, WIDE, fakes.PRIOR)
    assert again.manifest == table.manifest
    assert again.verify() == []


def test_order_of_writing_does_not_matter(table: Table, tmp_path: Path) -> None:
    other = filled(tmp_path / "other", (22, 30), (5, 13), (20, 22), (0, 5))
    assert rows_equal(table.read(), other.read())
    assert table.digest == other.digest


@pytest.mark.parametrize("name", [n for n in ROW_FIELDS if n != "wall_s"])
def test_negative_control_one_changed_value_changes_equality_and_digest(name: str) -> None:
    of = manifest()
    rows = random_rows(of, 0, 12)
    changed = np.array(getattr(rows, name))
    changed[5] = "other" if changed.dtype.kind == "U" else changed[5] + 1
    other = replace(rows, **{name: changed})
    assert not rows_equal(rows, other)
    assert MemoryTable(of, rows).digest != MemoryTable(of, other).digest
    assert MemoryTable(of, rows).digest == MemoryTable(of, replace(rows, wall_s=rows.wall_s + 1)).digest


def test_done_and_missing(table: Table) -> None:
    assert table.missing(32).tolist() == [*range(13, 20), 30, 31]
    assert table.done().tolist() == [*range(13), *range(20, 30)]
    assert table.counts() == dict(zip(sorted(OUTCOMES), (4, 4, 5, 5, 5), strict=True))


def test_columns_can_be_chosen(table: Table) -> None:
    rows = table.read(("theta", "outcome"))
    assert rows.theta.shape == (23, 2) and rows.outcome.shape == (23,)
    assert len(rows) == 23 and len(rows.values) == len(rows.states) == len(rows.reason) == 0
    with pytest.raises(UnknownNameError, match="unknown column of a table 'thetas'; valid: index"):
        table.read(("thetas",))


def test_a_file_is_readable_by_name(table: Table) -> None:
    """Narrow families have a column per feature, wide ones a list; a part alone says what it is of."""
    content = pq.ParquetFile(part(table, 0)).read()
    names = set(content.column_names)
    assert {"theta.g", "theta.rate", "x.isi.rate_mean", "x.spectrum", "states", "outcome"} <= names
    assert not any(name.startswith("x.spectrum.") for name in names)
    stamp = json.loads(content.schema.metadata[b"sbi_circuits"])
    assert stamp["circuit"] == table.circuit_digest and stamp["prior"] == table.prior.digest
    assert stamp["feature set"] == WIDE.digest and stamp["schema_version"] == 1 and stamp["code_version"]


def test_an_empty_table_reads_as_no_rows(tmp_path: Path) -> None:
    table = filled(tmp_path)
    assert len(table) == 0 and table.counts() == {} and table.read().values.shape == (0, len(WIDE.names))


@pytest.mark.parametrize(
    ("other", "what"),
    [
        (manifest(prior=OTHER_PRIOR), "another prior"),
        (manifest(equations=fakes.EQUATIONS.replace("20", "30")), "another circuit"),
        (manifest(FeatureSet.of("isi")), "another feature set"),
        (manifest(seed=2), r"another seed \(1 here, 2 there\)"),
        (manifest(engine="brian2"), r"another engine \(fake here, brian2 there\)"),
        (replace(manifest(), protocol={"duration": 3.0}), r"another protocol duration \(2.0 here, 3.0"),
    ],
)
def test_rows_of_something_else_are_refused(table: Table, other: Manifest, what: str) -> None:
    with pytest.raises(TableError, match=f"do not belong to .*{what}"):
        table.append(13, 15, random_rows(other, 13, 15), other)
    with pytest.raises(TableError, match=f"is of something else: .*{what}"):
        Table.create(table.path, other)
    assert len(table.parts()) == 3


def test_rows_of_another_range_or_shape_are_refused(table: Table) -> None:
    rows = random_rows(table.manifest, 40, 44)
    with pytest.raises(TableError, match="not the simulations 41 to 45"):
        table.append(41, 45, rows, table.manifest)
    with pytest.raises(TableError, match="have shapes"):
        table.append(40, 44, replace(rows, theta=rows.theta[:, :1]), table.manifest)


@pytest.mark.parametrize("damage", ["truncated", "emptied", "flipped", "text"])
def test_a_damaged_part_is_named_set_aside_and_missing(
    table: Table, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The warning names it, reading goes on without it, its simulations are missing, the file is kept."""
    path = part(table, 1)
    content = bytearray(path.read_bytes())
    content[200:260] = bytes(60)
    damaged = {"truncated": content[:-500], "emptied": b"", "flipped": content, "text": b"PAR1 nonsense PAR1"}
    path.write_bytes(damaged[damage])
    assert [path.name in problem for problem in table.verify()] == [True]
    with caplog.at_level(logging.WARNING):
        rows = table.read()
    assert f"{path.name} is damaged" in caplog.text and "set aside" in caplog.text
    assert rows.index.tolist() == [*range(10), *range(20, 30)]
    assert table.missing(13).tolist() == [10, 11, 12]
    assert (table.path / "set_aside" / path.name).exists()
    assert table.verify() == []


def test_a_truncated_part_is_found_without_reading_it(table: Table) -> None:
    path = part(table, 0)
    path.write_bytes(path.read_bytes()[:-1])
    assert table.missing(13).tolist() == list(range(10))


def test_a_part_of_another_table_is_refused(table: Table, tmp_path: Path) -> None:
    other = filled(tmp_path / "other", (30, 35), of=manifest(seed=2))
    (table.path / "parts" / part(other, 0).name).write_bytes(part(other, 0).read_bytes())
    with pytest.raises(TableError, match="part of another table: seed"):
        table.read()
    assert "part of another table" in table.verify()[0]


def test_overlapping_parts_count_once_and_are_reported(table: Table) -> None:
    of = table.manifest
    table.append(8, 12, random_rows(of, 8, 12), of)
    assert rows_equal(table.read(), join([random_rows(of, *r) for r in ((0, 10), (10, 13), (20, 30))]))
    assert [p.endswith("overlap") for p in table.verify()] == [True, True]


def test_files_that_are_not_parts_are_reported(table: Table) -> None:
    (table.path / "parts" / "part-1.parquet").write_text("")
    assert table.verify() == ["part-1.parquet: not a part of a table"]
    assert len(table) == 23


@pytest.mark.parametrize("text", ["", "{}", '{"schema_version": 99}', '{"schema_version": 1}', "[1]"])
def test_bad_manifests_are_named(tmp_path: Path, text: str) -> None:
    with pytest.raises(TableError, match="is not a table"):
        Table.open(tmp_path)
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(TableError, match="manifest.json"):
        Table.open(tmp_path)


def test_a_table_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TableError, match="cannot make a table"):
        Table.create(tmp_path / "file" / "table", manifest())


def test_a_file_holds_the_table(table: Table, tmp_path: Path) -> None:
    """Export and load give the same rows; theta in single precision, yet within the prior."""
    loaded = Table.load_file(table.export_file(tmp_path / "all.parquet"))
    before, after = table.read(), loaded.read()
    assert np.allclose(after.theta, before.theta, rtol=1e-6) and loaded.prior.contains(after.theta).all()
    assert rows_equal(replace(after, theta=before.theta), before)
    assert loaded.manifest == table.manifest and loaded.feature_set == WIDE
    assert np.array_equal(after.wall_s, before.wall_s)


def test_theta_at_the_bounds_survives_single_precision(tmp_path: Path) -> None:
    of = manifest()
    ends = np.array([[p.low, p.high] for p in of.prior.parameters]).T
    rows = replace(random_rows(of, 0, 2), theta=ends)
    # 0.1 has no exact single: the law would be empty at bounds that have one.
    assert not np.array_equal(ends.astype(np.float32), ends)
    loaded = Table.load_file(MemoryTable(of, rows).export_file(tmp_path / "ends.parquet"))
    loaded.prior.validate(loaded.read().theta)


def test_a_file_of_some_outcomes(table: Table, tmp_path: Path) -> None:
    loaded = Table.load_file(table.export_file(tmp_path / "ok.parquet", only=("ok",)))
    assert loaded.counts() == {"ok": 5}


@pytest.mark.parametrize("content", [None, b"", b"PAR1"])
def test_a_bad_file_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "table.parquet"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TableError, match="table.parquet"):
        Table.load_file(path)


def test_tables_are_put_together(table: Table, tmp_path: Path) -> None:
    """Two campaigns of one circuit become one table; a simulation in both counts once."""
    other = filled(tmp_path / "other", (0, 6), of=manifest(seed=2))
    both = concat([table, other, table])
    assert len(both) == 29 and both.counts()["ok"] == table.counts()["ok"] + other.counts()["ok"]
    assert rows_equal(both.read().take(np.arange(23)), table.read())
    assert both.manifest.seed is None and both.feature_set == WIDE
    assert concat([other, table]).digest == both.digest
    assert len(both.read(("theta",)).values) == 0


@pytest.mark.parametrize(
    ("other", "what"),
    [
        (manifest(prior=OTHER_PRIOR), "another prior"),
        (manifest(equations=fakes.EQUATIONS.replace("20", "30")), "another circuit"),
        (manifest(FeatureSet.of("isi")), "another feature set"),
        (replace(manifest(), protocol={"duration": 3.0}), "another protocol duration"),
    ],
)
def test_tables_of_something_else_are_not_put_together(
    table: Table, tmp_path: Path, other: Manifest, what: str
) -> None:
    with pytest.raises(TableError, match=f"table 2 does not fit the first: {what}"):
        concat([table, filled(tmp_path / "other", (0, 4), of=other)])
    with pytest.raises(TableError, match="at least one"):
        concat([])


def test_a_table_of_an_older_feature_set_still_reads(table: Table) -> None:
    """Measuring again needs theta and outcomes, not the old features' meaning."""
    file = table.path / "manifest.json"
    file.write_text(file.read_text().replace('"version": 1,', '"version": 0,'))
    assert len(Table.open(table.path).read()) == 23


def test_a_campaign_measures_what_the_table_says(tmp_path: Path) -> None:
    table = run_campaign(fakes.campaign(9), tmp_path, progress=False)
    assert table.feature_set == FeatureSet.of("isi") and table.circuit_name == "fake"
