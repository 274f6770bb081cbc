"""One-step maps: flow against fine integration, constrained steps against exact projections, closed forms."""

import dataclasses
import inspect
import itertools
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest
import scipy.integrate

import eoslib
from eoslib import dynamics
from eoslib.geometry import LocalGeometry
from eoslib.objective import Objective

ETA = oracles.RATE
EDGE = 2 / ETA


@pytest.fixture(scope="module")
def toy_objective():
    return Objective.create(oracles.toy_loss, jnp.zeros(3), oracles.Toy().constants)


# --- gradient descent -------------------------------------------------------------------------------------------------


def test_gradient_descent_measures_where_it_stands_and_moves(toy_objective):
    toy = oracles.Toy(alpha=2.0, beta=4.0, lam=3.0, drift=0.5)
    objective = dataclasses.replace(toy_objective, batch=toy.constants)
    step = jax.jit(dynamics.gradient_descent_step, static_argnames="tolerance")
    theta, side = jnp.array([0.3, 0.4, 0.0]), jnp.array([1.0, 0.01, 0.0])
    state = dynamics.DescentState(theta, side, side * jnp.array([1.0, -1.0, 1.0]))
    for _ in range(20):
        theta = state.theta
        state, record = step(objective, state, toy.learning_rate, tolerance=1e-6)
        np.testing.assert_allclose(record.loss, toy.loss(theta), rtol=1e-12)
        np.testing.assert_allclose(record.gradient, toy.gradient(theta), rtol=1e-12)
        np.testing.assert_allclose(record.sharpness, toy.sharpness(theta), rtol=1e-11)
        np.testing.assert_allclose(state.theta, theta - toy.learning_rate * toy.gradient(theta), rtol=1e-12)
        np.testing.assert_allclose(np.abs(state.newer @ toy.eigenvector(theta)), 1, rtol=1e-9)
        assert float(record.residual) <= 1e-6 * float(record.sharpness)
    assert np.abs(theta[0]) > 0.1  # it was on a wall all the way


# --- gradient flow ----------------------------------------------------------------------------------------------------

# Without the tests' checks of types, so that one program serves every tolerance.
flow = jax.jit(inspect.unwrap(dynamics.gradient_flow))
DURATION = 6.0  # sixty steps of gradient descent, at the edge


@pytest.fixture(scope="module")
def fine(network, edge):
    """The flow from the edge on, integrated to near rounding by scipy."""
    dense = network[2]
    solution = scipy.integrate.solve_ivp(
        lambda _, z: -np.asarray(dense.gradient(jnp.asarray(z))), (0, DURATION), np.asarray(edge[0]),
        method="DOP853", rtol=1e-11, atol=1e-13,
    )  # fmt: skip
    return solution.y[:, -1]


def flow_to_end(objective, theta, u, tolerance, pieces=1):
    state, gradients = dynamics.flow_start(objective, theta, u), 0
    for _ in range(pieces):
        state, record = flow(objective, state, DURATION / pieces, tolerance=tolerance)
        gradients += int(record.gradients)
    return state, gradients


def test_the_flow_honours_its_tolerance(network, edge, fine):
    """Local errors are below tolerance × distance each step; the flow contracts, so that they add up to no more."""
    objective, _, dense = network
    travelled, errors, costs = np.linalg.norm(fine - edge[0]), [], []
    for tolerance in (1e-2, 1e-3, 1e-4):
        state, cost = flow_to_end(objective, *edge, tolerance)
        errors.append(np.linalg.norm(state.theta - fine) / travelled)
        costs.append(cost)
        np.testing.assert_allclose(state.loss, dense.loss(state.theta), rtol=1e-12)
        np.testing.assert_allclose(state.gradient, dense.gradient(state.theta), rtol=1e-9, atol=1e-12)
        assert errors[-1] <= 3 * tolerance
    assert errors[0] > 3 * errors[1] > 9 * errors[2]
    assert costs[0] < costs[1] < costs[2]


def test_a_flow_in_pieces_is_the_flow(network, edge, fine):
    """An interval's end cuts a step short without spoiling the next trial."""
    whole, cost = flow_to_end(network[0], *edge, 1e-3)
    pieces, cost_in_pieces = flow_to_end(network[0], *edge, 1e-3, pieces=7)
    travelled = np.linalg.norm(fine - edge[0])
    assert np.linalg.norm(pieces.theta - fine) <= 3e-3 * travelled
    assert np.linalg.norm(pieces.theta - whole.theta) <= 3e-3 * travelled
    assert cost_in_pieces <= 3 * cost


