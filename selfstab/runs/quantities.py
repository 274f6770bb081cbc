"""Quantities derived from a run: δ, ε, its whole cycles, and the part of it that one unstable direction explains."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import SupportsFloat

import numpy as np
import xarray as xr
from scipy import stats
from scipy.interpolate import CubicSpline

from eoslib import geometry
from eoslib.rules import EDGE_FRACTION
from selfstab.theory.reduced import cycle_starts


def single_direction(run: xr.Dataset) -> xr.Dataset:
    """Return a run up to the step at which λ₂ reaches 1.9/η; all of it if λ₂ never does, or does at step 0."""
    late = run.attrs["single_direction_until"]
    return _before(run, int(late)) if late > 0 else run


def _before(run: xr.Dataset, step: int) -> xr.Dataset:
    return run.isel({name: (run[name] < step).values for name in ("t", "interval", "stride") if name in run.sizes})


def sharpening(run: xr.Dataset) -> xr.Dataset:
    """Return a run up to the first step with α ≤ 0, where nothing sharpens and there is no δ; all of it if none has."""
    over = ~(run.alpha > 0).values
    return _before(run, int(run.t[over.argmax()])) if over.any() else run


def one_direction(runs: Iterable[xr.Dataset]) -> list[xr.Dataset]:
    """Return the runs at whose first step λ₂ is below 1.9/η (or was not measured), up to the step where it is not."""
    return [single_direction(run) for run in runs if run.attrs["single_direction_until"] != 0]


def with_margin(run: xr.Dataset) -> xr.Dataset:
    """Return a run up to the step at which the last direction of its block reaches 1.9/η; all of it if none does.

    From there on an eigenvalue left out may be as near.  Comparisons end, as those of one direction do with λ₂.
    """
    full = (run.block_eigenvalues[:, -1] > EDGE_FRACTION * run.attrs["edge"]).values
    return _before(run, int(full.argmax())) if full.any() else run


def radius(run: xr.Dataset) -> xr.DataArray:
    """Return δ at every step (NaN where α ≤ 0, because nothing sharpens)."""
    return np.sqrt(run.delta_squared.where(run.delta_squared > 0))


def predicted_loss(run: xr.Dataset) -> xr.DataArray:
    """Return the published series L(θ† + v*), or the theorem's L(θ†) + x²/η for a recorded run without it."""
    return run.get("predicted_true_loss", run.predicted_loss)


def cycles(run: xr.Dataset) -> np.ndarray:
    """Return the steps that bound a run's whole cycles (:func:`selfstab.theory.reduced.cycle_starts`)."""
    return cycle_starts(run.y.values)


def first_cycle(run: xr.Dataset) -> slice:
    """Return the steps of the first predicted cycle.

    It lasts from the step at which the prediction is gradient descent itself to the first at which y turns positive
    again, or to the end if y does not.
    """
    origin = max(int(run.predicting.values.argmax()) - 1, 0)
    over = [int(step) for step in cycles(run) if step > origin]
    return slice(origin, over[0] + 1 if over else run.sizes["t"])


def epsilon(run: xr.Dataset) -> xr.DataArray:
    """Return ε = η√α at every step (NaN where α < 0)."""
    return geometry.epsilon(run.alpha.where(run.alpha >= 0), run.attrs["learning_rate"])


def prediction_errors(run: xr.Dataset, guess=None) -> dict[str, float]:
    """Return the largest errors of the prediction over some steps, in units of the theorem's remainders.

    Those are εδ for the deviation, εδ²/η for the loss L(θ†) + x*²/η, ε²/η for the sharpness, at the mean ε and δ² of
    these steps.

    Args:
        run: Steps of a run.
        guess: A null model (a ``nulls.Guess``) to be judged instead, by the deviation of its x alone.
    """
    eta, e, d = run.attrs["learning_rate"], float(epsilon(run).mean()), float(np.sqrt(run.delta_squared.mean()))
    if guess is None:
        off = run.predicted_error, run.gd_loss - run.predicted_loss, run.gd_sharpness - run.predicted_sharpness
    else:
        off = run.x - guess.x, run.gd_loss - guess.loss(run), run.gd_sharpness - guess.sharpness(run)
    errors = (float(np.abs(each.fillna(np.inf)).max()) for each in off)  # NaN: it diverged
    units = {"deviation": e * d, "loss": e * d**2 / eta, "sharpness": e**2 / eta}
    return {name: error / unit for (name, unit), error in zip(units.items(), errors)}


