"""Geometry of sets whose invariances are known: dimension, tangents, ridges, paths, walks; and controls without any."""

import numpy as np
import pytest
import torch
from tiny import PRIOR, tiny_ensemble, tiny_observation, tiny_posterior

from sbi_circuits.errors import InferenceError, PriorError
from sbi_circuits.subspace.density import gradient, hessian, log_density, score, unbounded
from sbi_circuits.subspace.examples import Constrained, banana, isotropic, ring, sheet, sum_only
from sbi_circuits.subspace.geometry import dependence, global_geometry, local_pca_dimension, neighbour_dimension
from sbi_circuits.subspace.local import bending, fisher, local_geometry, pooled, principal_angles, ridge
from sbi_circuits.subspace.paths import density_paths, ensemble_paths, walk

KNOWN = {"banana": (banana, 1), "ring": (ring, 1), "sheet": (sheet, 2), "sum": (sum_only, 3)}
EVERY = [(make(noise=0.05), dimension) for make, dimension in KNOWN.values()]
NAMES = list(KNOWN)


def truth(example: Constrained, z: np.ndarray) -> np.ndarray:
    """(n, C, P) orthonormal rows: the directions across the set, from the constraint's own derivative."""
    jacobian = torch.func.vmap(torch.func.jacrev(lambda point: example.constraint(point[None])[0]))(torch.as_tensor(z))
    return np.linalg.qr(jacobian.numpy().transpose(0, 2, 1))[0].transpose(0, 2, 1)


@pytest.mark.parametrize("n", [300, 1000])
@pytest.mark.parametrize(("example", "dimension"), [*EVERY, (isotropic(4), 4)], ids=[*NAMES, "no invariance"])
def test_dimension_of_a_known_set_lies_in_the_stated_interval(example: Constrained, dimension: int, n: int) -> None:
    """The 95 % interval holds the truth in four of five samples or more, and of 1,000 draws no other dimension.

    `no invariance` is the negative control: all four dimensions are there.
    """
    inside = np.zeros((5, 2), dtype=bool)
    for seed in range(5):
        z = example.sample_z(n, seed)
        scales = neighbour_dimension(z)
        for k, found in enumerate((scales.coarsest, local_pca_dimension(z))):
            inside[seed, k] = found.interval[0] <= dimension <= found.interval[1]
        low, high = scales.coarsest.interval
        assert n < 1000 or (dimension - 1 < low and high < dimension + 1)
    assert (inside.sum(0) >= 4).all()


@pytest.mark.parametrize(("example", "dimension"), EVERY, ids=NAMES)
def test_dimension_of_a_known_set_is_found_within_three_errors(example: Constrained, dimension: int) -> None:
    """With half of the last step of the scale as error, less than what is stated."""
    z = example.sample_z(1000, seed=0)
    scales = neighbour_dimension(z)
    error = np.hypot(scales.error[-1], (scales.dimension[-1] - scales.dimension[-2]) / 2)
    assert abs(scales.coarsest.value - dimension) < 3 * error + 0.05
    # The set is as thick as its noise: at the finest scale that counts as dimensions, so scales must be told apart.
    assert scales.finest.value > dimension + 0.1


def test_without_an_invariance_every_direction_is_stiff() -> None:
    """Negative control."""
    example = isotropic(4)
    z = example.sample_z(1000, seed=0)
    scales = neighbour_dimension(z)
    error = np.hypot(scales.error[-1], (scales.dimension[-1] - scales.dimension[-2]) / 2)
    assert abs(scales.coarsest.value - 4) < 3 * error
    assert local_pca_dimension(z).value == pytest.approx(4.0)
    geometry = local_geometry(example, z[:20])
    assert (geometry.dimension == 0).all() and np.allclose(geometry.eigenvalues, 1 / 0.3**2)
    assert global_geometry(example.prior.constrain(z), example.prior).participation.value > 3.9


@pytest.mark.parametrize(("example", "dimension"), EVERY, ids=NAMES)
def test_tangents_on_the_ridge_are_those_of_the_set(example: Constrained, dimension: int) -> None:
    z = ridge(example, example.sample_z(40, seed=1))
    assert float(example.constraint(torch.as_tensor(z)).abs().max()) < 0.01
    geometry = local_geometry(example, z)
    assert (geometry.dimension == dimension).all()
    across = geometry.directions[:, : z.shape[1] - dimension]
    assert np.degrees(principal_angles(across, truth(example, z)).max()) < 2.0


def test_a_flat_set_does_not_bend_and_a_ring_does() -> None:
    flat, round_ = sum_only(4, noise=0.05), ring(noise=0.05)
    assert bending(local_geometry(flat, flat.sample_z(20, 0)), 3).share < 0.01
    found = bending(local_geometry(round_, ridge(round_, round_.sample_z(40, 0))), 1)
    assert found.share == pytest.approx(1.0, abs=0.1)  # tangents of a circle are as random ones in the plane
    with pytest.raises(InferenceError, match="two configurations"):
        bending(local_geometry(flat, flat.sample_z(1, 0)), 3)


