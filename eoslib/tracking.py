"""Find the instability, then advance gradient descent, flow, the constrained trajectory and predictions together.

Everything on the hot path is jitted once and runs in chunks; between chunks the host draws the progress bar, measures
what is costly (:mod:`eoslib.diagnostics`) and saves a checkpoint.  Positions are float64, derivatives as the objective
says.
"""

from __future__ import annotations

import contextlib
import ctypes
import enum
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float
from tqdm import tqdm

from eoslib import diagnostics, dynamics
from eoslib.geometry import local_geometry, random_direction
from eoslib.objective import Objective
from eoslib.stable_set import ProjectionStatus, check_learning_rate, project, violation

#: Steps between looks at the host: the flow's interval, the stride of progress bar, checkpoints and extras.
CHUNK = 25


class EdgeStatus(enum.IntEnum):
    """How the search for the instability ended."""

    REACHED = 0
    AT_START = 1
    STEP_LIMIT = 2
    DIVERGED = 3

    @property
    def message(self) -> str:
        """The status in words."""
        return (
            "reached: the sharpness crossed 2/η at the last step recorded",
            "the sharpness is above 2/η at the start: lower the learning rate, or warm it up, to see it sharpen",
            "not reached: the sharpness stayed below 2/η for all steps allowed",
            "diverged: the loss is no longer finite, or a million times its first value",
        )[self]


class Approach(NamedTuple):
    """Gradient descent up to the first step with S ≥ 2/η."""

    theta: Float[Array, " p"]  # position at the last step recorded
    eigenvector: Float[Array, " p"]
    step: int
    status: EdgeStatus
    loss: np.ndarray  # (step + 1,), the loss at every step
    checks: dict[str, np.ndarray]  # step, sharpness, alpha, gradient_norm where the sharpness was measured


@jax.jit(static_argnames=("length",))
def _descend(objective: Objective, theta, steps, learning_rate, length):
    """At most ``length`` steps of gradient descent; returns θ and the losses before each step (NaN beyond)."""

    def unfinished(carry):
        i, _, losses = carry
        return (i < steps) & ((i == 0) | jnp.isfinite(losses[jnp.maximum(i - 1, 0)]))

    def step(carry):
        i, theta, losses = carry
        loss, gradient = objective.value_and_grad(theta)
        return i + 1, theta - learning_rate * gradient.astype(theta.dtype), losses.at[i].set(loss)

    losses = jnp.full(length, jnp.nan, objective.dtype)
    return jax.lax.while_loop(unfinished, step, (jnp.zeros((), jnp.int32), theta, losses))[1:]


@jax.jit(static_argnames=("tolerance",))
def _measure(objective: Objective, theta, start, tolerance):
    geometry = local_geometry(objective, theta, start, tolerance=tolerance, max_products=2000)
    return geometry.eigenvector, {
        "loss": geometry.loss,
        "sharpness": geometry.sharpness,
        "alpha": geometry.alpha,
        "gradient_norm": jnp.linalg.norm(geometry.gradient),
    }


