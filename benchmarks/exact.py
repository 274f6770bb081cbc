"""The Euclidean projection onto the stable set, to convergence: what both sides of the benchmark approximate.

PGD on {S ≤ 2/η} asks for the point of M = {S = 2/η, u·∇L = 0} NEAREST to θ − η∇L.  The published procedure and the
library each approximate it.  Here it is found by Gauss–Newton rounds with the exact normals of both conditions, ∇S and

    ∇(u·∇L) = S u + ∇³L[u, (S − ∇²L)⁺∇L],

whose second term, the turning of u, costs a linear solve.  For small networks in float64: in float32 the
eigen-solves may never reach their tolerance.  :class:`eoslib.objective.Objective` is used for derivatives only.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import reference
from jax.scipy.sparse.linalg import cg
from jaxtyping import Array, Float

from eoslib.objective import Objective

#: For lobpcg_standard, a hundred times below what the published procedure asks for.
EIGEN_TOLERANCE = 1e-11
ROUNDS = 8


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
    objective: Objective, target: Float[Array, " p"], theta, start: Float[Array, " p"], turning, learning_rate: float
):
    """The point of M nearest to ``target``, from a θ (p,) near it; u there, w = (S − ∇²L)⁺∇L there, the last move.

    Args:
        objective: The loss.
        target: What is projected (p,).
        theta: Where the rounds begin (p,).
        start: Start (p,) of the eigen-solves.
        turning: Start (p,) of the linear solves.
        learning_rate: η.
    """
    u, moved = start, jnp.inf
    for _ in range(ROUNDS):
        sharpness, u = reference.leading_eigenpair(objective, theta, u, EIGEN_TOLERANCE)
        _, gradient = reference._value_and_grad(objective, theta)
        turning, bent = _turning(objective, theta, u, sharpness, gradient, turning, 1e-3)
        normals = jnp.stack([reference._sharpness_gradient(objective, theta, u), sharpness * u + bent])  # (2, p)
        normals = normals.astype(theta.dtype)
        values = jnp.stack([sharpness - 2 / learning_rate, jnp.vdot(u, gradient)]).astype(theta.dtype)
        multipliers = jnp.linalg.solve(normals @ normals.T, values + normals @ (target - theta))
        new = target - multipliers @ normals
        before, moved = moved, float(jnp.linalg.norm(new - theta))
        theta = new
        if not moved < 0.5 * before:  # rounding decides from here on
            break
    return theta, u, turning, moved


def path(objective: Objective, theta, start, learning_rate: float, steps: int) -> list[Array]:
    """θ†_0, …, θ†_steps from a point (p,) of M, and a start (p,) for its eigenvector."""
    points, u, turning, last = [theta], start, jnp.zeros(objective.size, objective.dtype), jnp.zeros_like(theta)
    for _ in range(steps):
        _, gradient = reference._value_and_grad(objective, theta)
        target = theta - learning_rate * gradient.astype(theta.dtype)
        new, u, turning, _ = nearest(objective, target, theta + last, u, turning, learning_rate)
        last, theta = new - theta, new
        points.append(theta)
    return points
