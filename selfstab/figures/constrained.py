"""The figures of the chapter on the constrained trajectory."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np

from selfstab.page.draw import AFTER, color_key, shade_two_directions, write
from selfstab.page.style import COLORS
from selfstab.runs import quantities


def unit(run) -> float:
    """Return δ_0, the radius δ at the instability (or the first one, where α > 0 later): a fixed unit of length."""
    delta = quantities.radius(run).values
    return float(delta[np.isfinite(delta)][0]) if np.isfinite(delta).any() else np.nan


def beside(run):
    """Draw loss, sharpness and distances of gradient descent, the constrained trajectory and the flow."""
    t, edge, delta = run.t, run.attrs["edge"], unit(run)
    fig, (loss, sharp, far) = plt.subplots(1, 3, figsize=(8.4, 3.2))
    loss.plot(t, run.gd_loss, color=COLORS["gd"], linewidth=1)
    loss.plot(t, run.flow_loss, color=COLORS["flow"])
    loss.plot(t, run.constrained_loss, color=COLORS["constrained"])
    loss.set(xlabel=AFTER, ylabel="loss", title="Loss")
    names = [("gradient descent", "gd"), ("gradient flow", "flow"), (r"constrained $\theta^\dagger$", "constrained")]
    color_key(loss, names, x=0.48, y=0.19)  # below the curves, which fall
    sharp.plot(t, run.gd_sharpness / edge, color=COLORS["gd"], linewidth=1)
    sharp.plot(run.interval, run.flow_sharpness / edge, color=COLORS["flow"])
    sharp.plot(t, run.constrained_sharpness / edge, color=COLORS["constrained"])
    sharp.set(xlabel=AFTER, ylabel=r"$S\,/\,(2/\eta)$", title="Sharpness")
    far.plot(t, run.distance / delta, color=COLORS["gd"], linewidth=1)
    far.plot(t, run.flow_distance / delta, color=COLORS["flow"])
    far.set(xlabel=AFTER, ylabel=r"distance to $\theta^\dagger$ in $\delta_0$", title="Distance", ylim=(0, None))
    shade_two_directions((loss, sharp, far), run)
    return fig


def bridge(run, energy, excess, ratio, cycles):
    """Draw the excess loss against x²/η, and x²/δ² with its means over cycles.

    ``energy`` and ``excess`` (T,) are x²/η and L(θ) − L(θ†), ``ratio`` (T,) is x²/δ², ``cycles`` are pairs of steps.
    """
    fig, (left, right) = plt.subplots(1, 2, figsize=(7.8, 3.4))
    top = 1.04 * max(energy.max(), excess.max())
    left.plot([0, top], [0, top], color=COLORS["edge"], linewidth=0.8, linestyle="--")
    left.plot(energy, excess, ".", color=COLORS["gd"], markersize=4)
    write(left, 0.72 * top, 0.8 * top, "equality", ha="right")
    left.set(xlabel=r"$x_t^2/\eta$", ylabel=r"$L(\theta_t)-L(\theta^\dagger_t)$", xlim=(0, top))
    left.set_ylim(min(0.0, excess.min()), top)
    left.set_title("Excess loss against energy")
    right.plot(run.t, ratio, color=COLORS["gd"], linewidth=0.8, alpha=0.5)
    for a, b in cycles:
        right.plot([a, b], [ratio[a:b].mean()] * 2, color=COLORS["gd"], linewidth=3, solid_capstyle="butt")
    right.axhline(1, color=COLORS["constrained"], linestyle="--")
    write(right, 0.98, 0.03, "dashed: the constraint's force", "constrained", frame="axes", ha="right")
    right.set(xlabel=AFTER, ylabel=r"$x_t^2\,/\,\delta_t^2$", title="Mean cubic force", ylim=(0, None))
    return fig
