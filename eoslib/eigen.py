"""Leading (largest algebraic) eigenpairs of a symmetric operator that is known only through products.

Knyazev's locally optimal block preconditioned conjugate gradients (LOBPCG), without a preconditioner.  The images of
the basis are kept, so an iteration for k pairs applies the operator to only k vectors, and a start from a neighboring
problem is checked and improved at about one product per pair.

>>> import jax.numpy as jnp
>>> pairs = leading_eigenpairs(lambda v: jnp.array([-100.0, 9.0]) * v, jnp.ones((1, 2)))
>>> print(pairs.values)
[9.]
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from eoslib.objective import inner, length
from eoslib.status import Status

DENSE_LIMIT = 64  # up to this size the matrix is formed: p products in one batch, then eigh


class EigenStatus(Status):
    """How an eigen-solve ended."""

    CONVERGED = "converged: every residual is within its tolerance"
    PRODUCT_LIMIT = "not converged: the limit on products was reached before every residual was within its tolerance"
    NOT_FINITE = "not converged: the operator returned a value that is not finite"
    STALLED = "not converged: the operator's rounding, in this precision, keeps a residual above its tolerance"


def random_direction(size: int, dtype, seed: int = 0) -> Float[Array, " p"]:
    """Return a reproducible random unit vector, the cold start of every eigen-solve."""
    v = jax.random.normal(jax.random.key(seed), (size,), dtype)
    return v / jnp.linalg.norm(v)


def direction(start: Float[Array, " p"]) -> Float[Array, " p"]:
    """Return a start scaled to length one, or a random direction if the start is zero or not finite."""
    norm = length(start)
    lost = ~((norm > 0) & jnp.isfinite(norm))
    unit = start / jnp.where(lost, 1, norm)
    return jax.lax.cond(lost, lambda: random_direction(start.size, start.dtype), lambda: unit)


def directions(start: Float[Array, "k p"]) -> Float[Array, "k p"]:
    """Return an orthonormal basis of the rows; random rows replace those that are zero, not finite or dependent."""
    finite = jnp.where(jnp.isfinite(start).all(axis=1, keepdims=True), start, 0)
    basis, _, kept = _orthonormal(*[jax.vmap(lambda row: row / _scale(row))(finite)] * 2)

    def fill():
        random = jax.random.normal(jax.random.key(0), start.shape, start.dtype)
        return _orthonormal(*[jnp.where(kept[:, None], basis, random)] * 2)[0]

    return jax.lax.cond(jnp.all(kept), lambda: basis, fill)


def preconditioned(matvec: Callable, scale: Float[Array, " p"] | None) -> Callable:
    """Return v ↦ r∘A(r∘v) for a scale r (p,), an operator similar to r²∘A; the operator itself for None."""
    return matvec if scale is None else lambda v: scale.astype(v.dtype) * matvec(scale.astype(v.dtype) * v)


#: At 1e-3 one cold start in two hundred ends on the second eigenvector of a random spectrum, at 3e-4 none of 800 does.
TOLERANCE = 3e-4


def resolve_tolerance(tolerance: float | None, dtype) -> float:
    """Return a tolerance that the dtype resolves: by default 3e-4, or the least that it resolves.

    Raises:
        ValueError: if the given tolerance is below that least value, or not below 1.
    """
    floor = 4 * float(jnp.finfo(dtype).eps)
    if tolerance is None:
        return max(TOLERANCE, floor)
    if not floor <= tolerance < 1:
        raise ValueError(f"tolerance must lie in [{floor:.1e}, 1) for {dtype}, got {tolerance!r}")
    return tolerance


class EigenPairs(NamedTuple):
    """The k leading eigenpairs, largest first."""

    values: Float[Array, " k"]  # Rayleigh quotients, a curvature
    vectors: Float[Array, "k p"]  # orthonormal rows
    residuals: Float[Array, " k"]  # ‖A u − λ u‖: some eigenvalue lies within this distance of λ
    products: Int[Array, ""]  # applications of the operator to one vector
    status: Int[Array, ""]  # an EigenStatus

    @property
    def message(self) -> Any:
        """How the solve ended, in words; outside of traced code only."""
        return EigenStatus.words(self.status)


def gaps(values: Float[Array, " k"]) -> Float[Array, " k"]:
    """Return the scale of each pair's residual: |λ|, or for several the distance to those left out if it is smaller.

    A residual r turns an eigenvector by r over the distance to the eigenvalues left out.  These lie below the last one
    of the block; a tenth of the first stands in for how far.  Where most parameters are idle, as in an embedding, the
    residual of a random vector is below that distance, but not below a percent of the vector's own Rayleigh quotient.
    An eigenvalue near zero is therefore found to rounding only, or until the products are spent.
    """
    gap = values - values[-1] + jnp.abs(values[0]) / 10
    return jnp.abs(values) if values.shape[0] == 1 else jnp.minimum(gap, jnp.abs(values))


def _finish(
    values, vectors, residuals, products, tolerance, otherwise: Any = EigenStatus.PRODUCT_LIMIT, against=jnp.abs
) -> EigenPairs:
    converged = jnp.all(residuals <= tolerance * against(values))
    status = jnp.where(converged, EigenStatus.CONVERGED, otherwise)
    status = jnp.where(jnp.all(jnp.isfinite(residuals)), status, EigenStatus.NOT_FINITE).astype(jnp.int32)
    return EigenPairs(values, vectors, residuals, jnp.asarray(products, jnp.int32), status)


def _scale(a):
    """Return the power of two next to the largest entry (division by it is exact); 1 where that is 0 or not finite."""
    largest, info = jnp.max(jnp.abs(a)), jnp.finfo(a.dtype)
    usual = (largest >= info.tiny) & (largest <= info.max / 2)
    return jax.lax.reduce_precision(jnp.where(usual, largest, 1), info.nexp, 0)


def dense_eigenpairs(matvec: Callable, size: int, k: int, dtype, tolerance: float) -> EigenPairs:
    """Return the k leading eigenpairs through the dense matrix: ``size`` products, then ``eigh``."""
    matrix = jax.vmap(matvec)(jnp.eye(size, dtype=dtype))  # (p, p)
    scale = _scale(matrix)
    matrix = matrix / scale
    values, vectors = jnp.linalg.eigh((matrix + matrix.T) / 2)
    values, vectors = values[::-1][:k], vectors[:, ::-1].T[:k]
    residuals = length(vectors @ matrix - values[:, None] * vectors)
    return _finish(values * scale, vectors, residuals * scale, size, tolerance, EigenStatus.STALLED)


def _dot(a, b):
    """Return inner products (m, n) of long rows (m, p) and (n, p), without a matrix product.

    On CPUs XLA sums some of these, with a single row on one side, term by term: float32 loses 1e-3 at p = 650,000.
    """
    return jnp.sum(a[:, None] * b[None], axis=-1)


def _orthonormal(rows, images):
    """Return an orthonormal basis of the span of ``rows`` (m, p), its images, and a mask; lost directions are zero."""
    norms = jnp.sqrt(jnp.sum(rows * rows, axis=1))
    scale = jnp.where(norms > 0, 1 / jnp.where(norms > 0, norms, 1), 0)
    gram = _dot(rows, rows) * jnp.outer(scale, scale)  # (m, m)
    weights, axes = jnp.linalg.eigh((gram + gram.T) / 2)
    # A direction whose squared length is rounding (of sums over p terms) carries no information.
    kept = weights > 100 * jnp.finfo(rows.dtype).eps * rows.shape[0]
    transform = jnp.where(kept, 1 / jnp.sqrt(jnp.where(kept, weights, 1)), 0)[:, None] * axes.T * scale[None]  # (m, m)
    return transform @ rows, transform @ images, kept


def _rayleigh_ritz(basis, images, kept, k):
    """Return the top k Ritz pairs in the span of an orthonormal basis: values, coefficients (k, m), operator's size."""
    projected = _dot(basis, images)
    scale = _scale(projected)
    projected = (projected + projected.T) / (2 * scale)
    # Directions dropped from the basis must not look like the eigenvalue 0, which may be the largest.
    low = -2 * jnp.linalg.norm(projected) - 1
    projected = projected + jnp.diag(jnp.where(kept, jnp.zeros_like(low), low))
    values, coefficients = jnp.linalg.eigh(projected)
    return values[::-1][:k] * scale, coefficients[:, ::-1].T[:k], scale


