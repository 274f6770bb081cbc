"""The figures of the chapter on the coupling theorem."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np

from selfstab.page.draw import write
from selfstab.page.style import COLORS, RATES

#: What is drawn of the theorem's three errors, and its orders in α.
LABELS = {
    "deviation": r"largest $\|\theta-\theta^\dagger-v^*\|$",
    "loss": r"largest $|L-L^\dagger-x^{*2}/\eta|$",
    "sharpness": r"largest $|S-2/\eta-y^*-(\nabla S\cdot u)x^*|$",
}
ORDERS = {"deviation": r"$\alpha$", "loss": r"$\alpha^{3/2}$", "sharpness": r"$\alpha$"}
#: As assumed; broken a little, or repaired; broken.
ASSUMED, TONES = "#7F7F7F", ("#E69F00", "#6A3D9A")


def median(errors):
    """Return the median over draws (n, m) -> (m,), a diverged one (NaN) counting as largest; NaN if half did."""
    found = np.median(np.where(np.isfinite(errors), errors, np.inf), axis=0)
    return np.where(np.isfinite(found), found, np.nan)


def _name_curve(ax, row, text, shade) -> None:
    """Put a dot in the curve's color and its name at the top of a panel."""
    level = 0.94 - 0.08 * row
    ax.plot(0.05, level, "o", color=shade, markersize=4.5, transform=ax.transAxes, clip_on=False)
    write(ax, 0.08, level, text, "k", frame="axes", fontsize=8.5, va="center")


def orders(alphas, fitted, curves, slopes, expected):
    """Draw the three errors of every family against α, with the theorem's orders as guides.

    Args:
        alphas: α, falling, shape (m,).
        fitted: Index of the first α to which the slopes are fitted; larger ones are shaded.
        curves: Errors (draws, m) by quantity, by family.
        slopes: The fitted slope by quantity, by family.
        expected: The theorem's order by quantity.
    """
    fig, axes = plt.subplots(1, 3, figsize=(8.8, 4.4))
    for ax, (quantity, order) in zip(axes, expected.items(), strict=True):
        typical = {name: median(errors[quantity]) for name, errors in curves.items()}
        floor = min(np.nanmin(values) for values in typical.values())
        for (name, values), shade in zip(typical.items(), RATES, strict=False):
            ax.plot(alphas, curves[name][quantity].T, color=shade, linewidth=0.6, alpha=0.3)
            named = f"{name}: slope {slopes[name][quantity]:.2f}"
            ax.plot(alphas, values, color=shade, marker="o", markersize=3.5, label=named)
        guide = 0.3 * floor * (alphas / alphas[-1]) ** order
        ax.plot(alphas, guide, color=COLORS["edge"], linestyle="--", linewidth=1)
        ax.annotate(
            f"theorem: {ORDERS[quantity]}",
            (alphas[len(alphas) // 2], guide[len(alphas) // 2]),
            (7, -12),
            textcoords="offset points",
            fontsize=8.5,
        )
        write(ax, 0.98, 0.05, "not fitted", "#555555", frame="axes", fontsize=8, ha="right")
        ax.axvspan(1.5 * alphas[fitted], 1.6 * alphas[0], color="#F2F2F2", zorder=0, linewidth=0)
        # The fitted range, continued by its order to the largest α: whatever diverged there leaves the frame.
        rise = (alphas[0] / alphas[fitted]) ** order
        top = 5 * rise * np.nanmax([values[fitted] for values in typical.values()])
        ax.set(xscale="log", yscale="log", xlim=(0.6 * alphas[-1], 1.6 * alphas[0]), ylim=(0.1 * floor, top))
        ax.set(title=quantity.capitalize(), ylabel=LABELS[quantity], xlabel=r"$\alpha$")
        ax.legend(loc="upper left", bbox_to_anchor=(-0.05, -0.2), fontsize=8.5, frameon=False, handlelength=1)
    return fig


def broken(alphas, assumed, panels):
    """Draw the deviation in units of εδ against α, with one assumption broken in each panel.

    Args:
        alphas: α, falling, shape (m,).
        assumed: Deviations (draws, m) of losses as the theorem assumes them.
        panels: By title, at most two cases: a name, deviations (draws, m), and the label of the curve.
    """
    fig, axes = plt.subplots(2, 3, figsize=(8.8, 5.6), sharex=True, sharey=True)
    every = [assumed, *(errors for cases in panels.values() for _, errors, _ in cases)]
    low, high = (function([function(errors) for errors in every]) for function in (np.nanmin, np.nanmax))
    for ax, (panel, cases) in zip(axes.flat, panels.items(), strict=False):
        ax.plot(alphas, median(assumed), color=ASSUMED, linewidth=2, label="as assumed")
        for row, ((name, errors, said), tone) in enumerate(zip(cases, TONES, strict=True)):
            ax.plot(alphas, errors.T, color=tone, linewidth=0.6, alpha=0.35)
            ax.plot(alphas, median(errors), color=tone, marker="o", markersize=3.5, label=name)
            _name_curve(ax, row, f"{name}: {said}", tone)
        ax.set(xscale="log", yscale="log", title=panel, ylim=(low / 2, 20 * high))
    _key(axes.flat[-1])
    for ax in axes[:, 0]:
        ax.set_ylabel(r"largest deviation$\,/\,(\varepsilon\delta)$")
    for ax in (axes[1, 0], axes[1, 1], axes[0, 2]):
        ax.set_xlabel(r"$\alpha$")
        ax.tick_params(labelbottom=True)
    return fig


def _key(ax) -> None:
    """Explain the colors and the slopes in an empty panel."""
    ax.axis("off")
    ax.plot([], [])
    lines = {" as assumed": ASSUMED, " broken a little, or repaired": TONES[0], " broken": TONES[1]}
    for row, (label, tone) in enumerate(lines.items()):
        level = 0.86 - 0.1 * row
        ax.plot([0.02, 0.12], [level] * 2, color=tone, linewidth=2, transform=ax.transAxes)
        write(ax, 0.14, level, label, "k", frame="axes", va="center")
    read = (
        "flat: the theorem's order\nhigher: a larger constant\nrising to the left: order lost\n"
        "rising to the right: far from the limit"
    )
    write(ax, 0.02, 0.46, read, "k", frame="axes", va="top", linespacing=1.5)
