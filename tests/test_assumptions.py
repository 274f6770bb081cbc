"""The assumptions' quantities against dense tensors, on the small network and on small losses with known tensors."""

import dataclasses
import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from eoslib.eigen import random_direction
from eoslib.objective import Objective
from eoslib.trajectories import assumptions
from eoslib.trajectories.prediction import PredictedState

STRIDES = range(0, oracles.STEPS, oracles.STRIDED)


@pytest.fixture(scope="module", params=STRIDES, ids=lambda t: f"t{t}")
def at(network, tracked, request):
    """What was measured at one stride, and the dense geometry there."""
    dense, (data, states) = network[2], tracked
    state = states[request.param]
    theta = np.asarray(state.constrained.theta)
    values, vectors = dense.eigen(theta)
    u = vectors[0] * np.sign(vectors[0] @ np.asarray(state.constrained.eigenvector))
    gradient, slope = np.asarray(dense.gradient(theta)), np.asarray(dense.derivative(theta, u))
    across = slope - (slope @ u) * u
    carried = np.asarray(state.predicted.carried)
    return types.SimpleNamespace(
        dense=dense, data=data.sel(stride=request.param), theta=theta, values=values, u=u, gradient=gradient,
        delta=np.sqrt(-2 * gradient @ slope / (across @ across)),
        v=carried + (float(state.predicted.x) - u @ carried) * u,
        tilt=float(data.residual[request.param]) / (values[0] - values[1]),
    )  # fmt: skip


def unit_across(w, u):
    w = w - (w @ u) * u
    return w / np.linalg.norm(w)


def test_leading_eigenvalues_against_dense(at):
    # A residual of 1e-2 of the eigenvalue leaves its square over the gap to the fourth.
    np.testing.assert_allclose(at.data.eigenvalues, at.values[: assumptions.PAIRS], rtol=1e-3)
    assert (at.data.eigenvalues.values <= at.values[: assumptions.PAIRS] * (1 + 1e-9)).all()  # Ritz values


def test_loss_along_u(at):
    offsets = np.linspace(-5, 5, assumptions.PROFILE_POINTS) * at.delta
    np.testing.assert_allclose(at.data.profile_offset, offsets, rtol=20 * at.tilt + 1e-9, atol=1e-12)
    losses = [float(at.dense.loss(at.theta + x * at.u)) for x in at.data.profile_offset.values]
    # Off u by the tilt: the slope in that direction, of order ‖∇L‖, times the offset.
    atol = 5 * at.tilt * 5 * at.delta * np.linalg.norm(at.gradient) + 1e-12
    np.testing.assert_allclose(at.data.profile, losses, rtol=20 * at.tilt, atol=atol)
    np.testing.assert_allclose(at.data.profile[10], at.dense.loss(at.theta), rtol=1e-12)
    assert at.data.profile.values.argmin() == 10  # the floor


def brute_force(at, derivative, starts):
    """The largest |∇^k L[w, …, w]| reached by many power iterations, run to their ends on the dense derivative."""
    rng, best = np.random.default_rng(0), 0.0
    for w in [*starts, *rng.normal(size=(6, at.u.size))]:
        for _ in range(30):
            w = w / np.linalg.norm(w)
            image = np.asarray(derivative(at.theta, w))
            best, w = max(best, abs(w @ image)), image
    return best


def test_third_order_norm_is_a_lower_bound_and_tight(at):
    best = brute_force(at, at.dense.derivative, [at.u])
    assert 0.95 * best <= float(at.data.rho3) <= best * (1 + 1e-6)


def test_fourth_order_norm_is_a_lower_bound_and_tight(at):
    best = brute_force(at, at.dense.fourth_along, [at.u])
    assert 0.9 * best <= float(at.data.rho4) <= best * (1 + 1e-6)


def test_ratios_of_the_directions_that_must_not_be_the_worst(at):
    along_v, downhill = unit_across(at.v, at.u), unit_across(at.gradient, at.u)
    close = 20 * at.tilt + 1e-9
    for name, w in (("third_along_v", along_v), ("third_along_gradient", downhill)):
        expected = np.linalg.norm(at.dense.derivative(at.theta, w)) / float(at.data.rho3)
        np.testing.assert_allclose(at.data[name], expected, rtol=close, atol=close)
        assert 0 < float(at.data[name]) < 1
    curvature = abs(along_v @ np.asarray(at.dense.hessian(at.theta)) @ along_v) / at.values[0]
    np.testing.assert_allclose(at.data.curvature_along_v, curvature, rtol=close, atol=close)


