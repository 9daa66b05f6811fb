"""The criterion of agreement: the observed circuit passes about as often as stated, another one does not."""

import numpy as np
import pytest

from sbi_circuits.errors import InferenceError
from sbi_circuits.features import DEFINED, UNDEFINED, UNOBSERVED, FeatureValues, WindowedFeatures
from sbi_circuits.features.states import summarise
from sbi_circuits.inference.encode import FeatureEncoder
from sbi_circuits.seeds import generator
from sbi_circuits.verification import AGAINST, Criterion, Judgement, judge, seed_to_seed, seeds_for
from sbi_circuits.verification_spread import block_bootstrap, blocks_of, lost

F, SD = 12, 0.3  # features, and their seed-to-seed standard deviation in scaled units
RULE = Criterion(repeats=2)


def encoder(width: int = F) -> FeatureEncoder:
    """Scales that change nothing: scaled units are feature units."""
    no, one = np.zeros(width, dtype=bool), np.ones(width)
    return FeatureEncoder(no, one, np.zeros(width), one, np.arange(width), ~no, no)


def observed(random: np.random.Generator, windows: int, states: np.ndarray | None = None) -> WindowedFeatures:
    kinds = np.zeros(F, dtype=np.uint8) if states is None else states
    values = SD * random.standard_normal((windows, F)) * (kinds == DEFINED)
    return summarise([FeatureValues(row, kinds) for row in values])


def verdict(seed: int, windows: int, members: int, shift: float = 0.0, tails: bool = False) -> Judgement:
    """Members that are the observed circuit itself, or it with the first feature shifted by so many sd."""
    random = generator(seed, "verdict")
    shape = (members, 2, F)
    noise = random.standard_t(4, shape) / np.sqrt(2) if tails else random.standard_normal(shape)
    values = SD * noise
    values[..., 0] += shift * SD
    ok = np.ones(shape[:2], dtype=bool)
    return judge(observed(random, windows), values, np.zeros(shape, dtype=np.uint8), ok, encoder(), RULE)


@pytest.mark.parametrize("tails", [False, True])
@pytest.mark.parametrize("members", [16, 100])
@pytest.mark.parametrize("windows", [1, 3, 15])
def test_the_observed_circuit_is_rejected_at_most_as_often_as_stated(
    windows: int, members: int, tails: bool
) -> None:
    """Mean over 60 observations, of standard error below 0.02.

    Heavy tails (Student's t, 4 degrees of freedom) cannot be seen in 16 pairs: the stated level is then
    exceeded, up to three times; with 100 pairs it is kept.
    """
    rejected = [1.0 - verdict(seed, windows, members, tails=tails).verified.mean() for seed in range(60)]
    assert np.mean(rejected) < (3 * RULE.level if tails and members == 16 else RULE.level + 0.04)


@pytest.mark.parametrize(("shift", "least"), [(6.0, 0.75), (10.0, 0.95)])
def test_negative_control_another_circuit_is_rejected(shift: float, least: float) -> None:
    """One of twelve features lies `shift` seed-to-seed sd away; the observation has 15 windows."""
    rejected = [1.0 - verdict(seed, 15, 60, shift).verified.mean() for seed in range(20)]
    assert np.mean(rejected) > least


def test_only_the_shifted_feature_disagrees() -> None:
    found = verdict(0, 15, 60, shift=10.0)
    assert found.agrees[:, 0].mean() < 0.05 and found.agrees[:, 1:].mean() > 0.98


def test_the_unit_is_the_seed_to_seed_sd() -> None:
    assert np.allclose(verdict(0, 5, 2000).unit, SD, rtol=0.1)
    few = seed_to_seed(np.zeros((3, 2, F)), np.ones((3, 2, F), dtype=bool))
    assert (few == 1.0).all()  # too few pairs to know better than the scale of the table


def test_one_outlying_configuration_does_not_change_the_unit() -> None:
    random = generator(0, "outlier")
    x = SD * random.standard_normal((50, 2, F))
    x[0] = [[-50.0] * F, [50.0] * F]
    assert (seed_to_seed(x, np.ones_like(x, dtype=bool)) < 2 * SD).all()


def test_a_feature_that_seldom_varies_is_not_taken_for_a_constant() -> None:
    """One seed in eight shows a sub-peak: the standard deviation is sqrt(1/8 7/8) = .33, the median difference 0."""
    x = (generator(0, "seldom").random((400, 2, 1)) < 0.125).astype(float)
    unit = seed_to_seed(x, np.ones_like(x, dtype=bool))[0]
    assert abs(unit / np.sqrt(0.125 * 0.875) - 1) < 0.2


