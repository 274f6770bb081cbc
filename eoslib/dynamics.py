"""One-step maps: gradient descent, gradient flow, the constrained trajectory, and the predicted dynamics.

Every map is pure; loops, progress bars and files are elsewhere.  Symbols are those of arXiv 2209.15594: θ† the
constrained trajectory, v = θ − θ† the displacement, x = u·v, y = ∇S⊥·v, δ² = 2α/β.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from eoslib.eigen import leading_eigenpair
from eoslib.geometry import LocalGeometry, local_geometry_and_products, random_direction
from eoslib.objective import Objective
from eoslib.stable_set import check_learning_rate, floor_correction, restoring_move, sharpness_correction, violation


class DescentState(NamedTuple):
    """Gradient descent with its leading eigenvector followed."""

    theta: Float[Array, " p"]  # θ_t
    older: Float[Array, " p"]  # eigenvector two steps ago, on the same side of the valley
    newer: Float[Array, " p"]  # eigenvector one step ago


class DescentRecord(NamedTuple):
    """What a step of gradient descent measures at θ_t."""

    loss: Float[Array, ""]
    gradient: Float[Array, " p"]
    sharpness: Float[Array, ""]
    residual: Float[Array, ""]  # of the eigenvector, a curvature
    products: Int[Array, ""]


def gradient_descent_step(
    objective: Objective, state: DescentState, learning_rate, *, tolerance: float = 1e-2
) -> tuple[DescentState, DescentRecord]:
    """θ ↦ θ − η∇L(θ), and the loss and sharpness at θ.

    Loss, gradient and one Hessian-vector product come from one pass.  Gradient descent alternates between the two walls
    of the valley, so the eigenvector starts from that of two steps ago; it is refined only where its residual, relative
    to S, exceeds ``tolerance`` (the error of S is second order in it).
    """
    u = (state.older / jnp.linalg.norm(state.older)).astype(objective.dtype)
    loss, gradient, hvp = objective.gradient_and_hvp(state.theta, u)
    value = jnp.vdot(u, hvp)
    residual = jnp.linalg.norm(hvp - value * u)
    theta = state.theta - learning_rate * gradient.astype(state.theta.dtype)

    def refine(_):
        pairs = leading_eigenpair(lambda v: objective.hvp(state.theta, v), u, tolerance=tolerance / 2, max_products=100)
        return pairs.values[0], pairs.residuals[0], pairs.vectors[0], pairs.products + 1

    def keep(_):
        power = hvp * (jnp.sign(value) / jnp.linalg.norm(hvp))  # one power step, free of cost
        return value, residual, power, jnp.ones((), jnp.int32)

    value, residual, newest, products = jax.lax.cond(residual > tolerance * jnp.abs(value), refine, keep, None)
    return DescentState(theta, state.newer, newest), DescentRecord(loss, gradient, value, residual, products)


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
    """The flow's state at θ; one gradient."""
    loss, gradient = objective.value_and_grad(theta)
    return FlowState(theta, loss, gradient, eigenvector, jnp.zeros((), theta.dtype))


def _chebyshev_step(force, theta, f0, h, stages):
    """One step of the second-order Runge–Kutta–Chebyshev method: stable for h·ρ up to 0.65·stages² (a traced number).

    Source: Sommeijer, Shampine and Verwer, 1998.
    """
    s = stages.astype(theta.dtype)
    w0 = 1 + (2 / 13) / (s * s)
    root = jnp.sqrt(w0 * w0 - 1)
    angle = s * jnp.log(w0 + root)
    # w1 = T_s'(w0) / T_s''(w0), in hyperbolic form
    w1 = jnp.sinh(angle) * root * root / (jnp.cosh(angle) * s * root - w0 * jnp.sinh(angle))

    def chebyshev(t1, t2, d1, d2, dd1, dd2):
        return 2 * w0 * t1 - t2, 2 * w0 * d1 - d2 + 2 * t1, 2 * w0 * dd1 - dd2 + 4 * d1

    one, zero = jnp.ones_like(w0), jnp.zeros_like(w0)
    _, d2, dd2 = chebyshev(w0, one, one, zero, zero, zero)
    b2 = dd2 / (d2 * d2)
    first = theta + (b2 * w1 * h) * f0
    carry = (jnp.full((), 2, jnp.int32), theta, first, (one, w0, zero, one, zero, zero), b2, b2)

    def stage(carry):
        j, before, last, (ta, tb, da, db, dda, ddb), b_before, b_last = carry
        t, d, dd = chebyshev(tb, ta, db, da, ddb, dda)
        b = dd / (d * d)
        mu, nu, mu_tilde = 2 * b * w0 / b_last, -b / b_before, 2 * b * w1 / b_last
        gamma_tilde = -(1 - b_last * tb) * mu_tilde
        new = (1 - mu - nu) * theta + mu * last + nu * before + h * (mu_tilde * force(last) + gamma_tilde * f0)
        return j + 1, last, new, (tb, t, db, d, ddb, dd), b_last, b

    return jax.lax.while_loop(lambda c: c[0] <= stages, stage, carry)[2]


