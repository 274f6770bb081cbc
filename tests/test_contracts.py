"""What every step promises, over rules, losses and directions: its form, and that jit, scan and vmap change nothing."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import NamedTuple

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eoslib import rules
from eoslib.constrained import ConstrainedState, constrained_step
from eoslib.position import Position
from eoslib.trajectories import descent
from eoslib.trajectories.descent import DescentState, gradient_descent_step
from eoslib.trajectories.flow import flow_start, flow_step
from eoslib.trajectories.prediction import PredictedState, generalized_predicted_step, predicted_step

#: Two programs for the same sums differ by rounding, which a refined eigenvector carries on over three steps.
ROUNDING = 1e-10


class Step(NamedTuple):
    """A step function; its first state, from (case, k); whether it takes a constrained step's record; what besides."""

    step: Callable
    state: Callable
    referred: bool = False
    further: Callable = lambda case, k: ()


def directions(case, k):
    """K rows (k, p) in the precision of the derivatives."""
    return jnp.asarray(np.random.default_rng(1).normal(size=(k, case.objective.size)), case.objective.dtype)


def predicted_start(case, k):
    v = 0.1 * directions(case, k)[0]
    return PredictedState(v, jnp.vdot(case.eigenvector / jnp.linalg.norm(case.eigenvector), v))


STEPS = {
    "gradient descent": Step(
        gradient_descent_step, lambda case, k: DescentState(case.theta, case.eigenvector, case.eigenvector)
    ),
    "flow": Step(
        flow_step,
        lambda case, k: flow_start(case.objective, case.theta, case.eigenvector),
        further=lambda case, k: (1.5,),
    ),
    "constrained": Step(
        constrained_step,
        lambda case, k: ConstrainedState.at(case.theta, case.eigenvector),
        further=lambda case, k: (directions(case, k),),
    ),
    "predicted": Step(predicted_step, predicted_start, referred=True),
    "generalized": Step(generalized_predicted_step, lambda case, k: 0.1 * directions(case, k)[0], referred=True),
}
each_step = pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
each_rule = pytest.mark.parametrize("kind", cases.DESCENTS)
each_k = pytest.mark.parametrize("k", cases.DIRECTIONS)


@pytest.fixture(scope="module", params=cases.LOSSES, ids=lambda make: make.__name__)
def case(request):
    return request.param()


@pytest.fixture(scope="module")
def records(case):
    """What a constrained step measures at the case's point, for each rule."""
    state = ConstrainedState.at(case.theta, case.eigenvector)
    step = jax.jit(constrained_step)
    return {kind: step(case.objective, kind(case.learning_rate), state)[1] for kind in cases.DESCENTS}


def arguments(step, case, records, kind, k):
    """(state, *what follows it)."""
    return step.state(case, k), *[records[kind]][: step.referred], *step.further(case, k)


