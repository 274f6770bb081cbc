"""Local geometry against dense derivatives on the small network and closed forms on the toy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eoslib.geometry import epsilon, local_geometry, local_geometry_and_products, radius_squared
from eoslib.objective import Objective

geometry_at = jax.jit(local_geometry, static_argnames=("tolerance", "max_products"))

TIGHT = 1e-9  # residual of u relative to S, where answers are compared with dense ones
ROUNDING = dict(rtol=1e-10, atol=1e-12)  # sums over 40 samples and 129 parameters of order one


@pytest.fixture(scope="module")
def at_edge(network, edge):
    """(objective, θ, Dense, all eigenvalues, all eigenvectors) at the edge."""
    objective, _, dense = network
    return objective, edge[0], dense, *dense.eigen(edge[0])


@pytest.fixture(scope="module")
def exact(at_edge):
    objective, theta, *_ = at_edge
    return geometry_at(objective, theta, jnp.ones_like(theta), tolerance=TIGHT)


def tilted(vectors, sine: float):
    """The leading eigenvector turned by a small angle towards the second."""
    return jnp.asarray(np.sqrt(1 - sine**2) * vectors[0] + sine * vectors[1])


# --- definitions ------------------------------------------------------------------------------------------------------


def test_loss_gradient_and_sharpness_against_dense(at_edge, exact):
    _, theta, dense, values, vectors = at_edge
    np.testing.assert_allclose(exact.loss, dense.loss(theta), **ROUNDING)
    np.testing.assert_allclose(exact.gradient, dense.gradient(theta), **ROUNDING)
    np.testing.assert_allclose(exact.sharpness, values[0], **ROUNDING)
    np.testing.assert_allclose(jnp.linalg.norm(exact.eigenvector), 1, **ROUNDING)
    tilt = TIGHT * values[0] / (values[0] - values[1])  # of a vector, by its residual over the eigengap
    np.testing.assert_allclose(abs(vectors[0] @ exact.eigenvector), 1, atol=tilt**2 + 1e-12)
    np.testing.assert_allclose(exact.hvp, dense.hessian(theta) @ exact.eigenvector, **ROUNDING)
    residual = np.linalg.norm(dense.hessian(theta) @ exact.eigenvector - exact.sharpness * exact.eigenvector)
    assert residual <= TIGHT * values[0]
    np.testing.assert_allclose(exact.residual, residual, atol=1e-12 * values[0])


def test_sharpness_gradient_is_the_gradient_of_the_largest_eigenvalue(at_edge, exact):
    _, theta, dense, _, vectors = at_edge
    directions = np.random.default_rng(0).normal(size=(10, theta.size))
    differences = [dense.sharpness_slope(theta, v / np.linalg.norm(v)) for v in directions]
    slopes = directions @ exact.sharpness_gradient / np.linalg.norm(directions, axis=1)
    np.testing.assert_allclose(slopes, differences, atol=oracles.DIFFERENCE * np.abs(differences).max())
    expected = np.asarray(dense.derivative(theta, vectors[0]))
    np.testing.assert_allclose(exact.sharpness_gradient, expected, atol=1e-7 * np.abs(expected).max())  # the tilt of u
    across = expected - (vectors[0] @ expected) * vectors[0]
    np.testing.assert_allclose(exact.perpendicular, across, atol=2e-7 * np.abs(expected).max())
    assert abs(exact.perpendicular @ exact.eigenvector) <= 1e-12 * np.linalg.norm(across)


def test_derived_quantities_against_dense(at_edge, exact):
    _, theta, dense, _, vectors = at_edge
    gradient, slope = np.asarray(dense.gradient(theta)), np.asarray(dense.derivative(theta, vectors[0]))
    across = slope - (vectors[0] @ slope) * vectors[0]
    alpha, beta = -gradient @ slope, across @ across
    cosine = alpha / (np.linalg.norm(gradient) * np.linalg.norm(across))
    assert alpha > 0  # progressive sharpening, before the edge
    for found, expected in (
        (exact.alpha, alpha),
        (exact.beta, beta),
        (exact.delta_squared, 2 * alpha / beta),
        (exact.cosine, cosine),
        (epsilon(exact.alpha, 0.1), 0.1 * np.sqrt(alpha)),
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-6)  # first order in the tilt of u, 1e-9 times ‖∇³L‖


@given(
    st.floats(-3, 3).filter(lambda a: abs(a) > 1e-3), st.floats(0.2, 5), st.floats(0, 1), st.floats(-2, 2),
    st.floats(-2, 2), st.floats(-2, 2),
)  # fmt: skip
def test_every_quantity_has_its_closed_form_on_the_toy(toy_objective, alpha, beta, lam, drift, x, y):
    toy = oracles.Toy(alpha=alpha, beta=beta, lam=lam, drift=drift)
    objective, theta = dataclasses.replace(toy_objective, batch=toy.constants), jnp.array([x, y, 0.3])
    found = geometry_at(objective, theta, jnp.array([1.0, 0.0, 0.0]), tolerance=1e-13)
    close = dict(rtol=1e-9, atol=1e-9)  # the residual, 1e-13, times S = 100; a sum may cancel
    np.testing.assert_allclose(found.loss, toy.loss(theta), **close)
    np.testing.assert_allclose(found.gradient, toy.gradient(theta), **close)
    np.testing.assert_allclose(found.sharpness, toy.sharpness(theta), **close)
    np.testing.assert_allclose(found.eigenvector, toy.eigenvector(theta), **close)
    np.testing.assert_allclose(found.sharpness_gradient, toy.sharpness_gradient(theta), **close)
    np.testing.assert_allclose(found.perpendicular, toy.across(theta), **close)
    np.testing.assert_allclose(found.alpha, toy.alpha_at(theta), **close)
    np.testing.assert_allclose(found.beta, toy.beta_at(theta), **close)
    np.testing.assert_allclose(found.delta_squared, toy.delta_squared_at(theta), rtol=1e-8, atol=1e-8)
    gradient, across = np.linalg.norm(toy.gradient(theta)), toy.beta_at(theta) ** 0.5
    np.testing.assert_allclose(found.cosine, toy.alpha_at(theta) / (gradient * across), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("alpha", [1.5, -1.5])
def test_negative_alpha_gives_a_negative_radius_squared_and_no_epsilon(toy_objective, alpha):
    objective = dataclasses.replace(toy_objective, batch=oracles.Toy(alpha=alpha, beta=2.0).constants)
    found = geometry_at(objective, jnp.zeros(3), jnp.array([1.0, 0.0, 0.0]), tolerance=1e-13)
    np.testing.assert_allclose(found.delta_squared, alpha, rtol=1e-12)  # 2α/β, nothing clipped
    np.testing.assert_allclose(found.cosine, np.sign(alpha), rtol=1e-12)
    np.testing.assert_allclose(epsilon(found.alpha, 0.02), 0.02 * 1.5**0.5 if alpha > 0 else np.nan, rtol=1e-12)


# --- the start --------------------------------------------------------------------------------------------------------

LOOSE = 5e-3


@pytest.mark.parametrize("sign", [1, -1])
def test_a_good_start_is_kept_at_the_cost_of_one_product(at_edge, sign):
    objective, theta, _, values, vectors = at_edge
    start = sign * 3 * tilted(vectors, 1e-3)
    found = geometry_at(objective, theta, start, tolerance=LOOSE)
    assert int(found.products) == 1
    np.testing.assert_allclose(found.eigenvector, start / 3, rtol=1e-12, atol=1e-15)
    gap = values[0] - values[1]
    np.testing.assert_allclose(found.residual, 1e-3 * gap, rtol=1e-5)
    np.testing.assert_allclose(values[0] - found.sharpness, 1e-6 * gap, rtol=1e-5)  # of second order


@pytest.mark.parametrize("sign", [1, -1])
def test_a_stale_start_is_refined_and_keeps_its_sign(at_edge, sign):
    objective, theta, dense, values, vectors = at_edge
    found = geometry_at(objective, theta, sign * tilted(vectors, 0.5), tolerance=LOOSE)
    assert int(found.products) > 1
    assert float(found.residual) <= LOOSE * values[0]
    assert float(found.eigenvector @ (sign * vectors[0])) > 0.99
    # The expansion is that at the refined eigenvector, not at the start.
    np.testing.assert_allclose(found.hvp, dense.hessian(theta) @ found.eigenvector, **ROUNDING)
    np.testing.assert_allclose(found.sharpness_gradient, dense.derivative(theta, found.eigenvector), **ROUNDING)


def test_the_improved_eigenvector_is_nearer_and_on_the_same_side(at_edge):
    objective, theta, _, values, vectors = at_edge
    found = geometry_at(objective, theta, -tilted(vectors, 5e-3), tolerance=LOOSE)
    assert int(found.products) == 1
    improved = np.asarray(found.improved_vectors[0])
    np.testing.assert_allclose(np.linalg.norm(improved), 1, rtol=1e-12)
    assert improved @ found.eigenvector > 0
    # A power step shrinks the part along the second eigenvector by λ₂/λ₁.
    np.testing.assert_allclose(abs(improved @ vectors[1]), 5e-3 * abs(values[1] / values[0]), rtol=1e-4)


def test_products_come_in_the_same_pass(at_edge, exact):
    objective, theta, dense, _, vectors = at_edge
    vs = jnp.asarray(vectors[3:5])
    function = jax.jit(local_geometry_and_products, static_argnames="tolerance")
    found, products = function(objective, theta, exact.eigenvector, vs, tolerance=LOOSE)
    np.testing.assert_allclose(products, vs @ dense.hessian(theta), **ROUNDING)
    np.testing.assert_allclose(found.sharpness_gradient, exact.sharpness_gradient, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("start", [0.0, np.nan, np.inf])
def test_a_start_without_a_direction_is_replaced_by_a_random_one(at_edge, start):
    objective, theta, _, values, _ = at_edge
    found = geometry_at(objective, theta, jnp.full(theta.shape, start), tolerance=TIGHT)
    np.testing.assert_allclose(found.sharpness, values[0], **ROUNDING)
    assert float(found.residual) <= TIGHT * values[0]


def test_a_second_call_outside_of_jit_traces_nothing(at_edge):
    """Nor one with an objective that differs only in its batch: what the loss is, is known by its static fields."""
    _, theta, _, values, vectors = at_edge
    traces = []

    def loss(params, batch):
        traces.append(1)
        return oracles.mlp_loss(params, batch)

    objectives = [Objective.create(loss, oracles.mlp_params(), oracles.mlp_batch(seed)) for seed in (1, 1, 2)]
    found = local_geometry(objectives[0], theta, jnp.asarray(vectors[0]))
    np.testing.assert_allclose(found.sharpness, values[0], **ROUNDING)
    once = len(traces)
    for objective in objectives:
        local_geometry(objective, 1.1 * theta, jnp.asarray(vectors[1]))
    assert len(traces) == once


# --- where a quantity vanishes ----------------------------------------------------------------------------------------


def test_the_radius_where_nothing_pushes_back():
    for library in (np, jnp):
        found = radius_squared(library.array([2.0, -2.0, 2.0, -2.0, 0.0, 0.0]), library.array([4.0, 4, 0, 0, 0, 1]))
        np.testing.assert_array_equal(found, [1, -1, np.inf, -np.inf, 0, 0])
        assert isinstance(found, np.ndarray if library is np else jax.Array)
    assert radius_squared(1.0, 0.0) == np.inf
    assert np.isnan(radius_squared(np.nan, 0.0))


LINEAR = np.linspace(-1, 1, 100)
CURVED = np.linspace(-3, 2, 100)


@pytest.mark.parametrize(
    ("loss", "sharpness"),
    [
        (lambda t: jnp.sum(LINEAR.astype(np.float32) * t), 0.0),
        (lambda t: jnp.sum(CURVED.astype(np.float32) * t**2) / 2, 2.0),
        (lambda t: jnp.sum(CURVED[:9].astype(np.float32) * t[:9] ** 2) / 2, 0.0),  # largest eigenvalue 0, many times
        (lambda t: jnp.float32(0) * t[0], 0.0),
    ],
    ids=["linear", "quadratic", "flat", "constant"],
)
@pytest.mark.parametrize("place", [0.0, 1.0])
def test_no_quantity_is_nan_where_derivatives_vanish(ordinary, loss, sharpness, place):
    objective = Objective.create(loss, jnp.zeros(100))
    with jax.debug_nans(True):
        found = local_geometry(objective, jnp.full(100, place), jnp.ones(100))
        np.testing.assert_allclose(found.sharpness, sharpness, atol=1e-4)
        vanish = dict(alpha=found.alpha, beta=found.beta, delta_squared=found.delta_squared, cosine=found.cosine)
        assert not {name: float(value) for name, value in vanish.items() if value != 0}
        np.testing.assert_allclose(jnp.linalg.norm(found.improved_vectors[0]), 1, rtol=1e-5)


def test_a_cosine_of_something_not_finite_is_not_zero(at_edge, exact):
    assert np.isnan(exact._replace(gradient=exact.gradient.at[0].set(np.nan)).cosine)


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_curvatures_whose_squares_leave_the_range_of_float32(ordinary, scale):
    values = np.linspace(-3, 2, 100)
    values[50] = 2.5
    loss = lambda t: jnp.sum(jnp.asarray(values * scale, jnp.float32) * t * t) / 2  # noqa: E731
    found = local_geometry(Objective.create(loss, jnp.zeros(100)), jnp.zeros(100), jnp.ones(100), tolerance=1e-3)
    np.testing.assert_allclose(found.sharpness, 2.5 * scale, rtol=1e-5)
    assert 0 < float(found.residual) <= 2.5e-3 * scale
    np.testing.assert_allclose(jnp.linalg.norm(found.improved_vectors[0]), 1, rtol=1e-5)
    np.testing.assert_allclose(jnp.abs(found.eigenvector[50]), 1, atol=1e-3)
