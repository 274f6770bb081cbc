"""The coupling theorem's error, measured: gradient descent beside its constrained trajectory and its prediction.

The losses are small enough for dense derivatives, so nothing else is approximated: each point of the constrained
trajectory is the point of {S = 2/η, u·∇L = 0} nearest to the end of the gradient step, and the predicted dynamics are
iterated along it.  Source: arXiv 2209.15594 (statement, vector form of the prediction).  The losses are those of
:mod:`selfstab.theory.families`.

>>> from selfstab.theory.families import polynomial_draws
>>> draws = polynomial_draws(0, 3, learning_rate=0.02)
>>> errors = coupling_errors(draws, [0.1, 0.05, 0.02, 0.01], learning_rate=0.02)
>>> errors.deviation.shape, bool((errors.deviation < errors.delta).all())
((3, 4), True)
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from eoslib import rules
from eoslib.geometry import LocalGeometry, epsilon
from eoslib.rules import GradientDescent
from selfstab.theory.families import Jet

#: Gauss–Newton rounds of a projection, which starts a step η∇L away; each round squares the relative error.
ROUNDS = 2


class CouplingErrors(NamedTuple):
    """Largest errors of the prediction over the horizon, and the scales by which the theorem measures them."""

    deviation: Array  # () max ‖θ − θ† − v*‖, a length; the theorem predicts O(εδ)
    loss: Array  # () max |L(θ) − L(θ†) − x*²/η|; O(εδ²/η)
    sharpness: Array  # () max |S(θ) − 2/η − y* − (∇S·u)x*|, a curvature; O(ε²/η)
    epsilon: Array  # () η√α at the start
    delta: Array  # () √(2α/β) at the start, a length
    smallest: Array  # () min |x*|/δ_t, which the theorem assumes bounded below
    smallest_alpha: Array  # () min α_t over its start
    second: Array  # () largest ηλ₂ along θ†
    violation: Array  # () largest |S(θ†)η/2 − 1| and |u·∇L|/‖∇L‖: how far θ† is off the boundary of the stable set


class Model(NamedTuple):
    """Factors of the terms of a prediction, all 1 in the theory; other values are null models, which must fail.

    Each is a number, or an array (m,) for m models, advanced side by side.
    """

    force: float | Array = 1.0  # factor of the cubic force on either side, ½δ²∇S⊥ and ½x*²∇S⊥
    mean: float | Array = 1.0  # factor of δ²
    bulk: float | Array = 1.0  # factor of ∇²L across u, with which the transport damps
    feedback: float | Array = 1.0  # factor of the sharpness's effect on x*
    skew: float | Array = 1.0  # factor of ∇S·u in the predicted sharpness


class DenseGeometry(NamedTuple):
    """Local geometry by dense eigendecomposition, with what else the projection and the prediction need."""

    local: LocalGeometry
    hessian: Array  # (p, p) ∇²L
    second: Array  # () λ₂
    normal: Array  # (p,) ∇(u·∇L)


def dense_geometry(jet: Jet, towards: Array) -> DenseGeometry:
    """Return the geometry at the point of a jet, with u on the side of ``towards`` (p,); λ₁ must be simple."""
    values, vectors = jnp.linalg.eigh(jet.hessian)
    u, sharpness = vectors[:, -1] * jnp.where(vectors[:, -1] @ towards < 0, -1.0, 1.0), values[-1]
    others = (vectors[:, :-1].T @ jet.gradient) / (sharpness - values[:-1])  # (p - 1,)
    third = jet.third @ u  # (p, p)
    turning = vectors[:, :-1] @ others  # (S − H)⁺∇L: how u·∇L depends on the turning of u
    slope, normal = third @ u, sharpness * u + third @ turning
    local = LocalGeometry.single(jet.loss, jet.gradient, sharpness, u, sharpness * u, slope, jnp.zeros((), jnp.int32))
    return DenseGeometry(local, jet.hessian, values[-2], normal)


THEORY = Model()


def towards_edge(geometry: DenseGeometry, theta: Array, target: Array, learning_rate) -> Array:
    """Take one Gauss–Newton round from θ to the point of {S = 2/η, u·∇L = 0} nearest to ``target``; shapes (p,)."""
    local = geometry.local
    a, b, move = local.sharpness_gradient, geometry.normal, target - theta
    excess = local.sharpness - GradientDescent(learning_rate).edge + a @ move
    slope = local.eigenvector @ local.gradient + b @ move
    aa, ab, bb = a @ a, a @ b, b @ b
    return target - ((bb * excess - ab * slope) * a + (aa * slope - ab * excess) * b) / (aa * bb - ab**2)


def predicted(geometry: DenseGeometry, u: Array, v: Array, learning_rate, model: Model = THEORY) -> Array:
    """Return v*' = P'(I − η∇²L)P v* + ηP'∇S⊥(δ² − x*²)/2 − (1 + ηy*)x* u', u' the next eigenvector; shapes (p,)."""
    g = geometry.local
    x, y = g.eigenvector @ v, g.perpendicular @ v
    across, push = v - x * g.eigenvector, model.force * (model.mean * g.delta_squared - x**2) / 2
    across = across - learning_rate * (model.bulk * geometry.hessian @ across - push * g.perpendicular)
    return across - (u @ across) * u - (1 + learning_rate * model.feedback * y) * x * u


