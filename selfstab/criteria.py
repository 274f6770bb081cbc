"""Criteria: the loss of each sample, given the network's outputs; the training loss is their mean over samples.

Labels are integers (ten classes, or 0/1 under cross-entropy; outputs have one column per class) or ±1 in floating point
(outputs have one column, the score).

>>> import jax.numpy as jnp
>>> squared_error(jnp.array([[0.5], [-1.0]]), jnp.array([1.0, -1.0])).tolist()
[0.25, 0.0]
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Num

from selfstab.settings import Setting, check_known

Criterion = Callable[[Array, Array], Array]


def _score(outputs: Array, targets: Array, name: str) -> Array:
    """Return the one column of scores, for labels ±1."""
    if outputs.shape[-1] != 1 or not jnp.issubdtype(targets.dtype, jnp.floating):
        got = f"got {outputs.shape} and dtype {targets.dtype}"
        raise ValueError(f"{name} needs outputs (n, 1) and floating labels ±1, {got}")
    return outputs[:, 0]  # (n,)


def _class(outputs: Array, targets: Array, name: str) -> Array:
    """Return the class indices, for outputs with one column per class."""
    if outputs.shape[-1] < 2 or not jnp.issubdtype(targets.dtype, jnp.integer):
        got = f"got {outputs.shape} and dtype {targets.dtype}"
        raise ValueError(f"{name} needs outputs (n, k >= 2) and integer labels, {got}")
    return targets


def squared_error(outputs: Float[Array, "n k"], targets: Num[Array, " n"]) -> Float[Array, " n"]:
    """Return ‖f − e_y‖² for classes y, (f − y)² for labels y = ±1, without a factor ½.

    Raises:
        ValueError: if the outputs' columns do not fit the kind of labels.
    """
    if jnp.issubdtype(targets.dtype, jnp.floating):
        return (_score(outputs, targets, "squared-error") - targets.astype(outputs.dtype)) ** 2
    one_hot = jax.nn.one_hot(_class(outputs, targets, "squared-error"), outputs.shape[-1], dtype=outputs.dtype)
    return jnp.sum((outputs - one_hot) ** 2, axis=-1)


def cross_entropy(outputs: Float[Array, "n k"], targets: Num[Array, " n"]) -> Float[Array, " n"]:
    """Return −log softmax(f)_y for classes y.

    Raises:
        ValueError: if the labels are not integers or there are fewer than two outputs.
    """
    return optax.softmax_cross_entropy_with_integer_labels(outputs, _class(outputs, targets, "cross-entropy"))


def logistic(outputs: Float[Array, "n k"], targets: Num[Array, " n"]) -> Float[Array, " n"]:
    """Return log(1 + exp(−y f)) for labels y = ±1.

    Raises:
        ValueError: if the labels are not floating ±1 or there is more than one output.
    """
    score = _score(outputs, targets, "logistic")
    return optax.sigmoid_binary_cross_entropy(score, (targets.astype(score.dtype) + 1) / 2)


CRITERIA: dict[str, Criterion] = {"squared-error": squared_error, "cross-entropy": cross_entropy, "logistic": logistic}


def get(setting: Setting | str) -> Criterion:
    """Return the criterion of a setting, or that of a name.

    Raises:
        ValueError: on an unknown name; the message lists the known ones.
    """
    name = setting.criterion if isinstance(setting, Setting) else setting
    check_known("criterion", name, CRITERIA)
    return CRITERIA[name]


def accuracy(outputs: Float[Array, "n k"], targets: Num[Array, " n"]) -> Float[Array, ""]:
    """Return the fraction of samples classified correctly, by the largest output or by the sign of the score."""
    if jnp.issubdtype(targets.dtype, jnp.floating):
        right = (_score(outputs, targets, "accuracy") > 0) == (targets > 0)
    else:
        right = jnp.argmax(outputs, axis=-1) == _class(outputs, targets, "accuracy")
    return jnp.mean(right.astype(outputs.dtype))
