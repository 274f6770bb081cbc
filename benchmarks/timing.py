"""Seconds and gradients of derivatives, eigen-solves, constrained and tracked steps, of both sides by turns."""

from __future__ import annotations

import dataclasses
import time

import jax
import jax.numpy as jnp
import numpy as np
import reference
from starts import SEED, Size, Start, published, reference_start, say

from eoslib.constrained import constrained_step as step
from eoslib.eigen import leading_eigenpair
from eoslib.objective import Objective
from eoslib.rules import GradientDescent
from eoslib.trajectories import state as tracks
from selfstab import experiment

EIGEN_TOLERANCE = 5e-3  # what the constrained step asks of its eigenvector

# The programs that are timed, compiled once each; the objective is an argument, so that its batch is no constant.
gradient = jax.jit(lambda objective, theta: objective.value_and_grad(theta))
hvp = jax.jit(lambda objective, theta, u: objective.hvp(theta, u))
gradient_and_hvp = jax.jit(lambda objective, theta, u: objective.gradient_and_hvp(theta, u))
cubic = jax.jit(lambda objective, theta, u: objective.cubic(theta, u))
cubic_and_hvp = jax.jit(lambda objective, theta, u, v: objective.cubic_and_hvps(theta, u, v[None]))
constrained_step = jax.jit(lambda objective, state, rate: step(objective, GradientDescent(rate), state))


@jax.jit
def eigen_solve(objective: Objective, theta, start):
    return leading_eigenpair(lambda v: objective.hvp(theta, v), start, tolerance=EIGEN_TOLERANCE, max_products=200)


def seconds(call) -> float:
    """Wall time of a call, its result waited for."""
    begun = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - begun


def least(calls: dict, rounds: int) -> dict:
    """Least seconds of each call over so many rounds, forwards and backwards through the calls by turns."""
    for call in calls.values():
        jax.block_until_ready(call())  # compiles
    times = {name: [] for name in calls}
    for turn in range(rounds):
        for name in list(calls)[:: 1 if turn % 2 == 0 else -1]:
            times[name].append(seconds(calls[name]))
    return {name: min(values) for name, values in times.items()}


def evaluations(start: Start, size: Size) -> dict[str, float]:
    """Seconds of each derivative and of a warm eigen-solve on both sides, interleaved."""
    objective, rate = start.objective, start.setting.learning_rate
    theta, u = start.state.constrained.theta, start.state.constrained.eigenvector
    v = start.state.predicted.carried
    following, _ = constrained_step(objective, start.state.constrained, rate)
    blocks = jnp.stack([u, v / jnp.linalg.norm(v)], axis=1)
    blocks = reference.leading_eigenpairs(objective, theta, blocks)[1]  # warm for the next point
    return least(
        {
            "gradient": lambda: gradient(objective, theta),
            "hvp": lambda: hvp(objective, theta, u),
            "gradient_and_hvp": lambda: gradient_and_hvp(objective, theta, u),
            "cubic": lambda: cubic(objective, theta, u),
            "cubic_and_hvps(k=1)": lambda: cubic_and_hvp(objective, theta, u, v),
            "warm eigen-solve": lambda: eigen_solve(objective, following.theta, u),
            "reference: warm eigen-solve": lambda: reference.leading_eigenpair(objective, following.theta, u),
            "reference: the same, two pairs": lambda: reference.leading_eigenpairs(objective, following.theta, blocks),
        },
        size.rounds,
    )


def constrained_steps(start: Start, size: Size) -> dict[str, float]:
    """Seconds of a constrained step on both sides: each of several consecutive steps at its least, then their mean."""
    objective, rate = start.objective, start.setting.learning_rate
    ours = [start.state.constrained]
    for _ in range(size.constrained_steps - 1):
        ours.append(constrained_step(objective, ours[-1], rate)[0])
    theirs = reference_start(start)
    calls = {i: (lambda s=s: constrained_step(objective, s, rate)) for i, s in enumerate(ours)}
    calls["reference"] = lambda: reference.constrained_step(objective, theirs.constrained, theirs.here, rate)
    calls["gradient"] = lambda: gradient(objective, theirs.constrained)
    times = least(calls, 2)
    return {
        "eoslib": float(np.mean([times[i] for i in range(len(ours))])),
        "reference": times["reference"],
        "gradient": times["gradient"],
    }


