"""The local geometry at a point: sharpness, its gradient, and the quantities of the self-stabilization argument.

Each derived quantity is defined here and nowhere else (arXiv 2209.15594, definitions along the constrained trajectory).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from eoslib.eigen import DENSE_LIMIT, direction, leading_eigenpair, power_step
from eoslib.loops import do_while
from eoslib.objective import Objective, inner, length
from eoslib.position import Theta


def radius_squared(alpha: Any, beta: Any) -> Any:
    """Return δ² = 2α/β, the squared radius of the oscillation (length²); any arrays that broadcast.

    Negative where α < 0: nothing pushes to the edge there, and there is no oscillation.  Where β = 0 it is 0 if α = 0,
    and infinite otherwise: nothing pushes back.
    """
    where = jnp.where if isinstance(alpha, jax.Array) or isinstance(beta, jax.Array) else np.where
    with np.errstate(divide="ignore"):
        beta = where((alpha == 0) & (beta == 0), 1, beta)
        return 2 * alpha / beta


def epsilon(alpha: Any, learning_rate: Any) -> Any:
    """Return ε = η√α, the dimensionless parameter: a cycle lasts O(1/ε) steps; NaN where α < 0."""
    root = jnp.sqrt if isinstance(alpha, jax.Array) else np.sqrt
    return learning_rate * root(alpha)


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
        return length(self.hvp - self.sharpness * self.eigenvector)

    @property
    def improved_eigenvector(self) -> Float[Array, " p"]:
        """∇²L u scaled to length one (:func:`~eoslib.eigen.power_step`), to start the next solve."""
        return power_step(self.eigenvector, self.hvp, self.sharpness)

    @property
    def perpendicular(self) -> Float[Array, " p"]:
        """∇S⊥ = (I − u uᵀ) ∇S."""
        return self.sharpness_gradient - inner(self.eigenvector, self.sharpness_gradient) * self.eigenvector

    @property
    def slope_along_u(self) -> Float[Array, ""]:
        """∇S·u, the slope of the sharpness along u."""
        return inner(self.eigenvector, self.sharpness_gradient)

    @property
    def alpha(self) -> Float[Array, ""]:
        """α = −∇L·∇S, the strength of progressive sharpening (with ∇S⊥ it is the same where ∇L·u = 0)."""
        return -inner(self.gradient, self.sharpness_gradient)

    @property
    def beta(self) -> Float[Array, ""]:
        """β = ‖∇S⊥‖², the strength of self-stabilization."""
        perpendicular = self.perpendicular
        return inner(perpendicular, perpendicular)

    @property
    def delta_squared(self) -> Float[Array, ""]:
        """δ² = 2α/β (:func:`radius_squared`)."""
        return radius_squared(self.alpha, self.beta)

    @property
    def cosine(self) -> Float[Array, ""]:
        """γ = α / (‖∇L‖ ‖∇S⊥‖), 0 where either vanishes."""
        norms = length(self.gradient) * length(self.perpendicular)
        return jnp.where(norms == 0, 0, self.alpha / jnp.where(norms == 0, 1, norms))


@jax.jit(static_argnames=("tolerance", "max_products"), inline=True)  # compiled once where it is called outside of jit
def local_geometry_and_products(
    objective: Objective, theta: Theta, start: Float[Array, " p"], vs: Float[Array, "k p"],
    *, tolerance: float = 5e-3, max_products: int = 200,
) -> tuple[LocalGeometry, Float[Array, "k p"]]:  # fmt: skip
    """Return :func:`local_geometry` and ∇²L v for the k rows of ``vs``, in the same pass (k may be 0)."""
    dtype = objective.dtype
    options = {"tolerance": tolerance / 2, "max_products": max_products}

    def refine(u):
        pairs = leading_eigenpair(lambda v: objective.hvp(theta, v), u, **options)
        return pairs.vectors[0], pairs.products

    # The start first; where it is stale, the eigenvector refined from it.  (A vector that another has overtaken has no
    # residual: where the whole matrix costs nothing it is always asked.)
    def expand(carry):
        u, spent = carry
        cubic, products = objective.cubic_and_hvps(theta, u, vs)
        geometry = LocalGeometry(cubic.loss, cubic.gradient, inner(u, cubic.hvp), u, cubic.hvp, cubic.third, spent + 1)
        stale = (geometry.residual > tolerance * jnp.abs(geometry.sharpness)) | (objective.size <= DENSE_LIMIT)
        stale = (spent == 0) & stale
        refined, more = jax.lax.cond(stale, refine, lambda u: (u, jnp.zeros((), jnp.int32)), u)
        return (geometry, products), (refined, spent + 1 + more), stale

    return do_while(expand, (direction(start.astype(dtype)), jnp.zeros((), jnp.int32)))[0]


def local_geometry(objective: Objective, theta: Theta, start: Float[Array, " p"], **options) -> LocalGeometry:
    """Return the local geometry at θ from ``start``, a neighboring point's eigenvector, whose sign u keeps.

    One cubic expansion along ``start`` yields ∇L, S, ∇S and the residual of the eigenvector for free; only where that
    residual is too large is the eigenvector refined and the expansion repeated.  Options: ``tolerance``, the largest
    residual ‖∇²L u − S u‖ relative to |S| (the relative error of S is about its square over the relative eigengap);
    ``max_products``, the limit of one refinement.
    """
    none = jnp.zeros((0, objective.size), objective.dtype)
    return local_geometry_and_products(objective, *objective.place((theta, start, none)), **options)[0]
