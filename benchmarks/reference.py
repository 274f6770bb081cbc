"""The published procedure, written plainly: the oracle of the tests and the slow side of the benchmark.

The schedule is that of arXiv 2209.15594 as published.  At every step:

* gradient descent makes one step, and its sharpness is solved for;
* gradient flow makes ⌈ηS⌉ Euler sub-steps, S its own sharpness, solved for;
* the constrained trajectory makes a gradient step and three rounds of the simultaneous linearized projection, each
  centered where the last one ended, each with its own eigen-solve;
* the predicted dynamics makes its step in vector form.

Every eigen-solve is ``jax.experimental.sparse.linalg.lobpcg_standard`` from the last eigenvector, at the published
tolerance.  :class:`eoslib.objective.Objective` is used for derivatives only; nothing else is shared with the library
whose results this one checks.  Positions are float64, derivatives in the objective's precision.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.sparse.linalg import lobpcg_standard
from jaxtyping import Array, Float

from eoslib.objective import Objective

ROUNDS = 3  # linearized projections a step
#: Published tolerance.  lobpcg_standard multiplies it by 10 p (λ + ‖Au‖): on 657,010 parameters ‖Au − λu‖ ≤ 0.013 λ.
TOLERANCE = 1e-9


class Point(NamedTuple):
    """What is measured at a point of the constrained trajectory, each quantity by its own evaluation."""

    loss: Float[Array, ""]
    gradient: Float[Array, " p"]
    sharpness: Float[Array, ""]
    eigenvector: Float[Array, " p"]
    sharpness_gradient: Float[Array, " p"]


class State(NamedTuple):
    """All trajectories at one step."""

    descent: Float[Array, " p"]  # θ
    flow: Float[Array, " p"]
    constrained: Float[Array, " p"]  # θ†
    predicted: Float[Array, " p"]  # v*
    here: Point  # measured at θ†
    descent_eigenvector: Float[Array, " p"]  # starts of the eigen-solves
    flow_eigenvector: Float[Array, " p"]


@jax.jit
def _value_and_grad(objective: Objective, theta):
    return objective.value_and_grad(theta)


@jax.jit
def _hvp(objective: Objective, theta, v):
    return objective.hvp(theta, v)


@jax.jit
def _sharpness_gradient(objective: Objective, theta, u):
    return objective.directional(theta, u, 3)


@jax.jit(static_argnames=("tolerance",))
def _lobpcg(objective: Objective, theta, starts, tolerance):
    def apply(block):  # (p, m), all columns in one pass
        return objective.hvps(theta, block.T).T

    return lobpcg_standard(apply, starts, m=100, tol=tolerance)[:2]


@jax.jit
def _hessian(objective: Objective, theta):
    return objective.hvps(theta, jnp.eye(objective.size, dtype=objective.dtype))


def leading_eigenpairs(objective: Objective, theta, starts: Float[Array, "p k"], tolerance: float = TOLERANCE):
    """The k leading eigenvalues (k,) of ∇²L(θ), largest first, and their vectors (p, k), on the side of the starts.

    Where 5k ≥ p, which ``lobpcg_standard`` refuses, the Hessian is formed and ``eigh`` applied.
    """
    p, k = starts.shape
    if 5 * k >= p:
        values, vectors = np.linalg.eigh(np.asarray(_hessian(objective, theta)))
        values, vectors = jnp.asarray(values[::-1][:k]), jnp.asarray(vectors[:, ::-1][:, :k])
    else:
        values, vectors = _lobpcg(objective, theta, starts.astype(objective.dtype), tolerance)
    side = jnp.sign(jnp.sum(vectors * starts.astype(vectors.dtype), axis=0, keepdims=True))  # (1, k)
    return values, vectors * jnp.where(side == 0, 1, side).astype(vectors.dtype)


def leading_eigenpair(objective: Objective, theta, start: Float[Array, " p"], tolerance: float = TOLERANCE):
    """Sharpness and leading eigenvector (p,)."""
    values, vectors = leading_eigenpairs(objective, theta, start[:, None], tolerance)
    return values[0], vectors[:, 0]


def measure(objective: Objective, theta, start: Float[Array, " p"], solve: Callable = leading_eigenpair) -> Point:
    """Loss, gradient, sharpness, its eigenvector (``solve``d from ``start``) and its gradient ∇³L[u, u] at θ."""
    sharpness, u = solve(objective, theta, start)
    loss, gradient = _value_and_grad(objective, theta)
    return Point(loss, gradient, sharpness, u, _sharpness_gradient(objective, theta, u))


def perpendicular_part(point: Point):
    u = point.eigenvector
    return point.sharpness_gradient - jnp.vdot(u, point.sharpness_gradient) * u


def _moved(theta, move):
    return theta + move.astype(theta.dtype)


def project(
    objective: Objective, theta, start, learning_rate: float, solve: Callable = leading_eigenpair
) -> tuple[Float[Array, " p"], Point]:
    """Three rounds of θ ← θ − (S − 2/η)₊ ∇S⊥/‖∇S⊥‖² − u (u·∇L)/S, then the point reached, measured."""
    point = measure(objective, theta, start, solve)
    for _ in range(ROUNDS):
        perpendicular = perpendicular_part(point)
        excess = jnp.maximum(point.sharpness - 2 / learning_rate, 0)
        slope = jnp.vdot(point.eigenvector, point.gradient)
        move = -excess / jnp.vdot(perpendicular, perpendicular) * perpendicular
        move = move - slope / point.sharpness * point.eigenvector
        theta = _moved(theta, move)
        point = measure(objective, theta, point.eigenvector, solve)
    return theta, point


def constrained_step(
    objective: Objective, theta, here: Point, learning_rate: float, solve: Callable = leading_eigenpair
) -> tuple[Float[Array, " p"], Point]:
    """θ†_{t+1} = proj_M(θ†_t − η∇L(θ†_t)) from θ†_t and what was measured there."""
    plain = _moved(theta, -learning_rate * here.gradient)
    return project(objective, plain, here.eigenvector, learning_rate, solve)


def flow_step(objective: Objective, theta, start, learning_rate: float):
    """Gradient flow over a time η by ⌈ηS⌉ Euler sub-steps; returns the point reached, L and S at θ, and u there."""
    objective = dataclasses.replace(objective, precise=())  # the flow's gradients are float32 as published
    sharpness, u = leading_eigenpair(objective, theta, start)
    substeps = max(1, math.ceil(learning_rate * float(sharpness))) if math.isfinite(float(sharpness)) else 1
    first_loss = None
    for _ in range(substeps):
        loss, gradient = _value_and_grad(objective, theta)
        first_loss = loss if first_loss is None else first_loss
        theta = _moved(theta, -learning_rate / substeps * gradient)
    return theta, first_loss, sharpness, u


def predicted_step(objective: Objective, theta, here: Point, v, next_eigenvector, learning_rate: float):
    """v*_{t+1} = P⊥' (I − η∇²L) P⊥ v* + η P⊥' ∇S⊥ (δ² − x*²)/2 − (1 + η y*) x* u', primes at t+1, the rest at θ†_t."""
    u, perpendicular = here.eigenvector, perpendicular_part(here)
    x, y = jnp.vdot(u, v), jnp.vdot(perpendicular, v)
    across = v - x * u
    half_delta_squared = -jnp.vdot(here.gradient, perpendicular) / jnp.vdot(perpendicular, perpendicular)  # α/β
    moved = across - learning_rate * _hvp(objective, theta, across)
    moved = moved + learning_rate * (half_delta_squared - x * x / 2) * perpendicular
    moved = moved - jnp.vdot(next_eigenvector, moved) * next_eigenvector
    return moved - (1 + learning_rate * y) * x * next_eigenvector


