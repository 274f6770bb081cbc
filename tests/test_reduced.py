"""Closed forms of the reduced dynamics against the iterated map, the integrated flow and scipy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st

from selfstab.theory import reduced


@settings(max_examples=50)
@given(st.floats(-6, -0.05), st.floats(0.1, 10), st.floats(0.1, 10))
def test_peak_against_lambert_w(log_start, alpha, beta):
    delta = float(reduced.radius(alpha=alpha, beta=beta))
    ratio = 10**log_start
    square = -scipy.special.lambertw(-(ratio**2) * np.exp(-(ratio**2)), -1).real
    np.testing.assert_allclose(
        reduced.peak_amplitude(ratio * delta, alpha=alpha, beta=beta), delta * square**0.5, rtol=1e-9
    )


@pytest.mark.parametrize("ratio", [1e-4, 0.05, 0.4, 0.9])
def test_orbit_closes_and_keeps_its_formulas(ratio):
    alpha, beta, eta = 0.7, 1.9, 1.0
    delta = float(reduced.radius(alpha=alpha, beta=beta))
    period = float(reduced.cycle_period(ratio * delta, learning_rate=eta, alpha=alpha, beta=beta))
    times = jnp.linspace(0, period, 20_001)
    x, y = reduced.orbit(ratio * delta, 0.0, times, alpha=alpha, beta=beta)
    h = reduced.conserved(x, y, alpha=alpha, beta=beta)
    np.testing.assert_allclose(h, h[0], rtol=1e-9)  # three digits above the solver's tolerance
    np.testing.assert_allclose(x[-1], x[0], rtol=1e-6)
    np.testing.assert_allclose(x.max(), reduced.peak_amplitude(ratio * delta, alpha=alpha, beta=beta), rtol=1e-5)
    np.testing.assert_allclose(y.max(), reduced.peak_sharpness(ratio * delta, alpha=alpha, beta=beta), rtol=1e-5)
    np.testing.assert_allclose(np.trapezoid(x**2, times) / period, delta**2, rtol=1e-5)
    np.testing.assert_allclose(np.trapezoid(y, times) / period, 0, atol=1e-7)


def test_small_period():
    eta, alpha, beta = 0.02, 2.0, 3.0
    delta = float(reduced.radius(alpha=alpha, beta=beta))
    exact = reduced.cycle_period(0.999 * delta, learning_rate=eta, alpha=alpha, beta=beta)
    np.testing.assert_allclose(reduced.small_period(learning_rate=eta, alpha=alpha), exact, rtol=1e-5)


@settings(max_examples=20)
@given(st.floats(0.2, 2), st.floats(-1, 1), st.floats(0.5, 2), st.floats(0.5, 2))
def test_drift_is_second_order(x, y, alpha, beta):
    for eta in (1e-2, 1e-3):
        after = reduced.reduced_step(x, y, learning_rate=eta, alpha=alpha, beta=beta)
        grown = reduced.conserved(*map(jnp.asarray, after), alpha=alpha, beta=beta) - reduced.conserved(
            jnp.asarray(x), y, alpha=alpha, beta=beta
        )
        drift = reduced.map_drift(x, y, learning_rate=eta, alpha=alpha, beta=beta)
        assert abs(float(grown - drift)) <= 60 * eta**3  # the third order, for |x|, |y|, α, β up to 2


@pytest.mark.parametrize(("factor", "settles"), [(0.5, False), (2.0, True)])
def test_damping_threshold(factor, settles):
    eta, alpha, beta = 0.05, 1.0, 1.0
    delta = float(reduced.radius(alpha=alpha, beta=beta))
    damping = factor * float(reduced.damping_threshold(learning_rate=eta, alpha=alpha))
    x, _ = reduced.iterate(1.05 * delta, 0.0, 20_000, learning_rate=eta, alpha=alpha, beta=beta, damping=damping)
    last = float(jnp.abs(jnp.abs(x[-2000:]) / delta - 1).max())
    assert (last < 0.01) == settles


@pytest.mark.parametrize("factor", [0.8, 1.2])
@pytest.mark.parametrize("valley", [dict(skew=0.9), dict(skew=1.6), dict(quartic=0.03, skew=0.5)])
def test_damping_threshold_of_a_valley(valley, factor):
    """With less damping than the threshold the 2-cycle repels, with more it attracts: the determinant there is one."""
    eta, alpha, beta = 0.02, 1.3, 0.8
    threshold = float(reduced.damping_threshold(learning_rate=eta, alpha=alpha, beta=beta, **valley))
    damping = threshold + (factor - 1) * 2 * eta**2 * alpha
    known = dict(learning_rate=eta, alpha=alpha, beta=beta, damping=damping, **valley)
    state = jnp.array([-float(reduced.radius(alpha=alpha, beta=beta)), 0.0])
    twice = lambda s: jnp.stack(reduced.reduced_step(*reduced.reduced_step(*s, **known), **known))  # noqa: E731
    slope = jax.jacfwd(twice)
    for _ in range(20):  # Newton's method for the 2-cycle
        state = state - jnp.linalg.solve(slope(state) - jnp.eye(2), twice(state) - state)
    assert (float(jnp.linalg.det(slope(state))) < 1) == (factor > 1)


@pytest.mark.parametrize("drift", [None, 0.3])
def test_toy_loss_has_the_closed_forms_it_says(drift):
    toy = reduced.ToyLoss(0.02, 1.3, 0.8, stiffness=0.05, quartic=0.7, skew=0.4, drift=drift)
    theta = jnp.array([0.3, -0.2] + ([] if drift is None else [0.1]))
    hessian = jax.hessian(toy.loss)
    values, vectors = jnp.linalg.eigh(hessian(theta))
    found = toy.geometry(theta)
    np.testing.assert_allclose(found.gradient, jax.grad(toy.loss)(theta), rtol=1e-12)
    np.testing.assert_allclose(found.sharpness, values[-1], rtol=1e-12)
    np.testing.assert_allclose(jnp.abs(found.eigenvector @ vectors[:, -1]), 1, rtol=1e-12)
    slope = jax.grad(lambda t: jnp.linalg.eigvalsh(hessian(t))[-1])(theta)
    np.testing.assert_allclose(found.sharpness_gradient, slope, atol=1e-9)
    assert float(found.delta_squared) == pytest.approx(2 * float(found.alpha) / float(found.beta))


def test_gradient_descent_on_the_toy_is_the_map():
    toy = reduced.ToyLoss(0.02, 1.3, 0.8, stiffness=0.05, quartic=0.7, skew=0.4)
    theta = jnp.array([0.3, -0.2])
    x, y = reduced.reduced_step(
        0.3, -0.2 * 0.8**0.5, learning_rate=0.02, alpha=1.3, beta=0.8, damping=0.001, quartic=0.7, skew=0.4
    )
    moved = theta - 0.02 * jax.grad(toy.loss)(theta)
    np.testing.assert_allclose(moved, [x, y / 0.8**0.5], rtol=1e-13)


def test_four_stages_in_order():
    delta = float(reduced.radius(alpha=1.0, beta=1.0))
    x, y = reduced.iterate(1e-3 * delta, -1.5, 420, learning_rate=0.02, alpha=1.0, beta=1.0, damping=0.001)
    found = reduced.stages(x, y, delta)
    np.testing.assert_array_equal(found.entered[:5], [1, 2, 3, 4, 1])
    assert float(y[found.start[1]]) > 0
    assert abs(float(x[found.start[2]])) > delta
    with pytest.raises(ValueError, match="delta must be positive and finite"):
        reduced.stages(x, y, -1.0)
