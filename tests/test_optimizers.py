"""Optax's transformations as rules: read off by their answers, and step by step against optax itself."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from eoslib import rules
from eoslib.objective import Objective
from eoslib.optimizers import Transformation, from_optax
from eoslib.position import Position

RECOGNIZED = {
    "sgd": (optax.sgd(0.1), rules.GradientDescent(0.1)),
    "momentum": (optax.sgd(0.1, momentum=0.9), rules.HeavyBall(0.1, 0.9)),
    "nesterov": (optax.sgd(0.02, momentum=0.95, nesterov=True), rules.Nesterov(0.02, 0.95)),
    "ema": (optax.chain(optax.ema(0.9, debias=False), optax.scale(-0.1)), rules.HeavyBall(0.01, 0.9)),
    "rmsprop": (optax.rmsprop(1e-3), rules.RMSProp(1e-3, 0.9, 0.0, 1e-8)),
    "rmsprop, offset": (
        optax.rmsprop(3e-4, decay=0.99, eps=1e-7, eps_in_sqrt=False), rules.RMSProp(3e-4, 0.99, 1e-7, 0.0)
    ),
    "adam": (optax.adam(1e-3), rules.Adam(1e-3, 0.9, 0.999, 1e-8, 0.0)),
    "adam, root": (optax.adam(1e-3, b2=0.99, eps=0, eps_root=1e-8), rules.Adam(1e-3, 0.9, 0.99, 0.0, 1e-8)),
    "injected": (optax.inject_hyperparams(optax.adam)(3e-4), rules.Adam(3e-4, 0.9, 0.999, 1e-8, 0.0)),
    "chain": (optax.chain(optax.identity(), optax.trace(0.5), optax.scale(-0.01)), rules.HeavyBall(0.01, 0.5)),
}  # fmt: skip
OTHERS = {
    "weight decay": optax.adamw(1e-3),
    "nadam": optax.nadam(1e-3),
    "clipped": optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1)),
    "schedule": optax.sgd(optax.cosine_decay_schedule(0.1, 1000)),
    "corrected average": optax.chain(optax.ema(0.9), optax.scale(-0.1)),
    "sign": optax.lion(1e-3),
    "nothing": optax.set_to_zero(),
}


@pytest.fixture(autouse=True)
def promotion():
    """NumPy's promotion, without which optax's own code does not run; eoslib's does (the rules' contracts)."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture(scope="module")
def objective():
    return Objective.create(lambda p: jnp.sum(jnp.array([3.0, 1.0, 0.2]) * p**2) / 2 + p[0] ** 2 * p[1], jnp.zeros(3))


def stepped(objective, rule, start, steps=40):
    """Positions (steps, p) under a rule."""
    theta, memory, found = start, rule.init(start), []
    for _ in range(steps):
        loss, gradient = objective.value_and_grad(theta)
        theta, memory = rule.step(objective, theta, memory, loss, gradient)
        found.append(np.asarray(theta))
    return np.stack(found)


def by_optax(objective, transformation, start, steps=40):
    theta, state, found = start, transformation.init(start), []
    for _ in range(steps):
        updates, state = transformation.update(objective.gradient(theta), state, theta)
        theta = optax.apply_updates(theta, updates)
        found.append(np.asarray(theta))
    return np.stack(found)


@pytest.mark.parametrize(("transformation", "expected"), RECOGNIZED.values(), ids=RECOGNIZED)
def test_a_known_rule_is_read_off_and_steps_as_optax_does(objective, transformation, expected):
    found = from_optax(transformation)
    assert type(found) is type(expected)
    for rate, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert rate == pytest.approx(other, rel=1e-12)
    start = jnp.array([0.3, -0.2, 1.0])
    moved = by_optax(objective, transformation, start)
    # In float64; optax keeps injected rates in float32, whose rounding 1 − β₂ = 1e-3 feels a thousandfold.
    accuracy = 1e-4 if "Hyperparams" in type(transformation.init(start)).__name__ else 1e-11
    np.testing.assert_allclose(stepped(objective, found, start) - start, moved - start, rtol=accuracy, atol=accuracy)


@pytest.mark.parametrize("transformation", OTHERS.values(), ids=OTHERS)
def test_anything_else_is_wrapped_and_has_no_edge(objective, transformation):
    found = from_optax(transformation)
    assert isinstance(found, Transformation)
    assert found.edge is None
    start = jnp.array([0.3, -0.2, 1.0])
    np.testing.assert_array_equal(stepped(objective, found, start), by_optax(objective, transformation, start))


def test_a_wrapped_transformation_keeps_the_precision_of_the_position():
    rule = Transformation(optax.sgd(1e-3))
    theta, gradient = Position.of(jnp.ones(2, jnp.float32)), jnp.full(2, 1e-6, jnp.float32)
    memory = rule.init(theta)
    for _ in range(100):
        theta, memory = rule.step(None, theta, memory, 0.0, gradient)
    np.testing.assert_allclose(np.asarray(theta), 1 - 1e-7, rtol=0, atol=1e-13)


def test_what_is_no_such_transformation_is_named():
    with pytest.raises(ValueError, match=r"transformation must be an optax.GradientTransformation, got float"):
        from_optax(0.1)
    with pytest.raises(ValueError, match="transformation cannot update one array by its gradient alone: "):
        from_optax(optax.lbfgs())
