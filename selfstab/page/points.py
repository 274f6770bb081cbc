"""The numbers that a figure draws, as rows of a table."""

from __future__ import annotations

import matplotlib as mpl

from selfstab.page.style import COLORS


def plotted_points(fig) -> list[tuple[str, str, float, float]]:
    """Return panel, curve, x and y of every point of a figure's lines and scatters, except lines across a panel."""
    names = {mpl.colors.to_hex(color).upper(): name for name, color in COLORS.items()}
    rows = []
    for place, ax in enumerate(fig.axes, 1):
        panel = ax.get_title("left") or ax.get_title() or ax.get_ylabel() or f"panel {place}"
        curves = [
            (line, line.get_color(), line.get_xydata(), line.get_transform() == ax.transData) for line in ax.lines
        ]
        scatters = (dots for dots in ax.collections if isinstance(dots, mpl.collections.PathCollection))
        curves += [(dots, [*dots.get_facecolor(), "k"][0], dots.get_offsets(), True) for dots in scatters]
        for order, (artist, color, points, in_data) in enumerate(curves, 1):
            label = str(artist.get_label())
            if label.startswith("_"):
                label = names.get(mpl.colors.to_hex(color).upper(), "curve") + f" {order}"
            rows += [(panel, label, float(x), float(y)) for x, y in points if in_data]
    return rows