def gradient_flow(
    objective: Objective, state: FlowState, duration, *, tolerance: float = 1e-3
) -> tuple[FlowState, FlowRecord]:
    """Follow gradient flow for a duration (η times a number of steps) by a stabilised explicit method.

    The number of stages grows like the square root of duration × sharpness, where Euler sub-steps grow linearly.

    Args:
        objective: The loss.
        state: Where the flow stands.
        duration: Time to advance, in units of the learning rate times steps.
        tolerance: Local error accepted in a step, relative to the distance that the step travels.
    """
    theta = state.theta
    u = (state.eigenvector / jnp.linalg.norm(state.eigenvector)).astype(objective.dtype)
    hvp = objective.hvp(theta, u)
    value = jnp.vdot(u, hvp)

    def refine(_):
        pairs = leading_eigenpair(lambda v: objective.hvp(theta, v), u, tolerance=1e-2, max_products=100)
        return pairs.values[0], pairs.vectors[0]

    stale = jnp.linalg.norm(hvp - value * u) > 2e-2 * jnp.abs(value)
    value, u = jax.lax.cond(stale, refine, lambda _: (value, hvp * (jnp.sign(value) / jnp.linalg.norm(hvp))), None)
    # Bound of the spectrum over the interval: the sharpness with room for its rise.
    radius = 1.1 * jnp.maximum(value, 0).astype(theta.dtype)
    duration = jnp.asarray(duration, theta.dtype)

    def force(t):
        return -objective.gradient(t).astype(theta.dtype)

    def unfinished(carry):
        end, left, rejected = carry[0], carry[3], carry[-1]
        return (left > 1e-9 * duration) & (rejected < 30) & jnp.isfinite(end.loss)

    def advance(carry):
        start, f0, trial, left, count, rejected = carry
        h = jnp.minimum(trial, left)
        stages = jnp.maximum(2, 1 + jnp.floor(jnp.sqrt(1.54 * h * radius + 1))).astype(jnp.int32)
        new = _chebyshev_step(force, start.theta, f0, h, stages)
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
        left = jnp.where(accepted, left - h, left)
        return end, jnp.where(accepted, f1, f0), trial, left, count + stages, rejected + (~accepted).astype(jnp.int32)

    trial = jnp.where(state.time_step > 0, state.time_step, duration).astype(theta.dtype)
    zero = jnp.zeros((), jnp.int32)
    carry = (state, -state.gradient.astype(theta.dtype), trial, duration, zero, zero)
    end, _, trial, left, count, rejected = jax.lax.while_loop(unfinished, advance, carry)
    done = left <= 1e-9 * duration  # otherwise the error control gave up, and the curve ends here
    end = end._replace(theta=jnp.where(done, end.theta, jnp.nan), loss=jnp.where(done, end.loss, jnp.nan))
    return end._replace(eigenvector=u, time_step=trial), FlowRecord(value, count, rejected)


class ConstrainedState(NamedTuple):
    """The constrained trajectory with its leading eigenvector followed."""

    theta: Float[Array, " p"]  # θ†_t
    eigenvector: Float[Array, " p"]  # start for u_t
    older: Float[Array, " p"]  # u_{t−1}, improved by a power step
    correction: Float[Array, ""]  # c, multiple of ∇S⊥ by which the last step was bent
    bend: Float[Array, " p"]  # −c ∇S⊥ at the last centre

    @classmethod
    def at(cls, theta, eigenvector) -> ConstrainedState:
        """The state at a point θ† (p,) that no step led to, with a start (p,) for its eigenvector."""
        return cls(theta, eigenvector, eigenvector, jnp.zeros((), eigenvector.dtype), jnp.zeros_like(eigenvector))


class ConstrainedRecord(NamedTuple):
    """What a constrained step measures at θ†_t."""

    theta: Float[Array, " p"]  # θ†_t, after a repair if there was one
    geometry: LocalGeometry  # its products are those of all centres
    active: Array  # whether the step was bent: the sharpness would otherwise pass 2/η
    correction: Float[Array, ""]  # multiple of ∇S⊥ subtracted; η δ²/2 in the continuous limit
    rounds: Int[Array, ""]  # projection rounds beyond the one centre