def _largest(draw, alpha, learning_rate, horizon, start, models) -> CouplingErrors:
    """Return :func:`coupling_errors` of one draw at one α, for models of m entries."""
    origin, first = jnp.zeros_like(draw.slope), jnp.zeros_like(draw.slope).at[0].set(1.0)
    edge = GradientDescent(learning_rate).edge
    pull = alpha / (draw.jet(origin, 0.0).third[0, 0] @ draw.slope)
    advance = jax.vmap(predicted, in_axes=(None, None, 0, None, 0))

    def step(carry):
        t, theta, center, geometry, v, worst = carry  # v (m, p)
        g = geometry.local
        x, y = v @ g.eigenvector, v @ g.perpendicular  # (m,)
        here = draw.jet(theta, pull)
        sharpness = jnp.linalg.eigvalsh(here.hessian)[-1]
        off = jnp.abs(g.eigenvector @ g.gradient) / jnp.linalg.norm(g.gradient)
        found = CouplingErrors(
            deviation=jnp.linalg.norm((theta - center)[None] - v, axis=1),
            loss=jnp.abs(here.loss - g.loss - x**2 / learning_rate),
            sharpness=jnp.abs(sharpness - edge - y - models.skew * g.slope_along_u * x),
            epsilon=worst.epsilon,
            delta=worst.delta,
            smallest=-jnp.abs(x) / jnp.sqrt(g.delta_squared),
            smallest_alpha=-g.alpha / alpha,
            second=learning_rate * geometry.second,
            violation=jnp.maximum(jnp.abs(g.sharpness / edge - 1), off),
        )
        target = center - learning_rate * g.gradient

        def nearer(_, found):  # to the point of the stable set nearest to the target; the first round is free
            point, geometry = found
            point = towards_edge(geometry, point, target, learning_rate)
            return point, dense_geometry(draw.jet(point, pull), g.eigenvector)

        following, after = jax.lax.fori_loop(0, ROUNDS, nearer, (center, geometry))
        v = advance(geometry, after.local.eigenvector, v, learning_rate, models)
        worst = jax.tree.map(jnp.maximum, worst, found)  # a NaN stays
        return t + 1, theta - learning_rate * here.gradient, following, after, v, worst

    geometry = dense_geometry(draw.jet(origin, pull), first)
    delta = jnp.sqrt(geometry.local.delta_squared)
    small = epsilon(alpha, learning_rate)  # the same in every draw: all end at once
    v = jnp.tile(start * delta * geometry.local.eigenvector, (models.force.size, 1))
    least = jnp.full_like(delta, -jnp.inf)
    each = jnp.full_like(models.force, -jnp.inf)
    worst = CouplingErrors(*[each] * 3, small, delta, each, *[least] * 3)
    carry = (jnp.zeros_like(small), v[0], origin, geometry, v, worst)
    worst = jax.lax.while_loop(lambda carry: carry[0] * small <= horizon, step, carry)[-1]
    return worst._replace(smallest=-worst.smallest, smallest_alpha=-worst.smallest_alpha)


_side_by_side = jax.jit(jax.vmap(_largest, in_axes=(0, *[None] * 5)))


def coupling_errors(draws, alphas, *, learning_rate, horizon=6.0, start=0.5, models=THEORY) -> CouplingErrors:
    """Measure the largest errors of the prediction over ``horizon``/ε steps from θ†_0 + start·δ·u, where θ†_0 = 0.

    Args:
        draws: n losses, stacked.  At 0 each has a diagonal Hessian with 2/η first, and the gradient −g·slope.
        alphas: α at the start (curvature²), shape (m,); g is chosen to give it.
        learning_rate: Step size η.
        horizon: Steps in units of 1/ε.
        start: |x_0|/δ.
        models: The prediction's model; fields of shape (k,) give k models, measured on the same runs.

    Returns:
        The errors, each of shape (n, m); NaN where a run diverged or α_t < 0 on its way.  With fields of shape (k,),
        the errors that depend on the model, and the smallest |x*|, have shape (n, m, k).

    Raises:
        ValueError: if η, an α, the horizon or the start is not positive and finite, or there is no first axis.
    """
    rules.resolve(learning_rate)
    if draws.slope.ndim != 2:
        raise ValueError(f"draws must be stacked along a first axis, so that slope is (n, p); got {draws.slope.shape}")
    alphas = jnp.asarray(alphas, draws.slope.dtype)
    if alphas.ndim != 1 or not bool(jnp.all((alphas > 0) & jnp.isfinite(alphas))):
        raise ValueError(f"alphas must be one-dimensional, positive and finite, got {alphas!r}")
    for name, value in (("horizon", horizon), ("start", start)):
        if not 0 < value < float("inf"):
            raise ValueError(f"{name} must be positive and finite, got {value!r}")
    learning_rate, horizon, start = (jnp.asarray(value, alphas.dtype) for value in (learning_rate, horizon, start))
    models = jnp.broadcast_arrays(*(jnp.asarray(field, alphas.dtype) for field in models))
    rows = Model(*map(jnp.atleast_1d, models))
    # One program for every α: each ends after its own number of steps.
    found = [_side_by_side(draws, alpha, learning_rate, horizon, start, rows) for alpha in alphas]
    errors = jax.tree.map(lambda *fields: jnp.stack(fields, axis=1), *found)
    return jax.tree.map(lambda field: field.reshape(*field.shape[:2], *models[0].shape * (field.ndim - 2)), errors)
