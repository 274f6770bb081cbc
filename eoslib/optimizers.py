"""Optax's transformations as update rules: the rule and its rates read off by probing, since closures hide them.

>>> print(from_optax(optax.sgd(0.1, momentum=0.9)))
HeavyBall(learning_rate=0.1, momentum=0.9)
"""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from eoslib.position import Position
from eoslib.rules import Adam, GradientDescent, HeavyBall, Nesterov, RMSProp, Rule

#: Largest difference between a rule's moves and optax's, relative to the largest: rounding of float32, as of 1 − β₂.
ROUNDING = 1e-4
#: Gradients in the comparison, over which a schedule shows if it changes the rate so soon.
STEPS = 30


@dataclasses.dataclass(frozen=True)
class Transformation(Rule):
    """θ' = θ + the update of an optax transformation, which sees θ as one flat vector; no edge is known."""

    transformation: optax.GradientTransformation = dataclasses.field(metadata={"static": True})

    def init(self, theta):
        """Return optax's state for θ (p,)."""
        return self.transformation.init(theta.astype(theta.dtype))

    def step(self, objective, theta, memory, loss, gradient):
        """Return θ moved by the update, and the state."""
        updates, memory = self.transformation.update(gradient.astype(theta.dtype), memory, theta.astype(theta.dtype))
        return theta + jnp.asarray(updates, theta.dtype), memory


def moves(rule: Rule, gradients: Any, start: float = 0.0) -> Any:
    """Return the moves (T, p) of a rule that needs no loss, from θ = ``start`` in all entries, at gradients (T, p)."""

    def step(state, gradient):
        following, memory = rule.step(cast(Any, None), state[0], state[1], jnp.zeros(()), gradient)
        return (following, memory), following - state[0]

    theta = Position.of(jnp.full(gradients.shape[1], start, gradients.dtype))
    return jax.lax.scan(step, (theta, rule.init(theta)), gradients)[1]


def from_optax(transformation: optax.GradientTransformation | Any) -> Rule:
    """Return the update rule that an optax transformation is, with its rates, or else a :class:`Transformation`.

    Gradient descent, heavy ball (also for an average of the gradient), Nesterov, RMSProp and Adam are recognized.
    Known gradients go in, and the rates are computed from the updates, rounded to four digits where these are right to
    2e-5.  The rule is returned if its moves are optax's,
    to rounding, for random gradients of eight decades and at two positions.  What else a transformation does (weight
    decay, clipping, a schedule, an average corrected for its bias) makes it a :class:`Transformation`, whose steps are
    optax's own and whose edge is not known.  A schedule that begins only after :data:`STEPS` steps goes unnoticed.

    Raises:
        ValueError: if it is no optax transformation, or cannot update one array by its gradient alone.
    """
    if not isinstance(transformation, optax.GradientTransformation):
        raise ValueError(f"transformation must be an optax.GradientTransformation, got {type(transformation).__name__}")
    wrapped, random = Transformation(transformation), np.random.default_rng(0)
    gradients = 10.0 ** random.uniform(-4, 4, 8) * random.normal(size=(STEPS, 8))  # in each entry about one size
    gradients = jnp.asarray(gradients, jnp.float32)
    try:
        expected = np.stack([moves(wrapped, gradients, start) for start in (0.0, 1e3)])
        candidates = _candidates(wrapped)
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"transformation cannot update one array by its gradient alone: {error}") from error
    for rule in candidates:
        found = np.asarray(moves(rule, gradients))
        if (np.abs(found - expected) <= ROUNDING * np.abs(found).max(axis=0)).all():
            return rule
    return wrapped


def _decimal(value: Any) -> float:
    """Return the number of four digits that is this one to 2e-5, as float32 knows 1 − β₂, or the number itself."""
    value, short = float(value), float(f"{float(value):.4g}")
    return short if abs(short - value) <= 2e-5 * abs(value) else value


def _fraction(value: Any) -> float:
    """Return a momentum or decay, of which 1 − β has the digits."""
    return 1 - _decimal(1 - float(value))


def _candidates(wrapped: Transformation) -> list[Rule]:
    """Return the rules that answer as the transformation does to an impulse, or to a gradient of one and a tiny one."""
    first, second, third = -np.asarray(moves(wrapped, jnp.eye(3, 1, dtype=jnp.float32)), float)[:, 0]
    theta, tiny = jnp.zeros(1, jnp.float32), 1e-16
    if not first > 0:
        return []
    rules: list[Rule] = [GradientDescent(_decimal(first)), HeavyBall(_decimal(first), _fraction(second / first))]
    if second > 0:
        rules.append(Nesterov(_decimal(first / (1 + third / second)), _fraction(third / second)))
    # A gradient of one leaves 1 − β in the moments, whatever they are called besides; a tiny one meets the offset.
    _, state = wrapped.transformation.update(jnp.ones_like(theta), wrapped.init(theta), theta)
    held = {str(path[-1]).strip("."): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0] if path}
    if "nu" in held:
        decay = _fraction(1 - float(held["nu"][0]))
        rate = first if "mu" in held else first * (1 - decay) ** 0.5
        damping = _decimal(rate * tiny / -float(moves(wrapped, jnp.full((1, 1), tiny, jnp.float32))[0, 0]))
        for damped in ({"offset": damping, "root": 0.0}, {"offset": 0.0, "root": _decimal(damping**2)}):
            if "mu" in held:
                rules.append(Adam(_decimal(rate), _fraction(1 - float(held["mu"][0])), decay, **damped))
            else:
                rules.append(RMSProp(_decimal(rate), decay, **damped))
    return rules