def find_instability(
    objective: Objective,
    theta: Float[Array, " p"],
    learning_rate: float,
    *,
    max_steps: int,
    max_interval: int = CHUNK,
    tolerance: float = 3e-3,
    seed: int = 0,
    progress: bool = True,
) -> Approach:
    """Full-batch gradient descent until the sharpness first reaches 2/η, located to one step.

    The sharpness is measured at intervals of half the time that its rise would need to reach 2/η: seldom far from the
    edge, often near it.  A crossing inside an interval is found by bisection from the last position below.

    Args:
        objective: The loss.
        theta: Start (p,).
        learning_rate: Step size η.
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
    check_learning_rate(learning_rate)
    if max_steps < 1:
        raise ValueError(f"max_steps must be at least 1, got {max_steps!r}")
    with jax.enable_x64(True):
        theta = _position(objective, theta)
        edge = 2 / learning_rate
        losses: list[np.ndarray] = []
        checks: list[dict[str, float]] = []
        u = random_direction(objective.size, objective.dtype, seed)

        def measure(theta, u, step):
            u, values = _measure(objective, theta, u, tolerance)
            return u, {"step": step} | {name: float(value) for name, value in values.items()}

        def result(status):
            if checks[-1]["step"] == step and len(losses) <= step:
                losses.append(np.asarray([checks[-1]["loss"]]))
            series = {name: np.asarray([check[name] for check in checks]) for name in checks[0] if name != "loss"}
            return Approach(theta, u, step, status, np.concatenate(losses), series)

        step, interval = 0, 1
        u, check = measure(theta, u, 0)
        checks.append(check)
        first_loss = check["loss"]
        if not np.isfinite(first_loss):
            return result(EdgeStatus.DIVERGED)
        if check["sharpness"] >= edge:
            return result(EdgeStatus.AT_START)
        with tqdm(total=max_steps, desc="to the edge", disable=not progress, leave=False) as bar:
            while step < max_steps:
                interval = min(interval, max_steps - step)
                ahead, series = _descend(objective, theta, interval, learning_rate, max_interval)
                series = np.asarray(series)[:interval]
                grown = ~(series < 1e6 * (1 + abs(first_loss)))
                if grown.any():
                    losses.append(series[: int(grown.argmax()) + 1])
                    step += int(grown.argmax())
                    return result(EdgeStatus.DIVERGED)
                u_ahead, check = measure(ahead, u, step + interval)
                crossed = check["sharpness"] >= edge
                if crossed and interval > 1:
                    interval = interval // 2  # bisection: look again from the last position below
                    continue
                theta, u, step = ahead, u_ahead, step + interval
                losses.append(series)
                slope = (check["sharpness"] - checks[-1]["sharpness"]) / interval
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


def _position(objective: Objective, theta) -> Array:
    if not jnp.issubdtype(jnp.result_type(theta), jnp.floating):
        raise ValueError(f"theta must be floating point, got {jnp.result_type(theta)}")
    if jnp.shape(theta) != (objective.size,):
        raise ValueError(f"theta must have shape ({objective.size},), got {jnp.shape(theta)}")
    return jnp.asarray(theta, jnp.float64)


class TrackState(NamedTuple):
    """All trajectories at one step; a checkpoint is this and the records so far."""

    descent: dynamics.DescentState
    flow: dynamics.FlowState
    constrained: dynamics.ConstrainedState
    predicted: dynamics.PredictedState
    generalized: Float[Array, " p"]  # v of the generalized prediction
    transported: Float[Array, " p"]  # ∏(I − η∇²L)P⊥ ∇S_s⊥ for the last s
    transported_beta: Float[Array, ""]  # β_s
    started: Array  # whether the predictions run on their own
    last_y: Float[Array, ""]
    step: Array


class Options(NamedTuple):
    """What a track records besides its core.

    Attributes:
        flow: Whether gradient flow is followed (about one gradient a step).
        generalized: Whether the generalized prediction is (two gradients a step).
        transport: Period of the transported products β_{s→t}, in steps; 0 switches them off (one gradient a step).
        restart: Whether the predictions start afresh from gradient descent once a cycle (where y turns positive).
        start: The predictions start where |x| first exceeds this fraction of δ: below, x is rounding.
        kick: Gradient descent starts at θ moved along u by this fraction of δ (the flow, which would undo it within a
            step, at θ).
        chunk: Steps between looks at the host, and the flow's interval.
        strided: Steps between the costly diagnostics, a multiple of ``chunk``; 0 switches them off.
    """

    flow: bool = True
    generalized: bool = False
    transport: int = 0
    restart: bool = False
    start: float = 0.1
    kick: float = 0.0
    chunk: int = CHUNK
    strided: int = 0


DEFAULT = Options()


def _step(objective: Objective, state: TrackState, learning_rate, options: Options, flow_at):
    """One step of every trajectory but the flow, whose positions ``flow_at(step)`` interpolates."""
    wide = state.descent.theta.dtype
    before = (state.descent.theta - state.constrained.theta).astype(objective.dtype)
    locked = ~state.started
    carried = jnp.where(locked, before, state.predicted.carried)
    vs = [carried]
    generalized = jnp.where(locked, before, state.generalized)
    if options.generalized:
        vs.append(generalized)
    if options.transport:
        vs.append(state.transported)
    constrained, record, products = dynamics.constrained_step(
        objective, state.constrained, learning_rate, jnp.stack(vs)
    )
    geometry = record.geometry
    u, perpendicular = geometry.eigenvector, geometry.perpendicular
    v = (state.descent.theta - record.theta).astype(objective.dtype)
    x, y = jnp.vdot(u, v), jnp.vdot(perpendicular, v)
    predicted = dynamics.PredictedState(carried, jnp.where(locked, x, state.predicted.x))
    predicted, prediction = dynamics.predicted_step(predicted, record, products[0], learning_rate)
    descent, measured = dynamics.gradient_descent_step(objective, state.descent, learning_rate)
    off = violation(geometry, learning_rate)
    delta_squared = geometry.delta_squared
    values = {
        "gd_loss": measured.loss,
        "gd_sharpness": measured.sharpness,
        "gd_sharpness_residual": measured.residual,
        "gd_gradient_norm": jnp.linalg.norm(measured.gradient),
        "gd_products": measured.products,
        "x": x,
        "y": y,
        "distance": jnp.linalg.norm(v),
        "sharpness_linear": geometry.sharpness + jnp.vdot(geometry.sharpness_gradient, v),
        "sharpness_linear_perpendicular": geometry.sharpness + y,
        "predicted_x": prediction.x,
        "predicted_y": prediction.y,
        "predicted_loss": prediction.loss,
        "predicted_sharpness": prediction.sharpness,
        "predicted_distance": jnp.linalg.norm(prediction.v),
        "predicted_error": jnp.linalg.norm(v - prediction.v),
        "predicting": state.started,
        "constrained_loss": geometry.loss,
        "constrained_sharpness": geometry.sharpness,
        "gradient_norm": jnp.linalg.norm(geometry.gradient),
        "alpha": geometry.alpha,
        "beta": geometry.beta,
        "gamma": geometry.cosine,
        "delta_squared": delta_squared,
        "sharpness_slope": jnp.vdot(u, geometry.sharpness_gradient),
        "correction": record.correction,
        "active": record.active,
        "violation": off.sharpness,
        "slope": off.slope,
        "residual": geometry.residual,
        "products": geometry.products,
        "rounds": record.rounds,
    }
    if options.generalized:
        generalized, general = dynamics.generalized_predicted_step(
            objective, generalized, record.theta, record, products[1], learning_rate
        )
        values |= {
            "generalized_x": general.x,
            "generalized_y": general.y,
            "generalized_loss": general.loss,
            "generalized_sharpness": general.sharpness,
            "generalized_distance": jnp.linalg.norm(general.v),
            "generalized_error": jnp.linalg.norm(v - general.v),
        }
    transported, transported_beta = state.transported, state.transported_beta
    if options.transport:
        age = state.step % options.transport
        values["transport"] = jnp.vdot(perpendicular, transported) / transported_beta  # β_{s→t} / β_s
        fresh = age == 0
        along = jnp.vdot(u, transported)
        moved = transported - along * u - learning_rate * (products[-1] - along * geometry.hvp)
        transported = jnp.where(fresh, perpendicular, moved)
        transported_beta = jnp.where(fresh, geometry.beta, transported_beta)
    if options.flow:
        flow_theta, flow_loss = flow_at(state.step)
        values |= {
            "flow_loss": flow_loss,
            "flow_distance": jnp.linalg.norm(flow_theta - record.theta),
            "flow_gd_distance": jnp.linalg.norm(flow_theta - state.descent.theta),
        }
    started = state.started | (x * x >= options.start**2 * delta_squared)
    if options.restart:
        started = started & ~((state.last_y < 0) & (y >= 0))
    values = {name: value.astype(wide) for name, value in values.items()}
    following = TrackState(
        descent,
        state.flow,
        constrained,
        predicted,
        generalized,
        transported,
        transported_beta,
        started,
        y,
        state.step + 1,
    )
    return following, values


def _hermite(before: dynamics.FlowState, after: dynamics.FlowState, start, length: int, learning_rate):
    """Cubic interpolation of the flow's position and loss within one interval, from their derivatives at its ends."""
    duration = length * learning_rate

    def at(step):
        s = (step - start).astype(before.theta.dtype) / length
        a, b = (1 + 2 * s) * (1 - s) ** 2, s * s * (3 - 2 * s)
        c, d = duration * s * (1 - s) ** 2, duration * s * s * (s - 1)

        def blend(p, q, dp, dq):
            p, q, dp, dq = (z.astype(before.theta.dtype) for z in (p, q, dp, dq))
            return a * p + b * q + c * dp + d * dq

        theta = blend(before.theta, after.theta, -before.gradient, -after.gradient)
        fall = [-jnp.vdot(g, g) for g in (before.gradient, after.gradient)]  # dL/dt = −‖∇L‖²
        return theta, blend(before.loss, after.loss, *fall)

    return at


