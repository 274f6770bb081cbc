"""Gradient flow θ' = −∇L by a stabilized explicit method of second order."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from eoslib.eigen import improved_eigenpair
from eoslib.objective import Objective, inner, length
from eoslib.position import Theta
from eoslib.rules import GradientDescent


class FlowState(NamedTuple):
    """Gradient flow θ' = −∇L, with the loss and gradient at the point reached."""

    theta: Theta
    loss: Float[Array, ""]
    gradient: Float[Array, " p"]
    eigenvector: Float[Array, " p"]
    time_step: Float[Array, ""]  # step size that the error control would try next (0: choose)


class FlowRecord(NamedTuple):
    """The flow's sharpness at the start of an interval, and what the interval cost."""

    sharpness: Float[Array, ""]
    gradients: Int[Array, ""]  # gradient evaluations spent on the interval
    rejected: Int[Array, ""]  # steps that the error control repeated


def flow_start(objective: Objective, theta, eigenvector) -> FlowState:
    """Return the flow's state at θ; one gradient."""
    loss, gradient = objective.value_and_grad(theta)
    return FlowState(theta, loss, gradient, eigenvector, jnp.zeros((), objective.dtype))


def _chebyshev_step(objective: Objective, theta, f0, h, stages):
    """Return the move by the second-order Runge–Kutta–Chebyshev method, stable for h·ρ up to 0.65·stages² (traced).

    Source: Sommeijer, Shampine and Verwer, 1998; written for displacements from θ, which lose nothing to rounding.
    """
    s = stages.astype(f0.dtype)
    beyond = (2 / 13) / (s * s)
    w0, root = 1 + beyond, jnp.sqrt(beyond * (2 + beyond))  # √(w0² − 1)
    angle = s * jnp.log1p(beyond + root)
    # w1 = T_s'(w0) / T_s''(w0), in hyperbolic form
    w1 = jnp.sinh(angle) * root * root / (jnp.cosh(angle) * s * root - w0 * jnp.sinh(angle))

    def chebyshev(last, before):
        """Return T_j, T_j' and T_j'' at w0 from those of the two degrees below."""
        (t1, d1, dd1), (t2, d2, dd2) = last, before
        return 2 * w0 * t1 - t2, 2 * w0 * d1 - d2 + 2 * t1, 2 * w0 * dd1 - dd2 + 4 * d1

    one, zero = jnp.ones_like(w0), jnp.zeros_like(w0)
    t0, t1 = (one, zero, zero), (w0, one, zero)
    _, d2, dd2 = chebyshev(t1, t0)
    b2 = dd2 / (d2 * d2)

    def stage(carry):
        j, before, last, t_before, t_last, b_before, b_last = carry
        t, d, dd = chebyshev(t_last, t_before)
        b = dd / (d * d)
        mu, nu, mu_tilde = 2 * b * w0 / b_last, -b / b_before, 2 * b * w1 / b_last
        gamma_tilde = -(1 - b_last * t_last[0]) * mu_tilde
        force = -objective.gradient(theta + last)
        new = mu * last + nu * before + h * (mu_tilde * force + gamma_tilde * f0)
        return j + 1, last, new, t_last, (t, d, dd), b_last, b

    carry = jnp.full((), 2, jnp.int32), jnp.zeros_like(f0), (b2 * w1 * h) * f0, t0, t1, b2, b2
    return jax.lax.while_loop(lambda c: c[0] <= stages, stage, carry)[2]


