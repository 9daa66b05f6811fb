"""Tables for other tools, recordings beside them, and the command line: nothing is lost or invented on the way."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import duckdb
import fakes
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xarray as xr
from test_table import WIDE, filled, manifest, random_rows
from typer.testing import CliRunner

from sbi_circuits import table_export
from sbi_circuits.cli import app
from sbi_circuits.errors import RecordingError, TableError, UnknownNameError
from sbi_circuits.features import DEFINED
from sbi_circuits.readers import write_recording
from sbi_circuits.recording import IntervalMoments, PopulationCounts, Recording, Signal
from sbi_circuits.table import MemoryTable, Table, rows_equal
from sbi_circuits.table_export import export, to_xarray
from sbi_circuits.table_info import describe
from sbi_circuits.table_recordings import FOLDER, Recordings, write_recordings

SPECTRUM = [k for k, name in enumerate(WIDE.names) if name.startswith("spectrum.")]


@pytest.fixture
def table(tmp_path: Path) -> Table:
    return filled(tmp_path / "table", (0, 10), (10, 13), (20, 30))


def full_recording(seed: int = 0) -> Recording:
    random = np.random.default_rng(seed)
    trains = [np.sort(random.random(n)) for n in (5, 0, 3)]
    counts = {"exc": PopulationCounts(random.integers(0, 9, 1000), 80)}
    moments = {"exc": IntervalMoments(np.array([2, 0]), np.array([0.1, 0.0]), np.array([0.01, 0.0]))}
    signals = {
        "lfp": Signal(random.normal(size=(2, 50)), 500.0, "uV", 0.25),
        "v": Signal(random.normal(size=(1, 20)).astype(np.float32), 1e4, "mV"),
    }
    return Recording.from_units(
        trains, 0.0, 1.0, groups=("a", "a", "b"), counts=counts, moments=moments, signals=signals,
        meta={"seed": seed, "note": "«µ»"},
    )  # fmt: skip


def same(a: Recording, b: Recording) -> bool:
    """Every array, dtype, name and number."""

    def flat(r: Recording) -> list[object]:
        arrays = [r.times, r.offsets, *(c.values for c in r.counts.values())]
        arrays += [x for m in r.moments.values() for x in (m.spikes, m.total, m.total_squared)]
        arrays += [s.values for s in r.signals.values()]
        plain = [(s.rate, s.unit, s.t0) for s in r.signals.values()]
        names = [r.groups, r.unit_kind, list(r.counts), list(r.moments), list(r.signals), dict(r.meta), r.t0, r.t1]
        return [*[(x.shape, str(x.dtype), x.tobytes()) for x in arrays], *plain, *names]

    return flat(a) == flat(b)


def test_pandas_polars_and_duckdb_read_the_parts(table: Table) -> None:
    """Each sees the rows that `read` gives, narrow features by name and wide ones as lists."""
    rows, parts = table.read(), f"{table.path}/parts/*.parquet"
    g, rate = rows.theta[:, 0], rows.values[:, WIDE.names.index("isi.rate_mean")]
    frame = pd.read_parquet(table.path / "parts", columns=["index", "theta.g", "x.isi.rate_mean"]).sort_values("index")
    assert np.array_equal(frame["theta.g"], g) and np.array_equal(frame["x.isi.rate_mean"], rate.astype(np.float32))
    lazy = pl.scan_parquet(parts).sort("index")
    assert np.array_equal(lazy.select("theta.g").collect()["theta.g"].to_numpy(), g)
    spectrum = lazy.select("x.spectrum").collect()["x.spectrum"]
    assert spectrum.dtype == pl.Array(pl.Float32, len(SPECTRUM))
    assert np.array_equal(spectrum.to_numpy(), rows.values[:, SPECTRUM].astype(np.float32))
    found = duckdb.sql(f"SELECT outcome, count(*), avg(\"theta.g\") FROM '{parts}' GROUP BY outcome").fetchall()
    assert {name: n for name, n, _ in found} == table.counts()
    assert {name: mean for name, _, mean in found}["ok"] == pytest.approx(g[rows.outcome == "ok"].mean())
    second = duckdb.sql(f"SELECT \"x.spectrum\"[2] FROM '{parts}' ORDER BY index").fetchnumpy()
    assert np.array_equal(next(iter(second.values())), rows.values[:, SPECTRUM[1]].astype(np.float32))


def test_batches_of_chosen_columns(table: Table) -> None:
    """Features by name and family, parameters by name, in parts as in memory."""
    rows, chosen = table.read(), [WIDE.names.index("isi.rate_mean"), *SPECTRUM]
    for source in (table, MemoryTable(table.manifest, rows)):
        found = list(source.batches(("theta", "values", "states"), ["spectrum", "isi.rate_mean"], ["rate"]))
        values, states, theta = (np.concatenate([getattr(b, n) for b in found]) for n in ("values", "states", "theta"))
        assert values.dtype == np.float32 and np.array_equal(values, rows.values[:, chosen].astype(np.float32))
        assert np.array_equal(states, rows.states[:, chosen]) and np.array_equal(theta, rows.theta[:, 1:])
        assert all(len(b.outcome) == 0 for b in found)
    assert [len(b) for b in table.batches(("index",))] == [10, 3, 10]
    with pytest.raises(UnknownNameError, match="unknown column of a table 'a'; valid: index"):
        list(table.batches(("a",)))
    with pytest.raises(UnknownNameError, match="unknown feature or family 'b'; valid: isi, isi"):
        list(table.batches(None, ["b"]))
    with pytest.raises(UnknownNameError, match="unknown parameter 'c'; valid: g, rate"):
        list(table.batches(None, None, ["c"]))


@pytest.mark.parametrize("lazy", [True, False])
def test_xarray_holds_the_table(table: Table, lazy: bool) -> None:
    if lazy:
        pytest.importorskip("dask")
    rows, found = table.read(), to_xarray(table, lazy=lazy)
    assert (found.x.chunks is not None) == lazy and (not lazy or found.x.chunks[0] == (10, 3, 10))
    assert found.x.dtype == np.float32 and found.sizes == {"simulation": 23, "parameter": 2, "feature": len(WIDE.names)}
    defined = rows.states == DEFINED
    assert np.array_equal(np.isnan(found.x.values), ~defined)
    assert np.array_equal(found.x.values[defined], rows.values[defined].astype(np.float32))
    assert np.array_equal(found.state, rows.states) and np.array_equal(found.theta, rows.theta)
    assert found.theta.sel(parameter="rate", simulation=22).item() == rows.theta[15, 1]
    assert np.array_equal(found.outcome, rows.outcome) and found.attrs["circuit_digest"] == table.circuit_digest
    some = to_xarray(table, ["spectrum"], lazy)
    assert some.sizes["feature"] == len(SPECTRUM) and set(some.family.values) == {"spectrum"}


def test_xarray_without_dask_is_in_memory(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dask", None)
    assert to_xarray(table).x.chunks is None


def test_overlapping_parts_are_not_read_lazily(table: Table) -> None:
    pytest.importorskip("dask")
    table.append(8, 12, random_rows(table.manifest, 8, 12), table.manifest)
    with pytest.raises(TableError, match="overlap; run `sbi-circuits table compact"):
        to_xarray(table)
    assert to_xarray(table, lazy=False).sizes["simulation"] == 23


def test_files_hold_the_table(table: Table, tmp_path: Path) -> None:
    rows = table.read()
    with xr.open_dataset(export(table, tmp_path / "a.nc", ["spectrum"]), engine="h5netcdf") as found:
        assert np.array_equal(found.theta, rows.theta) and found.sizes["feature"] == len(SPECTRUM)
        defined = rows.states[:, SPECTRUM] == DEFINED
        assert np.array_equal(found.x.values[defined], rows.values[:, SPECTRUM].astype(np.float32)[defined])
        assert found.outcome.values.astype(str).tolist() == rows.outcome.tolist()
    assert len(Table.load_file(export(table, tmp_path / "a.parquet"))) == 23
    with pytest.raises(TableError, match=r"cannot write a.csv: valid suffixes: .nc, .parquet"):
        export(table, tmp_path / "a.csv")
    with pytest.raises(TableError, match="choose some for .nc"):
        export(table, tmp_path / "b.parquet", ["isi"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.nc", "a.parquet", "table"]


def test_an_export_that_fails_leaves_nothing(
    table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(table_export.xr.Dataset, "to_netcdf", full)
    with pytest.raises(TableError, match="cannot write .*a.nc: No space left on device"):
        export(table, tmp_path / "a.nc")
    assert [p.name for p in tmp_path.iterdir()] == ["table"]


def test_recordings_come_back_as_they_were(tmp_path: Path) -> None:
    """From files of many and from archives of one; only those that were kept."""
    made = {3: full_recording(3), 11: full_recording(11), 7: Recording.from_units([[]], 0.0, 2.0, unit_kind="channel")}
    file = write_recordings(tmp_path / FOLDER, made)
    assert file is not None and file.name == "rec-0000000003-0000000012.parquet"
    write_recording(tmp_path / FOLDER / "rec-0000000020.npz", full_recording(20))
    kept = Recordings(tmp_path / FOLDER)
    assert list(kept) == [3, 7, 11, 20] and kept.missing([3, 4, 20]) == [4]
    assert all(same(kept[k], made[k]) for k in made) and same(kept[20], full_recording(20))
    assert not same(kept[3], kept[11])
    with pytest.raises(KeyError, match="no recording of simulation 5 in .*, which holds 4"):
        kept[5]
    assert write_recordings(tmp_path / "none", {}) is None and list(Recordings(tmp_path / "none")) == []


def test_spike_times_are_lists_that_other_tools_read(tmp_path: Path) -> None:
    file = write_recordings(tmp_path, {3: full_recording(3), 4: full_recording(4)})
    found = duckdb.sql(f"SELECT index, len(times), groups FROM '{file}' ORDER BY index").fetchall()
    assert found == [(3, 8, ["a", "a", "b"]), (4, 8, ["a", "a", "b"])]


@pytest.mark.parametrize("damage", ["truncated", "foreign", "version"])
def test_recordings_that_cannot_be_read_are_named(tmp_path: Path, damage: str) -> None:
    file = write_recordings(tmp_path, {3: full_recording(3)})
    assert file is not None
    content = pq.ParquetFile(file).read()
    if damage == "truncated":
        file.write_bytes(file.read_bytes()[:-9])
    elif damage == "foreign":
        pq.write_table(pa.table({"index": [3]}), file)
    else:
        stamp = {b"sbi_circuits recordings": json.dumps({"schema_version": 9}).encode()}
        pq.write_table(content.replace_schema_metadata(stamp), file)
    with pytest.raises(RecordingError, match=file.name):
        Recordings(tmp_path)[3]


def test_recordings_that_are_no_recordings_are_refused(tmp_path: Path) -> None:
    file = write_recordings(tmp_path, {3: full_recording(3)})
    content = pq.ParquetFile(file).read()
    wrong = content.set_column(content.column_names.index("offsets"), "offsets", [[[0, 99]]])
    pq.write_table(wrong.replace_schema_metadata(content.schema.metadata), file)
    with pytest.raises(RecordingError, match="damaged recording"):
        Recordings(tmp_path)[3]
    with pytest.raises(RecordingError, match="meta is not plain JSON"):
        write_recordings(tmp_path, {3: replace(full_recording(), meta={"a": np.zeros(2)})})


def run(*words: object) -> tuple[int, str]:
    found = CliRunner().invoke(app, [str(w) for w in words])
    return found.exit_code, found.output


def test_the_command_line_describes_compacts_and_exports(table: Table, tmp_path: Path) -> None:
    rows, digest = table.read(), table.digest
    write_recordings(table.path / FOLDER, {3: full_recording(3)})
    table.append(8, 12, random_rows(table.manifest, 8, 12), table.manifest)
    status, text = run("table", "info", table.path)
    assert status == 0 and text.splitlines() == describe(table)
    for line in ("23 simulations of fake (5 ok, 5 silent, 5 saturated, 4 diverged, 4 failed)",):
        assert sorted(line.split("(")[1]) == sorted(text.splitlines()[0].split("(")[1])
    assert "recordings of 1 simulations" in text and "parts overlap" in text and digest[:12] in text
    status, text = run("table", "compact", table.path, "--size", "1")
    assert status == 0 and text == f"compacted {table.path}: 4 parts became 2\n"
    assert rows_equal(table.read(), rows) and table.digest == digest
    chosen = ("--features", "spectrum, isi.rate_mean")
    status, text = run("table", "export", table.path, "--out", tmp_path / "a.nc", *chosen)
    assert status == 0 and (tmp_path / "a.nc").is_file()
    table.export_file(tmp_path / "a.parquet")
    assert run("table", "info", tmp_path / "a.parquet")[0] == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("info", "nowhere"), "there is no table nowhere"),
        (("compact", "nowhere"), "nowhere is not a table"),
        (("compact", "{file}"), "is one file already"),
        (("export", "{table}", "--out", "a.csv"), "valid suffixes: .nc, .parquet"),
        (("export", "{table}", "--out", "a.nc", "--features", "burst"), "unknown feature or family 'burst'"),
    ],
)
def test_mistakes_are_one_line(table: Table, tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    file = tmp_path / "file.parquet"
    file.write_bytes(b"PAR1")
    status, text = run("table", *(w.format(table=table.path, file=file) for w in words))
    assert status == 2 and message in text and len(text.strip().splitlines()) == 1


def test_a_table_that_is_no_longer_whole_is_said_by_info(table: Table) -> None:
    assert fakes.PRIOR.names[0] in describe(table)[1] and manifest().circuit_name in describe(table)[0]
