"""Curvature, constrained updates and predicted dynamics at the edge of stability, on any JAX loss.

>>> import jax.numpy as jnp
>>> print(sharpness(lambda p: 2 * p["w"] ** 2 - p["b"] ** 2, {"w": jnp.array(1.0), "b": jnp.array(0.0)}).value)
4.0
"""

from eoslib.dynamics import constrained_gradient_descent
from eoslib.eigen import EigenPairs, EigenStatus, leading_eigenpair, leading_eigenpairs
from eoslib.geometry import LocalGeometry, Sharpness, local_geometry, sharpness
from eoslib.objective import Cubic, Objective
from eoslib.stable_set import Projection, ProjectionStatus, project
from eoslib.tracking import EdgeStatus, Options, find_instability, track, track_from

__all__ = [
    "Cubic",
    "EdgeStatus",
    "EigenPairs",
    "EigenStatus",
    "LocalGeometry",
    "Objective",
    "Options",
    "Projection",
    "ProjectionStatus",
    "Sharpness",
    "constrained_gradient_descent",
    "find_instability",
    "leading_eigenpair",
    "leading_eigenpairs",
    "local_geometry",
    "project",
    "sharpness",
    "track",
    "track_from",
]
