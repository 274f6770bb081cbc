"""The book's look in matplotlib: one color per trajectory and one tint per stage, the same in every figure."""

from __future__ import annotations

import matplotlib as mpl

#: One color per curve, the same throughout the book; safe for color-blind readers (after Okabe and Ito).
COLORS = {
    "gd": "#0072B2",
    "constrained": "#D55E00",
    "predicted": "#009E73",
    "generalized": "#CC79A7",
    "flow": "#7F7F7F",
    "central": "#56B4E9",
    "single": "#6A3D9A",
    "edge": "#222222",
}
#: Shades for several learning rates in one figure, from large to small.
RATES = ("#0072B2", "#E69F00", "#6A3D9A", "#56B4E9")
#: One tint per stage of the cycle, 1 to 4, the same in the lab (``lab.css``); neighbors differ without color vision.
STAGES = {1: "#F1F1F1", 2: "#FBEBC8", 3: "#F3DCE8", 4: "#DCEFFA"}


def style() -> None:
    """Set matplotlib to the book's look."""
    mpl.rcParams |= {
        "figure.figsize": (7.2, 3.6), "figure.dpi": 100, "figure.constrained_layout.use": True,
        "font.family": "DejaVu Sans", "font.size": 9.5, "axes.labelsize": 9.5,
        "axes.titlesize": 10, "axes.titleweight": "bold", "axes.titlelocation": "left",
        "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.8, "axes.edgecolor": "#444444",
        "axes.grid": True, "axes.axisbelow": True, "grid.color": "#E6E6E6", "grid.linewidth": 0.7,
        "lines.linewidth": 1.5, "legend.frameon": False, "xtick.color": "#444444", "ytick.color": "#444444",
        "svg.hashsalt": "eoslib", "svg.fonttype": "path", "pdf.fonttype": 42, "savefig.facecolor": "white",
    }  # fmt: skip
