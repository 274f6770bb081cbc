"""One step and whole runs of gradient descent: against closed forms and loops in NumPy, and its argument checks."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from eoslib.objective import Objective
from eoslib.rules import GradientDescent
from eoslib.trajectories import descent

CURVATURES = np.array([9.0, 3.0, 1.0, 0.25])
EPS = np.finfo(np.float64).eps


def test_gradient_descent_measures_where_it_stands_and_moves(toy_objective):
    toy = oracles.Toy(alpha=2.0, beta=4.0, lam=3.0, drift=0.5)
    objective = dataclasses.replace(toy_objective, batch=toy.constants)
    step = jax.jit(descent.gradient_descent_step, static_argnames="tolerance")
    theta, side = jnp.array([0.3, 0.4, 0.0]), jnp.array([1.0, 0.01, 0.0])
    state = descent.DescentState(theta, side, side * jnp.array([1.0, -1.0, 1.0]))
    for _ in range(20):
        theta = state.theta
        state, record = step(objective, GradientDescent(toy.learning_rate), state, tolerance=1e-6)
        np.testing.assert_allclose(record.loss, toy.loss(theta), rtol=1e-12)
        np.testing.assert_allclose(record.gradient, toy.gradient(theta), rtol=1e-12)
        np.testing.assert_allclose(record.sharpness, toy.sharpness(theta), rtol=1e-11)
        np.testing.assert_allclose(state.theta, theta - toy.learning_rate * toy.gradient(theta), rtol=1e-12)
        np.testing.assert_allclose(np.abs(state.newer @ toy.eigenvector(theta)), 1, rtol=1e-9)
        assert float(record.residual) <= 1e-6 * float(record.sharpness)
    assert np.abs(theta[0]) > 0.1  # it was on a wall all the way


# --- schedules --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def quadratic():
    """½ θᵀ diag(c) θ in float64, and a start."""
    objective = Objective.create(lambda p: jnp.sum(jnp.asarray(CURVATURES) * p**2) / 2, jnp.zeros(4))
    return objective, jnp.array([1.0, -2.0, 0.5, 3.0])


def by_hand(theta, rates):
    """Losses before each step, positions before each step and after the last."""
    positions = [np.asarray(theta)]
    for rate in rates:
        positions.append((1 - rate * CURVATURES) * positions[-1])
    positions = np.stack(positions)
    return (CURVATURES * positions**2).sum(axis=1)[:-1] / 2, positions


def test_a_schedule_is_followed_step_by_step(quadratic):
    objective, theta = quadratic
    rates = np.array([0.1, 0.2, 0.05, 0.22, 0.0, 0.1])
    run = descent.descend(objective, theta, rates, every=2)
    losses, positions = by_hand(theta, rates)
    # Six products of numbers of order one.
    np.testing.assert_allclose(run.loss, losses, rtol=100 * EPS)
    np.testing.assert_allclose(run.theta, positions[-1], atol=100 * EPS)
    np.testing.assert_allclose(run.kept, positions[[0, 2, 4]], atol=100 * EPS)
    np.testing.assert_array_equal(run.rate, rates)
    assert np.isnan(run.sharpness).all()
    assert np.asarray(run.products).tolist() == [0] * 6


def test_following_measures_the_sharpness_and_changes_nothing(quadratic):
    objective, theta = quadratic
    rates = np.full(40, 0.15)
    plain = descent.descend(objective, theta, rates)
    start = jnp.array([1.0, 0.3, 0.2, 0.1])
    run = descent.follow(objective, theta, start, rates)
    np.testing.assert_allclose(run.loss, plain.loss, rtol=100 * EPS)
    # The eigenvector is accepted at a residual of 1e-2 S; the sharpness is second order in it, over an eigengap of 2/3.
    np.testing.assert_allclose(run.sharpness, CURVATURES[0], rtol=2e-4)
    assert np.all(np.asarray(run.products) >= 1)
    assert run.kept.shape == (1, 4)


def test_relative_rates_are_multiples_of_one_over_the_sharpness(quadratic):
    objective, theta = quadratic
    run = descent.follow(objective, theta, jnp.array([1.0, 0, 0, 0]), np.array([1.0, 0.5, 1.5, 0.25]), relative=True)
    expected = np.array([1.0, 0.5, 1.5, 0.25]) / CURVATURES[0]
    np.testing.assert_allclose(run.rate, expected, rtol=10 * EPS)
    np.testing.assert_allclose(run.theta, by_hand(theta, expected)[1][-1], atol=100 * EPS)


def test_a_rate_above_two_over_the_sharpness_grows(quadratic):
    objective, theta = quadratic
    run = descent.descend(objective, theta, np.full(20, 2.1 / CURVATURES[0]))
    assert run.loss[-1] > run.loss[0]


def test_steps_to_a_level():
    loss = np.array([3.0, 2.0, 2.5, 1.0])
    assert descent.steps_to(loss, 3.0) == 0
    assert descent.steps_to(loss, 2.2) == 1
    assert descent.steps_to(loss, 1.0) == 3
    assert descent.steps_to(loss, 0.5) is None


@pytest.mark.parametrize(
    ("rates", "every", "message"),
    [
        (np.array([]), None, r"rates must have shape \(T,\) with T >= 1, .* got \(0,\)"),
        (np.ones((2, 2)), 1, r"rates must have shape \(T,\) .* got \(2, 2\)"),
        (np.ones(6), 4, "every must divide the number of steps 6, got 4"),
        (np.ones(6), 0, "every must divide the number of steps 6, got 0"),
    ],
)
def test_mistakes_are_named(quadratic, rates, every, message):
    with pytest.raises(ValueError, match=message):
        descent.descend(*quadratic, rates, every=every)


def test_gradients_of_a_higher_precision_keep_gradient_descent_on_its_path(network, edge):
    """Positions are exact to twice float32: what is lost in ∇L is most of the error, and float64 there removes it."""
    (objective, _, _), (theta, _) = network, edge
    given = oracles.mlp_loss, oracles.mlp_params(), oracles.mlp_batch()
    single, mixed = (Objective.create(*given, dtype=jnp.float32, gradient_dtype=d) for d in (None, jnp.float64))
    ends = [
        descent.descend(each, theta, GradientDescent(oracles.RATE), 40).theta for each in (objective, single, mixed)
    ]
    exact, plain, precise = map(np.asarray, ends)
    assert np.abs(precise - exact).max() < np.abs(plain - exact).max() / 5
