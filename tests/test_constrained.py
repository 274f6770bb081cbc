"""The constrained step against exact projections, dense derivatives and closed forms; its statuses; a fuzz."""

import dataclasses
import functools
import itertools
import types

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eoslib.constrained import ConstrainedState, ConstrainedStatus, constrained_step
from eoslib.geometry import epsilon
from eoslib.objective import Objective
from eoslib.position import Position
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


# --- ordinary losses, far from every edge and beyond it ---------------------------------------------------------------


def status_of(record) -> ConstrainedStatus:
    return ConstrainedStatus(int(record.status))


def parabola(theta, constants):
    """½ θᵀ diag(curvatures) θ + slope·θ."""
    curvatures, slope = (c[0] for c in constants)
    return jnp.sum(curvatures * theta**2) / 2 + jnp.sum(slope * theta)


def on_parabola(curvatures, slope, theta, rate, u=None):
    theta = jnp.asarray(theta)
    objective = Objective.create(parabola, theta, (jnp.array([curvatures]), jnp.array([slope])))
    u = jnp.ones(theta.size) / theta.size**0.5 if u is None else u
    return stepped(objective, GradientDescent(rate), ConstrainedState.at(theta, u))


@pytest.mark.parametrize("curvature", [-3.0, 0.0, 1e-12, 0.1, 0.9, 1.1, 2.0, 19.0])
def test_along_u_the_move_is_newtons_where_gradient_descent_would_overshoot(curvature):
    """−min(η, 1/S) u·∇L for S > 0, −η u·∇L otherwise: never longer than gradient descent's, whatever S."""
    rate, slope, x = 1.0, 0.7, 0.5
    following, record = on_parabola([curvature, -5.0], [slope, 0.0], [x, 0.0], rate, jnp.array([1.0, 0.0]))
    longest = min(rate, 1 / curvature) if curvature > 0 else rate
    np.testing.assert_allclose(following.theta, [x - longest * (curvature * x + slope), 0], rtol=1e-14, atol=1e-14)
    np.testing.assert_allclose(record.geometry.sharpness, curvature, rtol=1e-14, atol=1e-14)
    assert status_of(record) == (ConstrainedStatus.BELOW if curvature <= 2 else ConstrainedStatus.NO_DIRECTION)


@pytest.mark.parametrize("slope", [0.7, 0.0])
def test_a_loss_without_curvature_is_descended(slope):
    """∇²L u = 0, and with it ∇S: plain gradient descent, step after step, and no NaN in what is carried."""
    theta = jnp.array([0.5, -1.0])
    objective = Objective.create(parabola, theta, (jnp.zeros((1, 2)), jnp.array([[slope, 0.0]])))
    state = ConstrainedState.at(theta, jnp.array([0.6, 0.8]))
    with jax.debug_nans(True):
        for t in range(3):
            np.testing.assert_allclose(state.theta, [0.5 - 0.1 * t * slope, -1], rtol=1e-14)
            state, record = stepped(objective, GradientDescent(0.1), state)
            assert status_of(record) == ConstrainedStatus.BELOW
            assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((state, record)))


