"""The approach: training until the curvature first reaches the rule's edge, located to one step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from tqdm import tqdm

from eoslib.eigen import leading_eigenpair, preconditioned, random_direction
from eoslib.geometry import local_geometry
from eoslib.objective import Objective
from eoslib.position import Position, Theta
from eoslib.rules import GradientDescent, Rule, resolve
from eoslib.status import Status

#: Longest interval between two measurements of the sharpness, in steps.
LONGEST_INTERVAL = 25


class EdgeStatus(Status):
    """How the search for the instability ended."""

    REACHED = "reached: the sharpness is above its edge at the last step recorded, below whenever measured before"
    AT_START = "the sharpness is above its edge at the start: lower the learning rate, or warm it up, to see it sharpen"
    STEP_LIMIT = "not reached: the sharpness was below its edge whenever it was measured in the steps allowed"
    DIVERGED = "diverged: the loss is no longer finite, or a million times its first value"


class Approach(NamedTuple):
    """Training up to the first step with S ≥ 2/η, or the curvature at the edge of another rule."""

    theta: Theta  # position at the last measurement: at ``step``, unless the loss diverged
    eigenvector: Float[Array, " p"]
    step: int
    status: EdgeStatus
    loss: np.ndarray  # (step + 1,), the loss at every step
    checks: dict[str, np.ndarray]  # step, sharpness, alpha, gradient_norm, curvature, edge where these were measured
    memory: Any = ()  # of the rule, at that position

    @property
    def unmeasured(self) -> int:
        """Steps in a row, at most, without a measurement: how long an excursion above the edge may go unseen."""
        return int(np.diff(self.checks["step"], prepend=0).max()) - 1 if self.step else 0


@jax.jit(static_argnames=("length",))
def descend(objective: Objective, rule: Rule, start, steps, length):
    """Take at most ``length`` steps; return (θ, memory) before and after the last, and the losses (0 beyond)."""

    def unfinished(carry):
        i, _, _, losses = carry
        return (i < steps) & ((i == 0) | jnp.isfinite(losses[jnp.maximum(i - 1, 0)]))

    def step(carry):
        i, _, now, losses = carry
        loss, gradient = objective.value_and_grad(now[0])
        return i + 1, now, rule.step(objective, now[0], now[1], loss, gradient), losses.at[i].set(loss)

    losses = jnp.zeros(length, objective.dtype)
    return jax.lax.while_loop(unfinished, step, (jnp.zeros((), jnp.int32), start, start, losses))[1:]


@jax.jit(static_argnames=("tolerance", "midpoint"))
def _measure(objective: Objective, rule: Rule, here, starts, tolerance, midpoint):
    """Measure at ``here``, (θ, memory), from starts (1, p), or (2, p) where a scaled Hessian's eigenvector is too."""
    theta, memory = here
    first, where = objective.value_and_grad(theta) if midpoint else None, theta
    if first is not None:
        where = theta + (rule.step(objective, theta, memory, *first)[0] - theta) / 2
    geometry = local_geometry(objective, where, starts[0], tolerance=tolerance, max_products=2000)
    loss, gradient = first or (geometry.loss, geometry.gradient)
    values = {"loss": loss, "sharpness": geometry.sharpness, "alpha": geometry.alpha}
    values |= {"gradient_norm": jnp.linalg.norm(gradient), "curvature": geometry.sharpness}
    vectors = geometry.eigenvector[None]
    if len(starts) > 1:  # the preconditioner is that of the step from here
        scale = rule.scale(rule.step(objective, theta, memory, loss, gradient)[1])
        operator = preconditioned(lambda v: objective.hvp(where, v), scale)
        pair = leading_eigenpair(operator, starts[1], tolerance=tolerance, max_products=2000)
        vectors, values = jnp.concatenate([vectors, pair.vectors]), values | {"curvature": pair.values[0]}
    return vectors, values


