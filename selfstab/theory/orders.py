"""The prediction's errors with several directions at the edge: their orders, with intervals over draws.

This is :mod:`selfstab.theory.coupling` for k directions.  θ† keeps the k leading eigenvalues at 2/η and ∇L orthogonal
to their span U, which is the complementarity problem's path while Σ ≻ 0.  The prediction evolves one vector v (p,),

    v' = v − η[∇²L v + UᵀYx + ½T⊥:(xxᵀ − Σ) + ½UᵀU T:xxᵀ],   x = Uv,  Y = 𝒯[v − Uᵀx],  ½𝒢Σ = −𝒯[∇L],

the same in every basis of the block.  It is derived here and a conjecture, since no theorem covers k > 1.

>>> from selfstab.theory.families import block_draws
>>> errors = block_errors(block_draws(0, 3, 2, learning_rate=0.02), [0.1, 0.05], k=2, learning_rate=0.02)
>>> errors.deviation.shape
(3, 2)
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from eoslib import rules
from eoslib.complementarity import smat, svec
from eoslib.geometry import epsilon
from selfstab.theory.coupling import ROUNDS
from selfstab.theory.families import Jet


class BlockErrors(NamedTuple):
    """Largest errors of the prediction over the horizon, what they depend on, and the scales that measure them."""

    deviation: Array  # () max ‖θ − θ† − v*‖, a length
    loss: Array  # () max |L(θ) − L(θ†) − ½xᵀΛx|
    sharpness: Array  # () max |S(θ) − λ_max(Λ + 𝒯[v*])|, a curvature
    violation: Array  # () largest |λ_iη/2 − 1| and ‖U∇L‖/‖∇L‖: how far θ† is off the boundary of the stable set
    smallest: Array  # () min λ_min(Σ)k/tr Σ; where it is positive θ† is the complementarity problem's
    epsilon: Array  # () η√λ_max(A) at the start
    delta: Array  # () √tr Σ at the start, a length


class DenseBlock(NamedTuple):
    """The invariant subspace of the k largest eigenvalues, in the basis that the decomposition returns."""

    jet: Jet
    vectors: Array  # (k, p) U
    values: Array  # (k,) Λ, diagonal in this basis
    pairs: Array  # (n, p) svec of T_ij = ∇³L[u_i, u_j, ·]
    normals: Array  # (k, p) ∇(u_i·∇L)
    sigma: Array  # (k, k) Σ


def _multipliers(rows: Array, values: Array) -> Array:
    """Solve (rows rowsᵀ)w = values for w (n,), w = 0 where uncoupled directions leave no row (n, p)."""
    square = rows @ rows.T
    ridge = 1e3 * jnp.finfo(rows.dtype).eps * jnp.trace(square)
    return jnp.linalg.solve(square + ridge * jnp.eye(len(rows), dtype=rows.dtype), values)


def dense_block(jet: Jet, k: int) -> DenseBlock:
    """Return the block of the k largest eigenvalues at the point of a jet."""
    values, vectors = jnp.linalg.eigh(jet.hessian)
    inside, outside, top = vectors[:, -k:].T, vectors[:, :-k].T, values[-k:]
    third = jnp.einsum("ia,abc->ibc", inside, jet.third)  # (k, p, p)
    pairs = svec(jnp.einsum("ibc,jb->cij", third, inside)).T
    turning = (outside @ jet.gradient)[None] / (top[:, None] - values[None, :-k]) @ outside  # (k, p)
    normals = top[:, None] * inside + jnp.einsum("ibc,ib->ic", third, turning)
    across = pairs - pairs @ inside.T @ inside
    return DenseBlock(jet, inside, top, pairs, normals, smat(-2 * _multipliers(across, across @ jet.gradient)))


def towards_block_edge(block: DenseBlock, theta: Array, target: Array, learning_rate) -> Array:
    """Take one Gauss–Newton round from θ to the point of {Λ = 2/η, U∇L = 0} nearest to ``target``; shapes (p,)."""
    rows = jnp.concatenate([block.pairs, learning_rate / 2 * block.normals])  # in units of one size
    slack, slopes = rules.GradientDescent(learning_rate).edge - block.values, block.vectors @ block.jet.gradient
    rest = jnp.concatenate([svec(jnp.diag(slack)), -learning_rate / 2 * slopes])
    return target + _multipliers(rows, rest - rows @ (target - theta)) @ rows


def predicted(block: DenseBlock, v: Array, learning_rate) -> Array:
    """Return v*' (p,) from v* (p,) and the block at θ†."""
    u = block.vectors
    x = u @ v
    bend = svec(block.sigma) @ block.pairs
    force = u.T @ (smat(block.pairs @ (v - u.T @ x)) @ x) + (svec(jnp.outer(x, x)) @ block.pairs) / 2
    return v - learning_rate * (block.jet.hessian @ v + force - (bend - u.T @ (u @ bend)) / 2)