def test_exact_loss_and_sharpness_of_the_prediction(at):
    np.testing.assert_allclose(at.data.exact_predicted_loss, at.dense.loss(at.theta + at.v), rtol=10 * at.tilt)
    # A residual of 1e-2 S leaves its square over the gap.
    np.testing.assert_allclose(at.data.exact_predicted_sharpness, at.dense.sharpness(at.theta + at.v), rtol=1e-3)


# --- brute force ------------------------------------------------------------------------------------------------------


def network_of(seed: int, inputs=8, width=24, samples=60):
    """θ and the batch of a network of 241 parameters (241,); by :func:`oracles.mlp_loss`."""
    rng = np.random.default_rng(seed)
    params = {
        "hidden": {
            "kernel": rng.uniform(-1, 1, (inputs, width)) * np.sqrt(3 / inputs), "bias": 0.1 * rng.normal(size=width)
        },
        "out": {"kernel": rng.uniform(-1, 1, (width, 1)) * np.sqrt(3 / width), "bias": np.zeros(1)},
    }  # fmt: skip
    batch = rng.normal(0.7, 1, (samples, inputs)), np.sign(rng.normal(size=samples))
    return jax.tree.map(jnp.asarray, (params, batch))


@pytest.fixture(scope="module")
def small():
    """The objective, and its loss of θ and the batch."""
    objective = Objective.create(oracles.mlp_loss, *network_of(0))
    return objective, lambda theta, batch: oracles.mlp_loss(objective.unravel(theta), batch)


@pytest.mark.parametrize("seed", range(10))
def test_the_first_stride_finds_the_norms_that_brute_force_finds(small, seed):
    small, small_loss = small
    params, batch = network_of(seed)
    objective, theta = dataclasses.replace(small, batch=batch), small.ravel(params)
    u = random_direction(small.size, small.dtype)
    at = theta, u, PredictedState(0.1 * u, jnp.array(0.1))
    following, first = assumptions.measure(objective, assumptions.start(u), *at)
    _, again = assumptions.measure(objective, following, *at)
    for order, name in ((3, "rho3"), (4, "rho4")):
        best = oracles.largest_derivative(small_loss, order, 15 * (order - 2), theta, batch)
        assert 0.95 * best <= float(first[name])
        np.testing.assert_allclose(first[name], again[name], rtol=5e-3)  # a climb ends at a change of 1e-3 a step


def test_a_lost_prediction_takes_no_other_measurement_with_it(small):
    small, _ = small
    params, batch = network_of(0)
    objective, theta = dataclasses.replace(small, batch=batch), small.ravel(params)
    u = random_direction(small.size, small.dtype)
    still, lost = (PredictedState(v * u, jnp.array(v)) for v in (0.0, jnp.nan))
    before, after = (
        assumptions.measure(objective, assumptions.start(u), theta, u, state)[1] for state in (still, lost)
    )
    along = {"third_along_v", "curvature_along_v", "exact_predicted_loss", "exact_predicted_sharpness"}
    assert {name for name, value in after.items() if not np.isfinite(value).all()} == along
    for name in sorted(set(before) - along):
        np.testing.assert_allclose(after[name], before[name], rtol=1e-9, err_msg=name)


# --- known tensors ----------------------------------------------------------------------------------------------------


def norm_of(objective, theta, start, order, steps):
    return jax.jit(functools.partial(assumptions.tensor_norm, steps=steps, change=0.0))(objective, theta, start, order)[
        :2
    ]


@pytest.mark.parametrize("beta", [0.25, 9.0])
def test_third_order_norm_of_the_toy_in_closed_form(beta):
    """∇³L has T_xxy = √β alone: the largest T[w, w, w] = 3√β w_x² w_y is 2√(β/3), at w_y² = 1/3."""
    toy = oracles.Toy(beta=beta)
    objective = Objective.create(oracles.toy_loss, jnp.zeros(3), toy.constants)
    bound, w = norm_of(objective, jnp.array([0.1, 0.2, 0.3]), jnp.array([1.0, 0.1, 0.1]), 3, 20)
    np.testing.assert_allclose(bound, 2 * np.sqrt(beta / 3), rtol=1e-6)
    np.testing.assert_allclose(np.abs(w), [np.sqrt(2 / 3), np.sqrt(1 / 3), 0], atol=1e-3)


