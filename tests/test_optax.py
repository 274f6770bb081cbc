"""The constrained step as an optax transformation: anyone's loop, schedules, wrappers, frozen parts, donation."""

import functools
import pickle

import flax.linen as nn
import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import orbax.checkpoint as ocp
import pytest
from flax import nnx

import eoslib
from eoslib.constrained import ConstrainedState, ConstrainedStatus, constrained_step
from eoslib.objective import Objective
from eoslib.rules import GradientDescent
from eoslib.transformation import ConstrainedTransformState

ETA = oracles.RATE
EDGE = 2 / ETA
stepped = jax.jit(constrained_step)

# A small regression with a tanh: as JAX comes to a user, in float32.
INPUTS = np.random.default_rng(0).normal(0.5, 1, (20, 3)).astype(np.float32)
TARGETS = np.sin(3 * INPUTS[:, 0]).astype(np.float32)


def model(params, inputs):
    return jnp.tanh(inputs @ params["hidden"]["w"] + params["hidden"]["b"]) @ params["out"]


def loss_fn(params, batch=(INPUTS, TARGETS)):
    return jnp.mean((model(params, batch[0]) - batch[1]) ** 2)


def start(dtype=jnp.float32):
    """Parameters, each in a buffer of its own."""
    rng = np.random.default_rng(1)
    shapes = {"hidden": {"w": (3, 4), "b": (4,)}, "out": (4,)}
    return jax.tree.map(lambda s: jnp.asarray(rng.normal(size=s), dtype), shapes, is_leaf=lambda s: type(s) is tuple)


def sharpness(params, of=loss_fn):
    """λ_max of the dense Hessian."""
    flat, back = jax.flatten_util.ravel_pytree(params)
    return float(np.linalg.eigvalsh(np.asarray(jax.hessian(lambda t: of(back(t)))(flat)))[-1])


@pytest.fixture
def rate(ordinary):
    """A learning rate whose edge lies a tenth below the sharpness at the start; in the precision of a user."""
    return 2 / (0.9 * sharpness(start()))


def train(transformation, params, steps, *, state=None, **arguments):
    """Train by a jitted loop; return parameters, state, and the parameters after each step."""
    arguments = {"loss_fn": loss_fn} | arguments
    state, seen = transformation.init(params) if state is None else state, []

    @jax.jit
    def step(params, state):
        updates, state = transformation.update(jax.grad(loss_fn)(params), state, params, **arguments)
        return optax.apply_updates(params, updates), state

    for _ in range(steps):
        params, state = step(params, state)
        seen.append(params)
    return params, state, seen


def assert_same(one, other, tolerance=1e-5):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * (1 + np.abs(b).max()))


def inner_of(state) -> ConstrainedTransformState:
    """The transformation's own state within that of wrappers."""
    is_ours = lambda node: isinstance(node, ConstrainedTransformState)  # noqa: E731
    return next(filter(is_ours, jax.tree.leaves(state, is_leaf=is_ours)))


class Net(nn.Module):
    """The small network of the oracles, as a flax module with the same parameters."""

    @nn.compact
    def __call__(self, x):
        x = nn.tanh(nn.Dense(oracles.WIDTH, name="hidden", param_dtype=jnp.float64)(x))
        return nn.Dense(1, name="out", param_dtype=jnp.float64)(x)[:, 0]


