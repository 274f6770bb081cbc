"""Gradient descent with k directions at the edge of stability: the reduced dynamics of a vector and a matrix.

Let x (k,) be the displacement within the block of leading eigenvectors (lengths), z = (−1)ᵗx, and Y (k, k) the excess
of the block's Hessian over 2/η (curvatures).  A cubic model of the loss turns gradient descent into the map

    z' = (I + ηY)z,      Y' = (1 − d)Y + η(A − ½𝒢[zzᵀ])

where A (k, k) is the rate of progressive sharpening of the block and 𝒢 (n, n), n = k(k + 1)/2, the Gram matrix of its
constraint gradients in the coordinates of :func:`eoslib.complementarity.svec`.  With k = 1, A = α and 𝒢 = β it is the
map of :mod:`selfstab.theory.reduced`.  Source: arXiv 2609.01034 (its leading order); the rest is derived in the book's
page on several directions.

>>> z, y = iterate(jnp.array([0.1, 0.0]), jnp.zeros((2, 2)), 500, learning_rate=0.02, **random_problem(0, 2)._asdict())
>>> z.shape, y.shape
((501, 2), (501, 2, 2))
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from eoslib.complementarity import smat, solve, svec


class Problem(NamedTuple):
    """The constants of the dynamics."""

    sharpening: Array  # (k, k) A, curvature²
    gram: Array  # (n, n) 𝒢, curvature²/length²


def left_over(z, *, sharpening, gram) -> Array:
    """Return A − ½𝒢[zzᵀ] (k, k), the sharpening that the oscillation leaves."""
    return sharpening - smat(gram @ svec(jnp.outer(z, z))) / 2


def step(z, y, *, learning_rate, sharpening, gram, damping=0.0) -> tuple[Array, Array]:
    """Take one step of the map from z (k,), Y (k, k).

    Args:
        z: Displacement within the block, its sign flipped at every second step (length).
        y: Excess of the block's Hessian over 2/η (curvature).
        learning_rate: η (1/curvature).
        sharpening: A (k, k).
        gram: 𝒢 (n, n).
        damping: d, the fraction of Y that decays in a step.
    """
    force = left_over(z, sharpening=sharpening, gram=gram)
    return z + learning_rate * (y @ z), (1 - damping) * y + learning_rate * force


def _checked(z, y, steps, **parameters):
    """Return z and Y as arrays, or raise."""
    z, y = jnp.asarray(z, float), jnp.asarray(y, float)
    k, shapes = z.shape[-1], (z.shape, y.shape, *(np.shape(parameters[name]) for name in Problem._fields))
    if shapes != ((k,), (k, k), (k, k), (k * (k + 1) // 2,) * 2):
        raise ValueError(f"z (k,), y (k, k), sharpening (k, k) and gram (n, n) are expected, got {shapes}")
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps!r}")
    return z, y


def iterate(z, y, steps: int, **parameters) -> tuple[Array, Array]:
    """Iterate the map: arrays (steps + 1, k) and (steps + 1, k, k), the start first; a diverging track ends in NaN.

    ``parameters`` are those of :func:`step`.  Raises ValueError unless steps ≥ 1 and the shapes fit together.
    """
    return _iterate(_checked(z, y, steps, **parameters), parameters, steps)


@jax.jit(static_argnames=("steps",))
def _iterate(start, parameters, steps):
    last, track = jax.lax.scan(lambda state, _: (step(*state, **parameters), state), start, length=steps)
    return tuple(jnp.concatenate([t, end[None]]) for t, end in zip(track, last, strict=True))


def lyapunov(z, y, steps: int, **parameters) -> Array:
    """Return the largest Lyapunov exponent per step, a tangent's mean log growth; arguments as :func:`iterate`."""
    return _lyapunov(_checked(z, y, steps, **parameters), parameters, steps)


@jax.jit(static_argnames=("steps",))
def _lyapunov(start, parameters, steps):
    def advance(carry, _):
        state, tangent = jax.jvp(lambda *now: step(*now, **parameters), *carry)
        size = jnp.sqrt(sum(jnp.sum(t * t) for t in tangent))
        return (state, tuple(t / size for t in tangent)), jnp.log(size)

    k, dtype = len(start[0]), start[0].dtype  # any generic tangent with a symmetric part for Y
    tangent = (jnp.cos(jnp.arange(k, dtype=dtype)), jnp.eye(k, dtype=dtype))
    return jax.lax.scan(advance, (start, tangent), length=steps)[1].mean()


def covariance(*, sharpening, gram) -> Array:
    """Return Σ (k, k) with Σ ⪰ 0, ½𝒢Σ − A ⪰ 0 and ⟨Σ, ½𝒢Σ − A⟩ = 0, which is 2𝒢⁻¹A if that is positive definite."""
    return solve(gram, -2 * sharpening, jnp.zeros_like(sharpening)).value


