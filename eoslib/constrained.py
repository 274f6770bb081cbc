"""The constrained trajectory θ†: projected gradient descent on the stable set, one step at a time, and for optax.

Source: arXiv 2209.15594 (constrained trajectory); the predictor–corrector step is this project's own.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from eoslib.eigen import random_direction
from eoslib.geometry import LocalGeometry, local_geometry_and_products
from eoslib.inputs import beside
from eoslib.loops import do_while
from eoslib.objective import Objective, inner, length
from eoslib.position import Theta
from eoslib.rules import GradientDescent, resolve
from eoslib.stable_set import floor_correction, restoring_move, sharpness_multiplier, violation
from eoslib.status import Status


class ConstrainedStatus(Status):
    """How a constrained step went."""

    BELOW = "the sharpness stays below the edge: the step is not bent"
    BENT = "the step is bent: without that the sharpness would pass the edge"
    VIOLATED = "the violation left after the repair rounds exceeds the tolerance"
    NO_DIRECTION = "∇S⊥ vanishes although the sharpness must fall: no direction lowers it to first order"
    NOT_CONVERGED = "the eigenvector's residual exceeds its tolerance after refinement: the sharpness may be larger"
    NOT_FINITE = "the loss, one of its derivatives or the step is not finite"
    ALTERED = (
        "the parameters did not move as the last step asked: what else changes them is no part of the constrained "
        "trajectory (for frozen parts pass trainable=)"
    )


class ConstrainedState(NamedTuple):
    """The constrained trajectory with its leading eigenvector followed."""

    theta: Theta  # θ†_t
    eigenvector: Float[Array, " p"]  # start for u_t
    older: Float[Array, " p"]  # u_{t−1}, improved by a power step
    correction: Float[Array, ""]  # c, multiple of ∇S⊥ by which the last step was bent
    bend: Float[Array, " p"]  # −c ∇S⊥ at the last center

    @classmethod
    def at(cls, theta, eigenvector) -> ConstrainedState:
        """Return the state at a point θ† (p,) that no step led to, with a start (p,) for its eigenvector."""
        return cls(theta, eigenvector, eigenvector, jnp.zeros((), eigenvector.dtype), jnp.zeros_like(eigenvector))


class ConstrainedRecord(NamedTuple):
    """What a constrained step measures at θ†_t."""

    theta: Theta  # θ†_t, after a repair if there was one
    geometry: LocalGeometry  # its products are those of all centers
    status: Int[Array, ""]  # a ConstrainedStatus
    correction: Float[Array, ""]  # multiple of ∇S⊥ subtracted; η δ²/2 in the continuous limit
    rounds: Int[Array, ""]  # projection rounds beyond the one center
    products: Float[Array, "k p"]  # ∇²L(θ†_t) V for the directions asked for

    @property
    def active(self) -> Array:
        """Whether the step was bent: the sharpness would otherwise pass 2/η."""
        return self.correction > 0

    @property
    def message(self) -> str | list:
        """The status in words."""
        return ConstrainedStatus.words(self.status)


def constrained_step(
    objective: Objective, rule: GradientDescent, state: ConstrainedState, vs: Float[Array, "k p"] | None = None,
    *, tolerance: float = 1e-4, eigen_tolerance: float = 5e-3,
) -> tuple[ConstrainedState, ConstrainedRecord]:  # fmt: skip
    """Advance θ† ↦ proj_M(θ† − η∇L(θ†)) by predictor and corrector; return also what was measured at θ†_t.

    There is one center per step: at θ†_t the cubic expansion yields ∇L, S, u and ∇S.  The gradient step is linearized,
    S + ∇S·Δ and (1 − ηS) u·∇L, and both conditions of M are restored in the same move.  What is left is second order
    and the next step removes it; where it exceeds the tolerance, rounds of the projection come first.  The nearest
    point of M lies along ∇S⊥ taken there and not at θ†_t: the next step, which knows it, turns this step's bend into
    that direction.  Where gradient descent does not overshoot the floor of the valley, S ≤ 1/η, it is left alone: the
    move along u is −min(η, 1/S) u·∇L.  The eigenvector is followed: another eigenvalue that overtakes S without mixing
    with u, as of a part of the loss that shares no parameter with the rest, stays unseen.

    Args:
        objective: The loss.
        rule: Update rule; its edge bounds the sharpness.
        state: θ†_t and a start for its eigenvector.
        vs: Directions (k, p) for which ∇²L(θ†_t) v is wanted in the same pass.
        tolerance: Violation of S ≤ 2/η, relative, above which it is restored before the step.
        eigen_tolerance: Residual of u relative to S.

    Raises:
        ValueError: if η is not positive and finite.
    """
    vs = jnp.zeros((0, objective.size), objective.dtype) if vs is None else vs.astype(objective.dtype)
    state, vs = objective.place((state, vs))
    return _step(objective, resolve(rule), state, vs, tolerance=tolerance, eigen_tolerance=eigen_tolerance)


@jax.jit(static_argnames=("tolerance", "eigen_tolerance"), inline=True)
def _step(objective: Objective, rule: GradientDescent, state: ConstrainedState, vs, tolerance, eigen_tolerance):
    def unreachable(geometry, theta, excess):
        """A correction longer than θ itself is no correction: ∇S⊥ has vanished for this purpose."""
        return excess > jnp.sqrt(geometry.beta) * (1 + length(theta.astype(objective.dtype)))

    # One center; a violation beyond the tolerance is restored and the center looked at again.
    def center(carry):
        theta, start, spent, rounds = carry
        geometry, products = local_geometry_and_products(objective, theta, start, vs, tolerance=eigen_tolerance)
        geometry = geometry._replace(products=geometry.products + spent)
        again = (violation(geometry, rule).sharpness > tolerance) & (rounds < 5)
        again = again & ~unreachable(geometry, theta, geometry.sharpness - rule.edge)
        moved = theta + jnp.where(again, restoring_move(geometry, rule), 0).astype(theta.dtype)
        return (geometry, products), (moved, geometry.improved_eigenvector, geometry.products, rounds + 1), again

    zero = jnp.zeros((), jnp.int32)
    carry = state.theta, state.eigenvector.astype(objective.dtype), zero, zero
    (geometry, products), (theta, _, _, rounds) = do_while(center, carry)
    u, perpendicular = geometry.eigenvector, geometry.perpendicular
    # The last bend turned from ∇S⊥ of the last center to that of this one, within the plane orthogonal to u.
    turn = -state.correction.astype(objective.dtype) * perpendicular - state.bend.astype(objective.dtype)
    turn = jnp.where(rounds > 1, 0, turn - inner(u, turn) * u)
    plain = geometry.sharpness + rule.learning_rate * geometry.alpha  # S after the plain step, to first order
    excess = (plain + inner(perpendicular, turn) - rule.edge).astype(objective.dtype)
    needed = jnp.maximum(excess, geometry.sharpness - rule.edge)
    lost = unreachable(geometry, theta, needed)
    correction = sharpness_multiplier(geometry, jnp.where(lost, 0, excess))
    bend = -correction * perpendicular
    overshoot = jnp.minimum(1 - rule.learning_rate * geometry.sharpness, 0)
    rest = (overshoot * inner(u, geometry.gradient)).astype(objective.dtype)
    move = -rule.learning_rate * geometry.gradient + turn + bend + floor_correction(geometry, rest)
    # u turns evenly: extrapolated from the last two it starts far closer to the next, until a refinement or a repair.
    latest = geometry.improved_eigenvector
    start = jnp.where((geometry.products > 1) | (rounds > 1), latest, 2 * latest - state.older.astype(latest.dtype))
    following = ConstrainedState(theta + move.astype(theta.dtype), start, latest, correction, bend)
    # An error of S within the tolerance on S ≤ 2/η does no harm, however small S is.
    known = jnp.maximum(eigen_tolerance * jnp.abs(geometry.sharpness), tolerance * rule.edge)
    cases = {  # the first that holds decides
        ConstrainedStatus.NOT_FINITE: ~(jnp.isfinite(geometry.loss + geometry.sharpness) & jnp.isfinite(move).all()),
        ConstrainedStatus.NOT_CONVERGED: geometry.residual > known,
        ConstrainedStatus.NO_DIRECTION: lost & (needed > tolerance * rule.edge),
        ConstrainedStatus.VIOLATED: violation(geometry, rule).sharpness > tolerance,
        ConstrainedStatus.BENT: correction > 0,
    }
    status = jnp.select(list(cases.values()), list(cases), ConstrainedStatus.BELOW).astype(jnp.int32)
    return following, ConstrainedRecord(theta, geometry, status, correction, rounds - 1, products)


class ConstrainedTransformState(NamedTuple):
    """Optax state: the constrained trajectory but for its position, which is the (trainable) parameters."""

    eigenvector: Float[Array, " p"]
    older: Float[Array, " p"]
    correction: Float[Array, ""]
    bend: Float[Array, " p"]
    sharpness: Float[Array, ""]  # where the last step began
    status: Int[Array, ""]  # a ConstrainedStatus
    steps: Int[Array, ""]  # taken so far
    asked: Float[Array, " p"]  # where the last step led
    largest: Float[Array, ""]  # and the largest entry of its move

    @property
    def active(self) -> Array:
        """Whether the last step was bent."""
        return self.correction > 0

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


@jax.jit(static_argnames=("loss_fn", "trained", "has_aux"))
def _advance(loss_fn, trained, has_aux, rule, params, state: ConstrainedTransformState, batch):
    leaves, tree = jax.tree.flatten(params)

    def whole(block, frozen):
        found = iter(jax.tree.leaves(block))
        return tree.unflatten([next(found) if train else leaf for train, leaf in zip(trained, frozen)])

    block = tree.unflatten([leaf if train else None for train, leaf in zip(trained, leaves)])
    objective = Objective.create(lambda part, *data: loss_fn(whole(part, leaves), *data), block, batch, has_aux=has_aux)

    def strayed(leaf, asked):
        rounding = 4 * float(jnp.finfo(leaf.dtype).eps) * (jnp.abs(asked) + state.largest)
        return (jnp.abs(leaf.astype(asked.dtype) - asked) > rounding).any()

    theta, rule = objective.ravel(block), jax.tree.map(lambda rate: jnp.asarray(rate, objective.dtype), rule)
    following, record = constrained_step(objective, rule, ConstrainedState(theta, *state[:4]))
    move = following.theta - theta
    updates = objective.like_params(move)
    altered = jnp.stack(jax.tree.leaves(jax.tree.map(strayed, block, objective.unravel(state.asked)))).any()
    altered = altered & (state.steps > 0) & (record.status != ConstrainedStatus.NOT_FINITE)
    state = ConstrainedTransformState(
        *following[1:], record.geometry.sharpness, jnp.where(altered, ConstrainedStatus.ALTERED, record.status),
        state.steps + 1, objective.ravel(optax.apply_updates(block, updates)), jnp.abs(move).max(),
    )  # fmt: skip
    return whole(updates, map(jnp.zeros_like, leaves)), state


def constrained_gradient_descent(
    rule: GradientDescent | Callable | Any, *, seed: int = 0, trainable: Any = True
) -> optax.GradientTransformationExtraArgs:
    """Return the constrained step as an optax transformation, for anyone's training loop.

    ``update(grads, state, params, loss_fn=…)`` ignores ``grads`` and returns the move from θ† to the next point of the
    constrained trajectory; ``loss_fn(params)`` is the full-batch loss, or ``loss_fn(params, batch)`` with ``batch=…``,
    and returns (loss, aux) with ``has_aux=True``.  ``state.message`` says how the step went.  The first step costs a
    cold eigen-solve.  Like ``jax.jit``, ``update`` compiles once for a function ``loss_fn`` and shapes, and what the
    function encloses is then fixed: hand in the same function each time, and data that change as ``batch``.
    (``TrainState.apply_gradients`` of flax passes nothing on: there call ``state.tx.update`` and ``replace``.)

    Args:
        rule: Step size η of gradient descent, whose edge is 2/η, a schedule of it (count ↦ η), or another update rule.
        seed: Seed of the eigenvector's cold start.
        trainable: Pytree of booleans like ``params``, a prefix of one, or a function of ``params`` that returns one:
            the sharpness is that of the trainable block, and the other parts stay.

    Raises:
        ValueError: if η is not positive and finite; from ``init`` and ``update`` if ``trainable`` does not fit
            ``params``, or a wrapper has masked these; from ``update`` if ``params`` or ``loss_fn`` is missing, or
            ``state`` is not what ``init`` returns.
    """
    fixed = None if callable(rule) else resolve(rule)

    def init(params):
        trained = iter(_trained(trainable, params))
        block = jax.tree.map(lambda leaf: leaf if next(trained) else None, params)
        flat = Objective.create(lambda p: jnp.zeros(()), block)
        u, zeros = random_direction(flat.size, flat.dtype, seed), lambda *shape: jnp.zeros(shape, flat.dtype)
        counts = jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)  # each its own buffer, so that they can be donated
        return ConstrainedTransformState(
            u, jnp.array(u), zeros(), zeros(u.size), zeros(), *counts, zeros(u.size), zeros()
        )

    def update(updates, state, params=None, *, loss_fn=None, batch=None, has_aux=False, **_):
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
        return _advance(loss_fn, _trained(trainable, params), has_aux, now, params, state, batch)

    return optax.GradientTransformationExtraArgs(init, update)