def leading_eigenpairs(
    matvec: Callable, start: Float[Array, "k p"],
    *, tolerance: float | None = None, max_products: int = 1000, dense_limit: int = DENSE_LIMIT,
    against: Callable = jnp.abs,
) -> EigenPairs:  # fmt: skip
    """Find the k leading eigenpairs of a symmetric operator, from a start such as those of a neighboring problem.

    The largest ALGEBRAIC eigenvalues are sought: for the spectrum {−100, 9} the answer is 9.  The value's error is
    second order in the residual r: at most ‖r‖, and about ‖r‖²/(λ₁ − λ₂) where λ₁ is separated.  A start orthogonal to
    the leading eigenvector cannot be distinguished from one that has found it, so draw cold starts at random.

    Args:
        matvec: v (p,) ↦ A v (p,), symmetric.
        start: Starting vectors as rows (k, p); they need not be orthonormal.  Rows that are zero, not finite or in the
            span of the others are replaced by reproducible random ones.  Computed in float32 at least.
        tolerance: Largest residual accepted, relative to the eigenvalue's size; 3e-4 where the dtype resolves it.
        max_products: Limit on the number of products (a warm start of k rows alone costs k).
        dense_limit: For p up to this the matrix is formed instead.
        against: Scale of the residuals, values (k,) ↦ (k,): the values' size, or :func:`gaps` for a subspace.

    Raises:
        ValueError: if the start is not a (k, p) array with 1 ≤ k ≤ p, the tolerance is below what the dtype can
            resolve, or ``max_products`` is smaller than k.
    """
    if start.ndim != 2 or not 1 <= start.shape[0] <= start.shape[1]:
        raise ValueError(f"start must have shape (k, p) with 1 <= k <= p, got {start.shape}")
    k, p = start.shape
    start = start.astype(jnp.float32) if start.dtype.itemsize < 4 else start
    tolerance = resolve_tolerance(tolerance, start.dtype)
    if max_products < k:
        raise ValueError(f"max_products must be at least k={k}, got {max_products!r}")
    if p <= max(dense_limit, 3 * k):
        return dense_eigenpairs(matvec, p, k, start.dtype, tolerance)
    apply = jax.vmap(matvec) if k > 1 else lambda rows: matvec(rows[0])[None]

    def residual(values, vectors, images):
        rows = images - values[:, None] * vectors
        return rows, length(rows)

    basis = directions(start)
    images, every = apply(basis), jnp.ones(k, bool)
    values, coefficients, size = _rayleigh_ritz(basis, images, every, k)
    vectors, images = coefficients @ basis, coefficients @ images
    zero = jnp.zeros_like(vectors)
    # A residual of a few roundings of the operator is noise, which further iterations would only amplify.
    rounding = 10 * float(jnp.finfo(start.dtype).eps)
    state = values, vectors, images, zero, zero, residual(values, vectors, images)[1], rounding * size, k

    def unfinished(state):
        values, *_, norms, noise, products = state
        inaccurate = jnp.any(norms > jnp.maximum(tolerance * against(values), noise))
        return inaccurate & (products + k <= max_products) & jnp.all(jnp.isfinite(norms))

    def iterate(state):
        values, vectors, images, steps, step_images, _, noise, products = state
        gradient, norms = residual(values, vectors, images)
        # Rows already converged keep their place in the block; their direction is noise and is cleared.
        gradient = jnp.where((norms > noise)[:, None], gradient / jnp.where(norms > noise, norms, 1)[:, None], 0)
        gradient = gradient - _dot(gradient, vectors) @ vectors
        rows, row_images = jnp.concatenate([gradient, steps]), jnp.concatenate([apply(gradient), step_images])
        for _ in range(2):  # twice is enough (Kahan, Parlett)
            overlap = _dot(rows, vectors)
            rows, row_images = rows - overlap @ vectors, row_images - overlap @ images
        # A step as short as the rounding of its image has no direction: normalized, that image would be noise.
        long = jnp.sum(rows[k:] ** 2, axis=1) > (300 * jnp.finfo(rows.dtype).eps) ** 2
        long = jnp.concatenate([every, long])[:, None]
        rows, row_images, kept = _orthonormal(jnp.where(long, rows, 0), jnp.where(long, row_images, 0))
        basis, basis_images = jnp.concatenate([vectors, rows]), jnp.concatenate([images, row_images])
        values, coefficients, size = _rayleigh_ritz(basis, basis_images, jnp.concatenate([every, kept]), k)
        noise = jnp.maximum(noise, rounding * size)
        steps, step_images = coefficients[:, k:] @ rows, coefficients[:, k:] @ row_images
        vectors, images = coefficients @ basis, coefficients @ basis_images
        return values, vectors, images, steps, step_images, residual(values, vectors, images)[1], noise, products + k

    values, vectors, images, _, _, norms, _, products = jax.lax.while_loop(unfinished, iterate, state)
    ended = jnp.where(products + k > max_products, EigenStatus.PRODUCT_LIMIT, EigenStatus.STALLED)
    return _finish(values, vectors, norms, products, tolerance, ended, against)