@pytest.mark.parametrize(
    ("seen", "simulated", "agrees"),
    [
        (DEFINED, DEFINED, True),
        (DEFINED, UNDEFINED, False),
        (UNDEFINED, DEFINED, False),
        (UNDEFINED, UNDEFINED, True),
        (UNOBSERVED, DEFINED, True),
        (UNOBSERVED, UNDEFINED, True),
        (DEFINED, UNOBSERVED, True),
    ],
)
def test_states_must_agree(seen: int, simulated: int, agrees: bool) -> None:
    kinds = np.zeros(F, dtype=np.uint8)
    kinds[3] = seen
    states = np.zeros((20, 2, F), dtype=np.uint8)
    states[..., 3] = simulated
    random = generator(1, "states")
    values = SD * random.standard_normal(states.shape) * (states == DEFINED)
    found = judge(observed(random, 10, kinds), values, states, np.ones((20, 2), dtype=bool), encoder(), RULE)
    assert (found.agrees[:, 3] == agrees).all()


def test_a_simulation_that_ended_early_is_not_verified() -> None:
    values, states = np.zeros((20, 2, F)), np.zeros((20, 2, F), dtype=np.uint8)
    ok = np.ones((20, 2), dtype=bool)
    ok[0, 1] = False
    found = judge(observed(generator(0, "x"), 5), values, states, ok, encoder(), RULE)
    assert not found.verified[0] and found.verified[1:].all()


@pytest.mark.parametrize(("repeats", "level"), [(1, 0.05), (2, 0.0), (2, 1.0)])
def test_rules_that_cannot_be(repeats: int, level: float) -> None:
    with pytest.raises(InferenceError, match="verification needs repeats >= 2 and 0 < level < 1"):
        Criterion(repeats, level)


def test_the_mean_of_a_recording_is_a_stricter_target_than_its_windows() -> None:
    """Shifted by 3 sd a simulation may still be one more window; its mean is not the mean of 15 windows."""
    random = generator(0, "strict")
    values = SD * random.standard_normal((60, 2, F))
    values[..., 0] += 3.0 * SD
    seen, states = observed(random, 15), np.zeros(values.shape, dtype=np.uint8)
    ok = np.ones((60, 2), dtype=bool)
    shares = {a: judge(seen, values, states, ok, encoder(), Criterion(against=a)).verified.mean() for a in AGAINST}
    assert shares["windows"] > shares["mean"] + 0.2


@pytest.mark.parametrize("against", AGAINST)
def test_a_state_some_windows_have_is_not_held_against_a_simulation(against: str) -> None:
    """The first feature is undefined in 3 of 10 windows; the second in none."""
    window_states = np.zeros((10, 2), dtype=np.uint8)
    window_states[:3, 0] = UNDEFINED
    seen = summarise([FeatureValues(np.zeros(2), s) for s in window_states])
    states = np.zeros((20, 2, 2), dtype=np.uint8)
    states[0, :, 0] = states[1, :, 1] = UNDEFINED
    rule = Criterion(against=against)
    found = judge(seen, np.zeros(states.shape), states, np.ones((20, 2), dtype=bool), encoder(2), rule)
    assert found.verified[0] and not found.verified[1]


@pytest.mark.parametrize(("windows", "rejected"), [(1, False), (12, True)])
def test_a_state_that_seeds_of_one_circuit_differ_in_counts_by_the_length_of_the_recording(
    windows: int, rejected: bool
) -> None:
    """A feature that is undefined in three of ten simulations, whatever the circuit, and in no window."""
    random = generator(5, "flips")
    states = np.zeros((200, 2, 2), dtype=np.uint8)
    states[..., 0] = random.random((200, 2)) < 0.3
    states[0, :, 0], states[0, :, 1] = UNDEFINED, DEFINED
    seen = summarise([FeatureValues(np.zeros(2), np.zeros(2, dtype=np.uint8))] * windows)
    found = judge(seen, np.zeros(states.shape), states, np.ones((200, 2), dtype=bool), encoder(2), Criterion())
    # Of twelve windows without it, the probability is 0.3^2 0.7^12 = 0.001, below the share of 0.005.
    assert found.agrees[0, 0] != rejected and found.agrees[0, 1]


def different_circuits(seed: int, windows: int, repeats: int, shift: float = 0.0) -> Judgement:
    """Forty circuits whose variability differs thirtyfold; the recording is of the first one."""
    random = generator(seed, "circuits")
    sd = 10 ** random.uniform(-1.5, 0.0, (40, 1, 1))
    values = sd * random.standard_normal((40, repeats, F))
    recorded = sd[0] * random.standard_normal((windows, F))
    values[0, :, 0] += shift * sd[0, 0]
    kinds = np.zeros(F, dtype=np.uint8)
    seen = summarise([FeatureValues(row, kinds) for row in recorded])
    ok = np.ones((40, repeats), dtype=bool)
    return judge(seen, values, np.zeros(values.shape, dtype=np.uint8), ok, encoder(), Criterion(repeats=repeats))


