"""The predicted dynamics: the displacement v* of gradient descent from the constrained trajectory θ†, never corrected.

Symbols are those of arXiv 2209.15594: v = θ − θ†, x = u·v, y = ∇S⊥·v, δ² = 2α/β.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from eoslib.complementarity import smat, svec
from eoslib.constrained import ConstrainedRecord
from eoslib.geometry import LocalGeometry
from eoslib.objective import Objective, inner
from eoslib.rules import GradientDescent
from eoslib.stable_set import bend


class PredictedState(NamedTuple):
    """The predicted displacement v*, before it is referred to the next eigenvector."""

    carried: Float[Array, " p"]  # v*_t, up to its component along u_t
    x: Float[Array, ""]  # x*_t


class PredictedRecord(NamedTuple):
    """The predicted displacement at time t."""

    v: Float[Array, " p"]  # v*_t
    x: Float[Array, ""]  # x*_t = u_t·v*_t
    y: Float[Array, ""]  # y*_t = ∇S_t⊥·v*_t
    loss: Float[Array, ""]  # L(θ†_t) + x*²/η, the theorem's
    true_loss: Float[Array, ""]  # L(θ†_t + v*_t), the published series; a forward pass where it is used
    sharpness: Float[Array, ""]  # 2/η + y* + (∇S·u) x*; λ_max(Λ + Y* + 𝒯[Uᵀx*]) for k directions
    block: Float[Array, " k"]  # x*_t = U_t v*_t of all directions; x* and y* are those of the first


def half_force(record: ConstrainedRecord, x, learning_rate):
    """Return ½(δ² − x²), with δ²/2 from the bend of θ† (δ²/2 = correction/η on the boundary, 0 inside M)."""
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
    ``product`` is ∇²L(θ†_t) applied to ``state.carried`` (p,), computed if it is not given.
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
    at = PredictedRecord(v, state.x, y, loss, objective.loss(record.theta + v), sharp, state.x[None])
    return PredictedState(carried, x), at


def block_predicted_step(
    objective: Objective, rule: GradientDescent, v: Float[Array, " p"], record: ConstrainedRecord,
    product: Float[Array, " p"] | None = None,
) -> tuple[Float[Array, " p"], PredictedRecord]:  # fmt: skip
    """Advance the prediction of k directions (derived here; a conjecture for k > 1).

    v_{t+1} = v_t − η [∇²L v + Uᵀ Y x + ½ ∇³L[Uᵀx, Uᵀx]] + T⊥:W,  x = U v, Y = 𝒯[v⊥]

    For k = 1 it differs from :func:`predicted_step` in two ways.  It keeps the part along u of the last force, which
    averages out there.  And v (p,) is in no basis, so nothing has to be transported when the block turns or changes
    size.  ``product`` is ∇²L(θ†_t) v.
    """
    geometry, learning_rate = record.geometry, jnp.asarray(rule.learning_rate, objective.dtype)
    product = objective.hvp(record.theta, v) if product is None else product
    x, y = coordinates(geometry, v)
    force = product + (y @ x) @ geometry.vectors + svec(jnp.outer(x, x)) / 2 @ geometry.thirds
    loss = geometry.loss + jnp.sum(geometry.values * x**2) / 2
    at = PredictedRecord(v, x[0], y[0, 0], loss, objective.loss(record.theta + v), block_sharpness(geometry, v), x)
    return v - learning_rate * force - bend(geometry, rule, record.multiplier), at


def coordinates(geometry: LocalGeometry, v: Float[Array, " p"]) -> tuple[Float[Array, " k"], Float[Array, "k k"]]:
    """Return x = U v and Y = 𝒯[v⊥], the change of ∇²L on the block due to the part across it of a displacement v."""
    return inner(geometry.vectors, v), smat(inner(geometry.thirds, geometry.outside(v)))


def block_eigenvector(geometry: LocalGeometry, v: Float[Array, " p"], older: Float[Array, " p"]) -> Float[Array, " p"]:
    """Return a start (p,) for the leading eigenvector at θ† + v: within the block that of Λ + 𝒯[v].

    Across the block it is that of ``older``, a previous eigenvector, times their overlap within the block.
    """
    matrix = jnp.diag(geometry.values) + smat(inner(geometry.thirds, v))
    leading, within = jnp.linalg.eigh(matrix)[1][:, -1], inner(geometry.vectors, older)
    return leading @ geometry.vectors + jnp.sum(leading * within) * geometry.outside(older)


def block_sharpness(geometry: LocalGeometry, v: Float[Array, " p"]) -> Float[Array, ""]:
    """Return λ_max(Λ + 𝒯[v]), the sharpness at θ† + v to first order."""
    return jnp.linalg.eigvalsh(jnp.diag(geometry.values) + smat(inner(geometry.thirds, v)))[-1]


def generalized_predicted_step(
    objective: Objective,
    rule: GradientDescent,
    v: Float[Array, " p"],
    record: ConstrainedRecord,
    product: Float[Array, " p"] | None = None,
) -> tuple[Float[Array, " p"], PredictedRecord]:
    """Advance the generalized prediction, in which the true loss along the block replaces its model; a gradient more.

    v_{t+1} = v_t − η [½(x² − δ²)∇S⊥ + ∇²L v⊥ + u (u·∇L(θ† + x u)) + x y u]

    for k = 1, and as :func:`block_predicted_step` for k > 1 with U(∇L(θ† + Uᵀx) − ∇L(θ†)) for its forces within the
    block.  The arguments are the same.
    """
    geometry, theta = record.geometry, record.theta
    learning_rate = jnp.asarray(rule.learning_rate, objective.dtype)
    product = objective.hvp(theta, v) if product is None else product
    x, y = coordinates(geometry, v)
    along = x @ geometry.vectors
    loss, gradient = objective.value_and_grad(theta + along.astype(theta.dtype))
    pull = gradient - geometry.gradient if x.size > 1 else gradient
    force = product - x @ geometry.images + svec(jnp.outer(x, x)) / 2 @ geometry.outside(geometry.thirds)
    force = force + (inner(geometry.vectors, pull) + y @ x) @ geometry.vectors
    sharp, loss = block_sharpness(geometry, v), loss + inner(x, y @ x) / 2
    at = PredictedRecord(v, x[0], y[0, 0], loss, objective.loss(theta + v), sharp, x)
    return v - learning_rate * force - bend(geometry, rule, record.multiplier), at
