"""Local geometry against dense derivatives on the small network and closed forms on the toy; the public sharpness."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest
from hypothesis import given
from hypothesis import strategies as st

import eoslib
from eoslib.eigen import EigenStatus
from eoslib.geometry import epsilon, local_geometry, local_geometry_and_products

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
    improved = np.asarray(found.improved_eigenvector)
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


# --- the public sharpness ---------------------------------------------------------------------------------------------


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(1, param_dtype=jnp.float64)(nn.tanh(nn.Dense(12, param_dtype=jnp.float64)(x)))


def flax_loss(params, batch):
    inputs, labels = batch
    return jnp.mean((Net().apply({"params": params}, inputs)[:, 0] - labels) ** 2)


@pytest.fixture(scope="module")
def trained():
    """A flax model after five steps of optax, its batch, and the dense sharpness there."""
    batch = oracles.mlp_batch()
    params = Net().init(jax.random.key(0), batch[0][:1])["params"]
    optimizer = optax.sgd(0.05, momentum=0.9)

    @jax.jit
    def step(params, state):
        updates, state = optimizer.update(jax.grad(flax_loss)(params, batch), state, params)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for _ in range(5):
        params, state = step(params, state)
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    return params, batch, oracles.Dense.of(lambda theta: flax_loss(unravel(theta), batch)).sharpness(flat)


@pytest.mark.parametrize("micro_batch", [None, 7], ids=["whole", "7of40"])
def test_sharpness_of_a_flax_model_in_optax_training(trained, micro_batch):
    params, batch, expected = trained
    found = eoslib.sharpness(flax_loss, params, batch, tolerance=1e-5, micro_batch=micro_batch)
    np.testing.assert_allclose(found.value, expected, rtol=1e-9)  # the residual squared over the relative gap
    assert found.status is EigenStatus.CONVERGED
    assert found.status.message == "converged: every residual is within its tolerance"
    assert abs(float(found.value) - expected) <= float(found.error_bound) <= 2e-5 * expected
    assert jax.tree.structure(found.eigenvector) == jax.tree.structure(params)
    np.testing.assert_allclose(optax.tree.norm(found.eigenvector), 1, rtol=1e-9)


def quadratic(params):
    return jnp.sum(jnp.linspace(-3, 1, 200) * params["w"] ** 2) / 2


def test_a_sharpness_that_did_not_converge_says_so():
    found = eoslib.sharpness(quadratic, {"w": jnp.ones(200)}, max_products=3)
    assert found.status is EigenStatus.PRODUCT_LIMIT
    assert "limit on products was reached" in found.status.message
    assert found.products <= 4
    assert 1 - float(found.value) <= float(found.error_bound)  # what it holds is still true
    broken = eoslib.sharpness(lambda p: jnp.nan * quadratic(p), {"w": jnp.ones(200)})
    assert broken.status is EigenStatus.NOT_FINITE


def test_a_start_from_the_last_eigenvector_costs_two_products():
    start = {"w": jnp.zeros(200).at[-1].set(2.0)}
    found = eoslib.sharpness(quadratic, {"w": jnp.ones(200)}, start=start)
    assert found.products == 2  # one looks, one measures the residual afresh
    np.testing.assert_allclose(found.value, 1, rtol=1e-12)


@pytest.mark.parametrize(
    ("params", "options", "message"),
    [
        ({"w": jnp.arange(200)}, {}, r"floating-point arrays only, got params\['w'\]: int64\[200\]"),
        ({"w": jnp.ones(200)}, {"tolerance": 1e-30}, r"tolerance must lie in \[8\.9e-16, 1\) for float64, got 1e-30"),
        ({"w": jnp.ones(200)}, {"micro_batch": 3}, "micro_batch=3 needs a batch, got None"),
    ],
)
def test_bad_arguments_are_named(params, options, message):
    with pytest.raises(ValueError, match=message):
        eoslib.sharpness(quadratic, params, **options)
