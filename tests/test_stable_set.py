"""Projection onto M = {S ≤ 2/η, ∇L·u = 0}: closed forms, the exact nearest point, edge cases, statuses in words."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eoslib.geometry import LocalGeometry, epsilon
from eoslib.objective import Objective
from eoslib.rules import GradientDescent
from eoslib.stable_set import (
    ProjectionStatus,
    floor_correction,
    project,
    restoring_move,
    sharpness_multiplier,
    violation,
)

OPTIONS = ("tolerance", "slope_tolerance", "eigen_tolerance", "max_rounds")
projection = jax.jit(project, static_argnames=OPTIONS)

EXACT = dict(tolerance=1e-9, slope_tolerance=1e-7, eigen_tolerance=1e-10)
UP = jnp.array([1.0, 0.0, 0.0])  # the toy's u where x = 0
EDGE = 100.0  # the toy's 2/η


def status_of(found) -> ProjectionStatus:
    return ProjectionStatus(int(found.status))


# --- closed forms -----------------------------------------------------------------------------------------------------


@given(
    st.floats(-3, 3).filter(lambda a: abs(a) > 0.1), st.floats(0.2, 5), st.floats(-2, 2), st.floats(-1, 1),
    st.floats(-2, 2),
)  # fmt: skip
def test_projection_on_the_toy(toy_objective, alpha, beta, drift, x, y):
    """Near x = 0 the toy's M is {x = 0, y ≤ 0}, whatever the sign of α: feasible, nearest, and idempotent."""
    toy = oracles.Toy(alpha=alpha, beta=beta, drift=drift)
    objective, theta = dataclasses.replace(toy_objective, batch=toy.constants), jnp.array([x, y, 0.3])
    found = projection(objective, theta, UP, toy.learning_rate, **EXACT)
    assert status_of(found) in (ProjectionStatus.INSIDE, ProjectionStatus.ON_BOUNDARY)
    there = np.asarray(found.theta)
    assert abs(there[0]) <= 1e-7 * np.linalg.norm(toy.gradient(there)) / 90  # slope tolerance × ‖∇L‖ / S
    assert there[1] <= 1e-9 * EDGE / beta**0.5 + 1e-12  # tolerance of S over |∇S|
    assert there[2] == 0.3
    # The Newton move along u leaves the x axis by the angle √β x/S, a second-order effect.
    np.testing.assert_allclose(there[1], min(y, 0.0), atol=2 * beta**0.5 * x**2 / 90 + 1e-6)
    excess = max(float(found.geometry.sharpness) / EDGE - 1, 0)
    assert float(found.violation.sharpness) == pytest.approx(excess, abs=2 * np.finfo(np.float64).eps)  # one product
    assert float(found.violation.sharpness) <= 1e-9
    again = projection(objective, found.theta, found.geometry.eigenvector, toy.learning_rate, **EXACT)
    np.testing.assert_array_equal(again.theta, found.theta)
    assert (int(again.rounds), status_of(again)) == (1, status_of(found))


@pytest.mark.parametrize(("y", "status"), [(-0.5, ProjectionStatus.INSIDE), (0.0, ProjectionStatus.ON_BOUNDARY)])
def test_a_point_of_the_set_is_returned_unchanged(toy_objective, y, status):
    theta = jnp.array([0.0, y, 7.0])
    found = projection(toy_objective, theta, UP, 0.02, **EXACT)
    np.testing.assert_array_equal(found.theta, theta)
    assert (int(found.rounds), status_of(found)) == (1, status)


