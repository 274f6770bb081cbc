"""Losses, parameters and models as researchers have them, in JAX's own mode of 32 bits, against JAX called directly."""

import dataclasses
import functools
import pickle
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.flatten_util import ravel_pytree

import eoslib
from eoslib.objective import Objective
from selfstab import source

pytestmark = pytest.mark.usefixtures("ordinary")

CLASSES, SAMPLES = 3, 12
KEYS = [jax.random.key(seed) for seed in range(4)]
LABELS = np.arange(SAMPLES) % CLASSES


def data():
    """Inputs (12, 4) and labels (12,), made within the test, so in its precision."""
    return jax.random.normal(KEYS[0], (SAMPLES, 4), jnp.float32), jnp.asarray(LABELS, jnp.int32)


def start():
    return {"w": jax.random.normal(KEYS[1], (4, CLASSES), jnp.float32), "b": jnp.zeros(CLASSES, jnp.float32)}


def logits(p, x):
    return jnp.tanh(x @ p["w"] + p["b"])


def one_hot(p, batch):
    return jnp.mean((logits(p, batch[0]) - jax.nn.one_hot(batch[1], CLASSES)) ** 2)


def rows_of_eye(p, batch):
    return -jnp.mean(jnp.sum(jax.nn.log_softmax(logits(p, batch[0])) * jnp.eye(CLASSES)[batch[1]], axis=1))


def buffer(p, batch):
    out = jnp.zeros((SAMPLES, CLASSES))
    for k in range(CLASSES):
        out = out.at[:, k].set(logits(p, batch[0])[:, k] ** (k + 1))
    return jnp.mean((out - 1) ** 2)


def scan_carry(p, batch):
    def cell(hidden, column):
        return jnp.tanh(hidden * p["b"] + column[:, None] * p["w"][0] + 0.3), None

    hidden, _ = jax.lax.scan(cell, jnp.zeros((SAMPLES, CLASSES)), batch[0].T)
    return jnp.mean(hidden**2)


def cumulated(p, batch):
    return jnp.mean(jnp.cumsum(logits(p, batch[0]), axis=1) ** 2)


def ranked(p, batch):
    out = logits(p, batch[0])
    order = jnp.argsort(out, axis=1)
    return jnp.mean(jax.lax.top_k(out, 2)[0] ** 2) + jnp.mean(jnp.take_along_axis(out, order, axis=1)[:, 0] ** 3)


def picked(p, batch):
    log_p = jax.nn.log_softmax(logits(p, batch[0]))
    return -jnp.mean(jnp.take_along_axis(log_p, batch[1][:, None], axis=1))


def dropout_by_keys_of_the_batch(p, batch):
    keys = jax.vmap(lambda label: jax.random.fold_in(KEYS[2], label))(batch[1])
    mask = jax.vmap(lambda key: jax.random.bernoulli(key, 0.5, (CLASSES,)))(keys)
    return jnp.mean(jnp.where(mask, logits(p, batch[0]) / 0.5, 0) ** 2)


def dropout_by_a_key_closed_over(p, batch):
    mask = jax.random.bernoulli(KEYS[2], 0.5, (SAMPLES, CLASSES))
    return jnp.mean(jnp.where(mask, logits(p, batch[0]) / 0.5, 0) ** 2)


def convolution(p, batch):
    images = batch[0][:, None, :]  # (n, channels, length)
    out = jax.lax.conv_general_dilated(images, p["w"][:, None, :], (1,), "SAME")
    return jnp.mean(jax.nn.softplus(out) ** 2) + jnp.sum(p["b"] ** 2)


def branch(p, batch):
    out = logits(p, batch[0])
    return jax.lax.cond(jnp.sum(p["b"]) > -1, lambda o: jnp.mean(o**4), lambda o: jnp.mean(o), out)


def fixed_loop(p, batch):
    step = lambda _, out: jnp.tanh(out + p["b"])  # noqa: E731
    return jnp.mean(jax.lax.fori_loop(0, 3, step, batch[0] @ p["w"]) ** 2)


@jax.checkpoint
def rematerialized(p, batch):
    return jnp.mean(jnp.sin(logits(p, batch[0])) ** 2)


