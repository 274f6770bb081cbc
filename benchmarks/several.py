"""A whole tracked step where three eigenvalues are at the edge, by turns: with four directions, and with one.

The flow makes ⌈ηS⌉ substeps in a step, and S is far above 2/η on it there: four directions are timed without it too.
"""

from __future__ import annotations

import dataclasses
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


@dataclasses.dataclass
class Side:
    """One way of taking the steps: its state, and of every chunk so far the least seconds a step and the records."""

    state: tracks.TrackState
    options: tracks.Options
    seconds: list[float] = dataclasses.field(default_factory=list)
    records: list[dict] = dataclasses.field(default_factory=list)

    def advance(self, objective, rule, repeats: int) -> None:
        """Take the same chunk of steps so many times, and go on from its end."""
        taken = []
        for _ in range(repeats):
            begun = time.perf_counter()
            following, series, _ = jax.block_until_ready(
                tracks.advance(objective, rule, self.state, self.options.chunk, self.options)
            )
            taken.append((time.perf_counter() - begun) / self.options.chunk)
        self.state = following
        self.seconds.append(min(taken))
        self.records.append(series)

    def told(self, objective, rule, unit: float) -> dict:
        """Gradients a step, of ``unit`` seconds each, and what the steps did."""
        series = {key: np.concatenate([record[key] for record in self.records]) for key in self.records[0]}
        options = {"steps": self.options.chunk, "options": self.options}
        program = tracks._steps.lower(objective, rule, self.state, self.state.flow, **options).compile()
        return {
            "gradients": float(np.mean(self.seconds) / unit),
            "gd_products": float(series["gd_products"].mean()),
            "products": float(series["products"].mean()),
            "rounds": float(series["rounds"].sum()),
            "violation": float(series["violation"].max()),
            "temporary_bytes": program.memory_analysis().temp_size_in_bytes,
        }


def several(edge: Edge, size: Size) -> dict:
    """Gradients per tracked step of every side, each chunk at its least, and what the steps did."""
    objective, rule = edge.objective, GradientDescent(edge.setting.learning_rate)
    theta, us, steps = late(edge, size)
    say(f"{steps} steps past the instability: tracked steps with {DIRECTIONS} directions and with one")
    sides = {}
    for name, options in SIDES.items():
        state, _ = tracks.start(objective, rule, theta, us[: options.directions], options)
        sides[name] = Side(tracks.advance(objective, rule, state, options.chunk, options)[0], options)
    unit = []
    for _ in range(size.chunks):
        for side in sides.values():
            unit += [seconds(lambda: gradient(objective, theta)) for _ in range(size.rounds)]
            side.advance(objective, rule, size.repeats)
    found = {"steps_past_instability": steps, "gradient_s": min(unit)}
    found |= {name: side.told(objective, rule, min(unit)) for name, side in sides.items()}
    central = CentralState.at(theta, us)
    flow = jax.jit(lambda objective, state: central_flow_step(objective, rule, state, substeps=4))
    flow(objective, central)
    found["central_flow_gradients"] = seconds(lambda: flow(objective, central)) / min(unit)
    return found
