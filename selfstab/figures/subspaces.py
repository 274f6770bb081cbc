"""The figures of the chapter on what the oscillation is for: parts of the gradient, single samples, Taylor models."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np

from selfstab.page.draw import color_key, write
from selfstab.page.style import COLORS, RATES

#: Colors and names of the four runs from one start.
RUNS = {
    "gd": (COLORS["gd"], "gradient descent"),
    "dominant": ("#7F7F7F", "along $u$ only"),
    "bulk": ("#AA3377", "across $u$ only"),
    "constrained": (COLORS["constrained"], r"constrained $\theta^\dagger$"),
}
AFTER_START = "step after the common start"


def four(runs, edge):
    """Draw loss and sharpness of the four runs.

    Args:
        runs: By a name of :data:`RUNS`, a mapping with ``loss`` (T,) and ``sharpness`` (T,).
        edge: 2/η, a curvature.
    """
    fig, (loss, sharp) = plt.subplots(1, 2, figsize=(8.2, 3.5))
    for name, (color, _) in RUNS.items():
        loss.plot(runs[name]["loss"], color=color, linewidth=1.2)
        sharp.plot(runs[name]["sharpness"] / edge, color=color, linewidth=1.2)
    sharp.axhline(1, color=COLORS["edge"], linestyle="--", linewidth=0.8)
    color_key(sharp, [(words, color) for color, words in RUNS.values()], y=0.6)
    loss.set(xlabel=AFTER_START, ylabel="training loss", title="Loss")
    sharp.set(xlabel=AFTER_START, ylabel=r"$S\,/\,(2/\eta)$", title="Sharpness")
    return fig


def bulk(bulk, edge):
    """Draw how the run across u sharpens, its sharpness beside the summed rise, and its own edge.

    Args:
        bulk: Mapping with ``sharpness``, ``rise`` (first-order rise of each step) and ``second`` (λ₂), all (T,).
        edge: 2/η, a curvature.
    """
    fig, (rise, second) = plt.subplots(1, 2, figsize=(8.2, 3.5))
    color = RUNS["bulk"][0]
    summed = bulk["sharpness"][0] + np.concatenate([[0], np.cumsum(bulk["rise"][:-1])])
    crossed = int(np.argmax(bulk["second"] > edge)) or len(summed)
    rise.plot(bulk["sharpness"] / edge, color=color, linewidth=2.6, alpha=0.5)
    rise.plot(summed[: crossed + 1] / edge, color=COLORS["predicted"], linewidth=1.2)
    names = [(r"$S$ across $u$", color), (r"$S_0+\sum\eta\alpha_t$", "predicted")]
    color_key(rise, names, x=0.98, y=0.16)
    rise.set(xlabel=AFTER_START, ylabel=r"$S\,/\,(2/\eta)$", title="It sharpens at the rate $\\eta\\alpha$")
    second.plot(bulk["second"] / edge, color=color, linewidth=1.2)
    second.axhline(1, color=COLORS["edge"], linestyle="--", linewidth=0.8)
    second.set(xlabel=AFTER_START, ylabel=r"$\lambda_2\,/\,(2/\eta)$", title="It meets an edge of its own")
    return fig


def turns(before, edge):
    """Draw each sample's change of loss in one step against that in the next, before the edge and at it.

    ``before`` and ``edge`` are pairs of changes (n,) of two successive steps.
    """
    fig, axes = plt.subplots(1, 2, figsize=(7.6, 3.6))
    for ax, (one, following), color, sign, title in (
        (axes[0], before, "#7F7F7F", 1, "Before the edge"),
        (axes[1], edge, COLORS["gd"], -1, "At the edge"),
    ):
        reach = 1.05 * float(np.abs([one, following]).max())
        line = np.array([-reach, reach])
        ax.plot(line, sign * line, color=COLORS["edge"], linewidth=0.8, linestyle="--")
        ax.plot(one, following, ".", color=color, markersize=3, alpha=0.5)
        write(ax, 0.5, 0.93, f"dashed: slope {'+' if sign > 0 else '−'}1", frame="axes", ha="center", fontsize=8.5)
        ax.set(xlabel=r"$\Delta\ell_i$ in a step", title=title, xlim=(-reach, reach), ylim=(-reach, reach))
        ax.ticklabel_format(scilimits=(-2, 2))
    axes[0].set_ylabel(r"$\Delta\ell_i$ in the next step")
    return fig


def images(pictures, slopes):
    """Draw the eight images with the largest and the eight with the smallest slope of the output along u.

    ``pictures`` (n, h, w, 3) lie in 0 to 1; ``slopes`` (n,) are u·∇f_i, of which each picture's is written below it.
    """
    order = np.argsort(slopes)
    fig, axes = plt.subplots(2, 8, figsize=(8.2, 2.7))
    for row, (chosen, words) in enumerate(((order[::-1][:8], "largest"), (order[:8], "smallest"))):
        for ax, i in zip(axes[row], chosen, strict=True):
            ax.imshow(pictures[i], interpolation="nearest")
            ax.set(xticks=[], yticks=[])
            ax.grid(False)
            ax.set_xlabel(f"{slopes[i]:.0f}".replace("-", "−"), fontsize=8, labelpad=1.5)
        axes[row, 0].set_ylabel(words, fontsize=9)
    fig.suptitle(r"slope $u\cdot\nabla f_i$ of the output", x=0.01, ha="left", fontsize=10, fontweight="bold")
    return fig


def taylor(runs, edge):
    """Draw the sharpness of Taylor models of the network and of the network itself.

    ``runs`` holds by name the sharpness (T,), NaN where it was not measured; ``edge`` is 2/η, a curvature.
    """
    fig, ax = plt.subplots(figsize=(6.6, 3.4))
    shades = (RATES[1], RATES[2], COLORS["gd"])
    for sharpness, color in zip(runs.values(), shades, strict=True):
        measured = np.flatnonzero(np.isfinite(sharpness))
        ax.plot(measured, sharpness[measured] / edge, color=color, linewidth=1.1)
    ax.axhline(1, color=COLORS["edge"], linestyle="--", linewidth=0.8)
    color_key(ax, list(zip(runs, shades, strict=True)), x=0.19, y=0.93)
    ax.set(xlabel="step of training", ylabel=r"$S\,/\,(2/\eta)$", title="Order two sharpens up to the edge")
    return fig