def einstein(p, batch):
    return jnp.mean(jnp.einsum("ni,ik,nj,jk->nk", batch[0], p["w"], batch[0], p["w"]) ** 2) + jnp.sum(p["b"] ** 2)


def spectrum(p, batch):
    return jnp.mean(jnp.abs(jnp.fft.rfft(logits(p, batch[0]), axis=1)) ** 2)


def integer_powers_and_default_floats(p, batch):
    weights = jnp.linspace(0, 1, CLASSES) * jnp.full(CLASSES, 2.0) + jnp.arange(CLASSES)
    return jnp.mean(weights * logits(p, batch[0]) ** 2) + 1e-2 * optax.tree.norm(p) ** 2


ORDINARY = [
    one_hot, rows_of_eye, buffer, scan_carry, cumulated, ranked, picked, dropout_by_keys_of_the_batch,
    dropout_by_a_key_closed_over, convolution, branch, fixed_loop, rematerialized, einstein, spectrum,
    integer_powers_and_default_floats,
]  # fmt: skip


def directly(loss, params, *batch):
    """L, ∇L, the Hessian and its derivative along u, u, of the flat vector, by JAX as a user calls it."""
    theta, unravel = ravel_pytree(params)
    f = lambda t: loss(unravel(t), *batch)  # noqa: E731
    u = unit(theta)
    third = jax.jvp(jax.hessian(f), (theta,), (u,))[1] @ u
    return jax.value_and_grad(f)(theta), jax.hessian(f)(theta), third


def unit(theta):
    u = jax.random.normal(KEYS[3], theta.shape, theta.dtype)
    return u / jnp.linalg.norm(u)


def assert_same_derivatives(objective, theta, expected):
    """To the rounding of float32 through three nested passes and sums over 12 samples: a few tens of eps = 1.2e-7."""
    (loss, gradient), hessian, third = expected
    u = unit(theta)
    cubic, products = objective.cubic_and_hvps(theta, u, u[None])
    found = (*cubic, objective.hvp(theta, u), objective.hvps(theta, u[None])[0], products[0])
    right = (loss, gradient, hessian @ u, third, *[hessian @ u] * 3)
    for value, wanted in zip(found, right, strict=True):
        assert value.dtype == objective.dtype == jnp.float32
        np.testing.assert_allclose(value, wanted, atol=1e-5 * max(1, float(np.abs(wanted).max())))


@pytest.mark.parametrize("loss", ORDINARY, ids=lambda loss: loss.__name__)
def test_an_ordinary_loss_has_the_derivatives_that_jax_gives_its_caller(loss):
    objective = Objective.create(loss, start(), data())
    assert not objective.reverse
    assert_same_derivatives(objective, objective.ravel(start()), directly(loss, start(), data()))


def test_the_loss_sees_the_dtypes_of_its_callers_own_call():
    """But for floats of less precision than the derivatives'."""
    seen = []

    def loss(p, batch):
        seen[:] = [leaf.dtype for leaf in jax.tree.leaves((p, batch))]
        return jnp.mean(p["w"]) * jnp.mean(batch["z"].astype(jnp.float32))

    kinds = {"a": np.bool_, "b": np.uint8, "c": np.int16, "d": np.float16, "e": jnp.bfloat16, "z": np.float64}
    arrays = {name: np.ones(SAMPLES, dtype) for name, dtype in kinds.items()}
    Objective.create(loss, {"w": np.ones(2, np.float32)}, arrays)
    assert seen == ["float32", "bool", "uint8", "int16", "float32", "float32", "float32"]
    with jax.enable_x64(True):
        Objective.create(loss, {"w": np.ones(2, np.float32)}, arrays)
        assert seen[-1] == "float64"
        Objective.create(loss, {"w": np.ones(2, np.float32)}, arrays, dtype="float32")
        assert seen[-1] == "float32"


# --- parameters of low precision --------------------------------------------------------------------------------------


