"""Whole tracks: find the instability, advance every trajectory from there, and return the records as a data set.

Everything on the hot path is jitted once and runs in chunks; between chunks the host draws the progress bar, measures
the assumptions (:mod:`eoslib.trajectories.assumptions`) and saves a checkpoint.  Positions have twice the
precision of the derivatives (:mod:`eoslib.position`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float
from tqdm import tqdm

from eoslib.eigen import EigenPairs, gaps, leading_eigenpairs
from eoslib.objective import Objective
from eoslib.position import Position
from eoslib.rules import EDGE_FRACTION, GradientDescent, resolve
from eoslib.stable_set import ProjectionStatus
from eoslib.trajectories import assumptions, programs, variables
from eoslib.trajectories.approach import EdgeStatus, find_instability
from eoslib.trajectories.state import DEFAULT, Options, advance, resize, start


def track_from(
    objective: Objective, theta: Any, eigenvector: Any, rule: GradientDescent | float,
    *, steps: int, options: Options = DEFAULT, progress: bool = True, restore: Callable | None = None,
    save: Callable | None = None,
) -> xr.Dataset:  # fmt: skip
    """Advance all trajectories together from a point at the edge.

    Args:
        objective: The loss.
        theta: Point (p,) where S first reached 2/η; gradient descent and flow start there, θ† at its projection onto M.
        eigenvector: Start (p,) for the leading eigenvector.
        rule: Update rule, or the step size η of gradient descent.
        steps: Steps to record.
        options: What to record besides the core.
        progress: Whether to draw a progress bar (on standard error).
        restore: Called with the state's structure; returns the last checkpoint (state, records), or None.
        save: Called after each chunk with (state, records).

    Returns:
        Dataset with the per-step series on ``t``, the flow's on ``interval`` and the diagnostics' on ``stride``; NaN
        once a curve has ended.  Attributes ``ended_<curve>`` hold that step (−1: it did not end), ``end_<curve>`` and
        ``start_projection`` a sentence, and ``single_direction_until`` the step at which λ₂ reached 1.9/η (−1: not in
        these steps, or not measured).

    Raises:
        ValueError: if η or ``steps`` is not positive, the rule is not gradient descent, θ has the wrong shape or dtype,
            or ``options`` are inconsistent.
    """
    rule = resolve(rule, GradientDescent)
    if not (options.directions == 1 or 1 < 3 * options.directions <= objective.size):
        raise ValueError(f"directions must lie in 1..{objective.size // 3}, got {options.directions!r}")
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps!r}")
    if options.chunk < 1 or options.strided % options.chunk:
        raise ValueError(f"strided must be a multiple of chunk={options.chunk}, got {options.strided}")
    theta = Position.of(objective.position(theta))
    eigenvector = objective.place(jnp.asarray(eigenvector, objective.dtype))
    eigenvector = jnp.atleast_2d(eigenvector)
    if options.directions > 1:
        pairs = _more(objective, theta, eigenvector[: options.directions], options.directions)
        eigenvector = pairs.vectors[: wanted(pairs.values, rule, options.directions)]
    state, status = programs.run(start, objective, rule, theta, eigenvector, options=options)
    if int(status) == ProjectionStatus.NOT_FINITE:
        raise ValueError("the loss at theta must be finite with finite derivatives, got a value that is not")
    extras: Any = assumptions.start(state.constrained.eigenvector)
    extras = extras if options.strided else extras.vectors
    records: dict[str, list] = {}
    if restore is not None and (found := restore((state, extras))) is not None:
        (state, extras), records = objective.place(found[0]), found[1]

    def keep(values):
        for name, value in values.items():
            several = len(variables.get(name).dims) - 1 if variables.get(name).dims[0] == "t" else 0
            missing = options.directions - np.shape(value)[-1] if several else 0
            padding = [(0, 0)] + [(0, missing)] * several  # of a smaller block
            value = np.asarray(value, np.float64)
            records.setdefault(name, []).append(np.pad(value, padding, constant_values=np.nan) if missing else value)

    with tqdm(total=steps, initial=int(state.step), desc="tracking", disable=not progress, leave=False) as bar:
        while (done := int(state.step)) < steps:
            where = state.constrained.theta, state.constrained.eigenvector
            if options.strided and done % options.strided == 0:
                extras, values = programs.run(assumptions.measure, objective, extras, *where, state.predicted)
                keep(values)
            elif not options.strided:
                pairs = programs.run(leading, objective, where[0], extras.at[0].set(where[1]))
                extras = pairs.vectors
                keep({"eigenvalues": pairs.values})
            if options.directions > 1:
                vectors, before = state.constrained.start, records.get("block_eigenvalues")
                now = vectors.shape[0]
                count = wanted(before[-1][-1], rule, options.directions, now) if before else now
                if count > now:
                    vectors = _more(objective, state.constrained.theta, vectors, count).vectors
                if count != now:
                    state = resize(state, vectors[:count])
            length = min(options.chunk, steps - done)
            state, series, interval = advance(objective, rule, state, length, options)
            keep(series | interval)
            if save is not None:
                save((state, extras), records)
            bar.update(length)
            sharpness, off = float(series["constrained_sharpness"][-1]), float(series["violation"].max())
            bar.set_postfix_str(f"S† = {sharpness:.5g} of {rule.edge:.5g}, violation {off:.1e}")
    return dataset(records, rule, options).assign_attrs(start_projection=ProjectionStatus.words(status))


@jax.jit
def leading(objective: Objective, theta, start: Float[Array, "k p"]) -> EigenPairs:
    """Return the k leading eigenpairs at θ (p,), residuals within 1 % of :func:`~eoslib.eigen.gaps`."""
    return leading_eigenpairs(
        lambda v: objective.hvp(theta, v), start, tolerance=1e-2, max_products=60 * start.shape[0], against=gaps
    )


#: A direction is followed once it exceeds the first fraction of the edge, and dropped below the second.
NEAR, FAR = 0.9, 0.85


def wanted(values, rule: GradientDescent, most: int, now: int = 2) -> int:
    """Return how many directions to follow: as many as are near the edge and one more, from 2 to ``most``."""
    near, far = (int((np.asarray(values) > fraction * rule.edge).sum()) + 1 for fraction in (NEAR, FAR))
    return min(max(near, 2, min(now, far)), most)


def _more(objective: Objective, theta, vectors: Float[Array, "k p"], count: int) -> EigenPairs:
    """Return ``count`` leading eigenpairs at θ (p,), from the first few vectors and noise."""
    shape = count - vectors.shape[0], vectors.shape[1]
    noise = jax.random.normal(jax.random.key(count), shape, vectors.dtype)
    return programs.run(leading, objective, theta, jnp.concatenate([vectors, noise]))


#: Relative violation of S ≤ 2/η that the sentence on the end of the constrained trajectory reports.
TOLERATED_VIOLATION = 1e-3


def _ends(data: xr.Dataset) -> dict[str, int | str]:
    """Return the first step at which each curve is not finite (−1: none), and its end in words."""
    ends: dict[str, int | str] = {}
    for curve in ("gd", "flow", "constrained", "predicted", "generalized"):
        if f"{curve}_loss" in data:
            bad = ~np.isfinite(data[f"{curve}_loss"].values)
            ends[f"ended_{curve}"] = step = int(bad.argmax()) if bad.any() else -1
            ends[f"end_{curve}"] = f"its loss is not finite from step {step} on" if bad.any() else "recorded to the end"
    off = data["violation"].values > TOLERATED_VIOLATION if "violation" in data else np.zeros(1, bool)
    if off.any():
        most = f"by up to {data['violation'].values[off].max():.1%} at {off.sum()} of {off.size} steps"
        ends["end_constrained"] = f"{ends['end_constrained']}, but it violates S ≤ 2/η {most}: repair did not suffice"
    return ends


def dataset(records: dict[str, list[np.ndarray]], rule: GradientDescent, options: Options = DEFAULT) -> xr.Dataset:
    """Return the records of a track as a data set, every variable described, with the steps at which curves ended."""
    dims = {name: variables.get(name).dims for name in records}
    joined = {name: np.concatenate(v) if dims[name][0] == "t" else np.stack(v) for name, v in records.items()}
    data = xr.Dataset({name: (dims[name], values) for name, values in joined.items()})
    for dimension, stride in (("t", 1), ("interval", options.chunk), ("stride", options.strided or options.chunk)):
        if dimension in data.sizes:
            data = data.assign_coords({dimension: np.arange(data.sizes[dimension]) * stride})
    strided = options.strided or options.chunk
    seconds = data["eigenvalues"].values[:, 1:2] if "eigenvalues" in data else np.zeros((1, 1))  # p = 1 has none
    late = (seconds >= EDGE_FRACTION * rule.edge).any(axis=1)
    until = int(late.argmax()) * strided if late.any() else -1
    attributes = _ends(data) | {"single_direction_until": until, "learning_rate": rule.learning_rate, "edge": rule.edge}
    last = data["block_eigenvalues"].values[:, -1] if "block_eigenvalues" in data else np.zeros(1)
    if (full := last > EDGE_FRACTION * rule.edge).any():
        words = f"{attributes['end_constrained']}; from step {full.argmax()} on no direction has a margin: take more"
        attributes["end_constrained"] = words
    return variables.describe(data.assign_attrs(attributes))


def track(
    loss_fn: Callable, params, batch=None,
    *, learning_rate: GradientDescent | float, steps: int, edge_steps: int = 10_000, micro_batch: int | None = None,
    options: Options = DEFAULT, seed: int = 0, progress: bool = True, has_aux: bool = False,
) -> xr.Dataset:  # fmt: skip
    """Train any model to the edge of stability and track gradient descent, flow, θ† and the prediction from there.

    Args:
        loss_fn: ``loss_fn(params, batch) -> scalar``, the full-batch mean loss (``loss_fn(params)`` without a batch).
        params: Pytree of floating-point arrays to start from.
        batch: Pytree of arrays with a common leading axis.
        learning_rate: Step size η of gradient descent, or an update rule.
        steps: Steps to record, the first at the instability.
        edge_steps: Steps allowed to reach it.
        micro_batch: Samples evaluated at once.
        options: What to record besides the core.
        seed: Seed of the first eigen-solve.
        progress: Whether to draw a progress bar.
        has_aux: Whether ``loss_fn`` returns (loss, aux).

    Returns:
        Dataset of :func:`track_from` joined with the approach (``approach_loss`` on ``approach_step``, ``check_*`` on
        ``check``); attributes ``status`` (worded), ``instability_step`` and ``unmeasured_steps`` (how long an earlier
        excursion above 2/η could have gone unnoticed).  If the edge is not reached, it holds the approach alone.

    Raises:
        ValueError: see :meth:`eoslib.objective.Objective.create`, :func:`track_from` and
            :func:`~eoslib.trajectories.approach.find_instability`.
    """
    objective = Objective.create(loss_fn, params, batch, micro_batch=micro_batch, has_aux=has_aux)
    theta = objective.ravel(params)
    shared = {"steps": steps, "options": options, "progress": progress}
    return run(objective, theta, learning_rate, edge_steps=edge_steps, seed=seed, **shared)


def run(
    objective: Objective, theta, rule: GradientDescent | float,
    *, steps: int, edge_steps: int, seed: int = 0, progress: bool = True, approach=None, **tracking,
) -> xr.Dataset:  # fmt: skip
    """Approach the edge, unless the ``approach`` is given, then call :func:`track_from` there if it was reached.

    ``tracking`` holds further arguments of the latter; see :func:`track` for the result.
    """
    rule = resolve(rule, GradientDescent)
    if approach is None:
        approach = find_instability(objective, theta, rule, max_steps=edge_steps, seed=seed, progress=progress)
    measured = {name: values for name, values in approach.checks.items() if name not in ("curvature", "edge")}
    checks = {f"check_{name}": ("check", values) for name, values in measured.items()}
    losses = {"approach_loss": ("approach_step", approach.loss.astype(np.float64))}
    data = xr.Dataset(losses | checks, coords={"approach_step": np.arange(approach.loss.size)})
    if approach.status in (EdgeStatus.REACHED, EdgeStatus.AT_START) and steps:
        where = approach.theta, approach.eigenvector
        tracked = track_from(objective, *where, rule, steps=steps, progress=progress, **tracking)
        data = data.merge(tracked, combine_attrs="override").assign_attrs(tracked.attrs)
    told = dict(status=approach.status.message, instability_step=approach.step, unmeasured_steps=approach.unmeasured)
    return variables.describe(data).assign_attrs(**told, learning_rate=rule.learning_rate, edge=rule.edge)