def constrained_step(
    objective: Objective,
    state: ConstrainedState,
    learning_rate,
    vs: Float[Array, "k p"] | None = None,
    *,
    tolerance: float = 1e-4,
    eigen_tolerance: float = 5e-3,
) -> tuple[ConstrainedState, ConstrainedRecord, Float[Array, "k p"]]:
    """θ† ↦ proj_M(θ† − η∇L(θ†)) by predictor and corrector, with one centre a step.

    At θ†_t the cubic expansion yields ∇L, S, u and ∇S.  The gradient step is linearised, S + ∇S·Δ and (1 − ηS) u·∇L,
    and both conditions of M are restored in the same move.  What is left is second order and the next step removes it;
    where it exceeds the tolerance, rounds of the projection come first.  The nearest point of M lies along ∇S⊥ taken
    there and not at θ†_t: the next step, which knows it, turns this step's bend into that direction.

    Args:
        objective: The loss.
        state: θ†_t and a start for its eigenvector.
        learning_rate: Step size η.
        vs: Directions (k, p) for which ∇²L(θ†_t) v is wanted in the same pass.
        tolerance: Violation of S ≤ 2/η, relative, above which it is restored before the step.
        eigen_tolerance: Residual of u relative to S.

    Returns:
        The next state, what was measured at θ†_t, and the products (k, p).
    """
    vs = jnp.zeros((0, objective.size), objective.dtype) if vs is None else vs.astype(objective.dtype)

    # One centre; a violation beyond the tolerance is restored and the centre looked at again.
    def centre(carry):
        theta, start, before, *_, rounds = carry
        geometry, products = local_geometry_and_products(objective, theta, start, vs, tolerance=eigen_tolerance)
        geometry = geometry._replace(products=geometry.products + before.products)
        again = (violation(geometry, learning_rate).sharpness > tolerance) & (rounds < 5)
        moved = theta + restoring_move(geometry, learning_rate).astype(theta.dtype)
        return jnp.where(again, moved, theta), geometry.improved_eigenvector, geometry, products, again, rounds + 1

    shapes = jax.eval_shape(
        lambda *args: local_geometry_and_products(objective, *args), state.theta, state.eigenvector, vs
    )
    geometry, products = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    start = state.eigenvector.astype(objective.dtype)
    carry = (state.theta, start, geometry, products, jnp.ones((), bool), jnp.zeros((), jnp.int32))
    theta, _, geometry, products, _, rounds = jax.lax.while_loop(lambda carry: carry[4], centre, carry)
    u, perpendicular = geometry.eigenvector, geometry.perpendicular
    slope = jnp.vdot(u, geometry.gradient)
    # The last bend turned from ∇S⊥ of the last centre to that of this one, within the plane orthogonal to u.
    turn = -state.correction.astype(objective.dtype) * perpendicular - state.bend.astype(objective.dtype)
    turn = jnp.where(rounds > 1, 0, turn - jnp.vdot(u, turn) * u)
    plain = geometry.sharpness + learning_rate * geometry.alpha  # S after the plain step, to first order
    excess = (plain + jnp.vdot(perpendicular, turn) - 2 / learning_rate).astype(objective.dtype)
    bend = sharpness_correction(geometry, excess)
    rest = ((1 - learning_rate * geometry.sharpness) * slope).astype(objective.dtype)
    move = -learning_rate * geometry.gradient + turn + bend + floor_correction(geometry, rest)
    correction = jnp.maximum(excess, 0) / geometry.beta
    # u turns evenly: the last two extrapolated start far closer to the next than the last alone (a refinement, or a
    # repair, ends that history).
    latest = geometry.improved_eigenvector
    start = jnp.where((geometry.products > 1) | (rounds > 1), latest, 2 * latest - state.older.astype(latest.dtype))
    following = ConstrainedState(theta + move.astype(theta.dtype), start, latest, correction, bend)
    return following, ConstrainedRecord(theta, geometry, excess > 0, correction, rounds - 1), products


class PredictedState(NamedTuple):
    """The predicted displacement v*, before it is referred to the next eigenvector."""

    carried: Float[Array, " p"]  # what v*_t is, up to its component along u_t
    x: Float[Array, ""]  # x*_t


class PredictedRecord(NamedTuple):
    """The predicted displacement at time t."""

    v: Float[Array, " p"]  # v*_t
    x: Float[Array, ""]  # x*_t = u_t·v*_t
    y: Float[Array, ""]  # y*_t = ∇S_t⊥·v*_t
    loss: Float[Array, ""]  # L(θ†_t) + x*²/η
    sharpness: Float[Array, ""]  # 2/η + y* + (∇S·u) x*


def _half_force(record: ConstrainedRecord, x, learning_rate):
    """½(δ² − x²): the constraint's part is what bent θ† (δ²/2 = correction/η on the boundary, 0 inside M)."""
    return record.correction / learning_rate - x * x / 2


