"""Gradient descent with its sharpness: one step, and whole runs under a schedule of learning rates.

>>> import jax.numpy as jnp
>>> objective = Objective.create(lambda p: p["w"] ** 2, {"w": jnp.array(1.0)})
>>> print(descend(objective, jnp.array([1.0]), jnp.array([0.25, 0.5])).loss)
[1.   0.25]
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from eoslib.eigen import improved_eigenpair
from eoslib.objective import Objective
from eoslib.position import Position, Theta
from eoslib.rules import GradientDescent


class DescentState(NamedTuple):
    """Gradient descent with its leading eigenvector followed."""

    theta: Theta  # θ_t
    older: Float[Array, " p"]  # eigenvector two steps ago, on the same side of the valley
    newer: Float[Array, " p"]  # eigenvector one step ago


class DescentRecord(NamedTuple):
    """What a step of gradient descent measures at θ_t."""

    loss: Float[Array, ""]
    gradient: Float[Array, " p"]
    sharpness: Float[Array, ""]
    residual: Float[Array, ""]  # of the eigenvector, a curvature
    products: Int[Array, ""]


def look(objective: Objective, state: DescentState, *, tolerance: float = 1e-2) -> tuple[DescentRecord, Array]:
    """Measure loss, gradient and sharpness at θ; return the record and the eigenvector (p,), improved for later.

    Loss, gradient and one Hessian-vector product come from one pass.  Gradient descent alternates between the two walls
    of the valley, so the eigenvector starts from that of two steps ago; it is refined only where its residual, relative
    to S, exceeds ``tolerance`` (the error of S is second order in it).
    """
    u = (state.older / jnp.linalg.norm(state.older)).astype(objective.dtype)
    loss, gradient, hvp = objective.gradient_and_hvp(state.theta, u)
    pairs = improved_eigenpair(lambda v: objective.hvp(state.theta, v), u, hvp, tolerance=tolerance)
    return DescentRecord(loss, gradient, pairs.values[0], pairs.residuals[0], pairs.products), pairs.vectors[0]


def gradient_descent_step(
    objective: Objective, rule: GradientDescent, state: DescentState, *, tolerance: float = 1e-2
) -> tuple[DescentState, DescentRecord]:
    """Advance θ ↦ θ − η∇L(θ), with the loss and the sharpness at θ (:func:`look`)."""
    record, newest = look(objective, state, tolerance=tolerance)
    return DescentState(rule.update(state.theta, record.gradient), state.newer, newest), record


class Training(NamedTuple):
    """A training run of T steps; every series holds the value before each step."""

    loss: Float[Array, " T"]
    rate: Float[Array, " T"]  # learning rate of the step
    sharpness: Float[Array, " T"]  # NaN where it was not followed
    products: Int[Array, " T"]  # Hessian-vector products spent on the sharpness
    theta: Theta  # after the last step
    kept: Float[Array, "k p"]  # positions before steps 0, every, 2·every, …, in the precision of the derivatives


@jax.jit(static_argnames=("every", "relative"))
def _train(objective: Objective, state, rates, every: int, relative: bool) -> Training:
    """Blocks of ``every`` steps, the position kept before each; ``state`` holds θ alone, or as a DescentState does."""

    def step(state, rate):
        theta, *vectors = state
        if vectors:
            (loss, gradient, sharpness, _, products), newest = look(objective, DescentState(*state))
            rate, vectors = rate / sharpness if relative else rate, [vectors[1], newest]
        else:
            loss, gradient = objective.value_and_grad(theta)
            sharpness, products = jnp.zeros((), objective.dtype), jnp.zeros((), jnp.int32)
        return (GradientDescent(rate).update(theta, gradient), *vectors), (loss, rate, sharpness, products)

    def block(state, some):
        following, series = jax.lax.scan(step, state, some)
        return following, (state[0].astype(objective.dtype), series)

    state, (kept, series) = jax.lax.scan(block, state, rates.reshape(-1, every))
    loss, rate, sharpness, products = (values.reshape(-1) for values in series)
    return Training(loss, rate, sharpness, products, state[0], kept)


def descend(objective: Objective, theta: Any, rates: ArrayLike, *, every: int | None = None) -> Training:
    """Train by full-batch gradient descent, one learning rate and one gradient per step; arguments as :func:`follow`'s.

    Raises:
        ValueError: if ``rates`` is no series or ``every`` does not divide its length.
    """
    return follow(objective, theta, None, rates, every=every)


def follow(
    objective: Objective, theta: Any, eigenvector: Float[Array, " p"] | None, rates: ArrayLike,
    *, every: int | None = None, relative: bool = False,
) -> Training:  # fmt: skip
    """Train as :func:`descend`, the sharpness measured before every step: two gradients per step, more where u turns.

    ``theta``, a vector or Position, and ``eigenvector`` (p,) are starts; None for the latter measures no sharpness.
    ``rates`` (T,) holds the learning rate η_t of each step or, if ``relative``, multiples of 1/S(θ_t): at 1 or less the
    step is as short as the flow asks for.  The positions before steps 0, ``every``, … are kept, a divisor of T; by
    default only the start is.

    Raises:
        ValueError: as :func:`descend`, or if ``relative`` lacks an eigenvector.
    """
    if np.ndim(rates) != 1 or np.size(rates) < 1:
        raise ValueError(f"rates must have shape (T,) with T >= 1, one learning rate a step, got {np.shape(rates)}")
    every = np.size(rates) if every is None else every
    if every < 1 or np.size(rates) % every:
        raise ValueError(f"every must divide the number of steps {np.size(rates)}, got {every!r}")
    if relative and eigenvector is None:
        raise ValueError("rates relative to 1/S need an eigenvector to start from, got None")
    theta = Position.of(objective.position(theta))
    state = (theta,) if eigenvector is None else (theta, *[objective.place(eigenvector)] * 2)
    training = _train(objective, state, jnp.asarray(rates, objective.dtype), every, relative)
    unknown: Any = np.full(np.shape(rates), np.nan)  # of NumPy: jax_debug_nans allows no NaN of JAX's
    return training._replace(sharpness=unknown) if eigenvector is None else training


def steps_to(loss: ArrayLike, level: float) -> int | None:
    """Return the first step before which the loss (T,) is at most ``level`` (a loss), or None."""
    reached = jnp.asarray(loss) <= level
    return int(reached.argmax()) if bool(reached.any()) else None
