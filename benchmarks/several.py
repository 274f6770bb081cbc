"""A whole tracked step where three eigenvalues are at the edge, by turns: with four directions, and with one.

The flow makes ⌈ηS⌉ substeps in a step, and S is far above 2/η on it there: four directions are timed without it too.
"""

from __future__ import annotations

import time

import jax
import jax.numpy as jnp
import numpy as np
from starts import Edge, Size, say
from timing import gradient, seconds

from eoslib.position import Position
from eoslib.rules import GradientDescent
from eoslib.trajectories import state as tracks
from eoslib.trajectories.central import CentralState, central_flow_step
from eoslib.trajectories.descent import descend
from eoslib.trajectories.track import leading

NEAR = 0.93  # of the edge: gradient descent's third eigenvalue there, θ†'s a little later
DIRECTIONS = 4
SIDES = {
    "several": tracks.Options(directions=DIRECTIONS),
    "several_without_flow": tracks.Options(directions=DIRECTIONS, flow=False),
    "one": tracks.Options(),
}


def late(edge: Edge, size: Size):
    """Gradient descent's position once its third eigenvalue is near the edge, and four eigenvectors there."""
    rule, theta = GradientDescent(edge.setting.learning_rate), Position.of(edge.objective.position(edge.theta))
    noise = jax.random.normal(jax.random.key(0), (DIRECTIONS - 1, edge.objective.size), edge.objective.dtype)
    us, steps = jnp.concatenate([edge.eigenvector[None], noise]), 0
    while True:
        pairs = leading(edge.objective, theta, us)
        if pairs.values[2] > NEAR * rule.edge or steps >= size.late:
            return theta, pairs.vectors, steps
        theta, us, steps = (
            descend(edge.objective, theta, np.full(50, rule.learning_rate)).theta,
            pairs.vectors,
            steps + 50,
        )


def several(edge: Edge, size: Size) -> dict:
    """Gradients per tracked step on both sides, each chunk at its least, and what the steps did."""
    rule, (theta, us, steps) = GradientDescent(edge.setting.learning_rate), late(edge, size)
    say(f"{steps} steps past the instability: tracked steps with {DIRECTIONS} directions and with one")
    sides = {}
    for name, options in SIDES.items():
        state, _ = tracks.start(edge.objective, rule, theta, us[: options.directions], options)
        sides[name] = [tracks.advance(edge.objective, rule, state, options.chunk, options)[0], options, [], []]
    unit = []
    for _ in range(size.chunks):
        unit += [seconds(lambda: gradient(edge.objective, theta)) for _ in range(size.rounds)]
        for side in sides.values():
            state, options, taken, records = side
            begun = time.perf_counter()
            side[0], series, _ = jax.block_until_ready(
                tracks.advance(edge.objective, rule, state, options.chunk, options)
            )
            taken.append((time.perf_counter() - begun) / options.chunk)
            records.append(series)
    found = {"steps_past_instability": steps, "gradient_s": min(unit)}
    for name, (state, options, taken, records) in sides.items():
        series = {key: np.concatenate([record[key] for record in records]) for key in records[0]}
        program = tracks._steps.lower(
            edge.objective, rule, state, state.flow, steps=options.chunk, options=options
        ).compile()
        found[name] = {
            "gradients": float(np.mean(taken) / min(unit)),
            "gd_products": float(series["gd_products"].mean()),
            "products": float(series["products"].mean()),
            "rounds": float(series["rounds"].sum()),
            "violation": float(series["violation"].max()),
            "temporary_bytes": program.memory_analysis().temp_size_in_bytes,
        }
    central = CentralState.at(theta, us)
    flow = jax.jit(lambda objective, state: central_flow_step(objective, rule, state, substeps=4))
    flow(edge.objective, central)
    found["central_flow_gradients"] = seconds(lambda: flow(edge.objective, central)) / min(unit)
    return found
