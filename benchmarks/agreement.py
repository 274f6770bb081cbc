"""How far the two sides' constrained trajectories are apart, and how far each is from exact projections."""

from __future__ import annotations

import exact
import jax.numpy as jnp
import numpy as np
import reference
from starts import Size, Start, published, reference_start
from timing import constrained_step, hvp

from eoslib.geometry import radius_squared
from eoslib.objective import Objective

SETTLED = 5  # steps in which the published θ† moves from the edge to where it takes the edge to be
EXACT = 3e-4  # residual of the eigenvectors of exact projections, relative to S; float32 allows little less


def with_quotient(objective: Objective, theta, start):
    """The published eigen-solve, with the Rayleigh quotient of its vector for its value.

    ``lobpcg_standard`` sums long products one term after another where XLA compiles its loop for a CPU: the value that
    it tells in float32 is off by far more than its vector.
    """
    _, u = reference.leading_eigenpair(objective, theta, start)
    return jnp.vdot(u, hvp(objective, theta, u)), u


def strengths(objective: Objective, theta, point: reference.Point) -> tuple:
    """L, S = u·∇²L u, α = −∇L·∇S and β = ‖∇S⊥‖² at θ†, where the published procedure measured the rest."""
    sharpness = jnp.vdot(point.eigenvector, hvp(objective, theta, point.eigenvector))
    across = reference.perpendicular_part(point)
    alpha = -jnp.vdot(point.gradient, point.sharpness_gradient)
    return point.loss, sharpness, alpha, jnp.vdot(across, across)


def agreement(start: Start, size: Size) -> dict[str, float]:
    """How far the two sides' constrained trajectories are apart after so many steps, and why.

    The published procedure, its gradients in float64, is followed twice: with the eigenvalues that
    ``lobpcg_standard`` tells, and with Rayleigh quotients of the same vectors. The first steps are compared with
    exact projections. ``differences`` are the largest of a step's, relative, but for the first step, at which the two
    sides need not be on the boundary yet; ``differences_settled`` those after the first few.
    """
    objective, rate, ours = start.objective, start.setting.learning_rate, start.state.constrained
    double = published(start)
    begun = reference_start(start, double)
    u, theta = begun.here.eigenvector, begun.constrained
    quotient = with_quotient(objective, theta, u)[0]
    told, better = (theta, begun.here), (theta, reference.measure(double, theta, u, with_quotient))
    paths, series = [(ours.theta, theta, theta)], []
    for _ in range(size.common_steps):
        ours, record = constrained_step(objective, ours, rate)
        local = record.geometry
        mine = local.loss, local.sharpness, local.alpha, local.beta
        series.append([list(map(float, side)) for side in (mine, strengths(double, *told), strengths(double, *better))])
        told = reference.constrained_step(double, *told, rate)
        better = reference.constrained_step(double, *better, rate, with_quotient)
        paths = [*paths, (ours.theta, told[0], better[0])] if len(paths) <= size.exact_steps else paths
    delta = float(jnp.sqrt(record.geometry.delta_squared))
    numbers = np.asarray(series)  # (steps, sides, L S α β)
    delta_squared = radius_squared(numbers[..., 2:3], numbers[..., 3:])
    numbers = np.concatenate([numbers, np.sqrt(delta_squared)], axis=-1)
    apart = np.abs(numbers / numbers[:, :1] - 1)  # (steps, sides, 5)
    apart, settled = (np.max(apart[first:], axis=0) for first in (1, SETTLED))
    names = ("loss", "sharpness", "alpha", "beta", "delta")
    nearest = exact.path(objective, theta, u, rate, size.exact_steps, tolerance=EXACT, linear_tolerance=1e-2)[-1]

    def distance(a, b):
        return float(jnp.linalg.norm(a - b)) / delta

    return {
        "steps": size.common_steps,
        "loss_difference": float(apart[1, 0]),
        "differences": dict(zip(names, map(float, apart[1]), strict=True)),
        "differences_with_quotients": dict(zip(names, map(float, apart[2]), strict=True)),
        "settled_after": SETTLED,
        "differences_settled": dict(zip(names, map(float, settled[1]), strict=True)),
        "distance_delta": distance(ours.theta, told[0]),  # at the end
        "distance_with_quotients_delta": distance(ours.theta, better[0]),
        "travelled_delta": distance(told[0], theta),
        "reference_value_off": abs(float(begun.here.sharpness / quotient) - 1),
        "exact_steps": size.exact_steps,
        **{
            f"{side}_from_exact_delta": distance(point, nearest)
            for side, point in zip(("eoslib", "reference", "reference_with_quotients"), paths[-1], strict=True)
        },
    }
