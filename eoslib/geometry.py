"""The local geometry at a point: sharpness, its gradient, and the quantities of the self-stabilization argument.

Each derived quantity is defined here and nowhere else (arXiv 2209.15594, definitions along the constrained trajectory).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from eoslib.complementarity import Multiplier, rotation, smat, solve, svec
from eoslib.eigen import DENSE_LIMIT, direction, directions, gaps, leading_eigenpairs, power_step
from eoslib.loops import do_while
from eoslib.objective import Objective, inner, length
from eoslib.position import Theta
from eoslib.rules import Rated


def radius_squared(alpha: Any, beta: Any) -> Any:
    """Return δ² = 2α/β, the squared radius of the oscillation (length²); any arrays that broadcast.

    It is negative where α < 0: nothing pushes toward the edge there, and there is no oscillation.  Where β = 0 it is 0
    if α = 0, and infinite otherwise, because nothing pushes back.
    """
    where = jnp.where if isinstance(alpha, jax.Array) or isinstance(beta, jax.Array) else np.where
    with np.errstate(divide="ignore"):
        beta = where((alpha == 0) & (beta == 0), 1, beta)
        return 2 * alpha / beta


def epsilon(alpha: Any, learning_rate: Any) -> Any:
    """Return ε = η√α, the dimensionless parameter: a cycle lasts O(1/ε) steps; NaN where α < 0."""
    root = jnp.sqrt if isinstance(alpha, jax.Array) else np.sqrt
    return learning_rate * root(alpha)


class Thirds(NamedTuple):
    """Third derivatives at a neighboring point, to be turned into the basis of this one."""

    vectors: Float[Array, "k p"]  # the basis there
    thirds: Float[Array, "n p"]  # as in LocalGeometry
    fresh: Any  # whether they must be evaluated again


class LocalGeometry(NamedTuple):
    """Third-order expansion of the loss at θ along its k leading eigenvectors, of which there are n = k(k+1)/2 pairs.

    ``alpha``, ``beta``, … are those of the first direction alone, u = u_1, and for k = 1 they describe everything.
    Symmetric k×k matrices Z act on pairs by T:Z = Σ_ij Z_ij ∇³L[u_i, u_j] = svec(Z) @ thirds.
    """

    loss: Float[Array, ""]  # L
    gradient: Float[Array, " p"]  # ∇L
    values: Float[Array, " k"]  # λ_i = u_i·∇²L u_i, curvatures, largest first; λ_1 is the sharpness S
    vectors: Float[Array, "k p"]  # u_i: an orthonormal basis of an invariant subspace, in which ∇²L is diagonal
    images: Float[Array, "k p"]  # ∇²L u_i
    thirds: Float[Array, "n p"]  # ∇³L[u_i, u_j] for i ≤ j, √2 times where i < j (svec); the first is ∇S
    products: Int[Array, ""]  # Hessian-vector products spent on the vectors

    @classmethod
    def single(cls, loss, gradient, sharpness, u, hvp, third, products) -> LocalGeometry:
        """Return the geometry along one direction u (p,), from the values of its fields."""
        return cls(loss, gradient, sharpness[None], u[None], hvp[None], third[None], products)

    @property
    def sharpness(self) -> Float[Array, ""]:
        """S = λ_1, a curvature."""
        return self.values[0]

    @property
    def eigenvector(self) -> Float[Array, " p"]:
        """Leading eigenvector u = u_1, of unit length."""
        return self.vectors[0]

    @property
    def hvp(self) -> Float[Array, " p"]:
        """∇²L u."""
        return self.images[0]

    @property
    def sharpness_gradient(self) -> Float[Array, " p"]:
        """∇S = ∇³L[u, u], for a simple eigenvalue."""
        return self.thirds[0]

    @property
    def residuals(self) -> Float[Array, " k"]:
        """‖∇²L u_i − λ_i u_i‖: an eigenvalue lies within it of λ_i; the error of λ_i itself is second order in it."""
        return length(self.images - self.values[:, None] * self.vectors)

    @property
    def residual(self) -> Float[Array, ""]:
        """‖∇²L u − S u‖."""
        return self.residuals[0]

    @property
    def improved_vectors(self) -> Float[Array, "k p"]:
        """∇²L u_i scaled to length one (:func:`~eoslib.eigen.power_step`), to start the next solve."""
        return jax.vmap(power_step)(self.vectors, self.images, self.values)

    def floored(self, rule: Rated) -> Bool[Array, " k"]:
        """Return for which directions M requires u_i·∇L = 0: the first, and those that a step would overshoot."""
        return (self.values > rule.edge / 2).at[0].set(True)

    def outside(self, w: Float[Array, "*batch p"], rule: Rated | None = None) -> Float[Array, "*batch p"]:
        """Return P⊥w = w − UᵀU w; under a rule, U holds the floored directions alone."""
        us = self.vectors if rule is None else jnp.where(self.floored(rule)[:, None], self.vectors, 0)
        # A product of matrices is exact to rounding where neither is a single row.
        within = w @ us.T if w.ndim == 2 and min(len(w), len(us)) > 1 else inner(w[..., None, :], us)
        return w - within @ us

    def across(self, rule: Rated) -> Float[Array, "n p"]:
        """Return T⊥ = P⊥∇³L[u_i, u_j], rows as in :attr:`thirds`: how the block of ∇²L changes along the floor."""
        return self.outside(self.thirds, rule)

    def gram(self, rule: Rated) -> Float[Array, "n n"]:
        """Return 𝒢 = T⊥T⊥ᵀ, β for k = 1 (curvature²/length²)."""
        across = self.across(rule)  # a product of matrices is exact to rounding where neither is a single row
        return across @ across.T if len(across) > 1 else inner(across[:, None], across)

    def sharpening(self, rule: Rated) -> Float[Array, "k k"]:
        """Return A = −∇³L[u_i, u_j]·P⊥∇L, the rate of progressive sharpening of the block (curvature²); α for k = 1."""
        return -smat(inner(self.thirds, self.outside(self.gradient, rule)))

    def slack(self, rule: Rated) -> Float[Array, "k k"]:
        """Return 2/η I − Λ, the distance of the block's eigenvalues below the edge; finite for η = 0, too."""
        largest = float(jnp.finfo(self.values.dtype).max) / 4
        return jnp.diag(jnp.minimum(rule.edge - self.values, largest)).astype(self.values.dtype)

    def multiplier(self, rule: Rated) -> Multiplier:
        """Solve for W = ηΣ/2 ⪰ 0 (length²/curvature), whose move −T⊥:W keeps every eigenvalue at the edge or below."""
        room = self.slack(rule) - rule.flow_rate * self.sharpening(rule)
        return solve(self.gram(rule), room.astype(self.values.dtype))

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
    objective: Objective, theta: Theta, start: Float[Array, "*k p"], vs: Float[Array, "m p"],
    *, tolerance: float = 5e-3, max_products: int = 200, known: Thirds | None = None,
) -> tuple[LocalGeometry, Float[Array, "m p"]]:  # fmt: skip
    """Return :func:`local_geometry` and ∇²L v for the m rows of ``vs``, in the same pass (m may be 0).

    Third derivatives that are ``known`` at a neighboring point are turned into the basis found here, unless they must
    be fresh or that basis spans another space.
    """
    if start.ndim == 1:
        start = start[None]
    k, options = start.shape[0], {"tolerance": tolerance / 2, "max_products": max_products}

    def look(us):
        """Return values, vectors and images in the Ritz basis of a block, and the other results of the same pass."""
        if k == 1:
            cubic, products = objective.cubic_and_hvps(theta, us[0], vs)
            values = inner(us[0], cubic.hvp)[None]
            return (cubic.loss, cubic.gradient), values, us, cubic.hvp[None], cubic.third[None], products
        loss, gradient, images = objective.gradient_and_hvps(theta, jnp.concatenate([us, vs]))
        images, products = images[:k], images[k:]
        projected = inner(us[:, None], images)
        values, basis = jnp.linalg.eigh((projected + projected.T) / 2)
        basis = basis.T[::-1]  # (k, k), rows are coefficients, largest first
        return (loss, gradient), values[::-1], basis @ us, basis @ images, None, products

    def refine(us):
        pairs = leading_eigenpairs(lambda v: objective.hvp(theta, v), us, against=gaps, **options)
        return pairs.vectors, pairs.products

    # Try the start first; if it is stale, the vectors refined from it.  (A vector that another has overtaken has no
    # residual, so where the dense matrix costs nothing it is always used.)
    def expand(carry):
        us, spent = carry
        (loss, gradient), values, vectors, images, third, products = look(us)
        sides = jnp.where(inner(vectors, start) < 0, -1, 1).astype(us.dtype)[:, None]
        thirds = jnp.zeros((k * (k + 1) // 2, objective.size), objective.dtype) if third is None else third
        geometry = LocalGeometry(loss, gradient, values, sides * vectors, sides * images, thirds, spent + k)
        stale = jnp.any(geometry.residuals > tolerance * gaps(values)) | (objective.size <= DENSE_LIMIT)
        stale = (spent == 0) & stale
        refined, more = jax.lax.cond(stale, refine, lambda us: (us, jnp.zeros((), jnp.int32)), geometry.vectors)
        return (geometry, products), (refined, spent + k + more), stale

    start = start.astype(objective.dtype)
    us = direction(start[0])[None] if k == 1 else directions(start)
    geometry, products = do_while(expand, (us, jnp.zeros((), jnp.int32)))[0]
    if k == 1:
        return geometry, products

    def evaluate():
        return svec(jnp.ones((k, k), objective.dtype))[:, None] * objective.thirds(theta, geometry.vectors)

    if known is None:
        return geometry._replace(thirds=evaluate()), products
    turn, overlap = turned(geometry.vectors, known.vectors)
    fresh = known.fresh | (overlap < SAME_SPACE)
    thirds = jax.lax.cond(fresh, evaluate, lambda: rotation(turn) @ known.thirds)
    return geometry._replace(thirds=thirds), products


#: Least cosine between two blocks at which the third derivatives of one are still turned into those of the other.
SAME_SPACE = 0.95


def turned(vectors: Float[Array, "k p"], older: Float[Array, "k p"]) -> tuple[Float[Array, "k k"], Float[Array, ""]]:
    """Return the orthogonal R for which R @ older is nearest to ``vectors``, and the least cosine between the spans."""
    if vectors.shape[0] == 1:
        return jnp.ones((1, 1), vectors.dtype), jnp.ones((), vectors.dtype)
    left, cosines, right = jnp.linalg.svd(inner(vectors[:, None], older))
    return left @ right, cosines[-1]


def local_geometry(objective: Objective, theta: Theta, start: Float[Array, "*k p"], **options) -> LocalGeometry:
    """Return the local geometry at θ from ``start``, a neighboring point's eigenvector (p,), or k of them (k, p).

    One cubic expansion along a single start yields ∇L, S, ∇S and the residual of the eigenvector.  Only if that
    residual is too large, the eigenvector is refined and the expansion repeated.  Its sign stays that of the start.
    For k > 1 the third derivatives of all pairs come from a second pass (:meth:`~eoslib.objective.Objective.thirds`).
    Options: ``tolerance``, the largest residual relative to |S|, or for a block to
    :func:`~eoslib.eigen.gaps`; ``max_products``, the limit of one refinement.

    Raises:
        ValueError: if ``start`` has the wrong shape, or k > 1 and 3k > p.
    """
    none = jnp.zeros((0, objective.size), objective.dtype)
    start = require_block(objective, start)
    return local_geometry_and_products(objective, *objective.place((theta, start, none)), **options)[0]


def require_block(objective: Objective, start: Float[Array, "*k p"]) -> Float[Array, "*k p"]:
    """Return a start (p,) or (k, p) of eigenvectors.

    Raises:
        ValueError: if it has another shape, or k > 1 and 3k > p.
    """
    shape, p = start.shape, objective.size
    if shape != (p,) and not (len(shape) == 2 and shape[1] == p and (shape[0] == 1 or 1 < 3 * shape[0] <= p)):
        raise ValueError(f"start must have shape ({p},), or (k, {p}) with 1 <= k <= p/3, got {shape}")
    return start
