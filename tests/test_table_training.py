"""From a table to training: one copy of the features, whatever the outcomes, states and parts."""

import hashlib
import json
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import fakes
import numpy as np
import pytest
import torch
from test_table import WIDE, filled, manifest, random_rows

from sbi_circuits.errors import FeatureError, InferenceError, TableError, UnknownNameError
from sbi_circuits.features import DEFINED, UNDEFINED, UNOBSERVED, FeatureSet
from sbi_circuits.features.packed import PackedStates
from sbi_circuits.inference import TrainingConfig, TrainingData, train
from sbi_circuits.inference.encode import FeatureEncoder
from sbi_circuits.inference.stored import StoredFeatures
from sbi_circuits.table import ROW_FIELDS, BaseTable, Manifest, MemoryTable, Rows, Table
from sbi_circuits.table_rows import MECHANISM

SMALL = TrainingConfig(members=1, epochs=2, hidden=16)
ISI = manifest(FeatureSet.of("isi"))


def informative(of: Manifest = ISI, n: int = 200, seed: int = 0) -> Rows:
    """Rows whose features tell of theta; 3 in 5 ended ok, some features are undefined, junk stands beside them."""
    rows = random_rows(of, 0, n)
    random, width = np.random.default_rng(seed), len(of.feature_names)
    values = np.tile(of.prior.to_unit(rows.theta), (1, width))[:, :width] + 0.1 * random.normal(size=(n, width))
    states = np.where(random.random((n, width)) < 0.1, UNDEFINED, DEFINED).astype(np.uint8)
    states[:, 1] = np.where(random.random(n) < 0.2, UNOBSERVED, DEFINED)
    outcome = np.where(np.arange(n) % 5 < 3, "ok", "silent")
    values[outcome != "ok"] = np.nan
    return replace(rows, values=values.astype(np.float32).astype(float), states=states, outcome=outcome)


def in_parts(path: Path, rows: Rows, *cuts: int, of: Manifest = ISI) -> Table:
    table = Table.create(path, of)
    for start, stop in zip((0, *cuts), (*cuts, len(rows)), strict=True):
        table.append(start, stop, rows.take(np.arange(start, stop)), of)
    return table


def digest_by_reading(table: BaseTable) -> str:
    """The definition: a hash over whole columns, one after another."""
    identity, rows = table.manifest.identity(), table.read()
    found = hashlib.sha256("".join(identity[name] for name in MECHANISM).encode())
    for name in ROW_FIELDS:
        column = getattr(rows, name)
        text = column.dtype.kind == "U"
        if name != "wall_s":
            found.update(json.dumps(column.tolist()).encode() if text else np.ascontiguousarray(column).tobytes())
    return found.hexdigest()