def predicted_step(
    state: PredictedState, record: ConstrainedRecord, products: Float[Array, " p"], learning_rate
) -> tuple[PredictedState, PredictedRecord]:
    """The predicted dynamics of the coupling theorem in vector form.

    v*_{t+1} = P⊥_{t+1} (I − η∇²L_t) P⊥_t v*_t + η P⊥_{t+1} ∇S_t⊥ (δ_t² − x*_t²)/2 − (1 + η y*_t) x*_t u_{t+1}

    Args:
        state: Carried displacement; its component along u_t is replaced by x*.
        record: The constrained step at time t.
        products: ∇²L(θ†_t) applied to ``state.carried`` (p,).
        learning_rate: Step size η.
    """
    geometry = record.geometry
    u = geometry.eigenvector
    along = jnp.vdot(u, state.carried)
    across = state.carried - along * u  # P⊥ v*
    across_image = products - along * geometry.hvp
    y = jnp.vdot(geometry.perpendicular, across)
    v = across + state.x * u
    slope = jnp.vdot(geometry.sharpness_gradient, u)
    loss = geometry.loss + state.x**2 * (geometry.sharpness / 2)
    sharp = geometry.sharpness + y + slope * state.x
    carried = across - learning_rate * across_image
    carried = carried + (learning_rate * _half_force(record, state.x, learning_rate)) * geometry.perpendicular
    x = (1 - learning_rate * (geometry.sharpness + y)) * state.x  # −(1 + ηy)x on the boundary, S = 2/η
    return PredictedState(carried, x), PredictedRecord(v, state.x, y, loss, sharp)


def generalized_predicted_step(
    objective: Objective, v: Float[Array, " p"], theta, record: ConstrainedRecord, products, learning_rate
) -> tuple[Float[Array, " p"], PredictedRecord]:
    """The generalized prediction: the true loss along u instead of its quadratic model; one gradient more.

    v_{t+1} = v_t − η [½(x² − δ²)∇S⊥ + ∇²L v⊥ + u (u·∇L(θ† + x u)) + x y u]

    Args:
        objective: The loss.
        v: Displacement (p,) at time t.
        theta: θ†_t.
        record: The constrained step at time t.
        products: ∇²L(θ†_t) v (p,).
        learning_rate: Step size η.
    """
    geometry = record.geometry
    u = geometry.eigenvector
    x = jnp.vdot(u, v)
    across = v - x * u
    y = jnp.vdot(geometry.perpendicular, across)
    along_u = theta + (x * u).astype(theta.dtype)
    loss, gradient = objective.value_and_grad(along_u)
    force = products - x * geometry.hvp - _half_force(record, x, learning_rate) * geometry.perpendicular
    force = force + (jnp.vdot(u, gradient) + x * y) * u
    sharp = geometry.sharpness + y + jnp.vdot(geometry.sharpness_gradient, u) * x
    return v - learning_rate * force, PredictedRecord(v, x, y, loss + x * x * y / 2, sharp)


class ConstrainedTransformState(NamedTuple):
    """Optax state: the constrained trajectory but for its position, which is the parameters."""

    eigenvector: Float[Array, " p"]
    older: Float[Array, " p"]
    correction: Float[Array, ""]
    bend: Float[Array, " p"]
    sharpness: Float[Array, ""]
    active: Array


def constrained_gradient_descent(learning_rate: float, *, seed: int = 0) -> optax.GradientTransformationExtraArgs:
    """The constrained step as an optax transformation, for anyone's training loop.

    ``update(grads, state, params, loss_fn=…)`` ignores ``grads`` and returns the move from θ† to the next point of the
    constrained trajectory; ``loss_fn(params)`` is the full-batch loss.  The first step costs a cold eigen-solve.
    (``TrainState.apply_gradients`` of flax passes nothing on: there call ``state.tx.update`` and ``replace``.)

    Args:
        learning_rate: Step size η; the constraint is S ≤ 2/η.
        seed: Seed of the eigenvector's cold start.

    Raises:
        ValueError: if η is not positive and finite; from ``update`` if ``params`` or ``loss_fn`` is missing.
    """
    check_learning_rate(learning_rate)

    def init(params):
        flat = Objective.create(lambda p: jnp.zeros(()), params)
        u = random_direction(flat.size, flat.dtype, seed)
        here = ConstrainedState.at(u, u)  # its position is the parameters
        return ConstrainedTransformState(*here[1:], jnp.zeros((), flat.dtype), jnp.zeros((), bool))

    def update(updates, state, params=None, *, loss_fn=None, **_):
        if params is None or loss_fn is None:
            raise ValueError("constrained_gradient_descent needs update(grads, state, params, loss_fn=loss_fn)")
        objective = Objective.create(loss_fn, params)
        theta = objective.ravel(params)
        here = ConstrainedState(theta, *state[:4])
        following, record, _ = constrained_step(objective, here, learning_rate)
        move = objective.unravel(following.theta - theta)
        return move, ConstrainedTransformState(*following[1:], record.geometry.sharpness, record.active)

    return optax.GradientTransformationExtraArgs(init, update)
