"""The stable set M = {θ : S(θ) ≤ 2/η and ∇L(θ)·u(θ) = 0}: projection onto it, and how far a point violates it.

The set and the projected gradient descent on it are those of arXiv 2209.15594 (constrained trajectory).  The second
condition puts θ on the floor of the valley along u.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from eoslib.geometry import LocalGeometry, local_geometry
from eoslib.loops import do_while
from eoslib.objective import Objective, inner, length
from eoslib.position import Theta
from eoslib.rules import GradientDescent, resolve
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
    """A point of M, its geometry, what is left of the way to it and a worded status."""

    theta: Theta
    geometry: LocalGeometry
    violation: Violation
    offset: Float[Array, ""]  # a length: how far along M the nearest point is, to first order, with the error of u
    rounds: Int[Array, ""]  # local geometries evaluated
    status: Int[Array, ""]  # a ProjectionStatus

    @property
    def message(self) -> Any:
        """The status in words, a list of them for a batch; outside of traced code."""
        return ProjectionStatus.words(self.status)


def violation(geometry: LocalGeometry, rule: GradientDescent) -> Violation:
    """Return the relative violation of the two conditions of M by the point whose geometry is given."""
    excess = jnp.maximum(geometry.sharpness / rule.edge - 1, 0)
    slope = jnp.abs(inner(geometry.eigenvector, geometry.gradient))
    norm = length(geometry.gradient)
    return Violation(excess, slope / jnp.where(norm > 0, norm, 1))


#: Relative slope above which a point is far up the valley's wall: S there is not that of the floor below it.
WALL = 0.05


def sharpness_multiplier(geometry: LocalGeometry, excess) -> Float[Array, ""]:
    """Return c ≥ 0 for which the move −c∇S⊥ lowers the linearized S by a positive ``excess``; 0 where ∇S⊥ = 0."""
    beta, excess = geometry.beta, jnp.maximum(excess, 0)
    steep = beta > excess / jnp.finfo(beta.dtype).max  # otherwise c would overflow
    return jnp.where(steep, excess / jnp.where(steep, beta, 1), 0)


def floor_correction(geometry: LocalGeometry, slope) -> Float[Array, " p"]:
    """Return the Newton move along u that brings the slope u·∇L to zero, where the valley is convex (S > 0)."""
    convex = geometry.sharpness > 0
    return -jnp.where(convex, slope / jnp.where(convex, geometry.sharpness, 1), 0) * geometry.eigenvector


def restoring_move(geometry: LocalGeometry, rule: GradientDescent, along: Any = 0.0) -> Float[Array, " p"]:
    """Return the move of one round: Newton along u alone while far up the wall, both corrections together after.

    ``along`` (p,), orthogonal to u, is made with the two; what it adds to S is corrected, too.
    """
    up_the_wall = violation(geometry, rule).slope > WALL
    slope = inner(geometry.eigenvector, geometry.gradient)
    excess = (geometry.sharpness - rule.edge + jnp.sum(geometry.perpendicular * along)).astype(slope.dtype)
    rest = along - sharpness_multiplier(geometry, excess) * geometry.perpendicular
    return floor_correction(geometry, slope) + jnp.where(up_the_wall, 0, rest)


def floor_normal(objective: Objective, theta: Theta, geometry: LocalGeometry, rule: GradientDescent):
    """Return the normal (p,) of the floor {u·∇L = 0} at θ, scaled to u·normal = 1; one Hessian-vector product.

    It is u + ∇³L[u, w]/S with w = Σ_{k>1} u_k (u_k·∇L)/(S − λ_k): u turns along the floor.  This tilt of order ε² is
    evaluated for λ_k ≪ S, as a difference over at most half a step of gradient descent.
    """
    u, sharpness = geometry.eigenvector, geometry.sharpness
    downhill = (geometry.gradient - inner(u, geometry.gradient) * u) / rule.edge
    turn = geometry.hvp - objective.hvp(theta + -downhill, u)  # ∇³L[u, downhill]
    turn = jnp.where(jnp.isfinite(turn) & (sharpness > 0), turn, 0) * rule.edge
    return u + (turn - inner(u, turn) * u) / jnp.where(sharpness > 0, sharpness, 1) ** 2


def project(
    objective: Objective, theta: Any, start: Any, rule: GradientDescent | Any,
    *, tolerance: float = 1e-5, slope_tolerance: float = 1e-3, eigen_tolerance: float = 1e-3, max_rounds: int = 30,
) -> Projection:  # fmt: skip
    """Project θ₀ onto M: find the nearest point θ, where r = θ₀ − θ is normal to M.

    Newton along u comes first while the point is far up the valley's wall (a gradient-descent iterate has |x| ~ δ: the
    simultaneous step of the published procedure then lands a good part of δ away).  Each later round restores both
    conditions and moves along M until r = s n + c ∇S⊥, where n is the normal of the floor, c ≥ 0 and c (S − 2/η) = 0.
    It multiplies the distance left by about ε|x|/δ; where that distance grows, the moves along M are halved, and the
    last third of the rounds makes none.  A point of M is returned unchanged.

    Args:
        objective: The loss.
        theta: Point θ₀ (p,), in the precision that positions are kept in.
        start: Vector (p,), the eigenvector of a neighboring point.
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
    if start.shape != (objective.size,):
        raise ValueError(f"start must have shape ({objective.size},), got {start.shape}")
    return _project(objective, objective.position(theta), start, resolve(rule), max_rounds=max_rounds, **options)