@pytest.mark.parametrize("width", [1, 4, 5, 131])
def test_packed_states_are_the_states(width: int) -> None:
    """Two bits each, by row, by column, and as an array."""
    states = np.random.default_rng(width).integers(0, 3, (77, width)).astype(np.uint8)
    packed = PackedStates.of(states)
    assert packed.bits.nbytes == 77 * -(-width // 4) and packed.shape == states.shape
    assert np.array_equal(np.asarray(packed), states) and np.array_equal(packed[3], states[3])
    assert np.array_equal(packed[10:20], states[10:20]) and np.array_equal(packed[[5, 1]], states[[5, 1]])
    start, stop = width // 3, width
    assert np.array_equal(packed.columns(start, stop), states[:, start:stop])
    assert np.array_equal(packed.columns(start, stop, states[:, 0] == 0), states[states[:, 0] == 0, start:stop])
    packed[10:20] = states[20:30]
    assert np.array_equal(packed[10:20], states[20:30]) and np.array_equal(packed[20:], states[20:])


@pytest.mark.parametrize("states", [np.full((2, 3), 3), np.full((2, 3), -1), np.zeros(3)])
def test_states_that_do_not_exist_are_refused(states: np.ndarray) -> None:
    with pytest.raises(FeatureError, match="states"):
        PackedStates.of(states)


def test_training_data_are_the_usable_rows(tmp_path: Path) -> None:
    """Of many parts as of one, in single precision, 0 where not defined; the digest is that of all rows."""
    rows = informative()
    ok = rows.outcome == "ok"
    table = in_parts(tmp_path, rows, 7, 31, 150)
    for source in (table, MemoryTable(ISI, rows)):
        data = TrainingData.from_table(source)
        assert np.array_equal(data.theta, rows.theta[ok]) and data.values.dtype == np.float32
        assert np.array_equal(data.states[:], rows.states[ok])
        assert np.array_equal(data.values, np.where(rows.states == DEFINED, rows.values, 0)[ok].astype(np.float32))
        assert np.allclose(data.weights, rows.weight[ok] / rows.weight[ok].mean())
        assert data.provenance["outcomes"] == {"ok": 120, "silent": 80}
        assert data.provenance["table_digest"] == table.digest


def test_the_digest_is_that_of_whole_columns(tmp_path: Path) -> None:
    """Reading part by part changes no digest that an earlier version wrote."""
    table = filled(tmp_path / "a", (0, 10), (10, 13), (8, 30))
    assert table.digest == digest_by_reading(table)
    memory = MemoryTable(table.manifest, table.read())
    assert memory.digest == table.digest == digest_by_reading(memory)
    empty = filled(tmp_path / "b")
    assert empty.digest == digest_by_reading(empty) != table.digest


def test_training_is_the_same_from_a_table_and_from_its_matrices(tmp_path: Path) -> None:
    """Scaling in place changes nothing; data that someone else holds stay as they were."""
    rows = informative()
    table = in_parts(tmp_path, rows, 50)
    data = TrainingData.from_table(table)
    before = data.values.copy()
    x = dict(zip(data.feature_names, before[3].tolist(), strict=True))
    streamed, given = (train(source, SMALL, progress=False, seed=3) for source in (table, data))
    assert np.array_equal(data.values, before)
    assert np.array_equal(streamed(x).sample(50, seed=0), given(x).sample(50, seed=0))
    assert streamed.log[:-6] == given.log[:-6]
    assert streamed.provenance["rows"] == {"training": 108, "validation": 12}
    assert streamed.provenance["circuit_digest"] == table.circuit_digest


def test_stored_features_are_the_encoded_ones() -> None:
    """Every row and subset, with and without lost features; patterns as in the rows."""
    rows = informative()
    values, states = np.nan_to_num(rows.values), rows.states
    encoder = FeatureEncoder.fit(values, states, dropping=True)
    whole = encoder.tensors(values, states, torch.float32)
    stored = StoredFeatures.of(encoder, values, states)
    some = np.array([5, 3, 190, 64])
    assert torch.equal(stored[:].inputs(), whole.inputs()) and torch.equal(stored.inputs()[2:9], whole[2:9].inputs())
    assert torch.equal(stored.only(some)[:].inputs(), whole[torch.as_tensor(some)].inputs())
    grid = torch.as_tensor([[0, 3], [7, 7]])
    assert torch.equal(stored[grid].inputs(), whole[grid].inputs())
    lost = torch.rand(3, values.shape[1], generator=torch.Generator().manual_seed(0)) < 0.5
    turns = lost[torch.arange(len(values)) % 3]
    assert torch.equal(stored.without(lost)[:].inputs(), whole.inputs(turns))
    patterns, which = stored.patterns()
    assert torch.equal(patterns[which], whole.unobserved) and len(patterns) == len(torch.unique(patterns, dim=0))


def test_an_encoder_of_some_rows_is_that_of_their_copy() -> None:
    rows = informative()
    values, states = np.nan_to_num(rows.values), rows.states
    some = np.sort(np.random.default_rng(0).permutation(len(values))[:150])
    one = FeatureEncoder.fit(values, PackedStates.of(states), True, some).to_arrays()
    other = FeatureEncoder.fit(values[some], states[some], True).to_arrays()
    assert all(np.array_equal(one[name], other[name]) for name in one)


def test_scales_of_many_rows_come_from_evenly_spaced_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Close to those of all rows; a feature that varies in few rows still varies."""
    random = np.random.default_rng(0)
    values = np.column_stack([random.normal(3, 2, 40_000), np.zeros(40_000)])
    values[17, 1] = 1.0
    states = np.zeros(values.shape, dtype=np.uint8)
    exact = FeatureEncoder.fit(values, states, True)
    monkeypatch.setattr("sbi_circuits.inference.encode._ENOUGH", 4_000)
    thinned = FeatureEncoder.fit(values, states, True)
    assert np.allclose(thinned.centre, exact.centre, atol=0.1) and np.allclose(thinned.scale, exact.scale, rtol=0.05)
    assert not np.array_equal(thinned.centre, exact.centre)  # it did look at fewer rows
    assert not thinned.ignored.any()


def test_features_to_train_on_can_be_chosen(tmp_path: Path) -> None:
    rows = random_rows(manifest(), 0, 120)
    table = MemoryTable(manifest(), replace(rows, outcome=np.full(120, "ok"), states=np.zeros_like(rows.states)))
    data = TrainingData.from_table(table, ["spectrum", "isi.rate_mean"])
    kept = [k for k, name in enumerate(WIDE.names) if name.startswith("spectrum") or name == "isi.rate_mean"]
    assert data.feature_names == tuple(WIDE.names[k] for k in kept)
    assert np.array_equal(data.values, rows.values[:, kept].astype(np.float32))
    assert data.provenance["table_digest"] == table.digest
    posterior = train(data, SMALL, progress=False)
    assert posterior({"isi.rate_mean": 1.0}).sample(5, seed=0).shape == (5, 2)
    with pytest.raises(UnknownNameError, match="unknown feature or family 'burts'; valid: isi, isi"):
        TrainingData.from_table(table, ["burts"])


def test_values_that_are_not_finite_are_named(tmp_path: Path) -> None:
    rows = informative()
    values, states = rows.values.copy(), rows.states.copy()
    values[[0, 10], 2], states[[0, 10], 2] = np.inf, DEFINED
    with pytest.raises(InferenceError, match=f"feature {ISI.feature_names[2]} is defined but inf in 2 rows"):
        TrainingData.from_table(in_parts(tmp_path, replace(rows, values=values, states=states)))


def test_a_table_that_grows_while_it_is_read_is_read_as_it_was(tmp_path: Path) -> None:
    rows = informative(n=230)
    table = in_parts(tmp_path, rows.take(np.arange(200)), 100)
    frozen = table.frozen()
    table.append(200, 230, rows.take(np.arange(200, 230)), ISI)
    assert len(frozen) == 200 and len(table) == 230 and frozen.digest != table.digest
    assert frozen.digest == in_parts(tmp_path / "b", rows.take(np.arange(200))).digest
    table.parts()[0].path.unlink()
    with pytest.raises(TableError, match="was moved while .* was read; read it again"):
        frozen.read()


PEAK = """
import resource, sys
import numpy as np, torch
from sbi_circuits.inference import TrainingConfig, train
from sbi_circuits.table import Table

def peak():
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

torch.set_num_threads(1)
train(Table.open(sys.argv[1]), TrainingConfig(members=1, epochs=1, hidden=8, bins=2, batch=256), progress=False)
before = peak()  # libraries, and the little that this network needs
train(Table.open(sys.argv[2]), TrainingConfig(members=1, epochs=1, hidden=8, bins=2, batch=256), progress=False)
print(peak() - before)
"""


def large(path: Path, rows: int, of: Manifest) -> Table:
    random, width, step = np.random.default_rng(0), len(of.feature_names), 2048
    table = Table.create(path, of)
    for start in range(0, rows, step):
        block = random_rows(of, 0, 1)
        n = min(step, rows - start)
        values = random.normal(size=(n, width)).astype(np.float32).astype(float)
        found = replace(
            block, index=np.arange(start, start + n), seed=np.full(n, of.seed), values=values,
            states=np.zeros((n, width), dtype=np.uint8), theta=of.prior.sample(n, seed=start),
            outcome=np.full(n, "ok"), reason=np.full(n, ""), wall_s=np.zeros(n), proposal=np.full(n, "prior"),
            weight=np.ones(n),
        )  # fmt: skip
        table.append(start, start + n, found, of)
    return table


@pytest.mark.slow
def test_training_holds_the_features_once(tmp_path: Path) -> None:
    """The peak over that of a tiny table is less than 1.5 times the values in single precision.

    `benchmarks/tables.py` measures the same at a million rows of a thousand features.
    """
    of = manifest(FeatureSet.of(spectrum={"low": 1.0, "high": 200.0, "step": 1.0}))
    rows, width = 400_000, len(of.feature_names)
    small, big = large(tmp_path / "small", 200, of), large(tmp_path / "big", rows, of)
    command = [sys.executable, "-c", PEAK, str(small.path), str(big.path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(fakes.__file__).parent, check=True)
    assert int(done.stdout) < 1.5 * 4 * rows * width
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss > 0
