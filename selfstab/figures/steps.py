"""The figures of the chapter on step sizes: tuned rates and their sharpness, warm-up, and three small losses."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np

from selfstab.page.draw import color_key, write
from selfstab.page.style import COLORS
from selfstab.theory import small_maps

#: One color per rule, in every figure of the chapter.
RULE_COLORS = ("#E69F00", "#CC79A7", "#0072B2", "#009E73", "#6A3D9A", "#7F7F7F")


def edges(tuned):
    """Draw the sharpness and the moving edge 2/η_t of each rule, by name of the rule."""
    fig, axes = plt.subplots(2, 3, figsize=(8.8, 4.9), sharex=True, sharey=True)
    for ax, (name, run) in zip(axes.flat, tuned.items()):
        steps = np.arange(len(run.rate))
        known = np.isfinite(run.sharpness)
        ax.semilogy(steps, 2 / np.asarray(run.rate), color=COLORS["edge"], linewidth=0.6, alpha=0.55)
        ax.semilogy(steps[known], np.asarray(run.sharpness)[known], color=COLORS["gd"], linewidth=1.8)
        ax.set(title=name, xlabel="step" if ax in axes[-1] else None)
    seen = np.concatenate([2 / np.asarray(run.rate) for run in tuned.values()])
    high = max(np.nanmax(run.sharpness) for run in tuned.values())
    axes[0, 0].set_ylim(np.nanquantile(seen, 0.01) / 1.5, 2.5 * max(high, np.nanquantile(seen, 0.97)))
    for ax in axes[:, 0]:
        ax.set_ylabel("curvature")
    color_key(axes[0, 0], [(r"sharpness $S_t$", "gd"), (r"its edge $2/\eta_t$", "edge")], y=0.2, gap=0.1)
    return fig


def losses(tuned):
    """Draw the training losses of the rules, by name, and their means over ten steps."""
    fig, ax = plt.subplots(figsize=(7.2, 3.9))
    ends = []
    for (name, run), color in zip(tuned.items(), RULE_COLORS):
        loss = np.asarray(run.loss, float)
        ax.semilogy(loss, color=color, linewidth=0.5, alpha=0.4)
        width = min(10, len(loss))
        middle = np.exp(np.convolve(np.log(loss), np.ones(width) / width, "valid"))
        ax.semilogy(np.arange(len(middle)) + width // 2, middle, color=color)
        ends.append((middle[-1], name, color))
    ends.sort(reverse=True)
    low, high = min(np.nanmin(run.loss) for run in tuned.values()), 1.6 * float(next(iter(tuned.values())).loss[0])
    ax.set(xlabel="step", ylabel="training loss", ylim=(low / 1.2, high), title="The same start, six rules")
    total = len(next(iter(tuned.values())).loss)
    apart, last = (high / low) ** 0.06, np.inf
    for level, name, color in ends:  # from the top, moved down where two would overlap
        last = min(level, last / apart)
        write(ax, 1.01 * total, last, name, color, va="center", fontsize=8.5)
    ax.set_xlim(0, 1.2 * total)
    return fig


def warm_up(tried, curves):
    """Draw which rates train under each schedule, and some losses.

    Args:
        tried: By name of a schedule, whether each final rate trains.
        curves: By a label, a loss (T,).
    """
    fig, (marks, loss) = plt.subplots(1, 2, figsize=(8.6, 3.3), width_ratios=(1.1, 1))
    shades = dict(zip(tried, ("#E69F00", "#0072B2", "#7F7F7F")))
    for row, (name, found) in enumerate(reversed(tried.items())):
        for rate, trains in found.items():
            kind = dict(marker="o", markersize=9) if trains else dict(marker="x", markersize=8, markeredgewidth=2)
            marks.semilogx(rate, row, linestyle="", color=shades[name], **kind)
    rates = sorted({rate for found in tried.values() for rate in found})
    marks.set_xticks(rates, [f"{rate:g}" for rate in rates])
    marks.minorticks_off()
    marks.set_yticks(range(len(tried)), [*reversed(tried)])
    marks.set(xlabel=r"largest learning rate $\eta$ (1/curvature)", ylim=(-0.6, len(tried) - 0.4))
    marks.set_title("Trains (dot) or not (cross)")
    for values, color in zip(curves.values(), shades.values()):
        loss.semilogy(np.where(np.isfinite(values), values, np.nan), color=color, linewidth=1)
    color_key(loss, [*zip(curves, shades.values())], y=0.97, gap=0.07, fontsize=8.5)
    shown = np.concatenate([values[np.isfinite(values)] for values in curves.values()])
    loss.set(xlabel="step", ylabel="training loss", title="Loss", ylim=(0.8 * max(shown.min(), 1e-9), 100))
    return fig


def cubic(a, attractor, rising):
    """Draw the bifurcation diagram of the cubic map with its four phases, and the starts from which the loss rises.

    Args:
        a: Step sizes ηS_min/2, (n,).
        attractor: Late iterates, (m, n).
        rising: Fraction of the bounded starts from which one step raises the loss, (n,).
    """
    fig, (tree, ax) = plt.subplots(2, 1, figsize=(7.6, 5), sharex=True, height_ratios=(2.2, 1))
    tree.plot(a, attractor.T, ".", markersize=0.7, color=COLORS["gd"], alpha=0.5, rasterized=True)
    inside = a[(a > 1) & (a < small_maps.PHASES["two-cycle"])]
    if len(inside):
        cycle = np.array([small_maps.two_cycle(each) for each in inside])
        tree.plot(inside, cycle, color=COLORS["constrained"], linewidth=1.8, zorder=5)
    names = ("loss can rise", "2-cycle", "4-cycle", "all diverge")
    signs = (r"$2\sqrt{2}-2$", "1", r"$\sqrt{5}-1$", "2")
    tree.set_ylim(-1.6, 2.0)
    for value, name, sign in zip(small_maps.PHASES.values(), names, signs):
        for panel in (tree, ax):
            panel.axvline(value, color=COLORS["edge"], linestyle="--", linewidth=0.8)
        side = dict(ha="right") if value == 2 else dict(ha="left")
        write(tree, value + (-0.008 if value == 2 else 0.008), 1.95, f"{sign}\n{name}", va="top", fontsize=8, **side)
    ax.plot(a, rising, color=COLORS["gd"])
    ax.set(
        xlabel=r"$a=\eta S_{\min}/2$", ylabel="fraction of starts", title="Starts from which one step raises the loss"
    )
    ax.set_ylim(-0.03, None)
    tree.set(ylabel="$x$ after many steps", title=r"$L=(x^2-1)^2/4$", xlim=(a[0], a[-1]))
    return fig


def alignment(x, y, learning_rate):
    """Draw orbits of log cosh(xy) in the plane (p, q), and their sharpness; x and y of shape (T, starts)."""
    fig, (plane, time) = plt.subplots(1, 2, figsize=(8.6, 3.7))
    p, q = small_maps.aligned(x, y, learning_rate)
    grid = np.linspace(0, 1.05 * np.abs(p).max(), 200)
    plane.plot(np.abs(p[0]), q[0], "o", color=COLORS["gd"], markersize=4)
    plane.plot(np.abs(p), q, color=COLORS["gd"], linewidth=0.6, alpha=0.5)
    plane.plot(grid, small_maps.alignment_curve(grid), color=COLORS["constrained"], linewidth=2)
    write(plane, 0.98, 0.93, r"$q=\tanh(p)/p$", "constrained", frame="axes", ha="right", fontsize=10)
    plane.set(xlabel=r"$|p|=|xy|$", ylabel=r"$q=2/(\eta y^2)$", title="All starts fall on one curve")
    ratio = small_maps.valley_sharpness(x, y) * learning_rate / 2
    time.plot(np.arange(1, len(ratio) + 1), ratio, color=COLORS["gd"], linewidth=0.6, alpha=0.5)
    time.axhline(1, color=COLORS["edge"], linestyle="--", linewidth=0.8)
    end = small_maps.final_sharpness(learning_rate)
    time.axhline(end, color=COLORS["constrained"], linewidth=1.2)
    write(time, 0.98, end - 0.01, r"$1-\frac{3}{4}\eta^2$", "constrained", frame="yaxis", ha="right", va="top")
    time.set_xscale("log")
    time.set(xlabel="step + 1", ylabel=r"$S\,/\,(2/\eta)$", title="… and end at one sharpness")
    return fig


def product(theta, learning_rate):
    """Draw the loss of a scalar network (T, D), its sharpness, and that of the flow's solution from every step."""
    fig, (loss, sharp) = plt.subplots(1, 2, figsize=(8.6, 3.3))
    steps = np.arange(len(theta))
    loss.semilogy(steps, np.maximum(small_maps.product_loss(theta), 1e-16), color=COLORS["gd"])
    loss.set(xlabel="step", ylabel="loss", title="The loss rises and falls")
    unit = learning_rate / 2
    for solution, color in ((small_maps.ray_solution, "single"), (small_maps.flow_solution, "flow")):
        width = 2.2 if color == "flow" else 1
        sharp.plot(steps, small_maps.solution_sharpness(solution(theta)) * unit, color=COLORS[color], linewidth=width)
    sharp.axhline(1, color=COLORS["edge"], linestyle="--", linewidth=0.8)
    names = [("gradient flow's solution", "flow"), ("same ratios of weights", "single")]
    color_key(sharp, names, y=0.82)
    sharp.set(
        xlabel="step", ylabel=r"sharpness of the solution $/\,(2/\eta)$", title="The flow's solution only flattens"
    )
    return fig
