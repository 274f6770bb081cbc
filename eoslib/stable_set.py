"""The stable set M = {θ : S(θ) ≤ 2/η and ∇L(θ)·u(θ) = 0}: projection onto it, and how far a point violates it.

The set and the projected gradient descent on it are those of arXiv 2209.15594 (constrained trajectory).  The second
condition puts θ on the floor of the valley along u.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from eoslib.geometry import LocalGeometry, local_geometry
from eoslib.loops import do_while
from eoslib.objective import Objective, inner
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


class Violation(NamedTuple):
    """How far a point lies outside M, free of units."""

    sharpness: Float[Array, ""]  # (S − 2/η)₊ / (2/η)
    slope: Float[Array, ""]  # |u·∇L| / ‖∇L‖


class Projection(NamedTuple):
    """A point of M, its geometry, the violation left and a worded status."""

    theta: Theta
    geometry: LocalGeometry
    violation: Violation
    rounds: Int[Array, ""]  # local geometries evaluated
    status: Int[Array, ""]  # a ProjectionStatus


def violation(geometry: LocalGeometry, rule: GradientDescent) -> Violation:
    """Return the relative violation of the two conditions of M by the point whose geometry is given."""
    excess = jnp.maximum(geometry.sharpness / rule.edge - 1, 0)
    slope = jnp.abs(inner(geometry.eigenvector, geometry.gradient))
    norm = jnp.linalg.norm(geometry.gradient)
    return Violation(excess, slope / jnp.where(norm > 0, norm, 1))


def sharpness_multiplier(geometry: LocalGeometry, excess) -> Float[Array, ""]:
    """Return c ≥ 0 for which the move −c∇S⊥ lowers the linearized S by a positive ``excess``; 0 where ∇S⊥ = 0."""
    beta = geometry.beta
    return jnp.where(beta > 0, jnp.maximum(excess, 0) / jnp.where(beta > 0, beta, 1), 0)


def floor_correction(geometry: LocalGeometry, slope) -> Float[Array, " p"]:
    """Return the Newton move along u that brings the slope u·∇L to zero, where the valley is convex (S > 0)."""
    convex = geometry.sharpness > 0
    return -jnp.where(convex, slope / jnp.where(convex, geometry.sharpness, 1), 0) * geometry.eigenvector


def restoring_move(geometry: LocalGeometry, rule: GradientDescent) -> Float[Array, " p"]:
    """Return the move of one round: Newton along u alone while far up the wall, both corrections together after."""
    up_the_wall = violation(geometry, rule).slope > 0.05
    excess = jnp.where(up_the_wall, 0, geometry.sharpness - rule.edge).astype(geometry.sharpness.dtype)
    slope = inner(geometry.eigenvector, geometry.gradient)
    return floor_correction(geometry, slope) - sharpness_multiplier(geometry, excess) * geometry.perpendicular


def project(
    objective: Objective, theta: Theta, start: Float[Array, " p"], rule: GradientDescent | Any,
    *, tolerance: float = 1e-5, slope_tolerance: float = 1e-3, eigen_tolerance: float = 1e-3, max_rounds: int = 20,
) -> Projection:  # fmt: skip
    """Project θ onto M.

    Newton along u comes first while the point is far up the valley's wall (a gradient-descent iterate has |x| ~ δ: the
    simultaneous step of the published procedure then lands a good part of δ away); then both corrections are made
    together until the violation is within its tolerance.  A point of M is returned unchanged.

    Args:
        objective: The loss.
        theta: Point (p,), in the precision that positions are kept in.
        start: Vector (p,), the eigenvector of a neighboring point.
        rule: Update rule whose edge bounds S, or the step size η of gradient descent.
        tolerance: Accepted |S − 2/η| relative to 2/η, on the outer side.
        slope_tolerance: Accepted |u·∇L| relative to ‖∇L‖.
        eigen_tolerance: Residual of u relative to S.
        max_rounds: Local geometries evaluated at most.

    Raises:
        ValueError: if η, a tolerance or ``max_rounds`` is not positive.
    """
    rule = resolve(rule)
    for name, value in (("tolerance", tolerance), ("slope_tolerance", slope_tolerance), ("max_rounds", max_rounds)):
        if not value > 0:
            raise ValueError(f"{name} must be positive, got {value!r}")
    # A Newton step below the resolution of the positions in the derivatives' precision cannot be told from zero.
    resolution = float(jnp.finfo(objective.dtype).eps)

    def status_of(theta, geometry):
        off, sharpness, length = (
            violation(geometry, rule),
            geometry.sharpness,
            jnp.linalg.norm(theta.astype(objective.dtype)),
        )
        slope = jnp.abs(inner(geometry.eigenvector, geometry.gradient))
        tiny = slope <= jnp.abs(sharpness) * resolution * length.astype(objective.dtype)
        feasible = (off.sharpness <= tolerance) & ((off.slope <= slope_tolerance) | tiny)
        # A correction longer than θ itself is no correction: ∇S⊥ has vanished for this purpose.
        far = jnp.abs(sharpness - rule.edge) > jnp.sqrt(geometry.beta) * (1 + length).astype(objective.dtype)
        cases = {
            ProjectionStatus.NOT_FINITE: ~jnp.isfinite(jnp.stack([geometry.loss, sharpness, off.slope])).all(),
            ProjectionStatus.NO_DIRECTION: (off.sharpness > tolerance) & far,
            ProjectionStatus.INSIDE: feasible & (sharpness < rule.edge * (1 - tolerance)),
            ProjectionStatus.ON_BOUNDARY: feasible,
            ProjectionStatus.NO_VALLEY: sharpness <= 0,
        }
        # The first case that holds decides.
        return jnp.select(list(cases.values()), list(cases), ProjectionStatus.ROUND_LIMIT).astype(jnp.int32)

    # Look first and move after, so that the expansion is compiled once.
    def improve(carry):
        theta, start, rounds = carry
        geometry = local_geometry(objective, theta, start, tolerance=eigen_tolerance)
        status = status_of(theta, geometry)
        unfinished = (status == ProjectionStatus.ROUND_LIMIT) & (rounds + 1 < max_rounds)
        moved = theta + jnp.where(unfinished, restoring_move(geometry, rule), 0)
        return (geometry, status), (moved, geometry.improved_eigenvector, rounds + 1), unfinished

    carry = theta, start.astype(objective.dtype), jnp.zeros((), jnp.int32)
    (geometry, status), (theta, _, rounds) = do_while(improve, carry)
    return Projection(theta, geometry, violation(geometry, rule), rounds, status)
