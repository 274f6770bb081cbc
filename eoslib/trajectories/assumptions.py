"""The coupling theorem's assumptions, measured at one point of the constrained trajectory.

Source: arXiv 2209.15594, assumptions of the coupling theorem; tensor norms are lower bounds by power iteration.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from eoslib.eigen import leading_eigenpairs
from eoslib.geometry import local_geometry
from eoslib.loops import do_while
from eoslib.objective import Objective, inner, length
from eoslib.position import Theta
from eoslib.trajectories.prediction import PredictedState

PAIRS = 3  # leading eigenvalues followed
STARTS = 24  # of a tensor power iteration where no maximizer is known
POWER_STEPS = 6  # of each of them
CLIMB_STEPS = 40  # at most, continuing from the best of them, or from the last maximizer
CHANGE = 1e-3  # of a bound in one step, below which the iteration has converged
PROFILE_POINTS = 21


class Following(NamedTuple):
    """Warm starts of the diagnostics."""

    vectors: Float[Array, "k p"]  # leading eigenvectors of ∇²L(θ†)
    third: Float[Array, " p"]  # maximizer of ‖∇³L[w, w]‖
    fourth: Float[Array, " p"]  # maximizer of ‖∇⁴L[w, w, w]‖
    shifted: Float[Array, " p"]  # leading eigenvector at θ† + v*


def start(u: Float[Array, " p"]) -> Following:
    """Return a cold start from the leading eigenvector; zeros stand for maximizers that are not known."""
    keys = jax.random.split(jax.random.key(1), min(PAIRS, u.size) - 1)
    noise = [jax.random.normal(key, u.shape, u.dtype) for key in keys]
    return Following(jnp.stack([u, *noise]), jnp.zeros_like(u), jnp.zeros_like(u), u)


def _unit(w):
    norm = length(w)
    return w / jnp.where(norm > 0, norm, 1)


def _ratio(a, b):
    """Return a/b, or 0 where b is 0, as for tensors that vanish."""
    return jnp.where(b == 0, 0, a / jnp.where(b == 0, 1, b))


def tensor_norm(
    objective: Objective, theta: Theta, start: Float[Array, " p"], order: Any, cold: Any = False,
    steps: Any = CLIMB_STEPS, change: float = CHANGE,
) -> tuple[Float[Array, ""], Float[Array, " p"], Float[Array, ""]]:  # fmt: skip
    """Bound the operator norm of ∇^order L(θ) from below, by power iteration w ← ∇^order L[w, …, w]; order 3 or 4.

    ‖∇^order L[w, …, w]‖ for a unit w is such a bound, as the tensor is symmetric (Banach 1938).  Each step keeps 0.3 of
    w, because in a valley ½(k + y)x² the plain iteration alternates indefinitely.  It ends after ``steps`` steps (at
    least 1), or once the bound changes by less than the fraction ``change``.  If ``cold``, it first takes a few steps
    from ``start`` and from random directions, and continues from the best.  Order, cold and steps may be traced.

    Returns the bound (a loss/length^order), its w (p,) of length one, and the curvature w·∇²L w.
    """

    def expansion(f, t, d):  # for both orders: one program, because XLA takes long to compile it
        return objective._along(lambda s: objective._cubic(f, s, d), t, d)

    def iterate(carry):
        w, last, kept, left = carry
        cubic, slope = objective._evaluate(expansion, theta, w)
        image = jnp.where(order == 3, cubic.third, slope.third)
        bound = length(image)
        found = keep_larger(kept, (bound, w, inner(w, cubic.hvp)))
        onward = _unit(jnp.where(inner(w, image) < 0, -1, 1).astype(w.dtype) * image + 0.3 * bound * w)
        again = (left > 1) & (jnp.abs(bound - last) > change * last)
        return found, (jnp.where(bound > 0, onward, w), bound, found, left - 1), again

    def keep_larger(old, new):
        return jax.tree.map(lambda a, b: jnp.where(new[0] < old[0], a, b), old, new)

    def climb(i, found):
        noise = jax.random.normal(jax.random.key(i), start.shape, start.dtype)
        w = _unit(jnp.where((i == 0) | (i == STARTS), found[1], noise))
        left = jnp.asarray(jnp.where(i == STARTS, steps, POWER_STEPS), jnp.int32)
        return keep_larger(found, do_while(iterate, (w, zero, (zero, w, zero), left))[0])

    zero, first = jnp.zeros((), objective.dtype), jnp.asarray(jnp.where(cold, 0, STARTS), jnp.int32)
    return jax.lax.fori_loop(first, jnp.int32(STARTS + 1), climb, (zero, start, zero))


@jax.jit
def measure(
    objective: Objective, following: Following, theta: Theta, eigenvector: Float[Array, " p"],
    predicted: PredictedState,
) -> tuple[Following, dict[str, Array]]:  # fmt: skip
    """Measure spectrum, tensor norms, non-worst-case ratios, the loss along u and the exact loss at θ† + v*.

    ``theta`` is θ† at time t, ``eigenvector`` a start for its leading eigenvector, ``predicted`` the prediction there.
    Returns the next warm starts, and the variables on ``stride`` (:mod:`eoslib.trajectories.variables`) by name.
    """

    def look(at, _):  # θ†, then θ† + v*, in one program: compiling is expensive
        geometry = local_geometry(objective, *at)
        u = geometry.eigenvector
        v = predicted.carried + (predicted.x - inner(u, predicted.carried)) * u
        return (theta + v.astype(theta.dtype), following.shifted), geometry

    _, both = jax.lax.scan(look, (theta, eigenvector), length=2)
    geometry, shifted = (jax.tree.map(lambda a, i=i: a[i], both) for i in range(2))
    u = geometry.eigenvector
    vectors = following.vectors.at[0].set(u)
    pairs = leading_eigenpairs(lambda v: objective.hvp(theta, v), vectors, tolerance=1e-2, max_products=60 * PAIRS)
    across, downhill = (w - inner(u, w) * u for w in (predicted.carried, geometry.gradient))
    # Two maximizers, and one step along each of two directions.
    cold, valley = jnp.all(following.fourth == 0), u + _unit(geometry.perpendicular)
    starts = [jnp.where(cold, valley, w) for w in (following.third, following.fourth)]
    rows = jnp.stack([*starts, across, downhill]), jnp.array([3, 4, 3, 3]), jnp.array([True, True, False, False])

    def row(start, order, climbs):
        return tensor_norm(objective, theta, start, order, cold & climbs, jnp.where(climbs, CLIMB_STEPS, 1))

    norms, ws, curvatures = jax.lax.map(lambda given: row(*given), rows)
    rho3 = jnp.where(norms[2:] > norms[0], norms[2:], norms[0]).max()  # NaN along a lost prediction bounds nothing
    delta = jnp.sqrt(jnp.clip(geometry.delta_squared, 0, jnp.finfo(objective.dtype).max))
    offsets = jnp.linspace(-5, 5, PROFILE_POINTS, dtype=objective.dtype) * delta
    values = {
        "eigenvalues": pairs.values, "rho3": rho3, "rho4": norms[1],
        "third_along_v": _ratio(norms[2], rho3), "third_along_gradient": _ratio(norms[3], rho3),
        "curvature_along_v": _ratio(jnp.abs(curvatures[2]), jnp.abs(pairs.values[0])),
        "profile": jax.lax.map(lambda x: objective.loss(theta + (x * u).astype(theta.dtype)), offsets),
        "profile_offset": offsets, "exact_predicted_loss": shifted.loss, "exact_predicted_sharpness": shifted.sharpness,
    }  # fmt: skip
    return Following(pairs.vectors, ws[0], ws[1], shifted.eigenvector), values