def test_constrained_training_with_flax_and_optax(network, edge):
    objective, _, dense = network
    inputs, labels = oracles.mlp_batch()

    def loss_fn(params):
        return jnp.mean((Net().apply({"params": params}, inputs) - labels) ** 2)

    transformation = eoslib.constrained_gradient_descent(ETA)
    params = objective.unravel(edge[0])
    state = transformation.init(params)

    @jax.jit
    def step(params, state):
        loss, grads = jax.value_and_grad(loss_fn)(params)
        updates, state = transformation.update(grads, state, params, loss_fn=loss_fn)
        return optax.apply_updates(params, updates), state, loss

    same = ConstrainedState.at(edge[0], jnp.asarray(state.start))
    losses = []
    for t in range(30):
        params, state, loss = step(params, state)
        losses.append(float(loss))
        same, record = stepped(objective, GradientDescent(ETA), same)
        theta = np.asarray(objective.ravel(params))
        np.testing.assert_allclose(theta, same.theta, rtol=1e-9, atol=1e-11)
        np.testing.assert_allclose(state.sharpness, record.geometry.sharpness, rtol=1e-10)
        assert state.message == record.message
        if t > 0:
            assert abs(dense.sharpness(theta) / EDGE - 1) <= 1e-4
    assert (np.diff(losses) < 0).all()
    assert bool(state.active)
    assert state.message == ConstrainedStatus.BENT.message


# --- what it takes, in words ------------------------------------------------------------------------------------------


def test_the_transformation_says_what_it_needs():
    for rate in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"learning_rate must be positive and finite, got {rate}"):
            eoslib.constrained_gradient_descent(rate)
    transformation, params = eoslib.constrained_gradient_descent(0.1), {"w": jnp.ones(3)}
    state = transformation.init(params)
    for options in ({}, {"params": params}, {"loss_fn": lambda p: p["w"].sum()}):
        with pytest.raises(ValueError, match=r"needs update\(grads, state, params, loss_fn=loss_fn\)"):
            transformation.update(params, state, **options)
    with pytest.raises(ValueError, match="floating-point arrays only"):
        transformation.init({"w": jnp.arange(3)})
    assert isinstance(transformation, optax.GradientTransformationExtraArgs)


def test_a_state_restored_without_its_structure_is_named(rate):
    transformation = eoslib.constrained_gradient_descent(rate)
    state = transformation.init(start())
    with pytest.raises(ValueError, match=r"must be a ConstrainedTransformState, got a dict: restore .* with a target"):
        transformation.update(None, state._asdict(), start(), loss_fn=loss_fn)


FROZEN = {"hidden": {"w": True, "b": True}, "out": False}
TRAINED = {"hidden": False, "out": True}  # a prefix


@pytest.mark.parametrize(
    "wrap",
    [
        lambda inner: optax.masked(inner, {"hidden": False, "out": True}),
        lambda inner: optax.partition(
            {"train": inner, "freeze": optax.set_to_zero()}, {"hidden": "freeze", "out": "train"}
        ),
        lambda inner: optax.selective_transform(inner, freeze_mask=FROZEN),
    ],
    ids=["masked", "partition", "selective_transform"],
)
def test_a_wrapper_that_hides_parameters_is_named(rate, wrap):
    with pytest.raises(ValueError, match=r"MaskedNode.*trainable=mask.*optax\.chain\(.*set_to_zero.*change the step"):
        wrap(eoslib.constrained_gradient_descent(rate)).init(start())


@pytest.mark.parametrize(
    ("trainable", "words"),
    [
        ({"hidden": True}, "pytree of booleans like params, or a prefix of it"),
        ({"hidden": "train", "out": "freeze"}, "must hold booleans, True somewhere, got {'hidden': 'train'"),
        (False, "must hold booleans, True somewhere, got False"),
        (lambda params: jax.tree.map(jnp.shape, params), "booleans"),
    ],
)
def test_what_is_no_mask_is_named(rate, trainable, words):
    with pytest.raises(ValueError, match=words):
        eoslib.constrained_gradient_descent(rate, trainable=trainable).init(start())