def test_violation_and_corrections_have_their_closed_forms():
    toy, theta = oracles.Toy(alpha=0.5, beta=4.0), jnp.array([0.2, 0.4, 0.0])
    u, slope, zero = toy.eigenvector(theta), toy.sharpness_gradient(theta), jnp.zeros(())
    parts = (toy.gradient(theta), toy.sharpness(theta), u, toy.sharpness(theta) * u, slope)
    geometry = LocalGeometry(zero, *map(jnp.asarray, parts), jnp.ones((), int))
    off, gradient = violation(geometry, GradientDescent(0.02)), toy.gradient(theta)
    np.testing.assert_allclose(off.sharpness, toy.sharpness(theta) / EDGE - 1, rtol=1e-9)
    np.testing.assert_allclose(off.slope, abs(u @ gradient) / np.linalg.norm(gradient), rtol=1e-9)
    assert float(violation(geometry, GradientDescent(0.01)).sharpness) == 0  # 2/η = 200: inside
    move = np.asarray(-sharpness_multiplier(geometry, jnp.array(0.7)) * geometry.perpendicular)
    np.testing.assert_allclose(move @ slope, -0.7, rtol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(move), 0.7 / toy.beta_at(theta) ** 0.5, rtol=1e-9)  # the shortest
    np.testing.assert_allclose(move @ u, 0, atol=1e-12)
    np.testing.assert_array_equal(sharpness_multiplier(geometry, jnp.array(-0.7)), 0)  # the constraint is one-sided
    move = floor_correction(geometry, jnp.vdot(geometry.eigenvector, geometry.gradient))
    np.testing.assert_allclose(move, -(u @ gradient) / toy.sharpness(theta) * u, rtol=1e-9, atol=1e-15)


# --- the nearest point ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def valley():
    """The quartic valley on R⁵ at a given α: the objective, its dense derivatives, δ and ε."""
    loss, pull = oracles.polynomial()
    objective = Objective.create(loss, jnp.zeros(5), pull(1.0))

    def at(alpha):
        constants, rate = pull(alpha), oracles.POLYNOMIAL_RATE
        dense = oracles.Dense.of(lambda theta: loss(theta, constants))
        beta = 1.0**2 + 0.6**2  # of ∇S = (1, 1, .6, 0, 0), across the first axis
        return dataclasses.replace(objective, batch=constants), dense, (2 * alpha / beta) ** 0.5, rate * alpha**0.5

    return at


@pytest.fixture(scope="module")
def two_valleys(valley):
    return {alpha: valley(alpha) for alpha in (1.0, 0.01)}


def published(dense, theta, edge):
    """Three rounds of the simultaneous linearised step, the published procedure."""
    for _ in range(3):
        values, vectors = dense.eigen(theta)
        u, gradient = vectors[0], np.asarray(dense.gradient(theta))
        slope = np.asarray(dense.derivative(theta, u))
        across = slope - (slope @ u) * u
        theta = theta - max(values[0] - edge, 0) * across / (across @ across) - (u @ gradient) / values[0] * u
    return theta


def misses(two_valleys, x, step):
    """Distances to the nearest point, in units of εδ, from x δ up the wall after ``step`` gradient steps."""
    edge, origin, found = 2 / oracles.POLYNOMIAL_RATE, jnp.zeros(5), []
    for objective, dense, delta, small in two_valleys.values():
        point = origin.at[0].set(x * delta) - step * oracles.POLYNOMIAL_RATE * dense.gradient(origin)
        there = projection(objective, point, jnp.eye(5)[0], oracles.POLYNOMIAL_RATE, **EXACT)
        assert there.violation.sharpness <= 1e-9
        found.append(np.linalg.norm(there.theta - oracles.nearest(dense, point, edge)) / (small * delta))
    return found


@pytest.mark.parametrize("x", [-1.0, 0.5, 1.0])
def test_distance_to_the_nearest_point_after_a_gradient_step_is_of_higher_order(two_valleys, x):
    """Off by a small part of εδ, and by a smaller one at an ε ten times smaller."""
    large, small = misses(two_valleys, x, step=1)
    assert large <= 0.1
    assert small <= large / 5


@pytest.mark.parametrize("x", [-1.0, 1.0, 2.0])
def test_distance_to_the_nearest_point_far_up_the_wall_is_of_order_epsilon_delta(two_valleys, x):
    """There u is turned by x√β/S: Newton along it goes off by x²√β/S = (x/δ)² εδ/√2, towards lower S."""
    large, small = misses(two_valleys, x, step=0)
    assert large <= 1.2 * x**2 / 2**0.5
    np.testing.assert_allclose(small, x**2 / 2**0.5, rtol=0.1)


