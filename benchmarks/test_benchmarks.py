"""Derivatives under pytest-benchmark, on the quick setting: ``pytest benchmarks --benchmark-enable``."""

import jax
import pytest

from eoslib import dynamics, experiments, settings
from eoslib.geometry import random_direction

EVALUATIONS = {
    "gradient": lambda o, t, u: o.value_and_grad(t),
    "hvp": lambda o, t, u: o.hvp(t, u),
    "gradient_and_hvp": lambda o, t, u: o.gradient_and_hvp(t, u),
    "cubic": lambda o, t, u: o.cubic(t, u),
    "constrained_step": lambda o, t, u: dynamics.constrained_step(o, dynamics.ConstrainedState.at(t, u), 0.02)[:2],
}


@pytest.fixture(scope="module")
def problem():
    with jax.enable_x64(True):
        experiment = experiments.prepare(settings.get("mlp-cifar10", "quick"))
    return experiment.objective, experiment.theta, random_direction(experiment.objective.size, experiment.theta.dtype)


@pytest.mark.parametrize("name", EVALUATIONS)
def test_evaluation(benchmark, problem, name):
    evaluate = jax.jit(EVALUATIONS[name])
    jax.block_until_ready(evaluate(*problem))  # compiles
    result = benchmark(lambda: jax.block_until_ready(evaluate(*problem)))
    assert all(bool(jax.numpy.isfinite(leaf).all()) for leaf in jax.tree.leaves(result))
