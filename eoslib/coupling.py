"""The coupling theorem's error, measured: gradient descent beside its constrained trajectory and its prediction.

On losses small enough for dense derivatives nothing else is approximated: each point of the constrained trajectory is
the one of {S = 2/η, u·∇L = 0} nearest to where the gradient step led, and the predicted dynamics are iterated along
it.  A loss is a pytree with a method ``jet(theta, pull)``; random draws of it are stacked, and run side by side.
Sources: arXiv 2209.15594 (statement and vector form of the prediction); the losses are this project's own.

>>> draws = polynomial_draws(0, 3, learning_rate=0.02)
>>> errors = coupling_errors(draws, [0.1, 0.05, 0.02, 0.01], learning_rate=0.02)
>>> errors.deviation.shape, bool((errors.deviation < errors.delta).all())
((3, 4), True)
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from eoslib.geometry import LocalGeometry
from eoslib.stable_set import check_learning_rate

#: Gauss–Newton rounds of a projection: it starts a step η∇L away, and each round squares the relative error.
ROUNDS = 2


class Jet(NamedTuple):
    """A loss and its first three derivatives at a point."""

    loss: Array  # () L
    gradient: Array  # (p,) ∇L
    hessian: Array  # (p, p) ∇²L
    third: Array  # (p, p, p) ∇³L


class Polynomial(NamedTuple):
    """L(θ) = −g s·θ + ½θᵀHθ + (1/6)T[θ,θ,θ] + (1/24)Q[θ,θ,θ,θ], with the pull g given at the call."""

    slope: Array  # (p,) s, a unit vector orthogonal to e_x
    hessian: Array  # (p,) diagonal of H, the first entry 2/η
    cubic: Array  # (p, p, p) T, symmetric
    quartic: Array  # (p, p, p, p) Q, symmetric

    def value(self, theta: Array, pull) -> Array:
        """L(θ) for θ of shape (p,) and a pull g."""
        cubic = self.cubic / 6 + self.quartic @ theta / 24
        return theta @ (self.hessian * theta / 2 - pull * self.slope + cubic @ theta @ theta)

    def jet(self, theta: Array, pull) -> Jet:
        """L and its derivatives at θ of shape (p,), each contraction of Q made once."""
        quartic = self.quartic @ theta  # (p, p, p)
        bend, turn = self.cubic @ theta, quartic @ theta  # (p, p)
        gradient = self.hessian * theta - pull * self.slope + (bend / 2 + turn / 6) @ theta
        hessian = jnp.diag(self.hessian) + bend + turn / 2
        return Jet(self.value(theta, pull), gradient, hessian, self.cubic + quartic)


class Waves(NamedTuple):
    """A smooth loss that is no polynomial: the valley's curvature and floor vary sinusoidally across it.

    L(θ) = −g s·θ + ½θᵀHθ + ½x²·Σᵢ aᵢ[sin(ηωᵢ·θ + φᵢ) − sin φᵢ]/η + x·Σᵢ bᵢ[1 − cos(ηωᵢ·θ)]/η² + cx³/6, where ωᵢ has
    no component along x.  Third derivatives are of order one and fourth ones of order η, as the theorem assumes.
    """

    slope: Array  # (p,) s
    hessian: Array  # (p,) diagonal of H
    waves: Array  # (m, p) ω
    phases: Array  # (m,) φ
    curvature: Array  # (m,) a
    floor: Array  # (m,) b
    skew: Array  # () c
    learning_rate: Array  # () η

    def value(self, theta: Array, pull) -> Array:
        """L(θ) for θ of shape (p,) and a pull g."""
        x, eta = theta[0], self.learning_rate
        angle = eta * (self.waves @ theta)  # (m,)
        valley = x**2 / 2 * (self.curvature @ (jnp.sin(angle + self.phases) - jnp.sin(self.phases))) / eta
        floor = x * (self.floor @ (1 - jnp.cos(angle))) / eta**2
        return theta @ (self.hessian * theta / 2 - pull * self.slope) + valley + floor + self.skew * x**3 / 6

    def jet(self, theta: Array, pull) -> Jet:
        """L and its derivatives at θ of shape (p,), from a Hessian in closed form that is cheap to differentiate."""
        rays, first = self.learning_rate * self.waves, jnp.zeros_like(theta).at[0].set(1.0)

        def hessian(t):
            x, angle = t[0], rays @ t
            sine, cosine = (self.curvature / self.learning_rate)[None] * _sine_cosine(angle + self.phases)
            level = sine.sum() - self.curvature @ jnp.sin(self.phases) / self.learning_rate
            sine_floor, cosine_floor = (self.floor / self.learning_rate**2)[None] * _sine_cosine(angle)
            mixed = jnp.outer(first, (x * cosine + sine_floor) @ rays)  # (p, p)
            across = rays.T @ ((x * cosine_floor - x**2 / 2 * sine)[:, None] * rays)
            return jnp.diag(self.hessian + (level + self.skew * x) * first) + mixed + mixed.T + across

        loss, gradient = jax.value_and_grad(self.value)(theta, pull)
        return Jet(loss, gradient, hessian(theta), jax.jacfwd(hessian)(theta))


def _sine_cosine(angles: Array) -> Array:
    """Sines and cosines as two rows."""
    return jnp.stack([jnp.sin(angles), jnp.cos(angles)])


def _symmetric(tensors: np.ndarray) -> np.ndarray:
    """Mean over all permutations of the axes after the first."""
    orders = list(itertools.permutations(range(1, tensors.ndim)))
    return sum(np.transpose(tensors, (0, *order)) for order in orders) / len(orders)


def _check(known: dict, least: dict) -> None:
    """Raise ValueError unless every number of ``known`` is finite and at least that of ``least``."""
    for name, bound in least.items():
        if not bound <= known[name] < float("inf"):
            raise ValueError(f"{name} must be finite and at least {bound}, got {known[name]!r}")


def _stacked(kind, *fields):
    """Losses of a kind from their stacked fields, in the precision that JAX is set to; directions of unit length."""
    slope, *rest = fields
    slope = slope / np.linalg.norm(slope, axis=1, keepdims=True)
    return kind(*(jnp.asarray(field, float) for field in (slope, *rest)))


def polynomial_draws(
    seed: int,
    count: int,
    *,
    learning_rate: float,
    extra: int = 0,
    second: float = 0.5,
    bulk: float = 0.0,
    bulk_damping: float = 0.0,
    quartic: float = 0.5,
) -> Polynomial:
    """Random draws of a polynomial family on R^(5 + extra), whose first axes are the valley's and the pull's.

    Args:
        seed: Seed of the couplings, which do not depend on the numbers below.
        count: Number n of draws.
        learning_rate: Step size η, which sets the curvatures.
        extra: Further directions, by turns flat and damped, with random couplings to the valley's curvature.
        second: λ₂ in units of 1/η.
        bulk: Size of the cubic term among the directions orthogonal to u (0 in the theorem's regime).
        bulk_damping: Curvature, in units of 1/η, of the flat directions besides that of the pull.
        quartic: ρ₄ in units of η ρ₃², roughly.

    Returns:
        Polynomial whose fields have a first axis of length n.

    Raises:
        ValueError: if η is not positive and finite, ``count`` is below 1, or another number is negative.
    """
    check_learning_rate(learning_rate)
    _check(locals(), {"count": 1, "extra": 0, "second": 0, "bulk": 0, "bulk_damping": 0, "quartic": 0})
    rng, size, ones = np.random.default_rng(seed), 5 + extra, np.ones((count, 1))
    pairs, rest, quartics = (_symmetric(rng.normal(size=(count,) + (size,) * order)) for order in (2, 3, 4))
    weights = 0.5 * rng.normal(size=(count, extra)) / max(extra, 1) ** 0.5
    spectrum = [2.0, 0.0, bulk_damping, 0.15, second, *np.where(np.arange(extra) % 2, 0.3, bulk_damping)]
    sharpening = np.concatenate([ones * [1.0, 1.0, 0.6, 0.0, 0.0], weights], axis=1)  # T_xx·
    slope = np.concatenate([ones * [0.0, 1.0, -0.2, 0.0, 0.3], weights], axis=1)
    cubic = bulk * rest
    cubic[:, 1, 1, 1] = 0.0  # a floor that bends straight along the pull changes α at any damping of the bulk
    slab = 0.8 * pairs  # T_x··
    slab[:, 0] = slab[:, :, 0] = sharpening
    cubic[:, 0] = cubic[:, :, 0] = cubic[:, :, :, 0] = slab
    quartics[:, 0, 0, 0, 0] += 1.0
    return _stacked(Polynomial, slope, ones * spectrum / learning_rate, cubic, quartic * learning_rate * quartics)


def wave_draws(seed: int, count: int, *, learning_rate: float, size: int = 6, terms: int = 8) -> Waves:
    """Random draws of the sinusoidal family on R^size, of whose directions across the valley every second is damped.

    Returns:
        Waves whose fields have a first axis of length ``count``.

    Raises:
        ValueError: if η is not positive and finite, ``size`` is below 3, or ``count`` or ``terms`` below 1.
    """
    check_learning_rate(learning_rate)
    _check(locals(), {"count": 1, "size": 3, "terms": 1})
    rng = np.random.default_rng(seed)
    spectrum = np.where(np.arange(size) % 2, 0.0, 0.3)
    spectrum[0] = 2.0
    frequencies, phases = rng.normal(size=(count, terms, size)), rng.uniform(0, 2 * np.pi, (count, terms))
    frequencies[:, :, 0] = 0.0
    curvature, floor = rng.normal(size=(2, count, terms)) / terms**0.5
    sharpening = np.einsum("nm,nmp->np", curvature * np.cos(phases), frequencies)  # ∇S⊥ at 0
    # Scaled so that ‖∇S⊥‖ = 1.2 in every draw, and pulled along it with some of the rest.
    scale = 1.2 / np.linalg.norm(sharpening, axis=1, keepdims=True)
    slope = sharpening * scale + 0.3 * rng.normal(size=(count, size)) * (np.arange(size) > 0)
    hessian, ones = np.ones((count, 1)) * spectrum / learning_rate, np.ones(count)
    return _stacked(
        Waves, slope, hessian, frequencies, phases, scale * curvature, 0.4 * floor, ones, learning_rate * ones
    )


class CouplingErrors(NamedTuple):
    """Largest errors of the prediction over the horizon, and the scales that the theorem measures them by."""

    deviation: Array  # () max ‖θ − θ† − v*‖, a length; the theorem says O(εδ)
    loss: Array  # () max |L(θ) − L(θ†) − x*²/η|; O(εδ²/η)
    sharpness: Array  # () max |S(θ) − 2/η − y* − (∇S·u)x*|, a curvature; O(ε²/η)
    epsilon: Array  # () η√α at the start
    delta: Array  # () √(2α/β) at the start, a length
    smallest: Array  # () min |x*|/δ_t, which the theorem wants bounded below
    smallest_alpha: Array  # () min α_t over its start
    second: Array  # () largest ηλ₂ along θ†
    violation: Array  # () largest |S(θ†)η/2 − 1| and |u·∇L|/‖∇L‖: how far θ† is off the boundary of the stable set


class DenseGeometry(NamedTuple):
    """Local geometry by dense eigen-decomposition, with what the projection and the prediction need besides."""

    local: LocalGeometry
    hessian: Array  # (p, p) ∇²L
    second: Array  # () λ₂
    normal: Array  # (p,) ∇(u·∇L)


def dense_geometry(jet: Jet, towards: Array) -> DenseGeometry:
    """The geometry at the point of a jet, with u on the side of ``towards``, shape (p,); λ₁ must be simple."""
    values, vectors = jnp.linalg.eigh(jet.hessian)
    u, sharpness = vectors[:, -1] * jnp.where(vectors[:, -1] @ towards < 0, -1.0, 1.0), values[-1]
    others = (vectors[:, :-1].T @ jet.gradient) / (sharpness - values[:-1])  # (p - 1,)
    third = jet.third @ u  # (p, p)
    turning = vectors[:, :-1] @ others  # (S − H)⁺∇L: how u·∇L feels the turning of u
    slope, normal = third @ u, sharpness * u + third @ turning
    local = LocalGeometry(jet.loss, jet.gradient, sharpness, u, sharpness * u, slope, jnp.zeros((), jnp.int32))
    return DenseGeometry(local, jet.hessian, values[-2], normal)


def towards_edge(geometry: DenseGeometry, theta: Array, target: Array, learning_rate) -> Array:
    """One Gauss–Newton round, from θ, to the point of {S = 2/η, u·∇L = 0} nearest to ``target``; all of shape (p,)."""
    local = geometry.local
    a, b, move = local.sharpness_gradient, geometry.normal, target - theta
    excess = local.sharpness - 2 / learning_rate + a @ move
    slope = local.eigenvector @ local.gradient + b @ move
    aa, ab, bb = a @ a, a @ b, b @ b
    return target - ((bb * excess - ab * slope) * a + (aa * slope - ab * excess) * b) / (aa * bb - ab**2)


def predicted(geometry: DenseGeometry, u: Array, v: Array, learning_rate) -> Array:
    """v*' = P'(I − η∇²L)P v* + ηP'∇S⊥(δ² − x*²)/2 − (1 + ηy*)x* u', with u' the next eigenvector; shapes (p,)."""
    g = geometry.local
    x, y = g.eigenvector @ v, g.perpendicular @ v
    across = v - x * g.eigenvector
    across = across - learning_rate * (geometry.hessian @ across - (g.delta_squared - x**2) / 2 * g.perpendicular)
    return across - (u @ across) * u - (1 + learning_rate * y) * x * u


def _largest(draw, alpha, learning_rate, horizon, start) -> CouplingErrors:
    """:func:`coupling_errors` of one draw at one α."""
    origin, first = jnp.zeros_like(draw.slope), jnp.zeros_like(draw.slope).at[0].set(1.0)
    pull = alpha / (draw.jet(origin, 0.0).third[0, 0] @ draw.slope)

    def step(carry):
        t, theta, centre, geometry, v, worst = carry
        g = geometry.local
        x, y = g.eigenvector @ v, g.perpendicular @ v
        here = draw.jet(theta, pull)
        sharpness = jnp.linalg.eigvalsh(here.hessian)[-1]
        off = jnp.abs(g.eigenvector @ g.gradient) / jnp.linalg.norm(g.gradient)
        found = CouplingErrors(
            deviation=jnp.linalg.norm(theta - centre - v),
            loss=jnp.abs(here.loss - g.loss - x**2 / learning_rate),
            sharpness=jnp.abs(sharpness - 2 / learning_rate - y - (g.sharpness_gradient @ g.eigenvector) * x),
            epsilon=worst.epsilon,
            delta=worst.delta,
            smallest=-jnp.abs(x) / jnp.sqrt(g.delta_squared),
            smallest_alpha=-g.alpha / alpha,
            second=learning_rate * geometry.second,
            violation=jnp.maximum(jnp.abs(g.sharpness * learning_rate / 2 - 1), off),
        )
        target = centre - learning_rate * g.gradient

        def nearer(_, found):  # to the point of the stable set nearest to the target; the first round is free
            point, geometry = found
            point = towards_edge(geometry, point, target, learning_rate)
            return point, dense_geometry(draw.jet(point, pull), g.eigenvector)

        following, after = jax.lax.fori_loop(0, ROUNDS, nearer, (centre, geometry))
        v = predicted(geometry, after.local.eigenvector, v, learning_rate)
        worst = jax.tree.map(jnp.maximum, worst, found)  # a NaN stays
        return t + 1, theta - learning_rate * here.gradient, following, after, v, worst

    geometry = dense_geometry(draw.jet(origin, pull), first)
    delta = jnp.sqrt(geometry.local.delta_squared)
    epsilon = learning_rate * jnp.sqrt(alpha)  # the same in every draw: all end at once
    v = start * delta * geometry.local.eigenvector
    least = jnp.full_like(delta, -jnp.inf)
    worst = CouplingErrors(*[least] * 3, epsilon, delta, *[least] * 4)
    carry = (jnp.zeros_like(epsilon), v, origin, geometry, v, worst)
    worst = jax.lax.while_loop(lambda carry: carry[0] * epsilon <= horizon, step, carry)[-1]
    return worst._replace(smallest=-worst.smallest, smallest_alpha=-worst.smallest_alpha)


_side_by_side = jax.jit(jax.vmap(_largest, in_axes=(0, None, None, None, None)))


def coupling_errors(draws, alphas, *, learning_rate, horizon=6.0, start=0.5) -> CouplingErrors:
    """Largest errors of the prediction over ``horizon``/ε steps of gradient descent from θ†_0 + start·δ·u, θ†_0 = 0.

    Args:
        draws: Losses stacked along a first axis of length n.  Each has its Hessian at 0 diagonal with 2/η first, and
            the gradient −g·slope there.
        alphas: α at the start (curvature²), shape (m,); g is chosen to give it.
        learning_rate: Step size η.
        horizon: Steps in units of 1/ε.
        start: |x_0|/δ.

    Returns:
        CouplingErrors, each field of shape (n, m); NaN where a run diverged or α_t < 0 on its way.

    Raises:
        ValueError: if η, an α, the horizon or the start is not positive and finite, or there is no first axis.
    """
    check_learning_rate(learning_rate)
    if draws.slope.ndim != 2:
        raise ValueError(f"draws must be stacked along a first axis, so that slope is (n, p); got {draws.slope.shape}")
    alphas = jnp.asarray(alphas, draws.slope.dtype)
    if alphas.ndim != 1 or not bool(jnp.all((alphas > 0) & jnp.isfinite(alphas))):
        raise ValueError(f"alphas must be one-dimensional, positive and finite, got {alphas!r}")
    for name, value in (("horizon", horizon), ("start", start)):
        if not 0 < value < float("inf"):
            raise ValueError(f"{name} must be positive and finite, got {value!r}")
    learning_rate, horizon, start = (jnp.asarray(value, alphas.dtype) for value in (learning_rate, horizon, start))
    # One program for every α: each ends after its own number of steps.
    found = [_side_by_side(draws, alpha, learning_rate, horizon, start) for alpha in alphas]
    return jax.tree.map(lambda *fields: jnp.stack(fields, axis=1), *found)