@pytest.mark.parametrize("x", [0.5, 1.0])
def test_far_up_the_wall_newton_comes_first(two_valleys, x):
    """The simultaneous step of the published procedure lands a good part of δ away; near the floor it does not."""
    objective, dense, delta, small = two_valleys[0.01]
    edge = 2 / oracles.POLYNOMIAL_RATE
    for start, least, most in ((x, 0.3, 1.5), (small, 0, small)):
        point = jnp.zeros(5).at[0].set(start * delta)
        exact = oracles.nearest(dense, point, edge)
        assert least * delta <= np.linalg.norm(published(dense, np.asarray(point), edge) - exact) <= most * delta
        found = projection(objective, point, jnp.eye(5)[0], oracles.POLYNOMIAL_RATE, **EXACT)
        assert np.linalg.norm(found.theta - exact) <= small * delta


# --- the network ------------------------------------------------------------------------------------------------------

NETWORK_EDGE = 2 / oracles.RATE


@pytest.fixture(scope="module")
def boundary(network, edge):
    """A point on the boundary of the network's M, and its projection: (objective, Dense, θ, Projection)."""
    objective, _, dense = network
    theta, u = edge
    slope = np.asarray(dense.derivative(theta, u))
    theta = jnp.asarray(oracles.nearest(dense, theta + 0.1 * slope / (slope @ slope), NETWORK_EDGE))
    return objective, dense, theta, projection(objective, theta, u, oracles.RATE, **EXACT)


def test_a_point_of_the_boundary_is_returned_unchanged_on_the_network(boundary):
    _, dense, theta, found = boundary
    np.testing.assert_allclose(dense.sharpness(theta), NETWORK_EDGE, rtol=1e-9)
    np.testing.assert_array_equal(found.theta, theta)
    assert (int(found.rounds), status_of(found)) == (1, ProjectionStatus.ON_BOUNDARY)


@pytest.mark.parametrize("x", [-1.0, 0.0, 1.0])
def test_projection_on_the_network_is_feasible_idempotent_and_near_the_nearest_point(boundary, x):
    """A gradient step from the boundary and x δ up the wall: off from the exact nearest point by a part of εδ."""
    objective, dense, theta, on = boundary
    delta, small = float(on.geometry.delta_squared) ** 0.5, float(epsilon(on.geometry.alpha, oracles.RATE))
    point = theta + x * delta * on.geometry.eigenvector - oracles.RATE * on.geometry.gradient
    found = projection(objective, point, on.geometry.eigenvector, oracles.RATE, **EXACT)
    assert status_of(found) in (ProjectionStatus.INSIDE, ProjectionStatus.ON_BOUNDARY)
    values, vectors = dense.eigen(found.theta)
    gradient = np.asarray(dense.gradient(found.theta))
    assert values[0] <= NETWORK_EDGE * (1 + 2e-9)
    assert abs(vectors[0] @ gradient) <= 2e-7 * np.linalg.norm(gradient)
    exact = oracles.nearest(dense, point, NETWORK_EDGE)
    assert np.linalg.norm(found.theta - exact) <= 0.5 * small * delta < 0.5 * np.linalg.norm(exact - theta)
    again = projection(objective, found.theta, found.geometry.eigenvector, oracles.RATE, **EXACT)
    np.testing.assert_array_equal(again.theta, found.theta)
    assert (int(again.rounds), status_of(again)) == (1, status_of(found))