@jax.jit
def _flow(objective: Objective, state: dynamics.FlowState, duration):
    """The flow over an interval; its records in the positions' precision."""
    following, record = dynamics.gradient_flow(objective, state, duration)
    return following, {f"flow_{name}": value.astype(state.theta.dtype) for name, value in record._asdict().items()}


@jax.jit(static_argnames=("length", "options"))
def _steps(objective: Objective, state: TrackState, flow_before, learning_rate, length: int, options: Options):
    """``length`` steps of everything but the flow, which has gone ahead."""
    flow_at = _hermite(flow_before, state.flow, state.step, length, learning_rate) if options.flow else None
    return jax.lax.scan(lambda s, _: _step(objective, s, learning_rate, options, flow_at), state, None, length=length)


def _advance(objective: Objective, state: TrackState, learning_rate, length: int, options: Options):
    """One chunk: the flow over the whole interval, then ``length`` steps of everything else."""
    before, strided = state.flow, {}
    if options.flow:
        flow, strided = _program(_flow, objective, before, length * learning_rate)
        state = state._replace(flow=flow)
    state, series = _program(_steps, objective, state, before, learning_rate, length=length, options=options)
    return state, series, strided


def _program(function, *arguments, **static):
    """Call a jitted function, its program compiled in advance of its memory.

    Compiling leaves a heap behind that is larger than what the program needs; it goes back to the system before the
    program allocates its own.
    """

    def abstract(leaf):
        kind = jax.typeof(leaf)
        where = getattr(leaf, "sharding", None)
        return jax.ShapeDtypeStruct(kind.shape, kind.dtype, sharding=where, weak_type=kind.weak_type)

    leaves, structure = jax.tree.flatten(arguments)
    return _compiled(function, structure, tuple(map(abstract, leaves)), tuple(static.items()))(*arguments)


