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


# --- momentum and noise -----------------------------------------------------------------------------------------------


def test_momentum_writes_out_heavy_ball_on_the_valley():
    """The map is x' = (1 + μ − ηS)x − μx₋ and y' = y + μ(y − y₋) + η(α − βx²/2), in a loop of Python's."""
    eta, mu, alpha, beta = 0.02, 0.4, 1.3, 0.8
    x, y = reduced.iterate(0.3, -0.2, 50, learning_rate=eta, alpha=alpha, beta=beta, momentum=mu)
    now, before = (0.3, -0.2), (-0.3, -0.2)
    for t in range(50):
        np.testing.assert_allclose((x[t], y[t]), now, rtol=1e-10)
        sharpness = (2 + 2 * mu) / eta + now[1]
        after = (
            (1 + mu - eta * sharpness) * now[0] - mu * before[0],
            now[1] + mu * (now[1] - before[1]) + eta * (alpha - beta * now[0] ** 2 / 2),
        )
        now, before = after, now


def test_without_momentum_and_noise_it_is_the_plain_map():
    known = dict(learning_rate=0.02, alpha=1.3, beta=0.8, damping=0.001, quartic=0.1, skew=0.4)
    x, y = reduced.iterate(0.1, 0.2, 300, **known)

    @jax.jit
    def plain(state, known):
        return jax.lax.scan(lambda s, _: (reduced.reduced_step(*s, **known), s), state, length=301)[1]

    track = plain((jnp.array(0.1), jnp.array(0.2)), known)
    np.testing.assert_array_equal(x, track[0])
    np.testing.assert_array_equal(y, track[1])


@pytest.mark.parametrize("momentum", [0.2, 0.5, 0.7])
def test_momentum_keeps_the_radius_and_lets_the_cycles_grow_faster(momentum):
    """At equal effective step η/(1 − μ) and ε = 5e-4: ⟨x²⟩ = δ², and H drifts (1 + μ)/(1 − μ) times as much a cycle."""
    step, delta, drift = 5e-4, 2**0.5, {}
    for mu in (0.0, momentum):
        x, y = reduced.iterate(0.5 * delta, 0.0, 20_000, learning_rate=(1 - mu) * step, alpha=1, beta=1, momentum=mu)
        starts = reduced.cycle_starts(y)
        h = reduced.conserved(x, y, alpha=1, beta=1)
        drift[mu] = float(h[starts[1]] - h[starts[0]])
        assert np.mean(np.asarray(x[: starts[-1]]) ** 2) == pytest.approx(delta**2, rel=1e-3)
    assert drift[momentum] / drift[0.0] == pytest.approx((1 + momentum) / (1 - momentum), rel=0.05)


def test_noise_keeps_the_radius_and_lowers_the_sharpness():
    """⟨y⟩ = −ηβσ²/(4α) to leading order, as the noise must not let ⟨x²⟩ = δ² grow; the mean over 50 copies."""
    eta, alpha, beta, sigma = 0.01, 4.0, 1.0, 60.0
    delta_squared = 2 * alpha / beta
    start = jnp.full(50, delta_squared**0.5)
    known = dict(learning_rate=eta, alpha=alpha, beta=beta, noise=sigma)
    x, y = reduced.iterate(start, 0.0 * start, 8000, key=jax.random.key(0), **known)
    assert float(jnp.mean(x[1000:] ** 2)) == pytest.approx(delta_squared, rel=0.02)
    assert float(jnp.mean(y[1000:])) == pytest.approx(-eta * beta * sigma**2 / (4 * alpha), rel=0.1)
    assert not np.array_equal(x, reduced.iterate(start, 0.0 * start, 8000, key=jax.random.key(1), **known)[0])


def test_mistakes_with_momentum_and_noise_are_named():
    known = dict(learning_rate=0.01, alpha=1.0, beta=1.0)
    with pytest.raises(ValueError, match=r"momentum must lie in \[0, 1\), got 1.0"):
        reduced.iterate(0.1, 0.0, 5, momentum=1.0, **known)
    with pytest.raises(ValueError, match=r"noise=2\.0 needs a random key, got None"):
        reduced.iterate(0.1, 0.0, 5, noise=2.0, **known)
