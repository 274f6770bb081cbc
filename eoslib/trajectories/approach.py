"""The approach: gradient descent until the sharpness first reaches its edge, located to one step."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from tqdm import tqdm

from eoslib import rules
from eoslib.eigen import random_direction
from eoslib.geometry import local_geometry
from eoslib.objective import Objective
from eoslib.rules import GradientDescent
from eoslib.status import Status

#: Longest interval between two measurements of the sharpness, in steps.
LONGEST_INTERVAL = 25


class EdgeStatus(Status):
    """How the search for the instability ended."""

    REACHED = "reached: the sharpness crossed 2/η at the last step recorded"
    AT_START = "the sharpness is above 2/η at the start: lower the learning rate, or warm it up, to see it sharpen"
    STEP_LIMIT = "not reached: the sharpness stayed below 2/η for all steps allowed"
    DIVERGED = "diverged: the loss is no longer finite, or a million times its first value"


class Approach(NamedTuple):
    """Gradient descent up to the first step with S ≥ 2/η."""

    theta: Float[Array, " p"]  # position at the last step recorded
    eigenvector: Float[Array, " p"]
    step: int
    status: EdgeStatus
    loss: np.ndarray  # (step + 1,), the loss at every step
    checks: dict[str, np.ndarray]  # step, sharpness, alpha, gradient_norm where the sharpness was measured


@jax.jit(static_argnames=("length",))
def descend(objective: Objective, rule: GradientDescent, theta, steps, length):
    """Take at most ``length`` steps; return θ and the losses before each step (NaN beyond)."""

    def unfinished(carry):
        i, _, losses = carry
        return (i < steps) & ((i == 0) | jnp.isfinite(losses[jnp.maximum(i - 1, 0)]))

    def step(carry):
        i, theta, losses = carry
        loss, gradient = objective.value_and_grad(theta)
        return i + 1, rule.update(theta, gradient), losses.at[i].set(loss)

    losses = jnp.full(length, jnp.nan, objective.dtype)
    return jax.lax.while_loop(unfinished, step, (jnp.zeros((), jnp.int32), theta, losses))[1:]


@jax.jit(static_argnames=("tolerance",))
def _measure(objective: Objective, theta, start, tolerance):
    geometry = local_geometry(objective, theta, start, tolerance=tolerance, max_products=2000)
    values = {name: getattr(geometry, name) for name in ("loss", "sharpness", "alpha")}
    return geometry.eigenvector, values | {"gradient_norm": jnp.linalg.norm(geometry.gradient)}


def find_instability(
    objective: Objective, theta: Float[Array, " p"], rule: GradientDescent | float,
    *, max_steps: int, max_interval: int = LONGEST_INTERVAL, tolerance: float = 3e-3, seed: int = 0,
    progress: bool = True,
) -> Approach:  # fmt: skip
    """Descend, full batch, until the sharpness first reaches 2/η, located to one step.

    The sharpness is measured at intervals of half the time that its rise would need to reach 2/η: seldom far from the
    edge, often near it.  A crossing inside an interval is found by bisection from the last position below.

    Args:
        objective: The loss.
        theta: Start (p,).
        rule: Update rule, or the step size η of gradient descent.
        max_steps: Steps allowed.
        max_interval: Longest interval between measurements.
        tolerance: Residual of the eigenvector relative to S.
        seed: Seed of the first eigen-solve.
        progress: Whether to draw a progress bar (on standard error).

    Returns:
        Approach: position, the series so far and a worded status, whatever happened.

    Raises:
        ValueError: if η is not positive and finite, ``max_steps`` < 1, or θ has the wrong shape or dtype.
    """
    rule = rules.resolve(rule)
    if max_steps < 1:
        raise ValueError(f"max_steps must be at least 1, got {max_steps!r}")
    with jax.enable_x64(True):
        theta, edge = objective.position(theta), rule.edge

        def measure(theta, u, step):
            u, values = _measure(objective, theta, u, tolerance)
            return u, {"step": step} | {name: float(value) for name, value in values.items()}

        def result(status):
            loss = np.concatenate([*losses, [checks[-1]["loss"]]])[: step + 1]
            series = {name: np.asarray([check[name] for check in checks]) for name in checks[0] if name != "loss"}
            return Approach(theta, u, step, status, loss, series)

        u, check = measure(theta, random_direction(objective.size, objective.dtype, seed), 0)
        step, interval, losses, checks = 0, 1, [], [check]
        if not np.isfinite(check["loss"]):
            return result(EdgeStatus.DIVERGED)
        if check["sharpness"] >= edge:
            return result(EdgeStatus.AT_START)
        too_large = 1e6 * (1 + abs(check["loss"]))
        with tqdm(total=max_steps, desc="to the edge", disable=not progress, leave=False) as bar:
            while step < max_steps:
                interval = min(interval, max_steps - step)
                ahead, series = descend(objective, rule, theta, interval, max_interval)
                series = np.asarray(series)[:interval]
                grown = ~(series < too_large)
                if grown.any():
                    losses.append(series)
                    step += int(grown.argmax())
                    return result(EdgeStatus.DIVERGED)
                u_ahead, check = measure(ahead, u, step + interval)
                crossed = check["sharpness"] >= edge
                if crossed and interval > 1:
                    interval //= 2  # bisection: look again from the last position below
                    continue
                theta, u, step = ahead, u_ahead, step + interval
                slope = (check["sharpness"] - checks[-1]["sharpness"]) / interval
                losses.append(series)
                checks.append(check)
                bar.update(interval)
                bar.set_postfix_str(f"S = {check['sharpness']:.4g} of {edge:.4g}, loss {check['loss']:.4g}")
                if not np.isfinite(check["loss"] + check["sharpness"]):
                    return result(EdgeStatus.DIVERGED)
                if crossed:
                    return result(EdgeStatus.REACHED)
                wait = 0.5 * (edge - check["sharpness"]) / slope if slope > 0 else np.inf
                interval = int(np.clip(wait, 1, min(2 * interval, max_interval)))
        return result(EdgeStatus.STEP_LIMIT)
