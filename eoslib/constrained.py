"""The constrained trajectory θ†: projected gradient descent on the stable set, one step at a time.

Source: arXiv 2209.15594 (constrained trajectory); the predictor–corrector step is this project's own.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from eoslib.complementarity import ComplementarityStatus, smat
from eoslib.eigen import gaps
from eoslib.geometry import SAME_SPACE, LocalGeometry, Thirds, local_geometry_and_products, require_block, turned
from eoslib.loops import do_while
from eoslib.objective import Objective, inner, length
from eoslib.position import Theta
from eoslib.rules import EDGE_FRACTION, GradientDescent, Rated, require_edge
from eoslib.stable_set import bend, constraint_force, floor_correction, lost, restoring_move, violation
from eoslib.status import Status


class ConstrainedStatus(Status):
    """How a constrained step went."""

    BELOW = "the sharpness stays below the edge: the step is not bent"
    BENT = "the step is bent: without that the sharpness would pass the edge"
    VIOLATED = "the violation left after the repair rounds exceeds the tolerance"
    NO_DIRECTION = "∇S⊥ vanishes although the sharpness must fall: no direction lowers it to first order"
    NOT_CONVERGED = "the eigenvector's residual exceeds its tolerance after refinement: the sharpness may be larger"
    UNSOLVED = "the complementarity problem of the constraint force is not solved within its tolerance"
    NO_MARGIN = "every direction of the block is within 5 % of the edge: one left out may pass it; take more directions"
    NOT_FINITE = "the loss, one of its derivatives or the step is not finite"
    ALTERED = (
        "the parameters did not move as the last step asked: what else changes them is no part of the constrained "
        "trajectory (for frozen parts pass trainable=)"
    )


class ConstrainedState(NamedTuple):
    """State of the constrained trajectory with its k leading eigenvectors, of which there are n = k(k+1)/2 pairs."""

    theta: Theta  # θ†_t
    start: Float[Array, "k p"]  # start for the eigenvectors at θ†_t
    older: Float[Array, "k p"]  # those of t−1, improved by a power step
    multiplier: Float[Array, "k k"]  # W by which the last step was bent
    bend: Float[Array, " p"]  # −T⊥:W at the last center
    thirds: Any  # (n, p), third derivatives at the last center; None for k = 1, where they cost nothing
    age: Int[Array, ""]  # steps since these were evaluated

    @classmethod
    def at(cls, theta, eigenvectors) -> ConstrainedState:
        """Return the state at a first point θ† (p,), with starts (p,) or (k, p) for its eigenvectors."""
        us = jnp.atleast_2d(eigenvectors)
        (k, p), zeros = us.shape, lambda *shape: jnp.zeros(shape, us.dtype)
        stale = jnp.full((), STALE, jnp.int32)
        return cls(theta, us, us, zeros(k, k), zeros(p), zeros(k * (k + 1) // 2, p) if k > 1 else None, stale)

    @property
    def eigenvector(self) -> Float[Array, " p"]:
        """Start (p,) for the leading eigenvector."""
        return self.start[0]


#: Age at which third derivatives must be evaluated again.
STALE = 1 << 20


class ConstrainedRecord(NamedTuple):
    """What a constrained step measures at θ†_t."""

    theta: Theta  # θ†_t, after a repair if there was one
    geometry: LocalGeometry  # its products are those of all centers
    status: Int[Array, ""]  # a ConstrainedStatus
    multiplier: Float[Array, "k k"]  # W, of which θ† is bent by −T⊥:W; ηΣ/2 in the continuous limit
    unsolved: Float[Array, ""]  # residual of the complementarity problem for W, without units; exactly 0 for k = 1
    overlap: Float[Array, "k k"]  # R, orthogonal: the eigenvectors are R times the last, up to the turn of their span
    rounds: Int[Array, ""]  # projection rounds beyond the one center
    products: Float[Array, "m p"]  # ∇²L(θ†_t) V for the requested directions

    @property
    def correction(self) -> Float[Array, ""]:
        """Multiple c = W_11 of ∇S⊥ that is subtracted for k = 1; ηδ²/2 in the continuous limit."""
        return self.multiplier[0, 0]

    @property
    def active(self) -> Array:
        """Whether the step was bent because the sharpness would otherwise pass 2/η."""
        return jnp.trace(self.multiplier) > 0

    @property
    def message(self) -> str | list:
        """The status in words."""
        return ConstrainedStatus.words(self.status)


def constrained_step(
    objective: Objective, rule: Rated | float, state: ConstrainedState, vs: Float[Array, "m p"] | None = None,
    *, tolerance: float = 1e-4, eigen_tolerance: float = 5e-3, thirds_every: int = 1,
) -> tuple[ConstrainedState, ConstrainedRecord]:  # fmt: skip
    """Advance θ† ↦ proj_M(θ† − η∇L(θ†)) by a predictor and a corrector, and return what was measured at θ†_t.

    Each step has one center: at θ†_t the cubic expansion yields ∇L, S, u and ∇S.  The gradient step is linearized,
    S + ∇S·Δ and (1 − ηS) u·∇L, and one move restores both conditions of M.  The remainder is second order, and the next
    step removes it; if it exceeds the tolerance, rounds of the projection come first.  The nearest point of M lies
    along ∇S⊥ evaluated there, not at θ†_t, so the next step turns this step's bend into that direction.  Where gradient
    descent does not overshoot the floor of the valley, S ≤ 1/η, its move along u is kept: it is −min(η, 1/S) u·∇L.  The
    eigenvector is tracked.  For k = 1, another eigenvalue that overtakes S without mixing with u, such as that of a
    part of the loss that has no parameter in common with the rest, goes unnoticed.

    With k directions the same holds for the block Λ + 𝒯[Δ] ≤ 2/η, (𝒯[Δ])_ij = ∇³L[u_i, u_j]·Δ: the bend is −T⊥:W with
    W ⪰ 0 from a complementarity problem (:func:`~eoslib.complementarity.solve`).  At least one direction must have a
    margin to the edge.

    Another rule than gradient descent enters by its edge and by the time of the gradient flow that its step covers, as
    (2 + 2μ)/η and η/(1 − μ) of heavy ball.  Steps longer than 2/edge, (1 + μ)/(1 − μ) times that long, would be
    unstable along the eigenvectors left out, so such a step is taken in the parts needed, each at most 2/edge long.

    Args:
        objective: The loss.
        rule: Update rule whose edge bounds the sharpness itself, by one constant.
        state: θ†_t and starts for its eigenvectors, k of them.
        vs: Directions (m, p) for which ∇²L(θ†_t) v is computed in the same pass.
        tolerance: Relative violation of S ≤ 2/η above which it is removed before the step.
        eigen_tolerance: Residual of u relative to S; of a block, four times this relative to its ``eigen.gaps``.
        thirds_every: For k > 1, steps between evaluations of the third derivatives; in between, those of the last
            center are turned with the block.  A violation above half the tolerance also forces an evaluation.

    Raises:
        ValueError: if η is not positive and finite, the rule has a preconditioner or no constant edge,
            ``thirds_every`` is less than 1, or k > 1 and 3k > p.
    """
    if thirds_every < 1:
        raise ValueError(f"thirds_every must be at least 1, got {thirds_every!r}")
    require_block(objective, state.start)
    none = jnp.zeros((0, objective.size), objective.dtype)
    vs = none if vs is None else vs.astype(objective.dtype)
    state, vs = objective.place((state, vs))
    options = {"tolerance": tolerance, "eigen_tolerance": eigen_tolerance, "thirds_every": thirds_every}
    rule = require_edge(rule)
    if isinstance(rule, GradientDescent):
        return _step(objective, rule, rule.learning_rate, state, vs, **options)
    parts = jnp.ceil(rule.flow_rate * rule.edge / 2 * (1 - 1e-5))  # not one more for a rounding
    time = rule.flow_rate / parts
    following, record = _step(objective, rule, time, state, vs, **options)

    def rest(_, carry):
        after, status, products = carry
        after, more = _step(objective, rule, time, after, none, **options)
        return after, jnp.maximum(status, more.status), products + more.geometry.products

    carry = following, record.status, record.geometry.products
    following, status, products = jax.lax.fori_loop(1, parts.astype(jnp.int32), rest, carry)
    multiplier = record.multiplier * parts.astype(record.multiplier.dtype)
    geometry = record.geometry._replace(products=products)
    return following, record._replace(geometry=geometry, status=status, multiplier=multiplier)


@jax.jit(static_argnames=("tolerance", "eigen_tolerance", "thirds_every"), inline=True)
def _step(objective, rule: Rated, time, state: ConstrainedState, vs, tolerance, eigen_tolerance, thirds_every):
    """Take a step that covers this ``time`` of the gradient flow, η for gradient descent."""
    dtype, k = objective.dtype, state.start.shape[0]
    older, last_bend = state.older.astype(dtype), state.bend.astype(dtype)
    angle = eigen_tolerance * (1 if k == 1 else 4)

    # One center; a violation beyond the tolerance is removed and the center evaluated again.
    def center(carry):
        theta, start, spent, rounds = carry
        fresh = (state.age + 1 >= thirds_every) | (rounds > 0)
        known = Thirds(older, state.thirds, fresh) if k > 1 else None
        geometry, products = local_geometry_and_products(objective, theta, start, vs, tolerance=angle, known=known)
        geometry = geometry._replace(products=geometry.products + spent)
        excess, extent = geometry.values - rule.edge, length(theta.astype(dtype))
        again = ((excess > tolerance * rule.edge) & ~lost(geometry, rule, excess, extent)).any() & (rounds < 5)
        moved = jax.lax.cond(
            again, lambda: theta + restoring_move(geometry, rule, extent=extent).astype(theta.dtype), lambda: theta
        )
        carry = moved, geometry.improved_vectors, geometry.products, rounds + 1
        return (geometry, products, fresh), carry, again

    zero = jnp.zeros((), jnp.int32)
    (geometry, products, fresh), (theta, _, _, rounds) = do_while(
        center, (state.theta, state.start.astype(dtype), zero, zero)
    )
    overlap, cosine = turned(geometry.vectors, older)
    # Rotate the previous bend onto the current T⊥, staying across the block.
    turn = bend(geometry, rule, overlap @ state.multiplier.astype(dtype) @ overlap.T) - last_bend
    turn = jnp.where(rounds > 1, 0, geometry.outside(turn, rule))
    slopes = inner(geometry.vectors, geometry.gradient)
    # How far the block stays below the edge after the plain step, to first order.
    plain = geometry.slack(rule) + time * smat(inner(geometry.thirds, geometry.gradient))
    room = (plain - smat(inner(geometry.across(rule), turn))).astype(dtype)
    excess = jnp.maximum(-jnp.diagonal(room), geometry.values - rule.edge)
    gone = lost(geometry, rule, excess, length(theta.astype(dtype)))
    solved = constraint_force(geometry, rule, room, gone, state.multiplier.astype(dtype))
    overshoot = jnp.minimum(1 - time * geometry.values, 0)
    bent = bend(geometry, rule, solved.value)
    move = -time * geometry.gradient + turn + bent
    move = move + floor_correction(geometry, (overshoot * slopes).astype(dtype))
    # u turns at an even rate: extrapolating the last two is a far better start, except after a refinement or a repair.
    latest, off = geometry.improved_vectors, violation(geometry, rule).sharpness
    start = jnp.where((geometry.products > k) | (rounds > 1), latest, 2 * latest - overlap @ older)
    age = jnp.where(fresh | (cosine < SAME_SPACE), 0, state.age + 1)
    age = jnp.where(off > tolerance / 2, STALE, age).astype(jnp.int32)
    kept = geometry.thirds if k > 1 else state.thirds
    following = ConstrainedState(theta + move.astype(theta.dtype), start, latest, solved.value, bent, kept, age)
    # An error of S within the tolerance on S ≤ 2/η is harmless, however small S is.
    known = jnp.maximum(angle * gaps(geometry.values), tolerance * rule.edge)
    hopeless = (gone & (excess > tolerance * rule.edge)).any() | (solved.status == ComplementarityStatus.NO_SOLUTION)
    cases = {  # the first that holds decides
        ConstrainedStatus.NOT_FINITE: ~(jnp.isfinite(geometry.loss + geometry.sharpness) & jnp.isfinite(move).all()),
        ConstrainedStatus.NOT_CONVERGED: (geometry.residuals > known).any(),
        ConstrainedStatus.NO_DIRECTION: hopeless,
        ConstrainedStatus.UNSOLVED: solved.status != ComplementarityStatus.SOLVED,
        ConstrainedStatus.VIOLATED: off > tolerance,
        ConstrainedStatus.NO_MARGIN: (geometry.values[-1] > EDGE_FRACTION * rule.edge)
        if k > 1
        else jnp.zeros((), bool),
        ConstrainedStatus.BENT: jnp.trace(solved.value) > 0,
    }
    status = jnp.select(list(cases.values()), list(cases), ConstrainedStatus.BELOW).astype(jnp.int32)
    residual = solved.residual.astype(dtype) if k > 1 else jnp.zeros((), dtype)
    return following, ConstrainedRecord(theta, geometry, status, solved.value, residual, overlap, rounds - 1, products)