@pytest.mark.parametrize("promotion", ["standard", "strict"])
@pytest.mark.parametrize(("w", "b"), [(jnp.bfloat16,) * 2, (jnp.float16,) * 2, (jnp.bfloat16, jnp.float32)], ids=str)
def test_curvature_of_parameters_of_low_precision_is_that_in_float32(w, b, promotion):
    params = {"w": start()["w"].astype(w), "b": start()["b"].astype(b)}
    lifted = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)
    low = (data()[0].astype(w), data()[1])
    expected = directly(picked, lifted, (low[0].astype(jnp.float32), low[1]))
    with jax.numpy_dtype_promotion(promotion):
        objective = Objective.create(picked, params, low)
        theta = objective.ravel(params)
        assert theta.dtype == objective.dtype == jnp.float32
    assert_same_derivatives(objective, theta, expected)
    back = objective.like_params(theta)
    assert jax.tree.map(lambda leaf: leaf.dtype, back) == {"w": w, "b": b}
    jax.tree.map(np.testing.assert_array_equal, back, params)


def test_a_sharpness_of_bfloat16_parameters_needs_no_options():
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), start())
    found = eoslib.sharpness(picked, params, data())
    lifted = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)
    expected = np.linalg.eigvalsh(np.asarray(directly(picked, lifted, data())[1], np.float64))[-1]
    np.testing.assert_allclose(found.value, expected, rtol=1e-5)


def test_a_precision_below_float32_is_refused():
    with pytest.raises(ValueError, match="dtype must be float32 or float64, got bfloat16"):
        Objective.create(picked, start(), data(), dtype=jnp.bfloat16)


# --- what a loss returns, and how it is called ------------------------------------------------------------------------


def with_aux(p, batch):
    return picked(p, batch), {"logits": logits(p, batch[0]), "name": "not an array"}


def test_a_loss_with_aux_has_the_derivatives_of_its_loss():
    objective = Objective.create(with_aux, start(), data(), has_aux=True, micro_batch=5)
    assert_same_derivatives(objective, objective.ravel(start()), directly(picked, start(), data()))
    found = eoslib.sharpness(with_aux, start(), data(), has_aux=True)
    np.testing.assert_allclose(found.value, eoslib.sharpness(picked, start(), data()).value, rtol=1e-6)


def test_a_track_takes_a_loss_with_aux():
    found = eoslib.track(
        with_aux, start(), data(), learning_rate=0.1, steps=1, edge_steps=3, progress=False, has_aux=True
    )
    assert found.attrs["status"].startswith("not reached")
    np.testing.assert_allclose(found.approach_loss[0], picked(start(), data()), rtol=1e-6)


@pytest.mark.parametrize(
    ("loss", "options", "message"),
    [
        (with_aux, {}, r"a scalar .*, or with has_aux=True \(loss, aux\), got tuple, has_aux=False"),
        (picked, {"has_aux": True}, r"with has_aux=True \(loss, aux\), got float32\[\], has_aux=True"),
        (lambda p, b: (picked(p, b), 1, 2), {"has_aux": True}, "got tuple, has_aux=True"),
        (lambda p, b: (b[1], 1), {"has_aux": True}, r"got int32\[12\], has_aux=True"),
        (lambda p, b: None, {}, "must return a scalar .*, got NoneType"),
        (lambda p, b: {"loss": picked(p, b)}, {}, "got dict"),
        (lambda p, b: jnp.argmax(p["b"]), {}, r"got int32\[\]"),
        (lambda p, b: jnp.sum(p["b"]) * 1j, {}, r"got complex64\[\]"),
        (lambda p: picked(p, data()), {}, r"loss_fn\(params, batch\): too many positional arguments"),
        (lambda p, b, key: picked(p, b), {}, r"loss_fn\(params, batch\): missing a required argument: 'key'"),
        (lambda p, b, *, key: picked(p, b), {}, "missing a required argument: 'key'"),
        (lambda p, b: jax.lax.while_loop(lambda c: c.sum() < 9, lambda c: c + 1, p["b"]).sum(), {},
         "must be twice differentiable, in forward or reverse mode: "),
    ],
)  # fmt: skip
def test_a_loss_that_cannot_be_used_is_refused_in_words(loss, options, message):
    with pytest.raises(ValueError, match=message):
        Objective.create(loss, start(), data(), **options)


def test_a_loss_without_batch_is_called_without():
    with pytest.raises(ValueError, match=r"loss_fn\(params\): missing a required argument: 'batch'"):
        Objective.create(picked, start())