# --- schedules --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("jitted", [True, False])
def test_a_schedule_of_rates_is_followed(ordinary, jitted):
    """From a rate of zero on, below every edge: gradient descent under the same schedule."""
    schedule = optax.schedules.warmup_cosine_decay_schedule(0.0, 0.05, 4, 12)
    plain, constrained = optax.sgd(schedule), eoslib.constrained_gradient_descent(schedule)
    params = expected = start()
    assert sharpness(params) < 0.5 * 2 / 0.05
    state, plain_state = constrained.init(params), plain.init(params)
    update = functools.partial(constrained.update, None, loss_fn=loss_fn)
    update = jax.jit(update) if jitted else update
    for t in range(12):
        updates, state = update(state, params)
        moves, plain_state = plain.update(jax.grad(loss_fn)(expected), plain_state)
        params, expected = optax.apply_updates(params, updates), optax.apply_updates(expected, moves)
        assert_same(params, expected, 1e-6)
        assert int(state.steps) == t + 1
        assert state.message == ConstrainedStatus.BELOW.message
    assert np.abs(expected["out"] - start()["out"]).max() > 1e-3


def test_a_schedule_moves_the_edge(rate):
    """Once the rate is doubled, the sharpness is brought down to the edge that is half as high."""
    doubled = optax.piecewise_constant_schedule(rate, {10: 2.0})
    transformation = eoslib.constrained_gradient_descent(doubled)
    params, state, _ = train(transformation, start(), 10)
    assert 0.98 * 2 / rate <= float(state.sharpness) <= 2 / rate * 1.001
    _, state, _ = train(transformation, params, 10, state=state)
    assert 0.98 / rate <= float(state.sharpness) <= 1 / rate * 1.001


# --- frozen parts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trainable", [TRAINED, jax.tree.map(np.logical_not, FROZEN), lambda params: TRAINED])
def test_only_what_is_trainable_moves_and_counts(ordinary, trainable):
    """The constrained trajectory of the block alone: its sharpness against the dense one, its path against the step."""
    params, edge = start(), None
    frozen = params["hidden"]

    def block_loss(out):
        return loss_fn({"hidden": frozen, "out": out}) + jnp.sum(out**4) / 10  # the block alone would be quadratic

    def whole_loss(params):
        return loss_fn(params) + jnp.sum(params["out"] ** 4) / 10

    edge = 0.9 * sharpness(params["out"], block_loss)
    assert sharpness(params, whole_loss) > 1.5 * edge  # of all parameters another one
    transformation = eoslib.constrained_gradient_descent(2 / edge, trainable=trainable)
    objective = Objective.create(block_loss, params["out"])
    state = transformation.init(params)
    same = ConstrainedState.at(params["out"], state.start)
    assert state.start.shape == (1, 4)
    for _ in range(10):
        updates, state = jax.jit(lambda s, p: transformation.update(None, s, p, loss_fn=whole_loss))(state, params)
        assert not np.any(jax.tree.leaves(jax.tree.map(np.any, updates["hidden"])))
        assert jax.tree.structure(updates) == jax.tree.structure(params)
        params = optax.apply_updates(params, updates)
        same, record = stepped(objective, GradientDescent(2 / edge), same)
        np.testing.assert_allclose(params["out"], same.theta, atol=1e-5)
        np.testing.assert_allclose(state.sharpness, sharpness(record.theta, block_loss), rtol=1e-3)
        assert state.message == record.message
    assert sharpness(params["out"], block_loss) <= edge * (1 + 1e-3)


def test_frozen_parts_need_not_be_floating_point(rate):
    params = start() | {"count": jnp.arange(3)}
    transformation = eoslib.constrained_gradient_descent(rate, trainable={"hidden": True, "out": True, "count": False})
    updates, _ = transformation.update(None, transformation.init(params), params, loss_fn=lambda p: loss_fn(p))
    assert updates["count"].dtype == params["count"].dtype
    np.testing.assert_array_equal(optax.apply_updates(params, updates)["count"], [0, 1, 2])


