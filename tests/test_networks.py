"""Networks: shapes, initialization, symmetries, and derivatives in float64 against finite differences."""

import functools

import flax.linen as nn
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from selfstab import criteria, networks, settings
from selfstab.data import sentences

EPS = np.finfo(np.float64).eps

#: Compiling is what these tests cost; unoptimised code computes the same.
_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def _setting(model: str, **fields) -> settings.Setting:
    """The smallest setting of a model: cats and dogs at half size, or sentences."""
    dataset = "sst2" if model.startswith(("transformer", "bert")) else "cats-dogs"
    tiny = {"name": model, "scale": "test", "dataset": dataset, "n": 4, "model": model, "width": 4, "image_size": 16}
    tiny |= {"criterion": "squared-error", "learning_rate": 0.1, "edge_steps": 1, "tracked_steps": 0}
    return settings.Setting(**(tiny | fields))


def _batch(setting: settings.Setting, n: int = 4):
    rng = np.random.default_rng(0)
    targets = np.resize(np.array([-1, 1], np.float32), n)
    if setting.dataset != "sst2":
        side = setting.image_size
        return rng.standard_normal((n, side, side, 3), dtype=np.float32), targets
    lengths = np.array([[3], [7], [5], [1]])[np.arange(n) % 4]
    mask = np.arange(7) < lengths
    return (rng.integers(1, 20, (n, 7)) * mask).astype(np.int32), targets, mask


@functools.cache
def _initialized(setting):
    module = networks.build(setting)
    batch = _batch(setting)
    return module, networks.init(module, batch[0], seed=1), batch


def _moved(params):
    """Parameters away from the symmetric start, where a zero head would hide most derivatives."""
    flat, unravel = ravel_pytree(params)
    return unravel(flat + 0.3 * jax.random.normal(jax.random.key(7), flat.shape, flat.dtype))


@pytest.mark.parametrize("model", settings.MODELS)
def test_outputs_have_one_column_a_class_and_parameters_are_float32(model):
    setting = _setting(model, criterion="cross-entropy")
    with jax.enable_x64(True):
        module, params, batch = _initialized(setting)
        outputs = jax.eval_shape(lambda p: networks.apply(module, p, batch[0], *batch[2:]), params)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float32)}
    assert (outputs.shape, outputs.dtype) == ((4, 2), np.float32)


@pytest.mark.parametrize(
    ("fields", "outputs"), [({}, 1), ({"criterion": "cross-entropy"}, 2), ({"dataset": "cifar10"}, 10)]
)
def test_outputs_are_a_score_or_one_per_class(fields, outputs):
    setting = _setting("mlp", **fields)
    module, params, (images, *_) = _initialized(setting)
    assert networks.outputs(setting) == outputs
    assert networks.apply(module, params, images).shape == (4, outputs)


@pytest.mark.parametrize("image_size", [16, 32])
@pytest.mark.parametrize("model", ["cnn", "resnet18", "vgg11"])
def test_image_networks_take_both_image_sizes(model, image_size):
    module, params, batch = _initialized(_setting(model, image_size=image_size, n=4))
    assert jax.eval_shape(lambda p: networks.apply(module, p, batch[0]), params).shape == (4, 1)


@pytest.mark.parametrize(("size", "stride", "side"), [(3, 1, 6), (3, 2, 6), (3, 2, 5), (1, 2, 6), (3, 2, 1)])
def test_convolution_is_that_of_flax(size, stride, side):
    """The same parameters from the same seed, the same outputs, the same derivatives."""
    images = np.random.default_rng(0).standard_normal((2, side, side + 1, 3))
    with jax.enable_x64(True):
        images = jnp.asarray(images)
        ours = networks.Conv(4, size, stride)
        flax = nn.Conv(4, (size, size), strides=stride, kernel_init=networks.UNIFORM)
        params, theirs = (m.init(jax.random.key(0), images.astype(jnp.float32)) for m in (ours, flax))
        jax.tree.map(np.testing.assert_array_equal, params, theirs)
        params = _moved(jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params))
        pairs = [
            (m.apply(params, images), jax.grad(lambda p, m=m: (m.apply(p, images) ** 3).sum())(params))
            for m in (ours, flax)
        ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e3 * EPS, atol=1e3 * EPS), *pairs)


