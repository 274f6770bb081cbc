"""Projection onto M = {S ≤ 2/η, ∇L·u = 0}: closed forms, the exact nearest point, edge cases, statuses in words."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eoslib.complementarity import solve
from eoslib.geometry import LocalGeometry, epsilon
from eoslib.objective import Objective
from eoslib.position import Position
from eoslib.rules import GradientDescent
from eoslib.stable_set import (
    ProjectionStatus,
    bend,
    floor_correction,
    project,
    restoring_move,
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
    geometry = LocalGeometry.single(zero, *map(jnp.asarray, parts), jnp.ones((), int))
    rule = GradientDescent(0.02)
    off, gradient = violation(geometry, rule), toy.gradient(theta)
    np.testing.assert_allclose(off.sharpness, toy.sharpness(theta) / EDGE - 1, rtol=1e-9)
    np.testing.assert_allclose(off.slope, abs(u @ gradient) / np.linalg.norm(gradient), rtol=1e-9)
    assert float(violation(geometry, GradientDescent(0.01)).sharpness) == 0  # 2/η = 200: inside
    move = np.asarray(bend(geometry, rule, solve(geometry.gram(rule), jnp.array([[-0.7]])).value))
    np.testing.assert_allclose(move @ slope, -0.7, rtol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(move), 0.7 / toy.beta_at(theta) ** 0.5, rtol=1e-9)  # the shortest
    np.testing.assert_allclose(move @ u, 0, atol=1e-12)
    np.testing.assert_array_equal(
        solve(geometry.gram(rule), jnp.array([[0.7]])).value, 0
    )  # the constraint is one-sided
    move = floor_correction(geometry, jnp.vdot(geometry.eigenvector, geometry.gradient)[None])
    np.testing.assert_allclose(move, -(u @ gradient) / toy.sharpness(theta) * u, rtol=1e-9, atol=1e-15)


# --- the nearest point ------------------------------------------------------------------------------------------------


QUARTIC_EDGE = 2 / oracles.POLYNOMIAL_RATE
AHEAD = np.eye(5)[0]  # u at the origin of the quartic


class Valley(NamedTuple):
    """The quartic valley on R⁵ at a given α."""

    objective: Objective
    dense: oracles.Dense
    delta: float
    small: float  # ε

    def project(self, point, **options):
        return projection(self.objective, jnp.asarray(point), jnp.asarray(AHEAD), oracles.POLYNOMIAL_RATE, **options)

    def nearest(self, point) -> np.ndarray:
        return oracles.nearest(self.dense, point, QUARTIC_EDGE)


@pytest.fixture(scope="module")
def valley():
    """Any valley of the family: α changes no program, a seed does."""
    beta = 1.0**2 + 0.6**2  # of ∇S = (1, 1, .6, 0, 0), across the first axis

    @functools.cache
    def of(seed):
        loss, pull = oracles.polynomial(seed)
        return Objective.create(loss, jnp.zeros(5), pull(1.0)), pull

    def at(alpha, seed=0):
        objective, pull = of(seed)
        objective, dense = dataclasses.replace(objective, batch=pull(alpha)), oracles.dense_polynomial(seed, alpha)
        return Valley(objective, dense, (2 * alpha / beta) ** 0.5, oracles.POLYNOMIAL_RATE * alpha**0.5)

    return at


@pytest.fixture(scope="module")
def two_valleys(valley):
    return {alpha: valley(alpha) for alpha in (1.0, 0.01)}


def published(dense, theta, edge, rounds=3):
    """Three rounds of the simultaneous linearised step, the published procedure."""
    for _ in range(rounds):
        values, vectors = dense.eigen(theta)
        u, gradient = vectors[0], np.asarray(dense.gradient(theta))
        slope = np.asarray(dense.derivative(theta, u))
        across = slope - (slope @ u) * u
        theta = theta - max(values[0] - edge, 0) * across / (across @ across) - (u @ gradient) / values[0] * u
    return theta


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("alpha", [10.0, 1.0, 0.1, 0.01])
@pytest.mark.parametrize("x", [-4.0, -1.0, 1.0, 4.0])
def test_projection_from_the_wall_is_the_nearest_point(valley, seed, alpha, x):
    """Within ε|x|/10 of εδ: the floor's normal is taken for λ_k ≪ S, where λ_2 is a quarter of it."""
    here = valley(alpha, seed)
    point, unit = x * here.delta * AHEAD, here.small * here.delta
    exact = here.nearest(point)
    if x == 4:
        starts = [np.zeros(5), point, 0.5 * here.delta * np.random.default_rng(seed).normal(size=5)]
        assert np.linalg.norm(oracles.optimized(here.dense, point, QUARTIC_EDGE, starts) - exact) <= 1e-4 * unit
    found = here.project(point, **EXACT)
    sharpness = here.dense.sharpness(exact) / QUARTIC_EDGE
    if abs(sharpness - 1) < 1e-12 or sharpness < 1 - 1e-7:  # what is left between them depends on the 1e-9
        assert status_of(found) is ProjectionStatus["INSIDE" if sharpness < 1 - 1e-7 else "ON_BOUNDARY"]
    # S is accepted at 1e-9 above 2/η.
    assert np.linalg.norm(found.theta - exact) <= 0.1 * here.small * abs(x) * unit + 2e-9 * QUARTIC_EDGE
    assert float(found.offset) <= 1e-4 * unit + 1e-10 * abs(x) * here.delta


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("x", [-4.0, -1.0, 1.0, 4.0])
def test_default_tolerances_leave_a_tenth_of_epsilon_delta_and_the_offset_says_so(valley, x, single):
    for alpha in (10.0, 1.0, 0.1):
        here = valley(alpha)
        point, unit = x * here.delta * AHEAD, here.small * here.delta
        if single:
            objective = Objective.create(here.objective.loss_fn, jnp.zeros(5), here.objective.batch, dtype=jnp.float32)
            here = here._replace(objective=objective)
        found = here.project(point)
        missed = np.linalg.norm(np.asarray(found.theta) - here.nearest(point))
        assert missed <= 0.1 * unit
        # But for what the tilt's approximation and the tolerance of S leave, the offset foretells it.
        assert missed <= 1.5 * float(found.offset) + 0.1 * here.small * abs(x) * unit + 1e-5 * QUARTIC_EDGE
        assert float(found.offset) <= 0.1 * unit


