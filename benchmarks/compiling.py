"""CPU seconds that compiling the measurement of the assumptions takes, per network, beside its gradient's.

CPU seconds of all threads, which other processes on the machine change little; their ratio, which its speed does not.
"""

from __future__ import annotations

import dataclasses
import time

import jax
import jax.numpy as jnp
import numpy as np

from eoslib.eigen import random_direction
from eoslib.objective import Objective
from eoslib.trajectories import assumptions
from eoslib.trajectories.prediction import PredictedState
from selfstab import experiment, settings

NETWORKS = ("mlp-cifar10", "cnn-cifar10", "transformer-sst2")
#: Gradients that compiling `assumptions.measure` may take on a one-dimensional convolution: the convolutions handed to
#: the compiler, which are the same on every machine, and CPU seconds.
CONVOLUTIONS, SECONDS = 45, 60


def convolution(layers: int = 6, width: int = 4, window: int = 5, samples: int = 16, length: int = 32) -> Objective:
    """A one-dimensional convolutional network on noise, in the layout of ``jax.lax.conv``."""
    rng = np.random.default_rng(0)

    def noise(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    kernels = [noise(width, 1 if i == 0 else width, window) for i in range(layers)]

    def loss(params, batch):
        hidden, labels = batch
        for kernel in params["kernels"]:
            hidden = jnp.tanh(jax.lax.conv_general_dilated(hidden, kernel, (1,), "SAME"))
        return jnp.mean((hidden.mean(2) @ params["out"] - labels) ** 2)

    params = {"kernels": kernels, "out": noise(width)}
    return Objective.create(loss, params, (noise(samples, 1, length), noise(samples)))


def calls(objective: Objective) -> dict[str, tuple]:
    """The gradient and the measurement, each as (function, *arguments)."""
    u = random_direction(objective.size, objective.dtype)
    theta, predicted = jnp.zeros_like(u), PredictedState(u, jnp.ones((), objective.dtype))
    gradient = (lambda o, t: o.value_and_grad(t)), objective, theta
    return {
        "gradient": gradient,
        "measure": (assumptions.measure, objective, assumptions.start(u), theta, u, predicted),
    }


def lowered(function, *arguments):
    """What the compiler is given, past every cache."""
    return jax.jit(lambda *given: function(*given)).lower(*arguments)


def convolutions(objective: Objective) -> float:
    """Convolutions that the compiler is given of the measurement, over those of the gradient."""
    found = {name: lowered(*call).as_text().count("stablehlo.convolution") for name, call in calls(objective).items()}
    return found["measure"] / found["gradient"]


def compiling(objective: Objective) -> dict[str, float]:
    """CPU seconds of compiling the gradient and `assumptions.measure`, tracing included, and their ratio."""
    found, kept = {}, jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        for name, call in calls(objective).items():
            begun = time.process_time()
            lowered(*call).compile()
            found[f"{name}_cpu_s"] = time.process_time() - begun
    finally:
        jax.config.update("jax_enable_compilation_cache", kept)
    return found | {"ratio": found["measure_cpu_s"] / found["gradient_cpu_s"]}


def every_network(scale: str = "quick") -> dict[str, dict[str, float]]:
    """Return :func:`compiling` of the settings' networks, and of a one-dimensional convolution."""
    found = {}
    for name in NETWORKS:
        # Few samples, as compiling does not depend on their number.
        setting = settings.get(name, scale)
        found[name] = compiling(experiment.prepare(dataclasses.replace(setting, n=min(setting.n, 100)), 0).objective)
    return found | {"1-D convolution": compiling(convolution())}