def test_errors_of_the_loss_itself_reach_the_user():
    with pytest.raises(TypeError, match="contracting dimensions"):
        Objective.create(lambda p, batch: jnp.sum(batch[0] @ p["w"].T), start(), data())
    with pytest.raises(KeyError, match="absent"):
        Objective.create(lambda p: p["absent"], start())


@dataclasses.dataclass
class Configured:
    """Equal by value, and therefore unhashable."""

    scale: jax.Array

    def __call__(self, p, batch):
        return self.scale[0] * picked(p, batch)


@dataclasses.dataclass(frozen=True)
class Frozen:
    """With a hash, which fails."""

    scale: jax.Array
    __call__ = Configured.__call__


@pytest.mark.parametrize(
    "make",
    [
        lambda scale: functools.partial(lambda scale, p, batch: scale[0] * picked(p, batch), scale),
        lambda scale: jax.tree_util.Partial(lambda scale, p, batch: scale[0] * picked(p, batch), scale),
        Configured,
        Frozen,
        lambda scale: Configured(scale).__call__,
        lambda scale: jax.jit(lambda p, batch: scale[0] * picked(p, batch)),
    ],
    ids=["partial", "Partial", "dataclass", "frozen", "method", "jitted"],
)
def test_any_callable_is_a_loss(make):
    loss, other = make(jnp.full(2, 2.0)), make(jnp.full(2, 4.0))
    values = [float(eoslib.sharpness(f, start(), data()).value) for f in (loss, other, loss)]
    plain = float(eoslib.sharpness(picked, start(), data()).value)
    np.testing.assert_allclose(values, [2 * plain, 4 * plain, 2 * plain], rtol=1e-5)


def test_equal_objectives_share_their_programs():
    """What the first objective of its shapes has traced, a second traces neither in `create` nor under a user's jit."""
    traces = []

    def loss(p, batch):
        traces.append(1)
        return picked(p, batch)

    hvp = jax.jit(lambda objective, theta: objective.hvp(theta, theta))
    counts = []
    for factor in (1, 2):
        params = jax.tree.map(lambda leaf, factor=factor: leaf * factor, start())
        objective = Objective.create(loss, params, data(), micro_batch=4)
        hvp(objective, objective.ravel(params))
        counts.append(len(traces))
    assert counts[0] == counts[1] > 0
    assert hvp._cache_size() == 1


def test_an_objective_survives_pickling():
    objective = Objective.create(picked, start(), data())
    copy = pickle.loads(pickle.dumps(objective))
    theta = objective.ravel(start())
    np.testing.assert_array_equal(copy.gradient(theta), objective.gradient(theta))


# --- parameters that are none -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("leaf", "message"),
    [
        (np.arange(3), r"got params\['net'\]\['step'\]: int32\[3\]; take .*nnx\.split"),
        (True, r"params\['net'\]\['step'\]: bool\[\]"),
        (KEYS[0], r"params\['net'\]\['step'\]: key<fry>\[\]"),
        (jax.nn.relu, r"params\['net'\]\['step'\]: \w+; .*close over the rest"),
        (
            np.ones(2, np.complex64),
            r"params\['net'\]\['step'\]: complex64\[2\]; .*split complex numbers in real and imag",
        ),
    ],
    ids=["integer", "bool", "key", "function", "complex"],
)
def test_a_leaf_that_is_no_parameter_is_named(leaf, message):
    with pytest.raises(ValueError, match=message):
        Objective.create(lambda p: p["w"], {"w": jnp.ones(()), "net": {"step": leaf}})


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"x": np.ones(3), "name": "cifar"}, "must hold arrays only, got 'cifar'"),
        ({"x": np.ones(3), "key": KEYS[0]}, r"got \[0, 3\] \(close over what is not one entry a sample, as a key\)"),
    ],
)
def test_a_batch_that_is_none_is_refused_in_words(batch, message):
    with pytest.raises(ValueError, match=message):
        Objective.create(lambda p, batch: p["b"].sum(), start(), batch)


# --- micro-batches ----------------------------------------------------------------------------------------------------


def images():
    x = jax.random.normal(KEYS[0], (40, 6, 6, 2))
    return x, jnp.arange(40) % CLASSES


