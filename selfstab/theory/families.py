"""Random losses on which the coupling theorem is tested, with their derivatives up to the third.

A loss is a pytree with a method ``jet(theta, pull)``.  Random draws of it are stacked and run side by side.  The
families are this project's own.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from eoslib import rules


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
        """Return L(θ) for θ of shape (p,) and a pull g."""
        cubic = self.cubic / 6 + self.quartic @ theta / 24
        return theta @ (self.hessian * theta / 2 - pull * self.slope + cubic @ theta @ theta)

    def jet(self, theta: Array, pull) -> Jet:
        """Return L and its derivatives at θ of shape (p,), with each contraction of Q computed once."""
        quartic = self.quartic @ theta  # (p, p, p)
        bend, turn = self.cubic @ theta, quartic @ theta  # (p, p)
        gradient = self.hessian * theta - pull * self.slope + (bend / 2 + turn / 6) @ theta
        hessian = jnp.diag(self.hessian) + bend + turn / 2
        return Jet(self.value(theta, pull), gradient, hessian, self.cubic + quartic)


class Waves(NamedTuple):
    """A smooth loss that is not a polynomial: the valley's curvature and floor vary sinusoidally across it.

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
        """Return L(θ) for θ of shape (p,) and a pull g."""
        x, eta = theta[0], self.learning_rate
        angle = eta * (self.waves @ theta)  # (m,)
        valley = x**2 / 2 * (self.curvature @ (jnp.sin(angle + self.phases) - jnp.sin(self.phases))) / eta
        floor = x * (self.floor @ (1 - jnp.cos(angle))) / eta**2
        return theta @ (self.hessian * theta / 2 - pull * self.slope) + valley + floor + self.skew * x**3 / 6

    def jet(self, theta: Array, pull) -> Jet:
        """Return L and its derivatives at θ of shape (p,), from a Hessian in closed form."""
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
    """Return sines and cosines as two rows."""
    return jnp.stack([jnp.sin(angles), jnp.cos(angles)])


def _symmetric(tensors: np.ndarray) -> np.ndarray:
    """Return the mean over all permutations of the axes after the first."""
    orders = list(itertools.permutations(range(1, tensors.ndim)))
    return sum(np.transpose(tensors, (0, *order)) for order in orders) / len(orders)


def _check(known: dict, least: dict) -> None:
    """Raise ValueError unless every number of ``known`` is finite and at least that of ``least``."""
    for name, bound in least.items():
        if not bound <= known[name] < float("inf"):
            raise ValueError(f"{name} must be finite and at least {bound}, got {known[name]!r}")


def _stacked(kind, slope, *fields):
    """Return losses of a kind from their stacked fields, in JAX's current precision, with slopes of unit length."""
    slope = slope / np.linalg.norm(slope, axis=1, keepdims=True)
    return kind(*(jnp.asarray(field, float) for field in (slope, *fields)))


def polynomial_draws(
    seed: int, count: int, *, learning_rate: float, extra: int = 0, second: float = 0.5, bulk: float = 0.0,
    bulk_damping: float = 0.0, quartic: float = 0.5, damped: float = 0.0,
) -> Polynomial:  # fmt: skip
    """Draw losses of a polynomial family on R^(5 + extra), whose first axes are the valley's and the pull's.

    Args:
        seed: Seed of the random numbers, which otherwise depend only on ``count`` and ``extra``.
        count: Number n of draws, the length of the first axis of each field.
        learning_rate: Step size η, which sets the curvatures.
        extra: Further directions, alternately flat and damped, with random couplings to the valley's curvature.
        second: λ₂ in units of 1/η.
        bulk: Size of the cubic term among the directions orthogonal to u (0 in the theorem's regime).
        bulk_damping: Curvature, in units of 1/η, of the flat directions besides that of the pull.
        quartic: ρ₄ in units of η ρ₃², roughly.
        damped: Part of ∇S⊥ along each of the two damped directions, the curvatures .15/η and λ₂ (1 along the pull).

    Raises:
        ValueError: if η is not positive and finite, ``count`` is below 1, or another number is negative.
    """
    rules.resolve(learning_rate)
    _check(locals(), {"count": 1, "extra": 0, "second": 0, "bulk": 0, "bulk_damping": 0, "quartic": 0, "damped": 0})
    rng, size, ones = np.random.default_rng(seed), 5 + extra, np.ones((count, 1))
    pairs, rest, quartics = (_symmetric(rng.normal(size=(count,) + (size,) * order)) for order in (2, 3, 4))
    weights = 0.5 * rng.normal(size=(count, extra)) / max(extra, 1) ** 0.5
    spectrum = [2.0, 0.0, bulk_damping, 0.15, second, *np.where(np.arange(extra) % 2, 0.3, bulk_damping)]
    sharpening = np.concatenate([ones * [1.0, 1.0, 0.6, damped, damped], weights], axis=1)  # T_xx·
    slope = np.concatenate([ones * [0.0, 1.0, -0.2, 0.0, 0.3], weights], axis=1)
    cubic = bulk * rest
    cubic[:, 1, 1, 1] = 0.0  # a floor that bends straight along the pull changes α at any damping of the bulk
    slab = 0.8 * pairs  # T_x··
    slab[:, 0] = slab[:, :, 0] = sharpening
    cubic[:, 0] = cubic[:, :, 0] = cubic[:, :, :, 0] = slab
    quartics[:, 0, 0, 0, 0] += 1.0
    return _stacked(Polynomial, slope, ones * spectrum / learning_rate, cubic, quartic * learning_rate * quartics)


