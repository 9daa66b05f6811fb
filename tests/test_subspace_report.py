"""Subspaces proved by simulation of the tiny circuit, whose `idle` does nothing: report, files, plots, verb."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from tiny import CIRCUIT, PRIOR, THETA, tiny_circuit, tiny_ensemble, tiny_observation, tiny_posterior
from typer.testing import CliRunner

from sbi_circuits.circuit import Composite, get_circuit
from sbi_circuits.cli import app
from sbi_circuits.ensemble import Ensemble
from sbi_circuits.errors import CircuitError, InferenceError, UnknownNameError
from sbi_circuits.features import FeatureSet
from sbi_circuits.plots.subspace import direction_plot, path_rasters, spectrum_plot
from sbi_circuits.results import save_ensemble
from sbi_circuits.subspace import (
    Perturbation,
    Plan,
    Runner,
    SubspaceReport,
    analyse,
    compare_subspaces,
    coverage,
    density_paths,
    evenly_spread,
    expected_information,
    farthest_points,
    feature_change,
    grow,
    load_subspace,
    members_of,
    perturbed,
    predict,
    prove_controls,
    prove_directions,
    prove_draws,
    prove_paths,
    rank_features,
    resimulate_like,
    save_subspace,
    unbounded,
)
from sbi_circuits.subspace.resimulate import _apart, feature_unit

RUNNER = Runner(repeats=4, seed=5, engine="tiny")
IDLE, BURSTING = np.eye(3)[2], np.eye(3)[1]


@cache
def grown() -> Ensemble:
    return grow(tiny_posterior(), tiny_ensemble(), 40, RUNNER, batch=32)[0]


@cache
def report() -> SubspaceReport:
    plan = Plan(members=6, paths=2, points=5, walks=2, steps=2, draws=4,
                conditions=(({"idle": -60.0}, {"tonic": (0.8, 1.3)}),))  # fmt: skip
    return analyse(tiny_posterior(), grown(), plan, RUNNER)


def test_a_known_invariance_is_proved_and_a_wrong_one_is_not() -> None:
    """Negative control: what a wrong flow takes for sloppy is a direction that changes the bursts."""
    chosen = np.arange(8)
    right = {"sloppy": IDLE, "stiff": BURSTING}
    proof = prove_directions(grown(), chosen, right, (0.5, 1.0), RUNNER)
    assert (proof.typical("sloppy") < 1.0).all() and (proof.failures("sloppy") == 0).all()
    assert (proof.ratio() > 5.0).all()
    wrong = prove_directions(grown(), chosen, {"sloppy": BURSTING, "stiff": IDLE}, (0.5, 1.0), RUNNER)
    assert (wrong.ratio() < 1.0).all() and (wrong.typical("sloppy") > [1.5, 3.0]).all()


def test_a_change_of_nothing_is_as_large_as_seeds_make_it() -> None:
    ensemble = grown()
    theta = np.repeat(THETA[None], 60, axis=0)
    first, second = (resimulate_like(ensemble, theta, replace(RUNNER, seed=s)) for s in (1, 2))
    names, observed = ensemble.feature_set.names, ensemble.observation.states
    found = feature_change(first, second, feature_unit(ensemble), ensemble.encoder, names, observed)
    assert np.median(found.size / found.noise) == pytest.approx(1.0, abs=0.35)
    assert found.typical < 0.6 and found.failure_rate == 0.0


def test_a_long_invariant_path_stays_and_random_lines_of_its_length_do_not() -> None:
    """`idle` from one end of its prior to the other; negative control: as far in random directions."""
    ends = np.array([[1.0, 1.0, -69.0], [1.1, 0.95, -51.0]])
    z = unbounded(PRIOR, ends)
    paths = density_paths(tiny_posterior()(tiny_observation()), z[:1].repeat(6, 0), z[1:].repeat(6, 0), points=6)
    proof = prove_paths(grown(), paths, RUNNER)
    controls = prove_controls(grown(), paths, proof, RUNNER)
    assert proof.moved.within(2.0) == 1.0 and proof.moved.failure_rate == 0.0
    random = controls["random"]
    assert random.moved.within(2.0) < 0.75 and (random.size[:, -1] > 2.0).mean() >= 0.5  # farther, worse
    assert len(controls["straight"].moved.size) == 6 * 4
    assert proof.recording.within(2.0) > 0.8 > random.recording.within(2.0)


def test_a_feature_that_comes_and_goes_by_chance_is_not_lost() -> None:
    """Of 16 and 4 seeds; a feature in most reference seeds and in none of the others is."""
    n_a, n_b = np.array([16, 8, 8, 16, 0, 0]), np.array([0, 0, 4, 3, 4, 0])
    assert _apart(n_a, n_b, 16, 4, 10).tolist() == [True, False, False, False, True, False]
    assert _apart(np.array([16, 14, 8]), np.array([0, 0, 0]), 16, 2, 10).tolist() == [True, True, False]


def test_noise_is_taken_off_without_bias() -> None:
    """Mean of size^2 - noise^2 over 150 unmoved configurations is 0 within four standard errors, whatever the unit."""
    ensemble, f = grown(), len(grown().feature_set.names)
    template = resimulate_like(ensemble, THETA[None], RUNNER)
    theta, ok = np.repeat(THETA[None], 150, axis=0), np.full((150, 4), "ok")
    wide = replace(ensemble.encoder, log=np.zeros(f, bool), centre=np.zeros(f), scale=np.ones(f))
    random, states = np.random.default_rng(0), np.zeros((150, 4, f), np.uint8)
    for shift in (0.0, 0.3):
        a, b = (replace(template, theta=theta, values=0.4 * random.standard_normal((150, 4, f)) + s, states=states,
                        outcomes=ok) for s in (0.0, shift))  # fmt: skip
        found = feature_change(a, b, np.full(f, 0.2), wide, ensemble.feature_set.names, np.zeros(f, np.uint8))
        square, error = found.mean_square
        assert abs(square - (shift / 0.2) ** 2) < 4 * error


def test_what_ends_early_counts_as_failed() -> None:
    silent = np.array([[0.21, 1.0, -60.0], [1.0, 1.0, -60.0]])
    proof = prove_draws(grown(), silent, RUNNER)
    assert proof.change.failed.tolist() == [True, False] and proof.failure_rate == 0.5
    assert not proof.verified[0, 0] and proof.change.within(1e9) == 0.5


def test_growing_reaches_the_number_and_covers_more() -> None:
    posterior, before, after = tiny_posterior(), tiny_ensemble(), grown()
    assert after.verified.sum() >= 40 > before.verified.sum()
    density = posterior(before.observation)
    wider, first = coverage(density, after.members), coverage(density, before.members)
    assert wider.covered > first.covered and "coverage" in wider.summary()
    # Every member is a simulation that was judged: none is taken over from the posterior.
    assert len(after.values) == len(after.theta) and np.isfinite(after.log_prob).all()
    none = replace(before, judgement=replace(before.judgement, verified=np.zeros(len(before.theta), dtype=bool)))
    assert grow(posterior, none, 20, RUNNER, batch=16, most=16)[0].verified.sum() > 12  # from posterior draws alone


def test_even_draws_are_farther_apart_than_draws() -> None:
    density = tiny_posterior()(tiny_observation())
    spread = coverage(density, evenly_spread(density, 30, pool=1000))
    assert spread.evenness > 1.5
    assert coverage(density, density.sample(30, seed=8)).evenness == pytest.approx(1.0, abs=0.35)  # negative control
    with pytest.raises(InferenceError, match="valid: 1 to"):
        evenly_spread(density, 2000, pool=1000)
    assert farthest_points(np.eye(3), 9).size == 3


def test_report_saves_and_loads(tmp_path: Path) -> None:
    found = report()
    tree = load_subspace(save_subspace(found, tmp_path / "subspace.nc"))
    assert {"members", "global", "local", "directions", "paths", "walks", "conditional_0"} <= set(tree.children)
    assert tree["control_random"]["size"].shape == (2, 3) and "learned_directions" in tree["local"]
    assert np.allclose(tree["members"]["theta"].values, found.ensemble.members)
    assert tree["paths"]["size"].shape == (2, 5) and "failure_rate" in tree["walks"]
    assert tree.attrs["summary"] == found.summary() and "sloppiest: idle" in found.summary()
    assert tree["conditional_0"]["theta"].attrs["condition"] == found.conditionals[0][0].condition.text
    (tmp_path / "damaged.nc").write_bytes(b"CDF")
    with pytest.raises(InferenceError, match="not a whole NetCDF"):
        load_subspace(tmp_path / "damaged.nc")
    with pytest.raises(InferenceError, match="there is no subspace"):
        load_subspace(tmp_path / "none.nc")
    with pytest.raises(InferenceError, match="reads sbi_circuits.subspace version 1"):
        load_subspace(save_ensemble(tiny_ensemble(), tmp_path / "e.nc"))


def test_sloppy_walks_stay_and_paths_are_judged() -> None:
    found = report()
    assert found.walks_proof is not None and found.paths_proof is not None
    assert found.walks_proof.moved.within(2.0) > 0.9
    assert found.paths_proof.counted.sum() == 2 * 3 and "failed" in found.paths_proof.summary("paths")
    assert found.average.dimension[0] >= 1 and abs(found.average.sloppy[0, 2]) > 0.8
    assert abs(found.expected.sloppy[0, 2]) > 0.8  # the Fisher matrix agrees with the curvature


def test_an_ensemble_of_another_circuit_is_refused() -> None:
    other = replace(tiny_ensemble(), provenance={**tiny_ensemble().provenance, "circuit_digest": "0" * 64})
    with pytest.raises(InferenceError, match="another circuit than the posterior"):
        analyse(tiny_posterior(), other, Plan(), RUNNER)
    changed = tiny_circuit(name="tiny_other", equations="dv/dt = (idle*tonic + 2*bursting*mV - v*tonic) : volt")
    with pytest.raises(InferenceError, match="tiny_other is not the one"):
        resimulate_like(tiny_ensemble(), THETA[None], replace(RUNNER, circuit=changed))


def test_recordings_of_one_circuit_are_not_told_apart_and_others_are() -> None:
    runs = resimulate_like(grown(), grown().members[:10], RUNNER)
    seen = {"one": tiny_observation(seed=1), "same": tiny_observation(seed=2),
            "other": tiny_observation(np.array([3.0, 0.5, -60.0]))}  # fmt: skip
    found = compare_subspaces(tiny_posterior(), seen, runs, stiff=1, windows=2)
    p = found.p_value()
    assert p[0, 1] > 0.1 and p[0, 2] < 0.1 and p[1, 2] < 0.1
    assert found.distance[0, 2] > 2 * found.distance[0, 1] and "one - other" in found.summary()
    with pytest.raises(InferenceError, match="two observations"):
        compare_subspaces(tiny_posterior(), {"one": seen["one"]}, runs)
    with pytest.raises(InferenceError, match="need 6 seeds"):
        compare_subspaces(tiny_posterior(), seen, runs, stiff=1, windows=3)


def test_perturbations_move_what_they_should_and_widen_the_prior() -> None:
    slower = Perturbation("scale", "bursting", 0.2)
    effects = predict(grown(), [Perturbation("scale", "idle", 1.05), slower], RUNNER, most=8)
    by_name = {e.perturbation.target: e for e in effects}
    assert by_name["idle"].change.typical < 1.0 < by_name["bursting"].change.typical
    circuit, theta = perturbed(CIRCUIT, THETA[None], slower)
    assert theta[0, 1] == pytest.approx(0.2) and circuit.prior["bursting"].low == pytest.approx(0.2)
    assert circuit.digest == CIRCUIT.digest and circuit.prior["tonic"] == PRIOR["tonic"]


@pytest.mark.parametrize(
    ("text", "error", "expected"),
    [
        ("squash:inh", UnknownNameError, "valid: block, scale, set"),
        ("block:exc:x", InferenceError, "kind:target:value"),
        ("block:exc:-1", InferenceError, "not a valid value"),
        ("block:nobody", UnknownNameError, "valid: exc"),
        ("block:exc", InferenceError, "no outgoing synapses"),
        ("scale:nothing:2", UnknownNameError, "valid: bursting, idle, tonic"),
    ],
)
def test_perturbations_that_cannot_be(text: str, error: type, expected: str) -> None:
    with pytest.raises(error, match=expected):
        perturbed(CIRCUIT, THETA[None], Perturbation.read(text))


def test_blocking_a_population_scales_its_synapses_only() -> None:
    circuit = get_circuit("brunel")
    changed, _ = perturbed(circuit, circuit.default_theta()[None], Perturbation.read("block:inh:0.5"))
    weights = {p.name: p.weight for p in changed.projections}
    assert weights["i2e"] == "0.5*(-g*J)" and weights["e2e"] == "J" and changed.digest != circuit.digest


def test_information_is_that_of_what_differs() -> None:
    """Members with known means, three standard deviations apart: log 4 nats; all alike: none (negative control)."""
    ensemble, f = grown(), len(grown().feature_set.names)
    template = resimulate_like(ensemble, np.repeat(THETA[None], 4, axis=0), RUNNER)
    unit, seen = feature_unit(ensemble), np.where(np.arange(f) == 0, 0, 2).astype(np.uint8)
    scale = ensemble.encoder
    wide = replace(scale, log=np.zeros(f, bool), centre=np.zeros(f), scale=np.ones(f))
    noise = np.random.default_rng(0).standard_normal((4, 4, f)) * unit
    apart = 6.0 * unit[0] * np.arange(4)[:, None, None] - 9.0 * unit[0]
    for values, low, high in ((noise + apart, 1.0, np.log(4) + 1e-6), (noise, 0.0, 0.35)):
        runs = replace(template, values=np.clip(values, -2.9, 2.9), states=np.zeros((4, 4, f), np.uint8))
        nats, error = expected_information(runs, unit, wide, seen)
        assert low - 3 * error <= nats <= high
    with pytest.raises(InferenceError, match="two configurations"):
        expected_information(template[:1], unit, scale, seen)


def test_features_are_ranked_by_what_they_would_tell() -> None:
    spread = replace(grown())
    found = rank_features(spread, FeatureSet.of("isi"), RUNNER, most=10)
    assert found == tuple(sorted(found, key=lambda v: -v.information)) and found[0].name.startswith("isi.")


def test_composites_belong_to_the_circuit() -> None:
    circuit = get_circuit("adex_clustered")
    values = circuit.composite_values(np.stack([circuit.default_theta()] * 2))
    assert values["tau_m"].tolist() == [20.0, 20.0] and values["EI_ratio"][0] == pytest.approx(0.32)
    assert replace(circuit, composites=()).digest == circuit.digest
    with pytest.raises(CircuitError, match="composite bad"):
        replace(circuit, composites=(Composite("bad", "C/g_L", "mV"),))
    with pytest.raises(CircuitError, match="repeats the name"):
        replace(circuit, composites=(Composite("C", "C/g_L", "ms"),))


def test_plots_show_failures() -> None:
    found = report()
    texts = [t.get_text() for t in direction_plot(found.directions).axes[0].get_legend().get_texts()]
    assert any("failed" in text for text in texts)
    assert "sloppy" in spectrum_plot(found.local, found.average, PRIOR).axes[0].get_title(loc="left")
    with pytest.raises(InferenceError, match="no point of the path"):
        path_rasters([None, None])


def test_the_verb_writes_everything(tmp_path: Path) -> None:
    posterior = tiny_posterior().save(tmp_path / "posterior")
    first = save_ensemble(tiny_ensemble(), tmp_path / "a" / "ensemble.nc")
    second = save_ensemble(tiny_ensemble(), tmp_path / "b" / "ensemble.nc")
    common = [str(first), "--posterior", str(posterior), "--out", str(tmp_path / "out"), "--engine", "tiny"]
    small = ["--members", "3", "--paths", "1", "--walks", "1", "--repeats", "2", "--n", "14", "--most", "40"]
    extra = ["--fix", "idle=-60", "--bound", "tonic=0.8:1.5", "--perturb", "scale:bursting:0.5", "--measure", "isi",
             "--compare", str(second)]  # fmt: skip
    result = CliRunner().invoke(app, ["subspace", *common, *small, *extra])
    assert result.exit_code == 0, result.output
    names = {path.name for path in (tmp_path / "out").iterdir()}
    figures = {"spectrum", "directions", "paths", "pairs", "rasters", "walks", "conditional_0", "comparison",
               "perturbations"}  # fmt: skip
    assert {"subspace.nc", "summary.txt", *(f"{name}.png" for name in figures)} <= names
    assert "verified configurations" in result.output and "failed" in result.output
    for options, text in (
        (["--fix", "idle=9"], "outside its prior"),
        (["--fix", "idle"], "name=value"),
        (["--bound", "tonic=1"], "name=low:high"),
        (["--perturb", "block:nobody"], "unknown population"),
    ):
        failed = CliRunner().invoke(app, ["subspace", *common, *small[:8], *options])
        assert failed.exit_code == 2 and text in failed.output, failed.output


def test_unbounded_coordinates_are_finite_on_the_bounds() -> None:
    corner = np.array([[p.low for p in PRIOR.parameters], [p.high for p in PRIOR.parameters]])
    assert np.abs(unbounded(PRIOR, corner)).max() == 4.0
    assert len(members_of(grown())) == grown().verified.sum()