@pytest.mark.parametrize(
    "after",
    [optax.freeze(FROZEN), optax.masked(optax.set_to_zero(), FROZEN), optax.scale(0.5), optax.add_noise(1e-3, 0.5, 0)],
    ids=["freeze", "masked", "scale", "noise"],
)
def test_a_step_that_another_transformation_changes_is_noticed(rate, after):
    transformation = optax.chain(eoslib.constrained_gradient_descent(rate), after)
    params, state, _ = train(transformation, start(), 1)
    assert inner_of(state).message == ConstrainedStatus.words(inner_of(state).status) != "altered"  # no step before it
    assert int(inner_of(state).status) != ConstrainedStatus.ALTERED
    _, state, _ = train(transformation, params, 1, state=state)
    assert int(inner_of(state).status) == ConstrainedStatus.ALTERED
    assert "pass trainable=" in inner_of(state).message


@pytest.mark.parametrize("loss", [loss_fn, lambda p: p["out"][0] ** 2 + 1e6 * p["out"][1]], ids=["net", "cancelling"])
@pytest.mark.parametrize("jitted", [True, False])
def test_a_step_that_nothing_changes_is_not_called_altered(rate, loss, jitted):
    """Also where what is left of a parameter is the rounding of what it lost."""
    transformation = eoslib.constrained_gradient_descent(rate)
    params, state = start(), transformation.init(start())

    def step(params, state):
        updates, state = transformation.update(None, state, params, loss_fn=loss)
        return optax.apply_updates(params, updates), state

    step = jax.jit(step) if jitted else step
    for _ in range(8):
        params, state = step(params, state)
        assert int(state.status) != ConstrainedStatus.ALTERED


# --- wrappers, files, buffers -----------------------------------------------------------------------------------------

STEPS = 6
WRAPPERS = {
    "chain": lambda rate: optax.chain(optax.clip_by_global_norm(1.0), eoslib.constrained_gradient_descent(rate)),
    "apply_if_finite": lambda rate: optax.apply_if_finite(eoslib.constrained_gradient_descent(rate), 3),
    "inject_hyperparams": lambda rate: optax.inject_hyperparams(lambda rule: eoslib.constrained_gradient_descent(rule))(
        rule=rate
    ),
    "named_chain": lambda rate: optax.named_chain(("ours", eoslib.constrained_gradient_descent(rate))),
}


@functools.cache
def alone(rate):
    return train(eoslib.constrained_gradient_descent(rate), start(), STEPS)


@pytest.fixture
def bare(rate):
    """Parameters, state and path without any wrapper."""
    return alone(rate)


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_wrappers_leave_the_trajectory_as_it_is(rate, bare, wrap):
    params, state, _ = train(wrap(rate), start(), STEPS)
    assert_same(params, bare[0])
    assert inner_of(state).message == bare[1].message


def test_accumulated_gradients_leave_the_trajectory_as_it_is(rate, bare):
    """MultiSteps: every other call moves, and the calls between are no alteration."""
    transformation = optax.MultiSteps(eoslib.constrained_gradient_descent(rate), 2).gradient_transformation()
    _, state, seen = train(transformation, start(), 2 * STEPS)
    assert_same(seen[-1], bare[0])
    assert_same(seen[2], seen[1], 0)
    assert inner_of(state).message == bare[1].message


def test_a_step_with_gradients_that_are_not_finite_is_passed_over(rate):
    transformation = optax.apply_if_finite(eoslib.constrained_gradient_descent(rate), 3)
    params, state, _ = train(transformation, start(), 2)
    broken = jax.tree.map(lambda leaf: leaf * jnp.nan, params)
    updates, state = transformation.update(broken, state, params, loss_fn=loss_fn)
    assert_same(optax.apply_updates(params, updates), params, 0)
    _, state, _ = train(transformation, params, 1, state=state)
    assert int(inner_of(state).status) not in (ConstrainedStatus.ALTERED, ConstrainedStatus.NOT_FINITE)


