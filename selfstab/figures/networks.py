"""The figures of the chapter on other networks, losses and activations."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, LogLocator, NullLocator

from selfstab.page.style import COLORS

#: One marker per kind of network, one shade with it.
MARKERS = {
    "MLP": ("o", COLORS["gd"]), "CNN": ("s", COLORS["constrained"]), "ResNet-18": ("^", COLORS["predicted"]),
    "VGG-11": ("v", COLORS["generalized"]), "Transformer": ("D", COLORS["single"]), "BERT-tiny": ("P", "#B58900"),
}  # fmt: skip
#: Values beyond an end of the logarithmic axis are drawn at that end.
ENDS = (0.02, 60)
BEYOND = "#B2182B"


def against_limits(rows, columns):
    """Draw one row per setting and one dot per seed, beside null models, against a limit on a logarithmic axis.

    Args:
        rows: By setting in words, the runs of it: each holds ``unmet``, reasons why it is not judged, and by column
            the values of the theory and of the null models.
        columns: By name, a limit and a title.
    """
    fig, axes = plt.subplots(1, len(columns), figsize=(8, 1.3 + 0.36 * len(rows)), sharey=True)
    judged = sum(not all(found["unmet"] for found in group) for group in rows.values())
    for ax, (name, (limit, title)) in zip(axes, columns.items()):
        for height, group in enumerate(rows.values()):
            for found, shift in zip(group, np.linspace(-0.2, 0.2, len(group)) if len(group) > 1 else [0]):
                _plot_models(ax, height + shift, found[name], limit, judged=not found["unmet"])
        ax.axvspan(0.01, limit, color="#DCEBF5", zorder=-2)
        ax.axvline(limit, color=COLORS["edge"], linewidth=1)
        ax.axhline(judged - 0.5, color="#888888", linewidth=0.8, linestyle=":")
        ax.set(xscale="log", xlim=(0.015, 80), xticks=(0.1, 1, 10), xticklabels=("0.1", "1", "10"))
        ax.set_title(title, fontsize=9)
        ax.spines["left"].set_visible(False)
        ax.tick_params(labelsize=8)
        ax.tick_params(axis="y", length=0)
        ax.grid(axis="y", visible=False)
    axes[0].set_yticks(range(len(rows)), list(rows), fontsize=7)
    axes[0].set_ylim(len(rows) - 0.4, -0.6)
    for text, x, side, color in (("runs", 0.9, "right", COLORS["gd"]), ("null models", 1.1, "left", "#888888")):
        axes[1].text(x, -0.45, text, fontsize=7, color=color, ha=side, va="center")
    if judged < len(rows):
        axes[-1].text(75, judged - 0.42, "not judged", fontsize=7, color="#555555", ha="right", va="top")
    return fig


def _plot_models(ax, height, models, limit, *, judged):
    """Plot the theory's value as a dot, hollow where it is not judged, and each null model's as a stroke."""
    for model, value in models.items():
        if model.startswith("along") or np.isnan(value):
            continue
        place = np.clip(value, *ENDS)
        if model != "theory":
            ax.plot(place, height, "|", color="#B0B0B0", markersize=5)
        elif not judged:
            ax.plot(place, height, "o", color="white", markeredgecolor="#555555", markersize=4)
        else:
            shade, marker = (COLORS["gd"], "o") if value <= limit else (BEYOND, "X")
            ax.plot(place, height, marker, color=shade, markersize=5 + (marker == "X"), zorder=3)


def orders(found, panels):
    """Draw numbers of runs against their ε, on logarithmic axes, filled where the theory applies.

    Args:
        found: Of each run its network's ``kind`` in words, its ``epsilon``, the reasons ``unmet`` why it is not judged,
            and a value by panel (above ten it is drawn at ten).
        panels: By name: title, power and factor of the dashed line, and the fitted slope in words.
    """
    fig, axes = plt.subplots(2, 3, figsize=(8, 5), sharex=True)
    for ax, (name, (title, power, factor, slope)) in zip(axes.flat, panels.items(), strict=True):
        for each in found:
            marker, shade = MARKERS[each["kind"]]
            style = dict(color=shade, markerfacecolor="none" if each["unmet"] else shade, markersize=4, alpha=0.8)
            ax.plot(each["epsilon"], min(each[name], 10.0), marker, **style)
        ends = np.array([min(each["epsilon"] for each in found), max(each["epsilon"] for each in found)])
        ax.plot(ends, factor * ends**power, color=COLORS["edge"], linestyle="--", linewidth=1)
        ax.set(xscale="log", yscale="log")
        ax.set_title(f"{title}\n{slope}", fontsize=8)
        ax.xaxis.set_major_locator(FixedLocator([0.03, 0.1, 0.3]))
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 3), numticks=12))
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_formatter("{x:g}")
            axis.set_minor_locator(NullLocator())
    for ax in axes[1]:
        ax.set_xlabel(r"$\varepsilon$, median")
    kinds = dict.fromkeys(each["kind"] for each in found)
    marks = [
        Line2D([], [], linestyle="", marker=MARKERS[kind][0], color=MARKERS[kind][1], markersize=5) for kind in kinds
    ]
    fig.legend(marks, list(kinds), loc="outside upper center", ncols=len(kinds), fontsize=8.5)
    return fig
