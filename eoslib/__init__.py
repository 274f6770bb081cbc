"""Curvature, constrained updates and predicted dynamics at the edge of stability, on any JAX loss.

>>> import jax.numpy as jnp
>>> print(sharpness(lambda p: 2 * p["w"] ** 2 - p["b"] ** 2, {"w": jnp.array(1.0), "b": jnp.array(0.0)}).value)
4.0
"""

from eoslib.constrained import ConstrainedState, constrained_gradient_descent, constrained_step
from eoslib.eigen import EigenPairs, EigenStatus, leading_eigenpair, leading_eigenpairs
from eoslib.geometry import LocalGeometry, local_geometry
from eoslib.objective import Cubic, Objective
from eoslib.rules import GradientDescent
from eoslib.sharpness import Sharpness, sharpness
from eoslib.stable_set import Projection, ProjectionStatus, project

__all__ = [
    "ConstrainedState",
    "Cubic",
    "EigenPairs",
    "EigenStatus",
    "GradientDescent",
    "LocalGeometry",
    "Objective",
    "Projection",
    "ProjectionStatus",
    "Sharpness",
    "constrained_gradient_descent",
    "constrained_step",
    "leading_eigenpair",
    "leading_eigenpairs",
    "local_geometry",
    "project",
    "sharpness",
]
