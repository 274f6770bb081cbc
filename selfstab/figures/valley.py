"""The figures of the chapter on valleys that are no parabola."""

from __future__ import annotations

import json

import matplotlib.pyplot as plt
import numpy as np

from selfstab.page.draw import AFTER, SHADE, color_key, shade_steps, shade_two_directions, write
from selfstab.page.style import COLORS
from selfstab.runs import quantities

NAMES = {"logistic": "logistic loss", "cross-entropy": "cross-entropy"}


def criterion(run) -> str:
    """Return the loss that a run minimizes, in words."""
    return NAMES[json.loads(run.attrs["setting"])["criterion"]]


def known(toys, delta, rests):
    """Draw valleys of known form, the oscillation in the narrowest, and where y rests.

    Args:
        toys: Tracks by the valley's width in units of δ, the narrowest last.
        delta: δ.
        rests: Mean y η/2 by width, of gradient descent and of the generalized prediction.
    """
    fig, (left, middle, right) = plt.subplots(1, 3, figsize=(8.6, 3.3))
    z = np.linspace(-5, 5, 201)
    left.plot(z, z**2, color=COLORS["edge"], linestyle="--", linewidth=1)
    write(left, 0.5, 0.86, "dashed: parabola", frame="axes", fontsize=8.5, ha="center")
    for width in toys:
        heights = 2 * width**2 * np.log(np.cosh(z / width))
        left.plot(z, heights, color=COLORS["gd"], linewidth=1.2)
        write(left, 5.1, heights[-1], f"{width:g}", "gd", fontsize=8.5, va="center")
    left.set(xlabel=r"$x/\delta$", ylabel=r"loss above the floor, in $\delta^2/\eta$", xlim=(-5, 5.9))
    left.set_title(r"Valleys of width $a/\delta$")
    narrowest, toy = list(toys.items())[-1]
    middle.plot(toy.t, np.abs(toy.x) / delta, color=COLORS["gd"], linewidth=3, alpha=0.45)
    middle.plot(toy.t, np.abs(toy.predicted_x) / delta, color=COLORS["predicted"], linewidth=1)
    middle.plot(toy.t, np.abs(toy.generalized_x) / delta, color=COLORS["generalized"], linewidth=1, linestyle="--")
    names = ("gradient descent", "gd"), ("cubic", "predicted"), ("generalized", "generalized")
    low, high = middle.get_ylim()
    middle.set_ylim(low, high + 0.3 * (high - low))
    color_key(middle, names)
    middle.set(xlabel="step", ylabel=r"$|x|/\delta$", title=rf"Oscillation, $a={narrowest:g}\,\delta$")
    ratio = np.linspace(0.02, 1.1 / narrowest, 100)
    right.plot(ratio, 1 - np.tanh(ratio) / ratio, color=COLORS["edge"], linewidth=1)
    for width, (seen, general) in rests.items():
        right.plot(1 / width, seen, "o", color=COLORS["gd"])
        right.plot(1 / width, general, "x", color=COLORS["generalized"], markersize=9)
    right.axhline(0, color=COLORS["predicted"], linewidth=1)  # the cubic two-cycle has y = 0: not measured
    write(right, 0.97, -0.0005, "cubic", "predicted", frame="yaxis", fontsize=8.5, ha="right", va="top")
    right.set(xlabel=r"$\delta/a$", ylabel=r"mean $y\,/\,(2/\eta)$", title="Where it rests")
    return fig


def shapes(runs):
    """Draw the loss along u at several steps of runs, and its ratio to the parabola."""
    fig, axes = plt.subplots(2, len(runs), figsize=(7.8, 5.0), sharex=True, squeeze=False)
    for column, run in enumerate(runs):
        top, bottom = axes[:, column]
        eta = run.attrs["learning_rate"]
        for k in range(run.sizes["stride"]):
            x, loss = run.profile_offset[k].values, run.profile[k].values
            d, half = float(quantities.radius(run)[int(run.stride[k])]), len(x) // 2
            fade = 0.3 + 0.7 * k / max(run.sizes["stride"] - 1, 1)
            top.plot(x / d, (loss - loss[half]) * eta / d**2, color=COLORS["gd"], alpha=fade, linewidth=1.2)
            away = np.arange(len(x)) != half
            ratio = (loss - loss[half])[away] * eta / x[away] ** 2
            bottom.plot(x[away] / d, ratio, color=COLORS["gd"], alpha=fade, linewidth=1.2)
        z = np.linspace(-5, 5, 101)
        top.plot(z, z**2, color=COLORS["predicted"], linestyle="--", linewidth=1)
        bottom.axhline(1, color=COLORS["predicted"], linestyle="--", linewidth=1)
        shade_steps((top, bottom), -1, 1)
        top.set(title=criterion(run).capitalize())
        bottom.set(xlabel=r"$x/\delta$")
    axes[0, 0].set_ylabel(r"$F(x)-F(0)$ in $\delta^2/\eta$")
    axes[1, 0].set_ylabel(r"$(F(x)-F(0))\,/\,(x^2/\eta)$")
    write(axes[0, 0], 0.14, 0.9, "parabola", "predicted", frame="axes")
    write(axes[0, 0], 0.5, 0.9, r"$|x|<\delta$", "#555555", frame="axes", ha="center")
    return fig


