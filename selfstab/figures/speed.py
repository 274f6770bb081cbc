"""The figures of the chapter on training speed, and the steps or work in which a loss reaches a level."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np

from eoslib.trajectories import descent
from selfstab.page.draw import SHADE, color_key, write
from selfstab.page.style import COLORS, RATES

#: One color per learning rate, in every figure of the chapter; other rates take those left over, from large to small.
RATE_COLORS = dict(zip((0.04, 0.02, 0.015, 0.01), RATES, strict=True))
#: The learning rate after a drop, and one that is raised at once.
DROPPED, AT_ONCE = RATES[2], RATES[1]


def colors(rates) -> dict:
    """Return a color for each learning rate."""
    left = [color for rate, color in RATE_COLORS.items() if rate not in rates]
    return {rate: RATE_COLORS.get(rate) or left.pop(0) for rate in sorted(rates, reverse=True)}


def needed(loss, level) -> float:
    """Return the steps until the loss is at most the level; NaN if never."""
    steps = descent.steps_to(loss, level)
    return np.nan if steps is None else steps


def work(loss, levels, spent) -> list:
    """Return the work spent when a loss first reaches each level; NaN if never."""
    steps = [needed(loss, level) for level in levels]
    return [np.nan if np.isnan(k) else spent[int(k)] for k in steps]


def _limits(curves, *, margin=0.05) -> tuple[float, float]:
    """Return the range of some curves, a little widened."""
    low, high = min(np.nanmin(curve) for curve in curves), max(np.nanmax(curve) for curve in curves)
    return low - margin * (high - low), high + margin * (high - low)


def speed(losses, along, fastest, true_flow, levels):
    """Draw losses by step, and the steps and the work to each level, of gradient descent and of flow-like steps.

    Args:
        losses: Losses by learning rate.
        along: The training in steps of 1/S.
        fastest: That in the longest flow-like steps.
        true_flow: Gradients that a stabilized method has spent along the flow, (n,), and the losses there, (n,).
        levels: Losses to be reached.
    """
    fig, (left, middle, right) = plt.subplots(1, 3, figsize=(8.8, 3.4))
    shades, flow_loss = colors(losses), np.asarray(along.loss, float)
    for rate, loss in losses.items():
        steps = [needed(loss, level) for level in levels]
        left.plot(loss, color=shades[rate], linewidth=1)
        middle.plot(steps, levels, color=shades[rate])
        right.plot(steps, levels, color=shades[rate])
    left.plot(flow_loss, color=COLORS["flow"], linewidth=1.4)
    middle.plot([needed(flow_loss, level) for level in levels], levels, color=COLORS["flow"])
    spent = np.cumsum(1 + np.asarray(along.products))
    right.plot(work(flow_loss, levels, spent), levels, color=COLORS["flow"])
    middle.plot([needed(fastest.loss, level) for level in levels], levels, color=COLORS["flow"], linestyle=":")
    right.plot(*true_flow, color=COLORS["flow"], linestyle="--")
    frame, steps = {"ylim": _limits([levels, flow_loss])}, len(flow_loss)
    left.set(xlabel="step", ylabel="training loss", title="Loss", **frame)
    middle.set(xlabel="steps", ylabel="loss reached", title="Steps to a loss", xlim=(0, steps), **frame)
    right.set(xlabel="gradients and Hessian products", title="Work to a loss", xlim=(0, 1.5 * steps), **frame)
    names = [(rf"$\eta={rate:g}$", shades[rate]) for rate in losses]
    color_key(right, [*names, (r"$\eta_t=1/S(\theta_t)$", "flow")], y=0.93, fontsize=9)
    return fig


def speed_recorded(losses, flow_loss, spent):
    """Draw losses by step and the steps to each level of recorded runs, and of the flow in steps of 1/S.

    Args:
        losses: Losses by learning rate.
        flow_loss: Loss along the flow, (T,).
        spent: Steps of 1/S that the flow needs up to each of these, (T,).
    """
    fig, (left, right) = plt.subplots(1, 2, figsize=(7.8, 3.4))
    levels = np.linspace(0.97 * flow_loss[0], min(loss.min() for loss in losses.values()), 80)
    shades = colors(losses)
    for rate, loss in losses.items():
        left.plot(loss, color=shades[rate], linewidth=0.8, label=rf"$\eta={rate:g}$")
        right.plot([needed(loss, level) for level in levels], levels, color=shades[rate])
    left.plot(spent, flow_loss, color=COLORS["flow"], linewidth=1.4, label=r"$\eta_t=1/S$")
    right.plot(work(flow_loss, levels, spent), levels, color=COLORS["flow"])
    frame = {"ylim": _limits([levels, flow_loss[:1]]), "xlim": (0, max(loss.size for loss in losses.values()))}
    left.set(xlabel="step", ylabel="training loss", title="Loss", **frame)
    right.set(xlabel="steps", ylabel="loss reached", title="Steps to a loss", **frame)
    left.legend(fontsize=8.5)
    return fig


def accuracy(steps, curves, sizes, error):
    """Draw training and test accuracy by step.

    Args:
        steps: Steps at which it was measured, (k,).
        curves: By learning rate, or ``"flow"``, two series (k,): on training images and on test images.
        sizes: How many images each of the two sets has.
        error: One standard error of the test accuracy at chance.
    """
    fig, axes = plt.subplots(1, 2, figsize=(7.6, 3.3), sharey=True)
    shades = colors([name for name in curves if name != "flow"]) | {"flow": COLORS["flow"]}
    for name, pair in curves.items():
        for ax, series in zip(axes, pair):
            ax.plot(steps, series, color=shades[name])
    axes[1].axhspan(0.5 - error, 0.5 + error, color=SHADE, zorder=0)
    write(axes[1], 0.98, 0.5, "chance", "#555555", frame="yaxis", fontsize=8.5, ha="right", va="center")
    for ax, title, size in zip(axes, ("Training", "Test"), sizes):
        ax.set(title=f"{title} images ({size:,})", xlabel="step")
    both = [series for pair in curves.values() for series in pair]
    axes[0].set(ylabel="accuracy", ylim=_limits([*both, np.array([0.5 - error, 0.5 + error])]))
    names = [(r"$1/S$" if name == "flow" else rf"$\eta={name:g}$", shades[name]) for name in curves]
    color_key(axes[0], names, y=0.3, fontsize=9)
    return fig


def drop(points, floor_loss, learning_rate, divisor, left_over):
    """Draw the effect of a lower learning rate: loss and sharpness from the highest bounce, excess loss from each.

    Args:
        points: Bounces, the highest first: each with the trainings ``drop`` and ``on`` (rate dropped, rate kept) and
            the fraction ``remaining`` of its excess loss.
        floor_loss: Loss of θ† at the first of them.
        learning_rate: Rate before the drop, η.
        divisor: Factor by which it is divided.
        left_over: Fraction of the excess loss that is marked.
    """
    fig, (left, middle, right) = plt.subplots(1, 3, figsize=(8.8, 3.3))
    highest, after = points[0], len(points[0]["on"].loss)
    left.plot(np.asarray(highest["on"].loss), color=COLORS["gd"], linewidth=1)
    left.plot(np.asarray(highest["drop"].loss), color=DROPPED)
    left.axhline(floor_loss, color=COLORS["constrained"], linestyle="--")
    plain = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
    name = r"$L(\theta^\dagger)$ at the drop"
    write(left, after, floor_loss, name, "constrained", ha="right", va="bottom", fontsize=8.5, bbox=plain)
    names = [(rf"$\eta={learning_rate:g}$ kept", "gd"), (rf"$\eta/{divisor:g}$ after step 0", DROPPED)]
    color_key(left, names, y=0.93)
    left.set(xlabel="steps after the drop", ylabel="training loss", title="The highest bounce")
    for point in points:
        middle.semilogy(np.maximum(np.abs(point["remaining"][:8]), 1e-4), color=DROPPED, marker=".", linewidth=1)
    middle.semilogy((1 - 2 / divisor) ** (2 * np.arange(8.0)), color=COLORS["edge"], linestyle="--", linewidth=1)
    middle.axhline(left_over, color="#999999", linewidth=0.8)
    write(middle, 7, 1.15 * left_over, f"{left_over:.0%}", "#555555", fontsize=8.5, ha="right")
    middle.set(xlabel="steps after the drop", ylabel="fraction of the excess loss left", title="All drops")
    middle.set_ylim(9e-5, 1.5)
    curves = [np.asarray(highest[name].sharpness) * learning_rate / 2 for name in ("on", "drop")]
    for curve, color in zip(curves, (COLORS["gd"], DROPPED)):
        right.plot(curve, color=color, linewidth=1 + (color == DROPPED) / 2)
    right.axhline(1, color=COLORS["edge"], linestyle="--", linewidth=0.8)
    write(right, 0.98, 0.03, rf"$2/\eta^\prime$ is {divisor:g}, above", DROPPED, frame="axes", ha="right", fontsize=8.5)
    write(right, after, 1, r"$2/\eta$", ha="right", va="bottom", fontsize=8.5, bbox=plain)
    ylim = _limits([*curves, np.ones(1)], margin=0.1)
    right.set(xlabel="steps after the drop", ylabel=r"$S\,/\,(2/\eta)$", title="Sharpness", ylim=ylim)
    return fig


def warm_up(slow, fast, learning_rate):
    """Draw sharpness, its threshold and the loss where the learning rate is raised slowly (slow) and at once (fast)."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(7.6, 3.3))
    finite = np.where(np.isfinite(fast.loss), fast.loss, np.nan)
    for run, color, width in ((slow, COLORS["gd"], 1), (fast, AT_ONCE, 0.8)):
        left.plot(np.asarray(run.sharpness) * learning_rate / 2, color=color, linewidth=width)
    threshold = learning_rate / np.asarray(slow.rate)
    left.plot(threshold, color=COLORS["edge"], linestyle="--", linewidth=1.2)
    write(left, len(threshold), threshold[-1] - 0.02, r"$2/\eta_t$", ha="right", va="top")
    left.set(xlabel="step", ylabel=r"$S\,/\,(2/\eta)$", title="Sharpness")
    right.plot(np.asarray(slow.loss), color=COLORS["gd"], linewidth=1)
    right.plot(finite, color=AT_ONCE, linewidth=1)
    color_key(right, [("raised slowly", "gd"), ("raised at once", AT_ONCE)], fontsize=9)
    right.set(xlabel="step", ylabel="training loss", title="Loss")
    return fig