@pytest.mark.parametrize("trainable", [True, {"hidden": False, "out": True}])
def test_an_nnx_optimizer_takes_it(rate, trainable):
    class Model(nnx.Module):
        def __init__(self):
            self.hidden, self.out = nnx.Param(start()["hidden"]["w"]), nnx.Param(start()["out"])

        def __call__(self, inputs):
            return jnp.tanh(inputs @ self.hidden[...]) @ self.out[...]

    net = Model()
    mask = True if trainable is True else lambda params: jax.tree.map_with_path(lambda p, _: "out" in str(p[0]), params)
    optimizer = nnx.Optimizer(net, eoslib.constrained_gradient_descent(rate, trainable=mask), wrt=nnx.Param)
    graph = nnx.graphdef(net)

    def of(params):
        return jnp.mean((nnx.merge(graph, params)(INPUTS) - TARGETS) ** 2)

    first = jax.tree.map(jnp.copy, nnx.state(net, nnx.Param))
    for _ in range(3):
        optimizer.update(net, nnx.grad(lambda m: jnp.mean((m(INPUTS) - TARGETS) ** 2))(net), loss_fn=of)
    last = nnx.state(net, nnx.Param)
    assert float(of(last)) < float(of(first))
    assert np.array_equal(last["hidden"][...], first["hidden"][...]) == (trainable is not True)
    assert optimizer.opt_state.message in [s.message for s in ConstrainedStatus if s < ConstrainedStatus.ALTERED]


def restored_by_orbax(state, folder):
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder / "state", state)
        checkpointer.wait_until_finished()
        return checkpointer.restore(folder / "state", jax.tree.map(jnp.zeros_like, state))


RESTORED = {
    "pickle": lambda state, folder: pickle.loads(pickle.dumps(state)),
    "flax": lambda state, folder: flax.serialization.from_bytes(
        jax.tree.map(jnp.zeros_like, state), flax.serialization.to_bytes(state)
    ),
    "orbax": restored_by_orbax,
    "numpy": lambda state, folder: jax.tree.map(np.asarray, state),
}


@pytest.mark.parametrize("restored", RESTORED.values(), ids=RESTORED)
def test_a_state_continues_from_a_file(rate, bare, tmp_path, restored):
    transformation = eoslib.constrained_gradient_descent(rate)
    params, state, _ = train(transformation, start(), 3)
    params, state, _ = train(transformation, params, STEPS - 3, state=restored(state, tmp_path))
    assert_same(params, bare[0], 0)
    assert state.message == bare[1].message


def pointers(tree) -> list[int]:
    return [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(tree)]


@pytest.mark.parametrize("single", [False, True], ids=["tree", "one vector"])
def test_parameters_and_state_can_be_donated(rate, bare, single):
    """No buffer stands twice in a state, nor in the parameters too, from the start on."""
    params, of = start(), loss_fn
    if single:
        params, back = jax.flatten_util.ravel_pytree(params)
        of = lambda flat: loss_fn(back(flat))  # noqa: E731
    transformation = eoslib.constrained_gradient_descent(rate)
    state = transformation.init(params)
    assert len(set(pointers((params, state)))) == len(jax.tree.leaves((params, state)))

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state):
        updates, state = transformation.update(None, state, params, loss_fn=of)
        return optax.apply_updates(params, updates), state

    for _ in range(STEPS):
        params, state = step(params, state)
    assert_same(jax.flatten_util.ravel_pytree(params)[0], jax.flatten_util.ravel_pytree(bare[0])[0])
    updates, state = transformation.update(None, state, params, loss_fn=of)  # what comes out without jit
    assert len(set(pointers((params, updates, state)))) == len(jax.tree.leaves((params, updates, state)))


# --- compiling, batches, precisions, transformations of JAX -----------------------------------------------------------