def start(objective: Objective, theta, eigenvector, learning_rate: float, *, constrained=None, flow=None) -> State:
    """All trajectories at the instability.

    Args:
        objective: The loss.
        theta: Where gradient descent starts (p,).
        eigenvector: Start (p,) for the eigen-solves.
        learning_rate: Step size η.
        constrained: θ†_0; by default the projection of θ.
        flow: Where gradient flow starts; by default θ.
    """
    theta = jnp.asarray(theta, jnp.float64)
    u = jnp.asarray(eigenvector, objective.dtype)
    if constrained is None:
        constrained, here = project(objective, theta, u, learning_rate)
    else:
        constrained = jnp.asarray(constrained, jnp.float64)
        here = measure(objective, constrained, u)
    v = (theta - constrained).astype(objective.dtype)
    flow = theta if flow is None else jnp.asarray(flow, jnp.float64)
    return State(theta, flow, constrained, v, here, here.eigenvector, here.eigenvector)


def tracked_step(objective: Objective, state: State, learning_rate: float) -> tuple[State, dict[str, Array]]:
    """One step of every trajectory, and what the library's core records at its start, under the same names."""
    edge = 2 / learning_rate
    here, u, perpendicular = state.here, state.here.eigenvector, perpendicular_part(state.here)
    sharpness, descent_eigenvector = leading_eigenpair(objective, state.descent, state.descent_eigenvector)
    loss, gradient = _value_and_grad(objective, state.descent)
    flow, flow_loss, flow_sharpness, flow_eigenvector = flow_step(
        objective, state.flow, state.flow_eigenvector, learning_rate
    )
    constrained, there = constrained_step(objective, state.constrained, here, learning_rate)
    predicted = predicted_step(
        objective, state.constrained, here, state.predicted, there.eigenvector, learning_rate
    )  # fmt: skip

    v = (state.descent - state.constrained).astype(objective.dtype)
    x, y = jnp.vdot(u, v), jnp.vdot(perpendicular, v)
    predicted_x, predicted_y = jnp.vdot(u, state.predicted), jnp.vdot(perpendicular, state.predicted)
    slope = jnp.vdot(u, here.sharpness_gradient)
    alpha, beta = -jnp.vdot(here.gradient, here.sharpness_gradient), jnp.vdot(perpendicular, perpendicular)
    norm = jnp.linalg.norm(here.gradient)
    values = {
        "gd_loss": loss,
        "gd_sharpness": sharpness,
        "gd_gradient_norm": jnp.linalg.norm(gradient),
        "x": x,
        "y": y,
        "distance": jnp.linalg.norm(v),
        "sharpness_linear": here.sharpness + jnp.vdot(here.sharpness_gradient, v),
        "sharpness_linear_perpendicular": here.sharpness + y,
        "predicted_x": predicted_x,
        "predicted_y": predicted_y,
        "predicted_loss": here.loss + predicted_x**2 / learning_rate,
        "predicted_sharpness": edge + predicted_y + slope * predicted_x,
        "predicted_distance": jnp.linalg.norm(state.predicted),
        "predicted_error": jnp.linalg.norm(v - state.predicted),
        "constrained_loss": here.loss,
        "constrained_sharpness": here.sharpness,
        "gradient_norm": norm,
        "alpha": alpha,
        "beta": beta,
        "gamma": alpha / (norm * jnp.sqrt(beta)),
        "delta_squared": 2 * alpha / beta,
        "sharpness_slope": slope,
        "violation": jnp.maximum(here.sharpness / edge - 1, 0),
        "slope": jnp.abs(jnp.vdot(u, here.gradient)) / norm,
        "flow_loss": flow_loss,
        "flow_sharpness": flow_sharpness,
        "flow_distance": jnp.linalg.norm(state.flow - state.constrained),
        "flow_gd_distance": jnp.linalg.norm(state.flow - state.descent),
    }
    descent = _moved(state.descent, -learning_rate * gradient)
    return State(descent, flow, constrained, predicted, there, descent_eigenvector, flow_eigenvector), values


def track(objective: Objective, state: State, learning_rate: float, steps: int) -> tuple[State, dict[str, np.ndarray]]:
    """``steps`` tracked steps; the state reached and the series (steps,) of every recorded quantity."""
    records: dict[str, list[float]] = {}
    for _ in range(steps):
        state, values = tracked_step(objective, state, learning_rate)
        for name, value in values.items():
            records.setdefault(name, []).append(float(value))
    return state, {name: np.asarray(series) for name, series in records.items()}
