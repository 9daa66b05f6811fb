"""Families of draws: all are tried, those that agree are drawn from more often, none crowds out the others."""

from dataclasses import replace

import numpy as np
import pytest
from tiny import PRIOR, THETA, tiny_observation, tiny_posterior, tiny_table

from sbi_circuits.nearby import Nearby, nearby_ensemble
from sbi_circuits.nearby_families import Families
from sbi_circuits.nearby_known import Known
from sbi_circuits.table import MemoryTable

X = tiny_observation(THETA, windows=8)


def record(*families: tuple[int, int, int], moved: bool = True) -> Families:
    """(number, draws, verified) of each."""
    family = np.concatenate([np.full(n, k) for k, n, _ in families])
    verified = np.concatenate([np.arange(n) < v for _, n, v in families])
    return Families(family, np.full(len(family), moved), verified)


def known() -> Known:
    return Known.of_table(tiny_table(), tiny_posterior().encoder)


def test_all_of_the_first_batch_are_new_and_then_as_many_as_agree() -> None:
    assert Families.none().n_new(8) == 8
    new = record((0, 4, 2), (1, 4, 2), moved=False)
    assert new.n_new(20) == 10  # of those that were moved nothing is known
    good = new.followed_by(np.zeros(8, dtype=int), np.ones(8, dtype=bool), np.r_[new.verified, np.ones(8, dtype=bool)])
    bad = new.followed_by(np.zeros(8, dtype=int), np.ones(8, dtype=bool), np.r_[new.verified, np.zeros(8, dtype=bool)])
    assert 0 < good.n_new(20) < 10 < bad.n_new(20) < 20


def test_only_the_last_new_ones_count_as_they_lie_further_and_further_away() -> None:
    """Negative control: the same verdicts in the other order."""
    verified = np.arange(40) < 24
    falling, rising = (Families(np.arange(40), np.zeros(40, dtype=bool), v) for v in (verified, verified[::-1]))
    assert falling.n_new(100) < 10 < 60 < rising.n_new(100)


def test_what_was_drawn_before_they_were_aimed_says_nothing_of_new_ones() -> None:
    """Of moved ones everything counts; negative control: as if nothing had been aimed, few are new."""
    bad, good = record((0, 16, 1), moved=False), record((0, 8, 4))
    before = bad.followed_by(good.family, good.moved, np.r_[bad.verified, good.verified])
    assert before.nearer().n_new(20) == 10 > 5 > before.n_new(20)
    assert record((0, 8, 0)).n_new(20) == 20  # nothing to draw around


def test_a_family_is_worth_its_share_and_not_its_number() -> None:
    families = record((3, 40, 20), (5, 4, 2), (7, 4, 0), (9, 4, 4))
    many, few, none, all_, unknown = families.worth(np.array([3, 5, 7, 9, 11]))
    assert many == pytest.approx(few) == pytest.approx(unknown)
    assert none < few / 4 < few < all_ < 1


def test_new_families_are_the_nearest_that_were_not_drawn_from() -> None:
    simulations = known()
    distance = np.random.default_rng(0).random(len(simulations.z))
    order = np.argsort(distance)
    np.testing.assert_array_equal(Families.none().new(simulations, distance, 5), order[:5])
    families = record(*((int(k), 1, 0) for k in order[[0, 2, 3]]))
    np.testing.assert_array_equal(families.new(simulations, distance, 3), order[[1, 4, 5]])
    np.testing.assert_array_equal(families.centres(simulations, distance, 30), order[[0, 2, 3]])
    np.testing.assert_array_equal(record((int(order[9]), 1, 1)).centres(simulations, distance, 7), order[:7])
    assert len(families.new(simulations, distance, 10**6)) == len(order) - 3


def test_windows_of_one_simulation_are_one_family() -> None:
    """Negative control: as many families as simulations where every configuration is another."""
    table = MemoryTable(tiny_table().manifest, tiny_table().read())
    once, ok = known(), np.flatnonzero(table.rows.outcome == "ok")
    np.testing.assert_array_equal(once.family, np.arange(len(ok)))
    theta = table.rows.theta.copy()
    theta[ok[10]] = theta[ok[3]]
    twice = Known.of_table(replace(table, rows=replace(table.rows, theta=theta)), tiny_posterior().encoder)
    assert twice.family[10] == twice.family[3] == 3 and len(np.unique(twice.family)) == len(ok) - 1
    assert len(twice.without(np.array([3])).z) == len(ok) - 2
    assert not np.isin([3, 10], Families.none().new(twice, np.arange(len(ok)) != 10, 50)[1:]).any()


def test_of_each_family_one_member_is_a_centre_and_good_families_weigh_more() -> None:
    """Negative control: without a record the nearest weighs most, whatever was verified of it."""
    simulations = known()
    one = replace(simulations, family=np.arange(len(simulations.z)) % 6)
    distance = np.linspace(1.0, 2.0, len(one.z))
    families = record(*((k, 4, 4 if k == 3 else 0) for k in range(6)))
    kernels, control = (Nearby.fit(PRIOR, one, distance, families=given) for given in (families, None))
    assert kernels.family.tolist() == control.family.tolist() == list(range(6))
    assert kernels.weights.argmax() == 3 and kernels.weights[3] > 0.5 > 0.3 > control.weights[3]
    assert control.weights.argmax() == 0
    chosen = kernels.sample(200, seed=1)[1]
    assert np.mean(kernels.family[chosen] == 3) == pytest.approx(kernels.weights[3], abs=0.01)  # systematic


def test_what_was_simulated_again_is_no_longer_taken_from_the_table() -> None:
    simulations = known()
    less = simulations.without(np.array([2, 5]))
    assert len(less.z) == len(simulations.z) - 2 and not np.isin([2, 5], less.family).any()
    assert len(less.failed) == len(simulations.failed)
    several = replace(simulations, seeds=np.full(len(simulations.z), 4.0))
    assert len(several.without(np.array([2, 5])).z) == len(several.z)  # control: not what has several seeds
    assert len(simulations.without(simulations.family[2:]).z) == len(simulations.z)  # something is left to draw around


def test_members_descend_from_many_simulations_and_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: drawn from by a high power of what was verified, most descend from one or two."""
    largest, worth = [], Families.worth
    for power in (1, 40):
        monkeypatch.setattr(Families, "worth", lambda self, families, power=power: worth(self, families) ** power)
        found = nearby_ensemble(tiny_posterior(), X, tiny_table(), 1000, max_draws=128, seed=3, engine="tiny",
                                progress=False)  # fmt: skip
        text = next(part for part in found.trust.split("; ") if "descend" in part)
        words = text.split()
        assert int(words[1]) == int(found.verified.sum()) >= 20
        assert f"descend from {words[6]} simulations of the table, {words[-5]} of them from one" in text
        largest.append(int(words[-5]) / int(words[1]))
    assert largest[0] < 0.25 < largest[1]
    own = np.arange(12)
    assert Families.none().told(own) == record((0, 3, 1)).told(own) == ""
    assert record((4, 3, 2)).told(own).endswith("descend from 1 simulation of the table, 2 of them from one")
    aimed = record((4, 3, 2), (9, 3, 3), (11, 1, 1))
    assert aimed.told(own).endswith("descend from 3 simulations of the table, 3 of them from one")
    own[9] = 4  # it was aimed around that one
    assert aimed.told(own).endswith("descend from 2 simulations of the table, 5 of them from one")
