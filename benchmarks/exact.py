"""The Euclidean projection onto the stable set, to convergence: what both sides of the benchmark approximate.

PGD on {S ≤ 2/η} asks for the point of M = {S = 2/η, u·∇L = 0} NEAREST to θ − η∇L.  The published procedure and the
library each approximate it.  Here it is found by Gauss–Newton rounds with the exact normals of both conditions, ∇S and

    ∇(u·∇L) = S u + ∇³L[u, (S − ∇²L)⁺∇L],

whose second term, the turning of u, costs a linear solve.  Eigenvectors are the library's, but a residual measured
afresh, and not who found them, says how exact they are.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.scipy.sparse.linalg import cg
from jaxtyping import Array, Float

from eoslib.eigen import leading_eigenpair
from eoslib.geometry import local_geometry
from eoslib.objective import Objective

ROUNDS = 8


@functools.partial(jax.jit, static_argnames=("tolerance",))
def _center(objective: Objective, theta, start, tolerance):
    """The local geometry, its eigenvector to a residual of ``tolerance`` relative to S."""
    pair = leading_eigenpair(lambda v: objective.hvp(theta, v), start, tolerance=tolerance / 2, max_products=200)
    u = pair.vectors[0] * jnp.where(jnp.vdot(pair.vectors[0], start) < 0, -1, 1).astype(start.dtype)
    return local_geometry(objective, theta, u, tolerance=0.5)


@functools.partial(jax.jit, static_argnames=("tolerance",))
def _turning(objective: Objective, theta, u, sharpness, gradient, start, tolerance):
    """The turning w = (S − ∇²L)⁺ P∇L by conjugate gradients from ``start``, and ∇³L[u, w]; P takes u away."""

    def across(v):
        return v - jnp.vdot(u, v) * u

    def apply(v):
        return across(sharpness * v - objective.hvp(theta, across(v))) + jnp.vdot(u, v) * sharpness * u

    w = across(cg(apply, across(gradient), x0=across(start), tol=tolerance, maxiter=200)[0])
    step = w.astype(theta.dtype)
    return w, jax.jvp(lambda t: objective.hvp(t, u), (theta,), (step,))[1]


def nearest(
    objective: Objective,
    target: Float[Array, " p"],
    theta: Float[Array, " p"],
    start: Float[Array, " p"],
    turning: Float[Array, " p"],
    learning_rate: float,
    *,
    tolerance: float,
    linear_tolerance: float = 1e-3,
):
    """The point of M nearest to ``target``, from a θ near it; u there, w = (S − ∇²L)⁺∇L there, the last move.

    Args:
        objective: The loss.
        target: What is projected (p,).
        theta: Where the rounds begin (p,).
        start: Start (p,) of the eigen-solves.
        turning: Start (p,) of the linear solves.
        learning_rate: η.
        tolerance: Residual of u relative to S.
        linear_tolerance: Residual of the linear solves relative to ∇L.

    Raises:
        RuntimeError: if an eigen-solve does not reach its tolerance.
    """
    u, moved = start, jnp.inf
    for _ in range(ROUNDS):
        here = _center(objective, theta, u, tolerance)
        u, sharpness = here.eigenvector, here.sharpness
        if not here.residual <= tolerance * sharpness:
            raise RuntimeError(
                f"the eigenvector's residual is {here.residual / sharpness:.1e} S, above {tolerance:.1e} S"
            )
        turning, bent = _turning(objective, theta, u, sharpness, here.gradient, turning, linear_tolerance)
        normals = jnp.stack([here.sharpness_gradient, sharpness * u + bent]).astype(theta.dtype)  # (2, p)
        values = jnp.stack([sharpness - 2 / learning_rate, jnp.vdot(u, here.gradient)]).astype(theta.dtype)
        multipliers = jnp.linalg.solve(normals @ normals.T, values + normals @ (target - theta))
        new = target - multipliers @ normals
        before, moved = moved, float(jnp.linalg.norm(new - theta))
        theta = new
        if not moved < 0.5 * before:  # rounding decides from here on
            break
    return theta, u, turning, moved


def path(objective: Objective, theta, start, learning_rate: float, steps: int, **tolerances) -> list[Array]:
    """θ†_0, …, θ†_steps from a point (p,) of M, and a start (p,) for its eigenvector."""
    points, u, turning, last = [theta], start, jnp.zeros(objective.size, objective.dtype), jnp.zeros_like(theta)
    for _ in range(steps):
        target = theta - learning_rate * objective.gradient(theta).astype(theta.dtype)
        new, u, turning, _ = nearest(objective, target, theta + last, u, turning, learning_rate, **tolerances)
        last, theta = new - theta, new
        points.append(theta)
    return points