def test_below_the_edge_only_the_floor_is_sought(network):
    objective, theta, dense = network
    assert dense.sharpness(theta) < 0.5 * NETWORK_EDGE
    found = projection(objective, theta, jnp.ones_like(theta), oracles.RATE, **EXACT)
    assert status_of(found) is ProjectionStatus.INSIDE
    assert float(found.violation.sharpness) == 0
    values, vectors = dense.eigen(found.theta)
    gradient = np.asarray(dense.gradient(found.theta))
    assert values[0] < NETWORK_EDGE
    assert abs(vectors[0] @ gradient) <= 2e-7 * np.linalg.norm(gradient)
    assert np.linalg.norm(found.theta - theta) > 1e-3  # it was not on the floor


def test_derivatives_in_single_precision_suffice(boundary):
    _, dense, theta, on = boundary
    single = Objective.create(oracles.mlp_loss, oracles.mlp_params(), oracles.mlp_batch(), dtype=jnp.float32)
    point = theta + 0.1 * on.geometry.perpendicular / on.geometry.beta  # S raised by .1
    found = projection(single, point, on.geometry.eigenvector.astype(jnp.float32), oracles.RATE)
    assert found.theta.dtype == jnp.float64
    assert status_of(found) in (ProjectionStatus.INSIDE, ProjectionStatus.ON_BOUNDARY)
    assert dense.sharpness(found.theta) <= NETWORK_EDGE * (1 + 2e-5)  # twice the default tolerance
    # The linearised move leaves an error of second order in the .1 of 20.
    np.testing.assert_allclose(dense.sharpness(found.theta), NETWORK_EDGE, rtol=(0.1 / 20) ** 2 * 10)


# --- where it cannot --------------------------------------------------------------------------------------------------


def one_off(loss, theta, start, rate=1.0, **options):
    return project(Objective.create(loss, jnp.zeros(2)), jnp.array(theta), jnp.array(start), rate, **options)


@pytest.mark.parametrize(
    ("loss", "status", "words"),
    [
        (lambda t: 2 * t[0] ** 2, "NO_DIRECTION", "no direction lowers the sharpness"),  # ∇S⊥ = 0
        (lambda t: t[0] - t @ t, "NO_VALLEY", "there is no valley"),
        (lambda t: t[0] ** 2 * jnp.nan, "NOT_FINITE", "not finite"),
        (lambda t: t[0] ** 2 / 2, "INSIDE", "the constraint is inactive"),
    ],
)
def test_a_projection_ends_in_words(loss, status, words):
    found = one_off(loss, [0.0, 3.0], [1.0, 0.1])
    assert status_of(found) is ProjectionStatus[status]
    assert words in status_of(found).message
    np.testing.assert_array_equal(found.theta, [0.0, 3.0])  # nothing is moved that cannot be helped
    assert np.isfinite(np.asarray(restoring_move(found.geometry, GradientDescent(1.0)))).all()


def test_a_projection_stopped_too_early_says_so(toy_objective):
    theta = jnp.array([0.5, 0.5, 0.0])
    found = projection(toy_objective, theta, UP, 0.02, max_rounds=2, **EXACT)
    assert status_of(found) is ProjectionStatus.ROUND_LIMIT
    assert "exceeds the tolerance" in status_of(found).message
    assert int(found.rounds) == 2
    off = found.violation
    assert max(float(off.sharpness) / 1e-9, float(off.slope) / 1e-7) > 1  # and it does


@pytest.mark.parametrize(
    ("rate", "options", "message"),
    [
        (0.0, {}, "learning_rate must be positive and finite, got 0.0"),
        (-0.1, {}, "got -0.1"),
        (float("nan"), {}, "got nan"),
        (float("inf"), {}, "got inf"),
        (1.0, {"tolerance": 0.0}, "tolerance must be positive, got 0.0"),
        (1.0, {"slope_tolerance": -1.0}, "slope_tolerance must be positive, got -1.0"),
        (1.0, {"max_rounds": 0}, "max_rounds must be positive, got 0"),
        (1.0, {"eigen_tolerance": 0.0}, "got 0.0"),
    ],
)
def test_bad_arguments_are_named(rate, options, message):
    with pytest.raises(ValueError, match=message):
        one_off(lambda t: t @ t, [1.0, 1.0], [1.0, 0.1], rate, **options)