def assert_close(found, expected):
    """Two trees agree to rounding, each array relative to its largest entry."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected)):
        scale = float(np.abs(other).max()) if np.size(other) else 0.0
        np.testing.assert_allclose(one, other, rtol=0, atol=ROUNDING * scale)


def stacked(trees):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


@each_step
def test_every_step_has_one_signature(step):
    """step(objective, rule, state, …) -> (state, record); options come by keyword."""
    parameters = list(inspect.signature(step.step).parameters.values())
    assert [parameter.name for parameter in parameters[:2]] == ["objective", "rule"]
    assert parameters[2].name in ("state", "v")  # the generalized prediction's state is its displacement alone
    required = [parameter for parameter in parameters if parameter.default is inspect.Parameter.empty]
    assert len(required) == 3 + step.referred + (step.step is flow_step)  # the flow's number of steps
    assert all(parameter.kind is parameter.KEYWORD_ONLY for parameter in parameters if "tolerance" in parameter.name)


@each_k
@each_rule
@each_step
def test_a_step_is_the_same_in_jit_scan_and_vmap(step, kind, k, case, records):
    """Three steps at two learning rates: one by one, by one compiled program, and side by side in another."""
    objective, rates = case.objective, [case.learning_rate, 0.7 * case.learning_rate]
    state, *further = arguments(step, case, records, kind, k)
    traced = []

    @jax.jit
    def jitted(objective, rule, state, *further):
        traced.append(1)
        return step.step(objective, rule, state, *further)

    @jax.jit
    @jax.vmap
    def side_by_side(rate):
        return jax.lax.scan(lambda s, _: step.step(objective, kind(rate), s, *further), state, None, length=3)

    ends, series = [], []
    for rate in rates:
        following, records = state, []
        for _ in range(3):
            following, record = jitted(objective, kind(rate), following, *further)
            records.append(record)
        ends.append(following)
        series.append(stacked(records))
    assert_close(side_by_side(jnp.array(rates)), (stacked(ends), stacked(series)))
    assert len(traced) == 1  # one program serves every rate
    assert any(np.abs(one - other).max() > 1e-6 for one, other in zip(*map(jax.tree.leaves, ends)))  # and they differ
    if case.objective.size == 3:  # operation by operation, each compiled for itself: on one loss
        assert_close(
            step.step(objective, kind(rates[0]), state, *further), jitted(objective, kind(rates[0]), state, *further)
        )
    assert hasattr(record, "_fields")
    assert hasattr(state, "_fields") or isinstance(state, jax.Array)  # the generalized prediction's is v alone


@each_k
@each_rule
@each_step
@pytest.mark.parametrize(
    ("dtype", "rate"), [("float64", np.float32), ("float32", float), ("float32", np.float64)], ids=str
)
def test_a_step_keeps_shapes_and_precisions_of_its_state(step, kind, k, rate, dtype, case, records):
    """Positions are float64, derivatives as the objective says, whatever number the learning rate is."""

    def cast(tree):
        return jax.tree.map(lambda leaf: leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, tree)

    objective = dataclasses.replace(case.objective, batch=cast(case.objective.batch), dtype=jnp.dtype(dtype))
    low = case._replace(objective=objective, eigenvector=cast(case.eigenvector))
    record = cast(records[kind])._replace(theta=records[kind].theta)
    # A user's own precision: NumPy's rules of promotion.
    with jax.numpy_dtype_promotion("standard"):
        state, *further = arguments(step, low, {kind: record}, kind, k)
        following, _ = jax.eval_shape(step.step, objective, kind(rate(case.learning_rate)), state, *further)
    assert jax.tree.structure(following) == jax.tree.structure(state)
    for before, after in zip(jax.tree.leaves(state), jax.tree.leaves(following)):
        assert (after.shape, after.dtype) == (before.shape, before.dtype)
    if hasattr(state, "theta"):
        assert following.theta.dtype == jnp.float64
    assert any(leaf.dtype == dtype for leaf in jax.tree.leaves(following))


@each_k
def test_products_come_for_as_many_directions_as_are_asked_for(case, k):
    state = ConstrainedState.at(case.theta, case.eigenvector)
    rule = cases.DESCENTS[0](case.learning_rate)
    _, record = jax.eval_shape(constrained_step, case.objective, rule, state, directions(case, k))
    assert record.products.shape == (k, case.objective.size)
    _, record = jax.eval_shape(constrained_step, case.objective, rule, state)
    assert record.products.shape == (0, case.objective.size)


# --- update rules -----------------------------------------------------------------------------------------------------

every_rule = pytest.mark.parametrize("make", cases.RULES.values(), ids=cases.RULES)


@pytest.fixture(scope="module")
def ridge():
    """The toy in float64: a loss small enough that every rule compiles in a second."""
    return cases.toy()


@every_rule
def test_a_rule_is_the_same_in_jit_scan_and_vmap(make, ridge):
    """Three steps at two learning rates: by the loop, one by one, and side by side in another program."""
    objective, theta, rates = ridge.objective, ridge.theta, [ridge.learning_rate, 0.7 * ridge.learning_rate]

    def step(rule, state, _):
        return rule.step(objective, *state, *objective.value_and_grad(state[0])), state[0]

    def by_scan(rate):
        rule = make(rate)
        return jax.lax.scan(lambda state, _: step(rule, state, _), (theta, rule.init(theta)), None, length=3)[0]

    side_by_side = jax.jit(jax.vmap(by_scan))(jnp.array(rates))
    for i, rate in enumerate(rates):
        rule, state = make(rate), (theta, make(rate).init(theta))
        for _ in range(3):
            state, _ = step(rule, state, None)
        assert_close(jax.tree.map(lambda leaf, i=i: leaf[i], side_by_side), state)
        run = descent.follow(objective, theta, ridge.eigenvector, rule, 3, stride=2)
        assert_close((run.theta, run.memory), state)
        assert np.isnan(run.sharpness).tolist() == [False, True, False]
        assert np.isfinite(run.edge).all()


@every_rule
def test_a_rule_keeps_shapes_and_precisions(make, ridge):
    """A float32 objective moves a Position or a float64 θ, and what it remembers keeps its form."""
    batch = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), ridge.objective.batch)
    objective = dataclasses.replace(ridge.objective, batch=batch, dtype=jnp.dtype(jnp.float32))
    for theta in (ridge.theta, Position.of(ridge.theta.astype(jnp.float32))):
        rule = make(ridge.learning_rate)
        state = theta, rule.init(theta)
        following = jax.eval_shape(lambda t, m, r=rule: r.step(objective, t, m, *objective.value_and_grad(t)), *state)
        assert jax.tree.structure(following) == jax.tree.structure(state)
        for before, after in zip(jax.tree.leaves(state), jax.tree.leaves(following)):
            assert (after.shape, after.dtype) == (before.shape, before.dtype)


@every_rule
def test_a_rule_is_a_pytree_of_its_rates_alone(make):
    rule = make(0.1)
    numeric = [f.name for f in dataclasses.fields(rule) if f.name in rules.RANGES]
    assert jax.tree.leaves(rule) == [getattr(rule, name) for name in numeric]
    assert {f.name for f in dataclasses.fields(rule)} - {*numeric} <= {"normalized"}
    assert type(rule) in rules.RULES