def test_a_step_says_how_it_went(toy_objective):
    """Each status where it belongs, in words; ``active`` says whether the step was bent."""
    toy, up = oracles.Toy(alpha=2.0, beta=4.0), jnp.array([1.0, 0.0, 0.0])
    objective, rule = dataclasses.replace(toy_objective, batch=toy.constants), GradientDescent(toy.learning_rate)

    def at(theta, u=up, objective=objective, **options):
        return stepped(objective, rule, ConstrainedState.at(jnp.asarray(theta), u), **options)[1]

    assert status_of(at([0.0, -1.0, 0.0])) == ConstrainedStatus.BELOW
    bent = at([0.0, 0.0, 0.0])
    assert status_of(bent) == ConstrainedStatus.BENT
    assert bool(bent.active)
    assert bent.message == "the step is bent: without that the sharpness would pass the edge"
    assert status_of(at([0.0, jnp.nan, 0.0])) == ConstrainedStatus.NOT_FINITE
    flat = dataclasses.replace(objective, batch=(*toy.constants[:2], jnp.array([1e-12]), *toy.constants[3:]))
    higher = jax.tree.map(lambda c: c, flat.batch)
    higher = (0.5 * higher[0], *higher[1:])  # 2/η of the loss is twice the rule's
    lost = at([0.0, 0.0, 0.0], objective=dataclasses.replace(flat, batch=higher))
    assert status_of(lost) == ConstrainedStatus.NO_DIRECTION
    assert not bool(lost.active)
    # Repairs that cannot do it: the sharpness, quadratic in y, is lowest above the edge.
    bowl = Objective.create(lambda p: (101 + 1e3 * (p[1] - 0.01) ** 2) * p[0] ** 2 / 2, jnp.zeros(2))
    state = ConstrainedState.at(jnp.array([0.0, 0.1]), jnp.array([1.0, 0.0]))
    left = constrained_step(bowl, rule, state)[1]
    assert status_of(left) in (ConstrainedStatus.VIOLATED, ConstrainedStatus.NO_DIRECTION)
    assert float(left.geometry.sharpness) > 101
    # One solve is too short for a cold start in 200 dimensions with a thousandth of gap.
    wide = jnp.linspace(1.0, 40.0, 400)
    rough = Objective.create(lambda p: jnp.sum(wide * p**2) / 2, jnp.zeros(400))
    state = ConstrainedState.at(jnp.ones(400), jnp.asarray(np.random.default_rng(0).normal(size=400)))
    cold = constrained_step(rough, rule, state, eigen_tolerance=1e-13, tolerance=1e-13)[1]
    assert status_of(cold) == ConstrainedStatus.NOT_CONVERGED


def regression(theta, batch):
    inputs, targets = batch
    return jnp.mean((inputs @ theta - targets) ** 2)


def one_parameter(theta, constants):
    """A polynomial and a wave."""
    a, x = constants[0][0], theta[0]
    return a[0] * x + a[1] * x**2 + a[2] * x**3 + jnp.abs(a[3]) * x**4 + a[4] * jnp.cos(x)


def quadratic(theta, constants):
    return theta @ (constants[0][0] @ theta) / 2 + jnp.sum(constants[1][0] * theta)


def quartic(theta, constants):
    """A quadratic, a cubic, and (a·θ)⁴ + ‖θ‖⁴."""
    _, _, cubic, a = (c[0] for c in constants)
    wall = jnp.sum(a * theta) ** 4 + jnp.sum(theta**2) ** 2
    return quadratic(theta, constants) + theta @ (cubic @ theta) @ theta / 6 + wall / 24


def drawn(kind, seed: int) -> tuple[int, tuple]:
    """The size p of θ and random constants: also flat directions, negative curvature, and scales from 1e-2 to 10."""
    rng = np.random.default_rng(seed)
    scale = 10 ** rng.uniform(-2, 1)
    if kind is regression:
        return 3, (scale * rng.normal(size=(6, 3)), rng.normal(size=6))
    if kind is one_parameter:
        return 1, (scale * np.where(rng.random((1, 5)) < 0.4, 0, rng.normal(size=(1, 5))),)
    axes = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    curvatures = scale * np.where(rng.random(3) < 0.2, 0, rng.normal(size=3))
    constants = ((axes * curvatures @ axes.T)[None], rng.normal(size=(1, 3)))
    return 3, (*constants, oracles._symmetric(rng, 3, 3)[None], rng.normal(size=(1, 3)))[
        : 2 if kind is quadratic else 4
    ]


@functools.partial(jax.jit, static_argnames="kind")
def thirty(kind, theta, constants, rate, u):
    """Thirty constrained steps and as many of gradient descent: (θ†, dense Hessian there, status), θ."""
    objective = Objective.create(kind, theta, constants)

    def step(carry, _):
        state, theta = carry
        state, record = constrained_step(objective, GradientDescent(rate), state)
        hessian = jax.hessian(kind)(record.theta, constants)
        return (state, theta - rate * jax.grad(kind)(theta, constants)), (record.theta, hessian, record.status, theta)

    return jax.lax.scan(step, (ConstrainedState.at(theta, u), theta), None, length=30)[1]