def test_stiffness_costs_a_square_root(toy_objective):
    """Stable on x' = −S x for any S, in closed form; the stages grow like √(duration × S), those of Euler like S."""
    costs = []
    for rate in (2e-2, 2e-4):  # S = 100, 10⁴
        toy = oracles.Toy(learning_rate=rate, drift=1.0)
        objective = dataclasses.replace(toy_objective, batch=toy.constants)
        state = dynamics.flow_start(objective, jnp.zeros(3), jnp.array([1.0, 0.0, 0.0]))
        state, record = flow(objective, state, 0.5, tolerance=1e-3)
        np.testing.assert_allclose(state.theta, [0, 0.5, 0.5], atol=1e-9)  # x = 0, y = ατ/√β, z = gτ
        np.testing.assert_allclose(record.sharpness, 2 / rate, rtol=1e-9)
        costs.append(int(record.gradients))
        assert int(record.rejected) == 0
    assert costs[1] <= 2 * np.sqrt(1.54 * 0.5 * 1.1 * 1e4)
    assert costs[1] <= 15 * costs[0]  # a hundred times the sharpness, ten times the stages


def test_a_flow_that_cannot_go_on_ends_as_not_a_number(toy_objective):
    state = dynamics.flow_start(toy_objective, jnp.zeros(3), jnp.array([1.0, 0.0, 0.0]))
    broken = dataclasses.replace(toy_objective, batch=tuple(jnp.nan * c for c in toy_objective.batch))
    end, _ = flow(broken, state, 0.5, tolerance=1e-3)
    assert np.isnan(end.loss)
    assert np.isnan(end.theta).all()


# --- the constrained step ---------------------------------------------------------------------------------------------

STEPS = 40
constrained = jax.jit(dynamics.constrained_step, static_argnames=("tolerance", "eigen_tolerance"))


DIRECTIONS = np.random.default_rng(0).normal(size=(2, 129))


def constrained_on_network(objective, state, **options):
    return constrained(objective, state, ETA, jnp.asarray(DIRECTIONS), **options)


@pytest.fixture(scope="module")
def path(network, edge):
    """The constrained trajectory of the network from the exact nearest point of M on: θ†, records and products."""
    objective, _, dense = network
    theta = jnp.asarray(oracles.nearest(dense, edge[0], EDGE))
    state, points, records, products = dynamics.ConstrainedState.at(theta, edge[1]), [], [], []
    for _ in range(STEPS):
        points.append(np.asarray(state.theta))
        state, record, product = constrained_on_network(objective, state)
        records.append(record)
        products.append(product)
    return types.SimpleNamespace(points=points, records=records, products=products)


def test_the_constrained_step_keeps_the_sharpness(network, path):
    dense = network[2]
    points, records = path.points, path.records
    for theta, record in zip(points[1::3], records[1::3]):
        values, vectors = dense.eigen(theta)
        assert abs(values[0] / EDGE - 1) <= 1e-4
        gradient = np.asarray(dense.gradient(theta))
        assert abs(vectors[0] @ gradient) <= 1e-3 * np.linalg.norm(gradient)
        assert bool(record.active)
        assert int(record.rounds) == 0  # one centre a step
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
    delta, epsilon = float(geometry.delta_squared) ** 0.5, float(geometry.epsilon(ETA))
    exact, misses = points[0], []
    for t in range(5):
        plain = exact - ETA * np.asarray(dense.gradient(exact))
        exact = oracles.nearest(dense, plain, EDGE)
        misses.append(np.linalg.norm(points[t + 1] - exact))
        assert np.linalg.norm(plain - exact) >= 0.3 * epsilon * delta  # what the constraint does in one step
    assert max(misses) <= 0.05 * epsilon * delta
    bends = [2 * record.correction / ETA for record in records]
    np.testing.assert_allclose(bends, [record.geometry.delta_squared for record in records], rtol=5e-3)


def test_products_come_with_the_step(network, path):
    dense = network[2]
    for theta, product in zip(path.points[:3], path.products):
        np.testing.assert_allclose(product, DIRECTIONS @ dense.hessian(theta), rtol=1e-9, atol=1e-10)


