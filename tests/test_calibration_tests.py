"""Every test of calibration is fed an exact posterior, and ones that are too wide, too narrow, shifted or blind.

All seeds are fixed. An exact posterior must have p > ALARM, over fresh seeds a false alarm rate of ALARM for each test;
a distorted one must have less than 0.01. The checks of p-values over repetitions state their own error rates.
"""

from dataclasses import replace

import numpy as np
import pytest
from exact import FAULTS, NAMES, PRIOR, SD, SHRINK, ToyPosterior, simulate
from tiny import tiny_posterior, tiny_table

from sbi_circuits.calibration import (
    HeldOut,
    LocalTest,
    calibrate,
    coverage_by_pattern,
    nearby_references,
    posterior_draws,
    rank_statistics,
    require_unseen,
    tarp,
    validation_rows,
)
from sbi_circuits.calibration.uniform import ecdf_band, holm, uniformity
from sbi_circuits.errors import InferenceError, UnknownNameError
from sbi_circuits.features import UNDEFINED, UNOBSERVED
from sbi_circuits.prior import Parameter, Prior
from sbi_circuits.seeds import generator
from sbi_circuits.table import MemoryTable

ROWS, DRAWS = 400, 100
ALARM = 0.001


@pytest.fixture(scope="module")
def held() -> HeldOut:
    return simulate(ROWS, seed=0)


# --- uniformity -----------------------------------------------------------------------------------


def test_p_values_of_uniforms_hold_their_level() -> None:
    """200 columns of uniforms: 5 % of the p-values below 0.05, within 3 binomial errors (two-sided, 0.3 %).

    Twice the smaller of two dependent p-values may be conservative, never the reverse.
    """
    p = uniformity(generator(1, "u").random((100, 200)))
    assert 0.005 < (p < 0.05).mean() < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 200)


def test_the_band_holds_whole_ecdfs_at_its_level() -> None:
    """95 % of 2,000 ECDFs of 50 uniforms within the band, within 3 binomial errors; a shifted one leaves it."""
    u = np.sort(generator(2, "u").random((2000, 50)), axis=1)
    steps = np.arange(51) / 50
    away = np.maximum((steps[1:] - u).max(1), (u - steps[:-1]).max(1))
    assert abs((away <= ecdf_band(50)).mean() - 0.95) < 3 * np.sqrt(0.05 * 0.95 / 2000)
    assert (np.abs(np.sort(0.5 * u[0]) - steps[1:]) > ecdf_band(50)).any()


def test_adjusted_p_values() -> None:
    assert holm([0.5, 0.01, 0.02]).tolist() == [0.5, 0.03, 0.04]


# --- TARP -----------------------------------------------------------------------------------------


def tarp_of(posterior: ToyPosterior, held: HeldOut, near: bool = True) -> float:
    draws = posterior_draws(posterior, held.values, held.states, DRAWS, seed=1)
    pool = simulate(200, seed=50)
    points = held.points(held.values, held.states), held.points(pool.values, pool.states)
    references = nearby_references(*points, pool.theta) if near else PRIOR.sample(len(held), seed=7)
    return tarp(*(PRIOR.to_unit(a) for a in (draws, held.theta, references))).p_value


def test_tarp_passes_the_exact_posterior(held: HeldOut) -> None:
    assert tarp_of(ToyPosterior(), held) > ALARM and tarp_of(ToyPosterior(), held, near=False) > ALARM


@pytest.mark.parametrize("fault", FAULTS)
def test_tarp_fails_a_distorted_posterior(held: HeldOut, fault: str) -> None:
    assert tarp_of(ToyPosterior(**FAULTS[fault]), held) < 0.01


def test_tarp_needs_references_that_know_the_observation_to_see_a_blind_posterior(held: HeldOut) -> None:
    blind = ToyPosterior(blind=True)
    assert tarp_of(blind, held, near=False) > ALARM and tarp_of(blind, held) < 1e-6


def test_tarp_says_where_it_lies(held: HeldOut) -> None:
    draws = posterior_draws(ToyPosterior(width=0.5), held.values, held.states, DRAWS, seed=1)
    found = tarp(draws, held.theta, PRIOR.sample(ROWS, 7))
    assert not found.within_band() and "outside the 95 % band" in found.summary()
    assert found.coverage(np.array([0.0, 1.0])).tolist() == [0.0, 1.0]


def test_tarp_needs_shapes_that_fit(held: HeldOut) -> None:
    with pytest.raises(InferenceError, match=r"TARP needs draws \(n, D, P\)"):
        tarp(np.zeros((3, 5, 2)), np.zeros((3, 2)), np.zeros((4, 2)))
    with pytest.raises(InferenceError, match="reference points need simulations"):
        nearby_references(np.zeros((3, 1)), np.zeros((0, 1)), np.zeros((0, 2)))


# --- L-C2ST ---------------------------------------------------------------------------------------


def test_local_test_passes_the_exact_posterior(held: HeldOut) -> None:
    test = LocalTest.fit(ToyPosterior(), held, permutations=1999, seed=1)
    assert test.everywhere.p_value > ALARM
    assert test.check((np.array([0.5, -0.5]), np.zeros(2))).p_value > ALARM