@jax.jit(static_argnames=("tolerance", "slope_tolerance", "eigen_tolerance", "max_rounds"))
def _project(objective, origin, start, rule, tolerance, slope_tolerance, eigen_tolerance, max_rounds) -> Projection:
    # A move below the resolution of the positions in the derivatives' precision cannot be told from zero.
    resolution = float(jnp.finfo(objective.dtype).eps)

    # Look first and move after, so that the expansion is compiled once.
    def improve(carry):
        theta, start, rounds, share, last = carry
        geometry = local_geometry(objective, theta, start, tolerance=eigen_tolerance)
        u, sharpness, off = geometry.eigenvector, geometry.sharpness, violation(geometry, rule)
        r, extent = origin - theta, length(theta.astype(objective.dtype))
        along = r - inner(u, r) * floor_normal(objective, theta, geometry, rule)
        outside = sharpness > rule.edge * (1 - tolerance)
        gap = jnp.where(outside & (off.sharpness <= tolerance), 0, sharpness - rule.edge).astype(sharpness.dtype)
        multiplier = sharpness_multiplier(geometry, gap + inner(geometry.perpendicular, along))
        convex = jnp.where(sharpness > 0, sharpness, 1)
        offset = length(along - multiplier * geometry.perpendicular) + geometry.residual / convex * length(r)
        accepted = slope_tolerance * jnp.maximum(10 * length(geometry.gradient) / convex, length(r) / 10)
        tiny = jnp.abs(inner(u, geometry.gradient)) <= jnp.abs(sharpness) * resolution * extent
        feasible = (off.sharpness <= tolerance) & ((off.slope <= slope_tolerance) | tiny)
        nearest = feasible & (offset <= jnp.maximum(accepted, resolution * extent))
        late = rounds >= 2 * max_rounds // 3
        # A correction longer than θ itself is no correction: ∇S⊥ has vanished for this purpose.
        far = jnp.abs(sharpness - rule.edge) > jnp.sqrt(geometry.beta) * (1 + extent)
        cases = {
            ProjectionStatus.NOT_FINITE: ~jnp.isfinite(jnp.stack([geometry.loss, sharpness, off.slope])).all(),
            ProjectionStatus.NO_DIRECTION: (off.sharpness > tolerance) & far & (off.slope <= WALL),
            ProjectionStatus.INSIDE: nearest & ~outside & (multiplier == 0),
            ProjectionStatus.ON_BOUNDARY: nearest & outside,
            ProjectionStatus.NO_VALLEY: sharpness <= 0,
            ProjectionStatus.FEASIBLE: feasible & late,
        }
        # The first case that holds decides.
        status = jnp.select(list(cases.values()), list(cases), ProjectionStatus.ROUND_LIMIT).astype(jnp.int32)
        unfinished = (status == ProjectionStatus.ROUND_LIMIT) & (rounds + 1 < max_rounds)
        share = jnp.where(late, 0, jnp.where(offset > last, share / 2, share))
        last = jnp.where(off.slope > WALL, last, offset)
        move = jnp.where(unfinished, restoring_move(geometry, rule, share * along), 0)
        following = theta + move, geometry.improved_eigenvector, rounds + 1, share, last
        return (geometry, off, offset, status), following, unfinished

    one = jnp.ones((), objective.dtype)
    carry = origin, start, jnp.zeros((), jnp.int32), one, one * float(jnp.finfo(one.dtype).max)
    (geometry, off, offset, status), (theta, _, rounds, *_) = do_while(improve, carry)
    return Projection(theta, geometry, off, offset, rounds, status)