def test_a_violation_beyond_the_tolerance_is_restored_before_the_step(network, path):
    """S a tenth above 2/η: rounds of the projection come first, and the step starts on the edge."""
    objective, _, dense = network
    points, records = path.points, path.records
    geometry = records[-1].geometry
    off = jnp.asarray(points[-1]) + 0.1 * EDGE * geometry.perpendicular / geometry.beta
    assert dense.sharpness(off) >= 1.05 * EDGE
    _, record, _ = constrained_on_network(objective, dynamics.ConstrainedState.at(off, geometry.eigenvector))
    assert 1 <= int(record.rounds) <= 4
    assert dense.sharpness(record.theta) <= EDGE * (1 + 1e-4)
    # Where no eigenvector is refined, each centre costs one product, those before the last too.
    state = dynamics.ConstrainedState.at(off, geometry.eigenvector)
    _, record, _ = constrained_on_network(objective, state, eigen_tolerance=0.9)
    assert int(record.geometry.products) == 1 + int(record.rounds) > 1


def test_inside_the_set_the_constrained_step_is_gradient_descent(toy_objective):
    theta = jnp.array([0.0, -1.0, 0.0])
    toy = oracles.Toy(alpha=2.0, beta=4.0, drift=0.5)
    objective = dataclasses.replace(toy_objective, batch=toy.constants)
    state = dynamics.ConstrainedState.at(theta, jnp.array([1.0, 0.0, 0.0]))
    following, record, _ = constrained(objective, state, toy.learning_rate)
    np.testing.assert_allclose(following.theta, theta - toy.learning_rate * toy.gradient(theta), atol=1e-14)
    assert not bool(record.active)
    assert float(record.correction) == 0


@pytest.mark.parametrize("alpha", [2.0, -2.0])
def test_on_the_boundary_the_sign_of_alpha_decides(toy_objective, alpha):
    """α > 0: bent by ηα/β ∇S⊥, and y stays; α < 0: gradient descent leaves the edge by itself."""
    toy = oracles.Toy(alpha=alpha, beta=4.0, drift=0.5)
    objective = dataclasses.replace(toy_objective, batch=toy.constants)
    state = dynamics.ConstrainedState.at(jnp.zeros(3), jnp.array([1.0, 0.0, 0.0]))
    following, record, _ = constrained(objective, state, toy.learning_rate)
    assert bool(record.active) == (alpha > 0)
    y = 0.0 if alpha > 0 else toy.learning_rate * alpha / 2
    np.testing.assert_allclose(following.theta, [0, y, toy.learning_rate * 0.5], atol=1e-14)
    np.testing.assert_allclose(record.correction, max(toy.learning_rate * alpha / 4, 0), atol=1e-14)


# --- predictions ------------------------------------------------------------------------------------------------------


def test_the_predicted_step_is_its_formula():
    """P⊥(I − η∇²L)P⊥v + η∇S⊥(δ² − x²)/2 across u, −(1 + ηy)x along it, on a random geometry with S = 2/η."""
    rng, size, eta = np.random.default_rng(0), 6, 0.1
    basis = np.linalg.qr(rng.normal(size=(size, size)))[0]
    hessian = (basis * np.array([2 / eta, 5, 3, 0.5, -1, -2])) @ basis.T
    u, gradient, slope = basis[:, 0], 0.1 * rng.normal(size=size), rng.normal(size=size)
    gradient = gradient - (gradient @ u) * u
    across = slope - (slope @ u) * u
    delta_squared = -2 * gradient @ slope / (across @ across)
    zero = jnp.zeros(())
    geometry = LocalGeometry(
        zero + 3, *map(jnp.asarray, (gradient, zero + 2 / eta, u, hessian @ u, slope)), jnp.ones((), int)
    )
    record = dynamics.ConstrainedRecord(
        jnp.zeros(size), geometry, jnp.ones((), bool), jnp.asarray(eta * delta_squared / 2), jnp.zeros((), int)
    )
    carried, x = 0.3 * rng.normal(size=size), 0.7
    state = dynamics.PredictedState(jnp.asarray(carried), jnp.asarray(x))
    following, prediction = dynamics.predicted_step(state, record, jnp.asarray(hessian @ carried), eta)
    projector = np.eye(size) - np.outer(u, u)
    v = projector @ carried + x * u
    y = across @ v
    np.testing.assert_allclose(prediction.v, v, rtol=1e-12)
    np.testing.assert_allclose((prediction.x, prediction.y), (x, y), rtol=1e-12)
    np.testing.assert_allclose(prediction.loss, 3 + x**2 / eta, rtol=1e-12)
    np.testing.assert_allclose(prediction.sharpness, 2 / eta + y + (slope @ u) * x, rtol=1e-12)
    np.testing.assert_allclose(following.x, -(1 + eta * y) * x, rtol=1e-12)
    moved = projector @ (np.eye(size) - eta * hessian) @ projector @ v + eta * across * (delta_squared - x**2) / 2
    np.testing.assert_allclose(projector @ following.carried, moved, rtol=1e-10, atol=1e-12)