@functools.lru_cache(maxsize=32)
def _compiled(function, structure, leaves, static):
    _release_heap()
    program = function.lower(*jax.tree.unflatten(structure, leaves), **dict(static)).compile()
    _release_heap()
    return program


def _release_heap() -> None:
    with contextlib.suppress(OSError, AttributeError, TypeError):  # where the C library is not glibc
        ctypes.CDLL(None).malloc_trim(0)


@jax.jit
def _start(objective: Objective, theta, eigenvector, learning_rate, kick):
    projection = project(objective, theta, eigenvector, learning_rate)
    u = projection.geometry.eigenvector
    delta = jnp.sqrt(jnp.maximum(projection.geometry.delta_squared, 0))
    flow = dynamics.flow_start(objective, theta, u)
    theta = theta + (kick * delta * u).astype(theta.dtype)
    v = (theta - projection.theta).astype(objective.dtype)
    state = TrackState(
        descent=dynamics.DescentState(theta, u, u),
        flow=flow,
        constrained=dynamics.ConstrainedState.at(projection.theta, u),
        predicted=dynamics.PredictedState(v, jnp.vdot(u, v)),
        generalized=v,
        transported=projection.geometry.perpendicular,
        transported_beta=projection.geometry.beta,
        started=jnp.zeros((), bool),
        last_y=jnp.zeros((), objective.dtype),
        step=jnp.zeros((), jnp.int32),
    )
    return state, projection.status


