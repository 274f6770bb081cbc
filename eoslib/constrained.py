"""The constrained trajectory θ†: projected gradient descent on the stable set, one step at a time, and for optax.

Source: arXiv 2209.15594 (constrained trajectory); the predictor–corrector step is this project's own.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from eoslib.eigen import random_direction
from eoslib.geometry import LocalGeometry, local_geometry_and_products
from eoslib.loops import do_while
from eoslib.objective import Objective, inner
from eoslib.position import Theta
from eoslib.rules import GradientDescent, resolve
from eoslib.stable_set import floor_correction, restoring_move, sharpness_multiplier, violation


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
    active: Array  # whether the step was bent: the sharpness would otherwise pass 2/η
    correction: Float[Array, ""]  # multiple of ∇S⊥ subtracted; η δ²/2 in the continuous limit
    rounds: Int[Array, ""]  # projection rounds beyond the one center
    products: Float[Array, "k p"]  # ∇²L(θ†_t) V for the directions asked for


def constrained_step(
    objective: Objective, rule: GradientDescent, state: ConstrainedState, vs: Float[Array, "k p"] | None = None,
    *, tolerance: float = 1e-4, eigen_tolerance: float = 5e-3,
) -> tuple[ConstrainedState, ConstrainedRecord]:  # fmt: skip
    """Advance θ† ↦ proj_M(θ† − η∇L(θ†)) by predictor and corrector; return also what was measured at θ†_t.

    There is one center per step: at θ†_t the cubic expansion yields ∇L, S, u and ∇S.  The gradient step is linearized,
    S + ∇S·Δ and (1 − ηS) u·∇L, and both conditions of M are restored in the same move.  What is left is second order
    and the next step removes it; where it exceeds the tolerance, rounds of the projection come first.  The nearest
    point of M lies along ∇S⊥ taken there and not at θ†_t: the next step, which knows it, turns this step's bend into
    that direction.

    Args:
        objective: The loss.
        rule: Update rule; its edge bounds the sharpness.
        state: θ†_t and a start for its eigenvector.
        vs: Directions (k, p) for which ∇²L(θ†_t) v is wanted in the same pass.
        tolerance: Violation of S ≤ 2/η, relative, above which it is restored before the step.
        eigen_tolerance: Residual of u relative to S.
    """
    rule = resolve(rule)
    vs = jnp.zeros((0, objective.size), objective.dtype) if vs is None else vs.astype(objective.dtype)

    # One center; a violation beyond the tolerance is restored and the center looked at again.
    def center(carry):
        theta, start, spent, rounds = carry
        geometry, products = local_geometry_and_products(objective, theta, start, vs, tolerance=eigen_tolerance)
        geometry = geometry._replace(products=geometry.products + spent)
        again = (violation(geometry, rule).sharpness > tolerance) & (rounds < 5)
        moved = theta + jnp.where(again, restoring_move(geometry, rule), 0)
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
    correction = sharpness_multiplier(geometry, excess)
    bend = -correction * perpendicular
    rest = ((1 - rule.learning_rate * geometry.sharpness) * inner(u, geometry.gradient)).astype(objective.dtype)
    move = -rule.learning_rate * geometry.gradient + turn + bend + floor_correction(geometry, rest)
    # u turns evenly: extrapolated from the last two it starts far closer to the next, until a refinement or a repair.
    latest = geometry.improved_eigenvector
    start = jnp.where((geometry.products > 1) | (rounds > 1), latest, 2 * latest - state.older.astype(latest.dtype))
    following = ConstrainedState(theta + move.astype(theta.dtype), start, latest, correction, bend)
    return following, ConstrainedRecord(theta, geometry, excess > 0, correction, rounds - 1, products)


class ConstrainedTransformState(NamedTuple):
    """Optax state: the constrained trajectory but for its position, which is the parameters."""

    eigenvector: Float[Array, " p"]
    older: Float[Array, " p"]
    correction: Float[Array, ""]
    bend: Float[Array, " p"]
    sharpness: Float[Array, ""]
    active: Array


def constrained_gradient_descent(
    rule: GradientDescent | Any, *, seed: int = 0
) -> optax.GradientTransformationExtraArgs:
    """Return the constrained step as an optax transformation, for anyone's training loop.

    ``update(grads, state, params, loss_fn=…)`` ignores ``grads`` and returns the move from θ† to the next point of the
    constrained trajectory; ``loss_fn(params)`` is the full-batch loss.  The first step costs a cold eigen-solve.
    (``TrainState.apply_gradients`` of flax passes nothing on: there call ``state.tx.update`` and ``replace``.)

    Args:
        rule: Step size η of gradient descent, whose edge is 2/η, or another update rule.
        seed: Seed of the eigenvector's cold start.

    Raises:
        ValueError: if η is not positive and finite; from ``update`` if ``params`` or ``loss_fn`` is missing.
    """
    rule = resolve(rule)

    def init(params):
        flat = Objective.create(lambda p: jnp.zeros(()), params)
        u = random_direction(flat.size, flat.dtype, seed)
        here = ConstrainedState.at(u, u)  # its position is the parameters
        return ConstrainedTransformState(*here[1:], jnp.zeros((), flat.dtype), jnp.zeros((), bool))

    def update(updates, state, params=None, *, loss_fn=None, **_):
        if params is None or loss_fn is None:
            raise ValueError("constrained_gradient_descent needs update(grads, state, params, loss_fn=loss_fn)")
        objective = Objective.create(loss_fn, params)
        here = ConstrainedState(objective.ravel(params), *state[:4])
        following, record = constrained_step(objective, rule, here)
        state = ConstrainedTransformState(*following[1:], record.geometry.sharpness, record.active)
        return objective.unravel(following.theta - here.theta), state

    return optax.GradientTransformationExtraArgs(init, update)