ALPHA, BETA, RATE = 9.0, 4.0, 0.02  # ε = .06: a cycle in some 75 steps
DELTA = (2 * ALPHA / BETA) ** 0.5


def bent_valley(theta, batch):
    """(2/η) s² log cosh(x/s) + ½√β y x² − (α/√β) y: the toy with walls that flatten at |x| ~ s."""
    (x, y), s = theta, batch[0]
    wall = s * s * (jnp.logaddexp(x / s, -x / s) - jnp.log(2.0))
    return 2 / RATE * wall + BETA**0.5 * y * x * x / 2 - ALPHA / BETA**0.5 * y


@jax.jit
def advance(objective, theta, constrained, predicted, generalized):
    """Gradient descent and both predictions, one step; returns the new state and v, v* and the generalized v."""
    vs = jnp.stack([predicted.carried, generalized])
    constrained, record, products = dynamics.constrained_step(objective, constrained, RATE, vs)
    predicted, cubic = dynamics.predicted_step(predicted, record, products[0], RATE)
    generalized, general = dynamics.generalized_predicted_step(
        objective, generalized, record.theta, record, products[1], RATE
    )
    v = theta - record.theta
    theta = theta - RATE * objective.gradient(theta)
    return (theta, constrained, predicted, generalized), (v, cubic.v, general.v, general.y, general.sharpness)


def follow(s, start, steps=150):
    objective = Objective.create(bent_valley, jnp.zeros(2), jnp.array([s]))
    v, u = jnp.asarray(start), jnp.array([1.0, 0.0])
    state = (v, dynamics.ConstrainedState.at(jnp.zeros(2), u), dynamics.PredictedState(v, v[0]), v)
    seen = []
    for _ in range(steps):
        state, record = advance(objective, *state)
        seen.append(jax.tree.map(np.asarray, record))
    return [np.array(series) for series in zip(*seen)]


def test_in_a_bent_valley_the_generalized_prediction_is_right_and_the_cubic_one_is_not():
    cubic_misses = []
    for s in (12 * DELTA, 6 * DELTA, 3 * DELTA):
        v, cubic, general, *_ = follow(s, [0.5 * DELTA, 0.0])
        assert np.ptp(np.abs(v[:, 0])) > 0.5 * DELTA  # it oscillates
        assert np.linalg.norm(general - v, axis=1).max() <= 1e-3 * DELTA
        cubic_misses.append(np.abs(np.abs(cubic[:, 0]) - np.abs(v[:, 0])).max() / DELTA)
    assert cubic_misses[0] > 0.05
    assert cubic_misses[0] < cubic_misses[1] < cubic_misses[2]


def test_a_bent_valley_hovers_above_the_edge():
    """Its 2-cycle has x = ±δ and y = 2/η − F′(δ)/δ > 0, where the cubic one has y = 0."""
    s = 3 * DELTA
    y = 2 / RATE * (1 - s * np.tanh(DELTA / s) / DELTA)
    v, _, general, general_y, sharpness = follow(s, [DELTA, y / BETA**0.5], steps=20)
    assert y > 1
    np.testing.assert_allclose(general[:, 0], DELTA * (-1.0) ** np.arange(20), rtol=1e-6)
    np.testing.assert_allclose(general_y, y, rtol=1e-6)
    np.testing.assert_allclose(sharpness, 2 / RATE + y, rtol=1e-6)
    np.testing.assert_allclose(v, general, atol=1e-7)


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

    same = dynamics.ConstrainedState.at(edge[0], jnp.asarray(state.eigenvector))
    losses = []
    for t in range(30):
        params, state, loss = step(params, state)
        losses.append(float(loss))
        same, record, _ = constrained_on_network(objective, same)
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
