"""Rules that choose their step size: on parabolas against closed forms, and inside the loop that follows sharpness."""

import jax.numpy as jnp
import numpy as np
import pytest

from eoslib.objective import Objective
from eoslib.trajectories import descent
from selfstab.theory import tuners

CURVATURES = np.array([0.5, 1.0, 4.0])
objective = Objective.create(lambda z: jnp.sum(jnp.asarray(CURVATURES, z.dtype) * z**2) / 2, jnp.ones(3))
start = np.array([1.0, -2.0, 0.3])
g = CURVATURES * start
loss = CURVATURES @ start**2 / 2
kappa = (CURVATURES * g**2).sum() / (g @ g)


def rate_of(rule, memory=None, theta=start):
    theta = jnp.asarray(theta)
    value, gradient = objective.value_and_grad(theta)
    moved, memory = rule.step(objective, theta, rule.init(theta) if memory is None else memory, value, gradient)
    np.testing.assert_allclose(moved, theta - rule.rate(memory) * gradient, rtol=1e-5)
    return float(rule.rate(memory)), memory, moved


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0])
def test_curvature_tuner_on_a_parabola(sigma):
    """σ = 1 minimizes the loss along the gradient; σ = 2 leaves it unchanged."""
    rate, _, moved = rate_of(tuners.CurvatureTuner(sigma))
    assert rate == pytest.approx(sigma / kappa, rel=1e-5)
    change = float(objective.loss(moved)) - loss
    assert change == pytest.approx((-sigma + sigma**2 / 2) * (g @ g) / kappa, abs=1e-5)


@pytest.mark.parametrize("slope", [0.1, 0.5])
def test_armijo_accepts_the_first_rate_below_its_limit(slope):
    rate, memory, _ = rate_of(tuners.LineSearch(slope=slope, first=3.0))
    limit, trials = 2 * (1 - slope) / kappa, 4.5 * 0.8 ** np.arange(40)
    assert rate == pytest.approx(trials[trials <= limit][0], rel=1e-5)
    assert int(memory.trials) == 1 + (trials > limit).sum()


def test_a_window_accepts_a_rise_below_an_earlier_loss():
    """Armijo refuses it; the largest of two losses allows it, and would allow more if it remembered three."""
    recent = jnp.full(tuners.LONGEST_WINDOW, -jnp.inf).at[:2].set(jnp.array([1.4 * loss, 9 * loss]))
    memory = tuners.Search(jnp.asarray(2.2 / kappa), recent, jnp.array(0))  # to 1.3 of the loss
    rates = [rate_of(tuners.LineSearch(window=m, slope=0.0, growth=1.0), memory)[0] for m in (1, 2)]
    assert rates[0] == pytest.approx(0.8 * 2.2 / kappa)
    assert rates[1] == pytest.approx(2.2 / kappa)
    with pytest.raises(ValueError, match=r"window must lie in 1\.\.10, got 11"):
        tuners.LineSearch(window=11).init(jnp.ones(3))


def test_polyak_on_one_direction_is_a_quarter_of_the_edge():
    rate, *_ = rate_of(tuners.PolyakStep(), theta=np.array([0.0, 0.0, 1.0]))
    assert rate * CURVATURES[-1] / 2 == pytest.approx(1 / 4)
    assert rate_of(tuners.PolyakStep(lowest=0.5 * loss))[0] == pytest.approx(0.5 * loss / (g @ g), rel=1e-5)


def test_dowg_against_its_sums():
    """Written out with NumPy, ten steps."""
    rule, theta = tuners.DistanceTuner(first=0.05), jnp.asarray(start)
    memory, path, far, total = None, [start], 0.05, 0.0
    for _ in range(10):
        rate, memory, theta = rate_of(rule, memory, theta)
        slope = CURVATURES * path[-1]
        far = max(far, np.linalg.norm(path[-1] - start))
        total += far**2 * slope @ slope
        assert rate == pytest.approx(far**2 / total**0.5, rel=1e-4)
        path.append(path[-1] - far**2 / total**0.5 * slope)


@pytest.mark.parametrize("name", tuners.TUNERS)
def test_every_tuner_runs_in_the_loop_and_records_its_rates(name):
    training = descent.follow(objective, jnp.asarray(start, jnp.float32), jnp.ones(3), tuners.TUNERS[name], 8, every=4)
    assert np.all(np.isfinite(training.rate))
    assert np.all(training.rate > 0)
    np.testing.assert_allclose(training.sharpness, 4.0, rtol=1e-3)
    assert training.kept.shape == (2, 3)
    moved = np.asarray(training.kept[0]) - float(training.rate[0]) * CURVATURES * start
    np.testing.assert_allclose(objective.loss(jnp.asarray(moved, jnp.float32)), training.loss[1], rtol=1e-4)


def test_a_tuner_of_its_own_needs_choose():
    with pytest.raises(NotImplementedError, match="Tuner must define choose"):
        tuners.Tuner().choose(objective, jnp.asarray(start), (), jnp.asarray(loss), jnp.asarray(g))