def test_hessian_and_gradient_are_the_derivatives_of_a_trained_flow() -> None:
    density = tiny_posterior()(tiny_observation())
    z, h = density.sample_z(5, seed=0), 1e-5
    assert np.allclose(log_density(density, z), density.log_prob(PRIOR.constrain(z)) + PRIOR.log_abs_det(z))
    step = h * np.eye(3)
    slopes = [(log_density(density, z + e) - log_density(density, z - e)) / (2 * h) for e in step]
    assert np.allclose(np.stack(slopes, 1), gradient(density, z), rtol=1e-3, atol=1e-4)
    curves = [(gradient(density, z + e) - gradient(density, z - e)) / (2 * h) for e in step]
    assert np.allclose(np.stack(curves, 2), hessian(density, z), rtol=1e-3, atol=1e-2)


def test_score_of_the_likelihood_leaves_the_prior_out() -> None:
    example = sum_only(3, noise=0.5)
    z = example.sample_z(10, 0)
    expected = -((z.sum(1) - 1.0) / 0.5**2)[:, None].repeat(3, axis=1)
    assert np.allclose(score(example, z), expected)


def test_fisher_matrix_of_a_trained_posterior_ignores_the_idle_parameter() -> None:
    """`idle` does nothing in the tiny circuit: it is the sloppy direction, and the two rates are stiff."""
    ensemble, posterior = tiny_ensemble(), tiny_posterior()
    kept = ensemble.verified
    z = unbounded(ensemble.prior, ensemble.members)
    found = pooled(fisher(posterior, z, ensemble.values[kept], ensemble.states[kept]))
    assert abs(found.sloppy[0, 2]) > 0.9
    assert found.eigenvalues[0, 0] > 10 * found.eigenvalues[0, -1]


@pytest.mark.parametrize("example", [banana(0.1), ring(0.1), sheet(0.1)], ids=["banana", "ring", "sheet"])
def test_paths_stay_on_the_set_where_straight_lines_leave_it(example: Constrained) -> None:
    z = example.sample_z(12, seed=0)
    paths = density_paths(example, z[:6], z[6:], points=11)
    assert np.allclose(paths.z[:, 0], z[:6]) and np.allclose(paths.z[:, -1], z[6:])
    steps = np.linalg.norm(np.diff(paths.z, axis=1), axis=2)
    assert (steps.max(1) < 1.3 * steps.min(1)).all()  # equal but for chords of a bent path
    assert (paths.drop < 1.0).all() and (paths.gain > -0.1).all()
    assert np.abs(example.constraint(torch.as_tensor(paths.z.reshape(-1, z.shape[1]))).numpy()).max() < 0.4
    if z.shape[1] == 2:
        assert paths.gain.max() > 5.0  # the straight line leaves these sets by far


def test_paths_refuse_what_does_not_fit() -> None:
    with pytest.raises(InferenceError, match="need"):
        density_paths(banana(), np.zeros((2, 2)), np.zeros((3, 2)))
    ensemble = tiny_ensemble()
    unverified = int(np.flatnonzero(~ensemble.verified)[0])
    verified = int(np.flatnonzero(ensemble.verified)[0])
    density = tiny_posterior()(ensemble.observation)
    with pytest.raises(InferenceError, match=f"configuration {unverified} is not verified"):
        ensemble_paths(density, ensemble, np.array([[verified, unverified]]))
    with pytest.raises(PriorError, match="outside its prior"):
        unbounded(ensemble.prior, np.array([[1.0, 99.0, -60.0]]))


def test_walks_follow_the_ring_and_without_correction_leave_it() -> None:
    start, example = np.array([[1.5, 0.0]]), ring(noise=0.05, radius=1.5)
    radius = np.linalg.norm(walk(example, start, 1, steps=30).z[0], axis=1)
    assert np.abs(radius - 1.5).max() < 0.02
    loose = np.linalg.norm(walk(example, start, 1, steps=30, correct=False).z[0], axis=1)
    assert loose.max() > 1.7


def test_dependence_is_seen_where_correlation_is_not() -> None:
    example = banana(0.1)
    found = global_geometry(example.sample(600, 0), example.prior)
    assert abs(found.correlation[0, 1]) < 0.15
    ((a, b, nats),) = found.dependent()
    assert {a, b} == {"p0", "p1"} and nats > 0.5
    free = np.random.default_rng(0).standard_normal((600, 6))
    information, noise = dependence(free, np.random.default_rng(1))
    assert (information[np.triu_indices(6, 1)] > noise).mean() < 0.3  # negative control
    with pytest.raises(InferenceError, match="at least 20"):
        global_geometry(example.sample(5, 0), example.prior)


def test_contraction_is_that_of_the_variances() -> None:
    example = isotropic(3, noise=0.1)
    found = global_geometry(example.sample(800, 0), example.prior)
    u = example.prior.to_unit(example.sample(50_000, 1))
    assert np.abs(found.contraction - (1 - 12 * u.var(0))).max() < 4 * found.contraction_error.max()
    assert "dimension" in found.summary() and "contracted" in found.summary()