def test_parameter_counts_follow_from_the_shapes():
    def count(setting):
        return ravel_pytree(_initialized(setting)[1])[0].size

    d = 32 * 32 * 3
    mlp = _setting("mlp", dataset="cifar10", width=200, image_size=32)
    assert count(mlp) == (d + 1) * 200 + 201 * 200 + 201 * 10
    cnn = _setting("cnn", dataset="cifar10", width=32, image_size=32)
    assert count(cnn) == (27 + 1) * 32 + (9 * 32 + 1) * 32 + (8 * 8 * 32 + 1) * 10
    w = 64
    layer = 4 * (w + 1) * w + 2 * 2 * w + (w + 1) * 4 * w + (4 * w + 1) * w
    transformer = _setting("transformer", width=w)
    assert count(transformer) == sentences.VOCABULARY * w + sentences.MAX_TOKENS * w + 2 * layer + (w + 1)
    thinner = 2 * 2 * 3 * w * w + 2 * 3 * w  # 2 layers, each two matrices of w × 4w and the inner bias: 4w becomes w
    more = (networks.RELEASED_VOCABULARY - sentences.VOCABULARY) * w
    assert count(transformer) - count(_setting("transformer-released", width=w)) == thinner - more


def test_resnet_has_eighteen_weighted_layers():
    _, params, _ = _initialized(_setting("resnet18", width=16, image_size=32))
    kernels = [leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params) if path[-1].key == "kernel"]
    assert sum(kernel.ndim == 2 or kernel.shape[0] == 3 for kernel in kernels) == 18


def test_the_released_resnet_has_relu_inside_and_kaimings_normal_weights():
    setting = _setting("resnet18-released", width=16, activation="tanh")
    _, params, batch = _initialized(setting)
    kernel = np.asarray(params["ResidualBlock_7"]["Conv_0"]["kernel"])  # (3, 3, 128, 128)
    spread = 5 / (2 * kernel.size) ** 0.5
    assert kernel.std() == pytest.approx((2 / np.prod(kernel.shape[:-1])) ** 0.5, rel=spread)
    assert np.abs(kernel).max() > 2 * kernel.std()  # not uniform, which ends at √3
    assert all(np.all(block["Normalize_1"]["scale"] == 1) for name, block in params.items() if "Block" in name)
    called = []
    with pytest.MonkeyPatch.context() as patch:
        for name, home in (("relu", nn), ("tanh", jnp)):
            patch.setattr(home, name, lambda x, name=name: called.append(name) or x)
        patch.setitem(networks.ACTIVATIONS, "tanh", jnp.tanh)
        jax.eval_shape(lambda p: networks.apply(networks.build(setting), p, batch[0]), params)
    assert called == ["relu"] + ["relu", "tanh"] * 8  # the stem; in each block the first half, then the sum


@pytest.mark.parametrize("model", ["resnet18", "vgg11"])
@pytest.mark.parametrize(("width", "groups"), [(4, {4: 4, 8: 8, 16: 16, 32: 16}), (6, {6: 2, 12: 4, 24: 8, 48: 16})])
def test_channels_are_normalized_in_16_groups_or_fewer(model, width, groups):
    found = {}

    def note(apply, arguments, keywords, context):
        if isinstance(context.module, networks.Normalize) and context.method_name == "__call__":
            found[arguments[0].shape[-1]] = context.module.groups
        return apply(*arguments, **keywords)

    setting = _setting(model, width=width)
    with nn.intercept_methods(note):
        jax.eval_shape(networks.build(setting).init, jax.random.key(0), _batch(setting)[0])
    assert found == groups


