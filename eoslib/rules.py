"""Update rules: what a step makes of the gradient, and the sharpness at which it turns unstable, its *edge*.

A rule is a JAX pytree whose leaves are its rates, so that one compiled program serves every learning rate.

>>> GradientDescent(0.02).edge
100.0
>>> resolve(-1.0)
Traceback (most recent call last):
ValueError: learning_rate must be positive and finite, got -1.0
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from eoslib.position import Theta

#: A further eigenvalue counts as unstable from this fraction of the edge on: one direction no longer suffices there.
EDGE_FRACTION = 0.95


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class GradientDescent:
    """θ ↦ θ − η∇L(θ), which oscillates along an eigenvector of ∇²L once its eigenvalue λ exceeds 2/η."""

    learning_rate: Any  # step size η (1/curvature)

    @property
    def edge(self) -> Any:
        """2/η, the largest stable curvature: the multiplier 1 − ηλ then is −1 (arXiv 2209.15594, stable set)."""
        return 2 / self.learning_rate

    def update(self, theta: Theta, gradient: Float[Array, " p"]) -> Any:
        """Return θ − η∇L, in the precision of θ."""
        return theta + -jnp.asarray(self.learning_rate, theta.dtype) * gradient.astype(theta.dtype)


#: Every rule, for tests and tables.
RULES = (GradientDescent,)


def resolve(rule: GradientDescent | Any) -> GradientDescent:
    """Return a rule, or gradient descent for a learning rate, its rate a Python number or traced.

    A Python number takes the precision of what it multiplies, where one of NumPy's would change it.

    Raises:
        ValueError: if the learning rate is not a positive and finite number (traced values pass).
    """
    rule = rule if isinstance(rule, RULES) else GradientDescent(rule)
    rate = rule.learning_rate
    if isinstance(rate, Tracer):
        return rule
    if not isinstance(rate, int | float | np.number | np.ndarray | jax.Array) or np.ndim(rate) or not 0 < rate < np.inf:
        raise ValueError(f"learning_rate must be positive and finite, got {rate!r}")
    return dataclasses.replace(rule, learning_rate=float(rate))
