"""The whole chain on one small network in float64, against dense derivatives; and its bad inputs."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.integrate
import scipy.sparse.linalg
from hypothesis import given
from hypothesis import strategies as st

import eoslib
from eoslib import dynamics, reduced, stable_set, tracking
from eoslib.eigen import EigenStatus, leading_eigenpair, leading_eigenpairs
from eoslib.geometry import local_geometry
from eoslib.objective import Objective
from eoslib.stable_set import ProjectionStatus

ETA = 0.2
EPS = np.finfo(np.float64).eps


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(1, param_dtype=jnp.float64)(nn.tanh(nn.Dense(12, param_dtype=jnp.float64)(x)))


def loss_fn(params, batch):
    x, y = batch
    return jnp.mean((Net().apply({"params": params}, x)[:, 0] - y) ** 2)


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(30, 5))
    y = np.sign(rng.normal(size=30))
    params = Net().init(jax.random.key(0), x[:1])["params"]
    return params, (x, y)


@pytest.fixture(scope="module")
def objective(problem):
    return Objective.create(loss_fn, *problem)


@pytest.fixture(scope="module")
def dense(problem, objective):
    """Loss, gradient, Hessian, largest eigenvalue and its gradient, from dense automatic differentiation."""

    def loss(theta):
        return loss_fn(objective.unravel(theta), jax.tree.map(jnp.asarray, problem[1]))

    hessian = jax.jit(jax.hessian(loss))

    def largest(theta):
        return np.linalg.eigvalsh(np.asarray(hessian(theta)))[-1]

    return loss, jax.jit(jax.grad(loss)), hessian, largest


@pytest.fixture(scope="module")
def edge(problem, objective):
    theta = objective.ravel(problem[0])
    return tracking.find_instability(objective, theta, ETA, max_steps=20_000, progress=False)


def test_derivatives_against_differences(problem, objective, dense):
    loss, _, hessian, _ = dense
    theta = objective.ravel(problem[0])
    u = jax.random.normal(jax.random.key(1), theta.shape, theta.dtype)
    v = jax.random.normal(jax.random.key(2), theta.shape, theta.dtype)
    cubic, products = objective.cubic_and_hvps(theta, u, v[None])
    h = EPS ** (1 / 3)  # of central differences, where truncation meets rounding
    np.testing.assert_allclose(
        jnp.vdot(cubic.gradient, v), (loss(theta + h * v) - loss(theta - h * v)) / (2 * h), rtol=1e-7
    )
    np.testing.assert_allclose(cubic.loss, loss(theta), rtol=1e-13)
    np.testing.assert_allclose(cubic.hvp, hessian(theta) @ u, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(products[0], hessian(theta) @ v, rtol=1e-9, atol=1e-11)
    third = (hessian(theta + h * u) - hessian(theta - h * u)) @ u / (2 * h)
    np.testing.assert_allclose(cubic.third, third, rtol=1e-6, atol=1e-6 * float(jnp.abs(third).max()))
    fourth = objective.directional(theta, u, 4)
    differences = (objective.directional(theta + h * u, u, 3) - objective.directional(theta - h * u, u, 3)) / (2 * h)
    np.testing.assert_allclose(fourth, differences, rtol=1e-5, atol=1e-6 * float(jnp.abs(fourth).max()))
    np.testing.assert_allclose(objective.hvps(theta, jnp.stack([u, v]))[0], cubic.hvp, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("size", [10, 7, 30])
def test_micro_batches_give_the_same_mean(problem, objective, size):
    theta = objective.ravel(problem[0])
    u = jnp.ones_like(theta)
    pieces = Objective.create(loss_fn, *problem, micro_batch=size)
    for whole, summed in zip(objective.cubic(theta, u), pieces.cubic(theta, u), strict=True):
        np.testing.assert_allclose(summed, whole, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (({"w": jnp.arange(3)},), {}, "floating-point arrays only, got .'int64'"),
        (({"w": jnp.ones(3)}, (jnp.ones(4), jnp.ones(5))), {}, r"one non-empty leading axis, got \[4, 5\]"),
        (({"w": jnp.ones(3)}, jnp.ones(4)), {"micro_batch": 5}, "micro_batch must lie in 1..4, got 5"),
        (({"w": jnp.ones(3)},), {"micro_batch": 2}, "needs a batch"),
    ],
)
def test_objective_says_what_is_wrong(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        Objective.create(lambda p, *b: jnp.sum(p["w"]), *arguments, **options)


def test_objective_wants_a_scalar():
    with pytest.raises(ValueError, match=r"must return a scalar .* got shape \(3,\)"):
        Objective.create(lambda p: p["w"], {"w": jnp.ones(3)})


def test_largest_algebraic_eigenvalue():
    pairs = leading_eigenpairs(lambda v: jnp.array([-100.0, 9.0]) * v, jnp.ones((1, 2)), dense_limit=0)
    np.testing.assert_allclose(pairs.values, [9.0])
    diagonal = jnp.concatenate([jnp.array([-100.0, 9.0]), jnp.linspace(-5, 5, 100)])
    pairs = leading_eigenpair(lambda v: diagonal * v, jnp.ones(102), tolerance=1e-6)
    np.testing.assert_allclose(pairs.values, [9.0], rtol=1e-10)


@pytest.mark.parametrize("gap", [1e-1, 1e-2, 1e-3, 1e-4])
@pytest.mark.parametrize("k", [1, 2])
def test_eigenpairs_against_eigsh(gap, k):
    rng = np.random.default_rng(3)
    size = 200
    basis = np.linalg.qr(rng.normal(size=(size, size)))[0]
    spectrum = np.concatenate([[1.0, 1 - gap], np.linspace(-2, 0.5, size - 2)])
    matrix = jnp.asarray((basis * spectrum) @ basis.T)
    pairs = leading_eigenpairs(lambda v: matrix @ v, jnp.asarray(rng.normal(size=(k, size))), tolerance=1e-7)
    expected = np.sort(scipy.sparse.linalg.eigsh(np.asarray(matrix), k=k, which="LA")[0])[::-1]
    assert int(pairs.status) == EigenStatus.CONVERGED
    # The value is off by at most the residual, and quadratically in it over the gap where one pair is sought.
    np.testing.assert_allclose(pairs.values, expected, atol=1e-7)
    residual = jnp.linalg.norm(pairs.vectors @ matrix - pairs.values[:, None] * pairs.vectors, axis=1)
    np.testing.assert_allclose(pairs.residuals, residual, atol=1e-9)
    np.testing.assert_allclose(pairs.vectors @ pairs.vectors.T, np.eye(k), atol=1e-9)


def test_eigen_solve_reports_its_end():
    diagonal = jnp.linspace(0, 1, 500)
    start = jax.random.normal(jax.random.key(0), (500,))
    short = leading_eigenpair(lambda v: diagonal * v, start, tolerance=1e-8, max_products=5)
    assert (int(short.products), int(short.status)) == (5, EigenStatus.PRODUCT_LIMIT)
    broken = leading_eigenpair(lambda v: diagonal * v * jnp.nan, start)
    assert int(broken.status) == EigenStatus.NOT_FINITE
    assert "not converged" in EigenStatus.PRODUCT_LIMIT.message
    warm = leading_eigenpair(lambda v: diagonal * v, jnp.zeros(500).at[-1].set(1.0))
    assert int(warm.products) == 1
    with pytest.raises(ValueError, match="tolerance must lie in"):
        leading_eigenpair(lambda v: v, start, tolerance=1e-20)
    with pytest.raises(ValueError, match=r"shape \(k, p\) .* got \(3, 2\)"):
        leading_eigenpairs(lambda v: v, jnp.ones((3, 2)))


def test_sharpness_of_a_flax_model_in_optax_training(problem, dense):
    params, batch = problem
    batch = jax.tree.map(jnp.asarray, batch)
    optimizer = optax.sgd(0.05)
    state = optimizer.init(params)
    for _ in range(5):
        updates, state = optimizer.update(jax.grad(loss_fn)(params, batch), state, params)
        params = optax.apply_updates(params, updates)
    found = eoslib.sharpness(loss_fn, params, batch, tolerance=1e-6)
    pieces = eoslib.sharpness(loss_fn, params, batch, tolerance=1e-6, micro_batch=8)
    theta = Objective.create(loss_fn, params, batch).ravel(params)
    np.testing.assert_allclose(found.value, dense[3](theta), rtol=1e-9)
    np.testing.assert_allclose(pieces.value, found.value, rtol=1e-9)
    assert found.status is EigenStatus.CONVERGED
    assert float(found.error_bound) <= 2e-6 * float(found.value)
    assert jax.tree.structure(found.eigenvector) == jax.tree.structure(params)
    short = eoslib.sharpness(
        lambda p: jnp.sum(jnp.linspace(0, 1, 200) * p["w"] ** 2), {"w": jnp.ones(200)}, max_products=3
    )
    assert short.status is EigenStatus.PRODUCT_LIMIT


def test_local_geometry_against_dense(problem, objective, dense):
    _, gradient, hessian, largest = dense
    theta = objective.ravel(problem[0])
    geometry = local_geometry(objective, theta, jnp.ones_like(theta), tolerance=1e-9)
    values, vectors = np.linalg.eigh(np.asarray(hessian(theta)))
    np.testing.assert_allclose(geometry.sharpness, values[-1], rtol=1e-10)
    np.testing.assert_allclose(np.abs(vectors[:, -1] @ np.asarray(geometry.eigenvector)), 1, rtol=1e-10)
    h = EPS ** (1 / 3)
    slope = np.array([(largest(theta + h * e) - largest(theta - h * e)) / (2 * h) for e in jnp.eye(theta.size)])
    np.testing.assert_allclose(geometry.sharpness_gradient, slope, atol=1e-6 * np.abs(slope).max())
    across = slope - (slope @ vectors[:, -1]) * vectors[:, -1]
    alpha, beta = -np.asarray(gradient(theta)) @ slope, across @ across
    np.testing.assert_allclose(geometry.alpha, alpha, rtol=1e-5)
    np.testing.assert_allclose(geometry.beta, beta, rtol=1e-5)
    np.testing.assert_allclose(geometry.delta_squared, 2 * alpha / beta, rtol=1e-5)


def test_instability_is_located_to_one_step(problem, objective, dense, edge):
    _, gradient, _, largest = dense
    assert edge.status is tracking.EdgeStatus.REACHED
    assert edge.loss.size == edge.step + 1
    theta = objective.ravel(problem[0])
    for step in range(edge.step):
        if step >= edge.step - 3:
            assert largest(theta) < 2 / ETA
        theta = theta - ETA * gradient(theta)
    assert largest(theta) >= 2 / ETA
    np.testing.assert_allclose(edge.theta, theta, atol=1e-8)


def test_instability_ends_in_words(problem, objective):
    theta = objective.ravel(problem[0])
    limit = tracking.find_instability(objective, theta, 1e-4, max_steps=7, progress=False)
    assert (limit.status, limit.step, limit.loss.size) == (tracking.EdgeStatus.STEP_LIMIT, 7, 8)
    start = tracking.find_instability(objective, theta, 10.0, max_steps=7, progress=False)
    assert start.status is tracking.EdgeStatus.AT_START
    assert "warm it up" in start.status.message
    up = Objective.create(lambda p: jnp.where(p["w"] < 0.5, jnp.nan, p["w"] ** 2 / 2), {"w": jnp.ones(())})
    nan = tracking.find_instability(up, jnp.ones(1), 0.2, max_steps=100, progress=False)
    assert nan.status is tracking.EdgeStatus.DIVERGED
    assert nan.loss.size >= 3
    for bad, message in ((-1.0, "must be positive and finite, got -1.0"), (float("nan"), "got nan")):
        with pytest.raises(ValueError, match=message):
            tracking.find_instability(objective, theta, bad, max_steps=5)
    with pytest.raises(ValueError, match="max_steps must be at least 1, got 0"):
        tracking.find_instability(objective, theta, 0.1, max_steps=0)
    with pytest.raises(ValueError, match="theta must have shape"):
        tracking.find_instability(objective, theta[:-1], 0.1, max_steps=5)


def test_projection_on_the_network(objective, dense, edge):
    _, gradient, hessian, largest = dense
    on = stable_set.project(objective, edge.theta, edge.eigenvector, ETA, tolerance=1e-9, eigen_tolerance=1e-8)
    assert int(on.status) == ProjectionStatus.ON_BOUNDARY
    np.testing.assert_allclose(largest(on.theta), 2 / ETA, rtol=1e-8)
    u = np.linalg.eigh(np.asarray(hessian(on.theta)))[1][:, -1]
    assert abs(u @ gradient(on.theta)) <= 1.1e-3 * np.linalg.norm(gradient(on.theta))
    again = stable_set.project(objective, on.theta, on.geometry.eigenvector, ETA, tolerance=2e-9, eigen_tolerance=1e-8)
    np.testing.assert_array_equal(again.theta, on.theta)
    assert int(again.rounds) == 1
    # The wall: δ up, the projection returns to within a fraction of δ of where it was.
    delta = float(jnp.sqrt(on.geometry.delta_squared))
    back = stable_set.project(objective, on.theta + delta * on.geometry.eigenvector, on.geometry.eigenvector, ETA)
    epsilon = float(on.geometry.epsilon(ETA))
    assert float(jnp.linalg.norm(back.theta - on.theta)) <= 2 * epsilon * delta + 1e-6


def _flat(f, size=2):
    return Objective.create(lambda p: f(p["t"]), {"t": jnp.zeros(size)})


def test_projection_says_why_it_cannot():
    inside = stable_set.project(_flat(lambda t: t[0] ** 2 / 2), jnp.array([0.0, 3.0]), jnp.array([1.0, 0.0]), 1.0)
    assert int(inside.status) == ProjectionStatus.INSIDE
    np.testing.assert_array_equal(inside.theta, [0.0, 3.0])
    steep = stable_set.project(_flat(lambda t: 2 * t[0] ** 2), jnp.array([0.0, 3.0]), jnp.array([1.0, 0.0]), 1.0)
    assert int(steep.status) == ProjectionStatus.NO_DIRECTION
    hill = stable_set.project(_flat(lambda t: t[0] - t @ t), jnp.array([1.0, 3.0]), jnp.array([1.0, 0.1]), 1.0)
    assert int(hill.status) == ProjectionStatus.NO_VALLEY
    broken = stable_set.project(_flat(lambda t: t[0] ** 2 * jnp.nan), jnp.ones(2), jnp.array([1.0, 0.1]), 1.0)
    assert int(broken.status) == ProjectionStatus.NOT_FINITE
    with pytest.raises(ValueError, match="learning_rate must be positive"):
        stable_set.project(_flat(lambda t: t @ t), jnp.ones(2), jnp.ones(2), 0.0)


def _toy(params, batch):
    """L = ½(2/η + √β y)x² − (α/√β)y at η = .1; α and β travel as data, so that one program serves every draw."""
    (x, y), alpha, root = params["t"], batch[0][0], jnp.sqrt(batch[1][0])
    return (20 + root * y) * x**2 / 2 - alpha / root * y


@jax.jit
def _projected(objective, theta):
    u = jnp.array([1.0, 0.0])
    return stable_set.project(objective, theta, u, 0.1, slope_tolerance=1e-7, eigen_tolerance=1e-9, max_rounds=50)


@given(st.floats(0.3, 3), st.floats(0.3, 3), st.floats(-0.3, 0.3), st.floats(-1.0, 2.0))
def test_projection_has_its_closed_form_on_the_toy(alpha, beta, x, y):
    """Near x = 0 the stable set of the toy is {x = 0, y ≤ 0}."""
    objective = Objective.create(_toy, {"t": jnp.zeros(2)}, (jnp.array([alpha]), jnp.array([beta])))
    found = _projected(objective, jnp.array([x, y]))
    assert int(found.status) in (ProjectionStatus.INSIDE, ProjectionStatus.ON_BOUNDARY)
    assert abs(float(found.theta[0])) <= 1e-7 * 10  # slope tolerance × ‖∇L‖ / S, ‖∇L‖ ≤ 6
    assert float(found.theta[1]) <= 20 * 1e-5 / beta**0.5 + 1e-9  # tolerance of S over |∇S|
    assert float(found.violation.sharpness) <= 1e-5


def test_flow_against_a_fine_integration(problem, objective, dense):
    theta = objective.ravel(problem[0])
    u = jnp.ones_like(theta)
    gradient = dense[1]
    fine = scipy.integrate.solve_ivp(
        lambda _, z: -np.asarray(gradient(jnp.asarray(z))), (0, 20.0), np.asarray(theta), rtol=1e-10, atol=1e-12
    )
    errors = []
    for tolerance in (1e-2, 1e-4):
        end, record = dynamics.gradient_flow(
            objective, dynamics.flow_start(objective, theta, u), 20.0, tolerance=tolerance
        )
        errors.append(float(jnp.linalg.norm(end.theta - fine.y[:, -1])))
        assert int(record.gradients) > 0
    travelled = float(np.linalg.norm(fine.y[:, -1] - fine.y[:, 0]))
    assert errors[0] <= 5e-2 * travelled
    assert errors[1] <= 5e-4 * travelled


def test_prediction_is_exact_on_the_cubic_toy():
    """Where the loss is cubic, with one constraint direction, the predicted dynamics is gradient descent itself."""
    toy = reduced.ToyLoss(learning_rate=0.02, alpha=1.0, beta=1.0)
    size = 2
    objective = Objective.create(lambda p: toy.loss(p["t"]), {"t": jnp.zeros(size)})
    theta = jnp.zeros(size).at[0].set(0.5 * 2**0.5)
    u = jnp.zeros(size).at[0].set(1.0)
    data = tracking.track_from(
        objective, theta, u, 0.02, steps=150, options=tracking.Options(flow=False, start=0.0), progress=False
    )
    np.testing.assert_allclose(data.constrained_sharpness[1:], 100.0, rtol=1e-9)
    # What is left is the tilt of u at the start, residual/S, which enters x and y (of order one) once.
    tilt = float(data.residual.max()) / 100
    assert tilt <= 1e-5
    np.testing.assert_allclose(data.predicted_x, data.x, atol=10 * tilt)
    np.testing.assert_allclose(data.predicted_y, data.y, atol=100 * tilt)
    np.testing.assert_allclose(data.alpha, 1.0, rtol=1e-9)
    np.testing.assert_allclose(data.beta, 1.0, rtol=1e-9)
    np.testing.assert_allclose(data.delta_squared, 2.0, rtol=1e-9)
    # The map's y is the excess over 2/η: θ† itself starts a little inside.
    excess = float(data.y[0] + data.constrained_sharpness[0] - 100)
    x, y = reduced.iterate(float(data.x[0]), excess, 149, learning_rate=0.02, alpha=1.0, beta=1.0)
    np.testing.assert_allclose(data.x, x, atol=10 * tilt)
    np.testing.assert_allclose(data.y[1:], y[1:], atol=100 * tilt)


def test_tracking_against_dense_derivatives(objective, dense, edge):
    loss, gradient, hessian, largest = dense
    data = tracking.track_from(
        objective, edge.theta, edge.eigenvector, ETA, steps=50,
        options=tracking.Options(kick=0.5, strided=25, transport=25, generalized=True), progress=False,
    )  # fmt: skip
    assert data.sizes == {"t": 50, "interval": 2, "stride": 2, "pair": 3, "offset": 21}
    start = stable_set.project(objective, edge.theta, edge.eigenvector, ETA)
    delta = float(jnp.sqrt(start.geometry.delta_squared))
    theta = edge.theta + 0.5 * delta * start.geometry.eigenvector
    for t in range(50):  # gradient descent, by itself
        if t % 10 == 0:
            np.testing.assert_allclose(data.gd_loss[t], loss(theta), rtol=1e-7)
            # a residual of 1e-2 in u leaves about its square, over the gap, in S
            np.testing.assert_allclose(data.gd_sharpness[t], largest(theta), rtol=1e-3)
        theta = theta - ETA * gradient(theta)
    assert float(data.violation.max()) <= 1e-4
    assert (np.diff(data.constrained_loss) < 0).all()
    values = np.linalg.eigvalsh(np.asarray(hessian(start.theta)))[::-1]
    np.testing.assert_allclose(data.eigenvalues[0], values[:3], rtol=1e-3)
    np.testing.assert_allclose(data.profile[0, 10], data.constrained_loss[0], rtol=1e-9)
    fine = scipy.integrate.solve_ivp(
        lambda _, z: -np.asarray(gradient(jnp.asarray(z))),
        (0, 49 * ETA),
        np.asarray(edge.theta),
        rtol=1e-10,
        atol=1e-12,
    )
    np.testing.assert_allclose(data.flow_loss[49], loss(jnp.asarray(fine.y[:, -1])), rtol=1e-3)


def test_a_curve_that_ends_does_not_end_the_run():
    """The quartic term of this valley is ignored by the prediction, whose x then grows without bound."""

    def loss(t):
        return (100 + t[1]) * t[0] ** 2 / 2 - 30 * t[1] + 4e3 * t[0] ** 4

    objective = _flat(loss)
    data = tracking.track_from(
        objective, jnp.array([0.1, 0.0]), jnp.array([1.0, 0.0]), 0.02, steps=400,
        options=tracking.Options(flow=False, start=0.0), progress=False,
    )  # fmt: skip
    assert data.attrs["ended_constrained"] == -1
    assert np.isfinite(data.constrained_loss).all()


def test_optax_transformation_keeps_the_sharpness(problem, objective, edge):
    params, batch = problem
    params = objective.unravel(edge.theta)
    batch = jax.tree.map(jnp.asarray, batch)
    transformation = eoslib.constrained_gradient_descent(ETA)
    state = transformation.init(params)

    def full(p):
        return loss_fn(p, batch)

    @jax.jit
    def step(params, state):
        updates, state = transformation.update(jax.grad(full)(params), state, params, loss_fn=full)
        return optax.apply_updates(params, updates), state

    losses = []
    for _ in range(30):
        losses.append(float(full(params)))
        params, state = step(params, state)
    found = eoslib.sharpness(full, params)
    assert float(found.value) <= 2 / ETA * (1 + 2e-4)
    assert losses[-1] < losses[1]
    with pytest.raises(ValueError, match="needs update"):
        transformation.update(params, state)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be at least 1"),
        ({"steps": 5, "options": tracking.Options(strided=7)}, "multiple of chunk"),
    ],
)
def test_tracking_says_what_is_wrong(objective, edge, options, message):
    with pytest.raises(ValueError, match=message):
        tracking.track_from(objective, edge.theta, edge.eigenvector, ETA, progress=False, **options)
