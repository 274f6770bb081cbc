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
from eoslib.objective import Objective, inner, length
from eoslib.position import Theta
from eoslib.trajectories.prediction import PredictedState

PAIRS = 3  # leading eigenvalues followed
POWER_STEPS = 6  # of each tensor power iteration, warm-started
COLD_STEPS = 40  # of one that starts from no maximizer
PROFILE_POINTS = 21


class Following(NamedTuple):
    """Warm starts of the diagnostics."""

    vectors: Float[Array, "k p"]  # leading eigenvectors of ∇²L(θ†)
    third: Float[Array, " p"]  # maximizer of |∇³L[w, w, w]|
    fourth: Float[Array, " p"]  # maximizer of |∇⁴L[w, w, w, w]|
    shifted: Float[Array, " p"]  # leading eigenvector at θ† + v*


def start(u: Float[Array, " p"]) -> Following:
    """Return a cold start from the leading eigenvector; a zero stands for the start that :func:`measure` chooses."""
    keys = jax.random.split(jax.random.key(1), min(PAIRS, u.size) - 1)
    noise = [jax.random.normal(key, u.shape, u.dtype) for key in keys]
    return Following(jnp.stack([u, *noise]), u, jnp.zeros_like(u), u)


def _unit(w):
    norm = length(w)
    return w / jnp.where(norm > 0, norm, 1)


def _ratio(a, b):
    """a/b, or 0 where b is: of tensors that vanish."""
    return jnp.where(b == 0, 0, a / jnp.where(b == 0, 1, b))


def tensor_norm(objective: Objective, theta, start: Float[Array, " p"], order: int, steps: Any = POWER_STEPS):
    """Bound the operator norm of ∇^order L(θ) from below, by power iteration w ← ∇^order L[w, …, w]; order 3 or 4.

    Returns the bound (a loss/length^order) and the direction reached.  A third of w is kept in each step: in a valley
    ½(k + y)x² the plain iteration jumps to and fro for ever.  The number of steps may be traced.
    """

    def iterate(_, carry):
        w, best, best_w = carry
        w = _unit(w)
        new = objective.directional(theta, w, order)
        value, norm = inner(w, new), length(new)
        better = jnp.abs(value) > best
        following = jnp.where(value < 0, -1, 1).astype(new.dtype) * new + 0.3 * norm * w
        following = jnp.where(norm > 0, following, w)
        return following, jnp.where(better, jnp.abs(value), best), jnp.where(better, w, best_w)

    zero = jnp.zeros((), objective.dtype)
    return jax.lax.fori_loop(0, steps, iterate, (start, zero, _unit(start)))[1:]


@jax.jit
def measure(
    objective: Objective, following: Following, theta: Theta, eigenvector: Float[Array, " p"],
    predicted: PredictedState,
) -> tuple[Following, dict[str, Array]]:  # fmt: skip
    """Measure spectrum, tensor norms, non-worst-case ratios, the loss along u and the exact loss at θ† + v*.

    ``theta`` is θ† at time t, ``eigenvector`` a start for its leading eigenvector, ``predicted`` the prediction there.
    Returns the next warm starts, and the variables on ``stride`` (:mod:`eoslib.trajectories.variables`) by name.
    """
    geometry = local_geometry(objective, theta, eigenvector)
    u = geometry.eigenvector
    vectors = following.vectors.at[0].set(u)
    pairs = leading_eigenpairs(lambda v: objective.hvp(theta, v), vectors, tolerance=1e-2, max_products=60 * PAIRS)
    sharpening, cold = _unit(geometry.perpendicular), jnp.all(following.fourth == 0)
    steps = jnp.where(cold, COLD_STEPS, POWER_STEPS)
    rho3, third = tensor_norm(objective, theta, following.third + 0.1 * sharpening, 3, steps)
    rho4, fourth = tensor_norm(objective, theta, jnp.where(cold, u + sharpening, following.fourth), 4, steps)
    across, downhill = (w - inner(u, w) * u for w in (predicted.carried, geometry.gradient))
    across, downhill = _unit(across), _unit(downhill)
    along_v, along_gradient = objective.cubic(theta, across), objective.cubic(theta, downhill)
    delta = jnp.sqrt(jnp.clip(geometry.delta_squared, 0, jnp.finfo(objective.dtype).max))
    offsets = jnp.linspace(-5, 5, PROFILE_POINTS, dtype=objective.dtype) * delta
    v = predicted.carried + (predicted.x - inner(u, predicted.carried)) * u
    shifted = local_geometry(objective, theta + v.astype(theta.dtype), following.shifted, tolerance=1e-2)
    values = {
        "eigenvalues": pairs.values, "rho3": rho3, "rho4": rho4,
        "third_along_v": _ratio(length(along_v.third), rho3),
        "third_along_gradient": _ratio(length(along_gradient.third), rho3),
        "curvature_along_v": _ratio(jnp.abs(inner(across, along_v.hvp)), jnp.abs(pairs.values[0])),
        "profile": jax.lax.map(lambda x: objective.loss(theta + (x * u).astype(theta.dtype)), offsets),
        "profile_offset": offsets, "exact_predicted_loss": shifted.loss, "exact_predicted_sharpness": shifted.sharpness,
    }  # fmt: skip
    return Following(pairs.vectors, third, fourth, shifted.eigenvector), values
