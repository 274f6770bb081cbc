"""Update rules: their edge and update in closed form, and how what is no learning rate is refused."""

import dataclasses
import itertools

import cases
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

from eoslib import rules
from eoslib.objective import Objective
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


# --- every rule -------------------------------------------------------------------------------------------------------

each_rule = pytest.mark.parametrize("make", cases.RULES.values(), ids=cases.RULES)


def on_parabola(rule, curvature, norm=None):
    """The matrix that takes (θ, memory) on ½Sθ² one step on, at fixed P or ‖∇L‖; its spectral radius."""
    objective = Objective.create(lambda theta: curvature * jnp.sum(theta**2) / 2, jnp.zeros(1))
    if isinstance(rule, rules.SAM):  # at the point with this norm of the gradient
        theta = jnp.full(1, 1.0 if norm is None else norm / curvature)
        return abs(float((rule.step(objective, theta, (), 0.0, curvature * theta)[0] / theta)[0]))
    if isinstance(rule, rules.RMSProp):
        rule = GradientDescent(rule.learning_rate)
    if isinstance(rule, rules.Adam):
        rule = rules.EMA(rule.learning_rate, rule.momentum)
    start = jnp.zeros(1), rule.init(jnp.zeros(1))
    flat, back = jax.flatten_util.ravel_pytree(start)

    def step(flat):
        theta, memory = back(flat)
        following = rule.step(objective, theta, memory, 0.0, curvature * theta)
        return jax.flatten_util.ravel_pytree(following)[0]

    return np.abs(np.linalg.eigvals(jax.jacfwd(step)(flat))).max()


@each_rule
def test_the_edge_is_where_the_spectral_radius_on_a_parabola_passes_one(make):
    random = np.random.default_rng(0)
    for _ in range(5):
        rule = resolve(make(10 ** random.uniform(-3, 1)))
        if hasattr(rule, "momentum"):
            rule = dataclasses.replace(rule, momentum=random.uniform(0.01, 0.98))
        if hasattr(rule, "radius"):
            rule = dataclasses.replace(rule, radius=10 ** random.uniform(-3, 0))
        norm = 10 ** random.uniform(-3, 1)
        edge = float(rule.edge_at(norm))
        assert rule.edge is None or rule.edge == edge
        assert on_parabola(rule, edge, norm) == pytest.approx(1, rel=1e-9)
        assert on_parabola(rule, 0.999 * edge, norm) < 1 < on_parabola(rule, 1.001 * edge, norm)


@pytest.mark.parametrize("make", [cases.RULES["RMSProp"], cases.RULES["Adam"]])
def test_a_preconditioned_rule_turns_unstable_where_its_scaled_curvature_passes_the_edge(make):
    """With P held by a long memory, an oscillation too small to change it grows above the edge and dies below it."""
    for factor, grows in ((0.95, False), (1.05, True)):
        rule, one = dataclasses.replace(make(1e-3), decay=1 - 1e-6), jnp.ones(1)
        memory = one if isinstance(rule, rules.RMSProp) else rules.Moments(0 * one, one, jnp.array(10**9))
        curvature = factor * rule.edge / rule.scale(memory) ** 2  # P is one, plus the offset

        def step(state, _, rule=rule, curvature=curvature):
            x, memory = state
            moved, memory = rule.step(None, jnp.zeros(1), memory, 0.0, curvature * x)
            return (x + moved, memory), x

        _, series = jax.lax.scan(step, (jnp.full(1, 1e-9), memory), None, length=400)
        assert (float(jnp.abs(series).max()) > 1e-6) == grows


