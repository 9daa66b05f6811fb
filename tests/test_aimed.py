"""The aimed campaign: proposals of known density, rounds that go on, and a judge that fails what is wrong."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny import tiny_posterior, tiny_table

from benchmarks.aimed.cultures import measured
from benchmarks.aimed.judge import held_out, judge, kinds
from benchmarks.aimed.kernels import Kernels, around, standard_normal
from benchmarks.aimed.posterior import PER_KIND, PER_KIND_OF, SEED, make
from benchmarks.aimed.rounds import Candidates, choose, run, targets_of
from benchmarks.aimed.settings import HELD_OUT_WELLS, TABLES, Settings, Wanted, channels, kept
from benchmarks.aimed.tables import table_of
from sbi_circuits.calibration import HeldOut
from sbi_circuits.circuit import Record
from sbi_circuits.cultures import culture_features, plate
from sbi_circuits.demo import demo_table
from sbi_circuits.engines import Protocol
from sbi_circuits.inference import TrainingConfig, load_card, load_posterior
from sbi_circuits.inference.train import _split
from sbi_circuits.prior import Parameter, Prior
from sbi_circuits.seeds import generator
from sbi_circuits.table import MemoryTable, Table, concat
from sbi_circuits.table_rows import rows_equal

PRIOR = Prior(tuple(Parameter(name, "1", 0, 1) for name in "abc"))


@pytest.fixture
def kernels() -> Kernels:
    random = np.random.default_rng(0)
    return around(random.normal(size=(5, 3)), random.normal(size=(40, 3)), (0.25, 0.5), 0.3)


def ratios(kernels: Kernels, drawn: Kernels) -> tuple[float, float]:
    """Mean and standard error of prior over proposal density, at draws: 1 where the density is that of the draws."""
    z = PRIOR.unconstrain(drawn.sample(PRIOR, 20_000, seed=1))
    ratio = np.exp(standard_normal(z) - kernels.log_prob_z(z))
    return float(ratio.mean()), float(ratio.std() / np.sqrt(len(z)))


def test_the_density_is_that_of_the_draws(kernels: Kernels) -> None:
    mean, error = ratios(kernels, kernels)
    assert abs(mean - 1) < 4 * error and error < 0.02
    z = PRIOR.unconstrain(kernels.sample(PRIOR, 100, seed=2))
    assert np.exp(standard_normal(z) - kernels.log_prob_z(z)).max() <= 1 / 0.3 + 1e-9  # bounded by the prior's share


def test_negative_control_a_density_of_other_draws(kernels: Kernels) -> None:
    other = replace(kernels, widths=np.array([0.25, 0.7]))
    mean, error = ratios(kernels, other)
    assert abs(mean - 1) > 4 * error


def test_kernels_are_read_as_they_were_written(kernels: Kernels, tmp_path: Path) -> None:
    kernels.save(tmp_path / "k.safetensors")
    again = Kernels.load(tmp_path / "k.safetensors")
    np.testing.assert_array_equal(again.sample(PRIOR, 50, 3), kernels.sample(PRIOR, 50, 3))


def test_rounds_draw_around_what_comes_nearest_and_never_aim_at_held_out_wells() -> None:
    targets = targets_of(plate(), culture_features().names)
    wells = {row.well for row in plate()}
    assert set(HELD_OUT_WELLS) < wells and len(targets.values) == 4 * (len(wells) - len(HELD_OUT_WELLS))
    own = targets.distances(targets.values, targets.states)
    assert np.abs(np.diag(own)).max() < 1e-12 and np.median(own) > 0.5
    candidates = Candidates.of(demo_table(), targets)
    chosen = choose([candidates], Settings(nearest=1, others=0), seed=0)
    best = candidates.z[candidates.distances.argmin(0)]
    np.testing.assert_array_equal(chosen.centres, best)


def test_the_plate_was_measured_as_the_rounds_are() -> None:
    rows = measured()
    assert len(rows) == 4 * 35 and {row.features.window_values.shape[1] for row in rows} == {channels().width}
    k = channels().names.index("bursts.rate_per_minute")
    shorter = {(row.day, row.well): row.features.values[0] for row in plate()}
    both = np.array([(row.features.values[k], shorter[row.day, row.well]) for row in rows])
    assert np.corrcoef(both.T)[0, 1] > 0.95


def test_rounds_run_at_any_scale_and_go_on(tmp_path: Path) -> None:
    protocol = Protocol(duration=4.0, warmup=0.2, record=Record(spikes=80, counts=True, moments=True))
    settings = replace(Settings(), protocol=protocol, per_round=5, rounds=2, others=5)
    start = demo_table()
    start = MemoryTable(start.manifest, start.rows.take(np.arange(0, len(start.rows), 8)))
    run(tmp_path, start, (plate(), measured()), settings, workers=1)
    names = ["round-000-channels", "round-001-channels"]
    found = concat([Table.open(tmp_path / name) for name in names])
    assert len(found) == 10 and found.counts().get("ok", 0) > 0 and found.feature_set == channels()
    run(tmp_path, start, (plate(), measured()), settings, workers=1)
    assert rows_equal(concat([Table.open(tmp_path / name) for name in names]).rows, found.rows)
    _tables_of_windows(tmp_path, found)


def _tables_of_windows(folder: Path, found: MemoryTable) -> None:
    """The same simulations measured again: whole, as the rounds were; and in halves, each a row of its simulation."""
    whole = table_of(folder, Wanted("whole", channels(), 4.0))
    np.testing.assert_array_equal(whole.rows.states, found.rows.states)
    np.testing.assert_allclose(whole.rows.values, found.rows.values, rtol=1e-6)
    ended = found.rows.outcome != "ok"
    halves = table_of(folder, Wanted("halves", channels(), 2.0))
    assert len(halves) == ended.sum() + 2 * (~ended).sum() and halves.manifest.protocol["duration"] == 2.0
    assert len(np.unique(halves.rows.theta, axis=0)) == len(found)
    # Prior over the mixture: on average 1 over its draws, and never more than one over the prior's share.
    assert (whole.rows.weight > 0).all() and whole.rows.weight.max() <= 1 / Settings().prior_share + 1e-9
    again = table_of(folder, Wanted("halves", channels(), 2.0))  # read, not measured again
    assert rows_equal(again.rows, halves.rows)


def test_kinds_of_dynamics() -> None:
    names = channels().names
    values, states = np.zeros((3, len(names))), np.zeros((3, len(names)), dtype=np.uint8)
    values[0, names.index("bursts.rate_per_minute")] = 2.0
    values[1, names.index("spectrum.log_power_20")] = 1.0
    assert kinds(values, states, names).tolist() == ["bursting", "oscillating", "asynchronous"]
    few = culture_features().names
    states[1, names.index("spectrum.log_power_20")] = 1  # too few spikes for a spectrum
    assert kinds(values, states, names).tolist()[1:] == ["asynchronous", "asynchronous"]
    assert kinds(values[:, : len(few)], states[:, : len(few)], few).tolist()[1:] == ["without bursts"] * 2


def test_windows_of_one_simulation_are_held_out_together() -> None:
    rows = demo_table().rows.take(np.arange(0, 4000))
    double = rows.take(np.repeat(np.arange(len(rows)), 2))
    rest, held, found = held_out(MemoryTable(demo_table().manifest, double), 20, seed=0)
    assert len(held) == 40 == len(found) and len(np.unique(held.theta, axis=0)) == 40
    apart = {theta.tobytes() for theta in held.theta}
    assert not any(theta.tobytes() in apart for theta in rest.rows.theta)
    assert len(rest.rows) == len(double) - 80


def test_the_judge_fails_a_posterior_that_knows_nothing_of_its_observation() -> None:
    posterior, table = tiny_posterior(), tiny_table()
    held = HeldOut.from_table(table, 240, drawn_from="all")
    found = np.array(["bursting"] * len(held))
    _, honest = judge(posterior, held, found, {"all features": ["isi", "bursts"]}, 200, 0)
    wrong = replace(held, theta=np.roll(held.theta, 1, axis=0))
    covered, failed = judge(posterior, wrong, found, {"all features": ["isi", "bursts"]}, 200, 0)
    assert not failed["all features"]["passes"] and failed["all features"]["least_p"] < 1e-6
    assert failed["all features"]["least_p"] < honest["all features"]["least_p"]
    assert covered["all"]["all features"]["levels"]["0.9"][0] < 0.8


def test_windows_of_one_simulation_are_validated_together() -> None:
    theta = np.random.default_rng(0).random((600, 3))
    training, validation = _split(np.repeat(theta, 2, axis=0), 0.1, seed=3)
    assert len(validation) == 120 and len(training) == 1080
    assert not set((training // 2).tolist()) & set((validation // 2).tolist())
    alone = np.sort(generator(3, "validation").permutation(600)[:60])  # where all differ: a random choice of rows
    np.testing.assert_array_equal(_split(theta, 0.1, seed=3)[1], alone)


def test_a_posterior_and_its_card_are_made_from_a_table(tmp_path: Path) -> None:
    table = concat([tiny_table()])
    quick = TrainingConfig(members=1, epochs=2, hidden=16, width=8, importance="none")
    made = make(table, "toy", tmp_path, quick, per_kind=80, draws=40, made_by="tests")
    card, posterior = load_card(tmp_path / "toy"), load_posterior(tmp_path / "toy")
    assert card.to_dict() == made.to_dict() and card.features["families"] == ["isi", "bursts"]
    assert set(card.calibration) == {"all features", "isi only", "bursts only"} == set(card.coverage["all"])
    held = card.training["held_out"]
    assert held == card.coverage["all"]["all features"]["rows"] == 57  # a fifth of each kind
    # What judges was not trained on.
    assert card.training["rows"] == sum(posterior.provenance["rows"].values()) == table.counts()["ok"] - held
    assert any("stand in for the prior" in line for line in card.weak)


@pytest.mark.parametrize("name", TABLES)
def test_the_tables_behind_the_posteriors_are_kept(name: str) -> None:
    table, training = Table.load_file(kept(name)), load_card(name).training
    assert table.digest == training["table_digest"] and table.counts()["ok"] == training["rows"] + _windows_held(
        table, name
    )
    assert table.feature_set == TABLES[name].features
    assert table.manifest.protocol["duration"] == TABLES[name].window_s == load_card(name).features["window_s"]


def _windows_held(table: MemoryTable, name: str) -> int:
    rest, _, _ = held_out(table, PER_KIND_OF.get(name, PER_KIND), SEED)
    return table.counts()["ok"] - rest.counts()["ok"]
