"""Closed forms of the three small losses against iteration, automatic derivatives, dense Hessians and scipy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
from hypothesis import given, settings
from hypothesis import strategies as st

from selfstab.theory import small_maps

rng = np.random.default_rng(0)


def test_steps_are_gradient_descent_of_their_losses():
    def valley(z):
        return jnp.log(jnp.cosh(z[0] * z[1]))

    def product(z):
        return (jnp.prod(z) - 1) ** 2 / 2

    x, eta = rng.uniform(0.3, 1.6, 3), 0.3
    slope = jax.vmap(jax.grad(small_maps_loss))(jnp.asarray(x))
    np.testing.assert_allclose(small_maps.cubic_step(x, eta), x - eta * slope, rtol=1e-12)
    np.testing.assert_allclose(small_maps.cubic_loss(x), jax.vmap(small_maps_loss)(x), rtol=1e-12)
    moved = small_maps.valley_step(x[0], x[1], eta)
    np.testing.assert_allclose(moved, x[:2] - eta * jax.grad(valley)(jnp.asarray(x[:2])), rtol=1e-12)
    np.testing.assert_allclose(small_maps.product_step(x, eta), x - eta * jax.grad(product)(jnp.asarray(x)), rtol=1e-12)
    np.testing.assert_allclose(small_maps.product_loss(x), product(x), rtol=1e-12)


def small_maps_loss(x):
    """Written apart from the module's."""
    return (x * x - 1) ** 2 / 4


def test_phases_are_found_by_iteration():
    for name, found in small_maps.measured_phases(steps=10_000).items():
        assert found == pytest.approx(small_maps.PHASES[name], rel=5e-4), name  # 4/steps, at a doubling


@given(st.floats(1.001, 1.23))
def test_two_cycle(a):
    x = small_maps.two_cycle(a)
    np.testing.assert_allclose(small_maps.cubic_step(x, a), x[::-1], rtol=1e-12)
    multiplier = np.prod(1 + a - 3 * a * x**2)
    np.testing.assert_allclose(multiplier, 9 - 2 * (1 + a) ** 2, atol=1e-11)
    assert abs(multiplier) < 1
    np.testing.assert_allclose(a / 2 * np.mean(3 * x**2 - 1), (a + 3) / 4, rtol=1e-12)  # mean sharpness over the edge
    end = small_maps.cubic_orbit(x[0] + 1e-4, a, 2)[::2]
    assert abs(end[1] - x[0]) < 1e-4


def test_no_two_cycle_below_its_onset():
    with pytest.raises(ValueError, match="must exceed 1"):
        small_maps.two_cycle(1.0)


def test_bisection_refuses_an_end_that_is_not_inside():
    assert small_maps.bisect(lambda a: a < 0.3, 0.0, 1.0) == pytest.approx(0.3, abs=1e-6)
    for never in (lambda a: True, lambda a: False):
        with pytest.raises(ValueError, match="must hold at"):
            small_maps.bisect(never, 0.0, 1.0)


@settings(max_examples=20)
@given(st.floats(-2, 2), st.floats(0.5, 3))
def test_valley_sharpness_against_a_dense_hessian(x, y):
    hessian = jax.hessian(lambda z: jnp.log(jnp.cosh(z[0] * z[1])))(jnp.array([x, y]))
    np.testing.assert_allclose(small_maps.valley_sharpness(x, y), np.linalg.eigvalsh(hessian)[-1], rtol=1e-8)


def test_alignment_curve_is_where_a_step_turns_p_over():
    """With x² negligible beside y²: a large y and a small rate."""
    p, eta = np.array([0.3, 1.0, 2.0]), 1e-6
    y = np.sqrt(2 / (eta * small_maps.alignment_curve(p)))
    moved, q = small_maps.aligned(*small_maps.valley_step(p / y, y, eta), eta)
    np.testing.assert_allclose(moved, -p, rtol=1e-5)
    np.testing.assert_allclose(q, small_maps.alignment_curve(p), rtol=1e-5)
    assert small_maps.alignment_curve(0.0) == 1


@pytest.mark.parametrize("eta", [1 / 8, 1 / 12])
def test_final_sharpness_is_one_for_all_starts(eta):
    y = np.sqrt(np.array([1.25, 1.4, 1.6]) * 2 / eta)
    x, y = small_maps.valley_orbit(np.array([0.05, 0.1, 0.2]), y, eta, 4000)
    end = small_maps.valley_sharpness(x[-1], y[-1]) * eta / 2
    np.testing.assert_allclose(end, small_maps.final_sharpness(eta), atol=eta**4)  # the next order


@pytest.mark.parametrize("depth", [2, 3, 5])
def test_flow_solution_against_the_integrated_flow(depth):
    theta = rng.uniform(0.4, 2.0, depth)

    def flow(_, z):
        return -(z.prod() - 1) * z.prod() / z

    end = scipy.integrate.solve_ivp(flow, (0, 200), theta, rtol=1e-10, atol=1e-12, method="LSODA").y[:, -1]
    found = small_maps.flow_solution(theta)
    np.testing.assert_allclose(found, end, rtol=1e-7)
    hessian = jax.hessian(lambda z: (jnp.prod(z) - 1) ** 2 / 2)(jnp.asarray(found))
    np.testing.assert_allclose(small_maps.solution_sharpness(found), np.linalg.eigvalsh(hessian)[-1], rtol=1e-9)
    ray = small_maps.ray_solution(theta)
    np.testing.assert_allclose([ray.prod(), np.ptp(ray / theta)], [1, 0], atol=1e-12)


@settings(max_examples=50)
@given(st.lists(st.floats(0.05, 10), min_size=2, max_size=6))
def test_flow_solution_lies_at_the_minimum(theta):
    found = small_maps.flow_solution(np.array(theta))
    np.testing.assert_allclose(np.log(found).sum(), 0, atol=1e-10)
    squares = found**2 - np.square(theta)
    np.testing.assert_allclose(squares, squares[0], atol=1e-10 * (1 + np.square(theta).max()))