@pytest.mark.parametrize("fault", FAULTS)
def test_local_test_fails_a_distorted_posterior(held: HeldOut, fault: str) -> None:
    test = LocalTest.fit(ToyPosterior(**FAULTS[fault]), held, permutations=1999, seed=1)
    found = test.check((np.array([0.5, -0.5]), np.zeros(2)))
    assert test.everywhere.p_value < ALARM and found.p_value < 0.01
    assert "can be told from the truth" in found.summary()


def test_local_test_sees_what_is_right_on_average(held: HeldOut) -> None:
    """Too wide on one side and too narrow on the other: coverage and ranks pass, the local test does not."""
    wrong = ToyPosterior(local=0.3)
    found = calibrate(wrong, held, draws=DRAWS, seed=1)
    assert found.coverage.agrees() and (found.p_values > ALARM).all()
    assert found.local is not None and found.local.p_value < 0.01
    assert not found.agrees() and "L-C2ST" in found.failing()


def test_local_p_values_hold_their_level() -> None:
    """60 exact tables of 60 rows: p <= 0.1 in at most 12 (binomial, exceeded with 0.9 %), and not always large."""
    p = [LocalTest.fit(ToyPosterior(), simulate(60, seed), permutations=49, seed=seed).everywhere.p_value
         for seed in range(60)]  # fmt: skip
    assert (np.array(p) <= 0.1).sum() <= 12 and np.min(p) < 0.15


def test_local_test_needs_rows_and_draws(held: HeldOut) -> None:
    with pytest.raises(InferenceError, match="at least 50 held-out simulations, got 20"):
        LocalTest.fit(ToyPosterior(), held.take(slice(20)))
    with pytest.raises(InferenceError, match="at least 10 draws of each posterior, got 5"):
        LocalTest.fit(ToyPosterior(), held, np.zeros((ROWS, 5, 2)))


# --- all together ---------------------------------------------------------------------------------


def test_calibration_passes_the_exact_posterior(held: HeldOut) -> None:
    found = calibrate(ToyPosterior(), held, draws=DRAWS, subsets={"isi": ["isi"]}, seed=1)
    assert found.agrees() and found.failing() == () and found.direction() == ""
    assert found.subsets["isi"].agrees() and found.subsets["isi"].local is None
    lines = found.lines()
    assert "passes" in lines[0] and any(line.startswith("only isi observed: passes") for line in lines)


@pytest.mark.parametrize("fault", FAULTS)
def test_calibration_fails_a_distorted_posterior(held: HeldOut, fault: str) -> None:
    found = calibrate(ToyPosterior(**FAULTS[fault]), held, draws=DRAWS, local=False, seed=1)
    assert not found.agrees() and "FAILS" in found.summary()
    assert found.direction() == {"shifted": "shifted, or wrong in shape"}.get(fault, fault)


def test_a_fault_of_one_subset_is_found_there(held: HeldOut) -> None:
    """A posterior that believes an unobserved feature to be zero is right only where everything is observed."""

    def careless(x: tuple[np.ndarray, np.ndarray]) -> object:
        return ToyPosterior()((np.where(x[1] == UNOBSERVED, 0.0, x[0]), np.zeros(2)))

    found = calibrate(careless, held, draws=DRAWS, local=False, subsets={"bursts": ["bursts"]}, seed=1)
    assert found.agrees() and not found.subsets["bursts"].agrees()


def test_calibration_passes_at_its_level() -> None:
    """Of 40 exact tables at most 6 fail at level 0.05 (binomial, exceeded with 0.3 %)."""
    failed = [not calibrate(ToyPosterior(), simulate(120, seed), draws=40, local=False, seed=seed).agrees()
              for seed in range(40)]  # fmt: skip
    assert sum(failed) <= 6


def test_figures_are_plain_values(held: HeldOut, tmp_path: object) -> None:
    found = calibrate(ToyPosterior(), held.take(slice(120)), draws=40, subsets={"isi": ["isi.mean"]}, seed=1)
    content = found.to_dict()
    assert content["rows"] == 100 and set(content["tests"]) == {"ranks of g", "ranks of tau", "TARP", "L-C2ST"}
    assert content["subsets"]["isi"]["coverage"].keys() == {"0.5", "0.9"}


def test_calibration_needs_rows(held: HeldOut) -> None:
    with pytest.raises(InferenceError, match="at least 50 held-out simulations, got 49"):
        calibrate(ToyPosterior(), held.take(slice(49)))


# --- patterns of undefined features ---------------------------------------------------------------


