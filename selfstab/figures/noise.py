"""The figures of the chapter on sampling noise."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np

from selfstab.page.draw import SHADE, color_key, write
from selfstab.page.style import COLORS, RATES

#: One shade a batch size, from small to large.
SIZES = (*RATES, "#D55E00")


def sharpness(steps, found, others, tolerance):
    """Draw the sharpness and the batch sharpness over 2/η, a curve for each batch size.

    Args:
        steps: The step after each window (W,).
        found: By batch size, S and batch sharpness over 2/η (W, 2).
        others: The same of another seed, drawn thin.
        tolerance: Half of the band about one that the claim allows.
    """
    fig, axes = plt.subplots(1, 2, figsize=(8.4, 3.5), sharey=True)
    titles = (r"Sharpness $S$", r"Batch sharpness")
    for panel, (ax, title) in enumerate(zip(axes, titles, strict=True)):
        for color, size in zip(SIZES, found):
            for runs, width, alpha in ((found, 1.9, 1.0), (others, 0.8, 0.6)):
                if size in runs:
                    ax.plot(steps, runs[size][:, panel], color=color, linewidth=width, alpha=alpha)
        ax.axhline(1, color=COLORS["edge"], linestyle="--", linewidth=0.8)
        ax.set(xlabel="step", title=title)
    axes[1].axhspan(1 - tolerance, 1 + tolerance, color=SHADE, zorder=0)
    axes[0].set(ylabel=r"curvature $/\,(2/\eta)$", ylim=(0, None))
    color_key(axes[1], [(f"$B={size}$", color) for color, size in zip(SIZES, found)], y=0.27, fontsize=9.5)
    return fig


def threshold(sizes, exact, wrong, multiples, curves, simulated):
    """Draw the exact threshold by batch size, and the growth of E‖v‖² about it.

    Args:
        sizes: Batch sizes (k,).
        exact: η*S/2 of each (k,).
        wrong: What batches drawn with replacement would give (k,).
        multiples: η/η* (m,).
        curves: By batch size, ln of the growth of E‖v‖² in a step, exact (m,).
        simulated: By batch size, places η/η* and ln of the growth simulated there.
    """
    fig, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.5))
    left.semilogx(sizes, exact, "o-", color=COLORS["gd"], base=2)
    left.semilogx(sizes, wrong, "^:", color=COLORS["generalized"], base=2, markersize=4.5, linewidth=1)
    left.axhline(1, color=COLORS["edge"], linestyle="--", linewidth=0.8)
    write(left, 0.03, 0.9, r"$2/S$", frame="axes")
    names = [("exact", "gd"), ("with replacement", "generalized")]
    color_key(left, names, y=0.2, fontsize=9.5)
    left.set_xticks(sizes, [str(size) for size in sizes])
    left.set(xlabel="batch size $B$", ylabel=r"$\eta^*/(2/S)$", title="Threshold", ylim=(0, 1.12))
    for color, size in zip(SIZES, curves):
        right.plot(multiples, curves[size], color=color, linewidth=1.2)
        right.plot(*simulated[size], "o", color=color, markersize=4.5)
    right.axhline(0, color=COLORS["edge"], linewidth=0.8)
    right.axvline(1, color=COLORS["edge"], linestyle="--", linewidth=0.8)
    color_key(right, [(f"$B={size}$", color) for color, size in zip(SIZES, curves)], x=0.2, fontsize=9.5)
    right.set(xlabel=r"$\eta/\eta^*$", ylabel=r"growth of $\ln\,\mathrm{E}\|v\|^2$ per step", title="Simulated")
    return fig


def kernel(sizes, spectra):
    """Draw thresholds in units of 2/S by batch size: measured, from the noise kernel, and from the trace alone.

    Args:
        sizes: Batch sizes (k,).
        spectra: By name, the three series (k,) in units of 2/S.
    """
    fig, ax = plt.subplots(figsize=(6.4, 3.4))
    for color, (name, (exact, predicted, trace)) in zip(SIZES, spectra.items()):
        ax.loglog(sizes, exact, "o", color=color, markersize=5)
        ax.loglog(sizes, predicted, color=color, linewidth=1.4)
        ax.loglog(sizes, trace, ":", color=color, linewidth=1.2)
        write(ax, sizes[0] * 1.15, exact[0] * 0.82, name, color, va="top")
    ax.axhline(1, color=COLORS["edge"], linestyle="--", linewidth=0.8)
    low = min(min(exact) for exact, *_ in spectra.values())
    ax.set_xticks(sizes, [str(size) for size in sizes])
    ax.minorticks_off()
    ax.set_yticks([0.1, 0.2, 0.5, 1, 2], ["0.1", "0.2", "0.5", "1", "2"])
    names = [
        ("dots: exact", "edge"),
        ("lines: noise kernel $K=1$", "edge"),
        (r"dotted: trace, $2B/\mathrm{tr}H$", "edge"),
    ]
    color_key(ax, names, y=0.24, gap=0.09)
    ax.set(xlabel="batch size $B$", ylabel=r"threshold $/\,(2/S)$", ylim=(0.6 * low, 2), title="Two spectra, one $S$")
    return fig


def gap(rows, leading, own):
    """Draw the mean excess of the sharpness in the reduced map against the noise, and the oscillation's size.

    Args:
        rows: Columns ησ/δ, −⟨y⟩, its standard error and ⟨x²⟩/δ² (s, 4), curvatures in units of 2/η.
        leading: The leading-order gap at each noise (s,), in the same unit.
        own: The gap with the map's own fluctuations (s,).
    """
    relative, mean, error, size = np.asarray(rows).T
    fig, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.4), width_ratios=(1.6, 1))
    left.errorbar(relative**2, mean, yerr=error, fmt="o", color=COLORS["gd"], markersize=5, zorder=3)
    left.plot(relative**2, leading, color=COLORS["constrained"])
    left.plot(relative**2, own, ":", color=COLORS["predicted"], linewidth=2)
    left.set(xscale="log", yscale="log")
    names = [
        ("map with noise", "gd"),
        (r"$\eta\beta\sigma_u^2/4\alpha$", "constrained"),
        (r"exact, with the map's own $\sigma_0^2$", "predicted"),
    ]
    color_key(left, names, y=0.3, fontsize=9.5)
    left.set(xlabel=r"noise $(\eta\sigma_u/\delta)^2$", ylabel=r"$-\langle y\rangle\,/\,(2/\eta)$", title="The gap")
    right.plot(relative, size, "o", color=COLORS["gd"])
    right.axhline(1, color=COLORS["constrained"])
    reach = max(0.02, 1.3 * float(np.abs(size - 1).max()))
    right.set(
        xlabel=r"noise $\eta\sigma_u/\delta$",
        ylabel=r"$\langle x^2\rangle/\delta^2$",
        title="The oscillation",
        ylim=(1 - reach, 1 + reach),
    )
    return fig