@pytest.mark.parametrize("windows", [1, 4, 8, 15])
def test_the_level_holds_where_circuits_differ_in_variability(windows: int) -> None:
    """With the default number of seeds. Negative control: eight sd in one of twelve features are seen mostly."""
    repeats = seeds_for(windows)
    found = [different_circuits(seed, windows, repeats).verified[0] for seed in range(100)]
    assert np.mean(found) > 1.0 - RULE.level - 0.054  # 2.5 standard errors
    off = [different_circuits(seed, windows, repeats, shift=8.0).verified[0] for seed in range(30)]
    assert np.mean(off) < 0.5


def test_two_seeds_and_one_window_tell_little() -> None:
    """Why a short recording takes more seeds: with two the same difference passes nearly always."""
    off = [different_circuits(seed, 1, 2, shift=8.0).verified[0] for seed in range(40)]
    assert np.mean(off) > 0.8


def test_blocks_see_that_windows_resemble_their_neighbours() -> None:
    """Mean standard error over 60 autoregressive series of 60 windows (correlation 0.7), exact value 2.2 / sqrt(60)."""
    random, n, rho = generator(2, "series"), 60, 0.7
    x = np.zeros((300, 60))
    x[0] = random.standard_normal(60)
    for t in range(1, 300):
        x[t] = rho * x[t - 1] + np.sqrt(1 - rho**2) * random.standard_normal(60)
    x, every = x[-n:], np.ones((n, 60), dtype=bool)
    lags = np.arange(1, n)
    exact = np.sqrt((1 + 2 * np.sum((1 - lags / n) * rho**lags)) / n)
    blocks, single = (block_bootstrap(x, every, b).std(0).mean() for b in (8, 1))
    assert 0.75 * exact < blocks < 1.15 * exact
    assert single < 0.55 * exact  # negative control: windows one by one
    assert blocks_of(15, 5) == 3 and blocks_of(4, 1) == 0


def test_a_feature_that_is_mostly_constant_does_not_open_the_bound() -> None:
    """One in ten simulations has another value of the last feature, far outside the usual spread of the others."""
    random = generator(3, "bimodal")
    values = SD * random.standard_normal((160, 2, F))
    values[..., -1] = 5.0 * (random.random((160, 2)) < 0.1)
    values[:80, :, 0] += 10.0 * SD
    seen = observed(random, 15)
    states, ok = np.zeros(values.shape, dtype=np.uint8), np.ones((160, 2), dtype=bool)
    found = judge(seen, values, states, ok, encoder(), RULE)
    assert found.bound < 8.0
    # Half of the members lie ten sd away in the first feature: the negative control within the same call.
    assert found.verified[:80].mean() < 0.05


@pytest.mark.parametrize(("windows", "repeats"), [(15, 2), (20, 2), (8, 4)])
def test_what_all_seeds_lack_is_lost_and_no_more_often_than_stated(windows: int, repeats: int) -> None:
    """One circuit behind both, whatever its probability of "undefined": 40,000 draws of each, five standard errors.

    Negative control: circuits that never have the feature, beside a recording that always has it, are all lost.
    """
    random, level, n = generator(5, "lost"), 0.005, 40_000
    ok = np.ones((n, repeats), dtype=bool)
    for q in (0.01, 0.05, 2 / 17, 0.2, 0.5):
        seeds = (random.random((n, repeats, 1)) < q).astype(np.uint8) * UNDEFINED
        recorded = (random.random((n, windows)) < q).astype(np.uint8) * UNDEFINED
        found = np.zeros(n, dtype=bool)
        for k in np.unique(recorded.sum(1) // UNDEFINED):
            like = recorded.sum(1) // UNDEFINED == k
            column = np.where(np.arange(windows) < k, UNDEFINED, DEFINED)[:, None]
            found[like] = lost(seeds[like], ok[like], column, level)[:, 0]
        assert found.mean() <= level + 5 * np.sqrt(level / n)
    never, always = np.full((3, repeats, 1), UNDEFINED), np.full((windows, 1), DEFINED)
    assert lost(never, ok[:3], always, level).all()
    assert not lost(np.full((3, repeats, 1), DEFINED), ok[:3], always, level).any()
    assert not lost(never, ok[:3], np.full((windows, 1), UNOBSERVED), level).any()
