"""Single simulations aimed at an observation: they lie nearer, are simulated again, and help where a table has gaps."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny import FEATURES, PRIOR, THETA, TinyEngine, tiny_observation, tiny_posterior, tiny_table

from sbi_circuits import nearby
from sbi_circuits.ensemble import Ensemble
from sbi_circuits.nearby import nearby_ensemble
from sbi_circuits.nearby_aimed import ENOUGH, MOST, ROUND, _likeliest, aimed, enough
from sbi_circuits.nearby_known import Batch, Known, differences_in_sd
from sbi_circuits.table import MemoryTable

X = tiny_observation(THETA, windows=8)
TOLD = slice(0, 2)  # the parameters that the features tell


def table_with_a_gap(width: float = 1.2) -> MemoryTable:
    """No configuration within `width` prior standard deviations of the observed one, in what the features tell."""
    table = tiny_table()
    rows = table.read()
    away = np.abs(PRIOR.unconstrain(rows.theta) - PRIOR.unconstrain(THETA))[:, TOLD].max(1)
    return MemoryTable(table.manifest, rows.take(np.flatnonzero(away > width)))


def exchanged(table: MemoryTable) -> MemoryTable:
    """The same simulations, the configurations exchanged among them."""
    ran = np.flatnonzero(table.rows.outcome == "ok")
    theta = table.rows.theta.copy()
    theta[ran] = theta[np.random.default_rng(0).permutation(ran)]
    return MemoryTable(table.manifest, replace(table.rows, theta=theta))


def gap(theta: np.ndarray) -> float:
    """Median distance from the observed configuration, prior standard deviations."""
    return float(np.median(np.abs(PRIOR.unconstrain(theta) - PRIOR.unconstrain(THETA))[:, TOLD].max(1)))


def test_they_lie_nearer_than_the_simulations_they_were_learned_from() -> None:
    """Negative control: not where configurations are exchanged."""
    encoder, table = tiny_posterior().encoder, table_with_a_gap(0.6)
    found, control = (aimed(PRIOR, Known.of_table(t, encoder), X, encoder, 2, ROUND, 1)[0]
                      for t in (table, exchanged(table)))  # fmt: skip
    assert found.shape == (ROUND, 3) and PRIOR.contains(found).all()
    assert gap(found) < 0.6 < gap(control)  # all in the table are .6 or more away
    known = Known.of_table(table, encoder)
    again, around = aimed(PRIOR, known, X, encoder, 2, ROUND, 1)
    np.testing.assert_array_equal(found, again)
    centres = [known.z[known.family == family] for family in around]
    away = [np.abs(PRIOR.unconstrain(theta) - z).max() for theta, z in zip(found, centres, strict=True)]
    assert np.max(away) < 0.5 * 4 < np.abs(known.z - known.z.mean(0)).max()  # prior standard deviations


def test_nothing_is_aimed_where_nothing_can_be_expected() -> None:
    table, encoder = MemoryTable(tiny_table().manifest, tiny_table().read()), tiny_posterior().encoder
    few = MemoryTable(table.manifest, table.rows.take(np.flatnonzero(table.rows.outcome == "ok")[:15]))
    assert aimed(PRIOR, Known.of_table(few, encoder), X, encoder, 2, ROUND, 1)[0].shape == (0, 3)


def test_the_likeliest_are_taken_but_few_around_one_and_the_same() -> None:
    chance = np.array([9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0])
    centre = np.array([2, 2, 2, 2, 0, 2, 1])
    assert _likeliest(chance, centre, 5).tolist() == [0, 1, 2, 4, 6]
    assert _likeliest(chance, centre, 2).tolist() == [0, 1]
    assert _likeliest(chance, np.arange(7), 7).tolist() == list(range(7))  # control: of different ones all


def test_enough_counts_single_simulations_that_agree_in_every_feature() -> None:
    encoder = tiny_posterior().encoder
    known = Known.of_table(tiny_table(), encoder)
    worst = np.sort(differences_in_sd(known, X, encoder).max(1))
    agree = int((worst <= 3.0).sum())
    assert 1 < agree
    target = np.argsort(differences_in_sd(known, X, encoder).max(1))
    many = known.z[target[np.zeros(ENOUGH, dtype=int)]]
    more = replace(known, z=np.concatenate([known.z, many]), **{
        name: np.concatenate([getattr(known, name), getattr(known, name)[target[np.zeros(ENOUGH, dtype=int)]]])
        for name in ("x", "defined", "family", "seeds", "squares", "freedom")})  # fmt: skip
    assert enough(more, X, encoder)
    assert not enough(replace(more, seeds=np.full(len(more.z), 2.0)), X, encoder)
    assert not enough(Known.of_table(table_with_a_gap(), encoder), X, encoder)


def test_an_aimed_one_is_a_family_that_descends_from_one_of_the_table() -> None:
    """Those aimed around an aimed one too, and those that did not run to their end take a number as well."""
    encoder, known = tiny_posterior().encoder, Known.of_table(tiny_table(), tiny_posterior().encoder)
    n, shape = len(known.roots), (2, 1, FEATURES.width)
    values = np.broadcast_to(encoder.centre, shape).copy()
    batch = Batch(np.tile(THETA, (2, 1)), values, np.zeros(shape, np.uint8), np.array([["ok"], ["silent"]]))
    once = known.aimed(batch, np.array([3, 5]), PRIOR, encoder)
    twice = once.aimed(batch, np.array([n, 7]), PRIOR, encoder)
    assert twice.roots[n:].tolist() == [3, 5, 3, 7] and (twice.roots[:n] == np.arange(n)).all()
    assert twice.family[-2:].tolist() == [n, n + 2] and len(twice.failed) == len(known.failed) + 2
    assert (twice.seeds[-2:] == 1).all()


def drawn(most: int, monkeypatch: pytest.MonkeyPatch, **options: object) -> Ensemble:
    monkeypatch.setattr(nearby, "MOST", most)
    given = {"max_draws": 32, "seed": 3, "engine": "tiny", "progress": False, **options}
    return nearby_ensemble(tiny_posterior(), X, table_with_a_gap(), 1000, **given)  # type: ignore[arg-type]


def test_they_find_what_the_table_has_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Negative control: the same search without them; three standard errors of a share of 32 are .25."""
    found, control = (drawn(most, monkeypatch, folder=tmp_path / str(most)) for most in (MOST, 0))
    assert not found.verified[:8].any() and not control.verified[:8].any()  # the table's own
    assert found.verified[8:].mean() > control.verified[8:].mean() + 0.25
    assert found.provenance["aimed_simulations"] % ROUND == 0 < found.provenance["aimed_simulations"]
    assert control.provenance["aimed_simulations"] == 0
    assert "single simulations were aimed at it" in found.trust and "aimed" not in control.trust
    monkeypatch.setattr(TinyEngine, "run", None)  # nothing is simulated twice
    again = drawn(MOST, monkeypatch, folder=tmp_path / str(MOST))
    np.testing.assert_array_equal(again.theta, found.theta)
    assert again.trust == found.trust


def test_without_time_nothing_is_aimed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert drawn(MOST, monkeypatch, seconds=0.0).provenance["aimed_simulations"] == 0
