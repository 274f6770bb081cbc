"""The figures of the chapter on the predicted dynamics."""

from __future__ import annotations

import json

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import ticker

from selfstab import settings
from selfstab.figures import constrained
from selfstab.page.draw import AFTER, SHADE, color_key, shade_two_directions, two_step_means, write
from selfstab.page.style import COLORS
from selfstab.runs import quantities


def _beside(ax, t, measured, predicted):
    """Plot gradient descent, thick, and its prediction, thin."""
    ax.plot(t, measured, color=COLORS["gd"], linewidth=2.2, alpha=0.55)
    ax.plot(t, predicted, color=COLORS["predicted"], linewidth=1)


def _limits(ax, *series, low=0.05, high=0.05):
    """Extend the axis by fractions of the range beyond the finite values of some series."""
    values = np.concatenate([np.asarray(each, float).ravel() for each in series])
    least, most = values[np.isfinite(values)].min(), values[np.isfinite(values)].max()
    ax.set_ylim(least - low * (most - least), most + high * (most - least))


def tracking(run, window=slice(None)):
    """Draw loss, sharpness, size of the oscillation and error over some steps, gradient descent beside v*."""
    part = run.isel(t=window)
    t, delta, edge, far = part.t, quantities.radius(part), part.attrs["edge"], part.distance / constrained.unit(run)
    fig, axes = plt.subplots(2, 2, figsize=(8.2, 5.2), sharex=True)
    loss, sharp, size, error = axes.flat
    _beside(loss, t, part.gd_loss, quantities.predicted_loss(part))
    loss.plot(t, part.constrained_loss, color=COLORS["constrained"], linewidth=1)
    names = [("gradient descent", "gd"), ("predicted", "predicted"), (r"constrained $\theta^\dagger$", "constrained")]
    color_key(loss, names)
    loss.set(ylabel="loss", title="Loss")
    _limits(loss, part.gd_loss, part.constrained_loss)
    means = [two_step_means(series.values) / edge for series in (part.gd_sharpness, part.predicted_sharpness)]
    _beside(sharp, t[1:] - 0.5, *means)
    sharp.axhline(1, color=COLORS["edge"], linestyle="--", linewidth=0.8)
    sharp.set(ylabel=r"$S\,/\,(2/\eta)$", title="Sharpness (two-step means)")
    _limits(sharp, means[0], low=0.15, high=0.15)
    sizes = np.abs(part.x) / delta
    _beside(size, t, sizes, np.abs(part.predicted_x) / delta)
    size.axhline(1, color=COLORS["constrained"], linestyle="--", linewidth=0.8)
    size.set(ylabel=r"$|x|\,/\,\delta$", title="Size of the oscillation", xlabel=AFTER)
    size.set_ylim(0, 1.15 * float(sizes.max()))
    error.plot(t, far, color=COLORS["gd"], linewidth=1, alpha=0.55)
    error.plot(t, part.predicted_error / constrained.unit(run), color=COLORS["predicted"])
    pair = [(r"$\|\theta-\theta^\dagger\|$", "gd"), (r"$\|\theta-\theta^\dagger-v^*\|$", "predicted")]
    color_key(error, pair, y=0.92, gap=0.1)
    error.set(ylabel=r"distance in $\delta_0$", title="Error of the prediction", xlabel=AFTER)
    error.set_ylim(0, 1.25 * float(far.max()))
    shade_two_directions(axes.flat, part)
    return fig


def starts(runs):
    """Draw size of the oscillation, sharpness and distances to the end of the first cycle, one column per start."""
    fig, axes = plt.subplots(3, len(runs), figsize=(8.2, 6.2), sharex="col", sharey="row", squeeze=False)
    for (size, sharp, far), (start, run) in zip(axes.T, runs.items()):
        part = run.isel(t=slice(quantities.first_cycle(quantities.single_direction(run)).stop))
        t, delta, edge, unit = part.t, quantities.radius(part), part.attrs["edge"], constrained.unit(run)
        _beside(size, t, np.abs(part.x) / delta, np.abs(part.predicted_x) / delta)
        size.set(yscale="log", title=f"{start.capitalize()} start")
        size.axhline(1, color=COLORS["constrained"], linestyle="--", linewidth=0.8)
        means = [two_step_means(series.values) / edge for series in (part.gd_sharpness, part.predicted_sharpness)]
        _beside(sharp, t[1:] - 0.5, *means)
        sharp.axhline(1, color=COLORS["edge"], linestyle="--", linewidth=0.8)
        far.plot(t, part.distance / unit, color=COLORS["gd"], linewidth=1, alpha=0.7)
        far.plot(t, part.predicted_error / unit, color=COLORS["predicted"])
        far.set(xlabel=AFTER)
    names = [(r"$\|\theta-\theta^\dagger\|$", "gd"), (r"$\|\theta-\theta^\dagger-v^*\|$", "predicted")]
    color_key(axes[2, 0], names, y=0.92, gap=0.12)
    color_key(axes[0, 0], [("gradient descent", "gd"), ("predicted", "predicted")], y=0.25, gap=0.11)
    axes[2, 0].set_ylim(0, None)
    axes[0, 0].set_ylabel(r"$|x|\,/\,\delta$")
    axes[1, 0].set_ylabel(r"$S\,/\,(2/\eta)$" + "\n(two-step means)")
    axes[2, 0].set_ylabel(r"distance in $\delta_0$")
    return fig


