"""Ensembles drawn around the nearest simulations: what is near, that they verify more, and that they go on."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import CIRCUIT, FEATURES, PRIOR, THETA, TinyEngine, tiny_observation, tiny_posterior, tiny_table

from sbi_circuits.ensemble import Ensemble
from sbi_circuits.errors import InferenceError
from sbi_circuits.features import DEFINED, UNDEFINED, WindowedFeatures
from sbi_circuits.nearby import (
    DRAWN,
    OUT_OF_REACH,
    Known,
    Nearby,
    _next_widest,
    alike,
    distances,
    nearby_ensemble,
    reach,
)
from sbi_circuits.nearby_choice import Expectation, Local, compressed, likely
from sbi_circuits.nearby_known import Batch, differences_in_sd
from sbi_circuits.regression import Regression
from sbi_circuits.results import load_ensemble, save_ensemble
from sbi_circuits.table import MemoryTable
from sbi_circuits.table_rows import Rows

X = tiny_observation(THETA, windows=8)


def drawn(table: MemoryTable | None = None, **options: object) -> Ensemble:
    """Forty-eight draws, whatever is verified."""
    given = {"max_draws": 48, "seed": 3, "engine": "tiny", "progress": False, **options}
    return nearby_ensemble(tiny_posterior(), X, table or memory(), 1000, **given)  # type: ignore[arg-type]


def memory() -> MemoryTable:
    table = tiny_table()
    return MemoryTable(table.manifest, table.read())


def ordered(order: np.ndarray) -> MemoryTable:
    """The same simulations, the configurations exchanged among them."""
    rows: Rows = memory().rows
    ran = np.flatnonzero(rows.outcome == "ok")
    theta = rows.theta.copy()
    theta[ran] = theta[ran][order]
    return MemoryTable(memory().manifest, replace(rows, theta=theta))


def test_the_nearest_simulations_are_those_of_near_configurations() -> None:
    """Of the two parameters that the features tell; negative control: not where configurations are exchanged."""
    ran = int((memory().rows.outcome == "ok").sum())
    gaps = []
    for order in (np.arange(ran), np.random.default_rng(0).permutation(ran)):
        known = Known.of_table(ordered(order), tiny_posterior().encoder)
        near = np.argsort(distances(known, X, tiny_posterior().encoder))[:15]
        gaps.append(np.abs(known.z[near] - PRIOR.unconstrain(THETA))[:, :2].mean())
    assert gaps[0] < 0.4 < 0.7 < gaps[1]


def test_distance_counts_what_one_side_lacks_and_leaves_out_what_was_not_observed() -> None:
    encoder = tiny_posterior().encoder
    known = Known.of_table(memory(), encoder)
    before = distances(known, X, encoder)
    nearest = int(before.argmin())
    lacking = replace(known, defined=known.defined.copy())
    lacking.defined[nearest, 0] = False
    assert distances(lacking, X, encoder)[nearest] > before[nearest] + 10
    unseen = replace(X, states=np.full_like(X.states, UNDEFINED))
    assert (distances(known, unseen, encoder) == 0).all()
    never = replace(unseen, window_states=np.full_like(X.window_states, UNDEFINED))
    share = known.defined.mean(1)
    np.testing.assert_allclose(distances(known, never, encoder), 3.0 * share)  # what they have too many
    one = tiny_observation(THETA, windows=1)
    assert np.isfinite(distances(known, one, encoder)).all()


def test_a_recording_that_no_simulation_is_like_is_said_to_be_out_of_reach() -> None:
    """Observed rates ten times as high; negative control: the recording as it is, of which a fair share agree."""
    encoder, names = tiny_posterior().encoder, tiny_posterior().feature_names
    known = Known.of_table(memory(), encoder)
    assert reach(known, X, encoder, names, 3.5).endswith("simulations of the table lie within 3.5 sd of it in every "
                                                         "feature")  # fmt: skip
    rate = names.index("isi.rate_mean")
    values = X.window_values.copy()
    values[:, rate] *= 10
    text = reach(known, replace(X, window_values=values), encoder, names, 3.5)
    assert text.startswith("no simulation of the table lies within 3.5 sd") and text.endswith(OUT_OF_REACH)
    assert reach(known, tiny_observation(THETA, windows=1), encoder, names, 3.5) == ""


def test_more_are_verified_than_around_exchanged_configurations() -> None:
    """Of 48 draws; the control differs by more than three standard errors of a share (.07 each)."""
    ran = int((memory().rows.outcome == "ok").sum())
    found = drawn()
    control = drawn(ordered(np.random.default_rng(0).permutation(ran)), max_draws=16)
    assert found.yield_ > control.yield_ + 0.3
    assert len(found.theta) == 48 and PRIOR.contains(found.theta).all()
    assert found.provenance["drawn"] == DRAWN and DRAWN in found.summary()


def test_an_ensemble_loads_as_it_was_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = drawn(folder=tmp_path / "kept")
    path = save_ensemble(first, tmp_path / "ensemble.nc")
    assert load_ensemble(path).summary() == first.summary()
    monkeypatch.setattr(TinyEngine, "run", None)  # nothing is simulated twice
    again = drawn(folder=tmp_path / "kept")
    np.testing.assert_array_equal(again.theta, first.theta)
    np.testing.assert_array_equal(again.verified, first.verified)


def test_it_stops_when_there_are_enough_and_workers_do_not_matter() -> None:
    found = [nearby_ensemble(tiny_posterior(), X, memory(), 3, seed=3, engine="tiny", progress=False, workers=w)
             for w in (1, 2)]  # fmt: skip
    assert len(found[0].theta) == 8 and found[0].verified.sum() >= 3
    np.testing.assert_array_equal(found[0].theta, found[1].theta)
    np.testing.assert_array_equal(found[0].values, found[1].values)


def test_time_ends_it_after_the_first_batch() -> None:
    """Negative control: with time it goes on, each batch as large as all before it."""
    assert [len(drawn(seconds=s).theta) for s in (0.0, 1e6)] == [8, 48]


def test_kernels_stay_inside_the_prior_and_near_their_centres() -> None:
    """99 % of a normal in 3 dimensions lie within 3.37; negative control: not where kernels are four times as wide."""
    known = Known.of_table(memory(), tiny_posterior().encoder)
    away = distances(known, X, tiny_posterior().encoder)
    kernels = Nearby.fit(PRIOR, known, away, k=10)
    theta, _ = kernels.sample(400, seed=1)
    assert PRIOR.contains(theta).all()
    assert np.quantile(whitened_gap(kernels, theta).min(1), 0.99) < 0.1 * 3.4
    assert np.quantile(whitened_gap(kernels, kernels.sample(400, seed=1, widest=0.4)[0]).min(1), 0.99) > 0.1 * 3.4
    np.testing.assert_array_equal(theta, kernels.sample(400, seed=1)[0])
    many = kernels.sample(40, seed=1, of_each=50)[0].reshape(40, 50, 3)
    spread = PRIOR.unconstrain(many).std(1).mean(1)
    assert spread.max() > 2 * spread.min()  # each row is of one kernel


def whitened_gap(kernels: Nearby, theta: np.ndarray) -> np.ndarray:
    gap = PRIOR.unconstrain(theta)[:, None] - kernels.centres[None]
    return np.linalg.norm(np.linalg.solve(kernels.factor, gap.reshape(-1, 3).T), axis=0).reshape(len(theta), -1)


def test_kernels_widen_where_many_agree_and_narrow_where_few_do() -> None:
    assert _next_widest(0.1, 0.8) > 0.1 == _next_widest(0.1, 0.5) > _next_widest(0.1, 0.1)
    widest = np.array([0.1, 0.1])
    for _ in range(20):
        widest = np.array([_next_widest(widest[0], 1.0), _next_widest(widest[1], 0.0)])
    np.testing.assert_allclose(widest, [0.4, 0.02])


def test_bad_requests_end_in_a_line_that_says_why() -> None:
    table = memory()
    with pytest.raises(InferenceError, match="n >= 1 and max_draws >= 1"):
        nearby_ensemble(tiny_posterior(), X, table, 0)
    short = replace(table.manifest, protocol={**table.manifest.protocol, "duration": 5.0})
    with pytest.raises(InferenceError, match="another duration than the posterior"):
        nearby_ensemble(tiny_posterior(), X, MemoryTable(short, table.rows))
    few = MemoryTable(table.manifest, table.rows.take(np.arange(2)))
    with pytest.raises(InferenceError, match="needs 3 that ran to their end"):
        nearby_ensemble(tiny_posterior(), X, few, engine="tiny", progress=False)
    assert CIRCUIT.name == "tiny" and FEATURES.width > 10


def test_seeds_of_what_was_drawn_tell_how_far_one_window_may_be_off() -> None:
    """Simulations of a table are single; a batch of eight with three seeds each has sixteen degrees of freedom."""
    encoder, random = tiny_posterior().encoder, np.random.default_rng(0)
    known, one = Known.of_table(memory(), encoder), tiny_observation(THETA, windows=1)
    assert (known.variance()[1] == 0).all()
    shape = (8, 3, len(encoder.centre))
    values = encoder.centre + 0.1 * encoder.scale * random.standard_normal(shape)
    batch = Batch(np.tile(THETA, (8, 1)), values, np.zeros(shape, np.uint8), np.full((8, 3), "ok"))
    more = known.joined(batch, np.arange(8), PRIOR, encoder)
    variance, freedom = more.variance()
    linear = ~encoder.log
    assert (freedom == 16).all() and np.median(np.sqrt(variance[linear])) == pytest.approx(0.1, rel=0.3)
    before, after = (differences_in_sd(k, one, encoder)[: len(known.z)] for k in (known, more))
    assert np.median(after / np.maximum(before, 1e-9)) > 3  # in units a tenth as large, times the root of two


def test_a_typical_configuration_tells_the_unit_and_not_the_most_variable_one() -> None:
    """One of sixteen varies thirty times as much; negative control: the root mean square, which it fills."""
    encoder, random = tiny_posterior().encoder, np.random.default_rng(1)
    sd = np.where(np.arange(16) == 0, 3.0, 0.1)[:, None, None]
    values = encoder.centre + sd * encoder.scale * random.standard_normal((16, 4, len(encoder.centre)))
    batch = Batch(np.tile(THETA, (16, 1)), values, np.zeros(values.shape, np.uint8), np.full((16, 4), "ok"))
    known = Known.of_table(memory(), encoder).joined(batch, np.arange(16), PRIOR, encoder)
    linear = ~encoder.log
    typical = np.sqrt(known.variance()[0])[linear]
    control = np.sqrt(known.squares.sum(0) / known.freedom.sum(0))[linear]
    assert 0.07 < np.median(typical) < 0.2 < 0.5 < np.median(control)


def expectation(table: MemoryTable, x: WindowedFeatures = X) -> Expectation:
    known = Known.of_table(table, tiny_posterior().encoder)
    found = Expectation.fit(known, x, tiny_posterior().encoder, PRIOR.unconstrain(THETA)[None], np.eye(3), 4)
    assert found is not None
    return found


def test_those_expected_to_agree_lie_nearer_to_what_was_observed() -> None:
    """In the two parameters that the features tell; negative control: not where configurations are exchanged."""
    ran = int((memory().rows.outcome == "ok").sum())
    z = PRIOR.unconstrain(PRIOR.sample(2000, seed=5))
    away = np.abs(z - PRIOR.unconstrain(THETA))[:, :2].mean(1)
    gaps = []
    for order in (np.arange(ran), np.random.default_rng(0).permutation(ran)):
        chance = expectation(ordered(order)).log_chance(z)
        assert np.isfinite(chance).all() and (chance <= 0).all()
        chosen = likely(chance.reshape(50, 40), np.random.default_rng(1))
        gaps.append(away.reshape(50, 40)[np.arange(50), chosen].mean())
    assert gaps[0] < 0.5 * away.mean() and gaps[1] > 0.75 * away.mean()


def test_those_that_would_fail_are_not_likely() -> None:
    """Where nothing is observed only surviving counts; negative control: outcomes exchanged among the simulations."""
    rows = memory().rows
    unseen = replace(X, states=np.full_like(X.states, UNDEFINED))
    z, ok = PRIOR.unconstrain(rows.theta), rows.outcome == "ok"
    assert 10 < ok.sum() < len(ok) - 10
    mixed = np.random.default_rng(0).permutation(len(ok))
    exchanged = MemoryTable(memory().manifest, replace(rows, theta=rows.theta[mixed]))
    honest, control = (np.exp(expectation(table, unseen).log_chance(z)) for table in (memory(), exchanged))
    assert honest[ok].mean() - honest[~ok].mean() > 0.3 > 0.1 > abs(control[ok].mean() - control[~ok].mean())


def test_without_enough_simulations_nothing_is_expected() -> None:
    few = MemoryTable(memory().manifest, memory().rows.take(np.arange(12)))
    encoder = tiny_posterior().encoder
    known = Known.of_table(few, encoder)
    assert Expectation.fit(known, X, encoder, PRIOR.unconstrain(THETA)[None], np.eye(3), 4) is None
    found = drawn(few, max_draws=4)
    assert len(found.theta) == 4


def test_how_much_alike_members_are_is_said() -> None:
    """Two draws of the prior differ by the root of a sixth; negative control: copies do not differ."""
    pairs = [PRIOR.sample(2, seed=k) for k in range(400)]
    u = PRIOR.to_unit(np.array(pairs).reshape(-1, 3)).reshape(400, 2, 3)
    assert np.sqrt(((u[:, 0] - u[:, 1]) ** 2).mean()) == pytest.approx(np.sqrt(1 / 6), abs=0.02)
    assert alike(PRIOR, np.repeat(pairs[0], 2, axis=0)).startswith("parameters of a verified configuration differ from")
    assert " 0.0% " in alike(PRIOR, np.repeat(pairs[0], 2, axis=0)) and " 0.0% " not in alike(PRIOR, pairs[0])
    assert alike(PRIOR, pairs[0][:1]) == "" and alike(PRIOR, drawn().members) in drawn().trust


def test_what_is_a_configurations_own_is_expected_nearby_and_what_is_its_seeds_is_not() -> None:
    """Rows in 4 dimensions whose features are white noise: of the configuration, or, as a control, of the seed."""
    random = np.random.default_rng(0)
    z = random.standard_normal((300, 4))
    y = random.standard_normal((300, 1))
    features = Regression.fit(z, y, np.ones(300))
    near, far = z + 0.05 * random.standard_normal(z.shape), 4.0 * random.standard_normal(z.shape) + 20.0
    fits = [Local.fit(features, z, y, np.ones(300), np.array([noise]), np.eye(4)) for noise in (0.01, 1.0)]
    (own, unknown), (control, nothing) = (local.at(near) for local in fits)
    expected = features.mean(torch.as_tensor(near)).numpy()
    assert np.corrcoef((expected + own)[:, 0], y[:, 0])[0, 1] > 0.95
    assert unknown.max() < 0.15 < 0.8 < fits[0].at(far)[1].min()
    assert np.abs(control).max() < 0.35 * np.abs(own).max() and nothing.max() < 0.3
    assert np.abs(fits[0].at(far)[0]).max() < 1e-6


def test_large_differences_are_compressed_and_keep_their_order() -> None:
    away, unit = np.linspace(-300, 300, 2001)[:, None], np.array([1.0, 5.0])
    y = compressed(away, unit)
    assert (np.diff(y, axis=0) > 0).all() and np.allclose(y, -y[::-1])
    near = np.abs(away[:, 0]) < 0.5
    assert np.allclose(y[near], away[near], rtol=0.02) and np.abs(y[:, 0]).max() < 15


def test_one_window_is_compared_in_the_noise_of_the_simulations_near_it() -> None:
    """Against the windows of one circuit; negative control: configurations exchanged, so that all seems noise."""
    encoder, one = tiny_posterior().encoder, tiny_observation(THETA, windows=1)
    windows = tiny_observation(THETA, windows=40)
    sd = encoder.scaled(windows.window_values, windows.window_states).std(0)
    ran, ratio = int((memory().rows.outcome == "ok").sum()), []
    compared = (one.states == DEFINED) & (sd > 0.05)
    for order in (np.arange(ran), np.random.default_rng(0).permutation(ran)):
        known = Known.of_table(ordered(order), encoder)
        found = known.with_noise_near(one, encoder)
        assert (known.noise == 1).all() and (found.noise[one.states != DEFINED] == 1).all()
        ratio.append(np.median(np.sqrt(found.noise[compared]) / sd[compared]))
    assert 0.7 < ratio[0] < 1.5 < 2.0 < ratio[1], ratio
    few = MemoryTable(memory().manifest, memory().rows.take(np.arange(12)))
    assert (Known.of_table(few, encoder).with_noise_near(one, encoder).noise == 1).all()
