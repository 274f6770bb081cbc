"""The constrained step against exact projections, dense derivatives and closed forms; the same step through optax."""

import dataclasses
import itertools
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest

import eoslib
from eoslib.constrained import ConstrainedState, constrained_step
from eoslib.geometry import epsilon
from eoslib.objective import Objective
from eoslib.rules import GradientDescent

ETA = oracles.RATE
RULE = GradientDescent(ETA)
EDGE = RULE.edge
STEPS = 40
stepped = jax.jit(constrained_step, static_argnames=("tolerance", "eigen_tolerance"))


DIRECTIONS = np.random.default_rng(0).normal(size=(2, 129))


def step_on_network(objective, state, **options):
    return stepped(objective, RULE, state, jnp.asarray(DIRECTIONS), **options)


@pytest.fixture(scope="module")
def path(network, edge):
    """The constrained trajectory of the network from the exact nearest point of M on: θ†, records and products."""
    objective, _, dense = network
    theta = jnp.asarray(oracles.nearest(dense, edge[0], EDGE))
    state, points, records = ConstrainedState.at(theta, edge[1]), [], []
    for _ in range(STEPS):
        points.append(np.asarray(state.theta))
        state, record = step_on_network(objective, state)
        records.append(record)
    return types.SimpleNamespace(points=points, records=records)


def test_the_constrained_step_keeps_the_sharpness(network, path):
    dense = network[2]
    points, records = path.points, path.records
    for theta, record in zip(points[1::3], records[1::3]):
        values, vectors = dense.eigen(theta)
        assert abs(values[0] / EDGE - 1) <= 1e-4
        gradient = np.asarray(dense.gradient(theta))
        assert abs(vectors[0] @ gradient) <= 1e-3 * np.linalg.norm(gradient)
        assert bool(record.active)
        assert int(record.rounds) == 0  # one center a step
        assert int(record.geometry.products) == 1
        np.testing.assert_array_equal(record.theta, theta)
    assert (np.diff([dense.loss(theta) for theta in points]) < 0).all()
    signs = [a.geometry.eigenvector @ b.geometry.eigenvector for a, b in itertools.pairwise(records)]
    assert min(signs) > 0.9


def test_the_constrained_step_is_the_projected_gradient_step(network, path):
    """Each step of the exact trajectory, and the whole of it, to a fraction of εδ; without the bend it would be off."""
    dense = network[2]
    points, records = path.points, path.records
    geometry = records[0].geometry
    delta, small = float(geometry.delta_squared) ** 0.5, float(epsilon(geometry.alpha, ETA))
    exact, misses = points[0], []
    for t in range(5):
        plain = exact - ETA * np.asarray(dense.gradient(exact))
        exact = oracles.nearest(dense, plain, EDGE)
        misses.append(np.linalg.norm(points[t + 1] - exact))
        assert np.linalg.norm(plain - exact) >= 0.3 * small * delta  # what the constraint does in one step
    assert max(misses) <= 0.05 * small * delta
    bends = [2 * record.correction / ETA for record in records]
    np.testing.assert_allclose(bends, [record.geometry.delta_squared for record in records], rtol=5e-3)


def test_products_come_with_the_step(network, path):
    dense = network[2]
    for theta, record in zip(path.points[:3], path.records):
        np.testing.assert_allclose(record.products, DIRECTIONS @ dense.hessian(theta), rtol=1e-9, atol=1e-10)


def test_a_violation_beyond_the_tolerance_is_restored_before_the_step(network, path):
    """S a tenth above 2/η: rounds of the projection come first, and the step starts on the edge."""
    objective, _, dense = network
    points, records = path.points, path.records
    geometry = records[-1].geometry
    off = jnp.asarray(points[-1]) + 0.1 * EDGE * geometry.perpendicular / geometry.beta
    assert dense.sharpness(off) >= 1.05 * EDGE
    _, record = step_on_network(objective, ConstrainedState.at(off, geometry.eigenvector))
    assert 1 <= int(record.rounds) <= 4
    assert dense.sharpness(record.theta) <= EDGE * (1 + 1e-4)
    # Where no eigenvector is refined, each center costs one product, those before the last too.
    state = ConstrainedState.at(off, geometry.eigenvector)
    _, record = step_on_network(objective, state, eigen_tolerance=0.9)
    assert int(record.geometry.products) == 1 + int(record.rounds) > 1


def test_inside_the_set_the_constrained_step_is_gradient_descent(toy_objective):
    theta = jnp.array([0.0, -1.0, 0.0])
    toy = oracles.Toy(alpha=2.0, beta=4.0, drift=0.5)
    objective = dataclasses.replace(toy_objective, batch=toy.constants)
    state = ConstrainedState.at(theta, jnp.array([1.0, 0.0, 0.0]))
    following, record = stepped(objective, GradientDescent(toy.learning_rate), state)
    np.testing.assert_allclose(following.theta, theta - toy.learning_rate * toy.gradient(theta), atol=1e-14)
    assert not bool(record.active)
    assert float(record.correction) == 0


