"""What is read off a run: δ, ε, its whole cycles, and the part of it that one unstable direction explains."""

from __future__ import annotations

import numpy as np
import xarray as xr

from eoslib import geometry
from selfstab.theory.reduced import cycle_starts


def single_direction(run: xr.Dataset) -> xr.Dataset:
    """Return a run up to the step at which λ₂ reaches 1.9/η; all of it where that never came, or came at 0."""
    late = run.attrs["single_direction_until"]
    cut = {name: (run[name] < late).values for name in ("t", "interval", "stride") if name in run.sizes}
    return run.isel(cut) if late > 0 else run


def radius(run: xr.Dataset) -> xr.DataArray:
    """Return δ at every step (NaN where α ≤ 0: nothing sharpens)."""
    return np.sqrt(run.delta_squared.where(run.delta_squared > 0))


def predicted_loss(run: xr.Dataset) -> xr.DataArray:
    """Return the published series L(θ† + v*), or the theorem's L(θ†) + x²/η of a recorded run without it."""
    return run.get("predicted_true_loss", run.predicted_loss)


def cycles(run: xr.Dataset) -> np.ndarray:
    """Return the steps that bound a run's whole cycles (:func:`selfstab.theory.reduced.cycle_starts`)."""
    return cycle_starts(run.y.values)


def epsilon(run: xr.Dataset) -> xr.DataArray:
    """Return ε = η√α at every step (NaN where α < 0)."""
    return geometry.epsilon(run.alpha.where(run.alpha >= 0), run.attrs["learning_rate"])