@pytest.mark.parametrize("kind", [quadratic, regression, one_parameter, quartic])
@given(seed=st.integers(0, 2**32 - 1), log_rate=st.floats(-3, 0.7), start=st.sampled_from([0.0, 0.1, 1.0]))
def test_thirty_steps_on_any_loss(kind, seed, log_rate, start):
    """Finite where gradient descent is; S ≤ 2/η or a status says otherwise; below 1/η gradient descent itself."""
    size, constants = drawn(kind, seed)
    theta = jnp.asarray(start * np.random.default_rng(seed).normal(size=size))
    u = jnp.asarray(np.random.default_rng(1).normal(size=size))
    rate = 10**log_rate
    points, hessians, status, plain = map(np.asarray, thirty(kind, theta, constants, rate, u))
    well, finite = status <= ConstrainedStatus.BENT, np.isfinite(points).all(axis=1)
    assert (finite | ~well).all()
    # With several unstable directions, and said so, a trajectory on its own way may diverge where the other does not.
    excused = np.logical_or.accumulate(~well) if kind is quartic else False
    assert (finite | ~np.isfinite(plain).all(axis=1) | excused).all()
    sharpness = np.linalg.eigvalsh(np.where(np.isfinite(hessians), hessians, 0))[:, -1]
    assert (sharpness[well] <= 2 / rate * (1 + 2e-4)).all()  # the tolerance, and that of the eigenvector squared
    below = np.logical_and.accumulate(finite & (sharpness <= 0.9 / rate))
    scale = 1 + np.abs(plain[below]).max(initial=0)
    np.testing.assert_allclose(points[below], plain[below], rtol=0, atol=1e-9 * scale)


def test_many_starts_and_rates_side_by_side_under_debug_nans(ordinary):
    """Quadratics, whose ∇S vanishes, from many starts at rates on both sides of the edge: no NaN in unused branches."""
    objective = Objective.create(parabola, jnp.zeros(2), (jnp.array([[3.0, 1.0]]), jnp.zeros((1, 2))))
    starts = jnp.array(np.random.default_rng(0).normal(size=(3, 2)), jnp.float32).at[0].set(0)

    def ten(theta, rate):
        start = ConstrainedState.at(theta, jnp.array([0.6, 0.8]))
        return jax.lax.scan(lambda s, _: constrained_step(objective, GradientDescent(rate), s), start, None, length=10)

    with jax.debug_nans(True):
        over = jax.vmap(jax.vmap(ten, (None, 0)), (0, None))
        end, record = jax.jit(over)(starts, jnp.array([0.01, 0.3, 0.9]))
    assert end.theta.shape == (3, 3, 2)
    assert np.isfinite(end.theta).all()
    below, above = ConstrainedStatus.BELOW.message, ConstrainedStatus.NO_DIRECTION.message
    for words in record.message:
        assert words == [[below] * 10, [below] * 10, [above] * 10]


def test_a_step_is_compiled_once_for_a_loss_and_shapes():
    traced = []

    def loss(theta):
        traced.append(1)
        return jnp.sum(theta**4)

    objective = Objective.create(loss, jnp.ones(3))
    state = ConstrainedState.at(jnp.ones(3), jnp.array([0.0, 0.6, 0.8]))
    state, _ = constrained_step(objective, GradientDescent(0.1), state)
    count = len(traced)
    for rate in (0.1, 0.2):
        state, _ = constrained_step(objective, GradientDescent(rate), state)
    assert len(traced) == count
    with pytest.raises(ValueError, match="learning_rate must be positive and finite, got -1"):
        constrained_step(objective, GradientDescent(-1), state)


def test_a_position_is_stepped_like_the_vector_that_it_is(network, path):
    """θ† as a sum of two float32 vectors, S above the edge so that a repair moves it, too."""
    try:
        jax.eval_shape(lambda theta: theta, Position.of(jnp.ones(2, jnp.float32)))
    except TypeError:
        pytest.skip("the tests' type checks refuse the shape of a position")
    objective, _, _ = network
    low = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), objective.batch)
    objective = dataclasses.replace(objective, batch=low, dtype=jnp.dtype("float32"))
    geometry = path.records[-1].geometry
    off = jnp.asarray(path.points[-1]) + 0.1 * EDGE * geometry.perpendicular / geometry.beta
    ends = []
    for theta in (off, Position.of(off, jnp.float32)):
        state = ConstrainedState.at(theta, geometry.eigenvector.astype(jnp.float32))
        following, record = stepped(objective, RULE, state)
        assert type(following.theta) is type(record.theta) is type(theta)
        assert 1 <= int(record.rounds) <= 4
        ends.append(np.asarray(following.theta, np.float64))
    np.testing.assert_allclose(ends[1], ends[0], rtol=0, atol=1e-5 * np.abs(ends[0] - np.asarray(off)).max())
