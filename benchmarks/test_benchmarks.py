"""Derivatives under pytest-benchmark, on the quick setting: ``pytest benchmarks --benchmark-enable``."""

import compiling
import jax
import pytest

from eoslib.constrained import ConstrainedState, constrained_step
from eoslib.eigen import random_direction
from eoslib.rules import GradientDescent
from selfstab import experiment, settings

EVALUATIONS = {
    "gradient": lambda o, t, u: o.value_and_grad(t),
    "hvp": lambda o, t, u: o.hvp(t, u),
    "gradient_and_hvp": lambda o, t, u: o.gradient_and_hvp(t, u),
    "cubic": lambda o, t, u: o.cubic(t, u),
    "constrained_step": lambda o, t, u: constrained_step(o, GradientDescent(0.02), ConstrainedState.at(t, u)),
}


@pytest.fixture(scope="module")
def problem():
    prepared = experiment.prepare(settings.get("mlp-cifar10", "quick"))
    return prepared.objective, prepared.theta, random_direction(prepared.objective.size, prepared.theta.dtype)


@pytest.mark.parametrize("name", EVALUATIONS)
def test_evaluation(benchmark, problem, name):
    evaluate = jax.jit(EVALUATIONS[name])
    jax.block_until_ready(evaluate(*problem))  # compiles
    result = benchmark(lambda: jax.block_until_ready(evaluate(*problem)))
    assert all(bool(jax.numpy.isfinite(leaf).all()) for leaf in jax.tree.leaves(result))


def test_compiling_the_measurement_is_bounded():
    objective = compiling.convolution()
    assert compiling.convolutions(objective) <= compiling.CONVOLUTIONS
    assert compiling.compiling(objective)["ratio"] <= compiling.SECONDS