def test_mlp_and_cnn_start_uniform_within_one_over_root_fan_in():
    for model in ("mlp", "cnn"):
        _, params, _ = _initialized(_setting(model, width=32))
        for layer in params.values():
            kernel = np.asarray(layer["kernel"])
            bound = np.prod(kernel.shape[:-1]) ** -0.5
            assert np.all(layer["bias"] == 0)
            assert np.abs(kernel).max() <= bound * (1 + np.finfo(np.float32).eps)
            if kernel.size > 500:  # enough draws to see the shape of the distribution, to five standard errors
                assert kernel.std() * 3**0.5 / bound == pytest.approx(1, abs=5 * 0.45 / kernel.size**0.5)
                assert np.abs(kernel).max() > bound * (1 - 10 / kernel.size)


@pytest.mark.parametrize("model", ["resnet18", "resnet18-released", "transformer", "transformer-released", "bert-tiny"])
def test_zero_head_gives_zero_outputs_at_the_start(model):
    module, params, batch = _initialized(_setting(model))
    forward = _jit(lambda p: networks.apply(module, p, batch[0], *batch[2:]))
    assert np.all(np.asarray(forward(params)) == 0)
    assert np.any(np.asarray(forward(_moved(params))) != 0)


def test_init_depends_on_the_seed_and_on_nothing_else():
    module = networks.build(_setting("mlp"))
    zeros, ones = np.zeros((3, 16, 16, 3), np.float32), np.ones((5, 16, 16, 3), np.float32)
    flat = [ravel_pytree(networks.init(module, x, seed=s))[0] for x, s in ((zeros, 0), (ones, 0), (zeros, 1))]
    np.testing.assert_array_equal(flat[0], flat[1])
    assert np.abs(flat[0] - flat[2]).max() > 0
    np.testing.assert_array_equal(
        flat[0], ravel_pytree(module.init(jax.random.key(0), jnp.asarray(zeros))["params"])[0]
    )


@pytest.mark.parametrize("activation", settings.ACTIVATIONS)
def test_activations_are_their_formulas(activation):
    x = np.linspace(-4, 4, 33)
    erf_free_gelu = 0.5 * x * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3)))
    formula = {
        "swish": x / (1 + np.exp(-x)),
        "tanh": np.tanh(x),
        "gelu": erf_free_gelu,
        "relu": np.maximum(x, 0),
        "softplus": np.log1p(np.exp(x)),
    }
    with jax.enable_x64(True):
        np.testing.assert_allclose(
            networks.ACTIVATIONS[activation](jnp.asarray(x)), formula[activation], atol=100 * EPS
        )


@pytest.mark.parametrize(
    ("model", "activation"), [(model, "swish") for model in settings.MODELS] + [("mlp", "softplus"), ("cnn", "tanh")]
)
def test_hessian_is_symmetric_and_matches_finite_differences_in_float64(model, activation):
    setting = _setting(model, activation=activation)
    with jax.enable_x64(True):
        module, params, batch = _initialized(setting)
        losses = networks.per_sample_loss(setting, module)
        theta, unravel = ravel_pytree(jax.tree.map(lambda leaf: leaf.astype(jnp.float64), _moved(params)))
        slope = jax.grad(lambda t: losses(unravel(t), batch).mean())
        both = _jit(lambda t, v: jax.jvp(slope, (t,), (v,)))  # one program: compiling is what costs
        # Only directions that matter: a random one has its weight in rows of words that do not occur.
        g = both(theta, jnp.zeros_like(theta))[0]
        v = jnp.where(g != 0, jax.random.normal(jax.random.key(2), theta.shape, jnp.float64), 0.0)
        v, w = v / jnp.linalg.norm(v), g / jnp.linalg.norm(g)
        hv, hw = both(theta, v)[1], both(theta, w)[1]
        scale = max(float(jnp.linalg.norm(hv)), float(jnp.linalg.norm(hw)))
        assert scale > 0
        # Two products of sums over a few thousand terms each: rounding below 1e4 eps of their size.
        assert abs(float(w @ hv - v @ hw)) <= 1e4 * EPS * scale
        # Central differences: truncation h² ∇⁴L, cancellation eps ‖∇L‖/h; at h = eps^(1/3) both scale as eps^(2/3).
        h = EPS ** (1 / 3)
        finite = (both(theta + h * v, v)[0] - both(theta - h * v, v)[0]) / (2 * h)
        size = scale + float(jnp.linalg.norm(g))
        assert float(jnp.linalg.norm(finite - hv)) <= 1e3 * EPS ** (2 / 3) * size