#: ε above which two cycles of the map already spiral out visibly, so that orders in ε are judged below it.
SMALL = 0.15


def slope_along(run: xr.Dataset, k: int) -> Callable | None:
    """Return F'(x) of the loss F along u at the k-th strided step; None where the profile is along another eigenvector.

    A profile reaches five δ to both sides.  It is measured with an eigen-solve of its own, which with several
    eigenvalues at the edge may find another of them, and then its δ is another, or 0 where that one is not sharpened.
    """
    x, delta = run.profile_offset[k].values, float(radius(run)[int(run.stride.values[k])])
    return CubicSpline(x, run.profile[k].values).derivative() if abs(x[-1] / (5 * delta) - 1) < 0.1 else None


def valley(run: xr.Dataset) -> np.ndarray:
    """Return F'(x)/x and F''(x) of the loss F along u at |x| = δ, by strided step (2, n); (2, 0) if not recorded.

    They are NaN where :func:`slope_along` is None.
    """
    found = np.full((2, run.sizes["stride"] if "profile" in run else 0), np.nan)
    for k in range(found.shape[1]):
        if (slope := slope_along(run, k)) is None:
            continue
        d = float(radius(run)[run.stride.values[k]])
        found[:, k] = (slope(d) - slope(-d)) / (2 * d), (slope(d, 1) + slope(-d, 1)) / 2
    return found


def hovering(run: xr.Dataset) -> tuple[float, float]:
    """Return the relative excess of the mean of S over whole cycles over 2/η, measured and derived (NaN: no cycle).

    Each bounce multiplies |x| by 1 + η(y + F'(x)/x − 2/η), with F the loss along u, and S is y + F''(x) + ½ηβx², whose
    last term is of second order in the coupling of u to the rest, taken as flat.  Over n steps the means are related by

        ⟨S⟩ − 2/η = (ln|x_n/x_0|)/(ηn) + ⟨y − ln(1 + ηy)/η⟩ + ½ηβ⟨x²⟩ + ⟨F'' − F'/x⟩

    in which only S itself uses the sharpness of gradient descent.  F is evaluated at |x| = δ, and is a parabola if it
    was not recorded.
    """
    ups, eta = cycles(run), run.attrs["learning_rate"]
    if len(ups) < 2:
        return np.nan, np.nan
    a, b = int(ups[0]), int(ups[-1])
    part, size = run.isel(t=slice(a, b)), np.abs(run.x.values)
    y = part.y.values
    derived = np.log(size[b] / size[a]) / (b - a) + (eta * y - np.log1p(np.clip(eta * y, -0.999, None))).mean()
    derived += float((eta**2 * part.beta * part.x**2).mean()) / 2
    ratios, curvatures = valley(run)
    derived += eta * float(np.nanmean(curvatures - ratios)) if len(ratios) else 0.0
    return float((part.gd_sharpness / run.attrs["edge"]).mean()) - 1, float(derived) / 2


def skewness(run: xr.Dataset) -> xr.DataArray:
    """Return κ = (∇S·u)²/‖∇S⊥‖² at every step, the skewness of the valley, which damps the oscillation."""
    return run.sharpness_slope**2 / run.beta


def critical(run: xr.Dataset) -> np.ndarray:
    """Return the number of eigenvalues at θ† that are at 2/η, within a thousandth, at every step."""
    return (run.block_eigenvalues > (1 - 1e-3) * run.attrs["edge"]).sum("direction").values


def cycle_length(run: xr.Dataset) -> xr.DataArray:
    """Return √2π/ε at every step, the length of a cycle of small oscillations, with the block's ε if there is one."""
    return np.sqrt(2) * np.pi / (run.block_epsilon if "block_epsilon" in run else epsilon(run))


