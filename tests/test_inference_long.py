"""Families of many features: what is read of them, what is missing, saving and loading, and that it pays."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from sbi_circuits.errors import UnknownNameError
from sbi_circuits.features import UNDEFINED, UNOBSERVED
from sbi_circuits.inference import Posterior, TrainingConfig, TrainingData, load_posterior, train
from sbi_circuits.inference.encode import FeatureEncoder
from sbi_circuits.inference.long import Convolution, LongFamily, Summary, long_families
from sbi_circuits.prior import Parameter, Prior
from sbi_circuits.seeds import generator

PRIOR = Prior((Parameter("slope", "1", 0.5, 2.0), Parameter("height", "1", 0.0, 1.0)))
F = np.linspace(0.05, 1.0, 96)
NAMES = (*(f"spectrum.{i}" for i in range(len(F))), "isi.mean", "isi.cv")
SMALL = TrainingConfig(members=2, epochs=4, hidden=16, width=8)


def spectra(n: int, seed: int = 0) -> TrainingData:
    """A falling line with a peak, each of 96 values with noise of its own; `isi` tells the slope, roughly."""
    theta, random = PRIOR.sample(n, seed=seed), generator(seed, "noise")
    slope, height = theta.T[:, :, None]
    x = -slope * F + height * np.exp(-0.5 * ((F - 0.5) / 0.03) ** 2) + random.standard_normal((n, len(F)))
    more = np.column_stack([theta[:, 0] + 0.5 * random.standard_normal(n), random.standard_normal(n)])
    states = np.zeros((n, len(NAMES)), dtype=np.uint8)
    states[::7, 3] = UNDEFINED
    states[::11, 96:] = UNOBSERVED
    return TrainingData(theta, np.hstack([x, more]), states, PRIOR, NAMES)


@pytest.fixture(scope="module")
def posterior() -> Posterior:
    return train(spectra(400), SMALL, progress=False, seed=0)


def row(seed: int = 5) -> tuple[np.ndarray, np.ndarray]:
    data = spectra(60, seed)
    return data.values[1].astype(float), np.asarray(data.states[1])


def test_long_families_are_chosen_by_the_features(posterior: Posterior) -> None:
    (family,) = posterior.flows.spec.long
    assert (family.name, family.pooled, len(family.values)) == ("spectrum", False, 96)
    assert sum(i >= 0 for i in family.undefined) == 1 and min(family.unobserved) >= 0
    assert posterior.provenance["config"]["embedding"] == "long"
    assert "long families, read as a few numbers: spectrum (96)" in posterior.log
    counts = tuple(name.replace("spectrum", "counts") for name in NAMES)
    assert [f.pooled for f in long_families(counts, posterior.encoder)] == [True]
    plain = train(spectra(400), replace(SMALL, embedding="none", epochs=1), progress=False, seed=0)
    assert plain.flows.spec.long == () and plain.provenance["config"]["embedding"] == "none"
    # What the context is made of: 32 components, 32 numbers of the convolution, shares and flags; not each value.
    widths = [p.flows.embedding.enter.weight.shape[1] for p in (posterior, plain)]  # type: ignore[union-attr]
    assert widths[0] == 32 + 32 + 2 + 4 and widths[1] == 96 + 1 + 96 + 4


def test_short_families_are_read_as_before() -> None:
    data = spectra(200)
    few = TrainingData(data.theta, data.values[:, :60], np.asarray(data.states)[:, :60], PRIOR, NAMES[:60])
    posterior = train(few, replace(SMALL, epochs=1), progress=False, seed=0)
    assert posterior.flows.spec.long == () and posterior.provenance["config"]["embedding"] == "none"
    assert not [name for name in posterior.flows.state_dict() if "shorten" in name or "summaries" in name]


def test_a_saved_posterior_answers_as_before(posterior: Posterior, tmp_path: Path) -> None:
    again = load_posterior(posterior.save(tmp_path / "posterior"))
    for x in (row(), {"isi.mean": 1.0}, {"spectrum.3": None, "spectrum.9": 0.1}):
        draws = posterior(x).sample(50, seed=1)
        assert np.array_equal(draws, again(x).sample(50, seed=1))
        assert np.allclose(posterior(x).log_prob(draws), again(x).log_prob(draws), rtol=1e-10)
    manifest = json.loads((tmp_path / "posterior" / "posterior.json").read_text())
    assert manifest["flows"]["long"][0]["name"] == "spectrum"
    assert sorted(p.suffix for p in (tmp_path / "posterior").iterdir()) == [".json", ".log", ".safetensors"]


@pytest.mark.parametrize("name", ["slope", "height"])
def test_draws_follow_the_density(posterior: Posterior, name: str) -> None:
    """Density over a grid: integrates to 1 within 1 %, and 4,000 draws follow its marginal (error probability 1e-4).

    Negative control: draws of the prior do not.
    """
    axes = [np.linspace(p.low, p.high, 101) for p in PRIOR.parameters]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    distribution = posterior(row())
    density = np.exp(distribution.log_prob(points.reshape(-1, 2))).reshape(101, 101)
    assert np.trapezoid(np.trapezoid(density, axes[1], axis=1), axes[0]) == pytest.approx(1.0, abs=0.01)
    k = PRIOR.names.index(name)
    marginal = np.trapezoid(density, axes[1 - k], axis=1 - k)
    edges = np.concatenate([[0.0], np.cumsum((marginal[1:] + marginal[:-1]) / 2 * np.diff(axes[k]))])
    draws = distribution.sample(4000, seed=2)[:, k]
    assert stats.kstest(draws, lambda t: np.interp(t, axes[k], edges / edges[-1])).pvalue > 1e-4
    prior = PRIOR.sample(4000, seed=3)[:, k]
    assert stats.kstest(prior, lambda t: np.interp(t, axes[k], edges / edges[-1])).pvalue < 1e-4


def test_many_observations_at_once(posterior: Posterior) -> None:
    values, states = (np.stack(parts) for parts in zip(row(1), row(2), strict=True))
    together = posterior.sample_rows(values, states, 2000, seed=1)
    # Single precision: a few draws fall to the component beside theirs.
    change = np.abs(together[0] - posterior((values[0], states[0])).sample(2000, seed=1)).max(1)
    assert (change < 1e-4).mean() > 0.99
    alone = posterior((values[1], states[1])).sample(2000, seed=2)
    assert stats.ks_2samp(together[1, :, 0], alone[:, 0]).pvalue > 1e-4


def test_what_is_unobserved_tells_nothing_and_undefined_something(posterior: Posterior) -> None:
    values, states = row()
    theta = PRIOR.sample(20, seed=1)
    hidden, other = states.copy(), values.copy()
    hidden[:96] = UNOBSERVED
    other[:96] += 3.0
    blind = posterior((values, hidden)).log_prob(theta)
    assert np.allclose(blind, posterior((other, hidden)).log_prob(theta))
    assert not np.allclose(blind, posterior((values, states)).log_prob(theta), atol=0.1)
    odd = states.copy()
    odd[3] = UNDEFINED
    assert not np.array_equal(posterior((values, odd)).log_prob(theta), posterior((values, states)).log_prob(theta))
    half = states.copy()
    half[:96:2] = UNOBSERVED
    assert np.isfinite(posterior((values, half)).log_prob(theta)).all()


def family(k: int, pooled: bool, masked: bool = True) -> LongFamily:
    """k values, and their flags of being unobserved after them."""
    flags = tuple(range(k, 2 * k)) if masked else (-1,) * k
    channels = (16, 32) if pooled else (8, 16)
    return LongFamily("counts" if pooled else "spectrum", pooled, tuple(range(k)), (-1,) * k, flags,
                      3 if pooled else 8, channels, 16)  # fmt: skip


@pytest.mark.parametrize("pooled", [True, False])
def test_counts_are_averaged_over_time_and_spectra_are_not(pooled: bool) -> None:
    """Half of a cycle later a wave gives nearly the same numbers; where position counts it does not."""
    torch.manual_seed(0)
    convolution, k = Convolution(3, family(640, pooled)), 640
    t = torch.arange(k) * 2 * np.pi / 40.0  # 40 values are a whole number of strides
    waves = [torch.cat([torch.sin(t + shift), torch.zeros(k)]) for shift in (0.0, np.pi)]
    slow = torch.cat([torch.sin(0.25 * t), torch.zeros(k)])
    a, b, c = (convolution(w.expand(3, 1, -1)) for w in (*waves, slow))
    change = float(((a - b).norm() / (a - c).norm()).detach())
    assert change < 0.25 if pooled else change > 0.5


@pytest.mark.parametrize("pooled", [True, False])
def test_members_have_weights_of_their_own_and_can_be_asked_alone(pooled: bool) -> None:
    torch.manual_seed(0)
    convolution, x = Convolution(3, family(200, pooled)), torch.rand(3, 4, 400).round()
    together = convolution(x)
    for m in range(3):
        alone = convolution(x[m : m + 1], slice(m, m + 1))
        assert torch.allclose(alone[0], together[m], atol=1e-6)
    assert not torch.allclose(convolution(x[:1].expand(3, -1, -1))[0], convolution(x[:1].expand(3, -1, -1))[1])


def test_components_are_white_and_find_what_varies() -> None:
    """Two directions of 96 carry signal: the two first components are these, whatever the noise."""
    random = generator(0, "components")
    basis = np.linalg.qr(random.standard_normal((96, 2)))[0]
    hidden = random.standard_normal((3000, 2)) * [9.0, 6.0]
    x = hidden @ basis.T + 0.5 * random.standard_normal((3000, 96)) + 1.0
    inputs = torch.as_tensor(np.hstack([x, np.zeros_like(x)])).float()
    summary = Summary(family(96, False))
    summary.fit(inputs, len(inputs), inputs.device)
    found = summary(inputs).numpy()
    assert np.allclose(np.cov(found.T), np.eye(8), atol=0.02)
    r = np.corrcoef(np.hstack([found[:, :2], hidden]).T)[:2, 2:]
    assert (np.abs(r).max(1) > 0.99).all()
    # Every second value unobserved: the same components, with more noise.
    half = inputs.clone()
    half[:, :96:2], half[:, 96::2] = 0.0, 1.0
    part = summary(half).numpy()
    assert (np.diag(np.corrcoef(np.hstack([part[:, :2], found[:, :2]]).T)[:2, 2:]) > 0.9).all()
    nothing = torch.cat([torch.zeros(1, 96), torch.ones(1, 96)], dim=1)
    assert float(summary(nothing).abs().max()) == 0.0 and float(summary.seen(nothing).max()) == 0.0
    assert float(summary.seen(half).min()) == 1.0


def test_moments_of_counts() -> None:
    summary, x = Summary(family(100, True)), np.tile([1.0, 3.0], 50)
    inputs = torch.as_tensor(np.concatenate([x, np.zeros(100)])[None])
    expected = [2.0, np.log(1.01), np.log(4.01)]
    assert np.allclose(summary(inputs)[0].numpy(), expected)
    inputs[0, 50:100], inputs[0, 150:] = 0.0, 1.0  # the second half is unobserved
    assert np.allclose(summary(inputs)[0].numpy(), expected)


def waves(n: int, seed: int) -> TrainingData:
    """A wave of unknown phase in noise, as counts in time: frequency 4 to 12 cycles, and amplitude."""
    prior = Prior((Parameter("cycles", "1", 4.0, 12.0), Parameter("height", "1", 0.5, 2.0)))
    theta, random = prior.sample(n, seed=seed), generator(seed, "waves")
    phase = 2 * np.pi * (theta[:, :1] * np.linspace(0, 1, 160) + random.random((n, 1)))
    x = theta[:, 1:] * np.sin(phase) + 0.3 * random.standard_normal(phase.shape)
    names = tuple(f"counts.at_{i}" for i in range(160))
    return TrainingData(theta, x, np.zeros(x.shape, np.uint8), prior, names)


def test_reading_a_long_family_pays() -> None:
    """500 held-out rows of a posterior trained on 800: better by five standard errors than with an input for each."""
    held, density = waves(500, 9), []
    for embedding in ("long", "none"):
        config = TrainingConfig(members=1, epochs=40, drop=0.0, embedding=embedding)
        found = train(waves(800, 0), config, progress=False, seed=0)
        density.append(found.log_prob_rows(held.theta, held.values, np.asarray(held.states)))
    lead = density[0] - density[1]
    assert lead.mean() > 5 * lead.std() / np.sqrt(len(lead))


def test_libraries_have_no_such_networks() -> None:
    with pytest.raises(UnknownNameError, match="unknown embedding of family 'zuko' 'long'; valid: auto, none"):
        TrainingConfig(family="zuko", embedding="long")
    data: Any = spectra(100)
    found = train(data, TrainingConfig(family="zuko", members=1, epochs=1, hidden=8), progress=False, seed=0)
    assert found.flows.spec.long == () and found.provenance["config"]["embedding"] == "none"


def test_encoders_without_the_family_have_none() -> None:
    data = spectra(100)
    encoder = FeatureEncoder.fit(data.values, data.states, dropping=True)
    assert [f.name for f in long_families(NAMES, encoder)] == ["spectrum"]
    assert long_families(tuple(f"f{i}.x" for i in range(len(NAMES))), encoder) == ()
