"""The figures of the chapter on optimizers: roots on a parabola, adaptive rules, SAM, and the cycles of heavy ball."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np

from selfstab.page.draw import color_key, write
from selfstab.page.style import COLORS, RATES

#: One color per optimizer, the same in every figure of the chapter.
OPTIMIZERS = {
    "gradient descent": COLORS["gd"],
    "heavy ball": RATES[1],
    "Nesterov": "#8C510A",
    "moving average": COLORS["single"],
    "Adam": COLORS["single"],
    "RMSProp": COLORS["predicted"],
    "SAM": COLORS["generalized"],
}
#: Shades for the three values of ηS at SAM's minimum, and for the momenta of the map.
SHADES = (COLORS["central"], COLORS["generalized"], COLORS["single"])
MOMENTA = (COLORS["gd"], RATES[1], "#8C510A", COLORS["generalized"], COLORS["single"])


def roots(growth, thresholds):
    """Draw the factor by which a deviation grows in a step on a parabola, with each rule's edge.

    Args:
        growth: By rule, two series (n,): ηS, and the largest modulus of a root there.
        thresholds: By rule, η times its edge.
    """
    fig, ax = plt.subplots(figsize=(7.2, 3.5))
    ax.axhline(1, color=COLORS["edge"], linestyle="--", linewidth=0.9)
    for name, (s, size) in growth.items():
        ax.plot(s, size, color=OPTIMIZERS[name])
        ax.plot(thresholds[name], 1, "o", color=OPTIMIZERS[name], markersize=7, zorder=5)
        side = -1 if name == "gradient descent" else 1  # away from the steep curves
        place = thresholds[name] / 1.07**side
        write(ax, place, 1.05, f"{thresholds[name]:.3g}", OPTIMIZERS[name], ha="right" if side > 0 else "left")
    ax.set(xscale="log", ylim=(0, 1.5), xlabel=r"$\eta S$, curvature in units of $1/\eta$")
    ax.set(ylabel="growth per step, largest $|z|$")
    color_key(ax, [(name, OPTIMIZERS[name]) for name in growth], y=0.5, gap=0.09)
    return fig


def adaptive(runs):
    """Draw the preconditioned sharpness over its edge, and the plain sharpness, of adaptive rules.

    Args:
        runs: By (rule, seed), three series (n,): the steps, λ₁ over the edge, and S.
    """
    fig, (left, right) = plt.subplots(1, 2, figsize=(7.8, 3.4))
    left.axhline(1, color=COLORS["edge"], linestyle="--", linewidth=0.9)
    first = min(seed for _, seed in runs)
    for (name, seed), (steps, ratio, sharpness) in runs.items():
        how = {"color": OPTIMIZERS[name], "linewidth": 1.6 if seed == first else 0.8}
        left.plot(steps[1:], ratio[1:], **how)
        right.semilogy(steps, sharpness, **how)
    left.set(xlabel="step", ylabel=r"$\lambda_1(P^{-1/2}\nabla^2L\,P^{-1/2})$ / edge", ylim=(0, None))
    left.set_title("Preconditioned: held")
    right.set(xlabel="step", ylabel="sharpness $S$", title="Plain: free to rise")
    color_key(right, [(name, OPTIMIZERS[name]) for name in dict.fromkeys(name for name, _ in runs)], y=0.2)
    return fig


def sam_edge(runs, plain, bound):
    """Draw the sharpness under SAM and its own edge, beside that of gradient descent with the same rate.

    Args:
        runs: By seed, three series (n,): the steps, S, and SAM's edge.
        plain: Steps and S (n,) of gradient descent.
        bound: 2/η.
    """
    fig, (left, right) = plt.subplots(1, 2, figsize=(7.8, 3.4))
    left.axhline(bound, color=COLORS["edge"], linestyle="--", linewidth=0.9)
    left.semilogy(*plain, color=COLORS["gd"])
    steps, sharpness, edge = next(iter(runs.values()))
    left.semilogy(steps, edge, color="#777777", linewidth=0.9)
    left.semilogy(steps, sharpness, color=OPTIMIZERS["SAM"])
    write(left, steps[0], 1.08 * bound, r"$2/\eta$", va="bottom")
    names = [("gradient descent", "gd"), ("SAM", OPTIMIZERS["SAM"]), ("SAM's edge", "#777777")]
    color_key(left, names, y=0.24)
    left.set(xlabel="step", ylabel="sharpness $S$", title="A lower ceiling", ylim=(None, 1.6 * bound))
    right.axhline(1, color=COLORS["edge"], linestyle="--", linewidth=0.9)
    for order, (steps, sharpness, edge) in enumerate(runs.values()):
        right.plot(steps, sharpness / edge, color=OPTIMIZERS["SAM"], linewidth=0.8 if order else 1.6)
    right.set(xlabel="step", ylabel="$S$ / SAM's edge", title="At its edge", ylim=(0, None))
    return fig


def bounce(tracks, wrong):
    """Draw SAM at a minimum: the bounce over its prediction, and the fall of the sharpness, measured and predicted.

    Args:
        tracks: By ηS, three series (T,): |x| over its prediction, the fall of S, and that predicted.
        wrong: By name, the fall (T,) that a force left incomplete predicts for the last of them.
    """
    fig, (left, right) = plt.subplots(1, 2, figsize=(8.2, 3.5))
    left.axhline(1, color=COLORS["edge"], linestyle="--", linewidth=0.9)
    deepest = 0.0
    for (product, (size, fall, predicted)), color in zip(tracks.items(), SHADES):
        left.plot(size, color=color, label=rf"$\eta S={product:g}$")
        right.plot(fall, color=color, linewidth=2.6, alpha=0.55)
        right.plot(predicted, color=COLORS["edge"], linestyle="--", linewidth=1)
        deepest = min(deepest, fall.min(), predicted.min())
    for (name, fall), line in zip(wrong.items(), (":", "-.")):
        right.plot(fall, color=color, linestyle=line, linewidth=1.1)
        shown = np.flatnonzero(fall > 1.12 * deepest)
        write(right, shown[-1], fall[shown[-1]], f" {name}", color, fontsize=8, va="bottom", ha="left")
    left.legend(fontsize=8.5, loc="lower right")
    left.set(xlabel="SAM step", ylabel=r"$|x|$ / predicted", title="The bounce", xlim=(-1, 40), ylim=(0, 1.3))
    right.set(xlabel="SAM step", ylabel="change of $S$", title="The drift", ylim=(1.15 * deepest, None))
    write(right, 0.03, 0.06, "dashed: predicted", "edge", frame="axes", fontsize=8.5)
    return fig


def prolonged(tracks, measured, small):
    """Draw cycles of the map with momentum, and the growth of a cycle against the momentum.

    Args:
        tracks: By momentum, two series (T,): slow time in units of 1/ε, and |x|/δ.
        measured: By momentum, the growth of h in a cycle over that of gradient descent.
        small: ε of these.
    """
    fig, (left, right) = plt.subplots(1, 2, figsize=(8.2, 3.4), width_ratios=[1.35, 1])
    left.axhline(1, color=COLORS["constrained"], linestyle="--", linewidth=0.8)
    colors = dict(zip(measured, MOMENTA))
    for momentum, (time, size) in tracks.items():
        left.plot(time, size, color=colors[momentum], label=rf"$\mu={momentum:g}$")
    left.set(xlabel=r"slow time $\varepsilon\,t$", ylabel=r"$|x|/\delta$", title="The same cycle, growing faster")
    left.legend(fontsize=8.5, loc="upper left", ncols=len(tracks))
    left.set_ylim(0, 1.2 * max(size.max() for _, size in tracks.values()))
    grid = np.linspace(0, max(measured) + 0.03, 200)
    right.semilogy(grid, (1 + grid) / (1 - grid), color=COLORS["edge"], linestyle="--", linewidth=1)
    right.semilogy(grid, 1 / (1 - grid), color="#999999", linestyle=":", linewidth=1.2)
    for momentum, ratio in measured.items():
        right.plot(momentum, ratio, "o", color=colors[momentum], markersize=7)
    write(right, 0.55, 5.2, r"$\frac{1+\mu}{1-\mu}$", "edge", fontsize=13, ha="right")
    write(right, 0.6, 1.75, r"$\frac{1}{1-\mu}$", "#777777", fontsize=13, ha="left")
    right.set(xlabel=r"momentum $\mu$", ylabel="growth per cycle / without momentum")
    right.set_title(rf"Growth ($\varepsilon={small:g}$)")
    return fig