def tracked_steps(start: Start, size: Size) -> dict:
    """Whole tracked steps of both sides by turns: the same steps several times, each at its least, then their mean."""
    objective, rate, length = start.objective, start.setting.learning_rate, start.options.chunk

    def advance(state, objective=objective):
        return tracks.advance(objective, GradientDescent(rate), state, length, start.options)

    def timed(call):
        begun = time.perf_counter()
        result = jax.block_until_ready(call())
        return result, time.perf_counter() - begun

    state, *records = advance(start.state)  # compiles
    records, ours = [records[0] | records[1]], [state]
    state, values = reference.tracked_step(objective, reference_start(start), rate)
    losses, theirs = [float(values["constrained_loss"])], [state]
    per_chunk = 2  # steps of the reference between two chunks
    ours_s = [[] for _ in range(size.chunks)]  # a step
    theirs_s = [[] for _ in range(size.chunks * per_chunk)]
    # Both again with gradients as published, in float64.
    double = published(start)
    ours_double_s, theirs_double_s = ([[] for _ in each] for each in (ours_s, theirs_s))
    advance(start.state, double)  # compiles
    reference.tracked_step(double, theirs[0], rate)
    gradient_s = []
    for turn in range(size.repeats):
        for chunk in range(size.chunks):
            gradient_s += [
                seconds(lambda: gradient(objective, start.state.constrained.theta)) for _ in range(size.rounds)
            ]
            (state, series, strided), taken = timed(lambda i=chunk: advance(ours[i]))
            ours_s[chunk].append(taken / length)
            ours_double_s[chunk].append(timed(lambda i=chunk: advance(ours[i], double))[1] / length)
            if turn == 0:
                ours.append(state)
                records.append(series | strided)
            for place in range(chunk * per_chunk, (chunk + 1) * per_chunk):
                (state, values), taken = timed(lambda i=place: reference.tracked_step(objective, theirs[i], rate))
                theirs_s[place].append(taken)
                taken = timed(lambda i=place: reference.tracked_step(double, theirs[i], rate))[1]
                theirs_double_s[place].append(taken)
                if turn == 0:
                    theirs.append(state)
                    losses.append(float(values["constrained_loss"]))
            say(f"a tracked step: {ours_s[chunk][-1]:.3g} s; of the reference: {theirs_s[place][-1]:.3g} s")
    unit, ours_least, theirs_least = min(gradient_s), np.mean([*map(min, ours_s)]), np.mean([*map(min, theirs_s)])
    series = {name: np.concatenate([np.atleast_1d(record[name]) for record in records]) for name in records[0]}
    off = np.abs(series["constrained_sharpness"] * rate / 2 - 1)
    active = series["active"] > 0
    known = series["constrained_loss"][: len(losses)]
    centers = 1 + series["rounds"][length:]
    return {
        "eoslib_s": float(ours_least),
        "eoslib_gradients": float(ours_least / unit),
        "reference_s": float(theirs_least),
        "reference_gradients": float(theirs_least / unit),
        "eoslib_float64_s": float(np.mean([*map(min, ours_double_s)])),
        "reference_float64_s": float(np.mean([*map(min, theirs_double_s)])),
        "every_eoslib_s": ours_s,  # (chunk, repetition)
        "every_reference_s": theirs_s,  # (step, repetition)
        "gradient_s": unit,
        "max_violation": float(off[active].max(initial=0)),
        "steps": int(off.size),
        "active_steps": int(active.sum()),
        "reference_steps": len(losses),
        "loss_difference": float(np.max(np.abs(known / np.asarray(losses) - 1))),
        "gd_products": float(series["gd_products"][length:].mean()),
        "constrained_products": float(series["products"][length:].mean()),
        "constrained_expansions": float(
            (centers + (series["products"][length:] > centers)).mean()
        ),  # refined: once more
        "flow_gradients": float(series["flow_gradients"][1:].mean() / length),
    }


