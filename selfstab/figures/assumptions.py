"""The figures of the chapter on the coupling theorem's assumptions."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np

from selfstab.page.draw import AFTER, color_key, shade_two_directions, write
from selfstab.page.style import COLORS
from selfstab.runs import quantities

#: Three shades for curves that have no color of their own in the book.
SHADES = ("#009E73", "#CC79A7", "#0072B2")
#: The non-worst-case ratios: their names in a run, and on an axis.
RATIOS = {
    "third_along_v": r"$\nabla^3L(\hat v,\hat v)$",
    "third_along_gradient": r"$\nabla^3L(\hat g,\hat g)$",
    "curvature_along_v": r"$\hat v^\top\nabla^2L\hat v$",
}


def oscillation(run):
    """Return |x*|/δ at every step (T,)."""
    return np.abs(run.predicted_x) / quantities.radius(run)


def slope_over_third(run):
    """Return ‖∇S⊥‖/ρ₃ at every stride."""
    return np.sqrt(run.beta.sel(t=run.stride.values)).values / run.rho3


def headroom(ax, fraction) -> None:
    """Raise a panel's upper limit by a fraction of its range, to make room for text."""
    low, high = ax.get_ylim()
    ax.set_ylim(low, high + fraction * (high - low))


def six(run):
    """Draw the six assumptions along θ†."""
    eta, edge = run.attrs["learning_rate"], run.attrs["edge"]
    fig, axes = plt.subplots(2, 3, figsize=(8.4, 5.2), sharex=True)
    rate, gap, size, align, ratios, small = axes.flat
    rate.plot(run.t, run.alpha, color=COLORS["constrained"])
    if float(run.alpha.min()) < 0:
        rate.axhline(0, color=COLORS["edge"], linestyle="--", linewidth=0.8)
    rate.set(title="Progressive sharpening", ylabel=r"$\alpha_t$")
    for pair, shade in enumerate(("#D55E00", "#0072B2", "#7F7F7F")):
        values = run.eigenvalues[:, pair] / edge
        gap.plot(run.stride, values, color=shade, marker=".")
        write(gap, -0.02 * run.sizes["t"], values[0], rf"$\lambda_{pair + 1}$", shade, ha="right", va="center")
    gap.set(title="Eigengap", ylabel=r"$\lambda_i\,/\,(2/\eta)$", xlim=(-0.12 * run.sizes["t"], None))
    size.plot(run.stride, run.rho4 / (eta * run.rho3**2), color=COLORS["constrained"], marker=".")
    size.set(title="Fourth over third order", ylabel=r"$\rho_4\,/\,(\eta\rho_3^2)$")
    align.plot(run.t, run.gamma, color=COLORS["constrained"])
    align.plot(run.stride, slope_over_third(run), color=COLORS["predicted"], marker=".")
    headroom(align, 0.3)
    color_key(align, ((r"$\gamma_t$", "constrained"), (r"$\|\nabla S^\perp\|/\rho_3$", "predicted")), gap=0.1, va="top")
    align.set(title="Alignment", ylabel="ratio", xlabel=AFTER)
    for (name, label), shade in zip(RATIOS.items(), SHADES, strict=True):
        ratios.plot(run.stride, run[name], color=shade, marker=".", label=label)
    epsilon = quantities.epsilon(run)
    ratios.plot(run.t, epsilon, color=COLORS["edge"], linestyle="--", linewidth=1, label=r"$\varepsilon_t$")
    ratios.set(title="Not the worst case", ylabel="ratio", yscale="log", xlabel=AFTER)
    low, high = ratios.get_ylim()
    ratios.set_ylim(low, high * (high / low) ** 0.35)
    ratios.legend(fontsize=7.5, ncols=2, loc="upper center", columnspacing=1)
    small.plot(run.t, oscillation(run), color=COLORS["predicted"])
    small.set(title="Oscillation not too small", ylabel=r"$|x^*_t|/\delta_t$", xlabel=AFTER)
    shade_two_directions(axes.flat, run)
    return fig


def valley_and_memory(run, until: int, period: int):
    """Draw the loss along u at t = 0, and the decay of past forces, from every ``period`` steps up to ``until``."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(7.6, 3.4))
    delta = float(quantities.radius(run)[0])
    offset, profile = run.profile_offset[0].values, run.profile[0].values
    left.plot(offset / delta, profile - profile[len(profile) // 2], color=COLORS["gd"], marker="o", markersize=3)
    left.plot(offset / delta, offset**2 / run.attrs["learning_rate"], color=COLORS["predicted"], linestyle="--")
    color_key(left, [("loss along $u$", "gd"), (r"$x^2/\eta$", "predicted")], x=0.66, y=0.88)
    left.set(xlabel=r"$x/\delta$", ylabel=r"$L(\theta^\dagger+xu)-L(\theta^\dagger)$", title="The valley at $t=0$")
    values = run.transport.values
    for number, start in enumerate(range(0, until, period)):
        piece = values[start + 1 : min(start + period + 1, until)]
        right.plot(piece, color=COLORS["constrained"], alpha=0.35 + 0.6 * number / max(until // period, 1))
    right.set(xlabel="age $t-s$ in steps", ylabel=r"$\beta_{s\to t}\,/\,\beta_s$", title="Memory of past forces")
    return fig


def orders(epsilon, groups):
    """Draw quantities against ε (n,): two groups of {name: (values (n,), fitted slope, its standard error)}."""
    fig, axes = plt.subplots(1, 2, figsize=(7.8, 3.6), sharex=True)
    for ax, group in zip(axes, groups, strict=True):
        for (name, (values, slope, error)), shade in zip(group.items(), SHADES, strict=True):
            label = rf"{name}, slope {slope:.2f} $\pm$ {error:.2f}"
            ax.plot(epsilon, values, color=shade, marker="o", markersize=4, label=label)
        if ax is axes[1]:
            ax.plot(epsilon, epsilon, color=COLORS["edge"], linestyle="--", linewidth=1)
        ax.set(xscale="log", yscale="log", xlabel=r"$\varepsilon$, mean")
        ax.set_xticks(epsilon, [f"{each:.3f}" for each in epsilon])
        ax.minorticks_off()
        low, high = ax.get_ylim()
        ax.set_ylim(low, high * (high / low) ** 0.35)
        ax.legend(fontsize=7.5, loc="upper left")
    axes[0].set(title="Should be of order one", ylabel="mean over steps")
    axes[1].set(title=r"Should be of order $\varepsilon$ (dashed)")
    return fig