class Normalized(nn.Module):
    """A network with BatchNorm; its head may start at zero, which hides that."""

    convolutional: bool = False
    head: float = 1.0

    @nn.compact
    def __call__(self, x, train):
        x = nn.Conv(4, (3, 3))(x) if self.convolutional else nn.Dense(8)(x.reshape(x.shape[0], -1))
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        return nn.Dense(CLASSES, kernel_init=nn.initializers.normal(self.head))(x.reshape(x.shape[0], -1))


def normalized(train=True, **options):
    net = Normalized(**options)
    variables = net.init(KEYS[1], images()[0], train=False)

    def loss(p, batch):
        state = {"params": p, "batch_stats": variables["batch_stats"]}
        out, _ = net.apply(state, batch[0], train=train, mutable=["batch_stats"])
        return optax.softmax_cross_entropy_with_integer_labels(out, batch[1]).mean()

    return loss, variables["params"]


def by_mask(p, batch):
    """A mean over samples that are not padding: the last three of the batch are."""
    losses = optax.softmax_cross_entropy_with_integer_labels(logits(p, batch[0]), batch[1])
    return jnp.sum(losses * batch[2]) / jnp.sum(batch[2])


def dropout_by_shape(p, batch):
    mask = jax.random.bernoulli(KEYS[2], 0.5, (*batch[1].shape, CLASSES))
    return jnp.mean(jnp.where(mask, logits(p, batch[0]), 0) ** 2)


NO_MEANS = {
    "sum": (lambda p, batch: jnp.sum(logits(p, batch[0]) ** 2), start, data),
    "mask": (by_mask, start, lambda: (*data(), jnp.arange(SAMPLES) < SAMPLES - 3)),
    "dropout": (dropout_by_shape, start, data),
    "contrast": (lambda p, batch: jnp.mean(jax.nn.logsumexp(logits(p, batch[0]) @ batch[0][:, :3].T, 1)), start, data),
} | {
    f"BatchNorm{'-conv' * conv}{'-zero-head' * (not head)}": (
        lambda p, batch, o=dict(convolutional=conv, head=head): normalized(**o)[0](p, batch),
        lambda o=dict(convolutional=conv, head=head): normalized(**o)[1],
        images,
    )
    for conv in (False, True)
    for head in (1.0, 0.0)
}


@pytest.mark.parametrize("size", [1, 5])
@pytest.mark.parametrize("name", NO_MEANS)
def test_micro_batches_of_a_loss_that_is_no_mean_over_samples_are_refused(name, size):
    loss, params, batch = NO_MEANS[name]
    with pytest.raises(
        ValueError, match=r"a mean over samples: \d samples give .*, the mean over their halves is .*Batch"
    ):
        Objective.create(loss, params(), batch(), micro_batch=size)
    Objective.create(loss, params(), batch())  # of the whole batch it has a sharpness


@pytest.mark.parametrize("size", [1, 5])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["float32", "in-bfloat16"])
@pytest.mark.parametrize("loss", [one_hot, rows_of_eye, picked, cumulated], ids=lambda loss: loss.__name__)
def test_micro_batches_of_a_mean_are_not(loss, size, dtype):
    def cast(p, batch):
        return loss(jax.tree.map(lambda leaf: leaf.astype(dtype), p), (batch[0].astype(dtype), batch[1]))

    assert Objective.create(cast, start(), data(), micro_batch=size).micro_batch == size


def test_micro_batches_of_a_model_in_eval_mode_are_not():
    loss, params = normalized(train=False, convolutional=True)
    whole, pieces = (eoslib.sharpness(loss, params, images(), micro_batch=m, tolerance=1e-5) for m in (None, 7))
    np.testing.assert_allclose(pieces.value, whole.value, rtol=1e-5)


def test_what_cannot_be_compared_is_not():
    """Traced values, and a loss that is finite at θ alone or takes pieces of one size."""
    total = lambda p, batch: jnp.sum(logits(p, batch[0]) ** 2)  # noqa: E731
    jax.jit(lambda p: Objective.create(total, p, data(), micro_batch=4).loss(jnp.ones(15)))(start())
    jax.jit(lambda batch: Objective.create(total, start(), batch, micro_batch=4).loss(jnp.ones(15)))(data())
    zeros = jax.tree.map(jnp.zeros_like, start())
    rooted = lambda p, batch: jnp.sum(batch[0] ** 2) + jnp.sum(jnp.sqrt(-jnp.abs(p["w"])))  # noqa: E731
    with pytest.raises(ValueError, match="a mean over samples"):
        Objective.create(rooted, zeros, data(), micro_batch=4)
    pairs = lambda p, batch: jnp.mean(logits(p, batch[0]).reshape(-1, 6, CLASSES) ** 2)  # noqa: E731
    assert Objective.create(pairs, start(), data(), micro_batch=6).micro_batch == 6


