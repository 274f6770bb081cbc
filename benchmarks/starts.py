"""Where everything that is measured begins: the point at which gradient descent first reaches S = 2/η."""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import reference

from eoslib.objective import Objective
from eoslib.rules import GradientDescent
from eoslib.trajectories import state as tracks
from eoslib.trajectories.approach import EdgeStatus, find_instability
from selfstab import experiment, settings
from selfstab.records.paths import results_root

SEED = 0


class Size(NamedTuple):
    """How much is measured."""

    scale: str
    rounds: int  # repetitions of a short measurement, of which the least counts
    chunks: int  # timed chunks of ``Options().chunk`` tracked steps
    repeats: int  # of those and of the reference's steps
    constrained_steps: int  # consecutive steps over which the constrained step is averaged
    common_steps: int  # over which the two sides' constrained trajectories are compared
    exact_steps: int  # over which both are compared with exact projections
    samples: tuple[int, ...]
    widths: tuple[int, ...]
    late: int  # most steps past the instability at which several directions are timed
    matmul: int  # side of the matrices that measure the machine's peak


PAPER = Size("paper", 5, 2, 2, 10, 60, 2, (500, 1000, 2000, 5000), (50, 100, 200, 400, 800), 1000, 4096)
SMALL = Size("test", 3, 2, 2, 4, 10, 5, (50, 100, 200), (8, 16, 32), 100, 512)

BEGUN = time.perf_counter()


def say(text: str) -> None:
    """A line of progress, on standard error."""
    print(f"[{time.perf_counter() - BEGUN:5.0f} s] {text}", file=sys.stderr, flush=True)


class Edge(NamedTuple):
    """The point where S first reaches 2/η."""

    setting: settings.Setting
    objective: Objective
    theta: jax.Array
    eigenvector: jax.Array
    step: int  # at which gradient descent came there


class Start(NamedTuple):
    """Where everything that is timed begins."""

    setting: settings.Setting
    objective: Objective
    state: tracks.TrackState
    options: tracks.Options


def instability(size: Size) -> Edge:
    """The instability, from its file, or computed and kept for the next call."""
    setting = settings.get("mlp-cifar10", size.scale, learning_rate=0.02)
    objective, theta, *_ = experiment.prepare(setting, SEED)
    file = results_root() / "checkpoints" / f"bench-{setting.scale}-{setting.digest()}-seed{SEED}.npz"
    if not file.exists():
        say("computing the start: gradient descent until S = 2/η (kept for the next call)")
        approach = find_instability(
            objective, theta, setting.learning_rate, max_steps=setting.edge_steps, progress=sys.stderr.isatty()
        )
        if approach.status != EdgeStatus.REACHED:
            raise RuntimeError(f"the benchmark needs a start at the edge of stability; {approach.status.message}")
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_suffix(f".{os.getpid()}.tmp")
        with open(temporary, "wb") as handle:
            np.savez(handle, theta=approach.theta, eigenvector=approach.eigenvector, step=approach.step)
        os.replace(temporary, file)
    with np.load(file) as kept:
        return Edge(setting, objective, jnp.asarray(kept["theta"]), jnp.asarray(kept["eigenvector"]), int(kept["step"]))


def library_start(edge: Edge, directions: int = 1) -> Start:
    """The library's state at the instability: gradient descent moved along u by the setting's kick, θ† projected.

    Further ``directions`` than one start from noise.
    """
    options = tracks.Options(kick=edge.setting.kick, directions=directions)
    rule = GradientDescent(edge.setting.learning_rate)
    noise = jax.random.normal(jax.random.key(0), (directions - 1, edge.objective.size), edge.objective.dtype)
    starts = jnp.concatenate([edge.eigenvector[None], noise])
    state, _ = tracks.start(edge.objective, rule, edge.theta, starts, options)
    return Start(edge.setting, edge.objective, state, options)


def published(start: Start) -> Objective:
    """The objective with loss and gradient in float64, as published; all else stays in float32."""
    double = experiment.prepare(dataclasses.replace(start.setting, gradient_dtype="float64"), SEED).objective
    return dataclasses.replace(double, batch=start.objective.batch)


def reference_start(start: Start, objective: Objective | None = None) -> reference.State:
    """The published procedure's state at the same positions."""
    state = start.state
    return reference.start(
        objective or start.objective,
        state.descent.theta,
        state.constrained.eigenvector,
        start.setting.learning_rate,
        constrained=state.constrained.theta,
        flow=state.flow.theta,
    )