def test_coverage_of_each_pattern_finds_the_one_that_is_wrong(held: HeldOut) -> None:
    """Where the second feature is undefined the posterior is half as wide as it should be."""
    states = held.states.copy()
    states[:, 1] = np.where(generator(3, "pattern").random(ROWS) < 0.3, UNDEFINED, 0)
    states[:5, 0] = UNDEFINED

    def half(x: tuple[np.ndarray, np.ndarray]) -> object:
        exact = ToyPosterior()((x[0], x[1]))
        return replace(exact, sd=exact.sd * (0.5 if x[1][1] == UNDEFINED else 1.0))

    ranks = rank_statistics(half, held.theta, held.values, states, DRAWS)
    found = {p.text: p.coverage for p in coverage_by_pattern(ranks, states, DRAWS, NAMES)}
    assert set(found) == {"all features defined", "bursts.rate undefined", "rarer patterns"}
    assert found["all features defined"].agrees() and not found["bursts.rate undefined"].agrees()
    assert sum(c.rows for c in found.values()) == ROWS


# --- held-out rows --------------------------------------------------------------------------------


def test_parts_of_the_features(held: HeldOut) -> None:
    some = held.only(["bursts"])
    assert (some.states[:, 0] == UNOBSERVED).all() and (some.states[:, 1] == 0).all() and not some.values[:, 0].any()
    with pytest.raises(UnknownNameError, match="unknown feature or family 'spectra'; valid: bursts, bursts.rate, isi"):
        held.only(["spectra"])


def test_two_parts_are_all_rows(held: HeldOut) -> None:
    a, b = held.split(0.25, seed=3)
    assert len(a) == 100 and len(b) == 300
    assert np.array_equal(np.sort(np.concatenate([a.theta[:, 0], b.theta[:, 0]])), np.sort(held.theta[:, 0]))


def test_rows_must_match(held: HeldOut) -> None:
    other = Prior((Parameter("g", "nS", 0, 1),))
    with pytest.raises(InferenceError, match="held-out rows do not match"):
        HeldOut(held.theta, held.values, held.states, other, NAMES)


def test_the_toy_is_what_it_says() -> None:
    """The exact posterior's mean and sd are those of a regression of z on x: within 4 standard errors at 4,000 rows."""
    many = simulate(4000, seed=9)
    z = PRIOR.unconstrain(many.theta)[:, 0]
    slope = (z * many.values[:, 0]).mean() / (many.values[:, 0] ** 2).mean()
    residual = z - slope * many.values[:, 0]
    assert abs(slope - SHRINK) < 4 * SD / np.sqrt(4000) and abs(residual.std() - SD) < 4 * SD / np.sqrt(8000)


def test_posteriors_that_draw_for_many_rows_are_asked_once(held: HeldOut) -> None:
    calls = []

    class Many(ToyPosterior):
        def sample_rows(self, values: np.ndarray, states: np.ndarray, n: int, seed: int) -> np.ndarray:
            calls.append(len(values))
            rows = enumerate(zip(values, states, strict=True))
            return np.stack([self((v, s)).sample(n, seed + k) for k, (v, s) in rows])

    draws = posterior_draws(Many(), held.values[:100], held.states[:100], 7, seed=1)
    assert draws.shape == (100, 7, 2) and sum(calls) == 100 and len(calls) < 5


# --- tables ---------------------------------------------------------------------------------------


def test_rows_of_tables() -> None:
    """Rows that ended ok and were drawn from the prior; the training table itself is refused."""
    table, posterior = tiny_table(), tiny_posterior()
    rows = table.read()
    ok = rows.outcome == "ok"
    assert len(HeldOut.from_table(table)) == ok.sum() and len(HeldOut.from_table(table, rows=60)) == 60
    aimed = MemoryTable(table.manifest, replace(rows, proposal=np.full(len(rows), "posterior")))
    with pytest.raises(InferenceError, match="none of 300 simulations ended ok and was drawn from the prior"):
        HeldOut.from_table(aimed)
    assert len(HeldOut.from_table(aimed, drawn_from="all")) == ok.sum()
    with pytest.raises(UnknownNameError, match="unknown origin of rows 'posterior'; valid: all, prior"):
        HeldOut.from_table(table, drawn_from="posterior")
    with pytest.raises(InferenceError, match="the posterior was trained on this table, which cannot judge it"):
        require_unseen(posterior, table)
    require_unseen(posterior, MemoryTable(table.manifest, rows.take(np.arange(200))))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"circuit_digest": "other"}, "the table is of another circuit"),
        ({"prior": PRIOR}, "the table has another prior"),
    ],
)
def test_tables_of_something_else_are_refused(change: dict[str, object], text: str) -> None:
    table = tiny_table()
    with pytest.raises(InferenceError, match=text):
        require_unseen(tiny_posterior(), MemoryTable(replace(table.manifest, **change), table.read()))


def test_validation_rows_are_those_training_kept() -> None:
    """The gain over the prior on them is the one that training found there."""
    table, posterior = tiny_table(), tiny_posterior()
    kept = validation_rows(posterior, table)
    assert len(kept) == posterior.provenance["rows"]["validation"]
    gain = posterior.log_prob_rows(kept.theta, kept.values, kept.states) - kept.prior.log_prob(kept.theta)
    assert gain.mean() == pytest.approx(posterior.provenance["validation"]["validation_gain"], abs=1e-3)
    with pytest.raises(InferenceError, match="trained on another table"):
        validation_rows(posterior, MemoryTable(table.manifest, table.read().take(np.arange(200))))
