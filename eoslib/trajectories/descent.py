"""Training with its sharpness followed: one step of gradient descent, and whole runs under any update rule.

>>> import jax.numpy as jnp
>>> objective = Objective.create(lambda p: p["w"] ** 2, {"w": jnp.array(1.0)})
>>> print(descend(objective, jnp.array([1.0]), jnp.array([0.25, 0.5])).loss)
[1.   0.25]
>>> from eoslib.rules import HeavyBall
>>> print(follow(objective, jnp.array([1.0]), jnp.array([1.0]), HeavyBall(0.25, momentum=0.5), steps=3).edge)
[12. 12. 12.]
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from eoslib.eigen import improved_eigenpair, preconditioned
from eoslib.objective import Objective, inner, length
from eoslib.position import Position, Theta
from eoslib.rules import GradientDescent, Rule, resolve


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
    rate: Float[Array, " T"]  # learning rate of the step; NaN for a rule without one
    sharpness: Float[Array, " T"]  # S, of the plain Hessian; NaN where it was not measured
    products: Int[Array, " T"]  # Hessian-vector products spent on the eigenpairs
    theta: Theta  # after the last step
    kept: Float[Array, "k p"]  # positions before steps 0, every, 2·every, …, in the precision of the derivatives
    curvature: Float[Array, " T"]  # λ₁ of v ↦ r∘∇²L(r∘v) for the step's scale r, which the edge bounds; S without one
    edge: Float[Array, " T"]  # of the rule, for the gradient before the step; NaN for a rule without one
    oscillation: Float[Array, " T"]  # u·(θ_{t+1} − θ_t)/2, a length, with the u last measured
    memory: Any  # of the rule, after the last step


def _pair(matvec: Callable, older: Array, newer: Array):
    """Measure one leading eigenpair as :func:`look` does: its value, the two starts for later, and products."""
    u = older / jnp.linalg.norm(older)
    pairs = improved_eigenpair(matvec, u, matvec(u), tolerance=1e-2)
    return pairs.values[0], (newer, pairs.vectors[0]), pairs.products


@jax.jit(static_argnames=("scheduled", "steps", "every", "stride", "relative"))
def _train(objective: Objective, rule, state, scheduled, steps: int, every: int, stride: int, relative: bool):
    """Blocks of ``every`` steps, the position kept before each; ``state`` is (θ, memory, starts of the eigenvectors).

    There is one pair of starts for the Hessian, and a second for a scaled one.  A fixed rule's rates are constants of
    the loop, a schedule's are what it runs over.
    """
    dtype = objective.dtype

    def when_due(t, measure, otherwise):
        return measure() if stride == 1 else jax.lax.cond(t % stride == 0, measure, otherwise)

    def at_once(theta, starts):
        record, newest = look(objective, DescentState(theta, *starts[0]))
        measured = jnp.broadcast_to(record.sharpness, 2), record.products
        return (record.loss, record.gradient), measured, [(starts[0][1], newest)]

    def step(state, slice_):
        (theta, memory, starts), (t, now) = state, slice_
        now, unmeasured = now if scheduled else rule, (jnp.zeros(2, dtype), jnp.zeros((), jnp.int32))
        plain = lambda: (objective.value_and_grad(theta), unmeasured, starts)  # noqa: E731
        found = when_due(t, lambda: at_once(theta, starts), plain) if len(starts) == 1 else plain()
        (loss, gradient), (values, products), starts = found
        if relative:
            now = dataclasses.replace(now, learning_rate=now.learning_rate / values[0])
        following, memory = now.step(objective, theta, memory, loss, gradient)
        if len(starts) == 2:  # the preconditioner is that of the step, which only the gradient yields

            def scaled():
                hvp = partial(objective.hvp, theta)
                pairs = map(_pair, (hvp, preconditioned(hvp, now.scale(memory))), *zip(*starts, strict=True))
                found, vectors, spent = zip(*pairs, strict=True)
                return (jnp.stack(found), sum(spent)), list(vectors)

            (values, products), starts = when_due(t, scaled, lambda: (unmeasured, starts))
        moved = inner(starts[0][1].astype(theta.dtype), following - theta).astype(dtype) / 2 if starts else None
        rate, edge = (
            None if number is None else jnp.asarray(number, dtype)
            for number in (now.rate(memory), now.edge_at(length(gradient)))
        )
        return (following, memory, starts), (loss, rate, *values, products, edge, moved)

    def block(state, some):
        following, series = jax.lax.scan(step, state, some)
        return following, (state[0].astype(dtype), series)

    schedule = jax.tree.map(lambda rate: jnp.broadcast_to(rate, (steps,)), rule) if scheduled else None
    slices = jax.tree.map(lambda series: series.reshape(-1, every), (jnp.arange(steps), schedule))
    state, (kept, series) = jax.lax.scan(block, state, slices)
    return state, kept, jax.tree.map(lambda values: values.reshape(-1), series)


def descend(objective: Objective, theta: Any, rule: Any, steps: int | None = None, **options) -> Training:
    """Train as :func:`follow`, the sharpness not measured: one gradient per step for most rules."""
    return follow(objective, theta, None, rule, steps, **options)


def follow(
    objective: Objective, theta: Any, eigenvector: Float[Array, " p"] | None, rule: Any, steps: int | None = None,
    *, stride: int = 1, every: int | None = None, relative: bool = False, memory: Any = None,
) -> Training:  # fmt: skip
    """Train on the full batch, the sharpness measured before every step: two gradients per step, more where u turns.

    A preconditioned rule costs twice the products, as the plain and the scaled Hessian are measured, and half a
    gradient more.

    Args:
        objective: The loss.
        theta: Start, a vector (p,) or Position.
        eigenvector: Start (p,) for the leading eigenvector; None measures no sharpness.
        rule: An update rule; its rates are numbers or, without ``steps``, series (T,), one entry per step.  A bare
            learning rate, or a series of them, is gradient descent's.
        steps: Number T of steps, for fixed rates.
        stride: Steps from one measurement of the sharpness to the next.
        every: The positions before steps 0, ``every``, … are kept, a divisor of T; by default only the start is.
        relative: Learning rates are multiples of 1/S(θ_t): at 1 or less the step is as short as the flow asks for.
        memory: The rule's memory at the start, as of an earlier run; by default ``rule.init(theta)``.

    Raises:
        ValueError: if a rate is out of its range, the rates are no series without ``steps``, ``every`` does not divide
            T, ``stride`` < 1, or ``relative`` lacks an eigenvector at every step or meets a preconditioner.
    """
    if steps is None:
        rule = rule if isinstance(rule, Rule) else GradientDescent(jnp.asarray(rule))
        shapes = {np.shape(rate) for rate in jax.tree.leaves(rule)} - {()}
        if len(shapes) != 1 or len(*shapes) != 1 or 0 in max(shapes):
            got = ", ".join(map(str, sorted(shapes))) or "numbers"
            raise ValueError(f"rates must have shape (T,) with T >= 1, one per step, or steps be given, got {got}")
        total = int(max(shapes)[0] or 0)
        rule = jax.tree.map(lambda rate: jnp.asarray(rate, objective.dtype), rule)
    else:
        rule, total = resolve(rule), int(steps)
    every = total if every is None else every
    if total < 1 or every < 1 or total % every:
        raise ValueError(f"every must divide the number of steps {total}, got {every!r}")
    if stride < 1:
        raise ValueError(f"stride must be at least 1, got {stride!r}")
    is_scaled = type(rule).scale is not Rule.scale
    if relative and (eigenvector is None or stride > 1 or is_scaled):
        raise ValueError("rates relative to 1/S need an eigenvector to start from, stride 1 and no preconditioner")
    theta = Position.of(objective.position(theta))
    memory = rule.init(theta) if memory is None else memory
    starts = [] if eigenvector is None else [(objective.place(eigenvector).astype(objective.dtype),) * 2]
    state = theta, objective.place(memory), starts * (1 + is_scaled)
    (theta, memory, _), kept, series = _train(objective, rule, state, steps is None, total, every, stride, relative)
    loss, rate, sharpness, curvature, products, edge, oscillation = series
    unknown: Any = np.full(total, np.nan)  # of NumPy: jax_debug_nans allows no NaN of JAX's
    rate, edge, oscillation = (unknown if values is None else values for values in (rate, edge, oscillation))
    if eigenvector is None:
        sharpness = curvature = unknown
    elif stride > 1:
        due = np.arange(total) % stride == 0
        sharpness, curvature = (cast(Array, np.where(due, values, np.nan)) for values in (sharpness, curvature))
    return Training(loss, rate, sharpness, products, theta, kept, curvature, edge, oscillation, memory)


def steps_to(loss: ArrayLike, level: float) -> int | None:
    """Return the first step before which the loss (T,) is at most ``level`` (a loss), or None."""
    reached = jnp.asarray(loss) <= level
    return int(reached.argmax()) if bool(reached.any()) else None