def test_the_comparison_sees_a_few_samples_only():
    seen = []

    def loss(p, batch):
        seen.append(batch[1].shape[0])
        return picked(p, batch)

    many = tuple(jnp.tile(a, (100,) + (1,) * (a.ndim - 1)) for a in data())
    Objective.create(loss, start(), many, micro_batch=500)
    assert set(seen) == {500, 200, 8, 4}  # pieces and the rest, traced alone; eight and halves of four


# --- layers with a derivative of their own ----------------------------------------------------------------------------


def activation(x):
    return x * jax.nn.sigmoid(x) + 0.1 * x**3


@jax.custom_vjp
def own(x):
    return activation(x)


# As JAX's manual writes it: the forward rule calls the function itself, which forward mode over it refuses.
own.defvjp(lambda x: (own(x), x), lambda x, g: (g * jax.vmap(jax.grad(activation))(x.ravel()).reshape(x.shape),))


def twin(layer):
    return lambda p, batch: jnp.mean(jnp.sum(layer(batch[0] @ p["w"] + p["b"]) ** 2, axis=1))


@pytest.mark.parametrize("size", [None, 5])
def test_a_custom_vjp_has_the_derivatives_of_its_twin_without(size):
    with pytest.raises(TypeError, match="forward-mode"):
        Objective.hvp(
            dataclasses.replace(Objective.create(twin(own), start(), data()), reverse=False), *[jnp.ones(15)] * 2
        )
    objective = Objective.create(twin(own), start(), data(), micro_batch=size)
    assert objective.reverse
    theta = objective.ravel(start())
    assert_same_derivatives(objective, theta, directly(twin(activation), start(), data()))
    other = Objective.create(twin(activation), start(), data())
    for order in (1, 2, 3, 4):
        value, wanted = (o.directional(theta, unit(theta), order) for o in (objective, other))
        np.testing.assert_allclose(value, wanted, atol=1e-5 * float(jnp.abs(wanted).max()))
    values = [
        float(eoslib.sharpness(twin(layer), start(), data(), tolerance=1e-5).value) for layer in (own, activation)
    ]
    np.testing.assert_allclose(*values, rtol=1e-5)


def test_a_layer_without_second_derivatives_is_refused_in_words():
    @jax.custom_vjp
    def opaque(x):
        return x

    call = lambda x: jax.pure_callback(np.tanh, jax.typeof(x), x)  # noqa: E731
    opaque.defvjp(lambda x: (call(x), x), lambda x, g: (g * call(x),))
    with pytest.raises(ValueError, match=r"twice differentiable, in forward or reverse mode: Pure callbacks"):
        Objective.create(twin(opaque), start(), data())


# --- flax -------------------------------------------------------------------------------------------------------------


class Model(nnx.Module):
    def __init__(self, rngs):
        self.inner, self.norm = nnx.Linear(4, 8, rngs=rngs), nnx.BatchNorm(8, rngs=rngs)
        self.dropout, self.head = nnx.Dropout(0.5, rngs=rngs), nnx.Linear(8, CLASSES, rngs=rngs)

    def __call__(self, x):
        return self.head(self.dropout(jnp.tanh(self.norm(self.inner(x)))))


def nnx_loss(graphdef, *rest):
    def loss(p, batch):
        return optax.softmax_cross_entropy_with_integer_labels(nnx.merge(graphdef, p, *rest)(batch[0]), batch[1]).mean()

    return loss


ASKS = "'Your own model'"


def test_an_nnx_module_is_no_pytree_of_parameters():
    for module in (Model(nnx.Rngs(0)), Normalized()):
        with pytest.raises(ValueError, match=rf"got params: {type(module).__name__}; take .*nnx\.split.*{ASKS}"):
            Objective.create(picked, module, data())