def wave_draws(seed: int, count: int, *, learning_rate: float, size: int = 6, terms: int = 8) -> Waves:
    """Draw ``count`` losses of the sinusoidal family on R^size; every second direction across the valley is damped.

    Raises:
        ValueError: if η is not positive and finite, ``size`` is below 3, or ``count`` or ``terms`` below 1.
    """
    rules.resolve(learning_rate)
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


def block_draws(seed: int, count: int, k: int, *, learning_rate: float, coupled: bool = True) -> Polynomial:
    """Draw losses with k directions at the edge: on R^(k + n + 3), n = k(k + 1)/2, or k of one direction added up.

    As in :func:`polynomial_draws`, the directions across the edge are flat, except for two damped ones; no cubic term
    is among these, and quartic terms are of order η.  The constraint gradients T⊥_ij are random in flat directions, of
    condition up to 2.  The slope is ½T⊥:Σ̂ for a random Σ̂ ≻ 0 of condition up to 3, plus half as much along a flat
    direction across them.

    Raises:
        ValueError: if η is not positive and finite, or ``count`` or k is below 1.
    """
    rules.resolve(learning_rate)
    _check(locals(), {"count": 1, "k": 1})
    if not coupled:
        return _added_up([block_draws(seed + i, count, 1, learning_rate=learning_rate) for i in range(k)])
    rng, n = np.random.default_rng(seed), k * (k + 1) // 2
    size, flat, (rows, columns) = k + n + 3, slice(k, k + n + 1), np.triu_indices(k)
    cubic, quartic = (_symmetric(rng.normal(size=(count,) + (size,) * order)) for order in (3, 4))
    cubic *= 0.8 * 3**0.5
    cubic[:, k:, k:, k:] = 0
    quartic[:, range(k), range(k), range(k), range(k)] += 1.0
    weight, slope = np.where(rows == columns, 1, 2**0.5), np.zeros((count, size))
    turned = lambda sizes: (q := np.linalg.qr(rng.normal(size=(len(sizes),) * 2))[0]) * sizes @ q.T  # noqa: E731
    for third, down in zip(cubic, slope, strict=True):
        frame = np.linalg.qr(rng.normal(size=(n + 1, n + 1)))[0]
        pairs = turned(rng.uniform(0.7, 1.4, n)) @ frame[:n]  # (n, n + 1)
        down[flat] = (weight * turned(rng.uniform(0.5, 1.5, k))[rows, columns]) @ pairs / 2
        down[flat] += np.linalg.norm(down) * frame[n] / 2
        down[-1] = 0.3 * np.linalg.norm(down)
        for a, b, row in zip(rows, columns, pairs / weight[:, None], strict=True):
            for i, j in ((a, b), (b, a)):
                third[i, j, k:] = third[i, k:, j] = third[k:, i, j] = np.append(row, [0.0, 0.0])
    spectrum = np.concatenate([np.full(k, 2.0), np.zeros(n + 1), [0.15, 0.5]]) / learning_rate
    return _stacked(Polynomial, slope, np.tile(spectrum, (count, 1)), cubic, 0.5 * learning_rate * quartic)


def _added_up(parts: list[Polynomial]) -> Polynomial:
    """Return the sum of losses of separate variables, edge directions first, with rates α in the ratio 1, .8, .6, …."""
    k, (count, size) = len(parts), parts[0].slope.shape
    total = [np.zeros((count,) + (k * size,) * order) for order in (1, 1, 3, 4)]
    for i, part in enumerate(parts):
        where = np.append(i, k + i * (size - 1) + np.arange(size - 1))
        rate = np.einsum("na,na->n", part.cubic[:, 0, 0], part.slope)[:, None]
        for whole, field in zip(total, part._replace(slope=(1 - 0.2 * i) * part.slope / rate), strict=True):
            whole[np.ix_(range(count), *[where] * (whole.ndim - 1))] = field
    return _stacked(Polynomial, *total)