def errors(runs, horizons):
    """Draw the errors of both predictions of runs, with the steps (a slice per run) of the claim shaded.

    A panel ends soon after both are lost: their errors exceed what they predict.
    """
    fig, axes = plt.subplots(1, len(runs), figsize=(7.8, 3.2), squeeze=False)
    for ax, run, steps in zip(axes[0], runs, horizons, strict=True):
        lost = [(run[f"{guess}_error"] > run.distance).values[steps.stop :] for guess in ("predicted", "generalized")]
        ends = [steps.stop + int(each.argmax()) if each.any() else run.sizes["t"] for each in lost]
        run = run.isel(t=slice(0, int(1.2 * max(*ends, 4 * steps.stop))))
        d = quantities.radius(run)
        ax.axvspan(steps.start, steps.stop, color=SHADE, zorder=0)
        ax.plot(run.t, run.distance / d, color=COLORS["gd"], linewidth=0.9, alpha=0.6)
        ax.plot(run.t, run.predicted_error / d, color=COLORS["predicted"])
        ax.plot(run.t, run.generalized_error / d, color=COLORS["generalized"])
        ax.set(title=criterion(run).capitalize(), xlabel=AFTER, xlim=(0, int(run.t[-1])))
        ax.set_ylim(0, 1.35 * float((run.distance / d).max()))
    axes[0, 0].set_ylabel(r"distance in $\delta$")
    labels = (
        (r"what is predicted, $\|\theta-\theta^\dagger\|$", "gd"),
        ("error, cubic", "predicted"),
        ("error, generalized", "generalized"),
    )
    color_key(axes[0, -1], labels, gap=0.07)
    return fig


def smooth(values, length: int) -> np.ndarray:
    """Return the running mean over ``length`` steps."""
    return np.convolve(values, np.ones(length) / length, mode="valid")


def equilibrium(runs, rests, lengths):
    """Draw running means of y of runs, over ``lengths`` steps, and where y should rest (an array per run)."""
    fig, axes = plt.subplots(1, len(runs), figsize=(7.8, 3.2), squeeze=False)
    for ax, run, rest, length in zip(axes[0], runs, rests, lengths, strict=True):
        half = run.attrs["learning_rate"] / 2
        shade_two_directions([ax], run)
        series = {"gd": run.y, "predicted": run.predicted_y, "generalized": run.generalized_y}
        means = {shade: smooth(values.values * half, length) for shade, values in series.items()}
        for shade, values in means.items():
            ax.plot(np.arange(values.size) + length / 2, values, color=COLORS[shade])
        ax.plot(run.stride, rest, "D", color=COLORS["constrained"])
        ax.axhline(0, color=COLORS["edge"], linestyle="--", linewidth=0.8)
        shown = np.concatenate([means["gd"], np.ravel(rest), [0.0]])
        low, high = np.nanmin(shown), np.nanmax(shown)
        ax.set(title=criterion(run).capitalize(), xlabel=AFTER)
        ax.set_ylim(low - 0.15 * (high - low), high + 0.5 * (high - low))
    axes[0, 0].set_ylabel(r"mean $y\,/\,(2/\eta)$ over a period")
    labels = {"gd": "gradient descent", "predicted": "cubic prediction", "generalized": "generalized prediction"}
    labels |= {"constrained": r"formula, from $\theta^\dagger$ alone"}
    color_key(axes[0, -1], [(label, shade) for shade, label in labels.items()], gap=0.07)
    return fig
