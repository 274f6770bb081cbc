"""What the contract tests run over: update rules, losses, and numbers of leading directions.

A new rule, loss or number of directions is added here, and every contract is tested on it.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import oracles
from jax import Array

from eoslib import rules
from eoslib.objective import Objective

#: Every rule, made by its learning rate alone: the rule itself, its other rates being usual ones.
RULES = {
    "gradient descent": rules.GradientDescent,
    "heavy ball": lambda rate: rules.HeavyBall(rate, momentum=0.6),
    "Nesterov": lambda rate: rules.Nesterov(rate, momentum=0.6),
    "EMA": lambda rate: rules.EMA(rate, momentum=0.6),
    "RMSProp": rules.RMSProp,
    "Adam": rules.Adam,
    "SAM": lambda rate: rules.SAM(rate, radius=0.05),
    "SAM, not normalized": lambda rate: rules.SAM(rate, radius=0.05, normalized=False),
}
#: Those that every step of the constrained trajectory and of the predictions takes.
DESCENTS = (rules.GradientDescent,)
#: Numbers k of directions.
DIRECTIONS = (1,)


class Case(NamedTuple):
    """A loss, a point near the edge of a learning rate, and a start for the eigenvector there."""

    objective: Objective
    theta: Array
    eigenvector: Array
    learning_rate: float


def network() -> Case:
    """The small network on its batch, before the edge; the eigenvector must be found."""
    objective = Objective.create(oracles.mlp_loss, oracles.mlp_params(), oracles.mlp_batch())
    theta = objective.ravel(oracles.mlp_params())
    return Case(objective, theta, jnp.asarray(np.random.default_rng(0).normal(size=theta.size)), oracles.RATE)


def toy() -> Case:
    """The toy, its constants a batch of one, from the wall of the valley above the edge."""
    toy = oracles.Toy(alpha=2.0, beta=4.0, lam=3.0, drift=0.5)
    objective = Objective.create(oracles.toy_loss, jnp.zeros(3), toy.constants)
    return Case(objective, jnp.array([0.1, 0.2, 0.3]), jnp.array([1.0, 0.1, 0.0]), toy.learning_rate)


def quartic() -> Case:
    """The quartic on R⁵, without a batch, from the edge itself."""
    loss, pull = oracles.polynomial()
    constants = pull(1.0)
    objective = Objective.create(lambda theta: loss(theta, constants), jnp.zeros(5))
    return Case(objective, jnp.zeros(5).at[0].set(0.1), jnp.eye(5)[0], oracles.POLYNOMIAL_RATE)


LOSSES = (network, toy, quartic)