def energy(z, y, *, gram) -> Array:
    """Return E = ½⟨Y, 𝒢⁻¹Y⟩ + ¼|z|² (length²)."""
    return svec(y) @ jnp.linalg.solve(gram, svec(y)) / 2 + z @ z / 4


def energy_growth(z, y, *, learning_rate, sharpening, gram) -> Array:
    """Return the growth of E in an undamped step: η·½⟨Σ, Y⟩ + η²(½⟨F, 𝒢⁻¹F⟩ + ¼|Yz|²), F = A − ½𝒢[zzᵀ].

    Exact, with Σ = 2𝒢⁻¹A.  The first term is the whole rate in the limit of small steps.
    """
    force, push = left_over(z, sharpening=sharpening, gram=gram), y @ z
    first = svec(y) @ jnp.linalg.solve(gram, svec(sharpening))
    return learning_rate * first + learning_rate**2 * energy(push, force, gram=gram)


class TwoCycle(NamedTuple):
    """A two-cycle x = ±z of the damped map, at which z and Y rest; z and cY do not depend on the damping d = cη."""

    z: Array  # (k,) stationary for ψ(z) = ½zᵀAz − ⅛⟨zzᵀ, 𝒢[zzᵀ]⟩, the complementarity problem's at rank one
    force: Array  # (k, k) cY = A − ½𝒢[zzᵀ], the sharpening left over; it annihilates z
    stiffness: Array  # (k, k) −∇²ψ(z) = K − cY, where Kw = 𝒢[sym zwᵀ]z; positive at a strict maximizer of ψ

    @property
    def least_damping(self) -> Array:
        """√λ_max(cY), a curvature: for c above it, positive stiffness and small η the cycle attracts.

        Linearized, ξ'' + (c − Y)ξ' + (K − cY)ξ = 0 in τ = ηt; a damped oscillator where both matrices are positive.
        """
        return jnp.sqrt(jnp.maximum(jnp.linalg.eigvalsh(self.force)[-1], 0.0))


@jax.jit(static_argnames=("rounds",))
def two_cycle(start, *, sharpening, gram, rounds: int = 60) -> TwoCycle:
    """Climb ψ from ``start`` (k,) to a two-cycle, by Newton steps turned uphill; ∇ψ = 0 means Yz = 0, for any d."""
    psi = lambda z: z @ (sharpening + left_over(z, sharpening=sharpening, gram=gram)) @ z / 4  # noqa: E731

    def climb(z, _):
        values, vectors = jnp.linalg.eigh(jax.hessian(psi)(z))
        move = vectors @ (vectors.T @ jax.grad(psi)(z) / jnp.maximum(jnp.abs(values), 1e-6 * jnp.abs(values).max()))
        tried = z[None] + jnp.outer(0.5 ** jnp.arange(12, dtype=z.dtype), move)  # (12, k)
        return tried[jnp.argmax(jax.vmap(psi)(tried))], None

    z = jax.lax.scan(climb, jnp.asarray(start, float), length=rounds)[0]
    return TwoCycle(z, left_over(z, sharpening=sharpening, gram=gram), -jax.hessian(psi)(z))


@jax.jit
def multipliers(z, y, **parameters) -> Array:
    """Return the map's multipliers at a state, complex (k + n,): eigenvalues of its Jacobian in (z, svec Y)."""
    flat = lambda z, y: jnp.concatenate([z, svec(y)])  # noqa: E731
    jacobian = jax.jacfwd(lambda z, s: flat(*step(z, smat(s), **parameters)), (0, 1))(z, svec(y))
    return jnp.linalg.eigvals(jnp.concatenate(jacobian, axis=1))


def random_problem(seed: int, k: int, *, off_diagonal: float = 1.0) -> Problem:
    """Draw 𝒢, and A = ½𝒢Σ for a Σ ≻ 0 with tr Σ = 1 and condition up to 3; λ_max(A) = 1, so that ε = η.

    𝒢 is the Gram matrix of n Gaussian constraint gradients in 2n dimensions, those of i < j times ``off_diagonal``.
    """
    if k < 1 or not off_diagonal > 0:
        raise ValueError(f"k must be at least 1 and off_diagonal positive, got {k!r} and {off_diagonal!r}")
    rng, n, (rows, columns) = np.random.default_rng(seed), k * (k + 1) // 2, np.triu_indices(k)
    pairs = rng.normal(size=(n, 2 * n)) * np.where(rows == columns, 1.0, off_diagonal)[:, None]
    turn, sizes = np.linalg.qr(rng.normal(size=(k, k)))[0], rng.uniform(0.5, 1.5, k)
    gram, sigma = jnp.asarray(pairs @ pairs.T), jnp.asarray(turn * (sizes / sizes.sum()) @ turn.T)
    scale = jnp.linalg.eigvalsh(sharpening := smat(gram @ svec(sigma)) / 2)[-1]
    return Problem(sharpening / scale, gram / scale)
