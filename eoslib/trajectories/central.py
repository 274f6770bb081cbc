"""The central flow: the time average of gradient descent at the edge of stability, on the same block as θ†.

Source: arXiv 2410.24206: dw/dt = −∇L − ½ ∇⟨∇²L, Σ⟩ with the covariance Σ ⪰ 0 of the oscillation that keeps the leading
eigenvalues at 2/η or below.  With one direction Σ = δ², and the path is that of the constrained trajectory.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from eoslib.complementarity import smat, solve, svec
from eoslib.constrained import STALE
from eoslib.geometry import SAME_SPACE, Thirds, local_geometry_and_products, turned
from eoslib.objective import Objective, inner
from eoslib.position import Theta
from eoslib.rules import GradientDescent, resolve


class CentralState(NamedTuple):
    """State of the central flow with its k leading eigenvectors, of which there are n = k(k+1)/2 pairs."""

    theta: Theta  # w
    start: Float[Array, "k p"]  # start for the eigenvectors
    older: Float[Array, "k p"]  # the last ones, improved by a power step
    thirds: Float[Array, "n p"]  # third derivatives at the last center
    age: Int[Array, ""]  # substeps since these were evaluated

    @classmethod
    def at(cls, theta, eigenvectors) -> CentralState:
        """Return the state at a point w (p,), with starts (p,) or (k, p) for its eigenvectors."""
        us = jnp.atleast_2d(eigenvectors)
        k, p = us.shape
        return cls(theta, us, us, jnp.zeros((k * (k + 1) // 2, p), us.dtype), jnp.full((), STALE, jnp.int32))


class CentralMoment(NamedTuple):
    """What the central flow measures at w."""

    theta: Theta
    loss: Float[Array, ""]  # L(w)
    sharpness: Float[Array, ""]
    trace: Float[Array, ""]  # tr Σ, length²; the mean over the substeps from w


def central_flow_step(
    objective: Objective, rule: GradientDescent, state: CentralState, *, substeps: int = 4, thirds_every: int = 10
) -> tuple[CentralState, CentralMoment]:
    """Follow the central flow for the time of one step, η, by Euler substeps, and return what was measured at w.

    A substep of length h is w ↦ w − h ∇L − T:W with W = hΣ/2 ⪰ 0 from the complementarity problem of the eigenvalues
    after it.  It has no second derivative of the path (θ† re-aims its bends), and imposes no floor: w rests where
    ∇L·u balances the mean of the cubic force, ½T:Σ along u.

    Raises:
        ValueError: if the rule is not gradient descent: the substeps of another may be unstable.
    """
    rule = resolve(rule, GradientDescent)

    def substep(state, _):
        dtype, (k, p) = objective.dtype, state.start.shape
        known = Thirds(state.older, state.thirds, state.age + 1 >= thirds_every)
        none, options = jnp.zeros((0, p), dtype), {"tolerance": 5e-3 if k == 1 else 2e-2, "known": known}
        geometry, _ = local_geometry_and_products(objective, state.theta, state.start, none, **options)
        h = rule.learning_rate / substeps
        room = geometry.slack(rule) + h * smat(inner(geometry.thirds, geometry.gradient))
        force = solve(inner(geometry.thirds[:, None], geometry.thirds), room.astype(dtype)).value
        move = -h * geometry.gradient - svec(force) @ geometry.thirds
        overlap, cosine = turned(geometry.vectors, state.older)
        latest = geometry.improved_vectors
        start = jnp.where(geometry.products > k, latest, 2 * latest - overlap @ state.older)
        age = jnp.where(known.fresh | (cosine < SAME_SPACE), 0, state.age + 1).astype(jnp.int32)
        theta = state.theta + move.astype(state.theta.dtype)
        trace = (2 * jnp.trace(force) / h).astype(dtype)
        return CentralState(theta, start, latest, geometry.thirds, age), (geometry.loss, geometry.sharpness, trace)

    following, (loss, sharpness, trace) = jax.lax.scan(substep, state, None, length=substeps)
    return following, CentralMoment(state.theta, loss[0], sharpness[0], trace.mean())