def _largest(draw, alpha, steps, k, learning_rate, start) -> BlockErrors:
    """Return :func:`block_errors` of one draw at one α."""
    origin, edge = jnp.zeros_like(draw.slope), rules.GradientDescent(learning_rate).edge
    pull = alpha / jnp.linalg.eigvalsh(smat(dense_block(draw.jet(origin, 0.0), k).pairs @ draw.slope))[-1]

    def advance(_, carry):
        theta, center, block, v, worst = carry
        x, here, jet = block.vectors @ v, draw.jet(theta, pull), block.jet
        expected = jnp.linalg.eigvalsh(jnp.diag(block.values) + smat(block.pairs @ v))[-1]
        off = jnp.linalg.norm(block.vectors @ jet.gradient) / jnp.linalg.norm(jet.gradient)
        found = [
            jnp.linalg.norm(theta - center - v),
            jnp.abs(here.loss - jet.loss - x @ (block.values * x) / 2),
            jnp.abs(jnp.linalg.eigvalsh(here.hessian)[-1] - expected),
            jnp.maximum(jnp.abs(block.values / edge - 1).max(), off),
            -jnp.linalg.eigvalsh(block.sigma)[0] * k / jnp.trace(block.sigma),
        ]
        point, after, target = center, block, center - learning_rate * jet.gradient
        for _ in range(ROUNDS):
            point = towards_block_edge(after, point, target, learning_rate)
            after = dense_block(draw.jet(point, pull), k)
        worst = jnp.maximum(worst, jnp.stack(found))  # a NaN stays
        return theta - learning_rate * here.gradient, point, after, predicted(block, v, learning_rate), worst

    block = dense_block(draw.jet(origin, pull), k)
    sizes, turn = jnp.linalg.eigh(block.sigma)
    first = turn.T @ block.vectors[:, :k].sum(1)  # e_1 + … + e_k in the basis of Σ's eigenvectors
    v, delta = start * (turn @ (jnp.sqrt(jnp.maximum(sizes, 0)) * first)) @ block.vectors, jnp.sqrt(sizes.sum())
    start = (v, origin, block, v, jnp.full(5, -jnp.inf, v.dtype))
    *worst, smallest = jax.lax.fori_loop(0, steps, advance, start)[-1]
    return BlockErrors(*worst, -smallest, epsilon(alpha, learning_rate), delta)


_side_by_side = jax.jit(jax.vmap(_largest, (0, None, None, None, None, None)), static_argnums=3)


def block_errors(draws, alphas, *, k: int, learning_rate, horizon=6.0, start=0.5) -> BlockErrors:
    """Measure the largest errors over ``horizon``/ε steps from θ†_0 + start·√Σ(1, …, 1), where θ†_0 = 0.

    Args:
        draws: n losses as from :func:`selfstab.theory.families.block_draws`, with k curvatures 2/η at 0.
        alphas: λ_max(A) at the start (curvature²), shape (m,); the loss's pull is chosen to give it.
        k: Number of directions at the edge.
        learning_rate: Step size η.
        horizon: Steps in units of 1/ε.
        start: Size of the start in units of √Σ.

    Returns the errors, each of shape (n, m), NaN where a run diverged.  Raises ValueError on numbers out of range.
    """
    rules.resolve(learning_rate)
    alphas, (_, size) = np.asarray(alphas, float), draws.slope.shape
    if not (alphas > 0).all() or not 0 < k < size or not min(horizon, start) > 0:
        raise ValueError(f"alphas, horizon, start > 0 and 0 < k < {size} expected, got {alphas, horizon, start, k}")
    dtype, steps = draws.slope.dtype, (horizon / (learning_rate * alphas**0.5)).astype(int) + 1
    at_rate = lambda a, n: _side_by_side(draws, dtype.type(a), n, k, dtype.type(learning_rate), dtype.type(start))  # noqa: E731
    found = [at_rate(*each) for each in zip(alphas, steps)]  # one program for all
    return jax.tree.map(lambda *fields: jnp.stack(fields, axis=1), *found)


def slopes(alphas, errors, *, resamples: int = 2000, seed: int = 0, level: float = 0.95) -> np.ndarray:
    """Return the log-log slope in α (m,) of the median error over draws (n, m), and its bootstrap interval: (3,).

    A draw that diverged counts as an infinite error.
    """
    errors, x = np.nan_to_num(np.asarray(errors), nan=np.inf), np.log(alphas) - np.log(alphas).mean()
    rows = np.random.default_rng(seed).integers(len(errors), size=(resamples, len(errors)))
    medians = np.median(errors[np.concatenate([[np.arange(len(errors))], rows])], axis=1)  # (1 + resamples, m)
    with np.errstate(invalid="ignore"):  # half of the draws diverged: no slope
        found = np.log(medians) @ x / (x @ x)
    return np.append(found[0], np.quantile(found[1:], [(1 - level) / 2, (1 + level) / 2]))