def test_without_jit_a_loss_function_is_compiled_once(rate):
    traced = []

    def loss(params):
        traced.append(1)
        return loss_fn(params)

    for later, first in ((rate / 2, rate), (optax.linear_schedule(rate, 0, 10), optax.linear_schedule(0, rate, 10))):
        params, counts = start(), []
        for rule in (first, later):  # another rate, the same program
            transformation = eoslib.constrained_gradient_descent(rule)
            state = transformation.init(params)
            for _ in range(3):
                updates, state = transformation.update(None, state, params, loss_fn=loss)
                params = optax.apply_updates(params, updates)
                counts.append(len(traced))
        assert len(set(counts)) == 1


def test_a_batch_may_change_from_step_to_step(rate):
    """Handed in as an argument it is no part of the program: traced once, and each step is that of its own batch."""
    traced, counts, transformation = [], [], eoslib.constrained_gradient_descent(rate / 4)

    def loss(params, batch):
        traced.append(1)
        return loss_fn(params, batch)

    params = expected = start()
    state = transformation.init(params)
    for t in range(3):
        batch = (np.roll(INPUTS, t, axis=1), TARGETS)
        updates, state = transformation.update(None, state, params, loss_fn=loss, batch=batch)
        params = optax.apply_updates(params, updates)
        grads = jax.grad(loss_fn)(expected, batch)
        expected = jax.tree.map(lambda p, g: p - rate / 4 * g, expected, grads)
        assert_same(params, expected, 1e-6)  # below the edge: gradient descent
        counts.append(len(traced))
    assert len(set(counts)) == 1


def test_micro_batches_leave_the_trajectory_as_it_is_and_a_sum_is_refused(rate, bare):
    """A sum over pieces would be another loss: refused where it is evaluated, also after it passed in traced code."""
    sizes, transformation = set(), eoslib.constrained_gradient_descent(rate)
    pieces = {"batch": (INPUTS, TARGETS), "micro_batch": 3}

    def loss(params, batch):
        sizes.add(len(batch[1]))
        return loss_fn(params, batch)

    params, state = start(), transformation.init(start())
    for _ in range(STEPS):
        updates, state = transformation.update(None, state, params, loss_fn=loss, **pieces)
        params = optax.apply_updates(params, updates)
    assert_same(params, bare[0])
    assert max(sizes) <= 3 < len(TARGETS)
    total = functools.partial(transformation.update, loss_fn=lambda p, b: len(b[1]) * loss(p, b), **pieces)
    jax.eval_shape(total, None, state, params)
    with pytest.raises(ValueError, match="mean over samples"):
        total(None, state, params)


def test_a_loss_may_close_over_what_an_outer_jit_traces(rate, bare):
    """The field's usual loop: the batch is the jitted step's argument, the loss a closure made inside."""
    transformation = eoslib.constrained_gradient_descent(rate)

    @jax.jit
    def step(params, state, batch):
        updates, state = transformation.update(None, state, params, loss_fn=lambda p: loss_fn(p, batch))
        return optax.apply_updates(params, updates), state

    params, state = start(), transformation.init(start())
    for _ in range(STEPS):
        params, state = step(params, state, (INPUTS, TARGETS))
    assert_same(params, bare[0])


class Unhashable:
    """A loss with data of its own, compared by them."""

    __hash__ = None

    def __call__(self, params):
        return loss_fn(params)


def test_any_callable_is_a_loss(rate, bare):
    for loss in (Unhashable(), functools.partial(loss_fn, batch=(INPUTS, TARGETS)), jax.jit(loss_fn)):
        transformation = eoslib.constrained_gradient_descent(rate)
        params, _, _ = train(transformation, start(), STEPS, loss_fn=loss)
        assert_same(params, bare[0])