def track_from(
    objective: Objective,
    theta: Float[Array, " p"],
    eigenvector: Float[Array, " p"],
    learning_rate: float,
    *,
    steps: int,
    options: Options = DEFAULT,
    progress: bool = True,
    restore: Callable[[Any], tuple[Any, dict] | None] | None = None,
    save: Callable[[Any, dict], None] | None = None,
) -> xr.Dataset:
    """Advance all trajectories together from a point at the edge.

    Args:
        objective: The loss.
        theta: Point (p,) where S first reached 2/η; gradient descent and flow start there, θ† at its projection onto M.
        eigenvector: Start (p,) for the leading eigenvector.
        learning_rate: Step size η.
        steps: Steps to record.
        options: What to record besides the core.
        progress: Whether to draw a progress bar (on standard error).
        restore: Called with the state's structure; gives the last checkpoint (state, records), or None.
        save: Called after each chunk with (state, records).

    Returns:
        Dataset with the per-step series on ``t``, the flow's on ``interval`` and the diagnostics' on ``stride``; NaN
        from where a curve ended.  Attributes ``ended_<curve>`` hold that step (−1: it did not end), and
        ``single_direction_until`` the step at which λ₂ reached 1.9/η (−1: never, or not measured).

    Raises:
        ValueError: if η or ``steps`` is not positive, θ has the wrong shape or dtype, or ``options`` are inconsistent.
    """
    check_learning_rate(learning_rate)
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps!r}")
    if options.chunk < 1 or options.strided % options.chunk:
        raise ValueError(f"strided must be a multiple of chunk={options.chunk}, got {options.strided}")
    with jax.enable_x64(True):
        theta = _position(objective, theta)
        start = jnp.asarray(eigenvector, objective.dtype)
        state, status = _program(_start, objective, theta, start, learning_rate, options.kick)
        if int(status) == ProjectionStatus.NOT_FINITE:
            raise ValueError("the loss at theta must be finite with finite derivatives, got a value that is not")
        extras = diagnostics.start(state.constrained.eigenvector) if options.strided else None
        records: dict[str, list] = {}
        if restore is not None and (found := restore((state, extras))) is not None:
            (state, extras), records = found

        def keep(values):
            for name, value in values.items():
                records.setdefault(name, []).append(np.asarray(value, np.float64))

        with tqdm(total=steps, initial=int(state.step), desc="tracking", disable=not progress, leave=False) as bar:
            while (done := int(state.step)) < steps:
                if options.strided and done % options.strided == 0:
                    extras, values = _program(diagnostics.measure, objective, extras, state, learning_rate)
                    keep(values)
                length = min(options.chunk, steps - done)
                state, series, strided = _advance(objective, state, learning_rate, length, options)
                keep(series)
                keep(strided)
                if save is not None:
                    save((state, extras), records)
                bar.update(length)
                bar.set_postfix_str(
                    f"S† = {float(series['constrained_sharpness'][-1]):.5g} of {2 / learning_rate:.5g},"
                    f" violation {float(series['violation'].max()):.1e}"
                )
        return _dataset(records, learning_rate, options)


_CURVES = {"gd": "gd_loss", "flow": "flow_loss", "constrained": "constrained_loss", "predicted": "predicted_loss"}