@given(
    st.floats(-2, 0.5), st.floats(-4, 4), st.lists(st.floats(-0.5, 0.5), min_size=4, max_size=4),
    st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_projection_is_feasible_idempotent_and_nothing_feasible_is_nearer(valley, power, x, across, seed):
    here = valley(10.0**power)
    point = here.delta * np.array([x, *across])
    found = here.project(point, **EXACT)
    theta = np.asarray(found.theta)
    (slope, excess), _ = oracles.conditions_of(here.dense, theta, QUARTIC_EDGE)
    assert status_of(found) in (ProjectionStatus.INSIDE, ProjectionStatus.ON_BOUNDARY)
    assert excess <= 2e-9 * QUARTIC_EDGE
    assert abs(slope) <= 2e-7 * np.linalg.norm(here.dense.gradient(theta)) + 1e-12
    again = projection(here.objective, found.theta, found.geometry.eigenvector, oracles.POLYNOMIAL_RATE, **EXACT)
    np.testing.assert_array_equal(again.theta, theta)
    assert float(again.offset) <= 1e-12
    rng = np.random.default_rng(seed)
    for size in (1e-3, 1e-2, 0.1, 1):
        other = published(here.dense, theta + size * here.delta * rng.normal(size=5), QUARTIC_EDGE, rounds=8)
        (slope, excess), _ = oracles.conditions_of(here.dense, other, QUARTIC_EDGE)
        if excess <= 1e-9 * QUARTIC_EDGE and abs(slope) <= 1e-7 * np.linalg.norm(here.dense.gradient(other)):
            slack = 0.1 * here.small**2 * abs(x) * here.delta + 2e-9 * QUARTIC_EDGE  # of the test above
            assert np.linalg.norm(point - theta) <= np.linalg.norm(point - other) + slack


@pytest.mark.parametrize("x", [-1.0, 0.0, 0.5, 1.0])
def test_distance_to_the_nearest_point_after_a_gradient_step_is_of_higher_order(two_valleys, x):
    """Off by a small part of εδ, and by a smaller one at an ε ten times smaller."""
    missed = []
    for here in two_valleys.values():
        point = x * here.delta * AHEAD - oracles.POLYNOMIAL_RATE * here.dense.gradient(np.zeros(5))
        found = here.project(point, **EXACT)
        assert found.violation.sharpness <= 1e-9
        missed.append(np.linalg.norm(found.theta - here.nearest(point)) / (here.small * here.delta))
    assert missed[0] <= 0.01
    assert missed[1] <= missed[0] / 5 + 1e-3  # S is accepted at 1e-9 of 2/η, here 4e-4 of εδ


@pytest.mark.parametrize("alpha", [1.0, 0.1])
def test_a_start_near_the_floor_costs_no_further_rounds(valley, alpha):
    """Where a track starts, after a step that passed the edge, one move suffices, as it would for any point of M."""
    here = valley(alpha)
    for part in (0.5, 1.0):
        found = here.project(-part * oracles.POLYNOMIAL_RATE * here.dense.gradient(np.zeros(5)))
        assert (int(found.rounds), status_of(found)) == (2, ProjectionStatus.ON_BOUNDARY)


@pytest.mark.parametrize("x", [0.5, 1.0])
def test_far_up_the_wall_newton_comes_first(two_valleys, x):
    """The simultaneous step of the published procedure lands a good part of δ away; near the floor it does not."""
    here = two_valleys[0.01]
    for start, least, most in ((x, 0.3, 1.5), (here.small, 0, here.small)):
        point = start * here.delta * AHEAD
        exact, three = here.nearest(point), published(here.dense, point, QUARTIC_EDGE)
        assert least * here.delta <= np.linalg.norm(three - exact) <= most * here.delta
        assert np.linalg.norm(here.project(point, **EXACT).theta - exact) <= 0.01 * here.small * here.delta


def test_where_the_floor_turns_too_fast_a_feasible_point_is_returned_and_said_to_be_no_more(valley):
    """ε = .6 and 4δ up the wall: u has turned by more than a radian."""
    here = valley(1000.0)
    point = 4 * here.delta * AHEAD
    found = here.project(point)
    assert status_of(found) is ProjectionStatus.FEASIBLE
    assert "farther from the nearest point than its tolerance" in found.message
    (slope, excess), _ = oracles.conditions_of(here.dense, found.theta, QUARTIC_EDGE)
    assert excess <= 2e-5 * QUARTIC_EDGE
    assert abs(slope) <= 2e-3 * np.linalg.norm(here.dense.gradient(found.theta))
    assert found.offset > 1e-3 * np.linalg.norm(point - found.theta)


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


@pytest.mark.parametrize("x", [-4.0, -1.0, 0.0, 1.0])
def test_projection_on_the_network_is_feasible_idempotent_and_near_the_nearest_point(boundary, x):
    """A gradient step from the boundary and x δ up the wall: off from the exact nearest point by ε|x| εδ at most."""
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
    assert np.linalg.norm(found.theta - exact) <= (abs(x) + 0.1) * small**2 * delta
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
    assert isinstance(found.theta, Position)  # a float64 θ keeps what it has beyond the derivatives' precision
    assert status_of(found) in (ProjectionStatus.INSIDE, ProjectionStatus.ON_BOUNDARY)
    found = np.asarray(found.theta)
    assert dense.sharpness(found) <= NETWORK_EDGE * (1 + 2e-5)  # twice the default tolerance
    # The linearised move leaves an error of second order in the .1 of 20.
    np.testing.assert_allclose(dense.sharpness(found), NETWORK_EDGE, rtol=(0.1 / 20) ** 2 * 10)


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
    assert words in found.message
    np.testing.assert_array_equal(found.theta, [0.0, 3.0])  # nothing is moved that cannot be helped
    if status != "NOT_FINITE":  # where u itself may be none
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
        (1.0, {"eigen_tolerance": 0.0}, "eigen_tolerance must be positive, got 0.0"),
    ],
)
def test_bad_arguments_are_named(rate, options, message):
    with pytest.raises(ValueError, match=message):
        one_off(lambda t: t @ t, [1.0, 1.0], [1.0, 0.1], rate, **options)


