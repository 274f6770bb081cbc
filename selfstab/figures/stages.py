"""The figures of the chapter on the four stages: the toy's valley and cycle, orbits of the reduced dynamics, a network.

In all of them X = |x|/δ and Y = y/√α, the coordinates in which α = 1 and β = 2.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np

from eoslib import geometry
from selfstab.page.draw import AFTER, color_key, write
from selfstab.page.style import COLORS, STAGES
from selfstab.runs import quantities
from selfstab.theory import reduced

#: The stages in their order, as figures name them.
NAMES = {1: "sharpening", 2: "blow-up", 3: "self-stabilization", 4: "return"}
#: The quadrant of (X, Y) around (1, 0) that each stage is: whether |x| > δ, and the sign of y.
QUADRANTS = {1: (False, -1), 2: (False, 1), 3: (True, 1), 4: (True, -1)}
#: α and β in units of δ and √α.
UNITS = {"alpha": 1.0, "beta": 2.0}
SIZE, EXCESS = r"$X=|x|/\delta$", r"$Y=y/\sqrt{\alpha}$"


def shade(axes, found: reduced.Stages, end: int, top=None) -> None:
    """Tint each stage in some panels and, above the panel ``top``, name those of the first cycle."""
    bounds = [*found.start, end]
    for number, (a, b, stage) in enumerate(zip(bounds, bounds[1:], found.entered, strict=False)):
        for ax in axes:
            ax.axvspan(a, b, color=STAGES[int(stage)], zorder=0, linewidth=0)
        if top is not None and number < 5:
            level = 1.03 + 0.1 * (number % 2)
            write(top, (a + b) / 2, level, NAMES[int(stage)], "k", frame="xaxis", ha="center", fontsize=8)


def valley(toy: reduced.ToyLoss, x, y):
    """Draw the toy loss from above with one cycle of gradient descent, and its push along the valley.

    Args:
        toy: The loss, in units in which δ = 1 and √α = 1.
        x: Displacements along u of one cycle (T,).
        y: Excess sharpness of the same steps (T,).
    """
    wide, low, high = 1.12 * np.abs(x).max(), 1.25 * y.min(), 1.3 * y.max()
    fig, (plane, push) = plt.subplots(2, 1, figsize=(6.6, 6.4), sharex=True, height_ratios=[3, 1])
    across, along = np.meshgrid(np.linspace(-wide, wide, 301), np.linspace(low, high, 301))
    heights = np.asarray(toy.loss(np.stack([across, along / toy.beta**0.5])))
    for stage, (far, sign) in QUADRANTS.items():
        spans = [(1, wide), (-wide, -1)] if far else [(-1, 1)]
        for a, b in spans:
            plane.fill_between([a, b], 0, high if sign > 0 else low, color=STAGES[stage], zorder=0, linewidth=0)
        place = (1 + wide) / 2 if far else 0
        write(plane, place, 0.93 * (high if sign > 0 else low), f"{stage} {NAMES[stage]}", "#333333",
              ha="center", va="center", fontsize=8)  # fmt: skip
    levels = heights.min() + np.ptp(heights) * np.linspace(0.03, 1, 13) ** 2
    plane.contour(across, along, heights, levels=levels, colors="#8A8A8A", linewidths=0.7, linestyles="solid")
    plane.plot(x, y, color=COLORS["gd"], linewidth=0.7, alpha=0.6)
    plane.plot(x, y, "o", color=COLORS["gd"], markersize=5)
    write(plane, x[0], y[0] - 0.04, "start", "gd", ha="center", va="top", fontsize=8)
    plane.plot(0, 0, "o", color=COLORS["constrained"], markersize=8, zorder=5)
    box = {"facecolor": STAGES[2], "edgecolor": "none", "pad": 0.5}
    write(plane, -0.09, 0.05, r"$\theta^\dagger$", "constrained", ha="right", va="bottom", fontsize=13, bbox=box)
    for place in (-0.83 * wide, -0.63 * wide, 0, 0.63 * wide, 0.83 * wide):  # the push along the valley
        base = 0.4 * low
        top = base + 0.3 * (1 - place**2)
        arrow = {"arrowstyle": "-|>,head_width=0.3,head_length=0.5", "color": "#333333", "linewidth": 2, "shrinkA": 0}
        plane.annotate("", (place, top), (place, base), arrowprops=arrow)
    plane.axhline(0, color=COLORS["edge"], linestyle="--", linewidth=0.8)
    write(plane, -0.97 * wide, 0.02, r"$S=2/\eta$", "edge", va="bottom", fontsize=8)
    write(plane, -0.97 * wide, 0.93 * high, "sharper ↑", "#333333", va="center")
    write(plane, -0.97 * wide, 0.93 * low, "flatter ↓", "#333333", va="center")
    plane.set(ylabel=EXCESS, xlim=(-wide, wide), ylim=(low, high), title="The valley from above")
    plane.grid(visible=False)
    line = np.linspace(-wide, wide, 301)
    force = 1 - line**2
    push.plot(line, force, color=COLORS["edge"], linewidth=1)
    push.fill_between(line, force, 0, where=np.abs(line) <= 1, color=STAGES[2], linewidth=0)
    push.fill_between(line, force, 0, where=np.abs(line) >= 1, color=STAGES[4], linewidth=0)
    push.plot(
        x[:-1], np.diff(y) / geometry.epsilon(toy.alpha, toy.learning_rate), "o", color=COLORS["gd"], markersize=4
    )
    write(push, 0, 0.5 * force.min(), "inside $\\pm\\delta$:\nto sharper ground", "#333333", ha="center", fontsize=8)
    for side in (-1, 1):
        write(push, side * (1 + wide) / 2, 0.3, "outside: to flatter ground", "#333333", ha="center", fontsize=8)
        for ax in (plane, push):
            ax.axvline(side, color=COLORS["edge"], linestyle=":", linewidth=0.9)
    push.axhline(0, color=COLORS["edge"], linewidth=0.8)
    push.set(xlabel=r"$x/\delta$, across the valley", ylabel=r"push $1-X^2$", title="Push along the valley, per step")
    return fig


def four_stages(x, y, loss, delta: float, alpha: float):
    """Draw x, y, |x| and the loss of a track of the toy (T,), its stages tinted and named."""
    found = reduced.stages(x, y, delta)
    fig, axes = plt.subplots(4, 1, figsize=(7.4, 6.6), sharex=True)
    series = {r"$x/\delta$": x / delta, EXCESS: y / alpha**0.5, SIZE: np.abs(x) / delta, "loss": loss}
    for panel, (label, curve), kind in zip(axes, series.items(), ("linear", "linear", "log", "symlog")):
        panel.plot(curve, color=COLORS["gd"], linewidth=0.8 if panel is axes[0] else None)
        panel.set(ylabel=label, yscale=kind)
    axes[1].axhline(0, color=COLORS["edge"], linestyle="--", linewidth=0.8)
    axes[2].axhline(1, color=COLORS["constrained"], linestyle="--", linewidth=0.8)
    axes[3].set_xlabel("step")
    shade(axes, found, len(x) - 1, axes[0])
    return fig


def level_sets(ax, levels, wide: float, high: float, **how) -> None:
    """Draw level sets of h in a phase plane up to X = ``wide``, |Y| = ``high``."""
    size, excess = np.meshgrid(np.geomspace(0.02, wide, 300), np.linspace(-high, high, 300))
    ax.contour(size, excess, np.asarray(reduced.conserved(size, excess, **UNITS)), levels=sorted(levels), **how)


def orbits(closed, spirals):
    """Draw orbits of the flow on level sets of h, and the spirals that the map makes of them.

    Args:
        closed: Orbits (X, Y) of the flow, each (2, T), from the outermost in.
        spirals: Two-step means (X, Y) of the map, each (2, T), by a name and a color of :data:`COLORS`.
    """
    fig, (plane, spiral) = plt.subplots(1, 2, figsize=(7.8, 3.9), sharey=True)
    high = 1.12 * max(np.abs(path[1]).max() for path in [*closed, *spirals.values()])
    wide = 1.08 * max(path[0].max() for path in [*closed, *spirals.values()])
    levels = [float(reduced.conserved(*path[:, 0], **UNITS)) for path in closed]
    level_sets(plane, levels, wide, high, colors="#BBBBBB", linewidths=3)
    for path, tone in zip(closed, ("#08306B", "#2171B5", "#6BAED6", "#9ECAE1")):
        plane.plot(*path, color=tone, linewidth=1.2)
    for (name, color), path in spirals.items():
        spiral.plot(*path, color=COLORS[color], linewidth=0.9, label=name)
    for ax, title in ((plane, "The flow runs on closed orbits"), (spiral, "The map spirals; two ways to turn it")):
        for stage, (far, sign) in QUADRANTS.items():
            ax.fill_between([1, wide] if far else [0, 1], 0, sign * high, color=STAGES[stage], zorder=0, linewidth=0)
            write(ax, 0.96 * wide if far else 0.04 * wide, 0.92 * sign * high, stage, "#333333",
                  ha="right" if far else "left", va="center", fontsize=8)  # fmt: skip
        ax.plot(1, 0, "o", color=COLORS["constrained"], markersize=5)
        ax.set(xlabel=SIZE, title=title, xlim=(0, wide), ylim=(-high, high))
        ax.grid(visible=False)
    plane.set_ylabel(EXCESS)
    spiral.legend(fontsize=8, loc="lower right")
    return fig


def peak_and_period(starts, tops, formula, sizes, periods):
    """Draw the peak of a cycle against its start, and the period of small oscillations against ε, map and formula.

    Args:
        starts: X₀ of cycles that begin at (X₀, 0), (n,).
        tops: Largest X of each, of the map (n,).
        formula: The same from the closed form (n,).
        sizes: Values of ε (m,).
        periods: Measured periods in steps (m,).
    """
    fig, (peak, time) = plt.subplots(1, 2, figsize=(7.6, 3.5))
    peak.plot(starts, formula, color=COLORS["predicted"])
    peak.plot(starts, tops, "o", color=COLORS["gd"], markersize=4)
    peak.plot(starts, np.sqrt(2 * np.log(1 / starts)), color="#777777", linestyle=":")
    names = [("formula (Lambert W)", "predicted"), ("map, measured", "gd"), (r"$\sqrt{2\ln(1/X_0)}$", "#777777")]
    color_key(peak, names)
    peak.set(xscale="log", xlabel=r"$X_0=|x_0|/\delta$", ylabel=r"$X_{\max}$", title="Peak of a cycle")
    time.plot(sizes, reduced.small_period(learning_rate=sizes, alpha=1.0), color=COLORS["predicted"])
    time.plot(sizes, periods, "o", color=COLORS["gd"], markersize=4)
    time.set(xscale="log", yscale="log", xlabel=r"$\varepsilon$", ylabel="steps")
    time.set_title(r"Period of small oscillations: $\sqrt{2}\pi/\varepsilon$")
    return fig


def in_a_network(run, found: reduced.Stages):
    """Draw the stages found in a run, and its path in the phase plane with the level set of h through its start."""
    part = quantities.single_direction(run)
    size, excess = (np.abs(part.x) / quantities.radius(part)).values, (part.y / np.sqrt(part.alpha)).values
    fig, (left, right) = plt.subplots(1, 2, figsize=(7.8, 3.6), width_ratios=[1.5, 1])
    left.plot(part.t, size, color=COLORS["gd"])
    left.plot(part.t, excess, color=COLORS["edge"], linewidth=1.2)
    shade([left], found, int(part.t[-1]))
    color_key(left, [(SIZE, "gd"), (EXCESS, "edge")], y=0.93)
    left.set(xlabel=AFTER, title="Stages found in a network's track")
    right.plot(size, excess, color=COLORS["gd"], linewidth=0.9)
    level = float(reduced.conserved(size[0], excess[0], **UNITS))
    peak = float(reduced.peak_amplitude(min(size[0], 1.0), **UNITS))
    wide, high = 1.1 * max(size.max(), peak), 1.15 * max(np.abs(excess).max(), np.sqrt(2 * level - 1))
    level_sets(right, [level], wide, high, colors=COLORS["predicted"], linestyles="--")
    right.plot(1, 0, "o", color=COLORS["constrained"], markersize=5)
    right.set(xlabel=SIZE, ylabel=EXCESS, xlim=(0, wide), ylim=(-high, high))
    right.set_title("Path and predicted orbit")
    return fig
