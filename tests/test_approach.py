"""The way to the edge: located to one step, on the toy in closed form and on the network; how the search ends."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eoslib import rules
from eoslib.objective import Objective
from eoslib.position import Position
from eoslib.trajectories.approach import EdgeStatus, find_instability

ETA = oracles.RATE
EDGE = 2 / ETA
TOY = oracles.Toy(alpha=25.0, beta=4.0, drift=1.5)  # ε = .1


@pytest.fixture(scope="module")
def toy_objective(toy_objective):
    return dataclasses.replace(toy_objective, batch=TOY.constants)


def approach(objective, theta, rate=TOY.learning_rate, **options):
    return find_instability(objective, jnp.asarray(theta), rate, **dict(max_steps=500, progress=False) | options)


def test_the_instability_is_located_to_one_step(toy_objective):
    """On x = 0 the toy's sharpness rises by ηα a step: from 2/η − 10.1 it crosses after 21 steps of .5."""
    found = approach(toy_objective, [0.0, -10.1 / 2, 0.0])
    assert (found.status, found.step) == (EdgeStatus.REACHED, 21)
    assert found.status.message.startswith("reached: the sharpness is above its edge at the last step recorded")
    assert found.unmeasured == np.diff(found.checks["step"]).max() - 1
    np.testing.assert_allclose(found.theta, [0, -10.1 / 2 + 21 * 0.25, 21 * 0.03], atol=1e-12)
    y, z = -10.1 / 2 + 0.25 * np.arange(22), 0.03 * np.arange(22)
    np.testing.assert_allclose(found.loss, -12.5 * y - 1.5 * z, atol=1e-12)
    steps = found.checks["step"]
    assert (steps[0], steps[-1]) == (0, 21)
    assert (np.diff(steps) > 0).all()
    np.testing.assert_allclose(found.checks["sharpness"], 100 - 10.1 + 0.5 * steps, rtol=1e-9)
    np.testing.assert_allclose(found.checks["alpha"], TOY.alpha, rtol=1e-9)
    np.testing.assert_allclose(found.checks["gradient_norm"], np.hypot(12.5, 1.5), rtol=1e-9)


def test_halfway_along_a_step_the_sharpness_is_met_earlier(toy_objective):
    """At the midpoint, half a step ahead, the toy's S is .25 higher: it crosses from 99.75 on, after 20 steps of .5."""
    found = approach(toy_objective, [0.0, -10.1 / 2, 0.0], midpoint=True)
    assert (found.status, found.step) == (EdgeStatus.REACHED, 20)
    np.testing.assert_allclose(found.theta, [0, -10.1 / 2 + 20 * 0.25, 20 * 0.03], atol=1e-12)
    np.testing.assert_allclose(found.checks["sharpness"], 100 - 10.1 + 0.25 + 0.5 * found.checks["step"], rtol=1e-9)
    np.testing.assert_allclose(found.loss, 12.5 * (10.1 / 2 - 0.25 * np.arange(21)) - 0.045 * np.arange(21), atol=1e-12)


def test_the_instability_of_the_network_is_located_to_one_step(network):
    objective, theta, dense = network
    found = approach(objective, theta, ETA, max_steps=2000)
    assert found.status is EdgeStatus.REACHED
    assert found.loss.size == found.step + 1
    for step in range(found.step):
        if step == found.step - 1:
            assert dense.sharpness(theta) < EDGE
        np.testing.assert_allclose(found.loss[step], dense.loss(theta), rtol=1e-9)
        theta = theta - ETA * dense.gradient(theta)
    assert dense.sharpness(theta) >= EDGE
    np.testing.assert_allclose(found.theta, theta, atol=1e-10)


@pytest.mark.parametrize("midpoint", [False, True])
@pytest.mark.parametrize(
    "rule",
    [
        rules.HeavyBall(0.1, 0.5), rules.Nesterov(0.1, 0.5), rules.EMA(0.4, 0.5), rules.SAM(0.1, 0.1),
        rules.RMSProp(0.001), rules.Adam(0.01),
    ],
    ids=lambda rule: type(rule).__name__,
)  # fmt: skip
def test_the_edge_of_any_rule_is_located_to_one_step(network, rule, midpoint):
    """Where the dense Hessian, scaled as the step from there scales it, first has an eigenvalue beyond the edge."""
    objective, theta, dense = network
    found = approach(objective, theta, rule, max_steps=2000, midpoint=midpoint)
    assert found.status is EdgeStatus.REACHED

    @jax.jit
    def advance(theta, memory):
        loss, gradient = objective.value_and_grad(theta)
        following, memory = rule.step(objective, theta, memory, loss, gradient)
        scale = rule.scale(memory)
        hessian = dense.hessian((theta + following) / 2 if midpoint else theta)
        hessian = hessian if scale is None else scale[:, None] * hessian * scale[None]
        return following, memory, jnp.linalg.eigvalsh(hessian)[-1] / rule.edge_at(jnp.linalg.norm(gradient))

    memory, ratios = rule.init(theta), []
    for _ in range(found.step + 1):
        theta, memory, ratio = advance(theta, memory)
        ratios.append(float(ratio))
    assert int(np.argmax(np.array(ratios) >= 1)) == found.step > 3
    np.testing.assert_allclose(found.checks["curvature"][-1] / found.checks["edge"][-1], ratios[-1], rtol=1e-4)