@pytest.mark.parametrize("order", [3, 4])
def test_norms_of_random_tensors_never_exceed_the_maximum(order):
    """On R⁵ the sphere can be searched: no start ends above the maximum, and some reach it."""
    loss, pull = oracles.polynomial()
    objective = Objective.create(loss, jnp.zeros(5), pull(1.0))
    images = jax.jit(jax.vmap(lambda w: objective.directional(jnp.zeros(5), w, order)))

    def values(ws):
        return np.linalg.norm(images(jnp.asarray(ws)), axis=1)

    rng = np.random.default_rng(1)
    ws = rng.normal(size=(20_000, 5))
    ws /= np.linalg.norm(ws, axis=1, keepdims=True)
    for spread in (0.3, 0.1, 0.03, 0.01, 1e-3):  # closer and closer around the best hundred
        near = ws[np.argsort(values(ws))[-100:]]
        ws = np.concatenate([near, (near[:, None] + spread * rng.normal(size=(100, 199, 5))).reshape(-1, 5)])
        ws /= np.linalg.norm(ws, axis=1, keepdims=True)
    best = values(ws).max()
    starts = jnp.asarray(rng.normal(size=(20, 5)))
    power = jax.jit(jax.vmap(lambda w: norm_of(objective, jnp.zeros(5), w, order, 100)))
    found, ws = map(np.asarray, power(starts))
    np.testing.assert_allclose(found, values(ws), rtol=1e-12)  # the direction is that of the bound
    np.testing.assert_allclose(np.linalg.norm(ws, axis=1), 1, rtol=1e-12)
    assert found.max() <= best * (1 + 1e-5)  # the search itself ends within that of the maximum
    assert found.max() >= best * (1 - 1e-4)
    assert np.median(found) >= 0.8 * best  # the others end on lower maxima


def reflected_toy_loss(theta, batch):
    """The toy with y, or −y, in y's place."""
    constants, sign = batch
    x, y, z = theta
    return oracles.toy_loss(jnp.stack([x, sign[0] * y, z]), constants)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_direction_of_sharpening_may_point_anywhere(sign):
    """The toy reflected in y: ∇S⊥ has no positive entry; every quantity is what it was."""
    toy, u = oracles.Toy(alpha=1.0, beta=4.0), jnp.array([1.0, 0.0, 0.0])
    objective = Objective.create(reflected_toy_loss, jnp.zeros(3), (toy.constants, jnp.array([sign])))
    v = jnp.array([0.1, -0.2 * sign, 0.05])
    predicted = PredictedState(v, jnp.array(0.1))
    _, values = assumptions.measure(objective, assumptions.start(u), jnp.zeros(3), u, predicted)
    np.testing.assert_allclose(values["eigenvalues"], [100, 0, 0], atol=1e-9)
    np.testing.assert_allclose(values["rho3"], 2 * np.sqrt(4 / 3), rtol=1e-2)  # six power steps
    np.testing.assert_allclose(values["rho4"], 0, atol=1e-12)
    np.testing.assert_allclose([values["third_along_v"], values["third_along_gradient"]], 0, atol=1e-9)
    np.testing.assert_allclose(values["curvature_along_v"], 0, atol=1e-9)  # λ = 0: no curvature across u
    offsets = np.linspace(-5, 5, assumptions.PROFILE_POINTS) * np.sqrt(0.5)  # δ² = 2α/β
    np.testing.assert_allclose(values["profile_offset"], offsets, atol=1e-12)
    np.testing.assert_allclose(values["profile"], 50 * offsets**2, rtol=1e-9, atol=1e-12)
    there = np.array([0.1, -0.2, 0.05])
    np.testing.assert_allclose(values["exact_predicted_loss"], float(toy.loss(there)), rtol=1e-9)
    np.testing.assert_allclose(values["exact_predicted_sharpness"], toy.sharpness(there), rtol=1e-4)


def test_a_quadratic_loss_has_no_third_order_and_that_is_no_division_by_zero():
    curvatures = jnp.array([100.0, 40.0, 10.0, 1.0])
    objective = Objective.create(lambda theta, c: (c[0] * theta**2).sum() / 2, jnp.zeros(4), curvatures[None])
    u = jnp.eye(4)[0]
    theta, predicted = jnp.array([0.0, 0.1, 0.1, 0.1]), PredictedState(jnp.array([0.1, 0.0, 0.2, 0.0]), jnp.array(0.1))
    _, values = assumptions.measure(objective, assumptions.start(u), theta, u, predicted)
    np.testing.assert_allclose(values["eigenvalues"], [100, 40, 10], rtol=1e-3)
    assert (float(values["rho3"]), float(values["rho4"])) == (0, 0)
    np.testing.assert_allclose(values["curvature_along_v"], 0.1, rtol=1e-9)
    np.testing.assert_allclose(values["exact_predicted_sharpness"], 100, rtol=1e-4)