@functools.cache
def _compiled_losses(setting):
    return _jit(networks.per_sample_loss(setting, networks.build(setting)))


@hypothesis.settings(max_examples=10, deadline=None)
@hypothesis.given(order=st.permutations(range(8)), model=st.sampled_from(["mlp", "transformer"]))
def test_order_of_the_samples_does_not_change_their_losses(order, model):
    setting = _setting(model)
    params, losses = _initialized(setting)[1], _compiled_losses(setting)
    batch = _batch(setting, n=8)
    shuffled = tuple(part[np.array(order)] for part in batch)
    params = _moved(params)
    # The same sums in float32, possibly in another order for another row.
    tolerance = 100 * np.finfo(np.float32).eps
    expected = np.asarray(losses(params, batch))[np.array(order)]
    np.testing.assert_allclose(losses(params, shuffled), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("model", ["transformer", "bert-tiny"])
def test_padding_does_not_change_the_outputs(model):
    with jax.enable_x64(True):
        module, params, (tokens, _, mask) = _initialized(_setting(model))
        params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), _moved(params))
        apply = _jit(networks.apply, static_argnums=0)
        plain = apply(module, params, tokens, mask)
        pad = ((0, 0), (0, 64 - tokens.shape[1]))
        padded = apply(module, params, np.pad(tokens, pad), np.pad(mask, pad))
        junk = apply(module, params, np.where(mask, tokens, 19).astype(np.int32), mask)
        unmasked = apply(module, params, tokens)
    np.testing.assert_allclose(padded, plain, atol=1e3 * EPS)
    np.testing.assert_allclose(junk, plain, atol=1e3 * EPS)
    assert np.abs(unmasked - plain).max() > 1e-6  # the mask does something


def test_the_released_transformer_reads_the_padding_as_words():
    module, params, (tokens, _, mask) = _initialized(_setting("transformer-released"))
    params = _moved(params)
    apply = _jit(networks.apply, static_argnums=0)
    plain = apply(module, params, tokens, mask)
    np.testing.assert_array_equal(apply(module, params, tokens), plain)
    junk = apply(module, params, np.where(mask, tokens, 19).astype(np.int32), mask)
    assert np.abs(junk - plain).max() > 1e-3


@pytest.mark.parametrize("groups", [0, 1, 2, 6])
def test_normalization_is_that_of_flax(groups):
    x = jnp.asarray(3 + np.random.default_rng(0).standard_normal((2, 3, 5, 6), dtype=np.float32))
    ours, theirs = networks.Normalize(groups), nn.GroupNorm(groups) if groups else nn.LayerNorm()
    # flax computes the variance as E[x²] − E[x]², which costs (mean/std)² ~ 10 in relative rounding.
    tolerance = 1e3 * np.finfo(np.float32).eps
    params = {"params": {"scale": jnp.arange(1, 7, dtype=jnp.float32), "bias": jnp.arange(6, dtype=jnp.float32)}}
    np.testing.assert_allclose(ours.apply(params, x), theirs.apply(params, x), atol=tolerance)


def test_outputs_follow_the_dtype_of_the_parameters():
    module, params, (images, *_) = _initialized(_setting("mlp"))
    with jax.enable_x64(True):
        single = networks.apply(module, params, images)
        double = networks.apply(module, jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params), images)
    assert (single.dtype, double.dtype) == (np.float32, np.float64)
    np.testing.assert_allclose(single, double, atol=100 * np.finfo(np.float32).eps)


@pytest.mark.parametrize("criterion", settings.CRITERIA)
def test_per_sample_losses_are_the_criterion_of_the_outputs(criterion):
    setting = _setting("mlp", criterion=criterion)
    module, params, (images, targets) = _initialized(setting)
    if criterion == "cross-entropy":
        targets = (targets > 0).astype(np.int32)
    losses = networks.per_sample_loss(setting, module)(params, (images, targets))
    assert losses.shape == (4,)
    expected = criteria.get(criterion)(networks.apply(module, params, images), jnp.asarray(targets))
    np.testing.assert_array_equal(losses, expected)
