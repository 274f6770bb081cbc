"""The figures of the chapter on progressive sharpening."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np

from selfstab.page.style import COLORS, RATES


def rise(runs):
    """Draw the sharpness against training time, and its rate of rise α against the sharpness, for several η.

    The curves coincide, so a slower run is drawn wider and below the faster ones.
    """
    fig, (left, right) = plt.subplots(1, 2, figsize=(7.8, 3.7))
    for place, (run, color) in enumerate(zip(runs, RATES)):
        eta, edge = run.attrs["learning_rate"], run.attrs["edge"]
        time, sharp, alpha = eta * run.check_step.values, run.check_sharpness.values, run.check_alpha.values
        how = dict(color=color, linewidth=1.5 + 1.5 * place, zorder=3 - 0.1 * place)
        left.plot(time, sharp, **how)
        left.plot([0, time[-1]], [edge, edge], color=color, linestyle="--", linewidth=1)
        left.plot(time[-1], sharp[-1], "o", color=color, markersize=6, zorder=5)
        left.annotate(rf"$2/\eta={edge:.4g}$", (0, edge), (2, 3), textcoords="offset points", color=color, fontsize=9)
        right.plot(sharp, alpha, label=rf"$\eta={eta:g}$", **how)
        right.plot(sharp[-1], alpha[-1], "o", color=color, markersize=6, zorder=5)
        rate, middle = np.diff(sharp) / np.diff(time), (sharp[1:] + sharp[:-1]) / 2
        right.plot(middle, rate, "o", markerfacecolor="white", markersize=3, markeredgewidth=0.7, color=color, zorder=4)
    left.set(xlabel=r"training time $\eta t$", ylabel=r"sharpness $S(\theta_t)$", title="The rise ends at $2/\\eta$")
    left.set_ylim(0, 1.12 * max(run.attrs["edge"] for run in runs))
    right.axhline(0, color=COLORS["edge"], linewidth=0.8)
    right.set_yscale("symlog", linthresh=1.0)
    every = np.concatenate([run.check_alpha.values for run in runs])
    right.set_ylim(1.5 * min(every.min(), -0.1), 1.5 * every.max())
    right.set(xlabel=r"sharpness $S(\theta_t)$", ylabel=r"$\alpha_t=-\nabla L\cdot\nabla S$")
    right.set_title("It rises at the rate $\\alpha_t$")
    right.legend(loc="lower right", fontsize=8.5)
    return fig