def profile(evaluated: dict[str, float], tracked: dict) -> dict[str, float]:
    """Where a tracked step's gradients go: counts of the timed chunks times the cost of each evaluation."""
    cost = {name: value / evaluated["gradient"] for name, value in evaluated.items()}
    more_products = max(tracked["constrained_products"] - tracked["constrained_expansions"], 0)
    parts = {
        "constrained: expansions with the prediction's product": (
            tracked["constrained_expansions"] * cost["cubic_and_hvps(k=1)"]
        ),
        "constrained: further products on its eigenvector": more_products * cost["hvp"],
        "gradient descent: gradient and first product": cost["gradient_and_hvp"],
        "gradient descent: further products": (tracked["gd_products"] - 1) * cost["hvp"],
        "gradient flow": tracked["flow_gradients"],
    }
    return parts | {"vectors, records and the rest": tracked["eoslib_gradients"] - sum(parts.values())}


def matmul_peak(side: int, rounds: int) -> float:
    """Floating-point operations a second of a large float32 matrix product."""
    a = jax.random.normal(jax.random.key(0), (side, side), jnp.float32)
    product = jax.jit(lambda a, b: a @ b)
    return 2 * side**3 / least({"matmul": lambda: product(a, a)}, rounds)["matmul"]


def gradient_operations(objective: Objective, theta) -> int:
    """Multiplications and additions in the matrix products of a gradient: forwards, back to weights and to inputs."""
    n = objective.batch[0].shape[0]
    features = int(np.prod(objective.batch[0].shape[1:]))
    kernels = [
        leaf.shape for leaf in jax.tree.leaves(objective.unravel(theta.astype(objective.dtype))) if leaf.ndim == 2
    ]
    every = sum(rows * columns for rows, columns in kernels)
    first = sum(rows * columns for rows, columns in kernels if rows == features)
    return 2 * n * (3 * every - first)  # the images need no derivative


def growth(objectives: dict, rounds: int) -> dict[str, list]:
    """Seconds of gradient and cubic for each (objective, θ, u), interleaved, and their exponents in the key."""
    calls = {}
    for key, (objective, theta, u) in objectives.items():
        calls["gradient", key] = lambda o=objective, t=theta: gradient(o, t)
        calls["cubic", key] = lambda o=objective, t=theta, d=u: cubic(o, t, d)
    times = least(calls, rounds)
    at = list(objectives)
    found = {"at": at}
    for name in ("gradient", "cubic"):
        series = [times[name, key] for key in at]
        found |= {f"{name}_s": series, f"{name}_exponent": float(np.polyfit(np.log(at), np.log(series), 1)[0])}
    return found


def growth_with_samples(start: Start, size: Size) -> dict[str, list]:
    objective, constrained = start.objective, start.state.constrained
    pieces = {
        n: dataclasses.replace(objective, batch=jax.tree.map(lambda a, n=n: a[:n], objective.batch))
        for n in size.samples
    }
    return growth({n: (o, constrained.theta, constrained.eigenvector) for n, o in pieces.items()}, size.rounds)


def growth_with_width(start: Start, size: Size) -> dict[str, list]:
    objectives = {}
    for width in size.widths:
        prepared = experiment.prepare(dataclasses.replace(start.setting, width=width), SEED)
        batch = start.objective.batch  # one copy of the images for all widths
        objective = dataclasses.replace(prepared.objective, batch=batch)
        u = jnp.ones(objective.size, objective.dtype) / np.sqrt(objective.size).astype(objective.dtype)
        objectives[width] = (objective, prepared.theta, u)
    found = growth(objectives, max(2, size.rounds // 2))
    return found | {"parameters": [objective.size for objective, *_ in objectives.values()]}
