"""The sharpness of any loss on a pytree of parameters: the one function that most users want."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eoslib.eigen import EigenStatus, leading_eigenpairs, random_direction
from eoslib.objective import Objective, inner


class Sharpness(NamedTuple):
    """Largest Hessian eigenvalue of a loss on a pytree of parameters."""

    value: Any  # λ_max, a curvature
    eigenvector: Any  # pytree like the parameters, unit length
    error_bound: Any  # some Hessian eigenvalue lies within this distance of value
    products: int  # Hessian-vector products used
    status: EigenStatus  # worded: status.message


@jax.jit(static_argnames=("tolerance", "max_products"))
def _solve(objective: Objective, theta, starts, tolerance, max_products):
    pairs = leading_eigenpairs(
        lambda v: objective.hvp(theta, v), starts, tolerance=tolerance, max_products=max_products
    )
    vector = pairs.vectors[0]
    image = objective.hvp(theta, vector)  # afresh: the solver's own images carry the rounding of its updates
    value = inner(vector, image)
    return pairs._replace(values=value[None], residuals=jnp.linalg.norm(image - value * vector)[None]), vector


def sharpness(
    loss_fn: Callable,
    params,
    batch=None,
    *,
    micro_batch: int | None = None,
    tolerance: float = 1e-3,
    max_products: int = 1000,
    start=None,
    seed: int = 0,
) -> Sharpness:
    """Compute S(θ) = λ_max(∇²L(θ)) of any loss on a pytree of parameters: converged, or said not to be.

    Args:
        loss_fn: ``loss_fn(params, batch) -> scalar`` (``loss_fn(params)`` where ``batch`` is None), a
            mean over samples.
        params: Pytree of floating-point arrays.
        batch: Pytree of arrays with a common leading axis: the whole data set, for a sharpness that is not a sample's.
        micro_batch: Samples evaluated at once, where the whole batch does not fit in memory; the result is the same.
        tolerance: Residual ‖∇²L u − S u‖ accepted, relative to |S|; the relative error of S is about its square.
        max_products: Limit on Hessian-vector products.
        start: Pytree like ``params``, e.g. the last eigenvector; random (from ``seed``) by default.
        seed: Seed of the random start.

    Returns:
        Sharpness: value, eigenvector (a pytree), error bound, products used and worded status.

    Raises:
        ValueError: on parameters that are not floating point, an inconsistent batch, or a tolerance that the dtype
            cannot resolve.

    Example:
        >>> import jax.numpy as jnp
        >>> result = sharpness(lambda p: 3 * p["w"][0] ** 2 - p["w"][1] ** 2, {"w": jnp.ones(2)})
        >>> print(result.value, result.status.message)
        6.0 converged: every residual is within its tolerance
    """
    objective = Objective.create(loss_fn, params, batch, micro_batch=micro_batch)
    theta = objective.ravel(params)
    direction = random_direction(objective.size, objective.dtype, seed) if start is None else objective.ravel(start)
    pairs, vector = _solve(objective, theta, direction[None].astype(objective.dtype), tolerance, max_products)
    value, error, status = pairs.values[0], pairs.residuals[0], EigenStatus(int(pairs.status))
    # The images kept by the solver may have drifted from the operator; the residual measured afresh decides.
    if status is EigenStatus.CONVERGED and not error <= 2 * tolerance * jnp.abs(value):
        status = EigenStatus.PRODUCT_LIMIT
    return Sharpness(value, objective.unravel(vector), error, int(pairs.products) + 1, status)