def find_instability(
    objective: Objective, theta: Any, rule: Rule | float,
    *, max_steps: int, max_interval: int = LONGEST_INTERVAL, tolerance: float = 3e-3, seed: int = 0,
    midpoint: bool = False, progress: bool = True, restore: Callable | None = None, save: Callable | None = None,
) -> Approach:  # fmt: skip
    """Train, full batch, until S first reaches 2/η; return the series so far whatever happens.

    The sharpness is measured at intervals of half the time that its rise would need to reach 2/η: seldom far from the
    edge, often near it.  Gradient descent may alternate between two values of S, so an interval ends with measurements
    at its last two steps.  Where one of them lies above, or the loss rose within the interval (below 2/η it cannot:
    descent lemma), the interval is taken once more with a measurement at every step.  What could still be missed is an
    excursion between two measurements that raises no loss: :attr:`Approach.unmeasured` bounds its length, and
    ``max_interval=1`` excludes it.  The step found does not depend on ``max_steps``.

    ``rule`` is an update rule with an edge, or the step size η of gradient descent. Of another rule the curvature that
    its edge bounds, that of the scaled Hessian if it has a scale, takes the place of S, and a loss that rises gives no
    reason to look closely: below the edge it may. A rule with a scale is not judged before its first step, whose P has
    seen one gradient. From ``theta`` (p,) at most ``max_steps`` are taken, measured at most ``max_interval`` steps
    apart. ``tolerance`` is the residual of the eigenvector relative to S, ``seed`` that of the first eigen-solve;
    ``midpoint`` measures sharpness, α and eigenvector halfway along each step, as published; ``progress`` draws a bar.
    After each interval ``save`` is called with the state, a pytree; ``restore``, called with the structure of one,
    returns a state to go on from, to the same numbers, or None.

    Raises:
        ValueError: if η is not positive and finite, the rule has no edge, ``max_steps`` or ``max_interval`` < 1, or θ
            has the wrong shape or dtype.
    """
    rule = resolve(rule)
    if rule.edge_at(1.0) is None:
        raise ValueError(f"rule must have an edge, which {type(rule).__name__} has not")
    for name, value in (("max_steps", max_steps), ("max_interval", max_interval)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value!r}")
    noise = 100 * float(jnp.finfo(objective.dtype).eps)  # of a loss, relative: a mean over samples adds up roundings

    def look(here, vectors, step):
        vectors, values = _measure(objective, rule, here, vectors, tolerance, midpoint)
        values = {"step": step} | {name: float(value) for name, value in values.items()}
        return vectors, values | {"edge": float(rule.edge_at(values["gradient_norm"]))}

    def reached(check):
        return check["curvature"] >= check["edge"]

    monotone, count = isinstance(rule, GradientDescent), 1 + (type(rule).scale is not Rule.scale)
    theta = Position.of(objective.position(theta))
    here = theta, objective.place(rule.init(theta))
    u = objective.place(random_direction(objective.size, objective.dtype, seed))
    vectors, check = look(here, jnp.stack([u] * count), 0)
    step, interval, closely, limit, status, losses, checks = 0, 1, 0, False, None, [], [check]
    if not np.isfinite(check["loss"]) or (count == 1 and reached(check)):  # a first P has seen one gradient
        status = EdgeStatus.AT_START if np.isfinite(check["loss"]) else EdgeStatus.DIVERGED
    if restore is not None and (kept := restore((here, vectors, 0, 0, check))) is not None:
        (*counts, ended), losses = kept[2], [kept[3]]
        here, vectors = objective.place(jax.tree.map(jnp.asarray, kept[:2]))
        (step, interval, closely, limit), status = map(int, counts), EdgeStatus(int(ended)) if ended >= 0 else None
        checks = [
            dict(zip(check, values, strict=True)) for values in zip(*(kept[4][name] for name in check), strict=True)
        ]
    with tqdm(total=max_steps, desc="to the edge", disable=not progress, leave=False) as bar:
        while status is None:
            before, ahead, series = descend(objective, rule, here, interval, max_interval)
            vectors_ahead, found = look(before, vectors, step + interval - 1) if interval > 1 else (vectors, checks[-1])
            vectors_ahead, check = look(ahead, vectors_ahead, step + interval)
            series = np.append(np.asarray(series, float)[:interval], check["loss"])
            top = max(found, check, key=lambda c: c["curvature"] / c["edge"]) if interval > 1 else check
            ended = not (series < 1e6 * (1 + abs(checks[0]["loss"]))).all() or not np.isfinite(top["curvature"])
            rose = monotone and (np.diff(series) > noise * np.abs(series[:-1])).any()
            if interval > 1 and not limit and (ended or rose or reached(top)):
                closely, interval = step + interval, 1
                continue
            if step + interval > max_steps:  # looked at as if there were no limit, so that nothing depends on it
                limit, interval = True, max_steps - step
                continue
            rise = (top["curvature"] - checks[-1]["curvature"]) / interval
            here, vectors, step = ahead, vectors_ahead, step + interval
            losses.append(series[:-1])
            checks += [found, check] if interval > 1 else [check]
            bar.update(interval)
            bar.set_postfix_str(f"S = {top['curvature']:.4g} of {top['edge']:.4g}, loss {check['loss']:.4g}")
            if ended or limit:
                status = EdgeStatus.DIVERGED if ended else EdgeStatus.STEP_LIMIT
            elif reached(top):
                status = EdgeStatus.REACHED
            elif step == max_steps:
                status = EdgeStatus.STEP_LIMIT
            elif step >= closely:
                wait = 0.5 * (top["edge"] - top["curvature"]) / rise if rise > 0 else np.inf
                interval = int(np.clip(wait, 1, min(2 * interval, max_interval)))
            if save is not None:
                counts = np.asarray([step, interval, closely, limit, -1 if status is None else status])
                series = {name: np.asarray([check[name] for check in checks]) for name in checks[0]}
                save((here, vectors, counts, np.concatenate(losses), series))
    loss = np.concatenate([*losses, [checks[-1]["loss"]]])
    series = {name: np.asarray([check[name] for check in checks]) for name in checks[0] if name != "loss"}
    return Approach(here[0], vectors[0], step, status, loss, series, here[1])