def test_a_start_of_another_length_is_named():
    with pytest.raises(ValueError, match=r"start must have shape \(2,\), or \(k, 2\) with 1 <= k <= p/3, got \(3,\)"):
        one_off(lambda t: t @ t, [1.0, 1.0], [1.0, 0.1, 0.0])


def test_a_multiplier_beyond_the_largest_number_is_none():
    """β = 1e-38 in float32: c = excess/β would overflow, and c ∇S⊥ hold inf · 0."""
    u, tiny = jnp.array([[1, 0, 0], [0, 1.5e-19, 0]], jnp.float32)  # u and ∇S
    geometry = LocalGeometry.single(u[1], u * 0, u[0] * 300, u, u * 300, tiny, jnp.ones((), int))
    assert float(geometry.beta) > 0
    np.testing.assert_array_equal(restoring_move(geometry, GradientDescent(0.02)), 0)


# --- under ordinary use -----------------------------------------------------------------------------------------------


def counted(traces):
    """The toy's loss; each trace of it is counted."""

    def loss(params, constants):
        traces.append(1)
        return oracles.toy_loss(params, constants)

    return loss


def ordinary_toy(loss=oracles.toy_loss) -> Objective:
    constants = [jnp.asarray(c, jnp.float32) for c in oracles.Toy(alpha=2.0, beta=4.0, drift=0.5).constants]
    return Objective.create(loss, jnp.zeros(3), tuple(constants))


