"""Derivatives against dense automatic differentiation and differences at √eps; micro-batches; worded errors."""

import dataclasses

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import oracles
import pytest

from eoslib.objective import Objective

# Compiled once for every objective of the same shape.
gradient_and_hvp, cubic_and_hvps = jax.jit(Objective.gradient_and_hvp), jax.jit(Objective.cubic_and_hvps)
value_and_grad, cubic, hvp, hvps = map(
    jax.jit, (getattr(Objective, n) for n in ("value_and_grad", "cubic", "hvp", "hvps"))
)
directional = jax.jit(Objective.directional, static_argnames="order")

ROUNDING = dict(rtol=1e-10, atol=1e-12)  # sums over 40 samples and 129 parameters of order one


def direction(theta, seed):
    v = jax.random.normal(jax.random.key(seed), theta.shape, theta.dtype)
    return v / jnp.linalg.norm(v)


def assert_close_to_differences(actual, differences):
    np.testing.assert_allclose(actual, differences, atol=oracles.DIFFERENCE * np.abs(differences).max())


@pytest.fixture(scope="module", params=[1, 2], ids=["direction1", "direction2"])
def at(network, request):
    objective, theta, dense = network
    return objective, theta, direction(theta, request.param), dense


def test_the_tests_are_strict():
    with pytest.raises(jax.dtypes.TypePromotionError):
        jnp.ones(2, jnp.float32) + jnp.ones(2, jnp.float64)
    with pytest.raises(ValueError, match="rank"):
        jnp.ones((2, 2)) + jnp.ones(2)
    assert jnp.ones(()).dtype == jnp.float64


def test_shapes_are_checked_at_run_time(network):
    objective, theta, _ = network
    with pytest.raises(jaxtyping.TypeCheckError):
        objective.loss(theta[None])


def test_ravel_and_unravel_are_inverse(network):
    objective, theta, _ = network
    assert objective.size == theta.size == 129
    np.testing.assert_array_equal(objective.ravel(objective.unravel(theta)), theta)


def test_loss_and_gradient(at):
    objective, theta, v, dense = at
    loss, gradient = value_and_grad(objective, theta)
    np.testing.assert_allclose(loss, dense.loss(theta), **ROUNDING)
    np.testing.assert_allclose(objective.loss(theta), loss, **ROUNDING)
    np.testing.assert_allclose(gradient, dense.gradient(theta), **ROUNDING)
    np.testing.assert_allclose(objective.gradient(theta), gradient, **ROUNDING)
    np.testing.assert_allclose(jnp.vdot(gradient, v), dense.slope(theta, v), rtol=oracles.DIFFERENCE)


def test_hessian_vector_product(at):
    objective, theta, v, dense = at
    product = hvp(objective, theta, v)
    np.testing.assert_allclose(product, dense.hessian(theta) @ v, **ROUNDING)
    assert_close_to_differences(product, dense.hvp(theta, v))


def test_products_in_one_pass_are_the_products_one_by_one(at):
    objective, theta, v, dense = at
    vs = jnp.stack([v, direction(theta, 7), direction(theta, 8)])
    expected = vs @ dense.hessian(theta)
    np.testing.assert_allclose(hvps(objective, theta, vs), expected, **ROUNDING)
    loss, gradient, product = gradient_and_hvp(objective, theta, v)
    np.testing.assert_allclose(loss, dense.loss(theta), **ROUNDING)
    np.testing.assert_allclose(gradient, dense.gradient(theta), **ROUNDING)
    np.testing.assert_allclose(product, expected[0], **ROUNDING)
    expansion, products = cubic_and_hvps(objective, theta, v, vs[1:])
    np.testing.assert_allclose(products, expected[1:], **ROUNDING)
    for one, other in zip(expansion, cubic(objective, theta, v), strict=True):
        np.testing.assert_allclose(one, other, **ROUNDING)


def test_cubic_expansion(at):
    objective, theta, v, dense = at
    expansion = cubic(objective, theta, v)
    np.testing.assert_allclose(expansion.loss, dense.loss(theta), **ROUNDING)
    np.testing.assert_allclose(expansion.gradient, dense.gradient(theta), **ROUNDING)
    np.testing.assert_allclose(expansion.hvp, dense.hessian(theta) @ v, **ROUNDING)
    assert_close_to_differences(expansion.third, dense.third(theta, v))


