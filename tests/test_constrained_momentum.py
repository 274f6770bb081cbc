"""The constrained step under heavy ball: gradient descent's trajectory of the same edge, in longer steps."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from eoslib import rules
from eoslib.constrained import ConstrainedState, constrained_step
from eoslib.objective import Objective


def test_heavy_ball_covers_its_effective_step_in_stable_parts():
    """For μ = .5 a step of heavy ball is three of gradient descent with the same edge: (1 + μ)/(1 − μ) = 3."""
    toy = oracles.Toy(alpha=2.0, beta=4.0, lam=3.0, drift=0.5)
    objective = Objective.create(oracles.toy_loss, jnp.zeros(3), toy.constants)
    step, ends = jax.jit(constrained_step), []
    for rule, count in (
        (rules.GradientDescent(toy.learning_rate), 60),
        (rules.HeavyBall(1.5 * toy.learning_rate, 0.5), 20),
    ):
        state = ConstrainedState.at(jnp.array([0.0, -0.05, 0.0]), jnp.array([1.0, 0.01, 0.0]))
        for _ in range(count):
            state, record = step(objective, rule, state)
        ends.append((state.theta, float(record.multiplier[0, 0])))
    np.testing.assert_allclose(ends[0][0], ends[1][0], rtol=0, atol=1e-12)
    assert ends[1][1] == pytest.approx(3 * ends[0][1], rel=1e-6)


def test_a_rule_without_a_constant_edge_is_refused():
    objective = Objective.create(lambda p: jnp.sum(p**2), jnp.zeros(2))
    state = ConstrainedState.at(jnp.ones(2), jnp.eye(2)[0])
    with pytest.raises(ValueError, match="Adam bounds the sharpness of a preconditioned Hessian"):
        constrained_step(objective, rules.Adam(0.1), state)