def test_memories_keep_the_precision_of_the_position_and_scales_are_of_the_step():
    rule, theta, gradient = rules.Adam(0.1, 0.8, 0.9, offset=0.5, root=0.25), jnp.zeros(2), jnp.array([3.0, -4.0])
    moved, memory = rule.step(None, theta, rule.init(theta), 0.0, gradient)
    # One step: m̂ = g, v̂ = g², and P holds 1 − β₁ = .2 of the average's correction.
    damped = np.sqrt(np.square([3, 4]) + 0.25) + 0.5
    np.testing.assert_allclose(moved, -0.1 * np.array([3, -4]) / damped, rtol=1e-14)
    np.testing.assert_allclose(rule.scale(memory), (0.2 * damped) ** -0.5, rtol=1e-14)
    assert memory.first.dtype == jnp.float64
    assert np.isfinite(rule.scale(rule.init(theta))).all()


def test_sam_looks_uphill():
    objective = Objective.create(lambda theta: jnp.sum(theta**4) / 4, jnp.zeros(2))
    theta = jnp.array([1.0, 2.0])
    gradient = np.array([1.0, 8.0])
    for rule, ascent in (
        (rules.SAM(0.1, 0.3), 0.3 * gradient / np.hypot(1, 8)), (rules.SAM(0.1, 0.3, normalized=False), 0.3 * gradient)
    ):  # fmt: skip
        moved, _ = rule.step(objective, theta, (), 0.0, jnp.asarray(gradient))
        np.testing.assert_allclose(moved, theta - 0.1 * (np.array([1.0, 2.0]) + ascent) ** 3, rtol=1e-13)
    still, _ = rules.SAM(0.1, 0.3).step(objective, jnp.zeros(2), (), 0.0, jnp.zeros(2))
    np.testing.assert_array_equal(still, 0)
    assert rules.SAM(0.1, 0.0).edge_at(0.3) == pytest.approx(20)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (rules.HeavyBall(0.1, 1.0), r"momentum must lie in \[0, 1\), got 1.0"),
        (rules.HeavyBall(-0.1, 0.5), "learning_rate must be positive and finite, got -0.1"),
        (rules.Adam(0.1, decay=-0.1), r"decay must lie in \[0, 1\), got -0.1"),
        (rules.RMSProp(0.1, offset="a"), "offset must be finite and not negative, got 'a'"),
        (rules.SAM(0.1, float("inf")), "radius must be finite and not negative, got inf"),
    ],
)
def test_rates_out_of_their_range_are_named(rule, message):
    with pytest.raises(ValueError, match=message):
        resolve(rule)


def test_a_constraint_needs_one_edge_of_the_sharpness_itself():
    assert rules.require_edge(0.1) == GradientDescent(0.1)
    assert rules.require_edge(rules.HeavyBall(0.1, 0.5)).flow_rate == 0.2
    with pytest.raises(ValueError, match="Adam bounds the sharpness of a preconditioned Hessian"):
        rules.require_edge(rules.Adam(0.1))
    with pytest.raises(ValueError, match="SAM has no constant edge: it depends on the norm of the gradient"):
        rules.require_edge(rules.SAM(0.1, 0.1))
    with pytest.raises(ValueError, match="rule must be of GradientDescent here, got HeavyBall"):
        resolve(rules.HeavyBall(0.1, 0.5), GradientDescent)


def test_no_two_rules_have_one_structure():
    """Or JAX may run the program of one for another: both have as many rates, and only their class differs."""

    @dataclasses.dataclass(frozen=True)
    class Mine(rules.Rule):
        learning_rate: float

    @dataclasses.dataclass(frozen=True)
    class Yours(rules.Rule):
        learning_rate: float

    made = [
        kind(*[0.1] * sum(not field.metadata.get("static") for field in dataclasses.fields(kind)))
        for kind in rules.RULES
    ]
    structures = [jax.tree.structure(rule) for rule in (*made, Mine(0.1), Yours(0.1))]
    assert not [(a, b) for a, b in itertools.combinations(structures, 2) if a == b]
    for rule, structure in zip(made, structures):
        assert jax.tree.unflatten(structure, jax.tree.leaves(rule)) == rule
    assert jax.tree.structure(rules.SAM(0.1, 0.1)) != jax.tree.structure(rules.SAM(0.1, 0.1, normalized=False))
