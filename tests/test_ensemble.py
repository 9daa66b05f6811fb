"""Ensembles: draws, re-simulations, yield, resume, and what cannot be."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny import (
    CIRCUIT,
    DURATION,
    PRIOR,
    THETA,
    TinyEngine,
    tiny_circuit,
    tiny_ensemble,
    tiny_observation,
    tiny_recording,
)
from tiny import tiny_posterior as posterior

from sbi_circuits.ensemble import Ensemble, build_ensemble, describe_provenance, observe, verify
from sbi_circuits.errors import InferenceError
from sbi_circuits.table import Table


def build(n: int = 4, **changes: object) -> Ensemble:
    settings = {"seed": 3, "engine": "tiny", "progress": False, "max_draws": 24} | changes
    return build_ensemble(posterior(), tiny_observation(), n, **settings)  # type: ignore[arg-type]


def equal(a: Ensemble, b: Ensemble) -> bool:
    names = ("theta", "values", "states", "outcomes", "verified")
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in names)


def test_members_reproduce_the_observation() -> None:
    ensemble = tiny_ensemble()
    k, m = len(ensemble.members), len(ensemble.theta)
    assert k >= 12 and ensemble.yield_ == k / m
    assert ensemble.summary().startswith(f"{k} of {m} configurations verified (yield {k / m:.0%})")
    low, high = np.quantile(ensemble.members[:, :2], [0.0, 1.0], axis=0)
    assert (low < THETA[:2]).all() and (THETA[:2] < high).all()
    assert PRIOR.contains(ensemble.theta).all()
    assert ensemble.trust.startswith("observation is inside the simulations")


def test_rejections_count_the_draws_that_disagree() -> None:
    ensemble = tiny_ensemble()
    shares = ensemble.rejections()
    disagree = 1.0 - ensemble.judgement.agrees[(ensemble.outcomes == "ok").all(1)].mean(0)
    assert max(shares.values()) == pytest.approx(disagree.max(), abs=0.1)
    assert list(shares.values()) == sorted(shares.values(), reverse=True)


def test_negative_control_another_observation_verifies_nothing() -> None:
    """The members of one observation, judged by another (half the burst rate)."""
    other = tiny_observation(np.array([1.0, 0.5, -60.0]))
    again = verify(replace(tiny_ensemble(), observation=other), engine="tiny", progress=False)
    assert again.yield_ < 0.2


def test_verify_uses_new_seeds_and_most_agree_again() -> None:
    ensemble = tiny_ensemble()
    again = verify(ensemble, seed=8, engine="tiny", progress=False)
    assert np.array_equal(again.theta, ensemble.members) and again.seed == 8
    assert not np.isin(again.values[..., 0], ensemble.values[..., 0]).all()
    assert again.yield_ > 0.6
    everything = verify(ensemble, members_only=False, seed=8, engine="tiny", progress=False)
    assert len(everything.theta) == len(ensemble.theta)


def test_equal_seeds_give_equal_ensembles_and_stop_when_there_are_enough() -> None:
    one = build()
    assert equal(one, build()) and not equal(one, build(seed=4))
    assert len(one.theta) == 16 and one.verified.sum() >= 4  # one batch was enough


def test_draws_run_out() -> None:
    few = build(n=50, max_draws=18)
    assert len(few.theta) == 18 and few.verified.sum() < 50


def test_resumes_from_kept_simulations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = build(folder=tmp_path / "kept")
    (table,) = (tmp_path / "kept").iterdir()
    parts = sorted((table / "parts").iterdir())
    assert len(Table.open(table)) == len(first.theta) * 2
    parts[1].unlink()
    runs = []
    original = TinyEngine.run
    monkeypatch.setattr(TinyEngine, "run", lambda *args: runs.append(args[-1]) or original(*args))
    assert equal(first, build(folder=tmp_path / "kept"))
    assert runs == [4, 5, 6, 7]


def test_a_recording_is_measured_in_windows_as_long_as_the_simulations() -> None:
    recording = tiny_recording(THETA, 3.5 * DURATION, 7)
    assert observe(posterior(), recording).n_windows == 3
    ensemble = build_ensemble(posterior(), recording, 2, max_draws=16, engine="tiny", progress=False)
    assert ensemble.observation.n_windows == 3


def test_an_observation_outside_the_simulations_is_said_to_be_so() -> None:
    odd = tiny_observation(np.array([4.9, 0.02, -60.0]))
    ensemble = build_ensemble(posterior(), odd, 1, max_draws=4, engine="tiny", progress=False)
    assert ensemble.trust.startswith("observation is outside the simulations: ")


def test_what_cannot_be() -> None:
    with pytest.raises(InferenceError, match="an ensemble needs n >= 1 and max_draws >= 1, got 0 and 24"):
        build(n=0)
    with pytest.raises(InferenceError, match="seed 3 made this ensemble; verify with another one"):
        verify(tiny_ensemble(), seed=3)
    other = tiny_circuit(equations="dv/dt = (idle*tonic + bursting*mV - 2*v*tonic) : volt")
    with pytest.raises(InferenceError, match="circuit tiny is not the one the posterior was trained on"):
        build(circuit=other)
    nothing = np.zeros(len(tiny_ensemble().theta), dtype=bool)
    none = replace(tiny_ensemble(), judgement=replace(tiny_ensemble().judgement, verified=nothing))
    with pytest.raises(InferenceError, match="no verified member to simulate again"):
        verify(none)


def test_provenance_names_the_circuit() -> None:
    flat = describe_provenance(tiny_ensemble().provenance)
    assert flat["circuit"] == "tiny" and flat["circuit_digest"] == CIRCUIT.digest
    assert all(isinstance(value, str) for value in flat.values())
