"""Elements common to the chapters' figures: texts in a curve's color, shaded steps, means over two steps."""

from __future__ import annotations

import xarray as xr

from selfstab.page.style import COLORS

#: The axis of most figures, and the color that shades a part of one.
AFTER = "step after the instability"
SHADE = "#EFEFEF"
#: Marks the steps shaded because the second eigenvalue is at the edge, and explains them below the figure.
CONTINUED = "In the shaded steps more eigenvalues are near the edge: the chapter on several directions continues there."


def write(ax, x, y, text, color="edge", *, frame="data", fontsize=9, **how) -> None:
    """Write a text in a curve's color.

    Args:
        ax: The panel.
        x: Horizontal position.
        y: Vertical position.
        text: The text.
        color: A name in :data:`COLORS`, or any color.
        frame: ``"data"``, ``"axes"``; ``"xaxis"`` or ``"yaxis"`` if the other coordinate is a fraction of the panel.
        fontsize: Size in points.
        how: Further arguments of :meth:`matplotlib.axes.Axes.text`.
    """
    transform = {"data": ax.transData, "axes": ax.transAxes}.get(frame) or getattr(ax, f"get_{frame}_transform")()
    ax.text(float(x), float(y), text, color=COLORS.get(color, color), transform=transform, fontsize=fontsize, **how)


def color_key(ax, names, *, x=0.98, y=0.95, gap=0.08, fontsize=8.5, **how) -> None:
    """Name curves in their colors, one below another, in axes coordinates: a legend without its lines.

    Args:
        ax: The panel.
        names: Pairs of a text and a color (or its name in :data:`COLORS`).
        x: Right end of the texts.
        y: Height of the first.
        gap: Distance from one to the next.
        fontsize: Size in points.
        how: Further arguments of :meth:`matplotlib.axes.Axes.text`.
    """
    for row, (text, color) in enumerate(names):
        write(ax, x, y - gap * row, text, color, frame="axes", fontsize=fontsize, ha="right", **how)


def shade_steps(axes, start, stop, **how) -> None:
    """Shade some steps in every panel."""
    for ax in axes:
        ax.axvspan(start, stop, color=SHADE, zorder=0, **how)


def is_continued(fig) -> bool:
    """Return whether a panel has steps that :func:`shade_two_directions` shaded."""
    return any(patch.get_gid() == CONTINUED for ax in fig.axes for patch in ax.patches)


def shade_two_directions(axes, run: xr.Dataset) -> None:
    """Shade the steps at which the second eigenvalue is also close to 2/η; the caption refers to their continuation."""
    if 0 <= (late := run.attrs["single_direction_until"]) < int(run.t[-1]):
        shade_steps(axes, late, int(run.t[-1]), gid=CONTINUED)


def two_step_means(series):
    """Return the means over two consecutive steps (T - 1,), without the part that alternates with the oscillation."""
    return (series[1:] + series[:-1]) / 2
