"""Networks, all behind one interface: ``build`` a flax module, ``init`` its parameters, ``apply`` it to a batch.

MLP and CNN have the shapes of the released experiments (arXiv 2209.15594).  So have ``resnet18-released`` and
``transformer-released``; ``resnet18`` and ``transformer`` are variants (smooth activations throughout, a feed-forward
width of 4×, masked padding).  VGG-11 and BERT-tiny are only named there.  Since curvature is measured, everything else
is smooth in the parameters (no dropout, no max-pooling; ``relu`` on request).

>>> import numpy as np
>>> from selfstab import settings
>>> module = build(settings.get("mlp-cats-dogs", "test"))
>>> images = np.zeros((2, 32, 32, 3), np.float32)
>>> apply(module, init(module, images, seed=0), images).shape
(2, 1)
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from selfstab import criteria
from selfstab.data.sentences import MAX_TOKENS, VOCABULARY
from selfstab.settings import Setting

Params = Any

#: Rows of the released transformer's embedding, more than BERT has word pieces.
RELEASED_VOCABULARY = 33_278

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "swish": nn.swish, "tanh": jnp.tanh, "gelu": nn.gelu, "relu": nn.relu, "softplus": nn.softplus,
}  # fmt: skip
#: U(±1/√fan_in), of variance 1/(3 fan_in).
UNIFORM = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class Conv(nn.Module):
    """Convolve with square kernels and SAME padding, by one matrix product of the pixels' neighborhoods.

    Parameters and outputs are those of ``flax.linen.Conv``.  On CPUs, however, XLA has fast code only for convolutions
    outside loops and in one order of dimensions, so higher derivatives, taken in loops, would be many times slower.
    """

    features: int
    size: int = 3
    stride: int = 1
    bias: bool = True
    kernel_init: Callable = UNIFORM

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 c2"]:
        """Return the convolved images, of ⌈h/stride⌉ × ⌈w/stride⌉ pixels."""
        kernel = self.param("kernel", self.kernel_init, (self.size, self.size, x.shape[-1], self.features), jnp.float32)
        ends = [self.stride * (math.ceil(side / self.stride) - 1) + 1 for side in x.shape[1:3]]
        missing = [max(end - 1 + self.size - side, 0) for end, side in zip(ends, x.shape[1:3], strict=True)]
        x = jnp.pad(x, ((0, 0), *((m // 2, m - m // 2) for m in missing), (0, 0)))
        shifts = [(i, j) for i in range(self.size) for j in range(self.size)]
        near = [x[:, i : i + ends[0] : self.stride, j : j + ends[1] : self.stride] for i, j in shifts]
        y = jnp.concatenate(near, axis=-1) @ kernel.reshape(-1, self.features)  # (n, h2, w2, features)
        if not self.bias:
            return y
        return y + self.param("bias", nn.initializers.zeros_init(), (self.features,), jnp.float32).reshape(1, 1, 1, -1)


def _halve(x: Float[Array, "n h w c"]) -> Array:
    """Average over 2×2 squares."""
    n, h, w, c = x.shape
    return x.reshape((n, h // 2, 2, w // 2, 2, c)).mean(axis=(2, 4))


class Normalize(nn.Module):
    """Normalize within groups of channels (0: at each position), then scale and shift each channel as learned.

    flax's own layers cast float64 scales to float32 and compute the variance as a difference of large numbers.
    """

    groups: int = 0

    @nn.compact
    def __call__(self, x: Float[Array, "n *space c"]) -> Float[Array, "n *space c"]:
        """Return the normalized inputs."""
        channels, lifted = x.shape[-1], (1,) * (x.ndim - 1) + (-1,)
        y, axes = x, (-1,)
        if self.groups:
            y, axes = x.reshape((x.shape[0], -1, self.groups, channels // self.groups)), (1, 3)
        y = y - y.mean(axis=axes, keepdims=True)
        y = (y * jax.lax.rsqrt((y * y).mean(axis=axes, keepdims=True) + 1e-6)).reshape(x.shape)
        scale = self.param("scale", nn.initializers.ones_init(), (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), (channels,), jnp.float32)
        return y * scale.reshape(lifted) + bias.reshape(lifted)


def _normalized(convolution: Conv, x: Float[Array, "n h w c"]) -> Array:
    """Convolve, then normalize within 16 groups of channels, or the most that divide fewer channels."""
    return Normalize(groups=math.gcd(16, convolution.features))(convolution(x))


def _head(classes: int, kernel_init: Callable = UNIFORM) -> nn.Dense:
    """Return the output layer; with weights of zero all outputs are 0 at initialization."""
    return nn.Dense(classes, kernel_init=kernel_init, name="head")


class Network(nn.Module):
    """Hold the fields of every network: its width, its number of outputs, its activation."""

    width: int
    classes: int
    activation: Callable


class MLP(Network):
    """Flatten the images, then apply two hidden layers of ``width`` and the output layer."""

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], mask: None = None) -> Float[Array, "n k"]:
        """Return the outputs (n, classes) of images."""
        x = x.reshape((x.shape[0], -1))
        for _ in range(2):
            x = self.activation(nn.Dense(self.width, kernel_init=UNIFORM)(x))
        return _head(self.classes)(x)


class CNN(Network):
    """Two 3×3 convolutions of ``width`` channels, each followed by an average pool of 2, then the output layer."""

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], mask: None = None) -> Float[Array, "n k"]:
        """Return the outputs (n, classes) of images."""
        for _ in range(2):
            x = _halve(self.activation(Conv(self.width)(x)))
        return _head(self.classes)(x.reshape((x.shape[0], -1)))


class ResidualBlock(nn.Module):
    """Add two normalized 3×3 convolutions to their input, projected by a 1×1 convolution where the shape changes."""

    channels: int
    stride: int
    inside: Callable
    activation: Callable
    kernel_init: Callable

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 c2"]:
        """Return the features, at half the side for stride 2."""
        conv = functools.partial(Conv, self.channels, bias=False, kernel_init=self.kernel_init)
        y = self.inside(_normalized(conv(stride=self.stride), x))
        y = _normalized(conv(), y)
        if x.shape != y.shape:
            x = _normalized(conv(size=1, stride=self.stride), x)
        return self.activation(x + y)


class ResNet18(Network):
    """A stem without pooling, four stages of two residual blocks with 1, 2, 4, 8 × ``width`` channels, mean pool.

    ``released`` has ReLU in the stem and inside the blocks, ``activation`` after their sums only, and other weights.
    """

    released: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], mask: None = None) -> Float[Array, "n k"]:
        """Return the outputs (n, classes) of images."""
        inside, init = (nn.relu, nn.initializers.kaiming_normal()) if self.released else (self.activation, UNIFORM)
        x = inside(_normalized(Conv(self.width, bias=False, kernel_init=init), x))
        for stage in range(4):
            for block in range(2):
                stride = 2 if stage > 0 and block == 0 else 1
                x = ResidualBlock(self.width * 2**stage, stride, inside, self.activation, init)(x)
        return _head(self.classes, nn.initializers.zeros)(x.mean(axis=(1, 2)))


class VGG11(Network):
    """Eight normalized 3×3 convolutions (``width`` 64 is the classical size); average pools while pixels remain."""

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], mask: None = None) -> Float[Array, "n k"]:
        """Return the outputs (n, classes) of images."""
        for multiple, pool in ((1, 1), (2, 1), (4, 0), (4, 1), (8, 0), (8, 1), (8, 0), (8, 1)):
            x = self.activation(_normalized(Conv(self.width * multiple, bias=False), x))
            if pool and x.shape[1] > 1:
                x = _halve(x)
        return _head(self.classes)(x.mean(axis=(1, 2)))


class EncoderLayer(nn.Module):
    """Add self-attention, then a feed-forward layer ``multiple`` times as wide, to the input; normalize after each."""

    heads: int
    activation: Callable
    multiple: int

    @nn.compact
    def __call__(self, x: Float[Array, "n t d"], mask: Bool[Array, "n t"]) -> Float[Array, "n t d"]:
        """Return the features; masked positions are not attended to."""
        attended = nn.MultiHeadDotProductAttention(num_heads=self.heads)(x, mask=mask[:, None, None, :])
        x = Normalize()(x + attended)
        hidden = self.activation(nn.Dense(self.multiple * x.shape[-1])(x))
        return Normalize()(x + nn.Dense(x.shape[-1])(hidden))


class Encoder(Network):
    """Embeddings of words and positions, encoder layers, mean over the real tokens, an output layer that starts at 0.

    ``bert`` adds two parts of the BERT family: a normalized embedding, and a tanh layer between mean and output layer.
    ``released`` has feed-forward layers as wide as the rest, and treats the padding, to the longest sentence, as words.
    """

    bert: bool = False
    released: bool = False
    layers: int = 2
    heads: int = 2
    vocabulary: int = VOCABULARY

    @nn.compact
    def __call__(self, x: Int[Array, "n t"], mask: Bool[Array, "n t"] | None = None) -> Float[Array, "n k"]:
        """Return the outputs (n, classes) of sentences of word indices."""
        mask = jnp.ones(x.shape, bool) if mask is None or self.released else mask
        words = nn.Embed(self.vocabulary, self.width, name="words")(x)
        positions = self.param("positions", nn.initializers.normal(0.02), (MAX_TOKENS, self.width), jnp.float32)
        h = words + positions[None, : x.shape[1]]  # (n, t, d)
        if self.bert:
            h = Normalize()(h)
        for _ in range(self.layers):
            h = EncoderLayer(self.heads, self.activation, 1 if self.released else 4)(h, mask)
        weight = mask.astype(h.dtype)[:, :, None]  # (n, t, 1)
        h = (weight * h).sum(axis=1) / jnp.maximum(weight.sum(axis=1), 1)  # (n, d)
        if self.bert:
            h = jnp.tanh(nn.Dense(self.width, name="pooler")(h))
        return _head(self.classes, nn.initializers.zeros)(h)


def outputs(setting: Setting) -> int:
    """Return the number of outputs of a network: ten classes, two under cross-entropy, or one score for labels ±1."""
    if setting.dataset == "cifar10":
        return 10
    return 2 if setting.criterion == "cross-entropy" else 1


def build(setting: Setting) -> nn.Module:
    """Return the network of a setting, without parameters."""
    kinds = {"mlp": MLP, "cnn": CNN, "resnet18": ResNet18, "vgg11": VGG11, "transformer": Encoder, "bert-tiny": Encoder}
    model, *released = setting.model.split("-released")
    options: dict[str, Any] = {"released": True} if released else {"bert": True} if model == "bert-tiny" else {}
    if model == "transformer" and released:
        options["vocabulary"] = RELEASED_VOCABULARY
    return kinds[model](setting.width, outputs(setting), ACTIVATIONS[setting.activation], **options)


def init(module: nn.Module, inputs: ArrayLike, seed: int) -> Params:
    """Return float32 parameters drawn from a seed; of the inputs (n, …) only the shape matters."""
    # Unoptimized code draws the same numbers, and the cost here is compilation alone (ResNet-18: 1 s instead of 11 s).
    draw = jax.jit(module.init, compiler_options={"xla_backend_optimization_level": 0})
    return draw(jax.random.key(seed), jnp.asarray(inputs[:1]))["params"]


def apply(module: nn.Module, params: Params, inputs: ArrayLike, mask: ArrayLike | None = None) -> Float[Array, "n k"]:
    """Return the outputs of the network, computed in the dtype of the parameters.

    Args:
        module: From :func:`build`.
        params: Pytree from :func:`init`, in float32 or float64.
        inputs: Images (n, h, w, c), or tokens (n, t) with t ≤ 64.
        mask: (n, t), true at the real tokens; images have none.
    """
    inputs = jnp.asarray(inputs)
    if jnp.issubdtype(inputs.dtype, jnp.floating):
        inputs = inputs.astype(jax.tree.leaves(params)[0].dtype)
    mask = None if mask is None else jnp.asarray(mask)
    return module.apply({"params": params}, inputs, mask)


def per_sample_loss(setting: Setting, module: nn.Module) -> Callable[[Params, tuple], Array]:
    """Return ``f(params, batch)`` → losses (m,) of a batch ``(inputs, targets)`` or ``(inputs, targets, mask)``.

    Their mean over the whole data set is the training loss L(θ).
    """
    criterion = criteria.get(setting)

    def losses(params: Params, batch: tuple) -> Float[Array, " m"]:
        inputs, targets, *mask = batch
        return criterion(apply(module, params, inputs, *mask), jnp.asarray(targets))

    return losses