def test_state_of_nnx_that_is_no_parameter_is_named():
    graphdef, state = nnx.split(Model(nnx.Rngs(0)))
    named = r"got params\['dropout'\]\['rngs'\]\['count'\]: RngCount, .*params\['norm'\]\['mean'\]: BatchStat"
    with pytest.raises(ValueError, match=rf"{named}.*take .*nnx\.split\(model, nnx\.Param, \.\.\.\).*{ASKS}"):
        Objective.create(nnx_loss(graphdef), state, data())


def test_all_variables_of_linen_are_no_parameters():
    variables = Normalized().init(KEYS[1], images()[0], train=False)
    with pytest.raises(ValueError, match=r"got params\['batch_stats'\].*linen's variables\['params'\].*" + ASKS):
        Objective.create(picked, variables, data())


def test_a_layer_of_nnx_that_changes_its_state_is_explained():
    graphdef, params, rest = nnx.split(Model(nnx.Rngs(0)), nnx.Param, ...)
    with pytest.raises(ValueError, match=f"BatchNorm takes use_running_average=True.*{ASKS}.*Cannot mutate") as caught:
        Objective.create(nnx_loss(graphdef, rest), params, data())
    assert type(caught.value.__cause__).__name__ == "TraceContextError"


@pytest.mark.parametrize(("train", "original"), [(True, "Cannot update variable"), (False, "needs PRNG")])
def test_a_layer_of_linen_that_changes_its_state_is_explained(train, original):
    net, noisy = Normalized(), nn.Dropout(0.5, deterministic=False)
    variables = net.init(KEYS[1], images()[0], train=False)

    def loss(p, batch):
        out = net.apply({**variables, "params": p}, batch[0], train=train)
        return noisy.apply({}, out).mean()

    with pytest.raises(ValueError, match=f"dropout deterministic=True or a fixed key; .*{ASKS}.*{original}"):
        Objective.create(loss, variables["params"], images())


# --- the page ---------------------------------------------------------------------------------------------------------


def blocks():
    """Examples of the page under 'Your own model', by the line in bold above each; the first is what all share."""
    page = (source.ROOT / "book/api.md").read_text(encoding="utf-8").partition("## Your own model")[2]
    return dict(re.findall(r"\*\*(.*?)\*\*[^`]*(?:`[^`\n]+`[^`]*)*```python\n(.*?)```", page, flags=re.DOTALL))


def run(*titles):
    names = {}
    for title in titles:
        exec(compile(blocks()[title], f"<{title}>", "exec"), names)
    return names


SHARPNESS = ["linen, evaluating", "linen, training", "nnx, evaluating", "nnx, training"]
NEEDS = {"linen, training": ["linen, evaluating"], "nnx, training": ["nnx, evaluating"]}


@pytest.mark.parametrize("title", SHARPNESS)
def test_an_example_of_the_page_finds_the_sharpness_of_the_dense_hessian(title):
    names = run("Data", *NEEDS.get(title, []), title)
    theta, unravel = ravel_pytree(names["params"])

    def loss(t):
        value = names["loss_fn"](unravel(t), names["batch"])
        return value[0] if isinstance(value, tuple) else value

    expected = np.linalg.eigvalsh(np.asarray(jax.hessian(loss)(theta), np.float64))[-1]
    assert names["found"].status == 0
    # The residual accepted is 1e-3 S; the error of S is of second order in it, and float32's rounding.
    np.testing.assert_allclose(names["found"].value, expected, rtol=1e-4)


def test_the_constrained_loop_of_the_page_stays_below_the_edge():
    names = run("Data", "linen, evaluating", "A jitted loop")
    before = run("Data", "linen, evaluating")
    loss, batch = names["loss_fn"], names["batch"]
    assert loss(names["params"], batch) < loss(before["params"], batch)
    assert float(names["state"].sharpness) <= 1.01 * 2 / names["learning_rate"]
    assert bool(names["state"].active)


def test_every_example_of_the_page_is_tested_and_short():
    assert set(blocks()) == {"Data", *SHARPNESS, "A jitted loop"}
    lengths = {title: len([line for line in code.splitlines() if line]) for title, code in blocks().items()}
    assert max(lengths.values()) <= 15, lengths
