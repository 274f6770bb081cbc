"""All trajectories at one step, and the step that advances them together.

Gradient descent, the constrained trajectory and the predictions advance step by step, the flow one interval ahead.
Everything here is traced; loops over chunks, progress bars and data sets are in :mod:`eoslib.trajectories.track`.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from eoslib.constrained import ConstrainedState, constrained_step
from eoslib.objective import Objective, inner
from eoslib.rules import GradientDescent
from eoslib.stable_set import project, violation
from eoslib.trajectories import programs, variables
from eoslib.trajectories.central import CentralState, central_flow_step
from eoslib.trajectories.descent import DescentState, gradient_descent_step
from eoslib.trajectories.flow import FlowState, flow_start, flow_step, interpolation
from eoslib.trajectories.prediction import (
    PredictedState,
    block_eigenvector,
    block_predicted_step,
    block_sharpness,
    generalized_predicted_step,
    predicted_step,
)


class TrackState(NamedTuple):
    """All trajectories at one step; a checkpoint is this and the records so far."""

    descent: DescentState
    flow: FlowState
    constrained: ConstrainedState
    central: CentralState | Any  # None without
    predicted: PredictedState
    generalized: Float[Array, " p"]  # v of the generalized prediction
    transported: Float[Array, " p"]  # ∏(I − η∇²L)P⊥ ∇S_s⊥ for the last s
    transported_beta: Float[Array, ""]  # β_s
    started: Array  # whether the predictions run on their own
    last_y: Float[Array, ""]
    step: Array


class Options(NamedTuple):
    """What a track records besides its core."""

    flow: bool = True  # whether gradient flow is followed (about one gradient per step)
    generalized: bool = False  # whether the generalized prediction is advanced (two gradients per step)
    transport: int = 0  # period of the transported products β_{s→t}, in steps (one gradient per step); 0: none
    restart: bool = False  # whether the predictions restart from gradient descent once per cycle (where y turns > 0)
    restart_every: int = 0  # and after this many steps; 0: never
    directions: int = 1  # limit on the leading directions followed: as many as are near the edge, and one more
    thirds_every: int = 10  # steps, of the central flow substeps, between evaluations of several directions' ∇³L
    central: int = 0  # substeps of the central flow per step, each about one constrained step; 0: none
    start: float = 0.1  # the predictions start where |x| first exceeds this fraction of δ: below, x is rounding
    kick: float = 0.0  # θ is moved along u by this fraction of δ (not for the flow, which would undo it within a step)
    chunk: int = 25  # steps between looks at the host, and the flow's interval
    strided: int = 0  # steps between the costly measurements of the assumptions, a multiple of chunk; 0: none


DEFAULT = Options()


@jax.jit(static_argnames="options")
def start(objective, rule: GradientDescent, theta, eigenvector, options=DEFAULT) -> tuple[TrackState, Array]:
    """Return the state at a point θ (p,) at the edge, and the ProjectionStatus of its projection θ†.

    ``eigenvector`` (p,) or (k, p) holds starts for the eigenvectors that are followed.
    """
    projection = project(objective, theta, eigenvector, rule)
    geometry, u = projection.geometry, projection.geometry.eigenvector
    delta = jnp.sqrt(jnp.clip(geometry.delta_squared, 0, jnp.finfo(objective.dtype).max))
    kicked = theta + (options.kick * delta * u).astype(theta.dtype)
    v = (kicked - projection.theta).astype(objective.dtype)
    state = TrackState(
        descent=DescentState(kicked, u, u), flow=flow_start(objective, theta, u),
        constrained=ConstrainedState.at(projection.theta, geometry.vectors),
        central=CentralState.at(projection.theta, geometry.vectors) if options.central else None,
        predicted=PredictedState(v, inner(u, v)), generalized=v,
        transported=geometry.perpendicular, transported_beta=geometry.beta, started=jnp.zeros((), bool),
        last_y=jnp.zeros((), objective.dtype), step=jnp.zeros((), jnp.int32),
    )  # fmt: skip
    return state, projection.status


def resize(state: TrackState, vectors: Float[Array, "k p"]) -> TrackState:
    """Return the state that follows the k leading directions ``vectors`` at θ† instead of the former ones."""
    kept = state.constrained
    turn = inner(vectors[:, None], kept.older)  # (k, former k)
    fresh = ConstrainedState.at(kept.theta, vectors)
    fresh = fresh._replace(multiplier=turn @ kept.multiplier @ turn.T, bend=kept.bend)
    central = None if state.central is None else CentralState.at(state.central.theta, vectors)
    return state._replace(constrained=fresh, central=central)


def step(objective: Objective, rule: GradientDescent, state: TrackState, options: Options, flow_at=None):
    """Advance every trajectory but the flow, whose (θ, L) is ``flow_at(step)``; return the state and the variables."""
    before = (state.descent.theta - state.constrained.theta).astype(objective.dtype)
    locked = ~state.started
    carried, generalized = (jnp.where(locked, before, v) for v in (state.predicted.carried, state.generalized))
    vs = [carried, *[generalized][: options.generalized], *[state.transported][: bool(options.transport)]]
    every = options.thirds_every
    constrained, record = constrained_step(objective, rule, state.constrained, jnp.stack(vs), thirds_every=every)
    geometry, k = record.geometry, record.geometry.values.size
    v = (state.descent.theta - record.theta).astype(objective.dtype)
    x, y = inner(geometry.eigenvector, v), inner(geometry.perpendicular, v)
    block = variables.Block.at(rule, record, v) if options.directions > 1 else None
    if k == 1:
        linear, across = geometry.sharpness + inner(geometry.sharpness_gradient, v), geometry.sharpness + y
        predicted = PredictedState(carried, jnp.where(locked, x, state.predicted.x))
        predicted, prediction = predicted_step(objective, rule, predicted, record, record.products[0])
    else:
        linear, across = block_sharpness(geometry, v), block_sharpness(geometry, geometry.outside(v))
        carried, prediction = block_predicted_step(objective, rule, carried, record, record.products[0])
        predicted = PredictedState(carried, inner(geometry.eigenvector, carried))
    general = ratio = flow = central = moment = None
    if options.generalized:
        generalized, general = generalized_predicted_step(objective, rule, generalized, record, record.products[1])
    transported, beta = state.transported, state.transported_beta
    if options.transport:
        ratio = inner(geometry.perpendicular, transported) / jnp.where(beta > 0, beta, 1)  # 0 where ∇S⊥ vanished
        along, fresh = inner(geometry.eigenvector, transported), state.step % options.transport == 0
        image = record.products[-1] - along * geometry.hvp
        moved = transported - along * geometry.eigenvector - rule.learning_rate * image
        transported, beta = jnp.where(fresh, geometry.perpendicular, moved), jnp.where(fresh, geometry.beta, beta)
    if options.flow:
        if flow_at is None:
            raise ValueError("options.flow needs flow_at, the flow's (θ, L) at a step; got None")
        flow = flow_at(state.step)
    if options.central:
        central, moment = central_flow_step(
            objective, rule, state.central, substeps=options.central, thirds_every=options.thirds_every
        )
    tolerance = 1e-2
    if k > 1:  # eigenvectors exchange places; from this start a residual of 2 % leaves S right to 1e-3 or better
        tolerance = 2e-2
        older = block_eigenvector(geometry, v, state.descent.older)
        state = state._replace(descent=state.descent._replace(older=older))
    descent, measured = gradient_descent_step(objective, rule, state.descent, tolerance=tolerance)
    moment = variables.Moment(
        state.descent.theta, measured, record, geometry, violation(geometry, rule), v, x, y, linear,
        across, prediction, state.started, general, flow, ratio, block, moment,
    )  # fmt: skip
    trace = 2 * jnp.trace(record.multiplier) / rule.learning_rate
    # Inside M several directions have Σ = 0, while δ² of the first still indicates what exceeds rounding.
    radius = geometry.delta_squared if k == 1 else jnp.where(trace > 0, trace, geometry.delta_squared)
    started = state.started | (jnp.sum(inner(geometry.vectors, v) ** 2) >= options.start**2 * radius)
    if options.restart:
        started = started & ~((state.last_y < 0) & (y >= 0))
    if options.restart_every:
        started = started & ((state.step + 1) % options.restart_every != 0)
    following = descent, state.flow, constrained, central, predicted, generalized, transported, beta, started, y
    return TrackState(*following, state.step + 1), variables.values(moment)


_flow = jax.jit(lambda objective, *rest: flow_step(dataclasses.replace(objective, precise=()), *rest))


@jax.jit(static_argnames=("steps", "options"))
def _steps(objective: Objective, rule: GradientDescent, state: TrackState, before: FlowState, steps, options):
    """Advance everything but the flow, which is already ahead, by ``steps`` steps."""
    flow_at = interpolation(rule, before, state.flow, state.step, steps) if options.flow else None
    return jax.lax.scan(lambda s, _: step(objective, rule, s, options, flow_at), state, None, length=steps)


def advance(objective: Objective, rule: GradientDescent, state: TrackState, steps: int, options: Options = DEFAULT):
    """Advance the flow over ``steps`` steps at once, then all others step by step.

    Returns the state, the variables of every step (each of shape (steps,)), and those of the interval.
    """
    before, interval = state.flow, {}
    if options.flow:
        flow, record = programs.run(_flow, objective, rule, before, steps)
        state, interval = state._replace(flow=flow), {f"flow_{name}": value for name, value in record._asdict().items()}
    state, series = programs.run(_steps, objective, rule, state, before, steps=steps, options=options)
    return state, series, interval
