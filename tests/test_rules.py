"""Update rules: their edge and update in closed form, and how what is no learning rate is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eoslib import rules
from eoslib.position import Position
from eoslib.rules import GradientDescent, resolve


def test_gradient_descent_in_closed_form():
    rule, theta, gradient = GradientDescent(0.1), jnp.array([1.0, -2.0]), jnp.array([3.0, 0.5])
    assert rule.edge == 20
    np.testing.assert_array_equal(rule.update(theta, gradient), theta - 0.1 * gradient)


def test_an_update_keeps_the_precision_of_the_position():
    """Steps far below the resolution of float32 add up in a Position or in float64, from float32 gradients."""
    rule, gradient = GradientDescent(1e-3), jnp.full(2, 1e-6, jnp.float32)
    for start in (jnp.ones(2), Position.of(jnp.ones(2, jnp.float32))):
        theta = start
        for _ in range(100):
            theta = rule.update(theta, gradient)
        assert (type(theta), theta.dtype) == (type(start), start.dtype)
        np.testing.assert_allclose(np.asarray(theta), 1 - 1e-7, rtol=0, atol=1e-13)  # the gradient's eps is 1.2e-7
    assert rule.update(jnp.ones(2, jnp.float32), gradient).dtype == jnp.float32


def test_a_rule_is_a_pytree_of_its_rates():
    assert jax.tree.leaves(GradientDescent(0.1)) == [0.1]
    assert jax.jit(lambda rule: rule.edge)(GradientDescent(0.1)) == 20
    np.testing.assert_allclose(jax.vmap(lambda rate: GradientDescent(rate).edge)(jnp.array([0.1, 1.0])), [20, 2])


@pytest.mark.parametrize("rate", [0.5, 1, np.float64(0.5), np.float32(0.5), np.array(0.5), jnp.array(0.5)])
@pytest.mark.parametrize("wrap", [lambda rate: rate, GradientDescent], ids=["rate", "rule"])
def test_rates_and_rules_are_resolved_alike(rate, wrap):
    found = resolve(wrap(rate))
    assert found == GradientDescent(float(rate))
    assert type(found.learning_rate) is float  # it takes the precision of what it multiplies


def test_a_traced_rate_passes():
    assert float(jax.jit(lambda rate: resolve(rate).edge)(0.1)) == 20
    assert jnp.isinf(jax.jit(lambda rate: resolve(GradientDescent(rate)).edge)(0.0))


@pytest.mark.parametrize(
    "rate", [0.0, -0.1, float("nan"), float("inf"), None, "fast", 1j, np.float64(-1.0), jnp.array(0.0), [0.1, 0.2]]
)
@pytest.mark.parametrize("wrap", [lambda rate: rate, GradientDescent], ids=["rate", "rule"])
def test_what_is_no_learning_rate_is_named(rate, wrap):
    with pytest.raises(ValueError, match="learning_rate must be positive and finite, got ") as error:
        resolve(wrap(rate))
    assert repr(rate) in str(error.value)


@pytest.mark.parametrize("rate", [np.array([0.1, 0.2]), jnp.array([0.1, 0.2])], ids=["numpy", "jax"])
def test_several_rates_at_once_are_refused(rate):
    with pytest.raises(ValueError, match=r"learning_rate must be positive and finite, got .*\[0.1, 0.2\]"):
        resolve(rate)


def test_a_further_direction_counts_shortly_before_the_edge():
    assert rules.EDGE_FRACTION * GradientDescent(0.02).edge == pytest.approx(1.9 / 0.02)