@pytest.mark.parametrize("alpha", [2.0, -2.0])
def test_on_the_boundary_the_sign_of_alpha_decides(toy_objective, alpha):
    """α > 0: bent by ηα/β ∇S⊥, and y stays; α < 0: gradient descent leaves the edge by itself."""
    toy = oracles.Toy(alpha=alpha, beta=4.0, drift=0.5)
    objective = dataclasses.replace(toy_objective, batch=toy.constants)
    state = ConstrainedState.at(jnp.zeros(3), jnp.array([1.0, 0.0, 0.0]))
    following, record = stepped(objective, GradientDescent(toy.learning_rate), state)
    assert bool(record.active) == (alpha > 0)
    y = 0.0 if alpha > 0 else toy.learning_rate * alpha / 2
    np.testing.assert_allclose(following.theta, [0, y, toy.learning_rate * 0.5], atol=1e-14)
    np.testing.assert_allclose(record.correction, max(toy.learning_rate * alpha / 4, 0), atol=1e-14)


# --- in anyone's training loop ----------------------------------------------------------------------------------------


class Net(nn.Module):
    """The small network of the oracles, as a flax module with the same parameters."""

    @nn.compact
    def __call__(self, x):
        x = nn.tanh(nn.Dense(oracles.WIDTH, name="hidden", param_dtype=jnp.float64)(x))
        return nn.Dense(1, name="out", param_dtype=jnp.float64)(x)[:, 0]


def test_constrained_training_with_flax_and_optax(network, edge):
    objective, _, dense = network
    inputs, labels = oracles.mlp_batch()

    def loss_fn(params):
        return jnp.mean((Net().apply({"params": params}, inputs) - labels) ** 2)

    transformation = eoslib.constrained_gradient_descent(ETA)
    params = objective.unravel(edge[0])
    state = transformation.init(params)

    @jax.jit
    def step(params, state):
        loss, grads = jax.value_and_grad(loss_fn)(params)
        updates, state = transformation.update(grads, state, params, loss_fn=loss_fn)
        return optax.apply_updates(params, updates), state, loss

    same = ConstrainedState.at(edge[0], jnp.asarray(state.eigenvector))
    losses = []
    for t in range(30):
        params, state, loss = step(params, state)
        losses.append(float(loss))
        same, record = step_on_network(objective, same)
        theta = np.asarray(objective.ravel(params))
        np.testing.assert_allclose(theta, same.theta, rtol=1e-9, atol=1e-11)
        np.testing.assert_allclose(state.sharpness, record.geometry.sharpness, rtol=1e-10)
        if t > 0:
            assert abs(dense.sharpness(theta) / EDGE - 1) <= 1e-4
    assert (np.diff(losses) < 0).all()
    assert bool(state.active)


def test_the_transformation_says_what_it_needs():
    for rate in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"learning_rate must be positive and finite, got {rate}"):
            eoslib.constrained_gradient_descent(rate)
    transformation, params = eoslib.constrained_gradient_descent(0.1), {"w": jnp.ones(3)}
    state = transformation.init(params)
    for options in ({}, {"params": params}, {"loss_fn": lambda p: p["w"].sum()}):
        with pytest.raises(ValueError, match=r"needs update\(grads, state, params, loss_fn=loss_fn\)"):
            transformation.update(params, state, **options)
    with pytest.raises(ValueError, match="floating-point arrays only"):
        transformation.init({"w": jnp.arange(3)})
    assert isinstance(transformation, optax.GradientTransformationExtraArgs)


def test_a_valley_whose_sharpness_does_not_change_is_followed():
    """On a quadratic ∇S = 0: nothing lowers the sharpness, and at the edge no quotient by β = 0 enters the path."""
    curvatures = jnp.array([3.0, 2.0, 1.0], jnp.float32)
    objective = Objective.create(lambda p: jnp.sum(curvatures * p**2) / 2, jnp.zeros(3, jnp.float32))
    rule, u = GradientDescent(2 / 2.9999), jnp.array([1.0, 0.0, 0.0], jnp.float32)
    state = ConstrainedState.at(jnp.array([0.3, 0.2, 0.1]), u)
    for _ in range(5):
        expected = state.theta[1:] * (1 - rule.learning_rate * curvatures[1:].astype(float))
        state, record = constrained_step(objective, rule, state)
        assert float(record.correction) == 0
        np.testing.assert_allclose(state.theta[1:], expected, rtol=1e-6)  # plain gradient descent across the valley
    assert abs(float(state.theta[0])) < 1e-6  # on its floor
