"""The sharpness of a loss on a pytree against dense Hessians, under JAX's transformations, and its derivative."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest
from jax.flatten_util import ravel_pytree

import eoslib
from eoslib.eigen import EigenStatus
from eoslib.objective import Objective


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(1, param_dtype=jnp.float64)(nn.tanh(nn.Dense(12, param_dtype=jnp.float64)(x)))


def flax_loss(params, batch):
    inputs, labels = batch
    return jnp.mean((Net().apply({"params": params}, inputs)[:, 0] - labels) ** 2)


@pytest.fixture(scope="module")
def trained():
    """A flax model after five steps of optax, its batch, and the dense sharpness there."""
    batch = oracles.mlp_batch()
    params = Net().init(jax.random.key(0), batch[0][:1])["params"]
    optimizer = optax.sgd(0.05, momentum=0.9)

    @jax.jit
    def step(params, state):
        updates, state = optimizer.update(jax.grad(flax_loss)(params, batch), state, params)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for _ in range(5):
        params, state = step(params, state)
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    return params, batch, oracles.Dense.of(lambda theta: flax_loss(unravel(theta), batch)).sharpness(flat)


@pytest.mark.parametrize("micro_batch", [None, 7], ids=["whole", "7of40"])
def test_sharpness_of_a_flax_model_in_optax_training(trained, micro_batch):
    params, batch, expected = trained
    found = eoslib.sharpness(flax_loss, params, batch, tolerance=1e-5, micro_batch=micro_batch)
    np.testing.assert_allclose(found.value, expected, rtol=1e-9)  # the residual squared over the relative gap
    assert int(found.status) == EigenStatus.CONVERGED
    assert found.message == "converged: every residual is within its tolerance"
    assert abs(float(found.value) - expected) <= float(found.error_bound) <= 2e-5 * expected
    assert jax.tree.structure(found.eigenvector) == jax.tree.structure(params)
    np.testing.assert_allclose(optax.tree.norm(found.eigenvector), 1, rtol=1e-9)


def quadratic(params):
    return jnp.sum(jnp.linspace(-3, 1, 200) * params["w"] ** 2) / 2


def test_a_sharpness_that_did_not_converge_says_so():
    found = eoslib.sharpness(quadratic, {"w": jnp.ones(200)}, max_products=3)
    assert int(found.status) == EigenStatus.PRODUCT_LIMIT
    assert "limit on products was reached" in found.message
    assert found.products <= 4
    assert 1 - float(found.value) <= float(found.error_bound)  # what it holds is still true
    broken = eoslib.sharpness(lambda p: jnp.nan * quadratic(p), {"w": jnp.ones(200)})
    assert int(broken.status) == EigenStatus.NOT_FINITE


def test_a_start_from_the_last_eigenvector_costs_two_products():
    start = {"w": jnp.zeros(200).at[-1].set(2.0)}
    found = eoslib.sharpness(quadratic, {"w": jnp.ones(200)}, start=start)
    assert found.products == 2  # one looks, one measures the residual afresh
    np.testing.assert_allclose(found.value, 1, rtol=1e-12)


@pytest.mark.parametrize(
    ("params", "options", "message"),
    [
        ({"w": jnp.arange(200)}, {}, r"floating-point arrays only, got params\['w'\]: int64\[200\]"),
        ({"w": jnp.ones(200)}, {"tolerance": 1e-30}, r"tolerance must lie in \[8\.9e-16, 1\) for float64, got 1e-30"),
        ({"w": jnp.ones(200)}, {"start": {"w": jnp.ones(3)}}, "start must hold 200 numbers, as params does, got 3"),
        ({"w": jnp.ones(200)}, {"micro_batch": 3}, "micro_batch=3 needs a batch, got None"),
    ],
)
def test_bad_arguments_are_named(params, options, message):
    with pytest.raises(ValueError, match=message):
        eoslib.sharpness(quadratic, params, **options)


@pytest.mark.parametrize("start", [0.0, np.nan])
@pytest.mark.parametrize("size", [5, 200], ids=["dense", "iterated"])
def test_a_start_without_a_direction_is_replaced(size, start):
    loss = lambda p: jnp.sum(jnp.linspace(-3, 1, size) * p["w"] ** 2) / 2  # noqa: E731
    params = {"w": jnp.ones(size)}
    found = eoslib.sharpness(loss, params, start={"w": jnp.full(size, start)}, tolerance=1e-6)
    np.testing.assert_allclose(found.value, 1, rtol=1e-9)
    assert found.message.startswith("converged")


def test_rounding_of_the_operator_has_its_own_status(ordinary):
    """A loss computed in bfloat16: the images that the solver updates converge; a fresh product tells otherwise."""

    def coarse(params):
        return jnp.sum(jnp.linspace(-3, 1, 200).astype(jnp.bfloat16) * params.astype(jnp.bfloat16) ** 2)

    found = eoslib.sharpness(coarse, jnp.linspace(0.1, 0.7, 200))
    assert int(found.status) == EigenStatus.STALLED
    assert found.products < 1000
    assert "rounding" in found.message
    assert "limit" not in found.message


def test_the_eigenvector_has_the_dtypes_of_the_parameters(ordinary):
    params = {"a": jnp.ones(100, jnp.bfloat16), "b": jnp.ones(100, jnp.float32), "c": jnp.ones(3, jnp.float16)}

    def loss(params):
        return sum(jnp.sum(jnp.arange(leaf.size, dtype=leaf.dtype) * leaf**2) for leaf in jax.tree.leaves(params)) / 50

    found = eoslib.sharpness(loss, params)
    assert jax.tree.map(lambda leaf: leaf.dtype, found.eigenvector) == jax.tree.map(lambda leaf: leaf.dtype, params)
    assert found.value.dtype == found.error_bound.dtype == jnp.float32
    assert found.status.dtype == found.products.dtype == jnp.int32
    np.testing.assert_allclose(found.value, 99 / 25, rtol=1e-2)  # bfloat16 has three digits


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (lambda t: jnp.sum(jnp.linspace(-3, 2, 100) * t**2) / 2, 2.0),
        (lambda t: jnp.sum(jnp.linspace(-3, 2, 100) * t), 0.0),
        (lambda t: jnp.sum(jnp.tanh(jnp.outer(jnp.linspace(0, 2, 7), t[:50]) @ t[50:]) ** 2), None),
    ],
    ids=["quadratic", "linear", "network"],
)
@pytest.mark.parametrize("place", [0.0, 0.1])
def test_nothing_is_nan_on_the_way(ordinary, loss, expected, place):
    theta = jnp.full(100, place)
    if expected is None:
        expected = np.linalg.eigvalsh(np.asarray(jax.hessian(loss)(theta)))[-1]
    with jax.debug_nans(True):
        found = eoslib.sharpness(loss, theta)
        np.testing.assert_allclose(found.value, expected, rtol=1e-4, atol=1e-6)
        assert np.isfinite(jax.grad(lambda t: eoslib.sharpness(loss, t).value)(theta)).all()
        assert np.isfinite(jax.jvp(lambda t: eoslib.sharpness(loss, t).value, (theta,), (theta,))[1])


# --- inside JAX's transformations -------------------------------------------------------------------------------------

PARAMS, BATCH = oracles.mlp_params(), oracles.mlp_batch()
FLAT, UNRAVEL = ravel_pytree(PARAMS)
TIGHT = 1e-9


def value(params, batch=BATCH, **options):
    return eoslib.sharpness(oracles.mlp_loss, params, batch, tolerance=TIGHT, **options).value


def test_it_is_the_same_inside_jit_vmap_and_scan():
    scales = jnp.array([1.0, 1.1, 0.9])

    def at(scale):
        return eoslib.sharpness(oracles.mlp_loss, jax.tree.map(lambda a: scale * a, PARAMS), BATCH, tolerance=TIGHT)

    expected = [at(scale) for scale in scales]
    dense = oracles.Dense.of(lambda t: oracles.mlp_loss(UNRAVEL(t), BATCH))
    np.testing.assert_allclose([e.value for e in expected], [dense.sharpness(s * FLAT) for s in scales], rtol=1e-10)
    inside = jax.jit(at)(scales[0])
    several = {"vmap": jax.vmap(at)(scales), "scan": jax.lax.scan(lambda c, s: (c, at(s)), None, scales)[1]}
    assert inside.message == expected[0].message
    np.testing.assert_allclose(inside.value, expected[0].value, rtol=1e-12)
    for found in several.values():
        np.testing.assert_allclose(found.value, [one.value for one in expected], rtol=1e-12)
        assert found.message == [one.message for one in expected]
        assert found.status.dtype == found.products.dtype == jnp.int32


def test_a_second_call_traces_no_more_of_the_loss_than_its_checks():
    traces = []

    def loss(params, batch):
        traces.append(1)
        return oracles.mlp_loss(params, batch)

    def count(function):
        before = len(traces)
        function(jax.tree.map(lambda a: (1 + 0.1 * before) * a, PARAMS))
        return len(traces) - before

    first = count(lambda params: eoslib.sharpness(loss, params, BATCH))
    checks = count(lambda params: Objective.create(loss, params, BATCH))
    assert count(lambda params: eoslib.sharpness(loss, params, BATCH)) == checks < first


# --- the derivative ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def slope():
    """∇S of the small network (p,), by differences of dense eigenvalues."""
    dense = oracles.Dense.of(lambda t: oracles.mlp_loss(UNRAVEL(t), BATCH))
    return np.array([dense.sharpness_slope(FLAT, v) for v in np.eye(FLAT.size)])


def assert_is_the_slope(tree, slope):
    np.testing.assert_allclose(ravel_pytree(tree)[0], slope, atol=oracles.DIFFERENCE * np.abs(slope).max())


@pytest.mark.parametrize("transform", ["grad", "jit", "jacfwd", "vmap", "checkpoint", "micro-batches"])
def test_its_derivative_in_the_parameters_is_that_of_the_eigenvalue(slope, transform):
    functions = {
        "grad": jax.grad(value),
        "jit": jax.jit(jax.grad(value)),
        "jacfwd": jax.jacfwd(value),
        "vmap": lambda p: jax.tree.map(
            lambda a: a[1], jax.vmap(jax.grad(value))(jax.tree.map(lambda a: jnp.stack([2 * a, a]), p))
        ),
        "checkpoint": jax.grad(jax.checkpoint(value)),
        "micro-batches": jax.grad(lambda p: value(p, micro_batch=7)),
    }
    assert_is_the_slope(functions[transform](PARAMS), slope)


def test_its_derivative_along_a_direction_in_forward_mode(slope):
    v = np.random.default_rng(0).normal(size=FLAT.size)
    _, along = jax.jvp(value, (PARAMS,), (UNRAVEL(jnp.asarray(v)),))
    np.testing.assert_allclose(along, slope @ v, atol=1e-5 * np.abs(slope).max())


@pytest.mark.parametrize("how", ["argument", "closure"])
def test_its_derivative_in_the_batch(how):
    """Also where the batch is not passed on but stands in the loss."""
    direction = np.random.default_rng(0).normal(size=BATCH[0].shape)

    def dense(inputs):
        hessian = jax.hessian(lambda t: oracles.mlp_loss(UNRAVEL(t), (inputs, BATCH[1])))(FLAT)
        return np.linalg.eigvalsh(np.asarray(hessian))[-1]

    def found(inputs):
        if how == "argument":
            return value(PARAMS, (inputs, BATCH[1]))
        return eoslib.sharpness(lambda p: oracles.mlp_loss(p, (inputs, BATCH[1])), PARAMS, tolerance=TIGHT).value

    step = oracles.STEP * direction
    expected = (dense(BATCH[0] + step) - dense(BATCH[0] - step)) / (2 * oracles.STEP)
    np.testing.assert_allclose(jnp.sum(jax.grad(found)(BATCH[0]) * direction), expected, rtol=1e-5)


def vector_part(params):
    return eoslib.sharpness(oracles.mlp_loss, params, BATCH).eigenvector["out"]["bias"][0]


REFUSED = {
    "hessian": jax.hessian(value),
    "gradient of a gradient, jitted": jax.jit(jax.grad(lambda p: optax.tree.norm(jax.grad(value)(p)))),
    "derivative of a gradient": lambda p: jax.jvp(jax.grad(value), (p,), (p,)),
    "twice forward": lambda p: jax.jvp(lambda p: jax.jvp(value, (p,), (p,))[1], (p,), (p,)),
    "eigenvector": jax.grad(vector_part),
    "eigenvectors, jitted": jax.jit(jax.vmap(jax.grad(vector_part), axis_size=2, in_axes=None)),
    "error bound": jax.grad(lambda p: eoslib.sharpness(oracles.mlp_loss, p, BATCH).error_bound),
    "mixed, by what the loss closes over": jax.grad(
        lambda p: optax.tree.norm(
            jax.grad(lambda x: eoslib.sharpness(lambda q: oracles.mlp_loss(q, (x, BATCH[1])), p).value)(BATCH[0])
        )
    ),
}


@pytest.mark.parametrize("derivative", REFUSED.values(), ids=REFUSED)
def test_what_is_not_implemented_is_refused_in_words(derivative):
    with pytest.raises(NotImplementedError, match=r"derivative of the sharpness's eigenvector .* is not implemented"):
        derivative(PARAMS)


def test_a_forward_derivative_of_the_eigenvector_is_not_a_number():
    assert np.isnan(jax.jvp(vector_part, (PARAMS,), (PARAMS,))[1])


def test_second_derivatives_in_what_it_does_not_depend_on_are_untouched():
    np.testing.assert_allclose(jax.grad(jax.grad(lambda z: z**3 * 1.0 + value(PARAMS)))(2.0), 12)


def test_training_regularized_by_it_ends_less_sharp():
    """Five steps, each started from the eigenvector of the last, which needs no derivative."""

    @jax.jit
    def step(weight, params, u):
        def penalized(params):
            found = eoslib.sharpness(oracles.mlp_loss, params, BATCH, start=u)
            return oracles.mlp_loss(params, BATCH) + weight * found.value, found

        (_, found), gradient = jax.value_and_grad(penalized, has_aux=True)(params)
        return jax.tree.map(lambda a, g: a - 0.02 * g, params, gradient), found.eigenvector, found.products

    dense, ends = oracles.Dense.of(lambda t: oracles.mlp_loss(UNRAVEL(t), BATCH)), []
    for weight in (0.0, 0.3):
        params, u = PARAMS, jax.tree.map(jnp.zeros_like, PARAMS)
        for _ in range(5):
            params, u, products = step(weight, params, u)
        assert int(products) <= 6
        ends.append(dense.sharpness(ravel_pytree(params)[0]))
    assert ends[1] < 0.95 * ends[0]