def test_a_search_goes_on_from_any_state_that_it_saved(network):
    """To the same numbers; from the last state without a step."""
    objective, theta, _ = network
    states = []
    whole = approach(objective, theta, ETA, max_steps=2000, save=states.append)
    assert len(states) > 3
    for state in (states[0], states[len(states) // 2], states[-1]):
        leaves, structure = jax.tree.flatten(state)
        leaves, again = [np.asarray(leaf) for leaf in leaves], []

        def restore(template, leaves=leaves, structure=structure):
            assert jax.tree.structure(template) == structure
            return jax.tree.unflatten(structure, leaves)

        resumed = approach(objective, theta, ETA, max_steps=2000, restore=restore, save=again.append)
        assert len(again) < len(states)
        assert (resumed.status, resumed.step) == (whole.status, whole.step)
        assert list(resumed.checks) == list(whole.checks)
        jax.tree.map(np.testing.assert_array_equal, resumed, whole)
    assert not again


@pytest.mark.parametrize(
    ("theta", "options", "status", "step", "words"),
    [
        ([0.0, -10.0, 0.0], {"max_steps": 7}, EdgeStatus.STEP_LIMIT, 7, "was below its edge whenever it was measured"),
        ([0.0, 1.0, 0.0], {}, EdgeStatus.AT_START, 0, "warm it up"),
        ([float("nan"), 0.0, 0.0], {}, EdgeStatus.DIVERGED, 0, "no longer finite"),
    ],
)
def test_the_search_ends_in_words(toy_objective, theta, options, status, step, words):
    found = approach(toy_objective, theta, **options)
    assert found.status is status
    assert words in found.status.message
    assert found.step == step
    assert found.loss.size == found.step + 1  # the series so far is kept
    np.testing.assert_allclose(found.loss[0], float(TOY.loss(jnp.array(theta))))


def test_a_loss_that_ceases_to_be_finite_ends_the_search():
    objective = Objective.create(lambda p: jnp.where(p[0] < 0.5, jnp.nan, p @ p / 2), jnp.ones(1))
    found = approach(objective, [1.0], rate=0.2)
    assert found.status is EdgeStatus.DIVERGED
    np.testing.assert_allclose(found.loss, [*(0.8 ** (2 * np.arange(4)) / 2), np.nan], rtol=1e-12)  # .8⁴ is below .5


def test_a_loss_that_has_grown_at_a_measurement_ends_the_series_there():
    objective = Objective.create(lambda p: jnp.where(p[0] < 0.55, 1e9, 0.0) + p @ p / 2, jnp.ones(1))
    found = approach(objective, [1.0], rate=0.2)  # measured at steps 0, 1 and 3, where .8³ is below .55
    assert (found.status, found.step, found.loss.size) == (EdgeStatus.DIVERGED, 3, 4)


def factorization(seed, singular=(3.0, 1.6, 0.9, 0.5, 0.2), hidden=8, scale=0.1):
    """½‖W₂W₁ − M‖², whose sharpness alternates once it has jumped above 2/η; the objective and a start."""
    size, rng = len(singular), np.random.default_rng(seed)
    shapes = (hidden, size), (size, hidden)
    start = tuple(jnp.asarray(scale * rng.normal(size=shape)) for shape in shapes)
    target = jnp.diag(jnp.asarray(singular))
    objective = Objective.create(lambda p: jnp.sum((p[1] @ p[0] - target) ** 2) / 2, start)
    return objective, objective.ravel(start)


def first_crossing(objective, theta, rate, steps):
    """The first step with S ≥ 2/η by dense eigenvalues at every step, or None."""
    hessian = jax.jit(jax.hessian(objective.loss))
    for step in range(steps + 1):
        if np.linalg.eigvalsh(hessian(theta))[-1] >= 2 / rate:
            return step
        theta = theta - rate * objective.gradient(theta)
    return None


@pytest.mark.parametrize("seed", range(4))
def test_a_sharpness_that_jumps_and_alternates_is_met_at_its_first_crossing(seed):
    """Looks at every twelfth step see one parity of it, below 2/η for ever."""
    objective, theta = factorization(seed)
    first = first_crossing(objective, theta, 0.4, 60)
    found = approach(objective, theta, rate=0.4, max_steps=400)
    assert (found.status, found.step) == (EdgeStatus.REACHED, first)
    for limit in (first, first + 1, 2 * first + 1, 7 * first + 3):
        assert approach(objective, theta, rate=0.4, max_steps=limit).step == first
    for limit in range(1, first):
        below = approach(objective, theta, rate=0.4, max_steps=limit)
        assert (below.status, below.step, below.loss.size) == (EdgeStatus.STEP_LIMIT, limit, limit + 1)


@settings(max_examples=10)
@given(st.integers(0, 10**6), st.floats(0.05, 0.45), st.integers(1, 80))
def test_the_step_found_does_not_depend_on_the_limit(seed, rate, limit):
    objective, theta = factorization(seed)
    anywhere = approach(objective, theta, rate=rate, max_steps=200)
    within = approach(objective, theta, rate=rate, max_steps=limit)
    if anywhere.status is EdgeStatus.REACHED and anywhere.step <= limit:
        assert (within.status, within.step) == (EdgeStatus.REACHED, anywhere.step)
        assert anywhere.step == first_crossing(objective, theta, rate, anywhere.step)
        np.testing.assert_array_equal(within.theta, anywhere.theta)
    else:
        assert (within.status, within.step) == (EdgeStatus.STEP_LIMIT, limit)


def test_a_rising_loss_gives_a_crossing_between_looks_away():
    """A ridge of curvature 20 > 2/η = 3.8 that is met at step 17 alone, between the looks at steps 15, 30 and 31."""

    def loss(p):
        return -1.9 * p[0] + p[1] ** 2 * (1e-3 + 20 * jnp.exp(-(((p[0] - 17.0) / 0.3) ** 2))) / 2

    objective, theta, rate = Objective.create(loss, jnp.ones(2)), jnp.array([0.0, 0.5]), 1 / 1.9
    assert first_crossing(objective, theta, rate, 40) == 17
    found = approach(objective, theta, rate=rate, max_steps=40)
    assert (found.status, found.step) == (EdgeStatus.REACHED, 17)
    # Without a rise it goes unseen, and the bound on what is unseen says so; measured at every step it does not.
    quiet = jnp.array([0.0, 1e-3])
    assert approach(objective, quiet, rate=rate, max_steps=40).unmeasured == 14
    certain = approach(objective, quiet, rate=rate, max_steps=40, max_interval=1)
    assert (certain.status, certain.step, certain.unmeasured) == (EdgeStatus.REACHED, 17, 0)


@pytest.mark.parametrize(
    ("theta", "options", "message"),
    [
        ([0.0] * 3, {"rate": -1.0}, "learning_rate must be positive and finite, got -1.0"),
        ([0.0] * 3, {"max_steps": 0}, "max_steps must be at least 1, got 0"),
        ([0.0] * 3, {"max_interval": 0}, "max_interval must be at least 1, got 0"),
        ([0.0] * 2, {}, r"theta must have shape \(3,\), got \(2,\)"),
    ],
)
def test_bad_arguments_of_the_search_are_named(toy_objective, theta, options, message):
    with pytest.raises(ValueError, match=message):
        approach(toy_objective, theta, **options)


def test_the_search_has_a_progress_bar(toy_objective, capsys):
    approach(toy_objective, [0.0, -10.1 / 2, 0.0], progress=True)
    err = capsys.readouterr().err
    assert "to the edge" in err
    assert "S = 89.9 of 100" in err or "S = 90" in err
    assert "loss" in err


def test_the_search_keeps_steps_below_the_resolution_of_the_derivatives(toy_objective):
    """Positions have twice the precision of derivatives in float32."""
    single = dataclasses.replace(toy_objective, dtype=jnp.dtype("float32"))
    single = dataclasses.replace(single, batch=jax.tree.map(lambda c: c.astype(jnp.float32), single.batch))
    found = approach(single, jnp.array([0.0, -10.1 / 2, 0.0], jnp.float32)).theta
    exact = approach(toy_objective, jnp.array([0.0, -10.1 / 2, 0.0])).theta
    np.testing.assert_allclose(np.asarray(found), exact, rtol=0, atol=10.1 * np.finfo(np.float32).eps)
    assert isinstance(found, Position)
    assert np.any(found.low != 0)