def test_a_second_call_compiles_nothing(ordinary):
    traces = []
    objective = ordinary_toy(counted(traces))
    project(objective, jnp.array([0.1, 0.2, 0.3]), jnp.array([1.0, 0.1, 0.0]), 0.02)
    before = len(traces)
    assert before > 0
    project(objective, jnp.array([0.2, 0.1, 0.3]), jnp.array([1.0, 0.0, 0.0]), 0.03)
    project(objective, np.array([0.2, 0.1, 0.3], np.float32), np.array([1.0, 0.0, 0.0]), GradientDescent(0.01))
    assert len(traces) == before


def test_a_float64_point_of_numpy_keeps_its_precision_in_32_bit_mode(ordinary):
    objective = ordinary_toy()
    theta = np.array([0.0, -0.5, 1 / 3])  # a point of the set
    found = project(objective, theta, np.array([1.0, 0.0, 0.0]), 0.02)
    assert found.message == ProjectionStatus.INSIDE.message
    np.testing.assert_allclose(np.asarray(found.theta), theta, rtol=2.0**-47)  # two float32: 48 bits
    found = project(objective, theta + np.array([0.3, 1.0, 0]), np.array([1.0, 0.0, 0.0]), 0.02)
    assert found.message == ProjectionStatus.ON_BOUNDARY.message
    assert isinstance(found.theta, Position)
    assert float(found.violation.sharpness) <= 1e-5


def test_projection_under_jit_vmap_and_scan_is_the_same(ordinary):
    objective, u = ordinary_toy(), jnp.array([1.0, 0.1, 0.0])
    points = jnp.array([[0.1, 0.2, 0.3], [-0.4, 0.3, 0.0], [0.0, -0.5, 0.1]])
    eager = [project(objective, point, u, 0.02) for point in points]
    look = lambda point: project(objective, point, u, 0.02)  # noqa: E731
    mapped = jax.vmap(look)(points)
    scanned = jax.lax.scan(lambda carry, point: (carry, look(point)), 0, points)[1]
    jitted = [jax.jit(look)(point) for point in points]
    rates = jax.vmap(lambda rate: project(objective, points[0], u, rate))(jnp.array([0.02, 0.01]))
    for k, one in enumerate(eager):
        for other in (jax.tree.map(lambda leaf, k=k: leaf[k], found) for found in (mapped, scanned)):
            np.testing.assert_allclose(other.theta, one.theta, atol=1e-6)  # rounding of float32, of θ ~ 1
            assert int(other.status) == int(one.status)
        np.testing.assert_allclose(jitted[k].theta, one.theta, atol=1e-6)
    assert mapped.message == [one.message for one in eager]
    np.testing.assert_allclose(rates.theta[0], eager[0].theta, atol=1e-6)


@pytest.mark.parametrize(
    ("loss", "theta", "status"),
    [
        (lambda t: 2 * t[0] ** 2, [1.0, 3.0], "NO_DIRECTION"),  # ∇S = 0, up the wall: Newton to the floor first
        (lambda t: t[0] ** 2 / 4, [1.0, 3.0], "INSIDE"),  # β = 0 below the edge
        (lambda t: t[0] ** 2 / 4, [0.0, 3.0], "INSIDE"),  # and ∇L = 0
        (lambda t: (2 + t[1]) * t[0] ** 2 / 2, [0.0, 1.0], "ON_BOUNDARY"),  # ∇L = 0 above the edge, and below it
        (lambda t: t[0] - t @ t, [1.0, 3.0], "NO_VALLEY"),
        (lambda t: 0 * t[0], [1.0, 3.0], "INSIDE"),  # nothing at all
        (lambda t: t[0] + t[1], [1.0, 3.0], "NO_VALLEY"),  # no curvature
    ],
)  # fmt: skip
def test_no_nan_is_made_on_the_way(ordinary, loss, theta, status):
    with jax.debug_nans(True):
        found = project(Objective.create(loss, jnp.zeros(2)), jnp.array(theta), jnp.array([1.0, 0.1]), 1.0)
    assert found.message == ProjectionStatus[status].message
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found._replace(geometry=())))


def test_a_loss_of_one_parameter_is_projected(ordinary):
    objective = Objective.create(lambda t: 0.5 * t[0] ** 2 + t[0], jnp.zeros(1))
    found = project(objective, jnp.array([2.0]), jnp.array([1.0]), 1.0)
    assert found.message == ProjectionStatus.INSIDE.message
    np.testing.assert_allclose(found.theta, [-1.0], rtol=1e-6)
