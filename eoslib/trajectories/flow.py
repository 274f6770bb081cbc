"""Gradient flow θ' = −∇L by a stabilized explicit method of second order."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from eoslib.eigen import improved_eigenpair
from eoslib.objective import Objective, inner
from eoslib.rules import GradientDescent


class FlowState(NamedTuple):
    """Gradient flow θ' = −∇L, with the loss and gradient at the point reached."""

    theta: Float[Array, " p"]
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
    return FlowState(theta, loss, gradient, eigenvector, jnp.zeros((), theta.dtype))


def _chebyshev_step(objective: Objective, theta, f0, h, stages):
    """One step of the second-order Runge–Kutta–Chebyshev method: stable for h·ρ up to 0.65·stages² (a traced number).

    Source: Sommeijer, Shampine and Verwer, 1998.
    """
    s = stages.astype(theta.dtype)
    w0 = 1 + (2 / 13) / (s * s)
    root = jnp.sqrt(w0 * w0 - 1)
    angle = s * jnp.log(w0 + root)
    # w1 = T_s'(w0) / T_s''(w0), in hyperbolic form
    w1 = jnp.sinh(angle) * root * root / (jnp.cosh(angle) * s * root - w0 * jnp.sinh(angle))

    def chebyshev(last, before):
        """T_j, T_j' and T_j'' at w0 from those of the two degrees below."""
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
        force = -objective.gradient(last).astype(theta.dtype)
        new = (1 - mu - nu) * theta + mu * last + nu * before + h * (mu_tilde * force + gamma_tilde * f0)
        return j + 1, last, new, t_last, (t, d, dd), b_last, b

    carry = jnp.full((), 2, jnp.int32), theta, theta + (b2 * w1 * h) * f0, t0, t1, b2, b2
    return jax.lax.while_loop(lambda c: c[0] <= stages, stage, carry)[2]


def flow_step(
    objective: Objective, rule: GradientDescent, state: FlowState, steps, *, tolerance: float = 1e-3
) -> tuple[FlowState, FlowRecord]:
    """Follow gradient flow for the time of so many steps of the rule, η each, by a stabilized explicit method.

    The number of stages grows like the square root of duration × sharpness, where Euler sub-steps grow linearly.
    ``steps`` need not be whole; ``tolerance`` is the local error accepted, relative to the distance a step travels.
    """
    theta = state.theta
    u = (state.eigenvector / jnp.linalg.norm(state.eigenvector)).astype(objective.dtype)
    pairs = improved_eigenpair(lambda v: objective.hvp(theta, v), u, objective.hvp(theta, u), tolerance=2e-2)
    radius = 1.1 * jnp.maximum(pairs.values[0], 0).astype(theta.dtype)  # bounds the spectrum, with room for its rise
    duration = jnp.asarray(steps * rule.learning_rate, theta.dtype)

    def unfinished(carry):
        end, _, _, left, _, rejected = carry
        return (left > 1e-9 * duration) & (rejected < 30) & jnp.isfinite(end.loss)

    def advance(carry):
        start, f0, trial, left, count, rejected = carry
        h = jnp.minimum(trial, left)
        stages = jnp.maximum(2, 1 + jnp.floor(jnp.sqrt(1.54 * h * radius + 1))).astype(jnp.int32)
        new = _chebyshev_step(objective, start.theta, f0, h, stages)
        loss, gradient = objective.value_and_grad(new)
        f1 = -gradient.astype(theta.dtype)
        error = jnp.linalg.norm(0.8 * (start.theta - new) + 0.4 * h * (f0 + f1))
        floor = float(jnp.finfo(objective.dtype).eps) * jnp.linalg.norm(start.theta)  # rounding of the derivatives
        ratio = error / (tolerance * jnp.linalg.norm(new - start.theta) + floor)
        ratio = jnp.where(jnp.isfinite(ratio), ratio, 100.0)
        accepted = ratio <= 1
        factor = jnp.clip(0.8 / jnp.maximum(ratio, 1e-6) ** (1 / 3), 0.2, 5.0)
        reached = start._replace(theta=new, loss=loss, gradient=gradient)
        end = jax.tree.map(lambda a, b: jnp.where(accepted, a, b), reached, start)
        # An interval's last step is short for no reason of accuracy: do not let it shrink the next trial.
        trial = jnp.where(accepted, jnp.maximum(trial, h * factor), h * factor)
        left, rejected = jnp.where(accepted, left - h, left), rejected + (~accepted).astype(jnp.int32)
        return end, jnp.where(accepted, f1, f0), trial, left, count + stages, rejected

    trial, zero = jnp.where(state.time_step > 0, state.time_step, duration), jnp.zeros((), jnp.int32)
    carry = state, -state.gradient.astype(theta.dtype), trial.astype(theta.dtype), duration, zero, zero
    end, _, trial, left, count, rejected = jax.lax.while_loop(unfinished, advance, carry)
    done = left <= 1e-9 * duration  # otherwise the error control gave up, and the curve ends here
    end = end._replace(theta=jnp.where(done, end.theta, jnp.nan), loss=jnp.where(done, end.loss, jnp.nan))
    return end._replace(eigenvector=pairs.vectors[0], time_step=trial), FlowRecord(pairs.values[0], count, rejected)


class FlowMoment(NamedTuple):
    """Gradient flow at one step."""

    theta: Float[Array, " p"]
    loss: Float[Array, ""]


def interpolation(rule: GradientDescent, before: FlowState, after: FlowState, start, steps: int):
    """Return step ↦ FlowMoment within an interval of steps, cubic from the derivatives at its ends."""
    duration, dtype = steps * rule.learning_rate, before.theta.dtype

    def at(step):
        s = (step - start).astype(dtype) / steps
        a, b = (1 + 2 * s) * (1 - s) ** 2, s * s * (3 - 2 * s)
        c, d = duration * s * (1 - s) ** 2, duration * s * s * (s - 1)

        def blend(p, q, dp, dq):
            return a * p.astype(dtype) + b * q.astype(dtype) + c * dp.astype(dtype) + d * dq.astype(dtype)

        g, h = before.gradient, after.gradient
        loss = blend(before.loss, after.loss, -inner(g, g), -inner(h, h))  # dL/dt = −‖∇L‖²
        return FlowMoment(blend(before.theta, after.theta, -g, -h), loss)

    return at