def networks(runs):
    """Draw loss, sharpness and distances, one column per network, while one direction is at the edge."""
    fig, axes = plt.subplots(3, len(runs), figsize=(max(8.2, 1.6 + 2.1 * len(runs)), 5.6), squeeze=False, sharex="col")
    for (loss, sharp, far), run in zip(axes.T, runs):
        setting, part = json.loads(run.attrs["setting"]), quantities.single_direction(run)
        t, edge, unit, cycle = part.t, part.attrs["edge"], constrained.unit(part), quantities.first_cycle(part)
        far.axvspan(cycle.start, cycle.stop - 1, color=SHADE, zorder=0)
        _beside(loss, t, part.gd_loss, quantities.predicted_loss(part))
        loss.plot(t, part.constrained_loss, color=COLORS["constrained"], linewidth=1)
        words = settings.WORDS[setting["model"]]
        loss.set_title(f"{words}\n{setting['n']:,} samples, η = {setting['learning_rate']:g}")
        _limits(loss, part.gd_loss, part.constrained_loss, high=0.15)
        means = [two_step_means(series.values) / edge for series in (part.gd_sharpness, part.predicted_sharpness)]
        _beside(sharp, t[1:] - 0.5, *means)
        sharp.axhline(1, color=COLORS["edge"], linestyle="--", linewidth=0.8)
        _limits(sharp, means[0], [1.0], low=0.35, high=0.35)
        far.plot(t, part.flow_distance / unit, color=COLORS["flow"], linewidth=1)
        far.plot(t, part.distance / unit, color=COLORS["gd"], linewidth=1, alpha=0.7)
        far.plot(t, part.predicted_error / unit, color=COLORS["predicted"])
        far.set(ylim=(0, 1.4 * float((part.distance / unit).max())), xlabel=AFTER)
    axes[0, 0].set_ylabel("loss")
    axes[1, 0].set_ylabel(r"$S\,/\,(2/\eta)$" + "\n(two-step means)")
    axes[2, 0].set_ylabel(r"distance in $\delta_0$")
    labels = {"gd": "gradient descent", "predicted": "predicted", "constrained": r"constrained $\theta^\dagger$"}
    labels |= {"flow": "gradient flow"}
    lines = [plt.Line2D([], [], color=COLORS[shade], label=label) for shade, label in labels.items()]
    fig.legend(handles=lines, loc="outside lower center", ncols=4, fontsize=8.5, frameon=False)
    return fig


def orders(epsilons, panels):
    """Draw errors against ε, those of the prediction and of the best null model, in logarithmic axes.

    ``epsilons`` (n,); ``panels`` holds, by quantity, the predicted order, the unit in words, both errors (n,) in that
    unit and the null model's name.
    """
    fig, axes = plt.subplots(1, len(panels), figsize=(8.4, 3.1))
    for ax, (name, (order, unit, own, best, null)) in zip(axes, panels.items()):
        ax.loglog(epsilons, best, "s", color=COLORS["edge"], markersize=4, label=f"best null model: {null}")
        ax.loglog(epsilons, own, "o", color=COLORS["predicted"], label="prediction")
        line = np.exp(np.log(own / epsilons**order).mean()) * epsilons**order
        ax.plot(epsilons, line, color=COLORS["predicted"], linewidth=0.8, linestyle="--")
        ax.set(title=f"Error of the {name}", xlabel=r"$\varepsilon$", ylabel=f"in {unit}")
        ax.set_xticks([0.05, 0.1], ["0.05", "0.1"])
        ax.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.minorticks_off()
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8.5, frameon=False)
    return fig


def lengths(cycles, allowed):
    """Draw measured against predicted lengths of cycles, and their differences in steps.

    ``cycles`` are tuples of lengths: measured, by the formula, and with fading.  ``allowed`` is a limit in steps.
    """
    measured, plain, faded = np.array(cycles, float).T
    fig, (left, right) = plt.subplots(1, 2, figsize=(8.0, 3.3), width_ratios=(1, 1.2))
    ends = np.array([0.95 * min(plain.min(), measured.min()), 1.05 * max(faded.max(), measured.max())])
    left.plot(ends, ends, color=COLORS["edge"], linestyle="--", linewidth=0.8)
    right.axhspan(-allowed, allowed, color=SHADE, zorder=0)
    right.axhline(0, color=COLORS["edge"], linestyle="--", linewidth=0.8)
    for values, shade, sign in ((plain, "single", "s"), (faded, "predicted", "o")):
        left.plot(values, measured, sign, color=COLORS[shade], markersize=5, alpha=0.8)
        right.plot(measured, measured - values, sign, color=COLORS[shade], markersize=5, alpha=0.8)
    names = [(r"$\sqrt{2}\,\pi/\varepsilon$ and amplitude", "single"), ("with fading", "predicted")]
    color_key(left, names, y=0.16, gap=0.09)
    left.set(xlabel="predicted length in steps", ylabel="measured length in steps", title="Length of a cycle")
    right.set(xlabel="measured length in steps", ylabel="measured less predicted, steps", title="Difference")
    write(right, 0.02, 0.04, f"shaded: {allowed:g} steps", frame="axes", fontsize=8)
    return fig
