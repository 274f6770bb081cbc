"""SAM at a minimum, against steps of the library's own rule on a loss whose force is known."""

import jax.numpy as jnp
import numpy as np
import pytest

from eoslib.objective import Objective
from eoslib.rules import SAM
from selfstab.theory import ascent

S0, SLOPES, CURVATURES = 100.0, np.array([3.0, -5.0, 2.0]), np.array([0.0, 4.0, 60.0])


@pytest.fixture(scope="module")
def valley():
    """θ = (x, w): ½(S₀ + b·w)x² + ½Σλ_i w_i², so that S at the floor is S₀ + b·w, and ∇S⊥ = b."""

    def loss(p):
        x, w = p["theta"][0], p["theta"][1:]
        return (S0 + jnp.asarray(SLOPES) @ w) * x**2 / 2 + jnp.sum(jnp.asarray(CURVATURES) * w**2) / 2

    return Objective.create(loss, {"theta": jnp.zeros(4)})


def follow(objective, rule, start, steps):
    """Positions before each step and after the last, (steps + 1, 4)."""
    theta, track = jnp.asarray(start), [np.asarray(start)]
    for _ in range(steps):
        theta, _ = rule.step(objective, theta, (), *objective.value_and_grad(theta))
        track.append(np.asarray(theta))
    return np.stack(track)


@pytest.mark.parametrize("product", [0.5, 1.0, 1.5])
def test_sam_bounces_and_drifts_as_predicted(valley, product):
    rate, reach, steps = product / S0, 1e-3, 60
    radius = reach * (2 - product) / 2
    size = float(ascent.bounce(S0, learning_rate=rate, radius=radius))
    assert size + radius == pytest.approx(reach, rel=1e-12)
    track = follow(valley, SAM(rate, radius), np.array([size, 0.0, 0.0, 0.0]), steps)
    # S itself drifts by 1e-5 of its value, and w by as much of the scale on which S changes.
    np.testing.assert_allclose(np.abs(track[:, 0]), size, rtol=1e-4)
    predicted = ascent.drift(CURVATURES, SLOPES**2, steps, sharpness=S0, learning_rate=rate, reach=reach)
    np.testing.assert_allclose(np.diff(track[:, 1:] @ SLOPES), predicted, rtol=1e-3, atol=1e-3 * abs(predicted[0]))


def test_a_stiff_direction_comes_to_rest_and_a_flat_one_does_not():
    how = {"sharpness": S0, "learning_rate": 0.01, "reach": 1e-3}
    stiff, flat = (ascent.drift(np.array([curvature]), np.ones(1), 400, **how) for curvature in (20.0, 0.0))
    assert stiff[0] < flat[0] == flat[-1]  # the ascent pushes along stiff directions, too
    assert abs(stiff[-1]) < 1e-12 * abs(flat[-1])


@pytest.mark.parametrize("rate", [0.0, 0.02, 0.03])
def test_without_an_attracting_bounce_there_is_no_answer(rate):
    with pytest.raises(ValueError, match=r"learning_rate \* sharpness must lie in \(0, 2\)"):
        ascent.bounce(S0, learning_rate=rate, radius=0.1)
