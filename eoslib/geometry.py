"""The local geometry at a point: sharpness, its gradient, and the quantities of the self-stabilization argument.

Each derived quantity is defined here and nowhere else (arXiv 2209.15594, definitions along the constrained trajectory).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from eoslib.eigen import EigenStatus, leading_eigenpair, leading_eigenpairs
from eoslib.objective import Objective


class LocalGeometry(NamedTuple):
    """Third-order picture of the loss at θ along its leading eigenvector u."""

    loss: Float[Array, ""]  # L
    gradient: Float[Array, " p"]  # ∇L
    sharpness: Float[Array, ""]  # S = u·∇²L u, a curvature
    eigenvector: Float[Array, " p"]  # u, unit length
    hvp: Float[Array, " p"]  # ∇²L u
    sharpness_gradient: Float[Array, " p"]  # ∇S = ∇³L[u, u], for a simple eigenvalue
    products: Int[Array, ""]  # Hessian-vector products spent on u

    @property
    def residual(self) -> Float[Array, ""]:
        """‖∇²L u − S u‖: some eigenvalue lies within it of S; the error of S itself is second order in it."""
        return jnp.linalg.norm(self.hvp - self.sharpness * self.eigenvector)

    @property
    def improved_eigenvector(self) -> Float[Array, " p"]:
        """∇²L u scaled to length one, on the side of u: a power step, free of cost, to start the next solve."""
        return self.hvp * (jnp.sign(self.sharpness) / jnp.linalg.norm(self.hvp))

    @property
    def perpendicular(self) -> Float[Array, " p"]:
        """∇S⊥ = (I − u uᵀ) ∇S."""
        return self.sharpness_gradient - jnp.vdot(self.eigenvector, self.sharpness_gradient) * self.eigenvector

    @property
    def alpha(self) -> Float[Array, ""]:
        """α = −∇L·∇S, the strength of progressive sharpening (with ∇S⊥ it is the same where ∇L·u = 0)."""
        return -jnp.vdot(self.gradient, self.sharpness_gradient)

    @property
    def beta(self) -> Float[Array, ""]:
        """β = ‖∇S⊥‖², the strength of self-stabilization."""
        perpendicular = self.perpendicular
        return jnp.vdot(perpendicular, perpendicular)

    @property
    def delta_squared(self) -> Float[Array, ""]:
        """δ² = 2α/β, squared radius of the oscillation (length²); negative where α < 0: nothing pushes to the edge."""
        return 2 * self.alpha / self.beta

    @property
    def cosine(self) -> Float[Array, ""]:
        """γ = α / (‖∇L‖ ‖∇S⊥‖)."""
        return self.alpha / (jnp.linalg.norm(self.gradient) * jnp.sqrt(self.beta))

    def epsilon(self, learning_rate) -> Float[Array, ""]:
        """ε = η √α, the dimensionless parameter: a cycle lasts O(1/ε) steps; NaN by definition where α < 0."""
        return learning_rate * jnp.sqrt(self.alpha)


def local_geometry_and_products(
    objective: Objective,
    theta: Float[Array, " p"],
    start: Float[Array, " p"],
    vs: Float[Array, "k p"],
    *,
    tolerance: float = 5e-3,
    max_products: int = 200,
) -> tuple[LocalGeometry, Float[Array, "k p"]]:
    """:func:`local_geometry` and ∇²L v for the k rows of ``vs``, in the same pass (k may be 0)."""
    dtype = objective.dtype

    # A loop, so that the expansion is compiled once: at the start; where that is stale, at the eigenvector refined.
    def expand(carry):
        _, _, u, _, spent = carry
        cubic, products = objective.cubic_and_hvps(theta, u, vs)
        sharpness = jnp.vdot(u, cubic.hvp)
        stale = jnp.linalg.norm(cubic.hvp - sharpness * u) > tolerance * jnp.abs(sharpness)
        geometry = LocalGeometry(cubic.loss, cubic.gradient, sharpness, u, cubic.hvp, cubic.third, spent + 1)

        def refine(_):
            pairs = leading_eigenpair(
                lambda v: objective.hvp(theta, v), u, tolerance=tolerance / 2, max_products=max_products
            )
            return pairs.vectors[0] * jnp.where(jnp.vdot(pairs.vectors[0], u) < 0, -1, 1).astype(dtype), pairs.products

        stale = stale & (spent == 0)
        u, more = jax.lax.cond(stale, refine, lambda _: (u, jnp.zeros((), jnp.int32)), None)
        return geometry, products, u, stale, spent + 1 + more

    zero, empty, count = jnp.zeros((), dtype), jnp.zeros(objective.size, dtype), jnp.zeros((), jnp.int32)
    u = start.astype(dtype) / jnp.linalg.norm(start).astype(dtype)
    nothing = LocalGeometry(zero, empty, zero, empty, empty, empty, count)
    carry = (nothing, jnp.zeros(vs.shape, dtype), u, jnp.ones((), bool), count)
    return jax.lax.while_loop(lambda carry: carry[3], expand, carry)[:2]


def local_geometry(
    objective: Objective, theta: Float[Array, " p"], start: Float[Array, " p"], **options
) -> LocalGeometry:
    """The local geometry at θ from a neighbouring eigenvector.

    One cubic expansion along ``start`` yields ∇L, S, ∇S and the residual of the eigenvector for free; only where that
    residual is too large is the eigenvector refined and the expansion repeated.

    Args:
        objective: The loss.
        theta: Point (p,).
        start: Vector (p,), not zero: the eigenvector of a neighbouring point; u keeps its sign.
        **options: ``tolerance``, largest residual ‖∇²L u − S u‖ relative to |S| (the relative error of S is about its
            square over the relative eigengap); ``max_products``, limit of one refinement.
    """
    return local_geometry_and_products(
        objective, theta, start, jnp.zeros((0, objective.size), objective.dtype), **options
    )[0]


class Sharpness(NamedTuple):
    """Largest Hessian eigenvalue of a loss on a pytree of parameters."""

    value: Any  # λ_max, a curvature
    eigenvector: Any  # pytree like the parameters, unit length
    error_bound: Any  # some Hessian eigenvalue lies within this distance of value
    products: int  # Hessian-vector products used
    status: EigenStatus  # worded: status.message


def random_direction(size: int, dtype, seed: int = 0) -> Float[Array, " p"]:
    """A reproducible random unit vector, the cold start of every eigen-solve."""
    v = jax.random.normal(jax.random.key(seed), (size,), dtype)
    return v / jnp.linalg.norm(v)


@jax.jit(static_argnames=("tolerance", "max_products"))
def _solve(objective: Objective, theta, starts, tolerance, max_products):
    pairs = leading_eigenpairs(
        lambda v: objective.hvp(theta, v), starts, tolerance=tolerance, max_products=max_products
    )
    vector = pairs.vectors[0]
    image = objective.hvp(theta, vector)  # afresh: the solver's own images carry the rounding of its updates
    value = jnp.vdot(vector, image)
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
    """The sharpness S(θ) = λ_max(∇²L(θ)) of any loss on a pytree of parameters: converged, or said not to be.

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
