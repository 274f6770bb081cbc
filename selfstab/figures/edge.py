"""The figures of the chapter on the edge of stability."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np

from selfstab.page.draw import AFTER, two_step_means
from selfstab.page.style import COLORS, RATES


def hovering(runs):
    """Draw sharpness and loss around the instability, one column per run."""
    fig, axes = plt.subplots(2, len(runs), figsize=(7.8, 4.9), sharex="col", height_ratios=[1.25, 1], squeeze=False)
    for column, (run, color) in enumerate(reversed(list(zip(runs, RATES)))):  # the smallest ε first
        top, bottom = axes[:, column]
        edge, before = run.attrs["edge"], run.attrs["instability_step"]
        t, sharp = run.t.values, run.gd_sharpness.values
        top.plot(run.check_step - before, run.check_sharpness, color=color, linewidth=1.2)
        top.plot(t, sharp, color=color, alpha=0.35, linewidth=0.8)
        top.plot(t[:-1] + 0.5, two_step_means(sharp), color=color, linewidth=1.4)
        top.axhline(edge, color=COLORS["edge"], linestyle="--", linewidth=1)
        top.set_title(rf"$\eta={run.attrs['learning_rate']:g}$,  $2/\eta={edge:.4g}$")
        top.set_ylim(0, 1.05 * sharp.max())
        bottom.plot(run.approach_step - before, run.approach_loss, color=color, linewidth=1.2)
        bottom.plot(t, run.gd_loss, color=color, linewidth=1.2)
        bottom.set_yscale("log")
        bottom.yaxis.set_major_formatter("{x:g}")
        bottom.yaxis.set_minor_formatter(lambda x, _: f"{x:g}" if f"{x:e}"[0] in "235" else "")
        bottom.set_xlabel(AFTER)
        for ax in (top, bottom):
            ax.axvline(0, color="#AAAAAA", linewidth=0.8)
            ax.set_xlim(-0.5 * t[-1], t[-1])
    axes[0, 0].set_ylabel(r"sharpness $S(\theta_t)$")
    axes[1, 0].set_ylabel(r"loss $L(\theta_t)$")
    return fig


def steps(run):
    """Return sharpness in 2/η and change of the loss in η‖∇L‖², of steps before the instability and of those after it.

    The sharpness is the larger of the values at both ends of a step; before the instability, of the stretch between
    two measurements.
    """
    eta, edge = run.attrs["learning_rate"], run.attrs["edge"]
    loss, step = run.approach_loss.values, run.check_step.values
    change = (loss[step[:-1] + 1] - loss[step[:-1]]) / (eta * run.check_gradient_norm.values[:-1] ** 2)
    sharp = np.maximum(run.check_sharpness.values[:-1], run.check_sharpness.values[1:]) / edge
    after = np.diff(run.gd_loss.values) / (eta * run.gd_gradient_norm.values[:-1] ** 2)
    ends = np.maximum(run.gd_sharpness.values[:-1], run.gd_sharpness.values[1:]) / edge
    return sharp, change, ends, after


def descent_lemma(runs, changes):
    """Draw the change of the loss against the sharpness on a step (:func:`steps` of runs), and the lemma's bound."""
    fig, ax = plt.subplots(figsize=(7.2, 3.9))
    right, low, high = 1.0, -1.0, 0.0
    for run, color, (sharp, change, ends, after) in zip(runs, RATES, changes):
        ax.plot(sharp, change, "o", color=color, markersize=4, markerfacecolor="none")
        ax.plot(ends, after, ".", color=color, markersize=4, alpha=0.7, label=rf"$\eta={run.attrs['learning_rate']:g}$")
        right = max(right, 1.05 * ends.max())
        low, high = min(low, change.min(), after.min()), max(high, after.max())
    line = np.array([0, right])
    ax.plot(line, line - 1, color=COLORS["edge"], linewidth=1)
    ax.axhline(0, color="#AAAAAA", linewidth=0.8)
    ax.axvspan(1, right, color="#F3E9DC", zorder=0)
    ax.set(xlabel=r"sharpness on the step $/\,(2/\eta)$", ylabel=r"$\Delta L\,/\,(\eta\,\|\nabla L\|^2)$")
    ax.set(xlim=(0, right), ylim=(1.15 * low, max(1.15 * high, right - 1)))
    fig.canvas.draw()  # for the slope of the line on the page
    (x0, y0), (x1, y1) = ax.transData.transform([(0, -1), (1, 0)])
    angle = np.degrees(np.arctan2(y1 - y0, x1 - x0))
    ax.text(0.1, -0.84, "the lemma's bound", rotation=angle, rotation_mode="anchor", fontsize=9)
    ax.text(1.02, 1.1 * low, "no descent guaranteed", fontsize=9, color="#7A5C2E")
    ax.legend(title="after the instability", loc="upper left")
    return fig