def _dataset(records: dict[str, list], learning_rate: float, options: Options) -> xr.Dataset:
    variables = {}
    for name, values in records.items():
        if name in diagnostics.DIMENSIONS:
            variables[name] = (("stride", *diagnostics.DIMENSIONS[name]), np.stack(values))
        elif values[0].ndim:
            variables[name] = ("t", np.concatenate(values))
        else:
            variables[name] = ("interval", np.stack(values))
    data = xr.Dataset(variables)
    data = data.assign_coords(t=np.arange(data.sizes["t"]))
    if "interval" in data.sizes:
        data = data.assign_coords(interval=np.arange(data.sizes["interval"]) * options.chunk)
    if "stride" in data.sizes:
        data = data.assign_coords(stride=np.arange(data.sizes["stride"]) * options.strided)
    for curve, name in _CURVES.items():
        if name in data:
            bad = ~np.isfinite(data[name].values)
            data.attrs[f"ended_{curve}"] = int(bad.argmax()) if bad.any() else -1
    data.attrs["single_direction_until"] = -1
    if "eigenvalues" in data:
        late = data["eigenvalues"].values[:, 1] >= 1.9 / learning_rate
        data.attrs["single_direction_until"] = int(data["stride"].values[late.argmax()]) if late.any() else -1
    data.attrs |= {"learning_rate": learning_rate, "edge": 2 / learning_rate}
    return data


def track(
    loss_fn: Callable,
    params,
    batch=None,
    *,
    learning_rate: float,
    steps: int,
    edge_steps: int = 10_000,
    micro_batch: int | None = None,
    options: Options = DEFAULT,
    seed: int = 0,
    progress: bool = True,
) -> xr.Dataset:
    """Train any model to the edge of stability and track gradient descent, flow, θ† and the prediction from there.

    Args:
        loss_fn: ``loss_fn(params, batch) -> scalar``, the full-batch mean loss (``loss_fn(params)`` without a batch).
        params: Pytree of floating-point arrays to start from.
        batch: Pytree of arrays with a common leading axis.
        learning_rate: Step size η of gradient descent.
        steps: Steps to record from the instability on.
        edge_steps: Steps allowed to reach it.
        micro_batch: Samples evaluated at once.
        options: What to record besides the core.
        seed: Seed of the first eigen-solve.
        progress: Whether to draw a progress bar.

    Returns:
        Dataset of :func:`track_from` joined with the approach (``approach_loss`` on ``approach_step``, ``check_*`` on
        ``check``); attributes ``status`` (worded) and ``instability_step``.  Where the edge is not reached, it holds
        the approach alone.

    Raises:
        ValueError: see :meth:`eoslib.objective.Objective.create`, :func:`find_instability` and :func:`track_from`.
    """
    with jax.enable_x64(True):
        objective = Objective.create(loss_fn, params, batch, micro_batch=micro_batch)
        theta = objective.ravel(params)
    return run(
        objective,
        theta,
        learning_rate,
        steps=steps,
        edge_steps=edge_steps,
        options=options,
        seed=seed,
        progress=progress,
    )


def run(
    objective, theta, learning_rate, *, steps, edge_steps, options=DEFAULT, seed=0, progress=True, approach=None, **io
):
    """:func:`find_instability`, then :func:`track_from` where it was reached; see :func:`track` for the result."""
    if approach is None:
        approach = find_instability(objective, theta, learning_rate, max_steps=edge_steps, seed=seed, progress=progress)
    data = xr.Dataset(
        {"approach_loss": ("approach_step", approach.loss.astype(np.float64))}
        | {f"check_{name}": ("check", values) for name, values in approach.checks.items()},
        coords={"approach_step": np.arange(approach.loss.size)},
    )
    if approach.status in (EdgeStatus.REACHED, EdgeStatus.AT_START) and steps:
        tracked = track_from(
            objective,
            approach.theta,
            approach.eigenvector,
            learning_rate,
            steps=steps,
            options=options,
            progress=progress,
            **io,
        )
        data = data.merge(tracked, combine_attrs="override").assign_attrs(tracked.attrs)
    return data.assign_attrs(
        status=approach.status.message,
        instability_step=approach.step,
        learning_rate=learning_rate,
        edge=2 / learning_rate,
    )
