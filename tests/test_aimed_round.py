"""The aimed round: what it draws, that it raises the yield, and that it goes on after an interruption."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pytest
from scipy.stats import ks_2samp
from tiny import CIRCUIT, FEATURES, PROTOCOL, THETA, TinyEngine, tiny_observation, tiny_posterior

from sbi_circuits.aimed_round import Round, aimed_round, aimed_rounds, region_draws
from sbi_circuits.campaign import Campaign, run_campaign
from sbi_circuits.ensemble import build_ensemble
from sbi_circuits.errors import InferenceError
from sbi_circuits.features import WindowedFeatures
from sbi_circuits.inference import Posterior, TrainingConfig, train
from sbi_circuits.inference.rounds import Gain
from sbi_circuits.table import MemoryTable, Table, concat

CONFIG = TrainingConfig(members=1, epochs=25, hidden=24, layers=1, transform="coupling", drop=0.0)
X = tiny_observation(THETA, windows=8)


@cache
def few() -> Table:
    """Seventy draws of the prior: too few for this circuit."""
    plan = Campaign(CIRCUIT, 70, FEATURES, PROTOCOL, seed=5, engine="tiny", unit=35)
    return run_campaign(plan, Path(mkdtemp(prefix="tiny-")) / "table", progress=False)


@cache
def vague() -> Posterior:
    return train(few(), CONFIG, progress=False, seed=0)


def round_at(x: WindowedFeatures, folder: Path, table: Table | None = None) -> Round:
    return aimed_round(vague(), x, 150, table=table, config=CONFIG, engine="tiny", folder=folder, progress=False)


def share_verified(posterior: Posterior) -> float:
    options = {"max_draws": 60, "seed": 7, "engine": "tiny", "progress": False}
    return build_ensemble(posterior, X, 60, **options).yield_  # type: ignore[arg-type]


def test_a_round_raises_the_yield_and_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 60 draws each; negative control: the same rows do not where configurations are swapped among them."""
    before = share_verified(vague())
    found = round_at(X, tmp_path, few())
    assert share_verified(found.posterior) > before + 0.2
    assert sum(found.counts.values()) == 150 and 0.05 < found.share < 0.9
    assert found.summary().startswith("aimed round: 150 simulations")
    (folder,) = tmp_path.iterdir()
    swapped = concat([few(), Table.open(folder / "table")])
    swapped.rows.theta[70:] = swapped.rows.theta[:69:-1]
    assert share_verified(train(swapped, CONFIG, progress=False, seed=0)) < before + 0.1
    # Called again, nothing is simulated or trained: the same posterior is read.
    monkeypatch.setattr(TinyEngine, "run", None)
    monkeypatch.setattr("sbi_circuits.aimed_round.train", None)
    again = round_at(X, tmp_path, few())
    first, second = (p(X).sample(5, seed=1) for p in (again.posterior, found.posterior))
    assert np.allclose(first, second) and again.counts == found.counts and again.share == found.share


def test_draws_within_the_region_are_the_prior_there() -> None:
    """Against other draws of the prior that are cut to the region; negative control: draws of the posterior."""
    posterior = tiny_posterior()
    theta, share = region_draws(posterior, X, 1500, seed=1)
    distribution = posterior(X)
    level = np.quantile(distribution.log_prob(distribution.sample(4000, 1)), 0.001)
    pool = posterior.prior.sample(60_000, seed=77)
    inside = distribution.log_prob(pool) >= level
    assert share == pytest.approx(inside.mean(), rel=0.1)
    p = [ks_2samp(theta[:, k], pool[inside, k]).pvalue for k in range(2)]
    control = [ks_2samp(distribution.sample(1500, 5)[:, k], pool[inside, k]).pvalue for k in range(2)]
    assert min(p) > 1e-3 and max(control) < 1e-6


def test_rows_of_the_table_keep_their_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weighted = concat([few()])
    weighted.rows.weight[:] = np.linspace(0.5, 1.5, len(weighted))
    seen = list[MemoryTable]()

    def look(table: MemoryTable, *rest: object) -> Posterior:
        seen.append(table)
        return vague()

    monkeypatch.setattr("sbi_circuits.aimed_round.train", look)
    aimed_round(vague(), X, 60, table=weighted, config=CONFIG, engine="tiny", folder=tmp_path, progress=False)
    assert np.array_equal(seen[0].rows.weight[: len(weighted)], weighted.rows.weight)
    assert (seen[0].rows.weight[len(weighted) :] == 1.0).all() and len(seen[0]) == len(weighted) + 60