def test_higher_directional_derivatives(at):
    objective, theta, v, dense = at
    np.testing.assert_allclose(directional(objective, theta, v, 1), dense.gradient(theta), **ROUNDING)
    np.testing.assert_allclose(directional(objective, theta, v, 2), dense.hessian(theta) @ v, **ROUNDING)
    assert_close_to_differences(directional(objective, theta, v, 3), dense.third(theta, v))
    assert_close_to_differences(directional(objective, theta, v, 4), dense.fourth(theta, v))


@pytest.mark.parametrize("size", [1, 10, 40, 7, 39], ids=lambda m: f"{m}of40")
def test_micro_batches_give_the_same_mean(network, size):
    objective, theta, _ = network
    pieces = Objective.create(oracles.mlp_loss, oracles.mlp_params(), oracles.mlp_batch(), micro_batch=size)
    assert pieces.micro_batch == (None if size == 40 else size)
    v = direction(theta, 1)
    for summed, whole in zip(cubic(pieces, theta, v), cubic(objective, theta, v), strict=True):
        np.testing.assert_allclose(summed, whole, **ROUNDING)


def test_order_of_samples_does_not_matter(network):
    objective, theta, _ = network
    shuffled = jax.tree.map(lambda a: a[::-1], oracles.mlp_batch())
    other = Objective.create(oracles.mlp_loss, oracles.mlp_params(), shuffled, micro_batch=7)
    np.testing.assert_allclose(value_and_grad(other, theta)[1], value_and_grad(objective, theta)[1], **ROUNDING)


def test_a_loss_without_batch():
    objective = Objective.create(lambda p: jnp.sum(p["a"] ** 3) / 6, {"a": jnp.array([1.0, 2.0])})
    np.testing.assert_allclose(objective.hvp(jnp.array([1.0, 2.0]), jnp.array([1.0, 1.0])), [1.0, 2.0])


def test_derivatives_come_in_the_precision_asked_for(network):
    objective, theta, _ = network
    single = Objective.create(oracles.mlp_loss, oracles.mlp_params(), oracles.mlp_batch(), dtype=jnp.float32)
    v = direction(theta, 1)
    for rough, exact in zip(cubic(single, theta, v), cubic(objective, theta, v), strict=True):
        assert rough.dtype == jnp.float32
        # float32's eps is 1.2e-7; sums of 40 terms and the three nested passes lose a digit and a half
        np.testing.assert_allclose(rough, exact, atol=5e-6 * float(jnp.abs(exact).max()))


@pytest.mark.parametrize("size", [None, 7])
def test_first_derivatives_alone_may_be_of_a_higher_precision(network, size):
    """L and ∇L are those of float64, rounded once; all else is what float32 gives; another batch may take its place."""
    objective, theta, _ = network
    given = oracles.mlp_loss, oracles.mlp_params(), oracles.mlp_batch()
    options = {"dtype": jnp.float32, "micro_batch": size}
    single, mixed = (Objective.create(*given, gradient_dtype=d, **options) for d in (None, jnp.float64))
    assert not single.precise
    fewer = jax.tree.map(lambda a: a[::-1][:28], single.batch)
    single, mixed = (dataclasses.replace(each, batch=fewer) for each in (single, mixed))
    exact = dataclasses.replace(objective, batch=jax.tree.map(lambda a: a.astype(jnp.float64), fewer))
    v = direction(theta, 1).astype(jnp.float32)
    loss, gradient = value_and_grad(exact, theta)
    loss, gradient = loss.astype(jnp.float32), gradient.astype(jnp.float32)
    one, (two, products) = cubic(mixed, theta, v), cubic_and_hvps(mixed, theta, v, v[None])
    told = mixed.loss(theta), directional(mixed, theta, v, order=1)
    for found in (value_and_grad(mixed, theta), told, one[:2], two[:2], gradient_and_hvp(mixed, theta, v)[:2],
                  mixed.gradient_and_hvps(theta, v[None])[:2]):  # fmt: skip
        np.testing.assert_allclose(found[0], loss, rtol=1e-7)
        np.testing.assert_allclose(found[1], gradient, rtol=2e-7, atol=1e-12)
    assert np.abs(value_and_grad(single, theta)[1] - gradient).max() > 5e-8 * np.abs(gradient).max()
    plain, more = cubic_and_hvps(single, theta, v, v[None])
    for found, expected in ((one, plain), (two, plain), ((0, 0, products), (0, 0, more))):
        for a, b in zip(found[2:], expected[2:], strict=True):
            assert a.dtype == jnp.float32
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6 * float(jnp.abs(b).max()))