def leading_eigenpair(matvec: Callable, start: Float[Array, " p"], **options) -> EigenPairs:
    """Find one pair by :func:`leading_eigenpairs`, with the sign of its start, at one product per iteration.

    Arrays keep a leading axis of one.
    """
    pairs = leading_eigenpairs(matvec, start[None], **options)
    opposite = inner(pairs.vectors[0], start.astype(pairs.vectors.dtype)) < 0
    return pairs._replace(vectors=jnp.where(opposite, -pairs.vectors, pairs.vectors))


def power_step(u: Float[Array, " p"], image: Float[Array, " p"], value: Float[Array, ""]) -> Float[Array, " p"]:
    """Return A u scaled to length one, with the sign of u (u where A u = 0): nearer the eigenvector, at no cost."""
    norm = length(image)
    return jnp.where(norm > 0, image * (jnp.where(value < 0, -1, 1) / jnp.where(norm > 0, norm, 1)), u)


def improved_eigenpair(matvec: Callable, u: Float[Array, " p"], image: Float[Array, " p"], *, tolerance: float):
    """Return EigenPairs of one pair, from a unit vector u whose image A u is known, as a start for the next problem.

    The vector is improved by a power step at no cost.  It is refined instead if its residual, relative to the
    eigenvalue, exceeds the tolerance, or if the dense matrix costs nothing.  The image counts as one product.
    """
    value = inner(u, image)
    residual = length(image - value * u)

    def refine():
        pairs = leading_eigenpair(matvec, u, tolerance=tolerance / 2, max_products=100)
        return pairs._replace(products=pairs.products + 1)

    def keep():
        return _finish(value[None], power_step(u, image, value)[None], residual[None], 1, tolerance)

    return jax.lax.cond((residual > tolerance * jnp.abs(value)) | (u.size <= DENSE_LIMIT), refine, keep)
