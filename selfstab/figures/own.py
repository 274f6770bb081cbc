"""The figure of one's own model: gradient descent, flow, the constrained trajectory and the prediction."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np

from selfstab.page.draw import AFTER, shade_two_directions, two_step_means
from selfstab.page.style import COLORS
from selfstab.runs import quantities


def trajectories(run):
    """Draw loss, sharpness (means over two steps) and size of the oscillation of a track."""
    t, edge, unit = run.t.values, run.attrs["edge"], float(quantities.radius(run)[0])
    fig, (loss, sharp, size) = plt.subplots(1, 3, figsize=(8.4, 3.2))
    loss.plot(t, run.flow_loss, color=COLORS["flow"], label="gradient flow")
    loss.plot(t, run.gd_loss, color=COLORS["gd"], label="gradient descent")
    loss.plot(t, run.constrained_loss, color=COLORS["constrained"], label=r"constrained $\theta^\dagger$")
    loss.plot(t, run.predicted_loss, color=COLORS["predicted"], linestyle="--", label="predicted")
    loss.set(xlabel=AFTER, ylabel="loss", title="Loss")
    middle = (t[1:] + t[:-1]) / 2
    sharp.plot(run.interval, run.flow_sharpness / edge, color=COLORS["flow"])
    sharp.plot(middle, two_step_means(run.gd_sharpness.values) / edge, color=COLORS["gd"])
    sharp.plot(t, run.constrained_sharpness / edge, color=COLORS["constrained"])
    sharp.plot(middle, two_step_means(run.predicted_sharpness.values) / edge, color=COLORS["predicted"], linestyle="--")
    sharp.set(xlabel=AFTER, ylabel=r"$S\,/\,(2/\eta)$", title="Sharpness")
    size.plot(t, np.abs(run.x) / unit, color=COLORS["gd"])
    size.plot(t, np.abs(run.predicted_x) / unit, color=COLORS["predicted"], linestyle="--")
    size.set(xlabel=AFTER, ylabel=r"$|x|\,/\,\delta_0$", title="Oscillation", ylim=(0, None))
    shade_two_directions((loss, sharp, size), run)
    fig.legend(*loss.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8.5, frameon=False)
    return fig