def test_what_jax_has_not_is_not_promised():
    def create(kind, **options):
        return Objective.create(lambda p: jnp.sum(p["w"] ** 2), {"w": np.ones(3, kind)}, **options)

    made = create(np.float32, gradient_dtype="float64")
    with jax.enable_x64(False):
        with pytest.raises(ValueError, match=r"dtype float64 needs .*jax_enable_x64"):
            create(np.float32, gradient_dtype="float64")
        with pytest.raises(ValueError, match=r"dtype float64 needs .*jax_enable_x64"):
            made.value_and_grad(jnp.ones(3, jnp.float32))
    with pytest.raises(ValueError, match="gradient_dtype must not be lower than dtype float64, got float32"):
        create(np.float64, gradient_dtype="float32")
    assert not create(np.float64, gradient_dtype="float64").precise


def test_the_higher_precision_takes_every_kind_of_loss(network):
    """Auxiliary outputs, reverse mode alone, another loss put in its place."""
    _, theta, _ = network
    params, batch = oracles.mlp_params(), jax.tree.map(lambda a: a.astype(jnp.float32), oracles.mlp_batch())
    exact = Objective.create(oracles.mlp_loss, params, jax.tree.map(lambda a: a.astype(jnp.float64), batch))

    @jax.custom_vjp
    def odd(x):
        return x

    odd.defvjp(lambda x: (odd(x), None), lambda _, c: (c,))  # the forward rule calls itself: no forward mode over it
    losses = {
        "aux": (lambda p, b: (oracles.mlp_loss(p, b), b), True),
        "reverse": (lambda p, b: odd(oracles.mlp_loss(p, b)), False),
    }
    loss, gradient = value_and_grad(exact, theta)
    for name, (function, has_aux) in losses.items():
        options = {"dtype": jnp.float32, "gradient_dtype": "float64", "has_aux": has_aux}
        mixed = Objective.create(function, params, batch, **options)
        assert mixed.reverse == (name == "reverse")
        found = mixed.value_and_grad(theta)
        np.testing.assert_allclose(found[0], loss, rtol=1e-7)
        np.testing.assert_allclose(found[1], gradient, rtol=2e-7, atol=1e-12)
    twice = dataclasses.replace(mixed, loss_fn=lambda p, b: 2 * oracles.mlp_loss(p, b))
    np.testing.assert_allclose(twice.gradient(theta), 2 * gradient, rtol=2e-7, atol=1e-12)


@pytest.mark.parametrize(
    ("params", "batch", "options", "message"),
    [
        ({"w": jnp.arange(3)}, None, {}, r"floating-point arrays only, got params\['w'\]: int64\[3\]"),
        ({}, None, {}, "floating-point arrays only, got nothing"),
        ({"w": jnp.ones(3)}, (jnp.ones(4), jnp.ones(5)), {}, r"one non-empty leading axis, got \[4, 5\]"),
        ({"w": jnp.ones(3)}, jnp.ones((0, 2)), {}, r"one non-empty leading axis, got \[0\]"),
        ({"w": jnp.ones(3)}, jnp.ones(4), {"micro_batch": 5}, r"micro_batch must lie in 1\.\.4, got 5"),
        ({"w": jnp.ones(3)}, jnp.ones(4), {"micro_batch": 0}, r"micro_batch must lie in 1\.\.4, got 0"),
        ({"w": jnp.ones(3)}, None, {"micro_batch": 2}, "micro_batch=2 needs a batch, got None"),
    ],
)
def test_bad_arguments_are_named(params, batch, options, message):
    with pytest.raises(ValueError, match=message):
        Objective.create(lambda p, *_: jnp.sum(p["w"]), params, batch, **options)


def test_a_loss_that_is_no_scalar_is_refused():
    with pytest.raises(ValueError, match=r"must return a scalar \(a mean over samples\), .* got float64\[3\]"):
        Objective.create(lambda p: p["w"], {"w": jnp.ones(3)})


@pytest.mark.parametrize("method", ["loss", "gradient", "value_and_grad"])
def test_a_theta_of_the_wrong_length_is_refused(network, method):
    objective, theta, _ = network
    with pytest.raises(ValueError, match=r"theta must have shape \(129,\), got \(128,\)"):
        getattr(objective, method)(theta[:-1])


def test_integer_parameters_are_refused(toy_objective):
    """The tests' checks of types come before it in the other functions; outside the tests there are none."""
    with pytest.raises(ValueError, match="theta must be floating point, got int64"):
        toy_objective.position(jnp.array([0, 0, 0]))
