"""Curvature, constrained updates and predicted dynamics at the edge of stability, on any JAX loss.

>>> import jax.numpy as jnp
>>> print(sharpness(lambda p: 2 * p["w"] ** 2 - p["b"] ** 2, {"w": jnp.array(1.0), "b": jnp.array(0.0)}).value)
4.0
"""

import importlib
import importlib.util
from typing import TYPE_CHECKING

from eoslib.constrained import ConstrainedRecord, ConstrainedState, ConstrainedStatus, constrained_step
from eoslib.eigen import EigenPairs, EigenStatus, leading_eigenpair, leading_eigenpairs
from eoslib.geometry import LocalGeometry, local_geometry
from eoslib.objective import Cubic, Objective
from eoslib.position import Position
from eoslib.rules import EMA, SAM, Adam, GradientDescent, HeavyBall, Nesterov, RMSProp, Rule
from eoslib.sharpness import Sharpness, sharpness
from eoslib.stable_set import Projection, ProjectionStatus, project

if TYPE_CHECKING:
    from eoslib.optimizers import from_optax
    from eoslib.trajectories.approach import Approach, EdgeStatus, find_instability
    from eoslib.trajectories.descent import Training, follow
    from eoslib.trajectories.state import Options
    from eoslib.trajectories.track import track, track_from
    from eoslib.transformation import constrained_gradient_descent

__all__ = [
    "EMA", "SAM", "Adam", "ConstrainedRecord", "ConstrainedState", "ConstrainedStatus", "Cubic", "EigenPairs",
    "EigenStatus", "GradientDescent", "HeavyBall", "LocalGeometry", "Nesterov", "Objective", "Position", "Projection",
    "ProjectionStatus", "RMSProp", "Rule", "Sharpness", "Training", "constrained_gradient_descent", "constrained_step",
    "follow", "from_optax", "leading_eigenpair", "leading_eigenpairs", "local_geometry", "project", "sharpness",
]  # fmt: skip
if importlib.util.find_spec("xarray") and importlib.util.find_spec("tqdm"):  # the extra ``track`` is there
    __all__ += ["Approach", "EdgeStatus", "Options", "find_instability", "track", "track_from"]

_LAZY = {
    "Approach": "trajectories.approach", "EdgeStatus": "trajectories.approach",
    "find_instability": "trajectories.approach", "Options": "trajectories.state", "track": "trajectories.track",
    "track_from": "trajectories.track", "constrained_gradient_descent": "transformation", "from_optax": "optimizers",
    "follow": "trajectories.descent", "Training": "trajectories.descent",
}  # fmt: skip


def __getattr__(name: str):
    """Import at its first use what needs the extra ``track`` (xarray, tqdm), or is no part of a run (optax)."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(f"eoslib.{_LAZY[name]}"), name)
    except ModuleNotFoundError as absent:
        raise ImportError(f"eoslib.{name} needs {absent.name}, which eoslib's extra 'track' brings") from absent


def __dir__() -> list[str]:
    """Name what is public, loaded or not."""
    return sorted({*globals(), *__all__})
