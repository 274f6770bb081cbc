"""The sharpness of any loss on a pytree of parameters: the one function that most users want."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eoslib.eigen import EigenStatus, leading_eigenpair, random_direction
from eoslib.objective import Objective, inner


class Sharpness(NamedTuple):
    """Largest Hessian eigenvalue of a loss on a pytree of parameters."""

    value: Any  # λ_max, a curvature
    eigenvector: Any  # pytree like the parameters, unit length
    error_bound: Any  # some Hessian eigenvalue lies within this distance of value
    products: int  # Hessian-vector products used
    status: EigenStatus  # worded: status.message


@jax.jit(static_argnames=("tolerance", "max_products"))
def _solve(objective: Objective, theta, start, tolerance, max_products):
    pairs = leading_eigenpair(lambda v: objective.hvp(theta, v), start, tolerance=tolerance, max_products=max_products)
    u = pairs.vectors[0]
    image = objective.hvp(theta, u)  # afresh: the solver's own images drift by the rounding of its updates
    value = inner(u, image)
    error = jnp.linalg.norm(image - value * u)
    status = jnp.where(error <= 2 * tolerance * jnp.abs(value), EigenStatus.CONVERGED, EigenStatus.PRODUCT_LIMIT)
    return value, u, error, pairs.products + 1, jnp.maximum(pairs.status, status)  # the worse of both


def sharpness(
    loss_fn: Callable, params, batch=None,
    *, micro_batch: int | None = None, tolerance: float = 1e-3, max_products: int = 1000, start=None, seed: int = 0,
    has_aux: bool = False,
) -> Sharpness:  # fmt: skip
    """Compute S(θ) = λ_max(∇²L(θ)) of any loss on a pytree of parameters: converged, or said not to be.

    Args:
        loss_fn: ``loss_fn(params, batch) -> scalar``, a mean over samples (``loss_fn(params)`` without a batch).
        params: Pytree of floating-point arrays.
        batch: Pytree of arrays with a common leading axis: the whole data set, for a sharpness that is not a sample's.
        micro_batch: Samples evaluated at once, where the whole batch does not fit in memory; the result is the same.
        tolerance: Residual ‖∇²L u − S u‖ accepted, relative to |S|; the relative error of S is about its square.
        max_products: Limit on Hessian-vector products.
        start: Pytree like ``params``, e.g. the last eigenvector; random (from ``seed``) by default.
        seed: Seed of the random start.
        has_aux: Whether ``loss_fn`` returns (loss, aux).

    Raises:
        ValueError: on parameters that are not floating point, an inconsistent batch, or a tolerance that the dtype
            cannot resolve.

    Example:
        >>> import jax.numpy as jnp
        >>> result = sharpness(lambda p: 3 * p["w"][0] ** 2 - p["w"][1] ** 2, {"w": jnp.ones(2)})
        >>> print(result.value, result.status.message)
        6.0 converged: every residual is within its tolerance
    """
    objective = Objective.create(loss_fn, params, batch, micro_batch=micro_batch, has_aux=has_aux)
    direction = random_direction(objective.size, objective.dtype, seed) if start is None else objective.ravel(start)
    theta, direction = objective.ravel(params), direction.astype(objective.dtype)
    value, u, error, products, status = _solve(objective, theta, direction, tolerance, max_products)
    return Sharpness(value, objective.unravel(u), error, int(products), EigenStatus(int(status)))