#: A run of fewer cycles of one unstable direction is a pilot: it shows that something can be run, not how it goes on.
PILOT = 2


def lasted(run: xr.Dataset) -> float:
    """Return how many cycles of small oscillations a run was followed for: its steps, each divided by its √2π/ε.

    Steps without an ε (α < 0: nothing sharpens) count as part of no cycle.
    """
    return float((1 / cycle_length(run)).sum()) if run.sizes.get("t") else 0.0


def is_pilot(run: xr.Dataset) -> bool:
    """Return whether a run was followed for less than two cycles."""
    return lasted(run) < PILOT


def followed(run: xr.Dataset, guess: str = "predicted") -> tuple[int, float]:
    """Return for how long a prediction stays within δ of gradient descent: in steps from its start, and in cycles.

    ``guess`` is ``"predicted"`` or ``"generalized"``; a prediction whose loss is no longer finite has left.
    """
    start = first_cycle(run).start
    lost = ~(run[f"{guess}_error"] <= radius(run)).values
    lost[: start + 1] = False
    end = int(lost.argmax()) if lost.any() else run.sizes["t"]
    return end - start, lasted(run.isel(t=slice(start, end)))


def power(epsilons: Iterable[SupportsFloat], values: Iterable[SupportsFloat]) -> tuple[float, float, int]:
    """Return the slope of ln(values) on ln ε, its standard error, and of how many pairs; NaN from fewer than three.

    Pairs that are NaN, infinite or not positive are left out.
    """
    pairs = np.array([list(epsilons), list(values)], float)
    pairs = np.log(pairs[:, (pairs > 0).all(axis=0) & np.isfinite(pairs).all(axis=0)])
    if pairs.shape[1] < 3 or not np.ptp(pairs[0]):
        return np.nan, np.nan, pairs.shape[1]
    fit = stats.linregress(*pairs)
    return float(fit.slope), float(fit.stderr), pairs.shape[1]


def windows(run: xr.Dataset, length: int, at: float | None = None) -> list[slice]:
    """Return windows of ``length`` steps after the end of the first cycle; one of all steps if none fits.

    With ``at`` they have as much training time ηt, and so about as many cycles, as ``length`` steps at that η.
    """
    first, steps = int(cycle_length(run)[0]), run.sizes["t"]
    length = length if at is None else round(length * at / run.attrs["learning_rate"])
    return [slice(a, a + length) for a in range(first, steps - length + 1, length)] or [slice(0, steps)]


def excess(run: xr.Dataset, parts: list[slice], *, one_direction: bool = False) -> np.ndarray:
    """Return mean L(θ) − L(θ†) by window, in units of the mean of tr Σ/η, or of δ²/η of one direction."""
    seen = (run.gd_loss - run.constrained_loss).values
    size = run.delta_squared.clip(0) if one_direction else run.covariance_trace
    predicted = size.values / run.attrs["learning_rate"]
    return np.array([seen[part].mean() / predicted[part].mean() for part in parts])


def in_one_basis(run: xr.Dataset, part: slice) -> tuple[np.ndarray, np.ndarray]:
    """Return x (T, k) and Σ (T, k, k) of some steps in the basis of the first of them.

    The eigenvectors of equal eigenvalues turn arbitrarily from step to step; the block's overlaps record how.

    Raises:
        ValueError: if the block changes its size, which no overlap bridges.
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
    """Return the stretches of steps in which the prediction starts from gradient descent and then runs on its own."""
    locked = [*np.flatnonzero(run.predicting.values == 0), run.sizes["t"]]
    return [slice(int(a), int(b)) for a, b in itertools.pairwise(locked) if b - a > 1]


def tracking_error(run: xr.Dataset, parts: list[slice]) -> list[np.ndarray]:
    """Return ‖v − v*‖ by the age of the prediction, one array per stretch, in units of the root mean square of ‖v‖."""
    error, size = run.predicted_error.values, run.distance.values
    return [error[part] / np.sqrt((size[part] ** 2).mean()) for part in parts]
