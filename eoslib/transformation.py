"""The constrained step as an optax transformation, for any training loop.

>>> import jax.numpy as jnp
>>> optimizer = constrained_gradient_descent(0.25)
>>> params = {"w": jnp.array([1.0, 2.0])}
>>> updates, state = optimizer.update(None, optimizer.init(params), params, loss_fn=lambda p: jnp.sum(p["w"] ** 2))
>>> print(updates["w"], state.message)
[-0.5 -1. ] the sharpness stays below the edge: the step is not bent
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer
from jaxtyping import Array, Float, Int

from eoslib.constrained import ConstrainedState, ConstrainedStatus, constrained_step
from eoslib.eigen import random_direction
from eoslib.inputs import beside
from eoslib.objective import Objective
from eoslib.rules import GradientDescent, Rated, require_edge


class ConstrainedTransformState(NamedTuple):
    """Optax state: the constrained trajectory without its position, which is the (trainable) parameters."""

    start: Float[Array, "k p"]
    older: Float[Array, "k p"]
    multiplier: Float[Array, "k k"]
    bend: Float[Array, " p"]
    thirds: Any  # (n, p), None for k = 1
    age: Int[Array, ""]
    sharpness: Float[Array, ""]  # where the last step began
    status: Int[Array, ""]  # a ConstrainedStatus
    steps: Int[Array, ""]  # taken so far
    asked: Float[Array, " p"]  # where the last step led
    largest: Float[Array, ""]  # and the largest entry of its move

    @property
    def active(self) -> Array:
        """Whether the last step was bent."""
        return jnp.trace(self.multiplier) > 0

    @property
    def message(self) -> str | list:
        """The status of the last step in words."""
        return ConstrainedStatus.words(self.status)


def _trained(trainable, params) -> tuple[bool, ...]:
    """Return for each leaf of ``params`` whether it is trainable."""

    def masked(node):
        return isinstance(node, optax.MaskedNode)

    if any(map(masked, jax.tree.leaves(params, is_leaf=masked))):
        raise ValueError(
            "params hold optax.MaskedNode (from optax.masked, partition or selective_transform), but the loss needs "
            "them whole: use constrained_gradient_descent(..., trainable=mask) without such a wrapper; to freeze after "
            "the fact, by optax.chain(..., optax.masked(optax.set_to_zero(), frozen)), would change the step"
        )
    given = trainable(params) if callable(trainable) else trainable
    try:
        flags = jax.tree.leaves(jax.tree.map(lambda flag, part: [flag] * len(jax.tree.leaves(part)), given, params))
    except ValueError as error:
        raise ValueError(f"trainable must be a pytree of booleans like params, or a prefix of it: {error}") from error
    if not all(isinstance(flag, bool | np.bool_) for flag in flags) or not any(flags):
        raise ValueError(f"trainable must hold booleans, True somewhere, got {given!r}")
    return tuple(map(bool, flags))


def _objective(loss_fn, trained, options, params, batch):
    """Return the loss of the trainable block, that block, and what puts it back among the frozen leaves."""
    leaves, tree = jax.tree.flatten(params)

    def whole(block, frozen=leaves):
        found = iter(jax.tree.leaves(block))
        return tree.unflatten([next(found) if train else leaf for train, leaf in zip(trained, frozen)])

    block = tree.unflatten([leaf if train else None for train, leaf in zip(trained, leaves)])
    of_block = lambda part, *data: loss_fn(whole(part), *data)  # noqa: E731
    return Objective.create(of_block, block, batch, **dict(options)), block, whole


@jax.jit(static_argnames=("loss_fn", "trained", "options", "thirds_every"))
def _advance(loss_fn, trained, options, thirds_every, rule, params, state: ConstrainedTransformState, batch):
    objective, block, whole = _objective(loss_fn, trained, options, params, batch)

    def strayed(leaf, asked):
        rounding = 4 * float(jnp.finfo(leaf.dtype).eps) * (jnp.abs(asked) + state.largest)
        return (jnp.abs(leaf.astype(asked.dtype) - asked) > rounding).any()

    theta, rule = objective.ravel(block), jax.tree.map(lambda rate: jnp.asarray(rate, objective.dtype), rule)
    following, record = constrained_step(
        objective, rule, ConstrainedState(theta, *state[:6]), thirds_every=thirds_every
    )
    move = following.theta - theta
    updates = objective.like_params(move)
    altered = jnp.stack(jax.tree.leaves(jax.tree.map(strayed, block, objective.unravel(state.asked)))).any()
    altered = altered & (state.steps > 0) & (record.status != ConstrainedStatus.NOT_FINITE)
    state = ConstrainedTransformState(
        *following[1:], record.geometry.sharpness, jnp.where(altered, ConstrainedStatus.ALTERED, record.status),
        state.steps + 1, objective.ravel(optax.apply_updates(block, updates)), jnp.abs(move).max(),
    )  # fmt: skip
    return whole(updates, map(jnp.zeros_like, jax.tree.leaves(params))), state


def constrained_gradient_descent(
    rule: Rated | Callable | Any,
    *, directions: int = 1, thirds_every: int = 10, seed: int = 0, trainable: Any = True,
) -> optax.GradientTransformationExtraArgs:  # fmt: skip
    """Return the constrained step as an optax transformation, for any training loop.

    ``update(grads, state, params, loss_fn=…)`` ignores ``grads`` and returns the move from θ† to the next point of the
    constrained trajectory; ``loss_fn(params)`` is the full-batch loss, or ``loss_fn(params, batch)`` with ``batch=…``,
    and returns (loss, aux) with ``has_aux=True``.  ``micro_batch=…`` evaluates as many samples at a time, for a loss
    that is a mean over them.  ``state.message`` says how the step went.  The first step costs a cold eigen-solve.
    Like ``jax.jit``, ``update`` compiles once for a function ``loss_fn`` and shapes, and what the function closes over
    is then fixed: pass the same function each time, and changing data as ``batch``.
    (``TrainState.apply_gradients`` of flax forwards no arguments; call ``state.tx.update`` and ``replace`` instead.)

    Args:
        rule: Step size η of gradient descent, whose edge is 2/η, a schedule of it (count ↦ η, positive: traced, it
            cannot be checked), or another update rule.
        directions: Number k of leading directions held at or below the edge: as many as reach it, and one more.
        thirds_every: For k > 1, steps between evaluations of the third derivatives.
        seed: Seed of the eigenvectors' cold start.
        trainable: Pytree of booleans like ``params``, a prefix of one, or a function of ``params`` that returns one:
            the sharpness is that of the trainable block, and the other parts do not move.

    Raises:
        ValueError: if η is not positive and finite; from ``init`` and ``update`` if ``trainable`` does not fit
            ``params``, or a wrapper has masked these; from ``update`` if ``params`` or ``loss_fn`` is missing, or
            ``state`` is not what ``init`` returns, or the loss is none, as in ``Objective.create``.
    """
    fixed, checked = None if callable(rule) else require_edge(rule), set()

    def init(params):
        trained = iter(_trained(trainable, params))
        block = jax.tree.map(lambda leaf: leaf if next(trained) else None, params)
        flat = Objective.create(lambda p: jnp.zeros(()), block)
        if not (directions == 1 or 1 < 3 * directions <= flat.size):
            raise ValueError(f"directions must lie in 1..{flat.size // 3}, got {directions!r}")
        us = jnp.stack([random_direction(flat.size, flat.dtype, seed + i) for i in range(directions)])

        def zeros(*shape, dtype=flat.dtype):  # each its own buffer, so that they can be donated
            return jnp.zeros(shape, dtype)

        start = ConstrainedState.at(None, us)._replace(older=jnp.array(us))
        counts = zeros(dtype=jnp.int32), zeros(dtype=jnp.int32)
        return ConstrainedTransformState(*start[1:], zeros(), *counts, zeros(flat.size), zeros())

    def update(updates, state, params=None, *, loss_fn=None, batch=None, micro_batch=None, has_aux=False, **_):
        if params is None or loss_fn is None:
            raise ValueError("constrained_gradient_descent needs update(grads, state, params, loss_fn=loss_fn)")
        if not isinstance(state, ConstrainedTransformState):
            raise ValueError(
                f"state must be a ConstrainedTransformState, got a {type(state).__name__}: restore a checkpoint with a "
                "target, the state of init(params)"
            )
        now = GradientDescent(rule(state.steps)) if callable(rule) else fixed
        loss_fn = loss_fn if isinstance(loss_fn, Hashable) else loss_fn.__call__
        params, state = beside(batch, (params, state))
        what = loss_fn, _trained(trainable, params), (("has_aux", has_aux), ("micro_batch", micro_batch))
        traced = any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((params, batch)))
        if micro_batch is not None and what not in checked and not traced:  # traced, a sum passes for a mean
            _objective(*what, params, batch)
            checked.add(what)
        return _advance(*what, thirds_every, now, params, state, batch)

    return optax.GradientTransformationExtraArgs(init, update)
