"""The demonstration: as many verified configurations as there is time for, and a report that says what limits them."""

from pathlib import Path

import pytest
from tiny import tiny_observation, tiny_posterior

from sbi_circuits import demo as module
from sbi_circuits.demo import demo, demo_posterior
from sbi_circuits.ensemble import build_ensemble
from sbi_circuits.errors import InferenceError
from sbi_circuits.results import load_ensemble

FILES = {"report.html", "ensemble.nc", "summary.txt", "features.png", "marginals.png", "pair.png", "raster.png"}


def run(out: Path, **options: object) -> str:
    demo(out, 1, posterior=tiny_posterior(), observation=tiny_observation(), engine="tiny", seed=3, **options)  # type: ignore[arg-type]
    return (out / "summary.txt").read_text(encoding="utf-8")


def test_reaches_what_is_wanted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = run(tmp_path, n=5)
    assert {path.name for path in tmp_path.iterdir()} >= FILES
    assert "verified configurations, 5 were wanted" in text and "how good is this: 3 parameters from" in text
    assert load_ensemble(tmp_path / "ensemble.nc").verified.sum() >= 5
    shown = capsys.readouterr().out
    assert f"wrote {tmp_path / 'report.html'}: " in shown and "observation: given, 6 windows" in shown


def test_says_how_many_and_what_limits_them(tmp_path: Path) -> None:
    text = run(tmp_path, n=100, max_draws=16)
    assert "of 100 wanted when the time or the draws were used up; limited by " in text


def test_time_ends_an_ensemble() -> None:
    """After one batch; negative control: with time it takes all draws."""
    options = {"max_draws": 40, "engine": "tiny", "progress": False}
    sizes = [
        len(build_ensemble(tiny_posterior(), tiny_observation(), 100, seconds=s, **options).theta)  # type: ignore[arg-type]
        for s in (0.0, 1e6)
    ]
    assert sizes == [16, 40]


def test_the_shipped_posterior_answers_for_the_culture(monkeypatch: pytest.MonkeyPatch) -> None:
    posterior, card = demo_posterior()
    assert posterior(module.demo_observation()).sample(3, seed=0).shape == (3, 28)
    assert posterior.check(module.demo_observation()) and card.summary()
    monkeypatch.setattr(module, "shipped_posteriors", lambda: ())
    with pytest.raises(InferenceError, match="no posterior that ships answers for bursts in windows of 60 s"):
        demo_posterior()


