"""The constrained trajectory θ†: projected gradient descent on the stable set, one step at a time.

Source: arXiv 2209.15594 (constrained trajectory); the predictor–corrector step is this project's own.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from eoslib.geometry import LocalGeometry, local_geometry_and_products
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
