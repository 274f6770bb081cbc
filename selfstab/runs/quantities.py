"""What is read off a run: δ, ε, its whole cycles, and the part of it that one unstable direction explains."""

from __future__ import annotations

import itertools

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


def critical(run: xr.Dataset) -> np.ndarray:
    """Return how many eigenvalues at θ† are at 2/η, within a thousandth, at every step."""
    return (run.block_eigenvalues > (1 - 1e-3) * run.attrs["edge"]).sum("direction").values


def cycle_length(run: xr.Dataset) -> xr.DataArray:
    """Return √2π/ε at every step, with the block's ε where there is one: the steps of a cycle of small oscillations."""
    return np.sqrt(2) * np.pi / (run.block_epsilon if "block_epsilon" in run else epsilon(run))


def windows(run: xr.Dataset, length: int) -> list[slice]:
    """Return windows of so many steps from the end of the first cycle on; all steps, where not even one fits."""
    first, steps = int(cycle_length(run)[0]), run.sizes["t"]
    return [slice(a, a + length) for a in range(first, steps - length + 1, length)] or [slice(0, steps)]


def excess(run: xr.Dataset, parts: list[slice], *, one_direction: bool = False) -> np.ndarray:
    """Return mean L(θ) − L(θ†) by window, in units of the mean of tr Σ/η, or of δ²/η of one direction."""
    seen = (run.gd_loss - run.constrained_loss).values
    predicted = (run.delta_squared.clip(0) if one_direction else run.covariance_trace).values / run.attrs[
        "learning_rate"
    ]
    return np.array([seen[part].mean() / predicted[part].mean() for part in parts])


def in_one_basis(run: xr.Dataset, part: slice) -> tuple[np.ndarray, np.ndarray]:
    """Return x (T, k) and Σ (T, k, k) of some steps in the basis of the first of them.

    The eigenvectors of equal eigenvalues turn arbitrarily from step to step; the block's overlaps say how.

    Raises:
        ValueError: where the block changes its size, which no overlap bridges.
    """
    run = run.isel(t=part)
    if len(sizes := np.unique(run.block_size)) != 1:
        raise ValueError(f"the block must keep its size in steps {part.start} to {part.stop}, got sizes {sizes}")
    k = int(sizes[0])
    xs, sigmas = run.block_x.values[:, :k], run.covariance.values[:, :k, :k]
    turns = run.block_overlap.values[:, :k, :k].copy()
    turns[0] = np.eye(k)
    turns = np.array(list(itertools.accumulate(turns, lambda before, turn: turn @ before)))  # U_t = turn U_0
    return np.einsum("tij,ti->tj", turns, xs), np.einsum("tia,tij,tjb->tab", turns, sigmas, turns)


def restarts(run: xr.Dataset) -> list[slice]:
    """Return the stretches of steps at whose first the prediction is gradient descent itself, and then on its own."""
    locked = [*np.flatnonzero(run.predicting.values == 0), run.sizes["t"]]
    return [slice(int(a), int(b)) for a, b in itertools.pairwise(locked) if b - a > 1]


def tracking_error(run: xr.Dataset, parts: list[slice]) -> list[np.ndarray]:
    """Return ‖v − v*‖ by the age of the prediction, one array a stretch, in units of the root mean square of ‖v‖."""
    error, size = run.predicted_error.values, run.distance.values
    return [error[part] / np.sqrt((size[part] ** 2).mean()) for part in parts]
