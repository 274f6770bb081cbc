"""The stable set M = {θ : S(θ) ≤ 2/η and ∇L(θ)·u(θ) = 0}: projection onto it, and how far a point violates it.

The set and the projected gradient descent on it are those of arXiv 2209.15594 (constrained trajectory).  The second
condition puts θ on the floor of the valley along u.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from eoslib.complementarity import Multiplier, smat, solve, svec
from eoslib.geometry import LocalGeometry, local_geometry, require_block
from eoslib.loops import do_while
from eoslib.objective import Objective, inner, length
from eoslib.position import Theta
from eoslib.rules import Rated, require_edge
from eoslib.status import Status


class ProjectionStatus(Status):
    """How a projection ended."""

    INSIDE = "the projection lies inside the stable set: the sharpness is below 2/η, the constraint is inactive"
    ON_BOUNDARY = "the projection lies on the boundary of the stable set: S = 2/η within the tolerance"
    ROUND_LIMIT = "the violation left after the last round exceeds the tolerance"
    NO_DIRECTION = "∇S⊥ vanishes where S > 2/η: no direction lowers the sharpness to first order"
    NO_VALLEY = "the largest Hessian eigenvalue is not positive: there is no valley to put the point on the floor of"
    NOT_FINITE = "the loss or one of its derivatives is not finite"
    FEASIBLE = "the projection lies in the stable set, but farther from the nearest point than its tolerance"


class Violation(NamedTuple):
    """How far a point lies outside M, free of units."""

    sharpness: Float[Array, ""]  # (S − 2/η)₊ / (2/η)
    slope: Float[Array, ""]  # |u·∇L| / ‖∇L‖


class Projection(NamedTuple):
    """A point of M, its geometry, its distance from the nearest point and a worded status."""

    theta: Theta
    geometry: LocalGeometry
    violation: Violation
    offset: Float[Array, ""]  # length along M to the nearest point, to first order, with the error of u
    rounds: Int[Array, ""]  # local geometries evaluated
    status: Int[Array, ""]  # a ProjectionStatus

    @property
    def message(self) -> Any:
        """The status in words, a list of them for a batch; outside of traced code."""
        return ProjectionStatus.words(self.status)


def floor_slopes(geometry: LocalGeometry, rule: Rated) -> Float[Array, " k"]:
    """Return u_i·∇L of the floored directions, 0 of the others."""
    return jnp.where(geometry.floored(rule), inner(geometry.vectors, geometry.gradient), 0)


def violation(geometry: LocalGeometry, rule: Rated) -> Violation:
    """Return the relative violation of the two conditions of M by the point whose geometry is given."""
    excess = jnp.maximum(geometry.sharpness / rule.edge - 1, 0)
    norm = length(geometry.gradient)
    return Violation(excess, length(floor_slopes(geometry, rule)) / jnp.where(norm > 0, norm, 1))


#: Relative slope above which a point is far up the valley's wall, where S is not that of the floor below it.
WALL = 0.05


def bend(geometry: LocalGeometry, rule: Rated, multiplier: Float[Array, "k k"]) -> Float[Array, " p"]:
    """Return the move −T⊥:W, for k = 1 −c∇S⊥ (a length), which lowers ∇²L on the block by 𝒢W to first order."""
    return -svec(multiplier) @ geometry.across(rule)


def lost(geometry: LocalGeometry, rule: Rated, excess: Float[Array, " k"], extent: Any) -> Bool[Array, " k"]:
    """Return which eigenvalues only a bend longer than θ itself, 1 + ``extent``, could lower by an excess.

    For these eigenvalues T⊥_ii, for k = 1 ∇S⊥, counts as zero.
    """
    i, j = np.triu_indices(geometry.values.size)
    return excess > length(geometry.across(rule)[np.flatnonzero(i == j)]) * (1 + extent)


def constraint_force(geometry: LocalGeometry, rule: Rated, room, gone, start: Any = None) -> Multiplier:
    """Solve for the multiplier (k, k) that makes ``room`` (k, k) positive semidefinite; lost rows impose nothing."""
    room = jnp.where(gone[:, None] | gone[None], jnp.eye(gone.size, dtype=room.dtype), room)
    return solve(geometry.gram(rule), room.astype(geometry.values.dtype), start)


def floor_correction(geometry: LocalGeometry, slopes: Float[Array, " k"]) -> Float[Array, " p"]:
    """Return the Newton move that brings slopes u_i·∇L to zero, where the valley is convex (λ_i > 0)."""
    convex = geometry.values > 0
    return -jnp.where(convex, slopes / jnp.where(convex, geometry.values, 1), 0) @ geometry.vectors


def restoring_move(geometry: LocalGeometry, rule: Rated, along: Any = 0.0, extent: Any = 1e18) -> Float[Array, " p"]:
    """Return the move of one round: only Newton to the floor while far up the wall, both corrections together after.

    ``along`` (p,), a move on the floor, is added to the two; its effect on ∇²L within the block is corrected, too.
    """
    up_the_wall, across = violation(geometry, rule).slope > WALL, geometry.across(rule)
    room = geometry.slack(rule) - smat(inner(across, jnp.broadcast_to(along, geometry.gradient.shape)))
    gone = lost(geometry, rule, geometry.values - rule.edge, extent)
    rest = along + bend(geometry, rule, constraint_force(geometry, rule, room, gone).value)
    return floor_correction(geometry, floor_slopes(geometry, rule)) + jnp.where(up_the_wall, 0, rest)


def floor_offset(objective: Objective, theta: Theta, geometry: LocalGeometry, rule: Rated, r):
    """Return Σ_i (u_i·r) n_i (p,), the part of r along the normals of the floor; a Hessian-vector product each.

    The normal of {u·∇L = 0}, scaled to u·n = 1, is u + ∇³L[u, w]/S with w = Σ_{k>1} u_k (u_k·∇L)/(S − λ_k), because u
    turns along the floor.  This tilt of order ε² is evaluated for λ_k ≪ S, as a difference over at most half a step.
    """
    values = geometry.values
    floor = geometry.floored(rule)[:, None]
    downhill = geometry.outside(geometry.gradient, rule) / rule.edge
    turns = geometry.images - objective.hvps(theta + -downhill, geometry.vectors)  # ∇³L[u_i, downhill]
    turns = jnp.where(jnp.isfinite(turns) & (values > 0)[:, None], turns, 0) * rule.edge
    tilts = geometry.outside(turns, rule) / jnp.where(values > 0, values, 1)[:, None] ** 2
    along = inner(geometry.vectors, r)[:, None]
    return jnp.sum(jnp.where(floor, along * (geometry.vectors + tilts), 0), axis=0)


def project(
    objective: Objective, theta: Any, start: Any, rule: Rated | Any,
    *, tolerance: float = 1e-5, slope_tolerance: float = 1e-3, eigen_tolerance: float = 1e-3, max_rounds: int = 30,
) -> Projection:  # fmt: skip
    """Project θ₀ onto M: find the nearest point θ, where r = θ₀ − θ is normal to M.

    While the point is far up the valley's wall, Newton along u comes first (from a gradient-descent iterate, |x| ~ δ,
    the simultaneous step of the published procedure lands a sizable fraction of δ away).  Each later round restores
    both conditions and moves along M until r = s n + c ∇S⊥, where n is the normal of the floor, c ≥ 0 and
    c (S − 2/η) = 0.  It multiplies the remaining distance by about ε|x|/δ.  If that distance grows, the moves along M
    are halved, and the last third of the rounds makes none.  A point of M is returned unchanged.

    Args:
        objective: The loss.
        theta: Point θ₀ (p,), in the precision that positions are kept in.
        start: The eigenvector (p,) of a neighboring point, or k of them (k, p), largest eigenvalue first: as many as
            exceed 2/η there, and one more.
        rule: Update rule whose edge bounds S, or the step size η of gradient descent.
        tolerance: Accepted |S − 2/η| relative to 2/η, on the outer side.
        slope_tolerance: Accepted |u·∇L| relative to ‖∇L‖.  The accepted ``offset`` is ten times this part of ‖∇L‖/S,
            at the edge half a step of gradient descent, or a tenth of it of ‖r‖, whichever is larger.
        eigen_tolerance: Residual of u relative to S.
        max_rounds: Local geometries evaluated at most.

    Raises:
        ValueError: if η, a tolerance or ``max_rounds`` is not positive, or θ or ``start`` has the wrong shape.
    """
    options = dict(tolerance=tolerance, slope_tolerance=slope_tolerance, eigen_tolerance=eigen_tolerance)
    for name, value in (options | {"max_rounds": max_rounds}).items():
        if not value > 0:
            raise ValueError(f"{name} must be positive, got {value!r}")
    start = objective.place(jnp.asarray(start, objective.dtype))
    start = require_block(objective, start)
    return _project(objective, objective.position(theta), start, require_edge(rule), max_rounds=max_rounds, **options)


@jax.jit(static_argnames=("tolerance", "slope_tolerance", "eigen_tolerance", "max_rounds"))
def _project(objective, origin, start, rule, tolerance, slope_tolerance, eigen_tolerance, max_rounds) -> Projection:
    # A move below the resolution of the positions in the derivatives' precision cannot be distinguished from zero.
    resolution = float(jnp.finfo(objective.dtype).eps)

    # Evaluate first and move afterwards, so that the expansion is compiled once.
    def improve(carry):
        theta, start, rounds, share, last = carry
        geometry = local_geometry(objective, theta, start, tolerance=eigen_tolerance)
        sharpness, off, slopes = geometry.sharpness, violation(geometry, rule), floor_slopes(geometry, rule)
        r, extent = origin - theta, length(theta.astype(objective.dtype))
        along = r - floor_offset(objective, theta, geometry, rule, r)
        outside = sharpness > rule.edge * (1 - tolerance)
        room = geometry.slack(rule)
        room = jnp.where(jnp.abs(room) <= tolerance * rule.edge, 0, room)  # on the edge
        room = (room - smat(inner(geometry.across(rule), along))).astype(sharpness.dtype)
        gone = lost(geometry, rule, geometry.values - rule.edge, extent)
        multiplier = constraint_force(geometry, rule, room, gone).value
        convex = jnp.where(sharpness > 0, sharpness, 1)
        offset = length(along + bend(geometry, rule, multiplier)) + geometry.residual / convex * length(r)
        accepted = slope_tolerance * jnp.maximum(10 * length(geometry.gradient) / convex, length(r) / 10)
        tiny = jnp.all(jnp.abs(slopes) <= jnp.abs(geometry.values) * resolution * extent)
        feasible = (off.sharpness <= tolerance) & ((off.slope <= slope_tolerance) | tiny)
        nearest = feasible & (offset <= jnp.maximum(accepted, resolution * extent))
        late = rounds >= 2 * max_rounds // 3
        # A correction longer than θ itself is not a correction: ∇S⊥ counts as zero.
        far = jnp.abs(sharpness - rule.edge) > jnp.sqrt(geometry.beta) * (1 + extent)
        cases = {
            ProjectionStatus.NOT_FINITE: ~jnp.isfinite(jnp.stack([geometry.loss, sharpness, off.slope])).all(),
            ProjectionStatus.NO_DIRECTION: (off.sharpness > tolerance) & far & (off.slope <= WALL),
            ProjectionStatus.INSIDE: nearest & ~outside & (multiplier == 0).all(),
            ProjectionStatus.ON_BOUNDARY: nearest & outside,
            ProjectionStatus.NO_VALLEY: sharpness <= 0,
            ProjectionStatus.FEASIBLE: feasible & late,
        }
        # The first case that holds decides.
        status = jnp.select(list(cases.values()), list(cases), ProjectionStatus.ROUND_LIMIT).astype(jnp.int32)
        unfinished = (status == ProjectionStatus.ROUND_LIMIT) & (rounds + 1 < max_rounds)
        share = jnp.where(late, 0, jnp.where(offset > last, share / 2, share))
        last = jnp.where(off.slope > WALL, last, offset)
        move = jnp.where(unfinished, restoring_move(geometry, rule, share * along, extent), 0)
        following = theta + move, geometry.improved_vectors, rounds + 1, share, last
        return (geometry, off, offset, status), following, unfinished

    one = jnp.ones((), objective.dtype)
    carry = origin, jnp.atleast_2d(start), jnp.zeros((), jnp.int32), one, one * float(jnp.finfo(one.dtype).max)
    (geometry, off, offset, status), (theta, _, rounds, *_) = do_while(improve, carry)
    return Projection(theta, geometry, off, offset, rounds, status)