def test_trajectories_side_by_side_are_those_one_by_one_without_a_nan(rate):
    """Scanned, and mapped over rates and over starts."""
    others = jax.tree.map(lambda leaf: 0.9 * leaf, start())
    starts = jax.tree.map(lambda *leaves: jnp.stack(leaves), start(), others)

    def run(params, rate):
        transformation = eoslib.constrained_gradient_descent(rate)

        def step(carry, _):
            params, state = carry
            updates, state = transformation.update(None, state, params, loss_fn=loss_fn)
            return (optax.apply_updates(params, updates), state), state.status

        return jax.lax.scan(step, (params, transformation.init(params)), None, length=STEPS)

    rates = jnp.array([rate, 0.5 * rate])
    with jax.debug_nans(True):
        (found, _), status = jax.jit(jax.vmap(jax.vmap(run, (None, 0)), (0, None)))(starts, rates)
    assert status.shape == (2, 2, STEPS)
    for i, params in enumerate((start(), others)):
        for j, eta in enumerate((rate, 0.5 * rate)):
            expected, _, _ = train(eoslib.constrained_gradient_descent(eta), params, STEPS)
            assert_same(jax.tree.map(lambda leaf, i=i, j=j: leaf[i, j], found), expected, 1e-4)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_parameters_are_moved_in_their_own_dtype(rate, dtype):
    """Derivatives in float32; what rounding to the parameters' dtype costs is all that differs, and no alteration."""
    params = start(dtype)
    transformation = eoslib.constrained_gradient_descent(rate / 2)
    state = transformation.init(params)
    for _ in range(5):
        lifted = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)
        updates, state = transformation.update(None, state, params, loss_fn=loss_fn)
        assert {leaf.dtype for leaf in jax.tree.leaves(updates)} == {jnp.dtype(dtype)}
        np.testing.assert_allclose(state.sharpness, sharpness(lifted), rtol=1e-3)
        assert state.sharpness.dtype == jnp.float32
        params = optax.apply_updates(params, updates)
        assert int(state.status) == ConstrainedStatus.BELOW
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(dtype)}
    assert float(loss_fn(params)) < float(loss_fn(start(dtype)))


def test_parameters_of_several_precisions_keep_theirs(rate):
    params = start() | {"out": start(jnp.bfloat16)["out"]}
    transformation = eoslib.constrained_gradient_descent(rate)
    _, state, seen = train(transformation, params, 4)
    assert [leaf.dtype for leaf in jax.tree.leaves(seen[-1])] == [leaf.dtype for leaf in jax.tree.leaves(params)]
    assert int(state.status) <= ConstrainedStatus.VIOLATED


def test_a_loss_may_return_more_than_the_loss(rate, bare):
    def loss(params):
        return loss_fn(params), {"prediction": model(params, INPUTS)}

    params, _, _ = train(eoslib.constrained_gradient_descent(rate), start(), STEPS, loss_fn=loss, has_aux=True)
    assert_same(params, bare[0])


@pytest.mark.parametrize("kind", ["regression", "one parameter", "linear"])
def test_ordinary_losses_far_below_the_edge_are_descended_as_by_sgd(ordinary, kind):
    """∇S⊥ = 0 on all of them, and ∇²L u = 0 on the last: fifty steps of gradient descent, nothing else."""
    of, params = {
        "regression": (
            lambda p: jnp.mean((INPUTS @ p["w"] + p["b"] - TARGETS) ** 2),
            {"w": jnp.ones(3), "b": jnp.ones(())},
        ),
        "one parameter": (lambda p: jnp.cosh(p["w"]).sum(), {"w": jnp.ones(1)}),
        "linear": (lambda p: jnp.sum(p["w"] * INPUTS[0]), {"w": jnp.ones(3)}),
    }[kind]
    plain, constrained, expected = optax.sgd(0.05), eoslib.constrained_gradient_descent(0.05), params
    state, plain_state = constrained.init(params), plain.init(params)
    for _ in range(50):
        updates, state = constrained.update(None, state, params, loss_fn=of)
        moves, plain_state = plain.update(jax.grad(of)(expected), plain_state)
        params, expected = optax.apply_updates(params, updates), optax.apply_updates(expected, moves)
        assert state.message == ConstrainedStatus.BELOW.message
    assert_same(params, expected, 1e-5)
