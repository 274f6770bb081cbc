"""Both predictions against their formulas, and against gradient descent in a valley whose walls flatten."""

import jax
import jax.numpy as jnp
import numpy as np

from eoslib.constrained import ConstrainedRecord, ConstrainedState, constrained_step
from eoslib.geometry import LocalGeometry
from eoslib.objective import Objective
from eoslib.rules import GradientDescent
from eoslib.trajectories.prediction import PredictedState, generalized_predicted_step, predicted_step


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
    geometry = LocalGeometry.single(
        zero + 3, *map(jnp.asarray, (gradient, zero + 2 / eta, u, hessian @ u, slope)), jnp.ones((), int)
    )
    record = ConstrainedRecord(
        jnp.zeros(size), geometry, jnp.ones((), int), jnp.asarray([[eta * delta_squared / 2]]), zero, jnp.ones((1, 1)),
        jnp.zeros((), int), jnp.zeros((0, size)),
    )  # fmt: skip
    quadratic = Objective.create(lambda theta: theta @ jnp.asarray(hessian) @ theta / 2, jnp.zeros(size))
    carried, x = 0.3 * rng.normal(size=size), 0.7
    state = PredictedState(jnp.asarray(carried), jnp.asarray(x))
    following, prediction = predicted_step(
        quadratic, GradientDescent(eta), state, record, jnp.asarray(hessian @ carried)
    )
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
RULE = GradientDescent(RATE)
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
    constrained, record = constrained_step(objective, RULE, constrained, vs)
    predicted, cubic = predicted_step(objective, RULE, predicted, record, record.products[0])
    generalized, general = generalized_predicted_step(objective, RULE, generalized, record, record.products[1])
    v = theta - record.theta
    theta = RULE.update(theta, objective.gradient(theta))
    return (theta, constrained, predicted, generalized), (v, cubic.v, general.v, general.y, general.sharpness)


def follow(s, start, steps=150):
    objective = Objective.create(bent_valley, jnp.zeros(2), jnp.array([s]))
    v, u = jnp.asarray(start), jnp.array([1.0, 0.0])
    state = (v, ConstrainedState.at(jnp.zeros(2), u), PredictedState(v, v[0]), v)
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