def flow_step(
    objective: Objective, rule: GradientDescent, state: FlowState, steps, *, tolerance: float = 1e-3
) -> tuple[FlowState, FlowRecord]:
    """Follow gradient flow for the time of ``steps`` steps of the rule, η each, by a stabilized explicit method.

    The number of stages grows like the square root of duration × sharpness, where Euler sub-steps grow linearly.
    ``steps`` need not be whole; ``tolerance`` is the local error accepted, relative to the distance a step travels.
    """
    theta = state.theta
    u = (state.eigenvector / jnp.linalg.norm(state.eigenvector)).astype(objective.dtype)
    pairs = improved_eigenpair(lambda v: objective.hvp(theta, v), u, objective.hvp(theta, u), tolerance=2e-2)
    radius = 1.1 * jnp.maximum(pairs.values[0], 0)  # bounds the spectrum, with room for its rise
    duration = jnp.asarray(steps * rule.learning_rate, objective.dtype)

    def unfinished(carry):
        end, _, _, left, _, rejected = carry
        return (left > 1e-9 * duration) & (rejected < 30) & jnp.isfinite(end.loss)

    def advance(carry):
        start, f0, trial, left, count, rejected = carry
        h = jnp.minimum(trial, left)
        stages = jnp.maximum(2, 1 + jnp.floor(jnp.sqrt(1.54 * h * radius + 1))).astype(jnp.int32)
        moved = _chebyshev_step(objective, start.theta, f0, h, stages)
        loss, gradient = objective.value_and_grad(start.theta + moved)
        error = length(0.4 * h * (f0 - gradient) - 0.8 * moved)
        floor = float(jnp.finfo(objective.dtype).eps) * length(start.theta.astype(objective.dtype))  # rounding
        ratio = error / jnp.maximum(tolerance * length(moved) + floor, jnp.finfo(objective.dtype).tiny)
        ratio = jnp.where(jnp.isfinite(ratio), ratio, 100.0)
        accepted = ratio <= 1
        factor = jnp.clip(0.8 / jnp.maximum(ratio, 1e-6) ** (1 / 3), 0.2, 5.0)
        reached = start._replace(theta=start.theta + moved, loss=loss, gradient=gradient)
        end = jax.tree.map(lambda a, b: jnp.where(accepted, a, b), reached, start)
        # An interval's last step is short for no reason of accuracy: do not let it shrink the next trial.
        trial = jnp.where(accepted, jnp.maximum(trial, h * factor), h * factor)
        left, rejected = jnp.where(accepted, left - h, left), rejected + (~accepted).astype(jnp.int32)
        return end, jnp.where(accepted, -gradient, f0), trial, left, count + stages, rejected

    trial, zero = jnp.where(state.time_step > 0, state.time_step, duration), jnp.zeros((), jnp.int32)
    carry = state, -state.gradient, trial, duration, zero, zero
    end, _, trial, left, count, rejected = jax.lax.while_loop(unfinished, advance, carry)
    done = left <= 1e-9 * duration  # otherwise the error control gave up, and the curve ends here
    off = jnp.where(done, 0, jnp.nan).astype(objective.dtype)
    end = end._replace(theta=end.theta + off, loss=end.loss + off)
    return end._replace(eigenvector=pairs.vectors[0], time_step=trial), FlowRecord(pairs.values[0], count, rejected)


class FlowMoment(NamedTuple):
    """Gradient flow at one step."""

    theta: Theta
    loss: Float[Array, ""]


def interpolation(rule: GradientDescent, before: FlowState, after: FlowState, start, steps: int):
    """Return step ↦ FlowMoment within an interval of steps, cubic from the derivatives at its ends."""
    duration, dtype = steps * rule.learning_rate, before.gradient.dtype

    def at(step):
        s = (step - start).astype(dtype) / steps
        b, c, d = s * s * (3 - 2 * s), duration * s * (1 - s) ** 2, duration * s * s * (s - 1)

        def blend(p, q, dp, dq):
            return p + (b * (q - p) + c * dp + d * dq)

        g, h = before.gradient, after.gradient
        loss = blend(before.loss, after.loss, -inner(g, g), -inner(h, h))  # dL/dt = −‖∇L‖²
        return FlowMoment(blend(before.theta, after.theta, -g, -h), loss)

    return at