def test_another_circuit_is_refused(tmp_path: Path) -> None:
    changed = replace(vague(), provenance={**vague().provenance, "circuit_digest": "0" * 64})
    with pytest.raises(InferenceError, match="circuit tiny is not the one the posterior was trained on"):
        aimed_round(changed, X, 60, engine="tiny", folder=tmp_path, progress=False)


PAIR = replace(CONFIG, members=2)
NOTHING, MUCH = Gain(0.001, 0.001, 3), Gain(1.0, 0.01, 3)


def test_rounds_are_aimed_by_the_one_before_and_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is simulated after an interruption is what would have been without one, and nothing twice."""
    gains = iter([MUCH, NOTHING, MUCH, NOTHING])
    monkeypatch.setattr("sbi_circuits.aimed_round._FEW", 0)
    monkeypatch.setattr("sbi_circuits.aimed_round.expected_gain", lambda *rest, **more: next(gains))
    options = {"table": few(), "config": PAIR, "engine": "tiny", "folder": tmp_path, "progress": False}
    found = aimed_rounds(vague(), X, 80, 5, **options)  # type: ignore[arg-type]
    assert [len(r.rows) for r in found.done] == [150, 230] and found.most == 5
    assert found.done[1].share < found.done[0].share  # of the prior: the second looks closer
    assert found.taught[0].nats > found.taught[1].nats - 3 * found.taught[1].error
    assert "stopped after 2 of 5 rounds: another is expected to teach 0.001 +- 0.001 nats" in found.summary()
    monkeypatch.setattr(TinyEngine, "run", None)
    monkeypatch.setattr("sbi_circuits.aimed_round.train", None)
    again = aimed_rounds(vague(), X, 80, 5, **options)  # type: ignore[arg-type]
    assert len(again.done) == 2 and again.summary() == found.summary()
    assert np.allclose(again.posterior(X).sample(5, seed=1), found.posterior(X).sample(5, seed=1))


@pytest.mark.parametrize(
    ("members", "least", "expected", "taught", "rounds", "reason"),
    [
        (2, 0, [MUCH] * 3, [NOTHING] * 3, 3, "stopped after 3 rounds, as many as were wanted, though another is"),
        (2, 0, [NOTHING], [MUCH], 1, "stopped after 1 of 3 rounds: another is expected to teach 0.001"),
        (1, 0, [], [MUCH, NOTHING], 2, "stopped after 2 of 3 rounds: the last one taught 0.001"),
        (2, 500, [NOTHING] * 2, [MUCH, NOTHING], 2, "stopped after 2 of 3 rounds: another is expected to teach 0.001"),
    ],
)
def test_rounds_stop_by_what_another_is_expected_to_teach(
    members: int, least: int, expected: list[Gain], taught: list[Gain], rounds: int, reason: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """One member expects nothing of its own, members with few rows too little: what the last round taught decides."""
    monkeypatch.setattr("sbi_circuits.aimed_round._FEW", least)
    after, some = replace(vague(), weights=np.full(members, 1 / members)), few()
    monkeypatch.setattr("sbi_circuits.aimed_round.aimed_round", lambda *rest, **more: Round(after, 0.1, {}, some))
    for name, gains in (("expected_gain", iter(expected)), ("gain_of_round", iter(taught))):
        monkeypatch.setattr(f"sbi_circuits.aimed_round.{name}", lambda *rest, g=gains, **more: next(g))
    found = aimed_rounds(vague(), X, 80, 3, folder=tmp_path)
    assert len(found.done) == rounds and reason in found.summary()


def test_the_stopping_rule_ends_rounds_that_teach_nothing_more(tmp_path: Path) -> None:
    """Nothing is scripted: two members trained on 70 + 300 rows a round agree before six rounds are over."""
    options = {"table": few(), "config": PAIR, "engine": "tiny", "folder": tmp_path, "progress": False}
    found = aimed_rounds(vague(), X, 300, 6, **options)  # type: ignore[arg-type]
    last = found.expected[-1]
    assert len(found.done) < 6 and last is not None and not last.worth()
    earlier = zip(found.done[:-1], found.expected[:-1], strict=True)
    assert all(len(done.rows) < 500 or (gain is not None and gain.worth()) for done, gain in earlier)


def test_no_round_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InferenceError, match="at least one aimed round, got 0"):
        aimed_rounds(vague(), X, 60, 0, folder=tmp_path)
