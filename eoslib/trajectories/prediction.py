"""The predicted dynamics: the displacement v* of gradient descent from the constrained trajectory θ†, never corrected.

Symbols are those of arXiv 2209.15594: v = θ − θ†, x = u·v, y = ∇S⊥·v, δ² = 2α/β.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from eoslib.constrained import ConstrainedRecord
from eoslib.objective import Objective, inner
from eoslib.rules import GradientDescent


class PredictedState(NamedTuple):
    """The predicted displacement v*, before it is referred to the next eigenvector."""

    carried: Float[Array, " p"]  # what v*_t is, up to its component along u_t
    x: Float[Array, ""]  # x*_t


class PredictedRecord(NamedTuple):
    """The predicted displacement at time t."""

    v: Float[Array, " p"]  # v*_t
    x: Float[Array, ""]  # x*_t = u_t·v*_t
    y: Float[Array, ""]  # y*_t = ∇S_t⊥·v*_t
    loss: Float[Array, ""]  # L(θ†_t) + x*²/η, the theorem's
    true_loss: Float[Array, ""]  # L(θ†_t + v*_t), the published series; a forward pass where it is used
    sharpness: Float[Array, ""]  # 2/η + y* + (∇S·u) x*


def half_force(record: ConstrainedRecord, x, learning_rate):
    """Return ½(δ² − x²): the constraint's part is what bent θ† (δ²/2 = correction/η on the boundary, 0 inside M)."""
    return record.correction / learning_rate - x * x / 2


def predicted_step(
    objective: Objective,
    rule: GradientDescent,
    state: PredictedState,
    record: ConstrainedRecord,
    product: Float[Array, " p"] | None = None,
) -> tuple[PredictedState, PredictedRecord]:
    """Advance the predicted dynamics of the coupling theorem in vector form.

    v*_{t+1} = P⊥_{t+1} (I − η∇²L_t) P⊥_t v*_t + η P⊥_{t+1} ∇S_t⊥ (δ_t² − x*_t²)/2 − (1 + η y*_t) x*_t u_{t+1}

    The displacement's component along u_t is replaced by x*; ``record`` is the constrained step at time t, and
    ``product`` is ∇²L(θ†_t) applied to ``state.carried`` (p,), computed where it is not given.
    """
    geometry, learning_rate = record.geometry, jnp.asarray(rule.learning_rate, objective.dtype)
    product = objective.hvp(record.theta, state.carried) if product is None else product
    u = geometry.eigenvector
    along = inner(u, state.carried)
    across = state.carried - along * u  # P⊥ v*
    y = inner(geometry.perpendicular, across)
    loss = geometry.loss + state.x**2 * (geometry.sharpness / 2)
    sharp = geometry.sharpness + y + geometry.slope_along_u * state.x
    carried = across - learning_rate * (product - along * geometry.hvp)
    carried = carried + (learning_rate * half_force(record, state.x, learning_rate)) * geometry.perpendicular
    x = (1 - learning_rate * (geometry.sharpness + y)) * state.x  # −(1 + ηy)x on the boundary, S = 2/η
    v = across + state.x * u
    return PredictedState(carried, x), PredictedRecord(v, state.x, y, loss, objective.loss(record.theta + v), sharp)


def generalized_predicted_step(
    objective: Objective,
    rule: GradientDescent,
    v: Float[Array, " p"],
    record: ConstrainedRecord,
    product: Float[Array, " p"] | None = None,
) -> tuple[Float[Array, " p"], PredictedRecord]:
    """Advance the generalized prediction: the true loss along u replaces its quadratic model; one gradient more.

    v_{t+1} = v_t − η [½(x² − δ²)∇S⊥ + ∇²L v⊥ + u (u·∇L(θ† + x u)) + x y u]

    Arguments as :func:`predicted_step`'s, but for v (p,), the displacement at time t; ``product`` is ∇²L(θ†_t) v.
    """
    geometry, theta = record.geometry, record.theta
    learning_rate = jnp.asarray(rule.learning_rate, objective.dtype)
    product = objective.hvp(theta, v) if product is None else product
    u = geometry.eigenvector
    x = inner(u, v)
    y = inner(geometry.perpendicular, v - x * u)
    loss, gradient = objective.value_and_grad(theta + (x * u).astype(theta.dtype))
    force = product - x * geometry.hvp - half_force(record, x, learning_rate) * geometry.perpendicular
    force = force + (inner(u, gradient) + x * y) * u
    sharp = geometry.sharpness + y + geometry.slope_along_u * x
    at = PredictedRecord(v, x, y, loss + x * x * y / 2, objective.loss(theta + v), sharp)
    return v - learning_rate * force, at
