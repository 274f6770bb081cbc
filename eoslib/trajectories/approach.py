"""The approach: gradient descent until the sharpness first reaches its edge, located to one step."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from tqdm import tqdm

from eoslib.eigen import random_direction
from eoslib.geometry import local_geometry
from eoslib.objective import Objective
from eoslib.position import Position, Theta
from eoslib.rules import GradientDescent, resolve
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

    theta: Theta  # position at the last measurement: at ``step``, unless the loss diverged
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
    objective: Objective, theta: Theta, rule: GradientDescent | float,
    *, max_steps: int, max_interval: int = LONGEST_INTERVAL, tolerance: float = 3e-3, seed: int = 0,
    progress: bool = True,
) -> Approach:  # fmt: skip
    """Descend, full batch, until S first reaches 2/η, located to one step; return the series so far whatever happens.

    The sharpness is measured at intervals of half the time that its rise would need to reach 2/η: seldom far from the
    edge, often near it.  A crossing inside an interval is found by bisection from the last position below.

    ``rule`` is an update rule, or the step size η of gradient descent; from ``theta`` (p,) at most ``max_steps`` are
    taken, with measurements at most ``max_interval`` steps apart.  ``tolerance`` is the residual of the eigenvector
    relative to S, ``seed`` that of the first eigen-solve; ``progress`` draws a bar on standard error.

    Raises:
        ValueError: if η is not positive and finite, ``max_steps`` < 1, or θ has the wrong shape or dtype.
    """
    rule = resolve(rule)
    if max_steps < 1:
        raise ValueError(f"max_steps must be at least 1, got {max_steps!r}")
    with tqdm(total=max_steps, desc="to the edge", disable=not progress, leave=False) as bar:
        theta, u = Position.of(objective.position(theta)), random_direction(objective.size, objective.dtype, seed)
        step, interval, status, losses, checks = 0, 0, None, [], []
        while status is None:
            ahead, series = descend(objective, rule, theta, interval, max_interval)
            series = np.asarray(series)[:interval]
            grown = ~(series < 1e6 * (1 + abs(checks[0]["loss"]))) if checks else np.zeros(1, bool)
            if grown.any():
                losses.append(series)
                step, status = step + int(grown.argmax()), EdgeStatus.DIVERGED
                break
            u_ahead, values = _measure(objective, ahead, u, tolerance)
            check = {"step": step + interval} | {name: float(value) for name, value in values.items()}
            loss, sharpness = check["loss"], check["sharpness"]
            if sharpness >= rule.edge and interval > 1:
                interval //= 2  # bisection: look again from the last position below
                continue
            rise = (sharpness - checks[-1]["sharpness"]) / interval if checks else 0.0
            theta, u, step = ahead, u_ahead, step + interval
            losses.append(series)
            checks.append(check)
            bar.update(interval)
            bar.set_postfix_str(f"S = {sharpness:.4g} of {rule.edge:.4g}, loss {loss:.4g}")
            if not np.isfinite(loss) or (step and not np.isfinite(sharpness)):
                status = EdgeStatus.DIVERGED
            elif sharpness >= rule.edge:
                status = EdgeStatus.REACHED if step else EdgeStatus.AT_START
            elif step == max_steps:
                status = EdgeStatus.STEP_LIMIT
            else:
                wait = 0.5 * (rule.edge - sharpness) / rise if rise > 0 else np.inf
                interval = int(np.clip(wait, 1, max(1, min(2 * interval, max_interval, max_steps - step))))
        loss = np.concatenate([*losses, [checks[-1]["loss"]]])[: step + 1]
        series = {name: np.asarray([check[name] for check in checks]) for name in checks[0] if name != "loss"}
        return Approach(theta, u, step, status, loss, series)
